//! A core's I/O without io_uring: readiness by epoll(7), and blocking calls on the core's pool.
//!
//! An operation on a socket tries its system call at once, without blocking. When there is nothing
//! to do it waits for an edge-triggered event and tries again; a descriptor is registered once, for
//! both directions. Nothing is with the kernel in between, so a dropped future leaves nothing
//! behind. An operation on a file runs on a thread of the pool, and its value stays in a slot until
//! the thread is done with it, as it would with an io_uring.

mod calls;
mod reactor;
mod registrations;

pub(super) use calls::CallJob;
pub(super) use reactor::{Flight, Reactor};

#[cfg(test)]
mod tests;
