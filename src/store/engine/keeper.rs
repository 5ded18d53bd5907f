//! The keeper: the task that writes pages, takes checkpoints, and makes room in memory.
//!
//! One core of a store has it. It wakes up by a signal, or after [`BEAT`], and then does what is
//! due, in this order: what was asked for, pages for which somebody waits for memory, pages that
//! hold back the log, a checkpoint when the log is half full.

use std::rc::Rc;
use std::time::Duration;

use super::clean::Cleaned;
use super::core_store::CoreStore;
use super::counts::{Count, count};
use super::defect::{Defects, EngineDefect};
use super::flush::{BundleId, Load, Next, Pace, Plan, Reason, Room as FlushRoom};
use super::state::PageState;
use super::streams::{BundleLoad, Written};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::btree::{Captured, CorePages, DurableHomes, Eviction, Home, Homes, Installed};
use crate::store::cache::Room;
use crate::store::cache::hand::{Attempt, Look, Resident, Sweep};
use crate::store::env::Env;
use crate::store::events::Event;
use crate::store::overlay;
use crate::store::pace::either;
use crate::store::pages::{
    Compression, Origin, PageFlags, PageHeader, PageKind, Temperature, Trailer, expiry_seconds,
};
use crate::store::wal::{BundleEntry, CoreLog};
use crate::store::word::{ColdAddress, PageId, SecondWord};

/// The keeper looks whether something is due at least this often.
const BEAT: Duration = Duration::from_millis(10);
/// Pages of so many bytes go into one bundle: capturing them takes some 50 µs.
const BUNDLE_BYTES: usize = 128 << 10;
/// A bundle of so many bytes is worth its trailer.
const WORTHWHILE_BYTES: u64 = 32 << 10;
/// What a dirty page is taken to have, in bytes.
const PAGE_BYTES: u64 = 4096;
/// What has to be durable together at most: a group of bundles.
const GROUP_ROOM: FlushRoom = FlushRoom { bytes: 8 << 20, entries: 16 << 10, tries: usize::MAX };
/// So many pages that need too much for a bundle are tried before a group is put together.
const TRIES: usize = 4;
/// How many bytes a core evicts at once for those that wait.
const EVICTED_AT_ONCE: u64 = 128 << 10;

/// What is durable of the pages in memory, for the flusher.
pub(super) struct DurablePages<'s> {
    homes: &'s Homes,
    log: &'s CoreLog,
}

impl DurableHomes for DurablePages<'_> {
    fn home(&self, page: PageId) -> Option<(ColdAddress, SecondWord)> {
        self.homes.get(page).map(|home| (home.address, home.second))
    }

    fn newest_number(&self) -> u64 {
        self.log.next_number().saturating_sub(1)
    }
}

/// What became of an attempt to write a bundle.
enum Flushed {
    Bytes(usize),
    Nothing,
    Waits,
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// The keeper's task, until the store is closed or has failed.
    pub(super) async fn keep(self: Rc<Self>) {
        if let Err(error) = self.keep_on().await {
            self.shared.fail(&error);
        }
        self.shared.requests().is_closed = true;
        self.shared.progress.tell();
    }

    async fn keep_on(&self) -> Result<()> {
        let mut pace = Pace::default();
        let mut hand = overlay::Hand::default();
        loop {
            let (is_asked, wanted, is_closing) = {
                let requests = self.shared.requests();
                (requests.wanted > requests.done, requests.wanted, requests.is_closing)
            };
            let is_overlaid = self.drain_overlay(&mut hand).await?;
            if !is_overlaid {
                self.answer_for_room().await?;
            }
            if is_asked && !is_overlaid {
                self.flush_all(Reason::Close).await?;
                self.make_room(0).await?;
                self.take_checkpoint(is_closing).await?;
                self.shared.requests().done = wanted;
                self.shared.progress.tell();
                if is_closing {
                    return Ok(());
                }
                continue;
            }
            let load = self.load_now().await;
            let is_crowded = self.shared.state().flusher.is_crowded();
            let due = pace.beat(&load, WORTHWHILE_BYTES).max(u64::from(is_crowded));
            let is_full = load.log_used * 2 > load.log_limit;
            if due > 0 {
                let reason = if load.wanted > 0 { Reason::Pressure } else { Reason::Age };
                let due = usize::try_from(due).unwrap_or(usize::MAX);
                if let Flushed::Bytes(bytes) = self.flush(due.min(BUNDLE_BYTES), reason).await? {
                    pace.flushed(bytes as u64);
                    self.settle_space();
                    self.shared.progress.tell();
                    self.clean(bytes as u64).await?;
                    if !is_full {
                        continue;
                    }
                }
            }
            if is_full && !is_overlaid && self.can_start_later().await && self.make_room(0).await? {
                self.take_checkpoint(false).await?;
                self.shared.progress.tell();
                continue;
            }
            if !is_overlaid {
                either(self.shared.keeper.wait(), self.env.sleep(BEAT)).await;
            }
        }
    }

