//! The overlay of records: what the log has, until the tree has it.
//!
//! Opening a store reads the log and no page. The newest operation of every key goes into an
//! overlay. Readers ask it before they ask the tree; a background task *drains* it into the tree.
//! When all of it is drained it is dropped. So a store answers as soon as its log is read, and its
//! pages are read when somebody needs them.
//!
//! A transaction that is too large to be done in the tree at once gets an overlay of its own
//! (`engine/transaction/large.rs`). So there may be several at a time; a key is undrained in one of
//! them at most.
//!
//! | module | what it is |
//! |---|---|
//! | [`build`], [`group`] | takes the operations of the log, in their order; groups of records |
//! | [`sorted`] | takes the changes of one write, in the order of their keys |
//! | [`arena`], [`index`], [`order`] | the bytes; entries by the hash of tree and key; by key |
//! | [`entry`] | an entry and its states |
//! | [`ranges`] | deletions of ranges, which have no entries |
//! | [`claim`] | the right to bring one key into the tree; the background task |
//! | [`view`], [`random`] | what scans see; any of the keys |
//!
//! # The rules
//!
//! Every key that the overlay *answers* for has its newest value here. For all others the tree has
//! it. A key goes over once, by a claim:
//!
//! 1. **Readers ask the overlay first, then the tree**, and do not use what they read of the tree
//!    before. The other way around a reader could miss the key in both.
//! 2. **Writers claim their key first** ([`Overlay::claim`]), bring what the claim says into the
//!    tree, [`finish`](claim::Claim::finish) it, and only then write.
//! 3. **Whoever has a claim does not wait.** Between a claim and its end there is no await. If the
//!    tree says that a page is missing, or that there is no room, the claim is dropped, the page is
//!    loaded, and the key is claimed again. So a claim is held for one operation of the tree.
//! 4. **Who finds a key busy lets others run and asks again.** There is no list of waiters, and no
//!    helping: the owner is running on another core at this moment. A helper that was late would
//!    install the old value over a newer one.
//! 5. What is brought into the tree is not logged and does not count; it is in the log and in the
//!    counts. The page's change has the record's number, and is as old as [`Record::from`]; the
//!    log's start stays at [`Overlay::first`] or before until the overlay is drained and those
//!    pages are durable.
//!
//! Why a reader never sees an old value after a newer one was acknowledged. The writer acknowledges
//! after it has found the entry drained, or has drained it. The state never leaves *drained*, so a
//! reader that begins after that finds it drained and looks into the tree, where the newer value
//! is. The old one cannot come back there: only the owner of the one claim installs it, before the
//! entry is drained, and everybody else writes after that.
//!
//! | | `get` by a reader | a writer of the key | the drain |
//! |---|---|---|---|
//! | undrained | the entry's value | claims, installs, finishes, writes | claims, installs, finishes |
//! | draining | the entry's value | is busy: again later | goes on with other keys |
//! | drained | the tree | writes | nothing |
//!
//! # Trees that change
//!
//! A part of the overlay belongs to a tree with one root ([`TreeRoot`]). When a tree is cleared it
//! gets another root, and by that very step the overlay has nothing to say about it. Whoever still
//! has the old root gets the old answers. [`Overlay::retire`] gives the part up, once nobody can
//! have the old root any more; that is when its pages can go too.
//!
//! # Memory
//!
//! Keys and values once, 32 bytes per key, 16 for its order and 16 to 32 for its hash. All of it
//! lives until the overlay is dropped: it drains in the order of keys and lies in that of the log.
//! 128 MiB of log with 892,032 keys take 187 MiB, and 0.31 to 0.36 s of one core's time to check,
//! index and sort (`tests/timing.rs` prints this; on a shared AMD EPYC). Short records cost more.

mod arena;
mod build;
mod claim;
mod entry;
mod group;
mod index;
#[cfg(all(test, loom))]
mod loom_tests;
mod order;
mod random;
mod ranges;
mod sorted;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod view;

pub(in crate::store) use build::{Builder, Counted, TreeChange};
pub(in crate::store) use claim::{Claim, Claimed, Hand, Place};
pub(in crate::store) use entry::Newest;
pub(in crate::store) use group::IncompleteGroup;
#[allow(unused_imports, reason = "models use a part of it")]
pub(in crate::store) use sorted::SortedBuilder;
#[allow(unused_imports, reason = "models use a part of it")]
pub(in crate::store) use view::{Direction, View};

use std::ops::Range;

use self::arena::Arena;
use self::entry::Entry;
use self::index::Index;
use self::order::{Ordered, Position, Prefix};
use super::atomic::{AtomicBool, AtomicU64, Ordering};

/// A tree, and the child word of its root: what a tree's handle has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct TreeRoot {
    pub(in crate::store) tree: u32,
    pub(in crate::store) root: u64,
}

