//! Counts allocations: what a connection needs for a command in steady state.

#[path = "redis_parity/peer.rs"]
#[expect(dead_code, reason = "redis-server is not needed here")]
mod peer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use peer::Boson;

struct CountingAllocator;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is passed on to the system's allocator unchanged, so its contract is kept by that one. Counting neither
// allocates nor unwinds: the counter is a constant-initialised cell without a destructor.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` or `realloc` here, so from the system's allocator with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as for `dealloc`; the caller's promise about `new_size` is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocations for each of `rounds` calls of `request`, once it has been called often.
fn allocations_per_call(boson: &mut Boson, request: &str) -> f64 {
    const ROUNDS: u32 = 2_000;
    (0..200).for_each(|_| boson.discard(request.as_bytes()));
    let before = ALLOCATIONS.get();
    (0..ROUNDS).for_each(|_| boson.discard(request.as_bytes()));
    // 2^53 allocations are not reached here.
    (ALLOCATIONS.get() - before) as f64 / f64::from(ROUNDS)
}

#[test]
fn reading_and_writing_a_key_allocate_nothing() {
    let mut boson = Boson::new();
    for index in 0..1_000 {
        boson.call(format!("set key:{index} value:{index}\r\n").as_bytes());
    }
    for (request, most) in [
        ("ping\r\n", 0.0),
        ("*2\r\n$3\r\nGET\r\n$5\r\nkey:7\r\n", 0.0),
        ("get nosuch\r\n", 0.0),
        ("exists key:7\r\n", 0.0),
        ("ttl key:7\r\n", 1.0),
        ("*3\r\n$3\r\nSET\r\n$5\r\nkey:7\r\n$7\r\nvalue:8\r\n", 0.0),
        ("set key:7 value:9 ex 100\r\n", 0.0),
        ("incr n\r\n", 8.0),
    ] {
        let allocations = allocations_per_call(&mut boson, request);
        println!("{allocations:.3} allocations: {}", request.escape_debug());
        // The store allocates now and then for its log and its pages.
        assert!(allocations <= most + 0.05, "{allocations} allocations for {request:?}");
    }
}
