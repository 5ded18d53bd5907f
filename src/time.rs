//! Time as a value that comes from outside.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

/// A point in monotonic time: nanoseconds since its clock's origin. Comparable only between
/// readings of one clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ORIGIN: Self = Self(0);
    /// Later than every reading of a clock.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// The instant `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time by `CLOCK_MONOTONIC`, by which the kernel counts sleeps.
    pub(crate) fn of_kernel() -> Self {
        Self(monotonic_nanos())
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    #[doc(alias = "duration_since")]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time from `earlier` to this instant; `None` if `earlier` is later.
    pub const fn checked_duration_since(self, earlier: Self) -> Option<Duration> {
        match self.0.checked_sub(earlier.0) {
            Some(nanos) => Some(Duration::from_nanos(nanos)),
            None => None,
        }
    }

    /// The instant `duration` later; `None` if that is past [`Instant::FAR_FUTURE`], 584 years
    /// after the origin.
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        u64::try_from(duration.as_nanos()).ok().and_then(|nanos| self.0.checked_add(nanos)).map(Self)
    }

    /// The instant `duration` earlier; `None` if that is before the origin.
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        u64::try_from(duration.as_nanos()).ok().and_then(|nanos| self.0.checked_sub(nanos)).map(Self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::FAR_FUTURE`].
    fn add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self::FAR_FUTURE)
    }
}

impl AddAssign<Duration> for Instant {
    /// Saturates at [`Instant::FAR_FUTURE`].
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::ORIGIN`].
    fn sub(self, duration: Duration) -> Self {
        self.checked_sub(duration).unwrap_or(Self::ORIGIN)
    }
}

impl SubAssign<Duration> for Instant {
    /// Saturates at [`Instant::ORIGIN`].
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Saturates at zero.
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instant({:?})", Duration::from_nanos(self.0))
    }
}

/// Where time comes from. The command line gives the runtime a [`MonotonicClock`]; a simulation
/// gives it virtual time.
///
/// The kernel counts the sleeps of a core by `CLOCK_MONOTONIC`, whatever the core's clock is: a
/// core sleeps for the time that its clock says is left then. If that clock goes ahead meanwhile,
/// the core finds out when it wakes.
pub trait Clock: Send + Sync {
    /// Monotonic time.
    fn now(&self) -> Instant;

    /// Wall-clock time since the Unix epoch. It may jump.
    fn unix_time(&self) -> Duration;
}

/// The machine's clocks (`CLOCK_MONOTONIC`, `CLOCK_REALTIME`).
#[derive(Debug)]
pub struct MonotonicClock {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    origin: u64,
}

impl MonotonicClock {
    /// A clock whose origin is now.
    #[expect(
        clippy::new_without_default,
        reason = "reading the machine's clock should be visible at the call"
    )]
    pub fn new() -> Self {
        Self { origin: monotonic_nanos() }
    }
}

/// Not `std`'s `Instant`, whose difference is calculated in 128 bits: this is read every few polls.
#[inline]
fn monotonic_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Time since the machine started: positive, and 64 bits of nanoseconds last for 584 years.
    time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.cast_unsigned())
}

impl Clock for MonotonicClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(monotonic_nanos().saturating_sub(self.origin))
    }

    fn unix_time(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_calculated_with_and_stop_at_their_ends() {
        let nanos = Duration::from_nanos;
        let mut at = Instant::from_nanos(100);
        at += nanos(50);
        assert_eq!(at.as_nanos(), 150);
        at -= nanos(20);
        assert_eq!((at, at - nanos(30)), (Instant::from_nanos(130), Instant::from_nanos(100)));
        assert_eq!(at - nanos(131), Instant::ORIGIN);
        assert_eq!(at + Duration::MAX, Instant::FAR_FUTURE);
        assert_eq!((at.checked_sub(nanos(131)), at.checked_add(Duration::MAX)), (None, None));
        assert_eq!(at.checked_add(nanos(u64::MAX - 130)), Some(Instant::FAR_FUTURE));
        assert_eq!(at.checked_add(nanos(u64::MAX - 129)), None);
        assert_eq!(at.checked_sub(nanos(130)), Some(Instant::ORIGIN));
        let later = at + nanos(1);
        assert_eq!(
            (later.checked_duration_since(at), at.checked_duration_since(later)),
            (Some(nanos(1)), None)
        );
        assert_eq!((later - at, at - later), (nanos(1), Duration::ZERO));
    }
}
