//! What pins and retirements cost. Ignored: it measures, and prints medians.
//!
//! `cargo test --release --lib store::reclaim::tests::timing -- --ignored --nocapture`

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, compiler_fence};
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

/// What a pin costs between reads that miss the caches, which a processor can overlap with each
/// other.
#[test]
#[ignore = "it measures"]
fn between_reads() {
    const WORDS: usize = 1 << 24;
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random
    };
    let table: Vec<u64> = (0..WORDS).map(|_| next()).collect();
    let place = |word: u64| usize::try_from(word >> 33).expect("64 bits") % WORDS;
    let collector = Collector::new(64);
    let member = collector.join(Nothing).expect("a slot");
    let announced = AtomicU64::new(0);
    for loads in [1, 3, 6] {
        // Short runs, most of which nobody interrupts; the three kinds take turns.
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..1001 {
            for (kind, times) in times.iter_mut().enumerate() {
                times.push(median_ns(1, 300, || {
                    let guard = (kind == 1).then(|| member.pin());
                    if kind == 2 {
                        announced.store(1, Ordering::Release);
                        compiler_fence(Ordering::SeqCst);
                    }
                    black_box((0..loads).fold(next(), |at, _| table[place(at)]));
                    drop(guard);
                    if kind == 2 {
                        announced.store(2, Ordering::Release);
                    }
                }));
            }
        }
        let [bare, pinned, announced] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!(
            "{loads} loads: {bare:.0} ns, pinned {pinned:.0} ns, announced without a fence {announced:.0} ns"
        );
    }
}
