//! One core's I/O queue pair: commands in, completions out. No lock, no atomic read-modify-write,
//! no allocation between [`QueuePair::submit`] and [`QueuePair::poll`].
//!
//! A command occupies a *slot*, a number that the caller chooses and that is free again when
//! [`QueuePair::poll`] (or [`QueuePair::stop`]) has reported it. Each slot has a page of its own
//! for a PRP or SGL list. A compare-and-write takes two entries of the rings: index `slot` is its
//! write, `slot + slots` its compare.

use std::collections::VecDeque;
use std::fmt;
use std::ptr::NonNull;

use super::command::{DEALLOCATE, Entry, FORCE_UNIT_ACCESS, FUSED_FIRST, FUSED_SECOND, opcode};
use super::command_id::CommandIds;
use super::controller::QueueSpec;
use super::dma::{DmaMemory, DmaRegion, Regions};
use super::registers::{Capabilities, Registers};
use super::rings::{COMPLETION_BYTES, ENTRY_BYTES, Rings};
use super::status::Status;
use super::transfer::{LIST_BYTES, Method, SglSupport, Unfit, describe};
use crate::error::{Error, ErrorKind, Outcome, Result};

/// The most entries of a queue that the driver asks for: more would leave too few bits of a command
/// id for its generation.
pub(super) const MAX_ENTRIES: u16 = 1024;
/// How often a command that ended with a transient status is tried in all.
const MAX_TRIES: u8 = 4;
/// The most blocks of one read, write or write-zeroes (NLB has 16 bits and means one more).
const MAX_BLOCKS: u64 = 1 << 16;
/// The most ranges of one Dataset Management command.
const MAX_RANGES: u64 = 256;

/// A piece of memory of a command: contiguous, in a region that the device reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    ptr: NonNull<u8>,
    len: usize,
}

impl Segment {
    /// The `len` bytes from `ptr`.
    ///
    /// # Safety
    ///
    /// They are valid for reads and writes, and nothing else writes them (or, if a device is to
    /// write them, reads them), until the command that they are given to is reported as done.
    pub unsafe fn new(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len }
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "an empty segment is as good as any")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its address in this process.
    pub fn address(&self) -> usize {
        self.ptr.addr().get()
    }
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads into the memory.
    Read,
    /// Writes the memory; `durable` writes survive a power failure once they complete (FUA).
    Write {
        /// Whether it is to be on the medium when it completes.
        durable: bool,
    },
    /// Makes every write that completed before it durable.
    Flush,
    /// Says that blocks hold nothing of use (Dataset Management, deallocate).
    Trim,
    /// Makes blocks read as zeros.
    WriteZeroes,
    /// Writes the memory if the blocks are as `expected` (fused compare and write).
    CompareAndWrite,
}

impl Operation {
    /// Its name in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write { .. } => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::WriteZeroes => "write zeroes",
            Self::CompareAndWrite => "compare and write",
        }
    }

    /// Whether it changes the namespace or what is durable of it.
    fn changes(self) -> bool {
        self != Self::Read
    }
}

/// A command: whole blocks, no more than the controller's largest transfer.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// What to do.
    pub operation: Operation,
    /// Where in the namespace, in bytes.
    pub offset: u64,
    /// How much of it, in bytes; 0 for a flush.
    pub len: u64,
    /// The memory, of `len` bytes; none for a flush, a trim and zeroes.
    pub memory: &'a [Segment],
    /// What a compare-and-write expects to find, of `len` bytes.
    pub expected: &'a [Segment],
}

/// Why a command was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// No place in the queue now; some after the next completions.
    Full,
    /// The memory is in too odd pieces for this controller, or it does not reach it: copy it into
    /// one piece of the core's arena.
    Odd,
    /// It will not be taken at all.
    Failed(Error),
}

/// What a queue pair is attached to: one namespace in one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What it is called in errors.
    pub name: String,
    /// The namespace's number (NSID).
    pub namespace: u32,
    /// Its block size as a power of two.
    pub block_shift: u32,
    /// Whether the controller has fused compare and write.
    pub fused: bool,
    /// The controller's page size as a power of two.
    pub page_shift: u32,
    /// The alignment of SGL pieces in bytes (1 or 4), where the controller has SGLs.
    pub sgl_alignment: Option<u32>,
}

/// What is to become of a command that was in flight when its controller stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is sent again when the queue pair resumes.
    Replay,
    /// It fails, and its error says that it may have taken effect.
    Fail,
}

