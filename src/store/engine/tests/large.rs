//! Large transactions: they are seen whole or not at all, whatever comes in between.

mod given_up;
mod measure;

use std::cell::{Cell, RefCell};
use std::ops::Bound;
use std::time::Duration;

use super::*;
use crate::rt;
use crate::store::btree::TreeRoot;
use crate::store::engine::counts::{Count, counted};
use crate::store::engine::defect::{Defects, EngineDefect};
use crate::store::engine::scan::Scan;
use crate::store::engine::transaction::{Key, Transaction};
use crate::store::overlay::Direction;

const DURABILITY: Durability = Durability::None;

fn names(keys: std::ops::Range<u32>) -> Vec<[u8; 4]> {
    keys.map(u32::to_be_bytes).collect()
}

fn in_tree<'k>(tree: TreeRoot, names: &'k [[u8; 4]]) -> Vec<Key<'k>> {
    names.iter().map(|name| (tree, &name[..])).collect()
}

async fn tree(store: &Store) -> TreeRoot {
    store.open_tree("tree", 0, DURABILITY).await.expect("it works").0.root
}

async fn read(store: &Store, tree: TreeRoot, key: u32) -> Option<Vec<u8>> {
    store.get(tree, &key.to_be_bytes(), <[u8]>::to_vec).await.expect("it works")
}

/// Puts the same value under many keys.
async fn put_all(store: &Store, tree: TreeRoot, keys: std::ops::Range<u32>, value: &[u8]) -> u64 {
    let names = names(keys);
    let keys = in_tree(tree, &names);
    let put = |all: &mut Transaction<'_>| (0..all.len()).for_each(|place| all.put_at(place, value));
    store.transact(&keys, DURABILITY, put).await.expect("it works").1.expect("it changed something")
}

fn large() -> u64 {
    counted()[Count::LargeTransactions as usize]
}

async fn until_drained(store: &Store) {
    while !store.shared.overlay.is_drained() || !store.shared.overlay.list().is_empty() {
        rt::sleep(Duration::from_millis(1)).await;
    }
}

/// All keys of a tree, with the first bytes of their values, in the scan's order.
async fn scanned(store: &Store, tree: TreeRoot, direction: Direction) -> Vec<(u32, u8)> {
    let mut scan = Scan::new(store, tree, (Bound::Unbounded, Bound::Unbounded), direction);
    let mut found = Vec::new();
    while let Some((key, value)) = scan.next_ref().await.expect("it works") {
        found.push((u32::from_be_bytes(key.try_into().expect("4 bytes")), value[0]));
        if found.len() % 1000 == 0 {
            rt::yield_now().await;
        }
    }
    found
}

/// Keys that are even are overwritten by 2, of the others every third is deleted, the rest is not
/// touched.
fn expected(key: u32) -> Option<u8> {
    match key {
        _ if key.is_multiple_of(2) => Some(2),
        _ if key.is_multiple_of(3) => None,
        _ => Some(1),
    }
}

/// Some of a tree's keys, from `from` on, with the first bytes of their values, in the scan's
/// order.
async fn some_scanned(store: &Store, tree: TreeRoot, from: u32, direction: Direction) -> Vec<(u32, u8)> {
    const SCANNED: usize = 1500;
    let from = Bound::Included(from.to_be_bytes().to_vec());
    let range = match direction {
        Direction::Forwards => (from, Bound::Unbounded),
        Direction::Backwards => (Bound::Unbounded, from),
    };
    let mut scan = Scan::new(store, tree, range, direction);
    let mut found = Vec::new();
    while found.len() < SCANNED
        && let Some((key, value)) = scan.next_ref().await.expect("it works")
    {
        found.push((u32::from_be_bytes(key.try_into().expect("4 bytes")), value[0]));
        if found.len() % 10 == 0 {
            rt::yield_now().await;
        }
    }
    found
}

