//! The loop of one core: run ready tasks for a budget, poll every poller for a budget, fire timers, drain the inbox; when
//! nothing happened for a while, sleep in the kernel.
//!
//! # The budget of a turn
//!
//! A turn runs at most [`POLLS_PER_TURN`] polls, those of tasks that come back meanwhile included: with few tasks that yield,
//! one pass over the devices is paid by many polls. It also ends after [`TASK_TIME_PER_TURN`], so that timers, pollers and other threads
//! wait no longer than that and one poll. A reading of the clock costs several polls of a small task, so the clock is read after the
//! 1st, 8th and 64th poll and at the end, and sooner if the polls so far say that the time would be up before.
//!
//! What tasks ask of the kernel is handed over once in a round, which ends when every task that was ready at its beginning has had its turn:
//! with many ready tasks one system call takes what all of them ask for. A round that lasts longer than [`TIME_PER_SUBMISSION`] is
//! divided. What an io_uring has deferred is done with the same call: so long, a turn and one poll a completed I/O may wait.

mod access;
mod arrivals;
mod direct;
mod ending;
pub(crate) mod stepped;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::Location;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::beat::{Beat, Phase};
use super::current;
use super::fork::Process;
use super::inbox::{Inbox, Message};
use super::offload::Pool;
use super::pollers::Pollers;
use super::reactor::Reactor;
use super::run_queue::{DEFAULT_QUEUE, RunQueues};
use super::stats::{self, Counters};
use super::task::{self, Header, JoinError, JoinHandle, NewTask, Polled, Registry, Site, SiteCache, TaskRef};
use super::timer::Wheel;
use super::{Clock, CoreConfig, Idle, Instant};
use crate::error::Result;
use crate::mem::Arena;

/// Polls of tasks per turn before the pollers get theirs.
const POLLS_PER_TURN: u64 = 512;
/// A turn's tasks stop after this long even if the budget is not used up, so that what comes to the core waits no longer.
const TASK_TIME_PER_TURN: Duration = Duration::from_micros(10);
/// What tasks ask of the kernel is handed over after so much time, of tasks and of pollers, even if others are still to have their turn.
const TIME_PER_SUBMISSION: Duration = Duration::from_micros(100);
/// From one reading of the clock to the next, the number of polls in a turn grows by this factor at most.
const CLOCK_GROWTH: u64 = 8;
/// So many turns in a row may end before devices, timers and the inbox had theirs.
const MOST_SKIPPED: u32 = 32;
/// A core, as its tasks see it.
pub(super) struct Shared {
    inbox: Arc<Inbox>,
    queues: RunQueues,
    /// The time as last read.
    now: Cell<Instant>,
    /// The task of the `block_on` that goes on.
    root: Cell<Option<NonNull<Header>>>,
    /// The task that the loop polls. Another one runs while a coroutine lets others run on its stack: [`Shared::running`] knows.
    polling: Cell<Option<NonNull<Header>>>,
    /// The number of the poll before which the loop looks at the clock.
    until: Cell<u64>,
    beat: Arc<Beat>,
    /// Turns since devices, timers and the inbox had theirs, and when that was.
    skipped: Cell<u32>,
    looked_around_at: Cell<Instant>,
    registry: Registry,
    process: Process,
    timers: RefCell<Wheel<Waker>>,
    reactor: Reactor,
    pool: Arc<Pool>,
    pollers: Pollers,
    /// Taken from the inbox and not run yet.
    messages: RefCell<VecDeque<Message>>,
    /// The number of polls at which the round ends, and how many messages it still has room for.
    round: Cell<(u64, u64)>,
    /// The number of polls at which all have had their turn that were ready when operations were last handed to the kernel, and when the
    /// first turn since then began, if one did.
    submission: Cell<(u64, Option<Instant>)>,
    /// Woken when the last task has ended.
    drained: Cell<Option<Waker>>,
    /// Reused by `fire_timers`.
    fired: RefCell<Vec<Waker>>,
    clock: Arc<dyn Clock>,
    /// When the I/O in flight of a core that ends is to have ended, if somebody said.
    io_deadline: Cell<Option<Instant>>,
    sites: SiteCache,
    counters: Counters,
    /// Until when `counters` know what the time went to.
    accounted: Cell<Instant>,
    /// The number of polls at which the task that was last on the queue has run, and since when it is followed.
    followed: Cell<(u64, Instant)>,
    stall_after: Duration,
    idle: Idle,
    rng: RefCell<StdRng>,
    arena: Arena,
}

