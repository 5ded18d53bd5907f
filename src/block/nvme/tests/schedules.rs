//! Seeded schedules: commands, noise, resets, power cuts and failures in any order, and after each
//! completion and each power cut the data against an oracle.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::super::queue::{Command, CommandKind, Refused, Segment};
use super::super::io::{Fate, QueueCounts};
use super::super::model::{ModelNamespace, ModelOptions, Noise};
use super::super::queue_pair::Mutation;
use super::super::{Phase, ResetCause};
use super::host::{Host, SLOT_BYTES, SLOTS};
use crate::error::{Error, ErrorKind, Outcome};

const BLOCKS: u64 = 48;
const STEPS: u32 = 160;
const MAX_TURNS: u32 = 100_000;
/// A controller that works for so long has recovered from what it had.
const LONG_ENOUGH: Duration = Duration::from_secs(31);

/// A content that a block had. Content 0 is zeros.
#[derive(Clone, Copy, Debug)]
struct Version {
    content: u64,
    /// When its write completed.
    at: u64,
    /// Whether the write surely happened.
    certain: bool,
}

/// What every block may hold.
struct Oracle {
    /// For each block its versions, oldest first, from the newest that is surely durable on.
    blocks: Vec<Vec<Version>>,
    time: u64,
}

impl Oracle {
    fn new() -> Self {
        let zero = Version { content: 0, at: 0, certain: true };
        Self { blocks: (0..BLOCKS).map(|_| vec![zero]).collect(), time: 0 }
    }

    fn of(&mut self, block: u64) -> &mut Vec<Version> {
        &mut self.blocks[usize::try_from(block).expect("few blocks")]
    }

    /// A write of `content` ended.
    fn wrote(&mut self, block: u64, content: u64, certain: bool, durable: bool) {
        self.time += 1;
        let version = Version { content, at: self.time, certain };
        let versions = self.of(block);
        if certain && durable {
            versions.clear();
        }
        versions.push(version);
    }

    /// A flush that was submitted at `since` succeeded.
    fn flushed(&mut self, since: u64) {
        for versions in &mut self.blocks {
            if let Some(last) = versions.iter().rposition(|version| version.certain && version.at <= since) {
                versions.drain(..last);
            }
        }
    }

    /// Whether a read may find `content` now.
    fn may_read(&self, block: u64, content: u64) -> bool {
        let versions = &self.blocks[usize::try_from(block).expect("few blocks")];
        let from = versions.iter().rposition(|version| version.certain).unwrap_or(0);
        versions[from..].iter().any(|version| version.content == content)
    }

    /// The power failed and the block holds `content`: whether it may.
    fn settled(&mut self, block: u64, content: u64) -> bool {
        let versions = self.of(block);
        let may = versions.iter().any(|version| version.content == content);
        versions.clear();
        versions.push(Version { content, at: 0, certain: true });
        may
    }
}

/// The bytes of a block with this content.
fn block_bytes(len: usize, content: u64) -> Vec<u8> {
    content.to_le_bytes().repeat(len / 8)
}

/// The content of a block, if it is of one piece.
fn content_of(bytes: &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first_chunk::<8>()?;
    (*rest == bytes[..rest.len()]).then(|| u64::from_le_bytes(*first))
}

#[derive(Clone, Debug)]
struct InFlight {
    operation: CommandKind,
    block: u64,
    count: u64,
    content: u64,
    since: u64,
    /// Whether a compare-and-write expects what is there; `None` if that is not known any more.
    matches: Option<bool>,
    memory: Vec<Segment>,
}

struct Schedule {
    host: Host,
    random: StdRng,
    oracle: Oracle,
    in_flight: Vec<Option<InFlight>>,
    block_len: usize,
    next_content: u64,
    noise: Noise,
    /// What the seed may do besides commands.
    failures: bool,
}

