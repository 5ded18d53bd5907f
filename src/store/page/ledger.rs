//! What changes to pages cost: units that were superseded, units that a checkpoint will need, bytes in memory.

use std::cell::Cell;

use super::Slot;
use crate::store::object::{ObjectRef, Stored};
use crate::store::space::Extent;

/// Something whose units can only be found by reading it first.
pub(in crate::store) enum Garbage {
    /// A detached tree.
    Tree(Slot),
    /// A scattered object whose index was not read.
    Object(ObjectRef),
}

/// The running accounts of one store.
pub(in crate::store) struct Ledger {
    /// The size of a unit in bytes.
    pub(in crate::store) unit: u32,
    /// Extents that the live trees do not refer to any more, but the last checkpoint may.
    pub(in crate::store) released: Vec<Extent>,
    pub(in crate::store) garbage: Vec<Garbage>,
    /// Units that the next checkpoint will take for what was changed since the last snapshot.
    pub(in crate::store) dirty_units: u64,
    /// The bytes of leaves and values in memory.
    pub(in crate::store) resident_bytes: usize,
    era: u64,
    next_blob_id: u64,
}

impl Ledger {
    pub(in crate::store) fn new(unit: u32) -> Self {
        Self {
            unit,
            released: Vec::new(),
            garbage: Vec::new(),
            dirty_units: 0,
            resident_bytes: 0,
            era: 0,
            next_blob_id: 0,
        }
    }

    /// Starts a new era: what is changed now belongs to a snapshot. Returns the units it needs.
    pub(in crate::store) fn snapshot(&mut self) -> u64 {
        self.era += 1;
        std::mem::take(&mut self.dirty_units)
    }

    /// Records that nothing live refers to `stored` any more.
    pub(in crate::store) fn release(&mut self, stored: &Stored) {
        match stored.extents(self.unit) {
            Some(extents) => self.released.extend(extents),
            None => self.garbage.push(Garbage::Object(stored.reference)),
        }
    }

    pub(super) fn take_blob_id(&mut self) -> u64 {
        self.next_blob_id += 1;
        self.next_blob_id
    }
}

/// The units that a changed page or value holds reserved, and for which snapshot.
#[derive(Default)]
pub(in crate::store) struct Reservation {
    units: Cell<u64>,
    era: Cell<u64>,
}

impl Reservation {
    pub(super) fn set(&self, ledger: &mut Ledger, units: u64) {
        self.cancel(ledger);
        ledger.dirty_units += units;
        self.units.set(units);
        self.era.set(ledger.era);
    }

    /// Gives the units back, unless a snapshot has taken them over.
    pub(super) fn cancel(&self, ledger: &mut Ledger) {
        let units = self.units.take();
        if self.era.get() == ledger.era {
            ledger.dirty_units -= units;
        }
    }

    /// The units were used.
    pub(super) fn clear(&self) {
        self.units.set(0);
    }
}
