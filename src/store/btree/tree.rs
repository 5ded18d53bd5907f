//! The tree: pages in memory, read and written by several cores at once.
//!
//! A **reader** goes from the root to the leaf of its key by child words. At each page it compares
//! the page's child word with that of the parent: if they are equal the page is live and has the
//! range that the parent said. It looks into the leaf's area, then into the image.
//!
//! A **writer** goes the same way, and takes a slot of the leaf's area ([`area`](super::area)). If
//! the area is full or frozen, it merges image and area into a new leaf, which replaces the old one
//! by a compare-and-swap of the mapping word.
//!
//! Whoever finds something else than it expects becomes a *visitor* ([`smo`](super::smo)): it goes
//! down again step by step, finishes the structure changes that it meets, and splits or removes
//! what is due. Then it starts over on the fast way.
#![cfg_attr(not(test), expect(dead_code, reason = "the next store is not in use yet"))]

mod content;
mod mapping;
mod merge;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use self::mapping::{Loaded, Pinned};
use super::area::{IntentState, Kind, NewEntry, Refused, Reserved, Written, spin};
use super::image::{EntryKind, InnerImage, LeafImage};
use super::map::{Entry, Filling, Map};
use super::node::{AreaSize, NewNode, NodeMemory, NodeRef, Shape};
use super::smo::{Care, Step, Target, Visitor};
use super::word::{ChildWord, MapView, MapWord, NodeAddress, PageId};
use crate::store::reclaim::{Collector, Guard, Participant, Reclaim};

/// What a node is of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    Removed,
    Moved,
}

impl State {
    fn code(self) -> u8 {
        match self {
            Self::Live => 0,
            Self::Removed => 1,
            Self::Moved => 2,
        }
    }

    fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Live,
            1 => Self::Removed,
            _ => Self::Moved,
        }
    }
}

/// The pages of a store, shared by its cores.
pub(in crate::store) struct Pages<M: NodeMemory> {
    map: Map,
    memory: Arc<M>,
    collector: Arc<Collector<NodeAddress>>,
}

impl<M: NodeMemory> Pages<M> {
    /// Without pages, for at most `max_pages` of them, and for `cores` cores at a time.
    pub(in crate::store) fn new(memory: M, max_pages: u64, cores: usize) -> Arc<Self> {
        Arc::new(Self {
            map: Map::new(max_pages),
            memory: Arc::new(memory),
            collector: Collector::new(cores),
        })
    }

    /// The part of one core. None if there are as many as there may be.
    pub(in crate::store) fn attach(self: &Arc<Self>) -> Option<Core<M>> {
        let participant = self.collector.join(Freeing(Arc::clone(&self.memory)))?;
        Some(Core { pages: Arc::clone(self), participant, filling: RefCell::default() })
    }
}

impl<M: NodeMemory> Drop for Pages<M> {
    fn drop(&mut self) {
        // No core is attached any more, so nobody reads a node, and what was retired is freed.
        for word in self.map.words() {
            if let MapView::Node(address) = word.view() {
                // SAFETY: each node has one mapping word, and nobody else is left.
                drop(unsafe { NewNode::take_back(&*self.memory, address) });
            }
        }
    }
}

/// Frees nodes that nobody can read any more.
struct Freeing<M>(Arc<M>);

impl<M: NodeMemory> Reclaim for Freeing<M> {
    type Garbage = NodeAddress;

    fn free(&self, address: NodeAddress) -> Option<NodeAddress> {
        // SAFETY: the node was unlinked, and no guard from before that is left: only cursors
        // that counted themselves still read it, and then it is given away again.
        let node = unsafe { NewNode::take_back(&*self.0, address) };
        if node.get().pins().load(super::super::atomic::Ordering::Acquire) > 0 {
            return Some(node.publish());
        }
        None
    }
}