/// What to do with a command when a controller was reset. `announced` says whether the controller
/// was told about it at all, `healthy` that the host wanted the reset and the controller had not
/// failed.
///
/// - What was never announced did not happen: it is replayed.
/// - A read changes nothing: it is replayed.
/// - A flush is replayed after a healthy reset, which keeps the controller's cache. A controller
///   that failed may have lost the cache, and a second flush would call lost writes durable: it
///   fails.
/// - A write, trim or compare-and-write may have taken effect, and a write to the same blocks that
///   came after it would be undone if its caller has given it up: it fails. A caller that knows
///   that somebody still waits for a write may replay it.
pub fn default_fate(operation: Operation, announced: bool, healthy: bool) -> Fate {
    match operation {
        _ if !announced => Fate::Replay,
        Operation::Read => Fate::Replay,
        Operation::Flush if healthy => Fate::Replay,
        _ => Fate::Fail,
    }
}

/// What a queue pair counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Commands that were taken.
    pub submitted: u64,
    /// Commands that were reported as done.
    pub completed: u64,
    /// Writes of the submission queue's doorbell.
    pub tail_doorbells: u64,
    /// Writes of the completion queue's doorbell.
    pub head_doorbells: u64,
    /// Commands that were tried again after a transient status.
    pub retries: u64,
    /// Commands that were sent again after a reset.
    pub replays: u64,
    /// Completions for no command in flight: unknown, duplicate or too late.
    pub strays: u64,
    /// Completions that said the controller read entries which there are not.
    pub wrong_heads: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The controller knows the rings.
    Attached,
    /// The controller does not know them; commands wait.
    Stopped,
    /// It never will again.
    Gone,
}

/// What is known about the command in a slot. Its entries are kept to send them again.
#[derive(Clone, Debug)]
struct Tracker {
    entry: Entry,
    /// Its number among those taken.
    number: u64,
    operation: Operation,
    tries: u8,
    /// How many completions are to come; 0 if the slot is free or the command waits to be sent.
    pending: u8,
    busy: bool,
    /// The first failure of its entries.
    status: Status,
}

/// Breaks the driver on purpose: each mutation must be noticed by the model's tests.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// A doorbell is written before its entry.
    DoorbellFirst,
    /// Two commands in flight have the same id.
    SharedId,
    /// A flush is reported as done and never sent.
    SkippedFlush,
}

/// A submission queue and its completion queue, of one core.
pub struct QueuePair<R> {
    rings: Rings<R>,
    ids: CommandIds,
    trackers: Box<[Tracker]>,
    /// The compare of a compare-and-write in the slot of the same number.
    compares: Box<[Entry]>,
    /// List pages: one per index.
    lists: DmaRegion,
    regions: Regions,
    attachment: Attachment,
    method: Method,
    number: u16,
    vector: Option<u16>,
    state: State,
    /// The number of the next command.
    next_number: u64,
    /// The controller was told about every command with a smaller number.
    announced: u64,
    /// Slots whose command is to be sent (again) when there is room.
    waiting: VecDeque<u16>,
    counts: QueueCounts,
    #[cfg(test)]
    mutation: Option<Mutation>,
    #[cfg(test)]
    skipped: VecDeque<u16>,
}

