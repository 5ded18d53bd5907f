//! Turns of a task, and its end.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::Context;

use super::control::TurnEnd;
use super::header::{Header, Polled};
use super::inbox::{Changes, InboxNode};
use super::list::Registry;
use super::reference::TaskRef;
#[cfg(doc)]
use super::state::TurnState;
use super::waker::borrowed_waker;
use crate::rt::record::Beat;
use crate::time::Instant;
use crate::user_code::{drop_contained, wake};

/// A turn begins of a task that [only resumes](TurnState::only_resumes) a coroutine: the task was
/// taken from its run queue or, if `in_turn`, stays the first on it. `number` polls began before.
#[inline]
pub(in crate::rt) fn begin_resume(header: &Header, in_turn: bool, now: Instant, beat: &Beat, number: u64) {
    header.state().begin_resume(in_turn);
    beat.poll_after(number, header.site);
    header.polls.set(header.polls.get().wrapping_add(1));
    header.since.set(now);
}

/// A poll of a task begins that was taken from a run queue.
#[inline]
pub(in crate::rt) fn begin(header: &Header, now: Instant, beat: &Beat) {
    header.state().begin();
    beat.poll(header.site);
    header.polls.set(header.polls.get().wrapping_add(1));
    header.since.set(now);
    header.waits_for.set(None);
}

/// Resumes the coroutine of a task whose poll [does nothing else](TurnState::only_resumes).
///
/// # Safety
///
/// `header` is that of the core's running task, whose poll [began](begin), on the thread of the
/// core, which is inside of it; the coroutine does not run yet, and an [`Outer`](super::Outer)
/// exists that is dropped before the task's future is. It [only resumed](TurnState::only_resumes)
/// when its poll began.
#[inline]
pub(in crate::rt) unsafe fn resume(header: &Header) -> TurnEnd {
    // SAFETY: it only resumed when its poll began, by the caller's word. That state is entered only
    // where the pointer is set, and the pointer is cleared only together with it.
    let control = unsafe { header.polled_coroutine().unwrap_unchecked() };
    // SAFETY: it was suspended before it was noted in the header, and when it ends the note is
    // removed, here. The rest is the caller's word.
    let left = unsafe { control.resume() };
    if left == TurnEnd::Ended {
        header.set_polled_coroutine(None);
    }
    left
}

/// Polls a task that was taken from a run queue once, or drops its future if it was cancelled.
///
/// # Safety
///
/// `task` was just popped from a [`ReadyList`] of the core whose thread this is, which counts it as
/// running and whose registry `registry` is. No task is being polled.
#[inline]
pub(in crate::rt) unsafe fn run(
    task: NonNull<Header>,
    now: Instant,
    registry: &Registry,
    beat: &Beat,
) -> Polled {
    // SAFETY: marked as queued, so the core's own reference keeps it alive.
    let header = unsafe { task.as_ref() };
    if header.state().is_over() {
        header.state().begin();
        // SAFETY: the core's own reference to a task that was queued is there still, and is taken
        // over here.
        let task = ManuallyDrop::new(TaskRef(task));
        if task.has_ended() {
            drop(ManuallyDrop::into_inner(task));
            return Polled::Gone;
        }
        task.cancel(registry);
        return Polled::Ended;
    }
    begin(header, now, beat);
    // SAFETY: it has not ended, and the rest is the caller's word.
    unsafe { poll(task, registry) }
}

/// Polls a task whose poll [began](begin).
///
/// # Safety
///
/// The task has not ended, and the core, whose thread this is and whose registry `registry` is,
/// counts it as running. No task is being polled.
#[inline]
pub(in crate::rt) unsafe fn poll(task: NonNull<Header>, registry: &Registry) -> Polled {
    // SAFETY: a task that has not ended is in its core's registry, or the root.
    let header = unsafe { task.as_ref() };
    // SAFETY: the core's own reference to a task that has not ended outlives its poll.
    let waker = unsafe { borrowed_waker(task) };
    // SAFETY: the task is live, on its own core, not ended (so the stage holds the future), and not
    // being polled by the caller's word.
    let polled = unsafe { (header.vtable.poll)(task, &mut Context::from_waker(&waker)) };
    if polled != Polled::Pending {
        // SAFETY: the task is live, on its own core, and its future is gone.
        unsafe { end(task, registry) };
    }
    polled
}

/// The end of a task whose future is gone: tells the joiner, and gives up the core's own reference.
///
/// # Safety
///
/// The task is alive, on its own core whose registry this is, and did not end before.
unsafe fn end(task: NonNull<Header>, registry: &Registry) {
    // SAFETY: alive by the caller's word.
    let header = unsafe { task.as_ref() };
    header.state().end();
    if !header.is_root {
        // SAFETY: every other task is in its core's registry from its spawn to its end.
        unsafe { registry.remove(task) };
    }
    // SAFETY: `joiner` is touched only on the task's core, here and in `JoinHandle::poll`, neither
    // of which calls into user code while it holds the borrow: `take` moves the waker out first.
    let joiner = unsafe { &mut *header.joiner.get() }.take();
    if let Some(joiner) = joiner {
        wake(joiner);
    }
    if let Some(locals) = header.locals.take() {
        drop_contained(locals);
    }
    if header.is_detached.get() {
        // SAFETY: the task is live, on its own core and has ended, and its join handle is gone.
        unsafe { (header.vtable.discard)(task) };
    }
    if !header.state().is_queued() {
        // The core's own reference. That of a queued one goes when it is popped.
        drop(TaskRef(task));
    }
}

/// Applies what other threads did to a task and hands the core a reference to it if it was woken.
/// Called by the core for each task on its inbox's list.
pub(in crate::rt) fn apply_changes(node: NonNull<InboxNode>, changes: &Changes) -> Option<TaskRef> {
    let task = node.cast::<Header>();
    // SAFETY: every node on a list is the first field of a task's `repr(C)` header, and the task is
    // not freed before this call has applied its changes: freeing needs the count that is settled
    // here.
    let references = unsafe { &task.as_ref().references };
    // One more for the reference made here, which frees the task on drop if it was the last.
    references.set(references.get() + changes.references + 1);
    let task = TaskRef(task);
    if changes.cancelled {
        task.header().state().cancel_from_elsewhere();
    }
    changes.woken.then_some(task)
}

/// The owner's part after the core is gone: only counting and freeing. The future and its result
/// are gone already.
pub(in crate::rt) fn bury(node: NonNull<InboxNode>, changes: Changes) {
    let task = node.cast::<Header>();
    // SAFETY: as in `apply_changes`.
    let header = unsafe { task.as_ref() };
    let left = header.references.get() + changes.references;
    header.references.set(left);
    if header.node.is_unreferenced(left) {
        let inbox = header.inbox;
        // SAFETY: no reference is left, here or elsewhere, and no other thread is about to list the
        // node.
        unsafe { (header.vtable.free)(task) };
        // SAFETY: when it closed, the inbox took a count for each task that was left, this one
        // among them; the caller holds another count while it works on the inbox.
        unsafe { Arc::decrement_strong_count(inbox) };
    }
}

impl TaskRef {
    /// Drops the future if the task has not ended. It is not being polled: a core's loop or its end
    /// calls this.
    pub(in crate::rt) fn cancel(&self, registry: &Registry) {
        if !self.has_ended() {
            // SAFETY: the task is alive, on its own core and not ended; the caller (the core,
            // between polls) is not inside its poll.
            unsafe { (self.header().vtable.cancel)(self.0) };
            // SAFETY: as above, and its future is gone.
            unsafe { end(self.0, registry) };
        }
    }
}
