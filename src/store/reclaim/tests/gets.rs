//! What a pin costs in reads of a tree. Ignored: it measures, and prints medians.
//!
//! `cargo test --release --lib store::reclaim::tests::gets -- --ignored --nocapture`

use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crate::store::btree::Nodes;
use crate::store::btree::{Change, Core};
use crate::store::cache::{Account, CacheMemory, CacheMemoryOfCore};

const RECORDS: u64 = 1_000_000;
/// Reads of a run; runs of the kinds take turns.
const BATCH: u64 = 512;
const RUNS: usize = 2001;

fn key(number: u64) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes()).to_be_bytes()
}

#[test]
#[ignore = "it measures"]
fn of_a_tree_in_memory() {
    let memory = CacheMemory::new(Account::new(1 << 30, 0)).expect("mapped");
    let pages = Nodes::new(memory, 1 << 20, 4);
    let core: Core<CacheMemoryOfCore> = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    for number in 0..RECORDS {
        core.pin().write(root, &key(number), Change::Put(&[5; 100]), &mut &seq).expect("room");
    }
    for (name, records) in [("all", RECORDS), ("2000 hot ones", 2000)] {
        let mut random = 1u64;
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..RUNS {
            let keys: Vec<_> = (0..BATCH)
                .map(|_| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    key((random >> 33) % records)
                })
                .collect();
            for (kind, times) in times.iter_mut().enumerate() {
                // The second kind finds the lines of the first in the caches otherwise.
                let keys = keys.iter().skip(kind).step_by(2);
                let begun = Instant::now();
                let batch = (kind == 1).then(|| core.pin());
                for key in keys {
                    let pin = core.pin();
                    let found = pin.get(root, key).expect("in memory").expect("it is there");
                    black_box(found.value.iter().fold(0u8, |sum, byte| sum ^ byte));
                }
                drop(batch);
                times.push(begun.elapsed().as_secs_f64() * 1e9 / (BATCH / 2) as f64);
            }
        }
        let [each, batch] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!("{name}: {each:.0} ns with a pin each, {batch:.0} ns with one for 256: {:.3}", batch / each);
    }
}
