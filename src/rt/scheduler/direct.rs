//! From coroutine to coroutine without a way through the loop.
//!
//! A coroutine that yields need not switch to the loop for the next one to run: it takes the next one from the run queue itself
//! and resumes it from its own stack. That one switches back there when it yields or waits. When the first coroutine's own turn
//! comes, it just returns. So of two coroutines that yield to each other, one switch of stacks is made for each yield and not two, and
//! the loop is not gone through.
//!
//! What may happen on a coroutine's stack is limited, because that stack is small, and because the coroutine below must not be ended
//! meanwhile:
//!
//! - Only coroutines run there: tasks whose poll does nothing but to resume one. What one of them ends with is kept until its
//!   next poll, which is the loop's: wakers and destructors run there.
//! - A task that was cancelled is left to the loop, and so is one in a span: a subscriber is others' code.
//! - A coroutine that runs there switches back when it yields: there are never more than two stacks on one another.
//! - It counts: no more polls are made than the loop itself would make before it looks at the clock.

use std::ptr::NonNull;

use super::{Header, Shared};
use crate::rt::coroutine::{Control, Left, Outer, Suspended};
use crate::rt::task;

/// While it lives, others run on a coroutine's stack, and none of them lets others run on its own.
struct Below<'a> {
    core: &'a Shared,
    own: NonNull<Header>,
    /// Polls that may still be made.
    left: usize,
    _outer: Outer,
}

impl Drop for Below<'_> {
    #[inline]
    fn drop(&mut self) {
        self.core.running.set(Some(self.own));
        self.core.allowance.set(self.left);
    }
}

impl Shared {
    /// The running task, which is this coroutine on whose stack the caller is, yields. `None` if its turn has come again; otherwise it
    /// must switch to the loop, which is told this.
    #[inline]
    pub(in crate::rt) fn yield_running(&self, control: &Control) -> Option<Suspended> {
        // Zero also where a coroutine runs on another one's stack.
        let allowance = self.allowance.get();
        if allowance == 0 { Some(Suspended::Yields) } else { self.run_coroutines(control, allowance) }
    }

    #[inline(never)]
    fn run_coroutines(&self, control: &Control, allowance: usize) -> Option<Suspended> {
        let own = self.running.get()?;
        // SAFETY: the running task is alive.
        let own_header = unsafe { own.as_ref() };
        if !control.has_room() || !task::mark_queued_coroutine(own_header) {
            return Some(Suspended::Yields);
        }
        let queue = own_header.queue();
        let ready = self.queues.list(queue);
        let mut below = Below { core: self, own, left: allowance, _outer: Outer::new() };
        self.allowance.set(0);
        let mut yielded = Some(own);
        while below.left > 0 {
            let next = match yielded {
                Some(task) => ready.exchange_if(task, task::is_coroutine),
                None => self.queues.pop_if(queue, task::is_coroutine),
            };
            let Some(next) = next else { break };
            below.left -= 1;
            // SAFETY: it was just taken from a run queue, so its core's own reference keeps it alive.
            let header = unsafe { next.as_ref() };
            task::begin(header, self.now.get(), &self.beat);
            if next == own {
                return None;
            }
            self.running.set(Some(next));
            // SAFETY: it is the running task now, its poll has begun, and this is the thread of its core, which `own` found itself
            // inside of. It does not run: of this core's coroutines only `own` does, which this is not, and others that
            // run below `own` are of other cores. It is neither cancelled nor ended, and nothing ends here, so its future stays
            // until `below` is dropped.
            yielded = match unsafe { task::resume(header) } {
                Left::Suspended(Suspended::Waits) => None,
                // One that ended gives its result in its next poll, which is the loop's.
                Left::Suspended(Suspended::Yields) | Left::Ended => task::mark_queued(next),
            };
        }
        if let Some(task) = yielded {
            self.enqueue(task);
        }
        // It is on its queue.
        Some(Suspended::Waits)
    }

    /// Says whether the running task's polls do nothing but to resume a coroutine.
    pub(in crate::rt) fn set_running_coroutine(&self, coroutine: Option<&Control>) {
        self.with_running(|task| {
            if let Some(task) = task {
                task.set_coroutine(coroutine);
            }
        });
    }
}
