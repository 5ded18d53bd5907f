//! One B+tree in memory: descending, changing, installing what was loaded, and letting go of what
//! is not used.

use std::rc::Rc;

use super::object::{ObjectRef, Stored};
use super::page::{Body, Inner, Leaf, Ledger, MERGE_BELOW_BYTES, NewValue, Page, PageRef, Split};

/// A named tree.
pub(super) struct TreeState {
    pub(super) name: String,
    pub(super) root: Option<PageRef>,
    /// How many keys it holds.
    pub(super) len: u64,
    /// Whether a log record or a checkpoint has created it.
    pub(super) created: bool,
}

/// Where a descent goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seek<'a> {
    /// The leaf that holds the key.
    Key(&'a [u8]),
    /// The last leaf that can hold keys below the key.
    Before(&'a [u8]),
    /// The last leaf.
    Last,
}

impl Seek<'_> {
    fn child(self, inner: &Inner) -> usize {
        match self {
            Seek::Key(key) => inner.child_for(key),
            Seek::Before(key) => inner.child_before(key),
            Seek::Last => inner.count() - 1,
        }
    }
}

/// What a descent found.
pub(super) enum Descent {
    Empty,
    Leaf(Rc<Page>),
    Missing(Missing),
}

/// A page that has to be loaded first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) reference: ObjectRef,
    /// The level its parent says it has, 0 for a leaf; unknown for a root.
    pub(super) level: Option<u8>,
}

impl TreeState {
    pub(super) fn new(name: String) -> Self {
        Self { name, root: None, len: 0, created: false }
    }

    /// The leaf that `seek` leads to.
    pub(super) fn descend(&self, seek: Seek<'_>) -> Descent {
        let mut page = match &self.root {
            None => return Descent::Empty,
            Some(PageRef::OnDisk(reference)) => {
                return Descent::Missing(Missing { reference: *reference, level: None });
            }
            Some(PageRef::Resident(page)) => Rc::clone(page),
        };
        loop {
            let Some(inner) = page.as_inner() else {
                page.touched.set(true);
                return Descent::Leaf(page);
            };
            let next = match &*inner.child(seek.child(inner)).borrow() {
                PageRef::OnDisk(reference) => {
                    return Descent::Missing(Missing { reference: *reference, level: Some(inner.level - 1) });
                }
                PageRef::Resident(child) => Rc::clone(child),
            };
            page = next;
        }
    }

    /// The separators around the leaf that `seek` leads to (its keys are from the first up to, not
    /// including, the second), as far as pages are in memory.
    pub(super) fn bounds(&self, seek: Seek<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let (mut lower, mut upper) = (None, None);
        let mut page = match &self.root {
            Some(PageRef::Resident(page)) => Rc::clone(page),
            _ => return (None, None),
        };
        loop {
            let next = {
                let Some(inner) = page.as_inner() else { break };
                let index = seek.child(inner);
                if index > 0 {
                    lower = Some(inner.separator(index - 1).to_vec());
                }
                if index + 1 < inner.count() {
                    upper = Some(inner.separator(index).to_vec());
                }
                let PageRef::Resident(child) = &*inner.child(index).borrow() else { break };
                Rc::clone(child)
            };
            page = next;
        }
        (lower, upper)
    }

    /// A key that leads to a leaf chosen by `random`, roughly evenly. What is missing on the way is
    /// reported.
    pub(super) fn random_seek(&self, random: &mut impl FnMut() -> u64) -> Result<Vec<u8>, Missing> {
        let mut lower = Vec::new();
        let mut page = match &self.root {
            None => return Ok(lower),
            Some(PageRef::OnDisk(reference)) => return Err(Missing { reference: *reference, level: None }),
            Some(PageRef::Resident(page)) => Rc::clone(page),
        };
        loop {
            let next = {
                let Some(inner) = page.as_inner() else { return Ok(lower) };
                let index = super::codec::to_usize(random() % inner.count() as u64);
                if index > 0 {
                    lower = inner.separator(index - 1).to_vec();
                }
                match &*inner.child(index).borrow() {
                    // A missing leaf is found, and loaded, by its lower bound.
                    PageRef::OnDisk(_) => return Ok(lower),
                    PageRef::Resident(child) => Rc::clone(child),
                }
            };
            page = next;
        }
    }

