//! The keeper: the task that writes pages, takes checkpoints, and makes room in memory.
//!
//! One core of a store has it. It wakes up by a signal, or after [`BEAT`], and then does what is
//! due, in this order: what was asked for, pages for which somebody waits for memory, pages that
//! hold back the log, a checkpoint when the log is half full.

use std::rc::Rc;
use std::time::Duration;

use super::core_store::{CoreStore, Duty};
use super::counts::{Count, count};
use super::defect::{Defects, EngineDefect};
use super::drain::AGAIN;
use super::flush::{BundleId, Captured as PageOf, Load, Next, Pace, Pages, Plan, Reason, Room as FlushRoom};
use super::state::PageState;
use super::streams::{BundleLoad, BundleRoom, NoPlace, Written};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::btree::{Captured, CorePages, DurableHomes, Eviction, Home, Homes, Installed};
use crate::store::cache::Room;
use crate::store::cache::hand::{Attempt, Look, Resident, Sweep};
use crate::store::env::Env;
use crate::store::events::Event;
use crate::store::pace::either;
use crate::store::pages::{
    Compression, Origin, PageFlags, PageHeader, PageKind, Temperature, Trailer, expiry_seconds,
};
use crate::store::wal::{BundleEntry, CoreLog, Leader, MAX_GROUP};
use crate::store::word::{ChildWord, ColdAddress, PageId, SecondWord};

/// The keeper looks whether something is due at least this often.
const BEAT: Duration = Duration::from_millis(10);
/// Pages of so many bytes go into one bundle: capturing them takes some 50 µs.
const BUNDLE_BYTES: usize = 128 << 10;
/// While writers wait until less has to be durable together.
const GROWTH_BYTES: usize = 1 << 20;
/// A bundle of so many bytes is worth its trailer.
const WORTHWHILE_BYTES: u64 = 32 << 10;
/// So many eighths of the log are worth a checkpoint.
const WORTHWHILE_EIGHTHS: u64 = 2;
/// What a dirty page is taken to have, in bytes.
const PAGE_BYTES: u64 = 4096;
/// How many bytes a core evicts at once for those that wait.
const EVICTED_AT_ONCE: u64 = 128 << 10;

