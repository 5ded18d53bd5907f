//! How a core ends: its tasks and timers, its I/O in flight, and whatever their destructors start
//! meanwhile.

use tracing::warn;

use super::state::CoreState;
use crate::reactor::patience::Patience;
use crate::rt::tasks::{self, Polled};
use crate::time::Instant;
use crate::user_code::{contain, drop_contained};

/// Tasks and timers that destructors may start while a core ends: this many, and this many more for
/// each task and timer that it had.
const STARTED_AT_THE_END: usize = 1000;
const STARTED_AT_THE_END_EACH: usize = 9;

impl CoreState {
    /// By when the I/O in flight must have ended after the tasks did.
    pub(in crate::rt) fn set_io_deadline(&self, deadline: Instant) {
        self.io.deadline.set(Some(deadline));
    }

    /// Ends every task and all I/O.
    pub(in crate::rt) fn end(&self) {
        let mut most = self.most_at_the_end();
        // Each step whatever panics in the one before: a core that ended in part would leave tasks
        // that point to what is freed.
        self.messages.take().into_iter().for_each(drop_contained);
        drop_contained(self.tasks.drained.take());
        self.end_tasks(&mut most);
        // The clock is user code. If it does not tell the time, the I/O is not waited for.
        if !contain(|| {
            self.io.attachment.reactor.shut_down(Patience::new(&*self.clock, self.io.deadline.get()))
        }) {
            std::mem::forget(self.io.attachment.reactor.clone());
        }
        // Before the pollers, some of which move what a value stands for.
        self.core_locals().take_all().into_iter().for_each(drop_contained);
        // A destructor of an orphan, a value or a poller may have spawned.
        contain(|| self.io.pollers.clear());
        self.end_tasks(&mut most);
    }

    /// Closes the core when the value is dropped.
    pub(in crate::rt) fn closing(&self) -> Closes<'_> {
        Closes(self)
    }

    /// Nobody may send anything to this core any more, and the tasks that wakers keep are theirs.
    fn close(&self) {
        contain(|| self.io.attachment.pool.close());
        self.local.inbox.close();
    }

    /// What destructors may start while the core ends.
    fn most_at_the_end(&self) -> Option<usize> {
        let there = self.tasks.registry.len() + self.timers.wheel.borrow().len();
        Some(STARTED_AT_THE_END + (1 + STARTED_AT_THE_END_EACH) * there)
    }

    /// Ends every task and timer, also those that destructors start meanwhile: `most` of all
    /// together. If there seems to be no end of them the last are leaked, and `most` is `None`.
    fn end_tasks(&self, most: &mut Option<usize>) {
        loop {
            let Some(left) = *most else { return };
            let tasks = self.tasks.registry.len();
            if tasks > 0 {
                *most = left.checked_sub(tasks);
                if most.is_none() {
                    // A subscriber to the log is user code too.
                    contain(|| warn!("destructors spawn tasks without end: {tasks} are leaked"));
                    return;
                }
                // Apart from those that are spawned meanwhile, or it would never come to the older
                // ones.
                let ending = self.tasks.registry.take_all();
                while let Some(task) = ending.newest() {
                    task.cancel(&ending);
                    self.ended(Polled::Ended, task.header().queue());
                }
                continue;
            }
            self.drop_ready();
            let timers = self.timers.wheel.borrow_mut().clear();
            if timers.is_empty() {
                return;
            }
            *most = left.checked_sub(timers.len());
            if most.is_none() {
                let timers = std::mem::ManuallyDrop::new(timers);
                contain(|| warn!("destructors start timers without end: {} are leaked", timers.len()));
                return;
            }
            timers.into_iter().for_each(drop_contained);
        }
    }

    /// Gives up what is on the run queues: tasks that have ended.
    fn drop_ready(&self) {
        while let Some(queue) = self.local.queues.choose(self.local.now.get()) {
            while let Some(task) = self.local.queues.pop(queue) {
                // SAFETY: as in `run_task`; it has ended, so it is not polled.
                unsafe { tasks::run(task, self.local.now.get(), &self.tasks.registry, &self.beat) };
            }
        }
    }
}

/// A core that ends. It is closed with this, whatever panics before.
#[must_use = "the core is closed when this is dropped"]
pub(in crate::rt) struct Closes<'a>(&'a CoreState);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
