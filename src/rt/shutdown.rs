//! The orderly end of a core.

use std::panic::Location;
use std::time::Duration;

use super::{Clock, Instant};

/// How a core ends. See [`Core::shutdown`](super::Core::shutdown).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// Tasks and what other threads sent run until they end, as long as there is time. Tasks that are left are cancelled.
    Drain,
    /// Tasks are cancelled at once: their futures are dropped.
    Cancel,
}

/// What became of a core's tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Tasks that ended by themselves since the shutdown began.
    pub finished: u64,
    /// The name and creation place of each task that was cancelled.
    pub cancelled: Vec<(&'static str, &'static Location<'static>)>,
}

/// How long the I/O in flight of a core that is dropped may take to end: what nobody set a deadline for.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// What it may take at least, because a cancelled operation's memory can only be freed when the kernel has let go of it.
const MIN_PATIENCE: Duration = Duration::from_millis(100);
/// One wait of a core that ends.
pub(super) const ROUND: Duration = Duration::from_millis(10);

/// How long a core that ends still waits for its I/O in flight.
///
/// Counts rounds while the clock stands still, as a simulated core's may.
pub(super) struct Patience<'a> {
    clock: &'a dyn Clock,
    ends: Instant,
    last_reading: Instant,
    rounds_left: u128,
}

impl<'a> Patience<'a> {
    /// Until `deadline`, or if there is none for [`PATIENCE`].
    pub(super) fn new(clock: &'a dyn Clock, deadline: Option<Instant>) -> Self {
        let now = clock.now();
        let within = deadline.map_or(PATIENCE, |deadline| (deadline - now).max(MIN_PATIENCE));
        let rounds_left = within.as_nanos().div_ceil(ROUND.as_nanos());
        Self { clock, ends: now + within, last_reading: now, rounds_left }
    }

    /// Asked before each round, which takes [`ROUND`] or ends early.
    pub(super) fn is_over(&mut self) -> bool {
        let now = self.clock.now();
        if std::mem::replace(&mut self.last_reading, now) == now {
            self.rounds_left = self.rounds_left.saturating_sub(1);
        }
        self.rounds_left == 0 || now >= self.ends
    }
}
