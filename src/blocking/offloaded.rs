//! What has no asynchronous call and runs on a thread of the core's for blocking work.

use std::io;

use crate::rt::coroutine::wait_unless_cancelled;
use crate::rt::{self, JoinError};

pub(super) fn cancelled() -> io::Error {
    io::Error::other("the coroutine is being cancelled")
}

/// Runs `work` where it may block: on a thread of the core's, or here if this thread has no core.
#[track_caller]
pub(super) fn run<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if !rt::is_in_core() {
        return work();
    }
    match wait_unless_cancelled(rt::offload(name, work)) {
        Some(Ok(result)) => result,
        Some(Err(JoinError::Panicked(payload))) => payload.go_on(),
        Some(Err(_)) => Err(io::Error::other(format!("{name}: the core has no thread for blocking work"))),
        None => Err(cancelled()),
    }
}
