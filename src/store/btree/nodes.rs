//! Nodes in memory: found by the mapping, read under a pin, replaced as a whole, freed when nobody
//! can read them any more.
//!
//! This is where a mapping word becomes a reference and an address becomes free memory. What the
//! tree does with nodes is safe code, because of three rules that hold here alone:
//!
//! 1. Only [`Pin::install`], [`Pin::create`] and [`Pin::release`] change mapping words of nodes, so
//!    a node word names a node that [`NodeMemory`] gave, once.
//! 2. A node is retired by whoever replaced its word, after that.
//! 3. A node is reached through a [`Pin`] of the same store, which keeps what it found.

#![cfg_attr(not(test), expect(dead_code, reason = "the next store is not in use yet"))]

use std::cell::RefCell;
use std::ptr;
use std::sync::Arc;

use super::map::{Entry, Filling, Map};
use super::node::{NewNode, NodeMemory, NodeRef, Shape};
use crate::store::atomic::Ordering;
use crate::store::reclaim::{Collector, Guard, Participant, Reclaim};
use crate::store::word::{ChildWord, Epoch, MapView, MapWord, NodeAddress, PageId, SecondWord};

/// The pages of a store, shared by its cores.
pub(in crate::store) struct Nodes<M: NodeMemory> {
    map: Map,
    memory: Arc<M>,
    collector: Arc<Collector<NodeAddress>>,
}

impl<M: NodeMemory> Nodes<M> {
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
        Some(Core { nodes: Arc::clone(self), participant, filling: RefCell::default() })
    }

    /// Where nodes have their memory from.
    pub(in crate::store) fn memory(&self) -> &M {
        &self.memory
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
    /// The node of a page that is in memory.
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

    fn entry(&self, id: PageId) -> &Entry {
        self.map().entry(id).expect("a page that somebody names has an entry")
    }

    /// The node that a word of this store's mapping names, which was loaded under this pin.
    fn node(&self, word: MapWord) -> Option<NodeRef<'_>> {
        let MapView::Node(address) = word.view() else { return None };
        // SAFETY: the word was loaded with Acquire under this pin. So the node was installed, with
        // Release, and if it is retired meanwhile it is not freed before the pin is gone.
        Some(unsafe { NodeRef::at(address) })
    }

    /// A page's node and the word that names it; None if it is not in memory.
    #[inline]
    pub(super) fn find(&self, id: PageId) -> Option<(NodeRef<'_>, MapWord)> {
        let word = self.entry(id).word();
        Some((self.node(word)?, word))
    }

    /// All that the mapping says of a page.
    pub(super) fn load(&self, id: PageId) -> Found<'_> {
        let (word, second) = self.entry(id).load();
        Found { word, second, node: self.node(word) }
    }

    /// A node of this shape, to be filled. None if there is no memory.
    pub(super) fn build(&self, shape: &Shape) -> Option<NewNode<'_, M>> {
        NewNode::build(self.memory(), shape)
    }

    /// Replaces what `current` says of a page by a new node. False if the page is something else
    /// by now; the node is freed then.
    pub(super) fn install(&self, id: PageId, current: MapWord, new: NewNode<'_, M>) -> bool {
        assert!(ptr::eq(new.memory(), self.memory()), "a node goes where its memory is known");
        let address = new.publish();
        if self.entry(id).replace(current, MapWord::node(address)).is_ok() {
            self.retire(current);
            return true;
        }
        // SAFETY: the node was published a moment ago and not installed: nobody else knows it.
        drop(unsafe { NewNode::take_back(self.memory(), address) });
        false
    }

    /// Takes a free id, and makes a page of the node that `build` makes for it. None if there is no
    /// id, or `build` has none.
    pub(super) fn create<'p>(
        &'p self,
        build: impl FnOnce(ChildWord) -> Option<NewNode<'p, M>>,
    ) -> Option<ChildWord> {
        let (id, epoch) = self.map().allocate(None, &mut self.core.filling.borrow_mut())?;
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
        if self.map().free(id, current, epoch) {
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
