//! The waker of a task, and what cancels it: without atomics on its own core, through the inbox
//! from everywhere else.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::{RawWaker, RawWakerVTable, Waker};

use super::control::{Control, mark_queued};
use super::header::Header;
use super::local::{self, Local};
use super::reference::TaskRef;

static VTABLE: RawWakerVTable = RawWakerVTable::new(waker_clone, waker_wake, waker_wake_by_ref, waker_drop);

/// Runs `f` with the core that owns `header` if the calling thread is inside of it.
#[inline]
fn with_own_core<R>(header: &Header, f: impl FnOnce(Option<&Local>) -> R) -> R {
    local::with(|core| f(core.filter(|core| core.inbox_ptr() == header.inbox)))
}

unsafe fn waker_clone(task: *const ()) -> RawWaker {
    // SAFETY: a waker's data is a `Header` that its reference (or the poll it was made for) keeps
    // alive.
    let header = unsafe { &*task.cast::<Header>() };
    if with_own_core(header, |core| core.is_some()) {
        header.references.set(header.references.get() + 1);
    } else {
        header.node.add_reference();
    }
    RawWaker::new(task, &VTABLE)
}

unsafe fn waker_wake(task: *const ()) {
    // SAFETY: this waker owns a counted reference, which it gives up here.
    unsafe { give_up(task, true) };
}

unsafe fn waker_drop(task: *const ()) {
    // SAFETY: this waker owns a counted reference, which it gives up here.
    unsafe { give_up(task, false) };
}

/// Gives up one counted reference from whatever thread this is, waking the task first if `wake`.
///
/// # Safety
///
/// `task` is the `Header` of a task of which the caller owns a counted reference.
pub(super) unsafe fn give_up(task: *const (), wake: bool) {
    let task = NonNull::new(task.cast_mut()).expect("a waker's data is never null").cast::<Header>();
    // SAFETY: the caller's reference keeps the header alive until it is given up below.
    let header = unsafe { task.as_ref() };
    let is_own = with_own_core(header, |core| {
        if wake
            && let Some(core) = core
            && let Some(ready) = mark_queued(task)
        {
            core.enqueue(ready);
        }
        core.is_some()
    });
    if is_own {
        drop(TaskRef(task));
    } else {
        // SAFETY: a live task's inbox is alive (see `Header::inbox`), and was made as an `Arc`.
        unsafe { Arc::increment_strong_count(header.inbox) };
        // SAFETY: the count was just taken. The task may be freed, and with it its own count,
        // before `release` returns.
        let inbox = unsafe { Arc::from_raw(header.inbox) };
        // SAFETY: the node is the task's own, in its own core's inbox, and the caller's reference
        // is given up.
        unsafe { inbox.release(task.cast(), wake) };
    }
}

/// Wakes a task by a reference that lasts for the call.
pub(super) unsafe fn waker_wake_by_ref(task: *const ()) {
    let task = NonNull::new(task.cast_mut()).expect("a waker's data is never null").cast::<Header>();
    // SAFETY: the borrowed waker keeps the header alive.
    let header = unsafe { task.as_ref() };
    let is_own = with_own_core(header, |core| {
        if let Some(core) = core
            && let Some(ready) = mark_queued(task)
        {
            core.enqueue(ready);
        }
        core.is_some()
    });
    if !is_own {
        // SAFETY: a live task's inbox is alive (see `Header::inbox`); the borrowed waker's
        // reference lasts for the call.
        let inbox = unsafe { &*header.inbox };
        // SAFETY: the node is the task's own, in its own core's inbox; the borrowed waker's
        // reference lasts for the call.
        unsafe { inbox.wake(task.cast()) };
    }
}

/// Asks for the end of a task by a reference that lasts for the call.
///
/// # Safety
///
/// `task` is the `Header` of a task of which the caller owns a counted reference.
pub(super) unsafe fn cancel(task: NonNull<Header>) {
    // SAFETY: the caller's reference keeps the header alive.
    let header = unsafe { task.as_ref() };
    let is_own = with_own_core(header, |core| {
        if let Some(core) = core
            && header.state().cancel()
            && let Some(ready) = mark_queued(task)
        {
            core.enqueue(ready);
        }
        core.is_some()
    });
    if !is_own {
        // SAFETY: a live task's inbox is alive (see `Header::inbox`); the caller's reference lasts
        // for the call.
        let inbox = unsafe { &*header.inbox };
        // SAFETY: the node is the task's own, in its own core's inbox; the caller's reference lasts
        // for the call.
        unsafe { inbox.cancel(task.cast()) };
    }
}

/// Cancels its task from any thread.
#[derive(Debug)]
pub(in crate::rt) struct Canceller(Waker);

impl Canceller {
    /// For the task of which `waker` is one.
    pub(super) fn new(waker: Waker) -> Self {
        debug_assert!(std::ptr::eq(waker.vtable(), &raw const VTABLE), "a waker of a task of a core");
        Self(waker)
    }

    pub(in crate::rt) fn cancel(&self) {
        let Some(task) = NonNull::new(self.0.data().cast_mut()) else { return };
        // SAFETY: the data of a task's waker is its header (`new` is called with no other), and
        // this one owns a counted reference.
        unsafe { cancel(task.cast::<Header>()) };
    }
}

/// A waker without a reference of its own; clones made from it take theirs.
///
/// # Safety
///
/// The task is alive for as long as the waker is used.
#[inline]
pub(super) unsafe fn borrowed_waker(task: NonNull<Header>) -> ManuallyDrop<Waker> {
    // SAFETY: the waker's functions expect a `Header` of a live task, which it is by the caller's
    // word; `ManuallyDrop` keeps the waker from dropping a reference that it never took.
    ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(task.as_ptr().cast(), &VTABLE)) })
}

impl TaskRef {
    /// Calls `f` with a waker of the task.
    #[inline]
    pub(in crate::rt) fn with_waker<R>(&self, f: impl FnOnce(&Waker) -> R) -> R {
        // SAFETY: this reference keeps the task alive for the call.
        let waker = unsafe { borrowed_waker(self.0) };
        f(&waker)
    }
}

impl Control {
    /// Calls `f` with a waker of its task; one that does nothing while it is cancelled.
    #[inline]
    pub(in crate::rt) fn with_waker<R>(&self, f: impl FnOnce(&Waker) -> R) -> R {
        match self.task.get() {
            Some(task) if self.unwinds.get() == 0 => task.with_waker(f),
            _ => f(Waker::noop()),
        }
    }
}
