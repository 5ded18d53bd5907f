//! What a write takes: how many units the next checkpoint may need for it, and which part of the
//! free room it may use.
//!
//! [`StoreState::change_units`] is a quick bound, good enough while there is plenty of room. When
//! it does not fit, [`StoreState::exact_cost`] looks at the very pages that would change, so that
//! nothing is refused, and no namespace grows, for room that would never be used.

use std::rc::Rc;

use super::object::{object_cost, value_units};
use super::options::MAX_INLINE_BYTES;
use super::page::{
    Leaf, LeafValue, MERGE_BELOW_BYTES, MERGED_MAX_BYTES, PAGE_STEP_BYTES, PAGE_TARGET_BYTES, Page, PageRef,
};
use super::state::StoreState;

/// The largest page, with an index page, in units.
const PAGE_UNITS: u64 = 5;
/// A value that grows by no more than this is as good as one of the same size: an expiry time was
/// added.
const HARDLY_LARGER_BYTES: usize = 16;

/// What a write does to the room in use, once a checkpoint has freed what it replaces. Free room is
/// kept back for those that do not take more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Demand {
    /// Less is in use then: it may use all that is free.
    Frees,
    /// About as much: it may use half of what is kept back.
    Keeps,
    /// More: it may use nothing of it.
    Grows,
}

/// What a write takes at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) units: u64,
    pub(super) demand: Demand,
}

/// A change to one key: the length of its new value, or `None` if it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change<'a> {
    pub(super) tree: u32,
    pub(super) key: &'a [u8],
    pub(super) value_len: Option<usize>,
}

impl StoreState {
    /// The units that changing `keys` keys, with `bytes` bytes of new entries, takes at most
    /// besides large values.
    ///
    /// Every leaf touched, and every page above it, may have to be written, and may be split once
    /// because it was full; beyond that pages split as bytes are added.
    pub(super) fn change_units(&self, tree: u32, keys: usize, bytes: usize) -> u64 {
        let touched = (keys as u64).min(self.object_units() + 1);
        let above = self.tree(tree).height() - 1;
        PAGE_UNITS * (2 * touched * (1 + above) + bytes as u64 / 2048 + 1)
    }