    /// Gives room to writes that asked for it.
    async fn answer_for_room(&self) -> Result<()> {
        let wanted = {
            let requests = self.shared.requests();
            if requests.room_wanted == requests.room_done {
                return Ok(());
            }
            requests.room_wanted
        };
        self.give_room().await?;
        self.settle_space();
        self.shared.requests().room_done = wanted;
        self.shared.progress.tell();
        Ok(())
    }

    /// Writes all pages that are dirty.
    pub(super) async fn flush_all(&self, reason: Reason) -> Result<()> {
        // What is dirty is in memory. Others go on writing, and what is more is for a later time.
        let mut left = self.shared.memory.account().limit_bytes() * 2;
        while left > 0
            && let Flushed::Bytes(bytes) = self.flush(usize::MAX, reason).await?
        {
            left = left.saturating_sub((bytes as u64).max(PAGE_BYTES));
        }
        Ok(())
    }

    /// So many bytes were flushed: cleans what that owes.
    async fn clean(&self, flushed: u64) -> Result<()> {
        /// A turn of the loop has no more steps than this; what is owed waits for the next.
        const MOST_STEPS: u32 = 16;
        let now = self.age_now();
        {
            let mut state = self.shared.state();
            let PageState { cleaner, segments, .. } = &mut *state;
            cleaner.flushed(flushed, now, segments);
        }
        for _ in 0..MOST_STEPS {
            if !self.shared.state().cleaner.owes() {
                break;
            }
            match self.clean_step(false).await? {
                Cleaned::Moved(_) => {}
                Cleaned::Wanted => _ = self.flush(BUNDLE_BYTES, Reason::Pressure).await?,
                Cleaned::Nothing => break,
            }
        }
        Ok(())
    }

    /// What the pace depends on.
    async fn load_now(&self) -> Load {
        let used = self.log.shared().with_leader(|leader| leader.segments.used()).await;
        let segment = u64::from(self.shared.owner.geometry.segment);
        let pressure = self.shared.memory.pressure_bytes(self.shared.nodes.retired_bytes());
        let mut state = self.shared.state();
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        let mut take = |all: &mut Vec<Event>| self.shared.take_events(all);
        // False: structure changes go on, and are looked at next time.
        _ = state.flusher.drain(&pages, &mut take);
        let dirty = state.flusher.dirty_count() as u64 * PAGE_BYTES;
        Load {
            log_used: used as u64 * segment,
            log_limit: self.shared.log_limit.bytes(),
            logged: PAGE_BYTES,
            dirty,
            dirty_budget: self.shared.memory.account().limit_bytes() / 2,
            wanted: pressure.min(dirty),
        }
    }

    /// Whether a checkpoint would let some of the log go.
    async fn can_start_later(&self) -> bool {
        let number = self.log_start_number();
        let position = self.log.shared().with_leader(|leader| leader.position()).await;
        let mut state = self.shared.state();
        state.note(position);
        state.start_for(number).is_some_and(|point| point.segment.segment != state.superblock.log.segment)
    }

    /// The number from which on the log has to be kept.
    pub(super) fn log_start_number(&self) -> u64 {
        if Defects::now().has(EngineDefect::LogStartsLate) {
            return self.log.log().next_number();
        }
        // Not the next number: some writes say that their pages are dirty only after they have
        // drawn their number, but all do before it is published.
        let next = self.log.log().stable_number();
        let overlaid = if self.shared.overlay.is_drained() { u64::MAX } else { self.shared.overlay.first() };
        let mut state = self.shared.state();
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        let mut take = |all: &mut Vec<Event>| self.shared.take_events(all);
        state.flusher.log_start(next, &pages, &mut take).min(overlaid)
    }

