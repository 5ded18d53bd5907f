//! When a core that has nothing to do goes from polling to sleeping in the kernel.
//!
//! Most answers from a neighbour come sooner than a core can sleep and be woken: that takes an
//! interrupt between processors, and on a virtual machine a way through the hypervisor. So a core
//! spins first. Spinning where nothing comes is waste, and worse where the sender needs this very
//! processor. So spinning has to pay. After some spins in a row that saw nothing come, the core
//! sleeps (nearly) at once. It spins again after a number of idle times in a row that were short
//! enough for a spin. If those spins see nothing either, it was spinning that made the idle times
//! longer, and the core asks for twice as many short ones the next time.

use std::time::Duration;

use crate::rt::config::Idle;
use crate::time::Instant;

/// Spins in a row that see nothing come before the core stops spinning.
const VAIN_SPINS: u32 = 4;
/// A core that does not spin still does for this part of the longest spin: one more look costs
/// little.
const SHORTEST: u32 = 64;
/// Short idle times in a row before a core spins again: at least and at most.
const FEWEST_SHORT_TIMES: u32 = 2;
const MOST_SHORT_TIMES: u32 = 1024;

/// Decides between spinning and sleeping, by what paid lately.
#[derive(Debug)]
pub(in crate::rt) struct Idler {
    longest: Duration,
    spins: bool,
    since: Option<Instant>,
    /// Spins in a row that saw nothing come.
    vain: u32,
    /// Short idle times without spinning, in a row.
    short: u32,
    /// So many of them make the core spin.
    short_needed: u32,
}

impl Idler {
    pub(in crate::rt) fn new(idle: Idle) -> Self {
        let longest = match idle {
            Idle::Poll => Duration::MAX,
            Idle::Adaptive { spin } => spin,
            Idle::Sleep => Duration::ZERO,
        };
        Self { longest, spins: true, since: None, vain: 0, short: 0, short_needed: FEWEST_SHORT_TIMES }
    }

