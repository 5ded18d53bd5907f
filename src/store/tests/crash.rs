//! Crashes: a store under load on a simulated disk, cut at any point, opened again, compared with
//! its history.
//!
//! A seed decides everything. A failure prints it; with `BOSON_SEED=n` set,
//! `cargo test --lib store::tests::crash` runs that seed alone, with `BOSON_SEEDS=n` as many.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::block::{MemoryOptions, Namespace};
use crate::error::{Error, ErrorKind};
use crate::rt::Instant;
use crate::sim::{Disk, Executor, SimEnv};
use crate::store::options::StoreDefect;
use crate::store::{Commit, Db, Durability, Env, Options, Tree, WriteOptions};

const SEEDS: u64 = 100;
/// A store with a defect must be noticed within so many seeds.
const DEFECT_SEEDS: u64 = 60;
const ROUNDS: u32 = 3;
const TREES: [&str; 2] = ["left", "right"];
const INTERVAL: Duration = Duration::from_millis(60);

type SimDb = Db<SimEnv, Disk>;
type Contents = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

#[derive(Clone, Debug)]
enum Change {
    Put(usize, Vec<u8>, Vec<u8>),
    Delete(usize, Vec<u8>),
    Clear(usize),
}

/// One record of the log, as the test saw it applied.
struct Entry {
    changes: Vec<Change>,
    durability: Durability,
    applied_at: Instant,
    /// The store has said so. Before that a transaction may still wait for space.
    applied: bool,
}

/// Entry `n` has LSN `n + 1`.
#[derive(Default)]
struct History {
    entries: Vec<Entry>,
    /// The newest LSN that was acknowledged under `Sync`.
    acknowledged: u64,
    /// How many writes found no space.
    refused: u64,
}

impl History {
    fn push(&mut self, env: &SimEnv, durability: Durability, changes: Vec<Change>, applied: bool) -> u64 {
        self.entries.push(Entry { changes, durability, applied_at: env.now(), applied });
        self.entries.len() as u64
    }

    /// What became of a transaction that was pushed as record `lsn`.
    fn transacted(
        &mut self,
        lsn: u64,
        applied: Result<((), Commit), Error>,
    ) -> Result<Option<Commit>, Error> {
        match applied {
            Ok(((), commit)) => {
                assert_eq!(lsn, commit.lsn);
                let entry = usize::try_from(lsn - 1).expect("small");
                self.entries[entry].applied = true;
                Ok(Some(commit))
            }
            Err(error) => {
                // Nothing of it was applied, and while it waited nothing else was.
                assert_eq!(lsn, self.entries.len() as u64);
                self.entries.pop();
                Err(error)
            }
        }
    }

    fn contents(&self, lsn: u64) -> Contents {
        let mut contents = Contents::new();
        for change in self.entries.iter().take(usize::try_from(lsn).expect("small")).flat_map(|e| &e.changes)
        {
            match change.clone() {
                Change::Put(tree, key, value) => drop(contents.insert((tree, key), value)),
                Change::Delete(tree, key) => drop(contents.remove(&(tree, key))),
                Change::Clear(cleared) => contents.retain(|(tree, _), _| *tree != cleared),
            }
        }
        contents
    }
}

/// What the seeds reached, so that a workload that tests nothing is noticed.
#[derive(Debug, Default)]
struct Coverage {
    /// Records that were left, were lost, and came back from the log.
    records: u64,
    lost: u64,
    replayed: u64,
    /// Rounds that had a checkpoint with records.
    checkpointed: u64,
    /// Writes that found no space.
    refused: u64,
}

fn options(defect: Option<StoreDefect>) -> Options {
    Options::default().identity([9; 16]).log_bytes(512 << 10).cache_bytes(256 << 10).defect(defect)
}

fn random_key(random: &mut StdRng) -> Vec<u8> {
    let len = if random.random_ratio(1, 50) { 1500 } else { 6 };
    let mut key = format!("{:05}", random.random_range(0..400u32)).into_bytes();
    key.resize(len, b'k');
    key
}

