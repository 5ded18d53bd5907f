//! What became of a transfer, and a future that makes one without holding its buffer twice.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;

use crate::error::{Error, Outcome, Result};

/// What became of a transfer, and its buffer: as the parts of the network hand it to each other.
pub(crate) type Transferred<T, B> = (Result<T>, B);

/// A transfer that takes its buffer into an operation, in the same place.
pub(crate) enum Step<B, O> {
    /// It begins when it is first polled.
    Begins(B),
    /// The operation has the buffer.
    UnderWay(O),
    /// The buffer was given back, or is being moved on.
    Over,
}

impl<B, O: Future + Unpin> Step<B, O> {
    /// Polls the operation, which `begin` makes first unless it has a result already, and makes the
    /// result of what it gives.
    ///
    /// # Panics
    ///
    /// If polled again after its result, as every future may.
    pub(crate) fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        begin: impl FnOnce(B) -> std::result::Result<O, T>,
        result: impl FnOnce(O::Output) -> T,
    ) -> Poll<T> {
        if matches!(self, Self::Begins(_))
            && let Self::Begins(buf) = std::mem::replace(self, Self::Over)
        {
            match begin(buf) {
                Ok(operation) => *self = Self::UnderWay(operation),
                Err(known) => return Poll::Ready(known),
            }
        }
        let Self::UnderWay(operation) = self else {
            panic!("a transfer is not polled again after its result")
        };
        let output = ready!(Pin::new(operation).poll(cx));
        *self = Self::Over;
        Poll::Ready(result(output))
    }
}

/// The result of a system call that does not wait; `None` if it would have had to.
pub(super) fn at_once<T>(
    result: std::result::Result<T, Errno>,
    operation: &'static str,
) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(Error::os(errno.raw_os_error(), operation)),
    }
}

/// The result of a write that does not wait; `None` if it would have had to.
pub(super) fn written_at_once(result: std::result::Result<usize, Errno>) -> Result<Option<usize>> {
    at_once(result, "write").map_err(|error| error.outcome_is(Outcome::Unknown))
}

/// The result of a write that the kernel was asked for.
pub(super) fn written(result: io::Result<u32>) -> Result<usize> {
    result.map(|len| len as usize).map_err(|error| from_io(&error, "write").outcome_is(Outcome::Unknown))
}

pub(crate) fn from_io(error: &io::Error, operation: &'static str) -> Error {
    Error::os(error.raw_os_error().unwrap_or(libc::EIO), operation)
}
