//! Putting a bundle together: seeds, what they need, and the moment of the seal.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::dirty::{Dirt, NO_NUMBER, Place};
use super::rules::{Closing, Trouble};
use super::set::{Member, Set};
use super::structure::Gone;
use super::{BundleId, Capture, Captured, FlushDefect, Flusher, Look, Pages, UnderWay};
use crate::store::events::Event;
use crate::store::word::{ChildWord, PageId};

/// How often a set is held against new events, or a page captured anew, before it is left for now.
const MAX_ROUNDS: usize = 16;
/// So many seeds are tried whose pages do not fit: each may cost the captures of a whole bundle.
const MAX_TOO_LARGE: usize = 8;
/// So many roots of trees that are no more are free with one bundle.
const MAX_ROOTS: usize = 64;

/// Why pages are flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Reason {
    /// The log is to become shorter.
    Age,
    /// The evicter waits for pages: those that it [wants](Flusher::want) come first.
    Pressure,
    /// As much as may be has to be durable together: that is written, and what it needs.
    Growth,
    /// Everything is to be durable, inner pages too.
    Close,
}

/// What a bundle has room for.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Room {
    /// Bytes of pages, their headers included.
    pub(in crate::store) bytes: usize,
    /// Entries of the trailer. Four freed ids are as long as one.
    pub(in crate::store) entries: usize,
}

/// A bundle to be written.
#[derive(Debug)]
pub(in crate::store) struct Plan<C> {
    pub(in crate::store) bundle: BundleId,
    /// In the order of their ids.
    pub(in crate::store) pages: Vec<Captured<C>>,
    /// Ids that are free once it is durable, with the epoch that their next use starts from.
    pub(in crate::store) freed: Vec<ChildWord>,
    /// W1: the bundle is named in a batch of the log that reaches this number.
    pub(in crate::store) newest: u64,
}

/// What is to be done next.
#[derive(Debug)]
pub(in crate::store) enum Next<C> {
    Bundle(Plan<C>),
    /// Nothing that there is reason to write.
    Nothing,
    /// What there is waits for a bundle under way, for memory, or for a visitor to finish a
    /// structure change.
    Waits,
    /// These pages have to be durable together, and are more than there is room for: the caller
    /// asks again with the room of a group of bundles.
    TooLarge(Vec<PageId>),
}

/// Why a seed is not in the set.
enum Left {
    Waits,
    /// The pages that were to be together.
    TooLarge(BTreeSet<PageId>),
    /// It needs a page that was found to need more than there is room for.
    TooHeavy,
    /// There is nothing to write of it.
    Nothing,
    /// The set was changed, and has to be made anew without the seed.
    Spoilt,
}

impl Flusher {
    /// Captures the pages of a bundle of about `budget_bytes`. The caller writes it, and says what
    /// became of it by [`durable`](Self::durable) or [`failed`](Self::failed).
    ///
    /// `take` is as in [`drain`](Self::drain). It may be called any number of times.
    pub(in crate::store) fn next_bundle<P: Pages>(
        &mut self,
        pages: &P,
        take: &mut impl FnMut(&mut Vec<Event>),
        room: Room,
        budget_bytes: usize,
        reason: Reason,
    ) -> Next<P::Content> {
        if !self.drain(pages, take) {
            return Next::Waits;
        }
        self.wanted.retain(|page| self.is_wanted.contains(page));
        let mut left_out = BTreeSet::new();
        let (mut too_large, mut tried) = (None, 0);
        self.too_heavy.clear();
        let mut most = usize::MAX;
        let mut is_waiting = false;
        for _ in 0..MAX_ROUNDS {
            let (mut seeds, mut hand) = self.seeds(pages, reason);
            let mut set = Set::default();
            let (mut accepted, mut spoilt) = (Vec::new(), false);
            while set.bytes() < budget_bytes.min(room.bytes) && accepted.len() < most {
                let before = hand;
                let Some(seed) = self.next_seed(reason, &mut seeds, &mut hand, &left_out) else { break };
                if set.contains(seed) {
                    continue;
                }
                match self.close(pages, &mut set, seed, room) {
                    Ok(()) => accepted.push(seed),
                    Err(Left::Nothing) => {}
                    Err(Left::Waits) => {
                        is_waiting |= left_out.insert(seed);
                    }
                    Err(Left::TooHeavy) => {
                        left_out.insert(seed);
                        self.too_heavy.insert(seed);
                    }
                    Err(Left::Spoilt) => {
                        is_waiting |= left_out.insert(seed);
                        spoilt = true;
                        break;
                    }
                    Err(Left::TooLarge(_)) if set.len() > 0 => {
                        hand = before;
                        break;
                    }
                    Err(Left::TooLarge(needed)) => {
                        // Those of them that need less go first.
                        left_out.insert(seed);
                        self.too_heavy.insert(seed);
                        seeds.extend(needed.iter().filter(|page| !left_out.contains(page)));
                        too_large.get_or_insert(needed);
                        tried += 1;
                        if tried >= MAX_TOO_LARGE {
                            break;
                        }
                    }
                }
            }
            if !spoilt {
                match self.close_finally(pages, take, &mut set, room) {
                    Ok(freed) if set.len() == 0 && freed.is_empty() => break,
                    Ok(freed) => {
                        self.hand = hand.or(self.hand);
                        self.is_wanted.retain(|page| !set.contains(*page));
                        return Next::Bundle(self.seal(pages, set, freed));
                    }
                    // It may do with half of them.
                    Err(_) if accepted.len() > 1 => most = accepted.len() / 2,
                    Err(_) => {
                        is_waiting = true;
                        left_out.extend(accepted);
                    }
                }
            }
            self.take_apart(set);
        }
        match too_large {
            // What waits may wait for these.
            Some(pages) if !is_waiting || self.bundles.is_empty() => {
                Next::TooLarge(pages.into_iter().collect())
            }
            _ if is_waiting => Next::Waits,
            _ => Next::Nothing,
        }
    }

