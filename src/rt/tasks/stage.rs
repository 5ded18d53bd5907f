//! The part of a task that depends on its future's type: the future, then its result.

use std::cell::UnsafeCell;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::JoinError;
use super::header::{Header, Polled, VTable};
use crate::user_code::{caught, drop_contained};

#[repr(C)]
pub(super) struct TaskCell<F: Future> {
    header: Header,
    stage: UnsafeCell<TaskStage<F>>,
}

enum TaskStage<F: Future> {
    Future(F),
    Result(Result<F::Output, JoinError>),
    Taken,
}

impl<F: Future> TaskCell<F> {
    pub(super) const VTABLE: &'static VTable =
        &VTable { poll: poll::<F>, cancel: cancel::<F>, discard: discard::<F>, free: free::<F> };

    /// A task on the heap; [`VTable::free`] frees it.
    pub(super) fn allocate(header: Header, future: F) -> NonNull<Header> {
        let task = Box::new(Self { header, stage: UnsafeCell::new(TaskStage::Future(future)) });
        NonNull::from(Box::leak(task)).cast::<Header>()
    }
}

unsafe fn poll<F: Future>(task: NonNull<Header>, cx: &mut Context<'_>) -> Polled {
    // SAFETY: the vtable that holds this function was made for a `TaskCell<F>`, and the caller says
    // the task is live.
    let stage = unsafe { task.cast::<TaskCell<F>>().as_ref() }.stage.get();
    // SAFETY: the caller says that the task is on its core and not being polled, so nothing else
    // borrows the stage.
    let TaskStage::Future(future) = (unsafe { &mut *stage }) else { return Polled::Gone };
    // SAFETY: the future lives in the task's box until it is dropped in place there; it never
    // moves.
    let future = unsafe { Pin::new_unchecked(future) };
    let result = match caught(|| future.poll(cx)) {
        Ok(Poll::Pending) => return Polled::Pending,
        Ok(Poll::Ready(output)) => Ok(output),
        Err(payload) => Err(JoinError::Panicked(payload)),
    };
    // SAFETY: as above; `future`'s borrow has ended.
    if unsafe { set_result(stage, result) } { Polled::Panicked } else { Polled::Ended }
}

unsafe fn cancel<F: Future>(task: NonNull<Header>) {
    // SAFETY: the vtable that holds this function was made for a `TaskCell<F>`, and the caller says
    // the task is live.
    let stage = unsafe { task.cast::<TaskCell<F>>().as_ref() }.stage.get();
    // SAFETY: the caller says that the task is on its core and not being polled, so nothing else
    // borrows the stage.
    unsafe { set_result(stage, Err(JoinError::Cancelled)) };
}

/// Drops the future in place and stores the result, and says whether it is a panic. A panic of the
/// future's destructor becomes the result.
///
/// # Safety
///
/// `stage` is valid and nothing else borrows it.
unsafe fn set_result<F: Future>(stage: *mut TaskStage<F>, result: Result<F::Output, JoinError>) -> bool {
    let dropped = caught(|| {
        // SAFETY: valid and unborrowed by the caller's word; the assignment drops the old stage in
        // place.
        unsafe { *stage = TaskStage::Taken };
    });
    let result = match dropped {
        Ok(()) => result,
        Err(payload) => {
            drop_contained(result);
            Err(JoinError::Panicked(payload))
        }
    };
    let panicked = matches!(result, Err(JoinError::Panicked(_)));
    // SAFETY: as above. The old stage is `Taken` (an assignment that unwinds while dropping still
    // writes the new value), so nothing of the future is dropped twice.
    unsafe { *stage = TaskStage::Result(result) };
    panicked
}

/// Takes the result out of an ended task.
pub(super) unsafe fn take<F: Future>(task: NonNull<Header>) -> Option<Result<F::Output, JoinError>> {
    // SAFETY: a `JoinHandle<F::Output>` made for a `TaskCell<F>` calls this with its counted
    // reference.
    let stage = unsafe { task.cast::<TaskCell<F>>().as_ref() }.stage.get();
    // SAFETY: the task has ended, so nobody polls or cancels it, and the one join handle is `!Send`
    // and borrowed mutably.
    match std::mem::replace(unsafe { &mut *stage }, TaskStage::Taken) {
        TaskStage::Result(result) => Some(result),
        TaskStage::Future(_) | TaskStage::Taken => None,
    }
}

unsafe fn free<F: Future>(task: NonNull<Header>) {
    // SAFETY: the task came from `Box::leak` of a `TaskCell<F>` in `TaskCell::allocate`, and the
    // caller says no reference is left.
    let mut task = unsafe { Box::from_raw(task.cast::<TaskCell<F>>().as_ptr()) };
    debug_assert!(
        matches!(task.stage.get_mut(), TaskStage::Taken),
        "nothing of the user is left in a task that is freed"
    );
    drop(task);
}

/// Drops the result of an ended task.
unsafe fn discard<F: Future>(task: NonNull<Header>) {
    // SAFETY: the vtable that holds this function was made for a `TaskCell<F>`; the caller says the
    // task is live and has ended, and that nobody else takes its result.
    drop_contained(unsafe { take::<F>(task) });
}
