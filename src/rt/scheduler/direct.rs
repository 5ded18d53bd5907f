//! Switching from coroutine to coroutine without going through the loop.
//!
//! A coroutine that yields need not switch to the loop for the next one to run: it takes the next
//! one from the run queue itself and resumes it from its own stack. That one switches back there
//! when it yields or waits. When the first coroutine's own turn comes, its yield just returns. So
//! two coroutines that yield to each other switch stacks once for each yield and not twice, and
//! never go through the loop.
//!
//! What may happen on a coroutine's stack is limited, because that stack is small, and because the
//! coroutine below must not be ended meanwhile:
//!
//! - Only coroutines run there: tasks whose poll does nothing but to resume one. What one of them
//!   ends with is kept until its next poll, which is the loop's: wakers and destructors run there.
//! - A task that was cancelled is left to the loop, and so is one in a span: a subscriber is
//!   others' code. So are all while one is suspended in a destructor that its panic runs.
//! - A coroutine that takes turns this way stays on the run queue, at its front, while it runs: to
//!   yield is to become the last.
//! - A coroutine that runs there switches back when it yields: there are never more than two stacks
//!   on one another.
//! - It counts: no more polls are made than the loop itself would make before it looks at the
//!   clock.

use std::ptr::NonNull;

use super::state::CoreState;
use crate::rt::record::Beat;
use crate::rt::tasks::{self, Control, Header, Outer, Polled, Suspended, TurnEnd};

impl CoreState {
    /// Resumes the coroutine that is all of a task, and lets it run others from its stack.
    ///
    /// # Safety
    ///
    /// `task` was just taken from a run queue of this core, counts as running, and only
    /// resumes a coroutine. No task is being polled.
    // Not inlined: the loop over async tasks needs its registers.
    #[inline(never)]
    pub(super) unsafe fn run_coroutine(&self, task: NonNull<Header>) -> Polled {
        if std::thread::panicking() {
            // SAFETY: the same is asked of the caller.
            return unsafe { tasks::run(task, self.local.now.get(), &self.tasks.registry, &self.beat) };
        }
        // SAFETY: alive by the core's own reference, as it has not ended.
        let header = unsafe { task.as_ref() };
        tasks::begin_resume(header, false, self.local.now.get(), &self.beat, self.beat.polls());
        let outer = Outer::new();
        let lends = Lends::new(header);
        // SAFETY: it is the running task, its poll has begun, and it does not run yet, as no task
        // does. `outer` is dropped next.
        let left = unsafe { tasks::resume(header) };
        drop(lends);
        drop(outer);
        self.end_turn(task);
        match left {
            TurnEnd::Suspended(Suspended::Waits) => Polled::Pending,
            TurnEnd::Suspended(Suspended::Yields) => {
                if let Some(ready) = tasks::mark_queued(task) {
                    self.local.enqueue(ready);
                }
                Polled::Pending
            }
            // Its future gives the result. SAFETY: the task, whose future is polled nowhere, has
            // not ended, and counts as running.
            TurnEnd::Ended => unsafe { tasks::poll(task, &self.tasks.registry) },
        }
    }

