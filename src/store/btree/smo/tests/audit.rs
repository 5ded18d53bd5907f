//! The last visit of everything, and what has to hold after it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::change::{Place, clear_pending, release};
use super::super::defect::Defect;
use super::super::page::{Body, ChildWord, Content, Leaf, Mapping, PageId, PageOf, Target};
use super::super::visit::{Care, Step, Visitor};
use super::model::{Children, Key, LeafMap, index};

/// The most steps that a visitor takes while nobody else does any: a level costs one, and a restart
/// finishes a change.
const MAX_STEPS: usize = 1_000;

/// A tree of the models.
pub(super) trait Tree<const L: usize, const I: usize>:
    Mapping<Key = Key, Leaf = LeafMap<L>, Inner = Children<I>>
{
}

impl<M, const L: usize, const I: usize> Tree<L, I> for M where
    M: Mapping<Key = Key, Leaf = LeafMap<L>, Inner = Children<I>>
{
}

/// Writes one key and answers with what was there. It goes on until its leaf is neither empty nor
/// over its target.
pub(super) fn write<M: Tree<L, I>, const L: usize, const I: usize>(
    tree: &M,
    key: Key,
    value: Option<u32>,
) -> Option<u32> {
    try_write(tree, key, value).expect("it arrives")
}

/// [`write`]; an error if a visitor does not arrive.
pub(super) fn try_write<M: Tree<L, I>, const L: usize, const I: usize>(
    tree: &M,
    key: Key,
    value: Option<u32>,
) -> Result<Option<u32>, String> {
    loop {
        let Arrival { visitor, .. } = visit(tree, Target::At(key), Care::Shape)?;
        let place = visitor.arrived();
        let Some(Content::Leaf(leaf)) = place.page.content() else {
            return Err("a visitor arrives somewhere else".into());
        };
        let (before, leaf) = (leaf.get(key), leaf.with(key, value));
        let (is_empty, is_over) = (leaf.is_empty(), leaf.is_over());
        if !tree.replace(place.child.id(), &place.page, place.page.with_content(Content::Leaf(leaf))) {
            continue;
        }
        if is_empty || is_over {
            visit(tree, Target::At(key), Care::Empty)?;
        }
        if value.is_none() {
            visit(tree, Target::At(key), Care::Small)?;
        }
        return Ok(before);
    }
}

pub(super) fn get<M: Tree<L, I>, const L: usize, const I: usize>(tree: &M, key: Key) -> Option<u32> {
    let Arrival { visitor, .. } = visit(tree, Target::At(key), Care::None).expect("it arrives");
    seen(tree, &visitor).iter().find(|entry| entry.0 == key).map(|entry| entry.1)
}

/// Whether a scan takes a key that it sees.
fn takes<M: Mapping<Key = Key>>(tree: &M, visitor: &Visitor<Key, M::Ref>, key: &Key) -> bool {
    tree.defect() == Some(Defect::ScanWithoutBounds) || visitor.is_ahead(key)
}

/// All entries, from the first to the last.
pub(super) fn scan_up<M: Tree<L, I>, const L: usize, const I: usize>(tree: &M) -> Vec<(Key, u32)> {
    let (mut next, mut entries) = (Some(0), Vec::new());
    while let Some(from) = next {
        let Arrival { visitor, .. } = visit(tree, Target::At(from), Care::None).expect("it arrives");
        entries.extend(seen(tree, &visitor).into_iter().filter(|entry| takes(tree, &visitor, &entry.0)));
        next = visitor.upper().copied();
    }
    entries
}

/// All entries, from the last to the first.
pub(super) fn scan_down<M: Tree<L, I>, const L: usize, const I: usize>(tree: &M) -> Vec<(Key, u32)> {
    let (mut below, mut entries) = (None, Vec::new());
    loop {
        let Arrival { visitor, .. } = visit(tree, Target::Below(below), Care::None).expect("it arrives");
        let leaf = seen(tree, &visitor).into_iter().filter(|entry| takes(tree, &visitor, &entry.0));
        entries.extend(leaf.rev());
        below = visitor.lower().copied();
        if below.is_none() {
            return entries;
        }
    }
}

/// A visitor at its leaf, and whether it had to start again on its way.
pub(super) struct Arrival<M: Mapping> {
    pub(super) visitor: Visitor<M::Key, M::Ref>,
    restarted: bool,
}

/// Goes to `target`; an error if that does not end.
pub(super) fn visit<M: Mapping>(tree: &M, target: Target<M::Key>, care: Care) -> Result<Arrival<M>, String> {
    let mut visitor = Visitor::new(tree, target, care);
    let mut restarted = false;
    for _ in 0..MAX_STEPS {
        match visitor.step(tree) {
            Step::Arrived => return Ok(Arrival { visitor, restarted }),
            Step::Again => restarted = true,
            Step::OnTheWay => {}
        }
    }
    Err("a visitor does not arrive".into())
}

