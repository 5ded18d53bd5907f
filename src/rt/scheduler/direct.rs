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

use std::ptr::{self, NonNull};

use super::{Header, Polled, Shared};
use crate::rt::coroutine::{Control, Left, Outer, Suspended};
use crate::rt::task::{self, ReadyList};

/// No coroutine, and not null: no thread is on its stack.
pub(super) const NOBODY: *const Control = ptr::dangling();

/// While it lives, others run on the stack of the coroutine that is `own`, and none of them lets others run on its own.
struct Below<'a> {
    core: &'a Shared,
    own: NonNull<Header>,
    _outer: Outer,
}

impl Drop for Below<'_> {
    #[inline]
    fn drop(&mut self) {
        self.core.running.set(Some(self.own));
    }
}

impl Shared {
    /// Resumes the coroutine that is all of a task, and lets it run others from its stack.
    ///
    /// # Safety
    ///
    /// `task` was just taken from a run queue of this core, counts as running, and [is a coroutine](task::is_coroutine). No task is being
    /// polled.
    // Not inlined: the loop over async tasks needs its registers.
    #[inline(never)]
    pub(super) unsafe fn run_coroutine(&self, task: NonNull<Header>) -> Polled {
        // SAFETY: alive by the core's own reference, as it has not ended.
        let header = unsafe { task.as_ref() };
        task::begin(header, self.now.get(), &self.beat);
        self.lender.set(header.coroutine());
        let outer = Outer::new();
        // SAFETY: it is the running task, its poll has begun, and it does not run yet, as no task does. `outer` is dropped next.
        let left = unsafe { task::resume(header) };
        drop(outer);
        self.lender.set(NOBODY);
        match left {
            Left::Suspended(Suspended::Waits) => Polled::Pending,
            Left::Suspended(Suspended::Yields) => {
                if let Some(ready) = task::mark_queued(task) {
                    self.enqueue(ready);
                }
                Polled::Pending
            }
            // Its future gives the result.
            // SAFETY: the task, whose future is polled nowhere, has not ended, and counts as running.
            Left::Ended => unsafe { task::poll(task, &self.registry) },
        }
    }

    /// Whether `control` is of the coroutine that the loop resumed last and that runs now, and not null.
    #[inline]
    pub(in crate::rt) fn is_lender(&self, control: *const Control) -> bool {
        ptr::eq(self.lender.get(), control)
    }

    /// The running task, which is this coroutine on whose stack the caller is, and [the lender](Self::is_lender), yields. `None` if
    /// its turn has come again; otherwise it must switch to the loop, which is told this.
    // A yield between two coroutines is mostly this: a call would be a tenth of it.
    #[inline(always)]
    pub(in crate::rt) fn run_others(&self, control: &Control) -> Option<Suspended> {
        let own = self.running.get()?;
        // SAFETY: the running task is alive.
        let own_header = unsafe { own.as_ref() };
        if !control.has_room() || !task::mark_queued_coroutine(own_header) {
            return Some(Suspended::Yields);
        }
        let ready = self.queues.list(own_header.queue());
        let below = Below { core: self, own, _outer: Outer::new() };
        let mut next = self.next_after(ready, own);
        while let Some(task) = next {
            // SAFETY: it was just taken from a run queue, so its core's own reference keeps it alive.
            let header = unsafe { task.as_ref() };
            task::begin(header, self.now.get(), &self.beat);
            if task == own {
                return None;
            }
            self.running.set(Some(task));
            // SAFETY: it is the running task now, its poll has begun, and this is the thread of its core, which `own` found itself
            // inside of. It does not run: of this core's coroutines only `own` does, which this is not, and others that
            // run below `own` are of other cores. It is neither cancelled nor ended, and nothing ends here, so its future stays
            // until `below` is dropped.
            let left = unsafe { task::resume(header) };
            // One that ended gives its result in its next poll, which is the loop's.
            let yielded =
                if left == Left::Suspended(Suspended::Waits) { None } else { task::mark_queued(task) };
            next = match yielded {
                Some(task) => self.next_after(ready, task),
                None => self.next_like(own_header),
            };
        }
        drop(below);
        // It is on its queue.
        Some(Suspended::Waits)
    }

    /// Puts a task that was just marked as queued at the end of its queue and takes the first one, if the loop would run it before it
    /// looks at the clock, and it is a coroutine.
    #[inline]
    fn next_after(&self, ready: &ReadyList, task: NonNull<Header>) -> Option<NonNull<Header>> {
        if self.beat.polls() < self.until.get()
            && let Some(next) = ready.exchange_if(task, task::is_coroutine)
        {
            return Some(next);
        }
        self.enqueue(task);
        None
    }

    /// The same from the queue of `own`, without a task to put at its end.
    #[cold]
    fn next_like(&self, own: &Header) -> Option<NonNull<Header>> {
        if self.beat.polls() >= self.until.get() {
            return None;
        }
        self.queues.pop_if(own.queue(), task::is_coroutine)
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
