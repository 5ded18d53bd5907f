//! Whether an area has changes, for whoever wants to evict its node.

use super::slot::State;
use super::{Area, SlotWord};

impl Area<'_> {
    /// Freezes the area, if nobody has a change in it, live or reserved. Whether that is so: then
    /// nobody will have one.
    ///
    /// If somebody has, the area is as it was, unless the change came in the middle of this call:
    /// then it is frozen, and the next writer consolidates.
    pub(in crate::store) fn freeze_if_clean(&self) -> bool {
        if self.has_change() {
            return false;
        }
        self.freeze();
        !self.has_change()
    }

    fn has_change(&self) -> bool {
        (0..self.slots.capacity()).map(|index| self.slots.load(index)).any(is_change)
    }
}

fn is_change(slot: SlotWord) -> bool {
    matches!(slot.state(), State::Reserved | State::Live) && slot.kind().is_change()
}
