//! One core's I/O queue pair: commands in, completions out. No lock, no atomic read-modify-write,
//! no allocation between [`QueuePair::submit`] and [`QueuePair::poll`].
//!
//! A command occupies a *slot*, a number that the caller chooses and that is free again when
//! [`QueuePair::poll`] (or [`QueuePair::stop`]) has reported it. Each slot has a page of its own
//! for a PRP or SGL list. A compare-and-write takes two entries of the rings: index `slot` is its
//! write, `slot + slots` its compare.

mod entries;
mod reset;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::super::queue::{Command, CommandKind, Refused};
use super::command_id::CommandIds;
use super::controller::QueueSpec;
use super::dma::{DmaMemory, DmaRegion, Regions};
use super::io::{Attachment, QueueCounts};
use super::registers::{Capabilities, Registers};
use super::rings::{COMPLETION_BYTES, ENTRY_BYTES, Rings};
use super::shadow::ShadowDoorbells;
use super::status::Status;
use super::transfer::{LIST_BYTES, Method, SglSupport};
use crate::error::{Error, ErrorKind, Result};
use crate::rt::Instant;
use entries::{Format, Simple, invalid};

/// The most entries of a queue that the driver asks for: more would leave too few bits of a command
/// id for its generation.
const MAX_ENTRIES: u16 = 1024;
/// How often a command that ended with a transient status is tried in all.
const MAX_TRIES: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The controller knows the rings.
    Attached,
    /// The controller does not know them; commands wait.
    Stopped,
    /// It never will again.
    Gone,
}

/// What is known about the command in a slot, in one cache line: what its entry says that those of
/// others do not, to send it again, and how far it is.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Tracker {
    /// Dwords 6 to 9: its data pointer.
    data: [u64; 2],
    /// Dwords 10 and 11.
    start: u64,
    /// Dword 0 without the command id.
    head: u32,
    /// Dword 12.
    control: u32,
    /// Its number among those taken.
    number: u64,
    /// When it was submitted, or sent again after a reset.
    at: Instant,
    kind: CommandKind,
    /// The first failure of its entries.
    status: Status,
    tries: u8,
    /// How many completions are to come; 0 if the slot is free or the command waits to be sent.
    pending: u8,
    busy: bool,
    was_aborted: bool,
}

const _: () = assert!(size_of::<Tracker>() == 64);

impl Tracker {
    fn free() -> Self {
        Self {
            data: [0; 2],
            start: 0,
            head: 0,
            control: 0,
            number: 0,
            at: Instant::ORIGIN,
            kind: CommandKind::Read,
            status: Status::SUCCESS,
            tries: 0,
            pending: 0,
            busy: false,
            was_aborted: false,
        }
    }
}

