//! Models of the area's protocol: writers, readers and consolidations of one leaf in every order
//! that loom finds. Each is run over the protocol as it is; the canaries run them over a protocol
//! that is broken in one place, and must fail.

mod leaf;

use std::rc::Rc;

use loom::thread;

use super::Defect;
use leaf::{FIRST, Leaf, Told};

/// Every execution with at most `preemptions` preemptions, besides the switches at the end of a
/// thread and where one waits. `LOOM_MAX_PREEMPTIONS` asks for another number.
fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(body);
}

fn spawn<T: 'static>(leaf: &Rc<Leaf>, body: impl FnOnce(&Leaf) -> T + 'static) -> thread::JoinHandle<T> {
    let leaf = leaf.clone();
    thread::spawn(move || body(&leaf))
}

fn join<T>(thread: thread::JoinHandle<T>) -> T {
    thread.join().expect("no thread of a model panics")
}

/// The larger of the numbers under which two writers wrote the same key is what everyone sees from
/// now on, before and after a consolidation.
fn check_larger_wins(leaf: &Leaf, one: &Told, two: &Told, values: (u64, u64)) {
    leaf.check(&[one, two]);
    let ((one, two), newest) = ((one.live[0], two.live[0]), leaf.get(1));
    let larger = if one > two { (one, values.0) } else { (two, values.1) };
    assert_eq!(newest, Some(larger), "the larger number wins");
    leaf.consolidate();
    assert_eq!(leaf.get(1), newest, "a consolidation changes nothing");
}

/// Two writers of one key and a consolidation.
fn two_writers(preemptions: usize, patience: u32, defect: Option<Defect>) {
    model(preemptions, move || {
        let leaf = Rc::new(Leaf::new(2, defect).with_patience(patience));
        let one = spawn(&leaf, |leaf| leaf.put(1, 10));
        let two = spawn(&leaf, |leaf| leaf.put(1, 20));
        leaf.consolidate();
        let (one, two) = (join(one), join(two));
        check_larger_wins(&leaf, &one, &two, (10, 20));
    });
}

#[test]
fn of_two_writes_the_larger_number_wins_and_none_is_lost() {
    two_writers(2, 0, None);
}

#[test]
fn writers_that_wait_for_each_other_end() {
    two_writers(2, 1, None);
}

#[test]
#[should_panic(expected = "the larger number wins")]
fn canary_reserved_slots_are_left_by_a_consolidation() {
    two_writers(2, 0, Some(Defect::LeaveReserved));
}

#[test]
#[should_panic(expected = "what is live was acknowledged, once")]
fn canary_a_store_publishes_over_an_abort() {
    two_writers(2, 0, Some(Defect::PublishByStore));
}

#[test]
#[should_panic(expected = "the larger number wins")]
fn canary_numbers_are_drawn_without_order() {
    two_writers(2, 0, Some(Defect::DrawWithoutOrder));
}

#[test]
#[should_panic(expected = "the larger number wins")]
fn canary_a_frozen_area_takes_writes() {
    two_writers(2, 0, Some(Defect::LeaveUnsealed));
}

/// Two writers of one key and an eviction.
fn an_eviction(preemptions: usize, defect: Option<Defect>) {
    model(preemptions, move || {
        let leaf = Rc::new(Leaf::new(2, defect));
        let one = spawn(&leaf, |leaf| leaf.put(1, 10));
        let two = spawn(&leaf, |leaf| leaf.put(1, 20));
        leaf.evict();
        let (one, two) = (join(one), join(two));
        check_larger_wins(&leaf, &one, &two, (10, 20));
    });
}

#[test]
fn no_write_is_evicted() {
    an_eviction(2, None);
}

#[test]
#[should_panic(expected = "the larger number wins")]
fn canary_an_area_is_evicted_that_takes_writes() {
    an_eviction(2, Some(Defect::LeaveUnsealed));
}

