//! How much room a store takes: for any sequence of puts, overwrites, appends and deletes of values
//! of any size, what it has in use, and how large its namespace is, stay within a stated factor of
//! the live data and a stated constant.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use boson::block::{MemoryNamespace, Namespace};
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, Durability, Env, Options, Tree};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

type TestDb = Db<SimEnv, MemoryNamespace>;
type TestTree = Tree<SimEnv, MemoryNamespace>;
/// The length of each key's value.
type Model = BTreeMap<Vec<u8>, usize>;

const LOG_BYTES: u64 = 4 << 20;
/// How long the store gets to give room back.
const PATIENCE: Duration = Duration::from_secs(2);

/// The live data, in bytes: keys, values, and 32 bytes for each key.
fn live_bytes(model: &Model) -> u64 {
    model.iter().map(|(key, len)| (key.len() + len + 32) as u64).sum()
}

/// What the documentation promises about the bytes that pages take: leaves just after a split are
/// half empty, and what was replaced a moment ago waits to be reclaimed.
fn most_in_use(live: u64) -> u64 {
    2 * live + (8 << 20)
}

/// What it promises about a namespace that grows, for the most data that it ever had: what is freed
/// is trimmed, but its length stays.
fn most_size(live: u64) -> u64 {
    3 * live + 2 * LOG_BYTES + (128 << 20)
}

struct Store {
    env: SimEnv,
    namespace: MemoryNamespace,
    db: TestDb,
    tree: TestTree,
    /// The most data that it had when that was looked at.
    most_live: Cell<u64>,
}

impl Store {
    async fn open(env: SimEnv, namespace: MemoryNamespace) -> Self {
        let options = Options::default()
            .identity([5; 16])
            .log_bytes(LOG_BYTES)
            .cache_bytes(16 << 20)
            .durability(Durability::Interval(Duration::from_millis(100)));
        let db = Db::open_on(env.clone(), namespace.clone(), options).await.expect("opens");
        let tree = db.tree("t").expect("valid");
        Self { env, namespace, db, tree, most_live: Cell::new(0) }
    }

    async fn reopen(self) -> Self {
        self.db.close().await.expect("closes");
        let Self { env, namespace, most_live, .. } = self;
        Self { most_live, ..Self::open(env, namespace).await }
    }

    /// Waits, then compares what is in use with what may be.
    async fn check(&self, model: &Model, what: &str) {
        self.env.sleep(PATIENCE).await;
        let (live, stats) = (live_bytes(model), self.db.stats());
        let in_use = stats.used_bytes;
        let size = self.namespace.size_bytes();
        let figures = || {
            format!(
                "{what}: {} keys of {} KiB live, {} KiB in use, {} KiB large",
                model.len(),
                live >> 10,
                in_use >> 10,
                size >> 10
            )
        };
        if std::env::var_os("BOSON_SHOW_SPACE").is_some() {
            eprintln!("{}", figures());
        }
        self.most_live.set(live.max(self.most_live.get()));
        assert!(in_use <= most_in_use(live), "{}", figures());
        assert!(size <= most_size(self.most_live.get()), "{}", figures());
    }
}

fn run<F: Future<Output = ()> + 'static>(seed: u64, test: impl FnOnce(SimEnv, StdRng) -> F) {
    let executor = Executor::new(seed);
    executor.block_on(test(executor.env(), StdRng::seed_from_u64(seed)));
}

fn growing() -> MemoryNamespace {
    MemoryNamespace::growable("mem:growing", 0, 8 << 30, 4096).expect("valid")
}

#[test]
fn overwriting_one_key_takes_no_more_room_whatever_the_size_of_its_value() {
    for len in [1, 2_000, 2_049, 8_192, 131_072, 131_073, 1_000_000, 16 << 20, 64 << 20] {
        run(1, async move |env, _| {
            let store = Store::open(env, growing()).await;
            let value = vec![7; len];
            // Many times what may be in use, as far as that is worth the time.
            let times = ((512 << 20) / len).clamp(10, 1_500);
            for _ in 0..times {
                store.tree.put(b"k0", &value).await.expect("there is room");
            }
            let model = Model::from([(b"k0".to_vec(), len)]);
            store.check(&model, &format!("{times} times {len} bytes")).await;
        });
    }
}

/// One phase of a random history: which sizes values have, and what is done to them.
struct Phase {
    kind: Kind,
    keys: u32,
    most_len: usize,
    operations: u32,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Puts and appends, few deletes.
    Fill,
    /// As many deletes as puts, in runs, as expiry and prefixes make them.
    Churn,
    /// Deletes nearly everything; what stays is spread over all of it.
    Thin,
    /// Puts small values in place of large ones.
    Narrow,
}

impl Phase {
    /// How much one phase writes at most, in bytes.
    const WRITTEN_BYTES: usize = 160 << 20;

