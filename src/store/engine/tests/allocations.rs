//! How often the heap is asked by what is done often: never, once all that is kept has its size.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;

use super::*;

#[path = "../../../../tests/support/counting.rs"]
mod counting;

use counting::allocations;

const KEYS: u64 = 2000;
const WARM_UP: u64 = 20_000;
const ROUNDS: u64 = 20_000;

fn key(number: u64) -> [u8; 8] {
    // Scattered.
    (number % KEYS).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

/// How often a future asks the heap, without what others ask for while it waits.
async fn counted(future: impl Future<Output = ()>) -> u64 {
    let (mut future, mut asked) = (pin!(future), 0);
    poll_fn(|cx| {
        let before = allocations();
        let polled = future.as_mut().poll(cx);
        asked += allocations() - before;
        polled
    })
    .await;
    asked
}

/// How often the heap is asked in [`ROUNDS`] of these steps. What the keeper asks for when it
/// remembers pages and writes them is not among that.
fn allocations_of(step: impl AsyncFn(&Store, u64)) -> u64 {
    let all = Cell::new(0);
    on_a_disk(256 << 20, async |disk| {
        let options = options().cache_bytes(32 << 20).log_bytes(64 << 20);
        let store = open(RtEnv, disk, &options).await.expect("room for a store");
        for number in 0..KEYS {
            put(&store, &key(number), &[1; 100]).await;
        }
        for number in 0..WARM_UP {
            step(&store, number).await;
        }
        for number in 0..ROUNDS {
            all.set(all.get() + counted(step(&store, number)).await);
        }
        store.close().await.expect("it closes");
    });
    all.get()
}

/// The control: one allocation in each step is seen.
#[test]
fn the_counter_counts() {
    let asked = allocations_of(async |_, _| drop(std::hint::black_box(Box::new(1_u64))));
    assert_eq!(asked, ROUNDS);
}

#[test]
fn a_write_of_a_key_allocates_nothing() {
    let asked = allocations_of(async |store, number| _ = put(store, &key(number), &[2; 100]).await);
    assert!(asked < ROUNDS / 1000, "{asked} allocations in {ROUNDS} writes");
}

#[test]
fn a_put_of_a_key_allocates_nothing() {
    let asked = allocations_of(async |store, number| {
        let put = store.put(catalog(), &key(number), &[2; 100], Durability::None).await;
        put.expect("no fault is injected");
    });
    assert!(asked < ROUNDS / 1000, "{asked} allocations in {ROUNDS} puts");
}

/// What it sees and stages it has in lists of its own.
#[test]
fn a_transaction_of_two_keys_allocates_little() {
    let asked = allocations_of(async |store, number| {
        let (one, other) = (key(number), key(number + 1));
        let keys = [(catalog(), &one[..]), (catalog(), &other[..])];
        let done = store.transact(&keys, Durability::None, |transaction| {
            transaction.put_at(0, &[2; 100]);
            transaction.put_at(1, &[3; 100]);
        });
        done.await.expect("no fault is injected");
    });
    println!("{} allocations for each", asked as f64 / ROUNDS as f64);
    assert!(asked <= 8 * ROUNDS, "{asked} allocations in {ROUNDS} transactions");
}