impl<R> fmt::Debug for QueuePair<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair")
            .field("number", &self.number)
            .field("name", &self.attachment.name)
            .field("state", &self.state)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl<R: Registers> QueuePair<R> {
    /// Queues `number` (1 or more) of `entries` places, which interrupt with `vector` if there is
    /// one. The controller does not know them until [`QueuePair::spec`] was given to
    /// [`Request::CreateQueues`](super::Request::CreateQueues) and [`QueuePair::resume`] called.
    ///
    /// # Errors
    ///
    /// `entries` is not between 2 and what the controller has, or there is no memory.
    pub fn new(
        registers: R,
        capabilities: &Capabilities,
        memory: &dyn DmaMemory,
        number: u16,
        entries: u16,
        vector: Option<u16>,
        attachment: Attachment,
    ) -> Result<Self> {
        let most = u16::try_from(capabilities.max_queue_entries).unwrap_or(u16::MAX).min(MAX_ENTRIES);
        if number == 0 || !(2..=most).contains(&entries) {
            return Err(Error::new(ErrorKind::InvalidInput, "create queue pair")
                .at(attachment.name)
                .because(format!("{entries} entries: a queue has 2 to {most}")));
        }
        let places = usize::from(entries);
        let slots = places - 1;
        // A fused pair takes two places, and one stays free.
        let fused = attachment.fused && entries >= 3;
        let indices = if fused { 2 * slots } else { slots };
        let region = |len: usize| memory.allocate(len.next_multiple_of(4096));
        let rings = Rings::new(
            registers,
            capabilities,
            number,
            entries,
            region(places * ENTRY_BYTES)?,
            region(places * COMPLETION_BYTES)?,
        );
        let tracker = Tracker {
            entry: Entry::new(0, 0),
            number: 0,
            operation: Operation::Read,
            tries: 0,
            pending: 0,
            busy: false,
            status: Status::SUCCESS,
        };
        Ok(Self {
            rings,
            ids: CommandIds::new(indices),
            trackers: vec![tracker; slots].into(),
            compares: vec![Entry::new(0, 0); indices - slots].into(),
            lists: region(indices * LIST_BYTES)?,
            regions: Regions::new(),
            method: Method {
                page_shift: attachment.page_shift,
                sgl: attachment.sgl_alignment.map(|alignment| SglSupport { alignment }),
            },
            attachment,
            number,
            vector,
            state: State::Stopped,
            next_number: 0,
            announced: 0,
            waiting: VecDeque::with_capacity(slots),
            counts: QueueCounts::default(),
            #[cfg(test)]
            mutation: None,
            #[cfg(test)]
            skipped: VecDeque::new(),
        })
    }

    /// What the controller is to be told about the queues.
    pub fn spec(&self) -> QueueSpec {
        let [submissions, completions] = self.rings.device_addresses();
        QueueSpec {
            number: self.number,
            entries: self.rings.entries(),
            submissions,
            completions,
            vector: self.vector,
        }
    }

    /// How many slots there are.
    pub fn slots(&self) -> u16 {
        self.rings.entries() - 1
    }

    /// How many commands are in flight or wait to be sent again.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.counts.submitted - self.counts.completed).unwrap_or(usize::MAX)
    }

    /// The memory that commands may name.
    pub fn regions_mut(&mut self) -> &mut Regions {
        &mut self.regions
    }

    /// What it counted.
    pub fn counts(&self) -> QueueCounts {
        QueueCounts { wrong_heads: self.rings.wrong_heads(), ..self.counts }
    }

    /// The id of the command in `slot` for
    /// [`Request::Abort`](super::Request::Abort), if it is with the controller.
    pub fn command_id(&self, slot: u16) -> Option<u16> {
        self.ids.current(usize::from(slot))
    }

    /// Whether a completion waits in memory.
    pub fn has_completion(&self) -> bool {
        self.state == State::Attached && self.rings.has_completion()
    }

    #[cfg(test)]
    pub(super) fn mutate(&mut self, mutation: Option<Mutation>) {
        self.mutation = mutation;
    }

    /// Where the submission and the completion ring are in this process.
    #[cfg(test)]
    pub(super) fn ring_pointers(&self) -> [*mut u8; 2] {
        self.rings.pointers()
    }

    /// Puts a command into `slot`, which is free and less than [`QueuePair::slots`]. The controller
    /// sees it after [`QueuePair::kick`].
    ///
    /// # Errors
    ///
    /// Nothing was done: see [`Refusal`].
    #[inline]
    pub fn submit(&mut self, slot: u16, transfer: &Transfer<'_>) -> Result<(), Refusal> {
        let index = usize::from(slot);
        let fused = transfer.operation == Operation::CompareAndWrite;
        if self.state != State::Attached {
            return Err(self.not_attached(transfer));
        }
        if self.rings.room() < 1 + u16::from(fused) {
            return Err(Refusal::Full);
        }
        if self.trackers.get(index).is_none_or(|tracker| tracker.busy) {
            return Err(self.invalid(transfer, format!("slot {slot} is in use or there is none")));
        }
        let entry = self.entry(index, transfer)?;
        if fused {
            self.compares[index] = self.compare(index, transfer)?;
        }
        let tracker = &mut self.trackers[index];
        tracker.entry = entry;
        tracker.operation = transfer.operation;
        tracker.tries = 0;
        tracker.busy = true;
        self.counts.submitted += 1;
        #[cfg(test)]
        if self.mutation == Some(Mutation::SkippedFlush) && transfer.operation == Operation::Flush {
            self.skipped.push_back(slot);
            return Ok(());
        }
        self.send(index);
        Ok(())
    }

    /// Tells the controller about everything that was submitted since the last time, with one write
    /// of the doorbell.
    #[inline]
    pub fn kick(&mut self) {
        if self.announced != self.next_number && self.state == State::Attached {
            self.announced = self.next_number;
            self.counts.tail_doorbells += 1;
            self.rings.ring_tail();
        }
    }

    /// Reports at most `budget` completions to `done`, with the slot, which is free again, and
    /// returns how many it took from the queue.
    #[inline]
    pub fn poll(&mut self, budget: usize, done: &mut dyn FnMut(u16, Result<()>)) -> usize {
        if self.state != State::Attached {
            return 0;
        }
        let mut taken = 0;
        while taken < budget {
            let Some(completion) = self.rings.pop() else { break };
            taken += 1;
            let known = if completion.submission_queue == self.number {
                self.ids.complete(completion.command_id)
            } else {
                None
            };
            let Some(index) = known else {
                self.stray();
                continue;
            };
            self.rings.completed();
            self.end(index, completion.status, done);
        }
        if taken > 0 {
            self.counts.head_doorbells += 1;
            self.rings.ring_head();
        }
        if !self.waiting.is_empty() {
            self.send_waiting();
        }
        #[cfg(test)]
        while let Some(slot) = self.skipped.pop_front() {
            self.report(usize::from(slot), Ok(()), done);
        }
        taken
    }

    /// The controller has stopped (it is disabled, was reset by the bus, or is gone) and touches no
    /// memory any more. Every command in flight fails now with `error` or waits for
    /// [`QueuePair::resume`], as `decide` says for its slot, its operation, and whether it was
    /// announced to the controller. The rings are as new.
    pub fn stop(
        &mut self,
        error: &dyn Fn(Operation) -> Error,
        decide: &mut dyn FnMut(u16, Operation, bool) -> Fate,
        done: &mut dyn FnMut(u16, Result<()>),
    ) {
        if self.state == State::Gone {
            return;
        }
        self.state = State::Stopped;
        self.rings.clear();
        let announced = self.announced;
        self.announced = self.next_number;
        for index in 0..self.trackers.len() {
            for id in [index, index + self.trackers.len()] {
                if self.ids.is_issued(id) {
                    self.ids.revoke(id);
                }
            }
            let tracker = &mut self.trackers[index];
            if tracker.pending == 0 {
                // Free, or it waits already.
                continue;
            }
            let slot = u16::try_from(index).expect("at most 1023 slots");
            tracker.pending = 0;
            let (operation, was_announced) = (tracker.operation, tracker.number < announced);
            match decide(slot, operation, was_announced) {
                Fate::Replay => {
                    self.counts.replays += 1;
                    self.waiting.push_back(slot);
                }
                Fate::Fail => self.report(index, Err(error(operation)), done),
            }
        }
    }

    /// The controller knows the queues (again). What waited is sent.
    pub fn resume(&mut self) {
        if self.state == State::Stopped {
            self.state = State::Attached;
            self.send_waiting();
        }
    }

    /// The controller is gone for good: everything fails with `error`, now and later.
    pub fn give_up(&mut self, error: &dyn Fn(Operation) -> Error, done: &mut dyn FnMut(u16, Result<()>)) {
        self.stop(error, &mut |_, _, _| Fate::Fail, done);
        self.state = State::Gone;
        while let Some(slot) = self.waiting.pop_front() {
            let index = usize::from(slot);
            let operation = self.trackers[index].operation;
            self.report(index, Err(error(operation)), done);
        }
    }

    /// Gives the entries of the command at `index` ids and pushes them. There is room.
    #[inline]
    fn send(&mut self, index: usize) {
        let tracker = &mut self.trackers[index];
        tracker.number = self.next_number;
        tracker.tries += 1;
        tracker.status = Status::SUCCESS;
        tracker.pending = 1;
        self.next_number += 1;
        if tracker.operation == Operation::CompareAndWrite {
            tracker.pending = 2;
            let compare = &mut self.compares[index];
            compare.set_command_id(self.ids.issue(index + self.trackers.len()));
            self.rings.push(compare);
        }
        let tracker = &mut self.trackers[index];
        tracker.entry.set_command_id(self.ids.issue(index));
        #[cfg(test)]
        match self.mutation {
            Some(Mutation::DoorbellFirst) => self.rings.ring_before_entry(),
            Some(Mutation::SharedId) => {
                // The neighbour's id, as if it were free already.
                let id = self.ids.current(index ^ 1).unwrap_or(tracker.entry.command_id());
                tracker.entry.set_command_id(id);
            }
            _ => {}
        }
        self.rings.push(&tracker.entry);
    }

    #[cold]
    fn send_waiting(&mut self) {
        while let Some(&slot) = self.waiting.front() {
            let index = usize::from(slot);
            let fused = self.trackers[index].operation == Operation::CompareAndWrite;
            if self.rings.room() < 1 + u16::from(fused) {
                break;
            }
            self.waiting.pop_front();
            self.send(index);
        }
        self.kick();
    }

    /// One entry of a command has completed.
    #[inline]
    fn end(&mut self, index: usize, status: Status, done: &mut dyn FnMut(u16, Result<()>)) {
        let slots = self.trackers.len();
        let index = if index < slots { index } else { index - slots };
        let tracker = &mut self.trackers[index];
        tracker.pending -= 1;
        if tracker.pending == 0 && status.is_success() && tracker.status.is_success() {
            self.report(index, Ok(()), done);
        } else {
            self.end_badly(index, status, done);
        }
    }

    #[cold]
    fn end_badly(&mut self, index: usize, status: Status, done: &mut dyn FnMut(u16, Result<()>)) {
        let tracker = &mut self.trackers[index];
        // Of a fused pair the command that failed by itself says why.
        if tracker.status.is_success() || tracker.status.is_failed_fused() && !status.is_success() {
            tracker.status = status;
        }
        if tracker.pending > 0 {
            return;
        }
        let (status, operation) = (tracker.status, tracker.operation);
        if status.is_transient() && tracker.tries < MAX_TRIES && operation != Operation::CompareAndWrite {
            self.counts.retries += 1;
            self.waiting.push_back(u16::try_from(index).expect("at most 1023 slots"));
            return;
        }
        let mut error = status.error(operation.name(), operation.changes());
        if matches!(operation, Operation::Flush) {
            error = error.at(self.attachment.name.clone());
        } else {
            let offset = match operation {
                Operation::Trim => self.trimmed(index),
                _ => tracker.entry.pair(10) << self.attachment.block_shift,
            };
            error = error.at(format!("{} offset {offset}", self.attachment.name));
        }
        self.report(index, Err(error), done);
    }

    /// Where the trim at `index` begins, in bytes.
    fn trimmed(&self, index: usize) -> u64 {
        let at = index * LIST_BYTES + 8;
        let lba = u64::from(self.lists.read32(at)) | u64::from(self.lists.read32(at + 4)) << 32;
        lba << self.attachment.block_shift
    }

    #[inline]
    fn report(&mut self, index: usize, result: Result<()>, done: &mut dyn FnMut(u16, Result<()>)) {
        self.trackers[index].busy = false;
        self.counts.completed += 1;
        done(u16::try_from(index).expect("at most 1023 slots"), result);
    }

    #[cold]
    fn stray(&mut self) {
        self.counts.strays += 1;
    }

    /// The entry of a command; its list, if it needs one, is in the page of `index`.
    #[inline]
    fn entry(&mut self, index: usize, transfer: &Transfer<'_>) -> Result<Entry, Refusal> {
        let namespace = self.attachment.namespace;
        let (code, flags) = match transfer.operation {
            Operation::Read => (opcode::READ, 0),
            Operation::Write { durable } => (opcode::WRITE, if durable { FORCE_UNIT_ACCESS } else { 0 }),
            Operation::CompareAndWrite => (opcode::WRITE, 0),
            Operation::Flush => return Ok(Entry::new(opcode::FLUSH, namespace)),
            Operation::Trim => return self.trim(index, transfer),
            Operation::WriteZeroes => {
                let (lba, blocks) = self.blocks(transfer)?;
                return Ok(Entry::new(opcode::WRITE_ZEROES, namespace).blocks(lba, blocks));
            }
        };
        let (lba, blocks) = self.blocks(transfer)?;
        let mut entry = Entry::new(code, namespace).with(12, flags).blocks(lba, blocks);
        if transfer.operation == Operation::CompareAndWrite {
            if self.compares.is_empty() {
                return Err(self.unsupported(transfer));
            }
            entry.words[0] |= FUSED_SECOND;
        }
        self.data(index, transfer, transfer.memory, &mut entry)?;
        Ok(entry)
    }

    fn compare(&mut self, index: usize, transfer: &Transfer<'_>) -> Result<Entry, Refusal> {
        let (lba, blocks) = self.blocks(transfer)?;
        let mut entry = Entry::new(opcode::COMPARE, self.attachment.namespace).blocks(lba, blocks);
        entry.words[0] |= FUSED_FIRST;
        let list = index + self.trackers.len();
        self.data(list, transfer, transfer.expected, &mut entry)?;
        Ok(entry)
    }

    /// The first block of a transfer and how many there are: 1 to 65536.
    #[inline]
    fn blocks(&self, transfer: &Transfer<'_>) -> Result<(u64, u32), Refusal> {
        let shift = self.attachment.block_shift;
        let mask = (1 << shift) - 1;
        let blocks = transfer.len >> shift;
        match u32::try_from(blocks) {
            Ok(count)
                if (1..=MAX_BLOCKS).contains(&blocks) && (transfer.offset | transfer.len) & mask == 0 =>
            {
                Ok((transfer.offset >> shift, count))
            }
            _ => Err(self.invalid(
                transfer,
                format!("{} bytes are not 1 to {MAX_BLOCKS} whole blocks of {}", transfer.len, mask + 1),
            )),
        }
    }

    /// Sets the data pointer of `entry` to `segments`.
    #[inline]
    fn data(
        &mut self,
        list: usize,
        transfer: &Transfer<'_>,
        segments: &[Segment],
        entry: &mut Entry,
    ) -> Result<(), Refusal> {
        // The controller transfers what the blocks say, whatever the pieces are.
        if segments.iter().map(|segment| segment.len as u64).sum::<u64>() != transfer.len {
            return Err(self.invalid(transfer, "the memory is not as long as the blocks".to_owned()));
        }
        let regions = &mut self.regions;
        let translate = |segment: &Segment| regions.translate(segment.address(), segment.len);
        match describe(self.method, entry, segments, translate, &self.lists, list * LIST_BYTES) {
            Ok(()) => Ok(()),
            Err(Unfit::Odd | Unfit::Unreachable) => Err(Refusal::Odd),
        }
    }

    fn trim(&mut self, index: usize, transfer: &Transfer<'_>) -> Result<Entry, Refusal> {
        let shift = self.attachment.block_shift;
        let (mut lba, mut left) = (transfer.offset >> shift, transfer.len >> shift);
        let most = u64::from(u32::MAX);
        let ranges = left.div_ceil(most);
        let whole = (transfer.offset | transfer.len) & ((1 << shift) - 1) == 0;
        if !(1..=MAX_RANGES).contains(&ranges) || !whole {
            return Err(self.invalid(transfer, format!("{} bytes cannot be one trim", transfer.len)));
        }
        let page = index * LIST_BYTES;
        let mut at = page;
        while left > 0 {
            let blocks = left.min(most);
            // Context attributes are 0; then the length in blocks and the first block.
            self.lists.write64(at, blocks << 32);
            self.lists.write64(at + 8, lba);
            at += 16;
            lba += blocks;
            left -= blocks;
        }
        let last = u32::try_from(ranges - 1).expect("at most 256");
        Ok(Entry::new(opcode::DATASET_MANAGEMENT, self.attachment.namespace)
            .data(self.lists.device_address(page), 0)
            .with(10, last)
            .with(11, DEALLOCATE))
    }

    #[cold]
    fn invalid(&self, transfer: &Transfer<'_>, why: String) -> Refusal {
        Refusal::Failed(
            Error::new(ErrorKind::InvalidInput, transfer.operation.name())
                .at(format!("{} offset {}", self.attachment.name, transfer.offset))
                .because(why),
        )
    }

    #[cold]
    fn unsupported(&self, transfer: &Transfer<'_>) -> Refusal {
        Refusal::Failed(
            Error::new(ErrorKind::Unsupported, transfer.operation.name())
                .at(self.attachment.name.clone())
                .because("the controller has no fused compare and write"),
        )
    }

    #[cold]
    fn not_attached(&self, transfer: &Transfer<'_>) -> Refusal {
        if self.state == State::Stopped {
            return Refusal::Full;
        }
        Refusal::Failed(
            Error::new(ErrorKind::Closed, transfer.operation.name())
                .at(self.attachment.name.clone())
                .because("the controller is gone: open the device again when it is back")
                .outcome_is(Outcome::NotStarted),
        )
    }
}
