//! The tree: pages in memory, read and written by several cores at once.
//!
//! A **reader** goes from the root to the leaf of its key by child words. At each page it compares
//! the page's child word with that of the parent: if they are equal the page is live and has the
//! range that the parent said. If the page is one epoch ahead the reader does as the page says: it
//! goes on to the right half of a split, reads what moved to the root, finds nothing in what was
//! removed. So reading needs no memory. It looks into the leaf's area, then into the image.
//!
//! A **writer** enters only pages that are as their parents say, and takes a slot of the leaf's
//! area ([`area`](super::area)). If the area is full or frozen, it merges image and area into a new
//! leaf, which replaces the old one by a compare-and-swap of the mapping word.
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
use super::image::{
    self, EntryKind, IMAGE_BYTES, InnerImage, LEAF_TARGET_BYTES, LeafBuilder, LeafImage, MAX_KEY_BYTES,
    MAX_LEAF_VALUE_BYTES, VALUE_REFERENCE_BYTES,
};
use super::node::{AreaSize, NodeMemory, NodeRef, Shape};
use super::nodes::{Core, Pin};
use super::smo::{Care, Step, Target, Visitor};
use crate::store::word::{ChildWord, MapWord};

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
    PutReference(&'v [u8; VALUE_REFERENCE_BYTES]),
    Delete,
}

impl<'v> Change<'v> {
    /// Whether key and value fit a leaf.
    fn check(self, key: &[u8]) -> Result<(), Refusal> {
        match self {
            _ if key.len() > MAX_KEY_BYTES => Err(Refusal::KeyTooLong),
            Self::Put(value) if value.len() > MAX_LEAF_VALUE_BYTES => Err(Refusal::ValueTooLong),
            _ => Ok(()),
        }
    }

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

/// Why a write was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Refusal {
    /// There is no memory for a node, or no page id. A number that was drawn for the write is void.
    NoRoom,
    /// The key is longer than [`MAX_KEY_BYTES`].
    KeyTooLong,
    /// The value is longer than [`MAX_LEAF_VALUE_BYTES`], and is to lie elsewhere.
    ValueTooLong,
}

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
    /// [`Refusal::NoRoom`].
    pub(in crate::store) fn new_tree(&self) -> Result<ChildWord, Refusal> {
        let pin = self.pin();
        let empty = LeafBuilder::new(std::iter::empty(), &[]);
        let len = empty.size_bytes();
        let root = pin.create(|child| {
            let [_, small, ..] = AreaSize::ALL;
            let mut node = pin.build(&Shape::new(child, small, len))?;
            empty.write(&mut node.image_mut()[..len]);
            Some(node)
        });
        root.ok_or(Refusal::NoRoom)
    }
}