/// Runs the schedule of `seed`; what went wrong, in words.
pub(super) fn run(seed: u64, mutation: Option<Mutation>) -> Result<QueueCounts, String> {
    let mut random = StdRng::seed_from_u64(seed);
    let shift = if random.random_bool(0.3) { 12 } else { 9 };
    let mut namespace = ModelNamespace::new(BLOCKS, shift);
    namespace.atomic_blocks = [1, 1, 4][random.random_range(0..3)];
    let mut options = ModelOptions::new(namespace);
    options.sgl = random.random_range(0..3);
    options.volatile_cache = random.random_bool(0.8);
    options.ready_steps = Some(random.random_range(0..6));
    options.doorbell_stride = random.random_range(0..3);
    options.shadow_doorbells = random.random_bool(0.4);
    let noise = if random.random_bool(0.7) { Noise::harmless() } else { Noise::default() };
    options.noise = noise;
    let entries = [2, 3, 4, 5, 8, 17, 32][random.random_range(0..7)];
    let mut host =
        Host::try_start(options, entries, random.random()).map_err(|error| format!("start: {error}"))?;
    host.queue.mutate(mutation);
    let mut schedule = Schedule {
        in_flight: vec![None; usize::from(host.queue.slots()).min(usize::from(SLOTS) - 1)],
        host,
        oracle: Oracle::new(),
        block_len: 1 << shift,
        next_content: 1,
        noise,
        failures: mutation.is_none() && random.random_bool(0.7),
        random,
    };
    schedule.run()?;
    match schedule.host.model.violations().first() {
        Some(violation) => Err(format!("the model noticed: {violation}")),
        None => Ok(schedule.host.queue.counts()),
    }
}

