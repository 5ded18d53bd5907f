//! The io_uring of a core: operations that own what the kernel works on.
//!
//! An operation's value (its buffer, its descriptor) lives in its [`Op`] future while somebody awaits it. When that future
//! is dropped with the operation in flight, the value moves into the operation's slot, the kernel is asked to cancel, and
//! only the completion frees it: the kernel never works on freed memory, and what it read is handed to
//! [`Operation::orphaned`] instead of being lost.

mod op;
mod reactor;

pub(crate) use op::{accept, connect, fallocate, fsync, read_at, recv, send, write_at};
pub use reactor::probe_io_uring;
pub(super) use reactor::{Doorbell, Reactor};
