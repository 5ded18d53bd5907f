//! What a scan sees of the overlay: everything that it has about a piece of a tree, at one moment.
//!
//! A scan takes a view of a leaf's range, *then* reads the leaf, and merges: where both have a key
//! the view's record counts, and what the view [hides](View::hides) is left out. The other way
//! around, a key that is drained in between would be in neither.
//!
//! A view keeps what it saw. What is drained and written after that is not in it, and the scan's
//! answer is as old as the view.

use std::ops::Bound;

use super::order::{self, Position};
use super::ranges::{self, Hidden};
use super::{Overlay, Part, Record, TreeRoot};

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Direction {
    Forwards,
    Backwards,
}

/// What the overlay has about a piece of a tree.
#[derive(Debug)]
pub(in crate::store) struct View<'o> {
    overlay: &'o Overlay,
    part: Option<&'o Part>,
    /// The entries that answered, in the order of their keys.
    positions: Vec<Position>,
    hidden: Vec<Hidden<'o>>,
    end: Option<&'o [u8]>,
}

impl Overlay {
    /// Everything about the keys between `from` and `to`, of which `from` is the smaller whatever
    /// the direction.
    ///
    /// Looks at `limit` entries at most, drained or not; [`View::end`] says how far it came.
    pub(in crate::store) fn view(
        &self,
        tree: TreeRoot,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        limit: usize,
    ) -> View<'_> {
        let mut view =
            View { overlay: self, part: None, positions: Vec::new(), hidden: Vec::new(), end: None };
        let Some(part) = self.part(tree) else { return view };
        view.part = Some(part);
        let key_of = |ordered: &order::Ordered| self.entries[ordered.entry as usize].key(&self.arena);
        let mut found =
            order::between((&self.order, part.positions.clone()), &part.prefix, key_of, (from, to));
        let limit = limit.max(1);
        if found.len() > limit {
            let end = match direction {
                Direction::Forwards => {
                    found.end = found.start + limit;
                    found.end - 1
                }
                Direction::Backwards => {
                    found.start = found.end - limit;
                    found.start
                }
            };
            view.end = Some(self.entry_at(Position::new(end)).key(&self.arena));
        }
        let answers = |position: &Position| self.entry_at(*position).answers();
        view.positions = found.map(Position::new).filter(answers).collect();
        let (from, to) = match (view.end, direction) {
            (None, _) => (from, to),
            (Some(end), Direction::Forwards) => (from, Bound::Included(end)),
            (Some(end), Direction::Backwards) => (Bound::Included(end), to),
        };
        view.hidden = ranges::hidden(&part.ranges, from, to);
        view
    }
}

impl<'o> View<'o> {
    /// The records, by key; those of deleted keys too.
    pub(in crate::store) fn records(&self) -> impl DoubleEndedIterator<Item = Record<'o>> + '_ {
        let overlay = self.overlay;
        self.positions.iter().map(|position| overlay.record(overlay.entry_at(*position)))
    }

    /// Whether what the tree has of this key does not count.
    pub(in crate::store) fn hides(&self, key: &[u8]) -> bool {
        let key_at = |position: &Position| self.overlay.entry_at(*position).key(&self.overlay.arena);
        if self.positions.binary_search_by(|position| key_at(position).cmp(key)).is_ok() {
            return true;
        }
        // A key that was written after the deletion of its range has an entry.
        self.hidden.iter().any(|hidden| hidden.contains(key))
            && self.part.is_some_and(|part| self.overlay.entry(part, key).is_none())
    }

    /// The last key, in the direction of the scan, that the view knows about. None: it knows all
    /// that was asked for.
    pub(in crate::store) fn end(&self) -> Option<&'o [u8]> {
        self.end
    }
}
