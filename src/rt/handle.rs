//! Reaching a core from other threads.

use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::beat::Beat;
use super::context::noted;
use super::fork::Process;
use super::inbox::{Inbox, Message, Unsent};
use super::scheduler::{Shared, in_core};
use super::task::{AbortOnDrop, Cancel, Canceller, JoinError, JoinHandle, PanicPayload, quietly};
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
    /// executor on any thread can await; dropping it lets the task run on. (For a coroutine there is
    /// [`thread::Builder::spawn_on`](crate::thread::Builder::spawn_on).)
    ///
    /// The task is on the default queue of the core. A [`TaskQueue`](super::TaskQueue) is its core's and cannot be named from elsewhere: work
    /// for another one is spawned from a task of that core that holds it.
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
        self.spawn_at(name, Location::caller(), |_| {}, async move || Ok(make().await))
    }

    /// As [`spawn`](Self::spawn), for a caller elsewhere and a task that may fail. `spawned` is called on the core with the task.
    pub(crate) fn spawn_at<M, T>(
        &self,
        name: &'static str,
        created_at: &'static Location<'static>,
        spawned: impl FnOnce(&JoinHandle<()>) + Send + 'static,
        make: M,
    ) -> RemoteJoin<T>
    where
        M: AsyncFnOnce() -> Result<T, JoinError> + Send + 'static,
        T: Send + 'static,
    {
        let (sender, join) = oneshot();
        let slot = Arc::clone(&sender.0);
        let of_task = Arc::clone(&slot);
        let message = Box::new(move || {
            if lock(&of_task).is_cancelled() {
                return drop(sender);
            }
            let task = async move {
                sender.send(catch_panic(async move { make().await }).await.and_then(|result| result))
            };
            // Messages run between tasks, so this is the default queue.
            let task = task_span::spawn("Handle::spawn", Shared::current_queue, name, created_at, task);
            spawned(&task);
            started(&of_task, task.canceller());
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
        let of_call = Arc::clone(&slot);
        let message = Box::new(move || {
            if lock(&of_call).is_cancelled() {
                return drop(sender);
            }
            let result = catch_unwind(AssertUnwindSafe(call));
            sender.send(result.map_err(panicked));
        });
        self.send(message, &slot);
        join
    }

    /// A message that cannot be sent is dropped, and its `Sender` with it, which says `Cancelled`; unless it is said before why.
    fn send<T>(&self, message: Message, slot: &Mutex<State<T>>) {
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
fn panicked(payload: Box<dyn std::any::Any + Send>) -> JoinError {
    in_core("Handle::spawn", |core| core.count_panic());
    JoinError::Panicked(PanicPayload::new(payload))
}

/// Carries one value from any thread to any other; a dropped sender gives [`JoinError::Cancelled`].
pub(super) fn oneshot<T>() -> (Sender<T>, RemoteJoin<T>) {
    let state = Arc::new(Mutex::new(State { slot: Slot::Waiting(None), task: RemoteTask::NotStarted }));
    (Sender(Arc::clone(&state)), RemoteJoin { state, process: Process::current() })
}

/// What a task and who waits for it have in common.
#[derive(Debug)]
struct State<T> {
    slot: Slot<T>,
    task: RemoteTask,
}

impl<T> State<T> {
    fn is_cancelled(&self) -> bool {
        matches!(self.task, RemoteTask::Cancelled)
    }
}

/// The task as far as it can be cancelled from elsewhere.
#[derive(Debug)]
enum RemoteTask {
    /// Its core has not come to it yet; or there is none, as for a call.
    NotStarted,
    Runs(Canceller),
    /// It was asked to end.
    Cancelled,
}

#[derive(Debug)]
enum Slot<T> {
    Waiting(Option<Waker>),
    Done(Result<T, JoinError>),
    Taken,
}

/// Puts a result into a slot once; without one, says on drop that there will be none.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Mutex<State<T>>>);

impl<T> Sender<T> {
    pub(super) fn send(self, result: Result<T, JoinError>) {
        put(&self.0, result);
    }
}

/// Puts a result into a slot that has none yet.
fn put<T>(state: &Mutex<State<T>>, result: Result<T, JoinError>) {
    let (before, task) = {
        let mut state = lock(state);
        if !matches!(state.slot, Slot::Waiting(_)) {
            return;
        }
        let task = std::mem::replace(&mut state.task, RemoteTask::NotStarted);
        (std::mem::replace(&mut state.slot, Slot::Done(result)), task)
    };
    // Its reference to the task goes with the result.
    drop(task);
    if let Slot::Waiting(Some(waker)) = before {
        waker.wake();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // A panic may run this, and a second one, of the waker, would end the process.
        quietly(|| put(&self.0, Err(JoinError::Cancelled)));
    }
}

/// No foreign code runs under the lock.
fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The core has come to the task: from now on it can be cancelled there, or is to be at once.
fn started<T>(state: &Mutex<State<T>>, canceller: Canceller) {
    let unneeded = {
        let mut state = lock(state);
        match (&state.slot, &state.task) {
            (Slot::Waiting(_), RemoteTask::NotStarted) => {
                state.task = RemoteTask::Runs(canceller);
                None
            }
            (Slot::Waiting(_), _) => Some((canceller, true)),
            (Slot::Done(_) | Slot::Taken, _) => Some((canceller, false)),
        }
    };
    if let Some((canceller, true)) = unneeded {
        canceller.cancel();
    }
}

/// The result of a task on another core: what [`JoinHandle`](super::JoinHandle) gives, for any thread. If the core ends first, it
/// is [`JoinError::Cancelled`]; so it is in a child process that was forked while the task was running.
///
/// An async task awaits it; a coroutine, or a thread without a core, [waits](super::wait) for it. Dropping it lets the task run on, detached.
#[derive(Debug)]
#[must_use = "the task runs on without it, and its result is lost: await it, or say `detach`"]
pub struct RemoteJoin<T> {
    state: Arc<Mutex<State<T>>>,
    /// Where the task runs.
    process: Process,
}

impl<T> RemoteJoin<T> {
    /// Asks for the end of the task, from any thread: its future is dropped where it waits (a coroutine unwinds), and this gives
    /// [`JoinError::Cancelled`]. Takes effect when the core next turns to the task. A task or a call ([`Handle::run`]) that the core has
    /// not come to yet is not started. Does nothing if there is a result already, to a call that runs, and in a child process.
    ///
    /// Never waits, and needs no room among the core's messages.
    pub fn cancel(&self) {
        if self.process.is_left() {
            return;
        }
        let task = {
            let mut state = lock(&self.state);
            if !matches!(state.slot, Slot::Waiting(_)) {
                return;
            }
            std::mem::replace(&mut state.task, RemoteTask::Cancelled)
        };
        if let RemoteTask::Runs(canceller) = task {
            canceller.cancel();
        }
    }

    /// Whether there is a result, so that awaiting it gives it at once.
    pub fn is_finished(&self) -> bool {
        self.process.is_left() || !matches!(lock(&self.state).slot, Slot::Waiting(_))
    }

    /// Lets the task run on without anybody to take its result. The same as dropping this, but says so.
    pub fn detach(self) {
        drop(self);
    }

    /// The same result, of a task that is cancelled when that is dropped.
    pub fn abort_on_drop(self) -> AbortOnDrop<Self> {
        AbortOnDrop::new(self)
    }

    /// In a child process: the result if it had come before the fork.
    #[cold]
    fn left_behind(&self) -> Result<T, JoinError> {
        // A thread of the parent's may have held the lock at the fork, and does not give it back here.
        let taken =
            self.state.try_lock().ok().map(|mut state| std::mem::replace(&mut state.slot, Slot::Taken));
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
        let mut state = lock(&self.state);
        match &mut state.slot {
            Slot::Waiting(current) => {
                let old = current.replace(waker);
                drop(state);
                // Its destructor may be foreign code: not under the lock.
                drop(old);
                noted("another core or thread", Poll::Pending)
            }
            Slot::Done(_) => match std::mem::replace(&mut state.slot, Slot::Taken) {
                Slot::Done(result) => Poll::Ready(result),
                Slot::Waiting(_) | Slot::Taken => unreachable!("matched above"),
            },
            Slot::Taken => panic!("{POLLED_AGAIN}"),
        }
    }
}
