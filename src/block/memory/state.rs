//! What all cores share of a device: its blocks, what is on the way to them, and its faults.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::task::{Poll, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::queue::CommandKind;
use super::fault::{Effect, Fault, met};
use super::file_system::FileSystem;
use super::medium::{Mark, Medium, SECTOR_BYTES};
use super::options::{MemoryOptions, TrimLeaves};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::mem::DmaBuf;
use crate::time::Instant;

pub(super) struct DeviceState {
    random: StdRng,
    medium: Medium,
    /// What is below it, if that may be full.
    pub(super) file_system: Option<FileSystem>,
    pub(super) size_bytes: u64,
    power: Power,
    /// How often the power was cut, or the device removed. What began before that is lost.
    cuts: u64,
    faults: Vec<Fault>,
    /// Writes that take their time: they may reach the medium whatever becomes of their callers.
    in_flight: BTreeMap<u64, WriteInFlight>,
    next_write: u64,
    operations: u64,
    /// Those whose commands hang.
    hanging: Vec<Waker>,
    /// How often hanging commands were let go.
    let_go: u64,
    /// Those to wake where user code may run.
    pub(super) woken: Vec<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    Off,
    Removed,
}

struct WriteInFlight {
    offset: u64,
    bytes: Vec<u8>,
    durable: bool,
    /// When it arrives by itself, because nobody waits for it any more.
    arrives: Option<Instant>,
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) kind: CommandKind,
    /// In bytes.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) len: u64,
}

/// A command that began.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) latency: Duration,
    cuts: u64,
    /// What a flush makes durable.
    mark: Mark,
    pub(super) write: Option<u64>,
}

