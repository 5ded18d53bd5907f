//! What the structure changes know of a page, and what they ask of its content and of the mapping.

use std::ops::Deref;

#[cfg(test)]
use super::defect::Defect;
use crate::store::events::Event;
pub(in crate::store::btree) use crate::store::word::{ChildWord, Epoch, PageId};

/// One immutable state of a page: what a mapping word stands for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::store::btree) struct Page<L, I, K> {
    pub(in crate::store::btree) epoch: Epoch,
    /// The split that made this epoch. While the parent states the epoch before, it waits to be
    /// posted there; afterwards only the namespace needs it (see "What a crash leaves").
    pub(in crate::store::btree) pending: Option<Split<K>>,
    pub(in crate::store::btree) body: Body<L, I>,
}

/// The keys from `separator` on went to the new page `right`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::store::btree) struct Split<K> {
    pub(in crate::store::btree) separator: K,
    pub(in crate::store::btree) right: ChildWord,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::store::btree) enum Body<L, I> {
    /// No page: the id may be given out, with the epoch that stands here.
    Free,
    /// A page of the tree.
    Live(Content<L, I>),
    /// Was empty, and takes no keys any more: its range goes to a neighbour.
    Removed,
    /// Takes no changes any more. The content of the root's only child becomes the root's; that of
    /// any other page becomes a new page's, alone or with that of a neighbour that is moved as
    /// well.
    Moved(Content<L, I>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::store::btree) enum Content<L, I> {
    Leaf(L),
    Inner(I),
}

/// What the structure changes ask of a leaf's content: all its entries as they are once its area is
/// frozen.
pub(in crate::store::btree) trait Leaf: Clone {
    type Key: Clone + Ord;

    fn empty() -> Self;

    /// Whether nothing at all is in it: no key, and no tombstone that a run or a snapshot needs.
    fn is_empty(&self) -> bool;

    /// Whether it is larger than its target and has two keys or more.
    fn is_over(&self) -> bool;

    /// A key that divides it: some of its keys are below, and the others are not. Only for a leaf
    /// that [is over](Self::is_over).
    fn separator(&self) -> Self::Key;

    fn below(&self, separator: &Self::Key) -> Self;

    fn from(&self, separator: &Self::Key) -> Self;

    /// Whether it is so small that it is to be packed with a neighbour, if [`joined`](Self::joined)
    /// allows it. A guess while it may change.
    fn is_small(&self) -> bool;

    /// This and the leaf behind it in one, if that leaves it some room below its target. What both
    /// hold is final from then on: they take no writes any more, but by a CAS of their words.
    fn joined(&self, right: &Self) -> Option<Self>;
}

/// What the structure changes ask of an inner page's content. Child *i* holds the keys *k* with
/// separator *i* − 1 ≤ *k* < separator *i*; there is one child at least.
pub(in crate::store::btree) trait Inner: Clone {
    type Key: Clone + Ord;

    /// Two children, as the root has them after it split.
    fn pair(left: ChildWord, separator: Self::Key, right: ChildWord) -> Self;

    /// The child that holds `target`, and the separators beside it.
    fn route(&self, target: &Target<Self::Key>) -> Route<Self::Key>;

    /// The child, if there is only one.
    fn only_child(&self) -> Option<ChildWord>;

    /// Whether it is larger than its target and has four children or more, so that each half has
    /// two.
    fn is_over(&self) -> bool;

    /// Whether it is [over](Self::is_over) by so much that it takes no further child before it is
    /// split.
    fn is_full(&self) -> bool;

    /// A separator of the page that divides it. Only for a page that [is over](Self::is_over).
    fn separator(&self) -> Self::Key;

    /// The children below `separator`, which is one of the page's.
    fn below(&self, separator: &Self::Key) -> Self;

    /// The children from `separator` on, which is one of the page's.
    fn from(&self, separator: &Self::Key) -> Self;

    /// With the child's split posted: its epoch one more, and the new page behind it. None if the
    /// page does not have `child` with that epoch.
    fn with_split(&self, child: ChildWord, split: &Split<Self::Key>) -> Option<Self>;

    /// Without `child`, whose range goes to its left neighbour here, or to its right neighbour if
    /// it is the first. None if the page does not have `child` with that epoch.
    fn without(&self, child: ChildWord) -> Option<Remainder<Self>>;

    /// Whether it is so small that it is to be packed with a neighbour.
    fn is_small(&self) -> bool;

    /// This and the page behind `separator` in one, if that leaves it some room below its target.
    fn joined(&self, separator: Self::Key, right: &Self) -> Option<Self>;

    /// The neighbours of `child` here, the right one first.
    fn neighbours(&self, child: ChildWord) -> [Option<ChildWord>; 2];

    /// The separator between two children that are direct neighbours. None if they are not.
    fn between(&self, left: ChildWord, right: ChildWord) -> Option<Self::Key>;

    /// With `new` in the place of `left` and, if it is there, `right`, which is its direct
    /// neighbour. None if the page does not have them, with these epochs and in this order.
    fn packed(&self, left: ChildWord, right: Option<ChildWord>, new: ChildWord) -> Option<Self>;
}

/// What is left of an inner page without one child.
#[derive(Debug)]
pub(in crate::store::btree) enum Remainder<I> {
    Some(I),
    /// It was the only child.
    Nothing,
}

/// Where a descent goes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::store) enum Target<K> {
    /// To the leaf of this key.
    At(K),
    /// To the leaf of the largest keys below this one, or to the last leaf.
    Below(Option<K>),
}