/// Runs `f` with the core that the calling thread is inside of. `f` runs no code of the user's but the clock: neither wakers nor
/// destructors, which may enter or end another core.
#[track_caller]
#[inline]
pub(super) fn with_core<R>(f: impl FnOnce(&Rc<Shared>) -> R) -> R {
    in_core("a function of `boson::rt`", f)
}

/// The same; `caller` is what was called, for the message of the panic outside a core.
#[track_caller]
#[inline]
pub(super) fn in_core<R>(caller: &'static str, f: impl FnOnce(&Rc<Shared>) -> R) -> R {
    current::with(|core| match core {
        Some(core) if !core.process.is_left() => f(core),
        Some(_) => panic!("{}", Process::error(caller)),
        None => outside(caller),
    })
}

#[cold]
#[track_caller]
fn outside(caller: &'static str) -> ! {
    panic!("{caller} was called outside a boson core: call it from inside `Core::block_on`")
}

impl Shared {
    pub(super) fn new(
        config: &CoreConfig,
        inbox: Arc<Inbox>,
        reactor: Reactor,
        pool: Arc<Pool>,
        arena: Arena,
    ) -> Self {
        let now = config.clock.now();
        Self {
            inbox,
            queues: RunQueues::new(),
            now: Cell::new(now),
            root: Cell::new(None),
            polling: Cell::new(None),
            until: Cell::new(0),
            beat: Arc::new(Beat::new()),
            skipped: Cell::new(0),
            looked_around_at: Cell::new(now),
            registry: Registry::default(),
            process: Process::current(),
            timers: RefCell::new(Wheel::new(now)),
            reactor,
            pool,
            pollers: Pollers::default(),
            messages: RefCell::default(),
            round: Cell::new((0, 0)),
            submission: Cell::new((0, None)),
            drained: Cell::default(),
            fired: RefCell::default(),
            clock: Arc::clone(&config.clock),
            io_deadline: Cell::new(None),
            sites: SiteCache::new(),
            counters: Counters::default(),
            accounted: Cell::new(now),
            followed: Cell::new((u64::MAX, now)),
            stall_after: config.stall_after,
            idle: config.idle,
            rng: RefCell::new(StdRng::from_seed(config.seed)),
            arena,
        }
    }

    /// Reads the clock.
    pub(super) fn read_clock(&self) -> Instant {
        let now = self.clock.now();
        self.now.set(now);
        now
    }

    /// The time as last read.
    pub(super) fn last_reading(&self) -> Instant {
        self.now.get()
    }

    /// One turn of the loop; whether anything was done. It ends at once when `is_done` after a task has ended. What comes after the
    /// tasks is not skipped so for long: a turn that finds it skipped begins with it.
    pub(super) fn turn(&self, is_done: impl Fn() -> bool) -> Result<bool> {
        if self.process.is_left() {
            return Err(Process::error("turn of a core"));
        }
        self.beat.turn();
        let mut started = self.read_clock();
        let skipped = self.skipped.get();
        if skipped > 0
            && (skipped >= MOST_SKIPPED || started - self.looked_around_at.get() >= TASK_TIME_PER_TURN)
        {
            self.look_around()?;
            started = self.read_clock();
        }
        let (round_ends, since) = self.submission.get();
        self.submission.set((round_ends, since.or(Some(started))));
        let ran = self.run_tasks(started, &is_done);
        if is_done() {
            self.skipped.set(self.skipped.get() + 1);
            self.account(true);
            self.beat.enter(Phase::Outside);
            return Ok(true);
        }
        let worked = self.look_around()? || ran > 0;
        self.account(worked);
        Ok(worked)
    }

