//! A time-out in the ring that lasts over many sleeps.
//!
//! A time-out of the call that sleeps is a timer which the kernel sets and cancels with each sleep:
//! on a virtual machine more than a microsecond. A core with a timer somewhere, whose sleeps end
//! with I/O, would pay that for each operation. So a deadline that is not near becomes an operation
//! of the ring. It stays when a sleep ends before it, and also when it is no longer needed: then it
//! ends a sleep for nothing, once.

use std::time::Duration;

use io_uring::{opcode, squeue, types};

use crate::time::Instant;

/// A shorter sleep has a time-out of its own: more likely than not it lasts as long.
const SHORT: Duration = Duration::from_millis(1);

/// The time-out of one ring.
pub(super) struct Alarm {
    /// When the kernel rings, if it was asked to.
    at: Option<Instant>,
    /// What the last entry says. One that the kernel has not taken yet reads it too: of two the
    /// last counts, which is the sooner.
    after: Box<types::Timespec>,
}

/// What ends a sleep in time.
pub(super) enum EndedBy {
    /// Nothing has to, or the alarm does.
    Alarm,
    /// This entry sets the alarm; its completion is that of the alarm.
    New(squeue::Entry),
    /// This entry has the alarm ring sooner; its completion means nothing.
    Sooner(squeue::Entry),
    /// A time-out of the call.
    Call(Duration),
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self { at: None, after: Box::new(types::Timespec::new()) }
    }

    /// A sleep begins `now` and may last `until` then. `user_data` is that of the alarm. The entry
    /// that is returned points to memory of this value.
    pub(super) fn set(&mut self, now: Instant, until: Option<Instant>, user_data: u64) -> EndedBy {
        let Some(until) = until else { return EndedBy::Alarm };
        if self.at.is_some_and(|at| at <= until) {
            return EndedBy::Alarm;
        }
        let longest = until - now;
        if longest < SHORT {
            return EndedBy::Call(longest);
        }
        *self.after = types::Timespec::from(longest);
        let after = &raw const *self.after;
        match self.at.replace(until) {
            None => EndedBy::New(opcode::Timeout::new(after).build()),
            Some(_) => EndedBy::Sooner(opcode::TimeoutUpdate::new(user_data, after).build()),
        }
    }

    /// It rang, or was cancelled.
    pub(super) fn ended(&mut self) {
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn an_alarm_lasts_over_sleeps_until_it_rings() {
        let mut alarm = Alarm::new();
        assert!(matches!(alarm.set(at(0), None, 7), EndedBy::Alarm), "nothing has to end it");
        assert!(matches!(alarm.set(at(0), Some(at(20)), 7), EndedBy::New(_)));
        assert!(matches!(alarm.set(at(1), Some(at(20)), 7), EndedBy::Alarm));
        assert!(matches!(alarm.set(at(2), Some(at(30)), 7), EndedBy::Alarm), "it rings too early once");
        assert!(matches!(alarm.set(at(3), Some(at(10)), 7), EndedBy::Sooner(_)));
        assert!(matches!(alarm.set(at(4), Some(at(10)), 7), EndedBy::Alarm));
        alarm.ended();
        assert!(matches!(alarm.set(at(10), Some(at(30)), 7), EndedBy::New(_)));
    }

    #[test]
    fn a_short_sleep_has_a_time_out_of_its_own() {
        let mut alarm = Alarm::new();
        let soon = at(0) + Duration::from_micros(100);
        assert!(matches!(alarm.set(at(0), Some(soon), 7), EndedBy::Call(time) if time == soon - at(0)));
        assert!(matches!(alarm.set(at(0), Some(at(20)), 7), EndedBy::New(_)));
        assert!(matches!(alarm.set(at(0), Some(soon), 7), EndedBy::Call(_)));
        assert!(matches!(alarm.set(at(5), Some(at(20)), 7), EndedBy::Alarm), "it was left alone");
    }
}
