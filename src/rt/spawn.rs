//! Starting tasks.

use std::future::Future;
use std::panic::Location;
use std::rc::Rc;

use super::handle::Handle;
use super::remote_join::RemoteJoin;
use super::scheduler::CoreState;
use super::task_queue::TaskQueue;
use super::task_span;
use super::tasks::JoinHandle;

/// Starts a task on this core, on the [queue](TaskQueue) of the calling task; outside a task on the
/// default queue. Dropping the handle detaches the task.
///
/// In statistics and messages the task is called after the place of this call. [`named`] gives it a
/// name.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    TaskBuilder::new().spawn(future)
}

/// A task with a name, for statistics and messages: `rt::named("accept").spawn(…)`.
pub fn named(name: &'static str) -> TaskBuilder<'static> {
    TaskBuilder::new().name(name)
}

/// How a task is started: its name and its queue.
///
/// ```
/// # boson::run(async {
/// use boson::rt;
///
/// let task = rt::named("sum").spawn(async { 1 + 1 });
/// assert_eq!(task.name(), "sum");
/// assert_eq!(task.await.expect("no panic"), 2);
/// # });
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "it starts with `spawn`"]
pub struct TaskBuilder<'a> {
    name: Option<&'static str>,
    queue: Option<&'a TaskQueue>,
}

impl<'a> TaskBuilder<'a> {
    /// A task that is called after the place where it is spawned, on the queue of the task that
    /// spawns it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the task a name.
    pub fn name(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Puts the task on `queue`, which says how much of the core it gets. What the task spawns is
    /// on that queue too, unless it says otherwise.
    pub fn queue<'b>(self, queue: &'b TaskQueue) -> TaskBuilder<'b>
    where
        'a: 'b,
    {
        TaskBuilder { name: self.name, queue: Some(queue) }
    }

    /// Starts the task on this core. Dropping the handle detaches it.
    ///
    /// # Panics
    ///
    /// Outside a core, and if the queue is another core's.
    #[track_caller]
    pub fn spawn<F: Future + 'static>(self, future: F) -> JoinHandle<F::Output> {
        self.spawn_at(Location::caller(), future)
    }

    /// Starts the task on the core of `handle`, from any thread. Otherwise as [`Handle::spawn`].
    ///
    /// # Panics
    ///
    /// If a queue was given: a queue belongs to a core, and only tasks of that core can spawn on
    /// it.
    #[track_caller]
    pub fn spawn_on<M, F>(self, handle: &Handle, make: M) -> RemoteJoin<F::Output>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        assert!(
            self.queue.is_none(),
            "a task queue belongs to its core: send a task there, which spawns on the queue"
        );
        handle.spawn_at(self.name, Location::caller(), |_| {}, async move || Ok(make().await))
    }

    /// As [`spawn`](Self::spawn), for a caller elsewhere.
    #[track_caller]
    #[inline]
    pub(crate) fn spawn_at<F: Future + 'static>(
        self,
        created_at: &'static Location<'static>,
        future: F,
    ) -> JoinHandle<F::Output> {
        let number = |core: &Rc<CoreState>| match self.queue {
            Some(queue) => {
                queue.number_on(core).expect("a task queue is used on the core that it was made on")
            }
            None => core.local().current_queue(),
        };
        task_span::spawn("rt::spawn", number, self.name, created_at, future)
    }

    /// Starts the task of a coroutine, for a caller elsewhere.
    #[track_caller]
    #[inline]
    pub(crate) fn spawn_coroutine_at<F: Future + 'static>(
        self,
        created_at: &'static Location<'static>,
        future: F,
    ) -> JoinHandle<F::Output> {
        let task = self.spawn_at(created_at, future);
        task.is_of_a_coroutine();
        task
    }
}
