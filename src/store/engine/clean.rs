//! Cleaning: what lives in a segment with much garbage is moved, and the segment becomes free
//! (design, section 4.5).
//!
//! One victim at a time, chosen and paced by [`pages::clean`](crate::store::pages). A *step* reads
//! a part of it, and finds the pages that lie there ([`walk`]). A page lives if the mapping says
//! that its newest durable image is this one. Then
//!
//! | the page is | in the first pass | in the second, or when segments are short |
//! |---|---|---|
//! | cold, or in memory and clean | moved | moved |
//! | in memory and changed | [wanted](crate::store::flush::Flusher::want): it is written anew | moved |
//! | removed, and its id is not free yet | moved | moved |
//! | in a bundle under way | left | left |
//!
//! Moved pages go as they are into one bundle of the cold stream, and it counts for a page only
//! where the page still has the image that was moved. A page of the map or of the table is written
//! by the next checkpoint, if its segment is being cleaned.
//!
//! **The log names no moves.** What was moved is where it was until a checkpoint is durable that
//! knows the new place: only then is its segment written again. So after a crash the old image
//! counts, and nothing is to be flushed or logged before the checkpoint does. If each move took a
//! batch, cleaning for what is dirty would make the log longer than writing it makes it shorter.
//!
//! | segment | next |
//! |---|---|
//! | nothing lives in it | emptied; after the next checkpoint it is trimmed and free |
//! | pages of the map or the table live in it | it stays as it is for the next checkpoint |
//! | something lives in it after the second pass | left, until a checkpoint was taken |
//!
//! **When it is done.** Bytes that are flushed owe bytes that are moved while free segments are
//! below an eighth ([`CleanPace`]). And before each bundle [`make_room`](CoreStore::make_room)
//! makes sure that there are segments for it, and for a checkpoint after it: it cleans until some
//! segments wait for a checkpoint, takes that, and goes on. It ends without success when it moved
//! twice what the store holds, which admission ([`space`](super::space)) is there to prevent.
//!
//! **What free segments are for.** Cleaning takes a segment before it frees one, and what it has
//! emptied is free after a checkpoint, which takes some as well. So free segments are kept, for
//! each of these what those before it may need, and nobody takes what is kept for others:
//!
//! | who takes segments | as long as there are more than |
//! |---|---|
//! | the log | – |
//! | a checkpoint | the log may still take |
//! | cleaning that makes room | that, and a checkpoint takes at most |
//! | bundles of the flusher | that, and [`FOR_CLEANING`] |
//! | cleaning that is owed | that, and what the next bundle takes |

pub(super) mod victims;

use std::collections::BTreeSet;

use self::victims::{Victim, supply};
use super::checkpoint::{map_bytes, map_segments, segments_of};
use super::core_store::CoreStore;
use super::counts::{Count, count};
use super::state::PageState;
use super::streams::{BundleLoad, Written};
use super::write_back::SEGMENTS_PER_BUNDLE;
use crate::block::Namespace;
use crate::error::Result;
use crate::mem::DmaBuf;
use crate::store::btree::{CorePages, Lookup};
use crate::store::codec::to_usize;
use crate::store::env::Env;
use crate::store::flush::{Look, Pages};
use crate::store::pages::{
    Lying, Origin, Page, PageHeader, PageKind, STEP_BYTES, Temperature, Walked, parse_page, walk,
};
use crate::store::word::{ColdAddress, GRANULE_BYTES, PageId};

/// What is read of a victim at once: more than two pages can have.
const READ_BYTES: u64 = 256 << 10;
/// Segments that bundles leave to cleaning, beside those that a checkpoint takes.
const FOR_CLEANING: u32 = 3;
/// With so few it goes on if it has to.
const LEAST_FOR_CLEANING: u32 = 1;
/// What a step counts at least that moves nothing.
const LEAST_STEP_BYTES: u64 = 4096;
/// A checkpoint is worth its price when it frees so many segments.
const WORTH_A_CHECKPOINT: usize = 4;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cleaned {
    /// So many bytes were moved, or none.
    Moved(u64),
    /// Some pages are wanted: they are to be flushed.
    Wanted,
    /// There is nothing to clean, or nowhere to move it to.
    Nothing,
}

