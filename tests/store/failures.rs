//! Devices that fail once, and memory and time while much is going on.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use boson::block::{Fault, MemoryOptions};
use boson::sim::{Disk, Executor, SimEnv};
use boson::store::{Db, Durability, Env, MIN_CACHE_BYTES, Options, Tree, WriteOptions};

type SimDb = Db<SimEnv, Disk>;
type SimTree = Tree<SimEnv, Disk>;

fn run<F: Future<Output = ()> + 'static>(seed: u64, disk_bytes: u64, test: impl FnOnce(SimEnv, Disk) -> F) {
    let executor = Executor::new(seed);
    let disk = Disk::new(MemoryOptions::disk(disk_bytes), seed);
    executor.block_on(test(executor.env(), disk));
}

fn options() -> Options {
    Options::default().identity([9; 16]).log_bytes(512 << 10).durability(Durability::Sync)
}

async fn open(env: &SimEnv, disk: &Disk, options: Options) -> (SimDb, SimTree) {
    let db = Db::open_on(env.clone(), disk.clone(), options).await.expect("opens");
    let tree = db.tree("t").expect("valid");
    (db, tree)
}

fn key(writer: u32, number: u32) -> Vec<u8> {
    format!("{writer}:{number:06}").into_bytes()
}

/// Puts until the store fails; notes what was acknowledged.
async fn write_until_failure(tree: SimTree, writer: u32, acknowledged: Rc<RefCell<Vec<Vec<u8>>>>) {
    for number in 0.. {
        let key = key(writer, number % 500);
        if tree.put(&key, &vec![7; 1500]).await.is_err() {
            return;
        }
        acknowledged.borrow_mut().push(key);
    }
}

#[test]
fn a_flush_that_fails_once_takes_nothing_that_was_acknowledged_before_or_after() {
    const WRITERS: u32 = 3;
    for flushes in 0..40 {
        run(flushes, 64 << 20, async move |env, disk| {
            let (db, tree) = open(&env, &disk, options()).await;
            let running = Rc::new(Cell::new(WRITERS + 1));
            let acknowledged = Rc::new(RefCell::new(Vec::new()));
            disk.inject([Fault::flush().after(flushes).once().loses_cache()]);
            for writer in 0..WRITERS {
                let (tree, running) = (tree.clone(), Rc::clone(&running));
                let acknowledged = Rc::clone(&acknowledged);
                env.spawn("writer", async move {
                    write_until_failure(tree, writer, acknowledged).await;
                    running.set(running.get() - 1);
                });
            }
            let (checkpointer, left) = (db.clone(), Rc::clone(&running));
            env.spawn("checkpoints", async move {
                while checkpointer.checkpoint().await.is_ok() {}
                left.set(left.get() - 1);
            });
            while running.get() > 0 {
                env.sleep(Duration::from_millis(1)).await;
            }
            assert!(db.close().await.is_err());
            disk.power_loss();
            let (db, tree) = open(&env, &disk, options()).await;
            for key in &acknowledged.take() {
                let found = tree.get(key).await.expect("reads").is_some();
                assert!(found, "{} was acknowledged, flush {flushes} failed", key.escape_ascii());
            }
            let report = db.verify().await.expect("runs");
            assert!(report.is_clean(), "flush {flushes}: {report:?}");
        });
    }
}

#[test]
fn large_values_leave_the_cache() {
    const CACHE_BYTES: usize = 8 << 20;
    run(1, 128 << 20, async |env, disk| {
        let options = options().cache_bytes(CACHE_BYTES);
        let (db, tree) = open(&env, &disk, options).await;
        for number in 0..40 {
            tree.put(&key(0, number), &vec![1; 1 << 20]).await.expect("puts");
        }
        for number in 0..40 {
            assert_eq!(tree.get_with(&key(0, number), <[u8]>::len).await.expect("reads"), Some(1 << 20));
        }
        let resident_bytes = db.stats().resident_bytes;
        assert!(resident_bytes <= CACHE_BYTES, "{resident_bytes} bytes are in memory");
    });
}

