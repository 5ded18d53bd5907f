//! Large transactions that are cut: by a crash, by whoever drops them, by the length of the log, by
//! want of memory.

use std::future::poll_fn;
use std::task::Poll;

use super::*;
use crate::error::{ErrorKind, Outcome};
use crate::store::btree::NodeMemory;
use crate::store::cache::Room;
use crate::store::pace::either;

/// Every stage of it is cut by a crash somewhere.
#[test]
fn a_crash_leaves_all_of_it_or_nothing() {
    const KEYS: u32 = 1500;
    let (mut all, mut none) = (0, 0);
    for stop in 0..40_u64 {
        let memory = MemoryOptions::disk(64 << 20)
            .volatile_cache(true)
            .write_latency(Duration::from_micros(200))
            .flush_latency(Duration::from_micros(500));
        let disk = Disk::new(memory, stop);
        let world = World::new(stop);
        let core = world.core("core");
        let on = disk.attach_again();
        let (store, tree) = core.block_on(async move {
            let store = reopen(&on).await;
            let tree = tree(&store).await;
            put_all(&store, tree, 0..KEYS / 2, &[1; 100]).await;
            if stop % 2 == 0 {
                store.checkpoint().await.expect("a checkpoint");
            }
            store.wait(store.log.log().next_number() - 1).await.expect("it is durable");
            (store, tree)
        });
        let acknowledged = Rc::new(Cell::new(false));
        let is_it = Rc::clone(&acknowledged);
        drop(core.spawn(async move {
            let number = put_all(&store, tree, 0..KEYS, &[2; 100]).await;
            store.wait(number).await.expect("it is durable");
            is_it.set(true);
            if stop % 3 == 0 {
                store.checkpoint().await.expect("a checkpoint");
            }
        }));
        world.run_for(Duration::from_micros(stop * 25));
        if stop % 4 == 0 {
            disk.kill();
        } else {
            disk.power_loss();
        }
        core.crash();
        for is_drained in [false, true] {
            let (on, acknowledged) = (disk.attach_again(), acknowledged.get());
            let is_new = World::new(stop).core("core").block_on(async move {
                let store = reopen(&on).await;
                if is_drained {
                    until_drained(&store).await;
                    store.checkpoint().await.expect("a checkpoint");
                }
                let is_new = read(&store, tree, 0).await.expect("it is there")[0] == 2;
                assert!(is_new || !acknowledged, "stop {stop}: it was durable");
                let keys = if is_new { KEYS } else { KEYS / 2 };
                let expected: Vec<_> = (0..keys).map(|key| (key, 1 + u8::from(is_new))).collect();
                assert!(scanned(&store, tree, Direction::Forwards).await == expected, "stop {stop}");
                assert_eq!(store.len(tree.tree), u64::from(keys), "stop {stop}");
                is_new
            });
            disk.kill();
            *if is_new { &mut all } else { &mut none } += 1;
        }
    }
    println!("{all} whole, {none} not there");
    assert!(all > 8 && none > 8, "{all} {none}");
}