/// Reads of single keys and scans in both directions, all the time. What they saw before the change
/// comes before what they saw after it.
async fn watch(store: Store, tree: TreeRoot, keys: u32, is_over: Rc<Cell<bool>>) -> [u64; 2] {
    let mut random = StdRng::seed_from_u64(4);
    let mut seen = [0, 0];
    let mut has_changed = false;
    while !is_over.get() {
        for _ in 0..10 {
            let key = random.random_range(0..keys);
            let found = read(&store, tree, key).await.map(|value| value[0]);
            if expected(key) != Some(1) {
                let is_new = found == expected(key);
                assert!(is_new || found == Some(1), "key {key}: {found:?}");
                assert!(is_new || !has_changed, "key {key} has its old value after another was new");
                has_changed = is_new;
                seen[usize::from(is_new)] += 1;
            }
        }
        // The clock stands still while somebody can go on.
        rt::sleep(Duration::from_micros(50)).await;
        for direction in [Direction::Forwards, Direction::Backwards] {
            let (from, began_after) = (random.random_range(0..keys), has_changed);
            let found = some_scanned(&store, tree, from, direction).await;
            // From which place on it saw the change: all of it from there on.
            let at = found.iter().position(|(_, value)| *value == 2);
            let (before, after) = found.split_at(at.unwrap_or(found.len()));
            assert!(before.iter().all(|(_, value)| *value == 1));
            assert!(before.len() < 4 || !began_after, "{direction:?}: old keys after new ones");
            let next = |key: u32| match direction {
                Direction::Forwards => key + 1,
                Direction::Backwards => key - 1,
            };
            let is_next = |pair: &[(u32, u8)], is_there: fn(u32) -> Option<u8>| {
                let ((mut key, _), (last, value)) = (pair[0], pair[1]);
                loop {
                    key = next(key);
                    if key == last || is_there(key).is_some() {
                        return key == last && is_there(key) == Some(value);
                    }
                }
            };
            assert!(before.windows(2).all(|pair| is_next(pair, |_| Some(1))), "{direction:?}: a gap");
            assert!(after.windows(2).all(|pair| is_next(pair, expected)), "{direction:?}: a part");
            has_changed |= !after.is_empty();
        }
    }
    seen
}

async fn check_all(store: &Store, tree: TreeRoot, keys: u32) {
    let all: Vec<_> = (0..keys).filter_map(|key| Some((key, expected(key)?))).collect();
    assert!(scanned(store, tree, Direction::Forwards).await == all);
    let backwards: Vec<_> = all.iter().rev().copied().collect();
    assert!(scanned(store, tree, Direction::Backwards).await == backwards);
    assert_eq!(store.len(tree.tree), all.len() as u64);
}

/// It is in the log, in an overlay, in the trees, and read again.
#[test]
fn a_hundred_thousand_keys_change_at_once() {
    const KEYS: u32 = 100_000;
    let disk = Disk::new(MemoryOptions::disk(512 << 20), 1);
    let options = || options().cache_bytes(32 << 20).log_bytes(16 << 20);
    for is_closed in [true, false] {
        let before = large();
        a_life(&disk, async move |disk| {
            let store = open(RtEnv, disk, &options()).await.expect("room for a store");
            let tree = tree(&store).await;
            put_all(&store, tree, 0..KEYS, &[1; 8]).await;
            assert_eq!(store.len(tree.tree), u64::from(KEYS));
            let is_over = Rc::new(Cell::new(false));
            let watcher = rt::spawn(watch(Rc::clone(&store), tree, KEYS, Rc::clone(&is_over)));
            rt::sleep(Duration::from_millis(1)).await;
            let names = names(0..KEYS);
            let keys = in_tree(tree, &names);
            let changed = store.transact(&keys, DURABILITY, |all| {
                for (place, key) in (0..KEYS).enumerate() {
                    match expected(key) {
                        Some(2) => all.put_at(place, &[2; 12]),
                        Some(_) => {}
                        None => assert!(all.delete_at(place)),
                    }
                }
            });
            let number = changed.await.expect("it works").1.expect("it changed something");
            assert!(!store.shared.overlay.is_drained());
            assert_eq!(store.len(tree.tree), (0..KEYS).filter_map(expected).count() as u64);
            store.wait(number).await.expect("it is durable");
            until_drained(&store).await;
            is_over.set(true);
            let seen = watcher.await.expect("it saw what it should");
            println!("{seen:?} reads before and after");
            assert!(seen[1] > 0);
            check_all(&store, tree, KEYS).await;
            if is_closed {
                store.close().await.expect("it closes");
            }
        });
        assert_eq!(large() - before, 2);
        a_life(&disk, async move |disk| {
            let store = open(RtEnv, disk, &options()).await.expect("a store");
            let tree = tree(&store).await;
            check_all(&store, tree, KEYS).await;
            until_drained(&store).await;
            check_all(&store, tree, KEYS).await;
        });
    }
}

