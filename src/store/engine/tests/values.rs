//! Long values: found whole or not at all, by readers, scans and transactions, after a crash, and
//! reclaimed when nobody refers to them.

use std::cell::Cell;
use std::ops::Bound;

use super::*;
use crate::store::btree::TreeRoot;
use crate::store::engine::defect::{Defects, EngineDefect};
use crate::store::engine::registry::values;
use crate::store::engine::scan::Scan;
use crate::store::engine::space::account::added_by_long;
use crate::store::engine::transaction::Key;
use crate::store::engine::values::{DIRECT_BYTES, INLINE_BYTES, PIECE_BYTES};
use crate::store::overlay::Direction;

const LENGTHS: [usize; 9] = [
    0,
    INLINE_BYTES,
    INLINE_BYTES + 1,
    PIECE_BYTES,
    PIECE_BYTES + 1,
    DIRECT_BYTES,
    DIRECT_BYTES + 1,
    100_000,
    300_001,
];

fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut value = vec![0; len];
    StdRng::seed_from_u64(seed).fill(&mut value[..]);
    value
}

async fn put(store: &Store, tree: TreeRoot, key: &[u8], value: &[u8]) -> u64 {
    store.put(tree, key, value, Durability::None).await.expect("no fault is injected")
}

async fn entries(store: &Store, tree: TreeRoot, direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut scan = Scan::new(store, tree, (Bound::Unbounded, Bound::Unbounded), direction);
    let mut all = Vec::new();
    while let Some(entry) = scan.next().await.expect("no fault is injected") {
        all.push(entry);
    }
    all
}

/// Waits until the tree of values has as many pieces as these values.
async fn has_pieces_of(store: &Store, lengths: impl Iterator<Item = usize>) {
    let long = lengths.filter(|len| *len > INLINE_BYTES);
    let pieces: usize = long.map(|len| len.div_ceil(PIECE_BYTES)).sum();
    for _ in 0..10_000 {
        if entries(store, values(), Direction::Forwards).await.len() == pieces {
            return;
        }
        crate::rt::yield_now().await;
    }
    let found = entries(store, values(), Direction::Forwards).await.len();
    panic!("{pieces} pieces are referred to, and there are {found} entries");
}

async fn tree(store: &Store) -> TreeRoot {
    store.open_tree("tree", 0, Durability::None).await.expect("it works").0.root
}

#[test]
fn values_of_any_length_are_found_scanned_and_reclaimed() {
    on_a_disk(64 << 20, async |disk| {
        let mut model = Model::new();
        for round in 0..3_u8 {
            let store = reopen(&disk).await;
            let tree = tree(&store).await;
            assert_eq!(entries(&store, tree, Direction::Forwards).await, Vec::from_iter(model.clone()));
            for (at, key) in (0_u8..).zip([3, 7, 1, 0, 2, 8, 5, 6, 4]) {
                let value = value(u64::from(round * 16 + at), LENGTHS[usize::from(key + round) % 9]);
                put(&store, tree, &[key], &value).await;
                model.insert(vec![key], value);
            }
            for (key, value) in &model {
                let found = store.get(tree, key, <[u8]>::to_vec).await.expect("it works");
                assert_eq!(found.as_ref(), Some(value), "key {key:?}");
            }
            let mut all = Vec::from_iter(model.clone());
            assert_eq!(entries(&store, tree, Direction::Forwards).await, all);
            let mut scan = Scan::new(&store, tree, (Bound::Unbounded, Bound::Unbounded), Direction::Forwards);
            for key in model.keys() {
                assert_eq!(scan.next_key().await.expect("it works"), Some(&key[..]));
            }
            all.reverse();
            assert_eq!(entries(&store, tree, Direction::Backwards).await, all);
            has_pieces_of(&store, model.values().map(Vec::len)).await;
            store.close().await.expect("it closes");
        }
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        for key in model.keys() {
            assert!(store.delete(tree, key, Durability::None).await.expect("it works").is_some());
        }
        has_pieces_of(&store, std::iter::empty()).await;
        assert_eq!(entries(&store, tree, Direction::Forwards).await, []);
    });
}

