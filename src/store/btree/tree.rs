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

use xxhash_rust::xxh3::xxh3_64;

use self::mapping::{Loaded, Pinned};
use super::area::{self, IntentState, Kind, NewEntry, Refused, Reserved, Written, spin};
use super::image::{self, EntryKind, InnerImage, LeafBuilder, LeafImage};
use super::node::{AreaSize, NodeMemory, NodeRef, Shape};
use super::nodes::{Core, Pin};
use super::smo::{Care, Step, Target, Visitor};
use super::word::{ChildWord, MapWord};

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

/// What a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Value<'g> {
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
    /// Makes an empty tree; its root, which never changes.
    ///
    /// # Errors
    ///
    /// If there is no memory or no id for a page.
    pub(in crate::store) fn new_tree(&self) -> Result<ChildWord, NoRoom> {
        let pin = self.pin();
        let empty = LeafBuilder::new(std::iter::empty(), &[]);
        let len = empty.size_bytes();
        let root = pin.create(|child| {
            let [_, small, ..] = AreaSize::ALL;
            let mut node = pin.build(&Shape::new(child, small, len))?;
            empty.write(&mut node.image_mut()[..len]);
            Some(node)
        });
        root.ok_or(NoRoom)
    }
}

impl<M: NodeMemory> Pin<'_, M> {
    /// The fast way down.
    fn descend(&self, root: ChildWord, key: &[u8]) -> Way<'_> {
        let mut child = root;
        loop {
            let Some((node, word)) = self.find(child.id()) else { return Way::Lost };
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
        &'g self,
        pinned: &Pinned<'g, M>,
        target: Target<Vec<u8>>,
        care: Care,
    ) -> Visitor<Vec<u8>, Loaded<'g>> {
        let mut visitor = Visitor::new(pinned, target, care);
        while visitor.step(pinned) != Step::Arrived {}
        visitor
    }

    /// The leaf of a key.
    fn leaf(&self, root: ChildWord, key: &[u8]) -> Leaf<'_> {
        loop {
            if let Way::Leaf(leaf) = self.descend(root, key) {
                return leaf;
            }
            // It finishes what is in the way.
            let pinned = Pinned::new(self, root);
            self.visit(&pinned, Target::At(key.to_vec()), Care::None);
        }
    }

    /// The value of a key.
    pub(in crate::store) fn get(&self, root: ChildWord, key: &[u8]) -> Option<Value<'_>> {
        let leaf = self.leaf(root, key).node;
        let newest = leaf.area().lookup(key, tag(key), u64::MAX, no_intents).newest;
        found(leaf, key, newest)
    }

    /// Changes a key. `draw` gives the sequence number of the write; it is called again, for
    /// another number, if the one before became void. Its argument is that of
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
        loop {
            let leaf = self.leaf(root, key);
            match leaf.node.area().write(&entry, spin, &mut draw) {
                Written::Live(seq) => {
                    if change == Change::Delete {
                        self.remove_if_empty(root, key, leaf.node);
                    }
                    return Ok(seq);
                }
                Written::Aborted(_) => {}
                Written::Refused(_) => self.make_room(root, key, leaf, &entry)?,
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
        mut decide: impl for<'v> FnMut(Option<Value<'_>>, &'v mut Vec<u8>) -> Option<Change<'v>>,
        mut draw: impl FnMut(bool) -> u64,
    ) -> Result<Option<u64>, NoRoom> {
        let tag = tag(key);
        let mut value = Vec::new();
        loop {
            let leaf = self.leaf(root, key);
            let view = leaf.node.area().view(tag, spin);
            let newest = leaf.node.area().lookup_in(view, key, tag, no_intents).newest;
            value.clear();
            let Some(change) = decide(found(leaf.node, key, newest), &mut value) else { return Ok(None) };
            let entry = change.entry(key, tag);
            match leaf.node.area().reserve_at(view, &entry) {
                Err(Refused::Changed) => {}
                Err(Refused::Full | Refused::Frozen) => self.make_room(root, key, leaf, &entry)?,
                Ok(reserved) => {
                    if let Written::Live(seq) = Reserved::finish(reserved, spin, &mut draw) {
                        if change == Change::Delete {
                            self.remove_if_empty(root, key, leaf.node);
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
    ) -> Result<(), NoRoom> {
        let pinned = Pinned::new(self, root).for_entry(entry.room_bytes());
        leaf.node.area().freeze();
        leaf.node.area().decide_all(spin);
        if !pinned.consolidate(leaf) && !pinned.is_out_of_room() {
            // It is too large for one page: the visitor splits it.
            self.visit(&pinned, Target::At(key.to_vec()), Care::Shape);
        }
        if pinned.is_out_of_room() { Err(NoRoom) } else { Ok(()) }
    }

    /// The entries of the leaf of `target` that lie ahead of it, and where the next leaf begins:
    /// the smallest key above them, or, backwards, the key that the next ones are below.
    pub(in crate::store) fn scan_leaf(
        &self,
        root: ChildWord,
        target: Target<Vec<u8>>,
        mut each: impl FnMut(&[u8], Value<'_>),
    ) -> Option<Vec<u8>> {
        let pinned = Pinned::new(self, root);
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
    fn remove_if_empty(&self, root: ChildWord, key: &[u8], leaf: NodeRef<'_>) {
        if leaf.area().taken() < LeafImage::of_verified(leaf.image()).len() || !merge::merged(leaf).is_empty()
        {
            return;
        }
        let pinned = Pinned::new(self, root);
        self.visit(&pinned, Target::At(key.to_vec()), Care::Empty);
    }
}

/// What the leaf has of a key, whose newest entry in the area is `newest`.
fn found<'g>(leaf: NodeRef<'g>, key: &[u8], newest: Option<area::Entry<'g>>) -> Option<Value<'g>> {
    if let Some(entry) = newest {
        let of_area = |is_reference| Value { value: entry.value, is_reference, expiry_ms: entry.expiry_ms };
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

fn of_entry<'g>(entry: &image::Entry<'g>) -> Value<'g> {
    Value { value: entry.value, is_reference: entry.kind == EntryKind::Reference, expiry_ms: entry.expiry_ms }
}
