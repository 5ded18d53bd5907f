//! The flusher: which pages go to the namespace, in which bundles, and what is true when a bundle
//! is durable. It does no I/O and reads no clock: events and captured pages go in, plans of bundles
//! come out, and the caller says what became of them.
//!
//! ```text
//! events ──▶ drain ──▶ dirty pages, structure ──▶ next_bundle ──▶ Plan ──▶ durable(bundle)
//!                                                                    └───▶ failed(bundle)
//! ```
//!
//! # States of a page
//!
//! | state | what is true | next, by |
//! |---|---|---|
//! | clean | its durable image is all that there is | dirty: an event |
//! | dirty | the log keeps all numbers from its `from` on | under way: a bundle is sealed with it |
//! | under way | the log keeps them still; a bundle has its image | clean: [`durable`](Flusher::durable), unless an event came since; dirty: [`failed`](Flusher::failed) |
//! | gone | removed or moved; the log keeps them, and its heirs are dirty | free: a bundle with its heirs is durable |
//!
//! A page is dirty by `Dirty` events; what is split off it, and what takes its place when it is
//! gone, inherits its `from`. Only dirt concerns the log. Of shape, the log knows nothing: what the
//! durable tree does not know of it is in [`structure`], and writing it is never urgent.
//!
//! # A bundle is closed before it is sealed
//!
//! Pages are captured while cores go on changing them. So a set of captured pages is
//!
//! 1. filled by the hand, and each page brings along what the five rules of `btree/smo.rs` want
//!    beside it ([`rules`]);
//! 2. held against the events that were pushed until its last page was captured, which may want
//!    more, or a page captured anew; and so on until there is nothing new.
//!
//! Then the set keeps the rules with all that its images show, since a change is in the queues
//! before it can be seen. (A change that comes later is in none of the images.)
//!
//! | rule | debt | from |
//! |---|---|---|
//! | 1 | a page, to the new one that its split names, while its durable parent is one behind | `Split` |
//! | 2 | an inner page, to each child in flux whose durable image is not what it states | `Posted`, `RootSplit`, `Collapsed` |
//! | 3 | a page in flux, to the page that names it or to its parent, if the durable tree does not reach it or is two behind | `Split`, then `Posted` |
//! | 4 | an heir, to the other pages that may be it; the id is in the trailer of the bundle that has them | `Removed`, `Collapsed` |
//! | 5 | every page below the level of an heir, to that heir; but a page whose parent is in the set, to that one alone | `Removed` |
//!
//! The debts are no list. They follow from the pages in flux, the pages that are gone, and what is
//! durable of both, so they are settled by what a durable image says and not by what was sent.
//!
//! # Bundles do not depend on bundles under way
//!
//! A page is in one bundle at most, and a page that needs one that is under way waits. So each
//! bundle keeps the rules on what is durable when it is sealed, whatever becomes of the others and
//! in whatever order. What does not fit one bundle goes in several: pages that others need and that
//! need less themselves go first, and the rest when they are durable.
//!
//! Some sets cannot be taken apart: all of a tree that grew before it was ever durable, or a family
//! in which each child changed twice. [`Next::TooLarge`] says so. The caller asks again with the
//! room of a *group*: several bundles that are named in one batch of the log, which makes them
//! durable together. A [`Plan`] is such a group as soon as it has more than a bundle takes. A group
//! has an end too, so writers wait while so much may be such a set
//! ([`growth_bytes`](Flusher::growth_bytes)).
//!
//! # Order
//!
//! One hand goes round in the order of (parent's id, page's id), which brings families together
//! (E4). Before it come inner pages with many children in flux, whose debts would outgrow a bundle;
//! heirs, which hold back all pages below them and all ids; and what the evicter found dirty.

mod assemble;
mod defect;
mod dirty;
mod pace;
mod pages;
mod rules;
mod set;
mod structure;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(in crate::store) use structure::STEPS;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(in crate::store) use assemble::{Next, Plan, Reason, Room};
pub(in crate::store) use defect::FlushDefect;
pub(in crate::store) use dirty::NO_NUMBER;
pub(in crate::store) use pace::{Load, MAX_BEAT_BYTES, Pace};
pub(in crate::store) use pages::{Capture, Captured, Live, Look, Pages};

