//! Operations on one key that depend on its value, reads of several keys, trees that go.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use boson::ErrorKind;
use boson::block::MemoryNamespace;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, Decision, Env, MAX_VALUE_BYTES, Options, WriteOptions};

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

#[test]
fn an_update_makes_of_a_key_what_it_says() {
    run(32 << 20, async |_, db| {
        let tree = db.tree("t").expect("valid");
        let append = async |text: &'static [u8]| {
            let grow = |found: Option<&[u8]>, new: &mut Vec<u8>| {
                new.extend_from_slice(found.unwrap_or_default());
                new.extend_from_slice(text);
                Decision::Put
            };
            tree.update(b"k", WriteOptions::default(), grow).await.expect("room")
        };
        assert!(append(b"a").await && append(b"bc").await);
        assert_eq!(tree.get(b"k").await.expect("reads").as_deref(), Some(&b"abc"[..]));
        // Over the length that lies with the key, and back.
        let long: &[u8] = vec![b'x'; 50_000].leak();
        assert!(append(long).await);
        let shorten = |found: Option<&[u8]>, new: &mut Vec<u8>| {
            new.extend_from_slice(&found.expect("it is there")[..2]);
            Decision::Put
        };
        assert!(tree.update(b"k", WriteOptions::default(), shorten).await.expect("room"));
        assert_eq!(tree.get(b"k").await.expect("reads").as_deref(), Some(&b"ab"[..]));
        let before = db.last_lsn();
        let keep = |_: Option<&[u8]>, _: &mut Vec<u8>| Decision::Keep;
        assert!(!tree.update(b"k", WriteOptions::default(), keep).await.expect("reads"));
        assert_eq!(db.last_lsn(), before);
        let delete = |found: Option<&[u8]>, _: &mut Vec<u8>| {
            if found.is_some() { Decision::Delete } else { Decision::Keep }
        };
        assert!(tree.update(b"k", WriteOptions::default(), delete).await.expect("room"));
        assert!(!tree.update(b"k", WriteOptions::default(), delete).await.expect("reads"));
        assert_eq!(tree.len(), 0);
        let too_long = |_: Option<&[u8]>, new: &mut Vec<u8>| {
            new.resize(MAX_VALUE_BYTES + 1, 0);
            Decision::Put
        };
        let error = tree.update(b"k", WriteOptions::default(), too_long).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

/// A user's closure that panics takes its task with it, and nothing else.
#[test]
fn an_update_that_panics_has_changed_nothing_and_holds_nothing_up() {
    boson::run(async {
        let db = Db::open("mem:64M").await.expect("opens");
        let tree = db.tree("t").expect("valid");
        for value in [vec![1; 10], vec![2; 100_000]] {
            tree.put(b"k", &value).await.expect("room");
            let of_task = tree.clone();
            let panics = boson::rt::spawn(async move {
                let decide = |_: Option<&[u8]>, _: &mut Vec<u8>| -> Decision { panic!("on purpose") };
                of_task.update(b"k", WriteOptions::default(), decide).await
            });
            assert!(panics.await.is_err());
            let of_task = tree.clone();
            let panics = boson::rt::spawn(async move {
                let db = of_task.db().clone();
                db.transact(&[(&of_task, b"k"), (&of_task, b"l")], WriteOptions::default(), |txn| {
                    txn.put_at(0, b"half");
                    panic!("on purpose")
                })
                .await
            });
            assert!(panics.await.is_err());
            assert_eq!(tree.get(b"k").await.expect("reads"), Some(value));
            assert!(!tree.contains(b"l").await.expect("reads"));
            tree.put(b"k", b"goes on").await.expect("room");
        }
        let report = db.verify().await.expect("runs");
        assert!(report.is_clean() && report.keys == 1, "{report:?}");
        db.close().await.expect("closes");
    });
}

#[test]
fn prefixes_and_ranges_are_read_and_deleted() {
    run(64 << 20, async |_, db| {
        let tree = db.tree("t").expect("valid");
        let mut keys: Vec<Vec<u8>> =
            (0..2000_u32).map(|number| format!("n:{number:04}").into_bytes()).collect();
        keys.extend(
            [&b""[..], b"a", b"n", b"n:", b"n;", b"\xff", b"\xff\xff", b"\xff\xff\x01", b"\xff\xfe"]
                .map(<[u8]>::to_vec),
        );
        keys.sort();
        for key in &keys {
            tree.put(key, b"v").await.expect("room");
        }
        for prefix in [&b""[..], b"n", b"n:", b"n:1", b"n:19", b"\xff", b"\xff\xff", b"b", b"n:2000"] {
            let expected: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
            let mut found = Vec::new();
            let mut cursor = tree.prefix(prefix);
            while let Some((key, _)) = cursor.next().await.expect("reads") {
                found.push(key);
            }
            assert_eq!(found, expected, "{}", prefix.escape_ascii());
            let mut cursor = tree.prefix_descending(prefix);
            while let Some(key) = cursor.next_key().await.expect("reads") {
                assert_eq!(Some(key), found.pop());
            }
            assert!(found.is_empty());
        }
        let mut left = keys.clone();
        let mut is_left = |gone: &dyn Fn(&[u8]) -> bool| {
            let before = left.len();
            left.retain(|key| !gone(key));
            (before - left.len(), left.clone())
        };
        let all = async || {
            let (mut found, mut cursor) = (Vec::new(), tree.range(..));
            while let Some(key) = cursor.next_key().await.expect("reads") {
                found.push(key);
            }
            found
        };
        let (count, expected) = is_left(&|key| key.starts_with(b"n:1"));
        assert_eq!(tree.delete_prefix(b"n:1", WriteOptions::default()).await.expect("room"), count as u64);
        assert_eq!(all().await, expected);
        let (from, to) = (&b"n:0500"[..], &b"n:0600"[..]);
        let (count, expected) = is_left(&|key| (from..to).contains(&key));
        let deleted = tree.delete_range(from..to, WriteOptions::default()).await.expect("room");
        assert_eq!((deleted, count), (100, 100));
        assert_eq!(all().await, expected);
        assert_eq!(tree.delete_range(from..to, WriteOptions::default()).await.expect("reads"), 0);
        let (count, expected) = is_left(&|key| key.starts_with(b"\xff"));
        assert_eq!(tree.delete_prefix(b"\xff", WriteOptions::default()).await.expect("room"), count as u64);
        assert_eq!(all().await, expected);
        assert_eq!(tree.len(), expected.len() as u64);
    });
}
