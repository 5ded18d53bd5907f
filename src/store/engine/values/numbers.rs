//! The numbers of long values, and what the cores of a store tell each other of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::store::engine::signal::Signal;

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
}

impl LongValues {
    /// The store is open, in this epoch.
    pub(in crate::store::engine) fn start(&self, epoch: u64) {
        let first = epoch << EPOCH | 1;
        self.next.store(first, Ordering::Relaxed);
        self.first.set(first).expect("a store is opened once");
        self.asked.set();
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
        self.asked.set();
    }
}