use self::dirty::{Dirt, DirtyPages, Place};
use self::structure::Structure;
use crate::store::events::Event;
use crate::store::word::{ChildWord, Epoch, PageId};

/// After so many looks into all queues without an end of structure changes the flusher lets them
/// pass for now.
const MAX_PASSES: usize = 64;

/// Names a bundle of one flusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct BundleId(u64);

/// What is remembered of a bundle under way.
#[derive(Debug, Default)]
struct UnderWay {
    pages: BTreeMap<PageId, (Epoch, Option<Dirt>)>,
    /// What its inner pages state of pages in flux.
    states: Vec<ChildWord>,
    /// What its pages name as split from them.
    names: Vec<ChildWord>,
    freed: Vec<ChildWord>,
    /// Pages that are gone, each with an heir that the bundle has, and whether that leads to it.
    heirs: Vec<(PageId, PageId, bool)>,
}

/// What a durable bundle changes. Its entries (places, and what they replace) are in the bundle's
/// trailer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Settled {
    /// Their durable images are those of the bundle now.
    pub(in crate::store) pages: Vec<ChildWord>,
    /// Ids to be released, with the epoch that their next use starts from; their durable images, if
    /// they have any, are garbage.
    pub(in crate::store) freed: Vec<ChildWord>,
}

/// The flusher of a store. One core at a time has it.
#[derive(Debug)]
pub(in crate::store) struct Flusher {
    dirty: DirtyPages,
    structure: Structure,
    under_way: BTreeMap<PageId, BundleId>,
    bundles: BTreeMap<BundleId, UnderWay>,
    last_bundle: u64,
    hand: Option<Place>,
    wanted: VecDeque<PageId>,
    is_wanted: BTreeSet<PageId>,
    /// What the bundle that is being put together has no room for, with all that it needs: so it is
    /// found out once, and not for each page that needs it.
    too_heavy: BTreeSet<PageId>,
    /// Roots of trees that are no more, with the epochs that the next use of their ids starts from.
    leaving: BTreeMap<PageId, ChildWord>,
    /// Events that were drained and not learned from yet.
    batch: Vec<Event>,
    log_start: u64,
    /// How many pages were captured.
    captures: u64,
    defect: Option<FlushDefect>,
}

impl Flusher {
    /// For a store whose pages in memory are all clean, and whose log starts at `log_start`.
    pub(in crate::store) fn new(log_start: u64, defect: Option<FlushDefect>) -> Self {
        Self {
            dirty: DirtyPages::default(),
            structure: Structure::default(),
            under_way: BTreeMap::new(),
            bundles: BTreeMap::new(),
            last_bundle: 0,
            hand: None,
            wanted: VecDeque::new(),
            is_wanted: BTreeSet::new(),
            too_heavy: BTreeSet::new(),
            leaving: BTreeMap::new(),
            batch: Vec::new(),
            log_start,
            captures: 0,
            defect,
        }
    }

    /// Takes all events. `take` appends those of every core's queue to what it gets. False if there
    /// was no end of structure changes: nothing was learned, and the caller comes again.
    ///
    /// It looks into all queues until it finds no structure change any more. So whatever was pushed
    /// before one that it learns from, on whichever core, is in the same batch or in one before.
    pub(in crate::store) fn drain(
        &mut self,
        pages: &impl Pages,
        take: &mut impl FnMut(&mut Vec<Event>),
    ) -> bool {
        let is_dirt = |event: &Event| matches!(event, Event::Dirty { .. });
        let mut known = 0;
        for _ in 0..MAX_PASSES {
            take(&mut self.batch);
            if self.batch[known..].iter().all(is_dirt) {
                self.learn(pages);
                return true;
            }
            known = self.batch.len();
        }
        false
    }

    fn learn(&mut self, pages: &impl Pages) {
        let batch = std::mem::take(&mut self.batch);
        for event in &batch {
            if let Event::Dirty { tree, parent, page, from } = *event {
                self.dirty.add(page, Dirt { tree, parent, from });
            }
        }
        self.structure.learn(&batch, pages);
        let mut changed = true;
        while changed {
            changed = false;
            for event in &batch {
                changed |= self.inherit(event);
            }
        }
        self.batch = batch;
        self.batch.clear();
    }