/// Nothing of it is left, and others get on.
#[test]
fn one_that_is_dropped_has_not_happened() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let done = a_life(&disk, async |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        put_all(&store, tree, 0..1000, &[1; 100]).await;
        until_drained(&store).await;
        let mut done = 0;
        for steps in (0..150).step_by(4) {
            let has_ended = Cell::new(false);
            let names = names(0..1040);
            let keys = in_tree(tree, &names);
            let change = async {
                let put = |all: &mut Transaction<'_>| {
                    (0..1000).for_each(|place| all.put_at(place, &[steps; 100]));
                    (1000..1040).for_each(|place| all.put_at(place, &[steps; 2000]));
                };
                store.transact(&keys, DURABILITY, put).await.expect("it works");
                has_ended.set(true);
            };
            let long_enough = async {
                for _ in 0..u32::from(steps) * 10 {
                    rt::yield_now().await;
                }
            };
            either(change, long_enough).await;
            if has_ended.get() {
                done += 1;
                break;
            }
            assert!(!store.shared.pending.has(tree.tree, &names[0]));
            store.put(tree, &names[0], &[1; 100], DURABILITY).await.expect("it works");
            assert_eq!(read(&store, tree, 999).await, Some(vec![1; 100]), "after {steps}0 turns");
            assert_eq!((read(&store, tree, 1000).await, store.len(tree.tree)), (None, 1000));
        }
        store.checkpoint().await.expect("a checkpoint");
        if done == 0 {
            assert_eq!(store.shared.overlay.needs_from(), u64::MAX, "nothing holds the log");
        }
        done
    });
    a_life(&disk, async move |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        let found = scanned(&store, tree, Direction::Forwards).await;
        assert_eq!((found.len(), store.len(tree.tree)), (1000 + done * 40, 1000 + done as u64 * 40));
    });
}

/// A small log, groups of nearly a quarter of it, and others at work.
#[test]
fn a_full_log_does_not_lock_up() {
    let world = World::new(7);
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let core = world.core("core");
    let on = disk.attach_again();
    let (store, tree) = core.block_on(async move {
        let store = reopen(&on).await;
        let tree = tree(&store).await;
        (store, tree)
    });
    let ended = Rc::new(Cell::new(0));
    for task in 0..5_u32 {
        let (store, ended) = (Rc::clone(&store), Rc::clone(&ended));
        drop(core.spawn(async move {
            for round in 0..10_u8 {
                if task < 2 {
                    put_all(&store, tree, task * 2000..task * 2000 + 2800, &[round; 170]).await;
                } else {
                    for key in 0..300_u32 {
                        let key = (key * 16 + task).to_be_bytes();
                        store.put(tree, &key, &[round; 700], DURABILITY).await.expect("it works");
                    }
                }
            }
            ended.set(ended.get() + 1);
        }));
    }
    let waits = counted()[Count::LogWaits as usize];
    world.run_for(Duration::from_secs(60));
    assert_eq!(ended.get(), 5, "somebody waits for ever");
    assert!(counted()[Count::LogWaits as usize] > waits, "the log was never full");
    core.block_on(async move {
        until_drained(&store).await;
        let found = scanned(&store, tree, Direction::Forwards).await;
        assert_eq!(store.len(tree.tree), found.len() as u64);
        store.close().await.expect("it closes");
    });
}

#[test]
fn one_that_is_longer_than_a_quarter_of_the_log_is_refused() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        put_all(&store, tree, 0..1000, &[1; 10]).await;
        let names = names(0..1000);
        let keys = in_tree(tree, &names);
        let refused = store.transact(&keys, DURABILITY, |all| {
            (0..1000).for_each(|place| all.put_at(place, &[2; 900]));
        });
        let error = refused.await.expect_err("it is too long");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::LimitReached, Outcome::NotStarted));
        assert!(error.to_string().contains("log_bytes"), "{error}");
        assert_eq!(read(&store, tree, 5).await, Some(vec![1; 10]));
        assert_eq!(store.len(tree.tree), 1000);
        store.put(tree, &names[0], &[3; 10], DURABILITY).await.expect("its keys are free");
    });
}

