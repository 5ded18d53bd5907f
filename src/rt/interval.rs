//! Ticks at regular times.

use std::time::Duration;

use super::Instant;
use super::context::now;
use super::sleep::sleep_until;

/// What becomes of the ticks that nobody took in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissedTick {
    /// They follow at once, one for each period.
    #[default]
    Burst,
    /// The next tick is a period after the late one.
    Delay,
    /// They are left out; the next tick is at the next multiple of the period.
    Skip,
}

/// Ticks once per period. Made by [`interval`].
#[derive(Debug)]
pub struct Interval {
    period: Duration,
    next: Option<Instant>,
    missed: MissedTick,
}

/// Ticks once per `period`, the first time at once. A period of zero counts as a nanosecond.
pub fn interval(period: Duration) -> Interval {
    Interval { period: period.max(Duration::from_nanos(1)), next: None, missed: MissedTick::default() }
}

impl Interval {
    /// The same with another answer to missed ticks.
    #[must_use]
    pub fn missed_tick(mut self, missed: MissedTick) -> Self {
        self.missed = missed;
        self
    }

    /// Completes at the next tick, with the time that it was due. Dropping the future loses no tick.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn tick(&mut self) -> Instant {
        let due = *self.next.get_or_insert_with(now);
        sleep_until(due).await;
        let now = now();
        self.next = Some(self.after(due, now));
        due
    }

    /// The tick after the one that was due at `due` and taken at `now`.
    fn after(&self, due: Instant, now: Instant) -> Instant {
        let next = due + self.period;
        if next > now {
            return next;
        }
        match self.missed {
            MissedTick::Burst => next,
            MissedTick::Delay => now + self.period,
            MissedTick::Skip => {
                let period = u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX);
                let late = now.as_nanos() - due.as_nanos();
                now + Duration::from_nanos(period - late % period)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_ticks_follow_are_delayed_or_are_left_out() {
        let at = Instant::from_nanos;
        let after = |missed, now| {
            interval(Duration::from_nanos(10)).missed_tick(missed).after(at(100), at(now)).as_nanos()
        };
        for missed in [MissedTick::Burst, MissedTick::Delay, MissedTick::Skip] {
            assert_eq!(after(missed, 100), 110);
            assert_eq!(after(missed, 109), 110);
        }
        assert_eq!(after(MissedTick::Burst, 137), 110);
        assert_eq!(after(MissedTick::Delay, 137), 147);
        assert_eq!(after(MissedTick::Skip, 137), 140);
        assert_eq!(after(MissedTick::Skip, 140), 150);
    }
}
