//! What a point read and a put take through the whole engine: a measurement.
//!
//! One core, 16 bytes of key and 100 of value, `BOSON_RECORDS` of them, all in memory, on a
//! simulated disk. To count instructions, run one row under callgrind, and collect in it alone:
//!
//! ```text
//! BOSON_ONLY=get valgrind --tool=callgrind --toggle-collect='*measured_gets*' <tests> \
//!     --ignored --nocapture point_reads_and_writes_of_the_engine
//! ```

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::*;

/// So often each row is measured, of which the median counts.
const ROUNDS: usize = 5;

fn key(number: u64) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes()).to_be_bytes()
}

/// The number of some record, the same for the same `at`.
fn some(at: u64, records: u64) -> u64 {
    let scattered = u128::from(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * u128::from(records);
    u64::try_from(scattered >> 64).expect("below the number of records")
}

/// What a future comes to that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// A frame of its own, so that its name says what is to be collected.
#[inline(never)]
fn measured_gets(store: &Store, keys: &[[u8; 16]]) {
    for key in keys {
        let found = at_once(store.get(catalog(), key, |value| value[7])).expect("all is in memory");
        assert!(black_box(found).expect("no fault is injected").is_some());
    }
}

/// How many are done: the log may have no room for all.
#[inline(never)]
fn measured_puts(store: &Store, keys: &[[u8; 16]]) -> usize {
    let written = keys
        .iter()
        .map_while(|key| at_once(store.write(catalog(), key, Change::Put(&[3; 100]), Durability::None)));
    written.inspect(|written| assert!(written.is_ok())).count()
}

async fn puts(store: &Store, mut keys: &[[u8; 16]]) {
    while !keys.is_empty() {
        let done = measured_puts(store, keys);
        keys = &keys[done..];
        if let Some((key, rest)) = keys.split_first() {
            put(store, key, &[3; 100]).await;
            keys = rest;
        }
    }
}

fn row(name: &str, mut runs: Vec<f64>) {
    runs.sort_by(f64::total_cmp);
    println!("{name:<20} {:>7.0} ns   ({:.0} to {:.0})", runs[runs.len() / 2], runs[0], runs[runs.len() - 1]);
}

#[expect(clippy::cast_precision_loss, reason = "printed")]
fn ns_each(start: Instant, count: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / count as f64
}

#[test]
#[ignore = "a measurement"]
fn point_reads_and_writes_of_the_engine() {
    let setting =
        |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let records: u64 = setting("BOSON_RECORDS", 1_000_000);
    let count = usize::try_from(setting("BOSON_COUNT", 200_000)).expect("small");
    let only = std::env::var("BOSON_ONLY").ok();
    let runs = |name: &str| only.as_ref().is_none_or(|only| only == name);
    let bytes = (records * 400).max(64 << 20);
    on_a_disk(8 * bytes, async |disk| {
        let cache = usize::try_from(bytes).expect("it is memory");
        let options = options().cache_bytes(cache).log_bytes(bytes);
        let store = open(RtEnv, disk, &options).await.expect("room for a store");
        let start = Instant::now();
        for number in 0..records {
            put(&store, &key(number), &[1; 100]).await;
        }
        row("insert", vec![ns_each(start, usize::try_from(records).expect("small"))]);
        let mut offset = 0;
        let mut keys = |records| -> Vec<_> {
            offset += count as u64;
            (offset..offset + count as u64).map(|at| key(some(at, records))).collect()
        };
        if runs("get") {
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                let keys = keys(records);
                let start = Instant::now();
                measured_gets(&store, &keys);
                times.push(ns_each(start, count));
            }
            row("get", times);
        }
        if runs("put") {
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                let keys = keys(records);
                let start = Instant::now();
                puts(&store, &keys).await;
                times.push(ns_each(start, count));
            }
            row("put", times);
        }
        drop(store);
    });
}
