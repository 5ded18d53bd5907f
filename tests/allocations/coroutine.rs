//! A coroutine that switches, sleeps and is woken asks the heap for nothing.

use crate::counting;
use std::time::Duration;

use boson::rt::{Core, CoreConfig};
use boson::thread;

/// How often the heap is asked in `rounds` rounds of two coroutines that yield, park, unpark and
/// sleep.
fn allocations_of(rounds: u32, leak: bool) -> u64 {
    let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("io_uring is usable");
    let counted = thread::try_run_on(&core, move || {
        let peer = thread::spawn(|| {
            loop {
                thread::park();
            }
        });
        let round = || {
            thread::yield_now();
            peer.thread().unpark();
            thread::sleep(Duration::from_micros(20));
            if leak {
                drop(std::hint::black_box(Box::new(1)));
            }
        };
        // Queues and the timer wheel grow to what they need.
        (0..100).for_each(|_| round());
        let before = counting::allocations();
        (0..rounds).for_each(|_| round());
        counting::allocations() - before
    });
    counted.expect("the ring works").expect("no panic")
}

#[test]
fn a_switch_allocates_nothing() {
    assert_eq!(allocations_of(1000, false), 0);
    assert_eq!(allocations_of(1000, true), 1000, "the counter counts");
}
