//! A task: a future on the heap with its reference count, its waker and the slot for its result.
//!
//! A task belongs to one core and is polled, cancelled and completed only there. References are counted without atomics on
//! that core, and through the [`Node`] (see [`inbox`](super::inbox)) everywhere else. A reference is held by the core's
//! registry until the task ends, by the run queue while the task is on it, by the join handle, and by every waker.
//!
//! The last reference may be a waker's on another thread, after the core is gone. So the future and its result, which need not
//! be `Send`, never wait for that: the future is dropped when the task ends, and a result that nobody takes with the join
//! handle or, if that went first, with the end of the task. What is left to free then runs no code but boson's own.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::future::Future;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use super::inbox::{Changes, Inbox, Node};
use super::scheduler;

/// The part of a task that does not depend on its future's type. `repr(C)`: the node comes first, so that a pointer to the
/// one is a pointer to the other.
#[repr(C)]
pub(super) struct Header {
    node: Node,
    inbox: Arc<Inbox>,
    vtable: &'static VTable,
    references: Cell<i64>,
    queued: Cell<bool>,
    ended: Cell<bool>,
    /// The join handle asked for the end of the task.
    cancelled: Cell<bool>,
    /// The join handle is gone: nobody will take the result.
    detached: Cell<bool>,
    /// Where the registry keeps the task.
    pub(super) registry_index: Cell<usize>,
    joiner: UnsafeCell<Option<Waker>>,
    name: &'static str,
    created_at: &'static Location<'static>,
}

struct VTable {
    /// Polls the future once; true if the task ended.
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> bool,
    /// Drops the future, leaving `result`.
    cancel: unsafe fn(NonNull<Header>),
    /// Drops the result, if it was not taken.
    discard: unsafe fn(NonNull<Header>),
    /// Frees the task.
    free: unsafe fn(NonNull<Header>),
}

#[repr(C)]
struct TaskCell<F: Future> {
    header: Header,
    stage: UnsafeCell<Stage<F>>,
}

enum Stage<F: Future> {
    Future(F),
    Result(Result<F::Output, JoinError>),
    Taken,
}

/// Why a task has no result.
#[derive(Debug)]
pub enum JoinError {
    /// It panicked; this is what it panicked with.
    Panicked(Box<dyn Any + Send>),
    /// It was cancelled, or its core ended.
    Cancelled,
}

impl std::fmt::Display for JoinError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Panicked(payload) => {
                let message = payload
                    .downcast_ref::<&str>()
                    .copied()
                    .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
                write!(f, "the task panicked: {}", message.unwrap_or("(no message)"))
            }
            Self::Cancelled => f.write_str("the task was cancelled"),
        }
    }
}

impl std::error::Error for JoinError {}

/// An owned reference to a task, on its own core.
pub(super) struct TaskRef(NonNull<Header>);

impl TaskRef {
    /// A new task of the core with this inbox, not yet queued, and the handle to its result.
    pub(super) fn new<F>(
        inbox: Arc<Inbox>,
        name: &'static str,
        created_at: &'static Location<'static>,
        future: F,
    ) -> (Self, JoinHandle<F::Output>)
    where
        F: Future + 'static,
    {
        let task = Box::new(TaskCell {
            header: Header {
                node: Node::new(),
                inbox,
                vtable: &VTable {
                    poll: poll::<F>,
                    cancel: cancel::<F>,
                    discard: discard::<F>,
                    free: free::<F>,
                },
                references: Cell::new(2),
                queued: Cell::new(false),
                ended: Cell::new(false),
                cancelled: Cell::new(false),
                detached: Cell::new(false),
                registry_index: Cell::new(usize::MAX),
                joiner: UnsafeCell::new(None),
                name,
                created_at,
            },
            stage: UnsafeCell::new(Stage::Future(future)),
        });
        let header = NonNull::from(Box::leak(task)).cast::<Header>();
        let handle = JoinHandle { header, take: take::<F>, result: PhantomData };
        (Self(header), handle)
    }

    fn header(&self) -> &Header {
        // SAFETY: this reference is counted, so the task is not freed while `self` lives.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn registry_index(&self) -> usize {
        self.header().registry_index.get()
    }

