//! What a core says about itself and its tasks. Every function here panics outside a core.

use super::record::{CoreLatencies, CoreStats, PollerStats, TaskInfo, TaskQueueStats, TaskRange};
use super::scheduler::in_core;

/// The core's counters.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn stats() -> CoreStats {
    in_core("observe::stats", |core| core.stats())
}

/// How long things took on this core.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn latencies() -> CoreLatencies {
    in_core("observe::latencies", |core| core.latencies())
}

/// What this core's task queues did.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn task_queues() -> Vec<TaskQueueStats> {
    in_core("observe::task_queues", |core| core.queues().stats())
}

/// What this core's pollers did, in the order in which they are polled.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn pollers() -> Vec<PollerStats> {
    in_core("observe::pollers", |core| core.poller_stats())
}

/// What is known of every task on this core that has not ended, the newest first. The future of
/// [`block_on`](super::Core::block_on) is one of them.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn tasks() -> Vec<TaskInfo> {
    in_core("observe::tasks", |core| core.tasks(TaskRange::ALL))
}

/// What is known of the task that is being polled; `None` between tasks: in a message
/// ([`Handle::run`](crate::rt::Handle::run)), a waker that a timer or a device calls, and a poller.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn current_task() -> Option<TaskInfo> {
    in_core("observe::current_task", |core| core.current_task())
}

/// What is known of some tasks on this core: a piece of [`tasks`], for cores with very many. Takes
/// time for each task that it has to pass by.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn tasks_in(range: TaskRange) -> Vec<TaskInfo> {
    in_core("observe::tasks_in", |core| core.tasks(range))
}
