//! The pages of a bundle that is being put together.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::dirty::Dirt;
use super::pages::Captured;
use crate::store::word::{ChildWord, Epoch, PageId};

/// A page in the set.
#[derive(Debug)]
pub(super) struct Member<C> {
    pub(super) captured: Captured<C>,
    /// What made it dirty, as far as its image has it.
    pub(super) dirt: Option<Dirt>,
}

#[derive(Debug)]
pub(super) struct Set<C> {
    members: BTreeMap<PageId, Member<C>>,
    /// What its inner pages state: of whom, by whom, which epoch.
    stated: BTreeMap<PageId, (PageId, Epoch)>,
    /// Which of its pages names a new one: the new one's word, by whom.
    named: BTreeMap<u64, PageId>,
    /// What the durable tree will say of pages that their left neighbours name: found out once, and
    /// again when the set is no longer what it was.
    told: RefCell<BTreeMap<PageId, Epoch>>,
    bytes: usize,
}

impl<C> Default for Set<C> {
    fn default() -> Self {
        let (members, stated, named, told) = Default::default();
        Self { members, stated, named, told, bytes: 0 }
    }
}

impl<C> Set<C> {
    pub(super) fn insert(&mut self, page: PageId, member: Member<C>) {
        self.remove(page);
        let captured = &member.captured;
        let named_again = captured.pending.is_some_and(|new| self.told(new.id()).is_some());
        if named_again || !captured.children.is_empty() {
            self.told.get_mut().clear();
        }
        self.bytes += captured.stored_bytes;
        self.stated.extend(captured.children.iter().map(|child| (child.id(), (page, child.epoch()))));
        self.named.extend(captured.pending.map(|new| (new.bits(), page)));
        self.members.insert(page, member);
    }

    pub(super) fn remove(&mut self, page: PageId) -> Option<Member<C>> {
        let member = self.members.remove(&page)?;
        self.told.get_mut().clear();
        self.bytes -= member.captured.stored_bytes;
        for child in &member.captured.children {
            if self.stated.get(&child.id()).is_some_and(|(by, _)| *by == page) {
                self.stated.remove(&child.id());
            }
        }
        if let Some(new) = member.captured.pending
            && self.named.get(&new.bits()) == Some(&page)
        {
            self.named.remove(&new.bits());
        }
        Some(member)
    }

    pub(super) fn get(&self, page: PageId) -> Option<&Captured<C>> {
        self.members.get(&page).map(|member| &member.captured)
    }

    pub(super) fn contains(&self, page: PageId) -> bool {
        self.members.contains_key(&page)
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = PageId> + '_ {
        self.members.keys().copied()
    }

    pub(super) fn into_members(self) -> impl Iterator<Item = (PageId, Member<C>)> {
        self.members.into_iter()
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Which of its inner pages has `page` as a child, and the epoch that it states.
    pub(super) fn stated(&self, page: PageId) -> Option<(PageId, Epoch)> {
        self.stated.get(&page).copied()
    }

    /// What was told of a page, if that still counts.
    pub(super) fn told(&self, page: PageId) -> Option<Epoch> {
        self.told.borrow().get(&page).copied()
    }

    /// More is known than when it was told.
    pub(super) fn forget_told(&mut self) {
        self.told.get_mut().clear();
    }

    pub(super) fn tell(&self, page: PageId, says: Option<Epoch>) {
        self.told.borrow_mut().extend(says.map(|says| (page, says)));
    }

    /// Which of its pages names `new` as what was split from it. The epoch counts: ids are used
    /// again, and a page remembers its last split for long.
    pub(super) fn named(&self, new: ChildWord) -> Option<&Captured<C>> {
        self.get(*self.named.get(&new.bits())?)
    }
}