/// One core's part of the pages. It stays on its core.
pub(in crate::store) struct Core<M: NodeMemory> {
    pages: Arc<Pages<M>>,
    participant: Participant<Freeing<M>>,
    filling: RefCell<Filling>,
}

impl<M: NodeMemory> Drop for Core<M> {
    fn drop(&mut self) {
        self.pages.map.stop_filling(&mut self.filling.borrow_mut());
    }
}

/// What a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Found<'g> {
    pub(in crate::store) value: &'g [u8],
    pub(in crate::store) is_reference: bool,
    /// In milliseconds since 1970.
    pub(in crate::store) expiry_ms: Option<u64>,
}

/// What a write makes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Change<'v> {
    Put(&'v [u8]),
    /// The value lies elsewhere; these bytes say where.
    PutReference(&'v [u8]),
    Delete,
}

impl<'v> Change<'v> {
    fn entry<'k>(self, key: &'k [u8], tag: u16) -> NewEntry<'k>
    where
        'v: 'k,
    {
        let (kind, value): (_, &'k [u8]) = match self {
            Self::Put(value) => (Kind::Put, value),
            Self::PutReference(reference) => (Kind::Overflow, reference),
            Self::Delete => (Kind::Delete, &[]),
        };
        NewEntry::new(kind, tag, key, value)
    }
}

/// A leaf, and the mapping word that named it.
#[derive(Clone, Copy, Debug)]
struct Leaf<'g> {
    node: NodeRef<'g>,
    word: MapWord,
}

/// Where a descent ended.
enum Way<'g> {
    Leaf(Leaf<'g>),
    /// A page was not what its parent said.
    Lost,
}

/// There is no memory for a node, or no page id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct NoRoom;

