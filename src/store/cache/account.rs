//! The account of bytes: what the parts of a store use together never exceeds its limit.
//!
//! Each core has a [`Portion`]: bytes that it has taken from the account and may use without
//! asking. Taking and giving change only the portion, and settle with the account in steps of
//! [`STEP_BYTES`] (less if the limit is small). So the account always counts at least what is in
//! use, and [`used_bytes`](Account::used_bytes) more than that by what lies in portions: up to two
//! steps for each core.
//!
//! The last bytes of the limit are a **reserve**, for what frees memory or must not wait for it
//! ([`Room::Reserve`]). Whoever takes from it takes no step more than it needs, and while any of it
//! is in use, what is given back on any core goes back to the account at once, so that the reserve
//! does not end up in portions.
//!
//! Eviction starts before takers are refused: at the low watermark, which lies a bit below the
//! reserve ([`Account::pressure_bytes`]).
//!
//! Bytes may be given back on another core than the one that took them. So what a part uses is the
//! sum of differences, which cores settle when they are as large as a step. It is exact when all
//! cores have settled ([`Portion::settle`]).

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use std::cell::Cell;
use std::sync::Arc;

use super::super::atomic::{AtomicU64, Ordering};

/// A core settles with the account when it has so many bytes too many or too few.
const STEP_BYTES: u64 = 64 << 10;
/// A step is at most this share of the limit.
const STEPS_PER_LIMIT: u64 = 64;
/// The low watermark lies this share of the limit below the reserve.
const SLACK_PER_LIMIT: u64 = 32;

/// How much of a limit may be used for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Room {
    /// All but the reserve.
    Ordinary,
    /// The reserve too. For what frees memory or is on the way to that: deletes, overwrites by
    /// values of the same size, the keeper, and loads for them.
    Reserve,
}

/// What bytes are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Part {
    /// Leaves and inner pages, with their areas; those that were retired until they are freed.
    Nodes,
    /// Frames of the mapping.
    MapFrames,
    /// Filters of families.
    Filters,
    /// Buffers of pages on their way to the namespace.
    WriteBuffers,
    /// Buffers of the log.
    LogBuffers,
    /// Records of transactions, and what they have staged.
    Transactions,
    /// What was recovered from the log and is not in the tree yet.
    Overlay,
}

impl Part {
    /// All parts, in the order of their numbers.
    pub(in crate::store) const ALL: [Self; 7] = [
        Self::Nodes,
        Self::MapFrames,
        Self::Filters,
        Self::WriteBuffers,
        Self::LogBuffers,
        Self::Transactions,
        Self::Overlay,
    ];

    fn index(self) -> usize {
        match self {
            Self::Nodes => 0,
            Self::MapFrames => 1,
            Self::Filters => 2,
            Self::WriteBuffers => 3,
            Self::LogBuffers => 4,
            Self::Transactions => 5,
            Self::Overlay => 6,
        }
    }
}

/// The account of a store, shared by its cores.
pub(in crate::store) struct Account {
    limit_bytes: u64,
    reserve_bytes: u64,
    step_bytes: u64,
    /// What portions have taken and not given back. Never above the limit.
    taken: AtomicU64,
    /// By part: what cores have settled, wrapping.
    parts: [AtomicU64; Part::ALL.len()],
}

impl Account {
    /// An account of at most `limit_bytes` bytes, of which the last `reserve_bytes` are for
    /// [`Room::Reserve`].
    pub(in crate::store) fn new(limit_bytes: u64, reserve_bytes: u64) -> Arc<Self> {
        assert!(reserve_bytes <= limit_bytes, "the reserve is a part of the limit");
        Arc::new(Self {
            limit_bytes,
            reserve_bytes,
            step_bytes: STEP_BYTES.min(limit_bytes / STEPS_PER_LIMIT).max(1),
            taken: AtomicU64::new(0),
            parts: Part::ALL.map(|_| AtomicU64::new(0)),
        })
    }

    /// The calling core's portion, empty at first.
    pub(in crate::store) fn attach(self: &Arc<Self>) -> Portion {
        Portion { account: Arc::clone(self), spare: Cell::new(0), parts: Part::ALL.map(|_| Cell::new(0)) }
    }

