//! Writing pages: a set of them goes into one bundle, or into several that one batch of the log
//! names; when that is durable their places are installed.
//!
//! Before anything is captured there is room for it ([`make_room`](CoreStore::make_room)), and
//! before any page is told its place the segments of its group are open. What finds no room is put
//! together again later. One task of a store does this, the [keeper](super::keeper), and so do
//! moves of pages by [cleaning](super::clean), between two of its bundles.

use super::core_store::CoreStore;
use super::counts::{Count, count};
use super::defect::{Defects, EngineDefect};
use super::state::PageState;
use super::streams::{BundleLoad, BundleRoom, NoPlace, Written};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};
use crate::store::btree::{Captured, CorePages, DurableHomes, Home, Homes, Installed};
use crate::store::cache::Room;
use crate::store::env::Env;
use crate::store::events::Event;
use crate::store::flush::{BundleId, Captured as PageOf, Next, Pages, Plan, Reason, Room as FlushRoom};
use crate::store::pages::{
    Compression, Origin, PageFlags, PageHeader, PageKind, Temperature, Trailer, expiry_seconds,
};
use crate::store::wal::{BundleEntry, CoreLog, MAX_GROUP};
use crate::store::word::{ChildWord, ColdAddress, PageId, SecondWord};

/// A group is not begun with more pages than these bytes, beside what they need.
const GROUP_BYTES: usize = 1 << 20;
/// What a dirty page is taken to have, in bytes.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Segments that a bundle may open.
pub(super) const SEGMENTS_PER_BUNDLE: u32 = 2;

/// What is durable of the pages in memory, for the flusher.
pub(super) struct DurablePages<'s> {
    homes: &'s Homes,
    log: &'s CoreLog,
}

impl DurableHomes for DurablePages<'_> {
    fn home(&self, page: PageId) -> Option<(ColdAddress, SecondWord)> {
        self.homes.clean(page)
    }

    fn newest_number(&self) -> u64 {
        self.log.next_number().saturating_sub(1)
    }
}