    /// Counts the time since the turn before, up to the last reading of the clock.
    fn account(&self, worked: bool) {
        let now = self.now.get();
        let took = now - self.accounted.replace(now);
        if worked {
            stats::add_time(&self.counters.busy, took);
            self.counters.latencies.borrow_mut().turn.record(stats::nanos(took));
        } else {
            stats::add_time(&self.counters.spinning, took);
        }
    }

    /// Runs ready tasks for a budget; returns how many polls that were.
    fn run_tasks(&self, started: Instant, is_done: &impl Fn() -> bool) -> u64 {
        let Some(mut queue) = self.queues.choose(started) else { return 0 };
        self.beat.enter(Phase::Tasks);
        self.follow(started);
        let compete = self.queues.compete();
        let until = started + TASK_TIME_PER_TURN.min(self.queues.slice());
        let (mut slice_started, mut last_reading) = (started, started);
        let (mut ran, mut ran_at_reading, mut read_at) = (0, 0, 1);
        let mut polls = self.beat.polls();
        self.until.set(polls + read_at);
        loop {
            let Some(task) = self.queues.pop(queue) else {
                // With one queue, the turn has nothing left to run.
                if !compete {
                    break;
                }
                let now = self.read_clock();
                self.queues.charge(queue, now - slice_started, now);
                slice_started = now;
                match self.queues.choose(now) {
                    Some(next) if now < until && ran < POLLS_PER_TURN => queue = next,
                    _ => break,
                }
                continue;
            };
            let ended = self.run_task(task, queue);
            // A cancelled task takes its turn without a poll; in that of a coroutine others are polled.
            let polled = self.beat.polls() - polls;
            polls += polled;
            ran += polled.max(1);
            if ended && is_done() {
                break;
            }
            if ran < read_at {
                continue;
            }
            let now = self.read_clock();
            self.measured(now - last_reading, ran - ran_at_reading, ran == 1);
            (last_reading, ran_at_reading) = (now, ran);
            if ran >= POLLS_PER_TURN || now >= until {
                break;
            }
            read_at = next_reading(ran, now - started, until - now);
            self.until.set(polls + read_at - ran);
        }
        self.until.set(0);
        if ran > ran_at_reading {
            let now = self.read_clock();
            self.measured(now - last_reading, ran - ran_at_reading, false);
        }
        self.follow_up();
        if compete && self.now.get() > slice_started {
            self.queues.charge(queue, self.now.get() - slice_started, self.now.get());
        }
        ran
    }

    /// Polls one task; whether it ended.
    // A fifth of an async task's yield, if it is a call.
    #[inline(always)]
    fn run_task(&self, task: NonNull<Header>, queue: u8) -> bool {
        self.polling.set(Some(task));
        // SAFETY: the task was just popped from a run queue of this core, so its core's own reference keeps it alive.
        let polled = if task::is_coroutine(unsafe { task.as_ref() }) {
            // SAFETY: as below.
            unsafe { self.run_coroutine(task) }
        } else {
            // SAFETY: the task was just popped from a run queue of this core, whose registry this is; the loop polls one task at a
            // time, and it cannot be entered from inside a task (`Core::block_on` refuses).
            unsafe { task::run(task, self.now.get(), &self.registry, &self.beat) }
        };
        self.polling.set(None);
        if polled == Polled::Pending {
            return false;
        }
        self.ended(polled, queue);
        true
    }

    #[inline(never)]
    fn ended(&self, polled: Polled, queue: u8) {
        if polled != Polled::Gone {
            stats::add(&self.counters.ended, 1);
            stats::add(&self.counters.panicked, usize::from(polled == Polled::Panicked));
            self.queues.release(queue);
        }
        self.tell_drained();
    }

    /// Tells who waits for the last task and the last message, if those are gone.
    fn tell_drained(&self) {
        if self.registry.len() == 0
            && let Some(drained) = self.drained.take()
        {
            // It looks for messages itself.
            task::quietly(|| drained.wake());
        }
    }

