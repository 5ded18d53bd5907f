//! What the flusher does for the pages of one long value: so much for each, however many there are.

use super::*;
use crate::store::flush::STEPS;

/// How many pages the flusher looks at because of another, for each KiB of a value that is written,
/// made durable, and then deleted; and for each until it is reclaimed.
fn steps_for_each_kib(kib: usize) -> (u64, u64) {
    let steps = Rc::new(std::cell::Cell::new((0, 0)));
    on_a_disk(512 << 20, async |disk| {
        // Nothing is written before it is asked for: all of it is one family.
        let options = options().cache_bytes(128 << 20).log_bytes(128 << 20);
        let store = open(RtEnv, disk, &options).await.expect("room for a store");
        let began = STEPS.get();
        store.put(catalog(), b"key", &vec![7; kib << 10], Durability::None).await.expect("put");
        store.checkpoint().await.expect("a checkpoint");
        let written = STEPS.get();
        store.delete(catalog(), b"key", Durability::None).await.expect("deleted");
        store.wait_until_reclaimed().await.expect("reclaimed");
        store.checkpoint().await.expect("a checkpoint");
        steps.set((written - began, STEPS.get() - written));
        store.close().await.expect("it closes");
    });
    let (written, deleted) = steps.get();
    (written / kib as u64, deleted / kib as u64)
}

#[test]
fn a_long_value_costs_the_flusher_as_much_for_each_page_as_a_short_one() {
    let (short, long) = (steps_for_each_kib(1 << 10), steps_for_each_kib(8 << 10));
    println!("{short:?} {long:?}");
    assert!(long.0 <= short.0 * 2 + 2, "written: {long:?}, and {short:?} of an eighth");
    assert!(long.1 <= short.1 * 2 + 2, "deleted: {long:?}, and {short:?} of an eighth");
}

/// How many pages the flusher looks at because of another, for each of so many values of one key
/// that are written one after the other.
fn steps_for_each_of(values: u64) -> u64 {
    let steps = Rc::new(std::cell::Cell::new(0));
    on_a_disk(512 << 20, async |disk| {
        let options = options().cache_bytes(128 << 20).log_bytes(128 << 20);
        let store = open(RtEnv, disk, &options).await.expect("room for a store");
        let began = STEPS.get();
        for value in 0..values {
            store.put(catalog(), b"key", &vec![7; 2000], Durability::None).await.expect("put");
            if value % 16 == 0 {
                crate::rt::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        steps.set(STEPS.get() - began);
        store.close().await.expect("it closes");
    });
    steps.get() / values
}

/// The pages of the values that are replaced go and come: the tree of values is a leaf, then a root
/// and its leaves, then a leaf again.
#[test]
fn a_key_that_is_overwritten_costs_the_flusher_little_for_each_value() {
    let (few, many) = (steps_for_each_of(1_000), steps_for_each_of(4_000));
    println!("{few} {many}");
    assert!(few <= 50 && many <= 50, "{few} for each of few, {many} for each of many");
}