    /// Whether there are inner pages with so many children in flux that they should be written now:
    /// what has to be durable together would become more than a bundle takes.
    pub(in crate::store) fn is_crowded(&self) -> bool {
        !self.structure.crowded().is_empty()
    }

    /// What goes before the hand, and where the hand starts.
    fn seeds(&self, pages: &impl Pages, reason: Reason) -> (VecDeque<PageId>, Option<Place>) {
        let crowded = self.structure.crowded().iter().copied();
        let heirs = self.structure.heirs().map(|(heir, _)| heir);
        let heirs = heirs.filter(|heir| matches!(pages.look(*heir), Look::Live(_)));
        let mut seeds: VecDeque<PageId> = crowded.chain(heirs).collect();
        if reason == Reason::Pressure {
            seeds.extend(&self.wanted);
        }
        match reason {
            Reason::Growth => seeds.extend(self.grown(pages).map(|(page, _)| page)),
            Reason::Close => seeds.extend(self.structure.flux.keys()),
            Reason::Age | Reason::Pressure => {}
        }
        (seeds, self.hand)
    }

    fn next_seed(
        &self,
        reason: Reason,
        seeds: &mut VecDeque<PageId>,
        hand: &mut Option<Place>,
        left_out: &BTreeSet<PageId>,
    ) -> Option<PageId> {
        let is_out = |page: PageId| left_out.contains(&page) || self.under_way.contains_key(&page);
        while let Some(seed) = seeds.pop_front() {
            if !is_out(seed) {
                return Some(seed);
            }
        }
        if reason == Reason::Growth {
            return None;
        }
        let place = self.dirty.round(*hand).find(|(_, page)| !is_out(*page))?;
        *hand = Some(place);
        Some(place.1)
    }

    /// Adds `seed` and all that it needs to a set, or nothing.
    fn close<P: Pages>(
        &mut self,
        pages: &P,
        set: &mut Set<P::Content>,
        seed: PageId,
        room: Room,
    ) -> Result<(), Left> {
        let mut added = Vec::new();
        let mut is_spoilt = false;
        let closed = self
            .add(pages, set, seed, &mut added)
            .and_then(|()| self.complete(pages, set, (&mut added, &mut is_spoilt), room));
        closed.map_err(|left| {
            for page in added {
                self.drop_member(set, page);
            }
            if is_spoilt { Left::Spoilt } else { left }
        })
    }

