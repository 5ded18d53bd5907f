//! A time-out in the ring that lasts over many sleeps.
//!
//! A time-out of the call that sleeps is a timer which the kernel sets and cancels with each sleep:
//! on a virtual machine more than a microsecond. A core with a timer somewhere, whose sleeps end
//! with I/O, would pay that for each operation. So a deadline that is not near becomes an operation
//! of the ring, the alarm. It stays when a sleep ends before it, and also when it is no longer
//! needed: then it ends a sleep for nothing, once.
//!
//! A deadline before that of the alarm has a time-out of the call in its first sleep. Most of those
//! are a single operation's, which ends well before. If another sleep has the same one, as with an
//! interval of milliseconds while operations take microseconds, the alarm is set to it. To set it
//! at once would cost a server with a far timer and a time-out for each read half as many sleeps
//! again; never to set it would cost one with a far timer and an interval of 10 ms a time-out in
//! each of its sleeps, instead of in one of eight.
//!
//! The kernel counts `CLOCK_MONOTONIC`, whatever the core's clock is. So the alarm is kept by the
//! kernel's time: if the core's clock goes ahead, it is too late for its own deadline, and is set
//! anew.

use std::time::Duration;

use io_uring::{opcode, squeue, types};

use crate::time::Instant;

/// A shorter sleep has a time-out of its own: more likely than not it lasts as long.
const SHORT: Duration = Duration::from_millis(1);

/// How much later than a deadline the alarm may ring. Two sleeps with the same deadline differ by
/// the time from the reading of the core's clock to that of the kernel's.
const TOLERANCE: Duration = Duration::from_micros(50);

/// The time-out of one ring.
pub(super) struct Alarm {
    /// When the kernel rings, by its own clock, if it was asked to.
    at: Option<Instant>,
    /// By the core's clock, the deadline of the last sleep that found no alarm or one too late.
    sooner: Option<Instant>,
    /// What the last entry says. One that the kernel has not taken yet reads it too: of two the
    /// last counts, which is the sooner.
    after: Box<types::Timespec>,
    /// Of an entry that changes the alarm. Its completion would end a sleep.
    change: squeue::Flags,
}

/// What ends a sleep in time.
pub(super) enum EndedBy {
    /// Nothing has to, or the alarm does.
    Alarm,
    /// This entry sets the alarm; its completion is that of the alarm.
    New(squeue::Entry),
    /// This entry has the alarm ring sooner; its completion, if there is one, means nothing.
    Sooner(squeue::Entry),
    /// A time-out of the call.
    Call(Duration),
}

impl Alarm {
    /// `skips_success` says whether the kernel can do without the completion of what succeeded
    /// (Linux 5.17).
    pub(super) fn new(skips_success: bool) -> Self {
        let change = if skips_success { squeue::Flags::SKIP_SUCCESS } else { squeue::Flags::empty() };
        Self { at: None, sooner: None, after: Box::new(types::Timespec::new()), change }
    }

    /// A sleep begins `now` and may last `until` then; `kernel_now` is the same time by
    /// `CLOCK_MONOTONIC`. `user_data` is that of the alarm. The entry that is returned points to
    /// memory of this value.
    pub(super) fn set(
        &mut self,
        now: Instant,
        kernel_now: Instant,
        until: Option<Instant>,
        user_data: u64,
    ) -> EndedBy {
        let Some(until) = until else { return EndedBy::Alarm };
        let longest = until - now;
        let rings = kernel_now + longest;
        if self.at.is_some_and(|at| at <= rings + TOLERANCE) {
            return EndedBy::Alarm;
        }
        let recurs = self.sooner.replace(until) == Some(until);
        if longest < SHORT || (self.at.is_some() && !recurs) {
            return EndedBy::Call(longest);
        }
        *self.after = types::Timespec::from(longest);
        let after = &raw const *self.after;
        match self.at.replace(rings) {
            None => EndedBy::New(opcode::Timeout::new(after).build()),
            Some(_) => {
                EndedBy::Sooner(opcode::TimeoutUpdate::new(user_data, after).build().flags(self.change))
            }
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

    /// A sleep of a core whose clock is the kernel's.
    fn set(alarm: &mut Alarm, now: u64, until: u64) -> EndedBy {
        alarm.set(at(now), at(now), Some(at(until)), 7)
    }

    #[test]
    fn an_alarm_lasts_over_sleeps_until_it_rings() {
        let mut alarm = Alarm::new(true);
        assert!(matches!(alarm.set(at(0), at(0), None, 7), EndedBy::Alarm), "nothing has to end it");
        assert!(matches!(set(&mut alarm, 0, 20), EndedBy::New(_)));
        assert!(matches!(set(&mut alarm, 1, 20), EndedBy::Alarm));
        assert!(matches!(set(&mut alarm, 2, 30), EndedBy::Alarm), "it rings too early once");
        alarm.ended();
        assert!(matches!(set(&mut alarm, 10, 30), EndedBy::New(_)));
    }

    #[test]
    fn a_deadline_before_that_of_the_alarm_becomes_the_alarms_when_it_recurs() {
        let mut alarm = Alarm::new(true);
        assert!(matches!(set(&mut alarm, 0, 60_000), EndedBy::New(_)));
        assert!(matches!(set(&mut alarm, 1, 21), EndedBy::Call(time) if time == at(20) - at(0)));
        assert!(matches!(set(&mut alarm, 2, 60_000), EndedBy::Alarm));
        assert!(matches!(set(&mut alarm, 3, 23), EndedBy::Call(_)), "another one");
        assert!(matches!(set(&mut alarm, 4, 23), EndedBy::Sooner(_)));
        assert!(matches!(set(&mut alarm, 5, 23), EndedBy::Alarm));
    }

    #[test]
    fn a_short_sleep_has_a_time_out_of_its_own() {
        let mut alarm = Alarm::new(true);
        let short = Duration::from_micros(100);
        let soon = Some(at(0) + short);
        assert!(matches!(alarm.set(at(0), at(0), soon, 7), EndedBy::Call(time) if time == short));
        assert!(matches!(set(&mut alarm, 0, 20), EndedBy::New(_)));
        assert!(matches!(alarm.set(at(0), at(0), soon, 7), EndedBy::Call(_)));
        assert!(matches!(alarm.set(at(0), at(0), soon, 7), EndedBy::Call(_)));
        assert!(matches!(set(&mut alarm, 5, 20), EndedBy::Alarm), "it was left alone");
    }

    #[test]
    fn an_alarm_that_rings_too_late_by_the_kernels_clock_is_set_anew() {
        let mut alarm = Alarm::new(true);
        assert!(matches!(set(&mut alarm, 0, 20), EndedBy::New(_)));
        let late = Duration::from_micros(10);
        assert!(matches!(alarm.set(at(1), at(1) - late, Some(at(20)), 7), EndedBy::Alarm), "little");
        // The core's clock says that 15 ms have passed, the kernel's 2.
        assert!(matches!(alarm.set(at(15), at(2), Some(at(20)), 7), EndedBy::Sooner(_)));
        assert!(matches!(alarm.set(at(16), at(3), Some(at(20)), 7), EndedBy::Alarm));
    }
}
