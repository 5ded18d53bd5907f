//! The five rules of [`smo`](crate::store::btree), asked of the pages of a bundle.
//!
//! Each rule says what a captured page has to have beside it, or durable before it. A bundle may be
//! sealed when no page of it needs any other ([`needs`](Closing::needs)), and the events that were
//! pushed until all of them were captured are known.

use std::cell::LazyCell;
use std::collections::BTreeSet;

use super::defect::FlushDefect;
use super::pages::{Captured, Live, Look, Pages};
use super::set::Set;
use super::structure::{Structure, step};
use crate::store::word::{ChildWord, Epoch, PageId};

/// Why a page cannot be written as it was captured, together with any other pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// This page of the set was captured too long ago.
    Stale(PageId),
    /// A step of a visitor, or a bundle under way, has to come to its end first.
    Waits,
}

/// The rules, for one set.
#[derive(Debug)]
pub(super) struct Closing<'a, C, P> {
    pub(super) structure: &'a Structure,
    pub(super) set: &'a Set<C>,
    pub(super) pages: &'a P,
    pub(super) defect: Option<FlushDefect>,
}

/// Whether a page with this epoch is what its parent states, or one ahead.
fn is_fit(epoch: Epoch, stated: Epoch) -> bool {
    epoch == stated || epoch == stated.next()
}

