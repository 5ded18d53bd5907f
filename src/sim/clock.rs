//! Virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::rt::Instant;
use crate::rt::time::Clock;

/// 2026-01-01T00:00:00Z.
const UNIX_START: Duration = Duration::from_secs(1_767_225_600);

/// Virtual time: it starts at a fixed wall-clock time and moves only when the world says so. Clones
/// show the same time.
#[derive(Clone, Debug, Default)]
pub(super) struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    /// Moves to `time`, unless it is there or later already.
    pub(super) fn move_to(&self, time: Instant) {
        self.0.fetch_max(time.as_nanos(), Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn unix_time(&self) -> Duration {
        UNIX_START + Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
