//! What an allocation costs. Ignored: it measures, and prints medians.
//!
//! `cargo test --release --lib store::cache::arena::tests::timing -- --ignored --nocapture`

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use super::*;

/// How many blocks are in use at a time.
const IN_USE: usize = 1000;

/// Allocates and frees in the order of allocation, `IN_USE` blocks behind: nanoseconds for the two.
fn alloc_and_free_ns(core: &Magazines, bytes: usize) -> f64 {
    let mut used: VecDeque<Block> =
        (0..IN_USE).map(|_| core.alloc(bytes, Room::Ordinary).expect("room")).collect();
    let mut run = || {
        let count = 50_000;
        let begun = Instant::now();
        for _ in 0..count {
            used.push_back(black_box(core.alloc(bytes, Room::Ordinary)).expect("room"));
            let oldest = used.pop_front().expect("not empty");
            // SAFETY: allocated above, and used by nobody.
            unsafe { core.free(oldest) };
        }
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(count)
    };
    let mut times: Vec<f64> = (0..51).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    for block in used {
        // SAFETY: allocated above, and used by nobody.
        unsafe { core.free(block) };
    }
    times[25]
}

#[test]
#[ignore = "it measures"]
fn alloc_and_free() {
    for bytes in [256, 1024, 4096] {
        let arena = NodeArena::new(256 << 20, 0).expect("mapped");
        let one = alloc_and_free_ns(&arena.attach(), bytes);
        let both = Barrier::new(2);
        let two = thread::scope(|scope| {
            let run = || {
                let core = arena.attach();
                both.wait();
                alloc_and_free_ns(&core, bytes)
            };
            let threads = [scope.spawn(run), scope.spawn(run)];
            threads.map(|thread| thread.join().expect("no panic"))
        });
        println!("{bytes} bytes: one thread {one:.1} ns, two threads {:.1} and {:.1} ns", two[0], two[1]);
    }
}
