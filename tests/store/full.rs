//! A full store: whatever only frees room succeeds, from any full state, and then writes succeed
//! again.

use std::collections::BTreeMap;
use std::time::Duration;

use boson::ErrorKind;
use boson::block::MemoryNamespace;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, Durability, Env, Options, Tree, WriteOptions};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};

type TestDb = Db<SimEnv, MemoryNamespace>;
type TestTree = Tree<SimEnv, MemoryNamespace>;
/// The length of each key's value.
type Model = BTreeMap<Vec<u8>, usize>;

async fn open(env: &SimEnv, namespace: &MemoryNamespace) -> (TestDb, TestTree) {
    let options = Options::default()
        .identity([6; 16])
        .log_bytes(1 << 20)
        .cache_bytes(4 << 20)
        .durability(Durability::Interval(Duration::from_millis(100)));
    let db = Db::open_on(env.clone(), namespace.clone(), options).await.expect("opens");
    let tree = db.tree("t").expect("valid");
    (db, tree)
}

/// Puts keys, old ones too, until there is no room; then smaller values, until there is none for a
/// byte.
async fn fill(tree: &TestTree, model: &mut Model, most_len: usize, random: &mut StdRng) {
    let mut len = most_len;
    while len > 0 {
        let key = format!("key:{:07}", random.random_range(0..10_000_000)).into_bytes();
        let value = vec![1; random.random_range(len.div_ceil(2)..=len)];
        match tree.put(&key, &value).await {
            Ok(()) => drop(model.insert(key, value.len())),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                len /= 4;
            }
        }
    }
}

/// Does something that takes no more room than there was; returns what it did.
async fn free(db: &TestDb, tree: &TestTree, model: &mut Model, random: &mut StdRng) -> String {
    let some_key = model.keys().choose(random).expect("it is full").clone();
    match random.random_range(0..6) {
        0 => {
            assert!(tree.delete(&some_key).await.expect("a delete of one key"));
            model.remove(&some_key);
            "delete of one key".to_owned()
        }
        1 | 2 => {
            let count = random.random_range(1..=model.len());
            let doomed: Vec<Vec<u8>> = model.keys().cloned().choose_multiple(random, count);
            let keys: Vec<_> = doomed.iter().map(|key| (tree, key.as_slice())).collect();
            let deleted = db.transact(&keys, WriteOptions::default().divisible(true), |txn| {
                (0..keys.len()).filter(|&index| txn.delete_at(index)).count()
            });
            assert_eq!(deleted.await.expect("a delete of many keys"), count);
            doomed.iter().for_each(|key| {
                model.remove(key);
            });
            format!("delete of {count} keys")
        }
        3 => {
            let len = model[&some_key];
            let less = random.random_range(0..=len.saturating_sub(1));
            tree.put(&some_key, &vec![2; less])
                .await
                .unwrap_or_else(|error| panic!("{len} to {less}: {error}"));
            model.insert(some_key, less);
            format!("{len} bytes become {less}")
        }
        4 => {
            let len = model[&some_key];
            let keys = [(tree, some_key.as_slice())];
            let written = db.transact(&keys, WriteOptions::default(), |txn| txn.put_at(0, &vec![3; len / 2]));
            written.await.expect("a transaction that halves a value");
            model.insert(some_key, len / 2);
            "a transaction that halves a value".to_owned()
        }
        _ => {
            tree.clear(WriteOptions::default()).await.expect("a clear");
            model.clear();
            "clear".to_owned()
        }
    }
}

async fn compare(tree: &TestTree, model: &Model) {
    assert_eq!(tree.len(), model.len() as u64);
    let mut cursor = tree.range(..);
    let mut expected = model.iter();
    while let Some((key, value)) = cursor.next().await.expect("reads") {
        assert_eq!(Some((&key, &value.len())), expected.next());
    }
}

/// One store, filled and freed again and again, with restarts.
async fn fill_and_free(env: SimEnv, mut random: StdRng, seed: u64) {
    // Small values make a small store full only after very many writes.
    let most_len = *[100, 1_000, 3_000, 8_192, 100_000, 300_000].choose(&mut random).expect("some");
    let size =
        if most_len < 2_000 { 8 << 20 } else { [8u64 << 20, 12 << 20, 24 << 20][random.random_range(0..3)] };
    // A namespace of fixed size, or one that finds the disk under it full.
    let namespace = if random.random() {
        MemoryNamespace::new("mem:fixed", size, 4096)
    } else {
        MemoryNamespace::growable("mem:growing", 0, size, 4096)
    }
    .expect("valid");
    let (mut db, mut tree) = open(&env, &namespace).await;
    let mut model = Model::new();
    // They are filled less often for the same reason.
    let rounds = if most_len < 2_000 { 2 } else { 4 };
    for round in 0..rounds {
        fill(&tree, &mut model, most_len, &mut random).await;
        let full_at = model.len();
        for _ in 0..random.random_range(1..30) {
            if random.random_ratio(1, 6) {
                if random.random() {
                    db.close().await.expect("closes");
                }
                drop((db, tree));
                // The last handle is gone: the store is closed in the background.
                env.sleep(Duration::from_secs(1)).await;
                (db, tree) = open(&env, &namespace).await;
            }
            if model.is_empty() {
                break;
            }
            let what = free(&db, &tree, &mut model, &mut random).await;
            if std::env::var_os("BOSON_SHOW_SPACE").is_some() {
                eprintln!("seed {seed} round {round}, values up to {most_len}, {full_at} keys: {what}");
            }
        }
        compare(&tree, &model).await;
        // Once half of the keys are gone there is room for more.
        let doomed: Vec<Vec<u8>> = model.keys().take(full_at / 2).cloned().collect();
        for key in doomed {
            tree.delete(&key).await.expect("deletes");
            model.remove(&key);
        }
        tree.put(b"new", &[1; 64]).await.unwrap_or_else(|error| {
            panic!(
                "seed {seed} round {round}, values up to {most_len}: {} of {full_at} keys: {error}",
                model.len()
            )
        });
        model.insert(b"new".to_vec(), 64);
    }
    let report = db.verify().await.expect("runs");
    assert!(report.is_clean(), "seed {seed}: {report:?}");
}

#[test]
fn what_only_frees_room_always_succeeds() {
    let seeds = std::env::var("BOSON_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(6);
    for seed in 0..seeds {
        let executor = Executor::new(seed);
        executor.block_on(fill_and_free(executor.env(), StdRng::seed_from_u64(seed), seed));
    }
}

/// Rewriting a value with a few bytes more, as setting an expiry time does, works on a store that
/// was just found full.
#[test]
fn values_that_hardly_grow_fit_a_store_that_was_just_found_full() {
    for (seed, len) in (0..).zip([20, 700, 1_500, 3_000, 8_192, 150_000]) {
        let executor = Executor::new(seed);
        let env = executor.env();
        executor.block_on(async move {
            let namespace = MemoryNamespace::new("mem:fixed", 16 << 20, 4096).expect("valid");
            let (_db, tree) = open(&env, &namespace).await;
            let mut keys = 0u32;
            while tree.put(&keys.to_be_bytes(), &vec![1; len]).await.is_ok() {
                keys += 1;
            }
            for key in (0..keys).step_by(usize::try_from(keys.div_ceil(50)).expect("small")) {
                let written = tree.put(&key.to_be_bytes(), &vec![2; len + 8]).await;
                written.unwrap_or_else(|error| panic!("{len} bytes, key {key} of {keys}: {error}"));
            }
        });
    }
}
