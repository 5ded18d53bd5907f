//! A leaf for models: nodes behind a mapping word, whose areas are the real ones over memory that
//! loom watches, and whose images are maps. Nothing is freed before the model ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::rc::Rc;

use loom::cell::UnsafeCell;

use crate::store::atomic::{AtomicU64, Ordering};
use crate::store::btree::area::{
    Area, Defect, Entry, Heap, IntentState, Kind, Lookup, NewEntry, Refused, Slots, Written,
};
use crate::store::word::{MapView, MapWord, NodeAddress};

/// A number and the value that was written under it.
pub(super) type Version = (u64, u64);

const ENTRY_BYTES: usize = 24;
/// A writer starts over when another one stands in its way. Models are short, so that ends.
const MAX_ATTEMPTS: usize = 16;

struct Node {
    words: Vec<AtomicU64>,
    heap: Box<[std::cell::UnsafeCell<u64>]>,
    watched: Vec<UnsafeCell<()>>,
    image: BTreeMap<u8, Version>,
    /// Notices a reader to whom the node was not published.
    image_watched: UnsafeCell<()>,
    /// The largest number in the image.
    complete_to: u64,
}

impl Node {
    fn new(capacity: usize, image: BTreeMap<u8, Version>) -> Self {
        let words = capacity * ENTRY_BYTES / 8;
        Self {
            words: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
            heap: (0..words).map(|_| std::cell::UnsafeCell::new(0)).collect(),
            watched: (0..words).map(|_| UnsafeCell::new(())).collect(),
            complete_to: image.values().map(|(seq, _)| *seq).max().unwrap_or(0),
            image,
            image_watched: UnsafeCell::new(()),
        }
    }

    fn area(&self) -> Area<'_> {
        let base = NonNull::from(&*self.heap).cast::<u8>();
        // SAFETY: the heap is 8 bytes times its length long, of cells that may be written to, and
        // lives as long as the borrow of the node. Only areas over the words of this node use it.
        let heap = unsafe { Heap::new(base, self.heap.len() * 8, &self.watched) };
        // SAFETY: the words were made as 0 and are given to areas with this heap only.
        Area::new(unsafe { Slots::new(&self.words, heap) })
    }
}

/// What a writer was told: the number under which it wrote, and those that were void.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) live: Vec<u64>,
    pub(super) void: Vec<u64>,
}

/// A transaction record: 0 open, 1 aborted, 2 + a number committed under it.
pub(super) struct Record(AtomicU64);

impl Record {
    const ABORTED: u64 = 1;

    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(super) fn state(&self) -> IntentState {
        match self.0.load(Ordering::Acquire) {
            0 => IntentState::Open,
            Self::ABORTED => IntentState::Aborted,
            committed => IntentState::Committed(committed - 2),
        }
    }

