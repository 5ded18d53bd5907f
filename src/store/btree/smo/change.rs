//! The steps. Each is a function that makes one CAS on one mapping word; it says what it expects
//! and what others see once it succeeded. If it fails, somebody else changed the page, nothing
//! happened, and the visitor starts again at the root.

use std::ops::Deref;

#[cfg(test)]
use super::defect::Defect;
use super::page::{
    Body, ChildWord, Content, ContentOf, Inner, Leaf, Mapping, Page, PageId, PageOf, Remainder, Split,
};
use crate::store::events::Event;

/// A page that a visitor came to by `child`, and found with that epoch, or, if it is moved, with
/// one more.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::store::btree) struct Place<R> {
    pub(in crate::store::btree) child: ChildWord,
    pub(in crate::store::btree) page: R,
}

impl<R> Place<R> {
    fn live<'a, M: Mapping<Ref = R>>(&'a self) -> &'a ContentOf<M>
    where
        M::Key: 'a,
        R: Deref<Target = PageOf<M>>,
    {
        self.page.content().expect("a visitor stands on pages of the tree only")
    }
}

/// What a new page is to take the place of under its parent: two direct neighbours, or one page
/// that is moved while its neighbours are not. Each with the child word that the parent states.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::store::btree) struct Pack<R> {
    pub(super) left: Place<R>,
    pub(super) right: Option<Place<R>>,
}

impl<R> Pack<R> {
    /// What the new page holds. None if the parent does not have both as neighbours, or if they do
    /// not fit one page.
    pub(super) fn content<M: Mapping<Ref = R>>(&self, parent: &Place<R>) -> Option<ContentOf<M>>
    where
        R: Deref<Target = PageOf<M>>,
    {
        let left = self.left.page.held()?;
        let Some(right) = &self.right else { return Some(left.clone()) };
        let Content::Inner(inner) = parent.live::<M>() else { return None };
        left.joined(inner.between(self.left.child, right.child)?, right.page.held()?)
    }

    pub(super) fn children(&self) -> Packed {
        Packed { left: self.left.child, right: self.right.as_ref().map(|right| right.child) }
    }
}

/// The child words of a [`Pack`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::store::btree) struct Packed {
    pub(super) left: ChildWord,
    pub(super) right: Option<ChildWord>,
}

/// S0. Makes the page of the right half of `at`, which is over its target. None if no id is free.
///
/// Nobody else knows the new page until S1, so it does not change. Without S1 it goes back by
/// [`give_back`].
pub(in crate::store::btree) fn split_create<M: Mapping>(
    mapping: &M,
    at: &Place<M::Ref>,
) -> Option<ChildWord> {
    let content = at.live::<M>();
    mapping.create(at.child.id(), content.from(&content.separator()))
}

/// S1. Turns `at` into its left half, one epoch on, with the split pending.
///
/// Expects that nothing changed since `at` was read. The visitor came with the epoch of `at`, so an
/// earlier change of it is in the parent. From here on, each visitor of `at` or of the new page
/// finds an epoch that is one more than its parent's, and posts the split before anything else; so
/// neither page changes until S2.
pub(in crate::store::btree) fn split_publish<M: Mapping>(
    mapping: &M,
    at: &Place<M::Ref>,
    right: ChildWord,
) -> bool {
    let content = at.live::<M>();
    let separator = content.separator();
    let body = Body::Live(content.below(&separator));
    let pending = Some(Split { separator, right });
    mapping.tell(Event::Split { tree: mapping.tree(), page: at.child.id(), new: right });
    mapping.replace(at.child.id(), &at.page, Page { epoch: at.page.epoch.next(), pending, body })
}

/// S2. Posts the pending split of `changed`, which was found under `child` in `parent`.
///
/// Expects the parent as it was read, with `child`; it need not have room. From here on visitors
/// find both pages, and both may change again.
pub(in crate::store::btree) fn post_split<M: Mapping>(
    mapping: &M,
    parent: &Place<M::Ref>,
    child: ChildWord,
    changed: &M::Ref,
) -> bool {
    let (Content::Inner(inner), Some(split)) = (parent.live::<M>(), &changed.pending) else { return false };
    let Some(inner) = inner.with_split(child, split) else { return false };
    mapping.tell(Event::Posted {
        tree: mapping.tree(),
        parent: parent.child.id(),
        page: ChildWord::new(child.id(), changed.epoch),
        new: split.right,
    });
    replace_parent(mapping, parent, parent.page.with_content(Content::Inner(inner)))
}

