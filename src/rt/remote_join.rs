//! The result of a task on another core or thread, as a future for any executor.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::tasks::{Cancel, CancelOnDrop, Canceller, JoinError, noted};
use crate::fork::Process;
use crate::user_code::wake;

/// Carries one result from any thread to any other; a dropped sender gives
/// [`JoinError::Cancelled`].
pub(super) fn oneshot<T>() -> (ResultSender<T>, RemoteJoin<T>) {
    let remote = Remote { delivery: Delivery::Waiting(None), task: RemoteTask::NotStarted };
    let shared = SharedResult(Arc::new(Mutex::new(remote)));
    (ResultSender(shared.clone()), RemoteJoin { shared, process: Process::current() })
}

/// What a task on another core and the one that waits for its result have in common.
#[derive(Debug)]
struct Remote<T> {
    delivery: Delivery<T>,
    task: RemoteTask,
}

/// The result on its way.
#[derive(Debug)]
enum Delivery<T> {
    Waiting(Option<Waker>),
    Done(Result<T, JoinError>),
    Taken,
}

impl<T> Delivery<T> {
    fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}

/// The task as far as it can be cancelled from elsewhere.
///
/// | state | becomes | when |
/// |---|---|---|
/// | `NotStarted` | `Runs` | its core comes to it |
/// | | `Cancelled` | [`RemoteJoin::cancel`]: the core then does not start it |
/// | `Runs` | `Cancelled` | [`RemoteJoin::cancel`], which also tells the task |
/// | any | `NotStarted` | the result is there: nothing is left to cancel |
#[derive(Debug)]
enum RemoteTask {
    /// Its core has not come to it yet; or there is none, as for a call.
    NotStarted,
    Runs(Canceller),
    Cancelled,
}

/// Both ends of a result on its way.
#[derive(Debug)]
pub(super) struct SharedResult<T>(Arc<Mutex<Remote<T>>>);

impl<T> Clone for SharedResult<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> SharedResult<T> {
    /// No user code runs under the lock.
    fn lock(&self) -> MutexGuard<'_, Remote<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody asked for the end of the task.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self.lock().task, RemoteTask::Cancelled)
    }

    /// Delivers a result unless one was delivered before.
    pub(super) fn put(&self, result: Result<T, JoinError>) {
        let (before, task) = {
            let mut remote = self.lock();
            if !remote.delivery.is_waiting() {
                return;
            }
            let task = std::mem::replace(&mut remote.task, RemoteTask::NotStarted);
            (std::mem::replace(&mut remote.delivery, Delivery::Done(result)), task)
        };
        // Its reference to the task goes with the result.
        drop(task);
        if let Delivery::Waiting(Some(waker)) = before {
            wake(waker);
        }
    }

    /// The core has come to the task: from now on it can be cancelled there, or is to be at once.
    pub(super) fn started(&self, canceller: Canceller) {
        let unneeded = {
            let mut remote = self.lock();
            match (&remote.delivery, &remote.task) {
                (Delivery::Waiting(_), RemoteTask::NotStarted) => {
                    remote.task = RemoteTask::Runs(canceller);
                    None
                }
                (Delivery::Waiting(_), _) => Some((canceller, true)),
                (Delivery::Done(_) | Delivery::Taken, _) => Some((canceller, false)),
            }
        };
        if let Some((canceller, true)) = unneeded {
            canceller.cancel();
        }
    }
}

/// Delivers a result once; if it is dropped without one, says that there will be none.
#[derive(Debug)]
pub(super) struct ResultSender<T>(SharedResult<T>);

impl<T> ResultSender<T> {
    pub(super) fn send(self, result: Result<T, JoinError>) {
        self.0.put(result);
    }

    /// What it delivers to.
    pub(super) fn shared(&self) -> SharedResult<T> {
        self.0.clone()
    }
}

impl<T> Drop for ResultSender<T> {
    fn drop(&mut self) {
        self.0.put(Err(JoinError::Cancelled));
    }
}

