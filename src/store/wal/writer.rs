//! What a core does for a write: it makes sure of room, draws a number, and appends the record.
//!
//! ```text
//! let room = log.room(1, len)?;       // full: wait for the leader, start over
//! find the leaf                       // may take many steps, none of which awaits
//! log.prepare();                      // a hint; nothing depends on it
//! reserve a slot in the leaf
//! let draw = room.draw();             // the number; `stable()` stays at or below it
//! publish the slot under draw.number()
//! draw.append(len, |out| …);          // the record; `stable()` may pass
//! ```
//!
//! If the slot was aborted, `draw.void()` gives the number to nobody, and the room is good for
//! another try, [`VOIDS`] in all.
//!
//! A pipeline of writes may draw all its numbers at once (`room(8, len)`), which costs one transfer
//! of the counter instead of eight. It is right only if all their slots were reserved before: else
//! a write of another core comes in between with a larger number, and one that starts later gets a
//! smaller one. So a core does not keep numbers for later.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::buffer::{Producer, entry_bytes};
use super::order::Order;
use super::record::Operations;

/// How many numbers a room may void before its record.
pub(in crate::store) const VOIDS: usize = 8;
/// The operations of a void: one byte of zero.
const VOID_BYTES: usize = 1;

/// A core's log buffer is full. The leader has to take something from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum NoRoom {
    /// Until the next batch has been formed.
    Full,
    /// For ever: the record is longer than [`CoreLog::max_record_bytes`].
    TooLong,
}

/// A core's way into the order of writes. It belongs to one core at a time.
#[derive(Debug)]
pub(in crate::store) struct CoreLog {
    order: Arc<Order>,
    core: usize,
    max_record_bytes: usize,
    producer: RefCell<Producer>,
    /// The number after the last draw.
    after_last: Cell<u64>,
    /// A number is drawn and not published.
    drawing: Cell<bool>,
    /// Bytes that live rooms may still append.
    promised: Cell<usize>,
    /// The bounds of live snapshots, growing, and how many have each.
    snapshots: RefCell<std::collections::VecDeque<(u64, u32)>>,
}

impl CoreLog {
    pub(super) fn new(order: Arc<Order>, core: usize, producer: Producer, max_record_bytes: usize) -> Self {
        Self {
            after_last: Cell::new(order.next()),
            order,
            core,
            max_record_bytes: producer.max_bytes().min(max_record_bytes),
            producer: RefCell::new(producer),
            drawing: Cell::new(false),
            promised: Cell::new(0),
            snapshots: RefCell::default(),
        }
    }

    /// All numbers that were drawn are published.
    fn idle(&self) {
        self.order.idle(self.core);
        self.drawing.set(false);
    }

    /// The number that the next write of any core gets.
    pub(in crate::store) fn next_number(&self) -> u64 {
        self.order.next()
    }

    /// Every number below this one is published ([`Order::stable`]).
    pub(in crate::store) fn stable_number(&self) -> u64 {
        self.order.stable()
    }

    /// The longest operations of one record, in bytes.
    pub(in crate::store) fn max_record_bytes(&self) -> usize {
        self.max_record_bytes
    }

    /// The core's number and its end of the buffer, for another core.
    pub(super) fn into_parts(self) -> (usize, Producer) {
        (self.core, self.producer.into_inner())
    }

    /// Bytes in the buffer that the leader has not taken, as far as this core has looked.
    pub(in crate::store) fn pending_bytes(&self) -> usize {
        self.producer.borrow().pending_bytes()
    }

    /// Whether less than half of the buffer is free.
    pub(in crate::store) fn is_half_full(&self) -> bool {
        let mut producer = self.producer.borrow_mut();
        let half = producer.capacity() / 2;
        !producer.has_room(half, 0)
    }

