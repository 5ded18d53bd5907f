//! The driver of the log: writes what the cores of a store have logged, and says what is durable.
//!
//! [`LogDriver`] is shared by the cores. Each core has a [`CoreDriver`] of its own, with a handle
//! of the namespace and a task in the background, and any of these tasks may lead.
//!
//! # Who does what
//!
//! | | does |
//! |---|---|
//! | a writer | appends its record, says how durable it is to be ([`CoreDriver::commit`]), waits |
//! | the core's task | holds the core's *needs*; while one is unmet it does the next thing that may be done: forms a batch and writes it, or flushes |
//! | the leader (`wal`) | says what may be done; it is locked between two awaits only |
//!
//! A need is a number up to which the log is to be durable, or to be written, or a bundle that is
//! to be durable. A task whose needs are met does nothing, and one whose need another core's write
//! or flush is in the way of, or will meet, waits to be told.
//!
//! # Telling the others
//!
//! Each core has a slot that the others look at, and a waker for its task. Whoever changed
//! something tells a core if
//!
//! - what it waits for is durable: its task then wakes its own waiters, which costs one message a
//!   core and not one a waiter;
//! - its buffer was full, and a batch was formed;
//! - it has an unmet need, and the teller itself has nothing under way any more. Every such core is
//!   told, so that it does no harm if one of them goes away first.
//!
//! A core says what it waits for and then looks; the others change what is to be seen and then look
//! at the slot. Between the two there is a sequentially consistent fence on each side (or the
//! leader's lock), so that one of them sees the other.
//!
//! # Which write, which flush
//!
//! A small batch on a namespace with forced unit access is one durable write; without a volatile
//! cache every write is. Else a write and a flush. Records that come meanwhile wait for the flush,
//! so that those who are woken by it, and write again, share the next one; half of them in each of
//! two flushes would be twice as many. Only when there is much to write is it written during the
//! flush, so two batches may be under way.
//!
//! A round of writes has a goal that does not move, so that a flush comes however many ask
//! meanwhile.
//!
//! # When something goes away
//!
//! | what | then |
//! |---|---|
//! | a future that waits is dropped | its place in the list goes; the need stays, and is met |
//! | a [`CoreDriver`] is dropped | its task meets the core's needs, finishes what is under way, and gives the buffer back; what is left in it others write |
//! | a task is dropped, nothing under way | the others are told, and take over |
//! | a task is dropped with a write or flush under way | the log fails: nobody can know what became of the bytes, and an error of a flush is said only once |
//! | a write or a flush fails | the log fails, for ever: who waits gets [`Outcome::Unknown`], who wants to write [`Outcome::NotStarted`] |
//! | a flush of others on the namespace fails | the same ([`LogDriver::flush_of_others`]) |
//!
//! # Segments
//!
//! The next segment is asked for ([`SegmentSupply`]) as soon as the last spare one is used, which
//! is a whole segment before it is needed. If there is none then, what was written is still
//! flushed, and the rest waits until [`LogDriver::segments_came`]. Bundles are still named then, in
//! the room that the leader keeps for them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

pub(in crate::store) use self::core_driver::CoreDriver;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt::yield_now;
use crate::store::engine::meters::LogMeters;
use crate::store::env::Env;
use crate::store::failure::Failure;
use crate::store::pages::SegmentName;
use crate::store::wal::{Lead, Leader, LogFormat, Wal};
use bundles::Bundles;
use needs::Goal;

mod bundles;
mod core_driver;
mod needs;
pub(in crate::store) mod replay;
mod task;
#[cfg(test)]
mod tests;
mod waiters;

/// Where the log gets its segments from. It is asked while the log is locked, so it does not call
/// back.
pub(in crate::store) trait SegmentSupply: Send + Sync {
    /// A segment for the log, of a generation above all that were used of it. Its blocks should
    /// have been written before.
    fn next(&self) -> Option<SegmentName>;

    /// The log has failed.
    fn failed(&self);
    /// The log ends there now, as its segments count
    /// ([`Segments::end`](crate::store::wal::Segments::end)). Said with each batch.
    fn ends_at(&self, _end: u64) {}

    /// There was none: the log will need one soon, or needs it now. Said again and again.
    /// [`LogDriver::segments_came`] says that there is one.
    fn wanted(&self);
}

