//! What a store says of itself, and whether it is true.

use super::{Costs, Scheme, Store};
use crate::numbers::id;

impl Store {
    pub(crate) fn costs(&self) -> Costs {
        let device = &self.device;
        Costs { written: device.written, moved: device.moved, ..self.costs }
    }

    /// Reads of the device, and their bytes, for a key that is cold.
    pub(crate) fn cold_read(&self, key: u32) -> (f64, u64) {
        let leaf = &self.leaves[self.leaf_of[key as usize] as usize];
        if self.dirty.get(key) {
            return (0.0, 0);
        }
        let image = self.device.page(leaf.page).bytes;
        let runs = self.families[leaf.family as usize].runs.len();
        match self.config.scheme {
            Scheme::Whole => (1.0, image),
            Scheme::Parts(_) => (1.0 + leaf.parts.len() as f64, image + leaf.part_bytes),
            // One page, of a run or a leaf, and false answers of filters: 1 %.
            Scheme::Runs => (1.0 + 0.01 * runs as f64, image),
        }
    }

    pub(crate) fn is_dirty(&self, key: u32) -> bool {
        self.dirty.get(key)
    }

    /// Mean records of a run.
    pub(crate) fn run_records(&self) -> f64 {
        let runs: usize = self.families.iter().map(|family| family.runs.len()).sum();
        let records: u64 = self.families.iter().map(|family| u64::from(family.run_records)).sum();
        records as f64 / runs.max(1) as f64
    }

    /// The leaves partition the keys; the device's sums agree; each key is found, once, in its
    /// newest version, where a reader looks.
    pub(crate) fn audit(&self) {
        self.device.audit();
        let mut covered = 0;
        let (mut dirty, mut area) = (0, 0);
        for (family, at) in self.families.iter().zip(0..) {
            let mut own = 0;
            for &index in &family.leaves {
                let leaf = &self.leaves[index as usize];
                assert_eq!(leaf.family, at, "the family of a leaf");
                let keys = self.present.ones(leaf.low, leaf.high);
                assert_eq!(id(keys.count()), leaf.records, "the records of a leaf");
                assert_eq!(self.dirty.ones(leaf.low, leaf.high).count(), leaf.dirty as usize, "dirty");
                covered += u64::from(leaf.high - leaf.low);
                own += leaf.dirty;
            }
            assert_eq!(own, family.dirty, "the changes of a family");
            dirty += own;
            area += family.area;
            for &index in family.leaves.iter().filter(|_| self.config.checked) {
                let leaf = &self.leaves[index as usize];
                let mut found: Vec<(u32, u32)> = self.gathered(index, &family.runs);
                found.sort_unstable();
                let keys = self.present.ones(leaf.low, leaf.high);
                let expected: Vec<(u32, u32)> = keys.map(|key| (key, self.latest[key as usize])).collect();
                assert_eq!(found, expected, "what leaf {index} holds");
            }
        }
        assert_eq!(covered, u64::from(self.config.keys), "each key has one leaf");
        assert_eq!(area, self.area_bytes, "areas");
        assert!(dirty <= self.config.keys, "changes");
    }
}