/// Nothing of a store is in memory but a small cache, and a value is much longer.
#[test]
fn a_value_may_be_longer_than_the_cache() {
    on_a_disk(128 << 20, async |disk| {
        let options = options().cache_bytes(1 << 20);
        let open_again = || open(RtEnv, disk.attach_again(), &options);
        let store = open_again().await.expect("room for a store");
        let root = tree(&store).await;
        let long = value(5, 3 << 20);
        put(&store, root, b"long", &long).await;
        assert!(store.get(root, b"long", |found| found == long).await.expect("it works").expect("there"));
        store.close().await.expect("it closes");
        drop(store);
        let store = open_again().await.expect("a store");
        let root = tree(&store).await;
        assert!(store.get(root, b"long", |found| found == long).await.expect("it works").expect("there"));
        put(&store, root, b"long", b"short").await;
        has_pieces_of(&store, std::iter::empty()).await;
    });
}

/// Long values that are written with their records, by several tasks, in a cache that is always
/// full: what a write has loaded may be evicted before it is made.
#[test]
fn long_values_are_put_where_the_cache_is_full() {
    const KEYS: u64 = 300;
    on_a_disk(128 << 20, async |disk| {
        let options = options().cache_bytes(1 << 20);
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("room for a store");
        let root = tree(&store).await;
        let lengths =
            |key: u64, round: u64| usize::try_from(2000 + (key * 37 + round * 11) % 13_000).expect("few");
        for round in 0..3 {
            let writers = (0..4_u64).map(|part| {
                let store = &store;
                async move {
                    for key in (0..KEYS).filter(|key| key % 4 == part) {
                        // 7 is prime to their number.
                        let key = key * 7 % KEYS;
                        let value = value(key + round, lengths(key, round));
                        put(store, root, &key.to_be_bytes(), &value).await;
                        let other = (key + 150) % KEYS;
                        let found =
                            store.get(root, &other.to_be_bytes(), <[u8]>::len).await.expect("it works");
                        assert!(found.is_none_or(|len| len >= 2000));
                    }
                }
            });
            futures_util::future::join_all(writers).await;
            for key in 0..KEYS {
                let found = store.get(root, &key.to_be_bytes(), <[u8]>::to_vec).await.expect("it works");
                assert!(found == Some(value(key + round, lengths(key, round))), "key {key}");
            }
        }
        has_pieces_of(&store, (0..KEYS).map(|key| lengths(key, 2))).await;
    });
}

/// A transaction sees long values, moves them between keys, and replaces them.
#[test]
fn transactions_take_long_values_as_they_take_short_ones() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        let (first, second) = (value(1, 50_000), value(2, 10_000));
        put(&store, root, b"a", &first).await;
        put(&store, root, b"b", &second).await;
        let keys: [Key<'_>; 3] = [(root, b"a"), (root, b"b"), (root, b"c")];
        let swapped = store.transact(&keys, Durability::None, |all| {
            let (a, b) = (all.get_at(0).map(<[u8]>::to_vec), all.get_at(1).map(<[u8]>::to_vec));
            all.put_at(0, &b.expect("it is there"));
            all.put_at(1, &a.expect("it is there"));
            all.put_at(2, b"short");
            all.get_at(2).map(<[u8]>::len)
        });
        assert_eq!(swapped.await.expect("it works").0, Some(5));
        let found = entries(&store, root, Direction::Forwards).await;
        let expected = [(&b"a"[..], &second[..]), (b"b", &first), (b"c", b"short")];
        assert!(found.iter().map(|(key, value)| (&key[..], &value[..])).eq(expected));
        has_pieces_of(&store, [50_000, 10_000].into_iter()).await;
        // What it only looks at stays.
        let kept = store.transact(&keys[..1], Durability::None, |all| all.get_at(0).map(<[u8]>::len));
        assert_eq!(kept.await.expect("it works"), (Some(10_000), None));
    });
}

