//! What is bounded: pages, work, and memory when there is none.

use super::*;
use crate::store::btree::map::FRAME_PAGES;
use crate::store::btree::smo;
use crate::store::btree::tree::merge::{self, MERGES};
use crate::store::events::{Events, Sink};
use crate::store::word::ColdAddress;

/// Writers that stop between the split of their leaf and its posting leave as much to be posted as
/// there are leaves, and each separator may be as long as a key: the parent splits before it takes
/// more than a node holds.
#[test]
fn a_parent_of_long_separators_is_split_in_time() {
    const LEAVES: u8 = 40;
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let key = |leaf: u8, of: u8| {
        let mut key = vec![leaf; MAX_KEY_BYTES];
        key[MAX_KEY_BYTES - 1] = of;
        key
    };
    for of in 0..2 {
        for leaf in 0..LEAVES {
            let key = key(leaf, of);
            core.pin().write(root, &key, Change::Put(&[of; 10]), &mut draw(&seq)).expect("room");
        }
    }
    let pin = core.pin();
    let mut unposted = 0;
    for leaf in 0..LEAVES {
        let key = key(leaf, 0);
        let Some(leaf) = pin.descend(root, &key).expect("in memory") else { continue };
        leaf.node.area().freeze();
        let pinned = Pinned::new(&pin, root);
        let mut visitor =
            Visitor::new(&pinned, Target::At(Separator::Lies(KeyParts::whole(&key))), Care::Shape);
        while visitor.step(&pinned) == smo::Step::OnTheWay {}
        let (now, _) = pin.find(leaf.node.child().id()).expect("in memory").expect("a page");
        unposted += u32::from(now.child() != leaf.node.child());
    }
    assert!(unposted > 20, "{unposted} splits are unposted");
    drop(pin);
    let all = forwards(&core, root);
    assert_eq!(all.len(), 2 * usize::from(LEAVES));
    assert_eq!(all, backwards(&core, root));
    assert_eq!(reachable(&core, root), used(&pages));
}

#[test]
fn a_delete_that_leaves_something_merges_nothing() {
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let write =
        |key: &[u8], change: Change<'_>| core.pin().write(root, key, change, &mut draw(&seq)).expect("room");
    write(b"stays", Change::Put(b"1"));
    write(b"goes", Change::Put(b"1"));
    let Ok(Capture::Page(captured)) = core.pin().capture(root.root.id()) else { panic!("a page") };
    assert!(core.pin().install_flushed(&captured, ColdAddress::new(9, 1).expect("in range")));
    write(b"new", Change::Put(b"1"));
    let merges = MERGES.get();
    write(b"goes", Change::Delete);
    write(b"new", Change::Delete);
    assert_eq!(MERGES.get(), merges);
    assert!(core.pin().get(root, b"stays").expect("in memory").is_some());
}

proptest! {
    #[test]
    fn a_leaf_is_empty_if_nothing_would_be_merged(
        below in prop::collection::btree_set(0..4u8, 0..4),
        writes in prop::collection::vec((0..4u8, any::<bool>()), 0..16),
    ) {
        let pages = pages(1);
        let core = pages.attach().expect("a core");
        let root = core.new_tree(1).expect("room");
        let seq = AtomicU64::new(0);
        for key in below {
            core.pin().write(root, &[key], Change::Put(b"1"), &mut draw(&seq)).expect("room");
        }
        let Ok(Capture::Page(captured)) = core.pin().capture(root.root.id()) else { panic!("a page") };
        core.pin().install_flushed(&captured, ColdAddress::new(9, 1).expect("in range"));
        for (key, is_put) in writes {
            let change = if is_put { Change::Put(b"2") } else { Change::Delete };
            core.pin().write(root, &[key], change, &mut draw(&seq)).expect("room");
            let pin = core.pin();
            let (leaf, _) = pin.find(root.root.id()).expect("in memory").expect("a page");
            prop_assert_eq!(merge::is_empty(leaf), merge::merged(leaf).is_empty());
        }
    }
}

/// A descent touches few frames of the mapping: a new page has its id near that of its neighbour,
/// whoever makes it.
#[test]
fn new_pages_have_ids_near_their_neighbours() {
    let pages = pages(2);
    let (one, two) = (pages.attach().expect("a core"), pages.attach().expect("a core"));
    let (first, second) = (one.new_tree(1).expect("room"), two.new_tree(2).expect("room"));
    let frame = |id: PageId| id.get() / FRAME_PAGES;
    assert_ne!(frame(first.root.id()), frame(second.root.id()), "each core fills a frame");
    let seq = AtomicU64::new(0);
    for number in 0..1000u32 {
        let key = number.to_be_bytes();
        two.pin().write(first, &key, Change::Put(&[1; 100]), &mut draw(&seq)).expect("room");
    }
    let children = two.pin().children(first.root.id()).expect("in memory").expect("an inner page");
    assert!(children.len() > 20);
    assert!(children.iter().all(|child| frame(child.id()) == frame(first.root.id())));
}

/// Memory for so many nodes, and so many more for those that make room.
#[derive(Clone)]
pub(super) struct WithReserve(pub(super) Arc<Blocks>);

