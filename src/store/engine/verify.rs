//! Verification: every page of every tree is read from the namespace and looked at, while the store
//! is in use.
//!
//! The walk goes down each tree by what its inner pages say. Of each page it looks at
//!
//! - the newest **image on the namespace**, if the page has one: the header, the checksum, and that
//!   it is the page that the mapping means. What is in memory does not hide what is damaged below;
//! - its **content**, from memory if the page is there, because that is newer: that it is of the
//!   level that its parent says, and that its keys lie in the range that its parent gives it;
//! - what the **overlays of records** have of a leaf's range: after a crash, what the log has and
//!   the leaf does not. As by a scan, it is looked at before the leaf is read, [`OVERLAID_AT_ONCE`]
//!   keys at a time: behind these the leaf is a part once more;
//! - each **long value** that a key refers to, with its checksum.
//!
//! Nothing is kept from changing meanwhile. A page that is not as its parent said may be a change
//! that came in between: its range is looked at once more from the root of the tree, several times
//! if need be, before that is damage. An image that does not fit is looked up again before it is
//! damage: it may have been replaced, and its place used again, while it was read.
//!
//! At the end come the pages that the mapping has and no tree has led to: those that were there
//! when the walk began and are there, in the same epoch, when it ends are **lost**. They take
//! space, and nothing else.
//!
//! Pages are read [`AT_ONCE`] at a time. They are not put into the cache.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::rc::Rc;

use super::core_store::CoreStore;
use super::loads::{page_of, read_place};
use super::operations::overlaid;
use super::registry::{catalog, values};
use super::signal::all;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};
use crate::rt::yield_now;
use crate::store::btree::{ColdPage, Content, FRAME_PAGES, Miss, PageView, RESERVED_PAGES, TreeRoot};
use crate::store::env::Env;
use crate::store::overlay::{Direction, Newest, View};
use crate::store::word::{ChildWord, MapView, MapWord, PageId, Special};

/// So many pages are looked at beside each other.
const AT_ONCE: usize = 16;
/// How often a range is looked at again because its pages are not as their parents said.
const MOST_RESTARTS: u32 = 16;
/// So many keys of an overlay are looked at with a leaf.
const OVERLAID_AT_ONCE: usize = 1024;
/// So many findings are listed.
const MOST_FINDINGS: usize = 100;

/// What a verification has found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Pages that were looked at.
    pub pages: u64,
    /// Keys that are there, without those of the store's own trees.
    pub keys: u64,
    /// Long values that were read.
    pub values: u64,
    /// Pages that take space, and that no tree leads to.
    pub lost_pages: u64,
    /// The first hundred of what is damaged.
    pub damage: Vec<Finding>,
    /// All of that.
    pub damaged: u64,
}

/// Something that is damaged, and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The name of the tree. None for one that has none.
    pub tree: Option<Box<str>>,
    /// The keys that are lost lie from here on,
    pub from: Vec<u8>,
    /// and below this, if there is an end.
    pub to: Option<Vec<u8>>,
    /// What is wrong with it.
    pub what: String,
}

