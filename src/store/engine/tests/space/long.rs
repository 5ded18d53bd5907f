//! Long values on a full store.

use std::ops::Bound::Unbounded;

use super::*;
use crate::store::engine::registry::values;
use crate::store::engine::scan::Scan;
use crate::store::engine::values::PIECE_BYTES;
use crate::store::overlay::Direction::Forwards;

async fn put(store: &Store, key: u64, version: u64, len: usize) -> Result<u64> {
    let value = value_of(key, version, len);
    store.put(catalog(), &key.to_be_bytes(), &value, Durability::None).await
}

/// Puts new values of this length until one is refused.
async fn fill(store: &Store, kept: &mut Kept, len: usize) {
    let error = loop {
        let key = kept.len() as u64;
        match put(store, key, 0, len).await {
            Ok(_) => _ = kept.insert(key, (0, len)),
            Err(error) => break error,
        }
    };
    assert_is_full(&error);
}

/// Of long values the store has those that are kept, and nothing else.
async fn check(store: &Store, kept: &Kept) {
    store.wait_until_reclaimed().await.expect("it takes writes");
    let mut scan = Scan::new(store, values(), (Unbounded, Unbounded), Forwards);
    let mut pieces = 0;
    while let Some(key) = scan.next_key().await.expect("no fault is injected") {
        assert_eq!(key[0], 1, "a marker is left");
        pieces += 1;
    }
    let long = kept.values().filter(|(_, len)| *len > 1008);
    assert_eq!(pieces, long.map(|(_, len)| len.div_ceil(PIECE_BYTES)).sum::<usize>());
    Shape::USUAL.check(store, kept).await;
}

/// A store is filled by values of this length, and refuses one more. They are overwritten by others
/// that are as long, many times over, and by short ones; they are deleted; the store is filled
/// again.
fn long_values(len: usize, rounds: u64) {
    let (disk, shape) = (Disk::new(MemoryOptions::disk(8 << 20), 1), Shape::USUAL);
    let (mut kept, mut first, before) = (Kept::new(), 0, moves());
    for end in [End::Killed, End::Closed] {
        session(&disk, end, &shape, &mut kept, async |store, kept| {
            fill(store, kept, len).await;
            check(store, kept).await;
            if first == 0 {
                first = kept.len();
            }
            println!("{} values of {len} bytes", kept.len());
            assert!(kept.len() * 20 >= first * 19, "{} were {first} at first", kept.len());
            assert!(kept.len() * len > 512 << 10, "{}", kept.len());
            let mut last = 0;
            for version in 1..=rounds {
                for (&key, entry) in kept.iter_mut() {
                    last = put(store, key, version, len).await.expect("as long a value is admitted");
                    entry.0 = version;
                }
            }
            store.wait(last).await.expect("it is durable");
            check(store, kept).await;
            // What the values that are replaced leave is for them alone.
            assert_is_full(&put(store, 1 << 40, 0, len).await.expect_err("it is full"));
            check(store, kept).await;
        });
        session(&disk, end, &shape, &mut kept, async |store, kept| {
            assert_is_full(&put(store, 1 << 40, 0, len).await.expect_err("it is full"));
            let keys: Vec<u64> = kept.keys().copied().collect();
            for (at, key) in keys.into_iter().enumerate() {
                if at % 4 == 0 {
                    put(store, key, 90, 500).await.expect("a shorter value is admitted");
                    kept.insert(key, (90, 500));
                }
            }
            check(store, kept).await;
            let mut last = 0;
            for key in std::mem::take(kept).into_keys() {
                let deleted = store.delete(catalog(), &key.to_be_bytes(), Durability::None).await;
                last = deleted.expect("a delete is admitted").expect("it is there");
            }
            store.wait(last).await.expect("it is durable");
            check(store, kept).await;
        });
    }
    println!("{} moves", moves() - before);
}

#[test]
fn a_store_is_filled_by_values_that_are_written_at_once() {
    long_values(10_000, 2);
}

#[test]
fn a_store_is_filled_by_values_that_are_written_piece_by_piece() {
    long_values(30_000, 2);
}

/// One that is refused has not written a piece.
#[test]
fn a_long_value_that_is_refused_writes_nothing() {
    let (disk, shape, mut kept) = (Disk::new(MemoryOptions::disk(8 << 20), 1), Shape::USUAL, Kept::new());
    session(&disk, End::Killed, &shape, &mut kept, async |store, _| {
        let next = store.log.log().next_number();
        let refused = put(store, 1, 0, 16 << 20).await.expect_err("it is longer than the store");
        assert_is_full(&refused);
        assert_eq!(store.log.log().next_number(), next);
        let (_, growth, _) = store.shared.space.taken();
        assert!(growth < 1 << 20, "{growth} bytes are held for it");
    });
}

/// Writers that are each admitted write long values side by side, and do not fill the store beyond
/// its room.
#[test]
fn long_values_that_are_written_side_by_side_are_admitted_together() {
    let (disk, shape, mut kept) = (Disk::new(MemoryOptions::disk(8 << 20), 1), Shape::USUAL, Kept::new());
    session(&disk, End::Killed, &shape, &mut kept, async |store, kept| {
        let all = join_all((0..16).map(|key| put(store, key, 0, 400_000))).await;
        let mut last = 0;
        for (key, done) in (0..).zip(all) {
            match done {
                Ok(number) => {
                    last = last.max(number);
                    kept.insert(key, (0, 400_000));
                }
                Err(error) => assert_is_full(&error),
            }
        }
        println!("{} of 16", kept.len());
        assert!((1..16).contains(&kept.len()), "{}", kept.len());
        store.wait(last).await.expect("it is durable");
        check(store, kept).await;
    });
    session(&disk, End::Closed, &shape, &mut kept, async |store, kept| check(store, kept).await);
}
