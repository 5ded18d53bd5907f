//! The upper levels of the map in memory, and what a checkpoint has to write of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{ENTRIES, Owner, Upper};
use crate::store::codec::to_usize;
use crate::store::pages::damage::{Checker, Damage, Structure};
use crate::store::word::{ColdAddress, PageRef};

/// How many levels a map has that knows the page ids below `next_page`.
fn levels_for(next_page: u64) -> u8 {
    let mut levels = 1;
    while levels < 5 && next_page > 1 << (8 * u32::from(levels)) {
        levels += 1;
    }
    levels
}

/// How many pages `level` has at most, if page ids are below `next_page`.
fn pages_of_level(level: u8, next_page: u64) -> u64 {
    next_page.div_ceil(1 << (8 * (u32::from(level) + 1)))
}

/// Where the pages of the map are, as of one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct MapTree {
    root: Option<PageRef>,
    levels: u8,
    /// The pages of level 1, of level 2 and so on, by their index.
    upper: Vec<BTreeMap<u64, Upper>>,
}

impl Default for MapTree {
    fn default() -> Self {
        Self { root: None, levels: 1, upper: Vec::new() }
    }
}

impl MapTree {
    /// The reference to its topmost page, and the number of levels, for the superblock.
    pub(in crate::store) fn root(&self) -> (Option<PageRef>, u8) {
        (self.root, self.levels)
    }

    /// Where page `index` of `level` is; `None` if nothing below it was ever used.
    pub(in crate::store) fn find(&self, level: u8, index: u64) -> Option<PageRef> {
        if level + 1 >= self.levels {
            return self.root.filter(|_| level + 1 == self.levels && index == 0);
        }
        let parent = self.upper[usize::from(level)].get(&(index / ENTRIES as u64));
        parent.and_then(|parent| parent[to_usize(index % ENTRIES as u64)])
    }

    /// Every page of the map. What counts as live in segments, beside what the map refers to.
    pub(in crate::store) fn pages(&self) -> impl Iterator<Item = PageRef> {
        let lower = self.upper.iter().flat_map(|level| level.values()).flat_map(|upper| upper.iter());
        lower.copied().chain([self.root]).flatten()
    }

    /// The pages of the map in places that `is_wanted`: level and index. For cleaning a segment of
    /// the map, whose pages the next checkpoint writes as if they had changed.
    pub(in crate::store) fn pages_in(&self, is_wanted: impl Fn(ColdAddress) -> bool) -> Vec<(u8, u64)> {
        let wanted = |page: &Option<PageRef>| page.is_some_and(|page| is_wanted(page.place));
        let mut found = Vec::new();
        for (level, pages) in (0u8..).zip(&self.upper) {
            for (index, upper) in pages {
                let children = (index * ENTRIES as u64..).zip(upper.iter());
                found.extend(children.filter(|(_, page)| wanted(page)).map(|(index, _)| (level, index)));
            }
        }
        if wanted(&self.root) {
            found.push((self.levels - 1, 0));
        }
        found
    }

    /// Begins to write a checkpoint in which the level-0 pages `changed` (their indexes) changed,
    /// and page ids from `next_page` on were never used. Pages of upper levels may be among
    /// `changed`, to be written for their place.
    pub(in crate::store) fn write(
        &self,
        changed: impl IntoIterator<Item = (u8, u64)>,
        next_page: u64,
    ) -> MapWrite<'_> {
        let levels = self.levels.max(levels_for(next_page));
        let mut pending: BTreeSet<_> = changed.into_iter().filter(|(level, _)| *level < levels).collect();
        if self.root.is_some() {
            // The root of before is below a new one.
            pending.extend((self.levels..levels).map(|level| (level, 0)));
        }
        MapWrite { old: self, levels, pending, placed: BTreeMap::new() }
    }

    /// Takes over what a checkpoint wrote; only when its superblock is durable. Returns the places
    /// that the map has left.
    pub(in crate::store) fn apply(&mut self, change: MapChange) -> Vec<ColdAddress> {
        let left = change.placed.keys().filter_map(|&(level, index)| self.find(level, index));
        let left = left.map(|page| page.place).collect();
        self.upper.resize_with(usize::from(change.levels) - 1, BTreeMap::new);
        if let Some(root) = self.root.filter(|_| change.levels > self.levels) {
            self.set(self.levels - 1, 0, root);
        }
        for ((level, index), page) in change.placed {
            if level + 1 == change.levels {
                self.root = Some(page);
            } else {
                self.set(level, index, page);
            }
        }
        self.levels = change.levels;
        left
    }

    fn set(&mut self, level: u8, index: u64, page: PageRef) {
        let parents = &mut self.upper[usize::from(level)];
        let parent = parents.entry(index / ENTRIES as u64);
        let parent = parent.or_insert_with(|| Box::new([None; ENTRIES]));
        parent[to_usize(index % ENTRIES as u64)] = Some(page);
    }
}

