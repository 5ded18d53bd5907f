//! The numbers of long values, the sizes of their pieces, and what the cores of a store tell each
//! other of them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::store::btree::MAX_LEAF_VALUE_BYTES;
use crate::store::engine::signal::Errand;

/// The length of a piece, in bytes: a leaf has room for one, and its area for another.
pub(in crate::store::engine) const PIECE_BYTES: usize = MAX_LEAF_VALUE_BYTES;
/// What the account of space has for a marker, in bytes.
pub(in crate::store::engine) const MARKER_ENTRY_BYTES: u64 = 64;
/// The length of a piece's key.
pub(in crate::store::engine) const PIECE_KEY_BYTES: usize = 13;
/// So many bits of a number are counted within an epoch.
const EPOCH: u32 = 40;

/// What the cores of a store know of its long values.
#[derive(Debug, Default)]
pub(in crate::store::engine) struct LongValues {
    /// The number of the next value.
    next: AtomicU64,
    /// The first number that was given out since the store was opened.
    pub(super) first: OnceLock<u64>,
    /// Values whose writers gave up.
    abandoned: Mutex<Vec<u64>>,
    /// Values that could not be reclaimed, of which that was said.
    left: Mutex<HashSet<u64>>,
    /// To reclaim those that nobody refers to any more.
    pub(in crate::store::engine) errand: Errand,
}

impl LongValues {
    /// The store is open, in this epoch.
    pub(in crate::store::engine) fn start(&self, epoch: u64) {
        let first = epoch << EPOCH | 1;
        self.next.store(first, Ordering::Relaxed);
        self.first.set(first).expect("a store is opened once");
        self.errand.ask();
    }

    pub(super) fn draw(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn abandoned(&self) -> MutexGuard<'_, Vec<u64>> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It cannot be reclaimed; whether that is new.
    pub(super) fn is_new_left(&self, number: u64) -> bool {
        self.left().insert(number)
    }

    /// Of those that could not be reclaimed these are left.
    pub(super) fn keep_left(&self, left: &[u64]) {
        self.left().retain(|number| left.contains(number));
    }

    /// Its writer gave it up.
    pub(super) fn abandon(&self, number: u64) {
        self.abandoned().push(number);
        self.errand.ask();
    }
}
