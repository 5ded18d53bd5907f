//! Several keys at one moment, read without writing; and deleted without a moment in common.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use futures_util::future::{join, join_all};

use super::*;
use crate::block::Fault;
use crate::error::{ErrorKind, Outcome, Result};
use crate::rt;
use crate::store::btree::TreeRoot;
use crate::store::engine::counts::{Count, counted};
use crate::store::engine::transaction::{Key, Reading};
use crate::store::pace::either;

const DURABILITY: Durability = Durability::None;

fn names(keys: u32) -> Vec<[u8; 4]> {
    (0..keys).map(u32::to_be_bytes).collect()
}

fn in_tree<'k>(tree: TreeRoot, names: &'k [[u8; 4]]) -> Vec<Key<'k>> {
    names.iter().map(|name| (tree, &name[..])).collect()
}

async fn tree(store: &Store, name: &str) -> TreeRoot {
    store.open_tree(name, 0, DURABILITY).await.expect("it works").0.root
}

/// The first bytes of all values.
fn stamps(all: &Reading<'_>) -> Vec<Option<u32>> {
    let stamp = |value: &[u8]| u32::from_le_bytes(value[..4].try_into().expect("4 bytes"));
    (0..all.len()).map(|place| all.get_at(place).map(stamp)).collect()
}

async fn read(store: &Store, keys: &[Key<'_>]) -> Result<Vec<Option<u32>>> {
    // It is not to wait for what is not coming.
    let mut read = None;
    either(async { read = Some(store.read(keys, stamps).await) }, rt::sleep(Duration::from_secs(60))).await;
    read.expect("it waits for nothing but its pages")
}

#[test]
fn keys_of_several_trees_are_read_with_long_values() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let [left, right] = [tree(&store, "left").await, tree(&store, "right").await];
        store.put(left, b"a", &1_u32.to_le_bytes().repeat(9000), DURABILITY).await.expect("it works");
        store.put(right, b"a", &2_u32.to_le_bytes(), DURABILITY).await.expect("it works");
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        let keys: [Key<'_>; 4] = [(left, b"a"), (right, b"a"), (left, b"b"), (left, b"a")];
        assert_eq!(read(&store, &keys).await.expect("it works"), [Some(1), Some(2), None, Some(1)]);
        let found = store.read(&keys, |all| {
            assert_eq!((all.place_of(right.tree, b"a"), all.place_of(right.tree, b"b")), (Some(1), None));
            all.get_at(0).map(<[u8]>::len)
        });
        assert_eq!(found.await.expect("it works"), Some(36_000));
        assert_eq!(store.read(&[], |all| all.len()).await.expect("it works"), 0);
        store.clear_tree("right", DURABILITY).await.expect("it works");
        let lost = read(&store, &keys).await.expect_err("it is to be looked up again");
        assert_eq!(crate::store::engine::dying::lost_name(&lost), Some(right.tree));
    });
}

/// Writers wait for the log, as the device does not answer; the store is full; it has failed.
#[test]
fn reading_does_not_wait_for_what_writers_wait_for() {
    let full = Disk::new(MemoryOptions::disk(8 << 20), 1);
    a_life(&full, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store, "tree").await;
        let mut keys = 0_u32;
        let value = |key: u32| key.to_le_bytes().repeat(200);
        let error = loop {
            match store.put(root, &keys.to_be_bytes(), &value(keys), DURABILITY).await {
                Ok(_) => keys += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let names = names(keys);
        let of_tree = in_tree(root, &names);
        let expected: Vec<_> = (0..keys).map(Some).collect();
        assert!(read(&store, &of_tree).await.expect("it is full") == expected);
        let deleted = store.delete_in_parts(&of_tree, DURABILITY).await.expect("deletes are admitted");
        assert_eq!(deleted.0, u64::from(keys));
        assert_eq!(store.len(root.tree), 0);
    });
    let hanging = Disk::new(MemoryOptions::disk(64 << 20), 1);
    a_life(&hanging, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store, "tree").await;
        let names = names(600);
        for (key, name) in (0_u32..).zip(&names) {
            store.put(root, name, &key.to_le_bytes(), DURABILITY).await.expect("it works");
        }
        disk.inject([Fault::write().hangs()]);
        let mut written = 0_u32;
        let write = async {
            while store.put(root, &names[0], &0_u32.to_le_bytes().repeat(200), DURABILITY).await.is_ok() {
                written += 1;
            }
        };
        either(write, rt::sleep(Duration::from_secs(1))).await;
        assert!(written > 100, "{written}");
        let keys = in_tree(root, &names);
        let expected: Vec<_> = (0..600).map(Some).collect();
        assert!(read(&store, &keys).await.expect("it waits for nothing") == expected);
        let mut changed = Box::pin(store.transact(&keys[..2], DURABILITY, |all| all.get_at(0).is_some()));
        assert!(futures_util::poll!(changed.as_mut()).is_pending(), "the log has no room");
    });
    let failing = Disk::new(MemoryOptions::disk(64 << 20), 1);
    a_life(&failing, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store, "tree").await;
        let names = names(600);
        for (key, name) in (0_u32..).zip(&names) {
            store.put(root, name, &key.to_le_bytes(), DURABILITY).await.expect("it works");
        }
        disk.inject([Fault::flush().once().loses_cache()]);
        store.checkpoint().await.expect_err("its flush failed");
        let keys = in_tree(root, &names);
        store.transact(&keys[..2], DURABILITY, |_| ()).await.expect_err("it takes no writes");
        let expected: Vec<_> = (0..600).map(Some).collect();
        assert!(read(&store, &keys).await.expect("reads go on") == expected);
    });
}

