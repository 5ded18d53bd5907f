//! Trees are cleared and removed: at once by name, and in the background for good.

mod busy;
mod room;

use std::ops::Bound;
use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::rt;
use crate::store::btree::TreeRoot;
use crate::store::engine::dying::Stage;
use crate::store::engine::lengths::Cut;
use crate::store::engine::registry::values;
use crate::store::engine::scan::Scan;
use crate::store::engine::transaction::Key;
use crate::store::overlay::Direction;
use crate::store::word::MapWord;

const DURABILITY: Durability = Durability::None;

async fn tree(store: &Store, name: &str) -> TreeRoot {
    store.open_tree(name, 7, DURABILITY).await.expect("no fault is injected").0.root
}

async fn put(store: &Store, tree: TreeRoot, key: u32, value: &[u8]) -> u64 {
    let written = store.put(tree, &key.to_be_bytes(), value, DURABILITY).await;
    written.expect("no fault is injected")
}

/// Values of many lengths, one in 16 of them in pieces.
fn value(key: u32, round: u32) -> Vec<u8> {
    let len = if key % 16 == 3 { 1009 + key as usize * 97 % 20_000 } else { key as usize * 31 % 700 };
    let mut value = vec![0; len + 8];
    value[..4].copy_from_slice(&key.to_le_bytes());
    value[4..8].copy_from_slice(&round.to_le_bytes());
    value
}

async fn fill(store: &Store, tree: TreeRoot, keys: u32, round: u32) -> u64 {
    let mut number = 0;
    for key in 0..keys {
        number = put(store, tree, key, &value(key, round)).await;
    }
    number
}

/// Whether the tree has what [`fill`] has written, and nothing else.
async fn check_filled(store: &Store, tree: TreeRoot, keys: u32, round: u32) {
    let mut scan = Scan::new(store, tree, (Bound::Unbounded, Bound::Unbounded), Direction::Forwards);
    for key in 0..keys {
        let found = scan.next().await.expect("no fault is injected");
        assert!(found == Some((key.to_be_bytes().to_vec(), value(key, round))), "key {key}");
    }
    assert_eq!(scan.next().await.expect("no fault is injected"), None);
}

async fn count_keys(store: &Store, tree: TreeRoot) -> usize {
    let mut scan = Scan::of_remains(store, tree);
    let mut count = 0;
    while scan.next_key().await.expect("no fault is injected").is_some() {
        count += 1;
    }
    count
}

/// The stages of the dying trees.
fn stages(store: &Store) -> Vec<Stage> {
    store.shared.trees().dying().into_iter().map(|(_, stage)| stage).collect()
}

async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..20_000 {
        if is_so().await {
            return;
        }
        rt::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came: {what}");
}

/// Closes a store whose trees have all lost their names and content: nothing is left of them.
async fn closes_empty(store: &Store, what: &str) {
    // The first one lets the log go, if it has to, and the second one the roots.
    for _ in 0..2 {
        store.checkpoint().await.expect("a checkpoint");
    }
    wait_until("no dying trees", async || stages(store).is_empty()).await;
    assert_eq!(count_keys(store, catalog()).await, 0);
    store.close().await.expect("it closes");
    assert!(used_pages(store) <= 3, "{what}: {} pages are in use", used_pages(store));
}

/// The trees that were cleared are empty, their roots aside, and nobody has a piece of a value.
async fn are_apart(store: &Store) {
    let is_apart = |stage: &Stage| !matches!(stage, Stage::Young | Stage::Old);
    wait_until("dying trees are empty", async || {
        store.shared.check_failed("take trees apart", crate::error::Outcome::Unknown).expect("it works");
        stages(store).iter().all(is_apart)
    })
    .await;
}

async fn has_no_pieces(store: &Store) {
    wait_until("no pieces", async || count_keys(store, values()).await == 0).await;
}

fn used_pages(store: &Store) -> usize {
    let map = store.shared.nodes.map();
    map.words().filter(|word| *word != MapWord::FREE).count()
}

