//! Counts allocations: what a connection needs for a command in steady state.

use crate::counting;
use crate::support::redis_peer as peer;
use peer::Boson;

/// Allocations for each of `rounds` calls of `request`, once it has been called often.
fn allocations_per_call(boson: &mut Boson, request: &str) -> f64 {
    const ROUNDS: u32 = 2_000;
    boson.discard(request.as_bytes(), 200);
    let before = counting::allocations();
    boson.discard(request.as_bytes(), ROUNDS as usize);
    // 2^53 allocations are not reached here.
    (counting::allocations() - before) as f64 / f64::from(ROUNDS)
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
        ("incr n\r\n", 0.0),
    ] {
        let allocations = allocations_per_call(&mut boson, request);
        println!("{allocations:.3} allocations: {}", request.escape_debug());
        // The store allocates now and then for its log and its pages.
        assert!(allocations <= most + 0.05, "{allocations} allocations for {request:?}");
    }
}
