//! How long the log may be: who waits for it and when, and what large transactions get of it.

use std::cell::Cell;
use std::ops::Range;
use std::time::Duration;

use super::*;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt;
use crate::store::btree::TreeRoot;
use crate::store::engine::counts::{Count, counted};
use crate::store::engine::transaction::{Key, Transaction};

const DURABILITY: Durability = Durability::None;
/// The smallest store.
const SMALLEST: u64 = 8 << 20;

async fn tree(store: &Store) -> TreeRoot {
    store.open_tree("tree", 0, DURABILITY).await.expect("it works").0.root
}

/// Puts values of this length under many keys, in one transaction.
async fn put_all(store: &Store, tree: TreeRoot, keys: Range<u32>, (first, len): (u8, usize)) -> Result<u64> {
    let names: Vec<_> = keys.map(u32::to_be_bytes).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| (tree, &name[..])).collect();
    let value = vec![first; len];
    let put = |all: &mut Transaction<'_>| (0..all.len()).for_each(|place| all.put_at(place, &value));
    Ok(store.transact(&keys, DURABILITY, put).await?.1.expect("it changed something"))
}

async fn read(store: &Store, tree: TreeRoot, key: u32) -> Option<Vec<u8>> {
    store.get(tree, &key.to_be_bytes(), <[u8]>::to_vec).await.expect("it works")
}

fn assert_is_refused(error: &Error, kind: ErrorKind) {
    assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotStarted), "{error}");
}

async fn until_drained(store: &Store) {
    while !store.shared.overlay.is_drained() {
        rt::sleep(Duration::from_millis(1)).await;
    }
}

/// So many writes come in a millisecond, of few keys: the keeper has nearly nothing to do.
#[test]
fn no_writer_waits_for_the_smallest_log_before_the_keeper_begins() {
    on_a_disk(SMALLEST, async |disk| {
        let store = open(RtEnv, disk, &options().cache_bytes(1 << 20)).await.expect("room for a store");
        let before = counted();
        for number in 0..4000_u32 {
            put(&store, &(number % 100).to_be_bytes(), &[7; 1000]).await;
            if number % 8 == 7 {
                rt::sleep(Duration::from_millis(1)).await;
            }
        }
        let counted = |what: Count| counted()[what as usize] - before[what as usize];
        assert_eq!(counted(Count::LogWaits), 0, "writers waited for the log");
        let checkpoints = counted(Count::Checkpoints);
        assert!((5..30).contains(&checkpoints), "{checkpoints} checkpoints for 4 MB");
    });
}

/// Groups that are as long as may be in the smallest log, with others at work.
fn goes_on_with_groups(keys: u32, len: usize) {
    let world = World::new(7);
    let disk = Disk::new(MemoryOptions::disk(SMALLEST), 1);
    let core = world.core("core");
    let store = core.block_on(async move { reopen(&disk).await });
    let rounds = Rc::new(Cell::new(0));
    let ended = Rc::clone(&rounds);
    drop(core.spawn(async move {
        let tree = tree(&store).await;
        for round in 0..8 {
            put_all(&store, tree, 0..keys, (round, len)).await.expect("it is short enough");
            for key in 0..300_u32 {
                put(&store, &key.to_be_bytes(), &[round; 900]).await;
            }
            assert_eq!(read(&store, tree, keys - 1).await, Some(vec![round; len]));
            ended.set(round + 1);
        }
        store.close().await.expect("it closes");
    }));
    world.run_for(Duration::from_secs(60));
    assert_eq!(rounds.get(), 8, "it waits for ever");
}

#[test]
fn the_smallest_log_takes_groups_of_nearly_a_quarter() {
    // Of the usual log, and of `log_bytes`.
    goes_on_with_groups(1000, 170);
    goes_on_with_groups(1400, 160);
    goes_on_with_groups(2400, 190);
}