#[test]
fn a_cleared_tree_is_empty_at_once_and_can_be_used_at_once() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let old = tree(&store, "fruit").await;
        let other = tree(&store, "other").await;
        fill(&store, old, 2000, 1).await;
        fill(&store, other, 300, 7).await;
        let before = store.log.log().next_number();
        let (new, number) =
            store.clear_tree("fruit", DURABILITY).await.expect("it works").expect("it is there");
        assert_eq!(number, before, "clearing is one record");
        assert_eq!(store.find_tree("fruit").as_ref(), Some(&new));
        assert_eq!(new.options, 7);
        assert_ne!(new.root, old);
        assert_eq!(count_keys(&store, new.root).await, 0);
        fill(&store, new.root, 100, 2).await;
        are_apart(&store).await;
        check_filled(&store, new.root, 100, 2).await;
        check_filled(&store, other, 300, 7).await;
        assert_eq!(count_keys(&store, old).await, 0);
        // The first one may have numbers of keys as of before.
        for _ in 0..2 {
            store.checkpoint().await.expect("a checkpoint");
        }
        // The catalog has the two names, and the old number.
        let lengths = vec![(0, 3), (other.tree, 300), (new.root.tree, 100)];
        assert!(store.shared.lengths.are_stored(&Cut { number: 0, lengths }));
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        assert_eq!(store.find_tree("fruit").expect("it is there"), new);
        check_filled(&store, new.root, 100, 2).await;
        check_filled(&store, other, 300, 7).await;
        assert_eq!((store.len(new.root.tree), store.len(old.tree)), (100, 0));
        assert_eq!(store.trees().len(), 2);
    });
}

#[test]
fn a_removed_tree_is_gone_and_its_name_is_free() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let old = tree(&store, "fruit").await;
        fill(&store, old, 1000, 1).await;
        assert!(store.remove_tree("fruit", DURABILITY).await.expect("it works").is_some());
        assert_eq!(store.find_tree("fruit"), None);
        assert_eq!(store.remove_tree("fruit", DURABILITY).await.expect("it works"), None);
        assert_eq!(store.clear_tree("fruit", DURABILITY).await.expect("it works"), None);
        let new = tree(&store, "fruit").await;
        assert_ne!(new.tree, old.tree);
        fill(&store, new, 50, 2).await;
        are_apart(&store).await;
        check_filled(&store, new, 50, 2).await;
        store.remove_tree("fruit", DURABILITY).await.expect("it works");
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        assert_eq!(store.trees(), []);
        are_apart(&store).await;
        has_no_pieces(&store).await;
    });
}

/// After two more openings there is nothing left of trees that were removed: no key, no piece, no
/// page but those that every store has, and no entry of the catalog.
#[test]
fn nothing_of_removed_trees_is_left_in_the_end() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        for at in 0..20 {
            let tree = tree(&store, &format!("{at}")).await;
            fill(&store, tree, at * 40, 1).await;
        }
        store.checkpoint().await.expect("a checkpoint");
        for at in 0..20 {
            store.remove_tree(&format!("{at}"), DURABILITY).await.expect("it works");
        }
        are_apart(&store).await;
        assert_eq!(stages(&store), [Stage::Kept; 20]);
        has_no_pieces(&store).await;
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        are_apart(&store).await;
        closes_empty(&store, "20 trees").await;
        drop(store);
        let store = reopen(&disk).await;
        assert_eq!(stages(&store), []);
        assert_eq!(store.trees(), []);
        // The ids are given out again.
        for at in 0..20 {
            let tree = tree(&store, &format!("{at}")).await;
            fill(&store, tree, 20, 3).await;
            check_filled(&store, tree, 20, 3).await;
        }
    });
}

