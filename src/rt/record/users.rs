//! What the queues and the pollers of a core did.

use std::time::Duration;

/// What a task queue did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskQueueStats {
    /// Its name; that of the queue that every core has is `default`.
    pub name: &'static str,
    /// Its shares now: 1 to 1000, and 100 for the default queue.
    pub shares: u16,
    /// How many of its tasks are ready to run.
    pub ready: usize,
    /// How long its tasks ran. Measured only while there is more than one queue.
    pub runtime: Duration,
}

/// What a poller did since it was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PollerStats {
    /// Its [name](crate::rt::poller::Poller::name).
    pub name: &'static str,
    /// How many events it may handle per turn.
    pub budget: usize,
    /// How many it handled.
    pub events: u64,
    /// How many times it handled as many as it may: often, if it gets more than the core lets it
    /// handle.
    pub exhausted: u64,
}
