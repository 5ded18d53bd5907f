//! What the primitives refuse, as errors of this crate: in one table for those between threads and those of one core.

pub use super::local::TryLockError;
pub use tokio::sync::{
    AcquireError, SetError, TryAcquireError, TryLockError as RwTryLockError,
    mpsc::error::{SendError, TrySendError},
};
use tokio::sync::{broadcast, oneshot, watch};

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
    "receive": local::RecvError, |refusal| match refusal {
        local::RecvError::Closed => ErrorKind::Closed,
        local::RecvError::Lagged(_) => ErrorKind::LimitReached,
    };
    "receive": local::TryRecvError, |refusal| match refusal {
        local::TryRecvError::Disconnected => ErrorKind::Closed,
        // Nothing within no time at all.
        local::TryRecvError::Empty => ErrorKind::TimedOut,
        local::TryRecvError::Lagged(_) => ErrorKind::LimitReached,
    };
}

impl<T> From<SetError<T>> for Error {
    fn from(_: SetError<T>) -> Self {
        Self::new(ErrorKind::InUse, "set").because("there is a value, or one is being made")
    }
}
