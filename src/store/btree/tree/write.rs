//! Writes: a slot in the area of the key's leaf, and what is to be done if that has no room.

use super::content::{Separator, is_small_leaf};
use super::mapping::Pinned;
use super::merge;
use super::{Change, Leaf, Refusal, TreeRoot, Value, found, no_intents, tag};
use crate::store::btree::area::{Kind, NewEntry, Refused, Reserved, Written, spin};
use crate::store::btree::image::{IMAGE_BYTES, KeyParts, LEAF_TARGET_BYTES, LeafImage};
use crate::store::btree::node::{NodeMemory, NodeRef};
use crate::store::btree::nodes::Pin;
use crate::store::btree::smo::{Care, Target};
use crate::store::cache::Room;
use crate::store::events::Event;
use crate::store::word::PageId;

/// The longest image that is made of the reserve. Above [`IMAGE_BYTES`] by what an area holds: of a
/// leaf that is as long as it may be the last writes are to be merged too. A node has room for it.
const RESERVE_IMAGE_BYTES: usize = 20 << 10;

/// Where writes get their sequence numbers from.
pub(in crate::store) trait Numbers {
    /// A number that is not larger than the one which the next [draw](Self::draw) gives.
    fn at_least(&mut self) -> u64;

    /// The number of a write. If that comes to nothing the number is void, and another is drawn.
    fn draw(&mut self) -> u64;

    /// Whether another number may be drawn. If not, the write is refused with
    /// [`Refusal::Again`](super::Refusal::Again).
    fn can_draw(&self) -> bool {
        true
    }

    /// Whether the number may be smaller than that of an earlier change of the page. Then the
    /// keeper hears of the write even if it has heard of that change.
    fn may_be_older(&self) -> bool {
        false
    }
}

/// The number of a write that has drawn it before: of a record that is in the log already, or of a
/// transaction. Writes with larger numbers may have come to the same leaf meanwhile, or before.
pub(in crate::store) struct Known(pub(in crate::store) u64);

impl Numbers for Known {
    fn at_least(&mut self) -> u64 {
        self.0
    }

    fn draw(&mut self) -> u64 {
        self.0
    }

    fn may_be_older(&self) -> bool {
        true
    }
}

/// The same where the log has what is written from an earlier number on: `from`. A transaction that
/// is a group of records has the number of the last of them, and the first one is needed as long.
pub(in crate::store) struct KnownSince {
    pub(in crate::store) number: u64,
    pub(in crate::store) from: u64,
}

impl Numbers for KnownSince {
    fn at_least(&mut self) -> u64 {
        self.from
    }

    fn draw(&mut self) -> u64 {
        self.number
    }

    fn may_be_older(&self) -> bool {
        true
    }
}

/// Numbers without a log.
#[cfg(test)]
impl Numbers for &std::sync::atomic::AtomicU64 {
    fn at_least(&mut self) -> u64 {
        self.load(std::sync::atomic::Ordering::Acquire)
    }

    fn draw(&mut self) -> u64 {
        self.fetch_add(1, std::sync::atomic::Ordering::AcqRel) + 1
    }
}

