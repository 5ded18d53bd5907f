//! How far the trees may be ahead of what the namespace knows of their shape.
//!
//! Pages that came to be, or changed shape, one from another may have to be durable together
//! ([`flush`](crate::store::flush)), and what one batch of the log can name has an end. The
//! keeper writes such pages early; but while it waits for the device, writers split pages as fast
//! as they can. So each core counts the pages that it makes a part of such a set, when it
//! [tells](crate::store::events) of them, and writers wait while these may fill a group of bundles.
//! Nobody knows yet how long the pages will be that are only counted; they count as what a page may
//! become before it is split. Whoever finds that too much is counted looks what they really take.
//!
//! | | |
//! |---|---|
//! | [`grew`](Growth::grew) | pages changed shape; counted after their event is in its queue |
//! | [`told`](Growth::told) | the bytes that were counted so far: read *before* the queues are drained |
//! | [`saw`](Growth::saw) | of what was counted until then, and of all that was drained, so many bytes are not durable |
//! | [`is_reached`](Growth::is_reached) | writers wait |
//!
//! An event that is drained before it is counted is counted twice, and none is left out. It
//! may be that the keeper can write none of these pages for now, because a writer is at a step with
//! one of them; then it [lets some pass](Growth::let_pass), an eighth of the limit at a time. That
//! has an end, a quarter beyond the limit by what was seen, so that what they make still fits: the
//! limit is three quarters of a group at most (`Streams::growth_bytes`). Nor is more ever needed: a
//! writer at a step waits for nobody, and what others leave half done the keeper finishes by itself
//! (`engine/stall.rs`).

use std::sync::atomic::{AtomicU64, Ordering};

/// See the head of the module.
#[derive(Debug)]
pub(in crate::store) struct Growth {
    limit_bytes: u64,
    page_bytes: u64,
    counted: AtomicU64,
    /// Writers wait as soon as so many bytes are counted.
    allowed: AtomicU64,
    /// What was seen last.
    seen: AtomicU64,
}

impl Growth {
    /// So many bytes may be not durable. A page is not longer than `page_bytes` when it is split.
    pub(in crate::store) fn new(limit_bytes: u64, page_bytes: u64) -> Self {
        let (counted, allowed) = (AtomicU64::new(0), AtomicU64::new(limit_bytes));
        Self { limit_bytes, page_bytes, counted, allowed, seen: AtomicU64::new(0) }
    }

    pub(in crate::store) fn grew(&self, pages: u64) {
        self.counted.fetch_add(pages * self.page_bytes, Ordering::Release);
    }

    pub(in crate::store) fn told(&self) -> u64 {
        // What is seen here was in its queue before.
        self.counted.load(Ordering::Acquire)
    }

    pub(in crate::store) fn saw(&self, told: u64, bytes: u64) {
        self.allowed.store(told + self.limit_bytes.saturating_sub(bytes), Ordering::Relaxed);
        self.seen.store(bytes, Ordering::Relaxed);
    }

    /// Some writers may go on, unless too much was seen.
    pub(in crate::store) fn let_pass(&self) {
        let some = self.limit_bytes.div_ceil(8);
        if self.seen.load(Ordering::Relaxed) + some <= self.limit_bytes.saturating_add(self.limit_bytes / 4) {
            self.allowed.store(self.told() + some, Ordering::Relaxed);
        }
    }

    pub(in crate::store) fn is_reached(&self) -> bool {
        self.counted.load(Ordering::Relaxed) >= self.allowed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_wait_until_enough_is_durable() {
        let growth = Growth::new(80, 10);
        growth.grew(7);
        assert!(!growth.is_reached());
        growth.grew(1);
        assert!(growth.is_reached());
        let told = growth.told();
        growth.grew(3);
        growth.saw(told, 51);
        assert!(growth.is_reached(), "those that came meanwhile count");
        growth.saw(told, 49);
        assert!(!growth.is_reached());
        growth.grew(9);
        growth.saw(growth.told(), 90);
        assert!(growth.is_reached());
        growth.let_pass();
        assert!(!growth.is_reached());
        growth.grew(1);
        assert!(growth.is_reached(), "an eighth");
        growth.saw(growth.told(), 91);
        growth.let_pass();
        assert!(growth.is_reached(), "a quarter beyond the limit is the end");
    }
}