    /// The coroutine on whose stack the caller is yields. `None` if its turn has come again;
    /// otherwise it must switch to the loop, which is told this.
    ///
    /// # Safety
    ///
    /// It is the one that the loop of its core [resumed](Self::run_coroutine), and the thread is
    /// inside that core and does not panic.
    // A yield between two coroutines is mostly this: a call would be a tenth of it.
    #[inline(always)]
    pub(in crate::rt) unsafe fn run_others(control: &Control) -> Option<Suspended> {
        // SAFETY: the loop that resumed it made it a lender.
        let (core, ready, own) = unsafe { control.home() };
        // SAFETY: it is alive while its loop resumes a lender, and stays where it is. A coroutine
        // notes its core as a pointer to the whole, of which `Local` is the first field.
        let core = unsafe { &*core.cast::<Self>() };
        // SAFETY: the running task is alive.
        let own_header = unsafe { own.as_ref() };
        if !control.has_room() || !(own_header.state().may_keep_turn() || core.join_in(own)) {
            return Some(Suspended::Yields);
        }
        let outer = Outer::of(control);
        // SAFETY: it has its turn on its queue, as was found just now or came about.
        let mut next = unsafe { ready.pass_on(own) };
        loop {
            // SAFETY: it is on a run queue, so its core's own reference keeps it alive.
            let header = unsafe { next.as_ref() };
            let beat: &Beat = &core.beat;
            let number = beat.polls();
            // What the loop would do before it looks at the clock.
            if number >= core.turn.until.get() || !header.state().only_resumes() {
                break;
            }
            tasks::begin_resume(header, true, core.local.now.get(), beat, number);
            if next == own {
                return None;
            }
            // SAFETY: it is the running task now, its poll has begun, and this is the thread of its
            // core, which is inside of it by the caller's word. It does not run: of this core's
            // coroutines only `own` does, which this is not, and others that run below `own` are of
            // other cores. It is neither cancelled nor ended, and nothing ends here, so its future
            // stays until `outer` is dropped.
            let left = unsafe { tasks::resume(header) };
            if left == TurnEnd::Suspended(Suspended::Yields) && header.state().may_keep_turn() {
                // SAFETY: it has its turn, and its queue is that of `own`, as it was taken from
                // there.
                next = unsafe { ready.pass_on(next) };
                continue;
            }
            core.leave(next, left);
            match ready.first() {
                // One that is suspended in a panic had no turn any more, so it was left just now.
                // The next one to run notes the panic.
                Some(first) if !std::thread::panicking() => next = first,
                _ => break,
            }
        }
        drop(outer);
        // It is on its queue.
        Some(Suspended::Waits)
    }

    /// Puts the running task at the front of its queue, from where it takes its turns; false if it
    /// is no coroutine that may go on, or is queued already.
    #[cold]
    fn join_in(&self, task: NonNull<Header>) -> bool {
        // SAFETY: the running task is alive.
        let header = unsafe { task.as_ref() };
        let joins = header.state().take_turn();
        if joins {
            self.local.queues.push_front(header.queue(), task, &self.local.now);
        }
        joins
    }

    /// Takes a coroutine that was suspended or has ended from the front of its queue, if it is
    /// there still.
    #[inline]
    fn end_turn(&self, task: NonNull<Header>) {
        // SAFETY: alive by its core's own reference: nothing took its result yet.
        let header = unsafe { task.as_ref() };
        if header.state().end_turn() {
            let first = self.local.queues.leave(header.queue());
            debug_assert_eq!(first, Some(task), "who has its turn is the first");
        }
    }

    /// A turn is over of a coroutine that ran on another's stack and does not just go on: it waits,
    /// is queued already, is cancelled or has ended. One that has ended gives its result in its
    /// next poll, which is the loop's.
    #[cold]
    fn leave(&self, task: NonNull<Header>, left: TurnEnd) {
        self.end_turn(task);
        if left != TurnEnd::Suspended(Suspended::Waits)
            && let Some(task) = tasks::mark_queued(task)
        {
            self.local.enqueue(task);
        }
    }

    /// Says whether the running task's polls do nothing but to resume a coroutine.
    pub(in crate::rt) fn set_running_coroutine(&self, coroutine: Option<&Control>) {
        self.local.with_running(|task| {
            if let Some(task) = task {
                task.set_polled_coroutine(coroutine);
            }
        });
    }
}

/// While it lives, the coroutine of a task is the one that lets others run on its stack.
struct Lends<'a>(Option<&'a Control>);

impl<'a> Lends<'a> {
    fn new(task: &'a Header) -> Self {
        let control = task.polled_coroutine();
        if let Some(control) = control {
            control.set_lender(true);
        }
        Self(control)
    }
}

impl Drop for Lends<'_> {
    fn drop(&mut self) {
        if let Some(control) = self.0 {
            control.set_lender(false);
        }
    }
}
