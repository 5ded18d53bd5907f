//! Shadow doorbells (Base 5.8, Doorbell Buffer Config): doorbells in memory, for controllers whose
//! registers cost much to write, which are emulated ones. The host writes a doorbell's value to
//! the shadow buffer, and to the register only if the controller asked for that: its event index
//! lies between the doorbell's old value and its new one.

use std::sync::atomic::{Ordering, fence};

use super::dma::{DmaMemory, DmaRegion};
use super::registers::{Capabilities, DOORBELLS};
use crate::error::Result;

/// The size of each of the two buffers: a page.
const BUFFER_BYTES: usize = 4096;

/// The two buffers of one controller, which all its queue pairs use, each its own words.
#[derive(Debug)]
pub struct ShadowDoorbells {
    values: DmaRegion,
    events: DmaRegion,
}

// SAFETY: all that is done to the regions through a shared reference is loads and stores of aligned
// 32-bit words as atomics (`load_acquire`, `store_release`); the addresses are constant.
unsafe impl Sync for ShadowDoorbells {}

impl ShadowDoorbells {
    pub(super) fn new(memory: &dyn DmaMemory) -> Result<Self> {
        Ok(Self { values: memory.allocate(BUFFER_BYTES)?, events: memory.allocate(BUFFER_BYTES)? })
    }

    /// Where the device finds the doorbells and the event indices.
    pub(super) fn device_addresses(&self) -> [u64; 2] {
        [self.values.device_address(0), self.events.device_address(0)]
    }

    /// As new, for a controller that does not know them.
    pub(super) fn clear(&self) {
        for at in (0..BUFFER_BYTES).step_by(4) {
            self.values.store_release(at, 0);
            self.events.store_release(at, 0);
        }
    }

    /// Whether the doorbells of queue pair `number` are among them.
    pub(super) fn covers(&self, capabilities: &Capabilities, number: u16) -> bool {
        capabilities.completion_doorbell(number) - DOORBELLS + 4 <= BUFFER_BYTES
    }

    /// As new, for the queue with the doorbell register at `doorbell`.
    pub(super) fn clear_one(&self, doorbell: usize) {
        self.values.store_release(doorbell - DOORBELLS, 0);
        self.events.store_release(doorbell - DOORBELLS, 0);
    }

    /// The doorbell that has its register at `doorbell` goes from `old` to `new`. Whether the
    /// controller wants the register to be written, too.
    #[inline]
    pub(super) fn ring(&self, doorbell: usize, old: u16, new: u16) -> bool {
        let at = doorbell - DOORBELLS;
        self.values.store_release(at, u32::from(new).to_le());
        // The controller writes its event index and then looks at the doorbell once more; the
        // doorbell is written and then the event index looked at. One of the two sees the other.
        fence(Ordering::SeqCst);
        let [low, high, ..] = self.events.load_acquire(at).to_ne_bytes();
        is_wanted(u16::from_le_bytes([low, high]), old, new)
    }
}

/// Whether a step from `old` to `new` passes `event`, all of them counted around.
fn is_wanted(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::is_wanted;

    #[test]
    fn a_register_is_written_when_the_event_index_is_passed() {
        assert!(is_wanted(0, 0, 1), "the controller has seen 0 and waits for more");
        assert!(is_wanted(5, 3, 6));
        assert!(!is_wanted(2, 3, 6), "it is still at work on what is before 3");
        assert!(!is_wanted(6, 3, 6));
        assert!(is_wanted(7, 7, 1), "around the end of a queue of eight");
        assert!(!is_wanted(3, 7, 1));
    }
}