/// Several tasks replace the same few values, and others read them: what is read is always a value
/// that somebody has written, whole.
#[test]
fn readers_beside_writers_see_whole_values() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        // Its first byte says what the others are.
        let uniform = |fill: u8, len: usize| vec![fill; len];
        for key in 0..3 {
            put(&store, root, &[key], &uniform(key, 200_000)).await;
        }
        let writers = (0..3_u64).map(|seed| {
            let store = &store;
            async move {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..12 {
                    let (key, len) = (random.random_range(0..3), random.random_range(1..200_000));
                    put(store, root, &[key], &uniform(random.random(), len)).await;
                }
            }
        });
        let readers = (0..3_u8).map(|key| {
            let store = &store;
            async move {
                for _ in 0..40 {
                    let is_whole = |found: &[u8]| found.iter().all(|byte| *byte == found[0]);
                    let is_whole = store.get(root, &[key], is_whole).await.expect("it works");
                    assert_eq!(is_whole, Some(true));
                    crate::rt::yield_now().await;
                }
            }
        });
        futures_util::future::join(
            futures_util::future::join_all(writers),
            futures_util::future::join_all(readers),
        )
        .await;
        let left = entries(&store, root, Direction::Forwards).await;
        has_pieces_of(&store, left.iter().map(|(_, value)| value.len())).await;
    });
}

/// A reader that has read half of a value when that is replaced and reclaimed gets what the key has
/// by then, and so does a scan.
#[test]
fn a_reader_whose_value_goes_reads_the_next_one() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        for next in [Some(value(2, 200_000)), Some(value(3, 5)), None] {
            put(&store, root, b"key", &value(1, 400_000)).await;
            let mut reading = Box::pin(store.get(root, b"key", <[u8]>::to_vec));
            let mut scanning = Box::pin(entries(&store, root, Direction::Forwards));
            assert!(futures_util::poll!(reading.as_mut()).is_pending(), "it yields every 120 KiB");
            assert!(futures_util::poll!(scanning.as_mut()).is_pending());
            match &next {
                Some(next) => _ = put(&store, root, b"key", next).await,
                None => _ = store.delete(root, b"key", Durability::None).await.expect("it works"),
            }
            has_pieces_of(&store, next.iter().map(Vec::len)).await;
            assert_eq!(reading.await.expect("it works"), next);
            assert_eq!(scanning.await, Vec::from_iter(next.map(|next| (b"key".to_vec(), next))));
        }
    });
}

/// Two tasks add to the same long value: nothing of either is lost.
#[test]
fn long_values_are_updated_one_after_the_other() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        put(&store, root, b"key", &value(1, 900)).await;
        let grow = async |fill: u8| {
            for _ in 0..60 {
                let updated = store.update(root, b"key", Durability::None, |found, new| {
                    new.extend_from_slice(found.expect("it is there"));
                    new.extend_from_slice(&[fill; 500]);
                    super::super::update::Decision::Put
                });
                updated.await.expect("it works").expect("it changes");
            }
        };
        futures_util::future::join(grow(1), grow(2)).await;
        let len = store.get(root, b"key", <[u8]>::len).await.expect("it works");
        assert_eq!(len, Some(900 + 2 * 60 * 500));
        has_pieces_of(&store, len.into_iter()).await;
    });
}

/// A writer that is dropped half way leaves nothing.
#[test]
fn what_a_dropped_writer_wrote_is_reclaimed() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        let long = value(1, 1 << 20);
        let mut writing = Box::pin(store.put(root, b"key", &long, Durability::None));
        // It yields every 112 KiB.
        assert!(futures_util::poll!(writing.as_mut()).is_pending());
        assert!(futures_util::poll!(writing.as_mut()).is_pending());
        assert!(entries(&store, values(), Direction::Forwards).await.len() > 8);
        drop(writing);
        has_pieces_of(&store, std::iter::empty()).await;
        assert_eq!(store.get(root, b"key", <[u8]>::len).await.expect("it works"), None);
    });
}

