//! What is known of a task from outside.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

/// What is known of a task. Given by [`tasks`](crate::observe::tasks) and
/// [`current_task`](crate::observe::current_task).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskInfo {
    /// Its number, unique on its core.
    pub id: u64,
    /// The name that it was given.
    pub name: &'static str,
    /// Where it was spawned.
    pub created_at: &'static Location<'static>,
    /// What it is doing.
    pub state: TaskState,
    /// What it waits for, as the future that it waits for says; `None` if that does not say.
    pub waits_for: Option<&'static str>,
    /// How long ago it was last polled, or spawned if it never was; to a turn of the core (about 10
    /// µs).
    pub since: Duration,
    /// How often it was polled, modulo 2³².
    pub polls: u32,
    /// The name of the [task queue](crate::rt::queue::TaskQueue) that it is on.
    pub queue: &'static str,
    /// Whether it is a coroutine; otherwise it is an async task.
    pub is_coroutine: bool,
    /// Whether it is the future of the [`block_on`](crate::rt::Core::block_on) that goes on. Its
    /// name is `block_on`, and it was created where that was called.
    pub is_block_on: bool,
    /// The room on its stack in bytes, to 4 KiB, if it has one: that of a coroutine that has
    /// started.
    pub stack_bytes: Option<usize>,
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskState {
    /// It is being polled: it is the task that asks.
    Running,
    /// It was woken, and waits for its turn.
    Ready,
    /// It waits for something.
    Waiting,
}

/// Which of a core's tasks [`tasks_in`](crate::observe::tasks_in) is to tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskRange {
    /// Where to begin, and which way to go.
    pub order: TaskOrder,
    /// Leaves out the task with this number and those that come before it in this order: the last
    /// one of the piece before.
    pub after: Option<u64>,
    /// At most this many.
    pub limit: usize,
}

/// An order of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOrder {
    /// From the one that was spawned first: rising numbers.
    OldestFirst,
    /// From the one that was spawned last: falling numbers.
    NewestFirst,
}

impl TaskRange {
    /// Every task, the newest first.
    pub const ALL: Self = Self { order: TaskOrder::NewestFirst, after: None, limit: usize::MAX };

    pub(in crate::rt) fn contains(&self, id: u64) -> bool {
        self.after.is_none_or(|after| match self.order {
            TaskOrder::OldestFirst => id > after,
            TaskOrder::NewestFirst => id < after,
        })
    }
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} ", self.id, self.name)?;
        match (self.state, self.waits_for) {
            (TaskState::Running, _) => f.write_str("runs")?,
            (TaskState::Ready, _) => f.write_str("is ready")?,
            (TaskState::Waiting, Some(what)) => write!(f, "waits for {what}")?,
            (TaskState::Waiting, None) => f.write_str("waits")?,
        }
        write!(f, " since {:?}, {} polls, spawned at {}", self.since, self.polls, self.created_at)
    }
}
