//! What comes to a core between its tasks' turns: completions, timers, and the wakes and messages
//! of other threads.

use super::state::CoreState;
use super::turn::{TASK_TIME_PER_TURN, TIME_PER_SUBMISSION};
use crate::error::Result;
use crate::rt::record::{self, Phase};
use crate::rt::tasks::apply_changes;
use crate::user_code::{contain, wake_all};

/// Messages run in a round, which ends when every task that was ready at its beginning has had its
/// turn.
const MESSAGES_PER_ROUND: u64 = 256;
/// Messages run from one reading of the clock to the next.
const MESSAGES_PER_READING: usize = 16;
/// Tasks per turn whose wakes and releases by other threads are applied.
const WAKES_PER_TURN: usize = 256;
/// Timers fired per turn.
const TIMERS_PER_TURN: usize = 256;

impl CoreState {
    /// Gives devices, timers and the inbox their turn; returns whether there was anything to do, or
    /// still is. If there is not and the core `sleeps_when_idle`, what tasks asked of the kernel
    /// stays queued: the sleep hands it over.
    pub(super) fn look_around(&self, sleeps_when_idle: bool) -> Result<bool> {
        self.turn.skipped.set(0);
        self.turn.looked_around_at.set(self.local.now.get());
        self.beat.enter(Phase::Devices);
        let reactor = &self.io.attachment.reactor;
        let submits = self.is_to_submit();
        let may_wait = submits && sleeps_when_idle && self.local.queues.is_empty() && reactor.needs_kernel();
        let mut completions = if submits && !may_wait {
            reactor.poll(self.local.now.get())?
        } else {
            reactor.poll_completions(self.local.now.get())?
        };
        let events = self.io.pollers.poll(self.local.now.get());
        let timers = self.fire_timers();
        let woken = self.drain_inbox();
        let messages = self.run_messages();
        let other = events + timers + woken + messages > 0;
        // Timers that are due, and tasks that were woken, may have been moved towards their turn
        // without any being told yet.
        let goes_on = self.local.inbox.has_taken() || self.timers.wheel.borrow().is_due(self.local.now.get());
        if may_wait && (other || goes_on || completions > 0) {
            completions += reactor.poll(self.local.now.get())?;
        }
        if submits {
            self.turn.submission.set((self.beat.polls() + self.local.queues.len() as u64, None));
        }
        let worked = other || completions > 0;
        if worked {
            record::add(&self.record.counters.completions, completions);
            record::add(&self.record.counters.poller_events, events);
            record::add(&self.record.counters.timers_fired, timers);
            record::add(&self.record.counters.remote_wakes, woken);
            record::add(&self.record.counters.messages, messages);
        }
        Ok(worked || goes_on)
    }

    /// Whether it is time to hand the kernel what tasks asked for. With several queues it always
    /// is: the I/O of one does not wait for the tasks of the others.
    fn is_to_submit(&self) -> bool {
        let (round_ends, since) = self.turn.submission.get();
        self.beat.polls() >= round_ends
            || since.is_some_and(|since| self.local.now.get() - since >= TIME_PER_SUBMISSION)
            || self.local.queues.is_empty()
            || self.local.queues.compete()
    }

    /// Takes what other threads did to tasks; returns to how many.
    pub(super) fn drain_inbox(&self) -> usize {
        self.local.inbox.drain(WAKES_PER_TURN, |node, changes| {
            if let Some(task) = apply_changes(node, &changes)
                && let Some(ready) = task.mark_queued()
            {
                self.local.enqueue(ready);
            }
        })
    }

    /// Runs messages. They make tasks, each of which makes the round longer for all the others. So
    /// a round has room for a fixed number, however many turns it takes.
    pub(super) fn run_messages(&self) -> usize {
        if self.messages.borrow().is_empty()
            && !self.local.inbox.take_messages(&mut self.messages.borrow_mut())
        {
            return 0;
        }
        let polls = self.beat.polls();
        let (mut end, mut room) = self.turn.round.get();
        // A cancelled task takes its turn without a poll, so what is left of a round may never
        // come.
        if polls >= end || self.local.queues.is_empty() {
            (end, room) = (polls + self.local.queues.len() as u64, MESSAGES_PER_ROUND);
        }
        let started = self.local.now.get();
        let mut ran = 0;
        while room > 0 {
            let Some(message) = self.messages.borrow_mut().pop_front() else { break };
            // It may end with the destructor of a result that nobody waits for.
            if !contain(message) {
                self.count_panic();
            }
            room -= 1;
            ran += 1;
            if ran % MESSAGES_PER_READING == 0 && self.read_clock() - started >= TASK_TIME_PER_TURN {
                break;
            }
        }
        self.turn.round.set((end, room));
        self.tell_drained();
        ran
    }

    pub(super) fn fire_timers(&self) -> usize {
        let now = self.local.now.get();
        if !self.timers.wheel.borrow().is_due(now) {
            return 0;
        }
        // Wakers may be anybody's and may come back for the timers: not under the borrow.
        let mut fired = self.timers.fired.take();
        let count = self.timers.wheel.borrow_mut().expire(now, TIMERS_PER_TURN, |waker| fired.push(waker));
        wake_all(fired.drain(..));
        // Keeps the allocation.
        self.timers.fired.replace(fired);
        count
    }
}