    /// Room for `records` records with operations of at most `len` bytes in all, and for [`VOIDS`]
    /// draws that come to nothing before. After this nothing can fail.
    ///
    /// # Panics
    ///
    /// If `records` is 0: nothing would end what such a room draws.
    pub(in crate::store) fn room(&self, records: u32, len: usize) -> Result<Room<'_>, NoRoom> {
        assert!(records > 0, "a room is for a record at least");
        let mut producer = self.producer.borrow_mut();
        // In the worst case each record is padded, and the longest of them leaves a filler.
        let voids = VOIDS * records as usize * entry_bytes(VOID_BYTES);
        let promised = voids + 2 * len.next_multiple_of(8) + 3 * records as usize * entry_bytes(0);
        if len > self.max_record_bytes || promised > producer.capacity() {
            return Err(NoRoom::TooLong);
        }
        if !producer.has_room(self.promised.get() + promised, 0) {
            return Err(NoRoom::Full);
        }
        self.promised.set(self.promised.get() + promised);
        Ok(Room { log: self, records, len, promised, draws: VOIDS, drawn: None })
    }

    /// Says that a draw is some 60 ns away: the counter's cache line is asked for.
    pub(in crate::store) fn prepare(&self) {
        self.order.prefetch();
    }

    /// Announces a snapshot of everything below its number.
    pub(in crate::store) fn snapshot(&self) -> Snapshot<'_> {
        let mut snapshots = self.snapshots.borrow_mut();
        let (bound, number) = self.order.announce(self.core, snapshots.front().map(|&(bound, _)| bound));
        match snapshots.back_mut() {
            Some((newest, count)) if *newest == bound => *count += 1,
            _ => snapshots.push_back((bound, 1)),
        }
        Snapshot { log: self, bound, number }
    }
}

/// Room in a core's log buffer, until it is dropped.
#[derive(Debug)]
pub(in crate::store) struct Room<'a> {
    log: &'a CoreLog,
    records: u32,
    /// What is left of the length that was asked for.
    len: usize,
    promised: usize,
    draws: usize,
    /// A number that was drawn by [`Room::draw_one`] and is neither appended nor void.
    drawn: Option<u64>,
}

impl<'a> Room<'a> {
    /// Draws the number of the room's one record; one that was drawn before, and not appended,
    /// becomes void. Nothing may await until it is appended.
    ///
    /// # Panics
    ///
    /// If [`Room::can_draw`] says no, or the core has drawn a number from another room that is not
    /// published.
    pub(in crate::store) fn draw_one(&mut self) -> u64 {
        debug_assert_eq!(self.records, 1, "several records are drawn together");
        self.void_drawn();
        self.draws = self.draws.checked_sub(1).expect("the caller asked whether it may draw");
        let log = self.log;
        assert!(!log.drawing.replace(true), "a core publishes its numbers before it draws the next");
        let number = log.order.draw(log.core, log.after_last.get(), 1);
        log.after_last.set(number + 1);
        self.drawn = Some(number);
        number
    }

    /// Whether another number may be drawn: not after the record, and not after [`VOIDS`] draws of
    /// which nothing was appended. The caller takes a new room then, after others had their turn.
    pub(in crate::store) fn can_draw(&self) -> bool {
        self.draws > 0
    }

    /// A number that is not above the one that is drawn next.
    pub(in crate::store) fn at_least(&self) -> u64 {
        self.log.after_last.get()
    }

    /// Appends the record of the number that was drawn, whose operations are the `len` bytes that
    /// `encode` writes. What the caller stored before is visible to whoever sees [`Order::stable`]
    /// above the number.
    ///
    /// # Panics
    ///
    /// If no number is drawn, or `len` is more than the room's.
    pub(in crate::store) fn append(&mut self, len: usize, encode: impl FnOnce(&mut [u8])) {
        assert!(len <= self.len, "the record fits its room");
        let number = self.drawn.take().expect("a number was drawn");
        self.log.producer.borrow_mut().append(number, len, encode);
        (self.len, self.draws) = (self.len - len, 0);
        self.log.idle();
    }

    fn void_drawn(&mut self) {
        if let Some(number) = self.drawn.take() {
            self.log.producer.borrow_mut().append(number, VOID_BYTES, |out| out[0] = 0);
            self.log.idle();
        }
    }

