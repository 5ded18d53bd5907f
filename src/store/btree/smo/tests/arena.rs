//! A tree of the models that threads share: a mapping word is the number of a page that is never
//! changed and never freed.

use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize as Counter, Ordering};

#[cfg(shuttle)]
use shuttle::sync::atomic::AtomicUsize;
#[cfg(not(shuttle))]
use std::sync::atomic::AtomicUsize;

use super::super::defect::Defect;
use super::super::page::{Body, ChildWord, Content, Epoch, Leaf, Mapping, Page, PageId};
use super::model::{Children, Key, LeafMap, ModelPage, index};

#[derive(Debug)]
pub(super) struct Arena<const L: usize, const I: usize> {
    words: Box<[AtomicUsize]>,
    pages: Box<[OnceLock<ModelPage<L, I>>]>,
    /// Pages that are taken. It is not a word of the protocol, so no scheduler looks at it.
    used: Counter,
    defect: Option<Defect>,
}

/// The page with a number.
#[derive(Debug)]
pub(super) struct Numbered<'a, P> {
    number: usize,
    page: &'a P,
}

impl<P> Clone for Numbered<'_, P> {
    fn clone(&self) -> Self {
        Self { number: self.number, page: self.page }
    }
}

impl<P> Deref for Numbered<'_, P> {
    type Target = P;

    fn deref(&self) -> &P {
        self.page
    }
}

impl<const L: usize, const I: usize> Arena<L, I> {
    /// An empty tree, `ids` − 1 free ids, and room for `pages` states of pages.
    pub(super) fn new(ids: usize, pages: usize, defect: Option<Defect>) -> Self {
        let pages = (0..pages).map(|_| OnceLock::new()).collect();
        let mut arena = Self { words: Box::default(), pages, used: Counter::new(0), defect };
        let root = arena.take(Page::live(Epoch::FIRST, Content::Leaf(LeafMap::empty())));
        let free = arena.take(Page::free(Epoch::FIRST));
        arena.words = (0..ids).map(|id| AtomicUsize::new(if id == 0 { root } else { free })).collect();
        arena
    }

    pub(super) fn ids(&self) -> usize {
        self.words.len()
    }

    /// Keeps a page, and says its number.
    fn take(&self, page: ModelPage<L, I>) -> usize {
        let number = self.used.fetch_add(1, Ordering::Relaxed);
        self.pages[number].set(page).expect("each number is taken once");
        number
    }
}

impl<'a, const L: usize, const I: usize> Mapping for &'a Arena<L, I> {
    type Key = Key;
    type Leaf = LeafMap<L>;
    type Inner = Children<I>;
    type Ref = Numbered<'a, ModelPage<L, I>>;

    fn root(&self) -> ChildWord {
        ChildWord::new(PageId::of_test(0), Epoch::FIRST)
    }

    fn load(&self, id: PageId) -> Self::Ref {
        let number = self.words[index(id)].load(Ordering::Acquire);
        Numbered { number, page: self.pages[number].get().expect("a word is stored after its page") }
    }

    fn replace(&self, id: PageId, current: &Self::Ref, new: ModelPage<L, I>) -> bool {
        let new = self.take(new);
        let word = &self.words[index(id)];
        word.compare_exchange(current.number, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn create(&self, _: PageId, content: Content<LeafMap<L>, Children<I>>) -> Option<ChildWord> {
        for at in 0..self.words.len() {
            let id = PageId::of_test(u64::try_from(at).expect("small"));
            let page = self.load(id);
            if page.body == Body::Free && self.replace(id, &page, Page::live(page.epoch, content.clone())) {
                return Some(ChildWord::new(id, page.epoch));
            }
        }
        None
    }

    fn defect(&self) -> Option<Defect> {
        self.defect
    }
}
