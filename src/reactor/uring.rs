//! The io_uring of a core.
//!
//! An operation's value (its buffer, its descriptor) lives in its [`Op`](super::ops::Op) future
//! while somebody awaits it. When that future is dropped with the operation in flight, the value
//! moves into the operation's slot, the kernel is asked to cancel, and only the completion frees
//! it: the kernel never works on freed memory, and what it read is handed to
//! [`Operation::orphaned`](super::ops::Operation::orphaned) instead of being lost.

mod alarm;
mod buffer_ring;
mod command_ring;
mod multishot;
mod polled;
mod probe;
mod registered;
mod ring;
mod slots;

pub(super) use buffer_ring::BUFFER_GROUP;
pub(crate) use buffer_ring::{BUFFER_BYTES, Chunk};
pub(crate) use command_ring::{COMMAND_BYTES, CommandRing, DeviceCommand};
pub(super) use multishot::{Event, Multishot};
pub use probe::{RingFeature, RingFeatures, probe_io_uring, probe_ring_features};
pub(super) use ring::Ring;
pub(super) use slots::{Completed, SlotKey};