/// What a core says to the others, and its task.
#[derive(Debug)]
#[repr(align(128))]
struct CoreSlot {
    /// Somebody waits there for this number, and for none below it, to be durable.
    number: AtomicU64,
    /// The same of bundles, by their tickets.
    ticket: AtomicU64,
    /// A need is unmet.
    is_unmet: AtomicBool,
    /// Somebody waits there for room in the buffer.
    is_full: AtomicBool,
    /// The task is to look.
    is_told: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl CoreSlot {
    fn new() -> Self {
        Self {
            number: AtomicU64::new(u64::MAX),
            ticket: AtomicU64::new(u64::MAX),
            is_unmet: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            task: Mutex::new(None),
        }
    }

    /// Makes the task look.
    fn tell(&self) {
        if !self.is_told.swap(true, Ordering::AcqRel) {
            // It is woken without the lock: a waker may do anything.
            let task = lock(&self.task).clone();
            if let Some(task) = task {
                task.wake();
            }
        }
    }
}

/// A flush that is not the log's. If nobody hears how it ends, the log fails.
struct OthersFlush<'l> {
    log: &'l LogDriver,
    has_ended: bool,
}

impl<'l> OthersFlush<'l> {
    fn begin(log: &'l LogDriver) -> Self {
        log.others.fetch_add(1, Ordering::Relaxed);
        Self { log, has_ended: false }
    }
}

impl Drop for OthersFlush<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            let error = Error::new(ErrorKind::Cancelled, "flush store")
                .because("the core that was at it went away, and what became of it is not known");
            self.log.fail(&error);
        }
        self.log.others.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The log of a store and what drives it, shared by its cores.
pub(in crate::store) struct LogDriver {
    wal: Wal,
    format: LogFormat,
    supply: Box<dyn SegmentSupply>,
    slots: Box<[CoreSlot]>,
    /// Slots that no core has.
    free: Mutex<Vec<usize>>,
    bundles: Bundles,
    /// Numbers below it are in batches.
    formed: AtomicU64,
    /// A write, or a flush, is under way. Changed while the leader is locked.
    is_writing: AtomicBool,
    is_flushing: AtomicBool,
    /// How many flushes that are not the log's are under way.
    others: AtomicU32,
    has_failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
    meters: LogMeters,
}

impl std::fmt::Debug for LogDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogDriver").field("wal", &self.wal).finish_non_exhaustive()
    }
}

