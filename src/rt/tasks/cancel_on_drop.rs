//! Handles that end their task when they go.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A handle of a task. It cannot be implemented elsewhere.
pub trait TaskHandle: sealed::Cancel {}

impl<H: sealed::Cancel> TaskHandle for H {}

pub(crate) mod sealed {
    /// What all handles of tasks have.
    pub trait Cancel {
        /// Asks for the end of the task.
        fn cancel(&self);
    }
}

/// A handle that cancels its task when it is dropped. It is awaited, or joined, as the handle
/// inside. Made by the handles' `cancel_on_drop`, as
/// [`JoinHandle::cancel_on_drop`](super::JoinHandle::cancel_on_drop).
#[doc(alias = "AbortOnDropHandle")]
#[must_use = "dropping it cancels the task"]
pub struct CancelOnDrop<H: TaskHandle>(Option<H>);

impl<H: TaskHandle> CancelOnDrop<H> {
    pub(crate) fn new(handle: H) -> Self {
        Self(Some(handle))
    }

    /// The handle inside.
    pub fn handle(&self) -> &H {
        self.0.as_ref().expect("taken out only by value")
    }

    /// The handle inside, which is dropped without the end of the task.
    #[must_use = "dropping it detaches the task; say so with `detach`"]
    pub fn into_inner(mut self) -> H {
        self.0.take().expect("taken out only by value")
    }

    /// Lets the task run on without anybody to take its result.
    pub fn detach(self) {
        drop(self.into_inner());
    }
}

impl<H: TaskHandle + Future + Unpin> Future for CancelOnDrop<H> {
    type Output = H::Output;

    /// # Panics
    ///
    /// If polled again after it gave the result.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(self.0.as_mut().expect("taken out only by value")).poll(cx)
    }
}

impl<H: TaskHandle> Drop for CancelOnDrop<H> {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.cancel();
        }
    }
}

impl<H: TaskHandle + fmt::Debug> fmt::Debug for CancelOnDrop<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelOnDrop").field(&self.0).finish()
    }
}
