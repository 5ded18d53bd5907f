//! A store on a file system that others fill as well.
//!
//! A file has holes, and a write into one finds no block when the file system is full: then the
//! store could not write what it has admitted. So on a [sparse] namespace a free segment without
//! blocks, a *hollow* one, does not count ([`Segments::solid`]): nobody opens it, and the account
//! takes the store to be as much smaller. The keeper alone allocates blocks, before they are
//! needed:
//!
//! | when | how many |
//! |---|---|
//! | a fresh store is made | a few |
//! | writes ask for room | a portion of room, before the namespace grows |
//! | bundles, a checkpoint, or the log find too few free segments | those |
//! | always, as far as the file system has room | the reserve, and what was admitted |
//!
//! A segment that is emptied gives its blocks back if there is more than that by a portion; if not,
//! it keeps them. So a file system that becomes full makes a store that is full and can be emptied.
//! After it has refused blocks it is asked again when there is need, once a second at most.
//!
//! **A young store** has not got the reserve yet, which would be several times what it holds. It
//! takes [`YOUNG_BYTES`], and a few segments for that. Whatever is more waits until the reserve is
//! there. If the file system is full before that, it can be read, and nothing that was admitted is
//! lost; but when its few segments are used up all other writes are refused, too.
//!
//! **After an opening** nobody knows which free segments have blocks. To allocate what is there
//! costs little, so all of them are tried while something is missing.
//!
//! What is left: a file system that writes each time to another place, or that cannot allocate, may
//! refuse a write all the same. That ends the store's writes, as any device that fails.
//!
//! [sparse]: crate::block::NamespaceInfo::sparse
//! [`Segments::solid`]: crate::store::pages::Segments::solid

use std::time::Duration;

use super::core_store::CoreStore;
use super::space::account::{YOUNG_BYTES, is_young, reserve, room};
use super::state::PageState;
use crate::block::Namespace;
use crate::error::{ErrorKind, Result};
use crate::store::env::Env;
use crate::store::pages::{Geometry, Segments};

/// What a fresh store has: three for the log, one for the map, and what is to be free.
const FRESH_SEGMENTS: u32 = 4 + YOUNG_FREE;
/// Segments that are free in a young store.
const YOUNG_FREE: u32 = 2;
/// So many more than are needed are kept before one is trimmed.
const KEPT_SEGMENTS: u32 = 4;
/// Writes that ask for room get this share of what is used, but so many bytes at least (on a small
/// store that share of it)
const PORTION_SHARE: u64 = 8;
const LEAST_PORTION_BYTES: u64 = 16 << 20;
/// and so many segments at most.
const PORTION_SEGMENTS: u32 = 256;
/// A file system that was full is asked again after this time,
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// or after so many refusals, if there are segments that may have blocks.
const MOST_REFUSALS: u32 = 64;

/// Allocates what a fresh store begins with.
///
/// # Errors
///
/// There is not even room for that, or the device's code.
pub(super) async fn allocate_fresh<N: Namespace>(namespace: &N, segments: &mut Segments) -> Result<()> {
    if !namespace.info().sparse {
        return Ok(());
    }
    segments.doubt_free();
    for _ in 0..FRESH_SEGMENTS {
        let Some(segment) = segments.next_hollow() else { break };
        allocate(namespace, segments.geometry(), segment).await?;
        segments.allocated(segment);
    }
    Ok(())
}