#[derive(Debug)]
pub(in crate::store::btree) struct Route<K> {
    pub(in crate::store::btree) child: ChildWord,
    /// The separator below the child, if it is not the first.
    pub(in crate::store::btree) lower: Option<K>,
    /// The separator above the child, if it is not the last.
    pub(in crate::store::btree) upper: Option<K>,
}

/// The mapping under a pin: what is loaded from it stays readable while it is borrowed.
pub(in crate::store::btree) trait Mapping {
    type Key: Clone + Ord;
    type Leaf: Leaf<Key = Self::Key>;
    type Inner: Inner<Key = Self::Key>;
    /// A page as one load saw it. It also is what a CAS expects: equal only for the same word.
    type Ref: Clone + Deref<Target = PageOf<Self>>;

    /// The root's id and epoch, which never change.
    fn root(&self) -> ChildWord;

    /// One load (Acquire) of the word of `id`.
    fn load(&self, id: PageId) -> Self::Ref;

    /// The same for a page that the visitor can do without: one that is not in memory reads as
    /// free.
    fn peek(&self, id: PageId) -> Self::Ref {
        self.load(id)
    }

    /// One CAS (AcqRel) of the word of `id` from `current` to `new`; whether it succeeded.
    fn replace(&self, id: PageId, current: &Self::Ref, new: PageOf<Self>) -> bool;

    /// One CAS (AcqRel) of the word of a free id, if possible one near that of `neighbour`, to a
    /// page with this content, no pending change, and the epoch that the free word states. None if
    /// no id is free.
    fn create(&self, neighbour: PageId, content: ContentOf<Self>) -> Option<ChildWord>;

    /// The number of the tree, for [`tell`](Self::tell).
    fn tree(&self) -> u32 {
        0
    }

    /// Called before the CAS of a step that the keeper has to know of.
    fn tell(&self, event: Event) {
        let _ = event;
    }

    /// What is to be done wrong on purpose.
    #[cfg(test)]
    fn defect(&self) -> Option<Defect> {
        None
    }
}

pub(in crate::store::btree) type PageOf<M> =
    Page<<M as Mapping>::Leaf, <M as Mapping>::Inner, <M as Mapping>::Key>;
pub(in crate::store::btree) type ContentOf<M> = Content<<M as Mapping>::Leaf, <M as Mapping>::Inner>;

impl<L, I, K> Page<L, I, K> {
    /// A page of the tree without a pending change.
    pub(in crate::store::btree) fn live(epoch: Epoch, content: Content<L, I>) -> Self {
        Self { epoch, pending: None, body: Body::Live(content) }
    }

    /// An id that a page with `epoch` may take.
    pub(in crate::store::btree) fn free(epoch: Epoch) -> Self {
        Self { epoch, pending: None, body: Body::Free }
    }

    /// The content of a page of the tree.
    pub(in crate::store::btree) fn content(&self) -> Option<&Content<L, I>> {
        match &self.body {
            Body::Live(content) => Some(content),
            Body::Free | Body::Removed | Body::Moved(_) => None,
        }
    }

    /// The content of a page of the tree, or of one that is moved.
    pub(in crate::store::btree) fn held(&self) -> Option<&Content<L, I>> {
        match &self.body {
            Body::Live(content) | Body::Moved(content) => Some(content),
            Body::Free | Body::Removed => None,
        }
    }
}

impl<L: Clone, I: Clone, K: Clone> Page<L, I, K> {
    /// The same page, of the same range, with other content.
    pub(in crate::store::btree) fn with_content(&self, content: Content<L, I>) -> Self {
        Self { epoch: self.epoch, pending: self.pending.clone(), body: Body::Live(content) }
    }
}

impl<L: Leaf, I: Inner<Key = L::Key>> Content<L, I> {
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.is_over(),
            Self::Inner(inner) => inner.is_over(),
        }
    }

    pub(super) fn is_small(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.is_small(),
            Self::Inner(inner) => inner.is_small(),
        }
    }

    /// This and the content behind `separator` in one, if they fit one page.
    pub(super) fn joined(&self, separator: L::Key, right: &Self) -> Option<Self> {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => left.joined(right).map(Self::Leaf),
            (Self::Inner(left), Self::Inner(right)) => left.joined(separator, right).map(Self::Inner),
            _ => None,
        }
    }

    pub(super) fn separator(&self) -> L::Key {
        match self {
            Self::Leaf(leaf) => leaf.separator(),
            Self::Inner(inner) => inner.separator(),
        }
    }

    pub(super) fn below(&self, separator: &L::Key) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(leaf.below(separator)),
            Self::Inner(inner) => Self::Inner(inner.below(separator)),
        }
    }

    pub(super) fn from(&self, separator: &L::Key) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(leaf.from(separator)),
            Self::Inner(inner) => Self::Inner(inner.from(separator)),
        }
    }
}
