//! What a core needs of the log: numbers up to which it is to be written or durable, now or later.

use std::time::Duration;

use crate::rt::Instant;
use crate::store::options::Durability;

/// Records that nobody asks for are written, though not flushed, after this time.
pub(super) const WRITE_WITHIN: Duration = Duration::from_millis(100);

/// Needs of a core. Numbers are ends: below them.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// To be durable now.
    durable: u64,
    /// To be written now.
    written: u64,
    /// Tickets of bundles, to be durable now.
    tickets: u64,
    /// What the round of writes is for that is under way, or the last one.
    goal: Goal,
    /// To be durable later.
    interval: Option<Later>,
    /// To be written later.
    lazy: Option<Later>,
}

/// What one round of writes and a flush are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Goal {
    pub(super) number: u64,
    pub(super) ticket: u64,
}

impl Goal {
    fn is_within(self, other: Goal) -> bool {
        self.number <= other.number && self.ticket <= other.ticket
    }
}

#[derive(Clone, Copy, Debug)]
struct Later {
    due: Instant,
    /// It is due no later than this after any moment from now on.
    within: Duration,
    to: u64,
}

/// What is to be done for the needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    /// A batch. `is_urgent`: also while a flush is under way.
    Batch {
        is_durable: bool,
        is_urgent: bool,
    },
    /// All that the goal is about is in batches.
    Flush,
}

impl Needs {
    /// Numbers below `end` were committed. Returns whether the task has to look.
    pub(super) fn commit(
        &mut self,
        end: u64,
        durability: Durability,
        durable: u64,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        match durability {
            Durability::Sync => self.ask(end),
            Durability::Interval(within) => put_off(&mut self.interval, end, durable, within / 2, now),
            Durability::None => put_off(&mut self.lazy, end, durable, WRITE_WITHIN, now),
        }
    }

    /// Numbers below `end` are to be durable. Returns whether that is new.
    pub(super) fn ask(&mut self, end: u64) -> bool {
        raise(&mut self.durable, end)
    }

    /// Tickets below `end` are to be durable.
    pub(super) fn ask_bundle(&mut self, end: u64) -> bool {
        raise(&mut self.tickets, end)
    }

    /// Numbers below `end` are to be written.
    pub(super) fn ask_written(&mut self, end: u64) -> bool {
        raise(&mut self.written, end)
    }

    /// Whether something is to be written now that is not in a batch, if that much is.
    pub(super) fn are_written_asked(&self, formed: u64) -> bool {
        self.written > formed
    }

    /// What was put off is needed now, whatever the time.
    pub(super) fn hurry(&mut self) {
        if let Some(later) = self.interval.take() {
            self.ask(later.to);
        }
        if let Some(later) = self.lazy.take() {
            self.ask_written(later.to);
        }
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        [self.interval, self.lazy].into_iter().flatten().map(|later| later.due).min()
    }

    /// Takes what is due by `now` for needed.
    pub(super) fn pass_to(&mut self, now: Instant) {
        if let Some(later) = self.interval.take_if(|later| later.due <= now) {
            self.ask(later.to);
        }
        if let Some(later) = self.lazy.take_if(|later| later.due <= now) {
            self.ask_written(later.to);
        }
    }

    /// Whether anything is needed now.
    pub(super) fn are_unmet(&self, formed: u64, durable: Goal) -> bool {
        self.written > formed || !self.needed().is_within(durable)
    }

    fn needed(&self) -> Goal {
        Goal { number: self.durable, ticket: self.tickets }
    }

    /// What is to be done next, if that much is in batches and that much is durable.
    pub(super) fn want(&mut self, formed: Goal, durable: Goal, is_flushing: bool) -> Want {
        if self.goal.is_within(durable) {
            self.goal = self.needed();
        }
        let is_durable = !self.goal.is_within(durable);
        let is_urgent = self.written > formed.number;
        if !self.goal.is_within(formed) {
            Want::Batch { is_durable, is_urgent }
        } else if is_durable && !is_flushing {
            // Before what is urgent: that never ends if writers are faster than the device.
            Want::Flush
        } else if is_urgent {
            Want::Batch { is_durable, is_urgent }
        } else {
            Want::Nothing
        }
    }
}

fn raise(number: &mut u64, to: u64) -> bool {
    let is_new = *number < to;
    *number = to.max(*number);
    is_new
}