fn random_value(random: &mut StdRng, crowded: bool) -> Vec<u8> {
    let len = match random.random_range(0..100) {
        0 => random.random_range(130_000..if crowded { 600_000 } else { 200_000 }),
        1..=8 => random.random_range(2_000..20_000),
        9..=40 if crowded => random.random_range(10_000..100_000),
        _ => random.random_range(0..200),
    };
    vec![random.random(); len]
}

/// One client: writes until the power fails.
async fn client(
    env: SimEnv,
    db: SimDb,
    history: Rc<RefCell<History>>,
    seed: u64,
    durability: Durability,
    crowded: bool,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let options = WriteOptions::default().durability(durability);
    let trees: Vec<Tree<SimEnv, Disk>> = TREES.map(|name| db.tree(name).expect("valid")).into();
    loop {
        let tree = random.random_range(0..TREES.len());
        let (key, value) = (random_key(&mut random), random_value(&mut random, crowded));
        let commit = match random.random_range(0..200) {
            0 => db.checkpoint().await.map(|()| None),
            1 => {
                let commit = trees[tree].apply_clear(options).await.expect("clears");
                // A tree that is empty already is left alone.
                if commit.lsn > 0 {
                    let lsn = history.borrow_mut().push(&env, durability, vec![Change::Clear(tree)], true);
                    assert_eq!(lsn, commit.lsn);
                }
                Ok(Some(commit))
            }
            2..=40 => {
                let (deleted, commit) = trees[tree].apply_delete(&key, options).await.expect("deletes");
                if deleted {
                    let lsn =
                        history.borrow_mut().push(&env, durability, vec![Change::Delete(tree, key)], true);
                    assert_eq!(lsn, commit.lsn);
                }
                Ok(Some(commit))
            }
            41..=80 => {
                let other = random_key(&mut random);
                let keys = [(&trees[0], key.as_slice()), (&trees[1], key.as_slice()), (&trees[tree], &other)];
                let pushed = Cell::new(0);
                let applied = db.apply(&keys, options, |txn| {
                    txn.put_at(0, &value);
                    txn.put_at(1, &value);
                    let mut changes = vec![
                        Change::Put(0, key.clone(), value.clone()),
                        Change::Put(1, key.clone(), value.clone()),
                    ];
                    if txn.delete_at(2) {
                        changes.push(Change::Delete(tree, other.clone()));
                    }
                    pushed.set(history.borrow_mut().push(&env, durability, changes, false));
                });
                let applied = applied.await;
                history.borrow_mut().transacted(pushed.get(), applied)
            }
            81 => {
                // Longer than the log's longest record, so that it is written to a place of its
                // own.
                let value = vec![random.random(); 900];
                let first = random.random_range(0..200u32);
                let names: Vec<Vec<u8>> =
                    (first..first + 180).map(|number| format!("{number:05}k").into_bytes()).collect();
                let keys: Vec<_> = names.iter().map(|name| (&trees[tree], name.as_slice())).collect();
                let pushed = Cell::new(0);
                let applied = db.apply(&keys, options, |txn| {
                    (0..names.len()).for_each(|index| txn.put_at(index, &value));
                    let changes =
                        names.iter().map(|name| Change::Put(tree, name.clone(), value.clone())).collect();
                    pushed.set(history.borrow_mut().push(&env, durability, changes, false));
                });
                let applied = applied.await;
                history.borrow_mut().transacted(pushed.get(), applied)
            }
            _ => {
                let put = trees[tree].apply_put(&key, &value, options).await;
                if let Ok(commit) = put {
                    let lsn = history.borrow_mut().push(
                        &env,
                        durability,
                        vec![Change::Put(tree, key, value)],
                        true,
                    );
                    assert_eq!(lsn, commit.lsn);
                }
                put.map(Some)
            }
        };
        let commit = match commit {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                history.borrow_mut().refused += 1;
                continue;
            }
            commit => commit.expect("no fault is injected"),
        };
        if let Some(commit) = commit {
            db.wait(commit).await.expect("no fault is injected");
            if commit.wait {
                let mut history = history.borrow_mut();
                history.acknowledged = history.acknowledged.max(commit.lsn);
            }
        }
        env.sleep(Duration::from_micros(random.random_range(0..3000))).await;
    }
}

