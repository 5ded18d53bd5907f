//! What the cross-core primitives refuse, as errors of this crate.

pub use super::local::TryLockError;
pub use tokio::sync::{
    AcquireError, SetError, TryAcquireError, TryLockError as RwTryLockError,
    mpsc::error::{SendError, TrySendError},
};
use tokio::sync::{broadcast, oneshot, watch};

use crate::error::{Error, ErrorKind};

impl From<AcquireError> for Error {
    fn from(error: AcquireError) -> Self {
        Self::new(ErrorKind::Closed, "acquire").because(error.to_string())
    }
}

impl From<TryAcquireError> for Error {
    fn from(error: TryAcquireError) -> Self {
        let kind = match error {
            TryAcquireError::Closed => ErrorKind::Closed,
            TryAcquireError::NoPermits => ErrorKind::LimitReached,
        };
        Self::new(kind, "acquire").because(error.to_string())
    }
}

impl From<RwTryLockError> for Error {
    fn from(error: RwTryLockError) -> Self {
        Self::new(ErrorKind::InUse, "lock").because(error.to_string())
    }
}

impl<T> From<SetError<T>> for Error {
    fn from(_: SetError<T>) -> Self {
        Self::new(ErrorKind::InUse, "set").because("there is a value, or one is being made")
    }
}

impl<T> From<SendError<T>> for Error {
    fn from(error: SendError<T>) -> Self {
        Self::new(ErrorKind::Closed, "send").because(error.to_string())
    }
}

impl<T> From<TrySendError<T>> for Error {
    fn from(error: TrySendError<T>) -> Self {
        let kind = match error {
            TrySendError::Closed(_) => ErrorKind::Closed,
            TrySendError::Full(_) => ErrorKind::LimitReached,
        };
        Self::new(kind, "send").because(error.to_string())
    }
}

impl<T> From<broadcast::error::SendError<T>> for Error {
    fn from(error: broadcast::error::SendError<T>) -> Self {
        Self::new(ErrorKind::Closed, "send").because(error.to_string())
    }
}

impl<T> From<watch::error::SendError<T>> for Error {
    fn from(error: watch::error::SendError<T>) -> Self {
        Self::new(ErrorKind::Closed, "send").because(error.to_string())
    }
}

impl From<oneshot::error::RecvError> for Error {
    fn from(error: oneshot::error::RecvError) -> Self {
        Self::new(ErrorKind::Closed, "receive").because(error.to_string())
    }
}

impl From<watch::error::RecvError> for Error {
    fn from(error: watch::error::RecvError) -> Self {
        Self::new(ErrorKind::Closed, "receive").because(error.to_string())
    }
}

impl From<broadcast::error::RecvError> for Error {
    fn from(error: broadcast::error::RecvError) -> Self {
        let kind = match error {
            broadcast::error::RecvError::Closed => ErrorKind::Closed,
            broadcast::error::RecvError::Lagged(_) => ErrorKind::LimitReached,
        };
        Self::new(kind, "receive").because(error.to_string())
    }
}
