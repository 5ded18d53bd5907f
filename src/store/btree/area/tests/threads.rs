//! Two threads on one leaf of real nodes, and what an operation costs.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use super::*;
use crate::store::atomic::{AtomicU64, Ordering};
use crate::store::btree::node::NodeRef;
use crate::store::word::{MapView, MapWord, NodeAddress};

/// Keys 0 to 2 are put, this one is incremented.
const COUNTED: u8 = 3;
const KEYS: usize = 4;

/// A leaf whose image is a table of number and value by key.
struct Leaf {
    mapping: AtomicU64,
    counter: AtomicU64,
    /// Freed at the end.
    retired: Mutex<Vec<NodeAddress>>,
}

/// What one thread was told.
#[derive(Default)]
struct Told {
    live: Vec<u64>,
    void: Vec<u64>,
    steps: u32,
}

impl Told {
    /// Between two steps: lets the other thread run, now and then. Without this two threads on a
    /// busy machine take turns of milliseconds, in which nothing meets.
    fn step(&mut self) {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.wrapping_mul(0x9E37_79B9) >> 28 == 0 {
            thread::yield_now();
        }
    }
}

fn version(image: &[u8], key: u8) -> (u64, u64) {
    let number = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("8 bytes"));
    let at = usize::from(key) * 16;
    (number(at), number(at + 8))
}

fn value_of(entry: Entry<'_>) -> u64 {
    u64::from_le_bytes(entry.value.try_into().expect("values have 8 bytes"))
}

fn new_leaf_node() -> Node {
    let shape = Shape::new(ChildWord::from_bits(0), 1, AreaSize::ALL[1], KEYS * 16);
    NewNode::build(&ProcessMemory, &shape, Room::Ordinary).expect("memory")
}

impl Leaf {
    fn new() -> Self {
        let word = MapWord::node(new_leaf_node().publish()).bits();
        Self { mapping: AtomicU64::new(word), counter: AtomicU64::new(1), retired: Mutex::default() }
    }

    fn current(&self) -> (u64, NodeRef<'_>) {
        let word = self.mapping.load(Ordering::Acquire);
        let MapView::Node(address) = MapWord::from_bits(word).expect("a mapping word").view() else {
            panic!("the page has a node");
        };
        // SAFETY: the address was published, the load of the word was Acquire, and nodes are freed
        // when the leaf is dropped.
        (word, unsafe { NodeRef::at(address) })
    }

