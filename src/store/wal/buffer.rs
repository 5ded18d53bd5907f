//! A core's log buffer: a ring of records, with the core as its one producer and whoever leads as
//! its one consumer.
//!
//! Each entry is a head of 8 bytes (length of the operations, low half of the write number), then
//! the operations, padded to 8 bytes. An entry lies in one piece: what does not fit before the end
//! of the ring leaves a filler there and starts at the ring's beginning.
//!
//! Positions count bytes since the beginning and do not wrap. `tail` (written by the producer) and
//! `head` (written by the consumer) divide the ring: from `head` to `tail` lie entries that are
//! the consumer's to read; the rest is the producer's to write. Each end keeps a copy of the
//! other's position and loads it again (Acquire) only when it has to; it publishes its own with
//! Release. So the bytes of a piece are written before the consumer may look, and read before the
//! producer may write there again.
//!
//! The two ends are values of their own, one of each, and both work through `&mut self` alone. A
//! leader that changes takes the consumer along under a lock.

use std::sync::Arc;

use super::order::Line;
use crate::store::atomic::{AtomicU64, Ordering};
use crate::store::codec::{to_u32, to_usize};
use ring::Ring;

mod ring;

/// The head of an entry, and the unit of its length.
const HEAD_BYTES: usize = 8;
/// Instead of a length: the rest up to the end of the ring is empty.
const FILLER: u32 = u32::MAX;

#[derive(Debug)]
struct Shared {
    ring: Ring,
    tail: Line<AtomicU64>,
    head: Line<AtomicU64>,
}

/// A buffer of `bytes` bytes, a power of two, as its two ends.
pub(super) fn buffer(bytes: usize) -> (Producer, Consumer) {
    assert!(bytes.is_power_of_two() && bytes >= 8 * HEAD_BYTES);
    let shared = Arc::new(Shared {
        ring: Ring::new(bytes),
        tail: Line(AtomicU64::new(0)),
        head: Line(AtomicU64::new(0)),
    });
    (
        Producer { shared: Arc::clone(&shared), capacity: bytes, tail: 0, head_seen: 0 },
        Consumer { shared, capacity: bytes, head: 0, tail_seen: 0 },
    )
}

/// What an entry with operations of `len` bytes takes.
pub(super) fn entry_bytes(len: usize) -> usize {
    HEAD_BYTES + len.next_multiple_of(8)
}

/// The end that the core writes.
#[derive(Debug)]
pub(super) struct Producer {
    shared: Arc<Shared>,
    capacity: usize,
    tail: u64,
    head_seen: u64,
}

impl Producer {
    /// The longest operations of one entry: with them the entry takes a quarter of the ring.
    pub(super) fn max_bytes(&self) -> usize {
        self.capacity / 4 - HEAD_BYTES
    }

    /// The length of the ring.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes of entries can be appended for certain, if none of them is longer than
    /// `longest`, which the filler before the end of the ring may waste.
    fn room(&self, longest: usize) -> usize {
        let used = to_usize(self.tail - self.head_seen);
        (self.capacity - used).saturating_sub(longest)
    }

    /// Whether entries of `bytes` bytes in all, the longest of `longest`, can be appended. "No"
    /// lasts until the consumer has taken something.
    pub(super) fn has_room(&mut self, bytes: usize, longest: usize) -> bool {
        if self.room(longest) >= bytes {
            return true;
        }
        self.head_seen = self.shared.head.0.load(Ordering::Acquire);
        self.room(longest) >= bytes
    }

    /// Bytes that the consumer has not taken, as far as this end knows.
    pub(super) fn pending_bytes(&self) -> usize {
        to_usize(self.tail - self.head_seen)
    }