    pub(super) fn set_registry_index(&self, index: usize) {
        self.header().registry_index.set(index);
    }

    pub(super) fn name(&self) -> &'static str {
        self.header().name
    }

    pub(super) fn created_at(&self) -> &'static Location<'static> {
        self.header().created_at
    }

    /// Marks the task as queued; false if it is queued already or has ended.
    pub(super) fn mark_queued(&self) -> bool {
        let header = self.header();
        !header.ended.get() && !header.queued.replace(true)
    }

    /// Polls the future once, or drops it if the task was cancelled; true if that ended the task.
    pub(super) fn run(&self) -> bool {
        let header = self.header();
        header.queued.set(false);
        if header.ended.get() {
            return false;
        }
        if header.cancelled.get() {
            return self.cancel();
        }
        // A waker without a reference of its own: `self` outlives it.
        // SAFETY: the vtable's functions expect a `Header` of a live task; `ManuallyDrop` keeps the waker from dropping a
        // reference that it never took, and clones made from it take their own.
        let waker = unsafe { Waker::from_raw(RawWaker::new(self.0.as_ptr().cast(), &WAKER)) };
        let waker = ManuallyDrop::new(waker);
        // SAFETY: the task is live, on its own core, not ended (so the stage holds the future), and not being polled: a
        // core runs one task at a time and the caller is the core's loop.
        let ended = unsafe { (header.vtable.poll)(self.0, &mut Context::from_waker(&waker)) };
        if ended {
            self.end();
        }
        ended
    }

    /// Drops the future if the task has not ended; true if that ended it.
    pub(super) fn cancel(&self) -> bool {
        let header = self.header();
        if header.ended.get() {
            return false;
        }
        // SAFETY: the task is live, on its own core and not ended; the caller (the core, between polls) is not inside its
        // poll.
        unsafe { (header.vtable.cancel)(self.0) };
        self.end();
        true
    }

    fn end(&self) {
        let header = self.header();
        header.ended.set(true);
        // SAFETY: `joiner` is touched only on the task's core, here and in `JoinHandle::poll`, neither of which calls into
        // foreign code while it holds the borrow: `take` moves the waker out first.
        let joiner = unsafe { &mut *header.joiner.get() }.take();
        if let Some(joiner) = joiner {
            joiner.wake();
        }
        if header.detached.get() {
            // SAFETY: the task is live, on its own core and has ended, and its join handle is gone.
            unsafe { (header.vtable.discard)(self.0) };
        }
    }
}

impl Clone for TaskRef {
    fn clone(&self) -> Self {
        let references = &self.header().references;
        references.set(references.get() + 1);
        Self(self.0)
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        let header = self.header();
        let left = header.references.get() - 1;
        header.references.set(left);
        if header.node.is_unreferenced(left) {
            // SAFETY: no reference is left, here or elsewhere, and no other thread is about to list the node.
            unsafe { (header.vtable.free)(self.0) };
        }
    }
}

/// Applies what other threads did to a task and hands the core a reference to it if it was woken. Called by the core for
/// each task on its inbox's list.
pub(super) fn apply_changes(node: NonNull<Node>, changes: &Changes) -> Option<TaskRef> {
    let header = node.cast::<Header>();
    // SAFETY: every node on a list is the first field of a task's `repr(C)` header, and the task is not freed before this
    // call has applied its changes: freeing needs the count that is settled here.
    let references = unsafe { &header.as_ref().references };
    // One more for the reference made here, which frees the task on drop if it was the last.
    references.set(references.get() + changes.references + 1);
    let task = TaskRef(header);
    changes.woken.then_some(task)
}

/// The owner's part after the core is gone: only counting and freeing. The future and its result are gone already.
pub(super) fn bury(node: NonNull<Node>, changes: Changes) {
    drop(apply_changes(node, &changes));
}