    /// The limit, in bytes.
    pub(in crate::store) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// The last bytes of the limit, which are for [`Room::Reserve`].
    pub(in crate::store) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// Bytes in use, and those that lie in portions.
    pub(in crate::store) fn used_bytes(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// How much more is in use than the low watermark. Above zero, pages are to be evicted.
    pub(in crate::store) fn pressure_bytes(&self) -> u64 {
        let slack = self.limit_bytes / SLACK_PER_LIMIT;
        self.used_bytes().saturating_sub(self.most_bytes(Room::Ordinary).saturating_sub(slack))
    }

    /// How much of the limit may be used.
    fn most_bytes(&self, room: Room) -> u64 {
        match room {
            Room::Ordinary => self.limit_bytes - self.reserve_bytes,
            Room::Reserve => self.limit_bytes,
        }
    }

    /// Whether some of the reserve is in use.
    fn is_in_reserve(&self) -> bool {
        self.used_bytes() > self.most_bytes(Room::Ordinary)
    }

    /// Bytes that `part` uses, as far as cores have settled: each core may be a step off.
    pub(in crate::store) fn part_bytes(&self, part: Part) -> u64 {
        // Below zero if the core that took has not settled and the one that gave back has.
        let settled = self.parts[part.index()].load(Ordering::Relaxed).cast_signed();
        u64::try_from(settled).unwrap_or(0)
    }

    /// Takes `least` bytes, and a step more if that leaves the reserve alone. How many; `None` if
    /// the limit has no room for them.
    fn take(&self, least: u64, room: Room) -> Option<u64> {
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let most = least.saturating_add(self.step_bytes);
            let ordinary = self.most_bytes(Room::Ordinary).saturating_sub(taken);
            let bytes = if most <= ordinary { most } else { least };
            if bytes > self.most_bytes(room).saturating_sub(taken) {
                return None;
            }
            // Nothing is published by these numbers, so no ordering is needed.
            let to = taken + bytes;
            match self.taken.compare_exchange(taken, to, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(bytes),
                Err(now) => taken = now,
            }
        }
    }
}

/// One core's share of the account. When it is dropped, it settles.
pub(in crate::store) struct Portion {
    account: Arc<Account>,
    /// Bytes that were taken from the account and are not in use.
    spare: Cell<u64>,
    /// By part: bytes taken less those given since this was settled.
    parts: [Cell<i64>; Part::ALL.len()],
}

impl Portion {
    /// Takes `bytes` bytes for `part`. False if that would exceed the limit, counting what lies in
    /// other cores' portions, or would need the reserve and `room` is not for it; then nothing has
    /// changed.
    #[must_use = "bytes that were not taken must not be used"]
    pub(in crate::store) fn try_take(&self, part: Part, bytes: u64, room: Room) -> bool {
        let spare = self.spare.get();
        let missing = bytes.saturating_sub(spare);
        let mut got = 0;
        if missing > 0 {
            let Some(taken) = self.account.take(missing, room) else { return false };
            got = taken;
        }
        self.spare.set(spare + got - bytes);
        self.change(part, signed(bytes));
        true
    }

    /// Gives back `bytes` bytes of `part`, which this core or another one took.
    pub(in crate::store) fn give(&self, part: Part, bytes: u64) {
        let spare = self.spare.get() + bytes;
        let step = self.account.step_bytes;
        let surplus = match () {
            () if self.account.is_in_reserve() => spare,
            () if spare > 2 * step => spare - step,
            () => 0,
        };
        self.spare.set(spare - surplus);
        if surplus > 0 {
            self.account.taken.fetch_sub(surplus, Ordering::Relaxed);
        }
        self.change(part, -signed(bytes));
    }

    /// Gives all spare bytes back, and tells the account what each part uses.
    pub(in crate::store) fn settle(&self) {
        self.account.taken.fetch_sub(self.spare.replace(0), Ordering::Relaxed);
        Part::ALL.into_iter().for_each(|part| self.settle_part(part));
    }

    /// The account that this belongs to.
    pub(in crate::store) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    fn change(&self, part: Part, bytes: i64) {
        let difference = &self.parts[part.index()];
        difference.set(difference.get() + bytes);
        if difference.get().unsigned_abs() >= self.account.step_bytes {
            self.settle_part(part);
        }
    }

    fn settle_part(&self, part: Part) {
        let difference = self.parts[part.index()].replace(0);
        if difference != 0 {
            // Adds, or takes away, modulo 2^64.
            self.account.parts[part.index()].fetch_add(difference.cast_unsigned(), Ordering::Relaxed);
        }
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.settle();
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("no machine has 2^63 bytes")
}
