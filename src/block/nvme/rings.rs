//! A submission ring and a completion ring (Base 3.3): heads, tails, phase, doorbells. The rings
//! know no command; [`super::queue_pair`] and [`super::controller`] do.

use std::sync::Arc;

use super::command::{Completion, Entry};
use super::dma::DmaRegion;
use super::registers::{Capabilities, Registers};
use super::shadow::ShadowDoorbells;
use super::status::Status;

/// The size of a submission queue entry, in bytes.
pub(super) const ENTRY_BYTES: usize = 64;
/// The size of a completion queue entry, in bytes.
pub(super) const COMPLETION_BYTES: usize = 16;

#[derive(Debug)]
pub(super) struct Rings<R> {
    registers: R,
    submissions: DmaRegion,
    completions: DmaRegion,
    submission_doorbell: usize,
    completion_doorbell: usize,
    /// Doorbells in memory, where the controller has them.
    shadow: Option<Arc<ShadowDoorbells>>,
    /// Entries of each ring.
    entries: u16,
    /// Where the next submission goes.
    tail: u16,
    /// The tail that the controller was told.
    announced_tail: u16,
    /// How far the controller said that it has read.
    submission_head: u16,
    /// How many entries it was told about from there on.
    unread: u16,
    /// Where the next completion comes.
    head: u16,
    /// The head that the controller was told.
    announced_head: u16,
    /// The phase bit of a completion that is new.
    phase: bool,
    /// Entries that were submitted and are not completed: each will take a place in the completion
    /// ring.
    outstanding: u16,
    /// At least this many entries can be pushed.
    room: u32,
    /// Completions whose submission head was outside of what was submitted.
    wrong_heads: u64,
}

impl<R: Registers> Rings<R> {
    /// Rings of `entries` places (2 to 4096) each for the queues `number`, over zeroed memory.
    pub(super) fn new(
        registers: R,
        capabilities: &Capabilities,
        number: u16,
        entries: u16,
        submissions: DmaRegion,
        completions: DmaRegion,
    ) -> Self {
        debug_assert!(entries >= 2 && submissions.len() >= usize::from(entries) * ENTRY_BYTES);
        Self {
            registers,
            submissions,
            completions,
            submission_doorbell: capabilities.submission_doorbell(number),
            completion_doorbell: capabilities.completion_doorbell(number),
            shadow: None,
            entries,
            tail: 0,
            announced_tail: 0,
            submission_head: 0,
            unread: 0,
            head: 0,
            announced_head: 0,
            phase: true,
            outstanding: 0,
            room: u32::from(entries) - 1,
            wrong_heads: 0,
        }
    }

    /// Writes doorbells to memory from now on, or to registers only.
    pub(super) fn mirror(&mut self, shadow: Option<Arc<ShadowDoorbells>>) {
        if let Some(shadow) = &shadow {
            shadow.clear_one(self.submission_doorbell);
            shadow.clear_one(self.completion_doorbell);
        }
        self.shadow = shadow;
    }

    /// As new: for a controller that knows neither ring any more.
    pub(super) fn clear(&mut self) {
        self.submissions.zero(0, self.submissions.len());
        self.completions.zero(0, self.completions.len());
        self.tail = 0;
        self.announced_tail = 0;
        self.submission_head = 0;
        self.unread = 0;
        self.head = 0;
        self.announced_head = 0;
        self.phase = true;
        self.outstanding = 0;
        self.room = u32::from(self.entries) - 1;
    }

    /// Its memory is never freed, and stays mapped.
    pub(super) fn leak(&mut self) {
        self.submissions.leak();
        self.completions.leak();
    }

    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    pub(super) fn wrong_heads(&self) -> u64 {
        self.wrong_heads
    }

    /// Where the device finds the submission and the completion ring.
    pub(super) fn device_addresses(&self) -> [u64; 2] {
        [self.submissions.device_address(0), self.completions.device_address(0)]
    }

    #[inline]
    fn next(&self, at: u16) -> u16 {
        if at + 1 == self.entries { 0 } else { at + 1 }
    }

    /// How many entries lie between `from` and `to`, going up and around.
    #[inline]
    fn distance(&self, from: u16, to: u16) -> u16 {
        if to >= from { to - from } else { to + self.entries - from }
    }

    /// Whether `count` entries can be pushed: one place of the submission ring stays free so that
    /// full differs from empty, and each needs a place in the completion ring.
    #[inline]
    pub(super) fn has_room(&mut self, count: u16) -> bool {
        self.room >= u32::from(count) || self.look_for_room(count)
    }

    #[cfg(test)]
    fn room(&mut self) -> u32 {
        self.look_for_room(0);
        self.room
    }

    #[inline(never)]
    fn look_for_room(&mut self, count: u16) -> bool {
        let taken = self.distance(self.submission_head, self.tail).max(self.outstanding);
        self.room = u32::from(self.entries - 1 - taken);
        self.room >= u32::from(count)
    }

    /// Adds an entry. There is room ([`Rings::has_room`]).
    #[inline]
    pub(super) fn push(&mut self, entry: &Entry) {
        self.submissions.write_entry(usize::from(self.tail) * ENTRY_BYTES, &entry.words);
        self.pushed();
    }

    /// Adds an I/O command, made in place: dwords 0 and 1, 6 to 9, and 10 to 13 as pairs. The rings
    /// have no other entries; there is room ([`Rings::has_room`]).
    #[inline]
    pub(super) fn push_command(&mut self, start: u64, data: [u64; 2], rest: [u64; 2]) {
        self.submissions.write_command(usize::from(self.tail), start, data, rest);
        self.pushed();
    }

