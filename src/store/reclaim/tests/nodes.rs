//! Reclamation, the arena and the account together, as the tree uses them: nodes that are found by
//! links, replaced by compare-and-swap, and held by cursors.

use std::ptr::NonNull;

use super::*;
use crate::store::cache::{
    Account, Block, MAX_ALLOCATION_BYTES, Magazines, NodeArena, POISON, Part, Portion, Room,
};

const ARENA_BYTES: usize = 4 << 20;

/// The head of a node; words follow it.
#[repr(C)]
struct Head {
    pins: AtomicU32,
    words: u32,
    bytes: usize,
    check: u64,
}

/// A node in the arena, by address.
#[derive(Clone, Copy)]
struct Node(NonNull<Head>);

// SAFETY: nodes are read by any core under the protocol that is tested, and freed by any one.
unsafe impl Send for Node {}

impl Node {
    fn head(&self) -> &Head {
        // SAFETY: a node is in the arena and was written before it was linked; the caller reads it
        // under a guard or while it holds it.
        unsafe { self.0.as_ref() }
    }

    /// Panics if the node is not as it was made.
    fn is_intact(&self) {
        let head = self.head();
        // SAFETY: the words lie behind the head, as many as it says.
        let first = unsafe { self.0.add(1) }.cast::<u64>();
        for number in 0..usize::try_from(head.words).expect("small") {
            // SAFETY: as above.
            let at = unsafe { first.add(number) };
            // SAFETY: as above.
            let word = unsafe { at.read() };
            assert_eq!(word, head.check, "word {number} of {}", head.words);
        }
    }
}

/// What a core has of the store's memory.
struct Core {
    magazines: Magazines,
    portion: Portion,
}

impl Core {
    fn new(arena: &Arc<NodeArena>, account: &Arc<Account>) -> Self {
        Self { magazines: arena.attach(), portion: account.attach() }
    }

    /// A node with so many words, each `check`; `None` if there is no room.
    fn make(&self, words: u32, check: u64) -> Option<Node> {
        let bytes = size_of::<Head>() + usize::try_from(words).expect("small") * size_of::<u64>();
        let Block { ptr, bytes } = self.magazines.alloc(bytes, Room::Ordinary)?;
        if !self.portion.try_take(Part::Nodes, bytes_64(bytes), Room::Ordinary) {
            // SAFETY: allocated just now.
            unsafe { self.magazines.free(Block { ptr, bytes }) };
            return None;
        }
        let node = Node(ptr.cast::<Head>());
        // SAFETY: the block is aligned to 64 bytes and has room for the head.
        unsafe { node.0.write(Head { pins: AtomicU32::new(0), words, bytes, check }) };
        // SAFETY: the block has room for the head and the words.
        let first = unsafe { node.0.add(1) }.cast::<u64>();
        for number in 0..usize::try_from(words).expect("small") {
            // SAFETY: as above.
            let at = unsafe { first.add(number) };
            // SAFETY: as above.
            unsafe { at.write(check) };
        }
        Some(node)
    }
}

impl Reclaim for Core {
    type Garbage = Node;

    fn free(&self, node: Node) -> Option<Node> {
        if node.head().pins.load(Ordering::Acquire) > 0 {
            return Some(node);
        }
        let bytes = node.head().bytes;
        // SAFETY: the block of `make`, which nobody finds any more, reads or holds.
        unsafe { self.magazines.free(Block { ptr: node.0.cast(), bytes }) };
        self.portion.give(Part::Nodes, bytes_64(bytes));
        None
    }
}

fn bytes_64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("64 bits")
}

/// What two cores do with some links: read, replace, hold.
fn work(member: &Participant<Core>, links: &[AtomicPtr<Head>], seed: u64, rounds: u32) {
    let mut random = seed;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("64 bits") % below
    };
    let find = |link: &AtomicPtr<Head>| NonNull::new(link.load(Ordering::Acquire)).map(Node);
    let mut held: Option<Node> = None;
    for round in 0..rounds {
        let guard = member.pin();
        let link = &links[next(links.len())];
        if let Some(node) = find(link) {
            node.is_intact();
            if held.is_none() {
                node.head().pins.fetch_add(1, Ordering::Relaxed);
                held = Some(node);
            }
        }
        let words = u32::try_from(next(600)).expect("small");
        if let Some(new) = member.reclaim().make(words, u64::from(round) << 8 | seed) {
            let old = link.swap(new.0.as_ptr(), Ordering::AcqRel);
            if let Some(old) = NonNull::new(old).map(Node) {
                member.retire(old, bytes_64(old.head().bytes));
            }
        }
        drop(guard);
        if round % 50 == 0
            && let Some(node) = held.take()
        {
            node.is_intact();
            node.head().pins.fetch_sub(1, Ordering::Release);
        }
    }
    if let Some(node) = held {
        node.head().pins.fetch_sub(1, Ordering::Release);
    }
}

#[test]
fn two_cores_replace_nodes_and_all_memory_comes_back() {
    let arena = NodeArena::new(ARENA_BYTES, 0).expect("mapped");
    let account = Account::new(bytes_64(ARENA_BYTES) / 2, 0);
    let collector = Collector::new(2);
    let links: Vec<AtomicPtr<Head>> = (0..64).map(|_| AtomicPtr::default()).collect();
    thread::scope(|scope| {
        for seed in 1..3 {
            let (arena, account, collector, links) = (&arena, &account, &collector, &links);
            scope.spawn(move || {
                let member = collector.join(Core::new(arena, account)).expect("a slot");
                assert!(Arc::ptr_eq(member.reclaim().magazines.arena(), arena));
                work(&member, links, seed, 30_000);
            });
        }
    });
    assert_eq!(collector.retired_bytes(), 0, "the last one frees all that is left");
    let linked = |link: &AtomicPtr<Head>| NonNull::new(link.load(Ordering::Relaxed)).map(Node);
    let nodes: Vec<Node> = links.iter().filter_map(linked).collect();
    let bytes: usize = nodes.iter().map(|node| node.head().bytes).sum();
    assert_eq!(arena.allocated_bytes(), bytes_64(bytes));
    assert_eq!((account.part_bytes(Part::Nodes), account.used_bytes()), (bytes_64(bytes), bytes_64(bytes)));
    let last = Core::new(&arena, &account);
    for node in nodes {
        node.is_intact();
        assert!(last.free(node).is_none(), "nobody holds it");
    }
    drop(last);
    assert_eq!((arena.allocated_bytes(), account.used_bytes()), (0, 0));
    assert_eq!(arena.empty_slabs(), arena.bytes().div_ceil(MAX_ALLOCATION_BYTES / 2));
}

/// What a reader finds under its guard after another core has unlinked it and taken three steps.
fn read_after_steps(defect: Option<Defect>) -> u64 {
    let arena = NodeArena::new(ARENA_BYTES, 0).expect("mapped");
    let account = Account::new(bytes_64(ARENA_BYTES), 0);
    let collector = Collector::with_defect(2, defect);
    let join = || collector.join(Core::new(&arena, &account)).expect("a slot");
    let (reader, writer) = (join(), join());
    let node = writer.reclaim().make(4, 42).expect("room");
    let _guard = reader.pin();
    writer.retire(node, bytes_64(node.head().bytes));
    steps(&writer);
    node.head().check
}

#[test]
fn a_free_without_grace_is_found_by_its_poison() {
    assert_eq!(read_after_steps(None), 42);
    let found = read_after_steps(Some(Defect::FreeWithoutGrace));
    assert_eq!(found, u64::from_ne_bytes([POISON; 8]), "freed and poisoned under a guard");
}
