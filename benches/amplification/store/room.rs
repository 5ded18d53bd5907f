//! Free segments: checkpoints, cleaning, folds for the sake of room.

use super::{Fold, MAP_PAGE, Store, part_of};
use crate::device::Kind;

/// Folds for the sake of room leave this part of the leaves in runs: smaller runs cost more to fold
/// than a segment costs to clean.
const LEAST_RUNS: u64 = 20;

impl Store {
    pub(super) fn checkpoint(&mut self) {
        self.costs.checkpoints += 1;
        self.checkpoint_at = self.costs.log;
        for frame in 0..self.frames.len() {
            let (_, page, changed) = self.frames[frame];
            if changed {
                self.frames[frame].2 = false;
                self.device.write(page, MAP_PAGE);
            }
        }
        self.device.checkpoint();
        // Segment table and superblock copies.
        self.device.written[Kind::Map as usize] += self.device.segments() as u64 * 20 + 4 * 4096;
    }

    /// Cleans until there is a reserve of free segments. If they wait for a checkpoint, 1/32 of all
    /// come at a time, so that checkpoints stay rare.
    pub(super) fn make_room(&mut self) {
        if !self.config.late_reuse {
            self.device.checkpoint();
        }
        let batch = if self.config.late_reuse { self.device.segments() / 32 } else { 0 };
        let mut tries = 4 * self.device.segments();
        while self.device.free() < self.device.reserve + batch && !self.device.full {
            let waiting = self.device.waiting.len();
            let short = self.device.free() < self.device.reserve;
            if self.config.late_reuse && (waiting > batch || short && waiting > 0) {
                self.costs.forced += 1;
                self.checkpoint();
                continue;
            }
            tries -= 1;
            let victim = self.device.victim().filter(|_| tries > 0);
            let Some(victim) = victim else {
                self.device.full = true;
                return;
            };
            let mostly_garbage = part_of(self.device.segment_bytes, self.config.clean_below);
            if self.config.fold == Fold::Room
                && self.device.live_in(victim) > mostly_garbage
                && self.run_bytes > self.leaf_bytes / LEAST_RUNS
                && self.fold_in_turn()
            {
                continue;
            }
            self.clean(victim);
            if !self.config.late_reuse {
                self.device.checkpoint();
            }
        }
    }

    pub(super) fn clean(&mut self, victim: u32) {
        let pages = self.device.pages_in(victim);
        self.costs.reads += self.device.segment_bytes.div_ceil(1 << 20);
        self.costs.read_bytes += self.device.segment_bytes;
        for id in pages {
            let page = self.device.page(id);
            let frame = match page.kind {
                Kind::Leaf => self.leaves[page.owner as usize].frame,
                Kind::Part => self.leaves[page.owner as usize].frame,
                // Runs and inner pages have ids beside their leaves'.
                Kind::Run | Kind::Family => {
                    let first = self.families[page.owner as usize].leaves[0];
                    self.leaves[first as usize].frame
                }
                Kind::Map => page.owner,
            };
            if page.kind != Kind::Map {
                self.frames[frame as usize].2 = true;
            }
            self.device.move_from(id, victim);
        }
    }
}