fn copied_reads() -> u64 {
    counted()[Count::CopiedReads as usize]
}

/// Transactions of all sizes give all keys the same stamp, long values among them, and readers see
/// one stamp.
fn all_have_one_stamp(keys: u32, rounds: u32) {
    on_a_disk(256 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store, "tree").await;
        let names = names(keys);
        let of_tree = in_tree(root, &names);
        let is_over = Cell::new(false);
        let write = async {
            for round in 1..=rounds {
                let stamp = round.to_le_bytes();
                let short = stamp.repeat(10);
                let long = stamp.repeat(if round % 3 == 0 { 1000 } else { 2 });
                let put = |all: &mut crate::store::engine::transaction::Transaction<'_>| {
                    (0..all.len()).for_each(|place| {
                        all.put_at(place, if place % 200 == 7 { &long } else { &short });
                    });
                };
                store.transact(&of_tree, DURABILITY, put).await.expect("it works");
                rt::sleep(Duration::from_micros(300)).await;
            }
            is_over.set(true);
        };
        let seen = RefCell::new(std::collections::BTreeSet::new());
        let watch = async |pause: u64| {
            while !is_over.get() {
                let found = read(&store, &of_tree).await.expect("it works");
                assert!(found.iter().all(|stamp| *stamp == found[0]), "{found:?}");
                seen.borrow_mut().insert(found[0]);
                rt::sleep(Duration::from_micros(pause)).await;
            }
        };
        join(write, join_all([17, 190].map(watch))).await;
        println!("{} stamps of {rounds}", seen.borrow().len());
        assert!(seen.borrow().len() > 2);
    });
}

#[test]
fn reading_sees_all_of_a_transaction_or_nothing() {
    let before = copied_reads();
    all_have_one_stamp(300, 60);
    all_have_one_stamp(1000, 20);
    assert_eq!(copied_reads(), before, "they fit memory");
}

/// More keys than fit memory, while others move something between them.
#[test]
fn keys_that_do_not_fit_memory_are_read_at_one_moment() {
    const KEYS: u32 = 1600;
    const READS: u64 = 3;
    let before = copied_reads();
    on_a_disk(64 << 20, async |disk| {
        let options = options().cache_bytes(1 << 20);
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("room for a store");
        let root = tree(&store, "tree").await;
        let names = names(KEYS);
        let keys = in_tree(root, &names);
        for (_, name) in &keys {
            store.put(root, name, &1000_u32.to_le_bytes().repeat(225), DURABILITY).await.expect("it works");
        }
        let (is_over, moved) = (Cell::new(false), Cell::new(0));
        let transfer = async {
            let mut random = StdRng::seed_from_u64(1);
            while !is_over.get() {
                let pair = [0; 2].map(|_| keys[random.random_range(0..keys.len())]);
                let done = store.transact(&pair, DURABILITY, |all| {
                    for (place, difference) in [(0, -1), (1, 1)] {
                        let found = all.get_at(place).expect("it is there");
                        let amount = u32::from_le_bytes(found[..4].try_into().expect("4 bytes"));
                        let amount = amount.saturating_add_signed(difference);
                        all.put_at(place, &amount.to_le_bytes().repeat(225));
                    }
                });
                done.await.expect("it works");
                moved.set(moved.get() + 1);
                rt::sleep(Duration::from_micros(500)).await;
            }
        };
        let watch = async {
            for _ in 0..READS {
                let found = read(&store, &keys).await.expect("it works");
                assert_eq!(found.iter().flatten().sum::<u32>(), KEYS * 1000);
            }
            is_over.set(true);
        };
        join(transfer, watch).await;
        assert!(moved.get() > 20, "{}", moved.get());
    });
    assert_eq!(copied_reads() - before, READS);
}

