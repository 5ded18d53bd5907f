//! A visitor: its way down, what it does about the marks that it meets, and what it repairs.
//!
//! It goes by [steps](Visitor::step) of one access to the mapping each, between which it may stop
//! for any time or for ever. It remembers the page where it is and that page's parent, nothing
//! else: whatever goes wrong, it starts again at the root.

use std::ops::Deref;

use super::change::{
    Pack, Packed, Place, collapse, freeze, give_back, post_removal, post_split, release, remove, root_split,
    root_split_create_left, split_create, split_publish,
};
#[cfg(test)]
use super::defect::Defect;
use super::page::{Body, ChildWord, Content, Epoch, Inner, Leaf, Mapping, Page, PageId, PageOf, Target};

/// What a visitor does on its way besides finishing the changes that it meets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::store::btree) enum Care {
    /// Nothing: for lookups and scans.
    None,
    /// It splits what is over its target and collapses a root with one child: for writers.
    Shape,
    /// It also removes the leaf at its target if that is empty: after a write emptied it.
    Empty,
    /// It also packs pages on its way that are small: after a write left little in the leaf, or a
    /// leaf went.
    Small,
}

/// What a visitor that expects `child` does about the page that it finds: the table of visitors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store::btree) enum Verdict {
    /// It is the page, and at least the range that the parent said.
    Enter,
    /// Its last change is not in the parent: it is posted there first.
    Post,
    /// The parent that was read is old: again from the root.
    Again,
}

/// The table of visitors: `expected` is the epoch that the parent stated.
pub(in crate::store::btree) fn judge<L, I, K>(expected: Epoch, page: &Page<L, I, K>) -> Verdict {
    let (same, one_more) = (page.epoch == expected, page.epoch == expected.next());
    match &page.body {
        Body::Live(_) if same => Verdict::Enter,
        Body::Live(_) if one_more && page.pending.is_some() => Verdict::Post,
        Body::Removed | Body::Moved(_) if one_more => Verdict::Post,
        _ => Verdict::Again,
    }
}

/// What a step led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store::btree) enum Step {
    /// One access of several.
    OnTheWay,
    /// The next step starts at the root: a change was finished, or another's got in between.
    Again,
    /// [`Visitor::arrived`] is the leaf of the target, as it was in the moment of this step.
    Arrived,
}

/// A way from the root to the leaf of a target.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::store::btree) struct Visitor<K, R> {
    target: Target<K>,
    care: Care,
    pub(super) parent: Option<Place<R>>,
    pub(super) here: Option<Place<R>>,
    lower: Option<K>,
    upper: Option<K>,
    /// A page that is small and has no neighbour to be packed with.
    pub(super) declined: Option<ChildWord>,
    pub(super) next: Next<R>,
}

/// The next access of a visitor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Next<R> {
    Load(ChildWord),
    /// S2, R2 or C2 for this child of `here`.
    Post(ChildWord, R),
    /// R3 or C3.
    Release(PageId, R),
    SplitCreate,
    SplitPublish(ChildWord),
    RootCreateLeft,
    RootCreateRight(ChildWord),
    RootSplit(ChildWord, ChildWord),
    GiveBack(ChildWord, Option<ChildWord>),
    Remove,
    Freeze,
    /// Looks whether the page where the visitor is and this neighbour fit one page; then at the
    /// other one.
    LookAt(ChildWord, Option<ChildWord>),
    /// M0.
    PackCreate(Pack<R>),
    /// M1 and M2, for a new page.
    FreezeHere(Pack<R>, ChildWord),
    FreezeNeighbour(Pack<R>, ChildWord),
    /// Of a child of `here` that is moved: looks whether this neighbour is, too; then the other.
    LookBeside(Place<R>, ChildWord, Option<ChildWord>),
    /// M3.
    ReplaceCreate(Pack<R>),
    /// M4, under `here`.
    PostPack(Packed, ChildWord),
    /// M5, of this one and then of the other.
    ReleasePacked(ChildWord, Option<ChildWord>),
    Arrived,
}

impl<K: Clone + Ord, R: Clone> Visitor<K, R> {
    pub(in crate::store::btree) fn new<M>(mapping: &M, target: Target<K>, care: Care) -> Self
    where
        M: Mapping<Key = K, Ref = R>,
    {
        let next = Next::Load(mapping.root());
        Self { target, care, parent: None, here: None, lower: None, upper: None, declined: None, next }
    }

    /// The leaf of the target, with its id; its range is at least [lower](Self::lower) to
    /// [upper](Self::upper). Only after [`Step::Arrived`].
    pub(in crate::store::btree) fn arrived(&self) -> &Place<R> {
        self.here.as_ref().expect("a visitor that has arrived is somewhere")
    }

    /// The smallest key of the target's range, if there is one: where a scan backwards goes on.
    pub(in crate::store::btree) fn lower(&self) -> Option<&K> {
        self.lower.as_ref()
    }