/// The tag of a key in areas.
fn tag(key: &[u8]) -> u16 {
    let [low, high, ..] = xxh3_64(key).to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Transactions come with a later step: there are no intents.
fn no_intents(_record: u64) -> IntentState {
    IntentState::Aborted
}

impl<M: NodeMemory> Core<M> {
    /// Pins this core. What is found under the guard stays readable.
    pub(in crate::store) fn pin(&self) -> Guard<'_> {
        self.participant.pin()
    }

    /// Makes an empty tree; its root, which never changes.
    ///
    /// # Errors
    ///
    /// If there is no memory or no id for a page.
    pub(in crate::store) fn new_tree(&self) -> Result<ChildWord, NoRoom> {
        let (id, epoch) = self.pages.map.allocate(None, &mut self.filling.borrow_mut()).ok_or(NoRoom)?;
        let root = ChildWord::new(id, epoch);
        let [_, small, ..] = AreaSize::ALL;
        let empty = super::image::LeafBuilder::new(std::iter::empty(), &[]);
        let len = empty.size_bytes();
        let node = NewNode::build(&*self.pages.memory, &Shape::new(root, small, len));
        let Some(mut node) = node else {
            self.pages.map.free(id, MapWord::FREE, epoch);
            return Err(NoRoom);
        };
        empty.write(&mut node.image_mut()[..len]);
        let installed = self.entry(id).replace(MapWord::FREE, MapWord::node(node.publish()));
        debug_assert_eq!(installed, Ok(()), "nobody else has the id");
        Ok(root)
    }

    fn entry(&self, id: PageId) -> &Entry {
        self.pages.map.entry(id).expect("a page that somebody names has an entry")
    }

    /// Frees the node of a word that was replaced, when nobody reads it any more.
    fn retire(&self, word: MapWord) {
        if let MapView::Node(address) = word.view() {
            // The bytes are those of most nodes.
            self.participant.retire(address, 4096);
        }
    }

    /// The fast way down.
    fn descend<'g>(&self, root: ChildWord, key: &[u8], _guard: &'g Guard<'_>) -> Way<'g> {
        let mut child = root;
        loop {
            let word = self.entry(child.id()).word();
            let MapView::Node(address) = word.view() else { return Way::Lost };
            // SAFETY: the word was loaded with Acquire under the guard, which keeps the node.
            let node: NodeRef<'g> = unsafe { NodeRef::at(address) };
            if node.child() != child || node.kind() != State::Live.code() {
                return Way::Lost;
            }
            if node.level() == 0 {
                return Way::Leaf(Leaf { node, word });
            }
            let (_, next) = InnerImage::of_verified(node.image()).child_for(key);
            child = next;
        }
    }

    /// Goes down step by step and finishes what it meets, with this care.
    fn visit<'g>(
        &self,
        pinned: &Pinned<'g, M>,
        target: Target<Vec<u8>>,
        care: Care,
    ) -> Visitor<Vec<u8>, Loaded<'g>> {
        let mut visitor = Visitor::new(pinned, target, care);
        while visitor.step(pinned) != Step::Arrived {}
        visitor
    }

    /// The leaf of a key.
    fn leaf<'g>(&'g self, root: ChildWord, key: &[u8], guard: &'g Guard<'g>) -> Leaf<'g> {
        loop {
            if let Way::Leaf(leaf) = self.descend(root, key, guard) {
                return leaf;
            }
            // It finishes what is in the way.
            let pinned = Pinned::new(self, root, guard);
            self.visit(&pinned, Target::At(key.to_vec()), Care::None);
        }
    }

    /// The value of a key.
    pub(in crate::store) fn get<'g>(
        &'g self,
        root: ChildWord,
        key: &[u8],
        guard: &'g Guard<'g>,
    ) -> Option<Found<'g>> {
        let leaf = self.leaf(root, key, guard).node;
        let newest = leaf.area().lookup(key, tag(key), u64::MAX, no_intents).newest;
        found(leaf, key, newest)
    }

    /// Changes a key. `draw` gives the sequence number of the write; it is called again, for another
    /// number, if the one before became void. Its argument is that of
    /// [`Settled::must_list`](super::area::Settled::must_list).
    ///
    /// # Errors
    ///
    /// If there is no memory or no id for a page. Nothing was written then.
    pub(in crate::store) fn write(
        &self,
        root: ChildWord,
        key: &[u8],
        change: Change<'_>,
        mut draw: impl FnMut(bool) -> u64,
    ) -> Result<u64, NoRoom> {
        let entry = change.entry(key, tag(key));
        let guard = self.pin();
        loop {
            let leaf = self.leaf(root, key, &guard);
            match leaf.node.area().write(&entry, spin, &mut draw) {
                Written::Live(seq) => {
                    if change == Change::Delete {
                        self.remove_if_empty(root, key, leaf.node, &guard);
                    }
                    return Ok(seq);
                }
                Written::Aborted(_) => {}
                Written::Refused(_) => self.make_room(root, key, leaf, &entry, &guard)?,
            }
        }
    }

    /// Reads a key, and makes the change that `decide` answers with, if any: no other write of the
    /// key comes in between. `decide` gets an empty buffer for a new value, and may be called
    /// several times. The number of the write.
    ///
    /// # Errors
    ///
    /// If there is no memory or no id for a page. Nothing was written then.
    pub(in crate::store) fn update(
        &self,
        root: ChildWord,
        key: &[u8],
        mut decide: impl for<'v> FnMut(Option<Found<'_>>, &'v mut Vec<u8>) -> Option<Change<'v>>,
        mut draw: impl FnMut(bool) -> u64,
    ) -> Result<Option<u64>, NoRoom> {
        let tag = tag(key);
        let mut value = Vec::new();
        let guard = self.pin();
        loop {
            let leaf = self.leaf(root, key, &guard);
            let view = leaf.node.area().view(tag, spin);
            let newest = leaf.node.area().lookup_in(view, key, tag, no_intents).newest;
            value.clear();
            let Some(change) = decide(found(leaf.node, key, newest), &mut value) else { return Ok(None) };
            let entry = change.entry(key, tag);
            match leaf.node.area().reserve_at(view, &entry) {
                Err(Refused::Changed) => {}
                Err(Refused::Full | Refused::Frozen) => self.make_room(root, key, leaf, &entry, &guard)?,
                Ok(reserved) => {
                    if let Written::Live(seq) = Reserved::finish(reserved, spin, &mut draw) {
                        if change == Change::Delete {
                            self.remove_if_empty(root, key, leaf.node, &guard);
                        }
                        return Ok(Some(seq));
                    }
                }
            }
        }
    }

    /// Replaces a leaf whose area has no room for `entry` by one, or two, with room.
    fn make_room(
        &self,
        root: ChildWord,
        key: &[u8],
        leaf: Leaf<'_>,
        entry: &NewEntry<'_>,
        guard: &Guard<'_>,
    ) -> Result<(), NoRoom> {
        let pinned = Pinned::new(self, root, guard).for_entry(entry.room_bytes());
        leaf.node.area().freeze();
        leaf.node.area().decide_all(spin);
        if !pinned.consolidate(leaf) && !pinned.is_out_of_room() {
            // It is too large for one page: the visitor splits it.
            self.visit(&pinned, Target::At(key.to_vec()), Care::Shape);
        }
        if pinned.is_out_of_room() { Err(NoRoom) } else { Ok(()) }
    }

    /// The entries of the leaf of `target` that lie ahead of it, and where the next leaf begins: the
    /// smallest key above them, or, backwards, the key that the next ones are below.
    pub(in crate::store) fn scan_leaf(
        &self,
        root: ChildWord,
        target: Target<Vec<u8>>,
        mut each: impl FnMut(&[u8], Found<'_>),
    ) -> Option<Vec<u8>> {
        let guard = self.pin();
        let pinned = Pinned::new(self, root, &guard);
        let is_backwards = matches!(target, Target::Below(_));
        let visitor = self.visit(&pinned, target, Care::None);
        let leaf = visitor.arrived().page.node().expect("a visitor arrives at a leaf");
        let mut entries = merge::merged(leaf);
        if is_backwards {
            entries.reverse();
        }
        let mut key = Vec::new();
        for entry in entries {
            key.clear();
            entry.key.append_to(&mut key);
            if visitor.is_ahead(&key) {
                each(&key, of_entry(&entry));
            }
        }
        if is_backwards { visitor.lower().cloned() } else { visitor.upper().cloned() }
    }

    /// Removes the leaf if a delete has left nothing in it.
    fn remove_if_empty(&self, root: ChildWord, key: &[u8], leaf: NodeRef<'_>, guard: &Guard<'_>) {
        if leaf.area().taken() < LeafImage::of_verified(leaf.image()).len() || !merge::merged(leaf).is_empty()
        {
            return;
        }
        let pinned = Pinned::new(self, root, guard);
        self.visit(&pinned, Target::At(key.to_vec()), Care::Empty);
    }
}

/// What the leaf has of a key, whose newest entry in the area is `newest`.
fn found<'g>(leaf: NodeRef<'g>, key: &[u8], newest: Option<super::area::Entry<'g>>) -> Option<Found<'g>> {
    if let Some(entry) = newest {
        let of_area = |is_reference| Found { value: entry.value, is_reference, expiry_ms: entry.expiry_ms };
        match entry.kind {
            Kind::Put | Kind::Cached => return Some(of_area(false)),
            Kind::Overflow => return Some(of_area(true)),
            Kind::Delete | Kind::CachedAbsence => return None,
            // Nobody writes such yet.
            Kind::Merge | Kind::Intent => {}
        }
    }
    LeafImage::of_verified(leaf.image()).find(key).map(|entry| of_entry(&entry))
}

fn of_entry<'g>(entry: &super::image::Entry<'g>) -> Found<'g> {
    Found { value: entry.value, is_reference: entry.kind == EntryKind::Reference, expiry_ms: entry.expiry_ms }
}
