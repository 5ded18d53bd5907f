//! Dirty pages: in the order of the hand, and by age.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::word::PageId;

/// The numbers of a page that is to be written although the log keeps nothing for it.
pub(in crate::store) const NO_NUMBER: u64 = u64::MAX;

/// What is known of a dirty page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dirt {
    pub(super) tree: u32,
    /// The page above it when it became dirty: only the order depends on it.
    pub(super) parent: PageId,
    /// No number below is in the page and not in its durable image. [`NO_NUMBER`] for none at all.
    pub(super) from: u64,
}

/// The place of a page in the hand's order: its parent's id, then its own.
pub(super) type Place = (PageId, PageId);

#[derive(Debug, Default)]
pub(super) struct DirtyPages {
    pages: BTreeMap<PageId, Dirt>,
    order: BTreeSet<Place>,
    ages: BTreeSet<(u64, PageId)>,
}

impl DirtyPages {
    /// Adds a page; what was known of it is widened.
    pub(super) fn add(&mut self, page: PageId, dirt: Dirt) {
        let known = self.pages.get(&page);
        if known.is_some_and(|old| *old == Dirt { from: old.from, ..dirt } && old.from <= dirt.from) {
            return;
        }
        let from = self.take(page).map_or(dirt.from, |old| old.from.min(dirt.from));
        self.pages.insert(page, Dirt { from, ..dirt });
        self.order.insert((dirt.parent, page));
        self.ages.insert((from, page));
    }

    pub(super) fn take(&mut self, page: PageId) -> Option<Dirt> {
        let dirt = self.pages.remove(&page)?;
        self.order.remove(&(dirt.parent, page));
        self.ages.remove(&(dirt.from, page));
        Some(dirt)
    }

    pub(super) fn get(&self, page: PageId) -> Option<&Dirt> {
        self.pages.get(&page)
    }

    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// The smallest number that the log has to keep.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.ages.first().map(|(from, _)| *from).filter(|from| *from != NO_NUMBER)
    }

    /// All of them, from the first one behind `hand` on and once round.
    pub(super) fn round(&self, hand: Option<Place>) -> impl Iterator<Item = Place> + '_ {
        let behind = match hand {
            Some(hand) => (std::ops::Bound::Excluded(hand), std::ops::Bound::Unbounded),
            None => (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
        };
        let before = hand.map(|hand| self.order.range(..=hand));
        self.order.range(behind).chain(before.into_iter().flatten()).copied()
    }
}