/// Allocates the blocks of a segment.
///
/// # Errors
///
/// There are not enough, or the device's code.
pub(super) async fn allocate<N: Namespace>(namespace: &N, geometry: Geometry, segment: u32) -> Result<()> {
    namespace.allocate(geometry.offset(segment), geometry.segment.into()).await
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Whether the store has not got its reserve yet.
    pub(super) fn is_young(&self, state: &PageState) -> bool {
        is_young(state.owner.geometry, state.segments.solid(), self.log_segments())
    }

    /// Segments that the log usually has at most: what it has beyond is held for the group that
    /// needs it.
    fn log_segments(&self) -> u32 {
        self.shared.log_limit.usual_segments()
    }

    /// The room follows from what is solid.
    pub(super) fn set_room(&self) {
        let room = {
            let state = self.shared.state();
            let (solid, log) = (state.segments.solid(), self.log_segments());
            if self.is_young(&state) { YOUNG_BYTES } else { room(solid, log) }
        };
        self.shared.space.set_room(room);
    }

    /// A portion of room.
    fn portion_bytes(&self) -> u64 {
        let size = self.shared.state().owner.geometry.size_bytes();
        let (used, growth, _) = self.shared.space.taken();
        (used.saturating_add(growth) / PORTION_SHARE).max(LEAST_PORTION_BYTES.min(size / PORTION_SHARE))
    }

    /// The room if all segments were solid.
    pub(super) fn whole_room(&self, state: &PageState) -> u64 {
        room(state.owner.geometry, self.log_segments())
    }

    /// Whether a store that had so many segments less would lack some: for what was admitted and so
    /// many bytes more, or for the reserve and so many segments more.
    fn lacks(&self, less: u32, (bytes, segments): (u64, u32)) -> bool {
        let (used, growth, _) = self.shared.space.taken();
        let wanted = used.saturating_add(growth).saturating_add(bytes);
        let state = self.shared.state();
        let solid = state.segments.solid();
        let solid = Geometry { segments: solid.segments.saturating_sub(less), ..solid };
        let (free, log) = (state.segments.free_count(), self.log_segments());
        if is_young(state.owner.geometry, solid, log) && wanted <= YOUNG_BYTES {
            return free < YOUNG_FREE as usize;
        }
        let of_log = (log as usize).saturating_sub(state.segments.log_count());
        free < of_log + (reserve(solid) + segments) as usize || room(solid, log) < wanted
    }

    /// Allocates hollow segments as long as some are lacking, and the file system has room. How
    /// many it did.
    ///
    /// # Errors
    ///
    /// The device's code.
    pub(super) async fn allocate_while(&self, lacks: impl Fn(&Self) -> bool) -> Result<u32> {
        let (mut allocated, mut refusals) = (0, 0);
        if self.full_until.get().is_some_and(|until| self.env.now() < until) {
            return Ok(0);
        }
        while let Some((segment, geometry)) = {
            let state = self.shared.state();
            state.segments.next_hollow().map(|segment| (segment, state.owner.geometry))
        } && lacks(self)
        {
            match allocate(&self.namespace, geometry, segment).await {
                Ok(()) => {
                    self.shared.state().segments.allocated(segment);
                    self.set_room();
                    allocated += 1;
                }
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    refusals += 1;
                    let was_refused = self.shared.state().segments.is_refused();
                    let may_others = self.shared.state().segments.refused(segment);
                    if !was_refused {
                        tracing::warn!("store {} gets no more room: {error}", self.shared.name);
                    }
                    if !may_others || refusals == MOST_REFUSALS {
                        self.full_until.set(Some(self.env.now() + ASK_AGAIN));
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if allocated > 0 {
            self.segments_came();
        }
        Ok(allocated)
    }

    /// Who waits for segments of the log looks again, if there are some.
    pub(super) fn segments_came(&self) {
        if self.shared.state().segments.free_count() > 0 {
            self.shared.log_limit.set_short(false);
        }
        self.log.shared().segments_came();
        self.shared.progress.tell();
    }

    /// Allocates what is to be there before it is needed.
    ///
    /// # Errors
    ///
    /// The device's code.
    pub(super) async fn allocate_ahead(&self) -> Result<()> {
        self.allocate_while(|store| store.lacks(0, (0, 0))).await.map(drop)
    }

    /// Allocates a portion of room. Whether there is more of it now.
    ///
    /// # Errors
    ///
    /// The device's code.
    pub(super) async fn allocate_portion(&self) -> Result<bool> {
        let (portion, before) = (self.portion_bytes(), self.shared.space.taken().2);
        let most = self.shared.state().segments.hollow_count().saturating_sub(PORTION_SEGMENTS);
        let lacks = |store: &Self| {
            store.shared.state().segments.hollow_count() > most && store.lacks(0, (portion, 0))
        };
        self.allocate_while(lacks).await?;
        Ok(self.shared.space.taken().2 > before)
    }

    /// Gives back what free segments have that nothing needs: those that came to be free while the
    /// store had more. Not while others write, who may be about to ask for it.
    ///
    /// # Errors
    ///
    /// The device's code.
    pub(super) async fn give_back_what_is_spare(&self) -> Result<()> {
        while self.has_blocks_to_spare() {
            let before = self.shared.state().segments.hollow_count();
            let Some(segment) = self.shared.state().segments.take_free() else { break };
            self.give_back(segment).await?;
            if self.shared.state().segments.hollow_count() <= before {
                // It was the last one that could be spared, and is kept.
                break;
            }
        }
        Ok(())
    }

    /// Whether free segments have blocks that nothing needs.
    fn has_blocks_to_spare(&self) -> bool {
        self.namespace.info().sparse && !self.lacks(1, (self.portion_bytes(), KEPT_SEGMENTS))
    }

    /// Gives back what an emptied segment has, unless it would be missing.
    ///
    /// # Errors
    ///
    /// The device's code.
    pub(super) async fn give_back(&self, segment: u32) -> Result<()> {
        let geometry = self.shared.state().owner.geometry;
        let info = self.namespace.info();
        if info.sparse {
            if !self.has_blocks_to_spare() {
                // It may have lost some that were never written.
                match allocate(&self.namespace, geometry, segment).await {
                    Ok(()) => {
                        self.shared.state().segments.trimmed(segment);
                        return Ok(());
                    }
                    Err(error) if error.kind() == ErrorKind::NoSpace => {}
                    Err(error) => return Err(error),
                }
            }
            // Before it is trimmed: nothing is admitted any more that would need it.
            self.shared.state().segments.hollowed(segment);
            self.set_room();
        }
        if info.trim {
            self.namespace.trim(geometry.offset(segment), geometry.segment.into()).await?;
        }
        if !info.sparse {
            self.shared.state().segments.trimmed(segment);
        }
        Ok(())
    }
}
