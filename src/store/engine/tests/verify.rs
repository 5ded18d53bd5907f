//! Verification: a whole store is whole, also while it changes, and damage is said with what it
//! costs.

use super::*;
use crate::block::Namespace;
use crate::mem::DmaBuf;
use crate::store::btree::TreeRoot;
use crate::store::engine::verify::Report;
use crate::store::word::{ColdAddress, MapView, PageId};

const KEYS: u32 = 3000;

async fn tree(store: &Store, name: &str) -> TreeRoot {
    store.open_tree(name, 0, Durability::None).await.expect("it works").0.root
}

async fn fill(store: &Store, tree: TreeRoot) {
    for key in 0..KEYS {
        let value = vec![7; if key % 100 == 0 { 20_000 } else { 90 }];
        store.put(tree, &key.to_be_bytes(), &value, Durability::None).await.expect("it works");
    }
}

async fn verify(store: &Store) -> Report {
    store.verify(|_| {}).await.expect("nothing keeps it from being done")
}

#[test]
fn a_whole_store_is_whole_in_memory_and_on_the_namespace() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let [fruit, nuts] = [tree(&store, "fruit").await, tree(&store, "nuts").await];
        fill(&store, fruit).await;
        fill(&store, nuts).await;
        let mut calls = 0;
        let young = store.verify(|_| calls += 1).await.expect("it works");
        assert!(calls > 10, "{calls} calls");
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        for report in [young, verify(&store).await] {
            assert_eq!((&report.damage[..], report.lost_pages), (&[][..], 0));
            assert_eq!(report.keys, 2 * u64::from(KEYS));
            assert_eq!(report.values, 60);
            assert!(report.pages > 200, "{}", report.pages);
        }
    });
}

#[test]
fn a_store_that_changes_meanwhile_is_whole() {
    on_a_disk(64 << 20, async |disk| {
        let options = options().cache_bytes(1 << 20);
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("room for a store");
        let fruit = tree(&store, "fruit").await;
        fill(&store, fruit).await;
        let writer = Rc::clone(&store);
        let writing = crate::rt::spawn(async move {
            let mut random = StdRng::seed_from_u64(1);
            for _ in 0..20_000 {
                let key = random.random_range(0..2 * KEYS).to_be_bytes();
                let written = match random.random_range(0..3) {
                    0 => writer.delete(fruit, &key, Durability::None).await.map(drop),
                    _ => writer.put(fruit, &key, &[1; 60], Durability::None).await.map(drop),
                };
                written.expect("it works");
            }
        });
        while !writing.is_finished() {
            let report = verify(&store).await;
            assert_eq!((&report.damage[..], report.lost_pages), (&[][..], 0));
        }
        writing.await.expect("it does not panic");
    });
}

/// Where the newest images of pages lie.
fn places(store: &Store) -> Vec<ColdAddress> {
    let (map, homes) = (store.shared.nodes.map(), store.shared.nodes.homes());
    let ids = (1..map.next_page()).filter_map(PageId::new);
    let place = |id| match map.entry(id).loaded()?.word().view() {
        MapView::Cold { address, .. } => Some(address),
        _ => homes.get(id).map(|home| home.address),
    };
    ids.filter_map(place).collect()
}

async fn flip(disk: &Disk, at: u64) {
    let block = u64::from(disk.info().block_size_bytes);
    let start = at / block * block;
    let len = usize::try_from(block).expect("small");
    let mut buf = disk.read(start, DmaBuf::zeroed(len)).await.expect("it works");
    buf[usize::try_from(at - start).expect("small")] ^= 1;
    disk.write(start, buf).await.expect("it works");
}

