//! How fast the store is on a namespace in memory: `cargo test --release --test store_speed --
//! --ignored --nocapture`.

use std::time::Instant;

use boson::block::MemoryNamespace;
use boson::sim::Executor;
use boson::store::{Db, Options, WriteOptions};

const KEYS: u32 = 100_000;
const OPERATIONS: u32 = 1_000_000;

#[test]
#[ignore = "a measurement"]
fn puts_and_gets_per_second() {
    let executor = Executor::new(1);
    let env = executor.env();
    executor.block_on(async move {
        let namespace = MemoryNamespace::new("mem:speed", 1 << 30, 4096).expect("valid");
        let db = Db::open_on(env, namespace, Options::default().identity([1; 16])).await.expect("opens");
        let tree = db.tree("t").expect("valid");
        let key = |number: u32| format!("key:{:012}", number.wrapping_mul(0x9e37_79b1) % KEYS).into_bytes();
        let keys: Vec<_> = (0..OPERATIONS).map(key).collect();
        let report = |what: &str, start: Instant| {
            let nanos = start.elapsed().as_nanos() / u128::from(OPERATIONS);
            println!("{what}: {nanos} ns each, {} per second", 1_000_000_000 / nanos.max(1));
        };
        let start = Instant::now();
        for key in &keys {
            tree.put_with(key, b"xxx", WriteOptions::NONE).await.expect("puts");
        }
        report("put (100,000 keys, 3 bytes, one writer, no durability)", start);
        let start = Instant::now();
        let mut sum = 0;
        for key in &keys {
            sum += tree.get_with(key, <[u8]>::len).await.expect("reads").unwrap_or(0);
        }
        report("get", start);
        assert_eq!(sum, 3 * keys.len());
        let start = Instant::now();
        for key in &keys {
            db.transact(&[(&tree, key)], WriteOptions::NONE, |txn| {
                let next = txn.get_at(0).map_or(0, <[u8]>::len) % 7;
                txn.put_at(0, &b"yyyyyyy"[..next]);
            })
            .await
            .expect("applies");
        }
        report("transact (read and write one key)", start);
        println!("{:#?}", db.stats());
    });
}