#[test]
fn a_burst_of_large_values_does_not_outrun_eviction_among_many_leaves() {
    const CACHE_BYTES: usize = 16 << 20;
    run(2, 256 << 20, async |env, disk| {
        let options = options().cache_bytes(CACHE_BYTES).durability(Durability::None);
        let (db, tree) = open(&env, &disk, options).await;
        for number in 0..15_000 {
            tree.put(&key(0, number), &[1; 1000]).await.expect("puts");
        }
        db.checkpoint().await.expect("works");
        let mut most_bytes = 0;
        for number in 0..100 {
            tree.put(&key(1, number), &vec![1; 1 << 20]).await.expect("puts");
            most_bytes = most_bytes.max(db.stats().resident_bytes);
        }
        assert!(most_bytes <= CACHE_BYTES, "{most_bytes} bytes were in memory");
    });
}

#[test]
fn many_readers_of_more_than_memory_holds_stay_within_it() {
    run(3, 128 << 20, async |env, disk| {
        let options = options().cache_bytes(MIN_CACHE_BYTES);
        let (db, tree) = open(&env, &disk, options).await;
        for number in 0..400 {
            tree.put_with(&key(0, number), &vec![1; 5000], WriteOptions::NONE).await.expect("puts");
            tree.put_with(&key(1, number), &[1; 1000], WriteOptions::NONE).await.expect("puts");
        }
        db.checkpoint().await.expect("works");
        let running = Rc::new(Cell::new(32));
        for reader in 0..32 {
            let (tree, running) = (tree.clone(), Rc::clone(&running));
            env.spawn("reader", async move {
                for step in 0..200 {
                    let number = (reader * 7919 + step * 104_729) % 400;
                    tree.get(&key(step % 2, number)).await.expect("reads");
                }
                running.set(running.get() - 1);
            });
        }
        while running.get() > 0 {
            env.sleep(Duration::from_millis(1)).await;
        }
        let resident_bytes = db.stats().resident_bytes;
        assert!(resident_bytes <= MIN_CACHE_BYTES, "{resident_bytes} bytes are counted");
    });
}

#[test]
fn an_interval_is_kept_while_later_writes_wait_for_room_in_the_log() {
    run(4, 64 << 20, async |env, disk| {
        let (_db, tree) = open(&env, &disk, options()).await;
        let (running, most_used) = (Rc::new(Cell::new(4)), Rc::new(Cell::new(0)));
        for writer in 0..4 {
            let (tree, running) = (tree.clone(), Rc::clone(&running));
            let most_used = Rc::clone(&most_used);
            env.spawn("flood", async move {
                for number in 0..4000 {
                    tree.put_with(&key(writer, number), &[1; 1000], WriteOptions::NONE).await.expect("puts");
                    most_used.set(most_used.get().max(tree.db().stats().log_used_bytes));
                }
                running.set(running.get() - 1);
            });
        }
        let db = tree.db();
        let interval = WriteOptions::default().durability(Durability::Interval(Duration::from_millis(100)));
        while running.get() > 0 {
            tree.put_with(b"promised", b"", interval).await.expect("puts");
            let promised = db.last_lsn();
            env.sleep(Duration::from_millis(100)).await;
            assert!(db.durable_lsn() >= promised, "{} < {promised}", db.durable_lsn());
        }
        let stats = db.stats();
        assert!(
            most_used.get() >= stats.log_size_bytes / 2,
            "it was not full: {} {stats:?}",
            most_used.get()
        );
    });
}

#[test]
fn trees_that_are_opened_and_never_written_use_up_no_ids() {
    run(5, 16 << 20, async |env, disk| {
        for round in 0..70 {
            let (db, tree) = open(&env, &disk, options()).await;
            for number in 0..950 {
                db.tree(&format!("{round} {number}")).expect("valid");
            }
            db.tree(&format!("written {round}")).expect("valid").put(b"k", b"v").await.expect("puts");
            drop((db, tree));
            env.sleep(Duration::from_millis(50)).await;
        }
        let (db, _) = open(&env, &disk, options()).await;
        assert_eq!(db.tree_names().len(), 70);
    });
}
