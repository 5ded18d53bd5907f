//! What the durable tree does not know yet of the shape that the tree has in memory.
//!
//! Events only name pages. What is true of these pages is read off what they are in memory, what
//! was captured of them, and what is durable; an event whose compare-and-swap failed therefore
//! changes nothing but which pages are looked at.
//!
//! | event | pages in flux | relation |
//! |---|---|---|
//! | `Split` | both | the new page may be a parent, or an heir, wherever the old one is |
//! | `Posted` | both, if they were split before the store was opened | the parent is one of both |
//! | `RootSplit` | both halves, below the root | the halves may be parents and heirs, wherever the root is, unless they are leaves |
//! | `Removed` | – | the page is gone, and the parent its heir, as it is of all whose heir is gone with it |
//! | `Collapsed` | – | the same; the root may be a parent wherever the page was |
//! | `Packed` | the new page, below the parent | the pages are gone, and the parent their heir; the new page may be a parent, or an heir, wherever they were |
//!
//! A page is **in flux** from its first split, or its creation, until its durable parent states the
//! epoch that it has. For a page that is not in flux, memory, the durable parent and the durable
//! image have the same epoch: that is where the epoch comes from that the durable tree *says* when
//! a page comes into flux. After an opening a page may be one epoch ahead of its parent without
//! being in flux; nobody changes it before its split is posted, and `Posted` brings it in.
//!
//! Parents and heirs are candidates: each event adds some, and who looks which of them has the page
//! in memory finds the one that counts. A page whose parent is found gets none from other pages.
//! The events of one [drain](super::Flusher::drain) include all that were pushed before any of
//! them, so a page cannot have a parent or an heir that is no candidate.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::pages::{Live, Look, Pages};
use crate::store::events::Event;
use crate::store::word::{ChildWord, Epoch, PageId};

/// A page whose epoch the durable parent may not state.
#[derive(Clone, Debug, Default)]
pub(super) struct Flux {
    /// What the durable tree says where it refers to the page: in its parent, or in the pending
    /// split of the page that it was split from. None if it does not.
    pub(super) says: Option<Epoch>,
    /// The epoch of its durable image.
    pub(super) durable: Option<Epoch>,
    /// Pages that it may have been split from.
    pub(super) split_from: Vec<PageId>,
    /// Pages that may be its parent.
    pub(super) parents: Vec<PageId>,
    /// Pages that may have been split from it.
    split_off: Vec<ChildWord>,
}

/// A page that was removed or moved, whose id is not free.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub(super) tree: u32,
    /// Pages that may have its range, or its content.
    pub(super) heirs: BTreeSet<PageId>,
    /// Heirs whose durable image, as far as it was written since, does not lead to the page.
    pub(super) let_go: BTreeSet<PageId>,
    /// What the log has to keep for it.
    pub(super) from: Option<u64>,
    /// Its range is another page's now: rule 5.
    pub(super) is_removal: bool,
    /// What its durable image takes until its id is free.
    bytes: u64,
}

/// An inner page with so many children in flux goes first.
const CROWD: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Structure {
    pub(super) flux: BTreeMap<PageId, Flux>,
    pub(super) gone: BTreeMap<PageId, Gone>,
    /// Roots of trees, as far as anybody has named them.
    pub(super) roots: BTreeSet<PageId>,
    /// By a candidate for their parent: the pages in flux that have it.
    below: BTreeMap<PageId, BTreeSet<PageId>>,
    /// By an heir: the pages that are gone and have it. An event about one page looks at these, and
    /// not at all that there are: of a long value that goes, there are thousands.
    inherits: BTreeMap<PageId, BTreeSet<PageId>>,
    /// By what became a candidate last: how many pages in flux have it.
    crowds: BTreeMap<PageId, usize>,
    /// Those with a [`CROWD`].
    crowded: BTreeSet<PageId>,
    /// What all pages that are gone take.
    gone_bytes: u64,
}

