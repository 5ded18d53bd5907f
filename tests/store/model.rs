//! The store against an ordered map from the standard library.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use boson::block::MemoryNamespace;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, Env, MIN_CACHE_BYTES, Options, Tree, WriteOptions};
use proptest::prelude::*;

type TestDb = Db<SimEnv, MemoryNamespace>;
type TestTree = Tree<SimEnv, MemoryNamespace>;
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a test does to a store and its model. Keys and values are short descriptions of longer
/// ones.
#[derive(Clone, Debug)]
enum Operation {
    Put {
        key: u16,
        value_len: u32,
        fill: u8,
    },
    Delete {
        key: u16,
    },
    /// Deletes a run of keys, so that pages empty and merge.
    DeleteRun {
        from: u16,
        count: u16,
    },
    Get {
        key: u16,
    },
    Range {
        from: u16,
        to: u16,
        descending: bool,
    },
    /// Swaps the values of two keys, and deletes a third.
    Transact {
        a: u16,
        b: u16,
        delete: u16,
    },
    Random {
        seed: u64,
    },
    Clear,
    Checkpoint,
    Reopen {
        cleanly: bool,
    },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let key = || 0..600u16;
    let value_len =
        prop_oneof![8 => 0..100u32, 3 => 500..2049u32, 2 => 2049..40_000u32, 1 => 131_000..140_000u32];
    let operation = prop_oneof![
        40 => (key(), value_len, any::<u8>()).prop_map(|(key, value_len, fill)| Operation::Put { key, value_len, fill }),
        10 => key().prop_map(|key| Operation::Delete { key }),
        4 => (key(), 0..200u16).prop_map(|(from, count)| Operation::DeleteRun { from, count }),
        10 => key().prop_map(|key| Operation::Get { key }),
        6 => (key(), key(), any::<bool>()).prop_map(|(from, to, descending)| Operation::Range { from, to, descending }),
        8 => (key(), key(), key()).prop_map(|(a, b, delete)| Operation::Transact { a, b, delete }),
        3 => any::<u64>().prop_map(|seed| Operation::Random { seed }),
        1 => Just(Operation::Clear),
        3 => Just(Operation::Checkpoint),
        3 => any::<bool>().prop_map(|cleanly| Operation::Reopen { cleanly }),
    ];
    prop::collection::vec(operation, 1..400)
}

/// One key in nine is long.
fn key(number: u16) -> Vec<u8> {
    let mut key = format!("{number:04}").into_bytes();
    if number.is_multiple_of(9) {
        key.resize(3000, b'k');
    }
    key
}

/// A cache so small that nearly every page is loaded again and again.
fn options() -> Options {
    Options::default().identity([3; 16]).log_bytes(1 << 20).cache_bytes(MIN_CACHE_BYTES)
}

async fn open(env: &SimEnv, namespace: &MemoryNamespace) -> (TestDb, TestTree) {
    let db = Db::open_on(env.clone(), namespace.clone(), options()).await.expect("opens");
    let tree = db.tree("model").expect("valid");
    (db, tree)
}

async fn compare_range(tree: &TestTree, model: &Model, from: &[u8], to: &[u8], descending: bool) {
    let bounds = (Bound::Included(from), Bound::Excluded(to));
    let mut cursor = if descending { tree.range_descending(bounds) } else { tree.range(bounds) };
    let mut found = Vec::new();
    while let Some(entry) = cursor.next().await.expect("reads") {
        found.push(entry);
    }
    if descending {
        found.reverse();
    }
    let expected: Vec<_> = if from <= to {
        model.range::<[u8], _>(bounds).map(|(key, value)| (key.clone(), value.clone())).collect()
    } else {
        Vec::new()
    };
    assert!(found == expected, "the range of {} entries has {}", expected.len(), found.len());
}

async fn compare_all(db: &TestDb, tree: &TestTree, model: &Model) {
    compare_range(tree, model, &[], &[0xff; 8], false).await;
    assert_eq!(tree.len(), model.len() as u64);
    let report = db.verify().await.expect("runs");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.keys, model.len() as u64);
}

async fn swap(db: &TestDb, tree: &TestTree, model: &mut Model, [a, b, delete]: [Vec<u8>; 3]) {
    let (old_a, old_b) = (model.get(&a).cloned(), model.get(&b).cloned());
    let keys = [(tree, a.as_slice()), (tree, b.as_slice()), (tree, delete.as_slice())];
    let seen = db
        .transact(&keys, WriteOptions::NONE, |txn| {
            let seen = (txn.get_at(0).map(<[u8]>::to_vec), txn.get_at(1).map(<[u8]>::to_vec));
            match &seen.1 {
                Some(value) => txn.put_at(0, value),
                None => drop(txn.delete_at(0)),
            }
            match &seen.0 {
                Some(value) => txn.put_at(1, value),
                None => drop(txn.delete_at(1)),
            }
            let there = txn.get_at(2).is_some();
            assert_eq!(txn.delete_at(2), there);
            assert_eq!(txn.get_at(2), None);
            seen
        })
        .await
        .expect("applies");
    assert_eq!(seen, (old_a.clone(), old_b.clone()));
    for (key, value) in [(a, old_b), (b, old_a), (delete, None)] {
        match value {
            Some(value) => drop(model.insert(key, value)),
            None => drop(model.remove(&key)),
        }
    }
}