    /// Puts a loaded page where `seek` finds its reference; drops it if the tree has moved on.
    pub(super) fn install(&mut self, seek: Seek<'_>, body: Body, stored: Stored, ledger: &mut Ledger) {
        let reference = stored.reference;
        let load = |ledger: &mut Ledger| PageRef::Resident(Rc::new(Page::loaded(body, stored, ledger)));
        let mut page = match &mut self.root {
            None => return,
            Some(root @ PageRef::OnDisk(_)) => {
                if root.reference() == Some(reference) {
                    *root = load(ledger);
                }
                return;
            }
            Some(PageRef::Resident(page)) => Rc::clone(page),
        };
        loop {
            let next = {
                let Some(inner) = page.as_inner() else { return };
                let mut slot = inner.child(seek.child(inner)).borrow_mut();
                match &*slot {
                    PageRef::OnDisk(missing) => {
                        if *missing == reference {
                            *slot = load(ledger);
                        }
                        return;
                    }
                    PageRef::Resident(child) => Rc::clone(child),
                }
            };
            page = next;
        }
    }

    /// How many levels the tree has, as far as can be told without loading.
    pub(super) fn height(&self) -> u64 {
        match &self.root {
            Some(PageRef::Resident(page)) => page.as_inner().map_or(1, |inner| u64::from(inner.level) + 1),
            Some(PageRef::OnDisk(_)) => 4,
            None => 1,
        }
    }

    /// Inserts or replaces; returns whether that left a leaf nearly empty beside one that is not in
    /// memory. If a page on the way is missing, nothing has changed but that pages on the way count
    /// as changed.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        value: &NewValue<'_>,
        ledger: &mut Ledger,
    ) -> Result<bool, Missing> {
        let root =
            self.root.get_or_insert_with(|| PageRef::Resident(Rc::new(Page::new(Body::Leaf(Leaf::new())))));
        let page = match root {
            PageRef::OnDisk(reference) => return Err(Missing { reference: *reference, level: None }),
            PageRef::Resident(page) => page,
        };
        let Done { replaced, sparse, split } = put_in(page, key, value, ledger)?;
        if let Some(split) = split {
            let left = Rc::clone(page);
            let new_root = Page::new(Body::Inner(Inner::root(left, split)));
            new_root.settle(ledger);
            *root = PageRef::Resident(Rc::new(new_root));
        }
        self.len += u64::from(!replaced);
        Ok(sparse && self.height() > 1)
    }

    /// Removes a key that is there and whose leaf is in memory; returns whether that left the leaf
    /// nearly empty beside one that is not in memory.
    pub(super) fn delete(&mut self, key: &[u8], ledger: &mut Ledger) -> bool {
        let Some(PageRef::Resident(page)) = &mut self.root else {
            unreachable!("the leaf of a key to delete is in memory")
        };
        let sparse = delete_in(page, key, ledger);
        // A count that was damaged is for a verification to find.
        self.len = self.len.saturating_sub(1);
        self.lower_root(ledger);
        sparse && self.height() > 1
    }

    /// Merges the leaf that `key` leads to, and the pages above it, with neighbours in memory if
    /// they are small. Returns whether the leaf stays nearly empty beside one that is not in
    /// memory.
    pub(super) fn tidy(&mut self, key: &[u8], ledger: &mut Ledger) -> bool {
        let sparse = match &mut self.root {
            Some(PageRef::Resident(root)) => tidy_in(root, key, ledger),
            _ => false,
        };
        self.lower_root(ledger);
        sparse
    }

    /// A neighbour, under the same page, of the nearly empty leaf that `key` leads to, if it is not
    /// in memory.
    pub(super) fn missing_sibling(&self, key: &[u8]) -> Option<Sibling> {
        let Some(PageRef::Resident(root)) = &self.root else { return None };
        let mut page = Rc::clone(root);
        loop {
            let next = {
                let inner = page.as_inner()?;
                let index = inner.child_for(key);
                let PageRef::Resident(child) = &*inner.child(index).borrow() else { return None };
                if inner.level == 1 {
                    return if child.used_bytes() < MERGE_BELOW_BYTES { sibling(inner, index) } else { None };
                }
                Rc::clone(child)
            };
            page = next;
        }
    }

    /// Counts the page at `level` that holds `key`, and those above it, as changed, as far as they
    /// are in memory.
    pub(super) fn touch(&mut self, key: &[u8], level: u8, ledger: &mut Ledger) {
        if let Some(PageRef::Resident(root)) = &mut self.root {
            touch_in(root, key, level, ledger);
        }
    }

    /// Drops an empty root, and inner roots with one child.
    fn lower_root(&mut self, ledger: &mut Ledger) {
        while let Some(PageRef::Resident(page)) = &self.root {
            let page = Rc::clone(page);
            let only = match &page.body {
                Body::Leaf(leaf) if leaf.count() == 0 => None,
                Body::Inner(inner) if inner.count() == 0 => None,
                Body::Inner(inner) if inner.count() == 1 => Some(inner.child(0).borrow().clone()),
                _ => return,
            };
            page.retire(ledger);
            self.root = only;
            if self.root.is_none() {
                self.len = 0;
            }
        }
    }
}

