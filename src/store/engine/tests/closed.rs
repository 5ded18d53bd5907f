//! A store that was closed: it says so to everybody who wants to change something, and is read as
//! before.

use std::ops::Bound;

use super::*;
use crate::error::{Error, ErrorKind, Outcome};
use crate::store::btree::TreeRoot;
use crate::store::engine::scan::Scan;
use crate::store::engine::transaction::Key;
use crate::store::overlay::Direction;

const DURABILITY: Durability = Durability::None;
const KEYS: u32 = 3000;

async fn filled(store: &Store) -> TreeRoot {
    let root = store.open_tree("fruit", 0, DURABILITY).await.expect("it works").0.root;
    for key in 0..KEYS {
        let value = vec![7; if key % 100 == 0 { 5000 } else { 400 }];
        store.put(root, &key.to_be_bytes(), &value, DURABILITY).await.expect("it works");
    }
    root
}

/// Everything that changes something.
async fn refusals(store: &Store, root: TreeRoot) -> Vec<Error> {
    let key = &[0; 4][..];
    let names: Vec<_> = (0..600_u32).map(u32::to_be_bytes).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| (root, &name[..])).collect();
    let put = |all: &mut crate::store::engine::transaction::Transaction<'_>| all.put_at(0, b"1");
    vec![
        store.put(root, key, b"1", DURABILITY).await.expect_err("it is closed"),
        store.put(root, key, &[1; 30_000], Durability::Sync).await.expect_err("it is closed"),
        store.write(root, key, Change::Put(b"1"), DURABILITY).await.expect_err("it is closed"),
        store.delete(root, key, DURABILITY).await.expect_err("it is closed"),
        store.transact(&keys[..3], DURABILITY, put).await.expect_err("it is closed"),
        store.transact(&keys, DURABILITY, put).await.expect_err("it is closed"),
        store.delete_in_parts(&keys, DURABILITY).await.expect_err("it is closed"),
        store.open_tree("nuts", 0, DURABILITY).await.expect_err("it is closed"),
        store.clear_tree("fruit", DURABILITY).await.expect_err("it is closed"),
        store.remove_tree("fruit", DURABILITY).await.expect_err("it is closed"),
        store.checkpoint().await.expect_err("it is closed"),
    ]
}

async fn check_closed(store: &Store, root: TreeRoot) {
    for error in refusals(store, root).await {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::NotStarted), "{error}");
        assert!(error.to_string().contains("the store was closed"), "{error}");
    }
    store.close().await.expect("once more is nothing to do");
    let mut scan = Scan::new(store, root, (Bound::Unbounded, Bound::Unbounded), Direction::Forwards);
    for key in (0..KEYS).map(u32::to_be_bytes) {
        let (of_scan, value) = scan.next().await.expect("reads go on").expect("it is there");
        assert_eq!(of_scan, key);
        assert_eq!(store.get(root, &key, <[u8]>::to_vec).await.expect("reads go on"), Some(value));
    }
    let names: Vec<_> = (0..KEYS).map(u32::to_be_bytes).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| (root, &name[..])).collect();
    let bytes = |all: &crate::store::engine::transaction::Reading<'_>| {
        (0..all.len()).map(|place| all.get_at(place).map_or(0, <[u8]>::len)).sum::<usize>()
    };
    let long = (KEYS / 100) as usize;
    assert_eq!(
        store.read(&keys, bytes).await.expect("reads go on"),
        (KEYS as usize - long) * 400 + long * 5000
    );
}

#[test]
fn a_closed_store_says_so_and_is_read_as_before() {
    on_a_disk(64 << 20, async |disk| {
        // Most of it is not in memory.
        let options = options().cache_bytes(1 << 20);
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("room for a store");
        let root = filled(&store).await;
        store.close().await.expect("it closes");
        check_closed(&store, root).await;
    });
}

/// The core that closed the store goes away at once, with all that ran there.
#[test]
fn a_closed_store_has_not_failed_when_the_core_goes_away() {
    for seed in 0..20 {
        let world = World::new(seed);
        let (first, second) = (world.core("first"), world.core("second"));
        let disk = Disk::new(MemoryOptions::disk(64 << 20), seed);
        let (shared, root) = first.block_on(async {
            let store = reopen(&disk).await;
            let root = filled(&store).await;
            (std::sync::Arc::clone(&store.shared), root)
        });
        let store = second.block_on(async {
            CoreStore::attach(&shared, RtEnv, disk.attach_again()).expect("two cores are not many")
        });
        let closing = first.block_on(async { store_of(&shared, &disk).close().await });
        closing.expect("it closes");
        first.crash();
        second.block_on(check_closed(&store, root));
    }
}

fn store_of(shared: &std::sync::Arc<crate::store::engine::core_store::Shared>, disk: &Disk) -> Store {
    CoreStore::attach(shared, RtEnv, disk.attach_again()).expect("three are not many")
}
