//! A core's part of the driver: what its writers call.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll};

use super::needs::Needs;
use super::waiters::Waiters;
use super::{CoreSlot, Goal, LogDriver, lock, task};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::wal::{BundleEntry, CoreLog, NoRoom, Room};
use crate::sync::local::Notify;

/// So many records that are not in a batch are written although a flush is under way.
pub(super) const OVERLAP_RECORDS: u64 = 256;

/// A core's way to a durable log. It belongs to that core; its task outlives it until the core's
/// needs are met.
pub(in crate::store) struct CoreDriver<E: Env, N: Namespace> {
    core: Rc<Core<E, N>>,
}

/// What a core's driver and its task share.
pub(super) struct Core<E, N> {
    pub(super) driver: Arc<LogDriver>,
    index: usize,
    pub(super) env: E,
    pub(super) namespace: N,
    /// Taken out when this goes.
    log: Option<CoreLog>,
    pub(super) needs: RefCell<Needs>,
    numbers: Waiters,
    tickets: Waiters,
    room: Notify,
    /// What was in batches when the buffer was found full.
    full_since: Cell<u64>,
    /// The task has a write, or a flush, under way.
    pub(super) is_writing: Cell<bool>,
    pub(super) is_flushing: Cell<bool>,
    is_closing: Cell<bool>,
    /// The task is gone.
    has_ended: Cell<bool>,
    /// The task has nothing under way any more, or is gone.
    pub(super) end: Notify,
}

impl<E: Env, N: Namespace> CoreDriver<E, N> {
    pub(super) fn start(driver: Arc<LogDriver>, index: usize, log: CoreLog, env: &E, namespace: N) -> Self {
        let core = Rc::new(Core {
            driver,
            index,
            env: env.clone(),
            namespace,
            log: Some(log),
            needs: RefCell::default(),
            numbers: Waiters::default(),
            tickets: Waiters::default(),
            room: Notify::new(),
            full_since: Cell::new(0),
            is_writing: Cell::new(false),
            is_flushing: Cell::new(false),
            is_closing: Cell::new(false),
            has_ended: Cell::new(false),
            end: Notify::new(),
        });
        env.spawn("log", task::run(task::Duty::new(Rc::clone(&core))));
        Self { core }
    }

    /// The driver that the cores share.
    pub(in crate::store) fn shared(&self) -> &Arc<LogDriver> {
        &self.core.driver
    }

    /// The core's way into the log: numbers, records, snapshots.
    pub(in crate::store) fn log(&self) -> &CoreLog {
        self.core.log()
    }