    /// The first key behind the target's range, if there is one: where a scan forwards goes on.
    pub(in crate::store::btree) fn upper(&self) -> Option<&K> {
        self.upper.as_ref()
    }

    /// Whether `key` is in the range that the visitor's parents said. The leaf may have more by
    /// now: keys from the range of a neighbour that was removed.
    pub(in crate::store::btree) fn covers(&self, key: &K) -> bool {
        self.lower.as_ref().is_none_or(|lower| lower <= key)
            && self.upper.as_ref().is_none_or(|upper| key < upper)
    }

    /// Whether a scan takes `key` from this leaf: it is in the range, and not on the side of the
    /// target that the scan comes from.
    pub(in crate::store::btree) fn is_ahead(&self, key: &K) -> bool {
        let on_the_way = match &self.target {
            Target::At(from) => from <= key,
            Target::Below(below) => below.as_ref().is_none_or(|below| key < below),
        };
        on_the_way && self.covers(key)
    }

    /// Pages that this visitor made and nobody else knows.
    pub(super) fn private(&self) -> [Option<ChildWord>; 2] {
        match &self.next {
            Next::SplitPublish(page) | Next::RootCreateRight(page) => [Some(*page), None],
            Next::RootSplit(left, right) => [Some(*left), Some(*right)],
            Next::GiveBack(first, second) => [Some(*first), *second],
            Next::FreezeHere(_, new) | Next::FreezeNeighbour(_, new) | Next::PostPack(_, new) => {
                [Some(*new), None]
            }
            _ => [None, None],
        }
    }

