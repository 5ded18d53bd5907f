//! What a store has done since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};

/// Something that is counted. Nothing is published by it.
#[derive(Debug, Default)]
pub(super) struct Meter(AtomicU64);

impl Meter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the cores do with pages.
#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) page_loads: Meter,
    pub(super) evictions: Meter,
    /// Bytes of bundles of pages, and those of them that cleaning moved.
    pub(super) page_bytes: Meter,
    pub(super) moved_bytes: Meter,
    /// Bytes of bundles of checkpoints.
    pub(super) checkpoint_bytes: Meter,
    pub(super) checkpoints: Meter,
}

/// What the log does.
#[derive(Debug, Default)]
pub(super) struct LogMeters {
    pub(super) record_bytes: Meter,
    pub(super) bytes: Meter,
    pub(super) batches: Meter,
    /// Forced writes are counted too.
    pub(super) flushes: Meter,
}
