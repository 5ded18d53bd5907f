//! Operations on one key that depend on its value, reads of several keys, trees that go.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use boson::block::MemoryNamespace;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, Env, Options, WriteOptions};

type TestDb = Db<SimEnv, MemoryNamespace>;

fn run(bytes: u64, test: impl AsyncFnOnce(SimEnv, TestDb) + 'static) {
    let executor = Executor::new(1);
    let env = executor.env();
    executor.block_on(async move {
        let namespace = MemoryNamespace::new("mem:test", bytes, 4096).expect("valid");
        let options = Options::default().identity([7; 16]).log_bytes(1 << 20);
        let db = Db::open_on(env.clone(), namespace, options).await.expect("opens");
        test(env, db).await;
    });
}

#[test]
fn a_value_is_replaced_only_if_it_is_the_expected_one() {
    run(32 << 20, async |_, db| {
        let tree = db.tree("t").expect("valid");
        let options = WriteOptions::default;
        assert!(tree.insert_if_absent(b"k", b"1", options()).await.expect("puts"));
        assert!(!tree.insert_if_absent(b"k", b"2", options()).await.expect("reads"));
        assert!(!tree.compare_and_swap(b"k", Some(b"2"), Some(b"3"), options()).await.expect("reads"));
        assert_eq!(tree.get(b"k").await.expect("reads").as_deref(), Some(&b"1"[..]));
        let before = db.last_lsn();
        assert!(tree.compare_and_swap(b"k", Some(b"1"), Some(b"1"), options()).await.expect("reads"));
        assert_eq!(db.last_lsn(), before, "it has that value already");
        let long = vec![5; 100_000];
        assert!(tree.compare_and_swap(b"k", Some(b"1"), Some(&long), options()).await.expect("puts"));
        assert!(!tree.compare_and_swap(b"k", Some(b"1"), None, options()).await.expect("reads"));
        assert!(tree.compare_and_swap(b"k", Some(&long), None, options()).await.expect("deletes"));
        assert_eq!((tree.len(), tree.contains(b"k").await.expect("reads")), (0, false));
        assert!(tree.compare_and_swap(b"k", None, None, options()).await.expect("reads"));
    });
}

#[test]
fn of_many_that_swap_each_wins_once() {
    const TASKS: u64 = 8;
    const ROUNDS: u64 = 50;
    run(32 << 20, async |env, db| {
        let tree = db.tree("t").expect("valid");
        tree.put(b"k", &0_u64.to_le_bytes()).await.expect("puts");
        let done = Rc::new(Cell::new(0));
        for _ in 0..TASKS {
            let (tree, done, env_of_task) = (tree.clone(), Rc::clone(&done), env.clone());
            env.spawn("swap", async move {
                for _ in 0..ROUNDS {
                    loop {
                        let old = tree.get(b"k").await.expect("reads").expect("it is there");
                        let number = u64::from_le_bytes(old[..].try_into().expect("eight bytes"));
                        env_of_task.sleep(Duration::from_micros(env_of_task.random() % 100)).await;
                        let new = (number + 1).to_le_bytes();
                        let options = WriteOptions::NONE;
                        if tree
                            .compare_and_swap(b"k", Some(&old), Some(&new), options)
                            .await
                            .expect("it works")
                        {
                            break;
                        }
                    }
                }
                done.set(done.get() + 1);
            });
        }
        while done.get() < TASKS {
            env.sleep(Duration::from_millis(1)).await;
        }
        let last = tree.get(b"k").await.expect("reads").expect("it is there");
        assert_eq!(last, (TASKS * ROUNDS).to_le_bytes());
    });
}

