//! Starting tasks on the current core.

use std::future::Future;
use std::panic::Location;
use std::rc::Rc;

use super::scheduler::CoreState;
use super::task::JoinHandle;
use super::task_queue::TaskQueue;
use super::task_span;

/// Starts a task on this core, on the [queue](TaskQueue) of the task that calls; outside of a task on the default queue. `name`
/// says what it is in statistics and messages. Dropping the handle detaches it.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn spawn<F: Future + 'static>(name: &'static str, future: F) -> JoinHandle<F::Output> {
    let created_at = Location::caller();
    task_span::spawn("rt::spawn", |core| core.local().current_queue(), name, created_at, future)
}

/// Starts a task on `queue`, which says how much of the core it gets. What it spawns by [`spawn`] is on that queue too. Otherwise as
/// [`spawn`].
///
/// # Panics
///
/// Outside a core, and if `queue` is another core's.
#[track_caller]
pub fn spawn_in<F: Future + 'static>(
    queue: &TaskQueue,
    name: &'static str,
    future: F,
) -> JoinHandle<F::Output> {
    let created_at = Location::caller();
    spawn_at(Some(queue), name, created_at, future)
}

/// As [`spawn_in`] or, without a queue, as [`spawn`], for a caller elsewhere.
#[track_caller]
#[inline]
pub(super) fn spawn_at<F: Future + 'static>(
    queue: Option<&TaskQueue>,
    name: &'static str,
    created_at: &'static Location<'static>,
    future: F,
) -> JoinHandle<F::Output> {
    let number = |core: &Rc<CoreState>| match queue {
        Some(queue) => queue.number_on(core).expect("a task queue is used on the core that it was made on"),
        None => core.local().current_queue(),
    };
    task_span::spawn("rt::spawn_in", number, name, created_at, future)
}

/// Starts the task of a coroutine, for a caller elsewhere.
#[track_caller]
#[inline]
pub(crate) fn spawn_coroutine<F: Future + 'static>(
    queue: Option<&TaskQueue>,
    name: &'static str,
    created_at: &'static Location<'static>,
    future: F,
) -> JoinHandle<F::Output> {
    let task = spawn_at(queue, name, created_at, future);
    task.is_of_a_coroutine();
    task
}
