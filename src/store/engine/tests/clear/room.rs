//! A full store: its trees can be cleared, and what they took is there again.

use super::*;
use crate::error::{Outcome, Result};

/// One in eight is much longer than a page.
fn long_or_short(key: u32, round: u32) -> Vec<u8> {
    let len = if key.is_multiple_of(8) { 20_000 } else { 900 };
    [key.to_le_bytes(), round.to_le_bytes()].concat().repeat(len / 8)
}

fn short(key: u32, round: u32) -> Vec<u8> {
    [key.to_le_bytes(), round.to_le_bytes()].concat().repeat(100)
}

type Values = fn(u32, u32) -> Vec<u8>;

/// Puts until the store is full. How many bytes of values that were.
async fn fill_up(store: &Store, name: &str, (values, round): (Values, u32)) -> usize {
    let root = tree(store, name).await;
    let mut bytes = 0;
    for key in 0..u32::MAX {
        let value = values(key, round);
        let put: Result<u64> = store.put(root, &key.to_be_bytes(), &value, DURABILITY).await;
        match put {
            Ok(_) => bytes += value.len(),
            Err(error) => {
                assert_eq!((error.kind(), error.outcome()), (ErrorKind::NoSpace, Outcome::NotStarted));
                check_some(store, root, key, (values, round)).await;
                return bytes;
            }
        }
    }
    unreachable!("no store has room for all of that")
}

async fn check_some(store: &Store, root: TreeRoot, keys: u32, (values, round): (Values, u32)) {
    for key in (0..keys).step_by(7) {
        let found = store.get(root, &key.to_be_bytes(), <[u8]>::to_vec).await.expect("it works");
        assert!(found == Some(values(key, round)), "key {key}");
    }
}

/// What is used and reserved.
fn taken(store: &Store) -> u64 {
    let (used, growth, _) = store.shared.space.taken();
    used + growth
}

/// A store is filled by one tree, cleared, and filled again, in the same opening and in the next.
fn is_filled_again_and_again(size_bytes: u64, values: Values, rounds: u32) {
    on_a_disk(size_bytes, async |disk| {
        let mut first = None;
        let mut store = reopen(&disk).await;
        for round in 0..rounds {
            let filled = fill_up(&store, "large", (values, round)).await;
            println!("round {round}: {filled} bytes");
            let first = *first.get_or_insert(filled);
            assert!(filled >= first / 100 * 95, "{filled} bytes fit, {first} at first");
            store.checkpoint().await.expect("a full store has room for a checkpoint");
            let before = taken(&store);
            if round % 3 == 2 {
                store.remove_tree("large", DURABILITY).await.expect("there is room for that");
            } else {
                store.clear_tree("large", DURABILITY).await.expect("there is room for that");
            }
            assert!(taken(&store) <= before + 1024, "{} bytes, {before} before", taken(&store));
            if round % 2 == 1 {
                store.close().await.expect("it closes");
                drop(store);
                store = reopen(&disk).await;
            }
        }
        are_apart(&store).await;
        has_no_pieces(&store).await;
        store.checkpoint().await.expect("a checkpoint");
        assert!(!store.shared.space.is_stuck());
        store.close().await.expect("it closes");
    });
}

#[test]
fn a_full_store_that_is_cleared_takes_as_much_again() {
    is_filled_again_and_again(8 << 20, short, 6);
}

#[test]
fn a_store_that_is_full_of_long_values_takes_as_much_again_when_it_is_cleared() {
    is_filled_again_and_again(8 << 20, long_or_short, 4);
}

/// Many trees are cleared, one after the other, while nothing is free.
#[test]
fn each_tree_of_a_full_store_can_be_cleared() {
    on_a_disk(8 << 20, async |disk| {
        let store = reopen(&disk).await;
        let names: Vec<_> = (0..30).map(|at| format!("{at}")).collect();
        for name in &names {
            let root = tree(&store, name).await;
            fill(&store, root, 10, 1).await;
        }
        fill_up(&store, "large", (short, 1)).await;
        // The most that there may be besides.
        fill_up(&store, "large", (short, 1)).await;
        for name in &names {
            let new = store.clear_tree(name, DURABILITY).await.expect("there is room for that");
            assert_eq!(count_keys(&store, new.expect("it is there").0.root).await, 0);
        }
        are_apart(&store).await;
        let large = tree(&store, "large").await;
        check_some(&store, large, 100, (short, 1)).await;
        store.close().await.expect("it closes");
    });
}

/// The process ends right after a full store was cleared: the next one has the room.
#[test]
fn what_was_cleared_before_a_crash_is_room_after_it() {
    let disk = Disk::new(MemoryOptions::disk(8 << 20), 1);
    let mut first = None;
    for round in 0..3 {
        let filled = a_life(&disk, async move |disk| {
            let store = reopen(&disk).await;
            let filled = fill_up(&store, "large", (short, round)).await;
            let cleared = store.clear_tree("large", DURABILITY).await.expect("there is room for that");
            store.wait(cleared.expect("it is there").1).await.expect("it is durable");
            std::mem::forget(store);
            filled
        });
        let first = *first.get_or_insert(filled);
        assert!(filled >= first / 100 * 95, "{filled} bytes fit, {first} at first");
    }
}
