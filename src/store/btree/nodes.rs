//! Nodes in memory: found by the mapping, read under a pin, replaced as a whole, freed when nobody
//! can read them any more.
//!
//! This is where a mapping word becomes a reference and an address becomes free memory. What the
//! tree does with nodes is safe code, because of three rules that hold here alone:
//!
//! 1. Only [`Pin::install`], [`Pin::create`], [`Pin::release`] and what [`cold`] has change mapping
//!    words of nodes, so a node word names a node that [`NodeMemory`] gave, once.
//! 2. A node is retired by whoever replaced its word, after that.
//! 3. A node is reached through a [`Pin`] of the same store, which keeps what it found.
//!
//! Each core has a memory of its own ([`CoreMemories`]): magazines that no other core touches. It
//! builds nodes there, and there it frees what it has retired, whichever core built that.

mod cold;
#[cfg(test)]
mod tests;

#[allow(unused_imports, reason = "whoever loads pages is to use them")]
pub(in crate::store) use cold::{Eviction, LoadedPage, NotInstalled};

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::Arc;

use super::homes::Homes;
use super::image::{Patch, emptied};
use super::map::{Entry, Filling, Lookup, Map};
use super::miss::Miss;
use super::node::{NewNode, NodeMemory, NodeRef, Shape};
use super::undone::Undone;
use crate::store::atomic::Ordering;
use crate::store::cache::{Room, hand};
use crate::store::events::Sink;
use crate::store::reclaim::{Collector, Guard, Participant, Reclaim};
use crate::store::word::{ChildWord, Epoch, MapView, MapWord, NodeAddress, PageId, SecondWord};

/// Where the cores of a store have their memories from.
///
/// # Safety
///
/// Each memory takes back the blocks of all others.
pub(in crate::store) unsafe trait CoreMemories: Send + Sync {
    /// The memory of one core. It stays on its core.
    type OfCore: NodeMemory;

    /// The memory of the calling core.
    fn attach(&self) -> Self::OfCore;
}

// SAFETY: a clone of a memory is that memory once more.
unsafe impl<M: NodeMemory + Clone + Send + Sync> CoreMemories for M {
    type OfCore = M;

    fn attach(&self) -> M {
        self.clone()
    }
}

/// The pages of a store, shared by its cores.
pub(in crate::store) struct Nodes<M: NodeMemory> {
    map: Map,
    homes: Homes,
    memories: Box<dyn CoreMemories<OfCore = M>>,
    collector: Arc<Collector<NodeAddress>>,
    undone: Undone,
}

impl<M: NodeMemory> Nodes<M> {
    /// Without pages, for at most `max_pages` of them, and for `cores` cores at a time.
    pub(in crate::store) fn new(
        memories: impl CoreMemories<OfCore = M> + 'static,
        max_pages: u64,
        cores: usize,
    ) -> Arc<Self> {
        Self::over(Map::new(max_pages), memories, cores)
    }

    /// The pages of this mapping, for `cores` cores at a time.
    pub(in crate::store) fn over(
        map: Map,
        memories: impl CoreMemories<OfCore = M> + 'static,
        cores: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            map,
            homes: Homes::default(),
            memories: Box::new(memories),
            collector: Collector::new(cores),
            undone: Undone::default(),
        })
    }

    /// The part of one core, of a store without a keeper. None if there are as many as there may
    /// be.
    pub(in crate::store) fn attach(self: &Arc<Self>) -> Option<Core<M>> {
        self.attach_with(Sink::Nobody)
    }

    /// The part of one core, whose events go to `events`. None if there are as many as there may
    /// be.
    pub(in crate::store) fn attach_with(self: &Arc<Self>, events: Sink) -> Option<Core<M>> {
        let participant = self.collector.join(Freeing(self.memories.attach()))?;
        let (filling, patches) = Default::default();
        Some(Core { nodes: Arc::clone(self), participant, filling, events, patches })
    }

    /// Bytes of nodes that are in no page any more and not freed yet. Exact if no core changes it
    /// at this moment.
    pub(in crate::store) fn retired_bytes(&self) -> u64 {
        self.collector.retired_bytes()
    }

    /// Where pages are.
    pub(in crate::store) fn map(&self) -> &Map {
        &self.map
    }

    /// What is durable of those that are in memory.
    pub(in crate::store) fn homes(&self) -> &Homes {
        &self.homes
    }

    /// How many pages there are, while nobody changes that.
    pub(in crate::store) fn pages_in_use(&self) -> usize {
        self.map.words().filter(|word| *word != MapWord::FREE).count()
    }
}