    /// Room for records ([`CoreLog::room`]), once there is some. Nothing may await between the draw
    /// from it and the last record.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the record is longer than
    /// [`CoreLog::max_record_bytes`]. The log has failed, with outcome
    /// [`NotStarted`](Outcome::NotStarted).
    pub(in crate::store) async fn room(&self, records: u32, len: usize) -> Result<Room<'_>> {
        let core = &*self.core;
        loop {
            core.driver.check_writable()?;
            core.check_task("write to store", Outcome::NotStarted)?;
            let formed = core.driver.formed.load(Ordering::Acquire);
            match core.log().room(records, len) {
                Ok(room) => return Ok(room),
                Err(NoRoom::TooLong) => {
                    let most = core.log().max_record_bytes();
                    return Err(Error::new(ErrorKind::InvalidInput, "write to store").because(format!(
                        "{len} bytes are more than the {most} that one record of the log may have"
                    )));
                }
                Err(NoRoom::Full) => {}
            }
            core.full_since.set(formed);
            core.slot().is_full.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if core.driver.formed.load(Ordering::Acquire) == formed && !core.driver.has_failed() {
                core.needs.borrow_mut().ask_written(core.driver.wal.order().next());
                core.slot().tell();
                core.room.notified().await;
            }
        }
    }

    /// Says that the record of `number`, which this core has appended, and all before it are to
    /// be durable in this way: `Sync` now; `Interval` in time, so that it begins after half of
    /// it; `None` is written after [`WRITE_WITHIN`](super::needs::WRITE_WITHIN), and flushed when
    /// somebody else asks. Buffers that are half full are written in any case.
    pub(in crate::store) fn commit(&self, number: u64, durability: Durability) {
        let core = &*self.core;
        let end = number + 1;
        let durable = core.driver.durable();
        let formed = core.driver.formed.load(Ordering::Relaxed);
        let mut needs = core.needs.borrow_mut();
        let mut is_new = end > durable && needs.commit(end, durability, durable, || core.env.now());
        // A task that is at work looks when it is done.
        is_new &= !core.is_busy() || end.saturating_sub(formed) >= OVERLAP_RECORDS;
        if core.log().is_half_full() && !needs.are_written_asked(formed) {
            is_new |= needs.ask_written(core.driver.wal.order().next());
        }
        drop(needs);
        if is_new {
            core.slot().tell();
        }
    }

    /// Numbers below this one are durable.
    pub(in crate::store) fn durable(&self) -> u64 {
        self.core.driver.durable()
    }

    /// Completes once `number`, which has been drawn, is durable, and asks for that at once. It may
    /// be dropped at any time.
    ///
    /// # Errors
    ///
    /// The log has failed, with outcome [`Unknown`](Outcome::Unknown).
    pub(in crate::store) fn wait(&self, number: u64) -> impl Future<Output = Result<()>> {
        Wait { core: &self.core, what: What::Number, at: number, id: None }
    }

    /// Has a bundle named in the log, and returns its ticket. Its pages have been flushed, and
    /// `newest`, the newest number in them, has been drawn. It goes with the next batch that may
    /// name it ([`Leader::add_bundle`](super::Leader::add_bundle)); that needs no free segment if
    /// the batch fits into the one that is being written.
    pub(in crate::store) fn name_bundle(&self, newest: u64, entry: BundleEntry) -> u64 {
        self.name_group(newest, vec![entry])
    }

    /// The same for a group of bundles ([`Leader::add_group`](super::Leader::add_group)) that have
    /// to be durable together: one batch names them. Returns the ticket of the last.
    pub(in crate::store) fn name_group(&self, newest: u64, group: Vec<BundleEntry>) -> u64 {
        self.core.driver.bundles.give(newest, group)
    }

    /// Bundles with tickets below this one are durable.
    pub(in crate::store) fn bundles_durable(&self) -> u64 {
        self.core.driver.bundles.durable()
    }

    /// Completes once the batch that names the bundle of `ticket` is durable, and asks for that at
    /// once.
    ///
    /// # Errors
    ///
    /// As [`CoreDriver::wait`].
    pub(in crate::store) fn wait_bundle(&self, ticket: u64) -> impl Future<Output = Result<()>> {
        Wait { core: &self.core, what: What::Ticket, at: ticket, id: None }
    }

    /// Makes durable what was drawn so far, and completes when the task has nothing under way: the
    /// core may go then, unless it writes more.
    ///
    /// # Errors
    ///
    /// As [`CoreDriver::wait`].
    pub(in crate::store) async fn rest(&self) -> Result<()> {
        let core = &*self.core;
        let flushed = self.wait(core.driver.wal.order().next() - 1).await;
        while core.is_busy() {
            core.end.notified().await;
        }
        flushed
    }

    /// Makes durable what was drawn so far, and ends the task: what is left in the buffer by
    /// rooms that were taken before is for the other cores.
    ///
    /// # Errors
    ///
    /// As [`CoreDriver::wait`].
    pub(in crate::store) async fn close(self) -> Result<()> {
        let core = &*self.core;
        let flushed = self.wait(core.driver.wal.order().next() - 1).await;
        core.is_closing.set(true);
        core.slot().tell();
        while !core.has_ended.get() {
            core.end.notified().await;
        }
        flushed
    }
}

impl<E: Env, N: Namespace> Drop for CoreDriver<E, N> {
    fn drop(&mut self) {
        self.core.is_closing.set(true);
        self.core.needs.borrow_mut().hurry();
        self.core.slot().tell();
    }
}

