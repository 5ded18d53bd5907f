//! Trees by name: made, found after closing and after a crash, each with its own keys.

use super::*;
use crate::store::btree::TreeRoot;

const DURABILITY: Durability = Durability::None;

async fn tree(store: &Store, name: &str) -> TreeRoot {
    store.open_tree(name, 7, DURABILITY).await.expect("no fault is injected").0.root
}

async fn put_in(store: &Store, tree: TreeRoot, key: &[u8], value: &[u8]) -> u64 {
    store.write(tree, key, Change::Put(value), DURABILITY).await.expect("no fault is injected")
}

async fn get_from(store: &Store, tree: TreeRoot, key: &[u8]) -> Option<Vec<u8>> {
    store.get(tree, key, <[u8]>::to_vec).await.expect("no fault is injected")
}

/// So many writes to a tree that checkpoints let the log go several times.
async fn fill(store: &Store, tree: TreeRoot, round: u8) -> u64 {
    let mut number = 0;
    for key in 0..12_000_u32 {
        let key = key.wrapping_mul(0x9E37_79B1) % 6000;
        number = put_in(store, tree, &key.to_be_bytes(), &[round; 400]).await;
    }
    number
}

fn on_a_core_that_crashes(lives: u32, seed: u64, life: impl AsyncFn(Store, u32)) {
    let world = World::new(seed);
    let disk = Disk::new(MemoryOptions::disk(128 << 20), 1);
    let core = world.core("core");
    for number in 0..lives {
        core.block_on(async { life(reopen(&disk).await, number).await });
        core.crash();
    }
}

#[test]
fn trees_are_found_by_name_after_closing() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        assert_eq!(store.find_tree("fruit"), None);
        let names: Vec<String> = (0..300).map(|at| format!("tree {at}")).collect();
        for name in &names {
            let tree = tree(&store, name).await;
            put_in(&store, tree, b"name", name.as_bytes()).await;
        }
        let made = store.trees();
        assert_eq!(made.len(), 300);
        assert_eq!(tree(&store, "tree 7").await, made[7].root, "it is made once");
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        assert_eq!(store.trees(), made);
        for name in &names {
            let found = store.find_tree(name).expect("it was made");
            assert_eq!(found.options, 7);
            assert_eq!(get_from(&store, found.root, b"name").await.as_deref(), Some(name.as_bytes()));
        }
        store.close().await.expect("it closes");
    });
}

#[test]
fn a_name_that_is_too_long_is_refused() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let refused = store.open_tree(&"n".repeat(256), 0, DURABILITY).await.expect_err("255 bytes");
        assert_eq!(refused.kind(), crate::error::ErrorKind::InvalidInput);
        tree(&store, "").await;
        tree(&store, &"n".repeat(255)).await;
        assert_eq!(store.trees().len(), 2);
    });
}

/// What a crash has left of them is in the log only: trees with keys, and trees without.
#[test]
fn trees_that_only_the_log_has_are_found_after_a_crash() {
    on_a_core_that_crashes(6, 21, async |store, life| {
        assert_eq!(store.trees().len(), 20 * life as usize);
        let mut number = 0;
        for at in 0..20 {
            let (tree, made) =
                store.open_tree(&format!("{life} {at}"), 7, DURABILITY).await.expect("it is made");
            number = made.expect("it is new");
            if at % 2 == 0 {
                number = put_in(&store, tree.root, b"at", &[at]).await;
            }
        }
        for before in 0..=life {
            for at in 0..20 {
                let tree = store.find_tree(&format!("{before} {at}")).expect("it was made").root;
                let expected = if at % 2 == 0 { Some(vec![at]) } else { None };
                assert_eq!(get_from(&store, tree, b"at").await, expected, "tree {before} {at}");
            }
        }
        store.wait(number).await.expect("it is durable");
    });
}

/// The roots of empty trees are not given to pages of others, and outlive the log.
#[test]
fn an_empty_tree_keeps_its_root() {
    on_a_core_that_crashes(4, 22, async |store, life| {
        let mut number = 0;
        for at in 0..5 {
            let (_, made) =
                store.open_tree(&format!("empty {life} {at}"), 7, DURABILITY).await.expect("it works");
            number = made.expect("it is new");
        }
        store.wait(number).await.expect("it is durable");
        if life % 2 == 1 {
            let large = tree(&store, "large").await;
            let start = store.shared.state().superblock.log.first_write;
            number = fill(&store, large, u8::try_from(life).expect("small")).await;
            assert!(store.shared.state().superblock.log.first_write > start, "the log begins later");
        }
        for before in 0..=life {
            for at in 0..5 {
                let empty = store.find_tree(&format!("empty {before} {at}")).expect("it was made").root;
                let key = [u8::try_from(life).expect("small")];
                assert_eq!(get_from(&store, empty, &key).await, None);
                let mut scan = crate::store::engine::scan::Scan::new(
                    &store,
                    empty,
                    (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
                    crate::store::overlay::Direction::Forwards,
                );
                assert_eq!(scan.next().await.expect("its root is readable"), None, "tree {before} {at}");
            }
        }
        store.wait(number).await.expect("it is durable");
    });
}

#[test]
fn a_name_is_given_once_however_many_ask() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let store = Rc::clone(&store);
                crate::rt::spawn(async move { tree(&store, "one").await })
            })
            .collect();
        for task in tasks {
            let found = task.await.expect("no task panics");
            assert_eq!(found, store.find_tree("one").expect("it is there").root);
        }
        assert_eq!(store.trees().len(), 1);
    });
}

/// Tasks of two cores make the same trees at the same time, and write to what they got.
#[test]
fn a_name_is_given_once_on_two_cores() {
    const NAMES: u32 = 40;
    for seed in 0..8 {
        let world = World::new(seed);
        let (first, second) = (world.core("first"), world.core("second"));
        let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
        first.block_on(async {
            let store = reopen(&disk).await;
            let work = async |store: &Store, own: u8| {
                let mut roots = Vec::new();
                for name in 0..NAMES {
                    let root = tree(store, &format!("{name}")).await;
                    store.put(root, &[own], &[own], DURABILITY).await.expect("it works");
                    roots.push(root);
                    crate::rt::sleep(std::time::Duration::from_micros(u64::from(name % 3))).await;
                }
                roots
            };
            let (shared, namespace) = (std::sync::Arc::clone(&store.shared), disk.attach_again());
            let other = second.spawn(async move {
                let store = CoreStore::attach(&shared, RtEnv, namespace).expect("two cores are not many");
                work(&store, 3).await
            });
            let (one, two) = futures_util::future::join(work(&store, 1), work(&store, 2)).await;
            let three = other.expect("it is spawned").await.expect("it does not panic");
            assert_eq!((&one, &one), (&two, &three));
            assert_eq!(store.trees().len(), NAMES as usize);
            for root in one {
                for own in 1..=3 {
                    assert_eq!(get_from(&store, root, &[own]).await, Some(vec![own]));
                }
                assert_eq!(store.len(root.tree), 3);
            }
            store.close().await.expect("it closes");
        });
    }
}