/// Locks what no panic leaves half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogDriver {
    /// Drives `wal`, of this format and for this many cores.
    pub(in crate::store) fn new(
        wal: Wal,
        format: LogFormat,
        cores: usize,
        supply: Box<dyn SegmentSupply>,
    ) -> Arc<Self> {
        let formed = AtomicU64::new(wal.durable());
        Arc::new(Self {
            wal,
            format,
            supply,
            slots: (0..cores).map(|_| CoreSlot::new()).collect(),
            free: Mutex::new((0..cores).rev().collect()),
            bundles: Bundles::default(),
            formed,
            is_writing: AtomicBool::new(false),
            is_flushing: AtomicBool::new(false),
            others: AtomicU32::new(0),
            has_failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            meters: LogMeters::default(),
        })
    }

    /// Attaches this core: its way into the log, and its task. `namespace` is this core's handle of
    /// the namespace that the log is on.
    ///
    /// # Errors
    ///
    /// As many cores are attached as the log is for; the log has failed.
    pub(in crate::store) fn attach<E: Env, N: Namespace>(
        self: &Arc<Self>,
        env: &E,
        namespace: N,
    ) -> Result<CoreDriver<E, N>> {
        self.check_writable()?;
        let refused = || {
            Error::new(ErrorKind::LimitReached, "attach core to log")
                .because(format!("{} cores are attached already", self.slots.len()))
        };
        let slot = lock(&self.free).pop().ok_or_else(refused)?;
        let Some(log) = self.wal.attach() else {
            lock(&self.free).push(slot);
            return Err(refused());
        };
        Ok(CoreDriver::start(Arc::clone(self), slot, log, env, namespace))
    }

    /// What it has written and flushed.
    pub(in crate::store::engine) fn meters(&self) -> &LogMeters {
        &self.meters
    }

    /// The log: its order of writes, and what is durable.
    pub(in crate::store) fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Numbers below this one are durable.
    pub(in crate::store) fn durable(&self) -> u64 {
        self.wal.durable()
    }

    /// Does something with the leader: its position, for a checkpoint, or its segments. Nothing
    /// else is to be done in `act`; [`LogDriver::segments_came`] follows what frees segments.
    pub(in crate::store) async fn with_leader<R>(&self, act: impl FnOnce(&mut Leader) -> R) -> R {
        act(self.lead().await.leader())
    }

    /// The supply has a segment, or the leader has, after there was none.
    pub(in crate::store) fn segments_came(&self) {
        fence(Ordering::SeqCst);
        for slot in &self.slots {
            if slot.is_unmet.load(Ordering::Relaxed) {
                slot.tell();
            }
        }
    }

    /// The leader, as soon as no other core has it, which is soon.
    async fn lead(&self) -> Lead<'_> {
        loop {
            if let Some(lead) = self.try_lead() {
                return lead;
            }
            yield_now().await;
        }
    }

    fn try_lead(&self) -> Option<Lead<'_>> {
        let mut lead = self.wal.lead()?;
        if self.has_failed() {
            lead.leader().fail();
        }
        Some(lead)
    }

    fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Flushes the namespace for what is not the log's. The device says only once that it lost what
    /// it had taken, to whichever flush comes first, and the next one succeeds. So every flush
    /// counts for everybody: if this one fails, so does the log; and if the log has failed by then,
    /// what was written before this flush is not known to be durable either.
    ///
    /// A flush of the log that ends in the same turn of a core counts only after this one's
    /// ([`LogDriver::hear_others`]). Two cores have no such order: between the end of a flush on
    /// the device and the turn of its core, another core may count on what that flush has lost.
    ///
    /// # Errors
    ///
    /// The flush's, which the caller makes known, or the log's.
    pub(in crate::store) async fn flush_of_others(
        &self,
        flush: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let mut under_way = OthersFlush::begin(self);
        let flushed = flush.await;
        under_way.has_ended = true;
        if let Err(error) = &flushed {
            self.give_up(error);
        }
        drop(under_way);
        flushed?;
        self.failure("flush store", Outcome::Unknown).map_or(Ok(()), Err)
    }

    /// Lets others on this core hear first of flushes that ended.
    async fn hear_others(&self) {
        if self.others.load(Ordering::Relaxed) > 0 {
            yield_now().await;
        }
    }

    /// The log's own write or flush failed.
    fn fail(&self, error: &Error) {
        if self.give_up(error) {
            self.supply.failed();
        }
    }

    /// Nothing is written any more, and nothing becomes durable. The first error is what everybody
    /// gets; whether it is this one.
    fn give_up(&self, error: &Error) -> bool {
        let is_first = {
            let mut failure = lock(&self.failure);
            let is_first = failure.is_none();
            failure.get_or_insert_with(|| Failure::of(error));
            is_first
        };
        self.has_failed.store(true, Ordering::Release);
        // Whoever has the leader now sees it with the next look.
        drop(self.try_lead());
        self.slots.iter().for_each(CoreSlot::tell);
        is_first
    }

    /// The error that everybody gets, if the log has failed.
    fn failure(&self, operation: &'static str, outcome: Outcome) -> Option<Error> {
        if !self.has_failed() {
            return None;
        }
        lock(&self.failure).as_ref().map(|failure| failure.error(operation, outcome))
    }

    /// Why the log has failed, if it has.
    pub(in crate::store::engine) fn why_failed(&self) -> Option<Failure> {
        lock(&self.failure).clone().filter(|_| self.has_failed())
    }

    fn check_writable(&self) -> Result<()> {
        self.failure("write to store", Outcome::NotStarted).map_or(Ok(()), Err)
    }

    /// Tells the cores that what they wait for has come, after the core of `own` changed something.
    /// `has_formed`: a batch; `is_idle`: it has nothing under way.
    fn tell_others(&self, own: usize, has_formed: bool, is_idle: bool) {
        fence(Ordering::SeqCst);
        let (durable, bundles) = (self.durable(), self.bundles.durable());
        for (_, slot) in self.slots.iter().enumerate().filter(|&(index, _)| index != own) {
            let is_durable = slot.number.load(Ordering::Relaxed) < durable
                || slot.ticket.load(Ordering::Relaxed) < bundles;
            if is_durable
                || has_formed && slot.is_full.load(Ordering::Relaxed)
                || is_idle && slot.is_unmet.load(Ordering::Relaxed)
            {
                slot.tell();
            }
        }
    }
}