async fn run(env: SimEnv, operations: Vec<Operation>) {
    let namespace = MemoryNamespace::new("mem:model", 64 << 20, 512).expect("valid");
    let (mut db, mut tree) = open(&env, &namespace).await;
    let mut model = Model::new();
    for operation in operations {
        match operation {
            Operation::Put { key: number, value_len, fill } => {
                let value = vec![fill; value_len as usize];
                tree.put_with(&key(number), &value, WriteOptions::NONE).await.expect("puts");
                model.insert(key(number), value);
            }
            Operation::Delete { key: number } => {
                let deleted = tree.delete_with(&key(number), WriteOptions::NONE).await.expect("deletes");
                assert_eq!(deleted, model.remove(&key(number)).is_some());
            }
            Operation::DeleteRun { from, count } => {
                for number in from..from.saturating_add(count) {
                    let deleted = tree.delete_with(&key(number), WriteOptions::NONE).await.expect("deletes");
                    assert_eq!(deleted, model.remove(&key(number)).is_some());
                }
            }
            Operation::Get { key: number } => {
                let value = tree.get(&key(number)).await.expect("reads");
                assert!(value.as_ref() == model.get(&key(number)), "key {number}");
                assert_eq!(tree.contains(&key(number)).await.expect("reads"), value.is_some());
            }
            Operation::Range { from, to, descending } => {
                compare_range(&tree, &model, &key(from), &key(to), descending).await;
            }
            Operation::Transact { a, b, delete } => {
                swap(&db, &tree, &mut model, [key(a), key(b), key(delete)]).await;
            }
            Operation::Random { mut seed } => {
                let random = tree.random(|| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    seed >> 16
                });
                let key = random.await.expect("reads");
                assert!(key.map_or(model.is_empty(), |key| model.contains_key(&key)));
            }
            Operation::Clear => {
                tree.clear(WriteOptions::NONE).await.expect("clears");
                model.clear();
            }
            Operation::Checkpoint => db.checkpoint().await.expect("works"),
            Operation::Reopen { cleanly } => {
                if cleanly {
                    db.close().await.expect("closes");
                }
                drop((db, tree));
                // The last handle is gone: the store is closed in the background.
                env.sleep(Duration::from_secs(1)).await;
                (db, tree) = open(&env, &namespace).await;
            }
        }
    }
    compare_all(&db, &tree, &model).await;
    db.close().await.expect("closes");
    let (db, tree) = open(&env, &namespace).await;
    compare_all(&db, &tree, &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_a_map_does(operations in operations(), seed: u64) {
        let executor = Executor::new(seed);
        executor.block_on(run(executor.env(), operations));
    }
}

#[test]
fn a_hundred_thousand_keys_live_with_a_tiny_cache() {
    let executor = Executor::new(5);
    let env = executor.env();
    executor.block_on(async move {
        const COUNT: u32 = 100_000;
        let namespace = MemoryNamespace::new("mem:large", 256 << 20, 4096).expect("valid");
        let (db, tree) = open(&env, &namespace).await;
        let key = |number: u32| number.wrapping_mul(0x9e37_79b1).to_be_bytes();
        for number in 0..COUNT {
            tree.put_with(&key(number), &number.to_le_bytes(), WriteOptions::NONE).await.expect("puts");
        }
        db.checkpoint().await.expect("works");
        for number in 0..COUNT {
            let value = tree.get(&key(number)).await.expect("reads");
            assert_eq!(value.as_deref(), Some(&number.to_le_bytes()[..]), "key {number}");
        }
        let stats = db.stats();
        assert_eq!(stats.keys, u64::from(COUNT));
        assert!(stats.evictions > 1000 && stats.page_loads > 1000, "{stats:?}");
        assert!(stats.resident_bytes <= MIN_CACHE_BYTES, "{stats:?}");
        let full = stats.used_bytes;
        let pages = db.verify().await.expect("runs").pages;

        // Nine of ten in no order: what is left moves together.
        for number in (0..COUNT).filter(|number| number % 10 > 0) {
            assert!(tree.delete_with(&key(number), WriteOptions::NONE).await.expect("deletes"));
        }
        db.checkpoint().await.expect("works");
        let report = db.verify().await.expect("runs");
        assert!(report.is_clean() && report.keys == u64::from(COUNT / 10), "{report:?}");
        assert!(report.pages < pages / 4, "{} pages are left of {pages}", report.pages);

        for number in (0..COUNT).filter(|number| number % 10 == 0) {
            assert!(tree.delete_with(&key(number), WriteOptions::NONE).await.expect("deletes"));
        }
        db.checkpoint().await.expect("works");
        let stats = db.stats();
        let empty = stats.used_bytes;
        assert!(empty < 64 << 10 && empty < full, "{empty} bytes are in use, of {full}: {stats:?}");
        assert!(db.verify().await.expect("runs").is_clean());
    });
}
