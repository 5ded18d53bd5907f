//! Crashes of the whole engine: one or two cores write several trees of one store on a simulated
//! disk, cut at any point, opened again, and compared with what was written. A disk has several
//! lives, and the history goes on from each to the next.
//!
//! | module | what it is |
//! |---|---|
//! | [`history`] | what was written, by number, and what has to be left of it |
//! | [`work`] | clients that put, delete, clear, read, and run transactions; who asks for checkpoints |
//! | [`audit`] | all trees and the mapping, page by page |
//! | [`defects`] | what is broken on purpose is noticed |
//!
//! The number of a write is its place in the history. A crash leaves the writes below some number,
//! which is above all that was acknowledged as durable; the store knows which number that is, as it
//! is the next one that it gives out. All keys of all trees, the catalog among them, have to have
//! what these writes made of them. And no two openings that came to their end have the same epoch.
//!
//! What a life has to meet is rare in a store of usual size. So memory is small, and some disks
//! are, so that the store is full and is cleaned; pages are evicted and loaded all the time, an
//! operator asks for checkpoints every few milliseconds, a watcher has the flusher look at events
//! while bundles are under way, and flushes of the disk take long beside the time between two
//! writes. A life is short, and openings are cut too, before and after they have answered, so that
//! a log is replayed over what another replay has left.
//!
//! A seed decides everything. A failure prints it; with `BOSON_SEED=n` set,
//! `cargo test --lib engine::tests::crash` runs that seed alone, with `BOSON_SEEDS=n` as many.

mod audit;
mod defects;
mod history;
mod work;

use std::cell::{Cell, RefCell};
use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::history::History;
use self::work::{Workload, client, operator, watcher};
use super::Store;
use crate::block::MemoryOptions;
use crate::rt;
use crate::sim::{Disk, VirtualCore, World};
use crate::store::RtEnv;
use crate::store::btree::TreeRoot;
use crate::store::engine::core_store::CoreStore;
use crate::store::engine::counts::{COUNTS, Count, counted};
use crate::store::engine::open::open;
use crate::store::engine::registry::{DYING, NamedTree, catalog};
use crate::store::engine::scan::Scan;
use crate::store::options::Options;
use crate::store::overlay::Direction;

const SEEDS: u64 = 40;
/// So many reach everything that is counted.
const COVERING_SEEDS: u64 = 60;

/// What only the tests know that was reached.
#[derive(Debug, Default)]
struct Coverage {
    writes: Cell<u64>,
    transactions: Cell<u64>,
    /// Trees that were cleared or removed, and operations that were refused for that.
    clears: Cell<u64>,
    outdated: Cell<u64>,
    /// Dying trees that were found at the end of a life.
    dying: Cell<u64>,
    lives: Cell<u64>,
    /// Writes that a crash took.
    lost: Cell<u64>,
    /// Openings that were cut.
    cut_openings: Cell<u64>,
    closed: Cell<u64>,
    audited_pages: Cell<u64>,
    pending: Cell<u64>,
    /// Transactions of many keys.
    large: Cell<u64>,
    gone: Cell<u64>,
    /// Writes that were refused because the store was full.
    refused: Cell<u64>,
    /// Lives with two cores.
    pairs: Cell<u64>,
}

fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}

/// What the rounds of one seed share.
struct Machine {
    disk: Disk,
    options: Options,
    workload: Workload,
    history: RefCell<History>,
    /// That of the last opening that came to its end.
    epoch: Cell<u64>,
    /// When the clients' last life ended, if the store was not opened since.
    crashed_at: Cell<Option<rt::Instant>>,
    coverage: Rc<Coverage>,
}