impl<M: NodeMemory> Pin<'_, M> {
    /// The leaf of a key, for a writer.
    fn leaf(&self, tree: TreeRoot, key: &[u8]) -> Result<Leaf<'_>, Refusal> {
        loop {
            if let Some(leaf) = self.descend(tree, key)? {
                leaf.node.touch();
                return Ok(leaf);
            }
            // It finishes what is in the way.
            self.visit(&Pinned::new(self, tree), at(key), Care::None)?;
        }
    }

    /// The leaf that a write to this key goes to. It may be another one than a reader looks at, who
    /// knows of a leaf that was removed that it had nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::Miss`], and [`Refusal::NoRoom`] if there is none to finish what others have
    /// begun.
    pub(in crate::store) fn leaf_for(&self, tree: TreeRoot, key: &[u8]) -> Result<PageId, Refusal> {
        Ok(self.leaf(tree, key)?.node.child().id())
    }

    /// The number of a write to `leaf`, of which the keeper hears before if it has to.
    fn draw(&self, tree: TreeRoot, leaf: Leaf<'_>, must_list: bool, numbers: &mut impl Numbers) -> u64 {
        if (must_list || numbers.may_be_older()) && self.events().has_keeper() {
            let (page, from) = (leaf.node.child().id(), numbers.at_least());
            self.events().push(Event::Dirty { tree: tree.tree, parent: leaf.parent, page, from });
        }
        numbers.draw()
    }

    /// Changes a key. `numbers` gives the sequence number of the write.
    ///
    /// # Errors
    ///
    /// Each of [`Refusal`]. Nothing was written then.
    pub(in crate::store) fn write(
        &self,
        tree: TreeRoot,
        key: &[u8],
        change: Change<'_>,
        numbers: &mut impl Numbers,
    ) -> Result<u64, Refusal> {
        change.check(key)?;
        let entry = change.entry(key, tag(key));
        let mut patience = Patience::default();
        let mut before = None;
        loop {
            if !numbers.can_draw() {
                return Err(Refusal::Again);
            }
            let leaf = self.leaf(tree, key)?;
            let draw = |must_list| self.draw(tree, leaf, must_list, numbers);
            match leaf.node.area().write(&entry, patience.wait(), draw) {
                Written::Live(seq) => {
                    self.tidy(tree, key, leaf.node, change, before);
                    return Ok(seq);
                }
                Written::Aborted(_) => patience.aborted(),
                Written::Refused(_) => {
                    before = Some(leaf.node.image().len());
                    self.make_room(tree, leaf, &entry)?;
                }
            }
        }
    }

    /// Reads a key, and makes the change that `decide` answers with, if any: no other write of the
    /// key comes in between. `decide` gets `value`, emptied, for a new one, and may be called
    /// several times: then `value` is what its last call made. The number of the write.
    ///
    /// # Errors
    ///
    /// Each of [`Refusal`]. Nothing was written then.
    pub(in crate::store) fn update_in(
        &self,
        value: &mut Vec<u8>,
        tree: TreeRoot,
        key: &[u8],
        mut decide: impl for<'v> FnMut(Option<Value<'_>>, &'v mut Vec<u8>) -> Option<Change<'v>>,
        numbers: &mut impl Numbers,
    ) -> Result<Option<u64>, Refusal> {
        let tag = tag(key);
        let mut patience = Patience::default();
        let mut before = None;
        loop {
            if !numbers.can_draw() {
                return Err(Refusal::Again);
            }
            let leaf = self.leaf(tree, key)?;
            let view = leaf.node.area().view(tag, patience.wait());
            let newest = leaf.node.area().lookup_in(view, key, tag, no_intents).newest;
            value.clear();
            let Some(change) = decide(found(leaf.node, key, newest), value) else { return Ok(None) };
            change.check(key)?;
            let entry = change.entry(key, tag);
            match leaf.node.area().reserve_at(view, &entry) {
                Err(Refused::Changed) => {}
                Err(Refused::Full | Refused::Frozen) => {
                    before = Some(leaf.node.image().len());
                    self.make_room(tree, leaf, &entry)?;
                }
                Ok(reserved) => {
                    let draw = |must_list| self.draw(tree, leaf, must_list, numbers);
                    if let Written::Live(seq) = Reserved::finish(reserved, patience.wait(), draw) {
                        self.tidy(tree, key, leaf.node, change, before);
                        return Ok(Some(seq));
                    }
                    patience.aborted();
                }
            }
        }
    }

    /// The same with a buffer of its own.
    ///
    /// # Errors
    ///
    /// As for [`Pin::update_in`].
    #[cfg(test)]
    pub(in crate::store) fn update(
        &self,
        tree: TreeRoot,
        key: &[u8],
        decide: impl for<'v> FnMut(Option<Value<'_>>, &'v mut Vec<u8>) -> Option<Change<'v>>,
        numbers: &mut impl Numbers,
    ) -> Result<Option<u64>, Refusal> {
        self.update_in(&mut Vec::new(), tree, key, decide, numbers)
    }

    /// Replaces a leaf whose area has no room for `entry` by one, or two, with room.
    ///
    /// | memory | for | what replaces the leaf |
    /// |---|---|---|
    /// | ordinary | all | one or two leaves of the usual size; or a larger one, so that what is full can be emptied |
    /// | the reserve | what makes no more of the leaf than there is | one that is not longer than it was, with a smaller area if need be |
    /// | the reserve | who may use it for everything | as with ordinary memory |
    /// | the reserve | what makes no more of the leaf than there is | one with the usual area |
    ///
    /// So the reserve is used by steps after which no more is in use than before, as long as there
    /// are such: a split leaves more.
    fn make_room(&self, tree: TreeRoot, leaf: Leaf<'_>, entry: &NewEntry<'_>) -> Result<(), Refusal> {
        leaf.node.area().freeze();
        leaf.node.area().decide_all(spin);
        let in_room = |room| Pinned::new(self, tree).for_entry(entry.room_bytes()).in_room(room);
        if self.consolidate_or_split(&in_room(Room::Ordinary), leaf, entry)? {
            return Ok(());
        }
        let no_more = makes_no_more(leaf.node, entry);
        let of_reserve = || in_room(Room::Reserve);
        if no_more && of_reserve().no_longer_than(leaf.node).consolidate(leaf, RESERVE_IMAGE_BYTES) {
            return Ok(());
        }
        if self.room() == Room::Reserve && self.consolidate_or_split(&of_reserve(), leaf, entry)? {
            return Ok(());
        }
        if no_more && of_reserve().consolidate(leaf, RESERVE_IMAGE_BYTES) {
            return Ok(());
        }
        Err(Refusal::NoRoom)
    }

    /// Replaces the leaf by one of the usual size, or splits it, or, if there is no memory for
    /// that, replaces it by a larger one. Whether there was memory for one of them.
    fn consolidate_or_split(
        &self,
        pinned: &Pinned<'_, M>,
        leaf: Leaf<'_>,
        entry: &NewEntry<'_>,
    ) -> Result<bool, Refusal> {
        if pinned.consolidate(leaf, LEAF_TARGET_BYTES) {
            return Ok(true);
        }
        if !pinned.was_out_of_room() {
            // It is too large for its target: the visitor splits it.
            match self.visit(pinned, at(entry.key), Care::Shape) {
                Ok(_) => return Ok(true),
                Err(Refusal::NoRoom) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(pinned.consolidate(leaf, IMAGE_BYTES))
    }

    /// After a write: removes the leaf if a delete has left nothing in it, and packs it if there is
    /// little in it. `before` is the length of the image that it had, if the write has changed
    /// that.
    ///
    /// Without room, or if a page is not in memory, the leaf stays as it is until another write
    /// comes by.
    fn tidy(&self, tree: TreeRoot, key: &[u8], leaf: NodeRef<'_>, change: Change<'_>, before: Option<usize>) {
        let is_delete = change == Change::Delete;
        let is_empty = is_delete
            && leaf.area().taken() >= LeafImage::of_verified(leaf.image()).len()
            && merge::is_empty(leaf);
        if is_empty {
            let _ = self.visit(&Pinned::new(self, tree), at(key), Care::Empty);
        }
        // Once for each image: what an area has more or less is seen when there is the next one.
        let is_shorter = |before| is_delete || leaf.image().len() < before;
        let is_root = leaf.child() == tree.root;
        let is_small = before.is_some_and(is_shorter) && is_small_leaf(leaf) && !is_root;
        // Where a leaf went the pages above may have become small, whatever has its range now.
        if is_empty || is_small {
            // Nobody needs it: it is not for the reserve.
            let pinned = Pinned::new(self, tree).in_room(Room::Ordinary);
            let _ = self.visit(&pinned, at(key), Care::Small);
        }
    }
}

/// Where a visitor for a key goes.
fn at(key: &[u8]) -> Target<Separator<'_>> {
    Target::At(Separator::Lies(KeyParts::whole(key)))
}

/// Whether the leaf is not larger with `entry` than it is: a delete, or an overwrite by something
/// that is not longer.
fn makes_no_more(leaf: NodeRef<'_>, entry: &NewEntry<'_>) -> bool {
    let newest = leaf.area().lookup(entry.key, entry.tag, u64::MAX, no_intents).newest;
    let is_no_longer = |before: Value<'_>| {
        entry.value.len() <= before.value.len() && (entry.expiry_ms.is_none() || before.expiry_ms.is_some())
    };
    entry.kind == Kind::Delete || found(leaf, entry.key, newest).is_some_and(is_no_longer)
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
