//! The store's interface on a namespace in memory.

use std::future::Future;

use std::rc::Rc;
use std::time::Duration;

use boson::ErrorKind;
use boson::block::{MemoryNamespace, MemoryOptions};
use boson::sim::{Disk, Executor, SimEnv};
use boson::store::{Commit, Db, Durability, Env, Options, WriteOptions};

type TestDb = Db<SimEnv, MemoryNamespace>;

fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(SimEnv) -> F) {
    let executor = Executor::new(1);
    executor.block_on(test(executor.env()));
}

fn options() -> Options {
    Options::default().identity([7; 16]).log_bytes(1 << 20)
}

fn namespace(bytes: u64) -> MemoryNamespace {
    MemoryNamespace::new("mem:test", bytes, 4096).expect("valid")
}

async fn open(env: &SimEnv, namespace: &MemoryNamespace) -> TestDb {
    Db::open_on(env.clone(), namespace.clone(), options()).await.expect("opens")
}

#[test]
fn what_is_put_is_got_and_survives_closing() {
    run(async |env| {
        let namespace = namespace(32 << 20);
        let db = open(&env, &namespace).await;
        let tree = db.tree("t").expect("valid");
        assert_eq!(tree.get(b"k").await.expect("reads"), None);
        tree.put(b"k", b"v").await.expect("writes");
        tree.put(b"", b"the empty key").await.expect("writes");
        tree.put(b"gone", b"").await.expect("writes");
        assert!(tree.delete(b"gone").await.expect("deletes"));
        assert!(!tree.delete(b"gone").await.expect("deletes"));
        assert_eq!(tree.len(), 2);
        db.close().await.expect("closes");
        assert_eq!(tree.put(b"k", b"w").await.expect_err("closed").kind(), ErrorKind::Closed);

        let db = open(&env, &namespace).await;
        let tree = db.tree("t").expect("valid");
        assert_eq!(db.tree_names(), ["t"]);
        assert_eq!(tree.get(b"k").await.expect("reads").as_deref(), Some(&b"v"[..]));
        assert_eq!(tree.get(b"").await.expect("reads").as_deref(), Some(&b"the empty key"[..]));
        assert_eq!(tree.len(), 2);
        assert!(db.verify().await.expect("runs").is_clean());
    });
}

#[test]
fn a_transaction_sees_its_own_writes_and_applies_all_or_nothing() {
    run(async |env| {
        let namespace = namespace(32 << 20);
        let db = open(&env, &namespace).await;
        let (a, b) = (db.tree("a").expect("valid"), db.tree("b").expect("valid"));
        a.put(b"one", b"1").await.expect("puts");
        let keys = [(&a, &b"one"[..]), (&b, &b"two"[..]), (&a, &b"one"[..]), (&b, &b"none"[..])];
        let result = db
            .transact(&keys, WriteOptions::SYNC, |txn| {
                assert_eq!((txn.len(), txn.get_at(0), txn.get_at(1)), (4, Some(&b"1"[..]), None));
                assert!(txn.contains_at(0) && !txn.contains_at(1));
                txn.put_parts_at(1, &[b"left", b"-", b"right"]);
                assert_eq!(txn.get_at(1), Some(&b"left-right"[..]));
                // The same key declared twice is one key.
                txn.put_at(2, b"2");
                assert_eq!(txn.get_at(0), Some(&b"2"[..]));
                assert!(txn.delete_at(0) && !txn.delete_at(2) && !txn.contains_at(2));
                assert!(!txn.delete_at(3));
                "result"
            })
            .await
            .expect("applies");
        assert_eq!(result, "result");
        assert_eq!(a.get(b"one").await.expect("reads"), None);
        assert_eq!(b.get(b"two").await.expect("reads").as_deref(), Some(&b"left-right"[..]));
        // Each tree is made by a write of its own.
        assert_eq!((a.len(), b.len(), db.last_lsn()), (0, 1, 4));

        // Nothing to write: the log is not touched.
        let (value, commit) = db
            .apply(&keys, WriteOptions::SYNC, |txn| {
                txn.put_at(0, b"x");
                txn.discard();
                txn.delete_at(3);
                txn.get_at(1).map(<[u8]>::len)
            })
            .await
            .expect("applies");
        assert_eq!((value, commit, db.last_lsn()), (Some(10), Commit::default(), 4));
    });
}

