//! From coroutine to coroutine without a way through the loop.
//!
//! A coroutine that yields need not switch to the loop for the next one to run: it takes the next one from the run queue itself
//! and polls it from its own stack. That one switches back there when it yields or waits. When the first coroutine's own turn
//! comes, it just returns. So of two coroutines that yield to each other, one switch of stacks is made for each yield and not two, and
//! the loop is not gone through.
//!
//! What may happen on a coroutine's stack is limited, because that stack is small, and because the coroutine below must not be ended
//! meanwhile:
//!
//! - Only coroutines are polled there, whose poll does nothing but to switch to their stack. One that ends there says so
//!   in its next poll, which is the loop's: wakers and destructors run there.
//! - A task that was cancelled is left to the loop, and so is one in a span: a subscriber is others' code.
//! - A coroutine that is polled there switches back when it yields: there are never more than two stacks on one another.
//! - It counts: no more polls are made than the loop itself would make before it looks at the clock.

use std::ptr::NonNull;

use super::{Header, Shared};
use crate::rt::task;

impl Shared {
    /// The running task, which is a coroutine and on whose stack this is, yields: it goes to the end of its run queue. True if its
    /// turn has come again; false if it must switch to the loop. `has_room` says whether others may run on its stack.
    #[inline]
    pub(in crate::rt) fn yield_running(&self, has_room: bool) -> bool {
        let own = self.running.get().expect("a coroutine runs in a task's poll");
        if let Some(ready) = task::mark_queued(own) {
            self.enqueue(ready);
        }
        // Zero also where a coroutine is polled from another one's stack.
        let allowance = self.allowance.replace(0);
        // SAFETY: the running task is alive.
        let may_run = has_room && task::is_coroutine(unsafe { own.as_ref() });
        if allowance == 0 || !may_run {
            self.allowance.set(allowance);
            return false;
        }
        self.run_coroutines(own, allowance)
    }

    #[inline(never)]
    fn run_coroutines(&self, own: NonNull<Header>, mut allowance: usize) -> bool {
        // SAFETY: the running task is alive.
        let queue = unsafe { own.as_ref() }.queue();
        let mut is_own_turn = false;
        while allowance > 0 && !is_own_turn {
            let Some(next) = self.queues.pop_if(queue, task::is_coroutine) else { break };
            allowance -= 1;
            is_own_turn = next == own;
            if is_own_turn {
                // SAFETY: it runs, so it is alive, and it was just popped.
                task::begin(unsafe { next.as_ref() }, self.now.get(), &self.beat);
            } else {
                self.running.set(Some(next));
                // SAFETY: the task was just popped from a run queue of this core, whose registry this is. Another task is being
                // polled, but not this one: that one is `own`. It is a coroutine and not cancelled, so its poll ends no task.
                unsafe { task::run(next, self.now.get(), &self.registry, &self.beat) };
            }
        }
        self.running.set(Some(own));
        self.allowance.set(allowance);
        is_own_turn
    }

    /// Says whether the running task's polls do nothing but to switch to a coroutine's stack.
    pub(in crate::rt) fn set_running_is_coroutine(&self, is_coroutine: bool) {
        self.with_running(|task| {
            if let Some(task) = task {
                task.set_coroutine(is_coroutine);
            }
        });
    }
}
