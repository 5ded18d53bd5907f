//! Looking at cores and tasks: counters, latencies, the list of tasks, stuck cores.
//!
//! | from | there is |
//! |---|---|
//! | a task of the core | [`stats`], [`latencies`], [`tasks`], [`tasks_in`], [`current_task`], [`task_queues`], [`pollers`] |
//! | another thread | [`Watchdog`], which reports a core that is stuck while it is; [`Handle::run`](crate::rt::Handle::run) with any of the above |
//! | another process | an [`Inspector`](inspect::Inspector) answers on a Unix socket; `boson top` and [`inspect::Client`] ask |
//!
//! A future of your own says what its task waits for with
//! [`rt::waits_for`](crate::rt::waits_for()).

pub mod inspect;
mod watchdog;

pub use crate::rt::look::{current_task, latencies, pollers, stats, task_queues, tasks, tasks_in};
pub use crate::rt::record::{CoreLatencies, CoreStats, Histogram, TaskInfo, TaskOrder, TaskRange, TaskState};
pub use crate::rt::record::{PollerStats, TaskQueueStats};
pub use watchdog::{Stall, Watchdog};