/// A full store has no room for a longer log, but all that it needs for the usual one.
#[test]
fn a_full_store_takes_groups_of_a_quarter_of_its_log() {
    on_a_disk(SMALLEST, async |disk| {
        let store = open(RtEnv, disk, &options().cache_bytes(2 << 20)).await.expect("room for a store");
        let tree = tree(&store).await;
        let mut keys = 0_u32;
        while store.put(tree, &keys.to_be_bytes(), &[1; 700], DURABILITY).await.is_ok() {
            keys += 1;
        }
        for round in 2..12 {
            let first = u32::from(round) * 150;
            put_all(&store, tree, first..first + 250, (round, 690)).await.expect("it adds nothing");
        }
        let refused = put_all(&store, tree, 0..650, (1, 690)).await.expect_err("it has no room for that");
        assert_is_refused(&refused, ErrorKind::NoSpace);
        assert!(refused.to_string().contains("a log that is longer"), "{refused}");
        until_drained(&store).await;
        for key in (0..keys).step_by(17) {
            assert!(read(&store, tree, key).await.is_some(), "key {key} of {keys}");
        }
        store.close().await.expect("it closes");
    });
}

#[test]
fn a_group_that_is_too_long_is_refused_before_its_long_values_are_written() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        let names: Vec<_> = (0..700_u32).map(u32::to_be_bytes).collect();
        let keys: Vec<Key<'_>> = names.iter().map(|name| (tree, &name[..])).collect();
        let before = store.log.log().next_number();
        let refused = store.transact(&keys, DURABILITY, |all| {
            (0..20).for_each(|place| all.put_at(place, &vec![1; 40_000]));
            (20..700).for_each(|place| all.put_at(place, &[2; 1000]));
        });
        let refused = refused.await.expect_err("it is too long");
        assert_is_refused(&refused, ErrorKind::LimitReached);
        assert!(refused.to_string().contains("may take 524288"), "{refused}");
        assert_eq!(store.log.log().next_number(), before, "something was written");
    });
}

/// A large transaction waits for room while its tree is cleared, which makes some.
#[test]
fn a_tree_is_cleared_while_a_large_transaction_on_it_waits_for_room() {
    let mut given_up = 0;
    for after_us in [0, 20, 50] {
        let world = World::new(7);
        let disk = Disk::new(MemoryOptions::disk(SMALLEST), 1);
        let core = world.core("core");
        let (store, root, keys) = core.block_on(async move {
            let store = reopen(&disk).await;
            let root = tree(&store).await;
            let mut keys = 0_u32;
            while store.put(root, &keys.to_be_bytes(), &[1; 8000], DURABILITY).await.is_ok() {
                keys += 1;
            }
            (store, root, keys)
        });
        let ended = Rc::new(Cell::new(0));
        let (own, has_ended) = (Rc::clone(&store), Rc::clone(&ended));
        let refused = Rc::new(Cell::new(None));
        let why = Rc::clone(&refused);
        drop(core.spawn(async move {
            // Some of them are there already.
            let change = put_all(&own, root, keys - 100..keys + 600, (2, 300)).await;
            why.set(change.err().map(|error| error.kind()));
            has_ended.set(has_ended.get() + 1);
        }));
        let has_ended = Rc::clone(&ended);
        drop(core.spawn(async move {
            rt::sleep(Duration::from_micros(after_us)).await;
            store.clear_tree("tree", DURABILITY).await.expect("it makes room").expect("it is there");
            let root = tree(&store).await;
            for key in 0..keys / 2 {
                store.put(root, &key.to_be_bytes(), &[3; 8000], DURABILITY).await.expect("there is room");
            }
            put_all(&store, root, 0..600, (4, 100)).await.expect("it can be done again");
            has_ended.set(has_ended.get() + 1);
            store.close().await.expect("it closes");
        }));
        world.run_for(Duration::from_secs(100));
        assert_eq!(ended.get(), 2, "{after_us} µs: somebody waits for ever");
        given_up += u32::from(refused.get() == Some(ErrorKind::NotFound));
        println!("{after_us} µs: {:?}", refused.get());
    }
    assert!(given_up > 0, "none was given up");
}