    /// What `changes`, of different keys whose leaves are in memory, take at most.
    pub(super) fn exact_cost<'a>(&self, changes: impl Iterator<Item = Change<'a>>) -> Cost {
        let mut changes: Vec<Change<'a>> = changes.collect();
        changes.sort_unstable();
        let mut sum = Sum::default();
        for of_tree in changes.chunk_by(|a, b| a.tree == b.tree) {
            let tree = self.tree(of_tree[0].tree);
            match &tree.root {
                Some(PageRef::Resident(root)) => self.add_page(root, of_tree, &mut sum),
                // It gets its first leaves.
                _ => self.add_new_leaves(of_tree, &mut sum),
            };
        }
        Cost { units: sum.units, demand: sum.demand(changes.len()) }
    }

    /// Adds what a page and those below it take for `changes`, whose keys all lead to it. Returns
    /// how many pages there may be in its place afterwards.
    fn add_page(&self, page: &Rc<Page>, changes: &[Change<'_>], sum: &mut Sum) -> u64 {
        let unit = self.ledger.unit;
        let (most_pages, most_units) = match page.as_inner() {
            None => {
                let leaf = page.as_leaf().expect("a page is an inner page or a leaf");
                self.leaf_bound(leaf, changes, sum)
            }
            Some(inner) => {
                let mut added = 0;
                let groups = changes.chunk_by(|a, b| inner.child_for(a.key) == inner.child_for(b.key));
                for group in groups {
                    let pages = match &*inner.child(inner.child_for(group[0].key)).borrow() {
                        PageRef::Resident(child) => self.add_page(child, group, sum),
                        // A declared key's leaf is in memory; this is what it would be at worst.
                        PageRef::OnDisk(_) => self.add_new_leaves(group, sum),
                    };
                    added += pages - 1;
                }
                let bytes = inner.encoded_bytes() as u64 + added * (sum.longest_key as u64 + 32);
                if added == 0 {
                    // It may lose a child, and merge then.
                    (1, object_cost(inner.encoded_bytes().max(MERGED_MAX_BYTES), unit))
                } else {
                    let pages = 1 + bytes / 2048;
                    (pages, PAGE_UNITS * pages)
                }
            }
        };
        sum.units += most_units.saturating_sub(page.reserved_units(&self.ledger));
        most_pages
    }

    /// The most pages, and units, that a leaf becomes.
    fn leaf_bound(&self, leaf: &Leaf, changes: &[Change<'_>], sum: &mut Sum) -> (u64, u64) {
        let unit = self.ledger.unit;
        let (mut least, mut most) = (leaf.used_bytes(), leaf.used_bytes());
        for change in changes {
            let old = leaf.search(change.key).ok().map(|index| match leaf.value(index) {
                LeafValue::Inline(bytes) => bytes.len(),
                LeafValue::Overflow(blob) => blob.len,
            });
            sum.note(change, old, unit);
            let (before, after) = (old.map_or(0, |len| entry_bytes(change, len)), change.entry_bytes());
            most += after.saturating_sub(before);
            least -= before.saturating_sub(after).min(least);
        }
        if most <= PAGE_TARGET_BYTES || most <= leaf.used_bytes() {
            let largest = most.max(merged_bytes(least)).next_multiple_of(PAGE_STEP_BYTES);
            return (1, object_cost(largest, unit));
        }
        // The separators of its parts are no longer than its keys.
        let keys = (0..leaf.count()).map(|index| leaf.key(index).len());
        sum.longest_key =
            keys.chain(changes.iter().map(|change| change.key.len())).fold(sum.longest_key, usize::max);
        let pages = 2 + (most - leaf.used_bytes()) as u64 / 2048;
        (pages, PAGE_UNITS * pages)
    }

    /// Adds what `changes` take in leaves of which nothing is known.
    fn add_new_leaves(&self, changes: &[Change<'_>], sum: &mut Sum) -> u64 {
        changes.iter().for_each(|change| sum.note(change, None, self.ledger.unit));
        sum.longest_key = changes.iter().map(|change| change.key.len()).fold(sum.longest_key, usize::max);
        let bytes: usize = changes.iter().map(Change::entry_bytes).sum();
        let pages = 2 + bytes as u64 / 2048;
        sum.units += 2 * PAGE_UNITS * pages;
        pages
    }
}

/// How large a page of `bytes` becomes if it merges with a neighbour.
fn merged_bytes(bytes: usize) -> usize {
    if bytes < MERGE_BELOW_BYTES { MERGED_MAX_BYTES } else { bytes }
}

fn entry_bytes(change: &Change<'_>, value_len: usize) -> usize {
    Leaf::entry_bytes(change.key.len(), (value_len <= MAX_INLINE_BYTES).then_some(value_len))
}

impl Change<'_> {
    /// What its new entry takes of a leaf.
    fn entry_bytes(&self) -> usize {
        self.value_len.map_or(0, |len| entry_bytes(self, len))
    }
}

#[derive(Default)]
struct Sum {
    units: u64,
    /// The longest key of the leaves that may be split.
    longest_key: usize,
    old_bytes: usize,
    new_bytes: usize,
}

impl Sum {
    fn note(&mut self, change: &Change<'_>, old_len: Option<usize>, unit: u32) {
        self.old_bytes += old_len.map_or(0, |len| change.key.len() + len);
        if let Some(len) = change.value_len {
            self.new_bytes += change.key.len() + len;
            self.units += value_units(len, unit);
        }
    }

    fn demand(&self, keys: usize) -> Demand {
        if self.new_bytes < self.old_bytes {
            Demand::Frees
        } else if self.new_bytes <= self.old_bytes + HARDLY_LARGER_BYTES * keys {
            Demand::Keeps
        } else {
            Demand::Grows
        }
    }
}
