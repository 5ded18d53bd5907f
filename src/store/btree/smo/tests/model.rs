//! A tree for the models: keys and values are numbers, and a page is over its target when it has
//! more than `MAX` of them.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;

use super::super::defect::Defect;
use super::super::page::{
    Body, ChildWord, Content, Epoch, Inner, Leaf, Mapping, Page, PageId, Remainder, Route, Split, Target,
};

pub(super) type Key = u32;

/// Entries, in the order of their keys.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct LeafMap<const MAX: usize>(pub(super) Vec<(Key, u32)>);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Children<const MAX: usize> {
    pub(super) children: Vec<ChildWord>,
    pub(super) separators: Vec<Key>,
}

pub(super) type ModelPage<const L: usize, const I: usize> = Page<LeafMap<L>, Children<I>, Key>;

impl<const MAX: usize> LeafMap<MAX> {
    pub(super) fn get(&self, key: Key) -> Option<u32> {
        self.0.binary_search_by_key(&key, |entry| entry.0).ok().map(|at| self.0[at].1)
    }

    /// With `value` for `key`, or without the key.
    pub(super) fn with(&self, key: Key, value: Option<u32>) -> Self {
        let mut entries = self.0.clone();
        match (entries.binary_search_by_key(&key, |entry| entry.0), value) {
            (Ok(at), Some(value)) => entries[at].1 = value,
            (Err(at), Some(value)) => entries.insert(at, (key, value)),
            (Ok(at), None) => drop(entries.remove(at)),
            (Err(_), None) => {}
        }
        Self(entries)
    }
}

impl<const MAX: usize> Leaf for LeafMap<MAX> {
    type Key = Key;

    fn empty() -> Self {
        Self(Vec::new())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_over(&self) -> bool {
        self.0.len() > MAX
    }

    fn separator(&self) -> Key {
        self.0[self.0.len() / 2].0
    }

    fn below(&self, separator: &Key) -> Self {
        Self(self.0.iter().filter(|entry| entry.0 < *separator).copied().collect())
    }

    fn from(&self, separator: &Key) -> Self {
        Self(self.0.iter().filter(|entry| entry.0 >= *separator).copied().collect())
    }

    fn is_small(&self) -> bool {
        is_small(self.0.len(), MAX)
    }

    fn joined(&self, right: &Self) -> Option<Self> {
        is_fit(self.0.len() + right.0.len(), MAX).then(|| Self([&self.0[..], &right.0[..]].concat()))
    }
}

/// Whether a page with so much of its target is to be packed.
fn is_small(len: usize, most: usize) -> bool {
    len <= (most / 4).max(1)
}

fn is_fit(len: usize, most: usize) -> bool {
    len <= (most * 3 / 4).max(2)
}

impl<const MAX: usize> Inner for Children<MAX> {
    type Key = Key;

    fn pair(left: ChildWord, separator: Key, right: ChildWord) -> Self {
        Self { children: vec![left, right], separators: vec![separator] }
    }

    fn route(&self, target: &Target<Key>) -> Route<Key> {
        let at = match target {
            Target::At(key) => self.separators.partition_point(|separator| separator <= key),
            Target::Below(Some(key)) => self.separators.partition_point(|separator| separator < key),
            Target::Below(None) => self.separators.len(),
        };
        let lower = at.checked_sub(1).map(|below| self.separators[below]);
        Route { child: self.children[at], lower, upper: self.separators.get(at).copied() }
    }

    fn only_child(&self) -> Option<ChildWord> {
        self.separators.is_empty().then(|| self.children[0])
    }

    fn is_over(&self) -> bool {
        self.children.len() > MAX
    }

    fn is_full(&self) -> bool {
        self.children.len() > MAX + 1
    }

    fn separator(&self) -> Key {
        self.separators[self.separators.len() / 2]
    }

    fn below(&self, separator: &Key) -> Self {
        let at = self.separators.partition_point(|other| other < separator);
        Self { children: self.children[..=at].to_vec(), separators: self.separators[..at].to_vec() }
    }

    fn from(&self, separator: &Key) -> Self {
        let at = self.separators.partition_point(|other| other <= separator);
        Self { children: self.children[at..].to_vec(), separators: self.separators[at..].to_vec() }
    }

    fn with_split(&self, child: ChildWord, split: &Split<Key>) -> Option<Self> {
        let at = self.children.iter().position(|other| *other == child)?;
        let mut new = self.clone();
        new.children[at] = ChildWord::new(child.id(), child.epoch().next());
        new.children.insert(at + 1, split.right);
        new.separators.insert(at, split.separator);
        Some(new)
    }

    fn without(&self, child: ChildWord) -> Option<Remainder<Self>> {
        let at = self.children.iter().position(|other| *other == child)?;
        if self.separators.is_empty() {
            return Some(Remainder::Nothing);
        }
        let mut new = self.clone();
        new.children.remove(at);
        new.separators.remove(at.saturating_sub(1));
        Some(Remainder::Some(new))
    }

    fn is_small(&self) -> bool {
        is_small(self.children.len(), MAX)
    }

    fn joined(&self, separator: Key, right: &Self) -> Option<Self> {
        is_fit(self.children.len() + right.children.len(), MAX).then(|| Self {
            children: [&self.children[..], &right.children[..]].concat(),
            separators: [&self.separators[..], &[separator], &right.separators[..]].concat(),
        })
    }

