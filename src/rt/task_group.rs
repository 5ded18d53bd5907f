//! Tasks that end together.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::spawn::TaskBuilder;
#[cfg(doc)]
use super::task_queue::TaskQueue;
use super::tasks::{JoinError, JoinHandle, waiting_for};
use crate::user_code::wake_all;

/// Tasks of one core whose results come in the order in which they end. Dropping it cancels those
/// that still run.
///
/// It holds a handle for each task until the task is joined: a program that spawns without end must
/// join as well.
#[derive(Debug)]
#[doc(alias = "JoinSet")]
#[must_use = "dropping it cancels its tasks"]
pub struct TaskGroup<T> {
    running: BTreeMap<u64, JoinHandle<T>>,
    ended: Rc<Ended>,
}

/// The numbers of the tasks whose futures are gone.
#[derive(Debug, Default)]
struct Ended {
    tasks: RefCell<VecDeque<u64>>,
    joiner: RefCell<Option<Waker>>,
}

impl Ended {
    fn first(&self) -> Option<u64> {
        self.tasks.borrow().front().copied()
    }

    fn remove_first(&self) {
        self.tasks.borrow_mut().pop_front();
    }
}

/// Dropped with a task's future.
struct TellsGroup {
    ended: Rc<Ended>,
    id: Rc<Cell<u64>>,
}

impl Drop for TellsGroup {
    fn drop(&mut self) {
        self.ended.tasks.borrow_mut().push_back(self.id.get());
        let joiner = self.ended.joiner.take();
        // A panic may run this, and a second one would end the process.
        wake_all(joiner);
    }
}

impl<T: 'static> Default for TaskGroup<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: 'static> TaskGroup<T> {
    /// Without any task.
    pub fn new() -> Self {
        Self { running: BTreeMap::new(), ended: Rc::default() }
    }

    /// Starts a task in the group, on the [queue](TaskQueue) of the task that calls. Returns its
    /// number, which is unique on its core: [`TaskInfo::id`](crate::observe::TaskInfo::id).
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn spawn(&mut self, future: impl Future<Output = T> + 'static) -> u64 {
        self.spawn_at(TaskBuilder::new(), Location::caller(), future)
    }

    /// Starts a task in the group, with the name and on the queue that `builder` says. Otherwise as
    /// [`spawn`](Self::spawn).
    ///
    /// # Panics
    ///
    /// Outside a core, and if the queue is another core's.
    #[track_caller]
    pub fn spawn_with(&mut self, builder: TaskBuilder<'_>, future: impl Future<Output = T> + 'static) -> u64 {
        self.spawn_at(builder, Location::caller(), future)
    }

    #[track_caller]
    fn spawn_at(
        &mut self,
        builder: TaskBuilder<'_>,
        created_at: &'static Location<'static>,
        future: impl Future<Output = T> + 'static,
    ) -> u64 {
        let number = Rc::new(Cell::new(0));
        let tells = TellsGroup { ended: Rc::clone(&self.ended), id: Rc::clone(&number) };
        let task = async move {
            let _tells = tells;
            future.await
        };
        let handle = builder.spawn_at(created_at, task);
        let id = handle.id();
        number.set(id);
        self.running.insert(id, handle);
        id
    }

    /// How many tasks have not been joined.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether every task has been joined.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Asks every task to end; their results are [`JoinError::Cancelled`]. Does not wait for that:
    /// see [`shutdown`](Self::shutdown).
    pub fn cancel_all(&self) {
        self.running.values().for_each(JoinHandle::cancel);
    }

    /// Lets every task run on without anybody to take its result. The group is empty then.
    pub fn detach_all(&mut self) {
        // Nobody wants to hear of their ends.
        self.ended = Rc::default();
        drop(std::mem::take(&mut self.running));
    }

    /// Cancels every task and waits until all have ended; their results are dropped. The group is
    /// empty then, and can be used again. Dropping the future leaves the group with the tasks that
    /// have not ended, which are cancelled.
    pub async fn shutdown(&mut self) {
        self.cancel_all();
        while let Some(result) = self.join_next().await {
            drop(result);
        }
    }

    /// The result of the next task that ends; `None` if the group is empty. Dropping the future
    /// loses no result.
    pub async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        self.join_next_with_id().await.map(|(_, result)| result)
    }

    /// As [`join_next`](Self::join_next), with the number that [`spawn`](Self::spawn) returned.
    pub async fn join_next_with_id(&mut self) -> Option<(u64, Result<T, JoinError>)> {
        std::future::poll_fn(|cx| self.poll_join_next(cx)).await
    }

    /// The result of a task that has ended; `None` if there is none. Does not wait.
    pub fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
        self.try_join_next_with_id().map(|(_, result)| result)
    }

    /// As [`try_join_next`](Self::try_join_next), with the number that [`spawn`](Self::spawn)
    /// returned.
    pub fn try_join_next_with_id(&mut self) -> Option<(u64, Result<T, JoinError>)> {
        loop {
            let id = self.ended.first()?;
            let Some(task) = self.running.get_mut(&id) else {
                self.ended.remove_first();
                continue;
            };
            // None if this is called from inside the destructor of the task's own future: it has
            // not quite ended.
            let result = task.take()?;
            self.ended.remove_first();
            drop(self.running.remove(&id));
            return Some((id, result));
        }
    }

    fn poll_join_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(u64, Result<T, JoinError>)>> {
        if self.running.is_empty() {
            return Poll::Ready(None);
        }
        // Cloned before, and the old one dropped after, it is in place: wakers may be user code.
        let old = self.ended.joiner.replace(Some(cx.waker().clone()));
        drop(old);
        if let Some(ended) = self.try_join_next_with_id() {
            return Poll::Ready(Some(ended));
        }
        if let Some(id) = self.ended.first()
            && let Some(task) = self.running.get_mut(&id)
            // Polled from inside the destructor of the task's own future: it wakes the joiner when
            // it has ended.
            && let Poll::Ready(result) = Pin::new(task).poll(cx)
        {
            self.ended.remove_first();
            drop(self.running.remove(&id));
            return Poll::Ready(Some((id, result)));
        }
        waiting_for("the end of a task of a group");
        Poll::Pending
    }
}

impl<T> Drop for TaskGroup<T> {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::cancel);
    }
}