    /// There was something to do at `now`.
    #[inline]
    pub(in crate::rt) fn worked(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.learn(now - since < self.longest);
        }
    }

    /// An idle time ended, which was or was not `short` enough for a spin.
    fn learn(&mut self, short: bool) {
        match (self.spins, short) {
            (true, true) => {
                self.vain = 0;
                self.short_needed = FEWEST_SHORT_TIMES;
            }
            (true, false) => {
                self.vain += 1;
                if self.vain >= VAIN_SPINS {
                    self.spins = false;
                    self.short = 0;
                }
            }
            (false, false) => self.short = 0,
            (false, true) => {
                self.short += 1;
                if self.short >= self.short_needed {
                    self.spins = true;
                    self.vain = 0;
                    self.short_needed = (self.short_needed * 2).min(MOST_SHORT_TIMES);
                }
            }
        }
    }

    /// Whether a core with nothing to do does not spin.
    pub(in crate::rt) fn sleeps_at_once(&self) -> bool {
        !self.spins || self.longest.is_zero()
    }

    /// There was nothing to do at `now`; whether the core should sleep. One that does not spin
    /// looks no longer if it `needs_the_kernel` anyway: the call is the same.
    pub(in crate::rt) fn should_park(&mut self, now: Instant, needs_the_kernel: bool) -> bool {
        let since = *self.since.get_or_insert(now);
        if needs_the_kernel && self.sleeps_at_once() {
            return true;
        }
        // No two instants are so far apart as `Idle::Poll` asks for.
        now - since >= if self.spins { self.longest } else { self.longest / SHORTEST }
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
            if parked.is_none() && idler.should_park(after(at), false) {
                parked = Some(at);
            }
        }
        idler.worked(after(to));
        parked.unwrap_or(to) - from
    }

    /// Makes a core that gave up spinning.
    fn disappointed() -> Idler {
        let mut idler = Idler::new(Idle::Adaptive { spin: SPIN });
        for round in 0..4 {
            assert_eq!(idle_time(&mut idler, round * 10_000, round * 10_000 + 9_000), 64);
        }
        assert_eq!(idle_time(&mut idler, 100_000, 109_000), 1);
        idler
    }

    #[test]
    fn spinning_ends_when_it_is_vain_and_begins_when_it_would_have_paid() {
        let mut idler = disappointed();
        // Something came 30 µs after it slept, twice.
        assert_eq!(idle_time(&mut idler, 200_000, 200_031), 1);
        assert_eq!(idle_time(&mut idler, 300_000, 300_031), 1);
        assert_eq!(idle_time(&mut idler, 400_000, 400_031), 31);
        assert_eq!(idle_time(&mut idler, 500_000, 510_000), 64);
    }

    #[test]
    fn spins_that_pay_once_in_four_times_go_on() {
        let mut idler = Idler::new(Idle::Adaptive { spin: SPIN });
        for round in 0..100 {
            let (from, len) = (round * 10_000, if round % 4 == 3 { 20 } else { 9_000 });
            assert_eq!(idle_time(&mut idler, from, from + len), len.min(64));
        }
    }

    #[test]
    fn short_times_must_follow_one_another() {
        let mut idler = disappointed();
        for round in 0..100 {
            let from = 200_000 + round * 20_000;
            assert_eq!(idle_time(&mut idler, from, from + 30), 1);
            assert_eq!(idle_time(&mut idler, from + 10_000, from + 19_000), 1);
        }
    }

    /// The one that answers needs the processor that the core spins on: the answer comes 20 µs
    /// after the core sleeps, however late.
    fn in_the_way(idler: &mut Idler, idle_times: u32) -> (u64, u64) {
        let (mut from, mut spun) = (0, 0);
        for _ in 0..idle_times {
            let mut at = from;
            while !idler.should_park(after(at), false) {
                at += 1;
            }
            idler.worked(after(at + 20));
            spun += at - from;
            from = at + 30;
        }
        (from, spun)
    }

    #[test]
    fn a_core_that_is_in_the_way_of_what_it_waits_for_all_but_stops_spinning() {
        let (_, spun) = in_the_way(&mut Idler::new(Idle::Adaptive { spin: SPIN }), 10_000);
        assert!(spun < 10_000 * 2, "it spun for {spun} µs in 10,000 idle times");
    }

    #[test]
    fn however_often_spinning_was_in_vain_a_core_tries_it_again() {
        let mut idler = Idler::new(Idle::Adaptive { spin: SPIN });
        let (from, _) = in_the_way(&mut idler, 20_000);
        let times =
            (0..).take_while(|time| idle_time(&mut idler, from + time * 100, from + time * 100 + 31) < 31);
        assert!(times.count() <= 1_024);
    }

    #[test]
    fn an_idle_time_as_long_as_a_spin_was_not_caught() {
        let mut idler = Idler::new(Idle::Adaptive { spin: SPIN });
        for round in 0..4 {
            assert_eq!(idle_time(&mut idler, round * 10_000, round * 10_000 + 64), 64);
        }
        assert_eq!(idle_time(&mut idler, 100_000, 109_000), 1);
    }

    #[test]
    fn a_core_that_spins_again_has_as_many_spins_in_vain_as_at_first() {
        let mut idler = disappointed();
        for round in 0..2 {
            assert_eq!(idle_time(&mut idler, 200_000 + round * 10_000, 200_031 + round * 10_000), 1);
        }
        for round in 0..4 {
            assert_eq!(idle_time(&mut idler, 300_000 + round * 10_000, 309_000 + round * 10_000), 64);
        }
        assert_eq!(idle_time(&mut idler, 400_000, 409_000), 1);
    }

    #[test]
    fn a_spin_that_pays_makes_up_for_the_vain_ones_before() {
        let mut idler = disappointed();
        let mut from = 200_000;
        for _ in 0..20 {
            for _ in 0..2 {
                assert_eq!(idle_time(&mut idler, from, from + 31), 1, "at {from}");
                from += 10_000;
            }
            // Twice as many short times would be asked for, had none of the spins paid.
            assert_eq!(idle_time(&mut idler, from, from + 20), 20, "at {from}");
            for _ in 0..4 {
                from += 10_000;
                assert_eq!(idle_time(&mut idler, from, from + 9_000), 64, "at {from}");
            }
            from += 10_000;
        }
    }

    #[test]
    fn a_core_that_needs_the_kernel_anyway_sleeps_there_unless_it_spins() {
        let mut spins = Idler::new(Idle::Adaptive { spin: SPIN });
        assert!(!spins.sleeps_at_once() && !spins.should_park(after(0), true));
        let mut sleeps = disappointed();
        assert!(sleeps.sleeps_at_once() && !sleeps.should_park(after(200_000), false));
        assert!(sleeps.should_park(after(200_000), true));
        assert!(!Idler::new(Idle::Poll).should_park(after(1_000_000), true));
    }

    #[test]
    fn the_ends_of_the_setting_always_poll_and_always_sleep() {
        assert_eq!(idle_time(&mut Idler::new(Idle::Poll), 0, 10_000), 10_000);
        assert_eq!(idle_time(&mut Idler::new(Idle::Sleep), 0, 10_000), 0);
    }
}
