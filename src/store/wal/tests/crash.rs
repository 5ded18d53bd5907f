//! Crashes: cores that write one log on a simulated disk, cut at any point, replayed and compared
//! with what was written.
//!
//! A seed decides everything. A failure prints it; with `BOSON_SEED=n` set,
//! `cargo test --lib store::wal::tests::crash` runs that seed alone, with `BOSON_SEEDS=n` as many.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::block::{MemoryOptions, Namespace};
use crate::mem::DmaBuf;
use crate::rt;
use crate::sim::{Disk, World};
use crate::store::pages::{SegmentHeader, SegmentName};
use crate::store::wal::defect::WalDefect;
use crate::store::wal::group::Wal;
use crate::store::wal::leader::NoBatch;
use crate::store::wal::record::{Effect, Operation};
use crate::store::wal::replay::{LogEnd, Replay};
use crate::store::wal::segments::{LogFormat, LogPosition, Segments};
use crate::store::wal::tests::{first_header, format, name, recycle, start};
use crate::store::wal::writer::{CoreLog, NoRoom};

const SEEDS: u64 = 30;
/// A log with a defect must be noticed within so many seeds.
const DEFECT_SEEDS: u64 = 60;
const ROUNDS: u32 = 6;
const SEGMENT_BYTES: u32 = 64 << 10;
/// Segments 10 to 15 are the log's.
const SEGMENTS: std::ops::Range<u32> = 10..16;
const BUFFER_BYTES: usize = 8 << 10;

/// What a superblock and a checkpoint would hold. It is durable at once.
#[derive(Clone)]
struct Superblock {
    start: LogPosition,
    /// The last generation in which each segment was used, as of this checkpoint.
    generations: BTreeMap<u32, u32>,
}

/// What was written, by number. After a crash the numbers that are lost are given out again.
#[derive(Default)]
struct History {
    records: BTreeMap<u64, Vec<u8>>,
    /// Numbers below this one were acknowledged as durable.
    acknowledged: u64,
}

/// What the seeds reached, so that a workload that tests nothing is noticed.
#[derive(Debug, Default)]
struct Coverage {
    replayed: u64,
    lost: u64,
    voids: u64,
    checkpoints: u64,
    segments: u64,
    full: u64,
    /// Batches that were written while the one before was flushed.
    overlapped: u64,
}

/// One life of the machine.
struct Machine {
    wal: Wal,
    format: LogFormat,
    superblock: Rc<RefCell<Superblock>>,
    history: Rc<RefCell<History>>,
    coverage: Rc<RefCell<Coverage>>,
    generations: RefCell<BTreeMap<u32, u32>>,
    /// Where batches begin, oldest first.
    positions: RefCell<VecDeque<LogPosition>>,
    /// Somebody waits for this number to be durable.
    wanted: Cell<u64>,
    flushes: Cell<u32>,
}

impl Machine {
    fn note(&self, name: SegmentName) {
        self.generations.borrow_mut().insert(name.segment, name.generation);
    }

    /// Moves the log's start to a batch before which everything is durable.
    fn checkpoint(&self) {
        let mut lead = self.wal.lead().expect("nothing awaits while one leads");
        let durable = lead.leader().durable().batch;
        let mut positions = self.positions.borrow_mut();
        while positions.get(1).is_some_and(|position| position.batch <= durable + 1) {
            positions.pop_front();
        }
        let Some(&start) = positions.front().filter(|position| position.batch <= durable + 1) else { return };
        *self.superblock.borrow_mut() = Superblock { start, generations: self.generations.borrow().clone() };
        recycle(&mut lead.leader().segments, start.segment);
        self.coverage.borrow_mut().checkpoints += 1;
    }
}