/// The one step of a root split, after two of S0: the root becomes the parent of its halves.
///
/// Expects the root as it was read. It keeps its id and its epoch, and its range is the same.
pub(in crate::store::btree) fn root_split<M: Mapping>(
    mapping: &M,
    root: &Place<M::Ref>,
    left: ChildWord,
    right: ChildWord,
) -> bool {
    let inner = M::Inner::pair(left, root.live::<M>().separator(), right);
    let are_leaves = matches!(root.live::<M>(), Content::Leaf(_));
    mapping.tell(Event::RootSplit { tree: mapping.tree(), root: root.child.id(), left, right, are_leaves });
    mapping.replace(root.child.id(), &root.page, root.page.with_content(Content::Inner(inner)))
}

/// S0 of a root split: makes the page of the root's left half. The right one is [`split_create`].
pub(in crate::store::btree) fn root_split_create_left<M: Mapping>(
    mapping: &M,
    root: &Place<M::Ref>,
) -> Option<ChildWord> {
    let content = root.live::<M>();
    mapping.create(root.child.id(), content.below(&content.separator()))
}

/// R1. Marks the empty leaf `at`, which is not the root, as removed, one epoch on.
///
/// Expects the leaf as it was read, so still empty. From here on nobody writes to it: each visitor
/// finds an epoch that is one more than its parent's, and does R2 before anything else.
pub(in crate::store::btree) fn remove<M: Mapping>(mapping: &M, at: &Place<M::Ref>) -> bool {
    let removed = Page { epoch: at.page.epoch.next(), pending: None, body: Body::Removed };
    #[cfg(test)]
    if mapping.defect() == Some(Defect::RemoveBlind) {
        return mapping.replace(at.child.id(), &mapping.load(at.child.id()), removed);
    }
    mapping.replace(at.child.id(), &at.page, removed)
}

/// R2. Takes the removed `child` out of `parent`: the range goes to a neighbour there. A parent
/// that has no other child is removed in the same step (its own R1), or becomes an empty leaf if it
/// is the root.
///
/// Expects the parent as it was read, with `child`. The neighbour's own word does not change: its
/// range only grows, which harms nobody that still believes in the smaller one.
pub(in crate::store::btree) fn post_removal<M: Mapping>(
    mapping: &M,
    parent: &Place<M::Ref>,
    child: ChildWord,
) -> bool {
    let Content::Inner(inner) = parent.live::<M>() else { return false };
    let new = match inner.without(child) {
        None => return false,
        Some(Remainder::Some(inner)) => parent.page.with_content(Content::Inner(inner)),
        Some(Remainder::Nothing) if parent.child.id() == mapping.root().id() => {
            parent.page.with_content(Content::Leaf(M::Leaf::empty()))
        }
        Some(Remainder::Nothing) => {
            Page { epoch: parent.page.epoch.next(), pending: None, body: Body::Removed }
        }
    };
    let gone = ChildWord::new(child.id(), child.epoch().next());
    mapping.tell(Event::Removed { tree: mapping.tree(), parent: parent.child.id(), gone });
    replace_parent(mapping, parent, new)
}

/// C1, M1 and M2. Freezes the root's only child, or one of two pages that are packed, one epoch on.
///
/// Expects the page as it was read. From here on nobody changes it. (So nobody changes a root whose
/// only child it is, but by C2.)
pub(in crate::store::btree) fn freeze<M: Mapping>(mapping: &M, at: &Place<M::Ref>) -> bool {
    let body = Body::Moved(at.live::<M>().clone());
    mapping.replace(at.child.id(), &at.page, Page { epoch: at.page.epoch.next(), pending: None, body })
}

/// C2. Gives the frozen content of its only child `child` to the root, which keeps its id and its
/// epoch.
///
/// Expects the root as it was read, with `child` alone.
pub(in crate::store::btree) fn collapse<M: Mapping>(
    mapping: &M,
    root: &Place<M::Ref>,
    child: ChildWord,
    frozen: &M::Ref,
) -> bool {
    let Content::Inner(inner) = root.live::<M>() else { return false };
    let Body::Moved(content) = &frozen.body else { return false };
    if inner.only_child() != Some(child) {
        return false;
    }
    let gone = ChildWord::new(child.id(), frozen.epoch);
    mapping.tell(Event::Collapsed { tree: mapping.tree(), root: root.child.id(), gone });
    mapping.replace(root.child.id(), &root.page, root.page.with_content(content.clone()))
}

