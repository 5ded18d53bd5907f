//! Crashes of the whole engine: one or two cores write one store on a simulated disk, cut at any
//! point, opened again, and compared with what was written. Several lives on one disk.
//!
//! | module | what it is |
//! |---|---|
//! | [`history`] | what was written, by number, and what has to be left of it |
//! | [`work`] | clients: phases of puts, inserts, deletes of ranges |
//! | [`audit`] | the whole tree and mapping, page by page |
//!
//! The number of a write is its place in the history. A crash leaves the writes below some number,
//! which is above all that was acknowledged as durable; the store knows which number that is, as it
//! is the next one that it gives out. All keys have to have what these writes made of them.
//!
//! A seed decides everything. A failure prints it; with `BOSON_SEED=n` set,
//! `cargo test --lib engine::tests::crash` runs that seed alone, with `BOSON_SEEDS=n` as many.

mod audit;
mod history;
mod work;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::history::History;
use self::work::{Workload, client};
use super::Store;
use crate::block::MemoryOptions;
use crate::rt;
use crate::sim::{Disk, VirtualCore, World};
use crate::store::RtEnv;
use crate::store::engine::core_store::CoreStore;
use crate::store::engine::counts::{COUNTS, Count, counted};
use crate::store::engine::defect::{Defects, EngineDefect};
use crate::store::engine::open::open;
use crate::store::options::Options;
use crate::store::pages::PagesDefect;
use crate::store::wal::WalDefect;

const SEEDS: u64 = 9;
/// So many reach everything that is counted.
const COVERING_SEEDS: u64 = 24;
/// A store with a defect must be noticed within so many seeds.
const DEFECT_SEEDS: u64 = 30;
const ROUNDS: u32 = 4;

/// What only the tests know that was reached.
#[derive(Debug, Default)]
struct Coverage {
    writes: Cell<u64>,
    /// Writes that a crash took.
    lost: Cell<u64>,
    /// Openings that were cut.
    cut_openings: Cell<u64>,
    closed: Cell<u64>,
    audits: Cell<u64>,
    audited_pages: Cell<u64>,
    pending: Cell<u64>,
    gone: Cell<u64>,
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
    coverage: Rc<Coverage>,
}

impl Machine {
    async fn open(&self) -> Result<Store, String> {
        let opened = open(RtEnv, self.disk.attach_again(), &self.options).await;
        opened.map_err(|error| format!("it does not open: {error}"))
    }

    /// Opens, and compares everything with the history, which is cut to what is left.
    async fn check(&self, seed: u64, crashed_at: rt::Instant) -> Result<Store, String> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut store = self.open().await?;
        let next = store.log.log().next_number();
        add(&self.coverage.lost, self.history.borrow_mut().cut(next, crashed_at)?);
        self.compare(&store).await?;
        while random.random_ratio(1, 2) {
            store.close().await.map_err(|error| format!("it does not close: {error}"))?;
            self.compare(&store).await?;
            let content = self.history.borrow().content();
            let seen = audit::audit(&store, &content).await?;
            add(&self.coverage.closed, 1);
            add(&self.coverage.audits, 1);
            add(&self.coverage.audited_pages, seen.pages);
            add(&self.coverage.pending, seen.pending);
            add(&self.coverage.gone, seen.gone);
            drop(store);
            store = self.open().await?;
            let now = store.log.log().next_number();
            if now < next {
                return Err(format!("{next} was next before it was closed, {now} is now"));
            }
        }
        Ok(store)
    }

    /// Every key has what it should.
    async fn compare(&self, store: &Store) -> Result<(), String> {
        let content = self.history.borrow().content();
        for number in 0..self.workload.keys {
            let key = self.workload.key(number);
            let found = store.get(super::catalog(), &key, <[u8]>::to_vec).await;
            let found = found.map_err(|error| format!("key {number} cannot be read: {error}"))?;
            if found.as_ref() != content.get(&key) {
                let of = |value: Option<&Vec<u8>>| value.map(|value| (value.len(), work::stamp(value)));
                return Err(format!(
                    "key {number} has {:?} instead of {:?} (length, stamp)",
                    of(found.as_ref()),
                    of(content.get(&key))
                ));
            }
        }
        Ok(())
    }
}

