//! What a visitor does to pack two pages into one, and about pages that it finds moved.

use std::ops::Deref;

use super::change::{Pack, Place, freeze, pack_create, post_pack, release_packed};
#[cfg(test)]
use super::defect::Defect;
use super::page::{Body, ChildWord, Content, Inner, Mapping, PageOf};
use super::visit::{Next, Step, Verdict, Visitor, judge};

impl<K: Clone + Ord, R: Clone> Visitor<K, R> {
    /// The next step after a page was found whose last change is not in its parent, where the
    /// visitor is.
    pub(super) fn go_post<M>(&mut self, mapping: &M, child: ChildWord, page: R) -> Step
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        let parent = self.arrived();
        let Some(Content::Inner(inner)) = parent.page.content() else { return self.again(mapping) };
        let is_collapse = parent.child == mapping.root() && inner.only_child().is_some();
        if !matches!(page.body, Body::Moved(_)) || is_collapse {
            return self.go(Next::Post(child, page));
        }
        let neighbours = inner.neighbours(child);
        self.look_beside(Place { child, page }, neighbours)
    }

    /// Looks at the first of these neighbours of the page where the visitor is.
    pub(super) fn look_at(&self, neighbours: [Option<ChildWord>; 2]) -> Option<Next<R>> {
        let [first, second] = neighbours;
        let (next, other) = first.map_or((second, None), |first| (Some(first), second));
        next.map(|next| Next::LookAt(next, other))
    }

    /// The same of a child that is moved. If there is none the child is replaced alone.
    fn look_beside(&mut self, moved: Place<R>, neighbours: [Option<ChildWord>; 2]) -> Step {
        let [first, second] = neighbours;
        let (next, other) = first.map_or((second, None), |first| (Some(first), second));
        self.go(match next {
            Some(next) => Next::LookBeside(moved, next, other),
            None => Next::ReplaceCreate(Pack { left: moved, right: None }),
        })
    }

    /// The pack of a page and a neighbour under `parent`, if both fit one page.
    fn pack_of<M>(&self, parent: &Place<R>, one: &Place<R>, other: &Place<R>) -> Option<Pack<R>>
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        let Some(Content::Inner(inner)) = parent.page.content() else { return None };
        let is_left = inner.between(one.child, other.child).is_some();
        let (left, right) = if is_left { (one, other) } else { (other, one) };
        let pack = Pack { left: left.clone(), right: Some(right.clone()) };
        pack.content::<M>(parent).is_some().then_some(pack)
    }

    /// A step of those from M0 to M5.
    pub(super) fn pack_step<M>(&mut self, mapping: &M) -> Step
    where
        M: Mapping<Key = K, Ref = R>,
        R: Deref<Target = PageOf<M>>,
    {
        match self.next.clone() {
            Next::LookAt(child, other) => {
                let neighbour = Place { child, page: mapping.peek(child.id()) };
                let parent = self.parent.clone().expect("the root has no neighbours");
                let is_live = judge(child.epoch(), &neighbour.page) == Verdict::Enter;
                let pack = self.pack_of::<M>(&parent, self.arrived(), &neighbour).filter(|_| is_live);
                match (pack, other) {
                    (Some(pack), _) => self.go(Next::PackCreate(pack)),
                    (None, Some(other)) => self.go(Next::LookAt(other, None)),
                    (None, None) => self.decline(),
                }
            }
            Next::PackCreate(pack) => {
                let parent = self.parent.as_ref().expect("the root has no neighbours");
                match pack_create(mapping, parent, &pack) {
                    Some(new) => self.go(Next::FreezeHere(pack, new)),
                    None => self.as_it_is(mapping),
                }
            }
            Next::FreezeHere(pack, new) => {
                if freeze(mapping, self.arrived()) {
                    return self.go(Next::FreezeNeighbour(pack, new));
                }
                self.go(Next::GiveBack(new, None))
            }
            Next::FreezeNeighbour(pack, new) => {
                let other = pack.right.as_ref().filter(|right| right.child != self.arrived().child);
                let is_frozen = freeze(mapping, other.unwrap_or(&pack.left));
                #[cfg(test)]
                let is_frozen = is_frozen || mapping.defect() == Some(Defect::PackHalfFrozen);
                if is_frozen {
                    self.here = self.parent.take();
                    return self.go(Next::PostPack(pack.children(), new));
                }
                self.go(Next::GiveBack(new, None))
            }
            Next::LookBeside(moved, child, other) => {
                let neighbour = Place { child, page: mapping.peek(child.id()) };
                let is_moved = matches!(neighbour.page.body, Body::Moved(_))
                    && judge(child.epoch(), &neighbour.page) == Verdict::Post;
                #[cfg(test)]
                let is_moved = is_moved || mapping.defect() == Some(Defect::PackUnmoved);
                match self.pack_of::<M>(self.arrived(), &moved, &neighbour).filter(|_| is_moved) {
                    Some(pack) => self.go(Next::ReplaceCreate(pack)),
                    None => self.look_beside(moved, [other, None]),
                }
            }
            Next::ReplaceCreate(pack) => match pack_create(mapping, self.arrived(), &pack) {
                Some(new) => self.go(Next::PostPack(pack.children(), new)),
                // Whoever has begun it has an id.
                None => self.again(mapping),
            },
            Next::PostPack(packed, new) => {
                #[cfg(test)]
                if mapping.defect() == Some(Defect::PackFreesEarly) {
                    release_packed(mapping, packed.left);
                }
                if post_pack(mapping, self.arrived(), packed, new) {
                    return self.go(Next::ReleasePacked(packed.left, packed.right));
                }
                self.go(Next::GiveBack(new, None))
            }
            Next::ReleasePacked(child, other) => {
                release_packed(mapping, child);
                match other {
                    Some(other) => self.go(Next::ReleasePacked(other, None)),
                    None => self.again(mapping),
                }
            }
            _ => unreachable!("it is no step of packing"),
        }
    }

    /// The page where the visitor is stays as it is: it is looked at once more, as time has passed.
    fn decline(&mut self) -> Step {
        let child = self.arrived().child;
        self.declined = Some(child);
        self.here = self.parent.take();
        self.go(Next::Load(child))
    }
}