/// The memory of a command: a part of that of an operation.
pub(super) enum CommandMemory<'a> {
    None,
    Fill(&'a mut [DmaBuf], usize),
    Store(&'a [DmaBuf], usize),
    Compare(&'a DmaBuf, &'a DmaBuf),
}

impl DeviceState {
    pub(super) fn new(options: &MemoryOptions) -> Self {
        Self {
            random: StdRng::seed_from_u64(options.seed),
            medium: Medium::new(options.atomic_write_bytes, options.atomic_boundary_bytes),
            file_system: options
                .file_system_bytes
                .map(|bytes| FileSystem::new(bytes, options.block_size_bytes)),
            size_bytes: options.size_bytes,
            power: Power::On,
            cuts: 0,
            faults: Vec::new(),
            in_flight: BTreeMap::new(),
            next_write: 0,
            operations: 0,
            hanging: Vec::new(),
            let_go: 0,
            woken: Vec::new(),
        }
    }

    /// The device gets a command.
    pub(super) fn begin(
        &mut self,
        command: Command,
        memory: &CommandMemory<'_>,
        options: &MemoryOptions,
        now: Option<Instant>,
    ) -> Result<Begun> {
        self.arrive(now);
        self.check_power(command.kind).map_err(|error| error.outcome_is(Outcome::NotStarted))?;
        let latency = self.latency(options.latency(command.kind));
        let mut write = None;
        if let (CommandKind::Write { durable }, CommandMemory::Store(bufs, from)) = (command.kind, memory)
            && !latency.is_zero()
        {
            let bytes = gather(bufs, *from, bytes_of(command.len)).into_owned();
            let durable = durable || !options.volatile_cache;
            write = Some(self.next_write);
            self.next_write += 1;
            let in_flight = WriteInFlight { offset: command.offset, bytes, durable, arrives: None };
            self.in_flight.insert(self.next_write - 1, in_flight);
        }
        Ok(Begun { latency, cuts: self.cuts, mark: self.medium.mark(), write })
    }

    fn latency(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(if most == 0 { 0 } else { self.random.random_range(0..=most) })
    }

    /// The command's time has passed. Gives whether a compare-and-write wrote; pending if the
    /// command hangs.
    pub(super) fn complete(
        &mut self,
        command: Command,
        begun: &mut Begun,
        memory: CommandMemory<'_>,
        options: &MemoryOptions,
        now: Option<Instant>,
    ) -> Poll<Result<bool>> {
        self.arrive(now);
        let Command { kind, offset, len } = command;
        let in_flight = begun.write.take().map(|id| self.in_flight.remove(&id));
        self.check_power(kind)?;
        if begun.cuts != self.cuts || matches!(in_flight, Some(None)) {
            return Poll::Ready(Err(lost(kind)));
        }
        let effect = met(&mut self.faults, kind, offset, len);
        if effect == Some(Effect::Hang) {
            return Poll::Pending;
        }
        self.operations += 1;
        let mut at = offset;
        match effect {
            Some(Effect::Fail(code)) => {
                if let CommandMemory::Store(bufs, from) = memory {
                    // A failed write may have reached some of its sectors.
                    let sectors = self.random.random_range(0..=len / SECTOR_BYTES);
                    let bytes = gather(bufs, from, bytes_of(sectors * SECTOR_BYTES));
                    self.medium.write(offset, &bytes, !options.volatile_cache);
                }
                return Poll::Ready(Err(failed(kind, code)));
            }
            Some(Effect::LoseCache) => {
                self.medium.lose_cache();
                return Poll::Ready(Err(failed(kind, libc::EIO)));
            }
            Some(Effect::Remove) => {
                self.remove();
                return Poll::Ready(self.check_power(kind).map(|()| true));
            }
            Some(Effect::Vanish) => return Poll::Ready(Ok(true)),
            Some(Effect::CutPower) => {
                if self.random.random() {
                    self.perform(command, begun.mark, memory, effect, options);
                }
                self.cut_power();
                self.power = Power::Off;
                return Poll::Ready(Err(lost(kind)));
            }
            Some(Effect::Misdirect(by)) => {
                let there = offset.saturating_add(by);
                if there.checked_add(len).is_some_and(|end| end <= self.size_bytes) {
                    at = there;
                }
            }
            _ => {}
        }
        let place = Command { offset: at, ..command };
        match kind {
            CommandKind::Read | CommandKind::Flush => {}
            CommandKind::Trim => _ = self.file_system.as_mut().map(|below| below.give_back(at, len)),
            _ if !self.take_blocks(at, len) => return Poll::Ready(Err(failed(kind, libc::ENOSPC))),
            _ => {}
        }
        Poll::Ready(Ok(self.perform(place, begun.mark, memory, effect, options)))
    }

    /// Takes what a range has not got of the file system below. False if there is too little.
    fn take_blocks(&mut self, offset: u64, len: u64) -> bool {
        self.file_system.as_mut().is_none_or(|below| below.take(offset, len))
    }

    /// As [`Namespace::allocate`](super::super::Namespace::allocate).
    pub(super) fn allocate(&mut self, offset: u64, len: u64) -> Result<()> {
        if self.power != Power::On {
            return Err(Error::os(libc::EIO, "allocate"));
        }
        if self.take_blocks(offset, len) { Ok(()) } else { Err(Error::os(libc::ENOSPC, "allocate")) }
    }

    /// Makes it so long. False if the file system below has too little.
    pub(super) fn grow(&mut self, size_bytes: u64) -> bool {
        let old = self.size_bytes;
        let grows = size_bytes <= old || self.take_blocks(old, size_bytes - old);
        self.size_bytes = if grows { size_bytes.max(old) } else { old };
        grows
    }

    fn perform(
        &mut self,
        command: Command,
        mark: Mark,
        memory: CommandMemory<'_>,
        effect: Option<Effect>,
        options: &MemoryOptions,
    ) -> bool {
        let Command { kind, offset, len } = command;
        // What the power is cut under is torn like anything that is not durable.
        let durable = effect != Some(Effect::CutPower)
            && (!options.volatile_cache || kind == (CommandKind::Write { durable: true }));
        match (kind, memory) {
            (CommandKind::Flush, _) => self.medium.make_durable(mark),
            (CommandKind::Trim, _) if options.trim == Some(TrimLeaves::Anything) => {
                self.leave_anything(offset, len, durable, options);
            }
            (CommandKind::Trim | CommandKind::WriteZeroes, _) => self.medium.clear(offset, len, durable),
            (_, CommandMemory::Fill(bufs, from)) => self.fill(offset, len, bufs, from, effect),
            (_, CommandMemory::Store(bufs, from)) => {
                self.store(offset, gather(bufs, from, bytes_of(len)), durable, effect);
            }
            (_, CommandMemory::Compare(expected, new)) => {
                let mut there = vec![0; expected.len()];
                self.medium.blocks().read(offset, &mut there);
                if there[..] != expected[..] {
                    return false;
                }
                self.store(offset, Cow::Borrowed(&new[..]), durable, effect);
            }
            (_, CommandMemory::None) => {}
        }
        true
    }

    fn fill(&mut self, offset: u64, len: u64, bufs: &mut [DmaBuf], from: usize, effect: Option<Effect>) {
        let flipped = (effect == Some(Effect::FlipBit)).then(|| self.random.random_range(0..len * 8));
        let mut done = 0;
        for piece in pieces_mut(bufs, from, bytes_of(len)) {
            if effect == Some(Effect::Stale) {
                self.medium.read_durable(offset + done, piece);
            } else {
                self.medium.blocks().read(offset + done, piece);
            }
            if let Some(bit) = flipped
                && let Some(byte) = (bit / 8).checked_sub(done).and_then(|byte| piece.get_mut(bytes_of(byte)))
            {
                *byte ^= 1 << (bit % 8);
            }
            done += piece.len() as u64;
        }
    }

    fn store(&mut self, offset: u64, bytes: Cow<'_, [u8]>, durable: bool, effect: Option<Effect>) {
        let mut bytes = bytes;
        if effect == Some(Effect::FlipBit) {
            let bit = self.random.random_range(0..bytes.len() * 8);
            bytes.to_mut()[bit / 8] ^= 1 << (bit % 8);
        }
        self.medium.write(offset, &bytes, durable);
    }

    fn leave_anything(&mut self, offset: u64, len: u64, durable: bool, options: &MemoryOptions) {
        let block = u64::from(options.block_size_bytes);
        for at in (offset..offset + len).step_by(bytes_of(block)) {
            match self.random.random_range(0..3) {
                0 => {}
                1 => self.medium.clear(at, block, durable),
                _ => {
                    let mut bytes = vec![0; bytes_of(block)];
                    self.random.fill(&mut bytes[..]);
                    self.medium.write(at, &bytes, durable);
                }
            }
        }
    }

    /// Nobody waits for a write any more: it arrives by itself at `arrives`, or never.
    pub(super) fn orphan(&mut self, write: u64, arrives: Option<Instant>) {
        match arrives {
            Some(_) => {
                if let Some(write) = self.in_flight.get_mut(&write) {
                    write.arrives = arrives;
                }
            }
            None => drop(self.in_flight.remove(&write)),
        }
    }

    /// Writes that nobody waits for reach the medium when their time has passed.
    fn arrive(&mut self, now: Option<Instant>) {
        let Some(now) = now.filter(|_| !self.in_flight.is_empty()) else { return };
        while let Some((_, id)) = self
            .in_flight
            .iter()
            .filter_map(|(&id, write)| Some((write.arrives.filter(|&at| at <= now)?, id)))
            .min()
        {
            if let Some(write) = self.in_flight.remove(&id) {
                self.medium.write(write.offset, &write.bytes, write.durable);
            }
        }
    }

    fn check_power(&self, kind: CommandKind) -> Result<()> {
        match self.power {
            Power::On => Ok(()),
            Power::Off => {
                Err(failed(kind, libc::EIO).because("the device has no power: open it again once it has"))
            }
            Power::Removed => Err(Error::new(ErrorKind::Closed, kind.name())
                .because("the device was removed: open it again once it is back")
                .outcome_is(outcome(kind))),
        }
    }

    /// The processes that use it end: what is in flight arrives or does not. There are no faults
    /// any more.
    pub(super) fn kill(&mut self) {
        for write in std::mem::take(&mut self.in_flight).into_values() {
            if self.random.random() {
                self.medium.write(write.offset, &write.bytes, write.durable);
            }
        }
        self.set_faults(Vec::new());
    }

    /// The power fails and is back: what was not durable is there in part, or is not.
    pub(super) fn cut_power(&mut self) {
        for write in std::mem::take(&mut self.in_flight).into_values() {
            if self.random.random() {
                // Not even a durable one is: it was not done.
                self.medium.write(write.offset, &write.bytes, false);
            }
        }
        self.medium.cut_power(&mut self.random);
        self.set_faults(Vec::new());
        self.cuts += 1;
    }

    pub(super) fn remove(&mut self) {
        self.power = Power::Removed;
        self.cuts += 1;
        self.let_go();
    }

    pub(super) fn power_on(&mut self) {
        self.power = Power::On;
    }

    pub(super) fn is_removed(&self) -> bool {
        self.power == Power::Removed
    }

    pub(super) fn set_faults(&mut self, faults: Vec<Fault>) {
        self.faults = faults;
        self.let_go();
    }

    /// A command hangs since hanging commands were `let_go` as often as that; `waker` is woken when
    /// they are the next time.
    pub(super) fn hangs(&mut self, let_go: u64, waker: Waker) -> bool {
        let hangs = self.let_go == let_go;
        if hangs {
            self.hanging.push(waker);
        }
        hangs
    }

    /// How often hanging commands were let go.
    pub(super) fn times_let_go(&self) -> u64 {
        self.let_go
    }

    fn let_go(&mut self) {
        self.let_go += 1;
        self.woken.append(&mut self.hanging);
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    /// Changes `len` bytes at `offset` behind everybody's back, and durably.
    pub(super) fn alter(&mut self, offset: u64, len: usize, change: impl FnOnce(&mut [u8])) {
        let mut bytes = self.peek(offset, len);
        change(&mut bytes);
        self.medium.write(offset, &bytes, true);
    }

    pub(super) fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.medium.blocks().read(offset, &mut bytes);
        bytes
    }

    pub(super) fn next_data(&self, offset: u64) -> Option<u64> {
        self.medium.blocks().next_data(offset).filter(|&data| data < self.size_bytes)
    }

    pub(super) fn shrink(&mut self, size_bytes: u64) {
        let old = std::mem::replace(&mut self.size_bytes, size_bytes);
        if let Some(below) = &mut self.file_system {
            below.give_back(size_bytes, old.saturating_sub(size_bytes));
        }
        self.medium.truncate(size_bytes);
    }
}

fn outcome(kind: CommandKind) -> Outcome {
    if kind.only_reads() { Outcome::NotStarted } else { Outcome::Unknown }
}

fn failed(kind: CommandKind, code: i32) -> Error {
    Error::os(code, kind.name()).outcome_is(outcome(kind))
}

fn lost(kind: CommandKind) -> Error {
    failed(kind, libc::EIO).because("the device lost its power meanwhile: open it again")
}

fn bytes_of(len: u64) -> usize {
    usize::try_from(len).expect("a range that is in memory")
}

/// The pieces of `bufs` from byte `from` on, `len` bytes of them.
fn pieces(bufs: &[DmaBuf], from: usize, len: usize) -> impl Iterator<Item = &[u8]> {
    let (mut skip, mut left) = (from, len);
    bufs.iter().filter_map(move |buf| {
        let start = skip.min(buf.len());
        skip -= start;
        let part = (buf.len() - start).min(left);
        left -= part;
        (part > 0).then(|| &buf[start..start + part])
    })
}

fn pieces_mut(bufs: &mut [DmaBuf], from: usize, len: usize) -> impl Iterator<Item = &mut [u8]> {
    let (mut skip, mut left) = (from, len);
    bufs.iter_mut().filter_map(move |buf| {
        let start = skip.min(buf.len());
        skip -= start;
        let part = (buf.len() - start).min(left);
        left -= part;
        (part > 0).then(|| &mut buf[start..start + part])
    })
}

/// The same in one piece.
fn gather(bufs: &[DmaBuf], from: usize, len: usize) -> Cow<'_, [u8]> {
    let mut pieces = pieces(bufs, from, len);
    let first = pieces.next().unwrap_or_default();
    if first.len() == len {
        return Cow::Borrowed(first);
    }
    let mut bytes = first.to_vec();
    pieces.for_each(|piece| bytes.extend_from_slice(piece));
    Cow::Owned(bytes)
}