/// One flipped bit in a page: that page is said, with the keys that it had, and nothing else is
/// lost. It does not matter whether the page is in memory.
#[test]
fn a_flipped_bit_is_found_with_the_keys_that_it_costs() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let fruit = tree(&store, "fruit").await;
        fill(&store, fruit).await;
        store.checkpoint().await.expect("it works");
        let clean = verify(&store).await;
        assert_eq!(clean.damaged, 0);
        let places = places(&store);
        for (at, place) in places.iter().enumerate().step_by(places.len() / 9) {
            flip(&disk, place.offset_bytes() + place.len_bytes() / 2).await;
            for is_in_memory in [true, false] {
                let options = options();
                let again = open(RtEnv, disk.attach_again(), &options);
                let store = match is_in_memory {
                    true => Rc::clone(&store),
                    false => match again.await {
                        Ok(store) => store,
                        // The names of the trees were in it.
                        Err(error) => {
                            assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt, "{error}");
                            continue;
                        }
                    },
                };
                let report = verify(&store).await;
                assert!(report.damaged >= 1, "page {at} of {}", places.len());
                let finding = report.damage[0].to_string();
                assert!(finding.contains("keys from \""), "{finding}");
                // Of a leaf all other keys are there.
                if let [finding] = &report.damage[..]
                    && finding.tree.as_deref() == Some("fruit")
                {
                    let mut lost = 0;
                    for key in (0..KEYS).map(u32::to_be_bytes) {
                        let is_lost = key[..] >= finding.from[..]
                            && finding.to.as_ref().is_none_or(|to| key[..] < to[..]);
                        lost += u64::from(is_lost);
                        let found = store.get(fruit, &key, <[u8]>::len).await;
                        assert!(is_in_memory || found.is_err() == is_lost, "{key:?}: {found:?}, {finding}");
                    }
                    assert_eq!(report.keys + lost, clean.keys, "{finding}");
                }
            }
            flip(&disk, place.offset_bytes() + place.len_bytes() / 2).await;
        }
    });
}

/// After a crash the log has what the pages do not: both count, and each key once, whatever the
/// drain does meanwhile.
#[test]
fn what_only_the_log_has_is_counted() {
    let world = World::new(5);
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let core = world.core("core");
    let life =
        |act: &dyn Fn(u32) -> Option<Option<usize>>, takes_checkpoint: bool, keys: u64, values: u64| {
            core.block_on(async {
                let store = reopen(&disk).await;
                let fruit = tree(&store, "fruit").await;
                let mut number = 0;
                for key in 0..2 * KEYS {
                    let key_bytes = key.to_be_bytes();
                    number = match act(key) {
                        None => continue,
                        Some(None) => store
                            .delete(fruit, &key_bytes, Durability::None)
                            .await
                            .expect("it works")
                            .unwrap_or(0),
                        Some(Some(len)) => {
                            let value = vec![7; len];
                            store.put(fruit, &key_bytes, &value, Durability::None).await.expect("it works")
                        }
                    }
                    .max(number);
                }
                store.wait_until_reclaimed().await.expect("it takes writes");
                store.wait(number).await.expect("it is durable");
                if takes_checkpoint {
                    store.checkpoint().await.expect("a checkpoint");
                }
            });
            core.crash();
            core.block_on(async {
                let store = reopen(&disk).await;
                let fruit = tree(&store, "fruit").await;
                assert_eq!(store.shared.overlay.is_drained(), takes_checkpoint);
                let report = verify(&store).await;
                assert_eq!((&report.damage[..], report.lost_pages), (&[][..], 0));
                assert_eq!((report.keys, report.values), (keys, values));
                assert_eq!(store.len(fruit.tree), keys);
            });
            core.crash();
        };
    let (all, long) = (u64::from(KEYS), u64::from(KEYS) / 100);
    let filled = |key| (key < KEYS).then_some(Some(if key % 100 == 0 { 20_000 } else { 90 }));
    life(&filled, false, all, long);
    life(&|_| None, true, all, long);
    // Some are overwritten, some go, others come.
    let changes = |key| match key % 3 {
        0 => Some(Some(5)),
        1 => Some(None),
        _ => (key >= KEYS).then_some(Some(if key == 2 * KEYS - 1 { 5000 } else { 0 })),
    };
    let left = (0..KEYS).filter(|key| key % 3 == 2 && key % 100 == 0).count() as u64;
    // Two thirds of the new ones, and of the old ones.
    let more = (KEYS..2 * KEYS).filter(|key| key % 3 != 1).count() as u64;
    let old = (0..KEYS).filter(|key| key % 3 != 1).count() as u64;
    life(&changes, false, more + old, left + 1);
}