impl Machine {
    async fn open(&self) -> Result<Store, String> {
        let opened = open(RtEnv, self.disk.attach_again(), &self.options).await;
        let store = opened.map_err(|error| format!("it does not open: {error}"))?;
        let epoch = store.shared.state().superblock.epoch;
        if epoch <= self.epoch.replace(epoch) {
            return Err(format!("epoch {epoch} was that of an opening before"));
        }
        // Before it writes by itself, which it may in an opening that is cut.
        if let Some(crashed_at) = self.crashed_at.take() {
            let next = store.log.log().next_number();
            add(&self.coverage.lost, self.history.borrow_mut().cut(next, crashed_at)?);
        }
        Ok(store)
    }

    /// Opens, and compares everything with the history, which is cut to what is left.
    async fn check(&self, seed: u64) -> Result<Store, String> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut store = self.open().await?;
        let next = store.log.log().next_number();
        self.compare(&store, &mut random).await?;
        while random.random_ratio(1, 3) {
            store.close().await.map_err(|error| format!("it does not close: {error}"))?;
            let roots = self.compare(&store, &mut random).await?;
            let content = Rc::clone(self.history.borrow().content());
            let trees: Vec<_> = roots.into_iter().map(|(tree, root)| (root, content.tree(tree))).collect();
            let seen = audit::audit(&store, &trees).await?;
            add(&self.coverage.closed, 1);
            add(&self.coverage.audited_pages, seen.pages);
            add(&self.coverage.pending, seen.pending);
            add(&self.coverage.gone, seen.gone);
            add(&self.coverage.dying, seen.dying);
            drop(store);
            store = self.open().await?;
            let now = store.log.log().next_number();
            if now < next {
                return Err(format!("{next} was next before it was closed, {now} is now"));
            }
        }
        Ok(store)
    }

    /// Every key of every tree has what it should. The roots of the trees, by their places.
    async fn compare(&self, store: &Store, random: &mut StdRng) -> Result<Vec<(usize, TreeRoot)>, String> {
        let content = Rc::clone(self.history.borrow().content());
        let mut roots = vec![(0, catalog())];
        for tree in self.workload.trees() {
            let name = work::name(tree);
            let expected = content.tree(0).get(&NamedTree::key(name));
            let found = store.find_tree(name);
            if found.as_ref().map(NamedTree::encode).as_ref().map(<[u8; 20]>::as_slice)
                != expected.map(Vec::as_slice)
            {
                return Err(format!("tree {name} is {found:?} instead of {expected:?}"));
            }
            roots.extend(found.map(|found| (tree, found.root)));
        }
        for &(tree, root) in &roots {
            let name = work::name(tree);
            let failed = |error| format!("tree {name:?} cannot be read: {error}");
            for _ in 0..20 {
                let key = self.workload.key(random.random_range(0..self.workload.keys));
                let found = store.get(root, &key, <[u8]>::to_vec).await.map_err(failed)?;
                let expected = content.tree(tree).get(&key);
                if found.as_ref() != expected {
                    let found = found.as_ref().map(|value| (&key[..], &value[..]));
                    return Err(differs(name, found, expected.map(|value| (&key[..], &value[..]))));
                }
            }
            let (len, expected) = (store.len(root.tree), content.tree(tree).len() as u64);
            // Of trees without names, which the catalog has too, the history knows nothing.
            if tree != 0 && len != expected {
                return Err(format!("tree {name:?} is said to have {len} keys, and has {expected}"));
            }
            let is_forwards = random.random();
            let direction = if is_forwards { Direction::Forwards } else { Direction::Backwards };
            let all = (Bound::Unbounded, Bound::Unbounded);
            let mut scan = Scan::new(store, root, all, direction);
            let (mut ascending, mut descending) =
                (content.tree(tree).iter(), content.tree(tree).iter().rev());
            loop {
                let found = loop {
                    // Of trees without names the history knows nothing.
                    match scan.next_ref().await.map_err(failed)? {
                        Some((key, _)) if tree == 0 && key.first() == Some(&DYING) => {}
                        found => break found.map(|(key, value)| (key.to_vec(), value.to_vec())),
                    }
                };
                let found = found.as_ref().map(|(key, value)| (&key[..], &value[..]));
                let expected = if is_forwards { ascending.next() } else { descending.next() };
                let expected = expected.map(|(key, value)| (&key[..], &value[..]));
                if found != expected {
                    return Err(differs(name, found, expected));
                }
                if found.is_none() {
                    break;
                }
            }
        }
        Ok(roots)
    }
}

