//! What the primitives of one core refuse. The shapes and names are those of the cross-core ones.

use std::fmt;

/// The semaphore is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcquireError;

/// Why permits could not be had at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryAcquireError {
    /// The semaphore is closed.
    Closed,
    /// There are too few, or others wait.
    NoPermits,
}

/// Somebody holds the lock, or waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TryLockError;

/// Nobody receives any more; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SendError<T>(pub T);

/// Why a value could not be sent at once; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The channel is full, or others wait to send.
    Full(T),
    /// Nobody receives any more.
    Closed(T),
}

/// Why a value was not set; it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetError<T> {
    /// There is one.
    AlreadyInitializedError(T),
    /// One is being made.
    InitializingError(T),
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the semaphore is closed")
    }
}

impl fmt::Display for TryAcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the semaphore is closed",
            Self::NoPermits => "too few permits, or others wait",
        })
    }
}

impl fmt::Display for TryLockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lock is held or waited for")
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody receives any more")
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendError(..)")
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the channel is full",
            Self::Closed(_) => "nobody receives any more",
        })
    }
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> fmt::Display for SetError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyInitializedError(_) => "there is a value",
            Self::InitializingError(_) => "a value is being made",
        })
    }
}

impl std::error::Error for AcquireError {}
impl std::error::Error for TryAcquireError {}
impl std::error::Error for TryLockError {}
impl<T> std::error::Error for SendError<T> {}
impl<T> std::error::Error for TrySendError<T> {}
impl<T: fmt::Debug> std::error::Error for SetError<T> {}

const NOTHING_YET: &str = "nothing is there yet";
const CLOSED: &str = "nobody sends any more";

/// What a [`broadcast`](super::broadcast) channel refuses.
pub mod broadcast {
    use std::fmt;

    pub use super::SendError;

    /// Why nothing was received.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum RecvError {
        /// Everything was received and nobody sends any more.
        Closed,
        /// This many values were overwritten before this receiver had seen them. The next call gets
        /// the oldest one kept.
        Lagged(u64),
    }

    /// Why nothing was received at once.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum TryRecvError {
        /// Nothing is there yet.
        Empty,
        /// Everything was received and nobody sends any more.
        Closed,
        /// As [`RecvError::Lagged`].
        Lagged(u64),
    }

    impl fmt::Display for RecvError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Closed => f.write_str(super::CLOSED),
                Self::Lagged(count) => write!(f, "{count} values were overwritten before they were seen"),
            }
        }
    }

    impl fmt::Display for TryRecvError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Empty => f.write_str(super::NOTHING_YET),
                Self::Closed => RecvError::Closed.fmt(f),
                Self::Lagged(count) => RecvError::Lagged(*count).fmt(f),
            }
        }
    }

    impl std::error::Error for RecvError {}
    impl std::error::Error for TryRecvError {}
}

/// What an [`mpsc`](super::mpsc) channel refuses.
pub mod mpsc {
    use std::fmt;

    pub use super::{SendError, TrySendError};

    /// Why nothing was received at once.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum TryRecvError {
        /// Nothing is there yet.
        Empty,
        /// Everything was received and nobody sends any more.
        Disconnected,
    }

    impl fmt::Display for TryRecvError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Self::Empty => super::NOTHING_YET,
                Self::Disconnected => super::CLOSED,
            })
        }
    }

    impl std::error::Error for TryRecvError {}
}

/// What a [`oneshot`](super::oneshot) channel refuses.
pub mod oneshot {
    use std::fmt;

    /// The sender is gone, or the receiver closed, and nothing was sent.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RecvError;

    /// Why nothing was received at once.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum TryRecvError {
        /// Nothing is there yet.
        Empty,
        /// As [`RecvError`].
        Closed,
    }

    impl fmt::Display for RecvError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(super::CLOSED)
        }
    }

    impl fmt::Display for TryRecvError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Self::Empty => super::NOTHING_YET,
                Self::Closed => super::CLOSED,
            })
        }
    }

    impl std::error::Error for RecvError {}
    impl std::error::Error for TryRecvError {}
}

/// What a [`watch`](super::watch) channel refuses.
pub mod watch {
    use std::fmt;

    pub use super::SendError;

    /// The last value was seen, and the sender is gone.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RecvError;

    impl fmt::Display for RecvError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(super::CLOSED)
        }
    }

    impl std::error::Error for RecvError {}
}