    #[inline]
    fn pushed(&mut self) {
        debug_assert!(self.room > 0, "callers look for room first");
        self.tail = self.next(self.tail);
        self.outstanding += 1;
        self.room -= 1;
    }

    /// Tells the controller about everything that was pushed since the last time. Returns whether
    /// that took a write of the register.
    #[inline]
    pub(super) fn ring_tail(&mut self) -> bool {
        let old = self.announced_tail;
        self.announced_tail = self.tail;
        self.unread += self.distance(old, self.tail);
        self.ring(self.submission_doorbell, old, self.tail)
    }

    /// Tells the controller about every completion that was taken since the last time. Returns
    /// whether that took a write of the register.
    #[inline]
    pub(super) fn ring_head(&mut self) -> bool {
        let old = self.announced_head;
        self.announced_head = self.head;
        self.ring(self.completion_doorbell, old, self.head)
    }

    #[inline]
    fn ring(&self, doorbell: usize, old: u16, new: u16) -> bool {
        let write = old != new && self.shadow.as_ref().is_none_or(|shadow| shadow.ring(doorbell, old, new));
        if write {
            self.registers.write32(doorbell, u32::from(new));
        }
        write
    }

    /// Whether [`Rings::pop`] would give one.
    #[inline]
    pub(super) fn has_completion(&self) -> bool {
        self.next_completion().is_some()
    }

    /// The upper half of the next completion, if it is there.
    #[inline]
    fn next_completion(&self) -> Option<u64> {
        // The device writes this half last, or all sixteen bytes at once.
        let half = self.completions.load_pair_acquire(usize::from(self.head) * 2 + 1);
        ((half >> 48 & 1 == 1) == self.phase).then_some(half)
    }

    /// The next completion, if there is one, with its result.
    pub(super) fn pop(&mut self) -> Option<Completion> {
        let at = usize::from(self.head) * COMPLETION_BYTES;
        let completion = self.pop_quickly()?;
        // The device writes there again only after the next `ring_head`.
        Some(Completion { result: self.completions.read32(at), ..completion })
    }

    /// The next completion, if there is one: of an I/O command, whose result nobody wants.
    #[inline]
    pub(super) fn pop_quickly(&mut self) -> Option<Completion> {
        let [a, b, c, d, e, f, g, h] = self.next_completion()?.to_le_bytes();
        self.head = self.next(self.head);
        self.phase ^= self.head == 0;
        let submission_head = u16::from_le_bytes([a, b]);
        let read = self.distance(self.submission_head, submission_head);
        if submission_head < self.entries && read <= self.unread {
            self.submission_head = submission_head;
            self.unread -= read;
        } else {
            self.wrong_heads += 1;
        }
        Some(Completion {
            result: 0,
            submission_queue: u16::from_le_bytes([c, d]),
            command_id: u16::from_le_bytes([e, f]),
            status: Status::from_field(u16::from_le_bytes([g, h]) >> 1),
        })
    }

    /// This many completions were for entries of this ring: their places in the completion ring are
    /// free again.
    #[inline]
    pub(super) fn completed(&mut self, count: u16) {
        self.outstanding = self.outstanding.saturating_sub(count);
    }

    /// Where the rings are in this process.
    #[cfg(test)]
    pub(super) fn pointers(&self) -> [*mut u8; 2] {
        [self.submissions.pointer(), self.completions.pointer()]
    }

    /// Announces an entry that is pushed after this, for mutations that break the order on purpose.
    #[cfg(test)]
    pub(super) fn ring_before_entry(&mut self) {
        let (old, next) = (self.announced_tail, self.next(self.tail));
        self.ring(self.submission_doorbell, old, next);
        self.announced_tail = next;
        self.unread += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::dma::DmaMemory;
    use super::super::model::{Model, ModelNamespace, ModelOptions};
    use super::*;

    /// Puts a completion at `at` of the ring, as a controller would.
    fn post(rings: &Rings<Model>, at: usize, head: u16, phase: bool) {
        let words = [0, 0, u32::from(head) | 1 << 16, u32::from(phase) << 16];
        for (word, number) in words.into_iter().zip(0..) {
            rings.completions.store_release(at * COMPLETION_BYTES + number * 4, word.to_le());
        }
    }

    #[test]
    fn a_head_that_the_controller_cannot_have_reached_is_not_believed() {
        let model = Model::new(ModelOptions::new(ModelNamespace::new(8, 9)), 1);
        let region = || model.allocate(4096).expect("memory");
        let capabilities = Capabilities::new(1023 | 1 << 37);
        let mut rings = Rings::new(model.clone(), &capabilities, 1, 4, region(), region());
        for _ in 0..3 {
            rings.push(&Entry::new(0, 1));
        }
        rings.ring_tail();
        assert_eq!(rings.room(), 0);
        for (at, head) in [(0, 4), (1, u16::MAX)] {
            post(&rings, at, head, true);
            assert!(rings.pop().is_some());
            rings.completed(1);
            assert_eq!(rings.room(), 0, "head {head}");
        }
        assert_eq!(rings.wrong_heads(), 2);
        post(&rings, 2, 3, true);
        assert!(rings.pop().is_some());
        rings.completed(1);
        assert_eq!((rings.room(), rings.wrong_heads()), (3, 2));
        // Around the end of both rings: what is there from before is not new.
        post(&rings, 3, 3, true);
        assert!(rings.pop().is_some());
        assert!(!rings.has_completion() && rings.pop().is_none());
        rings.push(&Entry::new(0, 1));
        rings.push(&Entry::new(0, 1));
        rings.ring_tail();
        post(&rings, 0, 4, false);
        assert!(rings.pop().is_some(), "the phase has turned");
        assert_eq!(rings.wrong_heads(), 3, "there is no place 4");
    }
}