    /// Draws the numbers of the room's records. Until they are all appended or void the core draws
    /// no other, and nothing may await. `None` if the room was used, and after [`VOIDS`] draws of
    /// which nothing was appended: the caller takes a new room, after others had their turn.
    ///
    /// # Panics
    ///
    /// If the core has drawn a number already, from another room, that is not published.
    pub(in crate::store) fn draw(&mut self) -> Option<Draw<'_, 'a>> {
        self.draws = self.draws.checked_sub(1)?;
        let log = self.log;
        assert!(!log.drawing.replace(true), "a core publishes its numbers before it draws the next");
        let count = u64::from(self.records);
        let number = log.order.draw(log.core, log.after_last.get(), count);
        log.after_last.set(number + count);
        Some(Draw { room: self, number, end: number + count })
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.void_drawn();
        self.log.promised.set(self.log.promised.get() - self.promised);
    }
}

/// Numbers that are drawn and not published yet. Those that are left when it is dropped become
/// voids.
#[derive(Debug)]
#[must_use]
pub(in crate::store) struct Draw<'r, 'a> {
    room: &'r mut Room<'a>,
    number: u64,
    end: u64,
}

impl Draw<'_, '_> {
    /// The smallest number that is not appended or void. The others follow it.
    pub(in crate::store) fn number(&self) -> u64 {
        self.number
    }

    /// Appends the record of [`Draw::number`], whose operations are the `len` bytes that `encode`
    /// writes, and goes on to the next. What the caller stored before is visible to whoever sees
    /// [`Order::stable`] above the number. If `encode` panics the number becomes a void.
    ///
    /// # Panics
    ///
    /// If `len` is more than is left of the room's, or all numbers are used. If what `encode` wrote
    /// are no operations, of which there is one at least: replay would refuse the whole batch. The
    /// number becomes a void then.
    pub(in crate::store) fn append(&mut self, len: usize, encode: impl FnOnce(&mut [u8])) {
        assert!(len <= self.room.len && self.number < self.end, "the record fits its room");
        self.room.log.producer.borrow_mut().append(self.number, len, |out| {
            encode(out);
            assert!(Operations(out).is_valid(), "a record is operations, one at least");
        });
        self.room.len -= len;
        self.room.draws = 0;
        self.published();
    }

    /// Gives [`Draw::number`] to nothing: its slot was aborted.
    pub(in crate::store) fn void(&mut self) {
        self.room.log.producer.borrow_mut().append(self.number, VOID_BYTES, |out| out[0] = 0);
        self.published();
    }

    fn published(&mut self) {
        self.number += 1;
        let log = self.room.log;
        if self.number < self.end {
            log.order.published(log.core, self.number);
        } else {
            log.idle();
        }
    }
}

impl Drop for Draw<'_, '_> {
    fn drop(&mut self) {
        while self.number < self.end {
            self.void();
        }
    }
}

/// A snapshot, until it is dropped: the horizon does not pass it.
#[derive(Debug)]
pub(in crate::store) struct Snapshot<'a> {
    log: &'a CoreLog,
    bound: u64,
    number: u64,
}

impl Snapshot<'_> {
    /// It sees the writes below this number.
    pub(in crate::store) fn number(&self) -> u64 {
        self.number
    }

    /// Whether all of them are published. Until then it must not be read. What holds it back is
    /// between two instructions of other cores, which await nothing in between.
    pub(in crate::store) fn is_ready(&self) -> bool {
        self.log.order.stable() >= self.number
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let mut snapshots = self.log.snapshots.borrow_mut();
        let place = snapshots.iter().position(|&(bound, _)| bound == self.bound).expect("it is listed");
        snapshots[place].1 -= 1;
        if place == 0 && snapshots[0].1 == 0 {
            while snapshots.front().is_some_and(|&(_, count)| count == 0) {
                snapshots.pop_front();
            }
            self.log.order.withdraw(self.log.core, snapshots.front().map(|&(bound, _)| bound));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
