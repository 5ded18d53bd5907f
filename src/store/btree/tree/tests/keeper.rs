//! What a tree tells its keeper.

use std::collections::BTreeSet;

use super::*;
use crate::store::btree::homes::{Home, MapFreeze};
use crate::store::btree::nodes::Eviction;
use crate::store::events::{Event, Events, Sink};
use crate::store::word::{ColdAddress, SecondWord};

fn kept(cores: usize) -> (Arc<Nodes<ProcessMemory>>, Core<ProcessMemory>, Arc<Events>) {
    let pages = pages(cores);
    let events = Arc::new(Events::default());
    let core = pages.attach_with(Sink::Keeper(Arc::clone(&events))).expect("a core");
    (pages, core, events)
}

fn drained(events: &Events) -> Vec<Event> {
    let mut all = Vec::new();
    events.drain(&mut all);
    all
}

/// Numbers that look, in the moment of a draw, at what the keeper has heard.
struct Looking<'a> {
    next: u64,
    events: &'a Events,
    heard: Vec<Event>,
}

impl Numbers for Looking<'_> {
    fn at_least(&mut self) -> u64 {
        self.next
    }

    fn draw(&mut self) -> u64 {
        self.heard.extend(drained(self.events));
        self.next += 1;
        self.next - 1
    }
}

#[test]
fn the_first_change_of_an_area_is_told_before_it_has_a_number() {
    let (_pages, core, events) = kept(1);
    let root = core.new_tree(5).expect("room");
    let mut numbers = Looking { next: 70, events: &events, heard: Vec::new() };
    let page = root.root.id();
    let dirty = |from| Event::Dirty { tree: 5, parent: page, page, from };
    core.pin().write(root, b"a", Change::Put(b"1"), &mut numbers).expect("room");
    assert_eq!(numbers.heard, [dirty(70)]);
    core.pin().write(root, b"b", Change::Put(b"1"), &mut numbers).expect("room");
    assert_eq!(numbers.heard, [dirty(70)], "a second change of the area is no news");
    let Ok(Capture::Page(captured)) = core.pin().capture(page) else { panic!("a page") };
    assert_eq!((captured.newest, captured.child, captured.tree), (71, root.root, 5));
    let place = ColdAddress::new(100, 2).expect("in range");
    assert!(core.pin().install_flushed(&captured, place));
    let written = core.pin().update(root, b"a", |_, _| Some(Change::Delete), &mut numbers);
    assert_eq!((written, &numbers.heard[..]), (Ok(Some(72)), &[dirty(70), dirty(72)][..]));
    // The area has gone into an image that lies nowhere: what follows is told once more.
    core.pin().capture(page).expect("in memory");
    core.pin().write(root, b"a", Change::Put(b"2"), &mut numbers).expect("room");
    assert_eq!(numbers.heard.len(), 3);
    assert_eq!(drained(&events), []);
}

#[test]
fn a_change_that_may_be_older_than_those_that_were_told_is_told() {
    let (_pages, core, events) = kept(1);
    let root = core.new_tree(5).expect("room");
    let page = root.root.id();
    let dirty = |from| Event::Dirty { tree: 5, parent: page, page, from };
    core.pin().write(root, b"a", Change::Put(b"1"), &mut Known(70)).expect("room");
    core.pin().write(root, b"b", Change::Put(b"1"), &mut Known(60)).expect("room");
    core.pin().update(root, b"c", |_, _| Some(Change::Delete), &mut Known(50)).expect("room");
    assert_eq!(drained(&events), [dirty(70), dirty(60), dirty(50)]);
}

/// What was written since is in memory alone, although the new image is being written to where the
/// image before was, until cleaning moved that.
#[test]
fn a_page_is_not_clean_that_is_being_written_to_where_it_lay_before() {
    let (pages, core, events) = kept(1);
    let root = core.new_tree(5).expect("room");
    let page = root.root.id();
    let mut numbers = Looking { next: 70, events: &events, heard: Vec::new() };
    let place = |granule| ColdAddress::new(granule, 2).expect("in range");
    let home = |granule| {
        let checksum = u32::try_from(granule).expect("small");
        Home { address: place(granule), second: SecondWord::new(checksum, root.root.epoch(), false, false) }
    };
    let mut flush = |value: &[u8]| {
        core.pin().write(root, b"a", Change::Put(value), &mut numbers).expect("room");
        let Ok(Capture::Page(captured)) = core.pin().capture(page) else { panic!("a page") };
        assert!(core.pin().install_flushed(&captured, place(100)));
    };
    let (homes, freeze) = (pages.homes(), &mut MapFreeze::default());
    flush(b"1");
    homes.install(pages.map(), page, home(100), freeze);
    homes.install_moved(pages.map(), page, place(100), home(200), freeze);
    flush(b"2");
    assert_eq!(core.pin().try_evict(page), Eviction::Dirty);
    homes.install(pages.map(), page, home(100), freeze);
    assert!(matches!(core.pin().try_evict(page), Eviction::Evicted { .. }));
}