/// The compare of a compare-and-write; the rest of its entry is that of the write.
#[derive(Clone, Copy, Debug)]
struct Compare {
    head: u32,
    data: [u64; 2],
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
///
/// Its memory goes with it: drop it when the controller has deleted the queues, has stopped or is
/// gone. If none of these is certain, [`QueuePair::leak`] it before.
pub(super) struct QueuePair<R> {
    rings: Rings<R>,
    ids: CommandIds,
    trackers: Box<[Tracker]>,
    /// The compare of a compare-and-write in the slot of the same number.
    compares: Box<[Compare]>,
    /// List pages: one per index.
    lists: DmaRegion,
    regions: Regions,
    attachment: Attachment,
    format: Format,
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

impl<R: Registers> fmt::Debug for QueuePair<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair")
            .field("number", &self.number)
            .field("name", &self.attachment.name)
            .field("state", &self.state)
            .field("counts", &self.counts())
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
    pub(super) fn new(
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
        Ok(Self {
            rings,
            ids: CommandIds::new(indices),
            trackers: vec![Tracker::free(); slots].into(),
            compares: vec![Compare { head: 0, data: [0; 2] }; indices - slots].into(),
            lists: region(indices * LIST_BYTES)?,
            regions: Regions::new(),
            format: Format {
                block_shift: attachment.block_shift,
                block_mask: (1 << attachment.block_shift) - 1,
                page_bytes: 1 << attachment.page_shift,
                method: Method {
                    page_shift: attachment.page_shift,
                    sgl: attachment.sgl_alignment.map(|alignment| SglSupport { alignment }),
                },
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
    pub(super) fn spec(&self) -> QueueSpec {
        let [submissions, completions] = self.rings.device_addresses();
        QueueSpec {
            number: self.number,
            entries: self.rings.entries(),
            submissions,
            completions,
            vector: self.vector,
        }
    }

    /// Uses the controller's doorbells in memory, if it has them, or its registers: for queues that
    /// it does not know yet.
    pub(super) fn mirror(&mut self, capabilities: &Capabilities, shadow: Option<Arc<ShadowDoorbells>>) {
        self.rings.mirror(shadow.filter(|shadow| shadow.covers(capabilities, self.number)));
    }

    /// What the namespace is called in errors.
    pub(super) fn name(&self) -> &str {
        &self.attachment.name
    }

    /// The number of the namespace that it is attached to.
    pub(super) fn namespace(&self) -> u32 {
        self.attachment.namespace
    }

    /// The block size that commands go by, as a power of two.
    pub(super) fn block_shift(&self) -> u32 {
        self.attachment.block_shift
    }

    /// Its memory is never freed, and stays mapped: the controller may know the queues for ever.
    pub(super) fn leak(&mut self) {
        self.rings.leak();
        self.lists.leak();
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> u16 {
        self.rings.entries() - 1
    }

    /// How many commands are in flight or wait to be sent again.
    pub(super) fn in_flight(&self) -> usize {
        usize::try_from(self.counts.submitted - self.counts.completed).unwrap_or(usize::MAX)
    }

    /// The memory that commands may name.
    pub(super) fn regions_mut(&mut self) -> &mut Regions {
        &mut self.regions
    }

    /// What it counted.
    pub(super) fn counts(&self) -> QueueCounts {
        QueueCounts { wrong_heads: self.rings.wrong_heads(), ..self.counts }
    }

    /// The id of the command in `slot` for
    /// [`Request::Abort`](super::Request::Abort), if it is with the controller.
    pub(super) fn command_id(&self, slot: u16) -> Option<u16> {
        self.ids.current(usize::from(slot))
    }

    /// Whether a completion waits in memory.
    pub(super) fn has_completion(&self) -> bool {
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

    /// When the command in `slot` was submitted or sent again, and whether it was said to be
    /// aborted; `None` if there is none.
    pub(super) fn began(&self, slot: u16) -> Option<(Instant, bool)> {
        let tracker = self.trackers.get(usize::from(slot)).filter(|tracker| tracker.busy)?;
        Some((tracker.at, tracker.was_aborted))
    }

    /// The controller was told to abort the command in `slot`.
    pub(super) fn set_aborted(&mut self, slot: u16) {
        self.trackers[usize::from(slot)].was_aborted = true;
    }

    /// The commands that there are begin anew.
    pub(super) fn restart_clocks(&mut self, now: Instant) {
        for tracker in &mut self.trackers {
            (tracker.at, tracker.was_aborted) = (now, false);
        }
    }

    /// Puts a command into `slot`, which is free and less than [`QueuePair::slots`], at `now`. The
    /// controller sees it after [`QueuePair::kick`].
    ///
    /// # Errors
    ///
    /// Nothing was done: see [`Refused`].
    ///
    /// # Safety
    ///
    /// The memory that the command names is valid for reads and writes, and nothing else writes it
    /// (or, if the device is to write it, reads it), until the slot is reported as done.
    #[inline]
    pub(super) unsafe fn submit(
        &mut self,
        slot: u16,
        command: &Command<'_>,
        now: Instant,
    ) -> Result<(), Refused> {
        let index = usize::from(slot);
        if self.state == State::Attached
            && self.rings.has_room(1)
            && let Some(Simple { head, control, start, address }) =
                Simple::of(command, &self.format, &self.regions)
            && self.trackers.get(index).is_some_and(|tracker| !tracker.busy)
            && !self.is_mutated()
        {
            let (number, data) = (self.next_number, [address, 0]);
            self.next_number += 1;
            self.counts.submitted += 1;
            let tracker = &mut self.trackers[index];
            (tracker.head, tracker.control) = (head, control);
            (tracker.start, tracker.data) = (start, data);
            (tracker.number, tracker.at, tracker.kind) = (number, now, command.kind);
            (tracker.status, tracker.tries, tracker.pending) = (Status::SUCCESS, 1, 1);
            (tracker.busy, tracker.was_aborted) = (true, false);
            let first = head | u32::from(self.ids.issue(index)) << 16;
            let namespace = u64::from(self.attachment.namespace) << 32;
            self.rings.push_command(u64::from(first) | namespace, data, [start, control.into()]);
            return Ok(());
        }
        self.submit_other(index, command, now)
    }

    /// Whether a bug was built in: those are in the general path.
    #[cfg(test)]
    fn is_mutated(&self) -> bool {
        self.mutation.is_some()
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the same in tests looks at it")]
    fn is_mutated(&self) -> bool {
        false
    }

    /// Takes a command that is not simple, or has anything wrong.
    #[inline(never)]
    fn submit_other(&mut self, index: usize, command: &Command<'_>, now: Instant) -> Result<(), Refused> {
        if self.state != State::Attached {
            return Err(self.not_attached());
        }
        if !self.rings.has_room(1 + u16::from(command.kind == CommandKind::CompareAndWrite)) {
            return Err(Refused::Full);
        }
        if self.trackers.get(index).is_none_or(|tracker| tracker.busy) {
            return Err(invalid(format!("slot {index} is in use or there is none")));
        }
        self.describe(index, command)?;
        self.take(index, command.kind, now);
        Ok(())
    }

    /// A command is described in the tracker of `index`: it is on its way. There is room.
    fn take(&mut self, index: usize, kind: CommandKind, now: Instant) {
        let tracker = &mut self.trackers[index];
        tracker.kind = kind;
        tracker.at = now;
        (tracker.tries, tracker.busy, tracker.was_aborted) = (0, true, false);
        self.counts.submitted += 1;
        #[cfg(test)]
        if self.mutation == Some(Mutation::SkippedFlush) && kind == CommandKind::Flush {
            self.skipped.push_back(u16::try_from(index).expect("at most 1023 slots"));
            return;
        }
        self.send(index);
    }

    /// Tells the controller about everything that was submitted since the last time, with one write
    /// of the doorbell.
    #[inline]
    pub(super) fn kick(&mut self) {
        if self.announced != self.next_number && self.state == State::Attached {
            self.announced = self.next_number;
            self.counts.tail_doorbells += u64::from(self.rings.ring_tail());
        }
    }

    /// Reports at most `budget` completions to `done`, with the slot, which is free again, and
    /// returns how many it took from the queue.
    #[inline]
    pub(super) fn poll(&mut self, budget: usize, mut done: impl FnMut(u16, Result<()>)) -> usize {
        if self.state != State::Attached {
            return 0;
        }
        let (mut taken, mut known) = (0, 0);
        while taken < budget {
            let Some(completion) = self.rings.pop_quickly() else { break };
            taken += 1;
            let index = if completion.submission_queue == self.number {
                self.ids.complete(completion.command_id)
            } else {
                None
            };
            let Some(index) = index else {
                self.stray();
                continue;
            };
            known += 1;
            self.end(index, completion.status, &mut done);
        }
        self.rings.completed(known);
        if taken > 0 {
            self.counts.head_doorbells += u64::from(self.rings.ring_head());
        }
        if !self.waiting.is_empty() {
            self.send_waiting();
        }
        #[cfg(test)]
        while let Some(slot) = self.skipped.pop_front() {
            self.report(usize::from(slot), Ok(()), &mut done);
        }
        taken
    }

    /// Gives the entries of the command at `index` ids and puts them into the ring. There is room.
    fn send(&mut self, index: usize) {
        let (slots, number) = (self.trackers.len(), self.next_number);
        let namespace = u64::from(self.attachment.namespace) << 32;
        self.next_number += 1;
        let tracker = &mut self.trackers[index];
        tracker.number = number;
        tracker.tries += 1;
        tracker.status = Status::SUCCESS;
        tracker.pending = 1;
        let (head, data) = (tracker.head, tracker.data);
        let rest = [tracker.start, u64::from(tracker.control)];
        if tracker.kind == CommandKind::CompareAndWrite {
            tracker.pending = 2;
            let compare = self.compares[index];
            let start = compare.head | u32::from(self.ids.issue(index + slots)) << 16;
            self.rings.push_command(u64::from(start) | namespace, compare.data, rest);
        }
        let id = self.ids.issue(index);
        #[cfg(test)]
        let id = match self.mutation {
            // The neighbour's id, as if it were free already.
            Some(Mutation::SharedId) => self.ids.current(index ^ 1).unwrap_or(id),
            _ => id,
        };
        #[cfg(test)]
        if self.mutation == Some(Mutation::DoorbellFirst) {
            self.rings.ring_before_entry();
        }
        let start = head | u32::from(id) << 16;
        self.rings.push_command(u64::from(start) | namespace, data, rest);
    }

    #[cold]
    fn send_waiting(&mut self) {
        while let Some(&slot) = self.waiting.front() {
            let index = usize::from(slot);
            let fused = self.trackers[index].kind == CommandKind::CompareAndWrite;
            if !self.rings.has_room(1 + u16::from(fused)) {
                break;
            }
            self.waiting.pop_front();
            self.send(index);
        }
        self.kick();
    }

    /// One entry of a command has completed.
    #[inline]
    fn end(&mut self, index: usize, status: Status, done: &mut impl FnMut(u16, Result<()>)) {
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
        let (status, kind, start) = (tracker.status, tracker.kind, tracker.start);
        if status.is_transient() && tracker.tries < MAX_TRIES && kind != CommandKind::CompareAndWrite {
            self.counts.retries += 1;
            self.waiting.push_back(u16::try_from(index).expect("at most 1023 slots"));
            return;
        }
        let mut error = status.error(kind.name(), !kind.only_reads());
        if kind == CommandKind::Flush {
            error = error.at(self.attachment.name.clone());
        } else {
            let offset = match kind {
                CommandKind::Trim => self.trimmed(index),
                _ => start << self.attachment.block_shift,
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
    fn report<F: FnMut(u16, Result<()>) + ?Sized>(&mut self, index: usize, result: Result<()>, done: &mut F) {
        self.trackers[index].busy = false;
        self.counts.completed += 1;
        done(u16::try_from(index).expect("at most 1023 slots"), result);
    }

    #[cold]
    fn stray(&mut self) {
        self.counts.strays += 1;
    }
}
