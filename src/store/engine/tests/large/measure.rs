//! How long a large transaction takes, and its longest steps.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Instant;

use super::*;

/// Runs a future, and says how long each of its steps took.
async fn steps<T>(future: impl Future<Output = T>) -> (T, Vec<Duration>) {
    let (mut future, mut steps) = (pin!(future), Vec::new());
    let result = poll_fn(|cx| {
        let start = Instant::now();
        let polled = future.as_mut().poll(cx);
        steps.push(start.elapsed());
        polled
    });
    (result.await, steps)
}

#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_keys() {
    const KEYS: u32 = 100_000;
    on_a_disk(4 << 30, async |disk| {
        let options = options().cache_bytes(128 << 20).log_bytes(128 << 20);
        let store = open(RtEnv, disk, &options).await.expect("room for a store");
        let tree = tree(&store).await;
        for round in 0..4_u8 {
            let names = names(0..KEYS);
            let keys = in_tree(tree, &names);
            let closure = Cell::new(Duration::ZERO);
            let start = Instant::now();
            let change = store.transact(&keys, DURABILITY, |all| {
                let start = Instant::now();
                (0..all.len()).for_each(|place| all.put_at(place, &[round; 100]));
                closure.set(start.elapsed());
            });
            let (done, mut steps) = steps(change).await;
            let number = done.expect("it works").1.expect("it changed something");
            let committed = start.elapsed();
            store.wait(number).await.expect("it is durable");
            until_drained(&store).await;
            steps.sort_unstable();
            steps.reverse();
            println!(
                "{committed:?} until committed, {:?} until drained, {} steps, the closure {:?}, the longest steps {:?}",
                start.elapsed(),
                steps.len(),
                closure.get(),
                &steps[..8]
            );
        }
    });
}
