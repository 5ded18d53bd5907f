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
//!
//! # Pages that are not in memory
//!
//! Nothing here waits. Where a page on its way is cold, an operation ends with a
//! [`Miss`](super::miss::Miss) and nothing has changed; the caller loads the page and calls again.
//!
//! | who meets a cold page | ends with |
//! |---|---|
//! | a reader, a scan | the miss |
//! | a writer, before its number was drawn | the miss |
//! | a visitor that finishes what others began | the miss; private pages that it made are given back |
//! | a visitor that is to remove a leaf, after the write that emptied it | nothing: the write is done. The leaf stays, empty, until another delete comes by; or if it is marked as removed already, until a visitor or the keeper does the rest ([`undone`](super::undone)) |
//!
//! # The keeper
//!
//! Where there is one, the tree says what it does by [events](crate::store::events), takes no id
//! back by itself, and lets pages be [captured](keep).

pub(in crate::store) mod audit;
mod content;
mod flushing;
mod keep;
mod mapping;
mod merge;
#[cfg(test)]
mod tests;
mod write;

use xxhash_rust::xxh3::xxh3_64;

use self::content::Separator;
use self::mapping::{Loaded, Pinned};
use super::area::{self, IntentState, Kind, NewEntry};
use super::image::{
    Entry, EntryKind, InnerImage, KeyParts, LeafBuilder, LeafImage, MAX_KEY_BYTES, MAX_LEAF_VALUE_BYTES,
    PendingSplit, VALUE_REFERENCE_BYTES,
};
use super::miss::Miss;
use super::node::{AreaSize, NodeMemory, NodeRef, Shape};
use super::nodes::{Core, Pin};
use super::smo::{Care, Step, Target, Visitor};
use crate::store::cache::Room;
use crate::store::word::{ChildWord, MapWord, PageId};

#[allow(unused_imports, reason = "the keeper is to use them")]
pub(in crate::store) use self::flushing::{CorePages, DurableHomes};
#[allow(unused_imports, reason = "the keeper is to use them")]
pub(in crate::store) use self::keep::{Capture, Captured};
#[allow(unused_imports, reason = "the keeper is to use them")]
pub(in crate::store) use self::write::{Known, KnownSince, Numbers};

/// A tree: its number, and its root, whose id and epoch never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct TreeRoot {
    pub(in crate::store) tree: u32,
    pub(in crate::store) root: ChildWord,
}

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

/// The longest key and value together that a leaf takes, in bytes. A short key may have a longer
/// value: a page of such has a short separator to its right.
const MAX_ENTRY_BYTES: usize = MAX_KEY_BYTES + 1008;
/// The longest of short keys, in bytes.
const SHORT_KEY_BYTES: usize = 16;

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
            Self::Put(value)
                if value.len() > MAX_LEAF_VALUE_BYTES
                    || key.len() > SHORT_KEY_BYTES && key.len() + value.len() > MAX_ENTRY_BYTES =>
            {
                Err(Refusal::ValueTooLong)
            }
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
    /// The page above it: the leaf itself, if it is the root.
    parent: PageId,
}

/// Why an operation was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Refusal {
    /// There is no memory for a node, or no page id. A number that was drawn for the write is void.
    NoRoom,
    /// The key is longer than [`MAX_KEY_BYTES`].
    KeyTooLong,
    /// The value is longer than a leaf takes, and is to lie elsewhere.
    ValueTooLong,
    /// A page is not in memory. A number that was drawn for the write is void.
    Miss(Miss),
    /// No other number may be drawn ([`Numbers::can_draw`]): the caller starts over.
    Again,
}

impl From<Miss> for Refusal {
    fn from(miss: Miss) -> Self {
        Self::Miss(miss)
    }
}

/// How a reader's way down ended.
enum Way<'g> {
    /// At the leaf of its key, or where no page has the key's range.
    Ends(Option<NodeRef<'g>>),
    /// At a page that is not as its parent says, so that parent is old.
    Old(ChildWord),
}