/// Counted in tests: one page was looked at because of another.
pub(super) fn step() {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(test)]
thread_local! {
    /// How many [steps](step) this thread has made.
    pub(in crate::store) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn add(pages: &mut Vec<PageId>, page: PageId) {
    if !pages.contains(&page) {
        pages.push(page);
    }
}

/// Takes `page` from the pages that are remembered for `by`.
fn take_from(index: &mut BTreeMap<PageId, BTreeSet<PageId>>, by: PageId, page: PageId) {
    if let Some(pages) = index.get_mut(&by) {
        pages.remove(&page);
        if pages.is_empty() {
            index.remove(&by);
        }
    }
}

impl Structure {
    fn add_parent(&mut self, page: PageId, parent: PageId) -> bool {
        step();
        let Some(flux) = self.flux.get_mut(&page).filter(|flux| !flux.parents.contains(&parent)) else {
            return false;
        };
        let before = flux.parents.last().copied();
        flux.parents.push(parent);
        self.below.entry(parent).or_default().insert(page);
        self.count(before, Some(parent));
        true
    }

    fn add_heir(&mut self, page: PageId, heir: PageId) -> bool {
        step();
        let is_news = self.gone.get_mut(&page).is_some_and(|gone| gone.heirs.insert(heir));
        if is_news {
            self.inherits.entry(heir).or_default().insert(page);
        }
        is_news
    }

    /// A page in flux has another last candidate for its parent.
    fn count(&mut self, before: Option<PageId>, after: Option<PageId>) {
        if let Some(parent) = before
            && let Some(children) = self.crowds.get_mut(&parent)
        {
            *children -= 1;
            if *children < CROWD {
                self.crowded.remove(&parent);
            }
            if *children == 0 {
                self.crowds.remove(&parent);
            }
        }
        if let Some(parent) = after {
            let children = self.crowds.entry(parent).or_default();
            *children += 1;
            if *children >= CROWD {
                self.crowded.insert(parent);
            }
        }
    }

    /// The page is in flux no more.
    pub(super) fn leaves_flux(&mut self, page: PageId) {
        let Some(flux) = self.flux.remove(&page) else { return };
        flux.parents.iter().for_each(|parent| take_from(&mut self.below, *parent, page));
        self.count(flux.parents.last().copied(), None);
    }

    /// The page's id is free.
    pub(super) fn is_freed(&mut self, page: PageId) {
        self.leaves_flux(page);
        if let Some(gone) = self.gone.remove(&page) {
            self.gone_bytes -= gone.bytes;
            gone.heirs.iter().for_each(|heir| take_from(&mut self.inherits, *heir, page));
        }
    }

    /// What pages that are gone take on the namespace until their heirs are durable.
    pub(super) fn gone_bytes(&self) -> u64 {
        self.gone_bytes
    }

    /// Inner pages with many children in flux.
    pub(super) fn crowded(&self) -> &BTreeSet<PageId> {
        &self.crowded
    }

    /// Each heir with the pages that are gone and may be its.
    pub(super) fn heirs(&self) -> impl Iterator<Item = (PageId, &BTreeSet<PageId>)> {
        self.inherits.iter().map(|(heir, gone)| (*heir, gone)).inspect(|_| step())
    }

    pub(super) fn is_heir(&self, page: PageId) -> bool {
        self.inherits.contains_key(&page)
    }

    /// How many pages are heirs.
    pub(super) fn heir_count(&self) -> usize {
        self.inherits.len()
    }

    /// The pages that are gone and have one of these heirs, or one that is gone and has.
    pub(super) fn all_gone_to(&self, heirs: impl Iterator<Item = PageId>) -> BTreeSet<PageId> {
        let (mut all, mut left) = (BTreeSet::new(), heirs.collect::<Vec<_>>());
        while let Some(heir) = left.pop() {
            left.extend(self.gone_to(heir).map(|(page, _)| page).filter(|page| all.insert(*page)));
        }
        all
    }

    /// The pages that are gone and have this heir.
    pub(super) fn gone_to(&self, heir: PageId) -> impl Iterator<Item = (PageId, &Gone)> {
        let gone = self.inherits.get(&heir).into_iter().flatten();
        gone.filter_map(|page| Some((*page, self.gone.get(page)?))).inspect(|_| step())
    }

    /// Learns from the structure changes of a drain, in any order.
    pub(super) fn learn(&mut self, batch: &[Event], pages: &impl Pages) {
        for event in batch {
            self.enter(event, pages);
        }
        // A root is never in flux. Its id may have been that of a page that was made for a split
        // and given back, of which a drain up to this one has heard.
        for event in batch {
            if let Event::Dirty { parent, page, .. } = event
                && parent == page
            {
                self.leaves_flux(*page);
            }
        }
        // Relations follow from each other, whatever their order in the batch.
        loop {
            let mut changed = false;
            for event in batch {
                changed |= self.relate(event, pages);
            }
            if !changed {
                return;
            }
        }
    }

    fn enter(&mut self, event: &Event, pages: &impl Pages) {
        match *event {
            Event::Dirty { parent, page, .. } => {
                if parent == page {
                    self.roots.insert(page);
                }
            }
            Event::Split { page, new, .. } => {
                let flux = self.flux.entry(page).or_insert_with(|| {
                    let says = pages.durable(page);
                    Flux { says, durable: says, ..Flux::default() }
                });
                if !flux.split_off.contains(&new) {
                    flux.split_off.push(new);
                }
                let flux = self.flux.entry(new.id()).or_default();
                add(&mut flux.split_from, page);
            }
            Event::Posted { parent, page, new, .. } => {
                // Pages of before the store was opened, whose split nobody had posted: the durable
                // parent is one behind, and the new page is known by the split that is pending.
                for (child, says) in [(page, page.epoch().before()), (new, new.epoch())] {
                    match self.flux.entry(child.id()) {
                        Entry::Occupied(_) => {}
                        Entry::Vacant(unknown) => {
                            let Some(durable) = pages.durable(child.id()) else { continue };
                            unknown.insert(Flux {
                                says: Some(says),
                                durable: Some(durable),
                                ..Flux::default()
                            });
                        }
                    }
                    self.add_parent(child.id(), parent);
                }
            }
            Event::RootSplit { root, left, right, .. } => {
                self.roots.insert(root);
                for half in [left, right] {
                    self.flux.entry(half.id()).or_default();
                    self.add_parent(half.id(), root);
                }
            }
            Event::Packed { tree, parent, gone, with, new } => {
                self.flux.entry(new.id()).or_default();
                self.add_parent(new.id(), parent);
                for gone in std::iter::once(gone).chain(with) {
                    self.goes(tree, gone, parent, false, pages);
                }
            }
            Event::Removed { tree, parent, gone } => self.goes(tree, gone, parent, true, pages),
            Event::Collapsed { tree, root, gone } => self.goes(tree, gone, root, false, pages),
        }
    }

    fn goes(&mut self, tree: u32, gone: ChildWord, heir: PageId, is_removal: bool, pages: &impl Pages) {
        // Another visitor's step may have been the one, long ago, and the id may be another page's.
        if pages.look(gone.id()) == Look::Gone(gone.epoch()) {
            let (heirs, let_go) = Default::default();
            let bytes = pages.durable_bytes(gone.id());
            if let Entry::Vacant(unknown) = self.gone.entry(gone.id()) {
                unknown.insert(Gone { tree, heirs, let_go, from: None, is_removal, bytes });
                self.gone_bytes += bytes;
            }
            self.add_heir(gone.id(), heir);
        }
    }

    /// Adds the pages that the event makes candidates besides others. Whether there are new ones.
    fn relate(&mut self, event: &Event, pages: &impl Pages) -> bool {
        let (from, to) = match *event {
            Event::Dirty { .. } | Event::Posted { .. } => return false,
            // Leaves are nobody's parents, and lead to nothing that is gone. (What collapsed into
            // the root is in both, which rule 2 wants beside the root.)
            Event::RootSplit { are_leaves: true, .. } => return false,
            Event::Split { page, .. } if matches!(pages.look(page), Look::Live(live) if live.level == 0) => {
                return false;
            }
            Event::Split { page, new, .. } => ([page; 2], [new.id(); 2]),
            Event::RootSplit { root, left, right, .. } => ([root; 2], [left.id(), right.id()]),
            Event::Removed { parent, gone, .. } => ([gone.id(); 2], [parent; 2]),
            Event::Collapsed { root, gone, .. } => ([gone.id(); 2], [root; 2]),
            Event::Packed { gone, with, new, .. } => ([gone.id(), with.unwrap_or(gone).id()], [new.id(); 2]),
        };
        let mut changed = self.hand_on(from[0], to, pages);
        if from[1] != from[0] {
            changed |= self.hand_on(from[1], to, pages);
        }
        changed
    }

    /// Makes `to` candidates wherever `from` is one.
    fn hand_on(&mut self, from: PageId, to: [PageId; 2], pages: &impl Pages) -> bool {
        let mut changed = false;
        let pages_of = |index: &BTreeMap<PageId, BTreeSet<PageId>>| -> Vec<PageId> {
            index.get(&from).into_iter().flatten().copied().collect()
        };
        for page in pages_of(&self.below) {
            // One that is gone is written no more, and needs no parent for that.
            let is_gone = matches!(pages.look(page), Look::Gone(_));
            if is_gone || self.is_below_another(page, from, pages) {
                continue;
            }
            for to in to.into_iter().filter(|to| *to != page) {
                changed |= self.add_parent(page, to);
            }
        }
        for page in pages_of(&self.inherits) {
            for to in to.into_iter().filter(|to| *to != page) {
                changed |= self.add_heir(page, to);
            }
        }
        changed
    }

    #[cfg(test)]
    pub(super) fn knows_gone(&mut self, page: PageId, heir: PageId) {
        let (heirs, let_go) = Default::default();
        self.gone.insert(page, Gone { tree: 1, heirs, let_go, from: None, is_removal: true, bytes: 0 });
        self.add_heir(page, heir);
    }

    /// Whether the page has a parent now, among those that are known, which is not `parent`. Then
    /// what `parent` hands on is not to have the page. (Children only move from a page that is
    /// split, or collapses, to one that the event of that names. Until it is done, whoever does it
    /// sees them where they were.) Without this all pages of a large value would have all inner
    /// pages above it as candidates.
    fn is_below_another(&self, page: PageId, parent: PageId, pages: &impl Pages) -> bool {
        let known = self.flux.get(&page).into_iter().flat_map(|flux| flux.parents.iter().rev());
        known.copied().filter(|other| *other != parent).inspect(|_| step()).any(|other| {
            // One that is not published may be the attempt of somebody who comes too late.
            self.is_published(other, pages) && pages.stated(other, page).is_some()
        })
    }

    /// Nobody names the page, and visitors come to it all the same.
    pub(super) fn add_root(&mut self, page: PageId) {
        self.roots.insert(page);
    }

    /// Pages in flux, those that may be their parents, and those that may be heirs of pages that
    /// are gone.
    pub(super) fn needed(&self) -> BTreeSet<PageId> {
        self.flux.keys().chain(self.below.keys()).chain(self.inherits.keys()).copied().collect()
    }

    /// The parent of `page` in memory, and the epoch that it states.
    pub(super) fn parent(&self, page: PageId, pages: &impl Pages) -> Option<PageId> {
        let candidates = self.flux.get(&page)?.parents.iter().rev();
        candidates.copied().find(|parent| pages.stated(*parent, page).is_some())
    }

    /// Whether visitors can come to the page, if it is one. A new page that nobody names yet is its
    /// creator's alone, and may not even have been announced.
    pub(super) fn is_published(&self, page: PageId, pages: &impl Pages) -> bool {
        let Some(flux) = self.flux.get(&page) else {
            return self.roots.contains(&page) || pages.durable(page).is_some();
        };
        if flux.says.is_some() {
            return true;
        }
        let Look::Live(live) = pages.look(page) else { return true };
        let names = |left: &PageId| match pages.look(*left) {
            Look::Live(Live { pending: Some(new), .. }) => {
                new.id() == page && (new.epoch() == live.epoch || new.epoch().next() == live.epoch)
            }
            _ => false,
        };
        flux.split_from.iter().any(names) || self.parent(page, pages).is_some()
    }

    /// Whether one of the pages that may have it as a child still does, in memory.
    pub(super) fn is_stated(&self, gone: PageId, pages: &impl Pages) -> bool {
        let heirs = self.gone.get(&gone).into_iter().flat_map(|gone| &gone.heirs);
        heirs.into_iter().any(|heir| pages.stated(*heir, gone).is_some())
    }

    /// Whether no durable page will lead to `page` any more once `written` are durable, which are
    /// all its heirs that there are as pages.
    ///
    /// Heirs that are gone have to be free too. Two pages may be heirs of each other then: both
    /// halves of a root that was split, if both are gone by now. So this looks at all that follow
    /// from the page, each once.
    ///
    /// An heir that is not in memory has nothing to be written, but it may lead to the page: a step
    /// that was begun there, and not done, makes it an heir too. Whether it does was seen when it
    /// was written last.
    pub(super) fn is_free(
        &self,
        page: PageId,
        written: &impl Fn(PageId) -> bool,
        pages: &impl Pages,
    ) -> bool {
        let (mut seen, mut left) = (BTreeSet::from([page]), vec![page]);
        while let Some(page) = left.pop() {
            let Some(gone) = self.gone.get(&page) else { continue };
            step();
            let is_candidate =
                gone.heirs.iter().all(|heir| match pages.look(*heir) {
                    Look::Live(_) => written(*heir),
                    Look::Gone(_) => self.gone.contains_key(heir),
                    Look::Free => true,
                    Look::Cold(_) => gone.let_go.contains(heir),
                }) && gone.heirs.iter().any(|heir| written(*heir) || self.gone.contains_key(heir))
                    && !self.is_stated(page, pages);
            if !is_candidate {
                return false;
            }
            let is_gone = |heir: &&PageId| matches!(pages.look(**heir), Look::Gone(_));
            let heirs = gone.heirs.iter().filter(is_gone).copied();
            left.extend(heirs.filter(|heir| seen.insert(*heir)));
        }
        true
    }

    /// Forgets pages that the durable tree has as memory has them.
    pub(super) fn settle(&mut self, candidates: impl IntoIterator<Item = PageId>, pages: &impl Pages) {
        for page in candidates {
            let Some(flux) = self.flux.get(&page) else { continue };
            let (says, durable) = (flux.says, flux.durable);
            let is_settled = match pages.look(page) {
                Look::Free => true,
                Look::Gone(_) => false,
                Look::Cold(epoch) | Look::Live(Live { epoch, .. }) => {
                    let epoch = Some(epoch);
                    let is_open = |new: &ChildWord| {
                        // It may yet be published, as part of a split that has not come to be.
                        let unknown = self.flux.get(&new.id()).is_some_and(|flux| flux.says.is_none());
                        unknown
                            && matches!(pages.look(new.id()), Look::Live(live) if live.epoch == new.epoch())
                    };
                    says == epoch && durable == epoch && !flux.split_off.iter().any(is_open)
                }
            };
            if is_settled {
                self.leaves_flux(page);
            }
        }
    }
}