impl<M: NodeMemory> Drop for Nodes<M> {
    fn drop(&mut self) {
        // Of no core any more: it is gone at the end of this.
        let memory = self.memories.attach();
        for word in self.map.words() {
            if let MapView::Node(address) = word.view() {
                // SAFETY: one word names the node. Cores keep the `Nodes` alive, so none is left,
                // and so is no pin.
                drop(unsafe { NewNode::take_back(&memory, address) });
            }
        }
    }
}

/// Frees nodes that nobody can read any more, into the memory of the core that frees.
struct Freeing<M>(M);

impl<M: NodeMemory> Reclaim for Freeing<M> {
    type Garbage = NodeAddress;

    fn free(&self, address: NodeAddress) -> Option<NodeAddress> {
        // SAFETY: the node was retired, so no word names it, and no pin from before that is left.
        // Cursors that counted themselves may still read it: then it is given away again.
        let node = unsafe { NewNode::take_back(&self.0, address) };
        (node.get().pins().load(Ordering::Acquire) > 0).then(|| node.publish())
    }
}

/// One core's part of the pages. It stays on its core.
pub(in crate::store) struct Core<M: NodeMemory> {
    nodes: Arc<Nodes<M>>,
    participant: Participant<Freeing<M>>,
    filling: RefCell<Filling>,
    events: Sink,
    /// An empty list that has room, for changes of leaves: one is made anew every ten writes.
    patches: Cell<Vec<Patch<'static>>>,
}

impl<M: NodeMemory> Core<M> {
    /// Pins this core: nodes that are found under the pin stay. It must not be held across an
    /// await.
    pub(in crate::store) fn pin(&self) -> Pin<'_, M> {
        self.pin_with(Room::Ordinary)
    }

    /// The same, and `room` says which memory may be used for new nodes.
    pub(in crate::store) fn pin_with(&self, room: Room) -> Pin<'_, M> {
        Pin { core: self, room, _guard: self.participant.pin() }
    }

    /// This core's memory of nodes.
    pub(in crate::store) fn memory(&self) -> &M {
        &self.participant.reclaim().0
    }

    /// Frees nodes that were replaced, as far as nobody reads them: all that this core has replaced
    /// so far, if no core is pinned meanwhile and they are not too many for three steps.
    pub(in crate::store) fn collect(&self) {
        for _ in 0..3 {
            self.participant.collect();
        }
    }
}

impl<M: NodeMemory> Drop for Core<M> {
    fn drop(&mut self) {
        self.nodes.map.stop_filling(&mut self.filling.borrow_mut());
    }
}

/// What a mapping entry said in one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'p> {
    pub(super) word: MapWord,
    pub(super) second: SecondWord,
    /// The node of a page; None if the id is free.
    pub(super) node: Option<NodeRef<'p>>,
}

/// A core that is pinned.
pub(in crate::store) struct Pin<'c, M: NodeMemory> {
    core: &'c Core<M>,
    /// Of new nodes.
    room: Room,
    _guard: Guard<'c>,
}