/// How often a reader starts over. Each time another core has changed the tree meanwhile.
const MOST_STARTS: u32 = 1 << 20;

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
    /// Makes an empty tree with this number.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoRoom`].
    pub(in crate::store) fn new_tree(&self, tree: u32) -> Result<TreeRoot, Refusal> {
        let pin = self.pin();
        let empty = LeafBuilder::new(std::iter::empty(), &[]);
        let len = empty.size_bytes();
        let root = pin.create(None, |child| {
            let [_, small, ..] = AreaSize::ALL;
            let mut node = pin.build(&Shape::new(child, tree, small, len), Room::Ordinary)?;
            empty.write(node.image_mut());
            Some(node)
        });
        Ok(TreeRoot { tree, root: root.ok_or(Refusal::NoRoom)? })
    }
}

impl<M: NodeMemory> Pin<'_, M> {
    /// The way down of a writer, which enters pages that are as their parents say. None if one is
    /// not.
    fn descend(&self, tree: TreeRoot, key: &[u8]) -> Result<Option<Leaf<'_>>, Miss> {
        let (mut child, mut parent) = (tree.root, tree.root.id());
        loop {
            let Some((node, word)) = self.find(child.id())? else { return Ok(None) };
            if node.child() != child || node.kind() != State::Live.code() {
                return Ok(None);
            }
            if node.level() == 0 {
                return Ok(Some(Leaf { node, word, parent }));
            }
            parent = child.id();
            (_, child) = InnerImage::of_verified(node.image()).child_for(key);
        }
    }

    /// The way down of a reader, which changes nothing: where a change is not in the parent yet it
    /// does as the page says. None if no page has the key's range at a moment of this call.
    ///
    /// A reader that finds an old parent starts over. A tree that contradicts itself would send it
    /// round for ever: after [`MOST_STARTS`] it takes the page that it cannot use for damaged.
    fn descend_to_read(&self, tree: TreeRoot, key: &[u8]) -> Result<Option<NodeRef<'_>>, Miss> {
        let mut child = tree.root;
        for _ in 0..MOST_STARTS {
            match self.descend_once(tree.root, key)? {
                Way::Ends(leaf) => return Ok(leaf),
                Way::Old(found) => child = found,
            }
        }
        Err(Miss::Damaged(child.id()))
    }

    fn descend_once(&self, root: ChildWord, key: &[u8]) -> Result<Way<'_>, Miss> {
        let mut child = root;
        loop {
            let Some((node, _)) = self.find(child.id())? else { return Ok(Way::Old(child)) };
            let is_as_said = node.child() == child && node.kind() == State::Live.code();
            if !is_as_said {
                match turn(node, child, key) {
                    Turn::Stay => {}
                    Turn::To(right) => {
                        child = right;
                        continue;
                    }
                    Turn::Ends => return Ok(Way::Ends(None)),
                    Turn::Old => return Ok(Way::Old(child)),
                }
            }
            if node.level() == 0 {
                return Ok(Way::Ends(Some(node)));
            }
            (_, child) = InnerImage::of_verified(node.image()).child_for(key);
        }
    }

    /// Goes down step by step and finishes what it meets, with this care. An error if a page on the
    /// way is not in memory, or if there is no room for what is to be done; what was made for that
    /// is given back, and what was begun is the keeper's to finish ([`undone`](super::undone)).
    fn visit<'g>(
        &'g self,
        pinned: &Pinned<'g, M>,
        target: Target<Separator<'g>>,
        care: Care,
    ) -> Result<Visitor<Separator<'g>, Loaded<'g>>, Refusal> {
        let mut visitor = Visitor::new(pinned, target.clone(), care);
        while visitor.step(pinned) != Step::Arrived {
            let stop = match pinned.miss() {
                Some(miss) => Some(Refusal::Miss(miss)),
                None => pinned.was_out_of_room().then_some(Refusal::NoRoom),
            };
            if let Some(refusal) = stop {
                visitor.give_up(pinned);
                for marked in pinned.marked() {
                    self.leave_undone(pinned.root_of(), &target, marked);
                }
                return Err(refusal);
            }
        }
        Ok(visitor)
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// A page on the way is not in memory.
    pub(in crate::store) fn get(&self, tree: TreeRoot, key: &[u8]) -> Result<Option<Value<'_>>, Miss> {
        let tag = tag(key);
        let Some(leaf) = self.descend_to_read(tree, key)? else { return Ok(None) };
        leaf.touch();
        let newest = leaf.area().lookup(key, tag, u64::MAX, no_intents).newest;
        Ok(found(leaf, key, newest))
    }

    /// The smallest key that a leaf may have, for one that is chosen child by child, each as likely
    /// as the others. Leaves are about as full as each other, and so are inner pages, so it is any
    /// leaf about as likely as another.
    ///
    /// # Errors
    ///
    /// A page on the way is not in memory.
    pub(in crate::store) fn random_bound(
        &self,
        tree: TreeRoot,
        random: &mut impl FnMut() -> u64,
    ) -> Result<Vec<u8>, Miss> {
        let (mut child, mut bound) = (tree.root, Vec::new());
        while let Some((node, _)) = self.find(child.id())? {
            // What a split has moved away, and the parent does not know of, counts as its
            // neighbour.
            if node.kind() != State::Live.code() || node.level() == 0 {
                break;
            }
            let image = InnerImage::of_verified(node.image());
            let at = usize::try_from(random() % image.len() as u64).unwrap_or(0);
            if at > 0 {
                bound = image.separator(at - 1).to_vec();
            }
            child = image.child(at);
        }
        Ok(bound)
    }

    /// The entries of the leaf of `target` that lie ahead of it, and where the next leaf begins:
    /// the smallest key above them, or, backwards, the key that the next ones are below.
    ///
    /// # Errors
    ///
    /// [`Refusal::Miss`], and [`Refusal::NoRoom`] if there is none to finish what others have
    /// begun.
    pub(in crate::store) fn scan_leaf(
        &self,
        tree: TreeRoot,
        target: &Target<Vec<u8>>,
        mut each: impl FnMut(&[u8], Value<'_>),
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let lies = |key| Separator::Lies(KeyParts::whole(key));
        let (target, is_backwards) = match target {
            Target::At(key) => (Target::At(lies(key)), false),
            Target::Below(key) => (Target::Below(key.as_deref().map(lies)), true),
        };
        let pinned = Pinned::new(self, tree);
        let visitor = self.visit(&pinned, target, Care::None)?;
        let leaf = visitor.arrived().page.node().expect("a visitor arrives at a leaf");
        let mut entries = merge::merged(leaf);
        if is_backwards {
            entries.reverse();
        }
        let mut key = Vec::new();
        for entry in entries.iter().filter(|entry| visitor.is_ahead(&Separator::Lies(entry.key))) {
            key.clear();
            entry.key.append_to(&mut key);
            each(&key, of_entry(entry));
        }
        let next = if is_backwards { visitor.lower() } else { visitor.upper() };
        Ok(next.map(Separator::to_vec))
    }
}

