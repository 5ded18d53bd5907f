//! What changes to pages cost: units that were superseded, units that a checkpoint will need, bytes
//! in memory.

use std::cell::Cell;

use super::PageRef;
use crate::store::object::{ObjectRef, Stored, object_cost};
use crate::store::space::Extent;

/// Something whose units can only be found by reading it first.
pub(in crate::store) enum Garbage {
    /// A detached tree.
    Tree(PageRef),
    /// A scattered object whose index was not read.
    Object(ObjectRef),
}

impl Garbage {
    /// How many units it takes; nothing is known of a tree before it was walked.
    fn known_units(&self, unit: u32) -> u64 {
        match self {
            Self::Tree(_) => 0,
            Self::Object(reference) => object_cost(reference.len as usize, unit),
        }
    }
}

/// The running accounts of one store.
pub(in crate::store) struct Ledger {
    /// The size of a unit in bytes.
    pub(in crate::store) unit: u32,
    /// Extents that the live trees do not refer to any more, but the last checkpoint may.
    released: Vec<Extent>,
    released_units: u64,
    garbage: Vec<Garbage>,
    /// The units of the garbage, as far as they are known.
    garbage_units: u64,
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
            released_units: 0,
            garbage: Vec::new(),
            garbage_units: 0,
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
            Some(extents) => self.release_extents(extents),
            None => self.discard(Garbage::Object(stored.reference)),
        }
    }

    /// Records that nothing live refers to `extents` any more.
    pub(in crate::store) fn release_extents(&mut self, extents: impl IntoIterator<Item = Extent>) {
        for extent in extents {
            self.released_units += u64::from(extent.units);
            self.released.push(extent);
        }
    }

    /// Takes the extents that are free once the checkpoint that begins now is durable.
    pub(in crate::store) fn take_released(&mut self) -> Vec<Extent> {
        self.released_units = 0;
        std::mem::take(&mut self.released)
    }

    /// Records that nothing live refers to something whose units have yet to be found.
    pub(in crate::store) fn discard(&mut self, garbage: Garbage) {
        self.garbage_units += garbage.known_units(self.unit);
        self.garbage.push(garbage);
    }

    /// Takes something whose units have to be found.
    pub(in crate::store) fn next_garbage(&mut self) -> Option<Garbage> {
        let garbage = self.garbage.pop()?;
        self.garbage_units -= garbage.known_units(self.unit);
        Some(garbage)
    }

    /// The units that a checkpoint would give back, as far as they are known.
    pub(in crate::store) fn released_units(&self) -> u64 {
        self.released_units + self.garbage_units
    }

    /// Whether a checkpoint would give anything back.
    pub(in crate::store) fn has_released(&self) -> bool {
        !self.released.is_empty() || !self.garbage.is_empty()
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

    /// The units that it holds, unless a snapshot has taken them over.
    pub(super) fn units(&self, ledger: &Ledger) -> u64 {
        if self.era.get() == ledger.era { self.units.get() } else { 0 }
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
