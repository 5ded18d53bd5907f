//! The loop of a core, turn by turn.
//!
//! # The budget of a turn
//!
//! A turn runs up to [`POLLS_PER_TURN`] polls or for [`TASK_TIME_PER_TURN`], whichever comes first;
//! a running poll may overrun. Tasks that become ready meanwhile count: with few tasks that yield,
//! many polls share one pass over the devices. Timers, pollers and other threads wait no longer
//! than that time and one poll. Reading the clock costs as much as several polls of a small task,
//! so the loop reads it after the 1st, 8th and 64th poll and at the end, and sooner if the polls
//! before were slow.
//!
//! Operations go to the kernel once per round. A round ends when every task that was ready at its
//! beginning has had its turn, or after [`TIME_PER_SUBMISSION`]: with many ready tasks one system
//! call takes the operations of all of them. The same call does what an io_uring has deferred, so a
//! completion may wait that long, plus one turn and one poll.
//!
//! A core that has nothing else to do, and does not spin, is about to sleep in the kernel. Then the
//! operations go there with the call in which it sleeps ([`park`](super::park)): one system call
//! instead of two.

use std::ptr::NonNull;
use std::time::Duration;

use super::state::CoreState;
use crate::error::Result;
use crate::rt::record::{self, Phase, Site};
use crate::rt::tasks::{self, Header, Polled};
use crate::time::Instant;
use crate::user_code::{contain, wake};

/// Polls of tasks per turn before the pollers get theirs.
const POLLS_PER_TURN: u64 = 512;
/// A turn's tasks stop after this long even if the budget is not used up, so that what comes to the
/// core waits no longer.
pub(super) const TASK_TIME_PER_TURN: Duration = Duration::from_micros(10);
/// The longest round: operations go to the kernel after this time even if some tasks have not had
/// their turn.
pub(super) const TIME_PER_SUBMISSION: Duration = Duration::from_micros(100);
/// From one reading of the clock to the next, the number of polls in a turn grows by this factor at
/// most.
const CLOCK_GROWTH: u64 = 8;
/// The most turns in a row that skip devices, timers and the inbox.
const MOST_SKIPPED: u32 = 32;

impl CoreState {
    /// Reads the clock.
    pub(in crate::rt) fn read_clock(&self) -> Instant {
        let now = self.clock.now();
        self.local.now.set(now);
        now
    }

    /// The time as last read.
    pub(in crate::rt) fn last_reading(&self) -> Instant {
        self.local.now.get()
    }

    /// One turn of the loop; returns whether anything was done. It ends at once if `is_done` when a
    /// task has ended. What comes after the tasks is then skipped, but not for long: the next turn
    /// begins with it.
    ///
    /// If the core `sleeps_when_idle`, it is to sleep after a turn that did nothing; operations may
    /// stay queued until then.
    pub(in crate::rt) fn turn(&self, sleeps_when_idle: bool, is_done: impl Fn() -> bool) -> Result<bool> {
        self.process().check("turn of a core")?;
        self.beat.turn();
        let mut started = self.read_clock();
        let skipped = self.turn.skipped.get();
        if skipped > 0
            && (skipped >= MOST_SKIPPED || started - self.turn.looked_around_at.get() >= TASK_TIME_PER_TURN)
        {
            self.look_around(false)?;
            started = self.read_clock();
        }
        let (round_ends, since) = self.turn.submission.get();
        self.turn.submission.set((round_ends, since.or(Some(started))));
        let ran = self.run_tasks(started, &is_done);
        if is_done() {
            self.turn.skipped.set(self.turn.skipped.get() + 1);
            self.account(true);
            self.beat.enter(Phase::Outside);
            return Ok(true);
        }
        let worked = self.look_around(sleeps_when_idle)? || ran > 0;
        self.account(worked);
        Ok(worked)
    }

    /// Counts the time since the turn before, up to the last reading of the clock.
    fn account(&self, worked: bool) {
        let now = self.local.now.get();
        let took = now - self.record.accounted.replace(now);
        if worked {
            record::add_time(&self.record.counters.busy, took);
            self.record.counters.latencies.borrow_mut().turn.record(record::nanos(took));
        } else {
            record::add_time(&self.record.counters.spinning, took);
        }
    }

    /// Runs ready tasks for a budget; returns how many polls that were.
    fn run_tasks(&self, started: Instant, is_done: &impl Fn() -> bool) -> u64 {
        let Some(mut queue) = self.local.queues.choose(started) else { return 0 };
        self.beat.enter(Phase::Tasks);
        self.follow(started);
        let compete = self.local.queues.compete();
        let until = started + TASK_TIME_PER_TURN.min(self.local.queues.slice());
        let (mut slice_started, mut last_reading) = (started, started);
        let (mut ran, mut ran_at_reading, mut read_at) = (0, 0, 1);
        let mut polls = self.beat.polls();
        self.turn.until.set(polls + read_at);
        loop {
            let Some(task) = self.local.queues.pop(queue) else {
                // With one queue, the turn has nothing left to run.
                if !compete {
                    break;
                }
                let now = self.read_clock();
                self.local.queues.charge(queue, now - slice_started, now);
                slice_started = now;
                match self.local.queues.choose(now) {
                    Some(next) if now < until && ran < POLLS_PER_TURN => queue = next,
                    _ => break,
                }
                continue;
            };
            let ended = self.run_task(task, queue);
            // A cancelled task takes its turn without a poll; in that of a coroutine others are
            // polled.
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
            self.turn.until.set(polls + read_at - ran);
        }
        self.turn.until.set(0);
        if ran > ran_at_reading {
            let now = self.read_clock();
            self.measured(now - last_reading, ran - ran_at_reading, false);
        }
        self.follow_up();
        if compete && self.local.now.get() > slice_started {
            self.local.queues.charge(queue, self.local.now.get() - slice_started, self.local.now.get());
        }
        ran
    }