    /// Ends the visit where it is: what it made and did not publish is given back.
    pub(in crate::store::btree) fn give_up<M>(self, mapping: &M)
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        for unused in self.private().into_iter().flatten() {
            give_back(mapping, unused);
        }
    }

    /// The page that the next step loads.
    #[cfg(test)]
    pub(super) fn heading(&self) -> Option<ChildWord> {
        match self.next {
            Next::Load(child) => Some(child),
            _ => None,
        }
    }

    /// Goes back to the root.
    pub(in crate::store::btree) fn restart<M>(&mut self, mapping: &M)
    where
        M: Mapping<Key = K, Ref = R>,
    {
        (self.parent, self.here, self.lower, self.upper) = (None, None, None, None);
        self.next = Next::Load(mapping.root());
    }

    /// One access to the mapping: a load, or a CAS.
    pub(in crate::store::btree) fn step<M>(&mut self, mapping: &M) -> Step
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        match self.next.clone() {
            Next::Arrived => Step::Arrived,
            Next::Load(child) => {
                let page = mapping.load(child.id());
                let verdict = judge(child.epoch(), &page);
                #[cfg(test)]
                let verdict = self.misjudge(mapping, child, &page).unwrap_or(verdict);
                match verdict {
                    Verdict::Enter => self.enter(mapping, Place { child, page }),
                    Verdict::Post => self.go_post(mapping, child, page),
                    Verdict::Again => self.again(mapping),
                }
            }
            Next::Post(child, page) => {
                if let Some(split) = self.split_first(mapping, &page) {
                    return self.go(split);
                }
                let gone = page.content().is_none();
                if self.post(mapping, child, &page) && gone {
                    return self.go(Next::Release(child.id(), page));
                }
                self.again(mapping)
            }
            Next::Release(id, page) => {
                release(mapping, id, &page);
                self.again(mapping)
            }
            Next::SplitCreate => match split_create(mapping, self.arrived()) {
                Some(right) => self.go(Next::SplitPublish(right)),
                None => self.as_it_is(mapping),
            },
            Next::SplitPublish(right) => {
                if split_publish(mapping, self.arrived(), right) {
                    return self.again(mapping);
                }
                self.go(Next::GiveBack(right, None))
            }
            Next::RootCreateLeft => match root_split_create_left(mapping, self.arrived()) {
                Some(left) => self.go(Next::RootCreateRight(left)),
                None => self.as_it_is(mapping),
            },
            Next::RootCreateRight(left) => match split_create(mapping, self.arrived()) {
                Some(right) => self.go(Next::RootSplit(left, right)),
                None => {
                    self.care = Care::None;
                    self.go(Next::GiveBack(left, None))
                }
            },
            Next::RootSplit(left, right) => {
                if root_split(mapping, self.arrived(), left, right) {
                    return self.again(mapping);
                }
                self.go(Next::GiveBack(left, Some(right)))
            }
            Next::GiveBack(unused, other) => {
                give_back(mapping, unused);
                match other {
                    Some(other) => self.go(Next::GiveBack(other, None)),
                    None => self.again(mapping),
                }
            }
            Next::Remove => {
                remove(mapping, self.arrived());
                self.again(mapping)
            }
            Next::Freeze => {
                #[cfg(test)]
                if mapping.defect() == Some(Defect::CollapseUnfrozen) {
                    super::defect::collapse_unfrozen(mapping, self.parent.as_ref(), self.arrived());
                    return self.again(mapping);
                }
                freeze(mapping, self.arrived());
                self.again(mapping)
            }
            Next::LookAt(..)
            | Next::PackCreate(_)
            | Next::FreezeHere(..)
            | Next::FreezeNeighbour(..)
            | Next::LookBeside(..)
            | Next::ReplaceCreate(_)
            | Next::PostPack(..)
            | Next::ReleasePacked(..) => self.pack_step(mapping),
        }
    }

    pub(super) fn go(&mut self, next: Next<R>) -> Step {
        self.next = next;
        Step::OnTheWay
    }

    pub(super) fn again<M: Mapping<Key = K, Ref = R>>(&mut self, mapping: &M) -> Step {
        self.restart(mapping);
        Step::Again
    }

    /// There is no id for a page: this visitor repairs nothing.
    pub(super) fn as_it_is<M: Mapping<Key = K, Ref = R>>(&mut self, mapping: &M) -> Step {
        self.care = Care::None;
        self.again(mapping)
    }

    /// Comes to a page of the tree: repairs it, goes on to a child, or has arrived.
    fn enter<M>(&mut self, mapping: &M, place: Place<R>) -> Step
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        self.parent = self.here.replace(place);
        let next = match self.care {
            Care::None => None,
            Care::Shape | Care::Empty | Care::Small => self.repair(mapping),
        };
        match next {
            Some(next) => self.go(next),
            None => self.pass(),
        }
    }

    /// What is to be repaired here.
    fn repair<M>(&self, mapping: &M) -> Option<Next<R>>
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        let content = self.arrived().page.content()?;
        let Some(parent) = &self.parent else {
            return content.is_over().then_some(Next::RootCreateLeft);
        };
        if content.is_over() {
            return Some(Next::SplitCreate);
        }
        if parent.child == mapping.root()
            && matches!(parent.page.content(), Some(Content::Inner(root)) if root.only_child().is_some())
        {
            return Some(Next::Freeze);
        }
        let empty = matches!(content, Content::Leaf(leaf) if leaf.is_empty());
        if empty && self.care != Care::Shape {
            return Some(Next::Remove);
        }
        let (here, Some(Content::Inner(inner))) = (self.arrived().child, parent.page.content()) else {
            return None;
        };
        let is_to_be_packed = self.care == Care::Small && self.declined != Some(here) && content.is_small();
        self.look_at(inner.neighbours(here)).filter(|_| is_to_be_packed)
    }

    /// Goes on to a child, or has arrived.
    fn pass<L, I>(&mut self) -> Step
    where
        I: Inner<Key = K>,
        R: Deref<Target = Page<L, I, K>>,
    {
        let page = self.arrived().page.clone();
        let Some(Content::Inner(inner)) = page.content() else {
            self.next = Next::Arrived;
            return Step::Arrived;
        };
        let route = inner.route(&self.target);
        self.lower = route.lower.or(self.lower.take());
        self.upper = route.upper.or(self.upper.take());
        self.go(Next::Load(route.child))
    }

    /// What a defect makes of a page.
    #[cfg(test)]
    fn misjudge<M>(&self, mapping: &M, child: ChildWord, page: &R) -> Option<Verdict>
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        let live = page.content().is_some();
        match (mapping.defect()?, &page.pending, &self.target) {
            (Defect::SkipEpochCheck, _, _) if live => Some(Verdict::Enter),
            (Defect::SecondUnposted, Some(split), Target::At(key))
                if live && *key < split.separator && page.epoch == child.epoch().next() =>
            {
                Some(Verdict::Enter)
            }
            _ => None,
        }
    }

    /// How to split the page where the visitor is, if it has no room for what is to be posted. Its
    /// own split is posted first then, by the next descent.
    fn split_first<M>(&self, mapping: &M, changed: &R) -> Option<Next<R>>
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        let is_split = matches!(changed.body, Body::Live(_));
        let is_full = matches!(self.arrived().page.content(), Some(Content::Inner(inner)) if inner.is_full());
        let is_root = self.arrived().child == mapping.root();
        let next = if is_root { Next::RootCreateLeft } else { Next::SplitCreate };
        (is_split && is_full).then_some(next)
    }

    /// S2, R2 or C2 on the page where the visitor is.
    fn post<M>(&self, mapping: &M, child: ChildWord, changed: &R) -> bool
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        let parent = self.arrived();
        #[cfg(test)]
        if mapping.defect() == Some(Defect::MergeHalf) && matches!(changed.body, Body::Removed) {
            return true;
        }
        match &changed.body {
            Body::Live(_) => post_split(mapping, parent, child, changed),
            Body::Removed => post_removal(mapping, parent, child),
            Body::Moved(_) => collapse(mapping, parent, child, changed),
            Body::Free => false,
        }
    }
}