/// From which number on the log is needed when the trees have a group and no page of it is durable,
/// less that of its first part.
fn log_start_after_first_part() -> i64 {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    a_life(&disk, async |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        store.checkpoint().await.expect("a checkpoint");
        let first = store.log.log().next_number();
        let last = put_all(&store, tree, 0..900, &[1; 400]).await;
        assert!(last > first + 3, "it has several parts");
        while !store.shared.overlay.is_drained() {
            rt::yield_now().await;
        }
        store.log_start_number().cast_signed() - first.cast_signed()
    })
}

/// All of a group's parts are needed as long as a page of it is dirty: the last one alone is
/// nothing.
#[test]
fn dirty_pages_of_a_group_keep_the_log_from_its_first_part_on() {
    assert!(log_start_after_first_part() <= 0);
    Defects { engine: Some(EngineDefect::GroupHeldFromItsEnd), ..Defects::default() }.set();
    let after = log_start_after_first_part();
    Defects::default().set();
    assert!(after > 0, "the test would notice it: {after}");
}

/// Others write, run transactions and scan while a large transaction is drained.
#[test]
fn everything_goes_on_while_it_is_drained() {
    on_a_disk(128 << 20, async |disk| {
        let (mut model, mut random) = (Model::new(), StdRng::seed_from_u64(3));
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        let mut overlaid = 0;
        for round in 0..12_u8 {
            let start = random.random_range(0..3000);
            put_all(&store, tree, start..start + 1500, &[round; 40]).await;
            names(start..start + 1500)
                .iter()
                .for_each(|name| drop(model.insert(name.to_vec(), vec![round; 40])));
            for step in 0..120 {
                overlaid += u32::from(!store.shared.overlay.is_drained());
                let keys = names(0..5000);
                let mut any = || keys[random.random_range(0..keys.len())];
                let (one, two, three) = (any(), any(), any());
                if step % 3 == 0 {
                    store.put(tree, &one, &[round, 1], DURABILITY).await.expect("it works");
                    model.insert(one.to_vec(), vec![round, 1]);
                } else if step % 3 == 1 {
                    store.delete(tree, &one, DURABILITY).await.expect("it works");
                    model.remove(&one[..]);
                } else {
                    let keys: [Key<'_>; 3] = [(tree, &one), (tree, &two), (tree, &three)];
                    let seen = store.transact(&keys, DURABILITY, |all| {
                        let seen: Vec<_> =
                            (0..3).map(|place| all.get_at(place).map(<[u8]>::to_vec)).collect();
                        (0..3).for_each(|place| all.put_at(place, &[round, 2]));
                        seen
                    });
                    let expected: Vec<_> = [one, two, three].map(|key| model.get(&key[..]).cloned()).to_vec();
                    assert_eq!(seen.await.expect("it works").0, expected);
                    [one, two, three].iter().for_each(|key| drop(model.insert(key.to_vec(), vec![round, 2])));
                }
            }
            let scanned: Vec<_> = scanned(&store, tree, Direction::Forwards).await;
            let expected: Vec<_> = model
                .iter()
                .map(|(key, value)| (u32::from_be_bytes(key[..].try_into().expect("4 bytes")), value[0]))
                .collect();
            assert!(scanned == expected, "round {round}");
            assert_eq!(store.len(tree.tree), model.len() as u64);
        }
        assert!(overlaid > 300, "{overlaid} writes came while something was drained");
        store.close().await.expect("it closes");
    });
}

/// Adds one to many counters.
async fn add_one(store: &Store, tree: TreeRoot, keys: std::ops::Range<u32>) {
    let names = names(keys);
    let keys = in_tree(tree, &names);
    let added = store.transact(&keys, DURABILITY, |all| {
        for place in 0..all.len() {
            let before = all.get_at(place).map_or(0, |value| value[0]);
            all.put_at(place, &[before + 1; 30]);
        }
    });
    added.await.expect("it works");
}

#[test]
fn large_transactions_that_overlap_come_one_after_the_other() {
    on_a_disk(128 << 20, async |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        let tasks: Vec<_> = (0..6_u32)
            .map(|at| {
                let store = Rc::clone(&store);
                rt::spawn(async move { add_one(&store, tree, at * 300..at * 300 + 1200).await })
            })
            .collect();
        for task in tasks {
            task.await.expect("no task panics");
        }
        for key in (0..2700).step_by(7) {
            let expected = (0..6).filter(|at| (at * 300..at * 300 + 1200).contains(&key)).count();
            assert_eq!(read(&store, tree, key).await.map(|value| usize::from(value[0])), Some(expected));
        }
    });
}

