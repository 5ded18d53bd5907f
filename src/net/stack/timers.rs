//! When each connection wants attention next.

use std::collections::BTreeSet;

use crate::rt::Instant;

/// One deadline per connection, ordered.
///
/// A connection's deadline moves with almost every packet, mostly to a later time (the keepalive
/// and the retransmission timer start again). So a later deadline is not entered: the earlier one
/// stays armed, and when it comes the connection looks again. What remains is a few insertions per
/// connection and second, each O(log n).
#[derive(Debug, Default)]
pub(super) struct Timers {
    armed: BTreeSet<(Instant, u32)>,
}

impl Timers {
    /// Arms connection `index` for `deadline`, unless it is armed for an earlier time. `slot` is
    /// what it is armed for now.
    pub(super) fn arm(&mut self, index: u32, slot: &mut Option<Instant>, deadline: Instant) {
        if slot.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.disarm(index, slot);
        self.armed.insert((deadline, index));
        *slot = Some(deadline);
    }

    pub(super) fn disarm(&mut self, index: u32, slot: &mut Option<Instant>) {
        if let Some(armed) = slot.take() {
            self.armed.remove(&(armed, index));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.armed.first().map(|&(deadline, _)| deadline)
    }

    /// Removes and returns a connection whose deadline is at or before `now`. Its slot still says
    /// what it was armed for.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(deadline, index) = self.armed.first()?;
        if deadline > now {
            return None;
        }
        self.armed.pop_first();
        Some(index)
    }
}