    /// So many polls took so long.
    fn measured(&self, took: Duration, polls: u64, is_first: bool) {
        if is_first {
            self.counters.latencies.borrow_mut().poll.record(stats::nanos(took));
        }
        if took >= self.stall_after {
            self.report_stall(took, polls);
        }
    }

    /// A task took too long. Which one is known if the clock was read before and after it; otherwise it is among a few.
    #[cold]
    fn report_stall(&self, took: Duration, polls: u64) {
        stats::add(&self.counters.stalls, 1);
        if !tracing::enabled!(tracing::Level::WARN) {
            // Also a core that the kernel did not run for a while comes here: its steady state allocates nothing.
            return;
        }
        let last = self.beat.polls();
        let first = last - polls.min(last);
        let mut suspects: Vec<&Site> = (first..last).filter_map(|number| self.beat.site(number)).collect();
        suspects.dedup_by(|a, b| std::ptr::eq(*a, *b));
        if let [only] = suspects[..] {
            tracing::warn!(
                task = only.name,
                created_at = %only.created_at,
                took_ms = stats::millis(took),
                "a task kept its core from everything else"
            );
        } else {
            let names: Vec<&str> = suspects.iter().map(|site| site.name).collect();
            tracing::warn!(
                tasks = ?names,
                polls,
                took_ms = stats::millis(took),
                "one of these tasks kept its core from everything else"
            );
        }
    }

    /// Follows the last task on the queue, unless one is followed already, to know how long woken tasks wait.
    // Once per turn: inlined, it would cost the loop over tasks its registers.
    #[inline(never)]
    fn follow(&self, now: Instant) {
        if self.followed.get().0 == u64::MAX {
            self.followed.set((self.beat.polls() + self.queues.len() as u64, now));
        }
    }

    /// After the tasks of a turn: the one that is followed may have been among them.
    #[inline(never)]
    fn follow_up(&self) {
        let (target, since) = self.followed.get();
        // A cancelled task takes its turn without a poll: with nothing queued, it has had it.
        if self.beat.polls() >= target || target != u64::MAX && self.queues.is_empty() {
            self.counters.latencies.borrow_mut().queue_wait.record(stats::nanos(self.now.get() - since));
            self.followed.set((u64::MAX, since));
        }
    }

    /// Sleeps in the kernel until something may have happened.
    pub(super) fn park(&self, now: Instant) -> Result<()> {
        let Some(until) = self.may_park(now)? else { return Ok(()) };
        // The subscriber is foreign code and may wake tasks of this core: before the queues are looked at.
        trace_sleep(until.map(|until| until - now));
        if self.announce_park() && self.inbox.look_again() {
            stats::add(&self.counters.parks, 1);
            self.beat.enter(Phase::Parked);
            let waited = self.reactor.wait(until.map(|until| until - now));
            self.beat.enter(Phase::Devices);
            let woke = self.read_clock();
            stats::add_time(&self.counters.asleep, woke - now);
            self.accounted.set(woke);
            self.inbox.unpark();
            waited?;
            trace_wake(woke - now);
            return Ok(());
        }
        self.inbox.unpark();
        Ok(())
    }

    /// Asks timers and pollers whether the core may sleep at `now`, and until when; `None` if it must go on polling.
    fn may_park(&self, now: Instant) -> Result<Option<Option<Instant>>> {
        if self.reactor.must_be_polled() {
            return Ok(None);
        }
        let mut until = self.timers.borrow().next_deadline();
        let may = self.pollers.park(now, &self.reactor, &mut until)?;
        Ok((may && until.is_none_or(|until| until > now)).then_some(until))
    }

    /// Announces to other threads that the core is about to sleep, unless a poller woke tasks of this core when it was asked.
    fn announce_park(&self) -> bool {
        let idle = self.queues.is_empty();
        if idle {
            self.inbox.announce();
        }
        idle
    }