/// A new file takes a transaction that is many times as long as its usual log.
#[test]
fn a_new_namespace_that_grows_takes_a_long_transaction() {
    const KEYS: u32 = 260_000;
    let value = |key: u32| [key.to_le_bytes(), [7; 4]].concat().repeat(3);
    let key = |number: u32| format!("key:{number:012}").into_bytes();
    let disk = Disk::new(MemoryOptions::disk(8 << 20).max_size_bytes(1 << 30), 1);
    let options = || Options::default().cache_bytes(64 << 20).identity(*b"a store of tests");
    let (usual, number) = a_life(&disk, async move |disk| {
        let store = open(RtEnv, disk, &options()).await.expect("room for a store");
        let tree = tree(&store).await;
        let usual = store.shared.log_limit.longest();
        let names: Vec<_> = (0..KEYS).map(key).collect();
        let keys: Vec<Key<'_>> = names.iter().map(|name| (tree, &name[..])).collect();
        let changed = store.transact(&keys, DURABILITY, |all| {
            for (place, key) in (0..KEYS).enumerate() {
                all.put_at(place, &value(key));
            }
        });
        let number = changed.await.expect("the log becomes longer").1.expect("it changed something");
        assert!(store.shared.log_limit.used() > 10 << 20, "{}", store.shared.log_limit.used());
        store.wait(number).await.expect("it is durable");
        (usual, number)
    });
    assert_eq!(usual, 3 << 20, "a new file stays small");
    a_life(&disk, async move |disk| {
        let store = open(RtEnv, disk, &options()).await.expect("a store");
        let tree = tree(&store).await;
        assert_eq!(store.len(tree.tree), u64::from(KEYS), "write {number}");
        let check = async || {
            for number in (0..KEYS).step_by(97) {
                let found = store.get(tree, &key(number), <[u8]>::to_vec).await.expect("it works");
                assert_eq!(found, Some(value(number)));
            }
        };
        check().await;
        for number in 0..5000_u32 {
            store.put(tree, &number.to_be_bytes(), &[1; 900], DURABILITY).await.expect("it goes on");
        }
        until_drained(&store).await;
        store.checkpoint().await.expect("a checkpoint");
        let limit = &store.shared.log_limit;
        assert!(limit.used() < limit.limit(), "{} {}", limit.used(), limit.limit());
        check().await;
        let size = store.namespace.size_bytes() >> 20;
        println!("{size} MiB");
        assert!(size < 200, "{size} MiB");
        store.close().await.expect("it closes");
    });
}

/// The log is longer for as long as a group needs that, and the room for pages is less.
#[test]
fn the_log_is_as_short_as_before_when_a_group_has_left_it() {
    let disk = Disk::new(MemoryOptions::disk(8 << 20).max_size_bytes(256 << 20), 1);
    let options = || Options::default().cache_bytes(8 << 20).identity(*b"a store of tests");
    a_life(&disk, async move |disk| {
        let store = open(RtEnv, disk, &options()).await.expect("room for a store");
        let tree = tree(&store).await;
        let limit = &store.shared.log_limit;
        let (usual, segments) = (limit.longest(), limit.segments());
        let held = || store.shared.space.taken().1;
        for round in 0..4 {
            put_all(&store, tree, 0..8000, (round, 300)).await.expect("the log becomes longer");
            assert!(limit.is_longer() && limit.longest() > usual + (2 << 20), "{}", limit.longest());
            assert!(limit.longest() <= 64 << 20 && held() > 2 << 20);
            if round % 2 == 0 {
                until_drained(&store).await;
                store.checkpoint().await.expect("a checkpoint");
                rt::sleep(Duration::from_millis(100)).await;
                assert_eq!((limit.longest(), limit.segments()), (usual, segments));
                store.settle_space();
                assert!(held() < 1 << 20, "{} are held", held());
            }
        }
        // Not even a quarter of what the namespace may become.
        let error = put_all(&store, tree, 0..20_000, (9, 1000)).await.expect_err("it is too long");
        assert_is_refused(&error, ErrorKind::LimitReached);
        assert!(error.to_string().contains("may take 16777216"), "{error}");
        assert_eq!(read(&store, tree, 7999).await, Some(vec![3; 300]));
        store.close().await.expect("it closes");
    });
}