unsafe fn poll<F: Future>(task: NonNull<Header>, cx: &mut Context<'_>) -> bool {
    // SAFETY: the vtable that holds this function was made for a `TaskCell<F>`, and the caller says the task is live.
    let stage = unsafe { task.cast::<TaskCell<F>>().as_ref() }.stage.get();
    // SAFETY: the caller says that the task is on its core and not being polled, so nothing else borrows the stage.
    let Stage::Future(future) = (unsafe { &mut *stage }) else { return false };
    // SAFETY: the future lives in the task's box until it is dropped in place there; it never moves.
    let future = unsafe { Pin::new_unchecked(future) };
    let result = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
        Ok(Poll::Pending) => return false,
        Ok(Poll::Ready(output)) => Ok(output),
        Err(payload) => Err(JoinError::Panicked(payload)),
    };
    // SAFETY: as above; `future`'s borrow has ended.
    unsafe { set_result(stage, result) };
    true
}

unsafe fn cancel<F: Future>(task: NonNull<Header>) {
    // SAFETY: the vtable that holds this function was made for a `TaskCell<F>`, and the caller says the task is live.
    let stage = unsafe { task.cast::<TaskCell<F>>().as_ref() }.stage.get();
    // SAFETY: the caller says that the task is on its core and not being polled, so nothing else borrows the stage.
    unsafe { set_result(stage, Err(JoinError::Cancelled)) };
}

/// Drops the future in place and stores the result. A panic of the future's destructor becomes the result.
///
/// # Safety
///
/// `stage` is valid and nothing else borrows it.
unsafe fn set_result<F: Future>(stage: *mut Stage<F>, result: Result<F::Output, JoinError>) {
    let dropped = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: valid and unborrowed by the caller's word; the assignment drops the old stage in place.
        unsafe { *stage = Stage::Taken };
    }));
    let result = match dropped {
        Ok(()) => result,
        Err(payload) => {
            drop_quietly(result);
            Err(JoinError::Panicked(payload))
        }
    };
    // SAFETY: as above. The old stage is `Taken` (an assignment that unwinds while dropping still writes the new value), so
    // nothing of the future is dropped twice.
    unsafe { *stage = Stage::Result(result) };
}

/// Drops what came from foreign code. A panic of its destructor was reported by the panic hook and ends here.
fn drop_quietly<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // The payload's destructor is foreign code too, and may panic in turn.
        std::mem::forget(payload);
    }
}

/// Takes the result out of an ended task.
unsafe fn take<F: Future>(task: NonNull<Header>) -> Option<Result<F::Output, JoinError>> {
    // SAFETY: a `JoinHandle<F::Output>` made for a `TaskCell<F>` calls this with its counted reference.
    let stage = unsafe { task.cast::<TaskCell<F>>().as_ref() }.stage.get();
    // SAFETY: the task has ended, so nobody polls or cancels it, and the one join handle is `!Send` and borrowed mutably.
    match std::mem::replace(unsafe { &mut *stage }, Stage::Taken) {
        Stage::Result(result) => Some(result),
        Stage::Future(_) | Stage::Taken => None,
    }
}

unsafe fn free<F: Future>(task: NonNull<Header>) {
    // SAFETY: the task came from `Box::leak` of a `TaskCell<F>` in `TaskRef::new`, and the caller says no reference is left.
    let mut task = unsafe { Box::from_raw(task.cast::<TaskCell<F>>().as_ptr()) };
    debug_assert!(
        matches!(task.stage.get_mut(), Stage::Taken),
        "nothing foreign is left in a task that is freed"
    );
    drop(task);
}

/// Drops the result of an ended task.
unsafe fn discard<F: Future>(task: NonNull<Header>) {
    // SAFETY: the vtable that holds this function was made for a `TaskCell<F>`; the caller says the task is live and has
    // ended, and that nobody else takes its result.
    drop_quietly(unsafe { take::<F>(task) });
}

static WAKER: RawWakerVTable = RawWakerVTable::new(waker_clone, waker_wake, waker_wake_by_ref, waker_drop);

/// Whether the calling thread is inside the core that owns `header`.
fn is_local(header: &Header) -> bool {
    scheduler::current_inbox() == Arc::as_ptr(&header.inbox)
}

