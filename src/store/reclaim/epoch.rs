//! The epoch, what each participant announces, and guards. The protocol is in the module above.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use super::Defect;
use crate::store::atomic::{AtomicU64, Ordering, fence};

/// Announced by who is not pinned.
const IDLE: u64 = u64::MAX;

/// The epoch and all slots.
pub(super) struct Epochs {
    epoch: Line<AtomicU64>,
    slots: Box<[Line<Slot>]>,
    defect: Option<Defect>,
}

/// A cache line of its own.
#[repr(align(64))]
struct Line<T>(T);

/// What a participant shows the others. Only the participant writes it.
struct Slot {
    /// The epoch that it is pinned in, or `IDLE`.
    announced: AtomicU64,
    retired_bytes: AtomicU64,
}

impl Epochs {
    pub(super) fn new(slots: usize, defect: Option<Defect>) -> Self {
        let slot = || Line(Slot { announced: AtomicU64::new(IDLE), retired_bytes: AtomicU64::new(0) });
        Self { epoch: Line(AtomicU64::new(0)), slots: (0..slots).map(|_| slot()).collect(), defect }
    }

    pub(super) fn retired_bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.0.retired_bytes.load(Ordering::Relaxed)).sum()
    }
}

/// One participant's slot, and how often it is pinned.
pub(super) struct Pins {
    epochs: Arc<Epochs>,
    slot: usize,
    depth: Cell<u64>,
}

impl Pins {
    /// Uses the slot with the number `slot`, which nobody else does.
    pub(super) fn new(epochs: Arc<Epochs>, slot: usize) -> Self {
        Self { epochs, slot, depth: Cell::new(0) }
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    fn own(&self) -> &Slot {
        &self.epochs.slots[self.slot].0
    }

    pub(super) fn pin(&self) -> Guard<'_> {
        let depth = self.depth.get();
        self.depth.set(depth + 1);
        if depth == 0 {
            let epoch = self.epochs.epoch.0.load(Ordering::Relaxed);
            self.own().announced.store(epoch, Ordering::Release);
            if !self.has(Defect::PinWithoutFence) {
                fence(Ordering::SeqCst);
            }
        }
        Guard { pins: self }
    }

    fn unpin(&self) {
        let depth = self.depth.get() - 1;
        self.depth.set(depth);
        if depth == 0 {
            self.own().announced.store(IDLE, Ordering::Release);
        }
    }

    /// The epoch that something is retired with that the caller has unlinked.
    pub(super) fn epoch_of_retirement(&self) -> u64 {
        fence(Ordering::SeqCst);
        self.epochs.epoch.0.load(Ordering::Relaxed)
    }

    /// Advances the epoch if nobody is pinned in an older one. The epoch now; all that was read
    /// under guards two epochs ago comes before this call's return.
    pub(super) fn try_advance(&self) -> u64 {
        let epoch = self.epochs.epoch.0.load(Ordering::Acquire);
        fence(Ordering::SeqCst);
        let is_held_up = self.epochs.slots.iter().any(|slot| {
            let announced = slot.0.announced.load(Ordering::Acquire);
            announced != IDLE && announced != epoch
        });
        if is_held_up {
            return epoch;
        }
        let next = epoch + 1;
        match self.epochs.epoch.0.compare_exchange(epoch, next, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => next,
            Err(now) => now,
        }
    }

    pub(super) fn retired_bytes(&self) -> u64 {
        self.own().retired_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add_retired_bytes(&self, bytes: u64) {
        self.own().retired_bytes.store(self.retired_bytes() + bytes, Ordering::Relaxed);
    }

    pub(super) fn sub_retired_bytes(&self, bytes: u64) {
        self.own().retired_bytes.store(self.retired_bytes() - bytes, Ordering::Relaxed);
    }

    /// The participant leaves; what it has retired is counted elsewhere.
    pub(super) fn leave(&self) {
        self.own().retired_bytes.store(0, Ordering::Relaxed);
        self.own().announced.store(IDLE, Ordering::Release);
    }

    /// Whether the protocol is to be broken in this way. Never in a build without debug assertions.
    pub(super) fn has(&self, defect: Defect) -> bool {
        cfg!(debug_assertions) && self.epochs.defect == Some(defect)
    }
}

/// While it lives, nothing that its core can find is freed. It stays on its core and must not be
/// held across an await: a core that sleeps with one holds up everybody's garbage.
#[must_use = "what is read is protected only while the guard lives"]
pub(in crate::store) struct Guard<'p> {
    pins: &'p Pins,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.pins.unpin();
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("slot", &self.pins.slot).finish()
    }
}