/// Keys come and go while they are deleted in parts by several: each deletion that is counted is of
/// a write that was acknowledged, and what was written and not counted is there.
#[test]
fn deleting_in_parts_counts_each_key_that_goes() {
    const KEYS: u32 = 60;
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store, "tree").await;
        let names = names(KEYS);
        let keys = in_tree(root, &names);
        let (inserted, deleted, writers) = (Cell::new(0), Cell::new(0), Cell::new(3));
        let insert = async |seed: u64| {
            let mut random = StdRng::seed_from_u64(seed);
            for _ in 0..400 {
                let name = names[random.random_range(0..names.len())];
                let value = vec![1; if random.random_ratio(1, 4) { 4000 } else { 10 }];
                let done = store.insert_if_absent(root, &name, &value, DURABILITY).await.expect("it works");
                inserted.set(inserted.get() + u64::from(done.is_some()));
                rt::sleep(Duration::from_micros(random.random_range(0..3))).await;
            }
            writers.set(writers.get() - 1);
        };
        let delete = async |pause: u64| {
            while writers.get() > 0 {
                // Each twice.
                let twice = [&keys[..], &keys[..]].concat();
                let (count, number) = store.delete_in_parts(&twice, DURABILITY).await.expect("it works");
                assert_eq!(count > 0, number.is_some());
                deleted.set(deleted.get() + count);
                rt::sleep(Duration::from_micros(pause)).await;
            }
        };
        join(join_all((0..3).map(insert)), join_all([1, 40].map(delete))).await;
        let left = read(&store, &keys).await.expect("it works").into_iter().flatten().count() as u64;
        println!("{} inserted, {} deleted, {left} left", inserted.get(), deleted.get());
        assert!(deleted.get() > 300);
        assert_eq!(inserted.get(), deleted.get() + left);
        assert_eq!(store.len(root.tree), left);
    });
}

/// Of a tree that is cleared meanwhile nothing is there; whoever has its old root from before is
/// told. A device that goes away in the middle is an error, and not the end of the tree.
#[test]
fn deleting_in_parts_ends_well_only_where_the_keys_are_gone() {
    const KEYS: u32 = 4000;
    let is_lost = |error: &crate::error::Error| crate::store::engine::dying::lost_name(error).is_some();
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    a_life(&disk, async move |disk| {
        let store = reopen(&disk).await;
        let names = names(KEYS);
        let fill = async |root| {
            for name in &names {
                store.put(root, name, b"1234", DURABILITY).await.expect("it works");
            }
        };
        let root = tree(&store, "tree").await;
        fill(root).await;
        let keys = in_tree(root, &names);
        let mut deleting = Box::pin(store.delete_in_parts(&keys, DURABILITY));
        for _ in 0..10 {
            assert!(futures_util::poll!(deleting.as_mut()).is_pending(), "it lets others run");
        }
        let new = store.clear_tree("tree", DURABILITY).await.expect("it works").expect("it is there").0.root;
        let (count, _) = deleting.await.expect("what is left is cleared");
        assert!(count > 100 && count < u64::from(KEYS), "{count}");
        let lost = store.delete_in_parts(&keys, DURABILITY).await.expect_err("it was cleared before");
        assert!(is_lost(&lost), "{lost}");
        fill(new).await;
        let keys = in_tree(new, &names);
        let mut deleting = Box::pin(store.delete_in_parts(&keys, DURABILITY));
        for _ in 0..10 {
            assert!(futures_util::poll!(deleting.as_mut()).is_pending(), "it lets others run");
        }
        disk.inject([Fault::flush().fails_with(libc::ENODEV)]);
        store.checkpoint().await.expect_err("its flush failed");
        let error = deleting.await.expect_err("the device is gone");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::NotFound, Outcome::Unknown), "{error}");
        assert!(!is_lost(&error), "{error}");
    });
}
