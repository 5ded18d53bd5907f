//! A get in steady state allocates nothing; a write's share of its batch is next to nothing.

use crate::counting;
use boson::block::MemoryNamespace;
use boson::sim::Executor;
use boson::store::{Db, Options, WriteOptions};
use counting::allocations;

const KEYS: u32 = 10_000;
const OPERATIONS: u32 = 100_000;

#[test]
fn steady_state_allocates_next_to_nothing() {
    let executor = Executor::new(1);
    let env = executor.env();
    executor.block_on(async move {
        let namespace = MemoryNamespace::new("mem:allocations", 256 << 20, 4096).expect("valid");
        let db = Db::open_on(env, namespace, Options::default().identity([1; 16])).await.expect("opens");
        let tree = db.tree("t").expect("valid");
        let keys: Vec<_> = (0..KEYS).map(|number| format!("key:{number:012}").into_bytes()).collect();
        let key = |number: u32| &keys[(number.wrapping_mul(0x9e37_79b1) % KEYS) as usize];
        for number in 0..OPERATIONS {
            tree.put_with(key(number), b"abc", WriteOptions::NONE).await.expect("puts");
        }
        db.checkpoint().await.expect("works");

        let before = allocations();
        for number in 0..OPERATIONS {
            assert_eq!(tree.get_with(key(number), <[u8]>::len).await.expect("reads"), Some(3));
        }
        assert_eq!(allocations() - before, 0, "gets");

        let per_operation = |before: u64| {
            let counted = u32::try_from(allocations() - before).expect("few");
            f64::from(counted) / f64::from(OPERATIONS)
        };
        let before = allocations();
        for number in 0..OPERATIONS {
            tree.put_with(key(number), b"def", WriteOptions::NONE).await.expect("puts");
        }
        let puts = per_operation(before);
        let before = allocations();
        for number in 0..OPERATIONS {
            db.transact(&[(&tree, key(number))], WriteOptions::NONE, |txn| {
                assert_eq!(txn.get_at(0).map(<[u8]>::len), Some(3));
                txn.put_at(0, b"ghi");
            })
            .await
            .expect("applies");
        }
        let transactions = per_operation(before);
        println!("allocations per put {puts}, per transaction of one key {transactions}");
        assert!(puts < 0.02 && transactions < 0.02, "{puts} {transactions}");
    });
}
