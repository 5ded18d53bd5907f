//! A memory in which there is nothing left, not even of the reserve.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Store, get, on_a_disk, options, put};
use crate::error::{ErrorKind, Outcome, Result};
use crate::sim::Disk;
use crate::store::RtEnv;
use crate::store::btree::{Change, MAX_NODE_BYTES, NodeMemory};
use crate::store::cache::Room;
use crate::store::engine::counts::{Count, counted};
use crate::store::engine::defect::{Defects, EngineDefect};
use crate::store::engine::open::open;
use crate::store::engine::registry::catalog;
use crate::store::options::Durability;

/// Takes all memory that there is. Nobody gives it back.
fn take_all(store: &Store) {
    take_all_from(store, 1);
}

/// The same, but leaves what has no room for a node of so many bytes.
fn take_all_from(store: &Store, least: usize) {
    let mut len = MAX_NODE_BYTES;
    while len >= least {
        if store.core.memory().allocate(len, Room::Reserve).is_none() {
            len /= 2;
        }
    }
}

/// Leaves are emptied one after the other while there is only memory to mark them as removed.
/// Returns what became of overwriting others, for longer than the log is.
async fn emptied_without_memory(disk: Disk) -> Result<()> {
    let store = open(RtEnv, disk, &options().cache_bytes(1 << 20)).await.expect("room for a store");
    for key in 0_u32..400 {
        put(&store, &key.to_be_bytes(), &[1; 900]).await;
    }
    store.checkpoint().await.expect("a checkpoint");
    let mut number = 0;
    // Each leaf has two keys, and a new node when the first of them is deleted.
    for key in (0_u32..20).step_by(2).chain((1..20).step_by(2)) {
        if key == 1 {
            store.core.collect();
            take_all_from(&store, 1024);
        }
        let deleted = store.write(catalog(), &key.to_be_bytes(), Change::Delete, Durability::None).await;
        number = deleted.expect("a delete finds room");
    }
    store.wait(number).await.expect("it is durable");
    for round in 0_u8..20 {
        for key in 200_u32..400 {
            let value = [round; 900];
            store.write(catalog(), &key.to_be_bytes(), Change::Put(&value), Durability::None).await?;
        }
    }
    for key in 0_u32..400 {
        let expected = (key >= 20).then(|| vec![if key < 200 { 1 } else { 19 }; 900]);
        assert_eq!(get(&store, &key.to_be_bytes()).await, expected, "key {key}");
    }
    store.close().await
}

/// Nobody comes by the leaves that are gone half way. The log cannot be let go before they are gone
/// altogether, and when it is full nobody can come by.
#[test]
fn what_had_no_memory_to_be_removed_does_not_hold_the_log_for_ever() {
    let before = counted();
    on_a_disk(16 << 20, async |disk| emptied_without_memory(disk).await.expect("writes go on"));
    let since = |what: Count| counted()[what as usize] - before[what as usize];
    let (finished, checkpoints) = (since(Count::Finished), since(Count::Checkpoints));
    println!("{finished} finished, {checkpoints} checkpoints");
    assert!(finished > 1 && checkpoints > 2, "{finished} {checkpoints}");
}

/// The keeper does nothing at all: writers do not wait for ever.
#[test]
fn writers_are_refused_where_the_store_stands_still() {
    Defects { engine: Some(EngineDefect::NothingFlushed), ..Defects::default() }.set();
    on_a_disk(16 << 20, async |disk| {
        let store = open(RtEnv, disk, &options()).await.expect("room for a store");
        let mut refused = None;
        for key in 0_u32..10_000 {
            let key = key.to_be_bytes();
            let written = store.write(catalog(), &key, Change::Put(&[1; 900]), Durability::None);
            refused = written.await.err();
            if refused.is_some() {
                break;
            }
        }
        let refused = refused.expect("the log is full");
        assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::LimitReached, Outcome::NotStarted));
    });
    Defects::default().set();
}

/// Splits are pending that no parent knows of, their pages are written, there is no memory for
/// clean nodes in their places, and nobody but the keeper could evict. It wrote these pages again
/// and again, until the store was full. (This seed leads there, by what fits which block.)
#[test]
fn closing_comes_to_an_end_although_there_is_no_memory_for_clean_nodes() {
    on_a_disk(16 << 20, async |disk| {
        let mut random = StdRng::seed_from_u64(16);
        let store = open(RtEnv, disk, &options().cache_bytes(1 << 20)).await.expect("room for a store");
        for key in 0_u32..400 {
            put(&store, &key.to_be_bytes(), &[1; 900]).await;
        }
        store.checkpoint().await.expect("a checkpoint");
        take_all(&store);
        for _ in 0..random.random_range(50..150) {
            let key: [u8; 5] = random.random();
            put(&store, &key, &[2; 900]).await;
        }
        take_all(&store);
        let before = counted()[Count::Bundles as usize];
        let closed = store.close().await;
        let bundles = counted()[Count::Bundles as usize] - before;
        assert!(closed.is_ok() && bundles < 50, "{bundles} bundles: {closed:?}");
    });
}