    /// What the log keeps for a page.
    fn from(&self, page: PageId) -> Option<u64> {
        let under_way = self.under_way.get(&page).and_then(|bundle| self.bundles.get(bundle));
        let under_way = under_way.and_then(|bundle| bundle.pages.get(&page)?.1);
        let dirty = self.dirty.get(page).copied();
        let gone = self.structure.gone.get(&page).and_then(|gone| gone.from);
        [dirty.map(|dirt| dirt.from), under_way.map(|dirt| dirt.from), gone].into_iter().flatten().min()
    }

    /// Hands on what the log keeps for a page. Whether anything is new in that.
    fn inherit(&mut self, event: &Event) -> bool {
        match *event {
            Event::Dirty { .. } | Event::Posted { .. } => false,
            Event::Split { tree, page, new } => {
                let parent = self.dirty.get(page).map_or(page, |dirt| dirt.parent);
                self.make_dirty(new.id(), tree, parent, self.from(page))
            }
            Event::RootSplit { tree, root, left, right, .. } => {
                let from = self.from(root);
                let left = self.make_dirty(left.id(), tree, root, from);
                self.make_dirty(right.id(), tree, root, from) || left
            }
            Event::Removed { tree, parent, gone } => {
                let keeps = self.defect != Some(FlushDefect::LogForgets);
                self.bequeath(tree, gone.id(), parent, keeps)
            }
            Event::Collapsed { tree, root, gone } => self.bequeath(tree, gone.id(), root, true),
            Event::Packed { tree, parent, gone, with, new } => {
                let keeps = self.defect != Some(FlushDefect::LogForgets);
                let mut is_news = false;
                for gone in std::iter::once(gone).chain(with) {
                    is_news |= self.bequeath(tree, gone.id(), parent, keeps);
                    let from = self.from(gone.id()).filter(|_| keeps);
                    is_news |= self.make_dirty(new.id(), tree, parent, from.or(Some(NO_NUMBER)));
                }
                is_news
            }
        }
    }

    /// The log keeps numbers from `from` on for a page: a dirty one, or one that is gone, which
    /// hands them on to its heirs. Whether that is news.
    fn make_dirty(&mut self, page: PageId, tree: u32, parent: PageId, from: Option<u64>) -> bool {
        let Some(from) = from else { return false };
        if let Some(gone) = self.structure.gone.get_mut(&page) {
            let is_news = from != NO_NUMBER && gone.from.is_none_or(|old| from < old);
            if is_news {
                gone.from = Some(from);
            }
            return is_news;
        }
        if self.dirty.get(page).is_some_and(|dirt| dirt.from <= from) {
            return false;
        }
        let parent = self.dirty.get(page).map_or(parent, |dirt| dirt.parent);
        self.dirty.add(page, Dirt { tree, parent, from });
        true
    }

    fn bequeath(&mut self, tree: u32, page: PageId, heir: PageId, keeps: bool) -> bool {
        let from = self.from(page).filter(|_| keeps);
        let Some(gone) = self.structure.gone.get_mut(&page) else { return false };
        gone.from = from;
        self.dirty.take(page);
        self.make_dirty(heir, tree, heir, from.or(Some(NO_NUMBER)))
    }

    /// The number from which on the log has to be kept. It only ever grows. A write whose event is
    /// pushed after this call began has a number of `next_number` or above: all below were
    /// published *before*, and what the overlay of the log's records still had then has none below
    /// either.
    pub(in crate::store) fn log_start(
        &mut self,
        next_number: u64,
        pages: &impl Pages,
        take: &mut impl FnMut(&mut Vec<Event>),
    ) -> u64 {
        if self.drain(pages, take) {
            let kept = self.oldest().unwrap_or(next_number).min(next_number);
            self.log_start = self.log_start.max(kept);
        }
        self.log_start
    }

    /// The smallest `from` of all that is not durable, as far as events are drained.
    pub(in crate::store) fn oldest(&self) -> Option<u64> {
        let under_way = self.bundles.values().flat_map(|bundle| bundle.pages.values());
        let under_way = under_way.filter_map(|(_, dirt)| dirt.map(|dirt| dirt.from));
        let gone = self.structure.gone.values().filter_map(|gone| gone.from);
        let oldest = under_way.chain(gone).chain(self.dirty.oldest()).min();
        oldest.filter(|from| *from != NO_NUMBER)
    }

