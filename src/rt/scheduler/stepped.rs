//! A core without a kernel and without a thread of its own, whose steps somebody else takes: a
//! simulation.
//!
//! A step is a stage of the loop (see [`scheduler`](super)) or one poll of a task in it. The stages
//! are the very functions that the loop calls, in its order; between any two of them other cores
//! may take steps. What the loop's budgets and the time of arrival decide on a real machine is left
//! to `choose` here: which ready task is polled, how many are before the devices are looked at, and
//! whether a stage comes too early to see what there is.

use std::cell::Cell;
use std::future::Future;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::current::{Inside, Outside};
use super::state::CoreState;
use crate::error::Result;
use crate::mem::Arena;
use crate::reactor::Reactor;
use crate::reactor::pool::Pool;
use crate::rt::config::CoreConfig;
use crate::rt::record::{self, CoreStats, TaskInfo, TaskRange};
use crate::rt::tasks::{DEFAULT_QUEUE, Inbox, JoinError, JoinHandle, Simulation, bury};
use crate::time::Instant;

/// A turn polls 2 to the power of a number below this many tasks.
const BUDGETS: usize = 8;
/// One in this many looks comes too early.
const EARLY: usize = 8;
/// A core that may not sleep looks at its devices this often.
const SPIN: Duration = Duration::from_micros(10);

/// Where a core is: what its next step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Polls a task.
    Tasks,
    /// Polls the reactor and the pollers.
    Devices,
    /// Fires timers.
    Timers,
    /// Takes what other threads did to tasks.
    Inbox,
    /// Runs messages.
    Messages,
    /// Asks whether it may sleep, after a turn that did nothing.
    Idle,
    /// Announces that it is about to sleep.
    Announce,
    /// Looks at the inbox once more.
    LookAgain,
    /// Sleeps: its next step wakes it.
    Asleep,
}

/// Chooses a number below the one that it is given, which is at least 1.
pub(crate) type Choose<'a> = &'a dyn Fn(usize) -> usize;

/// A core that is driven from outside.
pub(crate) struct SteppedCore {
    shared: Rc<CoreState>,
    stage: Cell<Stage>,
    /// Whether anything was done in this turn, or might have been.
    worked: Cell<bool>,
    /// Polls that are left to this turn.
    polls_left: Cell<usize>,
    /// Until when it sleeps, unless it is woken.
    until: Cell<Option<Instant>>,
    /// When a whole turn did nothing and a poller had the core go on.
    spun_at: Cell<Option<Instant>>,
    /// Its doorbell: somebody woke it while it slept or was about to.
    rung: Arc<AtomicBool>,
    /// A step of it is being taken.
    is_stepping: Cell<bool>,
    /// Its tasks have been ended for good.
    has_ended: Cell<bool>,
}

impl SteppedCore {
    /// A core whose time and seed are those of `config`.
    ///
    /// # Errors
    ///
    /// The kernel's code if there is no memory for the arena.
    pub(crate) fn new(config: &CoreConfig, simulation: Simulation) -> Result<Self> {
        let rung = Arc::new(AtomicBool::new(false));
        let doorbell = Arc::clone(&rung);
        let ring = Box::new(move || doorbell.store(true, Ordering::Relaxed));
        let inbox = Arc::new(Inbox::new(config.messages, ring, bury).simulated(simulation));
        let pool = Arc::new(Pool::without_threads());
        let arena = Arena::new(config.arena_bytes)?;
        Ok(Self {
            shared: Rc::new(CoreState::new(
                config,
                config.seed_or_new()?,
                inbox,
                Reactor::Simulated,
                pool,
                arena,
            )),
            stage: Cell::new(Stage::Tasks),
            worked: Cell::new(false),
            polls_left: Cell::new(1),
            until: Cell::new(None),
            spun_at: Cell::new(None),
            rung,
            is_stepping: Cell::new(false),
            has_ended: Cell::new(false),
        })
    }

    /// What its next step does.
    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Whether it can take a step at `now`: it is awake or would wake, and is not taking one
    /// already.
    pub(crate) fn can_step(&self, now: Instant) -> bool {
        let wakes =
            || self.rung.load(Ordering::Relaxed) || self.until.get().is_some_and(|until| until <= now);
        !self.is_stepping.get() && !self.has_ended.get() && (self.stage.get() != Stage::Asleep || wakes())
    }

