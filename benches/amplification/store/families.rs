//! Families: their runs, and folds into the leaves.

use super::{FILTER, Family, Fold, HEADER, IN_RUN, Store};
use crate::device::Kind;
use crate::numbers::{granules, id, whole};

impl Store {
    /// Flushes the next family in key order.
    pub(super) fn flush_next(&mut self) {
        let at = self.flush_hand;
        if self.families[at as usize].dirty > 0 {
            self.flush_family(at);
        }
        // Families that a fold made of this one have no changes.
        self.flush_hand = self.families[at as usize].next;
    }

    /// Folds the next family that has runs, if there is room for what it becomes.
    pub(super) fn fold_in_turn(&mut self) -> bool {
        while self.families[self.fold_hand as usize].runs.is_empty() {
            self.fold_hand = self.families[self.fold_hand as usize].next;
        }
        let family = &self.families[self.fold_hand as usize];
        let becomes = family.leaf_bytes + family.run_bytes + family.area;
        let room = self.device.free().saturating_sub(3) as u64 * self.device.segment_bytes;
        if becomes > room {
            return false;
        }
        let next = self.fold_hand;
        self.fold_hand = family.next;
        self.fold(next);
        if !self.config.late_reuse {
            self.device.checkpoint();
        }
        true
    }

    pub(super) fn flush_family(&mut self, at: u32) {
        self.make_room();
        if self.families[at as usize].dirty == 0 {
            return;
        }
        self.costs.flushes += 1;
        let config = self.config;
        let family = &self.families[at as usize];
        let bytes = HEADER + u64::from(family.dirty) * IN_RUN;
        let bytes = granules(bytes) + granules(64 + whole(f64::from(family.dirty) * FILTER));
        let reached = (family.run_bytes + bytes) as f64 / family.leaf_bytes.max(1) as f64;
        let limit = match config.fold {
            Fold::Share | Fold::Room => config.share,
            Fold::Largest | Fold::Sweep => 2.0 * config.share,
        };
        if reached >= limit || family.runs.len() >= config.max_runs {
            self.fold(at);
            return;
        }
        let page = self.device.reserve_page(Kind::Run, at);
        let leaves = family.leaves.clone();
        let mut content = Vec::new();
        let dirty = family.dirty;
        for &leaf in &leaves {
            if self.leaves[leaf as usize].dirty > 0 {
                if config.checked {
                    content.extend(self.changes(leaf));
                }
                self.leaves[leaf as usize].in_runs += self.leaves[leaf as usize].dirty;
                self.settle(leaf);
            }
        }
        if config.checked {
            self.content.insert(page, content);
        }
        self.write(page, bytes);
        let bytes = self.device.page(page).bytes;
        let family = &mut self.families[at as usize];
        family.runs.push(page);
        family.run_bytes += bytes;
        family.run_records += dirty;
        self.run_bytes += bytes;
        if !config.store_wide {
            self.write_family(at);
        }
        while matches!(config.fold, Fold::Largest | Fold::Sweep)
            && self.run_bytes as f64 > self.leaf_bytes as f64 * config.share / 2.0
        {
            let share = |family: &Family| family.run_bytes as f64 / family.leaf_bytes.max(1) as f64;
            let next = if config.fold == Fold::Largest {
                let families = self.families.iter().zip(0..);
                let largest = families.max_by(|(a, _), (b, _)| share(a).total_cmp(&share(b)));
                largest.expect("there is a family").1
            } else {
                let next = self.fold_hand;
                self.fold_hand = self.families[next as usize].next;
                next
            };
            self.make_room();
            if !self.families[next as usize].runs.is_empty() {
                self.fold(next);
            }
            if self.device.full {
                return;
            }
        }
    }

    /// The inner page: children, separators, references of runs.
    pub(super) fn write_family(&mut self, at: u32) {
        let family = &self.families[at as usize];
        let (page, leaf) = (family.page, family.leaves[0]);
        let bytes = HEADER + 20 * family.leaves.len() as u64 + 64 * family.runs.len() as u64;
        let frame = self.leaves[leaf as usize].frame as usize;
        self.write(page, bytes);
        self.frames[frame].2 = true;
    }

    pub(super) fn fold(&mut self, at: u32) {
        self.costs.folds += 1;
        let runs = std::mem::take(&mut self.families[at as usize].runs);
        let leaves = self.families[at as usize].leaves.clone();
        let changed = |leaf: &&u32| {
            let leaf = &self.leaves[**leaf as usize];
            leaf.dirty + leaf.in_runs > 0
        };
        let images = leaves.iter().filter(changed).map(|&leaf| self.leaves[leaf as usize].page);
        let images: Vec<u32> = images.collect();
        self.read(&images);
        for &run in &runs {
            self.read(&[run]);
        }
        let mut folded = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let state = &self.leaves[leaf as usize];
            if state.dirty + state.in_runs > 0 {
                folded.extend(self.rewrite(leaf, &runs));
            } else {
                folded.push(leaf);
            }
        }
        for run in runs {
            self.content.remove(&run);
            self.device.release(run);
        }
        let family = &mut self.families[at as usize];
        self.run_bytes -= family.run_bytes;
        (family.run_bytes, family.run_records) = (0, 0);
        let after = family.next;
        let count = folded.len();
        let most = self.config.family * 4 / 3;
        let parts = if count > most { count.div_ceil(self.config.family) } else { 1 };
        let mut rest = folded.chunks(count.div_ceil(parts));
        self.families[at as usize].leaves = rest.next().expect("a family has a leaf").to_vec();
        let mut written = vec![at];
        for leaves in rest {
            let new = id(self.families.len());
            let page = self.device.reserve_page(Kind::Family, new);
            for &leaf in leaves {
                self.leaves[leaf as usize].family = new;
            }
            self.families.push(Family { page, leaves: leaves.to_vec(), ..Family::default() });
            written.push(new);
        }
        for (index, &part) in written.iter().enumerate() {
            self.families[part as usize].next = written.get(index + 1).copied().unwrap_or(after);
        }
        for at in written {
            let family = &self.families[at as usize];
            let leaves = family.leaves.iter().map(|&leaf| &self.leaves[leaf as usize]);
            let (bytes, records) = leaves.fold((0, 0), |(bytes, records), leaf| {
                (bytes + self.device.page(leaf.page).bytes, records + leaf.records)
            });
            self.families[at as usize].leaf_bytes = bytes;
            self.write_family(at);
            // The leaves' filters, as part of the inner page's cost.
            self.device.written[Kind::Family as usize] += granules(64 + whole(f64::from(records) * FILTER));
        }
    }
}