#[test]
fn durability_is_what_was_asked_for() {
    let executor = Executor::new(3);
    let env = executor.env();
    let disk = Disk::new(MemoryOptions::disk(16 << 20), 3);
    executor.block_on(async move {
        let db = Db::open_on(env.clone(), disk.clone(), options()).await.expect("opens");
        let tree = db.tree("t").expect("valid");
        tree.put_with(b"k", b"1", WriteOptions::SYNC).await.expect("puts");
        assert_eq!(db.durable_lsn(), 2, "the tree, and the key");
        let interval = WriteOptions::default().durability(Durability::Interval(Duration::from_millis(100)));
        tree.put_with(b"k", b"2", interval).await.expect("puts");
        assert_eq!(db.durable_lsn(), 2, "acknowledged at once");
        env.sleep(Duration::from_millis(40)).await;
        assert_eq!(db.durable_lsn(), 2, "gathered with what comes until the interval is half over");
        env.sleep(Duration::from_millis(20)).await;
        assert_eq!(db.durable_lsn(), 3);
        tree.put_with(b"k", b"3", WriteOptions::NONE).await.expect("puts");
        let batches = db.stats().log_batches;
        env.sleep(Duration::from_secs(60)).await;
        assert_eq!((db.durable_lsn(), db.stats().log_batches), (3, batches + 1), "written, not flushed");
        db.flush().await.expect("works");
        assert_eq!(db.durable_lsn(), 4);
        let (_, commit) = db
            .apply(&[(&tree, &b"k"[..])], WriteOptions::SYNC, |txn| txn.put_at(0, b"4"))
            .await
            .expect("applies");
        assert_eq!((commit, db.durable_lsn()), (Commit { lsn: 5, wait: true }, 4));
        db.wait(commit.and(Commit::default())).await.expect("works");
        assert_eq!(db.durable_lsn(), 5);

        // An idle store does nothing.
        let operations = disk.operations();
        env.sleep(Duration::from_secs(3600)).await;
        assert_eq!(disk.operations(), operations);
    });
}

#[test]
fn concurrent_commits_share_flushes() {
    let executor = Executor::new(4);
    let env = executor.env();
    let disk = Disk::new(MemoryOptions::disk(16 << 20), 4);
    let db = {
        let (env, disk) = (env.clone(), disk.clone());
        executor.block_on(async move { Db::open_on(env, disk, options()).await.expect("opens") })
    };
    for client in 0..50u32 {
        let tree = db.tree("t").expect("valid");
        env.spawn("client", async move {
            for round in 0..20u32 {
                let key = [client.to_be_bytes(), round.to_be_bytes()].concat();
                tree.put_with(&key, b"v", WriteOptions::SYNC).await.expect("puts");
            }
        });
    }
    executor.run_for(Duration::from_secs(10));
    let stats = db.stats();
    assert_eq!((stats.keys, stats.durable_lsn), (1000, 1001));
    assert!(stats.flushes < 60, "{} flushes for 1000 writes of 50 clients", stats.flushes);
}

#[test]
fn transactions_of_many_tasks_lose_no_update_and_readers_see_whole_ones() {
    transfer_between_accounts(MemoryOptions::disk(32 << 20));
}

#[test]
fn a_read_so_slow_that_its_units_are_reused_meanwhile_is_read_again() {
    let read_latency = Duration::from_millis(60);
    transfer_between_accounts(MemoryOptions::disk(32 << 20).read_latency(read_latency));
}