    /// The same for a step that runs no user code, whatever the user holds locked.
    pub(crate) fn can_step_alone(&self, now: Instant) -> bool {
        let alone = [Stage::Inbox, Stage::Announce, Stage::LookAgain, Stage::Asleep];
        alone.contains(&self.stage.get()) && self.can_step(now)
    }

    /// When there may be something to do for a core that has nothing to do at `now`; `Err` if it
    /// has.
    pub(crate) fn idle_until(&self, now: Instant) -> std::result::Result<Option<Instant>, Busy> {
        if self.spun_at.get() == Some(now) {
            return Ok(Some(now + SPIN));
        }
        if self.can_step(now) { Err(Busy) } else { Ok(self.until.get()) }
    }

    /// Whether it sleeps though somebody put something into its inbox, and nobody will wake it.
    pub(crate) fn missed_a_wake(&self) -> bool {
        self.stage.get() == Stage::Asleep
            && !self.rung.load(Ordering::Relaxed)
            && !self.shared.local.inbox.is_empty()
    }

    /// Whether a job of its blocking pool waits for a thread.
    pub(crate) fn has_job(&self) -> bool {
        self.shared.io.attachment.pool.has_work()
    }

    /// Does a job of its blocking pool, as a thread of that would.
    pub(crate) fn do_job(&self, choose: Choose<'_>) {
        let _outside = Outside::enter();
        self.shared.io.attachment.pool.work_once(choose);
    }

    /// Takes one step. It [can](Self::can_step).
    ///
    /// # Errors
    ///
    /// A poller that wants to be woken by the kernel:
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    pub(crate) fn step(&self, choose: Choose<'_>) -> Result<()> {
        let _inside = Inside::enter(&self.shared);
        let _stepping = Stepping::new(&self.is_stepping);
        let core = &*self.shared;
        let counters = &core.record.counters;
        let now = core.read_clock();
        let next = match self.stage.get() {
            Stage::Tasks => self.poll_task(now, choose),
            Stage::Devices => {
                let completions = core.io.attachment.reactor.poll(now)?;
                let events = if self.looks(choose) { core.io.pollers.poll(now) } else { 0 };
                record::add(&counters.completions, completions);
                record::add(&counters.poller_events, events);
                self.did(completions + events, Stage::Timers)
            }
            Stage::Timers => {
                let fired = if self.looks(choose) { core.fire_timers() } else { 0 };
                record::add(&counters.timers_fired, fired);
                self.did(fired, Stage::Inbox)
            }
            Stage::Inbox => {
                let woken = if self.looks(choose) { core.drain_inbox() } else { 0 };
                record::add(&counters.remote_wakes, woken);
                self.did(woken, Stage::Messages)
            }
            Stage::Messages => {
                let ran = if self.looks(choose) { core.run_messages() } else { 0 };
                record::add(&counters.messages, ran);
                self.did(ran, Stage::Idle);
                if self.worked.get() { self.new_turn(choose)? } else { Stage::Idle }
            }
            Stage::Idle => match core.may_park(now)? {
                Some(until) => {
                    self.until.set(until);
                    Stage::Announce
                }
                None => {
                    self.spun_at.set((!core.timers.wheel.borrow().is_due(now)).then_some(now));
                    self.new_turn(choose)?
                }
            },
            Stage::Announce if core.announce_park() => Stage::LookAgain,
            Stage::LookAgain if core.local.inbox.look_again() => {
                record::add(&counters.parks, 1);
                Stage::Asleep
            }
            Stage::Announce | Stage::LookAgain | Stage::Asleep => {
                record::add_time(&counters.asleep, now - core.record.accounted.replace(now));
                self.rung.store(false, Ordering::Relaxed);
                core.local.inbox.unpark();
                self.new_turn(choose)?
            }
        };
        self.stage.set(next);
        Ok(())
    }