/// What putting a key did below a page.
struct Done {
    /// The key was there.
    replaced: bool,
    /// A shorter value left the leaf nearly empty. For a page above the leaf: beside one that is
    /// not in memory.
    sparse: bool,
    /// The page was split.
    split: Option<Split>,
}

fn put_in(
    page: &mut Rc<Page>,
    key: &[u8],
    value: &NewValue<'_>,
    ledger: &mut Ledger,
) -> Result<Done, Missing> {
    let page = Page::own(page, ledger);
    let (replaced, sparse, split) = match &mut page.body {
        Body::Leaf(leaf) => {
            let before = leaf.used_bytes();
            let (replaced, right) = leaf.put(key, value, ledger);
            let split = right.map(|right| (leaf.separator(&right), Body::Leaf(right)));
            let used = leaf.used_bytes();
            (replaced, used < before && used < MERGE_BELOW_BYTES && split.is_none(), split)
        }
        Body::Inner(inner) => {
            let (index, level) = (inner.child_for(key), inner.level - 1);
            let child = match inner.child_mut(index) {
                PageRef::Resident(child) => child,
                PageRef::OnDisk(reference) => {
                    let missing = Missing { reference: *reference, level: Some(level) };
                    page.settle(ledger);
                    return Err(missing);
                }
            };
            let result = put_in(child, key, value, ledger);
            let Done { replaced, sparse, split } = match result {
                Ok(done) => done,
                Err(missing) => {
                    page.settle(ledger);
                    return Err(missing);
                }
            };
            let split = split.and_then(|split| inner.add(index, split));
            let sparse = sparse && tidy_child(inner, index, ledger);
            (replaced, sparse, split.map(|(separator, right)| (separator, Body::Inner(right))))
        }
    };
    page.settle(ledger);
    let split = split.map(|(separator, body)| {
        let right = Page::new(body);
        right.settle(ledger);
        Split { separator, right: Rc::new(right) }
    });
    Ok(Done { replaced, sparse, split })
}

fn delete_in(page: &mut Rc<Page>, key: &[u8], ledger: &mut Ledger) -> bool {
    let page = Page::own(page, ledger);
    let sparse = match &mut page.body {
        Body::Leaf(leaf) => {
            if let Ok(index) = leaf.search(key) {
                leaf.remove(index, ledger);
            }
            false
        }
        Body::Inner(inner) => {
            let (index, is_leaf_parent) = (inner.child_for(key), inner.level == 1);
            let PageRef::Resident(child) = inner.child_mut(index) else {
                unreachable!("the leaf of a key to delete is in memory")
            };
            let below = delete_in(child, key, ledger);
            let here = tidy_child(inner, index, ledger);
            if is_leaf_parent { here } else { below }
        }
    };
    page.settle(ledger);
    sparse
}

/// A leaf that is not in memory, beside one that is.
pub(super) struct Sibling {
    pub(super) missing: Missing,
    /// The separator between the two.
    separator: Vec<u8>,
    is_right: bool,
}

