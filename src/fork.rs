//! One policy for the child of a fork: what it may do with its copies of what its parent made.
//!
//! A fork copies the memory of a process and one of its threads. Descriptors are shared, and so are
//! the rings behind them: an entry that the child queued would be its parent's operation. Threads
//! are not in the child, and a lock that one of them held is held there forever. So the child
//! leaves alone what it has a copy of. It may make cores of its own, and call exec.
//!
//! | copy | use in the child | its end in the child | why |
//! |---|---|---|---|
//! | a core: `block_on`, `shutdown`, a turn, the functions of `rt`, a new operation | an error ([`check`](Process::check)); a panic where the call returns none ([`assert`](Process::assert)) | tasks, timers and ring are leaked; nothing runs | they are the parent's, and go on there |
//! | an operation in flight | | its value is leaked, and nothing is cancelled | the kernel would cancel the parent's |
//! | a fixed-file slot | | the child's descriptor closes, the slot stays taken | the table is the parent's |
//! | a `Handle` | what it sends is dropped: [`JoinError::Cancelled`](crate::rt::JoinError::Cancelled) | as usual | the core is not there, and its inbox may be locked |
//! | a `RemoteJoin` | gives the result if it was there before the fork, `Cancelled` otherwise; cancels nothing | as usual | as above |
//! | a `CoreThread`, a `Watchdog` | an error | nobody waits for the thread | it is not there |
//! | an `Inspector` | | its socket is neither shut down nor removed | the parent answers there |
//! | the name of a Unix socket | | it is not removed | the parent listens there |
//!
//! Each of them keeps the [`Process`] that made it and asks that. A fork is noticed once any of
//! them was made.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// How many forks lie between this process and the first one that made a core.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static WATCH: Once = Once::new();

/// Runs in the child of a fork, where only async-signal-safe things are allowed: an atomic addition
/// is one.
extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The process that made something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(u32);

impl Process {
    /// The calling one.
    pub(crate) fn current() -> Self {
        WATCH.call_once(|| {
            // SAFETY: `in_child` is a function forever, and does what a handler in a child may do.
            // It fails only without memory, and then forks go unnoticed.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether the calling process is a child of this one, and leaves alone what this one made.
    #[inline]
    pub(crate) fn is_left(self) -> bool {
        GENERATION.load(Ordering::Relaxed) != self.0
    }

    /// For a call that returns an error.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) in a child.
    #[inline]
    pub(crate) fn check(self, operation: &'static str) -> Result<()> {
        if self.is_left() { Err(error(operation)) } else { Ok(()) }
    }

    /// For a call that returns no error.
    ///
    /// # Panics
    ///
    /// In a child.
    #[inline]
    #[track_caller]
    pub(crate) fn assert(self, operation: &'static str) {
        if self.is_left() {
            refuse(operation);
        }
    }
}

#[cold]
fn error(operation: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, operation).because(
        "this process was forked from the one that made the core: a child makes cores of its own, or calls exec",
    )
}

#[cold]
#[track_caller]
fn refuse(operation: &'static str) -> ! {
    panic!("{}", error(operation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user_code::caught;

    #[test]
    fn a_child_is_told_why_and_the_process_itself_is_not() {
        let own = Process::current();
        assert!(!own.is_left());
        own.check("turn of a core").expect("its own");
        own.assert("a function");

        let parent = Process(own.0.wrapping_sub(1));
        assert!(parent.is_left());
        let refused = parent.check("turn of a core").expect_err("its parent's");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        let refused = caught(|| parent.assert("a function")).expect_err("its parent's");
        assert!(refused.to_string().starts_with("a function: "), "{refused}");
        assert!(refused.to_string().contains("was forked"), "{refused}");
    }
}