    fn poll_task(&self, now: Instant, choose: Choose<'_>) -> Stage {
        let core = &*self.shared;
        let left = self.polls_left.get();
        let queue = core.local.queues.choose(now).filter(|_| left > 0);
        let Some(queue) = queue else { return Stage::Devices };
        let Some(task) = core.local.queues.take(queue, choose) else { return Stage::Devices };
        self.polls_left.set(left - 1);
        core.run_task(task, queue);
        if core.local.queues.compete() {
            core.local.queues.charge(queue, Duration::ZERO, now);
        }
        self.did(1, Stage::Tasks)
    }

    /// Whether a stage sees what there is. If not, this turn does not show that there is nothing.
    fn looks(&self, choose: Choose<'_>) -> bool {
        let looks = choose(EARLY) != 0;
        if !looks {
            self.worked.set(true);
        }
        looks
    }

    fn did(&self, count: usize, next: Stage) -> Stage {
        if count > 0 {
            self.worked.set(true);
            self.spun_at.set(None);
        }
        next
    }

    fn new_turn(&self, choose: Choose<'_>) -> Result<Stage> {
        self.shared.process().check("turn of a core")?;
        self.shared.beat.turn();
        self.until.set(None);
        self.worked.set(false);
        self.polls_left.set(1 << choose(BUDGETS));
        Ok(Stage::Tasks)
    }

    /// Runs `future` as [`Core::block_on`](crate::rt::Core::block_on) does. Calls `step` until it
    /// is done, with what it waits for, and gives up when that returns an error.
    pub(crate) fn block_on<F: Future, E>(
        &self,
        created_at: &'static Location<'static>,
        future: F,
        mut step: impl FnMut(Option<&'static str>) -> std::result::Result<(), E>,
    ) -> std::result::Result<std::result::Result<F::Output, JoinError>, E> {
        let _inside = Inside::enter(&self.shared);
        let mut root = self.shared.start_root(created_at, future);
        self.ring();
        loop {
            if let Some(result) = root.take() {
                return Ok(result);
            }
            step(root.waits_for())?;
        }
    }

    /// Starts a task from outside of the core; drops it if the core has ended.
    pub(crate) fn spawn<F: Future + 'static>(
        &self,
        name: Option<&'static str>,
        created_at: &'static Location<'static>,
        future: F,
    ) -> Option<JoinHandle<F::Output>> {
        if self.has_ended.get() {
            return None;
        }
        let handle = self.shared.spawn(DEFAULT_QUEUE, name, created_at, future);
        self.ring();
        Some(handle)
    }

    /// What was done to it from outside did not go through its inbox.
    fn ring(&self) {
        if !self.is_stepping.get() {
            self.rung.store(true, Ordering::Relaxed);
        }
    }

    /// Drops every task where it stands. The core then goes on with none.
    pub(crate) fn crash(&self) {
        let _inside = Inside::enter(&self.shared);
        self.shared.end();
        self.ring();
    }

    /// Ends it for good, as the end of a [`Core`](crate::rt::Core) does.
    pub(crate) fn end(&self) {
        if self.has_ended.replace(true) {
            return;
        }
        if self.shared.process().is_left() {
            // Its tasks are the parent's.
            std::mem::forget(Rc::clone(&self.shared));
            return;
        }
        let _closes = self.shared.closing();
        self.crash();
    }

    /// Its state.
    pub(in crate::rt) fn state(&self) -> &CoreState {
        &self.shared
    }

    pub(crate) fn stats(&self) -> CoreStats {
        self.shared.stats()
    }

    /// Every task but that of `block_on`.
    pub(crate) fn tasks(&self) -> Vec<TaskInfo> {
        let mut tasks = self.shared.tasks(TaskRange::ALL);
        tasks.retain(|task| !task.is_block_on);
        tasks
    }
}

impl Drop for SteppedCore {
    fn drop(&mut self) {
        self.end();
    }
}

/// It has something to do.
#[derive(Debug)]
pub(crate) struct Busy;

/// While it lives, a step is being taken; also when a waker panics in it.
struct Stepping<'a>(&'a Cell<bool>);

impl<'a> Stepping<'a> {
    fn new(is_stepping: &'a Cell<bool>) -> Self {
        assert!(!is_stepping.replace(true), "a core takes one step at a time");
        Self(is_stepping)
    }
}

impl Drop for Stepping<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
