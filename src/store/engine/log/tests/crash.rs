//! Crashes: cores that write one log through the driver on a simulated disk, cut at any point, read
//! again and compared with what was written. Cores come and go, waiters are dropped, bundles are
//! named, the log starts anew further on.
//!
//! A seed decides everything. A failure prints it; with `BOSON_SEED=n` set,
//! `cargo test --lib engine::log::tests::crash` runs that seed alone, with `BOSON_SEEDS=n` as many.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Pool, driver, first_header, fresh_end, name, record};
use crate::block::{MemoryOptions, Namespace};
use crate::rt::{self, Instant};
use crate::sim::{Disk, World};
use crate::store::RtEnv;
use crate::store::engine::log::replay::replay;
use crate::store::engine::log::{CoreDriver, LogDriver, lock};
use crate::store::options::Durability;
use crate::store::wal::{BundleEntry, LogEnd, LogFormat, LogPosition, WalDefect};

const SEEDS: u64 = 40;
/// A log with a defect must be noticed within so many seeds.
const DEFECT_SEEDS: u64 = 60;
const ROUNDS: u32 = 5;
const SEGMENT_BYTES: u32 = 64 << 10;
/// Segments 10 to 15 are the log's.
const SEGMENTS: std::ops::Range<u32> = 10..16;
const BUFFER_BYTES: usize = 8 << 10;
const INTERVAL: Duration = Duration::from_millis(60);

/// What a superblock and a checkpoint would hold. It is durable at once.
#[derive(Clone, Copy)]
struct Superblock {
    start: LogPosition,
    /// Bundles below this one are in batches before the start.
    bundle: u64,
}

/// What was written, by number. After a crash the numbers that are lost are given out again.
#[derive(Default)]
struct History {
    records: BTreeMap<u64, Vec<u8>>,
    /// Numbers below this one were acknowledged as durable.
    acknowledged: u64,
    /// Numbers that are to be durable by a time.
    promised: Vec<(u64, Instant)>,
    /// The newest number of each bundle, by the bundle's.
    bundles: BTreeMap<u64, u64>,
    next_bundle: u64,
    /// Bundles that are durable.
    durable_bundles: Vec<u64>,
}

/// What the seeds reached, so that a workload that tests nothing is noticed.
#[derive(Debug, Default)]
struct Coverage {
    replayed: u64,
    lost: u64,
    checkpoints: u64,
    segments: u64,
    waited_for_segments: u64,
    dropped_waits: u64,
    bundles: u64,
    closed: u64,
    left: u64,
    intervals: u64,
}

/// One life of the machine.
struct Machine {
    log: Arc<LogDriver>,
    pool: Arc<Pool>,
    superblock: Rc<Cell<Superblock>>,
    history: Rc<RefCell<History>>,
    coverage: Rc<RefCell<Coverage>>,
    /// The first bundle of this life: that with ticket 0.
    first_bundle: u64,
}

/// What a core's clients do with their driver at the end of their time.
#[derive(Clone, Copy, Debug)]
enum Way {
    Close,
    Leave,
}

/// A core: attaches, has clients for some time, goes, comes again.
async fn core(machine: Rc<Machine>, disk: Disk, seed: u64, durabilities: [Durability; 3]) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let own = Rc::new(machine.log.attach(&RtEnv, disk.attach_again()).expect("one for each core"));
        let until = rt::now() + Duration::from_micros([3_000, 40_000, 500_000][random.random_range(0..3)]);
        let clients: Vec<_> = durabilities
            .into_iter()
            .map(|durability| {
                rt::spawn(client(Rc::clone(&machine), Rc::clone(&own), random.random(), durability, until))
            })
            .collect();
        for client in clients {
            client.await.expect("no client panics");
        }
        let own = Rc::into_inner(own).expect("the clients are gone");
        let way = if random.random() { Way::Close } else { Way::Leave };
        match way {
            Way::Close => {
                own.close().await.expect("no fault is injected");
                machine.coverage.borrow_mut().closed += 1;
            }
            Way::Leave => {
                drop(own);
                machine.coverage.borrow_mut().left += 1;
                // Its task meets its needs first.
                rt::sleep(Duration::from_millis(300)).await;
            }
        }
    }
}