fn differs<'e>(
    tree: &str,
    found: Option<(&'e [u8], &'e [u8])>,
    expected: Option<(&'e [u8], &'e [u8])>,
) -> String {
    let short = |(key, value): (&'e [u8], &[u8])| (&key[..key.len().min(12)], work::stamp(value));
    let (found, expected) = (found.map(short), expected.map(short));
    format!("tree {tree:?}: {found:?} instead of {expected:?} (key; length of the value, its beginning)")
}

fn random_disk(random: &mut StdRng) -> MemoryOptions {
    let slow = [1, 1, 10][random.random_range(0..3)];
    let trim = crate::block::TrimLeaves::Anything;
    // A small one is full soon, and cleaned all the time.
    let mib = [64, 64, 8][random.random_range(0..3)];
    MemoryOptions::disk(mib << 20)
        .block_size_bytes(if random.random() { 512 } else { 4096 })
        .forced_unit_access(random.random())
        .volatile_cache(random.random_ratio(4, 5))
        .trim(random.random_ratio(1, 2).then_some(trim))
        .write_latency(Duration::from_micros(100) * slow)
        .flush_latency(Duration::from_micros([50, 1000][random.random_range(0..2)]) * slow)
}

fn random_options(random: &mut StdRng) -> Options {
    Options::default()
        .identity(*b"a store of tests")
        .log_bytes(2 << 20)
        .cache_bytes([1 << 20, 1 << 20, 4 << 20][random.random_range(0..3)])
}

fn crash(disk: &Disk, cores: &[VirtualCore], random: &mut StdRng) {
    if random.random_ratio(1, 3) {
        disk.kill();
    } else {
        disk.power_loss();
    }
    cores.iter().for_each(VirtualCore::crash);
}

/// Opens, in a world that ends soon.
fn cut_opening(machine: &Rc<Machine>, random: &mut StdRng) {
    let world = World::new(random.random());
    let core = world.core("core");
    let (shared, seed) = (Rc::clone(machine), random.random());
    drop(core.spawn(async move {
        match shared.open().await {
            Ok(store) => rest(&shared, &store, seed).await,
            Err(what) => shared.history.borrow_mut().fail(what),
        }
    }));
    let longest_us = [500, 5_000, 20_000][random.random_range(0..3)];
    world.run_for(Duration::from_micros(random.random_range(0..longest_us)));
    crash(&machine.disk, &[core], random);
    add(&machine.coverage.cut_openings, 1);
}

/// Nobody writes. What the log had is drained, and checkpoints let go of it.
async fn rest(machine: &Machine, store: &Store, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let longest_us = [500, 5_000, 1_000_000][random.random_range(0..3)];
    loop {
        rt::sleep(Duration::from_micros(random.random_range(0..longest_us))).await;
        if let Err(error) = store.checkpoint().await {
            machine.history.borrow_mut().fail(format!("a checkpoint: {error}"));
            return;
        }
    }
}

/// The second core: attaches to what the first one has opened.
async fn second_core(machine: Rc<Machine>, store: Store, seed: u64) {
    let attached = CoreStore::attach(&store.shared, RtEnv, machine.disk.attach_again());
    let own = attached.expect("two cores are not many");
    drop(store);
    client(machine, own, seed).await;
}

/// A machine's lives: it opens, is compared, works, crashes; a few times on one disk.
fn run(seed: u64, coverage: &Rc<Coverage>) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let machine = Rc::new(Machine {
        disk: Disk::new(random_disk(&mut random), seed),
        options: random_options(&mut random),
        workload: Workload::random(&mut random),
        history: RefCell::default(),
        epoch: Cell::new(0),
        crashed_at: Cell::new(None),
        coverage: Rc::clone(coverage),
    });
    machine.history.borrow_mut().has_others = machine.workload.has_others();
    for round in 0..random.random_range(5..=10) {
        while round > 0 && random.random_ratio(1, 4) {
            cut_opening(&machine, &mut random);
        }
        let world = World::new(random.random());
        let cores: Vec<_> =
            (0..random.random_range(1..=2)).map(|core| world.core(&format!("core {core}"))).collect();
        let (checked, check_seed) = (Rc::clone(&machine), random.random());
        let store = cores[0]
            .block_on(async move { checked.check(check_seed).await })
            .map_err(|what| format!("seed {seed} round {round}: {what}"))?;
        for core in &cores {
            for _ in 0..random.random_range(1..=2) {
                let (machine, store, seed) = (Rc::clone(&machine), Rc::clone(&store), random.random());
                if core.name() == "core 0" {
                    drop(core.spawn(client(machine, store, seed)));
                } else {
                    drop(core.spawn(second_core(machine, store, seed)));
                }
            }
        }
        if random.random() {
            drop(cores[0].spawn(operator(Rc::clone(&machine), Rc::clone(&store), random.random())));
        }
        drop(cores[0].spawn(watcher(Rc::clone(&store), random.random())));
        drop(store);
        add(&coverage.lives, 1);
        add(&coverage.pairs, cores.len() as u64 - 1);
        let longest_us = [2_000, 15_000, 60_000][random.random_range(0..3)];
        world.run_for(Duration::from_micros(random.random_range(0..longest_us)));
        machine.crashed_at.set(Some(world.now()));
        crash(&machine.disk, &cores, &mut random);
        let failed = machine.history.borrow_mut().failure();
        if let Some(error) = failed {
            return Err(format!("seed {seed} round {round}: {error}"));
        }
    }
    Ok(())
}

