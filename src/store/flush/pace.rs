//! How much to flush now, in beats (design, section 4.3; E4, rule 1).
//!
//! A beat is whatever the caller has: a batch of the log, or a turn of its loop. It says how much
//! the log grew since the beat before, and gets back how many bytes of pages to write before the
//! next one. There is no clock in it.
//!
//! | what | flushes |
//! |---|---|
//! | the log is less than half full | nothing: what is written once more meanwhile costs nothing |
//! | from there to 7/8 | so much that all dirty pages are written by the time the log is 7/8 full |
//! | beyond | as much as one bundle a beat |
//! | areas and dirty images are over their budget | what is over, at most a bundle a beat |
//! | the evicter waits | what it wants |
//!
//! *The bytes that are dirty, by the bytes that the log may still grow, times the bytes that it
//! grew*: one hand goes round, so when all that is dirty now has been written, so has the oldest.

/// What the pace depends on, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Load {
    /// From the log's start to its end.
    pub(in crate::store) log_used: u64,
    pub(in crate::store) log_limit: u64,
    /// What the log grew since the last beat.
    pub(in crate::store) logged: u64,
    /// What all dirty pages take when they are written.
    pub(in crate::store) dirty: u64,
    /// What dirty pages may take.
    pub(in crate::store) dirty_budget: u64,
    /// What the evicter could not evict because it is dirty.
    pub(in crate::store) wanted: u64,
}

/// The most that a beat flushes.
pub(in crate::store) const MAX_BEAT_BYTES: u64 = 1 << 20;

/// What flushing owes. A rest that is too small to be worth a bundle is kept for the next beat.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Pace {
    owed: u64,
}

impl Pace {
    /// How many bytes to flush now, [`MAX_BEAT_BYTES`] at most; 0 for none. `worthwhile` bytes make
    /// a bundle that is worth its trailer.
    pub(in crate::store) fn beat(&mut self, load: &Load, worthwhile: u64) -> u64 {
        let end = load.log_limit - load.log_limit / 8;
        let by_age = if load.log_used < load.log_limit / 2 {
            self.owed = 0;
            0
        } else if load.log_used >= end {
            MAX_BEAT_BYTES
        } else {
            load.logged.saturating_mul(load.dirty) / (end - load.log_used)
        };
        self.owed = self.owed.saturating_add(by_age).min(load.dirty).min(MAX_BEAT_BYTES);
        let over = load.dirty.saturating_sub(load.dirty_budget).max(load.wanted);
        let now = self.owed.max(over.min(load.dirty)).min(MAX_BEAT_BYTES);
        let is_due = now >= worthwhile || load.wanted > 0 || load.log_used >= end;
        if is_due { now } else { 0 }
    }

    /// So many bytes were put into a bundle.
    pub(in crate::store) fn flushed(&mut self, bytes: u64) {
        self.owed = self.owed.saturating_sub(bytes);
    }
}