    /// Whether the page above this one, which is marked as removed or moved, still has it in
    /// memory. As far as events are drained: if not all are it may be said too often.
    pub(in crate::store) fn is_unposted(
        &mut self,
        page: PageId,
        pages: &impl Pages,
        take: &mut impl FnMut(&mut Vec<Event>),
    ) -> bool {
        let is_drained = self.drain(pages, take);
        let is_gone = matches!(pages.look(page), Look::Gone(_));
        let is_posted = self.structure.gone.get(&page).is_some_and(|gone| {
            // An heir that is not in memory may have it.
            let is_known = |heir| !matches!(pages.look(heir), Look::Cold(_)) || gone.let_go.contains(&heir);
            gone.heirs.iter().all(|heir| is_known(*heir)) && !self.structure.is_stated(page, pages)
        });
        is_gone && !(is_drained && is_posted)
    }

    /// The page is the root of a tree, and may never have been durable. (Of others the events of
    /// their first writes say that.)
    pub(in crate::store) fn know_root(&mut self, page: PageId) {
        self.structure.add_root(page);
    }

    /// The evicter found the page dirty: it goes to the front. A page that it asks for is written
    /// even if the log keeps nothing for it.
    pub(in crate::store) fn want(&mut self, page: PageId) {
        if self.is_wanted.insert(page) {
            self.wanted.push_back(page);
        }
    }

    /// The roots of trees that nobody will reach any more are to be free with the next bundles, but
    /// for those on which something depends that is to be written or freed. Those that go.
    pub(in crate::store) fn let_roots_go(&mut self, roots: &[ChildWord]) -> Vec<ChildWord> {
        let needed = self.structure.needed();
        let is_busy = |id: PageId| self.dirty.get(id).is_some() || self.under_way.contains_key(&id);
        let can_go = |root: &ChildWord| !is_busy(root.id()) && !needed.contains(&root.id());
        let going: Vec<_> = roots.iter().copied().filter(can_go).collect();
        for root in &going {
            // As of a page that is removed and then free: two more than anybody knows.
            self.leaving.insert(root.id(), ChildWord::new(root.id(), root.epoch().next().next()));
        }
        going
    }

    /// How many pages the evicter waits for.
    pub(in crate::store) fn wanted_count(&self) -> usize {
        self.is_wanted.len()
    }

    /// How many pages are dirty, those in bundles under way left out.
    pub(in crate::store) fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// What pages that are gone take on the namespace, in bytes: room as soon as the pages that
    /// inherit from them are durable.
    pub(in crate::store) fn gone_bytes(&self) -> u64 {
        self.structure.gone_bytes()
    }

    /// How many pages are gone whose ids are not free.
    pub(in crate::store) fn gone_count(&self) -> usize {
        self.structure.gone.len()
    }

    /// The bytes of pages that may have to be durable together: those whose shape changed, and
    /// those that are to inherit from pages that are gone. Each counts `least` bytes at least. As
    /// far as events are drained; those in bundles under way are left out.
    pub(in crate::store) fn growth_bytes(&self, pages: &impl Pages, least: usize) -> usize {
        let due = self.structure.heirs().filter_map(|(heir, _)| match pages.look(heir) {
            Look::Live(live) if !pages.is_clean(heir) => Some(live),
            _ => None,
        });
        let grown = self.grown(pages).map(|(_, live)| live);
        grown.chain(due).map(|live| live.bytes.max(least)).sum()
    }

    /// Pages whose shape is not durable.
    fn grown(&self, pages: &impl Pages) -> impl Iterator<Item = (PageId, Live)> {
        self.structure.flux.iter().filter_map(|(page, flux)| match pages.look(*page) {
            Look::Live(live) if flux.durable != Some(live.epoch) && !self.under_way.contains_key(page) => {
                Some((*page, live))
            }
            _ => None,
        })
    }

    /// How many bundles are under way.
    pub(in crate::store) fn under_way_count(&self) -> usize {
        self.bundles.len()
    }