    fn replace(&self, told: &mut Told, word: u64, node: NodeRef<'_>) {
        node.area().freeze();
        told.step();
        node.area().decide_all(spin);
        let mut new = new_leaf_node();
        let image = new.image_mut();
        image.copy_from_slice(node.image());
        let mut newest = BTreeSet::new();
        for entry in node.area().live().filter(|entry| newest.insert(entry.key[0])) {
            let at = usize::from(entry.key[0]) * 16;
            image[at..at + 8].copy_from_slice(&entry.seq.to_le_bytes());
            image[at + 8..at + 16].copy_from_slice(entry.value);
        }
        told.step();
        let new = new.publish();
        let installed = MapWord::node(new).bits();
        let is_ours =
            self.mapping.compare_exchange(word, installed, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let MapView::Node(old) = MapWord::from_bits(word).expect("a mapping word").view() else {
            panic!("the page had a node");
        };
        self.retired.lock().expect("no panic").push(if is_ours { old } else { new });
    }

    fn write(&self, told: &mut Told, key: u8, value: impl Fn(u64) -> u64, is_blind: bool) {
        loop {
            let (word, node) = self.current();
            let area = node.area();
            let mut drawn = None;
            let mut draw = |told: &mut Told| {
                told.step();
                let seq = *drawn.insert(self.counter.fetch_add(1, Ordering::AcqRel));
                told.step();
                seq
            };
            let written = if is_blind {
                let value = value(0).to_le_bytes();
                area.write(&entry(Kind::Put, &[key], &value), spin, |_| draw(told))
            } else {
                let view = area.view(tag(&[key]), spin);
                let found = area.lookup_in(view, &[key], tag(&[key]), no_intents);
                let before = found.newest.map_or(version(node.image(), key).1, value_of);
                let value = value(before).to_le_bytes();
                told.step();
                match area.reserve_at(view, &entry(Kind::Put, &[key], &value)) {
                    Ok(reserved) => reserved.finish(spin, |_| draw(told)),
                    Err(refused) => Written::Refused(refused),
                }
            };
            match written {
                Written::Live(seq) => return told.live.push(seq),
                Written::Aborted(_) => told.void.extend(drawn),
                Written::Refused(Refused::Changed) => {}
                Written::Refused(_) => self.replace(told, word, node),
            }
        }
    }

    fn get(&self, key: u8) -> (u64, u64) {
        let (_, node) = self.current();
        let newest = node.area().lookup(&[key], tag(&[key]), u64::MAX, no_intents).newest;
        newest.map_or(version(node.image(), key), |entry| (entry.seq, value_of(entry)))
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let MapView::Node(current) = MapWord::from_bits(*self.mapping.get_mut()).expect("a word").view()
        else {
            panic!("the page has a node");
        };
        let retired = std::mem::take(self.retired.get_mut().expect("no panic"));
        for address in retired.into_iter().chain([current]) {
            // SAFETY: each node is in the mapping word or was retired once, and nobody else has the
            // leaf any more.
            drop(unsafe { NewNode::take_back(&ProcessMemory, address) });
        }
    }
}

/// One thread's part: puts, increments, and reads that never go back.
fn work(leaf: &Leaf, rounds: u64, thread: u64) -> Told {
    let mut told = Told::default();
    let mut seen = [0; KEYS];
    for round in 0..rounds {
        let key = u8::try_from(round % 3).expect("small");
        leaf.write(&mut told, key, |_| round << 1 | thread, true);
        let own = *told.live.last().expect("written");
        let (seq, value) = leaf.get(key);
        assert!(seq >= own, "a writer sees its write or a later one");
        assert!(seq > own || value == round << 1 | thread, "a number has one value");
        leaf.write(&mut told, COUNTED, |before| before + 1, false);
        if round % 5 == 0 {
            // An area that is not full, which writers may be at.
            let (word, node) = leaf.current();
            leaf.replace(&mut told, word, node);
        }
        for (key, seen) in (0u8..).zip(&mut seen) {
            let (seq, _) = leaf.get(key);
            assert!(seq >= *seen, "a reader never goes back");
            *seen = seq;
        }
    }
    told
}

#[test]
fn two_threads_lose_nothing() {
    const ROUNDS: u64 = 5_000;
    let leaf = Leaf::new();
    let both = thread::scope(|scope| {
        let threads = [0, 1].map(|thread| {
            let leaf = &leaf;
            scope.spawn(move || work(leaf, ROUNDS, thread))
        });
        threads.map(|thread| thread.join().expect("no panic"))
    });
    assert_eq!(leaf.get(COUNTED).1, 2 * ROUNDS, "no increment is lost");
    let mut drawn: Vec<u64> =
        both.iter().flat_map(|told| told.live.iter().chain(&told.void)).copied().collect();
    drawn.sort_unstable();
    let end = leaf.counter.load(Ordering::Acquire);
    assert_eq!(drawn, (1..end).collect::<Vec<_>>(), "each number is live or void");
    let voids: usize = both.iter().map(|told| told.void.len()).sum();
    println!("{} writes, {voids} void numbers", 4 * ROUNDS);
}

fn hash_tag(key: &[u8]) -> u16 {
    u16::try_from(xxhash_rust::xxh3::xxh3_64(key) >> 48).expect("16 bits")
}

/// What a put and a get cost in the area of one hot node, without descent, log and consolidation.
#[test]
#[ignore = "a measurement: run it in a release build, on a machine that does nothing else"]
fn cost_of_an_operation() {
    const NODES: usize = 300;
    const TIMES: usize = 40;
    let counter = AtomicU64::new(1);
    let value = [7; 100];
    let keys = (0..11u8).map(|key| [key; 16]);
    let keys: Vec<(u16, [u8; 16])> = keys.map(|key| (hash_tag(&key), key)).collect();
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..TIMES {
        let nodes: Vec<Node> = (0..NODES).map(|_| node(AreaSize::ALL[4])).collect();
        let start = Instant::now();
        for node in &nodes {
            let area = node.get().area();
            for (tag, key) in &keys {
                let new = NewEntry::new(Kind::Put, *tag, key, &value);
                let written = area.write(&new, spin, |_| counter.fetch_add(1, Ordering::AcqRel));
                assert!(matches!(written, Written::Live(_)));
            }
        }
        let put = start.elapsed();
        let area = nodes[0].get().area();
        let start = Instant::now();
        let mut found = 0;
        for _ in 0..NODES {
            for (tag, key) in &keys {
                let newest = area.lookup(std::hint::black_box(key), *tag, u64::MAX, no_intents).newest;
                found += newest.map_or(0, |entry| entry.value.len());
            }
        }
        let get = start.elapsed();
        assert_eq!(found, NODES * keys.len() * value.len());
        let operations = f64::from(u32::try_from(NODES * keys.len()).expect("fits"));
        let each = |time: std::time::Duration| time.as_secs_f64() * 1e9 / operations;
        best = (best.0.min(each(put)), best.1.min(each(get)));
    }
    println!("put {:.1} ns, get {:.1} ns, the best of {TIMES}", best.0, best.1);
}
