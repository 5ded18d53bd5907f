//! Notices that the process was forked. A child shares its parent's rings, and using them would
//! corrupt the parent's I/O.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, ErrorKind};

/// How many forks lie between this process and the first one that made a core.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static WATCH: Once = Once::new();

/// Runs in the child of a fork, where only async-signal-safe things are allowed: an atomic addition
/// is one.
extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// A process, as told from its children.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(u32);

impl Process {
    /// This one.
    pub(crate) fn current() -> Self {
        WATCH.call_once(|| {
            // SAFETY: `in_child` is a function for ever, and does what a handler in a child may do.
            // It fails only without memory, and then forks go unnoticed.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this is another process: a child of it.
    #[inline]
    pub(crate) fn is_left(self) -> bool {
        GENERATION.load(Ordering::Relaxed) != self.0
    }

    /// What to say in the child.
    pub(crate) fn error(operation: &'static str) -> Error {
        Error::new(ErrorKind::InvalidInput, operation).because(
            "this process was forked from the one that made the core: a child makes cores of its own, or calls exec",
        )
    }
}
