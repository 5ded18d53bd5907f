//! How long a core that ends waits for its I/O in flight.

use std::time::Duration;

use crate::time::{Clock, Instant};

/// How long the I/O in flight of a core that is dropped may take to end, if nobody set a deadline.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// What it may take at least: a cancelled operation's memory can be freed only when the kernel has
/// let go of it.
const MIN_PATIENCE: Duration = Duration::from_millis(100);
/// One wait of a core that ends.
pub(in crate::reactor) const ROUND: Duration = Duration::from_millis(10);

/// How long a core that ends still waits for its I/O in flight.
///
/// Counts rounds while the clock stands still, as a simulated core's may.
pub(crate) struct Patience<'a> {
    clock: &'a dyn Clock,
    ends: Instant,
    last_reading: Instant,
    rounds_left: u128,
}

impl<'a> Patience<'a> {
    /// Until `deadline`, or if there is none for [`PATIENCE`].
    pub(crate) fn new(clock: &'a dyn Clock, deadline: Option<Instant>) -> Self {
        let now = clock.now();
        let within = deadline.map_or(PATIENCE, |deadline| (deadline - now).max(MIN_PATIENCE));
        let rounds_left = within.as_nanos().div_ceil(ROUND.as_nanos());
        Self { clock, ends: now + within, last_reading: now, rounds_left }
    }

    /// Asked before each round, which takes [`ROUND`] or ends early.
    pub(in crate::reactor) fn is_over(&mut self) -> bool {
        let now = self.clock.now();
        if std::mem::replace(&mut self.last_reading, now) == now {
            self.rounds_left = self.rounds_left.saturating_sub(1);
        }
        self.rounds_left == 0 || now >= self.ends
    }
}
