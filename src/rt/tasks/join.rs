//! The result of a task, as a future.

use std::marker::PhantomData;
use std::panic::Location;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

use super::JoinError;
use super::cancel_on_drop::{CancelOnDrop, sealed::Cancel};
use super::header::Header;
use super::list::Registry;
use super::reference::TaskRef;
use super::waiting::waiting_for;
use super::waker::{self, Canceller, borrowed_waker};

type Take<T> = unsafe fn(NonNull<Header>) -> Option<Result<T, JoinError>>;

/// The result of a task, as a future on the same core. Dropping it lets the task run on, detached.
pub struct JoinHandle<T> {
    header: NonNull<Header>,
    take: Take<T>,
    result: PhantomData<T>,
}

impl<T> JoinHandle<T> {
    /// The handle of a new task, which counted a reference for it. `take` is that of the task's
    /// type.
    pub(super) fn new(header: NonNull<Header>, take: Take<T>) -> Self {
        Self { header, take, result: PhantomData }
    }

    fn header(&self) -> &Header {
        // SAFETY: the handle owns a counted reference.
        unsafe { self.header.as_ref() }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.header().has_ended()
    }

    /// The number of the task, unique on its core.
    pub fn id(&self) -> u64 {
        self.header().id
    }

    /// The name that the task was given.
    pub fn name(&self) -> &'static str {
        self.header().site.name
    }

    /// Where the task was spawned.
    pub fn created_at(&self) -> &'static Location<'static> {
        self.header().site.created_at
    }

    /// Ends the task at its current suspension point: its future is dropped, and this handle gives
    /// [`JoinError::Cancelled`]. Takes effect when the core next turns to the task; does nothing if
    /// it has ended.
    pub fn cancel(&self) {
        if self.header().state().cancel() {
            // SAFETY: the handle's counted reference lasts for the call.
            unsafe { waker::waker_wake_by_ref(self.header.as_ptr().cast_const().cast()) };
        }
    }

    /// Lets the task run on without anybody to take its result: the same as dropping the
    /// handle, but explicit.
    pub fn detach(self) {
        drop(self);
    }

    /// A handle that cancels the task when it is dropped.
    pub fn cancel_on_drop(self) -> CancelOnDrop<Self> {
        CancelOnDrop::new(self)
    }

    /// Cancels the task from any thread.
    pub(in crate::rt) fn canceller(&self) -> Canceller {
        // SAFETY: the handle's own reference keeps the task alive, and the clone takes one of its
        // own.
        let waker = unsafe { borrowed_waker(self.header) };
        Canceller::new(Waker::clone(&waker))
    }

    /// Notes that the task is a coroutine's.
    pub(crate) fn is_of_a_coroutine(&self) {
        self.header().spawned_as_coroutine.set(true);
    }

    /// What the task waits for, as far as it says.
    pub(in crate::rt) fn waits_for(&self) -> Option<&'static str> {
        self.header().waits_for()
    }

    /// Drops the future of a task that has not ended.
    ///
    /// # Safety
    ///
    /// This is the thread of the task's core, which lives, whose registry this is, and which is not
    /// polling the task.
    pub(in crate::rt) unsafe fn end_now(&self, registry: &Registry) {
        // SAFETY: the handle's own reference keeps the task alive, and the caller says that this is
        // its core's thread.
        unsafe { TaskRef::borrow(self.header) }.cancel(registry);
    }

    /// Takes the result of a task that has ended, once.
    pub(in crate::rt) fn take(&mut self) -> Option<Result<T, JoinError>> {
        if !self.is_finished() {
            return None;
        }
        // SAFETY: `take` was made for this very task in `TaskRef::new_unbounded`, and the task has
        // ended.
        unsafe { (self.take)(self.header) }
    }
}

impl<T> Cancel for JoinHandle<T> {
    fn cancel(&self) {
        JoinHandle::cancel(self);
    }
}

/// It holds no `T`, only knows where one is.
impl<T> Unpin for JoinHandle<T> {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// If polled again after it gave the result.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let header = self.header();
        if !header.has_ended() {
            // User code, which may end the core: the task is asked again.
            let waker = cx.waker().clone();
            if header.has_ended() {
                drop(waker);
                return self.poll(cx);
            }
            // SAFETY: the joiner is touched only on the task's core, and the handle is `!Send`; the
            // new waker was cloned and the old waker is moved out before it is dropped, so its
            // destructor runs outside the borrow.
            let old = unsafe { &mut *header.joiner.get() }.replace(waker);
            drop(old);
            waiting_for("the end of a task");
            return Poll::Pending;
        }
        Poll::Ready(self.take().expect("a join handle is not polled again after it gave the result"))
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let header = self.header();
        header.is_detached.set(true);
        if header.has_ended() {
            // SAFETY: the task is live by the handle's reference and has ended; the handle is
            // `!Send`, so this is the thread of its core, and nobody else takes the result.
            unsafe { (header.vtable.discard)(self.header) };
        }
        // SAFETY: the handle owns a counted reference, which it gives up here.
        unsafe { waker::give_up(self.header.as_ptr().cast_const().cast(), false) };
    }
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("created_at", &self.created_at())
            .field("finished", &self.is_finished())
            .finish()
    }
}