/// Everything that a store holds.
async fn read_all(db: &SimDb) -> Contents {
    let mut contents = Contents::new();
    for (index, name) in TREES.iter().enumerate() {
        let mut cursor = db.tree(name).expect("valid").range(..);
        while let Some((key, value)) = cursor.next().await.expect("reads") {
            contents.insert((index, key), value);
        }
    }
    contents
}

/// Opens, checks against the history, and cuts the history to what is left.
async fn check(
    env: SimEnv,
    disk: Disk,
    defect: Option<StoreDefect>,
    history: Rc<RefCell<History>>,
    crashed_at: Instant,
    coverage: Rc<RefCell<Coverage>>,
) -> Result<(), String> {
    let db = Db::open_on(env, disk, options(defect)).await.map_err(|error| error.to_string())?;
    let lsn = db.last_lsn();
    let replayed = lsn - db.stats().checkpoint_lsn;
    {
        let history = history.borrow();
        if lsn > history.entries.len() as u64 {
            return Err(format!("{lsn} records are left of {}", history.entries.len()));
        }
        if lsn < history.acknowledged {
            return Err(format!("record {} was acknowledged, {lsn} are left", history.acknowledged));
        }
        for (index, entry) in history.entries.iter().enumerate().skip(usize::try_from(lsn).expect("small")) {
            if entry.applied
                && entry.durability == Durability::Interval(INTERVAL)
                && entry.applied_at + INTERVAL < crashed_at
            {
                return Err(format!("record {index}, {:?} old, is lost", crashed_at - entry.applied_at));
            }
        }
    }
    let contents = read_all(&db).await;
    if contents != history.borrow().contents(lsn) {
        return Err(format!("the contents are not those after {lsn} records"));
    }
    let report = db.verify().await.map_err(|error| error.to_string())?;
    if !report.is_clean() {
        return Err(format!("{report:?}"));
    }
    db.close().await.map_err(|error| error.to_string())?;
    let mut history = history.borrow_mut();
    let mut coverage = coverage.borrow_mut();
    coverage.records += lsn;
    coverage.lost += history.entries.len() as u64 - lsn;
    coverage.replayed += replayed;
    coverage.refused += std::mem::take(&mut history.refused);
    coverage.checkpointed += u64::from(replayed < lsn);
    history.entries.truncate(usize::try_from(lsn).expect("small"));
    // Closing made all of it durable.
    history.acknowledged = lsn;
    Ok(())
}