/// What became of an attempt to write a bundle.
pub(super) enum Flushed {
    Bytes(usize),
    Nothing,
    Waits,
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    pub(super) fn durable_pages(&self) -> DurablePages<'_> {
        DurablePages { homes: self.shared.nodes.homes(), log: self.log.log() }
    }

    /// Writes all pages that are dirty now. Others go on writing: what is more is for a later time.
    pub(super) async fn flush_all(&self, reason: Reason) -> Result<()> {
        // What is dirty is in memory.
        let mut left = self.shared.memory.account().limit_bytes() * 2;
        while left > 0
            && let Flushed::Bytes(bytes) = self.flush(usize::MAX, reason).await?
        {
            left = left.saturating_sub((bytes as u64).max(PAGE_BYTES));
        }
        Ok(())
    }

    /// Writes one bundle, or a group of them, and installs it when it is durable.
    pub(super) async fn flush(&self, budget: usize, reason: Reason) -> Result<Flushed> {
        self.free_memory().await;
        self.finish_changes().await;
        if !self.make_room(SEGMENTS_PER_BUNDLE).await? {
            return Ok(Flushed::Waits);
        }
        let next = self.plan_next(budget, reason)?;
        let plan = match next {
            Next::Bundle(plan) => plan,
            Next::Nothing => return Ok(Flushed::Nothing),
            Next::Waits => return Ok(Flushed::Waits),
            Next::TooLarge(pages) => return Err(too_large(pages.len())),
        };
        let Plan { bundle, newest, .. } = plan;
        let bytes = bytes_of(&plan);
        let needed = self.segments_for(bytes);
        let loads = if self.may_take(needed) { self.divide(&plan)? } else { None };
        let Some(loads) = loads else {
            // It is put together again when there is room for it.
            self.shared.flusher().failed(bundle);
            let has_room = self.make_room(needed).await? && self.has_segments(needed);
            return Ok(if has_room { Flushed::Bytes(0) } else { Flushed::Waits });
        };
        // The plan goes with the last of them.
        let (mut pages, mut freed) = (0, 0);
        let group = loads.into_iter().map(move |load| {
            let (from, freed_from) = (pages, freed);
            (pages, freed) = (from + load.entries, freed_from + load.freed);
            self.build(&load, &plan.pages[from..pages], &plan.freed[freed_from..freed])
        });
        let trailers = self.write_group(group, newest).await?;
        self.install_group(&trailers, bundle);
        self.look_at_growth();
        if reason == Reason::Close && self.has_left_some(&trailers) {
            self.evict_now(|_| {});
        }
        Ok(Flushed::Bytes(bytes))
    }

    /// What to write next, in one bundle or in a group of them.
    fn plan_next(&self, budget: usize, reason: Reason) -> Result<Next<Captured>> {
        let BundleRoom { bytes, entries } = self.shared.state().streams.group_room();
        let many = budget.min(self.group_bytes());
        let group = || self.plan(FlushRoom { bytes, entries }, many, reason);
        let room = self.bundle_room()?;
        // Much at once, if there are segments for it: the batch that names it takes a block.
        // And where pages have many children that go with them: they would not fit a bundle, and
        // each that is tried costs the captures of one.
        let is_crowded = self.shared.flusher().is_crowded();
        if (many > room.bytes || is_crowded) && self.may_take(self.segments_for(many)) {
            match group() {
                Next::Bundle(plan) if !self.may_take(self.segments_for(bytes_of(&plan))) => {
                    self.shared.flusher().failed(plan.bundle);
                }
                next => return Ok(next),
            }
        }
        let next = self.plan(room, budget, reason);
        // What has to be durable together goes into several bundles that one batch names. Not much
        // more than that goes with it: it takes its segments all at once.
        Ok(if matches!(next, Next::TooLarge(_)) { group() } else { next })
    }

    /// Whether a plan may take so many segments: what [`CoreStore::make_room`] made, or more.
    fn may_take(&self, needed: u32) -> bool {
        needed <= SEGMENTS_PER_BUNDLE || self.has_segments(needed)
    }

    /// What a group is begun with at most: little beside the store.
    fn group_bytes(&self) -> usize {
        let size = self.shared.state().owner.geometry.size_bytes();
        usize::try_from(size / 32).unwrap_or(usize::MAX).min(GROUP_BYTES)
    }

    /// Segments that pages of so many bytes take in addition to the one that is open.
    fn segments_for(&self, bytes: usize) -> u32 {
        let segment = self.shared.owner.geometry.segment as usize;
        u32::try_from(bytes / (segment / 8 * 7)).unwrap_or(u32::MAX).saturating_add(SEGMENTS_PER_BUNDLE)
    }

    /// Makes bundles durable together, each built when the one before is written; for the log from
    /// `newest` on. What their trailers say.
    async fn write_group(&self, group: impl Iterator<Item = Written>, newest: u64) -> Result<Vec<Trailer>> {
        let mut sealed = Vec::new();
        for Written { sealed: bundle, offset, buf } in group {
            self.shared.meters.page_bytes.add(buf.len() as u64);
            self.namespace.write(offset, buf).await?;
            sealed.push(bundle.written(&self.shared.state().clock));
        }
        let flush = self.shared.state().clock.begin();
        if !Defects::now().has(EngineDefect::NamedBeforeFlushed) {
            self.flush_namespace().await?;
        }
        let (mut entries, mut trailers) = (Vec::new(), Vec::new());
        for bundle in sealed {
            let flushed = bundle.flushed(flush);
            let flushed = flushed.unwrap_or_else(|_| unreachable!("the flush began after the write"));
            let (number, at) = flushed.record();
            entries.push(BundleEntry { number, trailer: at.place.bits(), checksum: at.checksum });
            trailers.push(flushed.into_trailer());
        }
        let ticket = self.log.name_group(newest, entries);
        if !Defects::now().has(EngineDefect::InstalledBeforeDurable) {
            self.log.wait_bundle(ticket).await?;
        }
        count(Count::Bundles);
        if trailers.len() > 1 {
            count(Count::Groups);
        }
        Ok(trailers)
    }

    /// What was written before is durable. If that fails, the log fails too.
    pub(super) async fn flush_namespace(&self) -> Result<()> {
        self.log.shared().flush_of_others(self.namespace.flush()).await
    }

    /// Whether a page of these bundles is not clean, although they are durable. If nobody has
    /// changed it there was no memory for a clean node, and it would be written again and again.
    fn has_left_some(&self, trailers: &[Trailer]) -> bool {
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        trailers.iter().flat_map(|trailer| &trailer.entries).any(|entry| !pages.is_clean(entry.page.id()))
    }

    fn bundle_room(&self) -> Result<FlushRoom> {
        let mut state = self.shared.state();
        let PageState { streams, segments, .. } = &mut *state;
        let room = streams.room(segments, Temperature::Hot).map_err(|_| self.no_room("flush store"))?;
        Ok(FlushRoom { bytes: room.bytes, entries: room.entries })
    }

    /// What to put into the next bundles.
    fn plan(&self, room: FlushRoom, budget: usize, reason: Reason) -> Next<Captured> {
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        let mut take = |all: &mut Vec<Event>| self.shared.take_events(all);
        self.shared.flusher().next_bundle(&pages, &mut take, room, budget, reason)
    }

    /// Divides it into one bundle, or as many as it takes, and opens their segments. None if there
    /// are not enough of them; no page has been told a place then.
    fn divide(&self, plan: &Plan<Captured>) -> Result<Option<Vec<BundleLoad>>> {
        let lengths: Vec<usize> = plan.pages.iter().map(|page| page.stored_bytes).collect();
        let mut state = self.shared.state();
        let PageState { streams, segments, .. } = &mut *state;
        match streams.reserve(segments, Temperature::Hot, (&lengths, plan.freed.len()), MAX_GROUP) {
            Ok(loads) => Ok(Some(loads)),
            Err(NoPlace::NoSegment) => Ok(None),
            Err(NoPlace::TooMany) => Err(too_large(plan.pages.len())),
        }
    }

    /// Builds one of them, and tells its pages their places.
    fn build(&self, load: &BundleLoad, pages: &[PageOf<Captured>], freed: &[ChildWord]) -> Written {
        let homes = self.shared.nodes.homes();
        let mut state = self.shared.state();
        let number = state.next_bundle();
        let PageState { streams, segments, .. } = &mut *state;
        streams.room(segments, Temperature::Hot).expect("its segment is open");
        let (written, entries) =
            streams.build(segments, (Temperature::Hot, number), load, |builder, buffer| {
                let mut entries = Vec::with_capacity(pages.len());
                for page in pages {
                    let image = &page.content.image;
                    let replaces = homes.get(page.page.id()).map(|home| home.address);
                    let origin = Origin { is_cold_stream: false, is_moved: false, replaces };
                    let header = header_of(&page.content);
                    entries.push(builder.append(buffer, &header, (image, image.len()), origin)?);
                }
                freed.iter().try_for_each(|freed| builder.free(buffer, *freed))?;
                Ok(entries)
            });
        drop(state);
        let pin = self.core.pin_with(Room::Reserve);
        for (page, entry) in pages.iter().zip(entries) {
            // False: it was changed meanwhile, and is dirty.
            _ = pin.install_flushed(&page.content, entry.place);
        }
        written
    }

    /// The bundles of a group are durable.
    pub(super) fn install_group(&self, trailers: &[Trailer], bundle: BundleId) {
        let nodes = &self.shared.nodes;
        let mut state = self.shared.state();
        let PageState { segments, freeze, .. } = &mut *state;
        let newest = trailers.iter().map(|trailer| trailer.newest).max().unwrap_or(0);
        let now = u32::try_from(newest >> 16).unwrap_or(u32::MAX);
        for entry in trailers.iter().flat_map(|trailer| &trailer.entries) {
            segments.born(entry.place);
            let image = Home { address: entry.place, second: entry.second };
            let (map, id) = (nodes.map(), entry.page.id());
            let installed = match entry.moved_from() {
                None => nodes.homes().install(map, id, image, freeze),
                Some(from) => nodes.homes().install_moved(map, id, from, image, freeze),
            };
            match installed {
                Installed::Newest { left } => segments.died(left, now),
                Installed::Unwanted => segments.died(entry.place, now),
            }
        }
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        drop(state);
        let settled = self.shared.flusher().durable(bundle, &pages);
        let mut state = self.shared.state();
        let PageState { segments, freeze, .. } = &mut *state;
        let pin = self.core.pin();
        for freed in &settled.freed {
            segments.died(pin.release_durable(*freed, freeze), now);
        }
        trailers.iter().for_each(|trailer| segments.settled(trailer.segment));
        self.shared.space.set_used(segments.taken_bytes());
        drop(state);
        self.roots_went(&settled.freed);
    }
}

fn bytes_of(plan: &Plan<Captured>) -> usize {
    plan.pages.iter().map(|page| page.stored_bytes).sum()
}

fn too_large(pages: usize) -> Error {
    let why = format!("{pages} pages have to be durable together, more than fit");
    Error::new(ErrorKind::LimitReached, "flush store").because(why)
}

/// What a page's header says of its content.
fn header_of(page: &Captured) -> PageHeader {
    let facts = page.facts();
    PageHeader {
        kind: if page.level == 0 { PageKind::Leaf } else { PageKind::Inner },
        level: page.level,
        compression: Compression::None,
        flags: PageFlags {
            changes: facts.has_changes,
            numbered: facts.is_numbered,
            references: facts.has_references,
            moved_versions: false,
        },
        page: page.child,
        bundle: 0,
        newest: if page.level == 0 { page.newest } else { 0 },
        tree: page.tree,
        earliest_expiry_seconds: expiry_seconds(facts.earliest_expiry_ms),
    }
}
