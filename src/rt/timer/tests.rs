//! The wheel against a list, its budgets, and its ends.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TICK: Duration = Duration::from_nanos(1 << TICK_SHIFT);

#[derive(Clone, Debug)]
enum Operation {
    Insert(u64),
    Remove(usize),
    Advance(u64),
    /// With a budget that need not be enough.
    AdvanceSome(u64, usize),
    Clear,
}

fn operation() -> impl Strategy<Value = Operation> {
    // Sums of 200 of them stay below the point where `Instant` saturates.
    let waits = prop_oneof![0..1_000_000u64, 0..1_000_000_000u64, 0..1u64 << 45, 0..1u64 << 62];
    let steps = prop_oneof![0..1_000_000u64, 0..1_000_000_000u64, 0..1u64 << 45, 0..1u64 << 54];
    prop_oneof![
        3 => waits.prop_map(Operation::Insert),
        1 => any::<usize>().prop_map(Operation::Remove),
        3 => steps.prop_map(Operation::Advance),
        3 => (0..1_000_000_000u64, 0..4usize).prop_map(|(step, budget)| Operation::AdvanceSome(step, budget)),
        1 => (0..8u8).prop_map(|dice| if dice == 0 { Operation::Clear } else { Operation::Advance(0) }),
    ]
}

proptest! {
    /// Against a plain list: nothing fires early, everything fires in time, removed entries never
    /// fire, and `next_deadline` is never late.
    #[test]
    fn behaves_like_a_sorted_list(start in 0..1u64 << 60, operations in prop::collection::vec(operation(), 1..200)) {
        let mut now = Instant::from_nanos(start);
        let mut wheel = Wheel::new(now);
        // With whether the deadline had not passed when it was inserted: those fire in their order.
        let mut model: Vec<(TimerKey, Instant, usize, bool)> = Vec::new();
        let mut cleared: Vec<TimerKey> = Vec::new();
        for (id, operation) in operations.into_iter().enumerate() {
            match operation {
                Operation::Insert(nanos) => {
                    let deadline = now + Duration::from_nanos(nanos);
                    model.push((wheel.insert(deadline, id), deadline, id, deadline > now));
                }
                Operation::Remove(which) if !model.is_empty() => {
                    let (key, _, id, _) = model.swap_remove(which % model.len());
                    prop_assert_eq!(wheel.remove(key), Some(id));
                    prop_assert_eq!(wheel.remove(key), None);
                }
                Operation::Remove(_) => {}
                Operation::Clear => {
                    prop_assert_eq!(wheel.clear().len(), model.len());
                    cleared.extend(model.drain(..).map(|(key, ..)| key));
                }
                Operation::Advance(nanos) | Operation::AdvanceSome(nanos, _) => {
                    now += Duration::from_nanos(nanos);
                    let budget = match operation {
                        Operation::AdvanceSome(_, budget) => budget,
                        _ => usize::MAX,
                    };
                    let mut fired = Vec::new();
                    let count = wheel.expire(now, budget, |id| fired.push(id));
                    prop_assert!(count == fired.len() && count <= budget);
                    for id in fired {
                        let at = model.iter().position(|entry| entry.2 == id).expect("fired once, not removed");
                        let (_, fired_deadline, _, in_time) = model.swap_remove(at);
                        prop_assert!(fired_deadline <= now, "fired early");
                        let tick = |deadline: Instant| deadline.as_nanos().div_ceil(1 << TICK_SHIFT);
                        let overtaken = |(_, deadline, _, was_in_time): &(_, Instant, _, bool)| {
                            in_time && *was_in_time && tick(*deadline) < tick(fired_deadline)
                        };
                        prop_assert!(!model.iter().any(overtaken), "fired before an earlier one");
                    }
                    if budget == usize::MAX {
                        for (_, deadline, ..) in &model {
                            prop_assert!(*deadline + TICK > now, "late by a tick or more");
                        }
                    }
                }
            }
            prop_assert!(cleared.iter().all(|key| wheel.get_mut(*key).is_none()), "a stale key names an entry");
            prop_assert_eq!(wheel.len(), model.len());
            let earliest = model.iter().map(|entry| entry.1).min();
            prop_assert_eq!(wheel.next_deadline().is_some(), earliest.is_some());
            if let (Some(next), Some(earliest)) = (wheel.next_deadline(), earliest) {
                prop_assert!(next < earliest.max(now) + TICK);
                prop_assert!(wheel.is_due(earliest.max(now) + TICK), "due, and does not say so");
            }
        }
    }
}