    /// Polls one task; whether it ended.
    // A fifth of an async task's yield, if it is a call.
    #[inline(always)]
    pub(super) fn run_task(&self, task: NonNull<Header>, queue: u8) -> bool {
        self.local.polling.set(Some(task));
        // SAFETY: the task was just popped from a run queue of this core, so its core's own
        // reference keeps it alive.
        let polled = if unsafe { task.as_ref() }.state().only_resumes() {
            // SAFETY: as below.
            unsafe { self.run_coroutine(task) }
        } else {
            // SAFETY: the task was just popped from a run queue of this core, whose registry this
            // is; the loop polls one task at a time, and it cannot be entered from inside a task
            // (`Core::block_on` refuses).
            unsafe { tasks::run(task, self.local.now.get(), &self.tasks.registry, &self.beat) }
        };
        self.local.polling.set(None);
        if polled == Polled::Pending {
            return false;
        }
        self.ended(polled, queue);
        true
    }

    #[inline(never)]
    pub(super) fn ended(&self, polled: Polled, queue: u8) {
        if polled != Polled::Gone {
            record::add(&self.record.counters.ended, 1);
            record::add(&self.record.counters.panicked, usize::from(polled == Polled::Panicked));
            self.local.queues.release(queue);
        }
        self.tell_drained();
    }

    /// Wakes the task that waits for the last task and the last message, if those are gone.
    pub(super) fn tell_drained(&self) {
        if self.tasks.registry.len() == 0
            && let Some(drained) = self.tasks.drained.take()
        {
            // It looks for messages itself.
            wake(drained);
        }
    }

    /// Notes that `polls` polls took so long.
    fn measured(&self, took: Duration, polls: u64, is_first: bool) {
        if is_first {
            self.record.counters.latencies.borrow_mut().poll.record(record::nanos(took));
        }
        if took >= self.record.stall_after {
            record::add(&self.record.counters.stalls, 1);
            // A subscriber to the log is user code.
            contain(|| self.report_stall(took, polls));
        }
    }

    /// A task took too long. Which one is known if the clock was read before and after it;
    /// otherwise it is among a few.
    #[cold]
    fn report_stall(&self, took: Duration, polls: u64) {
        if !tracing::enabled!(tracing::Level::WARN) {
            // Also a core that the kernel did not run for a while comes here: its steady state
            // allocates nothing.
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
                took_ms = record::millis(took),
                "a task kept its core from everything else"
            );
        } else {
            let names: Vec<&str> = suspects.iter().map(|site| site.name).collect();
            tracing::warn!(
                tasks = ?names,
                polls,
                took_ms = record::millis(took),
                "one of these tasks kept its core from everything else"
            );
        }
    }

    /// Follows the last task on the queue, unless one is followed already, to know how long woken
    /// tasks wait.
    // Once per turn: inlined, it would cost the loop over tasks its registers.
    #[inline(never)]
    fn follow(&self, now: Instant) {
        if self.record.followed.get().0 == u64::MAX {
            self.record.followed.set((self.beat.polls() + self.local.queues.len() as u64, now));
        }
    }

    /// After the tasks of a turn: the one that is followed may have been among them.
    #[inline(never)]
    fn follow_up(&self) {
        let (target, since) = self.record.followed.get();
        // A cancelled task takes its turn without a poll: with nothing queued, it has had it.
        if self.beat.polls() >= target || target != u64::MAX && self.local.queues.is_empty() {
            self.record
                .counters
                .latencies
                .borrow_mut()
                .queue_wait
                .record(record::nanos(self.local.now.get() - since));
            self.record.followed.set((u64::MAX, since));
        }
    }
}

/// The number of polls in this turn at which the clock is read next: `ran` took `elapsed`, and
/// `left` is left.
#[inline]
fn next_reading(ran: u64, elapsed: Duration, left: Duration) -> u64 {
    let (elapsed, left) = (record::nanos(elapsed), record::nanos(left));
    let most = ran * (CLOCK_GROWTH - 1);
    // Most of the time small polls: `most` of them fit, and no division is needed.
    let fits = if elapsed.saturating_mul(CLOCK_GROWTH - 1) <= left {
        most
    } else {
        (left.saturating_mul(ran) / elapsed.max(1)).clamp(1, most)
    };
    (ran + fits).min(POLLS_PER_TURN)
}