    pub(super) fn abort(&self) {
        let _ = self.0.compare_exchange(0, Self::ABORTED, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(super) fn commit(&self, seq: u64) -> bool {
        self.0.compare_exchange(0, seq + 2, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// A leaf with its mapping word and the counter of its store.
pub(super) struct Leaf {
    mapping: AtomicU64,
    nodes: RefCell<Vec<Rc<Node>>>,
    counter: AtomicU64,
    capacity: usize,
    defect: Option<Defect>,
    /// How often a writer looks again at a reserved slot before it aborts it.
    patience: u32,
    /// Whether the page is on a list of dirty pages.
    listed: AtomicU64,
    /// The transaction that models have, if they have one.
    pub(super) record: Record,
}

/// The first number that is drawn.
pub(super) const FIRST: u64 = 1;

impl Leaf {
    pub(super) fn new(capacity: usize, defect: Option<Defect>) -> Self {
        let leaf = Self {
            mapping: AtomicU64::new(0),
            nodes: RefCell::new(Vec::new()),
            counter: AtomicU64::new(FIRST),
            capacity,
            defect,
            patience: 0,
            listed: AtomicU64::new(0),
            record: Record::new(),
        };
        let word = leaf.add(Node::new(capacity, BTreeMap::new()));
        leaf.mapping.store(word, Ordering::Release);
        leaf
    }

    pub(super) fn with_patience(self, patience: u32) -> Self {
        Self { patience, ..self }
    }

    fn add(&self, node: Node) -> u64 {
        node.image_watched.with_mut(|_| ());
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Rc::new(node));
        let address = u64::try_from(nodes.len()).expect("few nodes") * NodeAddress::ALIGN;
        MapWord::node(NodeAddress::new(address).expect("a small multiple of the alignment")).bits()
    }

    fn current(&self) -> (u64, Rc<Node>) {
        let word = self.mapping.load(Ordering::Acquire);
        let MapView::Node(address) = MapWord::from_bits(word).expect("a mapping word").view() else {
            panic!("the page has a node");
        };
        let index = usize::try_from(address.get() / NodeAddress::ALIGN - 1).expect("few nodes");
        let node = self.nodes.borrow()[index].clone();
        node.image_watched.with(|_| ());
        (word, node)
    }

    fn wait(&self) -> impl FnMut(u32) -> bool + use<> {
        let patience = self.patience;
        move |waited| {
            let is_patient = waited < patience;
            if is_patient {
                loom::thread::yield_now();
            }
            is_patient
        }
    }

    fn draw(&self, told: &mut Told, must_list: bool) -> u64 {
        if must_list {
            self.listed.store(1, Ordering::Release);
        }
        let seq = self.counter.fetch_add(1, Ordering::AcqRel);
        told.void.push(seq);
        seq
    }

    /// Takes what [`draw`](Self::draw) counted as void, if it is live. True if it is.
    fn note(told: &mut Told, written: Written) -> bool {
        let Written::Live(seq) = written else { return false };
        assert_eq!(told.void.pop(), Some(seq), "the number is the last that was drawn");
        told.live.push(seq);
        true
    }

    fn entry(kind: Kind, key: u8, value: u64, write: impl FnOnce(&NewEntry<'_>) -> Written) -> Written {
        let becomes = (kind == Kind::Intent).then_some(Kind::Put);
        let (key, value) = ([key], value.to_le_bytes());
        write(&NewEntry { becomes, ..NewEntry::new(kind, tag(key[0]), &key, &value) })
    }

    /// A blind write.
    pub(super) fn put(&self, key: u8, value: u64) -> Told {
        let mut told = Told::default();
        for _ in 0..MAX_ATTEMPTS {
            let (word, node) = self.current();
            let area = node.area().with_defect(self.defect);
            let written = Self::entry(Kind::Put, key, value, |new| {
                area.write(new, self.wait(), |must_list| self.draw(&mut told, must_list))
            });
            if Self::note(&mut told, written) {
                return told;
            }
            if let Written::Refused(_) = written {
                self.replace(word, &node);
            }
        }
        panic!("a put ends");
    }

    /// A read-modify-write: adds one to the key's value. It aborts a transaction that has an open
    /// intent on the key.
    pub(super) fn increment(&self, key: u8) -> Told {
        let mut told = Told::default();
        for _ in 0..MAX_ATTEMPTS {
            let (word, node) = self.current();
            let area = node.area().with_defect(self.defect);
            let view = area.view(tag(key), self.wait());
            let found = area.lookup_in(view, &[key], tag(key), |_| self.record.state());
            if found.open_intent.is_some() {
                self.record.abort();
                continue;
            }
            let value = self.newest(&found, &node, key).map_or(0, |(_, value)| value) + 1;
            let written = Self::entry(Kind::Put, key, value, |new| match area.reserve_at(view, new) {
                Ok(reserved) => reserved.finish(self.wait(), |must_list| self.draw(&mut told, must_list)),
                Err(refused) => Written::Refused(refused),
            });
            if Self::note(&mut told, written) {
                return told;
            }
            if let Written::Refused(Refused::Full | Refused::Frozen) = written {
                self.replace(word, &node);
            }
        }
        panic!("an increment ends");
    }

    /// A transaction that writes one key, with its one attempt. `defect` is for its intent alone.
    pub(super) fn transact(&self, key: u8, value: u64, defect: Option<Defect>) -> Told {
        let mut told = Told::default();
        let (_, node) = self.current();
        let area = node.area().with_defect(defect);
        let installed = Self::entry(Kind::Intent, key, value, |new| area.write(new, self.wait(), |_| 0));
        if matches!(installed, Written::Live(_)) {
            let seq = self.draw(&mut told, false);
            if self.record.commit(seq) {
                Self::note(&mut told, Written::Live(seq));
            }
        }
        told
    }

    /// What a reader sees of a key.
    pub(super) fn get(&self, key: u8) -> Option<Version> {
        let (_, node) = self.current();
        let found = node.area().lookup(&[key], tag(key), u64::MAX, |_| self.record.state());
        self.newest(&found, &node, key)
    }

    /// The newest version of a key, of area and image.
    fn newest(&self, found: &Lookup<'_>, node: &Node, key: u8) -> Option<Version> {
        let below = node.image.get(&key).copied();
        let newest = found.newest.map(|entry| (entry.seq, value_of(entry)));
        if found.is_intent && self.defect != Some(Defect::TrustIntents) {
            return newest.max(below);
        }
        newest.or(below)
    }

    /// Replaces the current node by its consolidation.
    pub(super) fn consolidate(&self) {
        let (word, node) = self.current();
        self.replace(word, &node);
    }

    /// Evicts the page and loads it again: its image goes on, without what the area has.
    pub(super) fn evict(&self) {
        let (word, node) = self.current();
        if node.area().with_defect(self.defect).freeze_if_clean() {
            let loaded = self.add(Node::new(self.capacity, node.image.clone()));
            let _ = self.mapping.compare_exchange(word, loaded, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    fn replace(&self, word: u64, node: &Node) {
        let area = node.area().with_defect(self.defect);
        area.freeze();
        area.decide_all(self.wait());
        let mut image = node.image.clone();
        let mut open = Vec::new();
        for entry in area.live() {
            let seq = match (entry.kind, self.record.state()) {
                (Kind::Intent, IntentState::Open) => {
                    open.push(entry);
                    continue;
                }
                (Kind::Intent, IntentState::Aborted) => continue,
                (Kind::Intent, IntentState::Committed(seq)) => seq,
                _ => entry.seq,
            };
            let version = image.entry(entry.key[0]).or_default();
            *version = (seq, value_of(entry)).max(*version);
        }
        let new = Node::new(self.capacity, image);
        for entry in open {
            let carried = new.area().write(&entry.again(), |_| false, |_| entry.seq);
            assert!(matches!(carried, Written::Live(_)), "an area has room for what the one before had");
        }
        let new = self.add(new);
        let _ = self.mapping.compare_exchange(word, new, Ordering::AcqRel, Ordering::Acquire);
    }

    /// What a checkpoint sees: the counter, and then whether the page is on a list.
    pub(super) fn look_at_lists(&self) -> (u64, bool) {
        let counter = self.counter.load(Ordering::Acquire);
        (counter, self.listed.load(Ordering::Acquire) == 1)
    }

    /// When all have ended: every number that was drawn was live or void, as its writer was told,
    /// and nodes have larger numbers in their areas than in their images.
    pub(super) fn check(&self, told: &[&Told]) {
        let mut drawn: Vec<u64> =
            told.iter().flat_map(|told| told.live.iter().chain(&told.void)).copied().collect();
        drawn.sort_unstable();
        let end = self.counter.load(Ordering::Acquire);
        assert_eq!(drawn, (FIRST..end).collect::<Vec<_>>(), "each number is live or void");
        let mut live: Vec<u64> = Vec::new();
        for node in self.nodes.borrow().iter() {
            let entries = || node.area().live().filter(|entry| entry.kind != Kind::Intent);
            assert!(entries().all(|entry| entry.seq > node.complete_to), "numbers grow from node to node");
            live.extend(entries().map(|entry| entry.seq));
        }
        if let IntentState::Committed(seq) = self.record.state() {
            live.push(seq);
        }
        live.sort_unstable();
        let mut acknowledged: Vec<u64> = told.iter().flat_map(|told| &told.live).copied().collect();
        acknowledged.sort_unstable();
        assert_eq!(live, acknowledged, "what is live was acknowledged, once");
    }
}

/// Keys from 10 on have tags of their own, the others have one together.
fn tag(key: u8) -> u16 {
    if key < 10 { 7 } else { key.into() }
}

fn value_of(entry: Entry<'_>) -> u64 {
    u64::from_le_bytes(entry.value.try_into().expect("values have 8 bytes"))
}