#[test]
fn several_keys_are_read_at_one_moment() {
    run(32 << 20, async |env, db| {
        let (a, b, none) =
            (db.tree("a").expect("valid"), db.tree("b").expect("valid"), db.tree("none").expect("valid"));
        let done = Rc::new(Cell::new(false));
        let (writer, to, from, ended) = (db.clone(), a.clone(), b.clone(), Rc::clone(&done));
        env.spawn("writer", async move {
            for number in 0..500_u32 {
                let keys = [(&to, &b"k"[..]), (&from, &b"k"[..])];
                let both = |txn: &mut boson::store::Txn<'_>| {
                    txn.put_at(0, &number.to_le_bytes());
                    txn.put_at(1, &number.to_le_bytes());
                };
                writer.transact(&keys, WriteOptions::NONE, both).await.expect("puts");
            }
            ended.set(true);
        });
        let keys = [(&a, &b"k"[..]), (&b, &b"k"[..]), (&none, &b"k"[..])];
        while !done.get() {
            let lsn = db.last_lsn();
            let is_one_moment = db.read(&keys, |found| {
                assert_eq!((found.len(), found.get_at(2)), (3, None));
                found.get_at(0) == found.get_at(1)
            });
            assert!(is_one_moment.await.expect("reads"), "after {lsn}");
            env.sleep(Duration::from_micros(1)).await;
        }
        assert_eq!(db.tree_names().len(), 2, "reading makes no tree");
        // Also when it is closed.
        db.close().await.expect("closes");
        let last = db.read(&keys, |found| found.get_at(0).map(<[u8]>::to_vec)).await.expect("reads");
        assert_eq!(last.as_deref(), Some(&499_u32.to_le_bytes()[..]));
    });
}

#[test]
fn a_tree_that_was_removed_is_empty_and_comes_again_with_the_next_write() {
    run(32 << 20, async |_, db| {
        let tree = db.tree("t").expect("valid");
        assert!(!db.remove_tree("t", WriteOptions::SYNC).await.expect("nothing to do"));
        for number in 0..2_000_u32 {
            tree.put_with(&number.to_be_bytes(), &[1; 100], WriteOptions::NONE).await.expect("puts");
        }
        let mut cursor = tree.range(..);
        cursor.next().await.expect("reads").expect("a key");
        assert!(db.remove_tree("t", WriteOptions::SYNC).await.expect("removes"));
        assert_eq!((tree.len(), db.tree_names().len()), (0, 0));
        assert_eq!(tree.get(&7_u32.to_be_bytes()).await.expect("reads"), None);
        assert!(!tree.delete(&7_u32.to_be_bytes()).await.expect("nothing to do"));
        assert_eq!(cursor.next_key().await.expect("reads"), None);
        tree.put(b"new", b"v").await.expect("puts");
        assert_eq!((tree.len(), &db.tree_names()[..]), (1, &["t".to_owned()][..]));
        assert!(db.verify().await.expect("runs").is_clean());
    });
}

/// What is longer than the log takes at once is refused as a whole, unless it only deletes and may
/// be divided.
#[test]
fn a_transaction_longer_than_the_log_takes_deletes_in_parts_if_it_may() {
    const KEYS: u32 = 40_000;
    run(32 << 20, async |_, db| {
        let tree = db.tree("t").expect("valid");
        let names: Vec<_> = (0..KEYS).map(u32::to_be_bytes).collect();
        for name in &names {
            tree.put_with(name, b"v", WriteOptions::NONE).await.expect("puts");
        }
        let keys: Vec<_> = names.iter().map(|name| (&tree, &name[..])).collect();
        let delete_all =
            |txn: &mut boson::store::Txn<'_>| (0..keys.len()).filter(|&at| txn.delete_at(at)).count();
        let refused = db.transact(&keys, WriteOptions::NONE, delete_all).await.expect_err("too long");
        assert_eq!(refused.kind(), boson::ErrorKind::LimitReached);
        assert_eq!(tree.len(), u64::from(KEYS), "nothing was applied");
        let divisible = WriteOptions::SYNC.divisible(true);
        let put_one = |txn: &mut boson::store::Txn<'_>| {
            delete_all(txn);
            txn.put_at(0, b"w");
        };
        let refused = db.transact(&keys, divisible, put_one).await.expect_err("it does not only delete");
        assert_eq!((refused.kind(), tree.len()), (boson::ErrorKind::LimitReached, u64::from(KEYS)));
        assert_eq!(db.transact(&keys, divisible, delete_all).await.expect("deletes"), KEYS as usize);
        assert_eq!((tree.len(), db.durable_lsn()), (0, db.last_lsn()));
    });
}
