//! Which pages have to be durable with which others (rule W2; design, section 4.2).
//!
//! A debt *a* → *b* says: the next image of *a* may be durable only with, or after, an image of *b*
//! as it is now. Splits, merges and runs owe:
//!
//! | who owes | what | because |
//! |---|---|---|
//! | P after a split, and the new Q | each other | Q is reached through P; without P nobody would know Q's id |
//! | a new root | both children, and they it | the same |
//! | F with a new run | the run, and it F | the same |
//! | a parent | the child whose new epoch it states | a child is never behind its parent |
//! | a page that changed twice | its parent | a child is one epoch ahead of its parent at most |
//!
//! A bundle settles the debts to its pages when it is durable. What was owed after it was sealed
//! stays: its pages do not have it.
//!
//! A bundle has to hold all that its pages owe, and what these owe. Pages that owe each other
//! cannot be taken apart, the others can go first, in bundles of their own. A family in which each
//! child changed twice owes as a whole; [`Debts::with`] says when that becomes more than a bundle
//! takes. So the flusher asks after each second change, and writes the parent before there are too
//! many.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::pages::defect::PagesDefect;

/// The debts between pages, by their ids.
#[derive(Debug, Default)]
pub(in crate::store) struct Debts {
    /// Who owes: to whom, since when.
    owes: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Who is owed: by whom.
    owed_by: BTreeMap<u64, BTreeSet<u64>>,
    now: u64,
    defect: Option<PagesDefect>,
}

impl Debts {
    pub(in crate::store) fn new(defect: Option<PagesDefect>) -> Self {
        Self { defect, ..Self::default() }
    }

    /// `page` must not be durable before what `other` is now.
    pub(in crate::store) fn owe(&mut self, page: u64, other: u64) {
        if page != other {
            self.now += 1;
            self.owes.entry(page).or_default().insert(other, self.now);
            self.owed_by.entry(other).or_default().insert(page);
        }
    }

    /// Neither page must be durable without the other.
    pub(in crate::store) fn partners(&mut self, a: u64, b: u64) {
        self.owe(a, b);
        self.owe(b, a);
    }

    /// All pages that a bundle with `page` has to hold, itself included, or `None` if these are
    /// more than `most`.
    pub(in crate::store) fn with(&self, page: u64, most: usize) -> Option<BTreeSet<u64>> {
        let mut all = BTreeSet::from([page]);
        if self.defect == Some(PagesDefect::PartnerLater) {
            return Some(all);
        }
        let mut pending = vec![page];
        while let Some(page) = pending.pop() {
            for &other in self.owes.get(&page).into_iter().flat_map(BTreeMap::keys) {
                if all.insert(other) {
                    if all.len() > most {
                        return None;
                    }
                    pending.push(other);
                }
            }
        }
        Some(all)
    }

    /// Pages that `page` owes to, and that owe nothing to others: writing these first makes what
    /// has to go with `page` less.
    pub(in crate::store) fn first(&self, page: u64) -> Vec<u64> {
        let owed = self.owes.get(&page).into_iter().flat_map(BTreeMap::keys);
        owed.filter(|other| !self.owes.contains_key(other)).copied().collect()
    }

    /// A bundle is sealed: the moment up to which it settles debts.
    pub(in crate::store) fn seal(&self) -> u64 {
        self.now
    }

    /// A bundle with `pages` is durable, which was sealed at that moment.
    pub(in crate::store) fn settle(&mut self, pages: impl IntoIterator<Item = u64>, sealed: u64) {
        for page in pages {
            let Some(debtors) = self.owed_by.get_mut(&page) else { continue };
            debtors.retain(|debtor| {
                let Some(owes) = self.owes.get_mut(debtor) else { return false };
                let settled = owes.get(&page).is_none_or(|&since| since <= sealed);
                if settled {
                    owes.remove(&page);
                    if owes.is_empty() {
                        self.owes.remove(debtor);
                    }
                }
                !settled
            });
            if debtors.is_empty() {
                self.owed_by.remove(&page);
            }
        }
    }

    /// How many debts there are.
    pub(in crate::store) fn len(&self) -> usize {
        self.owes.values().map(BTreeMap::len).sum()
    }
}
