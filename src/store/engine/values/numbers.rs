//! The numbers of long values, the sizes of their pieces, and what the cores of a store tell each
//! other of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::store::engine::signal::Signal;

/// The length of a piece, in bytes: with its key and all headers it fills a page of 4 KiB.
pub(in crate::store::engine) const PIECE_BYTES: usize = 3840;
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
    /// There is something to reclaim.
    pub(in crate::store::engine) asked: Arc<Signal>,
    /// How often that was said, and of which of these times all is reclaimed.
    wanted: AtomicU64,
    reclaimed: AtomicU64,
}

impl LongValues {
    /// The store is open, in this epoch.
    pub(in crate::store::engine) fn start(&self, epoch: u64) {
        let first = epoch << EPOCH | 1;
        self.next.store(first, Ordering::Relaxed);
        self.first.set(first).expect("a store is opened once");
        self.ask();
    }

    /// There is something to reclaim.
    pub(in crate::store::engine) fn ask(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
        self.asked.set();
    }

    /// How often that was said so far.
    pub(super) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Acquire)
    }

    /// Nobody waits for what was said so often, or for the reclaimer at all.
    pub(super) fn set_reclaimed(&self, wanted: u64) {
        self.reclaimed.fetch_max(wanted, Ordering::AcqRel);
    }

    pub(super) fn is_reclaimed(&self, wanted: u64) -> bool {
        self.reclaimed.load(Ordering::Acquire) >= wanted
    }

    pub(super) fn draw(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn abandoned(&self) -> MutexGuard<'_, Vec<u64>> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its writer gave it up.
    pub(super) fn abandon(&self, number: u64) {
        self.abandoned().push(number);
        self.ask();
    }
}