    /// Puts a task that was just marked as queued on its run queue.
    #[inline]
    pub(super) fn enqueue(&self, task: NonNull<Header>) {
        // SAFETY: a task that is marked as queued is kept alive by its core's own reference.
        let queue = unsafe { task.as_ref() }.queue();
        self.queues.push(queue, task, &self.now);
    }

    pub(super) fn spawn<F: Future + 'static>(
        &self,
        queue: u8,
        name: &'static str,
        created_at: &'static Location<'static>,
        future: F,
    ) -> JoinHandle<F::Output> {
        let (task, handle) = TaskRef::new(&self.new_task(queue, name, created_at), future);
        self.queues.retain(queue);
        if let Some(ready) = task.mark_queued() {
            self.enqueue(ready);
        }
        self.registry.insert(task);
        handle
    }

    /// Starts the task of a `block_on`.
    pub(super) fn start_root<F: Future>(
        &self,
        created_at: &'static Location<'static>,
        future: F,
    ) -> Root<'_, F::Output> {
        // What the thread did outside of the core is none of its time.
        self.accounted.set(self.read_clock());
        let new = self.new_task(DEFAULT_QUEUE, "block_on", created_at);
        // SAFETY: `Root` ends the task and drops its result when it goes. It is on the stack of `block_on`, as the future was.
        let (task, handle) = unsafe { TaskRef::new_root(&new, future) };
        if let Some(ready) = task.mark_queued() {
            self.enqueue(ready);
        }
        // `Root` has its handle, and so keeps it until it is no longer noted here.
        self.root.set(Some(task.as_ptr()));
        // The core's own reference, which goes with the end of the task.
        std::mem::forget(task);
        Root { core: self, handle }
    }

    fn new_task(&self, queue: u8, name: &'static str, created_at: &'static Location<'static>) -> NewTask<'_> {
        let id = self.counters.spawned.get() + 1;
        self.counters.spawned.set(id);
        NewTask { inbox: &self.inbox, site: self.sites.get(name, created_at), id, queue, now: self.now.get() }
    }
}

#[inline(never)]
fn trace_sleep(at_most: Option<Duration>) {
    tracing::trace!(target: "boson::rt", at_most_us = at_most.map(stats::micros), "sleeping");
}

#[inline(never)]
fn trace_wake(asleep: Duration) {
    tracing::trace!(target: "boson::rt", asleep_us = stats::micros(asleep), "awake");
}

/// The number of polls in this turn at which the clock is read next: `ran` took `elapsed`, and `left` is left.
#[inline]
fn next_reading(ran: u64, elapsed: Duration, left: Duration) -> u64 {
    let (elapsed, left) = (stats::nanos(elapsed), stats::nanos(left));
    let most = ran * (CLOCK_GROWTH - 1);
    // Most of the time small polls: `most` of them fit, and no division is needed.
    let fits = if elapsed.saturating_mul(CLOCK_GROWTH - 1) <= left {
        most
    } else {
        (left.saturating_mul(ran) / elapsed.max(1)).clamp(1, most)
    };
    (ran + fits).min(POLLS_PER_TURN)
}

/// The task of a `block_on`. It ends with this, at the latest.
pub(super) struct Root<'a, T> {
    core: &'a Shared,
    handle: JoinHandle<T>,
}

impl<T> Root<'_, T> {
    /// What it waits for, as far as it says.
    pub(super) fn waits_for(&self) -> Option<&'static str> {
        self.handle.waits_for()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// The result, once.
    pub(super) fn take(&mut self) -> Option<std::result::Result<T, JoinError>> {
        self.handle.take()
    }
}

impl<T> Drop for Root<'_, T> {
    fn drop(&mut self) {
        // The loop may have been left by a panic in the middle of a poll: of a waker, after the task had ended.
        self.core.polling.set(None);
        self.core.until.set(0);
        self.core.beat.enter(Phase::Outside);
        self.core.root.set(None);
        if !self.handle.is_finished() {
            stats::add(&self.core.counters.ended, 1);
        }
        // SAFETY: this is the core's thread, and its loop, which alone polls tasks, has been left.
        unsafe { self.handle.end_now(&self.core.registry) };
    }
}
