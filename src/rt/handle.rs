//! Reaching a core from other threads.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::inbox::Inbox;
use super::scheduler::with_core;
use super::task::JoinError;

/// Sends work to a core from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: Arc<Inbox>,
}

impl Handle {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox }
    }

    /// Makes a future on the core with `make` and runs it there as a task named `name`. The result is a future that any
    /// executor on any thread can await; dropping it lets the task run on.
    #[track_caller]
    pub fn spawn<M, F>(&self, name: &'static str, make: M) -> RemoteJoin<F::Output>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let created_at = Location::caller();
        let (sender, join) = oneshot();
        let message = Box::new(move || {
            let task = async move { sender.send(Ok(make().await)) };
            with_core(|core| drop(core.spawn(name, created_at, task)));
        });
        // A message that cannot be sent is dropped, and its `Sender` with it: the receiver sees `Cancelled`.
        self.inbox.send(message);
        join
    }
}

/// Carries one value from any thread to any other; a dropped sender gives [`JoinError::Cancelled`].
pub(super) fn oneshot<T>() -> (Sender<T>, RemoteJoin<T>) {
    let slot = Arc::new(Mutex::new(Slot::Waiting(None)));
    (Sender(Arc::clone(&slot)), RemoteJoin { slot })
}

#[derive(Debug)]
enum Slot<T> {
    Waiting(Option<Waker>),
    Done(Result<T, JoinError>),
    Taken,
}

/// Puts a result into a slot once; without one, says on drop that there will be none.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Mutex<Slot<T>>>);

impl<T> Sender<T> {
    pub(super) fn send(self, result: Result<T, JoinError>) {
        self.put(result);
    }

    fn put(&self, result: Result<T, JoinError>) {
        let before = {
            let mut slot = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !matches!(*slot, Slot::Waiting(_)) {
                return;
            }
            std::mem::replace(&mut *slot, Slot::Done(result))
        };
        if let Slot::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.put(Err(JoinError::Cancelled));
    }
}

/// The result of a task on another core. A task that panics or whose core ends gives [`JoinError::Cancelled`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited; drop it to let the task run detached"]
pub struct RemoteJoin<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

impl<T> Future for RemoteJoin<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// If polled again after it gave the result.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = cx.waker().clone();
        let mut slot = self.slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &mut *slot {
            Slot::Waiting(current) => {
                let old = current.replace(waker);
                drop(slot);
                // Its destructor may be foreign code: not under the lock.
                drop(old);
                Poll::Pending
            }
            Slot::Done(_) => match std::mem::replace(&mut *slot, Slot::Taken) {
                Slot::Done(result) => Poll::Ready(result),
                Slot::Waiting(_) | Slot::Taken => unreachable!("matched above"),
            },
            Slot::Taken => panic!("a join handle is not polled again after it gave the result"),
        }
    }
}
