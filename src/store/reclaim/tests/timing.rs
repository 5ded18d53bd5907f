//! What pins and retirements cost. Ignored: it measures, and prints medians.
//!
//! `cargo test --release --lib store::reclaim::tests::timing -- --ignored --nocapture`

use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::*;

/// The median of `runs` runs of `count` calls of `call`, in nanoseconds a call.
fn median_ns(runs: usize, count: u32, mut call: impl FnMut()) -> f64 {
    let mut run = || {
        let begun = Instant::now();
        (0..count).for_each(|_| call());
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(count)
    };
    let mut times: Vec<f64> = (0..runs).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[runs / 2]
}

/// Frees nothing.
struct Nothing;

impl Reclaim for Nothing {
    type Garbage = u64;

    fn free(&self, garbage: u64) -> Option<u64> {
        black_box(garbage);
        None
    }
}

#[test]
#[ignore = "it measures"]
fn one_thread() {
    let collector = Collector::new(64);
    let member = collector.join(Nothing).expect("a slot");
    let pin = median_ns(101, 100_000, || drop(black_box(member.pin())));
    println!("pin and unpin: {pin:.2} ns");
    let outer = member.pin();
    let pin = median_ns(101, 100_000, || drop(black_box(member.pin())));
    println!("pin and unpin, pinned already: {pin:.2} ns");
    drop(outer);
    let retire = median_ns(101, 100_000, || {
        member.retire(1, 256);
    });
    println!("retire and free, of 64 slots: {retire:.2} ns");
}

#[test]
#[ignore = "it measures"]
fn two_threads() {
    let collector = Collector::new(64);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let member = collector.join(Nothing).expect("a slot");
            while !stop.load(Ordering::Relaxed) {
                drop(black_box(member.pin()));
                member.retire(1, 256);
            }
        });
        let member = collector.join(Nothing).expect("a slot");
        let pin = median_ns(101, 100_000, || drop(black_box(member.pin())));
        println!("pin and unpin, beside a core that retires all the time: {pin:.2} ns");
        stop.store(true, Ordering::Relaxed);
    });
}