/// A page that is to be moved.
struct Moving {
    header: PageHeader,
    from: ColdAddress,
    stored: Vec<u8>,
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Now, in the unit of a segment's age.
    pub(super) fn age_now(&self) -> u32 {
        u32::try_from(self.log.log().next_number() >> 16).unwrap_or(u32::MAX)
    }

    /// Makes sure that bundles can be written that take `needed` segments, and a checkpoint after
    /// them. False: there is no such room. No bundle is under way.
    ///
    /// # Errors
    ///
    /// The store has failed.
    pub(super) async fn make_room(&self, needed: u32) -> Result<bool> {
        let mut left = self.shared.state().owner.geometry.size_bytes() * 2;
        loop {
            let (free, map) = self.free_segments();
            let (waiting, wanted) = {
                let state = self.shared.state();
                let waiting = state.segments.waiting_count() + state.segments.cleaned_meta_count();
                // On a small store this is not to be most of it.
                let half = state.segments.solid().segments / 2;
                let usual = (map + FOR_CLEANING + needed).min(half);
                (waiting, self.least_of_young(&state, map, needed).unwrap_or(usual))
            };
            if free >= wanted {
                self.shared.space.set_stuck(false);
                return Ok(true);
            }
            if self.allocate_while(|store| store.free_segments().0 < wanted).await? > 0 {
                continue;
            }
            let is_due = waiting >= WORTH_A_CHECKPOINT || (waiting > 0 && free <= map + 1);
            let cleaned = if is_due { Cleaned::Nothing } else { self.clean_step(true).await? };
            let step = match cleaned {
                Cleaned::Moved(bytes) => bytes.max(LEAST_STEP_BYTES),
                Cleaned::Wanted => LEAST_STEP_BYTES,
                Cleaned::Nothing if waiting > 0 && self.has_room_for_checkpoint() => {
                    self.take_checkpoint(false).await?;
                    STEP_BYTES
                }
                Cleaned::Nothing => left,
            };
            left = left.saturating_sub(step);
            if left == 0 {
                let has_room = self.has_segments(needed);
                tracing::warn!("store {}: {free} segments are free, {needed} needed", self.shared.name);
                self.shared.space.set_stuck(!has_room);
                // Writers that wait for the log are refused then.
                self.shared.progress.tell();
                return Ok(has_room);
            }
        }
    }

    /// Whether a bundle, or a group of them, may take so many segments: cleaning can go on then.
    pub(super) fn has_segments(&self, needed: u32) -> bool {
        let (free, map) = self.free_segments();
        let least = self.least_of_young(&self.shared.state(), map, needed);
        free >= least.unwrap_or(map + LEAST_FOR_CLEANING + needed)
    }

    /// What is to be free in a young store, which keeps none for cleaning, and goes on in segments
    /// that are open. None if it is not young.
    fn least_of_young(&self, state: &PageState, map: u32, needed: u32) -> Option<u32> {
        let has_one = u32::from(state.streams.has_room(Temperature::Hot));
        let of_map = map_bytes(state.owner.geometry, self.shared.nodes.map().next_page());
        let has_map = state.streams.left_bytes(Temperature::Map) as u64 >= of_map;
        let map = if has_map { 0 } else { map };
        self.is_young(state).then(|| map + needed.saturating_sub(has_one))
    }

    /// Whether a checkpoint finds its segments. The log may have to wait for some meanwhile.
    fn has_room_for_checkpoint(&self) -> bool {
        let next_page = self.shared.nodes.map().next_page();
        let state = self.shared.state();
        let geometry = state.owner.geometry;
        // It begins where the last one has ended.
        let left = state.streams.left_bytes(Temperature::Map) as u64;
        let bytes = map_bytes(geometry, next_page).saturating_sub(left);
        state.segments.free_count() >= segments_of(geometry, bytes) as usize
    }