impl Sibling {
    /// Where it is.
    pub(super) fn seek(&self) -> Seek<'_> {
        if self.is_right { Seek::Key(&self.separator) } else { Seek::Before(&self.separator) }
    }
}

/// A neighbour of child `index` that is not in memory.
fn sibling(inner: &Inner, index: usize) -> Option<Sibling> {
    let on_disk = |index: usize| match &*inner.child(index).borrow() {
        PageRef::OnDisk(reference) => Some(Missing { reference: *reference, level: Some(inner.level - 1) }),
        PageRef::Resident(_) => None,
    };
    let right = (index + 1 < inner.count()).then(|| on_disk(index + 1)).flatten();
    if let Some(missing) = right {
        return Some(Sibling { missing, separator: inner.separator(index).to_vec(), is_right: true });
    }
    let missing = index.checked_sub(1).and_then(on_disk)?;
    Some(Sibling { missing, separator: inner.separator(index - 1).to_vec(), is_right: false })
}

fn tidy_in(page: &mut Rc<Page>, key: &[u8], ledger: &mut Ledger) -> bool {
    if page.as_leaf().is_some() {
        return false;
    }
    let page = Page::own(page, ledger);
    let mut sparse = false;
    if let Body::Inner(inner) = &mut page.body {
        let (index, is_leaf_parent) = (inner.child_for(key), inner.level == 1);
        if let PageRef::Resident(child) = inner.child_mut(index) {
            sparse = tidy_in(child, key, ledger);
        }
        let here = tidy_child(inner, index, ledger);
        sparse |= is_leaf_parent && here;
    }
    page.settle(ledger);
    sparse
}

fn touch_in(page: &mut Rc<Page>, key: &[u8], level: u8, ledger: &mut Ledger) {
    let own = Page::own(page, ledger);
    if let Body::Inner(inner) = &mut own.body
        && inner.level > level
    {
        let index = inner.child_for(key);
        if let PageRef::Resident(child) = inner.child_mut(index) {
            touch_in(child, key, level, ledger);
        }
    }
    own.settle(ledger);
}

/// Drops a child that became empty and merges one that became small with a neighbour in memory.
/// Returns whether a small one stays beside a neighbour that is not in memory.
fn tidy_child(inner: &mut Inner, index: usize, ledger: &mut Ledger) -> bool {
    let (empty, small) = match &*inner.child(index).borrow() {
        PageRef::OnDisk(_) => return false,
        PageRef::Resident(page) => {
            let empty = match &page.body {
                Body::Leaf(leaf) => leaf.count() == 0,
                Body::Inner(inner) => inner.count() == 0,
            };
            (empty, page.used_bytes() < MERGE_BELOW_BYTES)
        }
    };
    if empty {
        if let PageRef::Resident(page) = inner.remove(index) {
            page.retire(ledger);
        }
        return false;
    }
    if !small {
        return false;
    }
    let merged = (index > 0 && merge(inner, index - 1, ledger))
        || (index + 1 < inner.count() && merge(inner, index, ledger));
    !merged && sibling(inner, index).is_some()
}

/// Merges child `index` and the next one if both are in memory and fit in one page.
fn merge(inner: &mut Inner, index: usize, ledger: &mut Ledger) -> bool {
    let fits = match (&*inner.child(index).borrow(), &*inner.child(index + 1).borrow()) {
        (PageRef::Resident(left), PageRef::Resident(right)) => match (&left.body, &right.body) {
            (Body::Leaf(left), Body::Leaf(right)) => left.can_absorb(right),
            (Body::Inner(left), Body::Inner(right)) => left.can_absorb(right, inner.separator(index)),
            _ => false,
        },
        _ => false,
    };
    if !fits {
        return false;
    }
    let separator = inner.separator(index).to_vec();
    let PageRef::Resident(right) = inner.remove(index + 1) else { return false };
    let PageRef::Resident(left) = inner.child_mut(index) else { return false };
    let left = Page::own(left, ledger);
    match (&mut left.body, &right.body) {
        (Body::Leaf(left), Body::Leaf(right)) => left.absorb(right),
        (Body::Inner(left), Body::Inner(right)) => left.absorb(&separator, right),
        _ => unreachable!("neighbours have one level"),
    }
    left.settle(ledger);
    right.retire(ledger);
    true
}