    fn draw(random: &mut StdRng) -> Self {
        const MOST_LEN: [usize; 6] = [8, 200, 3_000, 40_000, 300_000, 4 << 20];
        let most_len = MOST_LEN[random.random_range(0..MOST_LEN.len())];
        Self {
            kind: [Kind::Fill, Kind::Fill, Kind::Churn, Kind::Thin, Kind::Narrow][random.random_range(0..5)],
            keys: random.random_range(1..=4_000),
            most_len,
            operations: u32::try_from(2 * Self::WRITTEN_BYTES / most_len).unwrap_or(u32::MAX).min(6_000),
        }
    }

    async fn run(&self, store: &Store, model: &mut Model, random: &mut StdRng) {
        match self.kind {
            Kind::Thin => {
                let one_in = random.random_range(2..60);
                let doomed = model.keys().filter(|_| random.random_range(0..one_in) > 0).cloned().collect();
                delete_all(store, model, doomed).await;
            }
            Kind::Narrow => {
                let keys: Vec<Vec<u8>> = model.keys().cloned().collect();
                for key in keys {
                    store.tree.put(&key, &[1]).await.expect("there is room");
                    model.insert(key, 1);
                }
            }
            Kind::Fill | Kind::Churn => {
                for _ in 0..self.operations {
                    self.write_one(store, model, random).await;
                }
            }
        }
    }

    async fn write_one(&self, store: &Store, model: &mut Model, random: &mut StdRng) {
        let key = format!("key:{:05}", random.random_range(0..self.keys)).into_bytes();
        let deletes_in_100 = if matches!(self.kind, Kind::Churn) { 50 } else { 1 };
        if random.random_range(0..100) < deletes_in_100 {
            let run = random.random_range(1..=20);
            let doomed = model.range(key..).take(run).map(|(key, _)| key.clone()).collect();
            delete_all(store, model, doomed).await;
            return;
        }
        let mut value = vec![3; random.random_range(1..=self.most_len)];
        if random.random_range(0..10) == 0 && model.get(&key).is_some_and(|&len| len < self.most_len) {
            value.extend(store.tree.get(&key).await.expect("reads").expect("it is there"));
        }
        store.tree.put(&key, &value).await.expect("there is room");
        model.insert(key, value.len());
    }
}

async fn delete_all(store: &Store, model: &mut Model, doomed: Vec<Vec<u8>>) {
    for key in doomed {
        assert!(store.tree.delete(&key).await.expect("deletes"));
        model.remove(&key);
    }
}

/// The sizes at which the store takes most room for its data.
#[test]
fn values_of_awkward_sizes_take_at_most_twice_their_bytes() {
    for len in [1, 40, 700, 1_400, 2_048, 2_049, 4_097, 8_193, 131_073] {
        run(3, async move |env, mut random| {
            let store = Store::open(env, growing()).await;
            let mut model = Model::new();
            let keys = (24 << 20) / (len + 64);
            for _ in 0..keys.min(30_000) {
                let key = format!("{:010}", random.random_range(0..1u64 << 32)).into_bytes();
                store.tree.put(&key, &vec![1; len]).await.expect("there is room");
                model.insert(key, len);
            }
            store.check(&model, &format!("values of {len} bytes")).await;
            // Every second key goes, at random.
            let doomed = model.keys().filter(|_| random.random()).cloned().collect();
            delete_all(&store, &mut model, doomed).await;
            store.check(&model, &format!("half of the values of {len} bytes")).await;
        });
    }
}

/// A large value, and nothing beside it any more: cleaning comes to an end.
#[test]
fn a_value_larger_than_the_free_room_is_not_moved_for_ever() {
    run(4, async |env, _| {
        let store = Store::open(env, growing()).await;
        for number in 0..40u8 {
            store.tree.put(&[number], &vec![1; 4 << 20]).await.expect("there is room");
        }
        store.tree.put(b"large", &vec![2; 200 << 20]).await.expect("there is room");
        store.env.sleep(PATIENCE).await;
        for number in 0..40u8 {
            store.tree.delete(&[number]).await.expect("deletes");
        }
        store.env.sleep(PATIENCE).await;
        let before = store.db.stats();
        store.env.sleep(10 * PATIENCE).await;
        assert_eq!(store.db.stats(), before, "nothing is written, and nothing else goes on");
    });
}

#[test]
fn any_history_of_writes_keeps_its_room_in_proportion() {
    let seeds = std::env::var("BOSON_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(3);
    for seed in 0..seeds {
        run(seed, async move |env, mut random| {
            let mut store = Store::open(env, growing()).await;
            let mut model = Model::new();
            for number in 0..8 {
                let mut phase = Phase::draw(&mut random);
                if number == 0 {
                    phase.kind = Kind::Fill;
                }
                phase.run(&store, &mut model, &mut random).await;
                let what = format!("seed {seed}, phase {number} ({:?} {})", phase.kind, phase.most_len);
                store.check(&model, &what).await;
                if random.random_range(0..3) == 0 {
                    store = store.reopen().await;
                    store.check(&model, &format!("{what}, opened again")).await;
                }
            }
            let report = store.db.verify().await.expect("runs");
            assert!(report.is_clean(), "seed {seed}: {report:?}");
            assert_eq!(report.keys, model.len() as u64, "seed {seed}");
        });
    }
}
