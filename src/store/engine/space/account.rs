//! The account of a store's room: what is used, what is reserved or held, and what a write adds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::store::btree::{Change, VALUE_REFERENCE_BYTES};
use crate::store::engine::values::numbers::{MARKER_ENTRY_BYTES, PIECE_BYTES, PIECE_KEY_BYTES};
use crate::store::pages::{Capacity, Geometry};
use crate::store::wal::Operation;

/// What an entry takes in an image beside key and value, at most.
const ENTRY_BYTES: u64 = 32;
/// What a piece of a long value adds: it fills a page of 4 KiB. Besides, there are its entries in a
/// trailer and in the page above.
const PIECE_ADDS: u64 = PIECE_BYTES as u64 + 384;
/// Of what cleaning could fill, so much is room: the rest is garbage in segments that live.
const ROOM_SHARE: (u64, u64) = (15, 16);
/// So many segments of the reserve may be that rest.
const OF_REST: u32 = 3;
/// Segments that open streams fill, beside what [`Capacity::reserve`] has.
const OPEN_SEGMENTS: u32 = 2;
/// Long values that add something leave this share of the room to others.
const KEPT_SHARE: u64 = 16;
/// Those that take the place of others go beyond the room by this share of it: half of what
/// [`ROOM_SHARE`] leaves.
const BEYOND_SHARE: u64 = 32;
/// A value that is longer than the one before by no more than this is hardly longer: it may have
/// got an expiry time.
const HARDLY_LONGER_BYTES: u64 = 64;
/// Clearing and removing trees goes beyond that by this share: a quarter of what [`ROOM_SHARE`]
/// leaves.
const CLEARS_SHARE: u64 = 64;
/// How often a write asks for room before it is refused.
pub(in crate::store::engine) const MAX_ASKS: u32 = 4;
/// How many points are kept at most.
const MAX_POINTS: usize = 256;

/// The account of a store, for all its cores, in bytes.
#[derive(Debug, Default)]
pub(in crate::store::engine) struct Space {
    room: AtomicU64,
    used: AtomicU64,
    /// All that was ever reserved, and what of it counts no more.
    reserved: AtomicU64,
    settled: AtomicU64,
    held: AtomicU64,
    /// Writes that were admitted because they add nothing, and how many there were when everything
    /// was written last.
    shrinking: AtomicU64,
    seen_shrinking: AtomicU64,
    /// The keeper finds no segment to go on with.
    is_stuck: AtomicBool,
}

/// What a put adds at most. A page of half its length counts its header, the rest of its last
/// granule, its entries in a trailer and in the page above: an eighth of what is in it.
pub(in crate::store::engine) fn added_bytes(key: &[u8], change: Change<'_>) -> u64 {
    let value = match change {
        Change::Delete => return 0,
        Change::Put(value) => value.len(),
        Change::PutReference(_) => 64,
    };
    let entry = (key.len() + value) as u64 + ENTRY_BYTES;
    entry + entry / 8
}

/// What an operation of the log adds to the pages at most.
pub(in crate::store::engine) fn added_by(operation: &Operation<'_>) -> u64 {
    match operation {
        Operation::Put { key, value, .. } => added_bytes(key, Change::Put(value)),
        Operation::PutReference { key, reference, .. } => added_bytes(key, Change::PutReference(reference)),
        _ => 0,
    }
}

/// What a long value adds: its pieces, the marker that it has for a while, and what refers to it.
pub(in crate::store::engine) fn added_by_long(key: &[u8], len: usize) -> u64 {
    let rest = added_bytes(&[0; PIECE_KEY_BYTES], Change::Put(&[0; PIECE_BYTES][..len % PIECE_BYTES]));
    let reference = added_bytes(key, Change::PutReference(&[0; VALUE_REFERENCE_BYTES]));
    (len / PIECE_BYTES) as u64 * PIECE_ADDS + rest + reference + MARKER_ENTRY_BYTES
}

/// What a write does to the store, and so how much of the room it may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::engine) enum Kind {
    /// It makes the store larger.
    Adds,
    /// Its values take the place of others that are hardly shorter ([`Kind::of`]).
    Replaces,
    /// A tree is cleared or removed, which makes room.
    Clears,
}

impl Kind {
    /// That of a put of `new` bytes in the place of `old`.
    pub(in crate::store::engine) fn of(old: Option<u64>, new: u64) -> Self {
        let is_hardly_longer = old.is_some_and(|old| new <= old + HARDLY_LONGER_BYTES);
        if is_hardly_longer { Self::Replaces } else { Self::Adds }
    }

    /// That of both.
    pub(in crate::store::engine) fn and(self, other: Self) -> Self {
        if self == Self::Adds { self } else { other }
    }
}

