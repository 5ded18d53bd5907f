//! When the keys of a database expire, for [active expiry](super::expiry).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// How many databases there are.
pub(super) const DATABASES: usize = 16;

/// A point in wall-clock time: milliseconds since the Unix epoch.
pub(super) type UnixMs = i64;

/// What is known about a database's keys with expiry times.
#[derive(Debug)]
pub(super) struct VolatileKeys {
    /// No key expires before this time.
    earliest: AtomicI64,
    /// How many such keys the last complete pass of active expiry found and left.
    counted: AtomicU64,
}

impl VolatileKeys {
    pub(super) fn new() -> Self {
        Self { earliest: AtomicI64::new(UnixMs::MIN), counted: AtomicU64::new(0) }
    }

    /// Notes that a key is there which expires at `expires_at`; `UnixMs::MAX` is never.
    ///
    /// A pass of active expiry forgets the earliest time and then looks at all keys, so it does not
    /// miss this one: either the note comes after that, and stays; or the pass sees what was done
    /// before the note, such as the write of the key.
    pub(super) fn note(&self, expires_at: UnixMs) {
        if expires_at != UnixMs::MAX {
            self.earliest.fetch_min(expires_at, Ordering::AcqRel);
        }
    }

    /// Forgets the earliest time, for a pass that looks at all keys from here on.
    pub(super) fn forget(&self) {
        self.earliest.swap(UnixMs::MAX, Ordering::AcqRel);
    }

    /// Whether a key may have expired at `now`.
    pub(super) fn may_have_expired(&self, now: UnixMs) -> bool {
        self.earliest.load(Ordering::Acquire) <= now
    }

    /// How many keys with expiry times the last complete pass left.
    pub(super) fn counted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }

    pub(super) fn set_counted(&self, keys: u64) {
        self.counted.store(keys, Ordering::Relaxed);
    }
}