/// Whoever has the old root is refused, whatever it was about to do: nothing is acknowledged and
/// lost.
#[test]
fn writers_with_the_old_root_are_refused() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let other = tree(&store, "other").await;
        for is_removed in [false, true] {
            let old = tree(&store, "fruit").await;
            fill(&store, old, 100, 1).await;
            // It writes a value of many pieces when the tree is cleared.
            let long = vec![7; 1 << 20];
            let mut writing = Box::pin(store.put(old, b"long", &long, DURABILITY));
            assert!(futures_util::poll!(writing.as_mut()).is_pending());
            if is_removed {
                store.remove_tree("fruit", DURABILITY).await.expect("it works");
            } else {
                store.clear_tree("fruit", DURABILITY).await.expect("it works");
            }
            let keys: [Key<'_>; 2] = [(other, b"a"), (old, b"a")];
            let errors = [
                writing.await.expect_err("its tree is gone"),
                store.put(old, b"a", b"a", DURABILITY).await.expect_err("the same"),
                store.put(old, b"a", &long, DURABILITY).await.expect_err("the same"),
                store.write(old, b"a", Change::Put(b"a"), DURABILITY).await.expect_err("the same"),
                store.delete(old, &[0; 4], DURABILITY).await.expect_err("the same"),
                store.transact(&keys, DURABILITY, |all| all.put_at(0, b"a")).await.expect_err("the same"),
            ];
            for error in errors {
                assert_eq!(crate::store::engine::dying::lost_name(&error), Some(old.tree), "{error}");
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                assert_eq!(error.outcome(), crate::error::Outcome::NotStarted);
            }
            assert!(store.has_lost_name(old) && !store.has_lost_name(other));
            assert_eq!(count_keys(&store, other).await, 0);
            are_apart(&store).await;
            assert_eq!(count_keys(&store, old).await, 0);
            has_no_pieces(&store).await;
        }
    });
}

/// A scan that is under way when its tree is cleared or removed ends there, with whatever it has
/// copied, however much is left of the tree.
#[test]
fn a_scan_of_a_tree_that_is_cleared_ends() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        for (direction, is_removed) in [(Direction::Forwards, false), (Direction::Backwards, true)] {
            let root = tree(&store, "fruit").await;
            fill(&store, root, 3000, 1).await;
            let all = (Bound::Unbounded, Bound::Unbounded);
            let mut scans = [0, 1, 100].map(|shown| (shown, Scan::new(&store, root, all.clone(), direction)));
            for (shown, scan) in &mut scans {
                for _ in 0..*shown {
                    scan.next().await.expect("it works").expect("there are more");
                }
            }
            if is_removed {
                store.remove_tree("fruit", DURABILITY).await.expect("it works");
            } else {
                store.clear_tree("fruit", DURABILITY).await.expect("it works");
            }
            // What is written after that is not what they are of.
            let new = tree(&store, "fruit").await;
            fill(&store, new, 300, 2).await;
            for (_, scan) in &mut scans {
                assert_eq!(scan.next_key().await.expect("it ends without an error"), None);
                assert_eq!(scan.next().await.expect("it ends without an error"), None);
            }
            check_filled(&store, new, 300, 2).await;
            are_apart(&store).await;
        }
    });
}

/// There is nothing to take apart, and nothing is left behind until the next opening.
#[test]
fn clearing_an_empty_tree_leaves_nothing() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let root = tree(&store, "fruit").await;
        let before = used_pages(&store);
        let clear = async || {
            let cleared = store.clear_tree("fruit", DURABILITY).await.expect("it works");
            let (cleared, number) = cleared.expect("it is there");
            store.wait(number).await.expect("it is durable");
            cleared.root
        };
        for _ in 0..50 {
            assert_eq!(clear().await, root);
        }
        assert_eq!((stages(&store).len(), used_pages(&store)), (0, before));
        fill(&store, root, 20, 1).await;
        let next = clear().await;
        assert_ne!(next, root);
        // Its key is in an overlay.
        let names: Vec<_> = (0..600_u32).map(u32::to_be_bytes).collect();
        let keys: Vec<Key<'_>> = names.iter().map(|key| (next, &key[..])).collect();
        let put = store.transact(&keys, DURABILITY, |all| all.put_at(0, b"a")).await.expect("it works");
        assert!(put.1.is_some() && !store.shared.overlay.is_drained());
        let last = clear().await;
        assert_ne!(last, next);
        // Nobody has counted this one.
        store.write(last, b"a", Change::Put(b"a"), DURABILITY).await.expect("it works");
        assert_ne!(clear().await, last);
        store.close().await.expect("it closes");
    });
}