/// A core's client: writes records until the power fails.
async fn client(machine: Rc<Machine>, log: CoreLog, seed: u64, sync: bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut burst = 0;
    loop {
        if burst == 0 {
            rt::sleep(Duration::from_micros(random.random_range(0..1500))).await;
            burst = if random.random_ratio(1, 20) { 80 } else { 1 };
        }
        burst -= 1;
        let count = if random.random_ratio(1, 8) { 3 } else { 1 };
        let is_long = count == 1 && random.random_ratio(1, 20);
        let len = random.random_range(0..if is_long { 1900 } else { 200 });
        let value = vec![random.random::<u8>(); len];
        let mut room = loop {
            match log.room(count, count as usize * (len + 40)) {
                Ok(room) => break room,
                Err(NoRoom::TooLong) => panic!("records are shorter"),
                Err(NoRoom::Full) => {
                    machine.coverage.borrow_mut().full += 1;
                    rt::sleep(Duration::from_micros(100)).await;
                }
            }
        };
        let mut draw = room.draw().expect("the first");
        let last = draw.number() + u64::from(count) - 1;
        for _ in 0..count {
            let number = draw.number();
            let key = number.to_be_bytes();
            let put =
                Operation::Put { tree: 7, effect: Effect::Unknown, expiry: None, key: &key, value: &value };
            let mut bytes = vec![0; put.encoded_len()];
            put.encode(&mut bytes);
            if random.random_ratio(1, 4) {
                // The core is preempted between the draw and the record.
                rt::sleep(Duration::from_micros(random.random_range(0..400))).await;
            }
            let mut history = machine.history.borrow_mut();
            if random.random_ratio(1, 10) {
                history.records.insert(number, vec![0]);
                draw.void();
                machine.coverage.borrow_mut().voids += 1;
            } else {
                draw.append(bytes.len(), |out| out.copy_from_slice(&bytes));
                history.records.insert(number, bytes);
            }
        }
        drop(draw);
        if sync {
            machine.wanted.set(machine.wanted.get().max(last));
            let machine = Rc::clone(&machine);
            drop(rt::spawn(async move {
                while machine.wal.durable() <= last {
                    rt::sleep(Duration::from_micros(50)).await;
                }
                let mut history = machine.history.borrow_mut();
                history.acknowledged = history.acknowledged.max(last + 1);
            }));
        }
    }
}

/// A core's turn at leading.
async fn lead(machine: Rc<Machine>, disk: Rc<Disk>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut out = vec![0; 8 << 10];
    loop {
        rt::sleep(Duration::from_micros(random.random_range(0..200))).await;
        let formed = {
            let mut lead = machine.wal.lead().expect("nothing awaits while one leads");
            let formed = lead.next_batch(&mut out);
            if let Ok(Some(_)) = formed {
                machine.positions.borrow_mut().push_back(lead.leader().position());
            }
            formed
        };
        match formed {
            Ok(None) => {}
            Ok(Some(formed)) => {
                let header = SegmentHeader::decode(&out, &machine.format.identity);
                if let Some(header) = header.ok().filter(|_| formed.offset == 0) {
                    machine.note(header.name);
                    header.next().into_iter().for_each(|next| machine.note(next));
                    machine.coverage.borrow_mut().segments += 1;
                }
                machine.coverage.borrow_mut().overlapped += u64::from(machine.flushes.get() > 0);
                let mut buf = DmaBuf::zeroed(formed.bytes);
                buf.copy_from_slice(&out[..formed.bytes]);
                let at = u64::from(formed.segment) * u64::from(SEGMENT_BYTES) + u64::from(formed.offset);
                disk.write(at, buf).await.expect("no fault is injected");
                machine.wal.lead().expect("nothing awaits while one leads").written(false);
            }
            Err(NoBatch::NoSegment) => machine.checkpoint(),
            Err(error) => panic!("{error:?}"),
        }
        if random.random_ratio(1, 400) {
            machine.checkpoint();
        }
        if machine.wanted.get() >= machine.wal.durable() || matches!(formed, Err(NoBatch::NoSegment)) {
            let flush = machine.wal.lead().expect("nothing awaits while one leads").start_flush();
            if flush.is_some() {
                let (machine, disk) = (Rc::clone(&machine), Rc::clone(&disk));
                machine.flushes.set(machine.flushes.get() + 1);
                drop(rt::spawn(async move {
                    disk.flush().await.expect("no fault is injected");
                    machine.wal.lead().expect("nothing awaits while one leads").flushed();
                    machine.flushes.set(machine.flushes.get() - 1);
                }));
            }
        }
    }
}

/// Replays, and compares with the history, which is cut to what is left.
fn check(
    disk: &Disk,
    format: LogFormat,
    superblock: &Superblock,
    history: &mut History,
    coverage: &mut Coverage,
    defect: Option<WalDefect>,
) -> Result<LogEnd, String> {
    let mut replay = Replay::new(format, superblock.start, defect);
    let mut next = superblock.start.first;
    let mut wrong = None;
    while let Some(segment) = replay.wants() {
        let bytes = disk.peek(u64::from(segment) * u64::from(SEGMENT_BYTES), SEGMENT_BYTES as usize);
        let bytes: &[u8] = &bytes;
        replay.segment(bytes);
        while let Some(batch) = replay.next_batch(bytes) {
            for (number, record) in batch.records() {
                let is_right =
                    number == next && history.records.get(&number).is_some_and(|own| own == record.0);
                if !is_right && wrong.is_none() {
                    wrong = Some(format!("record {number} in place of {next}, or not what was written"));
                }
                next += 1;
            }
        }
    }
    let end = replay.finish().map_err(|damage| format!("{damage:?}"))?;
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    if end.position.first < history.acknowledged {
        return Err(format!("{} of {} acknowledged are left", end.position.first, history.acknowledged));
    }
    coverage.replayed += end.position.first - superblock.start.first;
    coverage.lost += history.records.split_off(&end.position.first).len() as u64;
    Ok(end)
}