fn transfer_between_accounts(disk_options: MemoryOptions) {
    const ACCOUNTS: u32 = 40_000;
    let executor = Executor::new(6);
    let env = executor.env();
    let disk = Disk::new(disk_options, 6);
    let db = {
        let (env, disk) = (env.clone(), disk.clone());
        let options = options().cache_bytes(1 << 20);
        executor.block_on(async move { Db::open_on(env, disk, options).await.expect("opens") })
    };
    let key = |account: u64| format!("account {:08}", account % u64::from(ACCOUNTS)).into_bytes();
    let number = |bytes: Option<&[u8]>| -> i64 {
        bytes.map_or(0, |bytes| i64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    };
    let tree = db.tree("accounts").expect("valid");
    let filler = tree.clone();
    executor.block_on(async move {
        for account in 0..u64::from(ACCOUNTS) {
            filler.put_with(&key(account), &100i64.to_le_bytes(), WriteOptions::NONE).await.expect("puts");
        }
        filler.db().checkpoint().await.expect("works");
    });
    let transfers = Rc::new(std::cell::Cell::new(0));
    for _ in 0..8 {
        let (env_of_task, tree, transfers) = (env.clone(), tree.clone(), Rc::clone(&transfers));
        env.spawn("transfers", async move {
            for _ in 0..200 {
                let (from, to) = (key(env_of_task.random()), key(env_of_task.random()));
                let keys = [(&tree, from.as_slice()), (&tree, to.as_slice())];
                let move_one = tree.db().transact(&keys, WriteOptions::NONE, |txn| {
                    let less = number(txn.get_at(0)) - 1;
                    txn.put_at(0, &less.to_le_bytes());
                    let more = number(txn.get_at(1)) + 1;
                    txn.put_at(1, &more.to_le_bytes());
                });
                move_one.await.expect("applies");
                env_of_task.sleep(Duration::from_micros(env_of_task.random() % 1000)).await;
                transfers.set(transfers.get() + 1);
            }
        });
    }
    for descending in [false, true] {
        let tree = tree.clone();
        env.spawn("scans", async move {
            for _ in 0..3 {
                let mut cursor = if descending { tree.range_descending(..) } else { tree.range(..) };
                let mut count = 0;
                while cursor.next_key().await.expect("reads").is_some() {
                    count += 1;
                }
                assert_eq!(count, ACCOUNTS, "a key that stays is seen exactly once");
            }
        });
    }
    let (checkpoints, env_of_task) = (db.clone(), env.clone());
    env.spawn("checkpoints", async move {
        for _ in 0..500 {
            checkpoints.checkpoint().await.expect("works");
            env_of_task.sleep(Duration::from_millis(1)).await;
        }
    });
    executor.run_for(Duration::from_secs(100));
    assert_eq!(transfers.get(), 1600);
    assert!(db.stats().evictions > 100, "{:?}", db.stats());
    executor.block_on(async move {
        let mut sum = 0;
        let mut cursor = tree.range(..);
        while let Some((_, value)) = cursor.next().await.expect("reads") {
            sum += number(Some(&value));
        }
        assert_eq!(sum, 100 * i64::from(ACCOUNTS));
        assert!(db.verify().await.expect("runs").is_clean());
        db.close().await.expect("closes");
    });
}

#[test]
fn ranges_are_bounded_as_asked_in_both_directions() {
    run(async |env| {
        let db = open(&env, &namespace(32 << 20)).await;
        let tree = db.tree("t").expect("valid");
        assert_eq!(tree.range(..).next().await.expect("reads"), None);
        assert_eq!(tree.random(|| 7).await.expect("reads"), None);
        for number in 0..5000u32 {
            tree.put(&number.to_be_bytes(), b"v").await.expect("puts");
        }
        let (from, to) = (1000u32.to_be_bytes(), 4000u32.to_be_bytes());
        let mut cursor = tree.range(&from[..]..=&to[..]);
        assert_eq!(cursor.next_key().await.expect("reads").as_deref(), Some(&from[..]));
        let mut last = None;
        let mut count = 1;
        while let Some((key, _)) = cursor.next().await.expect("reads") {
            last = Some(key);
            count += 1;
        }
        assert_eq!((last.as_deref(), count), (Some(&to[..]), 3001));
        let mut cursor = tree.range_descending(..&to[..]);
        let expected = 3999u32.to_be_bytes();
        assert_eq!(cursor.next_key().await.expect("reads").as_deref(), Some(&expected[..]));
        // A cursor goes on while the tree changes, and sees what is ahead of it.
        let mut cursor = tree.range(&from[..]..);
        cursor.next_key().await.expect("reads");
        for number in 1001..5000u32 {
            assert!(tree.delete(&number.to_be_bytes()).await.expect("deletes"));
        }
        tree.put(b"\xff", b"v").await.expect("puts");
        let mut rest = Vec::new();
        while let Some(key) = cursor.next_key().await.expect("reads") {
            rest.push(key);
        }
        assert_eq!(rest.last().map(Vec::as_slice), Some(&b"\xff"[..]));
        assert!(rest.len() < 2500, "what was read of a leaf, then the new key: {}", rest.len());
        // It ends where its tree is cleared.
        let mut cursor = tree.range(..);
        cursor.next_key().await.expect("reads");
        tree.clear(WriteOptions::SYNC).await.expect("clears");
        tree.put(b"\xff", b"v").await.expect("puts");
        while let Some(key) = cursor.next_key().await.expect("reads") {
            assert!(key[..] != b"\xff"[..], "a key of another tree");
        }
        assert_eq!((tree.len(), tree.range(..).next_key().await.expect("reads")), (1, Some(vec![0xff])));
        assert_eq!(tree.random(|| 7).await.expect("reads").as_deref(), Some(&b"\xff"[..]));
    });
}

#[test]
fn dropping_the_last_handle_commits_what_was_written() {
    run(async |env| {
        let namespace = namespace(32 << 20);
        let db = open(&env, &namespace).await;
        let tree = db.tree("t").expect("valid");
        drop(db);
        tree.put_with(b"k", b"v", WriteOptions::NONE).await.expect("the tree keeps the store open");
        drop(tree);
        env.sleep(Duration::from_millis(1)).await;
        let db = open(&env, &namespace).await;
        assert_eq!(db.tree("t").expect("valid").len(), 1);
    });
}

#[test]
fn values_of_every_size_come_back_on_blocks_of_every_size() {
    for block in [512, 65536] {
        run(async move |env| {
            let namespace = MemoryNamespace::new("mem:test", 192 << 20, block).expect("valid");
            let db = open(&env, &namespace).await;
            let tree = db.tree("t").expect("valid");
            let sizes =
                [0usize, 1, 2048, 2049, 4096, 65536, (128 << 10) + 1, 1 << 20, (1 << 20) + 1, 40 << 20];
            let value = |size: usize| -> Vec<u8> { (0..size).map(|at| at.to_le_bytes()[at % 3]).collect() };
            for size in sizes {
                tree.put(&size.to_be_bytes(), &value(size)).await.expect("puts");
            }
            // Once from memory, once from a checkpoint.
            for clean in [false, true] {
                let db = if clean { open(&env, &namespace).await } else { db.clone() };
                let tree = db.tree("t").expect("valid");
                for size in sizes {
                    let found = tree.get(&size.to_be_bytes()).await.expect("reads").expect("is there");
                    assert!(found == value(size), "{size} bytes in blocks of {block}");
                }
                assert!(db.verify().await.expect("runs").is_clean());
                db.close().await.expect("closes");
            }
            let db = open(&env, &namespace).await;
            let tree = db.tree("t").expect("valid");
            let free = db.stats().free_bytes;
            assert!(tree.delete(&(40usize << 20).to_be_bytes()).await.expect("deletes"));
            // It is reclaimed in the background.
            env.sleep(Duration::from_secs(10)).await;
            db.checkpoint().await.expect("works");
            assert!(db.stats().free_bytes >= free + (40 << 20) - (1 << 20));
        });
    }
}

/// More transactions at once than the log's ring holds, each as large as one may be: they become
/// batches that fit.
#[test]
fn large_transactions_at_once_do_not_outgrow_the_log() {
    let executor = Executor::new(8);
    let env = executor.env();
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 8);
    executor.block_on(async move {
        let db = Db::open_on(env.clone(), disk.clone(), options()).await.expect("opens");
        db.tree("t").expect("valid").put(b"first", b"").await.expect("writes");
        let finished = Rc::new(std::cell::Cell::new(0));
        for task in 0..32u8 {
            let (db, finished) = (db.clone(), Rc::clone(&finished));
            env.spawn("client", async move {
                // 120 values of 2,000 bytes: nearly a quarter of the log of 1 MiB.
                let tree = db.tree("t").expect("valid");
                let keys: Vec<Vec<u8>> = (0..120u8).map(|key| vec![task, key]).collect();
                let declared: Vec<_> = keys.iter().map(|key| (&tree, key.as_slice())).collect();
                let put_all = |txn: &mut boson::store::Txn<'_>| {
                    (0..txn.len()).for_each(|index| txn.put_at(index, &[task; 2_000]));
                };
                db.transact(&declared, WriteOptions::SYNC, put_all).await.expect("there is room");
                finished.set(finished.get() + 1);
            });
        }
        env.sleep(Duration::from_secs(60)).await;
        assert_eq!(finished.get(), 32, "transactions wait forever");
        db.close().await.expect("closes");
        let db = Db::open_on(env.clone(), disk, options()).await.expect("opens");
        assert_eq!(db.tree("t").expect("valid").len(), 1 + 32 * 120);
        assert!(db.verify().await.expect("runs").is_clean());
    });
}

