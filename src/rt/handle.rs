//! Reaching a core from other threads.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::beat::Beat;
use super::context::noted;
use super::fork::Process;
use super::inbox::{Inbox, Message, Unsent};
use super::run_queue::DEFAULT_QUEUE;
use super::scheduler::in_core;
use super::task::JoinError;
use super::task_span;

/// Sends work to a core from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: Arc<Inbox>,
    beat: Arc<Beat>,
    process: Process,
}

impl Handle {
    /// To the core of `process`.
    pub(super) fn new(inbox: Arc<Inbox>, beat: Arc<Beat>, process: Process) -> Self {
        Self { inbox, beat, process }
    }

    pub(super) fn beat(&self) -> &Arc<Beat> {
        &self.beat
    }

    /// The name and creation place of the task that the core polls at this moment, as far as another thread can tell. Meant for a
    /// core that does not answer: one that runs is somewhere else by the time this returns.
    pub fn polling(&self) -> Option<(&'static str, &'static Location<'static>)> {
        self.beat.polling().map(|site| (site.name, site.created_at))
    }

    /// Makes a future on the core with `make` and runs it there as a task named `name`. The result is a future that any
    /// executor on any thread can await; dropping it lets the task run on.
    ///
    /// Never waits. If the core has as many messages waiting as it may
    /// ([`CoreConfig::messages`](super::CoreConfig::messages)), the task is not started and the result is [`JoinError::Full`]. In a
    /// child process of the core's it is [`JoinError::Cancelled`]: the core is not there.
    #[track_caller]
    pub fn spawn<M, F>(&self, name: &'static str, make: M) -> RemoteJoin<F::Output>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let created_at = Location::caller();
        let (sender, join) = oneshot();
        let slot = Arc::clone(&sender.0);
        let message = Box::new(move || {
            let task = async move { sender.send(catch_panic(async move { make().await }).await) };
            drop(task_span::spawn("Handle::spawn", |_| DEFAULT_QUEUE, name, created_at, task));
        });
        self.send(message, &slot);
        join
    }

    /// Runs `call` on the core, between tasks, and gives what it returns. It must not block. Otherwise as [`Handle::spawn`].
    pub fn run<C, T>(&self, call: C) -> RemoteJoin<T>
    where
        C: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (sender, join) = oneshot();
        let slot = Arc::clone(&sender.0);
        let message = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(call));
            sender.send(result.map_err(panicked));
        });
        self.send(message, &slot);
        join
    }

    /// A message that cannot be sent is dropped, and its `Sender` with it, which says `Cancelled`; unless it is said before why.
    fn send<T>(&self, message: Message, slot: &Mutex<Slot<T>>) {
        if self.process.is_left() {
            // Not the inbox: somebody may have held its lock when the process was forked.
            return drop(message);
        }
        match self.inbox.send(message) {
            Ok(()) => {}
            Err(Unsent::Closed(message)) => drop(message),
            Err(Unsent::Full(message)) => {
                put(slot, Err(JoinError::Full));
                drop(message);
            }
        }
    }
}

/// Turns a panic of `future` into an error.
async fn catch_panic<F: Future>(future: F) -> Result<F::Output, JoinError> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(payload) => Poll::Ready(Err(panicked(payload))),
    })
    .await
}

/// Counts the panic, which ends no task as the loop sees it.
fn panicked(payload: Box<dyn Any + Send>) -> JoinError {
    in_core("Handle::spawn", |core| core.count_panic());
    JoinError::Panicked(payload)
}

/// Carries one value from any thread to any other; a dropped sender gives [`JoinError::Cancelled`].
pub(super) fn oneshot<T>() -> (Sender<T>, RemoteJoin<T>) {
    let slot = Arc::new(Mutex::new(Slot::Waiting(None)));
    (Sender(Arc::clone(&slot)), RemoteJoin { slot, process: Process::current() })
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
        put(&self.0, result);
    }
}

/// Puts a result into a slot that has none yet.
fn put<T>(slot: &Mutex<Slot<T>>, result: Result<T, JoinError>) {
    let before = {
        let mut slot = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !matches!(*slot, Slot::Waiting(_)) {
            return;
        }
        std::mem::replace(&mut *slot, Slot::Done(result))
    };
    if let Slot::Waiting(Some(waker)) = before {
        waker.wake();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        put(&self.0, Err(JoinError::Cancelled));
    }
}

/// The result of a task on another core: what [`JoinHandle`](super::JoinHandle) gives, for any thread. If the core ends first, it
/// is [`JoinError::Cancelled`]; so it is in a child process that was forked while the task was running.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited; drop it to let the task run detached"]
pub struct RemoteJoin<T> {
    slot: Arc<Mutex<Slot<T>>>,
    /// Where the task runs.
    process: Process,
}

impl<T> RemoteJoin<T> {
    /// In a child process: the result if it had come before the fork.
    #[cold]
    fn left_behind(&self) -> Result<T, JoinError> {
        // A thread of the parent's may have held the lock at the fork, and does not give it back here.
        let taken = self.slot.try_lock().ok().map(|mut slot| std::mem::replace(&mut *slot, Slot::Taken));
        match taken {
            Some(Slot::Done(result)) => result,
            Some(waiting @ Slot::Waiting(_)) => {
                // The waker may be that of a task of the parent's core, and would ring there.
                std::mem::forget(waiting);
                Err(JoinError::Cancelled)
            }
            None => Err(JoinError::Cancelled),
            Some(Slot::Taken) => panic!("{POLLED_AGAIN}"),
        }
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
        let mut slot = self.slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &mut *slot {
            Slot::Waiting(current) => {
                let old = current.replace(waker);
                drop(slot);
                // Its destructor may be foreign code: not under the lock.
                drop(old);
                noted("another core or thread", Poll::Pending)
            }
            Slot::Done(_) => match std::mem::replace(&mut *slot, Slot::Taken) {
                Slot::Done(result) => Poll::Ready(result),
                Slot::Waiting(_) | Slot::Taken => unreachable!("matched above"),
            },
            Slot::Taken => panic!("{POLLED_AGAIN}"),
        }
    }
}