/// Writes records until its time is over.
async fn client(
    machine: Rc<Machine>,
    own: Rc<CoreDriver<RtEnv, Disk>>,
    seed: u64,
    durability: Durability,
    until: Instant,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut burst = 0;
    while rt::now() < until {
        if burst == 0 {
            rt::sleep(Duration::from_micros(random.random_range(0..1500))).await;
            burst = if random.random_ratio(1, 20) { 80 } else { 1 };
        }
        burst -= 1;
        let count = if random.random_ratio(1, 8) { 3 } else { 1 };
        let is_long = count == 1 && random.random_ratio(1, 20);
        let len = random.random_range(0..if is_long { 1900 } else { 200 });
        let mut room = own.room(count, count as usize * (len + 40)).await.expect("no fault is injected");
        let mut draw = room.draw().expect("the first");
        let last = draw.number() + u64::from(count) - 1;
        for _ in 0..count {
            let number = draw.number();
            let bytes = record(number, len);
            let mut history = machine.history.borrow_mut();
            if random.random_ratio(1, 10) {
                history.records.insert(number, vec![0]);
                draw.void();
            } else {
                draw.append(bytes.len(), |out| out.copy_from_slice(&bytes));
                history.records.insert(number, bytes);
            }
        }
        drop(draw);
        drop(room);
        own.commit(last, durability);
        match durability {
            Durability::Sync if random.random_ratio(1, 10) => {
                let patience = Duration::from_micros(random.random_range(0..1000));
                let waited = rt::timeout(patience, own.wait(last)).await;
                machine.coverage.borrow_mut().dropped_waits += u64::from(waited.is_err());
            }
            Durability::Sync => {
                own.wait(last).await.expect("no fault is injected");
                assert!(own.durable() > last);
                let mut history = machine.history.borrow_mut();
                history.acknowledged = history.acknowledged.max(last + 1);
            }
            Durability::Interval(within) => {
                machine.history.borrow_mut().promised.push((last, rt::now() + within));
                machine.coverage.borrow_mut().intervals += 1;
            }
            Durability::None => {}
        }
        if random.random_ratio(1, 30) {
            bundle(&machine, &own, last, random.random()).await;
        }
    }
}

/// Names a bundle, and perhaps waits until that is durable.
async fn bundle(machine: &Machine, own: &CoreDriver<RtEnv, Disk>, newest: u64, waits: bool) {
    let (number, ticket) = {
        let mut history = machine.history.borrow_mut();
        let number = history.next_bundle;
        history.next_bundle += 1;
        history.bundles.insert(number, newest);
        let entry = BundleEntry { number, trailer: number ^ 5, checksum: number * 3 };
        (number, own.name_bundle(newest, entry))
    };
    assert_eq!(number, machine.first_bundle + ticket);
    if waits {
        own.wait_bundle(ticket).await.expect("no fault is injected");
        machine.history.borrow_mut().durable_bundles.push(number);
        machine.coverage.borrow_mut().bundles += 1;
    }
}

/// Moves the log's start now and then, and whenever a segment is wanted.
async fn checkpoints(machine: Rc<Machine>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut seen = 0;
    loop {
        rt::sleep(Duration::from_micros(random.random_range(0..1000))).await;
        let wanted = machine.pool.wanted.load(Ordering::Relaxed);
        if wanted == seen && random.random_ratio(99, 100) {
            continue;
        }
        machine.coverage.borrow_mut().waited_for_segments += u64::from(wanted > seen);
        seen = wanted;
        let log = &machine.log;
        let (start, bundle) =
            log.with_leader(|leader| (leader.position(), machine.first_bundle + log.bundles.named())).await;
        // Somebody has to make it durable; a store would ask.
        for _ in 0..200 {
            if log.with_leader(|leader| leader.durable().batch + 1 >= start.batch).await {
                machine.superblock.set(Superblock { start, bundle });
                machine.pool.recycle(log, start.segment).await;
                machine.coverage.borrow_mut().checkpoints += 1;
                break;
            }
            rt::sleep(Duration::from_micros(500)).await;
        }
    }
}