/// Few declared keys are looked for one by one, many in an index.
#[test]
fn a_transaction_names_its_trees_and_keys() {
    boson::run(async {
        let db = Db::open("mem:64M").await.expect("a store in memory");
        let (fruit, nuts) = (db.tree("fruit").expect("room"), db.tree("nuts").expect("room"));
        for keys in [2, 100] {
            let names: Vec<String> = (0..keys).map(|number| format!("key {number}")).collect();
            let declared: Vec<_> =
                names.iter().flat_map(|name| [(&fruit, name.as_bytes()), (&nuts, name.as_bytes())]).collect();
            let put = |txn: &mut boson::store::Txn<'_>| {
                for name in &names {
                    txn.put(&nuts, name.as_bytes(), b"nut");
                    txn.put(&fruit, name.as_bytes(), name.as_bytes());
                }
                txn.get(&nuts, b"key 1").map(<[u8]>::to_vec)
            };
            let seen = db.transact(&declared, WriteOptions::default(), put).await.expect("it works");
            assert_eq!(seen.as_deref(), Some(&b"nut"[..]));
            assert_eq!(fruit.get(b"key 1").await.expect("it works").as_deref(), Some(&b"key 1"[..]));
            let delete = |txn: &mut boson::store::Txn<'_>| {
                let there = txn.delete(&fruit, b"key 0");
                (there, txn.contains(&fruit, b"key 0"), txn.contains(&nuts, b"key 0"))
            };
            let deleted = db.transact(&declared, WriteOptions::default(), delete).await.expect("it works");
            assert_eq!(deleted, (true, false, true));
        }
        db.close().await.expect("it closes");
    });
}

#[test]
#[should_panic(expected = "only keys that it declared")]
fn a_transaction_refuses_a_key_that_it_did_not_declare() {
    boson::run(async {
        let db = Db::open("mem:64M").await.expect("a store in memory");
        let tree = db.tree("tree").expect("room");
        let read = |txn: &mut boson::store::Txn<'_>| txn.get(&tree, b"other").is_some();
        drop(db.transact(&[(&tree, &b"one"[..])], WriteOptions::default(), read).await);
    });
}
