//! Others are at work in a tree while it is cleared. (They sleep, and do not only let others run:
//! while somebody can run the time of a simulation stands still, and so do its disks.)

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use futures_util::future::{join, join_all};

use super::*;
use crate::error::Outcome;
use crate::store::engine::core_store::CoreStore;

async fn rest(microseconds: u32) {
    rt::sleep(Duration::from_micros(microseconds.into())).await;
}

fn was_cleared(error: &crate::error::Error) -> bool {
    let was_cleared = crate::store::engine::dying::lost_name(error).is_some();
    assert!(!was_cleared || error.outcome() == Outcome::NotStarted, "{error}");
    was_cleared
}

/// Several tasks write, each to the tree that has the name when it looks, while another clears it.
/// What was acknowledged after the last clearing is there, and nothing else is; and it is counted.
#[test]
fn what_is_written_beside_a_clearing_comes_before_or_after_it() {
    on_a_disk(64 << 20, async |disk| {
        // Little memory: operations await pages.
        let options = options().cache_bytes(1 << 20);
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("room for a store");
        tree(&store, "fruit").await;
        let (clearings, writers_left, refused) = (Cell::new(0), Cell::new(4), Cell::new(0));
        // What was written, with the number of the write.
        let written = RefCell::new(Vec::<(u32, u64)>::new());
        let writers = (0..4_u32).map(|writer| {
            let (store, written, refused, writers_left) = (&store, &written, &refused, &writers_left);
            async move {
                for step in 0..300 {
                    let key = writer + 4 * (step * 7919 % 1000);
                    let root = tree(store, "fruit").await;
                    // As somebody who looks a name up and does something else first.
                    rest(step % 3).await;
                    match store.put(root, &key.to_be_bytes(), &value(key, 1), DURABILITY).await {
                        Ok(number) => written.borrow_mut().push((key, number)),
                        Err(error) if was_cleared(&error) => refused.set(refused.get() + 1),
                        Err(error) => panic!("{error}"),
                    }
                    rest(1).await;
                }
                writers_left.set(writers_left.get() - 1);
            }
        });
        let clearing = async {
            let mut last = 0;
            // The last writes come after the last of these.
            while writers_left.get() > 0 && clearings.get() < 40 {
                rest(150).await;
                if writers_left.get() > 0 {
                    let cleared = store.clear_tree("fruit", DURABILITY).await.expect("it works");
                    last = cleared.expect("it is there").1;
                    clearings.set(clearings.get() + 1);
                }
            }
            last
        };
        let (_, last) = join(join_all(writers), clearing).await;
        let written = written.take();
        let (clearings, refused) = (clearings.get(), refused.get());
        println!("{clearings} clearings, {refused} of 1200 writes were refused");
        let expected: BTreeSet<u32> =
            written.into_iter().filter(|(_, number)| *number > last).map(|(key, _)| key).collect();
        assert!(clearings > 2 && refused > 0 && !expected.is_empty(), "{clearings} {refused}");
        let check = async |store: &Store| {
            let root = store.find_tree("fruit").expect("it is there").root;
            assert_eq!(count_keys(store, root).await, expected.len());
            assert_eq!(store.len(root.tree), expected.len() as u64);
            for &key in &expected {
                let found = store.get(root, &key.to_be_bytes(), <[u8]>::to_vec).await.expect("it works");
                assert!(found == Some(value(key, 1)), "key {key}");
            }
        };
        check(&store).await;
        are_apart(&store).await;
        check(&store).await;
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        check(&store).await;
        assert_eq!(store.len(catalog().tree), count_keys(&store, catalog()).await as u64);
    });
}

/// Keys that always have the same value, more of them than are deleted at a time.
const ALIKE: u32 = 70;