/// Replays, and compares with the history, which is cut to what is left.
async fn check(
    disk: Disk,
    format: LogFormat,
    superblock: Superblock,
    history: &mut History,
    coverage: &RefCell<Coverage>,
    crashed_at: Instant,
) -> Result<LogEnd, String> {
    let mut next = superblock.start.first;
    let mut wrong = None;
    let mut bundles = Vec::new();
    let end = replay(&disk, format, superblock.start, async |batch: &crate::store::wal::Batch<'_>| {
        for entry in batch.bundles() {
            let newest = history.bundles.get(&entry.number);
            if newest.is_none_or(|&newest| newest >= batch.header.first) && wrong.is_none() {
                wrong = Some(format!("bundle {} in batch {:?}", entry.number, batch.header));
            }
            bundles.push(entry.number);
        }
        for (number, record) in batch.records() {
            let is_right = number == next && history.records.get(&number).is_some_and(|own| own == record.0);
            if !is_right && wrong.is_none() {
                wrong = Some(format!("record {number} in place of {next}, or not what was written"));
            }
            next += 1;
        }
    })
    .await
    .map_err(|error| error.to_string())?;
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    let left = end.position.first;
    if left < history.acknowledged {
        return Err(format!("{left} of {} acknowledged are left", history.acknowledged));
    }
    let broken = history.promised.iter().find(|&&(number, by)| number >= left && by < crashed_at);
    if let Some((number, by)) = broken {
        return Err(format!("record {number}, promised for {by:?}, is lost at {crashed_at:?}"));
    }
    for number in history.durable_bundles.drain(..) {
        if number >= superblock.bundle && !bundles.contains(&number) {
            return Err(format!("bundle {number} was durable and is lost"));
        }
    }
    history.promised.clear();
    let mut coverage = coverage.borrow_mut();
    coverage.replayed += left - superblock.start.first;
    coverage.segments += end.chain.len() as u64 - 1;
    coverage.lost += history.records.split_off(&left).len() as u64;
    Ok(end)
}

fn random_disk(random: &mut StdRng, block: u32) -> MemoryOptions {
    let slow = [1, 1, 10][random.random_range(0..3)];
    MemoryOptions::disk(2 << 20)
        .block_size_bytes(block)
        .forced_unit_access(random.random())
        .volatile_cache(random.random_ratio(4, 5))
        .write_latency(Duration::from_micros(200) * slow)
        .flush_latency(Duration::from_micros([50, 2000][random.random_range(0..2)]) * slow)
}

fn random_durability(random: &mut StdRng) -> Durability {
    match random.random_range(0..5) {
        0 => Durability::None,
        1 => Durability::Interval(INTERVAL),
        _ => Durability::Sync,
    }
}