/// M0 and M3. Makes the page that is to take the place of `pack`. None if no id is free.
///
/// Nobody else knows the new page until M4, so it does not change. Without M4 it goes back by
/// [`give_back`]. Its content is right if all of `pack` is moved with the content that it has here.
pub(in crate::store::btree) fn pack_create<M: Mapping>(
    mapping: &M,
    parent: &Place<M::Ref>,
    pack: &Pack<M::Ref>,
) -> Option<ChildWord> {
    mapping.create(pack.left.child.id(), pack.content::<M>(parent)?)
}

/// M4. Puts `new` in the place of `packed` under `parent`.
///
/// Expects the parent as it was read, with them; all of them are moved, and `new` has what they
/// hold. While the parent states them nobody releases them, and what is moved does not change: so
/// they still are as they were read.
pub(in crate::store::btree) fn post_pack<M: Mapping>(
    mapping: &M,
    parent: &Place<M::Ref>,
    packed: Packed,
    new: ChildWord,
) -> bool {
    let Content::Inner(inner) = parent.live::<M>() else { return false };
    let Some(inner) = inner.packed(packed.left, packed.right, new) else { return false };
    let moved = |child: ChildWord| ChildWord::new(child.id(), child.epoch().next());
    mapping.tell(Event::Packed {
        tree: mapping.tree(),
        parent: parent.child.id(),
        gone: moved(packed.left),
        with: packed.right.map(moved),
        new,
    });
    replace_parent(mapping, parent, parent.page.with_content(Content::Inner(inner)))
}

/// M5: R3 of what was packed. `child` is what its parent stated.
pub(in crate::store::btree) fn release_packed<M: Mapping>(mapping: &M, child: ChildWord) -> bool {
    let page = mapping.load(child.id());
    matches!(page.body, Body::Moved(_))
        && page.epoch == child.epoch().next()
        && release(mapping, child.id(), &page)
}

/// R3 and C3. Makes the id of a page that was removed or moved free. Whoever did R2 or C2 does it,
/// once no word on the namespace can mean the page ("What a crash leaves").
///
/// The free word's epoch is one more than that of the page, so two more than any parent ever
/// stated: a child word that somebody remembers never fits a page that takes the id. (One more than
/// was stated would do for visitors; so an id and an epoch never mean two pages.)
pub(in crate::store::btree) fn release<M: Mapping>(mapping: &M, id: PageId, gone: &M::Ref) -> bool {
    debug_assert!(matches!(gone.body, Body::Removed | Body::Moved(_)));
    #[cfg(test)]
    if mapping.defect() == Some(Defect::FreeIdEarly) {
        return mapping.replace(id, gone, Page::free(gone.epoch.before()));
    }
    mapping.replace(id, gone, Page::free(gone.epoch.next()))
}

/// Takes back a page from S0 that was not published. Nobody heard of its epoch, so that stays.
pub(in crate::store::btree) fn give_back<M: Mapping>(mapping: &M, unused: ChildWord) -> bool {
    let page = mapping.load(unused.id());
    mapping.replace(unused.id(), &page, Page::free(page.epoch))
}

/// Drops the pending split of `at`, which is in the parent: once the parent is durable.
pub(in crate::store::btree) fn clear_pending<M: Mapping>(mapping: &M, at: &Place<M::Ref>) -> bool {
    mapping.replace(at.child.id(), &at.page, Page::live(at.page.epoch, at.live::<M>().clone()))
}

/// The CAS on a parent's word, in S2, R2 and M4.
fn replace_parent<M: Mapping>(mapping: &M, parent: &Place<M::Ref>, new: PageOf<M>) -> bool {
    #[cfg(test)]
    if mapping.defect() == Some(Defect::PostBlind) {
        return mapping.replace(parent.child.id(), &mapping.load(parent.child.id()), new);
    }
    mapping.replace(parent.child.id(), &parent.page, new)
}