    /// Adds what the `added` pages need, and what these need.
    fn complete<P: Pages>(
        &mut self,
        pages: &P,
        set: &mut Set<P::Content>,
        (added, is_spoilt): (&mut Vec<PageId>, &mut bool),
        room: Room,
    ) -> Result<(), Left> {
        let (mut at, mut rounds) = (0, 0);
        let mut frees = self.frees(set);
        while at < added.len() {
            if !fits(set, frees, room) {
                return Err(Left::TooLarge(set.pages().collect()));
            }
            let Some(captured) = set.get(added[at]) else { return Err(Left::Waits) };
            let closing = Closing { structure: &self.structure, set: &*set, pages, defect: self.defect };
            match closing.needs(captured) {
                Ok(needs) if needs.is_empty() => at += 1,
                Ok(needs) => {
                    if needs.iter().any(|page| self.too_heavy.contains(page)) {
                        return Err(Left::TooHeavy);
                    }
                    let needs: BTreeSet<_> = needs.into_iter().collect();
                    for page in &needs {
                        self.add(pages, set, *page, added).map_err(|_| Left::Waits)?;
                    }
                    if needs.iter().any(|page| self.structure.is_heir(*page)) {
                        frees = self.frees(set);
                    }
                }
                Err(Trouble::Stale(page)) if rounds < MAX_ROUNDS => {
                    rounds += 1;
                    *is_spoilt |= !added.contains(&page);
                    self.add(pages, set, page, added).map_err(|_| {
                        *is_spoilt = true;
                        Left::Waits
                    })?;
                    // What was true of the others may not be any more.
                    at = 0;
                }
                Err(_) => return Err(Left::Waits),
            }
        }
        if fits(set, frees, room) { Ok(()) } else { Err(Left::TooLarge(set.pages().collect())) }
    }

    /// How many ids may become free with a set.
    fn frees<C>(&self, set: &Set<C>) -> usize {
        let of_heir = |heir| {
            // Of several heirs in the set one counts.
            let is_first = |gone: &Gone| gone.heirs.iter().find(|heir| set.contains(**heir)) == Some(&heir);
            self.structure.gone_to(heir).filter(|(_, gone)| is_first(gone)).count()
        };
        self.heirs_in(set).map(of_heir).sum()
    }

    fn heirs_in<C>(&self, set: &Set<C>) -> impl Iterator<Item = PageId> {
        let has_few = self.structure.heir_count() < set.len();
        let heirs = has_few.then(|| self.structure.heirs().map(|(heir, _)| heir)).into_iter().flatten();
        let written = (!has_few).then(|| set.pages()).into_iter().flatten();
        let heirs = heirs.filter(|heir| set.contains(*heir));
        heirs.chain(written.filter(|page| self.structure.is_heir(*page)))
    }

    /// Captures a page into a set. One that is in it already is captured anew.
    fn add<P: Pages>(
        &mut self,
        pages: &P,
        set: &mut Set<P::Content>,
        page: PageId,
        added: &mut Vec<PageId>,
    ) -> Result<(), Left> {
        if self.under_way.contains_key(&page) {
            return Err(Left::Waits);
        }
        if matches!(pages.look(page), Look::Live(_)) && !self.structure.is_published(page, pages) {
            return Err(Left::Waits);
        }
        self.captures += 1;
        // One that is not in the set is not among those that were added to it.
        let is_new = !set.contains(page) || !added.contains(&page);
        // First the dirt, then the image: what is written later is dirt again.
        let old = set.remove(page).and_then(|member| member.dirt);
        let new = self.dirty.take(page);
        let dirt = match (old, new) {
            (Some(old), Some(new)) => Some(Dirt { from: old.from.min(new.from), ..new }),
            (old, new) => old.or(new),
        };
        match pages.capture(page) {
            Capture::Image(captured) => {
                set.insert(page, Member { captured, dirt });
                if is_new {
                    added.push(page);
                }
                Ok(())
            }
            Capture::Clean | Capture::Free => {
                self.is_wanted.remove(&page);
                self.structure.settle([page], pages);
                Err(Left::Nothing)
            }
            Capture::Gone => {
                // What it was emptied by is its heirs' to keep, once it has any.
                self.is_wanted.remove(&page);
                self.put_back(page, dirt);
                Err(Left::Waits)
            }
        }
    }

    fn drop_member<C>(&mut self, set: &mut Set<C>, page: PageId) {
        if let Some(member) = set.remove(page) {
            self.put_back(page, member.dirt);
        }
    }

    fn take_apart<C>(&mut self, set: Set<C>) {
        for (page, member) in set.into_members() {
            self.put_back(page, member.dirt);
        }
    }

    /// Holds a set against all that was pushed until its last page was captured, until there is
    /// nothing new. The ids that become free with it.
    fn close_finally<P: Pages>(
        &mut self,
        pages: &P,
        take: &mut impl FnMut(&mut Vec<Event>),
        set: &mut Set<P::Content>,
        room: Room,
    ) -> Result<Vec<ChildWord>, Left> {
        if self.defect == Some(FlushDefect::NoSecondDrain) {
            return Ok(self.freed(pages, set));
        }
        for _ in 0..MAX_ROUNDS {
            if !self.drain(pages, take) {
                return Err(Left::Waits);
            }
            set.forget_told();
            let mut all: Vec<PageId> = set.pages().collect();
            let captures = self.captures;
            self.complete(pages, set, (&mut all, &mut false), room)?;
            if self.captures == captures {
                let freed = self.freed(pages, set);
                let is_kept = self.defect == Some(FlushDefect::RemovalAlone)
                    || !self.leaves_one_behind(pages, set, &freed);
                return if is_kept { Ok(freed) } else { Err(Left::Waits) };
            }
        }
        Err(Left::Waits)
    }

