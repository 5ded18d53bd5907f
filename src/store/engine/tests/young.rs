//! Trees that grow before any of their pages is durable: all of them have to become durable
//! together, in a group of bundles.

use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::rt;
use crate::store::engine::counts::{Count, counted};
use crate::store::pages::Temperature;

/// Whoever is told that there is no room has changed nothing: no page waits for a bundle that is
/// never written, and the log keeps all of them.
#[test]
fn a_group_that_lacks_a_segment_is_not_begun() {
    let world = World::new(7);
    let slow = MemoryOptions::disk(64 << 20).flush_latency(Duration::from_secs(10));
    let disk = Disk::new(slow, 1);
    world.core("core").block_on(async move {
        let store = reopen(&disk).await;
        put(&store, b"apple", b"5").await;
        let keeper = Rc::clone(&store);
        let checkpoint = rt::spawn(async move { keeper.checkpoint().await });
        // It waits for its first flush while the tree grows.
        rt::sleep(Duration::from_millis(100)).await;
        let first = put(&store, b"pear", b"7").await;
        for number in 0..1000_u32 {
            put(&store, &number.wrapping_mul(0x9e37_79b9).to_be_bytes(), &[7; 400]).await;
        }
        // Enough for a checkpoint, but not for bundles and a checkpoint after them.
        while let (free, map) = store.free_segments()
            && free > map + 1
        {
            store.shared.state().segments.open(Temperature::Cold).expect("it is free");
        }
        // What it is to have may need pages by now that came after it was asked for.
        if let Err(full) = checkpoint.await.expect("it does not panic") {
            assert_eq!(full.kind(), ErrorKind::NoSpace, "{full}");
        }
        let full = store.checkpoint().await.expect_err("it takes more segments");
        assert_eq!(full.kind(), ErrorKind::NoSpace, "{full}");
        {
            let flusher = store.shared.flusher();
            let dirty = flusher.dirty_count();
            assert!(dirty > 50, "{dirty}: it was the group that did not fit");
            assert_eq!(flusher.under_way_count(), 0);
            assert!(flusher.oldest().is_some_and(|oldest| oldest <= first));
        }
        assert_eq!(get(&store, b"pear").await.as_deref(), Some(&b"7"[..]));
    });
}

/// A new tree grows as fast as it can while the keeper waits for a flush, to more than fits a group
/// of bundles.
#[test]
fn a_tree_that_outgrows_a_slow_keeper_becomes_durable() {
    const KEYS: u32 = 30_000;
    let key = |number: u32| number.wrapping_mul(0x9e37_79b9).to_be_bytes();
    let world = World::new(7);
    let slow = MemoryOptions::disk(256 << 20).flush_latency(Duration::from_secs(10));
    let disk = Disk::new(slow, 1);
    world.core("core").block_on(async move {
        let options = options().cache_bytes(96 << 20).log_bytes(64 << 20);
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("room for a store");
        put(&store, b"apple", b"5").await;
        let waits = counted()[Count::GrowthWaits as usize];
        let keeper = Rc::clone(&store);
        let checkpoint = rt::spawn(async move { keeper.checkpoint().await });
        rt::sleep(Duration::from_millis(100)).await;
        let opened = store.open_tree("young", 0, Durability::None).await;
        let tree = opened.expect("no fault is injected").0.root;
        for number in 0..KEYS {
            let change = Change::Put(&[7; 400]);
            store.write(tree, &key(number), change, Durability::None).await.expect("it waits for room");
        }
        checkpoint.await.expect("it does not panic").expect("a checkpoint");
        assert!(counted()[Count::GrowthWaits as usize] > waits, "the tree was not too fast");
        store.close().await.expect("it closes");
        drop(store);
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("a store");
        let tree = store.find_tree("young").expect("it was made").root;
        for number in (0..KEYS).step_by(7) {
            let found = store.get(tree, &key(number), |value| value == [7; 400]).await;
            assert_eq!(found.expect("no fault is injected"), Some(true), "key {number}");
        }
    });
}
