//! Devices that fail: what is acknowledged is there, and everybody hears of the failure.

use std::cell::RefCell;
use std::time::Duration;

use super::*;
use crate::block::Fault;
use crate::error::{Error, ErrorKind, Outcome};
use crate::rt;
use crate::store::engine::counts::{Count, counted};

async fn put_sync(store: &Store, key: &[u8], value: &[u8]) -> Result<(), Error> {
    let number = store.write(catalog(), key, Change::Put(value), Durability::Sync).await?;
    store.wait(number).await
}

/// What the log has written and not flushed is lost by a flush that the keeper asked for. The
/// device says so once: the next flush succeeds.
#[test]
fn a_flush_of_the_keeper_that_fails_lets_no_write_become_durable() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    a_life(&disk, async |disk| {
        let store = reopen(&disk).await;
        put_sync(&store, b"apple", b"5").await.expect("no fault is injected");
        let lost = put(&store, b"pear", b"7").await;
        // The log has written it by then, and flushes it when somebody asks.
        rt::sleep(Duration::from_millis(150)).await;
        disk.inject([Fault::flush().once().loses_cache()]);
        store.checkpoint().await.expect_err("its flush failed");
        let lost = store.wait(lost).await.expect_err("it may be lost");
        assert_eq!(lost.outcome(), Outcome::Unknown, "{lost}");
        let refused = put_sync(&store, b"plum", b"1").await.expect_err("the store has failed");
        assert_eq!((refused.kind(), refused.outcome()), (lost.kind(), Outcome::NotStarted), "{refused}");
        assert_ne!(refused.kind(), ErrorKind::Closed, "{refused}");
        assert_eq!(get(&store, b"apple").await.as_deref(), Some(&b"5"[..]), "reads go on");
    });
    a_life(&disk, async |disk| {
        let store = reopen(&disk).await;
        assert_eq!(get(&store, b"apple").await.as_deref(), Some(&b"5"[..]));
        assert_eq!(get(&store, b"pear").await, None, "so it could not be acknowledged");
    });
}

/// The log and the keeper flush at the same time, and either may be the one to hear of a loss.
#[test]
fn whichever_flush_fails_nothing_is_lost_that_was_acknowledged() {
    for number in 0..30 {
        let slow = MemoryOptions::disk(64 << 20).write_latency(Duration::from_millis(1));
        let disk = Disk::new(slow, number);
        let acknowledged = a_life(&disk, async move |disk| {
            let acknowledged = Rc::new(RefCell::new(Model::new()));
            let store = reopen(&disk).await;
            disk.inject([Fault::flush().after(number).once().loses_cache()]);
            let (own, model) = (Rc::clone(&store), Rc::clone(&acknowledged));
            let writer = rt::spawn(async move {
                for key in 0_u32.. {
                    // Checkpoints begin when nothing is dirty.
                    rt::sleep(Duration::from_millis(u64::from(key * 5 % 17))).await;
                    let key = key.to_be_bytes();
                    if put_sync(&own, &key, &key).await.is_err() {
                        return;
                    }
                    model.borrow_mut().insert(key.to_vec(), key.to_vec());
                }
            });
            while store.checkpoint().await.is_ok() {}
            writer.await.expect("it does not panic");
            acknowledged.take()
        });
        a_life(&disk, async move |disk| {
            let opened = open(RtEnv, disk, &options()).await;
            let store = opened.unwrap_or_else(|error| panic!("flush {number} failed: {error}"));
            for (key, value) in &acknowledged {
                let found = get(&store, key).await;
                assert_eq!(found.as_ref(), Some(value), "flush {number} failed: key {key:?}");
            }
        });
    }
}

/// What a checkpoint has written and not flushed is lost by a flush of the log. The superblock must
/// not refer to it, although the flush of the checkpoint succeeds.
#[test]
fn a_flush_of_the_log_that_fails_ends_the_checkpoint_under_way() {
    let mut complete = Vec::new();
    for seed in 0..12 {
        let disk = Disk::new(MemoryOptions::disk(64 << 20).write_latency(Duration::from_secs(1)), seed);
        let is_complete = a_life(&disk, async |disk| {
            let store = reopen(&disk).await;
            put_sync(&store, b"apple", b"5").await.expect("no fault is injected");
            let bundles = counted()[Count::Bundles as usize];
            let keeper = Rc::clone(&store);
            let checkpoint = rt::spawn(async move { keeper.checkpoint().await });
            while counted()[Count::Bundles as usize] == bundles {
                rt::sleep(Duration::from_millis(1)).await;
            }
            // The map is being written.
            disk.inject([Fault::flush().once().loses_cache()]);
            put_sync(&store, b"pear", b"7").await.expect_err("it may be lost");
            checkpoint.await.expect("it does not panic").is_ok()
        });
        if is_complete {
            complete.push(seed);
        }
        a_life(&disk, async move |disk| {
            let opened = open(RtEnv, disk, &options()).await;
            let store = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(get(&store, b"apple").await.as_deref(), Some(&b"5"[..]), "seed {seed}");
        });
    }
    assert_eq!(complete, [0; 0], "with these seeds a checkpoint is said to be durable");
}

/// A device that is gone says that nothing is there, as does the error of who has a tree that was
/// cleared. Whoever looks the tree up again and again for the latter ends all the same.
#[test]
fn a_device_that_is_gone_is_not_taken_for_a_tree_that_was_cleared() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    a_life(&disk, async |disk| {
        let store = reopen(&disk).await;
        let tree = store.open_tree("fruit", 0, Durability::None).await.expect("it works").0.root;
        let names: Vec<_> = (0..40_u32).map(u32::to_be_bytes).collect();
        for name in &names {
            store.put(tree, name, b"1", Durability::None).await.expect("it works");
        }
        disk.inject([Fault::flush().fails_with(libc::ENODEV)]);
        store.checkpoint().await.expect_err("its flush failed");
        let keys: Vec<_> = names.iter().map(|name| (tree, &name[..])).collect();
        let errors = [
            store.put(tree, b"a", b"1", Durability::None).await.expect_err("the store has failed"),
            store.transact(&keys, Durability::None, |all| all.put_at(0, b"2")).await.expect_err("the same"),
            store.delete_in_parts(&keys, Durability::None).await.expect_err("the same"),
        ];
        for error in errors {
            assert_eq!(
                (error.kind(), error.outcome()),
                (ErrorKind::NotFound, Outcome::NotStarted),
                "{error}"
            );
            assert_eq!(crate::store::engine::dying::lost_name(&error), None, "{error}");
        }
    });
}