impl Report {
    /// Whether nothing is damaged or lost.
    pub fn is_clean(&self) -> bool {
        self.damaged == 0 && self.lost_pages == 0
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tree {
            Some(name) => write!(f, "tree {name:?}, ")?,
            None => f.write_str("a tree of the store's own, ")?,
        }
        write!(f, "keys from \"{}\"", self.from.escape_ascii())?;
        if let Some(to) = &self.to {
            write!(f, " to below \"{}\"", to.escape_ascii())?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Keys from one on, and below another, if there is an end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Range {
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

impl Range {
    fn has(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && self.to.as_ref().is_none_or(|to| key < &to[..])
    }

    /// What both have, if there is such.
    fn and(&self, other: &Self) -> Option<Self> {
        let from = (&self.from).max(&other.from).clone();
        let to = match (&self.to, &other.to) {
            (Some(a), Some(b)) => Some(a.min(b).clone()),
            (a, b) => a.as_ref().or(b.as_ref()).cloned(),
        };
        to.as_ref().is_none_or(|to| from < *to).then_some(Self { from, to })
    }
}

/// A page that is to be looked at.
#[derive(Clone)]
struct Part {
    child: ChildWord,
    /// None for the root.
    level: Option<u8>,
    /// The range that its parent gives it.
    range: Range,
    /// What of that is looked at: all, but for a range that is looked at again.
    wanted: Range,
    restarts: u32,
}

impl Part {
    fn root(tree: TreeRoot) -> Self {
        let (range, wanted) = (Range::default(), Range::default());
        Self { child: tree.root, level: None, range, wanted, restarts: 0 }
    }
}

/// What the overlays have of the keys of a part, up to some key.
#[derive(Default)]
struct Overlaid {
    /// Whether each key has a long value; None if it is deleted. No key is there twice.
    records: BTreeMap<Vec<u8>, Option<bool>>,
    /// The last key up to which these are all. None: up to the end of the part.
    end: Option<Vec<u8>>,
}

impl Overlaid {
    /// Whether what the leaf has of the key does not count.
    fn has(&self, key: &[u8]) -> bool {
        self.records.contains_key(key)
    }

    /// The part as far as this goes, and the rest.
    fn split(&self, part: Part) -> (Part, Option<Part>) {
        let Some(end) = &self.end else { return (part, None) };
        let next = [&end[..], &[0]].concat();
        let first = Range { from: part.wanted.from.clone(), to: Some(next.clone()) };
        let rest = Range { from: next, to: part.wanted.to.clone() };
        (Part { wanted: first, ..part.clone() }, Some(Part { wanted: rest, ..part }))
    }
}

/// Ids of pages, a bit each.
#[derive(Default)]
struct Ids(Vec<u64>);

impl Ids {
    /// Whether the id is new.
    fn insert(&mut self, id: PageId) -> bool {
        let (at, bit) = (usize::try_from(id.get() / 64).unwrap_or(usize::MAX), 1 << (id.get() % 64));
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        let is_new = self.0[at] & bit == 0;
        self.0[at] |= bit;
        is_new
    }

    fn contains(&self, id: PageId) -> bool {
        let at = usize::try_from(id.get() / 64).unwrap_or(usize::MAX);
        self.0.get(at).is_some_and(|bits| bits & 1 << (id.get() % 64) != 0)
    }
}

/// What the tasks of one verification share.
struct Walk<'w> {
    tree: TreeRoot,
    name: Option<Box<str>>,
    report: &'w RefCell<Report>,
    reached: &'w RefCell<Ids>,
    /// What is still to be looked at.
    left: RefCell<Vec<Part>>,
}

impl Walk<'_> {
    fn damage(&self, part: &Part, what: String) {
        let mut report = self.report.borrow_mut();
        report.damaged += 1;
        if report.damage.len() < MOST_FINDINGS {
            let lost = part.wanted.and(&part.range).unwrap_or_default();
            report.damage.push(Finding { tree: self.name.clone(), from: lost.from, to: lost.to, what });
        }
    }

    /// The part is looked at later, if something of it is wanted.
    fn push(&self, part: Part) {
        if part.wanted.and(&part.range).is_some() {
            self.left.borrow_mut().push(part);
        }
    }

    /// The page is not as its parent said: its range once more, from the root.
    fn again(&self, part: Part, what: &str) {
        if part.restarts >= MOST_RESTARTS {
            let what = format!("page {}: {what}", part.child.id().get());
            return self.damage(&part, what);
        }
        let wanted = part.wanted.and(&part.range).unwrap_or_default();
        let root = Part { wanted, restarts: part.restarts + 1, ..Part::root(self.tree) };
        self.left.borrow_mut().push(root);
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Looks at everything. `progress` is called now and then with what was found so far.
    ///
    /// # Errors
    ///
    /// Only what keeps it from being done: damage is in the report, and so are pages that could not
    /// be read.
    pub(in crate::store) async fn verify(
        self: &Rc<Self>,
        mut progress: impl FnMut(&Report),
    ) -> Result<Report> {
        let (report, reached) = (RefCell::new(Report::default()), RefCell::new(Ids::default()));
        let before = self.pages_in_use(&report).await?;
        let unnamed = [catalog(), values()].map(|tree| (tree, None));
        let named = self.trees().into_iter().map(|tree| (tree.root, Some(tree.name)));
        let dying = self.shared.trees().dying();
        for (tree, _) in &dying {
            // It may go at any time, or may be gone.
            reached.borrow_mut().insert(tree.root.id());
        }
        let dying = dying.into_iter().map(|(tree, _)| (tree, None));
        for (tree, name) in unnamed.into_iter().chain(named).chain(dying) {
            let left = RefCell::new(vec![Part::root(tree)]);
            let walk = Walk { tree, name, report: &report, reached: &reached, left };
            loop {
                let parts = {
                    let mut left = walk.left.borrow_mut();
                    let from = left.len().saturating_sub(AT_ONCE);
                    left.split_off(from)
                };
                if parts.is_empty() {
                    break;
                }
                all(parts.into_iter().map(|part| self.look_at_part(&walk, part))).await?;
                progress(&report.borrow());
                yield_now().await;
            }
        }
        let after = self.pages_in_use(&report).await?;
        let mut report = report.into_inner();
        let reached = reached.into_inner();
        let is_lost = |(id, word): &(PageId, MapWord)| {
            let stays = before.binary_search_by_key(&id.get(), |(id, _)| id.get()).is_ok_and(|at| {
                // Of a page in memory the word changes with each node.
                before[at].1 == *word
            });
            stays && !reached.contains(*id) && !self.is_gone(*id)
        };
        report.lost_pages = after.iter().filter(|page| is_lost(page)).count() as u64;
        progress(&report);
        Ok(report)
    }

    /// Whether the page is removed, and waits until its parent is durable without it.
    fn is_gone(&self, id: PageId) -> bool {
        matches!(self.core.pin().view(id), Ok(Some(view)) if !view.is_live)
    }

    /// The pages that the mapping has, in the order of their ids.
    async fn pages_in_use(&self, report: &RefCell<Report>) -> Result<Vec<(PageId, MapWord)>> {
        let map = self.shared.nodes.map();
        let mut pages = Vec::new();
        for frame in 0..map.next_page().div_ceil(FRAME_PAGES) {
            let index = u32::try_from(frame).expect("frames have 32 bits");
            if let Err(error) = self.load_frame_if_absent(index).await {
                let mut report = report.borrow_mut();
                report.damaged += 1;
                let what = format!("{FRAME_PAGES} pages from {} on: {error}", frame * FRAME_PAGES);
                report.damage.push(Finding { tree: None, from: Vec::new(), to: None, what });
                continue;
            }
            let ids = (frame * FRAME_PAGES..(frame + 1) * FRAME_PAGES).filter_map(PageId::new);
            let entries = ids.filter_map(|id| Some((id, map.entry(id).loaded()?.word())));
            pages.extend(entries.filter(|(id, word)| *word != MapWord::FREE && id.get() >= RESERVED_PAGES));
            if frame % 16 == 15 {
                yield_now().await;
            }
        }
        Ok(pages)
    }

    async fn load_frame_if_absent(&self, index: u32) -> Result<()> {
        let first = PageId::new((u64::from(index) * FRAME_PAGES).max(1)).expect("in range");
        while self.shared.nodes.map().entry(first).loaded().is_none() {
            self.load_frame(index).await?;
        }
        Ok(())
    }

    /// Looks at a page, and leaves its children to be looked at.
    async fn look_at_part(&self, walk: &Walk<'_>, part: Part) -> Result<()> {
        if part.level.is_none() && !self.shared.trees().has_content(walk.tree.tree) {
            return Ok(());
        }
        // Not behind the page: what is brought over in between would be in neither.
        let overlaid = match part.level {
            None | Some(0) => self.overlaid_in(walk.tree, &part),
            Some(_) => Overlaid::default(),
        };
        let view = match self.read_part(walk.tree, &part).await {
            Ok(Some(view)) => view,
            Ok(None) => {
                walk.again(part, "its parent names it, and there is no such page");
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::OutOfMemory => return Err(error),
            Err(error) => {
                walk.damage(&part, error.to_string());
                return Ok(());
            }
        };
        let is_ahead = view.child == ChildWord::new(part.child.id(), part.child.epoch().next());
        if !(view.child == part.child || is_ahead) || part.level.is_some_and(|level| level != view.level) {
            walk.again(part, "it is not the page that its parent names");
            return Ok(());
        }
        if !view.is_live {
            // Its range is its neighbour's, which the root leads to.
            walk.again(part, "it is removed, and its parent still names it");
            return Ok(());
        }
        if walk.reached.borrow_mut().insert(part.child.id()) {
            walk.report.borrow_mut().pages += 1;
        }
        let mut range = part.range.clone();
        if let Some((separator, right)) = view.pending.filter(|_| is_ahead)
            && range.has(&separator)
        {
            let to = range.to.replace(separator.clone());
            let its = Range { from: separator, to };
            walk.push(Part { child: right, level: Some(view.level), range: its, ..part.clone() });
        }
        match view.content {
            Content::Inner(children) => {
                let mut to = range.to.clone();
                for (from, child) in children.into_iter().rev() {
                    let from = from.unwrap_or_else(|| range.from.clone());
                    let its = Range { from: from.clone(), to: to.replace(from) };
                    if its.and(&range).as_ref() != Some(&its) {
                        walk.again(part, "a separator lies outside of its range");
                        return Ok(());
                    }
                    let level = Some(view.level - 1);
                    walk.push(Part { child, level, range: its, ..part.clone() });
                }
            }
            Content::Leaf(keys) => {
                if !keys.iter().all(|key| range.has(&key.key)) {
                    walk.again(part, "it has keys outside of its range");
                    return Ok(());
                }
                let (part, rest) = overlaid.split(Part { range: range.clone(), ..part });
                let is_counted = |key: &[u8]| part.wanted.has(key) && range.has(key);
                let of_leaf = keys.into_iter().filter(|key| !overlaid.has(&key.key));
                let of_leaf = of_leaf.map(|key| (key.key, key.is_reference));
                let of_overlay = overlaid.records.iter().filter_map(|(key, newest)| {
                    let is_reference = (*newest)?;
                    Some((key.clone(), is_reference))
                });
                let keys: Vec<_> = of_leaf.chain(of_overlay).filter(|(key, _)| is_counted(key)).collect();
                if let Some(rest) = rest {
                    walk.push(rest);
                }
                if walk.name.is_some() {
                    walk.report.borrow_mut().keys += keys.len() as u64;
                }
                for (key, _) in keys.into_iter().filter(|(_, is_reference)| *is_reference) {
                    match self.get(walk.tree, &key, |_| ()).await {
                        Ok(_) => walk.report.borrow_mut().values += 1,
                        Err(error) => {
                            let to = Some([&key[..], &[0]].concat());
                            let range = Range { from: key, to };
                            walk.damage(&Part { range, ..part.clone() }, error.to_string());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What the overlays have of the first keys of a part.
    fn overlaid_in(&self, tree: TreeRoot, part: &Part) -> Overlaid {
        let Some(range) = part.wanted.and(&part.range) else { return Overlaid::default() };
        let bounds = (
            Bound::Included(&range.from[..]),
            range.to.as_ref().map_or(Bound::Unbounded, |to| Bound::Excluded(&to[..])),
        );
        let mut access = self.overlay.borrow_mut();
        let overlays = access.all(&self.shared.overlay).iter();
        let views = overlays
            .map(|overlay| overlay.view(overlaid(tree), bounds, Direction::Forwards, OVERLAID_AT_ONCE));
        let views: Vec<_> = views.collect();
        let end = views.iter().filter_map(View::end).min();
        let records =
            views.iter().flat_map(View::records).filter(|record| end.is_none_or(|end| record.key <= end));
        let records = records.map(|record| {
            let newest = match record.newest {
                Newest::Deleted => None,
                Newest::Put { .. } => Some(false),
                Newest::PutReference { .. } => Some(true),
            };
            (record.key.to_vec(), newest)
        });
        Overlaid { records: records.collect(), end: end.map(<[u8]>::to_vec) }
    }

    /// A page as it is now. Its image on the namespace is looked at in any case. None if the id is
    /// free.
    async fn read_part(&self, tree: TreeRoot, part: &Part) -> Result<Option<PageView>> {
        let (map, homes, id) = (self.shared.nodes.map(), self.shared.nodes.homes(), part.child.id());
        loop {
            let Some(entry) = map.entry(id).loaded() else {
                self.load(Miss::Frame(u32::try_from(id.get() / FRAME_PAGES).expect("in range"))).await?;
                continue;
            };
            let (word, second) = entry.load();
            match word.view() {
                MapView::Free => return Ok(None),
                MapView::Special(Special::Damaged) => {
                    return self.load(Miss::Damaged(id)).await.map(|()| None);
                }
                MapView::Special(Special::Frozen) => yield_now().await,
                MapView::Cold { .. } => {
                    let cold = ColdPage { id, word, second };
                    if let Some(view) = self.read_image(tree, &cold).await? {
                        return Ok(Some(view));
                    }
                }
                MapView::Node(_) => {
                    if let Some(home) = homes.get(id) {
                        let word = MapWord::cold(home.address, 0).expect("an age of 0 fits");
                        let cold = ColdPage { id, word, second: home.second };
                        if self.read_image(tree, &cold).await?.is_none() {
                            continue;
                        }
                    }
                    match self.core.pin().view(id) {
                        Ok(view) => return Ok(view),
                        // It was evicted meanwhile.
                        Err(_) => continue,
                    }
                }
            }
        }
    }

    /// The page in an image. None if the page has another image by now.
    async fn read_image(&self, tree: TreeRoot, cold: &ColdPage) -> Result<Option<PageView>> {
        let MapView::Cold { address, .. } = cold.word.view() else { return Ok(None) };
        let read = read_place(&self.namespace, address).await;
        let is_current = || {
            let home = self.shared.nodes.homes().get(cold.id).map(|home| (home.address, home.second));
            home == Some((address, cold.second)) || self.core.pin().is_current(cold)
        };
        if !is_current() {
            return Ok(None);
        }
        let (buf, at) = read?;
        let page = page_of(&buf[at..], address, cold, &self.shared.owner)
            .map_err(|damage| damage.error("verify store", &self.shared.name))?;
        let wrong = |what: String| {
            let what = format!("page {} at {}: {what}", cold.id.get(), address.offset_bytes());
            Err(Error::new(ErrorKind::Corrupt, "verify store").at(self.shared.name.clone()).because(what))
        };
        if page.tree != tree.tree {
            return wrong(format!("it belongs to tree {}, not to tree {}", page.tree, tree.tree));
        }
        match PageView::of_image(page.child, page.level, page.image) {
            Ok(view) => Ok(Some(view)),
            Err(damage) => wrong(damage.to_string()),
        }
    }
}