/// Transactions that give all of some keys a new value, and see what they had before: one of
/// theirs, all alike, or nothing at all. The name is looked up some time before.
async fn keep_alike(store: &Store, stamp: &Cell<u32>, seed: u64) -> (u32, u32) {
    let (mut random, mut seen_none, mut refused) = (StdRng::seed_from_u64(seed), 0, 0);
    let names: Vec<_> = (0..ALIKE).map(u32::to_be_bytes).collect();
    for _ in 0..60 {
        let other = tree(store, "other").await;
        let root = tree(store, "fruit").await;
        for _ in 0..random.random_range(0..12) {
            rt::yield_now().await;
        }
        let mut keys: Vec<Key<'_>> = names.iter().map(|key| (root, &key[..])).collect();
        keys.push((other, b"count"));
        stamp.set(stamp.get() + 1);
        // Some are long.
        let new = stamp.get().to_le_bytes().repeat(if random.random_ratio(1, 8) { 300 } else { 20 });
        let writes = random.random_ratio(2, 3);
        let done = store.transact(&keys, DURABILITY, |all| {
            let seen: Vec<_> =
                (0..ALIKE as usize).map(|place| all.get_at(place).map(<[u8]>::to_vec)).collect();
            if writes {
                (0..=ALIKE as usize).for_each(|place| all.put_at(place, &new));
            }
            seen
        });
        match done.await {
            Ok((seen, _)) => {
                assert!(seen.iter().all(|value| *value == seen[0]), "it was half cleared: {seen:?}");
                seen_none += u32::from(seen[0].is_none());
            }
            Err(error) if was_cleared(&error) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        rest(1).await;
    }
    (seen_none, refused)
}

/// Transactions over a whole tree, on two cores, while it is cleared and removed again and again.
#[test]
fn a_transaction_sees_a_tree_before_it_is_cleared_or_after_it() {
    let world = World::new(7);
    let (first, second) = (world.core("first"), world.core("second"));
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let stamp = Rc::new(Cell::new(0));
    first.block_on(async {
        let options = options().cache_bytes(2 << 20);
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("room for a store");
        let (shared, namespace, of_second) =
            (std::sync::Arc::clone(&store.shared), disk.attach_again(), Rc::clone(&stamp));
        let other_core = second.spawn(async move {
            let store = CoreStore::attach(&shared, RtEnv, namespace).expect("two cores are not many");
            keep_alike(&store, &of_second, 1).await
        });
        let (is_over, clearings) = (Cell::new(false), Cell::new(0));
        let clearing = async {
            while !is_over.get() {
                rest(40).await;
                let at = clearings.replace(clearings.get() + 1);
                if at % 3 == 2 {
                    store.remove_tree("fruit", DURABILITY).await.expect("it works");
                } else {
                    store.clear_tree("fruit", DURABILITY).await.expect("it works");
                }
            }
        };
        let transactions = async {
            let found = join_all((2..5).map(|seed| keep_alike(&store, &stamp, seed))).await;
            let of_other = other_core.expect("it is spawned").await;
            is_over.set(true);
            found.into_iter().chain([of_other.expect("it does not panic")]).collect::<Vec<_>>()
        };
        let ((), found) = join(clearing, transactions).await;
        println!("{} clearings; saw nothing, were refused: {found:?}", clearings.get());
        assert!(found.iter().all(|(none, _)| *none < 60), "{found:?}");
        let (none, refused) = found.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert!(clearings.get() > 10 && none > 5 && refused > 5, "{none} {refused}");
        are_apart(&store).await;
        store.close().await.expect("it closes");
    });
}

/// Others run while a tree is taken apart: only a few keys go between two of their steps.
#[test]
fn a_tree_is_taken_apart_in_small_steps() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store, "fruit").await;
        fill(&store, root, 3000, 1).await;
        store.clear_tree("fruit", DURABILITY).await.expect("it works");
        let (mut before, mut most, mut steps) = (store.shared.dying.deleted(), 0, 0);
        while stages(&store) == [Stage::Young] {
            // Sometimes it waits for the disk. While this one rests there are many of its steps.
            if steps % 1000 == 999 {
                rest(100).await;
                before = store.shared.dying.deleted();
            } else {
                rt::yield_now().await
            }
            let deleted = store.shared.dying.deleted();
            most = most.max(deleted - before);
            before = deleted;
            steps += 1;
        }
        assert_eq!(before, 3000);
        // Some steps of the task may come between two of this one.
        assert!(most <= 256 && steps > 100, "{most} keys at a time, {steps} steps");
    });
}