/// Two writers of one key and a reader, who consolidates between its reads.
fn a_reader(preemptions: usize, defect: Option<Defect>) {
    model(preemptions, move || {
        let leaf = Rc::new(Leaf::new(2, defect));
        let write_and_read = |value| {
            move |leaf: &Leaf| {
                let told = leaf.put(1, value);
                let seen = leaf.get(1).expect("a write that was acknowledged is seen");
                assert!(seen.0 >= told.live[0], "views grow: a writer sees its write, or a later one");
                told
            }
        };
        let one = spawn(&leaf, write_and_read(10));
        let two = spawn(&leaf, write_and_read(20));
        let first = leaf.get(1);
        leaf.consolidate();
        let second = leaf.get(1);
        let (one, two) = (join(one), join(two));
        let versions = [None, Some((one.live[0], 10)), Some((two.live[0], 20))];
        assert!(versions.contains(&first) && versions.contains(&second), "readers see what was written");
        assert!(first <= second, "views grow: a reader never goes back");
        if defect.is_none() {
            check_larger_wins(&leaf, &one, &two, (10, 20));
        }
    });
}

#[test]
fn readers_see_numbers_grow() {
    a_reader(2, None);
}

#[test]
#[should_panic(expected = "views grow")]
fn canary_readers_see_numbers_without_order() {
    a_reader(2, Some(Defect::DrawWithoutOrder));
}

/// Two increments of one key and a consolidation.
fn two_increments(preemptions: usize, capacity: usize, defect: Option<Defect>) {
    model(preemptions, move || {
        let leaf = Rc::new(Leaf::new(capacity, defect));
        let one = spawn(&leaf, |leaf| leaf.increment(1));
        let two = spawn(&leaf, |leaf| leaf.increment(1));
        leaf.consolidate();
        let (one, two) = (join(one), join(two));
        leaf.check(&[&one, &two]);
        assert_eq!(leaf.get(1).map(|(_, value)| value), Some(2), "no increment is lost");
    });
}

#[test]
fn increments_are_not_lost() {
    two_increments(2, 2, None);
}

#[test]
fn increments_are_not_lost_where_each_fills_the_area() {
    two_increments(2, 1, None);
}

#[test]
#[should_panic(expected = "no increment is lost")]
fn canary_increments_ignore_what_came_in() {
    two_increments(2, 2, Some(Defect::IgnoreNewerSlots));
}

#[test]
#[should_panic(expected = "no increment is lost")]
fn canary_increments_of_a_frozen_area() {
    two_increments(2, 2, Some(Defect::LeaveReserved));
}

/// Two increments of one key beside a write of another one, whose slot they walk over.
fn increments_and_another_key(defect: Option<Defect>) {
    model(2, move || {
        let leaf = Rc::new(Leaf::new(4, defect));
        let one = spawn(&leaf, |leaf| leaf.increment(1));
        let other = spawn(&leaf, |leaf| leaf.put(10, 5));
        let two = leaf.increment(1);
        let (one, other) = (join(one), join(other));
        leaf.check(&[&one, &two, &other]);
        assert_eq!(leaf.get(1).map(|(_, value)| value), Some(2), "no increment is lost");
        assert_eq!(leaf.get(10), Some((other.live[0], 5)));
    });
}

#[test]
fn increments_walk_over_writes_of_other_keys() {
    increments_and_another_key(None);
}

#[test]
#[should_panic(expected = "no increment is lost")]
fn canary_increments_walk_over_each_other() {
    increments_and_another_key(Some(Defect::IgnoreNewerSlots));
}

/// An increment beside a blind write of the same key: one of them comes first.
fn increment_and_put(defect: Option<Defect>) {
    model(4, move || {
        let leaf = Rc::new(Leaf::new(3, defect));
        let put = spawn(&leaf, |leaf| leaf.put(1, 10));
        let increment = leaf.increment(1);
        let put = join(put);
        leaf.check(&[&put, &increment]);
        let (put, increment) = (put.live[0], increment.live[0]);
        let newest = if put < increment { (increment, 11) } else { (put, 10) };
        assert_eq!(leaf.get(1), Some(newest), "one comes after the other");
    });
}

