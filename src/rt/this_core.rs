//! What a task asks of the core it runs on. Every function here but [`is_in_core`] panics outside a
//! core.

use std::time::Duration;

use super::config::Idle;
use super::handle::Handle;
use super::scheduler::{current, in_core};
use crate::mem::Arena;
use crate::reactor::{self, RingFeatures};
use crate::time::Instant;

/// Whether the calling thread is inside a core, so that the functions of this module can be called.
pub fn is_in_core() -> bool {
    current::is_inside()
}

/// Monotonic time by the core's clock.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn now() -> Instant {
    in_core("rt::now", |core| core.clock().now())
}

/// The time as the core last read its clock, at most a turn ago: costs less than reading it.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn coarse_now() -> Instant {
    in_core("rt::time::coarse_now", |core| core.last_reading())
}

/// Wall-clock time since the Unix epoch by the core's clock.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn unix_time() -> Duration {
    in_core("rt::time::unix_time", |core| core.clock().unix_time())
}

/// Fills `bytes` from the core's seeded, cryptographically strong generator.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn fill_random(bytes: &mut [u8]) {
    in_core("rt::random::fill_random", |core| core.fill_random(bytes));
}

/// The core's arena.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn arena() -> Arena {
    in_core("rt::arena", |core| core.arena().clone())
}

/// Whether the core polls all the time ([`Idle::Poll`]).
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub(crate) fn never_sleeps() -> bool {
    in_core("rt::never_sleeps", |core| core.idle() == Idle::Poll)
}

/// A handle through which other threads can send work to this core.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn handle() -> Handle {
    in_core("rt::handle", |core| Handle::of(core))
}

/// Which features this core's io_uring got, of those that
/// [`CoreConfig::ring_features`](super::CoreConfig::ring_features) allows and the kernel has; none
/// without an io_uring. ([`PolledDevices`](super::reactor::RingFeature::PolledDevices) is certain
/// only when a device is opened: here it means that the core will try.)
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn ring_features() -> RingFeatures {
    in_core("rt::reactor::ring_features", |_| reactor::ring_features())
}