/// What was admitted and is not written yet, of long values.
#[derive(Debug)]
pub(in crate::store::engine) struct Held<'s> {
    space: &'s Space,
    bytes: u64,
}

impl Held<'_> {
    /// So many of these bytes are written, and have their numbers.
    pub(in crate::store::engine) fn wrote(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        // In this order: for a moment they count twice.
        self.space.reserve(bytes);
        self.space.held.fetch_sub(bytes, Ordering::AcqRel);
        self.bytes -= bytes;
    }

    /// They stay held, until they are [given back](Space::give_back).
    pub(in crate::store::engine) fn leave(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// All of them are.
    pub(in crate::store::engine) fn wrote_all(mut self) {
        self.wrote(self.bytes);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.space.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The same where it is known how long the value is that the key has, if it has one; and what kind
/// of write that is.
pub(in crate::store::engine) fn grows_by(key: &[u8], old: Option<usize>, change: Change<'_>) -> (u64, Kind) {
    match (change, old) {
        (Change::Put(new), Some(old)) => {
            let more = new.len().saturating_sub(old) as u64;
            (more + more / 8, Kind::of(Some(old as u64), new.len() as u64))
        }
        (Change::Delete, _) => (0, Kind::Replaces),
        _ => (added_bytes(key, change), Kind::Adds),
    }
}

impl Space {
    /// How many writes were admitted because they add nothing, and what was reserved, so far.
    pub(in crate::store::engine) fn now(&self) -> (u64, u64) {
        (self.shrinking.load(Ordering::Relaxed), self.reserved.load(Ordering::Acquire))
    }

    /// What was reserved up to this sum counts no more.
    pub(in crate::store::engine) fn settle(&self, settled: u64) {
        self.settled.store(settled, Ordering::Release);
    }

    /// Everything is written that was made before there were so many writes that add nothing.
    pub(in crate::store::engine) fn have_seen(&self, shrinking: u64) {
        self.seen_shrinking.store(shrinking, Ordering::Relaxed);
    }

    /// Reserves what was admitted once, and is in the log alone: it does not ask.
    pub(in crate::store::engine) fn reserve(&self, bytes: u64) {
        self.reserved.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Holds what long values add, if it fits.
    pub(in crate::store::engine) fn hold(&self, bytes: u64, kind: Kind) -> Option<Held<'_>> {
        self.held.fetch_add(bytes, Ordering::AcqRel);
        let held = Held { space: self, bytes };
        let (used, growth, room) = self.taken();
        let room = match kind {
            Kind::Adds => room - room / KEPT_SHARE,
            Kind::Replaces => room + room / BEYOND_SHARE,
            Kind::Clears => room + room / BEYOND_SHARE + room / CLEARS_SHARE,
        };
        (bytes == 0 || used.saturating_add(growth) <= room).then_some(held)
    }

    /// Holds what was held before the store was opened, whether it fits or not.
    pub(in crate::store::engine) fn hold_again(&self, bytes: u64) -> u64 {
        self.held.fetch_add(bytes, Ordering::AcqRel);
        bytes
    }

    /// What was held for long is not needed any more.
    pub(in crate::store::engine) fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Reserves what is missing in `reserved` to `bytes`, if it fits.
    pub(in crate::store::engine) fn admit_up_to(
        &self,
        reserved: &mut u64,
        (bytes, kind): (u64, Kind),
    ) -> bool {
        let is_admitted =
            *reserved >= bytes && bytes > 0 || self.admit(bytes.saturating_sub(*reserved), kind);
        if is_admitted {
            *reserved = bytes.max(*reserved);
        }
        is_admitted
    }

    /// Reserves `bytes`, if they fit.
    pub(in crate::store::engine) fn admit(&self, bytes: u64, kind: Kind) -> bool {
        if bytes == 0 {
            self.shrinks();
            return true;
        }
        let (room, used) = (self.room.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed));
        let reserved = self.reserved.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let growth = reserved.saturating_sub(self.settled.load(Ordering::Relaxed));
        let growth = growth.saturating_add(self.held.load(Ordering::Relaxed));
        let beyond = if kind == Kind::Adds { 0 } else { room / BEYOND_SHARE };
        if used.saturating_add(growth) <= room + beyond {
            return true;
        }
        self.reserved.fetch_sub(bytes, Ordering::AcqRel);
        false
    }

    /// A write was admitted that adds nothing.
    pub(in crate::store::engine) fn shrinks(&self) {
        self.shrinking.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether nothing was written since the account was exact.
    pub(in crate::store::engine) fn is_exact(&self) -> bool {
        self.reserved.load(Ordering::Acquire) == self.settled.load(Ordering::Acquire)
            && self.held.load(Ordering::Acquire) == 0
            && self.shrinking.load(Ordering::Relaxed) == self.seen_shrinking.load(Ordering::Relaxed)
    }

    /// What is used, reserved or held, and there, in bytes.
    pub(in crate::store::engine) fn taken(&self) -> (u64, u64, u64) {
        let growth =
            self.reserved.load(Ordering::Relaxed).saturating_sub(self.settled.load(Ordering::Relaxed));
        let growth = growth.saturating_add(self.held.load(Ordering::Relaxed));
        (self.used.load(Ordering::Relaxed), growth, self.room.load(Ordering::Relaxed))
    }

    pub(in crate::store::engine) fn set_used(&self, used: u64) {
        self.used.store(used, Ordering::Relaxed);
    }

    pub(in crate::store::engine) fn set_room(&self, room: u64) {
        self.room.store(room, Ordering::Relaxed);
    }

    pub(in crate::store::engine) fn set_stuck(&self, is_stuck: bool) {
        self.is_stuck.store(is_stuck, Ordering::Relaxed);
    }

    pub(in crate::store::engine) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }
}

/// Points of the account: what was reserved before which number.
#[derive(Debug, Default)]
pub(in crate::store::engine) struct Points(VecDeque<(u64, u64)>);

impl Points {
    pub(in crate::store::engine) fn note(&mut self, number: u64, reserved: u64) {
        if self.0.back().is_some_and(|last| last.1 == reserved) {
            return;
        }
        if self.0.len() == MAX_POINTS {
            // A later point does for the one before.
            self.0.pop_back();
        }
        self.0.push_back((number, reserved));
    }

    /// All numbers below `durable` are: what was reserved for them.
    pub(in crate::store::engine) fn settle(&mut self, durable: u64) -> Option<u64> {
        let mut settled = None;
        while let Some((number, reserved)) = self.0.front().copied()
            && number <= durable
        {
            settled = Some(reserved);
            self.0.pop_front();
        }
        settled
    }
}

/// The room for pages of a store whose log has so many segments at most.
pub(in crate::store::engine) fn room(geometry: Geometry, log_segments: u32) -> u64 {
    let block = u64::from(geometry.block);
    // The header, and for each bundle what its trailer and padding take beside its entries. What is
    // left at the end of a segment is too short for the longest page, half of which it is mostly.
    let bundles = u64::from(geometry.segment / (8 * geometry.block).max(128 << 10)) + 1;
    let largest = u64::from(Capacity::new(geometry, 1, 128 << 10).max_page_granules()) * 64;
    let filled = u64::from(geometry.segment).saturating_sub(block * (1 + bundles) + largest / 2);
    let all = geometry.segments.saturating_sub(log_segments + geometry.first_segment());
    // On a small store the reserve is much beside it, and has some of that rest.
    let most = all.saturating_sub(reserve(geometry));
    let of_live = u64::from(all.saturating_sub(reserve(geometry) - OF_REST)) * filled;
    (of_live / ROOM_SHARE.1 * ROOM_SHARE.0).min(u64::from(most) * filled)
}

/// What a store may have, in bytes, that has not got its reserve yet.
pub(in crate::store::engine) const YOUNG_BYTES: u64 = 512 << 10;

/// Whether a store of which only some is `solid` has not got its reserve.
pub(in crate::store::engine) fn is_young(geometry: Geometry, solid: Geometry, log_segments: u32) -> bool {
    solid.segments < geometry.segments
        && solid.segments < solid.first_segment() + log_segments + reserve(solid)
}

/// Segments that no write is admitted to fill.
pub(in crate::store::engine) fn reserve(geometry: Geometry) -> u32 {
    Capacity::new(geometry, 1, 128 << 10).reserve() + OPEN_SEGMENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_counts_until_its_numbers_are_durable() {
        let space = Space::default();
        space.set_room(100);
        assert!(space.admit(60, Kind::Adds));
        assert!(!space.admit(41, Kind::Adds));
        assert!(space.admit(40, Kind::Adds));
        assert!(space.admit(0, Kind::Adds), "nothing is always admitted");
        assert_eq!(space.taken(), (0, 100, 100));
        let mut points = Points::default();
        points.note(5, 60);
        points.note(9, 100);
        assert_eq!(points.settle(4), None);
        assert_eq!(points.settle(8), Some(60));
        assert_eq!(points.settle(9), Some(100));
        assert_eq!(points.settle(20), None);
    }

    #[test]
    fn points_beyond_the_limit_settle_later_not_earlier() {
        let mut points = Points::default();
        (1..=2 * MAX_POINTS as u64).for_each(|number| points.note(number, number));
        assert_eq!(points.settle(MAX_POINTS as u64 + 1), Some(MAX_POINTS as u64 - 1));
        assert_eq!(points.settle(2 * MAX_POINTS as u64), Some(2 * MAX_POINTS as u64));
    }
}