/// The result of a task on another core: what [`JoinHandle`](super::JoinHandle) gives, for any
/// thread. If the core ends first, it is [`JoinError::Cancelled`]; so it is in a child process that
/// was forked while the task was running.
///
/// An async task awaits it; a coroutine, or a thread without a core, [waits](super::wait) for it.
/// Dropping it lets the task run on, detached.
#[derive(Debug)]
#[must_use = "the task runs on without it, and its result is lost: await it, or say `detach`"]
pub struct RemoteJoin<T> {
    shared: SharedResult<T>,
    /// Where the task runs.
    process: Process,
}

impl<T> RemoteJoin<T> {
    /// Asks for the end of the task, from any thread: its future is dropped where it waits (a
    /// coroutine unwinds), and this gives [`JoinError::Cancelled`]. Takes effect when the core next
    /// turns to the task. A task or a call ([`Handle::run`](crate::rt::Handle::run)) that the core
    /// has not come to yet is not started. Does nothing if there is a result already, to a call
    /// that runs, and in a child process.
    ///
    /// Never waits, and needs no room among the core's messages.
    pub fn cancel(&self) {
        if self.process.is_left() {
            return;
        }
        let task = {
            let mut remote = self.shared.lock();
            if !remote.delivery.is_waiting() {
                return;
            }
            std::mem::replace(&mut remote.task, RemoteTask::Cancelled)
        };
        if let RemoteTask::Runs(canceller) = task {
            canceller.cancel();
        }
    }

    /// Whether there is a result, so that awaiting it gives it at once.
    pub fn is_finished(&self) -> bool {
        self.process.is_left() || !self.shared.lock().delivery.is_waiting()
    }

    /// Lets the task run on without anybody to take its result: the same as dropping this, but
    /// explicit.
    pub fn detach(self) {
        drop(self);
    }

    /// The same result, of a task that is cancelled when that is dropped.
    pub fn cancel_on_drop(self) -> CancelOnDrop<Self> {
        CancelOnDrop::new(self)
    }

    /// In a child process: the result if it had come before the fork.
    #[cold]
    fn left_behind(&self) -> Result<T, JoinError> {
        // A thread of the parent's may have held the lock at the fork, and does not give it back
        // here.
        let taken = self
            .shared
            .0
            .try_lock()
            .ok()
            .map(|mut remote| std::mem::replace(&mut remote.delivery, Delivery::Taken));
        match taken {
            Some(Delivery::Done(result)) => result,
            Some(waiting @ Delivery::Waiting(_)) => {
                // The waker may be that of a task of the parent's core, and would ring there.
                std::mem::forget(waiting);
                Err(JoinError::Cancelled)
            }
            None => Err(JoinError::Cancelled),
            Some(Delivery::Taken) => panic!("{POLLED_AGAIN}"),
        }
    }
}

impl<T> Cancel for RemoteJoin<T> {
    fn cancel(&self) {
        RemoteJoin::cancel(self);
    }
}

const POLLED_AGAIN: &str = "a join handle is not polled again after it gave the result";

impl<T> Future for RemoteJoin<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// If polled again after it gave the result.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.process.is_left() {
            return Poll::Ready(self.left_behind());
        }
        let waker = cx.waker().clone();
        let mut remote = self.shared.lock();
        match &mut remote.delivery {
            Delivery::Waiting(current) => {
                let old = current.replace(waker);
                drop(remote);
                // Its destructor may be user code: not under the lock.
                drop(old);
                noted("another core or thread", Poll::Pending)
            }
            Delivery::Done(_) => match std::mem::replace(&mut remote.delivery, Delivery::Taken) {
                Delivery::Done(result) => Poll::Ready(result),
                Delivery::Waiting(_) | Delivery::Taken => unreachable!("matched above"),
            },
            Delivery::Taken => panic!("{POLLED_AGAIN}"),
        }
    }
}