impl<E, N> Core<E, N> {
    pub(super) fn slot(&self) -> &CoreSlot {
        &self.driver.slots[self.index]
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn log(&self) -> &CoreLog {
        self.log.as_ref().expect("it is there until the end")
    }

    /// Whether its task has something under way, after which it looks.
    pub(super) fn is_busy(&self) -> bool {
        self.is_writing.get() || self.is_flushing.get()
    }

    pub(super) fn is_unmet(&self) -> bool {
        let durable = Goal { number: self.driver.durable(), ticket: self.driver.bundles.durable() };
        self.needs.borrow().are_unmet(self.driver.formed.load(Ordering::Relaxed), durable)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_closing.get() && !self.is_unmet()
    }

    /// Wakes those that can go on; returns how many wait no longer for something to be durable.
    pub(super) fn wake(&self) -> usize {
        let slot = self.slot();
        if slot.is_full.load(Ordering::Relaxed)
            && self.driver.formed.load(Ordering::Acquire) > self.full_since.get()
        {
            slot.is_full.store(false, Ordering::Relaxed);
            self.room.notify_all();
        }
        self.wake_below(self.driver.durable(), self.driver.bundles.durable())
    }

    fn wake_below(&self, number: u64, ticket: u64) -> usize {
        let slot = self.slot();
        let lists = [(&self.numbers, &slot.number, number), (&self.tickets, &slot.ticket, ticket)];
        let wake = |(list, least, end): (&Waiters, &std::sync::atomic::AtomicU64, u64)| {
            if least.load(Ordering::Relaxed) >= end {
                return 0;
            }
            let count = list.wake_below(end);
            least.store(list.least().unwrap_or(u64::MAX), Ordering::Relaxed);
            count
        };
        lists.into_iter().map(wake).sum()
    }

    /// Everybody looks why there is nothing to wait for any more.
    pub(super) fn wake_all(&self) {
        self.wake_below(u64::MAX, u64::MAX);
        self.room.notify_all();
    }

    /// The task is gone.
    pub(super) fn ended(&self) {
        self.has_ended.set(true);
        self.slot().is_unmet.store(false, Ordering::Relaxed);
        let task = lock(&self.slot().task).take();
        drop(task);
        self.wake_all();
        self.end.notify_all();
    }

    fn check_task(&self, operation: &'static str, outcome: Outcome) -> Result<()> {
        if !self.has_ended.get() {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Closed, operation).because("the log's task on this core has ended");
        Err(error.outcome_is(outcome))
    }
}

impl<E, N> Drop for Core<E, N> {
    fn drop(&mut self) {
        let slot = self.slot();
        slot.number.store(u64::MAX, Ordering::Relaxed);
        slot.ticket.store(u64::MAX, Ordering::Relaxed);
        slot.is_full.store(false, Ordering::Relaxed);
        slot.is_told.store(false, Ordering::Relaxed);
        if let Some(log) = self.log.take() {
            self.driver.wal.detach(log);
        }
        lock(&self.driver.free).push(self.index);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Number,
    Ticket,
}

/// Waits for a number or a ticket to be durable.
struct Wait<'a, E, N> {
    core: &'a Core<E, N>,
    what: What,
    at: u64,
    /// In the list.
    id: Option<u64>,
}

impl<E, N> Wait<'_, E, N> {
    fn list(&self) -> &Waiters {
        match self.what {
            What::Number => &self.core.numbers,
            What::Ticket => &self.core.tickets,
        }
    }

    fn is_durable(&self) -> bool {
        match self.what {
            What::Number => self.core.driver.durable() > self.at,
            What::Ticket => self.core.driver.bundles.durable() > self.at,
        }
    }

    /// The result, if nothing is left to wait for.
    fn outcome(&self) -> Option<Result<()>> {
        if self.is_durable() {
            return Some(Ok(()));
        }
        let operation = "wait for durability";
        if let Some(error) = self.core.driver.failure(operation, Outcome::Unknown) {
            return Some(Err(error));
        }
        self.core.check_task(operation, Outcome::Unknown).err().map(Err)
    }
}

impl<E, N> Future for Wait<'_, E, N> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome);
        }
        let core = self.core;
        let is_new = {
            let mut needs = core.needs.borrow_mut();
            match self.what {
                What::Number => needs.ask(self.at + 1),
                What::Ticket => needs.ask_bundle(self.at + 1),
            }
        };
        self.id = Some(self.list().enter(self.id, self.at, cx));
        let least = match self.what {
            What::Number => &core.slot().number,
            What::Ticket => &core.slot().ticket,
        };
        if least.load(Ordering::Relaxed) > self.at {
            least.store(self.at, Ordering::Relaxed);
        }
        // Whoever makes it durable from here on sees the slot.
        fence(Ordering::SeqCst);
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome);
        }
        if is_new && !core.is_busy() {
            core.slot().tell();
        }
        Poll::Pending
    }
}

impl<E, N> Drop for Wait<'_, E, N> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.list().leave(id);
        }
    }
}
