//! One store on several cores, each with a thread of its own.

use std::future::Future;

use boson::block::{AnyDevice, AnyNamespace, Device};
use boson::rt::{self, CoreConfig, CoreThread};
use boson::store::{Db, Durability, Options, RtEnv, SharedDb, WriteOptions};
use boson::{ErrorKind, Result};

type TestDb = Db<RtEnv, AnyNamespace>;

async fn open(device: &AnyDevice) -> TestDb {
    let namespace = device.attach().await.expect("a way to the device");
    let options = Options::default().durability(Durability::Interval(std::time::Duration::from_millis(20)));
    Db::open_on(RtEnv, namespace, options).await.expect("opens")
}

async fn device(address: &str) -> AnyDevice {
    AnyDevice::open(&address.parse().expect("valid")).await.expect("opens")
}

fn thread(number: usize) -> CoreThread {
    CoreThread::start(format!("boson-{number}"), &CoreConfig::default()).expect("a core")
}

/// Runs `run` on each of the cores, and one more time here, all at once.
async fn everywhere<F, T>(
    cores: &[CoreThread],
    (db, device): (&TestDb, &AnyDevice),
    run: impl Fn(usize, TestDb) -> F + Clone + Send + 'static,
) -> Vec<T>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let mut running = Vec::new();
    for (number, core) in (1..).zip(cores) {
        let (shared, device, run) = (db.shared(), device.clone(), run.clone());
        running.push(core.handle().spawn(async move || {
            let db = shared.attach(&device).await.expect("attaches");
            run(number, db).await
        }));
    }
    let mut results = vec![run(0, db.clone()).await];
    for core in running {
        results.push(core.await.expect("no panic"));
    }
    results
}

fn key(core: usize, number: u32) -> Vec<u8> {
    // Those of all cores lie side by side, so that they meet in pages.
    format!("{number:06}:{core}").into_bytes()
}

const KEYS: u32 = 4000;

/// Long values among them, and deletions.
async fn write_some(core: usize, db: TestDb) {
    let tree = db.tree("all").expect("a name");
    for number in 0..KEYS {
        let len = if number % 100 == 0 { 20_000 } else { 100 };
        tree.put(&key(core, number), &vec![core as u8; len]).await.expect("room");
        if number % 3 == 2 {
            assert!(tree.delete(&key(core, number - 1)).await.expect("deletes"));
        }
        if number % 64 == 0 {
            rt::yield_now().await;
        }
    }
}

async fn check(db: &TestDb, cores: usize) {
    let tree = db.tree("all").expect("a name");
    let mut cursor = tree.range(..);
    for number in 0..KEYS {
        let is_deleted = number % 3 == 1 && number + 1 < KEYS;
        for core in (0..cores).filter(|_| !is_deleted) {
            let (found, value) = cursor.next().await.expect("reads").expect("all are there");
            assert_eq!(found, key(core, number));
            assert!(value.iter().all(|byte| usize::from(*byte) == core));
        }
    }
    assert_eq!(cursor.next().await.expect("reads"), None);
    let deleted = (0..KEYS).filter(|number| number % 3 == 1 && number + 1 < KEYS).count();
    assert_eq!(tree.len(), ((KEYS as usize - deleted) * cores) as u64);
}

#[test]
fn what_several_cores_write_at_once_is_all_there_after_a_restart() {
    let directory = std::env::temp_dir().join(format!("boson-store-cores-{}", std::process::id()));
    let address = format!("file:{}", directory.display());
    boson::run(async move {
        let cores = [thread(1), thread(2)];
        let device = device(&address).await;
        let db = open(&device).await;
        everywhere(&cores, (&db, &device), write_some).await;
        check(&db, 3).await;
        db.close().await.expect("closes");
        drop(db);
        let db = open(&device).await;
        check(&db, 3).await;
        let report = db.verify().await.expect("runs");
        assert!(report.is_clean(), "{report:?}");
        db.close().await.expect("closes");
    });
    std::fs::remove_file(directory).expect("it is there");
}