/// Another takes all memory when the first change is about to be made.
#[test]
fn changes_for_which_there_is_no_memory_come_late() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let late = || counted()[Count::LateChanges as usize];
    let before = late();
    a_life(&disk, async |disk| {
        let store = open(RtEnv, disk, &options().cache_bytes(1 << 20)).await.expect("room for a store");
        let tree = tree(&store).await;
        for key in 0_u32..400 {
            store.put(tree, &key.to_be_bytes(), &[1; 200], DURABILITY).await.expect("it works");
        }
        let names = names(0..100);
        let blocks = RefCell::new(Vec::new());
        let keys = in_tree(tree, &names);
        let changed = store.transact(&keys, DURABILITY, |all| {
            let mut len = 16 << 10;
            while len > 0 {
                match store.core.memory().allocate(len, Room::Reserve) {
                    Some(block) => blocks.borrow_mut().push(block),
                    None => len /= 2,
                }
            }
            (0..50).for_each(|place| all.put_at(place, &[2; 100]));
            (50..100).for_each(|place| _ = all.delete_at(place));
        });
        let number = changed.await.expect("it works").1.expect("it changed something");
        for key in 0..100 {
            assert_eq!(read(&store, tree, key).await, (key < 50).then(|| vec![2; 100]), "key {key}");
        }
        assert_eq!(store.len(tree.tree), 350);
        store.wait(number).await.expect("it is durable");
        assert!(!store.shared.is_over(), "the store has not failed");
        println!("{} blocks were taken", blocks.borrow().len());
    });
    assert!(late() - before > 0, "there was memory for all");
    a_life(&disk, async |disk| {
        let store = reopen(&disk).await;
        let tree = tree(&store).await;
        assert_eq!(scanned(&store, tree, Direction::Forwards).await.len(), 350);
        assert_eq!(store.len(tree.tree), 350);
    });
}

/// A cut of the lengths lies in a group. The group is in pages when a checkpoint has that cut, as
/// the log takes too long to be durable up to a later one.
fn cut_in_a_group() {
    let memory = MemoryOptions::disk(64 << 20)
        .volatile_cache(true)
        .write_latency(Duration::from_millis(150))
        .flush_latency(Duration::from_millis(150));
    let disk = Disk::new(memory, 1);
    let options = || options().cache_bytes(2 << 20);
    a_life(&disk, async move |disk| {
        let store = open(RtEnv, disk, &options()).await.expect("room for a store");
        let tree = tree(&store).await;
        store.checkpoint().await.expect("a checkpoint");
        let names = names(0..2000);
        let keys = in_tree(tree, &names);
        let put = |all: &mut Transaction<'_>| (0..2000).for_each(|place| all.put_at(place, &[1; 100]));
        let mut change = Box::pin(store.transact(&keys, DURABILITY, put));
        let first = loop {
            let polled = poll_fn(|cx| Poll::Ready(change.as_mut().poll(cx))).await;
            assert!(polled.is_pending(), "some of it waits for the log");
            let first = store.shared.overlay.needs_from();
            let position = store.log.shared().with_leader(|leader| leader.position()).await;
            if first < u64::MAX && position.first > first + 1 {
                // From here on the log may start, if the group is not in the way.
                store.shared.state().note(position);
                break first;
            }
            rt::sleep(Duration::from_millis(1)).await;
        };
        store.cut_lengths().await.expect("it works");
        let cut = store.log.log().next_number();
        let number = change.await.expect("it works").1.expect("it changed something");
        assert!(first < cut && cut <= number);
        store.wait(number).await.expect("it is durable");
        until_drained(&store).await;
        let writer = Rc::clone(&store);
        drop(rt::spawn(async move {
            loop {
                writer.put(tree, b"one more", b"", DURABILITY).await.expect("it works");
                rt::sleep(Duration::from_millis(5)).await;
            }
        }));
        rt::sleep(Duration::from_millis(1)).await;
        store.checkpoint().await.expect("a checkpoint");
        let superblock = store.shared.state().superblock;
        assert!(superblock.lengths_at <= cut && superblock.lengths_at > first, "it has the cut of before");
    });
    a_life(&disk, async move |disk| {
        let store = open(RtEnv, disk, &options()).await.expect("a store");
        assert_eq!(store.len(tree(&store).await.tree), 2001);
    });
}

#[test]
fn keys_of_a_group_that_a_cut_lies_in_count_once() {
    cut_in_a_group();
}

#[test]
fn a_cut_that_does_not_keep_its_group_is_noticed() {
    is_noticed(EngineDefect::GroupNotHeldForCut, cut_in_a_group);
}
