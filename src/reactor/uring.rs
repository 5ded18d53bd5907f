//! The io_uring of a core.
//!
//! An operation's value (its buffer, its descriptor) lives in its [`Op`](super::ops::Op) future
//! while somebody awaits it. When that future is dropped with the operation in flight, the value
//! moves into the operation's slot, the kernel is asked to cancel, and only the completion frees
//! it: the kernel never works on freed memory, and what it read is handed to
//! [`Operation::orphaned`](super::ops::Operation::orphaned) instead of being lost.

mod buffer_ring;
mod multishot;
mod polled;
mod probe;
mod reactor;
mod registered;
mod slots;

pub(crate) use buffer_ring::{BUFFER_BYTES, Chunk};
pub(crate) use multishot::{Arrival, Feed};
pub(crate) use polled::PolledDevice;
pub use probe::{RingFeature, RingFeatures, probe_io_uring, probe_ring_features};
pub(super) use reactor::Reactor;
pub(crate) use registered::FixedFile;
pub(super) use slots::SlotKey;

use super::current;

/// Whether the current core has a ring with `feature`.
pub(crate) fn has(feature: RingFeature) -> bool {
    current::with_ring(|ring| ring.is_some_and(|ring| ring.has(feature)))
}

/// The features of the current core's ring; none without one.
pub(crate) fn features() -> RingFeatures {
    current::with_ring(|ring| {
        let Some(ring) = ring else { return RingFeatures::none() };
        RingFeature::ALL.iter().copied().filter(|feature| ring.has(*feature)).collect()
    })
}

/// Whether the calling task may make a system call that does not wait, instead of an operation on
/// the ring. False once this task, and those before it, made many since the core last turned to its
/// ring: then waiting for the ring is what lets others run. False without a ring: there an
/// operation starts with just such a call.
pub(crate) fn may_call_directly() -> bool {
    current::with_ring(|ring| ring.is_some_and(|ring| ring.take_direct_call()))
}