fn ordinary_writers_wait() {
    on_a_disk(128 << 20, async |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        let (ran, decided) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let (shared, has_run, is_decided) = (Rc::clone(&store), Rc::clone(&ran), Rc::clone(&decided));
        let task = rt::spawn(async move {
            let names = names(0..2000);
            let keys = in_tree(tree, &names);
            let changed = shared.transact(&keys, DURABILITY, |all| {
                has_run.set(true);
                (0..all.len()).for_each(|place| all.put_at(place, &[1; 30]));
            });
            changed.await.expect("it works");
            is_decided.set(true);
        });
        let first = 1234_u32;
        while !ran.get() {
            rt::yield_now().await;
        }
        // Another key is nobody's.
        store.put(tree, &9000_u32.to_be_bytes(), b"x", DURABILITY).await.expect("it works");
        assert!(!decided.get(), "it did not wait");
        assert_eq!(read(&store, tree, first).await, None, "readers pass by");
        let others: Vec<_> = (0..3)
            .map(|kind| {
                let store = Rc::clone(&store);
                rt::spawn(async move {
                    let key = first.to_be_bytes();
                    let add = |found: Option<&[u8]>| [found.map_or(0, |value| value[0]) + 1];
                    match kind {
                        0 => {
                            let more = store.update(tree, &key, DURABILITY, |found, value| {
                                value.extend_from_slice(&add(found));
                                crate::store::engine::update::Decision::Put
                            });
                            more.await.expect("it works");
                        }
                        _ => {
                            let keys: [Key<'_>; 1] = [(tree, &key)];
                            let more = store.transact(&keys, DURABILITY, |all| {
                                all.put_at(0, &add(all.get_at(0)));
                            });
                            more.await.expect("it works");
                        }
                    }
                })
            })
            .collect();
        for other in others {
            other.await.expect("no task panics");
        }
        task.await.expect("no task panics");
        assert_eq!(read(&store, tree, first).await.map(|value| value[0]), Some(4));
    });
}

#[test]
fn a_writer_of_a_pending_key_waits_and_gets_on() {
    ordinary_writers_wait();
}

fn is_noticed(defect: EngineDefect, test: fn()) {
    Defects { engine: Some(defect), ..Defects::default() }.set();
    let ran = std::panic::catch_unwind(test);
    Defects::default().set();
    assert!(ran.is_err(), "{defect:?} was not noticed");
}

#[test]
fn writers_that_ignore_what_is_pending_are_noticed() {
    is_noticed(EngineDefect::PendingIgnored, ordinary_writers_wait);
}

/// Writers and large transactions add to the same counters, and wait for the log's buffer.
#[test]
fn nothing_is_lost_between_writers_and_large_transactions() {
    on_a_disk(128 << 20, async |disk| {
        let store = open(RtEnv, disk, &options().cache_bytes(2 << 20)).await.expect("room for a store");
        let tree = tree(&store).await;
        let writers: Vec<_> = (0..40_u32)
            .map(|at| {
                let store = Rc::clone(&store);
                rt::spawn(async move {
                    let mut mine = 0;
                    for step in 0..60 {
                        let key = (at * 30 + step % 30).to_be_bytes();
                        let more = store.update(tree, &key, DURABILITY, |found, value| {
                            let counter =
                                found.map_or(0, |found| u16::from_le_bytes([found[0], found[1]])) + 1;
                            value.resize(900, 0);
                            value[..2].copy_from_slice(&counter.to_le_bytes());
                            crate::store::engine::update::Decision::Put
                        });
                        more.await.expect("it works");
                        mine += 1;
                    }
                    mine
                })
            })
            .collect();
        for _ in 0..12 {
            let names = names(0..1200);
            let keys = in_tree(tree, &names);
            let added = store.transact(&keys, DURABILITY, |all| {
                for place in 0..all.len() {
                    let counter =
                        all.get_at(place).map_or(0, |found| u16::from_le_bytes([found[0], found[1]]));
                    all.put_at(place, &[&(counter + 1).to_le_bytes()[..], &[7; 100]].concat());
                }
            });
            added.await.expect("it works");
        }
        let mut total = 12 * 1200;
        for writer in writers {
            total += writer.await.expect("no task panics");
        }
        let mut found = 0;
        for key in 0..1200 {
            let value = read(&store, tree, key).await.expect("it is there");
            found += u32::from(u16::from_le_bytes([value[0], value[1]]));
        }
        assert_eq!(found, total, "what all have added");
    });
}