impl<M: NodeMemory> Pin<'_, M> {
    fn map(&self) -> &Map {
        &self.core.nodes.map
    }

    fn memory(&self) -> &M {
        self.core.memory()
    }

    pub(super) fn homes(&self) -> &Homes {
        &self.core.nodes.homes
    }

    /// Where the core's events go.
    pub(super) fn events(&self) -> &Sink {
        &self.core.events
    }

    /// Changes of shape that visitors could not finish.
    pub(super) fn undone(&self) -> &Undone {
        &self.core.nodes.undone
    }

    fn entry(&self, id: PageId) -> Result<&Entry, Miss> {
        match self.map().entry(id) {
            Lookup::Entry(entry) => Ok(entry),
            Lookup::Absent(frame) => Err(Miss::Frame(frame)),
            // Whoever names such a page has read something that is damaged.
            Lookup::Never => Err(Miss::Damaged(id)),
        }
    }

    /// The node that a word of this store's mapping names, which was loaded under this pin.
    fn node(&self, word: MapWord) -> Option<NodeRef<'_>> {
        let MapView::Node(address) = word.view() else { return None };
        // SAFETY: the word was loaded with Acquire under this pin. So the node was installed, with
        // Release, and if it is retired meanwhile it is not freed before the pin is gone.
        Some(unsafe { NodeRef::at(address) })
    }

    /// A page's node and the word that names it; None if the id is free.
    #[inline]
    pub(super) fn find(&self, id: PageId) -> Result<Option<(NodeRef<'_>, MapWord)>, Miss> {
        let word = self.entry(id)?.word();
        match self.node(word) {
            Some(node) => {
                node.prefetch();
                Ok(Some((node, word)))
            }
            None => self.load(id).map(|Found { word, node, .. }| Some((node?, word))),
        }
    }

    /// All that the mapping says of a page.
    pub(super) fn load(&self, id: PageId) -> Result<Found<'_>, Miss> {
        let (word, second) = self.entry(id)?.load();
        match Miss::of_entry(id, word, second) {
            Some(miss) => Err(miss),
            None => Ok(Found { word, second, node: self.node(word) }),
        }
    }

    /// An empty list of patches, which is to be [kept](Self::keep_patches) when it is done with.
    pub(super) fn take_patches<'p>(&self) -> Vec<Patch<'p>> {
        self.core.patches.take()
    }

    pub(super) fn keep_patches(&self, patches: Vec<Patch<'_>>) {
        self.core.patches.set(emptied(patches));
    }

    /// Which memory may be used for new nodes.
    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// A node of this shape, to be filled. None if there is no memory.
    pub(super) fn build(&self, shape: &Shape, room: Room) -> Option<NewNode<'_, M>> {
        self.build_in(if self.room == Room::Reserve { Room::Reserve } else { room }, shape)
    }

    /// The same in this room, also if the pin may use more.
    pub(super) fn build_in(&self, room: Room, shape: &Shape) -> Option<NewNode<'_, M>> {
        NewNode::build(self.memory(), shape, room)
    }

    /// Replaces what `current` says of a page by a new node. False if the page is something else
    /// by now; the node is freed then.
    pub(super) fn install(&self, id: PageId, current: MapWord, new: NewNode<'_, M>) -> bool {
        if let Some(old) = self.node(current) {
            // The page is as hot as it was.
            new.get().set_touched(old.touched());
        }
        let is_replaced =
            self.put(new, |word| self.entry(id).is_ok_and(|entry| entry.replace(current, word).is_ok()));
        if is_replaced {
            self.retire(current);
        }
        is_replaced
    }

    /// Publishes a new node, whose word `store` stores in the mapping, or not: then it is freed.
    /// Whether it is stored.
    fn put(&self, new: NewNode<'_, M>, store: impl FnOnce(MapWord) -> bool) -> bool {
        assert!(ptr::eq(new.memory(), self.memory()), "a node goes where its memory is known");
        let address = new.publish();
        let is_stored = store(MapWord::node(address));
        if !is_stored {
            // SAFETY: the node was published a moment ago and not stored: nobody else knows it.
            drop(unsafe { NewNode::take_back(self.memory(), address) });
        }
        is_stored
    }

    /// Takes a free id, near `neighbour` if there is one, and makes a page of the node that `build`
    /// makes for it. None if there is no id, or `build` has none.
    pub(super) fn create<'p>(
        &'p self,
        neighbour: Option<PageId>,
        build: impl FnOnce(ChildWord) -> Option<NewNode<'p, M>>,
    ) -> Option<ChildWord> {
        let (id, epoch) = self.map().allocate(neighbour, &mut self.core.filling.borrow_mut())?;
        let child = ChildWord::new(id, epoch);
        match build(child) {
            Some(node) => {
                node.get().set_touched(hand::NEW);
                let installed = self.install(id, MapWord::FREE, node);
                debug_assert!(installed, "nobody else has the id");
                Some(child)
            }
            None => {
                let is_given_back = self.map().free(id, MapWord::FREE, epoch);
                debug_assert!(is_given_back, "nobody else has the id");
                None
            }
        }
    }

    /// Takes this very id, if it is free ([`Map::claim`]).
    pub(super) fn claim(&self, id: PageId) -> bool {
        self.map().claim(id)
    }

    /// Makes the id of a page free, whose word is `current` and is changed by nobody else any more.
    /// Its next use starts from `epoch`.
    pub(super) fn release(&self, id: PageId, current: MapWord, epoch: Epoch) {
        if self.core.nodes.homes.free(self.map(), id, (current, epoch), None).is_some() {
            self.retire(current);
        }
    }

    /// Frees the node of a word that this core replaced, when nobody reads it any more.
    fn retire(&self, word: MapWord) {
        if let Some(node) = self.node(word)
            && let MapView::Node(address) = word.view()
        {
            self.core.participant.retire(address, node.len_bytes());
        }
    }
}