    pub(super) fn durable_pages(&self) -> DurablePages<'_> {
        DurablePages { homes: self.shared.nodes.homes(), log: self.log.log() }
    }

    /// Writes one bundle, and installs it when it is durable.
    async fn flush(&self, budget: usize, reason: Reason) -> Result<Flushed> {
        self.free_memory().await;
        if !self.make_room(2).await? {
            return Ok(Flushed::Waits);
        }
        let room = self.bundle_room()?;
        let mut next = self.plan(room, budget, reason);
        if matches!(next, Next::TooLarge(_)) {
            // What has to be durable together goes into several bundles that one batch names.
            // With no more than that, however much room there is: it takes segments all at once.
            next = self.plan(GROUP_ROOM, budget.min(BUNDLE_BYTES), reason);
        }
        let plan = match next {
            Next::Bundle(plan) => plan,
            Next::Nothing => return Ok(Flushed::Nothing),
            Next::Waits => return Ok(Flushed::Waits),
            Next::TooLarge(pages) => {
                let why = format!("{} pages have to be durable together, more than fit", pages.len());
                return Err(Error::new(ErrorKind::LimitReached, "flush store").because(why));
            }
        };
        let bytes = plan.pages.iter().map(|page| page.stored_bytes).sum();
        let needed = self.segments_for(bytes);
        if needed > 2 && self.free_segments().0 < needed {
            // A group: it is put together again when there is room for it.
            self.shared.state().flusher.failed(plan.bundle);
            return Ok(if self.make_room(needed).await? { Flushed::Bytes(0) } else { Flushed::Waits });
        }
        let (bundle, newest, group) = (plan.bundle, plan.newest, self.build(plan)?);
        let trailers = self.write_group(group, newest).await?;
        self.install_group(&trailers, bundle);
        Ok(Flushed::Bytes(bytes))
    }

    /// Segments that pages of so many bytes take in addition to the one that is open.
    fn segments_for(&self, bytes: usize) -> u32 {
        let segment = self.shared.owner.geometry.segment as usize;
        u32::try_from(bytes / (segment / 8 * 7)).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// Makes bundles durable together, for the log from `newest` on. What their trailers say.
    pub(super) async fn write_group(&self, group: Vec<Written>, newest: u64) -> Result<Vec<Trailer>> {
        let mut sealed = Vec::with_capacity(group.len());
        for Written { sealed: bundle, offset, buf } in group {
            self.namespace.write(offset, buf).await?;
            sealed.push(bundle.written(&self.shared.state().clock));
        }
        let flush = self.shared.state().clock.begin();
        if !Defects::now().has(EngineDefect::NamedBeforeFlushed) {
            self.namespace.flush().await?;
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

    fn bundle_room(&self) -> Result<FlushRoom> {
        let mut state = self.shared.state();
        let PageState { streams, segments, .. } = &mut *state;
        let room = streams.room(segments, Temperature::Hot).map_err(|_| self.no_room("flush store"))?;
        Ok(FlushRoom { bytes: room.bytes, entries: room.entries, tries: TRIES })
    }

    /// What to put into the next bundles.
    fn plan(&self, room: FlushRoom, budget: usize, reason: Reason) -> Next<Captured> {
        let mut state = self.shared.state();
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        let mut take = |all: &mut Vec<Event>| self.shared.take_events(all);
        state.flusher.next_bundle(&pages, &mut take, room, budget, reason)
    }

    /// Puts it there: into one bundle, or into as many as it takes.
    fn build(&self, plan: Plan<Captured>) -> Result<Vec<Written>> {
        let homes = self.shared.nodes.homes();
        let mut group = Vec::new();
        let (mut pages, mut freed) = (&plan.pages[..], &plan.freed[..]);
        while !pages.is_empty() || !freed.is_empty() {
            let mut state = self.shared.state();
            let PageState { streams, segments, .. } = &mut *state;
            let first = pages.first().map_or(0, |page| page.stored_bytes);
            let room = streams.room_for(segments, Temperature::Hot, first);
            let room = room.map_err(|_| self.no_room("flush store"))?;
            let mut load = BundleLoad::default();
            for page in pages.iter().take(room.entries) {
                if load.pages_bytes + page.stored_bytes > room.bytes {
                    break;
                }
                load.pages_bytes += page.stored_bytes;
                load.entries += 1;
            }
            // An entry of a trailer is as long as four freed ids.
            load.freed = freed.len().min((room.entries - load.entries) * 4);
            let (now, later) = pages.split_at(load.entries);
            let (free_now, free_later) = freed.split_at(load.freed);
            let number = state.next_bundle();
            let PageState { streams, segments, .. } = &mut *state;
            let (written, entries) =
                streams.build(segments, (Temperature::Hot, number), &load, |builder, buffer| {
                    let mut entries = Vec::with_capacity(now.len());
                    for page in now {
                        let image = &page.content.image;
                        let replaces = homes.get(page.page.id()).map(|home| home.address);
                        let origin = Origin { is_cold_stream: false, is_moved: false, replaces };
                        let header = header_of(&page.content);
                        entries.push(builder.append(buffer, &header, (image, image.len()), origin)?);
                    }
                    free_now.iter().try_for_each(|freed| builder.free(buffer, *freed))?;
                    Ok(entries)
                });
            drop(state);
            let pin = self.core.pin_with(Room::Reserve);
            for (page, entry) in now.iter().zip(entries) {
                // False: it was changed meanwhile, and is dirty.
                _ = pin.install_flushed(&page.content, entry.place);
            }
            (pages, freed) = (later, free_later);
            group.push(written);
        }
        Ok(group)
    }

    /// The bundles of a group are durable.
    pub(super) fn install_group(&self, trailers: &[Trailer], bundle: BundleId) {
        let nodes = &self.shared.nodes;
        let mut state = self.shared.state();
        let PageState { segments, freeze, flusher, .. } = &mut *state;
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
        let settled = flusher.durable(bundle, &pages);
        let pin = self.core.pin();
        for freed in settled.freed {
            segments.died(pin.release_durable(freed, freeze), now);
        }
        trailers.iter().for_each(|trailer| segments.settled(trailer.segment));
        self.shared.space.set_used(segments.taken_bytes());
    }

    /// Evicts some pages that are clean, and says which of those that it came by are `dirty`. False
    /// if there were none to evict.
    pub(super) fn evict_now(&self, dirty: impl FnMut(PageId)) -> bool {
        let stepped = self.hand.step(&InMemory { store: self }, EVICTED_AT_ONCE, dirty);
        self.core.collect();
        stepped.bytes > 0
    }

    /// Makes room in memory for the nodes of what is about to be written, if there is little: a
    /// page becomes clean by a node of its own, and without one it would be written again and
    /// again. Those who wait for memory evict as well, but there may be nobody who waits.
    async fn free_memory(&self) {
        /// A round over a large map takes more: what is missing then is found the next time.
        const MOST_STEPS: u32 = 64;
        let (memory, nodes) = (&self.shared.memory, &self.shared.nodes);
        for _ in 0..MOST_STEPS {
            if memory.pressure_bytes(nodes.retired_bytes()) == 0 {
                break;
            }
            _ = self.evict_now(|_| {});
            crate::rt::yield_now().await;
        }
        if memory.pressure_bytes(0) > 0 {
            // What was retired is free three steps later.
            (0..3).for_each(|_| self.core.collect());
        }
    }

    /// Waits until there may be room for a node: evicts what is clean, and has what is dirty
    /// written. The keeper does the latter itself.
    ///
    /// # Errors
    ///
    /// The store has failed.
    pub(super) async fn wait_for_memory(&self, who: Who) -> Result<()> {
        count(Count::MemoryWaits);
        let moment = self.shared.progress.now();
        let mut dirty = Vec::new();
        if self.evict_now(|page| dirty.push(page)) {
            return Ok(());
        }
        if !dirty.is_empty() {
            let mut state = self.shared.state();
            dirty.into_iter().for_each(|page| state.flusher.want(page));
        }
        match who {
            Who::Keeper => {
                self.flush(BUNDLE_BYTES, Reason::Pressure).await?;
            }
            Who::Anyone => {
                self.shared.check_failed("wait for memory", Outcome::NotStarted)?;
                if self.shared.space.is_stuck() {
                    return Err(self.no_room("wait for memory"));
                }
                self.shared.keeper.set();
                either(self.shared.progress.since(moment), self.env.sleep(BEAT)).await;
            }
        }
        Ok(())
    }
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Keeper,
    Anyone,
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

/// The pages that a hand goes over.
struct InMemory<'s, E: Env, N: Namespace> {
    store: &'s CoreStore<E, N>,
}

impl<E: Env, N: Namespace> Sweep for InMemory<'_, E, N> {
    const FRAME_PAGES: u64 = crate::store::btree::FRAME_PAGES;

    fn frames(&self) -> u32 {
        u32::try_from(self.store.shared.nodes.map().next_page() / Self::FRAME_PAGES).unwrap_or(u32::MAX)
    }

    fn look(&self, page: PageId) -> Look {
        match self.store.core.pin().resident(page) {
            Ok(Some((touched, level))) => Look::Resident(Resident { touched, level }),
            Ok(None) => Look::Nothing,
            Err(_) => Look::NoFrame,
        }
    }

    fn set_touched(&self, page: PageId, touched: u8) {
        self.store.core.pin().set_touched(page, touched);
    }

    fn has_child_in_memory(&self, page: PageId) -> bool {
        self.store.core.pin().has_child_in_memory(page)
    }

    fn try_evict(&self, page: PageId) -> Attempt {
        match self.store.core.pin().try_evict(page) {
            Eviction::Evicted { bytes } => {
                count(Count::Evictions);
                Attempt::Evicted { bytes }
            }
            Eviction::Dirty => Attempt::Dirty,
            Eviction::NotInMemory | Eviction::Busy => Attempt::Changed,
        }
    }
}
