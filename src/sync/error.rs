//! What the primitives refuse, as errors of this crate: in one table for those between threads and
//! those of one core.

pub use super::local::TryLockError;
pub use tokio::sync::{
    AcquireError, SetError, TryAcquireError, TryLockError as RwTryLockError,
    mpsc::error::{SendError, TrySendError},
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::local;
use crate::error::{Error, ErrorKind};

/// `"operation": Refusal, |refusal| its kind;` makes it an [`Error`] with the refusal's own words.
macro_rules! refusals {
    ($($(<$value:ident>)? $operation:literal: $refusal:ty, $kind:expr;)+) => {$(
        impl$(<$value>)? From<$refusal> for Error {
            fn from(refusal: $refusal) -> Self {
                let kind: fn(&$refusal) -> ErrorKind = $kind;
                Self::new(kind(&refusal), $operation).because(refusal.to_string())
            }
        }
    )+};
}

refusals! {
    "acquire": AcquireError, |_| ErrorKind::Closed;
    "acquire": local::AcquireError, |_| ErrorKind::Closed;
    "acquire": TryAcquireError, |refusal| match refusal {
        TryAcquireError::Closed => ErrorKind::Closed,
        TryAcquireError::NoPermits => ErrorKind::LimitReached,
    };
    "acquire": local::TryAcquireError, |refusal| match refusal {
        local::TryAcquireError::Closed => ErrorKind::Closed,
        local::TryAcquireError::NoPermits => ErrorKind::LimitReached,
    };
    "lock": TryLockError, |_| ErrorKind::InUse;
    "lock": RwTryLockError, |_| ErrorKind::InUse;
    <T> "send": SendError<T>, |_| ErrorKind::Closed;
    <T> "send": local::SendError<T>, |_| ErrorKind::Closed;
    <T> "send": broadcast::error::SendError<T>, |_| ErrorKind::Closed;
    <T> "send": watch::error::SendError<T>, |_| ErrorKind::Closed;
    <T> "send": TrySendError<T>, |refusal| match refusal {
        TrySendError::Closed(_) => ErrorKind::Closed,
        TrySendError::Full(_) => ErrorKind::LimitReached,
    };
    <T> "send": local::TrySendError<T>, |refusal| match refusal {
        local::TrySendError::Closed(_) => ErrorKind::Closed,
        local::TrySendError::Full(_) => ErrorKind::LimitReached,
    };
    "receive": oneshot::error::RecvError, |_| ErrorKind::Closed;
    "receive": watch::error::RecvError, |_| ErrorKind::Closed;
    "receive": broadcast::error::RecvError, |refusal| match refusal {
        broadcast::error::RecvError::Closed => ErrorKind::Closed,
        broadcast::error::RecvError::Lagged(_) => ErrorKind::LimitReached,
    };
    "receive": local::oneshot::error::RecvError, |_| ErrorKind::Closed;
    "receive": local::watch::error::RecvError, |_| ErrorKind::Closed;
    "receive": local::broadcast::error::RecvError, |refusal| match refusal {
        local::broadcast::error::RecvError::Closed => ErrorKind::Closed,
        local::broadcast::error::RecvError::Lagged(_) => ErrorKind::LimitReached,
    };
    // Empty: nothing within no time at all.
    "receive": mpsc::error::TryRecvError, |refusal| match refusal {
        mpsc::error::TryRecvError::Disconnected => ErrorKind::Closed,
        mpsc::error::TryRecvError::Empty => ErrorKind::TimedOut,
    };
    "receive": local::mpsc::error::TryRecvError, |refusal| match refusal {
        local::mpsc::error::TryRecvError::Disconnected => ErrorKind::Closed,
        local::mpsc::error::TryRecvError::Empty => ErrorKind::TimedOut,
    };
    "receive": oneshot::error::TryRecvError, |refusal| match refusal {
        oneshot::error::TryRecvError::Closed => ErrorKind::Closed,
        oneshot::error::TryRecvError::Empty => ErrorKind::TimedOut,
    };
    "receive": local::oneshot::error::TryRecvError, |refusal| match refusal {
        local::oneshot::error::TryRecvError::Closed => ErrorKind::Closed,
        local::oneshot::error::TryRecvError::Empty => ErrorKind::TimedOut,
    };
    "receive": broadcast::error::TryRecvError, |refusal| match refusal {
        broadcast::error::TryRecvError::Closed => ErrorKind::Closed,
        broadcast::error::TryRecvError::Empty => ErrorKind::TimedOut,
        broadcast::error::TryRecvError::Lagged(_) => ErrorKind::LimitReached,
    };
    "receive": local::broadcast::error::TryRecvError, |refusal| match refusal {
        local::broadcast::error::TryRecvError::Closed => ErrorKind::Closed,
        local::broadcast::error::TryRecvError::Empty => ErrorKind::TimedOut,
        local::broadcast::error::TryRecvError::Lagged(_) => ErrorKind::LimitReached,
    };
}

impl<T> From<SetError<T>> for Error {
    fn from(_: SetError<T>) -> Self {
        Self::new(ErrorKind::InUse, "set").because("there is a value, or one is being made")
    }
}

impl<T> From<local::SetError<T>> for Error {
    fn from(refusal: local::SetError<T>) -> Self {
        Self::new(ErrorKind::InUse, "set").because(refusal.to_string())
    }
}