/// The log after recovery: every segment that is not in the chain is spare.
fn resume(
    format: LogFormat,
    epoch: u64,
    superblock: &Superblock,
    end: &LogEnd,
    cores: usize,
    defect: Option<WalDefect>,
) -> (Wal, BTreeMap<u32, u32>) {
    let mut generations = superblock.generations.clone();
    let used: Vec<_> = end.chain.iter().map(|(name, _)| *name).chain([end.named]).collect();
    generations.extend(used.iter().map(|name| (name.segment, name.generation)));
    let chain = end.chain.iter().copied().collect();
    let mut segments = Segments::new(format, chain, end.position.offset, end.named);
    for segment in SEGMENTS.filter(|segment| used.iter().all(|name| name.segment != *segment)) {
        let generation = generations.get(&segment).map_or(1, |generation| generation + 1);
        segments.offer(name(segment, generation));
    }
    (Wal::new(format, epoch, end.position, segments, (cores, BUFFER_BYTES), defect), generations)
}

/// A machine's lives: writes, crash, replay, comparison; a few times on one disk.
fn run(seed: u64, defect: Option<WalDefect>, coverage: &Rc<RefCell<Coverage>>) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let block: u32 = if random.random() { 512 } else { 4096 };
    let format = format(SEGMENT_BYTES, block);
    let disk = Disk::new(MemoryOptions::disk(2 << 20).block_size_bytes(block), seed);
    let begin = start(block);
    disk.overwrite(u64::from(begin.segment.segment) * u64::from(SEGMENT_BYTES), &first_header(format));
    let generations = BTreeMap::from([(10, 1), (11, 1)]);
    let superblock = Rc::new(RefCell::new(Superblock { start: begin, generations }));
    let history = Rc::new(RefCell::new(History { acknowledged: begin.first, ..History::default() }));
    for round in 0..ROUNDS {
        let end = {
            let (superblock, mut history) = (superblock.borrow(), history.borrow_mut());
            check(&disk, format, &superblock, &mut history, &mut coverage.borrow_mut(), defect)
                .map_err(|what| format!("seed {seed} round {round}: {what}"))?
        };
        let world = World::new(random.random());
        let cores = random.random_range(1..=3);
        let epoch = u64::from(round) + 1;
        let (wal, generations) = resume(format, epoch, &superblock.borrow(), &end, cores, defect);
        let machine = Rc::new(Machine {
            wal,
            format,
            superblock: Rc::clone(&superblock),
            history: Rc::clone(&history),
            coverage: Rc::clone(coverage),
            generations: RefCell::new(generations),
            positions: RefCell::new(VecDeque::from([end.position])),
            wanted: Cell::new(0),
            flushes: Cell::new(0),
        });
        assert_eq!(machine.format, format);
        let all_sync: bool = random.random();
        let virtual_cores: Vec<_> = (0..cores).map(|core| world.core(&format!("core {core}"))).collect();
        // What was read may be in the disk's cache only.
        let flushed = disk.attach_again();
        virtual_cores[0].block_on(async move { flushed.flush().await.expect("no fault is injected") });
        history.borrow_mut().acknowledged = end.position.first;
        for core in &virtual_cores {
            let own = Rc::new(disk.attach_again());
            let log = machine.wal.attach().expect("one for each core");
            let sync = all_sync || random.random();
            drop(core.spawn(client(Rc::clone(&machine), log, random.random(), sync)));
            drop(core.spawn(lead(Rc::clone(&machine), own, random.random())));
        }
        // A life may be so short that it ends before what a longer one has left behind its end.
        let longest_us = [2_000, 20_000, 150_000][random.random_range(0..3)];
        world.run_for(Duration::from_micros(random.random_range(0..longest_us)));
        virtual_cores.iter().for_each(|core| core.crash());
        if random.random_ratio(1, 3) { disk.kill() } else { disk.power_loss() }
    }
    let mut history = history.borrow_mut();
    check(&disk, format, &superblock.borrow(), &mut history, &mut coverage.borrow_mut(), defect)
        .map_err(|what| format!("seed {seed} at its end: {what}"))?;
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
        let Coverage { replayed, lost, voids, checkpoints, segments, full, overlapped } = *coverage;
        let least = [replayed, lost, voids, checkpoints, segments, full, overlapped].into_iter().min();
        assert!(least > Some(3), "{coverage:?}");
    }
}

fn is_noticed(defect: WalDefect) {
    let coverage = Rc::default();
    let found = (0..DEFECT_SEEDS).find_map(|seed| run(seed, Some(defect), &coverage).err());
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

#[test]
fn an_ignored_chain_is_noticed() {
    is_noticed(WalDefect::IgnoreChain);
}

#[test]
fn a_cut_too_late_is_noticed() {
    is_noticed(WalDefect::CutTooLate);
}
