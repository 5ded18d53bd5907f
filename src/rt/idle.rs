//! When a core that has nothing to do goes from polling to sleeping in the kernel.

use std::time::Duration;

use super::{Idle, Instant};

/// Spins that did not pay, one after the other, until the next ones are shorter.
const VAIN_SPINS: u32 = 4;
/// The shortest spin is this part of the longest.
const SHORTEST: u32 = 64;

/// Decides between spinning and sleeping, by what paid lately.
#[derive(Debug)]
pub(super) struct Idler {
    longest: Duration,
    spin: Duration,
    since: Option<Instant>,
    parked_at: Option<Instant>,
    vain: u32,
}

impl Idler {
    pub(super) fn new(idle: Idle) -> Self {
        let longest = match idle {
            Idle::Poll => Duration::MAX,
            Idle::Adaptive { spin } => spin,
            Idle::Sleep => Duration::ZERO,
        };
        Self { longest, spin: longest, since: None, parked_at: None, vain: 0 }
    }

    /// There was something to do at `now`.
    #[inline]
    pub(super) fn worked(&mut self, now: Instant) {
        if self.since.take().is_some() {
            if let Some(parked_at) = self.parked_at.take() {
                // A longer spin would have caught what ended so short a sleep.
                if now - parked_at < self.longest {
                    self.spin = self.longest;
                    self.vain = 0;
                }
            } else {
                self.vain = 0;
            }
        }
    }

    /// There was nothing to do at `now`; whether the core should sleep.
    pub(super) fn should_park(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if self.longest == Duration::MAX {
            return false;
        }
        now - since >= self.spin
    }

    /// The core goes to sleep at `now`.
    pub(super) fn park(&mut self, now: Instant) {
        if self.parked_at.replace(now).is_none() {
            self.vain += 1;
            if self.vain >= VAIN_SPINS {
                self.vain = 0;
                self.spin = (self.spin / 2).max(self.longest / SHORTEST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIN: Duration = Duration::from_micros(64);

    fn after(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    /// One idle time from `from` to `to`; returns how long it spun.
    fn idle_time(idler: &mut Idler, from: u64, to: u64) -> u64 {
        let mut parked = None;
        for at in from..to {
            if parked.is_none() && idler.should_park(after(at)) {
                idler.park(after(at));
                parked = Some(at);
            }
        }
        idler.worked(after(to));
        parked.unwrap_or(to) - from
    }

    #[test]
    fn spins_shrink_while_they_are_vain_and_grow_when_they_would_have_paid() {
        let mut idler = Idler::new(Idle::Adaptive { spin: SPIN });
        assert_eq!(idle_time(&mut idler, 0, 10_000), 64);
        for round in 1..100 {
            idle_time(&mut idler, round * 10_000, round * 10_000 + 9_000);
        }
        assert_eq!(idle_time(&mut idler, 1_000_000, 1_010_000), 1);
        // Something came 30 µs after it slept.
        assert_eq!(idle_time(&mut idler, 2_000_000, 2_000_031), 1);
        assert_eq!(idle_time(&mut idler, 3_000_000, 3_010_000), 64);
    }

    #[test]
    fn the_ends_of_the_setting_always_poll_and_always_sleep() {
        assert_eq!(idle_time(&mut Idler::new(Idle::Poll), 0, 10_000), 10_000);
        assert_eq!(idle_time(&mut Idler::new(Idle::Sleep), 0, 10_000), 0);
    }
}