/// Each core moves amounts between accounts, and looks now and then what all of them have.
#[test]
fn transactions_of_several_cores_are_atomic_and_isolated() {
    const ACCOUNTS: usize = 20;
    const MOVES: usize = 1500;
    async fn balances(db: &TestDb) -> Vec<i64> {
        let tree = db.tree("accounts").expect("a name");
        let names: Vec<[u8; 1]> = (0..ACCOUNTS).map(|account| [account as u8]).collect();
        let keys: Vec<_> = names.iter().map(|name| (&tree, &name[..])).collect();
        let read = db.read(&keys, |all| {
            let balance = |value: &[u8]| i64::from_le_bytes(value.try_into().expect("8 bytes"));
            (0..ACCOUNTS).map(|account| all.get_at(account).map_or(0, balance)).collect()
        });
        read.await.expect("reads")
    }
    async fn work(core: usize, db: TestDb) -> usize {
        let tree = db.tree("accounts").expect("a name");
        let mut moved = 0;
        for step in 0..MOVES {
            let (from, to) = ((step * 7 + core) % ACCOUNTS, (step * 3 + 1) % ACCOUNTS);
            if from == to {
                continue;
            }
            let names = [[from as u8], [to as u8]];
            let keys = [(&tree, &names[0][..]), (&tree, &names[1][..])];
            let written = db.transact(&keys, WriteOptions::default(), |txn| {
                for (place, amount) in [(0, -1_i64), (1, 1)] {
                    let value = txn.get_at(place).map_or([0; 8], |value| value.try_into().expect("8 bytes"));
                    txn.put_at(place, &(i64::from_le_bytes(value) + amount).to_le_bytes());
                }
            });
            written.await.expect("room");
            moved += 1;
            if step % 50 == 0 {
                assert_eq!(balances(&db).await.iter().sum::<i64>(), 0, "half of a transaction was seen");
                rt::yield_now().await;
            }
        }
        moved
    }
    boson::run(async {
        let cores = [thread(1), thread(2)];
        let device = device("mem:64M").await;
        let db = open(&device).await;
        let moved = everywhere(&cores, (&db, &device), work).await;
        assert_eq!(moved.len(), 3);
        let balances = balances(&db).await;
        assert_eq!(balances.iter().sum::<i64>(), 0);
        // What the same steps give one after the other.
        let mut expected = vec![0; ACCOUNTS];
        for core in 0..3 {
            for step in 0..MOVES {
                let (from, to) = ((step * 7 + core) % ACCOUNTS, (step * 3 + 1) % ACCOUNTS);
                expected[from] -= i64::from(from != to);
                expected[to] += i64::from(from != to);
            }
        }
        assert_eq!(balances, expected, "no move was lost");
        db.close().await.expect("closes");
    });
}

/// What a core wrote, and did not wait for, does not go with the core.
#[test]
fn a_core_may_go_at_any_time() {
    boson::run(async {
        let device = device("mem:64M").await;
        let db = open(&device).await;
        for round in 0..3_u8 {
            let core = thread(1);
            let (shared, on) = (db.shared(), device.clone());
            let written = core.handle().spawn(async move || {
                let db = shared.attach(&on).await?;
                let tree = db.tree("left behind")?;
                tree.put_with(&[round], &[round; 100], WriteOptions::default().durability(Durability::None))
                    .await
            });
            written.await.expect("no panic").expect("room");
            drop(core);
        }
        db.close().await.expect("closes");
        drop(db);
        let db = open(&device).await;
        let tree = db.tree("left behind").expect("a name");
        for round in 0..3_u8 {
            assert_eq!(tree.get(&[round]).await.expect("reads"), Some(vec![round; 100]));
        }
        db.close().await.expect("closes");
    });
}

/// A store that is closed is closed for all; what they read they still read.
#[test]
fn the_core_that_opened_a_store_closes_it_for_all() {
    boson::run(async {
        let (core, device) = (thread(1), device("mem:64M").await);
        let db = open(&device).await;
        db.tree("t").expect("a name").put(b"k", b"v").await.expect("room");
        let (shared, on) = (db.shared(), device.clone());
        let (closed, is_closed) = boson::sync::oneshot::channel();
        let (attached, is_attached) = boson::sync::oneshot::channel();
        let other = core.handle().spawn(async move || -> Result<_> {
            let db = shared.attach(&on).await?;
            attached.send(()).expect("it waits");
            is_closed.await.expect("it says so");
            let tree = db.tree("t")?;
            Ok((tree.get(b"k").await?, tree.put(b"k", b"w").await.map_err(|error| error.kind())))
        });
        is_attached.await.expect("it says so");
        let shared: SharedDb = db.shared();
        db.close().await.expect("closes");
        closed.send(()).expect("it waits");
        let (read, written) = other.await.expect("no panic").expect("attaches");
        assert_eq!((read.as_deref(), written), (Some(&b"v"[..]), Err(ErrorKind::Closed)));
        let refused = shared.attach(&device).await.expect_err("nobody attaches to it any more");
        assert_eq!(refused.kind(), ErrorKind::Closed, "{refused}");
    });
}

#[test]
fn a_core_attaches_to_the_device_that_the_store_is_on() {
    boson::run(async {
        let db = open(&device("mem:64M").await).await;
        // It has the same name, and is another one.
        let other = device("mem:64M").await;
        let refused = db.shared().attach(&other).await.expect_err("there is no store");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
        let another = open(&other).await;
        let refused = db.shared().attach(&other).await.expect_err("it is another store");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
        another.close().await.expect("closes");
        db.close().await.expect("closes");
    });
}
