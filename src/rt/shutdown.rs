//! The orderly end of a core.

use std::panic::Location;

/// How a core ends. See [`Core::shutdown`](super::Core::shutdown).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// Tasks and what other threads sent run until they end, as long as there is time. Tasks that
    /// are left are cancelled.
    Drain,
    /// Tasks are cancelled at once: their futures are dropped.
    Cancel,
}

/// What became of a core's tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Tasks that ended by themselves since the shutdown began.
    pub finished: u64,
    /// The name and creation place of each task that was cancelled.
    pub cancelled: Vec<(&'static str, &'static Location<'static>)>,
}
