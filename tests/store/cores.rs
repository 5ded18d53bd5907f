//! One store on several cores, each with a thread of its own.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use boson::block::{AnyDevice, AnyNamespace, Device};
use boson::rt::{self, CoreConfig, CoreThread};
use boson::store::{Db, Durability, Options, RtEnv, SharedDb, WriteOptions};
use boson::{ErrorKind, Result};

type TestDb = Db<RtEnv, AnyNamespace>;

async fn open(device: &AnyDevice) -> TestDb {
    let namespace = device.attach().await.expect("a way to the device");
    let options = Options::default().durability(Durability::Interval(Duration::from_millis(20)));
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
        tree.put(&key(core, number), &vec![u8::try_from(core).expect("few"); len]).await.expect("room");
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
        let names: Vec<_> = (0..ACCOUNTS).map(usize::to_le_bytes).collect();
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
            let names = [from, to].map(usize::to_le_bytes);
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

/// A transaction of so many keys reads and changes them in many steps, while other cores change
/// some of them.
#[test]
fn large_transactions_and_updates_of_other_cores_lose_nothing_of_each_other() {
    const KEYS: usize = 600;
    const ROUNDS: u64 = 150;
    fn increment(value: Option<&[u8]>) -> [u8; 8] {
        (value.map_or(0, |value| u64::from_le_bytes(value.try_into().expect("8 bytes"))) + 1).to_le_bytes()
    }
    async fn work(core: usize, (db, is_over): (TestDb, Arc<AtomicBool>)) -> u64 {
        let tree = db.tree("counters").expect("a name");
        let names: Vec<_> = (0..KEYS).map(usize::to_le_bytes).collect();
        let keys: Vec<_> = names.iter().map(|name| (&tree, &name[..])).collect();
        let mut done = 0;
        while core == 0 && done < ROUNDS * KEYS as u64 {
            let all = db.transact(&keys, WriteOptions::default(), |txn| {
                (0..KEYS).for_each(|place| txn.put_at(place, &increment(txn.get_at(place))));
            });
            all.await.expect("room");
            done += KEYS as u64;
            // The others have their turn, and are in the middle of it when the next one begins.
            rt::sleep(Duration::from_micros(300)).await;
        }
        is_over.fetch_or(core == 0, Ordering::Relaxed);
        while !is_over.load(Ordering::Relaxed) {
            let place = usize::try_from(done).expect("few") * 7 % KEYS;
            let one = db.transact(&keys[place..=place], WriteOptions::default(), |txn| {
                txn.put_at(0, &increment(txn.get_at(0)));
            });
            one.await.expect("room");
            done += 1;
            if done % 16 == 0 {
                rt::yield_now().await;
            }
        }
        done
    }
    boson::run(async {
        let cores = [thread(1), thread(2)];
        let device = device("mem:128M").await;
        let db = open(&device).await;
        let is_over = Arc::new(AtomicBool::new(false));
        let run = move |core, db| work(core, (db, Arc::clone(&is_over)));
        let done = everywhere(&cores, (&db, &device), run).await;
        let tree = db.tree("counters").expect("a name");
        let mut sum = 0;
        for name in (0..KEYS).map(usize::to_le_bytes) {
            let value = tree.get(&name).await.expect("reads").expect("it is there");
            sum += u64::from_le_bytes(value.try_into().expect("8 bytes"));
        }
        assert!(done[1] > 100 && done[2] > 100, "{done:?}: nobody came in between");
        assert_eq!(sum, done.iter().sum::<u64>(), "{done:?}");
        db.close().await.expect("closes");
    });
}

/// Cores come and go while others write, and what a core wrote, and did not wait for, does not go
/// with it.
#[test]
fn a_core_that_detaches_leaves_the_others_nothing_to_miss() {
    const ROUNDS: u8 = 20;
    let directory = std::env::temp_dir().join(format!("boson-store-detach-{}", std::process::id()));
    let address = format!("file:{}", directory.display());
    boson::run(async move {
        let device = device(&address).await;
        let db = open(&device).await;
        let sync = WriteOptions::default().durability(Durability::Sync);
        let (stays, is_over) = (db.clone(), Rc::new(Cell::new(false)));
        let ends = Rc::clone(&is_over);
        let staying = rt::spawn(async move {
            let tree = stays.tree("stays").expect("a name");
            let mut count = 0_u32;
            while !ends.get() {
                tree.put_with(&count.to_be_bytes(), b"v", sync).await.expect("the store goes on");
                count += 1;
            }
            count
        });
        for round in 0..ROUNDS {
            let core = thread(1);
            let (shared, on) = (db.shared(), device.clone());
            let written = core.handle().spawn(async move || {
                let db = shared.attach(&on).await?;
                let tree = db.tree("left behind")?;
                for number in 0..20 {
                    tree.put_with(&[round, number], &[round; 100], sync).await?;
                }
                let lazy = WriteOptions::default().durability(Durability::None);
                tree.put_with(&[round], &[round; 100], lazy).await?;
                drop(tree);
                db.detach().await
            });
            written.await.expect("no panic").expect("room");
            drop(core);
        }
        is_over.set(true);
        let count = staying.await.expect("no panic");
        db.close().await.expect("closes");
        drop(db);
        let db = open(&device).await;
        let tree = db.tree("left behind").expect("a name");
        assert_eq!(
            (tree.len(), db.tree("stays").expect("a name").len()),
            (u64::from(ROUNDS) * 21, count.into())
        );
        for round in 0..ROUNDS {
            assert_eq!(tree.get(&[round]).await.expect("reads"), Some(vec![round; 100]));
        }
        db.close().await.expect("closes");
    });
    std::fs::remove_file(directory).expect("it is there");
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
