//! Leaves: what is written of one, and how it splits.

use std::collections::HashMap;

use super::{HEADER, IN_AREA, IN_RUN, LEAF_RECORDS, Leaf, Scheme, Store, area_of, image_bytes};
use crate::device::Kind;
use crate::numbers::{granules, id};

impl Store {
    pub(super) fn new_frame(&mut self) {
        self.frame = id(self.frames.len());
        let page = self.device.reserve_page(Kind::Map, self.frame);
        self.frames.push((0, page, false));
    }

    pub(super) fn new_leaf(&mut self, low: u32, high: u32, records: u32, family: u32, beside: u32) -> u32 {
        let mut frame = beside;
        if self.frames[frame as usize].0 == 256 {
            if self.frames[self.frame as usize].0 == 256 {
                self.new_frame();
            }
            frame = self.frame;
        }
        self.frames[frame as usize].0 += 1;
        let leaf = id(self.leaves.len());
        let page = self.device.reserve_page(Kind::Leaf, leaf);
        self.leaves.push(Leaf {
            page,
            family,
            frame,
            low,
            high,
            records,
            dirty: 0,
            in_runs: 0,
            oldest: 0,
            parts: Vec::new(),
            part_bytes: 0,
        });
        leaf
    }

    /// The changes of a leaf that are in memory are about to be on the device.
    pub(super) fn settle(&mut self, at: u32) {
        let leaf = &mut self.leaves[at as usize];
        self.dirty.clear(leaf.low, leaf.high);
        let family = &mut self.families[leaf.family as usize];
        let less =
            if self.config.shared { u64::from(leaf.dirty) * (IN_AREA + 8) } else { area_of(leaf.dirty) };
        family.area -= less;
        family.dirty -= leaf.dirty;
        self.area_bytes -= less;
        self.costs.flushed += u64::from(leaf.dirty);
        leaf.dirty = 0;
    }

    /// What is to be read to have a leaf and the pages beside it in memory.
    pub(super) fn read(&mut self, pages: &[u32]) {
        if self.config.areas.is_none() {
            return;
        }
        let mut before = None;
        for &page in pages {
            let bytes = self.device.page(page).bytes;
            if bytes > 0 {
                let follows = before.is_some_and(|before| self.device.follows(before, page));
                self.costs.reads += u64::from(!follows);
                self.costs.read_bytes += bytes;
                before = Some(page);
            }
        }
    }

    pub(super) fn flush_leaf(&mut self, at: u32) {
        self.costs.flushes += 1;
        let leaf = &self.leaves[at as usize];
        let part = granules(HEADER + u64::from(leaf.dirty) * IN_RUN);
        let base = self.device.page(leaf.page).bytes;
        let frame = leaf.frame as usize;
        if let Scheme::Parts(most) = self.config.scheme
            && id(leaf.parts.len()) < most
            && leaf.part_bytes + part <= base / 2
            && leaf.records <= LEAF_RECORDS
        {
            let page = self.device.reserve_page(Kind::Part, at);
            if self.config.checked {
                let changes = self.changes(at);
                self.content.insert(page, changes);
            }
            self.settle(at);
            self.write(page, part);
            let leaf = &mut self.leaves[at as usize];
            leaf.parts.push(page);
            leaf.part_bytes += part;
            self.frames[frame].2 = true;
            return;
        }
        let mut pages = leaf.parts.clone();
        pages.push(leaf.page);
        self.read(&pages);
        self.rewrite(at, &[]);
    }

    pub(super) fn changes(&self, at: u32) -> Vec<(u32, u32)> {
        let leaf = &self.leaves[at as usize];
        self.dirty.ones(leaf.low, leaf.high).map(|key| (key, self.latest[key as usize])).collect()
    }

    /// Everything that is known of a leaf's keys, the newest version of each.
    pub(super) fn gathered(&self, at: u32, runs: &[u32]) -> Vec<(u32, u32)> {
        let leaf = &self.leaves[at as usize];
        let mut newest = HashMap::new();
        for page in [leaf.page].iter().chain(&leaf.parts).chain(runs) {
            for &(key, version) in self.content.get(page).into_iter().flatten() {
                if (leaf.low..leaf.high).contains(&key) {
                    let known: &mut u32 = newest.entry(key).or_default();
                    *known = version.max(*known);
                }
            }
        }
        newest.extend(self.changes(at));
        newest.into_iter().collect()
    }

    /// Writes a leaf's image with all its changes, as several leaves if it is too large; these.
    pub(super) fn rewrite(&mut self, at: u32, runs: &[u32]) -> Vec<u32> {
        let content = if self.config.checked { self.gathered(at, runs) } else { Vec::new() };
        self.settle(at);
        let leaf = &mut self.leaves[at as usize];
        (leaf.in_runs, leaf.part_bytes) = (0, 0);
        for part in std::mem::take(&mut leaf.parts) {
            self.content.remove(&part);
            self.device.release(part);
        }
        let pieces = self.split(at);
        if self.config.scheme != Scheme::Runs {
            self.families[0].leaves.extend(&pieces[1..]);
        }
        for &piece in &pieces {
            let leaf = &self.leaves[piece as usize];
            let (page, bytes, frame) = (leaf.page, image_bytes(leaf.records), leaf.frame);
            if self.config.checked {
                let own = content.iter().filter(|(key, _)| (leaf.low..leaf.high).contains(key));
                self.content.insert(page, own.copied().collect());
            }
            self.frames[frame as usize].2 = true;
            let (before, family) = (self.device.page(page).bytes, leaf.family as usize);
            self.write(page, bytes);
            let after = self.device.page(page).bytes;
            self.leaf_bytes = self.leaf_bytes + after - before;
            self.families[family].leaf_bytes = self.families[family].leaf_bytes + after - before;
        }
        pieces
    }

    /// Splits a leaf that has too many records into equal ones, or full ones at the right edge.
    pub(super) fn split(&mut self, at: u32) -> Vec<u32> {
        let Leaf { low, high, records, family, frame, .. } = self.leaves[at as usize];
        let mut pieces = vec![at];
        if records <= LEAF_RECORDS {
            return pieces;
        }
        let most = if self.config.ascending { LEAF_RECORDS - 1 } else { LEAF_RECORDS };
        let mut left = records.div_ceil(most);
        let mut rest = records;
        let mut last = at;
        let mut start = low;
        let present = std::mem::take(&mut self.present);
        let mut keys = present.ones(low, high);
        while left > 1 {
            let take = if self.config.ascending { most } else { rest.div_ceil(left) };
            let next = keys.nth(take as usize - 1).expect("as many keys as records") + 1;
            let leaf = &mut self.leaves[last as usize];
            (leaf.low, leaf.high, leaf.records) = (start, next, take);
            rest -= take;
            left -= 1;
            last = self.new_leaf(next, high, rest, family, frame);
            self.leaf_of[next as usize..high as usize].fill(last);
            pieces.push(last);
            start = next;
        }
        drop(keys);
        self.present = present;
        pieces
    }
}
