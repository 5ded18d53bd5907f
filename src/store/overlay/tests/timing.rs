//! What building and reading an overlay of a full log takes (E7). Prints, and asserts no time. The
//! times are those that the thread had a processor, so a busy machine does not count.
//!
//! `cargo test --release --lib store::overlay::tests::timing -- --ignored --nocapture`

use std::hint::black_box;
use std::time::Duration;

use super::*;
use crate::store::codec::checksum;
use crate::store::wal::record::Operations;

/// How long this thread has run.
struct Instant(Duration);

impl Instant {
    fn now() -> Self {
        let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
        let ran = statistics.split(' ').next().and_then(|ran_ns| ran_ns.parse().ok());
        Self(Duration::from_nanos(ran.expect("the first number is the time in ns")))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0 - self.0
    }
}

const LOG_BYTES: usize = 128 << 20;
const BATCH_BYTES: usize = 1 << 20;

/// Batches of records with one operation each, of 150 bytes with its head of 8.
fn batches(mut number_of: impl FnMut(u64) -> u64) -> Vec<(u64, Vec<u8>)> {
    let mut batches = Vec::new();
    let mut number = 0;
    for _ in 0..LOG_BYTES / BATCH_BYTES {
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        while batch.len() + 150 <= BATCH_BYTES {
            let key = format!("user{:019}", number_of(number));
            let operation = put(1, key.as_bytes(), &[b'v'; 115]);
            let len = operation.encoded_len();
            batch.extend_from_slice(&u32::try_from(len).expect("short").to_le_bytes());
            batch.extend_from_slice(&[0; 4]);
            let at = batch.len();
            batch.resize(at + len, 0);
            operation.encode(&mut batch[at..]);
            number += 1;
        }
        batches.push((checksum(&batch), batch));
    }
    println!("{number} records of {} bytes", batches[0].1.len() as u64 * 128 / number);
    batches
}

fn measure(name: &str, number_of: impl FnMut(u64) -> u64) {
    println!("{name}");
    let batches = batches(number_of);
    let begin = Instant::now();
    assert!(batches.iter().all(|(sum, batch)| checksum(batch) == *sum));
    let checked = begin.elapsed();
    let mut builder = Builder::new(1, 0);
    let mut number = 0;
    for (_, batch) in &batches {
        let mut rest = batch.as_slice();
        while let Some((head, behind)) = rest.split_first_chunk::<8>() {
            let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let (operations, behind) = behind.split_at(len);
            rest = behind;
            number += 1;
            for operation in Operations(operations).iter() {
                builder.add(number, &operation);
            }
        }
    }
    let added = begin.elapsed();
    let overlay = builder.finish(|_| Some(7));
    let finished = begin.elapsed();
    let tree = TreeRoot { tree: 1, root: 7 };
    let keys = overlay.order.len();
    println!(
        "check {checked:?}, index {:?}, sort {:?}, sum {finished:?}; {keys} keys, {} MiB",
        added - checked,
        finished - added,
        overlay.size_bytes() >> 20
    );
    let read: Vec<_> = (0..keys).map(|at| overlay.entries[at].key(&overlay.arena)).collect();
    let begin = Instant::now();
    black_box(overlay.get(tree, read[keys / 2]));
    println!("first read, and the clock: {:?}", begin.elapsed());
    let begin = Instant::now();
    let mut at = 1;
    for _ in 0..keys {
        at = (at * 7919 + 13) % keys;
        black_box(overlay.get(tree, read[at]));
    }
    println!("random read {:?}", begin.elapsed() / u32::try_from(keys).expect("few"));
    let begin = Instant::now();
    let view = overlay.view(tree, (Bound::Unbounded, Bound::Unbounded), Direction::Forwards, usize::MAX);
    let bytes: usize = view.records().map(|record| record.key.len()).sum();
    println!("scan of all {:?}, {bytes} bytes of keys", begin.elapsed());
    let begin = Instant::now();
    let from = Bound::Included(read[keys / 3]);
    let view = overlay.view(tree, (from, Bound::Unbounded), Direction::Forwards, 40);
    println!("a view of 40: {:?}", begin.elapsed());
    black_box(view.records().count());
    let begin = Instant::now();
    let mut hand = Hand::default();
    while !overlay.is_drained() {
        for taken in overlay.take_next(&mut hand, 64, |_| Some(7)) {
            if let Claimed::Mine(claim) = overlay.claim_at(taken) {
                black_box(claim.record());
                claim.finish();
            }
        }
    }
    println!("drain, into nothing: {:?}", begin.elapsed());
    let begin = Instant::now();
    drop(overlay);
    println!("free: {:?}", begin.elapsed());
}

/// Spreads numbers over all keys.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[test]
#[ignore = "takes a release build, and prints times"]
fn a_full_log() {
    for _ in 0..2 {
        measure("every key once, scattered", scattered);
        measure("every key once, ascending", |number| number);
        measure("100,000 keys", |number| scattered(number) % 100_000);
    }
}