/// One life of a machine: load, crash, perhaps a crash while it recovers, recovery, comparison; a
/// few times on one disk.
fn run(seed: u64, defect: Option<StoreDefect>, coverage: &Rc<RefCell<Coverage>>) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    // One in four disks is so small that it is full most of the time.
    let crowded = random.random_ratio(1, 4);
    let options_of_disk = MemoryOptions::disk(0)
        .block_size_bytes(if random.random() { 512 } else { 4096 })
        .max_size_bytes(if crowded { 9 << 20 } else { 64 << 20 });
    let disk = Disk::new(options_of_disk, seed);
    let history = Rc::new(RefCell::new(History::default()));
    for round in 0..ROUNDS {
        let executor = Executor::new(random.random());
        let env = executor.env();
        let machine = disk.attach_again();
        let opened = Rc::clone(&history);
        let seeds: [u64; 4] = random.random();
        let durabilities = random_durabilities(&mut random);
        env.spawn("machine", {
            let env = env.clone();
            async move {
                let db = Db::open_on(env.clone(), machine, options(defect))
                    .await
                    .expect("the last round checked it");
                for (seed, durability) in seeds.into_iter().zip(durabilities) {
                    env.spawn(
                        "client",
                        client(env.clone(), db.clone(), Rc::clone(&opened), seed, durability, crowded),
                    );
                }
            }
        });
        executor.run_for(Duration::from_micros(random.random_range(0..400_000)));
        let crashed_at = env.now();
        executor.crash();
        crash_disk(&disk, &mut random);
        if random.random_ratio(1, 3) {
            let executor = Executor::new(random.random());
            let machine = disk.attach_again();
            let env = executor.env();
            executor.env().spawn("machine", async move {
                drop(Db::open_on(env, machine, options(defect)).await);
            });
            executor.run_for(Duration::from_micros(random.random_range(0..20_000)));
            executor.crash();
            crash_disk(&disk, &mut random);
        }
        let executor = Executor::new(random.random());
        let machine = disk.attach_again();
        executor
            .block_on(check(
                executor.env(),
                machine,
                defect,
                Rc::clone(&history),
                crashed_at,
                Rc::clone(coverage),
            ))
            .map_err(|what| format!("seed {seed} round {round}: {what}"))?;
    }
    Ok(())
}

/// What the four clients ask for: everything at once, or nothing but the weakest, so that much is
/// unflushed.
fn random_durabilities(random: &mut StdRng) -> [Durability; 4] {
    match random.random_range(0..4) {
        0 => [Durability::None; 4],
        1 => [Durability::Interval(INTERVAL); 4],
        _ => [Durability::Sync, Durability::Sync, Durability::Interval(INTERVAL), Durability::None],
    }
}

fn crash_disk(disk: &Disk, random: &mut StdRng) {
    if random.random_ratio(1, 3) { disk.kill() } else { disk.power_loss() }
}

#[test]
fn a_crash_leaves_a_prefix_with_every_acknowledged_write() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let chosen = number("BOSON_SEED");
    let seeds = number("BOSON_SEEDS").unwrap_or(SEEDS);
    let coverage = Rc::default();
    for seed in chosen.map_or(0..seeds, |seed| seed..seed + 1) {
        if let Err(what) = run(seed, None, &coverage) {
            panic!("{what}; replay with BOSON_SEED={seed}");
        }
    }
    let coverage = coverage.borrow();
    println!("{coverage:?}");
    if chosen.is_none() && seeds >= SEEDS {
        assert!(coverage.records > 10_000 && coverage.replayed > 1_000, "{coverage:?}");
        assert!(coverage.lost > 1_000 && coverage.checkpointed > SEEDS / 2, "{coverage:?}");
        assert!(coverage.refused > 50, "{coverage:?}");
    }
}

/// The first seed that notices a defect.
fn noticed(defect: StoreDefect) -> Option<(u64, String)> {
    (0..DEFECT_SEEDS).find_map(|seed| {
        let result = std::panic::catch_unwind(|| run(seed, Some(defect), &Rc::default()));
        match result {
            Ok(Ok(())) => None,
            Ok(Err(what)) => Some((seed, what)),
            Err(_) => Some((seed, "panicked".to_owned())),
        }
    })
}

#[test]
fn a_store_that_skips_flushes_is_noticed() {
    println!("{:?}", noticed(StoreDefect::SkipFlush).expect("a missing flush must be noticed"));
}

#[test]
fn a_store_that_acknowledges_too_early_is_noticed() {
    println!("{:?}", noticed(StoreDefect::AckBeforeWrite).expect("an early acknowledgement must be noticed"));
}

#[test]
fn a_store_that_reuses_units_too_early_is_noticed() {
    println!("{:?}", noticed(StoreDefect::FreeEarly).expect("early reuse must be noticed"));
}