/// A seed, whose panics are failures too.
fn run_caught(seed: u64, coverage: &Rc<Coverage>) -> Result<(), String> {
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, coverage)));
    ran.unwrap_or_else(|_| Err(format!("seed {seed} panicked")))
}

#[test]
fn a_crash_leaves_a_prefix_with_every_acknowledged_write() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("BOSON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BOSON_SEEDS").unwrap_or(SEEDS),
    };
    let (coverage, count, before) = (Rc::<Coverage>::default(), seeds.end - seeds.start, counted());
    let (mut failures, started) = (Vec::new(), std::time::Instant::now());
    for seed in seeds {
        failures.extend(run_caught(seed, &coverage).err());
    }
    let counts: [u64; COUNTS] = std::array::from_fn(|count| counted()[count] - before[count]);
    println!("{coverage:?} {counts:?} {:?}", started.elapsed());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    if count >= SEEDS {
        let Coverage {
            writes, transactions, lost, cut_openings, closed, audited_pages, pairs, large, ..
        } = &*coverage;
        let Coverage { clears, outdated, dying, .. } = &*coverage;
        for counter in [lost, cut_openings, closed, audited_pages, pairs, large, clears, outdated, dying] {
            assert!(counter.get() > 3, "{coverage:?}");
        }
        assert!(writes.get() > 5_000 && transactions.get() > 500, "{coverage:?}");
        let reached = [Count::Loads, Count::Frames, Count::Bundles, Count::Checkpoints, Count::Splits]
            .into_iter()
            .chain([Count::RootSplits, Count::Removals, Count::Packs, Count::Drained, Count::Trims]);
        for what in reached {
            assert!(counts[what as usize] > 0, "{what:?}: {counts:?}");
        }
    }
    if count >= COVERING_SEEDS {
        let mut reached = counts;
        // A test of its own has these.
        reached[Count::LateChanges as usize] = 1;
        assert!(reached.iter().all(|count| *count > 0), "{counts:?}");
    }
}