impl Schedule {
    fn run(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            match self.random.random_range(0..100) {
                0..=39 => self.submit()?,
                40..=54 => self.host.queue.kick(),
                55..=74 => {
                    self.host.model.step();
                }
                75..=94 => self.poll()?,
                95 if self.failures => self.reset(ResetCause::Requested)?,
                96 if self.failures => {
                    self.host.model.hang(false);
                    self.reset(ResetCause::TimedOut)?;
                }
                97 if self.failures => self.fatal()?,
                98 => self.power_cut()?,
                _ => self.quiet()?,
            }
        }
        self.quiet()?;
        self.read_everything()?;
        self.power_cut()
    }

    fn busy(&self, block: u64, count: u64) -> bool {
        self.in_flight.iter().flatten().any(|other| {
            other.operation != CommandKind::Flush
                && block < other.block + other.count
                && other.block < block + count
        })
    }

    fn submit(&mut self) -> Result<(), String> {
        let Some(index) = self.in_flight.iter().position(Option::is_none) else { return Ok(()) };
        let slot = u16::try_from(index).expect("few slots");
        let count = self.random.random_range(1..=(SLOT_BYTES / self.block_len).min(12) as u64);
        let block = self.random.random_range(0..=BLOCKS - count);
        let operation = match self.random.random_range(0..20) {
            0..=6 => CommandKind::Read,
            7..=12 => CommandKind::Write { durable: false },
            13..=14 => CommandKind::Write { durable: true },
            15..=16 => CommandKind::Flush,
            17 => CommandKind::WriteZeroes,
            18 => CommandKind::Trim,
            _ if self.host.queue.slots() >= 2 => CommandKind::CompareAndWrite,
            _ => CommandKind::Read,
        };
        // Two that overlap have no defined order; the oracle wants one.
        if operation != CommandKind::Flush && self.busy(block, count) {
            return Ok(());
        }
        let content = if matches!(operation, CommandKind::WriteZeroes | CommandKind::Trim) {
            0
        } else {
            self.next_content += 1;
            self.next_content
        };
        let len = usize::try_from(count).expect("few blocks") * self.block_len;
        let memory = self.memory(slot, len);
        let expected = [self.host.segment(slot, true, 0, len)];
        let since = self.oracle.time;
        let mut flight =
            InFlight { operation, block, count, content, since, matches: None, memory: memory.clone() };
        let mut command = Command {
            kind: operation,
            offset: block * self.block_len as u64,
            len: len as u64,
            memory: &memory,
            expected: &[],
        };
        match operation {
            CommandKind::Flush => (command.offset, command.len, command.memory) = (0, 0, &[]),
            CommandKind::Trim | CommandKind::WriteZeroes => command.memory = &[],
            CommandKind::Read => {
                memory.iter().for_each(|segment| self.host.fill(segment, &vec![0xee; segment.len]));
            }
            CommandKind::Write { .. } | CommandKind::CompareAndWrite => {
                let bytes = block_bytes(len, content);
                let mut at = 0;
                for segment in &memory {
                    self.host.fill(segment, &bytes[at..at + segment.len]);
                    at += segment.len;
                }
            }
        }
        if operation == CommandKind::CompareAndWrite {
            let matches = self.random.random_bool(0.5);
            flight.matches = Some(matches);
            command.expected = &expected;
            let mut bytes = Vec::new();
            for block in block..block + count {
                bytes.extend(self.host.model.peek(1, block));
            }
            if !matches {
                bytes[len - 1] ^= 1;
            }
            self.host.fill(&expected[0], &bytes);
        }
        match self.host.send(slot, &command) {
            Ok(()) => self.in_flight[index] = Some(flight),
            Err(Refused::Full) => {}
            Err(Refused::Copy) => return Err(format!("{memory:?} is odd")),
            Err(Refused::Failed(failure)) => return Err(format!("submit: {failure:?}")),
        }
        Ok(())
    }

    /// `len` bytes for `slot`, in one piece or in several that the controller takes.
    fn memory(&mut self, slot: u16, len: usize) -> Vec<Segment> {
        let host = &self.host;
        if len > 4096 && self.random.random_bool(0.4) {
            // Whole pages, in reverse.
            let pages = len.div_ceil(4096);
            let mut pieces: Vec<_> = (0..pages)
                .map(|page| {
                    let piece = (len - page * 4096).min(4096);
                    host.segment(slot, false, (pages - 1 - page) * 4096, piece)
                })
                .collect();
            if pieces.last().is_some_and(|last| last.len == 0) {
                pieces.pop();
            }
            return pieces;
        }
        let from = if len < SLOT_BYTES - 4096 { self.random.random_range(0..64) * 4 } else { 0 };
        vec![host.segment(slot, false, from, len)]
    }

    fn poll(&mut self) -> Result<(), String> {
        let budget = self.random.random_range(1..6);
        let mut done = Vec::new();
        self.host.queue.poll(budget, |slot, result| done.push((slot, result)));
        for (slot, result) in done {
            self.ended(slot, result, false)?;
        }
        Ok(())
    }

    /// A command ended; `disturbed` if a reset or a failure explains an error.
    fn ended(&mut self, slot: u16, result: Result<(), Error>, disturbed: bool) -> Result<(), String> {
        let flight = self.in_flight.get_mut(usize::from(slot)).and_then(Option::take);
        let Some(flight) = flight else { return Err(format!("slot {slot} ends and was not in flight")) };
        let InFlight { operation, block, count, content, matches, .. } = flight;
        let blocks = block..block + count;
        match (operation, result) {
            (CommandKind::Read, Ok(())) => self.check_read(&flight),
            (CommandKind::Flush, Ok(())) => {
                self.oracle.flushed(flight.since);
                Ok(())
            }
            (CommandKind::CompareAndWrite, Err(error)) if error.outcome() == Outcome::NotStarted => {
                if matches == Some(true) {
                    return Err(format!("a compare that should match: {error}"));
                }
                Ok(())
            }
            (CommandKind::CompareAndWrite, Ok(())) if matches == Some(false) => {
                Err("a compare that should not match does".to_owned())
            }
            (_, Ok(())) => {
                let durable = operation == CommandKind::Write { durable: true };
                blocks.for_each(|block| self.oracle.wrote(block, content, true, durable));
                Ok(())
            }
            (_, Err(error)) => {
                let exhausted = self.noise.transient > 0 && error.kind() == ErrorKind::Os;
                if !disturbed && !exhausted {
                    return Err(format!("{operation:?} fails: {error}"));
                }
                if !matches!(operation, CommandKind::Read | CommandKind::Flush) {
                    blocks.for_each(|block| self.oracle.wrote(block, content, false, false));
                }
                Ok(())
            }
        }
    }

    fn check_read(&mut self, flight: &InFlight) -> Result<(), String> {
        let bytes = flight.memory.iter().map(|segment| self.host.bytes(segment)).collect::<Vec<_>>().concat();
        for (bytes, block) in bytes.chunks_exact(self.block_len).zip(flight.block..) {
            match content_of(bytes) {
                Some(content) if self.oracle.may_read(block, content) => {}
                other => return Err(format!("{other:?} is read from block {block}")),
            }
        }
        Ok(())
    }

    /// Lets everything in flight end.
    fn quiet(&mut self) -> Result<(), String> {
        for _ in 0..MAX_TURNS {
            if self.in_flight.iter().all(Option::is_none) {
                return Ok(());
            }
            self.host.queue.kick();
            self.host.turn();
            self.poll()?;
        }
        Err(format!("commands never end: {:?}", self.host.queue))
    }

    fn reset(&mut self, cause: ResetCause) -> Result<(), String> {
        self.host.now += LONG_ENOUGH;
        let failed = self.host.reset(cause).map_err(|error| format!("reset: {error}"))?;
        failed.into_iter().try_for_each(|(slot, result)| self.ended(slot, result, true))
    }

    fn fatal(&mut self) -> Result<(), String> {
        // Its cache may be lost: what is in flight is decided first, then what survived.
        self.host.now += LONG_ENOUGH;
        self.host.model.fail();
        self.host.controller.poll(self.host.now);
        let failed = self.host.recover().map_err(|error| format!("recovery: {error}"))?;
        failed.into_iter().try_for_each(|(slot, result)| self.ended(slot, result, true))?;
        self.settle()
    }

    fn power_cut(&mut self) -> Result<(), String> {
        self.host.model.cut_power();
        self.host.controller.restart(self.host.now);
        self.host.until(Phase::Ready).map_err(|error| format!("after a power cut: {error}"))?;
        let failed = self.host.stop(|_, _, _| Fate::Fail);
        for (slot, result) in failed {
            self.ended(slot, result, true)?;
        }
        // A command that waited to be tried again is still there; it is sent.
        self.settle()?;
        self.host.attach().map_err(|error| format!("after a power cut: {error}"))
    }

    /// The model has lost what was not durable: what it has now is what there is.
    fn settle(&mut self) -> Result<(), String> {
        for block in 0..BLOCKS {
            let bytes = self.host.model.peek(1, block);
            match content_of(&bytes) {
                Some(content) if self.oracle.settled(block, content) => {}
                other => return Err(format!("block {block} holds {other:?} after a loss of power")),
            }
        }
        self.in_flight.iter_mut().flatten().for_each(|flight| flight.matches = None);
        Ok(())
    }

    fn read_everything(&mut self) -> Result<(), String> {
        for block in 0..BLOCKS {
            let offset = block * self.block_len as u64;
            let bytes = self.host.read(offset, self.block_len).map_err(|error| format!("read: {error}"))?;
            match content_of(&bytes) {
                Some(content) if self.oracle.may_read(block, content) => {}
                other => {
                    let held = &self.oracle.blocks[usize::try_from(block).expect("few blocks")];
                    let bytes = &bytes[..16];
                    return Err(format!("block {block} reads {other:?} ({bytes:?}), not one of {held:?}"));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn thousands_of_schedules_keep_their_data() {
    let (first, seeds) = match std::env::var("BOSON_SEED") {
        Ok(seed) => (seed.parse().expect("BOSON_SEED is a number"), 1),
        Err(_) => (0, std::env::var("BOSON_SEEDS").map_or(2000, |seeds| seeds.parse().expect("a number"))),
    };
    let mut seen = QueueCounts::default();
    for seed in first..first + seeds {
        let counts = run(seed, None).unwrap_or_else(|wrong| {
            panic!("seed {seed} (BOSON_SEED={seed} shows it again): {wrong}");
        });
        seen.strays += counts.strays;
        seen.wrong_heads += counts.wrong_heads;
        seen.retries += counts.retries;
        seen.replays += counts.replays;
    }
    // What the schedules are for did happen.
    let counts = [seen.strays, seen.wrong_heads, seen.retries, seen.replays];
    assert!(seeds == 1 || counts.iter().all(|&count| count > 0), "{seen:?}");
}