    /// Appends an entry of `len` bytes of operations, which `encode` writes, under `number`. The
    /// numbers of a buffer grow. If `encode` panics nothing is appended.
    ///
    /// # Panics
    ///
    /// If there is no room: [`Producer::has_room`] was not asked.
    pub(super) fn append(&mut self, number: u64, len: usize, encode: impl FnOnce(&mut [u8])) {
        let total = entry_bytes(len);
        let mut tail = self.tail;
        let mut at = self.place(tail);
        let rest = self.capacity - at;
        if total > rest {
            assert!(self.has_room(rest, 0), "room was reserved");
            self.head(at).copy_from_slice(&head(FILLER, 0));
            tail += rest as u64;
            at = 0;
        }
        self.tail = tail;
        assert!(self.has_room(total, 0), "room was reserved");
        self.head(at).copy_from_slice(&head(to_u32(len), low(number)));
        // SAFETY: `has_room` says that `total` bytes from `tail` on are not the consumer's, and
        // they do not cross the ring's end. No other reference to them exists, because `self` is
        // borrowed mutably and is the only producer.
        let operations = unsafe { self.shared.ring.slice_mut(at + HEAD_BYTES, len) };
        encode(operations);
        self.tail = tail + total as u64;
        self.shared.tail.0.store(self.tail, Ordering::Release);
    }

    /// The head of the entry at `at`, which is in the producer's part.
    fn head(&mut self, at: usize) -> &mut [u8] {
        // SAFETY: the caller has asked `has_room` for at least these 8 bytes (every length is a
        // multiple of 8, so they do not cross the ring's end), and `self` is borrowed mutably.
        unsafe { self.shared.ring.slice_mut(at, HEAD_BYTES) }
    }

    fn place(&self, position: u64) -> usize {
        to_usize(position & (self.capacity as u64 - 1))
    }
}

/// The end that the leader reads.
#[derive(Debug)]
pub(super) struct Consumer {
    shared: Arc<Shared>,
    capacity: usize,
    head: u64,
    tail_seen: u64,
}

/// The oldest entry of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Front {
    /// The low half of its number.
    pub(super) number: u32,
    /// Length of its operations.
    pub(super) len: u32,
}

impl Consumer {
    /// Looks how far the producer has come.
    pub(super) fn refresh(&mut self) {
        self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
    }

    /// The oldest entry, of what the last [`Consumer::refresh`] saw.
    pub(super) fn front(&mut self) -> Option<Front> {
        loop {
            if self.head == self.tail_seen {
                return None;
            }
            let at = self.place();
            let (len, number) = parse(self.read(at, HEAD_BYTES));
            if len != FILLER {
                return Some(Front { number, len });
            }
            self.head += (self.capacity - at) as u64;
        }
    }

    /// Takes the entry that [`Consumer::front`] returned: its head and operations are copied to the
    /// front of `out`, which is as long.
    pub(super) fn take(&mut self, front: Front, out: &mut [u8]) {
        let len = front.len as usize;
        assert!(self.head + entry_bytes(len) as u64 <= self.tail_seen, "it is in the buffer");
        let at = self.place();
        out.copy_from_slice(self.read(at, HEAD_BYTES + len));
        self.head += entry_bytes(len) as u64;
    }

    /// Gives back to the producer what was taken.
    pub(super) fn release(&mut self) {
        self.shared.head.0.store(self.head, Ordering::Release);
    }

    fn read(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: both callers have checked that `at` is the place of `head` and that `len` bytes
        // from there on lie before `tail_seen`; the producer's Release of `tail`, which `refresh`
        // has acquired, came after they were written. The producer writes here again only after
        // `release`, which takes `&mut self` and so comes after this borrow.
        unsafe { self.shared.ring.slice(at, len) }
    }

    fn place(&self) -> usize {
        to_usize(self.head & (self.capacity as u64 - 1))
    }
}

/// The low half of a number.
pub(super) fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).expect("32 bits are left")
}

fn head(len: u32, number: u32) -> [u8; HEAD_BYTES] {
    (u64::from(len) | u64::from(number) << 32).to_le_bytes()
}

fn parse(head: &[u8]) -> (u32, u32) {
    let head = u64::from_le_bytes(head.try_into().expect("a head has 8 bytes"));
    (low(head), low(head >> 32))
}

#[cfg(all(test, not(loom)))]
mod tests;