    fn neighbours(&self, child: ChildWord) -> [Option<ChildWord>; 2] {
        let Some(at) = self.children.iter().position(|other| *other == child) else { return [None; 2] };
        [self.children.get(at + 1).copied(), at.checked_sub(1).map(|left| self.children[left])]
    }

    fn between(&self, left: ChildWord, right: ChildWord) -> Option<Key> {
        let at = self.children.windows(2).position(|two| *two == [left, right])?;
        Some(self.separators[at])
    }

    fn packed(&self, left: ChildWord, right: Option<ChildWord>, new: ChildWord) -> Option<Self> {
        let at = self.children.iter().position(|other| *other == left)?;
        let mut packed = self.clone();
        packed.children[at] = new;
        if let Some(right) = right {
            if self.children.get(at + 1) != Some(&right) {
                return None;
            }
            packed.children.remove(at + 1);
            packed.separators.remove(at);
        }
        Some(packed)
    }
}

/// A page of a [`Memory`]; equal only to itself.
#[derive(Debug)]
pub(super) struct Shared<P>(Rc<P>);

impl<P> Clone for Shared<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<P> PartialEq for Shared<P> {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl<P> Eq for Shared<P> {}

impl<P> Hash for Shared<P> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Rc::as_ptr(&self.0).hash(state);
    }
}

impl<P> Deref for Shared<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.0
    }
}

/// The pages that there are, so that equal pages are one: a CAS then succeeds whenever the page is
/// the *same as* the one that was expected, even if it was another in between. That allows all that
/// a comparison of addresses does, and keeps the number of states finite.
pub(super) type Pages<P> = RefCell<HashSet<Rc<P>>>;

/// A mapping for one thread.
#[derive(Debug)]
pub(super) struct Memory<'p, const L: usize, const I: usize> {
    pub(super) words: RefCell<Vec<Shared<ModelPage<L, I>>>>,
    /// No id below is free.
    first_free: Cell<usize>,
    pages: Option<&'p Pages<ModelPage<L, I>>>,
    defect: Option<Defect>,
    /// Ids of removed and moved pages do not become free: a flusher does that later.
    pub(super) keeps_ids: bool,
}

impl<'p, const L: usize, const I: usize> Memory<'p, L, I> {
    /// An empty tree and `ids` − 1 free ids.
    pub(super) fn new(ids: usize) -> Self {
        let memory = Self {
            words: RefCell::default(),
            first_free: Cell::new(0),
            pages: None,
            defect: None,
            keeps_ids: false,
        };
        let root = Page::live(Epoch::FIRST, Content::Leaf(LeafMap::empty()));
        memory.words.borrow_mut().push(memory.share(root));
        for _ in 1..ids {
            let free = memory.share(Page::free(Epoch::FIRST));
            memory.words.borrow_mut().push(free);
        }
        memory
    }

    /// A mapping with these words, whose pages are among `pages`.
    pub(super) fn over(
        words: Vec<Shared<ModelPage<L, I>>>,
        pages: &'p Pages<ModelPage<L, I>>,
        defect: Option<Defect>,
    ) -> Self {
        Self {
            words: RefCell::new(words),
            first_free: Cell::new(0),
            pages: Some(pages),
            defect,
            keeps_ids: false,
        }
    }

    pub(super) fn share(&self, page: ModelPage<L, I>) -> Shared<ModelPage<L, I>> {
        match self.pages {
            None => Shared(Rc::new(page)),
            Some(pages) => {
                let mut pages = pages.borrow_mut();
                if let Some(known) = pages.get(&page) {
                    return Shared(Rc::clone(known));
                }
                let page = Rc::new(page);
                pages.insert(Rc::clone(&page));
                Shared(page)
            }
        }
    }
}

pub(super) fn index(id: PageId) -> usize {
    usize::try_from(id.get()).expect("the models have few pages")
}

impl<const L: usize, const I: usize> Mapping for Memory<'_, L, I> {
    type Key = Key;
    type Leaf = LeafMap<L>;
    type Inner = Children<I>;
    type Ref = Shared<ModelPage<L, I>>;

    fn root(&self) -> ChildWord {
        ChildWord::new(PageId::of_test(0), Epoch::FIRST)
    }

    fn load(&self, id: PageId) -> Self::Ref {
        self.words.borrow()[index(id)].clone()
    }

    fn replace(&self, id: PageId, current: &Self::Ref, new: ModelPage<L, I>) -> bool {
        if self.words.borrow()[index(id)] != *current {
            return false;
        }
        if new.body == Body::Free {
            if self.keeps_ids && current.content().is_none() {
                return false;
            }
            self.first_free.set(self.first_free.get().min(index(id)));
        }
        let new = self.share(new);
        self.words.borrow_mut()[index(id)] = new;
        true
    }

    fn create(&self, _: PageId, content: Content<LeafMap<L>, Children<I>>) -> Option<ChildWord> {
        let from = self.first_free.get();
        let at = from + self.words.borrow()[from..].iter().position(|page| page.body == Body::Free)?;
        self.first_free.set(at);
        let epoch = self.words.borrow()[at].epoch;
        let page = self.share(Page::live(epoch, content));
        self.words.borrow_mut()[at] = page;
        Some(ChildWord::new(PageId::of_test(u64::try_from(at).expect("small")), epoch))
    }

    fn defect(&self) -> Option<Defect> {
        self.defect
    }
}
