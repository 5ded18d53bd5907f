//! Reaching a core from other threads.

use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::task::Poll;

use super::record::Beat;
use super::remote_join::{RemoteJoin, SharedResult, oneshot};
use super::scheduler::{CoreState, SteppedCore, in_core};
use super::task_span;
use super::tasks::{Inbox, JoinError, JoinHandle, Message, Unsent};
use crate::fork::Process;
use crate::user_code::{PanicPayload, caught};

/// Sends work to a core from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: Arc<Inbox>,
    beat: Arc<Beat>,
    process: Process,
}

impl Handle {
    /// To `core`.
    pub(super) fn of(core: &CoreState) -> Self {
        Self { inbox: Arc::clone(core.inbox()), beat: Arc::clone(core.beat()), process: core.process() }
    }

    /// To a core of a simulation.
    pub(crate) fn of_stepped(core: &SteppedCore) -> Self {
        Self::of(core.state())
    }

    pub(crate) fn beat(&self) -> &Arc<Beat> {
        &self.beat
    }

    /// The name and creation place of the task that the core polls at this moment, as far as
    /// another thread can tell. Meant for a core that does not answer: one that runs is somewhere
    /// else by the time this returns.
    pub fn polling(&self) -> Option<(&'static str, &'static Location<'static>)> {
        self.beat.polling().map(|site| (site.name, site.created_at))
    }

    /// Makes a future on the core with `make` and runs it there as a task. The result is a future
    /// that any executor on any thread can await; dropping it lets the task run on.
    /// ([`named(…).spawn_on(…)`](super::TaskBuilder::spawn_on) gives the task a name;
    /// [`thread::Builder::spawn_on`](crate::thread::Builder::spawn_on) starts a coroutine.)
    ///
    /// The task is on the default queue of the core. A [`TaskQueue`](crate::rt::queue::TaskQueue)
    /// is its core's and cannot be named from elsewhere: work for another one is spawned from a
    /// task of that core that holds it.
    ///
    /// Never waits. If the core has as many messages waiting as it may
    /// ([`CoreConfig::messages`](super::CoreConfig::messages)), the task is not started and the
    /// result is [`JoinError::Full`]. In a child process of the core's it is
    /// [`JoinError::Cancelled`]: the core is not there.
    #[track_caller]
    pub fn spawn<M, F>(&self, make: M) -> RemoteJoin<F::Output>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_at(None, Location::caller(), |_| {}, async move || Ok(make().await))
    }

    /// As [`spawn`](Self::spawn), for a caller elsewhere and a task that may fail. `spawned` is
    /// called on the core with the task.
    pub(crate) fn spawn_at<M, T>(
        &self,
        name: Option<&'static str>,
        created_at: &'static Location<'static>,
        spawned: impl FnOnce(&JoinHandle<()>) + Send + 'static,
        make: M,
    ) -> RemoteJoin<T>
    where
        M: AsyncFnOnce() -> Result<T, JoinError> + Send + 'static,
        T: Send + 'static,
    {
        let (sender, join) = oneshot();
        let shared = sender.shared();
        let of_task = shared.clone();
        let message = Box::new(move || {
            if of_task.is_cancelled() {
                return drop(sender);
            }
            let task = async move {
                sender.send(catch_panic(async move { make().await }).await.and_then(|result| result))
            };
            // Messages run between tasks, so this is the default queue.
            let task = task_span::spawn(
                "Handle::spawn",
                |core| core.local().current_queue(),
                name,
                created_at,
                task,
            );
            spawned(&task);
            of_task.started(task.canceller());
        });
        self.send(message, &shared);
        join
    }

    /// Runs `call` on the core, between tasks, and gives what it returns. It must not block.
    /// Otherwise as [`Handle::spawn`].
    pub fn run<C, T>(&self, call: C) -> RemoteJoin<T>
    where
        C: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (sender, join) = oneshot();
        let shared = sender.shared();
        let of_call = shared.clone();
        let message = Box::new(move || {
            if of_call.is_cancelled() {
                return drop(sender);
            }
            sender.send(caught(call).map_err(panicked));
        });
        self.send(message, &shared);
        join
    }

    /// A message that cannot be sent is dropped, and its `ResultSender` with it, which says
    /// `Cancelled` unless another reason was given before.
    fn send<T>(&self, message: Message, shared: &SharedResult<T>) {
        if self.process.is_left() {
            // Not the inbox: somebody may have held its lock when the process was forked.
            return drop(message);
        }
        match self.inbox.send(message) {
            Ok(()) => {}
            Err(Unsent::Closed(message)) => drop(message),
            Err(Unsent::Full(message)) => {
                shared.put(Err(JoinError::Full));
                drop(message);
            }
        }
    }
}

/// Turns a panic of `future` into an error.
async fn catch_panic<F: Future>(future: F) -> Result<F::Output, JoinError> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match caught(|| future.as_mut().poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(payload) => Poll::Ready(Err(panicked(payload))),
    })
    .await
}

/// Counts the panic, which ends no task as the loop sees it.
fn panicked(payload: PanicPayload) -> JoinError {
    in_core("Handle::spawn", |core| core.count_panic());
    JoinError::Panicked(payload)
}