#[test]
fn an_increment_comes_before_a_put_or_after_it() {
    increment_and_put(None);
}

#[test]
#[should_panic(expected = "one comes after the other")]
fn canary_a_put_is_not_ordered_after_an_increment() {
    increment_and_put(Some(Defect::DrawWithoutOrder));
}

/// An increment beside a transaction that writes the same key: one of them comes first.
fn increment_and_transaction(defect: Option<Defect>) {
    model(4, move || {
        let leaf = Rc::new(Leaf::new(3, None));
        let transaction = spawn(&leaf, move |leaf| leaf.transact(1, 10, defect));
        let increment = leaf.increment(1);
        let transaction = join(transaction);
        leaf.check(&[&transaction, &increment]);
        let increment = increment.live[0];
        let newest = match transaction.live.first() {
            None => (increment, 1),
            Some(seq) if *seq < increment => (increment, 11),
            Some(seq) => (*seq, 10),
        };
        assert_eq!(leaf.get(1), Some(newest), "one comes after the other");
    });
}

#[test]
fn an_increment_comes_before_a_transaction_or_after_it() {
    increment_and_transaction(None);
}

#[test]
#[should_panic(expected = "one comes after the other")]
fn canary_an_intent_is_not_ordered_after_an_increment() {
    increment_and_transaction(Some(Defect::DrawWithoutOrder));
}

/// A put beside a transaction that writes the same key, and a consolidation, which carries the
/// transaction's intent over while that is open.
fn put_and_transaction(defect: Option<Defect>) {
    model(3, move || {
        let leaf = Rc::new(Leaf::new(3, defect));
        let transaction = spawn(&leaf, |leaf| leaf.transact(1, 10, None));
        let put = spawn(&leaf, |leaf| leaf.put(1, 20));
        leaf.consolidate();
        let (transaction, put) = (join(transaction), join(put));
        leaf.check(&[&transaction, &put]);
        let put = (put.live[0], 20);
        let newest = transaction.live.first().map_or(put, |seq| put.max((*seq, 10)));
        assert_eq!(leaf.get(1), Some(newest), "the larger number wins");
        leaf.consolidate();
        assert_eq!(leaf.get(1), Some(newest), "a consolidation changes nothing");
    });
}

#[test]
fn of_a_put_and_a_transaction_the_larger_number_wins() {
    put_and_transaction(None);
}

#[test]
#[should_panic(expected = "the larger number wins")]
fn canary_an_intent_that_was_carried_over_hides_what_is_newer() {
    put_and_transaction(Some(Defect::TrustIntents));
}

/// Writers of two keys in an area with one slot: each has to make room for itself.
#[test]
fn writers_make_room() {
    model(3, || {
        let leaf = Rc::new(Leaf::new(1, None));
        let one = spawn(&leaf, |leaf| leaf.put(1, 10));
        let two = leaf.put(2, 20);
        let one = join(one);
        leaf.check(&[&one, &two]);
        assert_eq!(leaf.get(1), Some((one.live[0], 10)));
        assert_eq!(leaf.get(2), Some((two.live[0], 20)));
    });
}

/// A checkpoint that reads the counter, and then finds the page on no list.
fn a_checkpoint(defect: Option<Defect>) {
    model(3, move || {
        let leaf = Rc::new(Leaf::new(2, defect));
        let one = spawn(&leaf, |leaf| leaf.put(1, 10));
        let two = spawn(&leaf, |leaf| leaf.put(2, 20));
        let (counter, is_listed) = leaf.look_at_lists();
        assert!(is_listed || counter == FIRST, "a number was drawn for a page on no list");
        join(one);
        join(two);
    });
}

#[test]
fn a_page_is_listed_before_a_number_is_drawn_for_it() {
    a_checkpoint(None);
}

#[test]
#[should_panic(expected = "a number was drawn for a page on no list")]
fn canary_the_first_writer_alone_lists_the_page() {
    a_checkpoint(Some(Defect::ListFirstOnly));
}