impl<C, P: Pages> Closing<'_, C, P> {
    fn keeps(&self, rule: FlushDefect) -> bool {
        self.defect != Some(rule)
    }

    /// The pages that `captured` needs in the set besides those that are there.
    ///
    /// # Errors
    ///
    /// [`Trouble`].
    pub(super) fn needs(&self, captured: &Captured<C>) -> Result<Vec<PageId>, Trouble> {
        let mut needs = Vec::new();
        if self.keeps(FlushDefect::NoPartner) {
            needs.extend(self.created_before_referred_to(captured)?);
        }
        if self.keeps(FlushDefect::ParentAhead) {
            self.parent_is_not_ahead(captured, &mut needs)?;
        }
        if self.keeps(FlushDefect::ChildTwoAhead) {
            needs.extend(self.child_is_one_ahead(captured)?);
        }
        // An heir that was captured before the step is captured again.
        let is_gone = |child: &&ChildWord| self.structure.gone.contains_key(&child.id());
        for child in captured.children.iter().filter(is_gone) {
            if self.pages.stated(captured.page.id(), child.id()).is_none() {
                return Err(Trouble::Stale(captured.page.id()));
            }
        }
        self.removal_with_parent(captured, &mut needs);
        if self.keeps(FlushDefect::RangeBeforeOwner) {
            self.range_has_its_owner(captured, &mut needs);
        }
        needs.retain(|page| !self.set.contains(*page));
        Ok(needs)
    }

    /// What the durable tree will say where it refers to the page.
    fn says(&self, captured: &Captured<C>) -> Option<Epoch> {
        let page = captured.page.id();
        if let Some((_, epoch)) = self.set.stated(page) {
            return Some(epoch);
        }
        let Some(flux) = self.structure.flux.get(&page) else { return Some(captured.page.epoch()) };
        flux.says.or_else(|| {
            if let Some(says) = self.set.told(page) {
                return Some(says);
            }
            step();
            let left = self.left_of(captured)?;
            let is_ahead = self.says(left).is_some_and(|says| left.page.epoch() == says.next());
            let says = left.pending.filter(|_| is_ahead).map(ChildWord::epoch);
            // A page may have been split from one that was split from another, and so on, through
            // all of a set.
            self.set.tell(page, says);
            says
        })
    }

    /// The page of the set that names this one as what was split from it.
    fn left_of(&self, captured: &Captured<C>) -> Option<&Captured<C>> {
        let page = captured.page;
        let born = ChildWord::new(page.id(), page.epoch().before());
        self.set.named(page).or_else(|| self.set.named(born))
    }

    /// Whether the durable page will be what `child` says, or one ahead.
    fn is_durable(&self, child: ChildWord) -> bool {
        let flux = self.structure.flux.get(&child.id());
        match (self.set.get(child.id()), flux) {
            (Some(captured), _) => is_fit(captured.page.epoch(), child.epoch()),
            (None, Some(flux)) => flux.durable.is_some_and(|durable| is_fit(durable, child.epoch())),
            (None, None) => true,
        }
    }

    /// A page that is to be in the set.
    fn take(&self, page: PageId) -> Result<PageId, Trouble> {
        if self.set.contains(page) { Err(Trouble::Stale(page)) } else { Ok(page) }
    }

    fn take_parent(&self, page: PageId) -> Result<PageId, Trouble> {
        let parent = self.structure.parent(page, self.pages).ok_or(Trouble::Waits)?;
        self.take(parent)
    }

    /// Rule 1.
    fn created_before_referred_to(&self, captured: &Captured<C>) -> Result<Option<PageId>, Trouble> {
        let Some(new) = captured.pending else { return Ok(None) };
        let is_news = self.says(captured).is_some_and(|says| captured.page.epoch() == says.next());
        if !is_news || self.is_durable(new) {
            return Ok(None);
        }
        match self.pages.look(new.id()) {
            Look::Live(live) if is_fit(live.epoch, new.epoch()) => self.take(new.id()).map(Some),
            _ => self.take_parent(captured.page.id()).map(Some),
        }
    }

    /// Rule 2.
    fn parent_is_not_ahead(&self, captured: &Captured<C>, needs: &mut Vec<PageId>) -> Result<(), Trouble> {
        for child in captured.children.iter().filter(|child| !self.is_durable(**child)) {
            match self.pages.look(child.id()) {
                Look::Live(live) if is_fit(live.epoch, child.epoch()) => needs.push(self.take(child.id())?),
                // The parent that was captured is old, or a step that changes it is to come.
                _ => return Err(Trouble::Stale(captured.page.id())),
            }
        }
        Ok(())
    }

    /// Rule 3.
    fn child_is_one_ahead(&self, captured: &Captured<C>) -> Result<Option<PageId>, Trouble> {
        let page = captured.page.id();
        let Some(flux) = self.structure.flux.get(&page) else { return Ok(None) };
        let says = self.says(captured);
        if says.is_some_and(|says| is_fit(captured.page.epoch(), says)) {
            return Ok(None);
        }
        for left in flux.split_from.iter().filter(|_| says.is_none()) {
            let Look::Live(Live { epoch, pending: Some(new), .. }) = self.pages.look(*left) else { continue };
            if new.id() != page || !is_fit(captured.page.epoch(), new.epoch()) {
                continue;
            }
            match self.set.get(*left) {
                Some(left) if left.pending == Some(new) => {}
                Some(_) => return Err(Trouble::Stale(*left)),
                None => {
                    let durable = self.structure.flux.get(left).and_then(|left| left.says);
                    if durable.is_some_and(|says| epoch == says.next()) {
                        return Ok(Some(*left));
                    }
                }
            }
        }
        self.take_parent(page).map(Some)
    }

    /// Whether an heir of `gone` has to be written before the id is free, and before pages below it
    /// are written. (It is clean if that was done, or if it is no heir at all.)
    fn is_due(&self, heir: PageId) -> bool {
        matches!(self.pages.look(heir), Look::Live(_)) && !self.pages.is_clean(heir)
    }

    /// Rule 4: those that may have taken a page over go together, so that one of them has.
    fn removal_with_parent(&self, captured: &Captured<C>, needs: &mut Vec<PageId>) {
        let page = captured.page.id();
        // Thousands of pages may have the same heirs.
        let others: BTreeSet<PageId> =
            self.structure.gone_to(page).flat_map(|(_, gone)| gone.heirs.iter().copied()).collect();
        needs.extend(others.into_iter().filter(|heir| *heir != page && self.is_due(*heir)));
    }

    /// Rule 5. Whether a page is an ancestor is known if the set has the page's parent; otherwise
    /// every page above its level may be.
    fn range_has_its_owner(&self, captured: &Captured<C>, needs: &mut Vec<PageId>) {
        let has_parent = LazyCell::new(|| self.has_parent(captured));
        for (heir, gone) in self.structure.heirs().filter(|(heir, _)| !self.set.contains(*heir)) {
            let is_removal = |page| {
                let gone = self.structure.gone.get(page);
                gone.is_some_and(|gone| gone.tree == captured.tree && gone.is_removal)
            };
            if !gone.iter().any(is_removal) {
                continue;
            }
            let Look::Live(live) = self.pages.look(heir) else { continue };
            let is_other_parent = live.level == captured.level + 1 && *has_parent;
            if live.level > captured.level && !is_other_parent && self.is_due(heir) {
                needs.push(heir);
            }
        }
    }

    /// Whether the set has the parent of a page that it has.
    fn has_parent(&self, captured: &Captured<C>) -> bool {
        let page = captured.page.id();
        let is_still = |(parent, _)| self.pages.stated(parent, page).is_some();
        self.set.stated(page).is_some_and(is_still)
            || self.left_of(captured).is_some_and(|left| self.has_parent(left))
    }
}
