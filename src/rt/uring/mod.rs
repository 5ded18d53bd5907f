//! The io_uring of a core.
//!
//! An operation's value (its buffer, its descriptor) lives in its [`Op`](super::ops::Op) future while somebody awaits it. When
//! that future is dropped with the operation in flight, the value moves into the operation's slot, the kernel is asked to
//! cancel, and only the completion frees it: the kernel never works on freed memory, and what it read is handed to
//! [`Operation::orphaned`](super::ops::Operation::orphaned) instead of being lost.

mod reactor;

pub use reactor::probe_io_uring;
pub(super) use reactor::{Reactor, SlotKey};