    /// Whether a page would be durable that nobody comes to any more: its heir is in the set
    /// without it, and its id cannot be free yet, because a bundle under way has the page.
    fn leaves_one_behind<P: Pages>(&self, pages: &P, set: &Set<P::Content>, freed: &[ChildWord]) -> bool {
        let freed: BTreeSet<PageId> = freed.iter().map(|freed| freed.id()).collect();
        let is_left = |page: PageId| {
            !freed.contains(&page) && set.stated(page).is_none() && !self.structure.is_stated(page, pages)
        };
        self.heirs_in(set).flat_map(|heir| self.structure.gone_to(heir)).any(|(page, _)| is_left(page))
    }

    /// The ids that become free with a set.
    fn freed<P: Pages>(&self, pages: &P, set: &Set<P::Content>) -> Vec<ChildWord> {
        let alone = self.defect == Some(FlushDefect::RemovalAlone);
        // Thousands may have the same heir.
        let known = RefCell::new(BTreeMap::new());
        let is_written = |heir: PageId| {
            let mut known = known.borrow_mut();
            *known.entry(heir).or_insert_with(|| set.contains(heir) || pages.is_clean(heir))
        };
        // Others have no heir that was not durable before. One that was written too early for a
        // page is written again.
        let gone = self.structure.all_gone_to(self.heirs_in(set)).into_iter();
        let gone = gone.filter(|page| !self.under_way.contains_key(page));
        let gone = gone.filter(|page| set.stated(*page).is_none() || alone);
        let gone = gone.filter(|page| alone || self.structure.is_free(*page, &is_written, pages));
        let word = |page| match pages.look(page) {
            Look::Gone(epoch) => Some(ChildWord::new(page, epoch.next())),
            _ => None,
        };
        let leaving = self.leaving.values().filter(|root| !self.under_way.contains_key(&root.id()));
        gone.filter_map(word).chain(leaving.copied().take(MAX_ROOTS)).collect()
    }

    fn seal<P: Pages>(&mut self, pages: &P, set: Set<P::Content>, freed: Vec<ChildWord>) -> Plan<P::Content> {
        self.last_bundle += 1;
        let bundle = BundleId(self.last_bundle);
        let mut under_way = UnderWay { freed: freed.clone(), ..UnderWay::default() };
        let is_freed: BTreeSet<PageId> = freed.iter().map(|freed| freed.id()).collect();
        // Heirs that were written too early for what they are to inherit are written again.
        let mut again = Vec::new();
        for heir in self.heirs_in(&set) {
            for (page, gone) in self.structure.gone_to(heir) {
                let leads_there = set.stated(page).is_some_and(|(by, _)| by == heir);
                under_way.heirs.push((page, heir, leads_there));
                if !is_freed.contains(&page) {
                    let from = gone.from.unwrap_or(NO_NUMBER);
                    again.push((heir, Dirt { tree: gone.tree, parent: heir, from }));
                }
            }
        }
        let (mut written, mut newest) = (Vec::with_capacity(set.len()), 0);
        for (page, Member { captured, dirt }) in set.into_members() {
            self.under_way.insert(page, bundle);
            under_way.pages.insert(page, (captured.page.epoch(), dirt));
            let in_flux = |child: &&ChildWord| self.structure.flux.contains_key(&child.id());
            under_way.states.extend(captured.children.iter().filter(in_flux));
            under_way.names.extend(captured.pending.iter().filter(in_flux));
            newest = newest.max(captured.newest);
            written.push(captured);
        }
        // What emptied a page is in none of the images, and has to be in the log before them.
        let newest = if freed.is_empty() { newest } else { newest.max(pages.newest_number()) };
        self.under_way.extend(freed.iter().map(|page| (page.id(), bundle)));
        again.into_iter().for_each(|(heir, dirt)| self.dirty.add(heir, dirt));
        self.bundles.insert(bundle, under_way);
        Plan { bundle, pages: written, freed, newest }
    }
}

fn fits<C>(set: &Set<C>, frees: usize, room: Room) -> bool {
    set.bytes() <= room.bytes && set.len() + frees.div_ceil(4) <= room.entries
}