fn random_disk(random: &mut StdRng) -> MemoryOptions {
    let slow = [1, 1, 10][random.random_range(0..3)];
    let trim = crate::block::TrimLeaves::Anything;
    MemoryOptions::disk(64 << 20)
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
        .cache_bytes([1 << 20, 2 << 20, 8 << 20][random.random_range(0..3)])
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
    let shared = Rc::clone(machine);
    drop(core.spawn(async move {
        if let Ok(store) = shared.open().await {
            // It drains, and takes checkpoints.
            rt::sleep(Duration::from_secs(3600)).await;
            drop(store);
        }
    }));
    let longest_us = [500, 5_000, 50_000][random.random_range(0..3)];
    world.run_for(Duration::from_micros(random.random_range(0..longest_us)));
    crash(&machine.disk, &[core], random);
    add(&machine.coverage.cut_openings, 1);
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
        coverage: Rc::clone(coverage),
    });
    let mut crashed_at = rt::Instant::ORIGIN;
    for round in 0..=ROUNDS {
        while round > 0 && random.random_ratio(1, 3) {
            cut_opening(&machine, &mut random);
        }
        let world = World::new(random.random());
        let cores: Vec<_> =
            (0..random.random_range(1..=2)).map(|core| world.core(&format!("core {core}"))).collect();
        let (checked, check_seed) = (Rc::clone(&machine), random.random());
        let store = cores[0]
            .block_on(async move { checked.check(check_seed, crashed_at).await })
            .map_err(|what| format!("seed {seed} round {round}: {what}"))?;
        for core in &cores {
            for _ in 0..random.random_range(1..=3) {
                let (machine, store, seed) = (Rc::clone(&machine), Rc::clone(&store), random.random());
                if core.name() == "core 0" {
                    drop(core.spawn(client(machine, store, seed)));
                } else {
                    drop(core.spawn(second_core(machine, store, seed)));
                }
            }
        }
        drop(store);
        add(&coverage.pairs, cores.len() as u64 - 1);
        let longest_us = [3_000, 30_000, 150_000][random.random_range(0..3)];
        world.run_for(Duration::from_micros(random.random_range(0..longest_us)));
        crashed_at = world.now();
        crash(&machine.disk, &cores, &mut random);
        let failed = machine.history.borrow_mut().failed.take();
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
    let mut failures = Vec::new();
    for seed in seeds {
        failures.extend(run_caught(seed, &coverage).err());
    }
    let counts: [u64; COUNTS] = std::array::from_fn(|count| counted()[count] - before[count]);
    println!("{coverage:?} {counts:?}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    if count >= SEEDS {
        let Coverage { writes, lost, cut_openings, closed, audited_pages, pairs, .. } = &*coverage;
        for counter in [lost, cut_openings, closed, audited_pages, pairs] {
            assert!(counter.get() > 3, "{coverage:?}");
        }
        assert!(writes.get() > 5_000, "{coverage:?}");
        let reached = [Count::Loads, Count::Frames, Count::Bundles, Count::Checkpoints, Count::Splits]
            .into_iter()
            .chain([Count::RootSplits, Count::Removals, Count::Drained, Count::Trims]);
        for what in reached {
            assert!(counts[what as usize] > 0, "{what:?}: {counts:?}");
        }
    }
    if count >= COVERING_SEEDS {
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }
}

fn is_noticed(defects: Defects) {
    defects.set();
    let coverage = Rc::default();
    let found = (0..DEFECT_SEEDS).find_map(|seed| run_caught(seed, &coverage).err());
    Defects::default().set();
    println!("{defects:?}: {found:?}");
    assert!(found.is_some(), "{defects:?} was not noticed in {DEFECT_SEEDS} seeds");
}

#[test]
fn a_bundle_that_is_installed_before_it_is_durable_is_noticed() {
    is_noticed(Defects { engine: Some(EngineDefect::InstalledBeforeDurable), ..Defects::default() });
}

#[test]
fn a_flush_of_the_log_that_is_skipped_is_noticed() {
    is_noticed(Defects { wal: Some(WalDefect::SkipFlush), ..Defects::default() });
}

#[test]
fn an_acknowledgement_before_the_write_is_noticed() {
    is_noticed(Defects { wal: Some(WalDefect::AckBeforeWrite), ..Defects::default() });
}

#[test]
fn a_segment_that_is_used_again_too_early_is_noticed() {
    is_noticed(Defects { pages: Some(PagesDefect::ReuseEarly), ..Defects::default() });
}
