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

#![cfg_attr(not(test), expect(dead_code, reason = "the next store is not in use yet"))]

mod cold;
#[cfg(test)]
mod tests;

pub(in crate::store) use cold::Eviction;

use std::cell::RefCell;
use std::ptr;
use std::sync::Arc;

use super::homes::{Homes, MapFreeze};
use super::map::{Entry, Filling, Lookup, Map};
use super::miss::Miss;
use super::node::{NewNode, NodeMemory, NodeRef, Room, Shape};
use crate::store::atomic::Ordering;
use crate::store::events::Sink;
use crate::store::reclaim::{Collector, Guard, Participant, Reclaim};
use crate::store::word::{ChildWord, ColdAddress, Epoch, MapView, MapWord, NodeAddress, PageId, SecondWord};

/// The pages of a store, shared by its cores.
pub(in crate::store) struct Nodes<M: NodeMemory> {
    map: Map,
    homes: Homes,
    memory: Arc<M>,
    collector: Arc<Collector<NodeAddress>>,
}

impl<M: NodeMemory> Nodes<M> {
    /// Without pages, for at most `max_pages` of them, and for `cores` cores at a time.
    pub(in crate::store) fn new(memory: M, max_pages: u64, cores: usize) -> Arc<Self> {
        Self::over(Map::new(max_pages), memory, cores)
    }

    /// The pages of this mapping, for `cores` cores at a time.
    pub(in crate::store) fn over(map: Map, memory: M, cores: usize) -> Arc<Self> {
        Arc::new(Self {
            map,
            homes: Homes::default(),
            memory: Arc::new(memory),
            collector: Collector::new(cores),
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
        let participant = self.collector.join(Freeing(Arc::clone(&self.memory)))?;
        Some(Core { nodes: Arc::clone(self), participant, filling: RefCell::default(), events })
    }

    /// Where nodes have their memory from.
    pub(in crate::store) fn memory(&self) -> &M {
        &self.memory
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
        for word in self.map.words() {
            if let MapView::Node(address) = word.view() {
                // SAFETY: one word names the node. Cores keep the `Nodes` alive, so none is left,
                // and so is no pin.
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
        // SAFETY: the node was retired, so no word names it, and no pin from before that is left.
        // Cursors that counted themselves may still read it: then it is given away again.
        let node = unsafe { NewNode::take_back(&*self.0, address) };
        (node.get().pins().load(Ordering::Acquire) > 0).then(|| node.publish())
    }
}

/// One core's part of the pages. It stays on its core.
pub(in crate::store) struct Core<M: NodeMemory> {
    nodes: Arc<Nodes<M>>,
    participant: Participant<Freeing<M>>,
    filling: RefCell<Filling>,
    events: Sink,
}

impl<M: NodeMemory> Core<M> {
    /// Pins this core: nodes that are found under the pin stay. It must not be held across an
    /// await.
    pub(in crate::store) fn pin(&self) -> Pin<'_, M> {
        Pin { core: self, _guard: self.participant.pin() }
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
    _guard: Guard<'c>,
}

impl<M: NodeMemory> Pin<'_, M> {
    fn map(&self) -> &Map {
        &self.core.nodes.map
    }

    fn memory(&self) -> &M {
        &self.core.nodes.memory
    }

    /// Where the core's events go.
    pub(super) fn events(&self) -> &Sink {
        &self.core.events
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
            Some(node) => Ok(Some((node, word))),
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

    /// A node of this shape, to be filled. None if there is no memory.
    pub(super) fn build(&self, shape: &Shape, room: Room) -> Option<NewNode<'_, M>> {
        let node = NewNode::build(self.memory(), shape, Room::Ordinary);
        match room {
            Room::Reserve => node.or_else(|| NewNode::build(self.memory(), shape, Room::Reserve)),
            Room::Ordinary => node,
        }
    }

    /// Replaces what `current` says of a page by a new node. False if the page is something else
    /// by now; the node is freed then.
    pub(super) fn install(&self, id: PageId, current: MapWord, new: NewNode<'_, M>) -> bool {
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

    /// Makes the id of a page free, whose word is `current` and is changed by nobody else any more.
    /// Its next use starts from `epoch`.
    pub(super) fn release(&self, id: PageId, current: MapWord, epoch: Epoch) {
        if self.core.nodes.homes.free(self.map(), id, (current, epoch), None).is_some() {
            self.retire(current);
        }
    }

    /// The keeper makes an id free, since a bundle is durable that says so: `freed` is the id, and
    /// the epoch that its next use starts from. Where the page's last image lay, if it had one.
    pub(in crate::store) fn release_durable(
        &self,
        freed: ChildWord,
        freeze: &mut MapFreeze,
    ) -> Option<ColdAddress> {
        let current = self.map().entry(freed.id()).loaded()?.word();
        let step = (current, freed.epoch());
        let left = self.core.nodes.homes.free(self.map(), freed.id(), step, Some(freeze))?;
        self.retire(current);
        left
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