/// What is durable of the pages in memory, for the flusher.
struct DurablePages<'s> {
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
    pub(super) async fn keep(self: Rc<Self>, duty: Duty) {
        if let Err(error) = self.keep_on().await {
            self.shared.fail(&error);
        }
        duty.done();
        self.shared.requests().is_closed = true;
        self.shared.draining.wake();
        self.shared.progress.tell();
    }

    async fn keep_on(&self) -> Result<()> {
        let mut pace = Pace::default();
        // No checkpoint before this, unless it is asked for: a read for the last one failed.
        let mut not_before = self.env.now();
        // How long the log was after the last checkpoint, or when what is left in the overlay was
        // carried on.
        let (mut was_long, mut has_shrunk, mut log_end) = (0, false, None);
        loop {
            let (is_asked, wanted, is_closing) = {
                let requests = self.shared.requests();
                let answered = requests.done.max(requests.refused.0);
                (requests.wanted > answered, requests.wanted, requests.is_closing)
            };
            let is_through = self.shared.draining.is_through(&self.shared.overlay);
            if is_asked && is_through {
                if self.answer(wanted, is_closing).await? {
                    return Ok(());
                }
                has_shrunk = true;
                continue;
            }
            self.look_at_growth();
            if has_shrunk {
                log_end = None;
            }
            let load = self.load_now(&mut log_end).await;
            if std::mem::take(&mut has_shrunk) {
                was_long = load.log_used;
            }
            let is_grown = self.shared.growth.is_reached();
            let is_crowded = self.shared.flusher().is_crowded();
            let due = pace.beat(&load, WORTHWHILE_BYTES).max(u64::from(is_crowded));
            let due = if is_grown { u64::MAX } else { due };
            let is_full = load.log_used * 2 > load.log_limit;
            let mut has_flushed = false;
            if due > 0 {
                let (reason, most) = match load.wanted {
                    _ if is_grown => (Reason::Growth, GROWTH_BYTES),
                    0 => (Reason::Age, BUNDLE_BYTES),
                    _ => (Reason::Pressure, BUNDLE_BYTES),
                };
                let due = usize::try_from(due).unwrap_or(usize::MAX).min(most);
                if let Flushed::Bytes(bytes) = self.flush(due, reason).await? {
                    pace.flushed(bytes as u64);
                    self.shared.progress.tell();
                    has_flushed = true;
                } else if is_grown {
                    // What is to be written waits for somebody's next step, perhaps a writer's.
                    self.shared.growth.let_pass();
                    self.shared.progress.tell();
                }
            }
            if is_full && is_through {
                if let Some(eighths) = self.could_go().await {
                    // A bit of the log is worth a checkpoint only if it will be full soon.
                    let is_urgent = load.log_used * 8 > load.log_limit * 7;
                    let is_worthwhile = is_urgent || eighths >= WORTHWHILE_EIGHTHS;
                    if is_worthwhile && self.env.now() >= not_before {
                        match self.load_overlaid_frames().await {
                            Ok(()) => {
                                self.take_checkpoint(false).await?;
                                has_shrunk = true;
                                self.shared.progress.tell();
                                continue;
                            }
                            Err(error) => {
                                tracing::warn!("{}: no checkpoint for now: {error}", self.shared.name);
                                not_before = self.env.now() + AGAIN;
                            }
                        }
                    }
                } else if load.log_used >= was_long + load.log_limit / 8 {
                    was_long = load.log_used;
                    self.shared.draining.carry_on(&self.shared.overlay);
                }
            }
            if !has_flushed {
                either(self.shared.keeper.wait(), self.env.sleep(BEAT)).await;
            }
        }
    }

    /// Takes the checkpoint that was asked for, if all can be read that it needs. Whether that was
    /// the last thing to do.
    async fn answer(&self, wanted: u64, is_closing: bool) -> Result<bool> {
        if let Err(error) = self.load_overlaid_frames().await {
            let mut requests = self.shared.requests();
            requests.refused = (wanted, Some((error.kind(), error.to_string())));
            requests.is_closing = false;
            drop(requests);
            self.shared.progress.tell();
            return Ok(false);
        }
        let position = self.log.shared().with_leader(|leader| leader.position()).await;
        self.shared.state().note(position);
        self.let_roots_go();
        let so_far = self.log.log().stable_number();
        while let Flushed::Bytes(_) = self.flush(usize::MAX, Reason::Close).await? {
            // While others write there is no end to what is dirty.
            if !is_closing && self.log.log().stable_number() > so_far && self.log_start_number() >= so_far {
                break;
            }
        }
        self.take_checkpoint(is_closing).await?;
        self.shared.requests().done = wanted;
        self.shared.progress.tell();
        Ok(is_closing)
    }

    /// What the pace depends on. The log may start from here on, if it comes to that.
    ///
    /// `log_end` is where the log ended at the call before, in bytes from its first segment on;
    /// None if another one is its first since then.
    async fn load_now(&self, log_end: &mut Option<u64>) -> Load {
        let look = |leader: &mut Leader| (leader.segments.used() as u64, leader.position());
        let (used, position) = self.log.shared().with_leader(look).await;
        let segment = u64::from(self.shared.owner.geometry.segment);
        let end = used.saturating_sub(1) * segment + u64::from(position.offset);
        let logged = log_end.replace(end).map_or(0, |before| end.saturating_sub(before));
        let (memory, retired) = (&self.shared.memory, self.shared.nodes.retired_bytes());
        if retired > 0 && memory.pressure_bytes(0) > 0 {
            self.shared.ask_for_memory();
        }
        let pressure = memory.pressure_bytes(retired);
        self.shared.state().note(position);
        let mut flusher = self.shared.flusher();
        self.shared.take_wanted().into_iter().for_each(|page| flusher.want(page));
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        let mut take = |all: &mut Vec<Event>| self.shared.take_events(all);
        // False: structure changes go on, and are looked at next time.
        _ = flusher.drain(&pages, &mut take);
        // The evicter wants pages too for which the log keeps nothing, and which are not counted.
        let wanted = flusher.wanted_count() as u64 * PAGE_BYTES;
        let dirty = flusher.dirty_count() as u64 * PAGE_BYTES + wanted;
        let (used, limit) = (used * segment, self.shared.max_log_bytes);
        // Writers may have to wait before it is as long as that: they count spare segments too.
        let is_reached = self.shared.log_limit.is_reached();
        Load {
            log_used: if is_reached { used.max(limit) } else { used },
            log_limit: limit,
            logged,
            dirty,
            dirty_budget: self.shared.memory.account().limit_bytes() / 2,
            wanted: pressure.min(dirty).max(wanted),
        }
    }

    /// How much of the log a checkpoint would let go, in eighths of its writes. None if not even a
    /// segment.
    async fn could_go(&self) -> Option<u64> {
        let number = self.log_start_number();
        let position = self.log.shared().with_leader(|leader| leader.position()).await;
        let mut state = self.shared.state();
        state.note(position);
        let start = state.superblock.log;
        let point = state.start_for(number).filter(|point| point.segment.segment != start.segment)?;
        let writes = position.first.saturating_sub(start.first_write).max(1);
        Some(point.first.saturating_sub(start.first_write).saturating_mul(8) / writes)
    }

    /// The number from which on the log has to be kept.
    pub(super) fn log_start_number(&self) -> u64 {
        if Defects::now().has(EngineDefect::LogStartsLate) {
            return self.log.log().next_number();
        }
        // Not the next number: some writes say that their pages are dirty only after they have
        // drawn their number, but all do before it is published.
        let next = self.log.log().stable_number();
        // Before the flusher looks: what is drained after that has said before that its page is
        // dirty.
        let overlaid = self.shared.draining.needs_from(&self.shared.overlay);
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        let mut take = |all: &mut Vec<Event>| self.shared.take_events(all);
        self.shared.flusher().log_start(next.min(overlaid), &pages, &mut take)
    }

    fn durable_pages(&self) -> DurablePages<'_> {
        DurablePages { homes: self.shared.nodes.homes(), log: self.log.log() }
    }

    /// Writes one bundle, and installs it when it is durable.
    async fn flush(&self, budget: usize, reason: Reason) -> Result<Flushed> {
        let room = self.bundle_room()?;
        let mut next = self.plan(room, budget, reason);
        if matches!(next, Next::TooLarge(_)) {
            // What has to be durable together goes into several bundles that one batch names.
            let BundleRoom { bytes, entries } = self.shared.state().streams.group_room();
            next = self.plan(FlushRoom { bytes, entries }, budget, reason);
        }
        let plan = match next {
            Next::Bundle(plan) => plan,
            Next::Nothing => return Ok(Flushed::Nothing),
            Next::Waits => return Ok(Flushed::Waits),
            Next::TooLarge(pages) => return Err(too_large(pages.len())),
        };
        let Plan { bundle, newest, .. } = plan;
        let bytes = plan.pages.iter().map(|page| page.stored_bytes).sum();
        let loads = self.divide(&plan)?;
        let mut sealed = Vec::with_capacity(loads.len());
        let (mut pages, mut freed) = (&plan.pages[..], &plan.freed[..]);
        for load in &loads {
            let (now, freed_now);
            (now, pages) = pages.split_at(load.entries);
            (freed_now, freed) = freed.split_at(load.freed);
            let Written { sealed: bundle, offset, buf } = self.build(load, now, freed_now);
            self.namespace.write(offset, buf).await?;
            sealed.push(bundle.written(&self.shared.state().clock));
        }
        drop(plan);
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
        self.install_group(&trailers, bundle);
        self.look_at_growth();
        if reason == Reason::Close && self.has_left_some(&trailers) {
            self.evict_now(|_| {});
        }
        Ok(Flushed::Bytes(bytes))
    }

    /// Looks how much may have to be durable together, and lets writers go on, or wait. Any core
    /// may do that.
    pub(super) fn look_at_growth(&self) {
        let growth = &self.shared.growth;
        let was_reached = growth.is_reached();
        let told = growth.told();
        {
            let least = self.shared.state().streams.least_page_bytes();
            let mut flusher = self.shared.flusher();
            let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
            let mut take = |all: &mut Vec<Event>| self.shared.take_events(all);
            if !flusher.drain(&pages, &mut take) {
                return;
            }
            growth.saw(told, flusher.growth_bytes(&pages, least) as u64);
        }
        if was_reached && !growth.is_reached() {
            self.shared.progress.tell();
        }
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

    /// Divides it into one bundle, or as many as it takes, and opens their segments. No page has
    /// been told a place if there are not enough of them.
    fn divide(&self, plan: &Plan<Captured>) -> Result<Vec<BundleLoad>> {
        let lengths: Vec<usize> = plan.pages.iter().map(|page| page.stored_bytes).collect();
        let mut state = self.shared.state();
        let PageState { streams, segments, .. } = &mut *state;
        let loads = streams.reserve(segments, Temperature::Hot, (&lengths, plan.freed.len()), MAX_GROUP);
        drop(state);
        loads.map_err(|why| {
            self.shared.flusher().failed(plan.bundle);
            match why {
                NoPlace::NoSegment => self.no_room("flush store"),
                NoPlace::TooMany => too_large(plan.pages.len()),
            }
        })
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
    fn install_group(&self, trailers: &[Trailer], bundle: BundleId) {
        let nodes = &self.shared.nodes;
        let mut state = self.shared.state();
        let PageState { segments, freeze, .. } = &mut *state;
        let newest = trailers.iter().map(|trailer| trailer.newest).max().unwrap_or(0);
        let now = u32::try_from(newest >> 16).unwrap_or(u32::MAX);
        for entry in trailers.iter().flat_map(|trailer| &trailer.entries) {
            segments.born(entry.place);
            let image = Home { address: entry.place, second: entry.second };
            match nodes.homes().install(nodes.map(), entry.page.id(), image, freeze) {
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
        drop(state);
        self.roots_went(&settled.freed);
    }

    /// Evicts some pages that are clean, and says which of those that it came by are `dirty`. False
    /// if there were none to evict.
    pub(super) fn evict_now(&self, dirty: impl FnMut(PageId)) -> bool {
        let stepped = self.hand.step(&InMemory { store: self }, EVICTED_AT_ONCE, dirty);
        self.core.collect();
        stepped.bytes > 0
    }

    /// Waits until there may be room for a node: evicts what is clean, and has what is dirty
    /// written. The keeper does the latter, and so never comes here itself.
    ///
    /// # Errors
    ///
    /// The store has failed.
    pub(super) async fn wait_for_memory(&self) -> Result<()> {
        count(Count::MemoryWaits);
        let moment = self.shared.progress.now();
        let mut dirty = Vec::new();
        if self.evict_now(|page| dirty.push(page)) {
            return Ok(());
        }
        self.shared.want(dirty);
        self.shared.check_failed("wait for memory", Outcome::NotStarted)?;
        self.shared.ask_for_memory();
        self.shared.keeper.set();
        either(self.shared.progress.since(moment), self.env.sleep(BEAT)).await;
        Ok(())
    }
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