    /// Free segments but for those that the log may still take, and how many a checkpoint takes.
    pub(super) fn free_segments(&self) -> (u32, u32) {
        let state = self.shared.state();
        // A young store keeps none for the log.
        let most = if self.is_young(&state) { 0 } else { self.shared.log_limit.segments() };
        let log = most.saturating_sub(state.segments.log_count());
        let free = u32::try_from(state.segments.free_count().saturating_sub(log)).unwrap_or(u32::MAX);
        (free, map_segments(state.owner.geometry, self.shared.nodes.map().next_page()))
    }

    /// One step of cleaning; `is_urgent` if there are no segments for anything else.
    ///
    /// # Errors
    ///
    /// The store has failed.
    pub(super) async fn clean_step(&self, is_urgent: bool) -> Result<Cleaned> {
        let now = self.age_now();
        let (free, map) = self.free_segments();
        let Some((victim, room)) = ({
            let mut state = self.shared.state();
            let PageState { cleaner, segments, streams, .. } = &mut *state;
            let is_short = is_urgent || supply(segments).is_short();
            let victim = cleaner.victim(now, is_short, segments);
            let is_empty = victim.is_some_and(|victim| segments.get(victim.name.segment).live == 0);
            if let Some(victim) = victim.filter(|_| is_empty) {
                cleaner.stepped(victim, None, segments);
                return Ok(Cleaned::Moved(0));
            }
            let kept = if is_urgent { map } else { map + FOR_CLEANING + SEGMENTS_PER_BUNDLE };
            let may_open = free > kept || streams.has_room(Temperature::Cold);
            let victim = victim.filter(|_| may_open);
            victim.and_then(|victim| Some((victim, streams.room(segments, Temperature::Cold).ok()?)))
        }) else {
            return Ok(Cleaned::Nothing);
        };
        let most = if is_urgent { room.bytes } else { room.bytes.min(to_usize(STEP_BYTES)) };
        let moves_all = is_urgent || victim.is_second_pass;
        let (bytes, first, walked) = match self.look_into(victim).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!("{}: a segment is not cleaned for now: {error}", self.shared.name);
                let mut state = self.shared.state();
                let PageState { cleaner, segments, .. } = &mut *state;
                cleaner.leave(victim, segments);
                return Ok(Cleaned::Moved(0));
            }
        };
        let (mut moving, mut load, mut wanted) = (Vec::new(), BundleLoad::default(), 0);
        let mut next = walked.next;
        for lying in &walked.pages {
            let Some(page) = self.living(&bytes[first..], *lying) else { continue };
            if to_usize(lying.place.len_bytes()) > room.bytes {
                // Longer than any page of a tree.
                continue;
            }
            if !moves_all && self.is_changed(page.header.page.id()) {
                self.shared.flusher().want(page.header.page.id());
                wanted += 1;
                continue;
            }
            let stored = to_usize(lying.place.len_bytes());
            if load.entries > 0 && load.pages_bytes + stored > most || load.entries == room.entries {
                next = Some(lying.granule);
                break;
            }
            load.pages_bytes += stored;
            load.entries += 1;
            moving.push(page);
        }
        let moved = self.move_pages(moving, victim).await?;
        let mut state = self.shared.state();
        let PageState { cleaner, segments, .. } = &mut *state;
        cleaner.stepped(victim, next, segments);
        cleaner.moved(moved.max(LEAST_STEP_BYTES));
        Ok(if wanted > 0 && next.is_none() { Cleaned::Wanted } else { Cleaned::Moved(moved) })
    }

    /// Reads what the next step of a victim looks at, finds the pages that lie there, and loads
    /// their frames.
    async fn look_into(&self, victim: Victim) -> Result<(DmaBuf, usize, Walked)> {
        let (bytes, first) = self.read_segment(victim.name.segment, victim.next).await?;
        let owner = self.shared.state().owner;
        let walked = walk(&bytes[first..], victim.next, victim.name, &owner);
        self.load_frames_of(&bytes[first..], &walked.pages).await?;
        Ok((bytes, first, walked))
    }

    /// Some of a segment from `granule` on: the blocks, and where in them it begins.
    async fn read_segment(&self, segment: u32, granule: u32) -> Result<(DmaBuf, usize)> {
        let geometry = self.shared.state().owner.geometry;
        let block = u64::from(geometry.block);
        let offset = geometry.offset(segment) + u64::from(granule) * GRANULE_BYTES;
        let start = offset / block * block;
        let end = (start + READ_BYTES).min(geometry.offset(segment) + u64::from(geometry.segment));
        let bytes = self.namespace.read(start, DmaBuf::zeroed(to_usize(end - start))).await?;
        Ok((bytes, to_usize(offset - start)))
    }

    /// Loads the frames of the mapping that pages are in.
    async fn load_frames_of(&self, bytes: &[u8], pages: &[Lying]) -> Result<()> {
        for lying in pages {
            let Some(id) = self.page_in(bytes, *lying).map(|page| page.header.page.id()) else { continue };
            while let Lookup::Absent(frame) = self.shared.nodes.map().entry(id) {
                self.load_frame(frame).await?;
            }
        }
        Ok(())
    }

    /// The page that lies there, if it is right and one that the mapping has.
    fn page_in<'b>(&self, bytes: &'b [u8], lying: Lying) -> Option<Page<'b>> {
        let page = parse_page(&bytes[lying.at..], lying.place, &self.shared.owner.identity).ok()?;
        let is_structure =
            matches!(page.header.kind, PageKind::Map | PageKind::SegmentTable | PageKind::SegmentTableIndex);
        (!is_structure).then_some(page)
    }

    /// The same, if it lives.
    fn living(&self, bytes: &[u8], lying: Lying) -> Option<Moving> {
        let page = self.page_in(bytes, lying)?;
        let nodes = &self.shared.nodes;
        let place = nodes.homes().place(nodes.map(), page.header.page.id());
        let moving = || Moving { header: page.header, from: lying.place, stored: page.stored.to_vec() };
        (place == Some(lying.place)).then(moving)
    }

    /// Whether a page is in memory, with changes.
    fn is_changed(&self, page: PageId) -> bool {
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        matches!(pages.look(page), Look::Live(_)) && !pages.is_clean(page)
    }

    /// Writes pages of a victim into one bundle of the cold stream. The bytes that it has.
    async fn move_pages(&self, moving: Vec<Moving>, victim: Victim) -> Result<u64> {
        if moving.is_empty() {
            return Ok(0);
        }
        let (bundle, moved) = self.shared.flusher().move_cold(moving.iter().map(|page| page.header.page));
        let moved: BTreeSet<_> = moved.into_iter().map(|page| page.id()).collect();
        let moving: Vec<_> =
            moving.into_iter().filter(|page| moved.contains(&page.header.page.id())).collect();
        if moving.is_empty() {
            self.shared.flusher().failed(bundle);
            return Ok(0);
        }
        let mut load = BundleLoad::default();
        for page in &moving {
            load.pages_bytes += to_usize(page.from.len_bytes());
            load.entries += 1;
        }
        let written = {
            let mut state = self.shared.state();
            let number = state.next_bundle();
            let PageState { streams, segments, .. } = &mut *state;
            let (written, ()) =
                streams.build(segments, (Temperature::Cold, number), &load, |builder, buffer| {
                    for Moving { header, from, stored } in &moving {
                        let origin = Origin { is_cold_stream: true, is_moved: true, replaces: Some(*from) };
                        builder.append(buffer, header, (stored, stored.len()), origin)?;
                    }
                    Ok(())
                });
            let up2 = segments.get(victim.name.segment).up2;
            segments.inherit(written.sealed.trailer().segment, up2);
            written
        };
        let Written { sealed, offset, buf } = written;
        self.shared.meters.page_bytes.add(buf.len() as u64);
        self.shared.meters.moved_bytes.add(buf.len() as u64);
        self.namespace.write(offset, buf).await?;
        let trailer = sealed.written(&self.shared.state().clock).moved();
        self.install_group(&[trailer], bundle);
        count(Count::Moves);
        Ok(load.pages_bytes as u64)
    }
}
