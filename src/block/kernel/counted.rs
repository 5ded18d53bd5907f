//! Statistics of operations that the kernel queues.

use super::super::stats::{NamespaceStats, OperationStats, SharedStats};
use crate::rt;
use crate::time::Instant;

/// An operation that is under way, until this is dropped.
pub(super) struct Counted<'a> {
    stats: &'a SharedStats,
    kind: fn(&mut NamespaceStats) -> &mut OperationStats,
    began: Instant,
}

impl<'a> Counted<'a> {
    /// An operation begins. `kind` is where operations of its kind are counted.
    pub(super) fn begin(
        stats: &'a SharedStats,
        kind: fn(&mut NamespaceStats) -> &mut OperationStats,
    ) -> Self {
        let mut counters = stats.borrow_mut();
        counters.queue_depth += 1;
        counters.max_queue_depth = counters.max_queue_depth.max(counters.queue_depth);
        drop(counters);
        Self { stats, kind, began: rt::now() }
    }

    /// It ended as `result` says, and if well moved or covered `bytes`.
    pub(super) fn end<T, E>(self, result: Result<T, E>, bytes: u64) -> Result<T, E> {
        let mut counters = self.stats.borrow_mut();
        let counted = (self.kind)(&mut counters);
        match &result {
            Ok(_) => {
                let took = rt::now().saturating_since(self.began);
                counted.record(bytes, u64::try_from(took.as_nanos()).ok());
            }
            Err(_) => counted.failed += 1,
        }
        drop(counters);
        result
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.stats.borrow_mut().queue_depth -= 1;
    }
}
