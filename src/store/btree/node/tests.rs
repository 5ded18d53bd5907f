use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;
use crate::store::btree::area::{IntentState, Kind, NewEntry, Written};
use crate::store::word::{ColdAddress, Epoch, MapView, MapWord, PageId};

fn child() -> ChildWord {
    ChildWord::new(PageId::new(17).expect("in range"), Epoch::new(3).expect("in range"))
}

/// Process memory that knows which blocks are in use, and has as many as it was told.
struct Counted {
    in_use: RefCell<BTreeMap<usize, u8>>,
    most: usize,
}

impl Counted {
    fn new(most: usize) -> Self {
        Self { in_use: RefCell::default(), most }
    }
}

// SAFETY: the blocks are those of the process's memory.
unsafe impl NodeMemory for Counted {
    fn allocate(&self, len_bytes: usize, room: Room) -> Option<Block> {
        if self.in_use.borrow().len() == self.most {
            return None;
        }
        let block = ProcessMemory.allocate(len_bytes, room)?;
        self.in_use.borrow_mut().insert(block.address.as_ptr().addr(), block.class);
        Some(block)
    }

    unsafe fn free(&self, block: Block) {
        let class = self.in_use.borrow_mut().remove(&block.address.as_ptr().addr());
        assert_eq!(class, Some(block.class), "a block is freed once, as it was allocated");
        // SAFETY: the block is from there, and the caller promises the rest.
        unsafe { ProcessMemory.free(block) };
    }
}

#[test]
fn an_area_is_as_large_as_it_may_be_within_a_length() {
    let usual = AreaSize::new(10, 1344);
    for image_len in [0, 1, 63, 64, 2100, 3999] {
        let len = Shape::len_bytes(usual, image_len);
        assert_eq!(usual.within(len, image_len, 1344), Some(usual));
        assert_eq!(usual.within(len + 640, image_len, 8), Some(usual), "it does not grow");
        let small = usual.within(len - 640, image_len, 136).expect("room for an entry");
        assert!(small.heap_bytes() >= 1344 - 640 - 64 && small.slots() == 10, "{small:?}");
        assert!(Shape::len_bytes(small, image_len) <= len - 640);
        assert_eq!(usual.within(len - 640, image_len, 1344), None);
        // With ten slots there is no room for the entry, with fewer there is.
        let least = Shape::len_bytes(AreaSize::new(4, 136), image_len);
        let few = usual.within(least, image_len, 136).expect("room for an entry");
        assert!(few.slots() == 4 && Shape::len_bytes(few, image_len) <= least, "{few:?}");
        assert_eq!(usual.within(64, image_len, 136), None);
    }
}

#[test]
fn a_node_has_what_it_was_built_with() {
    let place = ColdAddress::new(9, 2);
    let shape =
        Shape { level: 1, kind: 2, newest: 77, place, ..Shape::new(child(), 9, AreaSize::ALL[1], 100) };
    let mut new = NewNode::build(&ProcessMemory, &shape, Room::Ordinary).expect("memory");
    assert_eq!(new.image_mut(), [0; 100]);
    new.image_mut()[99] = 1;
    let node = new.get();
    assert_eq!((node.child(), node.level(), node.kind()), (child(), 1, 2));
    assert_eq!((node.tree(), node.newest(), node.place()), (9, 77, place));
    assert_eq!(node.pins().load(Ordering::Relaxed), 0);
    assert_eq!((node.image().len(), node.image()[99], node.len_bytes()), (100, 1, 64 + 256 + 128));
    assert_eq!(node.touched(), 0);
    node.set_touched(3);
    assert_eq!(node.touched(), 3);
}

/// What belongs to the page goes on to the node that follows, and the place of the image does not.
#[test]
fn a_successor_forgets_nothing_but_the_place() {
    let shape = Shape {
        level: 3,
        kind: 1,
        newest: 5,
        place: ColdAddress::new(9, 2),
        ..Shape::new(child(), 7, AreaSize::NONE, 64)
    };
    let new = NewNode::build(&ProcessMemory, &shape, Room::Ordinary).expect("memory");
    let next = Shape::successor(new.get(), AreaSize::ALL[2], 32);
    let Shape { child, tree, level, kind, area, image_len, newest, place } = next;
    assert_eq!((child, tree, level, kind), (self::child(), 7, 3, 1));
    assert_eq!((area, image_len, newest, place), (AreaSize::ALL[2], 32, 5, None));
}

