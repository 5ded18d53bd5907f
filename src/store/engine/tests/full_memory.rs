//! A memory in which there is nothing left, not even of the reserve.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Store, on_a_disk, options, put};
use crate::store::RtEnv;
use crate::store::btree::{MAX_NODE_BYTES, NodeMemory};
use crate::store::cache::Room;
use crate::store::engine::counts::{Count, counted};
use crate::store::engine::open::open;

/// Takes all memory that there is. Nobody gives it back.
fn take_all(store: &Store) {
    let mut len = MAX_NODE_BYTES;
    while len > 0 {
        if store.core.memory().allocate(len, Room::Reserve).is_none() {
            len /= 2;
        }
    }
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
