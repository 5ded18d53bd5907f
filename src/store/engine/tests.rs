//! Tests of the whole engine: what is written is found, now, after closing, and after a crash.

mod allocations;
mod clear;
mod closed;
mod crash;
mod faults;
mod full_memory;
mod keeper;
mod large;
mod lengths;
mod log_limit;
mod long_flush;
mod overlay;
mod pack;
mod scan;
mod several;
mod space;
mod speed;
mod transaction;
mod trees;
mod update;
mod values;
mod verify;
mod young;

use std::collections::BTreeMap;
use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::core_store::CoreStore;
use super::open::open;
use super::registry::catalog;
use crate::block::MemoryOptions;
use crate::sim::{Disk, World};
use crate::store::RtEnv;
use crate::store::btree::Change;
use crate::store::options::{Durability, Options};

type Store = Rc<CoreStore<RtEnv, Disk>>;
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> Options {
    Options::default().cache_bytes(8 << 20).identity(*b"a store of tests").log_bytes(2 << 20)
}

async fn reopen(disk: &Disk) -> Store {
    open(RtEnv, disk.attach_again(), &options()).await.expect("a store, or room for one")
}

async fn put(store: &Store, key: &[u8], value: &[u8]) -> u64 {
    let written = store.write(catalog(), key, Change::Put(value), Durability::None).await;
    written.expect("no fault is injected")
}

async fn get(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    store.get(catalog(), key, <[u8]>::to_vec).await.expect("no fault is injected")
}

/// Random writes to `keys` keys.
async fn work(store: &Store, model: &mut Model, random: &mut StdRng, keys: u32, operations: u32) {
    for _ in 0..operations {
        let key = random.random_range(0..keys).to_be_bytes().to_vec();
        if random.random_ratio(1, 4) {
            let deleted = store.write(catalog(), &key, Change::Delete, Durability::None).await;
            deleted.expect("no fault is injected");
            model.remove(&key);
        } else {
            let mut value = vec![0; random.random_range(0..300)];
            random.fill(&mut value[..]);
            put(store, &key, &value).await;
            model.insert(key, value);
        }
    }
}

async fn check(store: &Store, model: &Model, keys: u32) {
    for key in 0..keys {
        let key = key.to_be_bytes();
        assert_eq!(get(store, &key).await.as_ref(), model.get(&key[..]), "key {key:?}");
    }
}

fn on_a_disk(size_bytes: u64, test: impl AsyncFn(Disk)) {
    let world = World::new(7);
    let disk = Disk::new(MemoryOptions::disk(size_bytes), 1);
    world.core("core").block_on(test(disk));
}

/// The process dies with this world.
fn a_life<R: 'static>(disk: &Disk, life: impl AsyncFnOnce(Disk) -> R + 'static) -> R {
    let world = World::new(7);
    let core = world.core("core");
    let result = core.block_on(life(disk.attach_again()));
    disk.kill();
    core.crash();
    result
}

#[test]
fn what_is_put_is_found_before_and_after_closing() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        assert_eq!(get(&store, b"nothing").await, None);
        put(&store, b"apple", b"5").await;
        let number = put(&store, b"pear", b"7").await;
        store.wait(number).await.expect("it is durable");
        assert_eq!(get(&store, b"apple").await.as_deref(), Some(&b"5"[..]));
        store.close().await.expect("it closes");
        assert_eq!(get(&store, b"pear").await.as_deref(), Some(&b"7"[..]));
        drop(store);
        let store = reopen(&disk).await;
        assert_eq!(get(&store, b"apple").await.as_deref(), Some(&b"5"[..]));
        assert_eq!(get(&store, b"pear").await.as_deref(), Some(&b"7"[..]));
    });
}

#[test]
fn many_writes_are_found_over_several_openings() {
    on_a_disk(64 << 20, async |disk| {
        let (mut model, mut random) = (Model::new(), StdRng::seed_from_u64(3));
        for round in 0..4 {
            let store = reopen(&disk).await;
            check(&store, &model, 3000).await;
            work(&store, &mut model, &mut random, 3000, 8000).await;
            check(&store, &model, 3000).await;
            if round % 2 == 0 {
                store.checkpoint().await.expect("a checkpoint");
                work(&store, &mut model, &mut random, 3000, 500).await;
            }
            store.close().await.expect("it closes");
        }
    });
}

/// More than the cache holds, several times.
#[test]
fn what_does_not_fit_into_memory_is_found() {
    const KEYS: u32 = 12_000;
    on_a_disk(128 << 20, async |disk| {
        let options = options().cache_bytes(2 << 20);
        let open_again = || open(RtEnv, disk.attach_again(), &options);
        let store = open_again().await.expect("room for a store");
        let value = |key: u32, round: u8| {
            let mut value = vec![round; 400];
            value[..4].copy_from_slice(&key.to_le_bytes());
            value
        };
        // 7,919 is prime to the number of keys: each is met once, scattered.
        let scattered = |number: u32| number * 7919 % KEYS;
        for round in 0..2 {
            for number in 0..KEYS {
                let key = scattered(number);
                put(&store, &key.to_be_bytes(), &value(key, round)).await;
            }
        }
        for key in (0..KEYS).step_by(7) {
            assert_eq!(get(&store, &key.to_be_bytes()).await, Some(value(key, 1)), "key {key}");
        }
        store.close().await.expect("it closes");
        drop(store);
        let store = open_again().await.expect("a store");
        for key in (0..KEYS).step_by(11) {
            assert_eq!(get(&store, &key.to_be_bytes()).await, Some(value(key, 1)), "key {key}");
        }
    });
}
