//! Tasks that end together.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::context::waiting_for;
use super::run_queue::DEFAULT_QUEUE;
use super::task_span;
use super::{JoinError, JoinHandle};

/// Tasks of one core whose results come in the order in which they end. Dropping it cancels those that still run.
#[derive(Debug)]
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

/// Dropped with a task's future.
struct TellsEnd {
    ended: Rc<Ended>,
    id: Rc<Cell<u64>>,
}

impl Drop for TellsEnd {
    fn drop(&mut self) {
        self.ended.tasks.borrow_mut().push_back(self.id.get());
        let joiner = self.ended.joiner.take();
        if let Some(joiner) = joiner {
            joiner.wake();
        }
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

    /// Starts a task in the group.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn spawn(&mut self, name: &'static str, future: impl Future<Output = T> + 'static) {
        let created_at = Location::caller();
        let id = Rc::new(Cell::new(0));
        let tells = TellsEnd { ended: Rc::clone(&self.ended), id: Rc::clone(&id) };
        let task = async move {
            let _tells = tells;
            future.await
        };
        let handle = task_span::spawn("rt::TaskGroup::spawn", |_| DEFAULT_QUEUE, name, created_at, task);
        id.set(handle.id());
        self.running.insert(handle.id(), handle);
    }

    /// How many tasks have not been joined.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether every task has been joined.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Asks every task to end; their results are [`JoinError::Cancelled`].
    pub fn cancel_all(&self) {
        self.running.values().for_each(JoinHandle::cancel);
    }

    /// The result of the next task that ends; `None` if the group is empty. Dropping the future loses no result.
    pub async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        std::future::poll_fn(|cx| self.poll_join_next(cx)).await
    }

    fn poll_join_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, JoinError>>> {
        if self.running.is_empty() {
            return Poll::Ready(None);
        }
        // Cloned before, and the old one dropped after, it is in place: wakers may be foreign code.
        let old = self.ended.joiner.replace(Some(cx.waker().clone()));
        drop(old);
        loop {
            let Some(id) = ({ self.ended.tasks.borrow_mut().pop_front() }) else {
                waiting_for("the end of a task of a group");
                return Poll::Pending;
            };
            let Some(task) = self.running.get_mut(&id) else { continue };
            match Pin::new(task).poll(cx) {
                Poll::Ready(result) => {
                    drop(self.running.remove(&id));
                    return Poll::Ready(Some(result));
                }
                Poll::Pending => {
                    // Polled from inside the destructor of the task's own future: it wakes the joiner when it has ended.
                    self.ended.tasks.borrow_mut().push_front(id);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<T> Drop for TaskGroup<T> {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::cancel);
    }
}