/// A crash while a long value is written, at many points: the key has the old value or the new
/// one, and in the end there are the pieces of that one only.
#[test]
fn a_crash_leaves_the_old_value_or_the_new_one() {
    for steps in 0..24 {
        let world = World::new(steps);
        let disk = Disk::new(MemoryOptions::disk(64 << 20), steps);
        let (old, new) = (value(1, 60_000), value(2, 500_000));
        let before = world.core("before");
        before.block_on(async {
            let store = reopen(&disk).await;
            let root = tree(&store).await;
            let number = put(&store, root, b"key", &old).await;
            store.wait(number).await.expect("it is durable");
            let mut writing = Box::pin(async {
                let number = put(&store, root, b"key", &new).await;
                store.wait(number).await.expect("it is durable");
            });
            for _ in 0..steps {
                let is_done = futures_util::poll!(writing.as_mut()).is_ready();
                if is_done {
                    break;
                }
                crate::rt::yield_now().await;
            }
            // As in a crash, nothing of it runs any more.
            std::mem::forget(writing);
            std::mem::forget(Rc::clone(&store));
        });
        before.crash();
        disk.power_loss();
        world.core("after").block_on(async {
            let store = reopen(&disk).await;
            let root = tree(&store).await;
            let found = store.get(root, b"key", <[u8]>::to_vec).await.expect("it works").expect("there");
            assert!(found == old || found == new, "{} bytes", found.len());
            has_pieces_of(&store, std::iter::once(found.len())).await;
        });
    }
}

#[test]
fn what_is_longer_than_a_value_may_be_is_refused() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        let long = vec![0; crate::store::options::MAX_VALUE_BYTES + 1];
        let refused = store.put(root, b"key", &long, Durability::None).await.expect_err("it is too long");
        assert_eq!(refused.kind(), crate::error::ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("longer than a store takes"), "{refused}");
        assert_eq!(entries(&store, values(), Direction::Forwards).await, []);
    });
}

/// Many writers put a long value under one key at the same time. How many times what they need they
/// write together.
fn written_by(writers: u64, len: usize) -> f64 {
    let ratio = Cell::new(0.0);
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        let reserved = || store.shared.space.now().1;
        let before = reserved();
        let values: Vec<_> = (0..writers).map(|writer| value(writer, len)).collect();
        let all = values.iter().map(|value| put(&store, root, b"key", value));
        futures_util::future::join_all(all).await;
        let needed = writers * added_by_long(b"key", len);
        ratio.set((reserved() - before) as f64 / needed as f64);
        let found = store.get(root, b"key", <[u8]>::to_vec).await.expect("it works");
        assert!(found.is_some_and(|found| values.contains(&found)));
        has_pieces_of(&store, std::iter::once(len)).await;
    });
    println!("{writers} writers of {len} bytes: {:.2} of what is needed", ratio.get());
    ratio.get()
}

#[test]
fn writers_of_one_long_value_write_each_theirs_once() {
    // They let others run every 120 KiB.
    for (writers, len) in [(8, 20_000), (8, 130_000), (16, 130_000)] {
        assert!(written_by(writers, len) < 1.5);
    }
    Defects { engine: Some(EngineDefect::ValuesWrittenAgain), ..Defects::default() }.set();
    let again = written_by(8, 130_000);
    Defects::default().set();
    assert!(again > 1.8, "the test would notice it: {again}");
}

/// A value of which a piece cannot be read stays when nobody refers to it any more. That is said
/// once, however often it is tried again.
#[test]
fn what_cannot_be_reclaimed_is_said_once() {
    use crate::store::engine::counts::{Count, counted};
    let left = || counted()[Count::ValuesLeft as usize];
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        put(&store, root, b"key", &value(1, 60_000)).await;
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        store.wait_until_reclaimed().await.expect("it takes writes");
        let before = left();
        store.delete(root, b"key", Durability::None).await.expect("it works").expect("it was there");
        disk.inject([crate::block::Fault::read()]);
        for _ in 0..20 {
            store.shared.values.errand.ask();
            store.wait_until_reclaimed().await.expect("it takes writes");
        }
        assert_eq!(left() - before, 1);
    });
}
