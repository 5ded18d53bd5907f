//! The keeper: the task that writes pages, takes checkpoints, and makes room on the namespace.
//!
//! One core of a store has it. It wakes up by a signal, or after [`BEAT`], and then does what is
//! due, in this order: room that writes asked for, what else was asked for, changes of shape that
//! others left half done, pages for which somebody waits for memory, pages that hold back the log,
//! cleaning that these owe, a checkpoint when the log is half full or much room waits for one. How
//! a bundle is written is in [`write_back`](super::write_back), and why it always comes to that in
//! [`stall`](super::stall).

use std::rc::Rc;
use std::time::Duration;

use super::clean::Cleaned;
use super::core_store::{CoreStore, Duty};
use super::defect::{Defects, EngineDefect};
use super::drain::AGAIN;
use super::stall::Watch;
use super::state::PageState;
use super::write_back::{Flushed, PAGE_BYTES};
use crate::block::Namespace;
use crate::error::{Error, Outcome, Result};
use crate::store::btree::CorePages;
use crate::store::env::Env;
use crate::store::events::Event;
use crate::store::flush::{Load, Pace, Reason};
use crate::store::pace::either;
use crate::time::Instant;

/// The keeper looks whether something is due at least this often while others write,
const BEAT: Duration = Duration::from_millis(10);
/// and at least this often in any case. Whoever waits for it wakes it.
const IDLE_BEAT: Duration = Duration::from_secs(1);
/// Of what is used, pages that are gone may have this share, but so many bytes in any case.
const GONE_SHARE: u64 = 4;
const GONE_BYTES: u64 = 2 << 20;
/// And there may be so many: each costs time at every bundle, though it may have been short-lived
/// and take no room.
const GONE_PAGES: usize = 256;
/// So many bytes may wait for a checkpoint in any case, or the same share.
const WAITING_BYTES: u64 = 16 << 20;
/// Pages of so many bytes go into one bundle: capturing them takes some 50 µs.
const BUNDLE_BYTES: usize = 128 << 10;
/// While writers wait for the log, or until less has to be durable together.
const WAITED_FOR_BYTES: usize = 1 << 20;
/// A bundle of so many bytes is worth its trailer.
const WORTHWHILE_BYTES: u64 = 32 << 10;
/// So many eighths of the log are worth a checkpoint.
const WORTHWHILE_EIGHTHS: u64 = 2;

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// The keeper's task, until the store is closed or has failed.
    pub(super) async fn keep(self: Rc<Self>, duty: Duty) {
        if let Err(error) = self.keep_on().await {
            self.shared.fail(&error);
        }
        duty.done();
        self.shared.requests().is_closed = true;
        self.shared.overlay.signal.set();
        self.shared.progress.tell();
    }

    async fn keep_on(&self) -> Result<()> {
        let (mut pace, mut watch) = (Pace::default(), Watch::default());
        // No checkpoint before this, unless it is asked for: a read for the last one failed.
        let mut not_before = self.env.now();
        // How long the log was after the last checkpoint, or when what is left in the overlay was
        // carried on; and where it ended at the turn before.
        let (mut was_long, mut log_end) = (0, self.shared.log_limit.end());
        let mut sequence = self.shared.state().superblock.sequence;
        let (mut beat, mut next_number) = (BEAT, 0);
        loop {
            if let Some(failure) = self.log.shared().why_failed() {
                return Err(failure.error("write log", Outcome::Unknown));
            }
            let (is_asked, wanted, is_closing) = {
                let requests = self.shared.requests();
                (requests.wanted > requests.answered(), requests.wanted, requests.is_closing)
            };
            self.allocate_ahead().await?;
            let is_through = self.shared.overlay.is_through();
            if is_through {
                // Not before: what the drain has is counted until it is in pages.
                self.answer_for_room().await?;
            }
            if is_asked && is_through {
                if self.answer(wanted, is_closing).await? {
                    return Ok(());
                }
                continue;
            }
            self.finish_changes().await;
            self.look_at_growth();
            if self.shared.log_limit.is_longer() {
                self.see_to_longer_log().await?;
            }
            let before = std::mem::replace(&mut sequence, self.shared.state().superblock.sequence);
            let has_shrunk = sequence != before;
            let load = self.load_now(&mut log_end).await;
            if has_shrunk {
                // What is left may be carried on before writers stop, however much that is.
                was_long = load.log_used.min(load.log_limit / 4 * 3);
            }
            let flushes = !Defects::now().has(EngineDefect::NothingFlushed);
            let has_flushed = flushes && self.flush_what_is_due(&mut pace, &load).await?;
            self.watch(&mut watch, &load);
            let is_full = load.log_used * 2 > load.log_limit;
            if is_full && is_through {
                if let Some(eighths) = self.could_go().await {
                    // A bit of the log is worth a checkpoint only if it will be full soon.
                    let is_urgent = load.log_used * 8 > load.log_limit * 7;
                    let is_worthwhile = is_urgent || eighths >= WORTHWHILE_EIGHTHS;
                    if is_worthwhile && self.checkpoint_if_possible(&mut not_before).await? {
                        continue;
                    }
                } else if load.log_used >= was_long + load.log_limit / 8 {
                    was_long = load.log_used;
                    self.shared.overlay.carry_on();
                }
            }
            if is_through
                && self.has_much_to_give_back()
                && self.checkpoint_if_possible(&mut not_before).await?
            {
                continue;
            }
            if !has_flushed {
                let before = std::mem::replace(&mut next_number, self.log.log().next_number());
                beat = if before == next_number { (beat * 2).min(IDLE_BEAT) } else { BEAT };
                if beat == IDLE_BEAT {
                    self.give_back_what_is_spare().await?;
                }
                either(self.shared.keeper.wait(), self.env.sleep(beat)).await;
            }
        }
    }

    /// Takes a checkpoint, unless what it needs could not be read a moment ago.
    async fn checkpoint_if_possible(&self, not_before: &mut Instant) -> Result<bool> {
        if self.env.now() < *not_before {
            return Ok(false);
        }
        match self.load_overlaid_frames().await {
            Ok(()) if self.make_room(0).await? => {
                self.take_checkpoint(false).await?;
                self.shared.progress.tell();
                return Ok(true);
            }
            Ok(()) => {}
            Err(error) => {
                tracing::warn!("{}: no checkpoint for now: {error}", self.shared.name);
                *not_before = self.env.now() + AGAIN;
            }
        }
        Ok(false)
    }

    /// Whether so much room waits for a checkpoint that it is worth one, though the log is short.
    fn has_much_to_give_back(&self) -> bool {
        let (used, ..) = self.shared.space.taken();
        let state = self.shared.state();
        let waiting = state.segments.waiting_count() as u64 * u64::from(state.owner.geometry.segment);
        waiting > (used / GONE_SHARE).max(WAITING_BYTES)
    }

    /// Writes pages if some are due, and cleans what that owes. Whether it wrote some.
    async fn flush_what_is_due(&self, pace: &mut Pace, load: &Load) -> Result<bool> {
        let is_grown = self.shared.growth.is_reached();
        let is_crowded = self.shared.flusher().is_crowded();
        let due = pace.beat(load, WORTHWHILE_BYTES).max(u64::from(is_crowded)).max(self.due_for_room());
        let due = if is_grown { u64::MAX } else { due };
        if due == 0 {
            return Ok(false);
        }
        let (reason, most) = match load.wanted {
            _ if is_grown => (Reason::Growth, WAITED_FOR_BYTES),
            // Each bundle that is named makes the log longer, which nobody bounds now.
            0 if load.log_used >= load.log_limit => (Reason::Age, WAITED_FOR_BYTES),
            0 => (Reason::Age, BUNDLE_BYTES),
            _ => (Reason::Pressure, BUNDLE_BYTES),
        };
        let due = usize::try_from(due).unwrap_or(usize::MAX).min(most);
        if let Flushed::Bytes(bytes) = self.flush(due, reason).await? {
            pace.flushed(bytes as u64);
            self.settle_space();
            self.shared.progress.tell();
            self.clean(bytes as u64).await?;
            return Ok(true);
        }
        if is_grown && !self.shared.space.is_stuck() {
            // What is to be written waits for somebody's next step, perhaps a writer's.
            self.shared.growth.let_pass();
            self.shared.progress.tell();
        }
        Ok(false)
    }

    /// What is to be written because pages that are gone take too much room until then, or are too
    /// many. (What has inherited from them goes before all else.)
    fn due_for_room(&self) -> u64 {
        let (bytes, pages) = {
            let flusher = self.shared.flusher();
            (flusher.gone_bytes(), flusher.gone_count())
        };
        let (used, ..) = self.shared.space.taken();
        let is_due = bytes > (used / GONE_SHARE).max(GONE_BYTES) || pages > GONE_PAGES;
        if is_due { BUNDLE_BYTES as u64 } else { 0 }
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

    /// Takes the checkpoint that was asked for, if all can be read that it needs. Whether that was
    /// the last thing to do.
    async fn answer(&self, wanted: u64, is_closing: bool) -> Result<bool> {
        if let Err(error) = self.load_overlaid_frames().await {
            self.refuse(wanted, &error);
            return Ok(false);
        }
        let position = self.log.shared().with_leader(|leader| leader.position()).await;
        self.shared.state().note(position);
        self.let_roots_go();
        let so_far = self.log.log().stable_number();
        // What is dirty is in memory, but of a page that is split often all halves are written.
        let mut left = self.shared.memory.account().limit_bytes() * 4;
        while left > 0
            && let Flushed::Bytes(bytes) = self.flush(usize::MAX, Reason::Close).await?
        {
            left = left.saturating_sub((bytes as u64).max(PAGE_BYTES));
            // While others write there is no end to what is dirty.
            if !is_closing && self.log.log().stable_number() > so_far && self.log_start_number() >= so_far {
                break;
            }
        }
        let has_left_some = left == 0 || self.shared.space.is_stuck();
        let has_room = self.make_room(0).await?;
        if has_room {
            self.take_checkpoint(is_closing).await?;
        }
        // To close it is enough: what is left is in the log.
        if !has_room || has_left_some && !is_closing {
            self.refuse(wanted, &self.no_room("checkpoint"));
            return Ok(false);
        }
        self.shared.requests().done = wanted;
        self.shared.progress.tell();
        Ok(is_closing)
    }

    /// There is no checkpoint for those that asked for one.
    fn refuse(&self, wanted: u64, why: &Error) {
        let mut requests = self.shared.requests();
        requests.refused = (wanted, Some((why.kind(), why.to_string())));
        // Who asked for the end meanwhile gets an answer of its own.
        requests.is_closing &= requests.wanted != wanted;
        drop(requests);
        self.shared.progress.tell();
    }

    /// What the pace depends on. The log may start from here on, if it comes to that.
    ///
    /// `log_end` is where the log ended at the call before.
    async fn load_now(&self, log_end: &mut u64) -> Load {
        let position = self.log.shared().with_leader(|leader| leader.position()).await;
        let log = &self.shared.log_limit;
        let end = log.end();
        let logged = end.saturating_sub(std::mem::replace(log_end, end));
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
        let (used, limit) = (log.used(), log.limit());
        Load {
            // What is claimed counts when somebody waits for it.
            log_used: if log.is_reached() { used.max(limit) } else { used },
            log_limit: limit,
            logged,
            dirty,
            dirty_budget: self.shared.memory.account().limit_bytes() / 2,
            wanted: pressure.min(dirty).max(wanted),
        }
    }

    /// A group has made the log longer: makes sure that there are segments for that, and ends it
    /// when nobody needs it any more.
    pub(super) async fn see_to_longer_log(&self) -> Result<()> {
        if !self.has_segments(0) {
            self.make_room(0).await?;
            self.shared.progress.tell();
        }
        let room = self.shared.log_limit.shorten();
        if room > 0 {
            self.shared.space.give_back(room);
            self.shared.progress.tell();
        }
        Ok(())
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
        let overlaid = self.shared.overlay.needs_from();
        let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
        let mut take = |all: &mut Vec<Event>| self.shared.take_events(all);
        self.shared.flusher().log_start(next.min(overlaid), &pages, &mut take)
    }

    /// If what was counted says that writers have to wait, looks how much may really have to be
    /// durable together, and perhaps lets them go on. Any core may do that.
    pub(super) fn look_at_growth(&self) {
        let growth = &self.shared.growth;
        // A look takes time in proportion to the pages that changed shape.
        if !growth.is_reached() {
            return;
        }
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
        if !growth.is_reached() {
            self.shared.progress.tell();
        }
    }
}