unsafe fn waker_clone(task: *const ()) -> RawWaker {
    // SAFETY: a waker's data is a `Header` that its reference (or the poll it was made for) keeps alive.
    let header = unsafe { &*task.cast::<Header>() };
    if is_local(header) {
        header.references.set(header.references.get() + 1);
    } else {
        header.node.add_reference();
    }
    RawWaker::new(task, &WAKER)
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
unsafe fn give_up(task: *const (), wake: bool) {
    let task = NonNull::new(task.cast_mut()).expect("a waker's data is never null").cast::<Header>();
    // SAFETY: the caller's reference keeps the header alive until it is given up below.
    let header = unsafe { task.as_ref() };
    if is_local(header) {
        // The waker's reference becomes the `TaskRef`'s.
        let task = TaskRef(task);
        if wake {
            scheduler::enqueue(task);
        }
    } else {
        // The task may be freed, and with it its reference to the inbox, before `release` returns.
        let inbox = Arc::clone(&header.inbox);
        // SAFETY: the node is the task's own, in its own core's inbox, and the caller's reference is given up.
        unsafe { inbox.release(task.cast(), wake) };
    }
}

unsafe fn waker_wake_by_ref(task: *const ()) {
    let task = NonNull::new(task.cast_mut()).expect("a waker's data is never null").cast::<Header>();
    // SAFETY: the borrowed waker keeps the header alive.
    let header = unsafe { task.as_ref() };
    if is_local(header) {
        let borrowed = ManuallyDrop::new(TaskRef(task));
        if !header.queued.get() && !header.ended.get() {
            scheduler::enqueue(TaskRef::clone(&borrowed));
        }
    } else {
        // SAFETY: the node is the task's own, in its own core's inbox; the borrowed waker's reference lasts for the call.
        unsafe { header.inbox.wake(task.cast()) };
    }
}

/// The result of a task, as a future on the same core. Dropping it lets the task run on, detached.
pub struct JoinHandle<T> {
    header: NonNull<Header>,
    take: unsafe fn(NonNull<Header>) -> Option<Result<T, JoinError>>,
    result: PhantomData<T>,
}

impl<T> JoinHandle<T> {
    fn header(&self) -> &Header {
        // SAFETY: the handle owns a counted reference.
        unsafe { self.header.as_ref() }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.header().ended.get()
    }

    /// Ends the task at its current suspension point: its future is dropped, and this handle gives
    /// [`JoinError::Cancelled`]. Takes effect when the core next turns to the task; does nothing if it has ended.
    pub fn cancel(&self) {
        if !self.is_finished() && !self.header().cancelled.replace(true) {
            // SAFETY: the handle's counted reference lasts for the call.
            unsafe { waker_wake_by_ref(self.header.as_ptr().cast_const().cast()) };
        }
    }
}

/// The result is behind a pointer.
impl<T> Unpin for JoinHandle<T> {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// If polled again after it gave the result.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let header = self.header();
        if !header.ended.get() {
            let waker = cx.waker().clone();
            // SAFETY: the joiner is touched only on the task's core, and the handle is `!Send`; the new waker was cloned and the old waker is moved out
            // before it is dropped, so its destructor runs outside the borrow.
            let old = unsafe { &mut *header.joiner.get() }.replace(waker);
            drop(old);
            return Poll::Pending;
        }
        // SAFETY: `take` was made for this very task in `TaskRef::new`, and the task has ended.
        let result = unsafe { (self.take)(self.header) };
        Poll::Ready(result.expect("a join handle is not polled again after it gave the result"))
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let header = self.header();
        header.detached.set(true);
        if header.ended.get() {
            // SAFETY: the task is live by the handle's reference and has ended; the handle is `!Send`, so this is the thread
            // of its core, and nobody else takes the result.
            unsafe { (header.vtable.discard)(self.header) };
        }
        // SAFETY: the handle owns a counted reference, which it gives up here.
        unsafe { give_up(self.header.as_ptr().cast_const().cast(), false) };
    }
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let header = self.header();
        f.debug_struct("JoinHandle")
            .field("name", &header.name)
            .field("created_at", &header.created_at)
            .field("finished", &header.ended.get())
            .finish()
    }
}
