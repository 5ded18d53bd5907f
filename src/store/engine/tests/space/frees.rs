//! Whatever only frees room succeeds, from any full state, and then writes succeed again.

use std::ops::Bound::Unbounded;

use rand::seq::{IndexedRandom, IteratorRandom};

use super::*;
use crate::store::btree::TreeRoot;
use crate::store::engine::scan::Scan;
use crate::store::engine::transaction::Transaction;
use crate::store::overlay::Direction::Forwards;

/// The length of each key's value.
type Lengths = BTreeMap<Vec<u8>, usize>;

const DURABILITY: Durability = Durability::None;
/// So many keys are deleted by one transaction.
const AT_ONCE: usize = 16;

struct Full {
    store: Store,
    tree: TreeRoot,
}

impl Full {
    async fn open(disk: &Disk) -> Self {
        let options = options().log_bytes(1 << 20).cache_bytes(4 << 20);
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("a store, or room for one");
        let tree = Self::tree(&store).await;
        Self { store, tree }
    }

    async fn tree(store: &Store) -> TreeRoot {
        store.open_tree("t", 7, DURABILITY).await.expect("a tree, or room for one").0.root
    }

    /// Puts keys, old ones too, until there is no room; then smaller values, until there is none
    /// for a byte.
    async fn fill(&self, model: &mut Lengths, most_len: usize, random: &mut StdRng) {
        let mut len = most_len;
        while len > 0 {
            let key = format!("key:{:07}", random.random_range(0..10_000_000)).into_bytes();
            let value = vec![1; random.random_range(len.div_ceil(2)..=len)];
            match self.store.put(self.tree, &key, &value, DURABILITY).await {
                Ok(_) => drop(model.insert(key, value.len())),
                Err(error) => {
                    assert_is_full(&error);
                    len /= 4;
                }
            }
        }
    }

    /// Does something that takes no more room than there was. What it did.
    async fn free(&mut self, model: &mut Lengths, random: &mut StdRng) -> String {
        let Self { store, tree } = self;
        let some = model.keys().choose(random).expect("it is full").clone();
        match random.random_range(0..6) {
            0 => {
                store.delete(*tree, &some, DURABILITY).await.expect("a delete").expect("it is there");
                model.remove(&some);
                "delete of one key".to_owned()
            }
            1 | 2 => {
                let count = random.random_range(2..=model.len().max(2));
                let doomed: Vec<Vec<u8>> = model.keys().cloned().choose_multiple(random, count);
                for doomed in doomed.chunks(AT_ONCE) {
                    let keys: Vec<_> = doomed.iter().map(|key| (*tree, key.as_slice())).collect();
                    let delete = |txn: &mut Transaction<'_>| {
                        (0..keys.len()).filter(|&place| txn.delete_at(place)).count()
                    };
                    let deleted = store.transact(&keys, DURABILITY, delete).await;
                    assert_eq!(deleted.expect("a delete of many keys").0, keys.len());
                }
                doomed.iter().for_each(|key| _ = model.remove(key));
                format!("delete of {count} keys")
            }
            3 => {
                let len = model[&some];
                let less = random.random_range(0..=len.saturating_sub(1));
                let put = store.put(*tree, &some, &vec![2; less], DURABILITY).await;
                put.unwrap_or_else(|error| panic!("{len} to {less}: {error}"));
                model.insert(some, less);
                format!("{len} bytes become {less}")
            }
            4 => {
                let (len, keys) = (model[&some], [(*tree, some.as_slice())]);
                let halve = |txn: &mut Transaction<'_>| txn.put_at(0, &vec![3; len / 2]);
                store.transact(&keys, DURABILITY, halve).await.expect("a transaction that halves a value");
                model.insert(some, len / 2);
                format!("a transaction that halves {len} bytes")
            }
            _ => {
                store.clear_tree("t", DURABILITY).await.expect("a clear");
                *tree = Self::tree(store).await;
                model.clear();
                "clear".to_owned()
            }
        }
    }

    async fn compare(&self, model: &Lengths) {
        let mut scan = Scan::new(&self.store, self.tree, (Unbounded, Unbounded), Forwards);
        let mut expected = model.iter();
        while let Some((key, value)) = scan.next().await.expect("no fault is injected") {
            assert_eq!(Some((&key, &value.len())), expected.next());
        }
        assert_eq!(expected.next(), None);
    }
}

/// One store, filled and freed again and again, with openings.
async fn fill_and_free(seed: u64, sizes: &[u64]) {
    let mut random = StdRng::seed_from_u64(seed);
    let most_len = *[100, 1_000, 3_000, 8_192, 100_000, 300_000].choose(&mut random).expect("some");
    let size = *sizes.choose(&mut random).expect("some") << 20;
    let disk = Disk::new(MemoryOptions::disk(size), 1);
    let (mut full, mut model) = (Full::open(&disk).await, Lengths::new());
    // Small values make even a small store full only after very many writes.
    for round in 0..if most_len < 2_000 { 2 } else { 4 } {
        full.fill(&mut model, most_len, &mut random).await;
        let full_at = model.len();
        println!("seed {seed} round {round}: {full_at} values up to {most_len} on {size} bytes");
        for _ in 0..random.random_range(1..30) {
            if random.random_ratio(1, 6) {
                full.store.close().await.expect("it closes");
                full = Full::open(&disk).await;
            }
            if model.is_empty() {
                break;
            }
            let what = full.free(&mut model, &mut random).await;
            println!("{what}");
        }
        full.compare(&model).await;
        // Once half of the keys are gone there is room for more.
        let doomed: Vec<Vec<u8>> = model.keys().take(full_at / 2).cloned().collect();
        for key in doomed {
            full.store.delete(full.tree, &key, DURABILITY).await.expect("a delete");
            model.remove(&key);
        }
        let new = full.store.put(full.tree, b"new", &[1; 64], DURABILITY).await;
        new.unwrap_or_else(|error| panic!("{} of {full_at} keys are left: {error}", model.len()));
        model.insert(b"new".to_vec(), 64);
    }
    full.compare(&model).await;
    full.store.close().await.expect("it closes");
}

fn frees(seeds: Range<u64>, sizes: &[u64]) {
    for seed in seeds {
        World::new(seed).core("core").block_on(fill_and_free(seed, sizes));
    }
}

#[test]
fn what_only_frees_room_always_succeeds() {
    frees(0..4, &[8, 12]);
}

#[test]
#[ignore = "the long form: minutes without optimisation"]
fn what_only_frees_room_always_succeeds_on_stores_of_many_sizes() {
    frees(4..60, &[8, 10, 12, 24]);
}