/// Power fails while a group makes the log longer: all of it is there, or nothing.
#[test]
fn a_crash_in_a_longer_log_leaves_all_of_a_group_or_nothing() {
    const KEYS: u32 = 6000;
    let (mut all, mut none) = (0, 0);
    for stop in 0..12_u64 {
        let memory = MemoryOptions::disk(8 << 20)
            .max_size_bytes(256 << 20)
            .volatile_cache(true)
            .write_latency(Duration::from_micros(200))
            .flush_latency(Duration::from_micros(500));
        let disk = Disk::new(memory, stop);
        let world = World::new(stop);
        let core = world.core("core");
        let on = disk.attach_again();
        let (store, root) = core.block_on(async move {
            let store = reopen_growing(&on).await;
            let root = tree(&store).await;
            store.wait(store.log.log().next_number() - 1).await.expect("it is durable");
            (store, root)
        });
        drop(core.spawn(async move {
            for round in 1.. {
                let number = put_all(&store, root, 0..KEYS, (round, 300)).await.expect("it works");
                store.wait(number).await.expect("it is durable");
                assert!(store.shared.log_limit.is_longer());
            }
        }));
        world.run_for(Duration::from_micros(stop * stop * 1000));
        disk.power_loss();
        core.crash();
        for is_drained in [false, true] {
            let on = disk.attach_again();
            let keys = World::new(stop).core("core").block_on(async move {
                let store = reopen_growing(&on).await;
                if is_drained {
                    until_drained(&store).await;
                    store.checkpoint().await.expect("a checkpoint");
                }
                let first = read(&store, root, 0).await;
                for key in 0..KEYS {
                    assert!(read(&store, root, key).await == first, "stop {stop}: key {key}");
                }
                store.len(root.tree)
            });
            disk.kill();
            assert!(keys == 0 || keys == u64::from(KEYS), "stop {stop}: {keys}");
            *if keys == 0 { &mut none } else { &mut all } += 1;
        }
    }
    println!("{all} whole, {none} not there");
    assert!(all > 3 && none > 3, "{all} {none}");
}

async fn reopen_growing(disk: &Disk) -> Store {
    let options = Options::default().cache_bytes(8 << 20).identity(*b"a store of tests");
    open(RtEnv, disk.attach_again(), &options).await.expect("a store, or room for one")
}

/// Large transactions of several tasks follow each other without a pause.
#[test]
fn a_checkpoint_comes_through_between_large_transactions() {
    on_a_disk(128 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store).await;
        let (done, is_over) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(false)));
        let tasks: Vec<_> = (0..3_u32)
            .map(|task| {
                let (store, done, is_over) = (Rc::clone(&store), Rc::clone(&done), Rc::clone(&is_over));
                rt::spawn(async move {
                    for round in 0..60 {
                        if is_over.get() {
                            return;
                        }
                        let first = task * 1000;
                        put_all(&store, root, first..first + 600, (round, 10)).await.expect("it works");
                        done.set(done.get() + 1);
                    }
                })
            })
            .collect();
        for _ in 0..3 {
            let some = done.get() + 5;
            while done.get() < some {
                rt::yield_now().await;
            }
            let before = done.get();
            store.checkpoint().await.expect("a checkpoint");
            let meanwhile = done.get() - before;
            assert!(meanwhile <= 6, "{meanwhile} transactions came before it");
        }
        assert!(done.get() < 150, "they ended before");
        is_over.set(true);
        for task in tasks {
            task.await.expect("it does not panic");
        }
        assert!(done.get() > 3, "{} transactions", done.get());
    });
}