/// The numbers of a write that is a group of records: of its first part, and of its last one, which
/// is that of the write. Of any other write both are its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Span {
    pub(in crate::store) first: u64,
    pub(in crate::store) last: u64,
}

/// One key's newest operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Record<'o> {
    /// The write number.
    pub(in crate::store) number: u64,
    /// The number from which on the log has it: the same, but for a write that is a group.
    pub(in crate::store) from: u64,
    pub(in crate::store) key: &'o [u8],
    pub(in crate::store) newest: Newest<'o>,
}

/// The newest operations of the log. Made by a [`build::Builder`]; all cores read and drain it.
#[derive(Debug)]
pub(in crate::store) struct Overlay {
    seed: u64,
    first: u64,
    /// The number of all entries that have none of their own.
    last: u64,
    /// Of the writes that are groups, in their order.
    spans: Vec<Span>,
    arena: Arena,
    entries: Vec<Entry>,
    index: Index,
    order: Vec<Ordered>,
    /// By tree.
    parts: Vec<Part>,
    /// Parts that are not drained.
    open: AtomicU64,
}

/// What the overlay has of one tree.
#[derive(Debug)]
struct Part {
    root: TreeRoot,
    /// The number that its entries have.
    number: u32,
    /// Its places in the order.
    positions: Range<usize>,
    prefix: Prefix,
    ranges: Vec<ranges::Range>,
    /// Entries and ranges that are not drained.
    left: AtomicU64,
    /// Entries among them that put a value.
    puts: AtomicU64,
    is_open: AtomicBool,
}

impl Part {
    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }
}

/// What the overlay has about a key.
enum Found<'o> {
    Entry(&'o Entry),
    Range(&'o ranges::Range),
}

impl Overlay {
    /// The newest operation of a key. None: the tree has it.
    pub(in crate::store) fn get(&self, tree: TreeRoot, key: &[u8]) -> Option<Newest<'_>> {
        match self.find(self.part(tree)?, key)? {
            Found::Entry(entry) => entry.answers().then(|| entry.newest(&self.arena)),
            Found::Range(range) => range.answers(key).then_some(Newest::Deleted),
        }
    }

    /// Whether the trees have all of it. What was drained is in the trees for whoever reads this.
    pub(in crate::store) fn is_drained(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// No write that it was made from has a smaller number.
    pub(in crate::store) fn first(&self) -> u64 {
        self.first
    }

    /// The writes in it that are groups of records.
    pub(in crate::store) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// All that it has is of this write.
    pub(in crate::store) fn set_span(&mut self, span: Span) {
        (self.first, self.last) = (span.first, span.last);
        self.spans.extend(Some(span).filter(|span| span.first < span.last));
    }

    /// What it takes of memory, until it is dropped.
    pub(in crate::store) fn size_bytes(&self) -> usize {
        self.arena.used_bytes()
            + self.entries.capacity() * size_of::<Entry>()
            + self.order.capacity() * size_of::<Ordered>()
            + self.index.size_bytes()
    }

    /// Gives up what there is of a tree that was removed, or has another root now. Nobody may have
    /// the old root any more.
    pub(in crate::store) fn retire(&self, tree: TreeRoot) {
        if let Some(part) = self.part(tree) {
            self.close(part);
        }
    }

    /// The part of a tree, while it is not drained.
    fn part(&self, tree: TreeRoot) -> Option<&Part> {
        let at = self.parts.partition_point(|part| part.root.tree < tree.tree);
        self.parts.get(at).filter(|part| part.root == tree && part.is_open())
    }

    fn find<'o>(&'o self, part: &'o Part, key: &[u8]) -> Option<Found<'o>> {
        match self.entry(part, key) {
            Some(entry) => Some(Found::Entry(entry)),
            None => ranges::find(&part.ranges, key).map(Found::Range),
        }
    }

    fn entry(&self, part: &Part, key: &[u8]) -> Option<&Entry> {
        let entry = self.index.find(build::hash(self.seed, part.number, key), |entry| {
            let entry = &self.entries[entry as usize];
            entry.part == part.number && entry.key(&self.arena) == key
        });
        entry.map(|entry| &self.entries[entry as usize]).filter(|entry| !entry.is_gone())
    }

    fn entry_at(&self, position: Position) -> &Entry {
        &self.entries[self.order[position.index()].entry as usize]
    }

    fn record<'o>(&'o self, entry: &'o Entry) -> Record<'o> {
        let number = if entry.number == 0 { self.last } else { entry.number };
        let span = self.spans.binary_search_by_key(&number, |span| span.last);
        let from = span.map_or(number, |at| self.spans[at].first);
        Record { number, from, key: entry.key(&self.arena), newest: entry.newest(&self.arena) }
    }

    /// One entry or range of the part is drained.
    fn settle(&self, part: &Part) {
        if part.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.close(part);
        }
    }

    fn close(&self, part: &Part) {
        if part.is_open.swap(false, Ordering::AcqRel) {
            self.open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