/// What a checkpoint changes in the places of the map's pages.
#[derive(Debug)]
pub(in crate::store) struct MapChange {
    levels: u8,
    placed: BTreeMap<(u8, u64), PageRef>,
}

impl MapChange {
    /// The reference to the topmost page, and the number of levels, for the superblock.
    pub(in crate::store) fn root(&self, old: &MapTree) -> (Option<PageRef>, u8) {
        let root = self.placed.get(&(self.levels - 1, 0)).copied().or(old.root);
        (root, self.levels)
    }

    /// The places of the pages that were written.
    pub(in crate::store) fn places(&self) -> impl Iterator<Item = ColdAddress> {
        self.placed.values().map(|page| page.place)
    }
}

/// A checkpoint's writing of the map, one page after the other, children before parents. If it is
/// dropped, the map stays as it is.
#[derive(Debug)]
pub(in crate::store) struct MapWrite<'a> {
    old: &'a MapTree,
    levels: u8,
    /// Level and index of what is still to be written.
    pending: BTreeSet<(u8, u64)>,
    placed: BTreeMap<(u8, u64), PageRef>,
}

impl MapWrite<'_> {
    /// The page to write next: level and index. Pages of level 0 the caller has; others are
    /// [`MapWrite::content`].
    pub(in crate::store) fn next(&self) -> Option<(u8, u64)> {
        self.pending.first().copied()
    }

    /// Up to `most` pages that are to be written next, all of one level: their contents do not
    /// depend on each other's places.
    pub(in crate::store) fn wanted(&self, most: usize) -> Vec<(u8, u64)> {
        let level = self.next().map(|(level, _)| level);
        self.pending.iter().copied().take_while(|page| Some(page.0) == level).take(most).collect()
    }

    /// The content of a page of level 1 or above, which is the next one.
    pub(in crate::store) fn content(&self, level: u8, index: u64) -> Vec<u8> {
        debug_assert!(self.pending.contains(&(level, index)));
        let mut out = Vec::with_capacity(super::MAP_CONTENT_BYTES);
        for child in 0..ENTRIES as u64 {
            let child = (level - 1, index * ENTRIES as u64 + child);
            let page = self.placed.get(&child).copied();
            let page = page.or_else(|| self.old.find(child.0, child.1));
            out.extend_from_slice(&PageRef::encode(page));
        }
        out
    }

    /// The page that was next lies there now.
    pub(in crate::store) fn placed(&mut self, page: PageRef) {
        let (level, index) = self.pending.pop_first().expect("a page was to be written");
        self.placed.insert((level, index), page);
        if level + 1 < self.levels {
            self.pending.insert((level + 1, index / ENTRIES as u64));
        }
    }

    /// What changes, once there is no next page.
    pub(in crate::store) fn finish(self) -> MapChange {
        debug_assert!(self.pending.is_empty());
        MapChange { levels: self.levels, placed: self.placed }
    }
}

/// Reading the upper levels, from the top to the bottom.
#[derive(Debug)]
pub(in crate::store) struct MapLoad {
    tree: MapTree,
    owner: Owner,
    next_page: u64,
    /// Pages of level 1 and above that are still to be read.
    pending: Vec<(u8, u64, PageRef)>,
}

impl MapLoad {
    /// Of the map whose topmost page is `root`, for page ids below `next_page`. `levels` is 1 to 5.
    pub(in crate::store) fn new(root: Option<PageRef>, levels: u8, next_page: u64, owner: Owner) -> Self {
        let upper = (1..levels).map(|_| BTreeMap::new()).collect();
        let tree = MapTree { root, levels, upper };
        let first = root.filter(|_| levels > 1).map(|root| (levels - 1, 0, root));
        Self { tree, owner, next_page, pending: Vec::from_iter(first) }
    }

    /// The place to read next.
    pub(in crate::store) fn next(&self) -> Option<ColdAddress> {
        self.pending.last().map(|(_, _, page)| page.place)
    }

    /// Takes what was read from the next place.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::store) fn read(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let Some((level, index, from)) = self.pending.pop() else { return Ok(()) };
        let upper = self.owner.upper(bytes, level, index, from)?;
        let is = Checker::new(Structure::MapPage, from.place.offset_bytes());
        for (child, page) in (index * ENTRIES as u64..).zip(upper.iter()) {
            let Some(page) = *page else { continue };
            let known = child < pages_of_level(level - 1, self.next_page);
            is.check(known, "it has pages for ids that were never used")?;
            if level > 1 {
                self.pending.push((level - 1, child, page));
            }
        }
        self.tree.upper[usize::from(level) - 1].insert(index, upper);
        Ok(())
    }

    /// The map, once there is nothing more to read.
    pub(in crate::store) fn finish(self) -> MapTree {
        debug_assert!(self.pending.is_empty());
        self.tree
    }
}
