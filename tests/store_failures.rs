//! Devices that fail once, and memory and time while much is going on.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use boson::sim::{Disk, DiskOptions, Executor, Fault, SimEnv};
use boson::store::{Db, Durability, Env, Options, Tree};

type SimDb = Db<SimEnv, Disk>;
type SimTree = Tree<SimEnv, Disk>;

fn run<F: Future<Output = ()> + 'static>(seed: u64, disk_bytes: u64, test: impl FnOnce(SimEnv, Disk) -> F) {
    let executor = Executor::new(seed);
    let disk = Disk::new(executor.env(), DiskOptions::new(disk_bytes), seed);
    executor.block_on(test(executor.env(), disk));
}

fn options() -> Options {
    Options { log_bytes: 512 << 10, durability: Durability::Sync, ..Options::new([9; 16]) }
}

async fn open(env: &SimEnv, disk: &Disk, options: Options) -> (SimDb, SimTree) {
    let db = Db::open(env.clone(), disk.clone(), options).await.expect("opens");
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
            disk.inject(Some(Fault::FlushLoses(flushes)));
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
            for key in acknowledged.borrow().iter() {
                let found = tree.get(key).await.expect("reads").is_some();
                assert!(found, "{} was acknowledged, flush {flushes} failed", key.escape_ascii());
            }
            let report = db.verify().await.expect("runs");
            assert!(report.is_clean(), "flush {flushes}: {report:?}");
        });
    }
}