#[test]
fn the_header_is_laid_out_as_documented() {
    assert_eq!(std::mem::offset_of!(Header, place), 0);
    assert_eq!(std::mem::offset_of!(Header, child), 8);
    assert_eq!(std::mem::offset_of!(Header, newest), 16);
    assert_eq!(std::mem::offset_of!(Header, tree), 24);
    assert_eq!(std::mem::offset_of!(Header, pins), 28);
    assert_eq!(std::mem::offset_of!(Header, level), 32);
    assert_eq!(std::mem::offset_of!(Header, touched), 35);
    assert_eq!(std::mem::offset_of!(Header, area_bytes), 36);
    assert_eq!(std::mem::offset_of!(Header, image_line), 40);
    assert_eq!(std::mem::offset_of!(Header, image_bytes), 42);
}

/// Area and image lie apart: filling the one to its last byte leaves the other as it was.
#[test]
fn area_and_image_do_not_overlap() {
    for (size, image_len) in AreaSize::ALL.into_iter().zip([0, 64, 4032, 16 << 10, 1]) {
        let memory = Counted::new(1);
        let shape = Shape::new(child(), 1, size, image_len);
        let mut new = NewNode::build(&memory, &shape, Room::Ordinary).expect("memory");
        new.image_mut().fill(0xAB);
        let node = new.get();
        let value = vec![0xCD; size.heap_bytes() - 13 - 1];
        let entry = NewEntry::new(Kind::Put, 5, b"k", &value);
        assert_eq!(node.area().write(&entry, |_| false, |_| 42), Written::Live(42));
        let found = node.area().lookup(b"k", 5, u64::MAX, |_| IntentState::Open).newest.expect("written");
        assert_eq!((found.seq, found.value), (42, &value[..]));
        assert!(node.image().iter().all(|byte| *byte == 0xAB));
        assert_eq!(node.child(), child());
        drop(new);
        assert!(memory.in_use.borrow().is_empty(), "a node that nobody knows is freed");
    }
}

#[test]
fn a_node_without_an_area_takes_no_writes() {
    let new = NewNode::build(&ProcessMemory, &Shape::new(child(), 1, AreaSize::NONE, 64), Room::Ordinary)
        .expect("memory");
    assert!(new.get().area().is_frozen());
    assert_eq!(new.get().area().live().count(), 0);
}

#[test]
fn without_memory_there_is_no_node() {
    let memory = Counted::new(1);
    let shape = Shape::new(child(), 1, AreaSize::ALL[0], 64);
    let one = NewNode::build(&memory, &shape, Room::Ordinary).expect("the first");
    assert!(NewNode::build(&memory, &shape, Room::Ordinary).is_none());
    drop(one);
    assert!(NewNode::build(&memory, &shape, Room::Ordinary).is_some());
}

#[test]
fn a_published_node_is_reached_by_its_word_and_taken_back() {
    let memory = Counted::new(1);
    let shape = Shape::new(child(), 1, AreaSize::ALL[0], 64);
    let address = NewNode::build(&memory, &shape, Room::Ordinary).expect("memory").publish();
    assert_eq!(memory.in_use.borrow().len(), 1, "a node that was published stays");
    let word = MapWord::from_bits(MapWord::node(address).bits()).expect("a word");
    assert_eq!(word.view(), MapView::Node(address));
    // SAFETY: the node was published by this thread and is not freed before the end of this test.
    assert_eq!(unsafe { NodeRef::at(address) }.child(), child());
    // SAFETY: the node was published from this memory, and this test alone knows it.
    drop(unsafe { NewNode::take_back(&memory, address) });
    assert!(memory.in_use.borrow().is_empty());
}

#[test]
#[should_panic(expected = "a node is at most")]
fn a_node_has_a_largest_size() {
    let _ = NewNode::build(
        &ProcessMemory,
        &Shape::new(child(), 1, AreaSize::ALL[4], MAX_NODE_BYTES),
        Room::Ordinary,
    );
}