/// A writer that has brought its key over waits, say for the log's buffer, and a large transaction
/// begins and ends meanwhile.
#[test]
fn a_writer_finds_its_key_in_an_overlay_that_came_meanwhile() {
    on_a_disk(128 << 20, async |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        let key = 7_u32.to_be_bytes();
        put_all(&store, tree, 0..1000, &[1; 30]).await;
        store.bring_over(tree, &key).await.expect("it works");
        assert!(store.may_write(tree, &key));
        put_all(&store, tree, 0..1000, &[2; 30]).await;
        assert!(!store.may_write(tree, &key), "it starts over");
        store.bring_over(tree, &key).await.expect("it works");
        assert!(store.may_write(tree, &key));
        assert!(!store.may_write(tree, &8_u32.to_be_bytes()), "the drain has not come so far");
        until_drained(&store).await;
        assert!(store.may_write(tree, &8_u32.to_be_bytes()));
    });
}

/// It turns out to be longer than a record, and waits for its turn; then its closure runs again.
#[test]
fn a_closure_runs_again_on_what_the_keys_have_when_its_turn_comes() {
    on_a_disk(128 << 20, async |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        put_all(&store, tree, 0..400, &[1; 300]).await;
        let other = Rc::clone(&store);
        let before = rt::spawn(async move { put_all(&other, tree, 5000..7000, &[9; 50]).await });
        while !store.shared.pending.has(tree.tree, &5000_u32.to_be_bytes()) {
            rt::yield_now().await;
        }
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (mine, runs) = (Rc::clone(&store), Rc::clone(&seen));
        let task = rt::spawn(async move {
            let names = names(0..400);
            let keys = in_tree(tree, &names);
            let changed = mine.transact(&keys, DURABILITY, |all| {
                let first = all.get_at(7).expect("it is there")[0];
                runs.borrow_mut().push(first);
                (0..all.len()).for_each(|place| all.put_at(place, &[first + 1; 300]));
            });
            changed.await.expect("it works");
        });
        while seen.borrow().is_empty() {
            rt::yield_now().await;
        }
        store.put(tree, &7_u32.to_be_bytes(), &[5; 300], DURABILITY).await.expect("it works");
        before.await.expect("no task panics");
        task.await.expect("no task panics");
        assert_eq!(*seen.borrow(), [1, 5]);
        assert_eq!(read(&store, tree, 8).await, Some(vec![6; 300]));
    });
}

/// All of their leaves are more than memory.
#[test]
fn keys_whose_leaves_do_not_fit_memory_change_at_once() {
    const KEYS: u32 = 9000;
    on_a_disk(128 << 20, async |disk| {
        let options = options().cache_bytes(1 << 20).log_bytes(4 << 20);
        let store = open(RtEnv, disk, &options).await.expect("room for a store");
        let tree = tree(&store).await;
        for key in 0..KEYS {
            store.put(tree, &key.to_be_bytes(), &[1; 300], DURABILITY).await.expect("it works");
        }
        // Fewer than many, one in each leaf; and all.
        for (step, round) in [(20, 2), (1, 3)] {
            let some: Vec<_> = (0..KEYS).step_by(step).map(u32::to_be_bytes).collect();
            let keys = in_tree(tree, &some);
            let changed = store.transact(&keys, DURABILITY, |all| {
                for place in 0..all.len() {
                    let is_it = all.get_at(place).is_some_and(|value| value.len() > 10 || value == [2; 10]);
                    assert!(is_it, "it has what it had");
                    all.put_at(place, &[round; 10]);
                }
            });
            changed.await.expect("it works");
            until_drained(&store).await;
            for key in some {
                let found = store.get(tree, &key, <[u8]>::to_vec).await.expect("it works");
                assert_eq!(found, Some(vec![round; 10]));
            }
        }
        store.close().await.expect("it closes");
    });
}