#[test]
fn a_recovery_that_skips_a_hole_is_noticed() {
    println!("{:?}", noticed(StoreDefect::IgnoreChain).expect("a hole in the history must be noticed"));
}

#[test]
fn a_checkpoint_waits_for_values_that_are_on_their_way() {
    let executor = Executor::new(1);
    let env = executor.env();
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let value: Vec<u8> = (0..8_000_000u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
    let (machine, written) = (disk.clone(), value.clone());
    executor.block_on(async move {
        let db = Db::open_on(env, machine, options(None)).await.expect("opens");
        let tree = db.tree("t").expect("valid");
        tree.put_with(b"large", &written, WriteOptions::NONE).await.expect("puts");
        db.checkpoint().await.expect("works");
    });
    executor.crash();
    disk.power_loss();
    let executor = Executor::new(2);
    let (env, machine) = (executor.env(), disk.attach_again());
    executor.block_on(async move {
        let db = Db::open_on(env, machine, options(None)).await.expect("opens");
        let found = db.tree("t").expect("valid").get(b"large").await.expect("reads");
        assert!(found == Some(value), "the checkpoint made it durable");
    });
}

/// What a store holds that is about to become much smaller: for each key the length of its value.
type Lengths = BTreeMap<Vec<u8>, usize>;

/// Fills a store and deletes most of it again, so that its disk shrinks.
async fn fill_and_thin(db: &SimDb, random: &mut StdRng) -> Lengths {
    let tree = db.tree("left").expect("valid");
    let mut lengths = Lengths::new();
    for number in 0..150u32 {
        let key = format!("{number:05}").into_bytes();
        let len = [200, 5_000, 1 << 20][random.random_range(0..3)];
        tree.put_with(&key, &vec![number.to_le_bytes()[0]; len], WriteOptions::NONE).await.expect("room");
        lengths.insert(key, len);
    }
    for number in 0..150u32 {
        let key = format!("{number:05}").into_bytes();
        if random.random_ratio(2, 3) {
            tree.delete_with(&key, WriteOptions::NONE).await.expect("deletes");
            lengths.remove(&key);
        }
    }
    db.flush().await.expect("no fault is injected");
    lengths
}

#[test]
fn a_crash_while_the_disk_shrinks_takes_nothing() {
    let mut shrunk = 0;
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let executor = Executor::new(seed);
        let options_of_disk = MemoryOptions::disk(0).max_size_bytes(256 << 20);
        let disk = Disk::new(options_of_disk, seed);
        let (env, machine) = (executor.env(), disk.clone());
        let lives_for = Duration::from_micros(random.random_range(0..60_000));
        let lengths = executor.block_on(async move {
            let db = Db::open_on(env.clone(), machine, options(None)).await.expect("opens");
            let lengths = fill_and_thin(&db, &mut random).await;
            env.sleep(lives_for).await;
            // Not closed: the tasks end where they are when the executor does.
            std::mem::forget(db);
            lengths
        });
        executor.crash();
        let largest = disk.size_bytes();
        disk.power_loss();
        let executor = Executor::new(seed + 1);
        let (env, machine) = (executor.env(), disk.attach_again());
        executor.block_on(async move {
            let db = Db::open_on(env.clone(), machine, options(None)).await.expect("opens");
            let tree = db.tree("left").expect("valid");
            assert_eq!(tree.len(), lengths.len() as u64, "seed {seed}");
            for (key, len) in lengths {
                assert_eq!(tree.get_with(&key, <[u8]>::len).await.expect("reads"), Some(len), "seed {seed}");
            }
            env.sleep(Duration::from_secs(2)).await;
            let report = db.verify().await.expect("runs");
            assert!(report.is_clean(), "seed {seed}: {report:?}");
            db.close().await.expect("closes");
        });
        shrunk += u32::from(disk.size_bytes() < largest);
    }
    assert!(shrunk > 0, "no disk shrank after its crash");
}
