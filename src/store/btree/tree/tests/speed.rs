//! What point reads and writes take, in memory: a measurement.
//!
//! The tree alone, in an arena, on one core: 16 bytes of key and 100 of value, `BOSON_RECORDS` of
//! them. `BOSON_ONLY` runs one row, for counting its instructions; what the row needs is made
//! before.

use std::hint::black_box;
use std::time::Instant;

use super::*;
use crate::store::cache::memory::{CacheMemory, reserve_bytes};
use crate::store::cache::{Account, CacheMemoryOfCore};

/// So often each row is measured, of which the median counts.
const ROUNDS: usize = 5;

/// A tree, its only core, and what was written to it.
struct Measured {
    core: Core<CacheMemoryOfCore>,
    root: TreeRoot,
    seq: AtomicU64,
    records: u64,
}

impl Measured {
    fn new(records: u64) -> Self {
        let limit = (records * 400).max(64 << 20);
        let memory = CacheMemory::new(Account::new(limit, reserve_bytes(limit))).expect("memory");
        let core = Nodes::new(memory, 1 << 26, 1).attach().expect("a core");
        let root = core.new_tree(1).expect("room");
        Self { core, root, seq: AtomicU64::new(0), records }
    }

    fn put(&self, key: &[u8; 16], fill: u8) {
        let mut draw = draw(&self.seq);
        let written = self.core.pin().write(self.root, key, Change::Put(&[fill; 100]), &mut draw);
        black_box(written).expect("room");
    }

    fn get(&self, key: &[u8; 16]) -> bool {
        let pin = self.core.pin();
        let found = pin.get(self.root, key).expect("in memory");
        black_box(found.map(|found| found.value[7])).is_some()
    }

    /// The number of some record, the same for the same `at`.
    fn some(&self, at: u64) -> u64 {
        let scattered = u128::from(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * u128::from(self.records);
        u64::try_from(scattered >> 64).expect("below the number of records")
    }
}

/// Scattered.
fn random_key(number: u64) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes()).to_be_bytes()
}

fn ascending_key(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}

fn row(name: &str, mut runs: Vec<f64>) {
    runs.sort_by(f64::total_cmp);
    println!("{name:<20} {:>7.0} ns   ({:.0} to {:.0})", runs[runs.len() / 2], runs[0], runs[runs.len() - 1]);
}

fn time(count: u64, mut each: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    (0..count).for_each(&mut each);
    #[expect(clippy::cast_precision_loss, reason = "printed")]
    let mean = start.elapsed().as_nanos() as f64 / count as f64;
    mean
}

#[test]
#[ignore = "a measurement"]
fn point_reads_and_writes() {
    let setting =
        |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let records: u64 = setting("BOSON_RECORDS", 1_000_000);
    let count: u64 = setting("BOSON_COUNT", 500_000);
    let only = std::env::var("BOSON_ONLY").ok();
    let runs = |name: &str| only.as_ref().is_none_or(|only| only == name);

    let tree = Measured::new(records);
    let insert = time(records, |at| tree.put(&random_key(at), 1));
    row("insert random", vec![insert]);
    // The areas are as full as those of a tree that is written to.
    (0..records).for_each(|at| tree.put(&random_key(at), 2));

    let mut offset = 0;
    let mut measure = |name: &str, each: &dyn Fn(u64)| {
        if runs(name) {
            let runs = (0..ROUNDS).map(|_| {
                offset += count;
                time(count, |at| each(offset + at))
            });
            row(name, runs.collect());
        }
    };
    measure("get random", &|at| assert!(tree.get(&random_key(tree.some(at)))));
    measure("get missing", &|at| assert!(!tree.get(&random_key(records + at))));
    measure("put random", &|at| tree.put(&random_key(tree.some(at)), 3));
    measure("key and loop", &|at| _ = black_box(random_key(tree.some(at))));

    if runs("insert ascending") {
        let tree = Measured::new(records);
        row("insert ascending", vec![time(records, |at| tree.put(&ascending_key(at), 1))]);
    }
}