/// Visits all leaves until there is nothing left to do, alone: once without packing anything that
/// is not begun, and then so that nothing is left to be packed.
pub(super) fn finish<M: Mapping<Key = Key>>(tree: &M) -> Result<(), String> {
    finish_with(tree, Care::Empty)?;
    finish_with(tree, Care::Small)
}

pub(super) fn finish_with<M: Mapping<Key = Key>>(tree: &M, care: Care) -> Result<(), String> {
    for _ in 0..MAX_STEPS {
        let (mut from, mut changed) = (0, false);
        loop {
            let Arrival { visitor, restarted } = visit(tree, Target::At(from), care)?;
            changed |= restarted;
            match visitor.upper() {
                Some(upper) => from = *upper,
                None => break,
            }
        }
        if !changed {
            return Ok(());
        }
    }
    Err("there is always something left to do".into())
}

/// Compares a tree that is [finished](finish) with what it should hold. `ids` are all its pages, of
/// which `private` are known only to visitors that are on their way.
pub(super) fn check<M: Tree<L, I>, const L: usize, const I: usize>(
    tree: &M,
    ids: usize,
    private: &[ChildWord],
    truth: &BTreeMap<Key, u32>,
) -> Result<(), String> {
    let mut walk = Walk { reached: BTreeSet::new(), entries: Vec::new(), depth: None };
    walk.page(tree, tree.root(), (0, Key::MAX), 0)?;
    if !walk.entries.iter().copied().eq(truth.iter().map(|(key, value)| (*key, *value))) {
        return Err(format!("the tree has {:?}, and should have {truth:?}", walk.entries));
    }
    for at in 0..ids {
        let id = PageId::of_test(u64::try_from(at).expect("small"));
        let page = tree.load(id);
        let unknown = private.iter().any(|child| child.id() == id);
        match (&page.body, walk.reached.contains(&at)) {
            (Body::Live(_), true) if !unknown => {}
            (Body::Live(_), false) if unknown => {}
            (Body::Free, false) if !unknown => {}
            // Whoever was to release it died.
            (Body::Removed | Body::Moved(_), false) if release(tree, id, &page) => {}
            (body, reached) => return Err(format!("page {at} is {body:?}, reached: {reached}")),
        }
    }
    Ok(())
}

struct Walk {
    reached: BTreeSet<usize>,
    entries: Vec<(Key, u32)>,
    depth: Option<usize>,
}

impl Walk {
    fn page<M: Tree<L, I>, const L: usize, const I: usize>(
        &mut self,
        tree: &M,
        child: ChildWord,
        bounds: (Key, Key),
        depth: usize,
    ) -> Result<(), String> {
        let page = tree.load(child.id());
        let wrong = |what: &str| Err(format!("{child:?} under its parent is {:?}: {what}", &*page));
        if page.epoch != child.epoch() {
            return wrong("another epoch");
        }
        if page.pending.is_some() && !clear_pending(tree, &Place { child, page: page.clone() }) {
            return wrong("it cannot be cleared");
        }
        if !self.reached.insert(index(child.id())) {
            return wrong("it has two parents");
        }
        let is_root = child == tree.root();
        match page.content() {
            None => wrong("not a page of the tree"),
            Some(Content::Leaf(leaf)) => {
                if *self.depth.get_or_insert(depth) != depth {
                    return wrong("another depth");
                }
                if leaf.is_over() || (leaf.is_empty() && !is_root) {
                    return wrong("a leaf of a wrong size");
                }
                if leaf.0.iter().any(|entry| entry.0 < bounds.0 || bounds.1 <= entry.0) {
                    return wrong("a key out of bounds");
                }
                self.entries.extend(&leaf.0);
                Ok(())
            }
            Some(Content::Inner(inner)) => {
                let (children, separators) = (&inner.children, &inner.separators);
                if children.len() != separators.len() + 1
                    || children.len() > I
                    || (is_root && children.len() < 2)
                {
                    return wrong("an inner page of a wrong size");
                }
                let mut lower = bounds.0;
                for (at, next) in children.iter().enumerate() {
                    let upper = separators.get(at).copied().unwrap_or(bounds.1);
                    if lower > upper || upper > bounds.1 {
                        return wrong("separators out of order");
                    }
                    self.page(tree, *next, (lower, upper), depth + 1)?;
                    lower = upper;
                }
                Ok(())
            }
        }
    }
}

/// What a visitor that has arrived sees of its range.
pub(super) fn seen<M: Tree<L, I>, const L: usize, const I: usize>(
    tree: &M,
    visitor: &Visitor<Key, M::Ref>,
) -> Vec<(Key, u32)>
where
    M::Ref: std::ops::Deref<Target = PageOf<M>>,
{
    let Some(Content::Leaf(leaf)) = visitor.arrived().page.content() else { return Vec::new() };
    let everything = tree.defect() == Some(Defect::ScanWithoutBounds);
    leaf.0.iter().filter(|entry| everything || visitor.covers(&entry.0)).copied().collect()
}