#[test]
fn following_next_deadline_reaches_a_far_entry_in_a_few_steps() {
    let mut wheel = Wheel::new(Instant::ORIGIN);
    let deadline = Instant::ORIGIN + Duration::from_secs(3600 * 24 * 10_000);
    wheel.insert(deadline, ());
    let mut steps = 0;
    while let Some(next) = wheel.next_deadline() {
        wheel.expire(next, 1, |()| ());
        steps += 1;
        assert!(steps < 64, "the wheel walks towards a far deadline slot by slot");
    }
}

#[test]
fn a_deadline_beyond_the_span_is_not_due_whatever_the_time_is() {
    for start in [0, 1, (1 << 50) - 1, (1 << 56) - 1, (1 << 56) + (1 << 50) - 1, 1 << 61] {
        let mut wheel = Wheel::new(Instant::from_nanos(start));
        wheel.insert(Instant::FAR_FUTURE, ());
        let now = Instant::from_nanos(start + 100_000);
        assert_eq!(wheel.expire(now, 1, |()| ()), 0);
        assert!(wheel.next_deadline().expect("it waits") > now);
    }
}

#[test]
fn the_entries_of_a_slot_move_to_finer_levels_within_the_budget_and_fire_in_order() {
    const ENTRIES: u32 = 100_000;
    const BUDGET: usize = 256;
    let mut wheel = Wheel::new(Instant::ORIGIN);
    let base = Instant::ORIGIN + TICK * (64 * 64 + 1);
    for number in 0..ENTRIES {
        // Ticks of one slot of level 2.
        let deadline = base + TICK * (number * 7919 % 4000);
        wheel.insert(deadline, deadline);
    }
    // They are all due at once, and another comes and goes meanwhile.
    let now = base + TICK * 5000;
    let (mut fired, mut calls, mut calls_in_vain) = (Vec::new(), 0, 0);
    while wheel.is_due(now) {
        assert!(wheel.next_deadline().expect("some wait") <= now);
        let key = wheel.insert(now + TICK, Instant::FAR_FUTURE);
        let before = fired.len();
        let count = wheel.expire(now, BUDGET, |deadline| fired.push(deadline));
        assert!(count <= BUDGET && fired.len() == before + count);
        assert_eq!(wheel.remove(key), Some(Instant::FAR_FUTURE), "it fired early");
        calls_in_vain += usize::from(fired.is_empty());
        calls += 1;
        assert!(calls < ENTRIES, "it does not come to an end");
    }
    assert_eq!(fired.len(), ENTRIES as usize);
    assert!(fired.is_sorted_by_key(|deadline| deadline.as_nanos() >> TICK_SHIFT), "out of order");
    assert_eq!(wheel.len(), 0);
    let moved_first = ENTRIES as usize / (BUDGET * MOVES_PER_FIRE);
    assert!(calls_in_vain >= moved_first, "all were moved in {calls_in_vain} calls");
}

#[test]
fn a_budget_leaves_the_rest_for_the_next_call() {
    let mut wheel = Wheel::new(Instant::ORIGIN);
    for id in 0..10 {
        wheel.insert(Instant::from_nanos(5), id);
    }
    let later = Instant::ORIGIN + TICK;
    let mut fired = 0;
    assert_eq!(wheel.expire(later, 4, |_| fired += 1), 4);
    assert!(wheel.next_deadline().expect("six wait") <= later);
    assert_eq!(wheel.expire(later, 100, |_| fired += 1), 6);
    assert_eq!(fired, 10);
}