pub(super) struct Blocks {
    pub(super) left: AtomicU64,
    pub(super) reserve: AtomicU64,
    pub(super) most_reserve: u64,
}

fn take(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

// SAFETY: blocks come from `ProcessMemory` and go back there.
unsafe impl NodeMemory for WithReserve {
    fn allocate(&self, len_bytes: usize, room: Room) -> Option<Block> {
        let is_there = take(&self.0.left) || room == Room::Reserve && take(&self.0.reserve);
        is_there.then(|| ProcessMemory.allocate(len_bytes, room))?
    }

    unsafe fn free(&self, block: Block) {
        let blocks = &self.0;
        let full = blocks.reserve.load(Ordering::Relaxed) == blocks.most_reserve;
        let to = if full { &blocks.left } else { &blocks.reserve };
        to.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller says, and it came from there.
        unsafe { ProcessMemory.free(block) };
    }
}

/// A leaf is marked as removed, and there is no memory for its parent without it. Whoever comes by
/// would finish that; nobody does, but the keeper.
#[test]
fn a_removal_that_had_no_memory_for_its_second_step_is_finished_by_the_keeper() {
    let blocks = Blocks { left: AtomicU64::new(1000), reserve: AtomicU64::new(0), most_reserve: 0 };
    let memory = WithReserve(Arc::new(blocks));
    let pages = Nodes::new(memory.clone(), 1 << 18, 1);
    let events = Arc::new(Events::default());
    let core = pages.attach_with(Sink::Keeper(Arc::clone(&events))).expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let write = |key: u32, change: Change<'_>| {
        core.pin().write(root, &key.to_be_bytes(), change, &mut draw(&seq)).expect("room")
    };
    (0..40).for_each(|key| _ = write(key, Change::Put(&[1; 900])));
    let children = || core.pin().children(root.root.id()).expect("in memory").expect("an inner page");
    let before = children().len();
    assert!(core.pin().finish_undone(|_| true).is_none(), "splits are none of these");
    let left = &memory.0.left;
    // The deletes of the first leaf but for its last key.
    let of_first = (0..40).take_while(|key: &u32| {
        let leaf = core.pin().leaf_for(root, &key.to_be_bytes());
        leaf == Ok(children()[0].id())
    });
    let of_first: Vec<u32> = of_first.collect();
    let (last, others) = of_first.split_last().expect("it has some keys");
    others.iter().for_each(|key| _ = write(*key, Change::Delete));
    // A new area, as the one before may be full, and memory for one more node.
    write(*last, Change::Put(&[2; 10]));
    let all = left.swap(1, Ordering::Relaxed);
    write(*last, Change::Delete);
    assert_eq!(left.load(Ordering::Relaxed), 0, "the mark took it");
    assert_eq!(children().len(), before, "the parent has it still");
    assert_eq!(core.pin().finish_undone(|_| true), Some(Err(Refusal::NoRoom)));
    left.store(all, Ordering::Relaxed);
    assert_eq!(core.pin().finish_undone(|_| true), Some(Ok(())));
    assert_eq!(children().len(), before - 1);
    assert!(core.pin().finish_undone(|_| true).is_none());
    assert_eq!(forwards(&core, root).len(), 40 - of_first.len());
}

/// Where memory is full, what makes no more of the tree is done, of the reserve, and what makes
/// more is refused.
#[test]
fn deletes_and_overwrites_go_on_where_memory_is_full() {
    for blocks in [4, 10, 40] {
        let (left, reserve) = (AtomicU64::new(blocks), AtomicU64::new(3));
        let memory = WithReserve(Arc::new(Blocks { left, reserve, most_reserve: 3 }));
        let pages = Nodes::new(memory, 1 << 18, 1);
        let core = pages.attach().expect("a core");
        let root = core.new_tree(1).expect("room");
        let seq = AtomicU64::new(0);
        let write = |number: u32, change: Change<'_>| {
            let key = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
            let written = core.pin().write(root, &key, change, &mut draw(&seq));
            core.collect();
            written
        };
        let mut number = 0;
        let mut refused = 0;
        while refused < 50 {
            match write(number, Change::Put(&[1; 60])) {
                Ok(_) => refused = 0,
                Err(refusal) => {
                    assert_eq!(refusal, Refusal::NoRoom);
                    refused += 1;
                }
            }
            number += 1;
        }
        let is_present = |number: &u32| {
            let key = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
            core.pin().get(root, &key).expect("in memory").is_some()
        };
        let present: Vec<u32> = (0..number).filter(is_present).collect();
        for round in 0..3 {
            for number in &present {
                let overwritten = write(*number, Change::Put(&[2 + round; 60]));
                assert!(overwritten.is_ok(), "{blocks} blocks, round {round}: {overwritten:?}");
            }
        }
        assert_eq!((0..number).filter(is_present).count(), present.len());
        for number in &present {
            let deleted = write(*number, Change::Delete);
            assert!(deleted.is_ok(), "{blocks} blocks: {deleted:?}");
        }
        assert!(!(0..number).any(|number| is_present(&number)));
    }
}
