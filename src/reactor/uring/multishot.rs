//! Requests that complete many times: one that receives, or accepts, until it is told to stop.

use super::buffer_ring::Chunk;
use super::slots::Completed;

/// A completion of a request with many.
pub(in crate::reactor) struct Event {
    /// As the kernel gave it.
    pub(in crate::reactor) result: i32,
    /// What it wrote, if it took a buffer.
    pub(in crate::reactor) chunk: Option<Chunk>,
    /// Whether more completions will come.
    pub(in crate::reactor) more: bool,
}

/// What a request with many completions feeds.
pub(in crate::reactor) trait Multishot {
    /// Takes one completion and says whether to cancel the request. The tasks to wake go to
    /// `completed`.
    ///
    /// Runs inside the reactor: it neither calls the reactor nor runs user code.
    fn event(&self, event: Event, completed: &mut Vec<Completed>) -> bool;
}