impl<M: NodeMemory> Pin<'_, M> {
    /// The way down of a writer, which enters pages that are as their parents say.
    fn descend(&self, root: ChildWord, key: &[u8]) -> Option<Leaf<'_>> {
        let mut child = root;
        loop {
            let (node, word) = self.find(child.id())?;
            if node.child() != child || node.kind() != State::Live.code() {
                return None;
            }
            if node.level() == 0 {
                return Some(Leaf { node, word });
            }
            (_, child) = InnerImage::of_verified(node.image()).child_for(key);
        }
    }

    /// The way down of a reader, which changes nothing: where a change is not in the parent yet it
    /// does as the page says. None if no page has the key's range at a moment of this call.
    fn descend_to_read(&self, root: ChildWord, key: &[u8]) -> Option<NodeRef<'_>> {
        let mut child = root;
        loop {
            let Some((node, _)) = self.find(child.id()) else {
                // The parent that was read is old.
                child = root;
                continue;
            };
            let is_ahead = node.child() == ChildWord::new(child.id(), child.epoch().next());
            match State::of_code(node.kind()) {
                State::Live if node.child() == child => {}
                State::Live if is_ahead => match pending(node) {
                    Some(split) if split.separator <= key => {
                        child = split.right;
                        continue;
                    }
                    _ => {}
                },
                State::Moved if is_ahead => {}
                State::Removed if is_ahead => return None,
                _ => {
                    child = root;
                    continue;
                }
            }
            if node.level() == 0 {
                return Some(node);
            }
            (_, child) = InnerImage::of_verified(node.image()).child_for(key);
        }
    }

    /// Goes down step by step and finishes what it meets, with this care. None if there is no room
    /// for what is to be done.
    fn visit<'g>(
        &'g self,
        pinned: &Pinned<'g, M>,
        target: Target<Vec<u8>>,
        care: Care,
    ) -> Option<Visitor<Vec<u8>, Loaded<'g>>> {
        let mut visitor = Visitor::new(pinned, target, care);
        while visitor.step(pinned) != Step::Arrived {
            if pinned.was_out_of_room() {
                return None;
            }
        }
        Some(visitor)
    }

    /// The leaf of a key, for a writer.
    fn leaf(&self, root: ChildWord, key: &[u8]) -> Result<Leaf<'_>, Refusal> {
        loop {
            if let Some(leaf) = self.descend(root, key) {
                return Ok(leaf);
            }
            // It finishes what is in the way.
            let pinned = Pinned::new(self, root);
            self.visit(&pinned, Target::At(key.to_vec()), Care::None).ok_or(Refusal::NoRoom)?;
        }
    }

    /// The value of a key.
    pub(in crate::store) fn get(&self, root: ChildWord, key: &[u8]) -> Option<Value<'_>> {
        let leaf = self.descend_to_read(root, key)?;
        let newest = leaf.area().lookup(key, tag(key), u64::MAX, no_intents).newest;
        found(leaf, key, newest)
    }

    /// Changes a key. `draw` gives the sequence number of the write; it is called again, for
    /// another number, if the one before became void. Its argument is that of
    /// [`Settled::must_list`](super::area::Settled::must_list).
    ///
    /// # Errors
    ///
    /// Each of [`Refusal`]. Nothing was written then.
    pub(in crate::store) fn write(
        &self,
        root: ChildWord,
        key: &[u8],
        change: Change<'_>,
        mut draw: impl FnMut(bool) -> u64,
    ) -> Result<u64, Refusal> {
        change.check(key)?;
        let entry = change.entry(key, tag(key));
        let mut patience = Patience::default();
        loop {
            let leaf = self.leaf(root, key)?;
            match leaf.node.area().write(&entry, patience.wait(), &mut draw) {
                Written::Live(seq) => {
                    if change == Change::Delete {
                        self.remove_if_empty(root, key, leaf.node);
                    }
                    return Ok(seq);
                }
                Written::Aborted(_) => patience.aborted(),
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
    /// Each of [`Refusal`]. Nothing was written then.
    pub(in crate::store) fn update(
        &self,
        root: ChildWord,
        key: &[u8],
        mut decide: impl for<'v> FnMut(Option<Value<'_>>, &'v mut Vec<u8>) -> Option<Change<'v>>,
        mut draw: impl FnMut(bool) -> u64,
    ) -> Result<Option<u64>, Refusal> {
        let tag = tag(key);
        let mut value = Vec::new();
        let mut patience = Patience::default();
        loop {
            let leaf = self.leaf(root, key)?;
            let view = leaf.node.area().view(tag, patience.wait());
            let newest = leaf.node.area().lookup_in(view, key, tag, no_intents).newest;
            value.clear();
            let Some(change) = decide(found(leaf.node, key, newest), &mut value) else { return Ok(None) };
            change.check(key)?;
            let entry = change.entry(key, tag);
            match leaf.node.area().reserve_at(view, &entry) {
                Err(Refused::Changed) => {}
                Err(Refused::Full | Refused::Frozen) => self.make_room(root, key, leaf, &entry)?,
                Ok(reserved) => {
                    if let Written::Live(seq) = Reserved::finish(reserved, patience.wait(), &mut draw) {
                        if change == Change::Delete {
                            self.remove_if_empty(root, key, leaf.node);
                        }
                        return Ok(Some(seq));
                    }
                    patience.aborted();
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
    ) -> Result<(), Refusal> {
        let pinned = Pinned::new(self, root).for_entry(entry.room_bytes());
        leaf.node.area().freeze();
        leaf.node.area().decide_all(spin);
        if pinned.consolidate(leaf, LEAF_TARGET_BYTES) {
            return Ok(());
        }
        // It is too large for its target: the visitor splits it. If there is no room for that, a
        // larger page has to do, so that what is full can be emptied.
        let is_split =
            !pinned.was_out_of_room() && self.visit(&pinned, Target::At(key.to_vec()), Care::Shape).is_some();
        if is_split || pinned.consolidate(leaf, IMAGE_BYTES) { Ok(()) } else { Err(Refusal::NoRoom) }
    }

    /// The entries of the leaf of `target` that lie ahead of it, and where the next leaf begins:
    /// the smallest key above them, or, backwards, the key that the next ones are below.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoRoom`], if there is none to finish what others have begun.
    pub(in crate::store) fn scan_leaf(
        &self,
        root: ChildWord,
        target: Target<Vec<u8>>,
        mut each: impl FnMut(&[u8], Value<'_>),
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let pinned = Pinned::new(self, root);
        let is_backwards = matches!(target, Target::Below(_));
        let visitor = self.visit(&pinned, target, Care::None).ok_or(Refusal::NoRoom)?;
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
        Ok(if is_backwards { visitor.lower().cloned() } else { visitor.upper().cloned() })
    }

    /// Removes the leaf if a delete has left nothing in it.
    fn remove_if_empty(&self, root: ChildWord, key: &[u8], leaf: NodeRef<'_>) {
        if leaf.area().taken() < LeafImage::of_verified(leaf.image()).len() || !merge::merged(leaf).is_empty()
        {
            return;
        }
        let pinned = Pinned::new(self, root);
        // Without room it stays, empty, until another delete comes by.
        self.visit(&pinned, Target::At(key.to_vec()), Care::Empty);
    }
}

/// The split of a page that its parent may not know of.
fn pending(node: NodeRef<'_>) -> Option<image::Change<'_>> {
    let changes = match node.level() {
        0 => LeafImage::of_verified(node.image()).changes(),
        _ => InnerImage::of_verified(node.image()).changes(),
    };
    changes.pending()
}

/// How long a writer waits for a slot of its key that is reserved before it aborts it. Writers that
/// abort each other wait longer each time, and let others run.
#[derive(Default)]
struct Patience {
    aborts: u32,
}

impl Patience {
    fn wait(&self) -> impl FnMut(u32) -> bool + use<> {
        let longer = self.aborts.min(8);
        move |waited| spin(waited >> longer)
    }

    fn aborted(&mut self) {
        self.aborts += 1;
        if self.aborts > 4 {
            std::thread::yield_now();
        }
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