/// What a reader does at a page that is not as its parent says.
enum Turn {
    /// It goes on here.
    Stay,
    To(ChildWord),
    /// No page has the key's range.
    Ends,
    /// The parent is older than that.
    Old,
}

/// What a reader of `key` does at `node`, which is not as `child` says. Rare.
#[cold]
fn turn(node: NodeRef<'_>, child: ChildWord, key: &[u8]) -> Turn {
    if node.child() != ChildWord::new(child.id(), child.epoch().next()) {
        return Turn::Old;
    }
    match State::of_code(node.kind()) {
        State::Live => match pending(node) {
            Some(split) if split.separator <= key => Turn::To(split.right),
            _ => Turn::Stay,
        },
        // It has what the tree has of its range, until the page above is changed.
        State::Moved => Turn::Stay,
        State::Removed => Turn::Ends,
    }
}

/// The split of a page that its parent may not know of.
fn pending(node: NodeRef<'_>) -> Option<PendingSplit<'_>> {
    let changes = match node.level() {
        0 => LeafImage::of_verified(node.image()).changes(),
        _ => InnerImage::of_verified(node.image()).changes(),
    };
    changes.pending()
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
            Kind::Intent => {}
        }
    }
    LeafImage::of_verified(leaf.image()).find(key).map(|entry| of_entry(&entry))
}

fn of_entry<'g>(entry: &Entry<'g>) -> Value<'g> {
    Value { value: entry.value, is_reference: entry.kind == EntryKind::Reference, expiry_ms: entry.expiry_ms }
}