/// Power losses at many points of a clearing and of what comes after it, several on one disk: the
/// name has what was written to it last, and in the end the store has nothing else.
#[test]
fn a_crash_at_any_point_leaves_the_name_with_the_old_content_or_without() {
    const KEYS: u32 = 220;
    for seed in 0..40_u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = Disk::new(MemoryOptions::disk(64 << 20), seed);
        // The round whose content is durable; None for none.
        let mut durable: Option<u32> = None;
        for life in 0..6_u32 {
            let world = World::new(seed * 16 + u64::from(life));
            let core = world.core("core");
            let (is_removed, is_early) = (random.random_ratio(1, 3), random.random_ratio(1, 3));
            let takes_checkpoint = random.random_ratio(1, 2);
            let rest_us = [300, 3_000, 30_000][random.random_range(0..3)];
            let rest = Duration::from_micros(random.random_range(0..rest_us));
            let left = core.block_on(async {
                let store = reopen(&disk).await;
                let found = store.find_tree("fruit");
                match (durable, &found) {
                    (Some(round), Some(found)) => check_filled(&store, found.root, KEYS, round).await,
                    (None, Some(found)) => assert_eq!(count_keys(&store, found.root).await, 0),
                    (None, None) => {}
                    (Some(_), None) => panic!("seed {seed} life {life}: the tree is lost"),
                }
                let other = tree(&store, "other").await;
                if life > 0 {
                    check_filled(&store, other, 40, 9).await;
                } else {
                    fill(&store, other, 40, 9).await;
                }
                let root = tree(&store, "fruit").await;
                let number = fill(&store, root, KEYS, life).await;
                store.wait(number).await.expect("it is durable");
                if takes_checkpoint {
                    store.checkpoint().await.expect("a checkpoint");
                }
                let number = if is_removed {
                    store.remove_tree("fruit", DURABILITY).await.expect("it works").expect("it is there")
                } else {
                    store.clear_tree("fruit", DURABILITY).await.expect("it works").expect("there").1
                };
                let is_durable = if is_early {
                    false
                } else {
                    store.wait(number).await.expect("it is durable");
                    true
                };
                let asked = Rc::clone(&store);
                if takes_checkpoint {
                    drop(rt::spawn(async move {
                        for _ in 0..3 {
                            _ = asked.checkpoint().await;
                        }
                    }));
                }
                if !is_early {
                    rt::sleep(rest).await;
                }
                std::mem::forget(Rc::clone(&store));
                is_durable
            });
            core.crash();
            disk.power_loss();
            durable = if left { None } else { Some(life) };
            if !left {
                // It was not durable: it may be either. The opening says which.
                let seen = World::new(seed).core("looks").block_on(async {
                    let store = reopen(&disk).await;
                    let found = store.find_tree("fruit");
                    let is_old = match &found {
                        None => false,
                        Some(found) => count_keys(&store, found.root).await > 0,
                    };
                    store.close().await.expect("it closes");
                    is_old
                });
                durable = seen.then_some(life);
            }
        }
        World::new(seed).core("last").block_on(async {
            let store = reopen(&disk).await;
            store.remove_tree("fruit", DURABILITY).await.expect("it works");
            store.remove_tree("other", DURABILITY).await.expect("it works");
            are_apart(&store).await;
            has_no_pieces(&store).await;
            store.close().await.expect("it closes");
            drop(store);
            let store = reopen(&disk).await;
            are_apart(&store).await;
            closes_empty(&store, &format!("seed {seed}")).await;
        });
    }
}
