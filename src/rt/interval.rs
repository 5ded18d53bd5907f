//! Ticks at regular times.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::sleep::{Sleep, sleep_until};
use super::this_core::now;
use crate::time::Instant;

/// What happens to ticks that nobody took in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissedTick {
    /// They follow at once, one for each period.
    #[default]
    Burst,
    /// The next tick is a period after the late one.
    Delay,
    /// They are left out; the next tick is at the next multiple of the period.
    Skip,
}

/// Ticks once per period. Made by [`interval`] and [`interval_at`].
#[derive(Debug)]
pub struct Interval {
    period: Duration,
    /// The next tick; not known before the first poll of one that ticks at once.
    next: Option<Instant>,
    missed: MissedTick,
    /// Until the next tick; kept, so that a tick that is given up and asked for again costs no
    /// timer.
    sleep: Option<Sleep>,
}

/// Ticks once per `period`, the first time at once. A period of zero counts as a nanosecond.
pub fn interval(period: Duration) -> Interval {
    Interval {
        period: period.max(Duration::from_nanos(1)),
        next: None,
        missed: MissedTick::default(),
        sleep: None,
    }
}

/// Ticks once per `period`, the first time at `start`. A period of zero counts as a nanosecond.
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    Interval { next: Some(start), ..interval(period) }
}

impl Interval {
    /// The same with another answer to missed ticks.
    #[must_use]
    pub fn missed_tick(mut self, missed: MissedTick) -> Self {
        self.missed = missed;
        self
    }

    /// Completes at the next tick, with the time that it was due. Dropping the future loses no
    /// tick.
    ///
    /// # Panics
    ///
    /// When polled outside a core.
    pub async fn tick(&mut self) -> Instant {
        poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// Ready at the next tick, with the time that it was due; until then the task is woken at that
    /// time. For futures that are written by hand: as [`Interval::tick`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        let due = *self.next.get_or_insert_with(now);
        let sleep = self.sleep.get_or_insert_with(|| sleep_until(due));
        ready!(Pin::new(&mut *sleep).poll(cx));
        let next = self.after(due, now());
        self.reset_at(next);
        Poll::Ready(due)
    }

    /// Has the next tick come a period from now.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn reset(&mut self) {
        self.reset_at(now() + self.period);
    }

    /// Has the next tick come at `next`, and those after it at periods from there.
    pub fn reset_at(&mut self, next: Instant) {
        self.next = Some(next);
        if let Some(sleep) = &mut self.sleep {
            sleep.reset(next);
        }
    }

    /// The time between two ticks.
    pub const fn period(&self) -> Duration {
        self.period
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