/// A flush makes one image of a leaf and its area. If one write follows each flush no area is ever
/// full, and the leaf is split all the same.
#[test]
fn a_leaf_that_is_flushed_after_each_write_is_split() {
    let (pages, core, events) = kept(1);
    let root = core.new_tree(5).expect("room");
    let mut numbers = Looking { next: 70, events: &events, heard: Vec::new() };
    for number in 0..400_u32 {
        let key = number.to_be_bytes();
        core.pin().write(root, &key, Change::Put(&[7; 100]), &mut numbers).expect("room");
        for page in (1..pages.map().next_page()).filter_map(PageId::new) {
            let Ok(Capture::Page(captured)) = core.pin().capture(page) else { continue };
            assert!(captured.image.len() < 6 << 10, "{} bytes", captured.image.len());
            let place = ColdAddress::new(u64::from(number) * 1000 + page.get(), 100).expect("in range");
            core.pin().install_flushed(&captured, place);
        }
    }
}

/// Each page that comes or goes is told of, and ids are the keeper's to release.
#[test]
fn changes_of_shape_are_told_and_ids_wait_for_the_keeper() {
    let (pages, core, events) = kept(1);
    let root = core.new_tree(5).expect("room");
    let seq = AtomicU64::new(0);
    let mut known = BTreeSet::from([root.root.id().get()]);
    let (mut gone, mut kinds) = (Vec::new(), BTreeSet::new());
    let mut hear = |tree_pages: &mut BTreeSet<u64>| {
        for event in drained(&events) {
            let (kind, tree) = match event {
                Event::Dirty { tree, page, parent, from } => {
                    assert!(tree_pages.contains(&page.get()) && tree_pages.contains(&parent.get()));
                    assert!(from <= seq.load(Ordering::Acquire));
                    ("dirty", tree)
                }
                Event::Split { tree, page, new } => {
                    assert!(tree_pages.contains(&page.get()) && tree_pages.insert(new.id().get()));
                    ("split", tree)
                }
                Event::Posted { tree, parent, page, new } => {
                    for known in [parent, page.id(), new.id()] {
                        assert!(tree_pages.contains(&known.get()));
                    }
                    ("posted", tree)
                }
                Event::RootSplit { tree, root: split, left, right, .. } => {
                    assert_eq!(split, root.root.id());
                    tree_pages.extend([left.id().get(), right.id().get()]);
                    ("root split", tree)
                }
                Event::Removed { tree, parent, gone: page } => {
                    assert!(tree_pages.contains(&parent.get()));
                    gone.push(page);
                    ("removed", tree)
                }
                Event::Packed { tree, parent, gone: page, with, new } => {
                    assert!(tree_pages.contains(&parent.get()));
                    tree_pages.insert(new.id().get());
                    gone.extend(std::iter::once(page).chain(with));
                    ("packed", tree)
                }
                Event::Collapsed { tree, root: onto, gone: page } => {
                    assert_eq!(onto, root.root.id());
                    gone.push(page);
                    ("collapsed", tree)
                }
            };
            assert_eq!(tree, 5);
            kinds.insert(kind);
        }
    };
    for number in 0..30_000u32 {
        let key = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
        core.pin().write(root, &key, Change::Put(&[1; 20]), &mut draw(&seq)).expect("room");
        hear(&mut known);
    }
    assert_eq!(known.len(), pages.pages_in_use(), "each page was told of");
    // First one leaf after the other, beside full ones, and then all together.
    let mut keys: Vec<u32> = (0..30_000u32).map(|number| number.wrapping_mul(0x9e37_79b9)).collect();
    keys[..].sort_unstable();
    let (in_order, others) = keys.split_at_mut(5000);
    others.sort_unstable_by_key(|key| key.reverse_bits());
    for key in in_order.iter().chain(others.iter()) {
        core.pin().write(root, &key.to_be_bytes(), Change::Delete, &mut draw(&seq)).expect("room");
        hear(&mut known);
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    assert_eq!(known.len(), pages.pages_in_use(), "no id is released by the tree");
    let newest = seq.load(Ordering::Acquire);
    for page in &gone {
        match core.pin().capture(page.id()).expect("in memory") {
            Capture::Removed { child, newest: number } => {
                assert!(child == *page && (number <= newest));
            }
            Capture::Moved { child, .. } => assert_eq!(child, *page),
            other => panic!("{page:?} is {other:?}"),
        }
        assert!(core.pin().release_gone(*page));
        assert!(!core.pin().release_gone(*page), "once");
        let Ok(Capture::Free(epoch)) = core.pin().capture(page.id()) else { panic!("{page:?} is free") };
        assert_eq!(epoch, page.epoch().next());
    }
    assert_eq!(pages.pages_in_use(), reachable(&core, root));
    assert!(!core.pin().release_gone(root.root), "a live page is not released");
}