/// A machine's lives: writes, crash, replay, comparison; a few times on one disk.
fn run(seed: u64, defect: Option<WalDefect>, coverage: &Rc<RefCell<Coverage>>) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let block: u32 = if random.random() { 512 } else { 4096 };
    let format = super::format(SEGMENT_BYTES, block);
    let disk = Disk::new(random_disk(&mut random, block), seed);
    let (offset, header) = first_header(format);
    disk.overwrite(offset, &header);
    let begin = fresh_end(block).position;
    let superblock = Rc::new(Cell::new(Superblock { start: begin, bundle: 0 }));
    let history = Rc::new(RefCell::new(History { acknowledged: begin.first, ..History::default() }));
    let mut crashed_at = Instant::ORIGIN;
    for round in 0..=ROUNDS {
        let world = World::new(random.random());
        let cores = random.random_range(1..=3);
        let virtual_cores: Vec<_> = (0..cores).map(|core| world.core(&format!("core {core}"))).collect();
        let end = {
            let (machine, superblock) = (disk.attach_again(), superblock.get());
            let (history, coverage) = (Rc::clone(&history), Rc::clone(coverage));
            let checked = virtual_cores[0].block_on(async move {
                let flushed = machine.attach_again();
                let mut own = history.take();
                let end = check(machine, format, superblock, &mut own, &coverage, crashed_at).await;
                history.replace(own);
                // What was read may be in the disk's cache only.
                flushed.flush().await.expect("no fault is injected");
                end
            });
            checked.map_err(|what| format!("seed {seed} round {round}: {what}"))?
        };
        if round == ROUNDS {
            break;
        }
        let used: Vec<_> =
            end.chain.iter().map(|(name, _)| name.segment).chain([end.named.segment]).collect();
        let free = SEGMENTS.filter(|segment| !used.contains(segment));
        let free = free.map(|segment| name(segment, (round + 1) * 10_000));
        let (log, pool) = driver(format, u64::from(round) + 1, &end, free, (cores, BUFFER_BYTES), defect);
        let machine = Rc::new(Machine {
            log,
            pool,
            superblock: Rc::clone(&superblock),
            history: Rc::clone(&history),
            coverage: Rc::clone(coverage),
            first_bundle: history.borrow().next_bundle,
        });
        {
            let mut history = history.borrow_mut();
            history.acknowledged = end.position.first;
        }
        for core_of_world in &virtual_cores {
            let durabilities = [(); 3].map(|()| random_durability(&mut random));
            let task = core(Rc::clone(&machine), disk.attach_again(), random.random(), durabilities);
            drop(core_of_world.spawn(task));
        }
        drop(virtual_cores[0].spawn(checkpoints(Rc::clone(&machine), random.random())));
        let longest_us = [2_000, 20_000, 150_000][random.random_range(0..3)];
        world.run_for(Duration::from_micros(random.random_range(0..longest_us)));
        crashed_at = world.now();
        assert!(!machine.log.has_failed(), "no fault is injected");
        if random.random_ratio(1, 3) {
            disk.kill()
        } else {
            disk.power_loss()
        }
        virtual_cores.iter().for_each(|core| core.crash());
        assert!(lock(&machine.pool.free).len() < 6);
    }
    Ok(())
}

#[test]
fn a_crash_leaves_a_prefix_with_every_acknowledged_record() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let coverage = Rc::default();
    let seeds = match number("BOSON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BOSON_SEEDS").unwrap_or(SEEDS),
    };
    let many = seeds.end - seeds.start >= SEEDS;
    for seed in seeds {
        if let Err(what) = run(seed, None, &coverage) {
            panic!("{what}");
        }
    }
    let coverage = coverage.borrow();
    println!("{coverage:?}");
    if many {
        let Coverage {
            replayed,
            lost,
            checkpoints,
            segments,
            waited_for_segments,
            dropped_waits,
            bundles,
            closed,
            left,
            intervals,
        } = *coverage;
        let all = [replayed, lost, checkpoints, segments, waited_for_segments, dropped_waits, bundles];
        let least = all.into_iter().chain([closed, left, intervals]).min();
        assert!(least > Some(3), "{coverage:?}");
    }
}

fn is_noticed(defect: WalDefect) {
    let coverage = Rc::default();
    let found = (0..DEFECT_SEEDS).find_map(|seed| {
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, Some(defect), &coverage)));
        result.unwrap_or_else(|_| Err("it panicked".to_owned())).err()
    });
    println!("{defect:?}: {found:?}");
    assert!(found.is_some(), "{defect:?} was not noticed in {DEFECT_SEEDS} seeds");
}

#[test]
fn a_flush_that_is_skipped_is_noticed() {
    is_noticed(WalDefect::SkipFlush);
}

#[test]
fn an_acknowledgement_before_the_write_is_noticed() {
    is_noticed(WalDefect::AckBeforeWrite);
}