/// Notes that `end` is due `within` from now; returns whether something is due sooner than before.
/// What would be due behind something that is due anyway does not ask for the time: that is most
/// of what a core that writes much puts off.
fn put_off(
    later: &mut Option<Later>,
    end: u64,
    durable: u64,
    within: Duration,
    now: impl FnOnce() -> Instant,
) -> bool {
    match later {
        // What it was about has been done meanwhile.
        Some(before) if before.to <= durable => {
            let after = Later { due: now() + within, within, to: end };
            std::mem::replace(before, after).due > after.due
        }
        Some(before) if before.within <= within => {
            before.to = end.max(before.to);
            false
        }
        Some(before) => {
            before.to = end.max(before.to);
            let due = now() + within;
            let is_sooner = due < before.due;
            if is_sooner {
                (before.due, before.within) = (due, within);
            }
            is_sooner
        }
        None => {
            *later = Some(Later { due: now() + within, within, to: end });
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(number: u64) -> Goal {
        Goal { number, ticket: 0 }
    }

    #[test]
    fn a_round_has_a_goal_that_does_not_move() {
        let mut needs = Needs::default();
        needs.ask(5);
        assert_eq!(needs.want(goal(1), goal(1), false), Want::Batch { is_durable: true, is_urgent: false });
        needs.ask(9);
        assert_eq!(needs.want(goal(5), goal(1), false), Want::Flush);
        // Only what was flushed is over.
        assert_eq!(needs.want(goal(5), goal(5), false), Want::Batch { is_durable: true, is_urgent: false });
        assert_eq!(needs.want(goal(9), goal(5), false), Want::Flush);
        assert_eq!(needs.want(goal(9), goal(9), false), Want::Nothing);
        assert!(!needs.are_unmet(9, goal(9)));
    }

    #[test]
    fn a_flush_comes_before_what_is_urgent_and_that_goes_on_meanwhile() {
        let mut needs = Needs::default();
        needs.ask(5);
        needs.ask_written(100);
        assert_eq!(needs.want(goal(5), goal(1), false), Want::Flush);
        let urgent = Want::Batch { is_durable: true, is_urgent: true };
        assert_eq!(needs.want(goal(5), goal(1), true), urgent);
    }

    #[test]
    fn bundles_are_part_of_the_goal() {
        let mut needs = Needs::default();
        needs.ask_bundle(1);
        assert_eq!(needs.want(goal(7), goal(7), false), Want::Batch { is_durable: true, is_urgent: false });
        let named = Goal { number: 7, ticket: 1 };
        assert_eq!(needs.want(named, goal(7), false), Want::Flush);
        assert_eq!(needs.want(named, named, false), Want::Nothing);
    }

    #[test]
    fn an_interval_starts_at_half_of_it_and_anew_once_it_was_met() {
        let at = |ms| Instant::ORIGIN + Duration::from_millis(ms);
        let durability = Durability::Interval(Duration::from_millis(100));
        let mut needs = Needs::default();
        assert!(needs.commit(2, durability, 1, || at(0)));
        assert!(!needs.commit(3, durability, 1, || at(20)), "the first is due before");
        needs.pass_to(at(49));
        assert!(!needs.are_unmet(1, goal(1)));
        needs.pass_to(at(50));
        assert!(needs.are_unmet(1, goal(1)) && !needs.are_unmet(3, goal(3)));
        assert!(needs.commit(4, durability, 3, || at(60)));
        // Another core made it durable at 80.
        assert!(!needs.commit(5, durability, 4, || at(90)));
        assert_eq!(needs.next_due(), Some(at(140)));
        let shorter = Durability::Interval(Duration::from_millis(10));
        assert!(needs.commit(6, shorter, 4, || at(91)));
        assert_eq!(needs.next_due(), Some(at(96)));
    }

    #[test]
    fn time_is_asked_for_once_by_writes_that_are_due_behind_each_other() {
        let at = |ms| Instant::ORIGIN + Duration::from_millis(ms);
        let never = || unreachable!("something is due before");
        let mut needs = Needs::default();
        for durability in [Durability::None, Durability::Interval(Duration::from_millis(300))] {
            assert!(needs.commit(2, durability, 1, || at(10)));
            assert!(!needs.commit(3, durability, 1, never));
        }
        assert!(!needs.commit(4, Durability::Interval(Duration::from_millis(302)), 1, never));
        assert_eq!(needs.next_due(), Some(at(110)));
        // One that is shorter, but not due sooner, leaves what the others know.
        assert!(!needs.commit(5, Durability::Interval(Duration::from_millis(298)), 1, || at(50)));
        assert!(!needs.commit(6, Durability::Interval(Duration::from_millis(300)), 1, never));
        assert!(needs.commit(7, Durability::Interval(Duration::from_millis(100)), 1, || at(55)));
        assert_eq!(needs.next_due(), Some(at(105)));
        assert!(!needs.commit(8, Durability::Interval(Duration::from_millis(100)), 1, never));
        needs.pass_to(at(105));
        assert!(!needs.are_unmet(0, goal(9)) && needs.are_unmet(0, goal(7)), "the last one goes along");
    }

    #[test]
    fn what_nobody_asks_for_is_written_and_not_flushed() {
        let mut needs = Needs::default();
        assert!(needs.commit(2, Durability::None, 1, || Instant::ORIGIN));
        needs.pass_to(Instant::ORIGIN + WRITE_WITHIN);
        assert_eq!(needs.want(goal(1), goal(1), false), Want::Batch { is_durable: false, is_urgent: true });
        assert_eq!(needs.want(goal(2), goal(1), false), Want::Nothing);
    }
}
