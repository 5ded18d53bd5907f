//! Why a task has no result.

use std::any::Any;
use std::fmt;

use crate::error::{Error, ErrorKind, Outcome};
use crate::user_code::PanicPayload;

/// Why a task has no result.
///
/// It becomes a [`boson::Error`](Error) with `?`: [`Panicked`](ErrorKind::Panicked) and
/// [`Cancelled`](ErrorKind::Cancelled), both with outcome [`Unknown`](Outcome::Unknown), because
/// the task may have done a part of its work; [`LimitReached`](ErrorKind::LimitReached) for
/// [`Full`](Self::Full); and the error itself for [`NotStarted`](Self::NotStarted).
#[derive(Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// It panicked; this is what it panicked with.
    Panicked(PanicPayload),
    /// It was cancelled, or its core ended.
    Cancelled,
    /// It was not started: the core has no room for more messages.
    Full,
    /// It was not started, for this reason: there was no room for its stack.
    NotStarted(Error),
}

impl JoinError {
    /// Whether the task panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self, Self::Panicked(_))
    }

    /// Whether the task was cancelled, or its core ended.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }

    /// What the task panicked with, to go on with it by [`std::panic::resume_unwind`].
    ///
    /// # Panics
    ///
    /// If it did not panic.
    #[track_caller]
    pub fn into_panic(self) -> Box<dyn Any + Send> {
        match self.try_into_panic() {
            Ok(payload) => payload,
            Err(error) => panic!("not a panic: {error}"),
        }
    }

    /// What the task panicked with.
    ///
    /// # Errors
    ///
    /// The error itself if the task did not panic.
    pub fn try_into_panic(self) -> Result<Box<dyn Any + Send>, Self> {
        match self {
            Self::Panicked(payload) => Ok(payload.into_inner()),
            other => Err(other),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(payload) => write!(f, "the task panicked: {payload}"),
            Self::Cancelled => f.write_str("the task was cancelled"),
            Self::Full => f.write_str("the task was not started: its core has no room for more messages"),
            Self::NotStarted(error) => write!(f, "the task was not started: {error}"),
        }
    }
}

impl std::error::Error for JoinError {}

impl From<JoinError> for Error {
    #[cold]
    fn from(error: JoinError) -> Self {
        let (kind, outcome) = match &error {
            JoinError::Panicked(_) => (ErrorKind::Panicked, Outcome::Unknown),
            JoinError::Cancelled => (ErrorKind::Cancelled, Outcome::Unknown),
            JoinError::Full => (ErrorKind::LimitReached, Outcome::NotStarted),
            JoinError::NotStarted(_) => (ErrorKind::Os, Outcome::NotStarted),
        };
        match error {
            JoinError::NotStarted(reason) => reason,
            error => Self::new(kind, "join a task").because(error.to_string()).outcome_is(outcome),
        }
    }
}