    /// Begins a bundle that moves images of cold pages elsewhere, for cleaning. Those that come
    /// back may be in it; the others are in a bundle under way. A page of them that is changed
    /// meanwhile waits until the bundle is durable or failed, and an entry of it counts only where
    /// the page still has the image that it replaces.
    ///
    /// A page that is gone is moved as well: its durable image counts until its id is free. If it
    /// were left, a full store could not be cleaned: its heirs need room to be written, and until
    /// then it would keep its segment from being empty.
    pub(in crate::store) fn move_cold(
        &mut self,
        cold: impl IntoIterator<Item = ChildWord>,
    ) -> (BundleId, Vec<ChildWord>) {
        self.last_bundle += 1;
        let bundle = BundleId(self.last_bundle);
        let is_in = |page: &ChildWord| !self.under_way.contains_key(&page.id());
        let moved: Vec<ChildWord> = cold.into_iter().filter(is_in).collect();
        let pages = moved.iter().map(|page| (page.id(), (page.epoch(), None))).collect();
        self.under_way.extend(moved.iter().map(|page| (page.id(), bundle)));
        self.bundles.insert(bundle, UnderWay { pages, ..UnderWay::default() });
        (bundle, moved)
    }

    /// The bundle is durable. The durable epochs that [`Pages::durable`] tells are those of before
    /// or of after; the caller releases what is freed after this call.
    pub(in crate::store) fn durable(&mut self, bundle: BundleId, pages: &impl Pages) -> Settled {
        let Some(done) = self.bundles.remove(&bundle) else { return Settled::default() };
        let flux = &mut self.structure.flux;
        let mut touched: BTreeSet<PageId> = done.pages.keys().copied().collect();
        for (page, (epoch, _)) in &done.pages {
            self.under_way.remove(page);
            if let Some(flux) = flux.get_mut(page) {
                flux.durable = Some(*epoch);
            }
        }
        for new in &done.names {
            if let Some(flux) = flux.get_mut(&new.id()) {
                // An old split may name an id that is another page's by now.
                if flux.durable.is_some_and(|epoch| epoch == new.epoch() || epoch == new.epoch().next()) {
                    flux.says.get_or_insert(new.epoch());
                }
                touched.extend(flux.split_from.iter().copied());
            }
            touched.insert(new.id());
        }
        for child in &done.states {
            if let Some(flux) = flux.get_mut(&child.id()) {
                flux.says = Some(child.epoch());
                touched.extend(flux.split_from.iter().copied());
            }
            touched.insert(child.id());
        }
        for (page, heir, leads_there) in &done.heirs {
            if let Some(gone) = self.structure.gone.get_mut(page) {
                if *leads_there {
                    gone.let_go.remove(heir);
                } else {
                    gone.let_go.insert(*heir);
                }
            }
        }
        for freed in &done.freed {
            self.under_way.remove(&freed.id());
            self.structure.is_freed(freed.id());
            if self.leaving.remove(&freed.id()).is_some() {
                self.structure.roots.remove(&freed.id());
            }
            self.dirty.take(freed.id());
        }
        if self.defect == Some(FlushDefect::CleanByMistake) {
            for page in done.pages.keys() {
                self.dirty.take(*page);
            }
        }
        self.structure.settle(touched, pages);
        let pages = done.pages.iter().map(|(page, (epoch, _))| ChildWord::new(*page, *epoch));
        Settled { pages: pages.collect(), freed: done.freed }
    }

    /// The bundle is given up: all its pages are dirty again, as they were.
    pub(in crate::store) fn failed(&mut self, bundle: BundleId) {
        let Some(lost) = self.bundles.remove(&bundle) else { return };
        for (page, (_, dirt)) in lost.pages {
            self.under_way.remove(&page);
            self.put_back(page, dirt);
        }
        for freed in lost.freed {
            self.under_way.remove(&freed.id());
        }
    }

    fn put_back(&mut self, page: PageId, dirt: Option<Dirt>) {
        if let Some(dirt) = dirt {
            // Its place may be another by now.
            let parent = self.dirty.get(page).map_or(dirt.parent, |dirt| dirt.parent);
            self.dirty.add(page, Dirt { parent, ..dirt });
        }
    }
}
