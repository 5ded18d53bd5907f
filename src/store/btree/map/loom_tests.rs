//! Frames between cores, under loom. Two free ids are worth a filling there.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, atomic};

use super::frames::{Frame, FrameStack};
use super::*;
use crate::store::pages::MapEntry;
use crate::store::word::ColdAddress;

/// Every execution with at most `preemptions` preemptions, besides the switches where one waits.
fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(body);
}

fn id(number: u64) -> PageId {
    PageId::new(number).expect("small")
}

fn cold(granule: u64) -> MapEntry {
    let place = ColdAddress::new(granule, 1).expect("small");
    MapEntry::Cold { place, second: SecondWord::new(7, Epoch::FIRST, false, false) }
}

/// A store that was opened, with a frame that is absent: its map page has a page at each id but the
/// last three. A bundle that is newer says that the first one lies elsewhere; who applies that
/// forgets it.
struct Opened {
    map: Map,
    overlay: AtomicBool,
    loaded: AtomicU32,
}

impl Opened {
    const FIRST: u64 = FRAME_PAGES;
    const FREE: [u64; 3] = [2 * FRAME_PAGES - 3, 2 * FRAME_PAGES - 2, 2 * FRAME_PAGES - 1];

    fn new() -> Arc<Self> {
        let map = Map::open(1, 2 * FRAME_PAGES);
        assert!(matches!(map.entry(id(Self::FIRST)), Lookup::Absent(1)));
        Arc::new(Self { map, overlay: AtomicBool::new(true), loaded: AtomicU32::new(0) })
    }

    fn load(&self) {
        let mut page = MapPage::default();
        let in_use = usize::try_from(FRAME_PAGES - 3).expect("small");
        page.entries_mut()[..in_use].fill(cold(1));
        let installed = self.map.install_frame(1, page, |page| {
            let known = self.overlay.swap(false, atomic::Ordering::Relaxed);
            if known {
                page.entries_mut()[0] = cold(2);
            }
            known
        });
        self.loaded.fetch_add(installed.into(), atomic::Ordering::Relaxed);
        let entry = self.map.entry(id(Self::FIRST)).loaded().expect("it is loaded, by whomever");
        assert_eq!(entry.load(), cold(2).words(), "what is newer than the map page counts");
    }

    /// Takes an id near a page of the frame, if it is there already, and gives another one back.
    fn use_ids(&self) -> Vec<u64> {
        let filling = &mut Filling::default();
        let taken = self.map.allocate(Some(id(Self::FIRST)), filling).map(|(id, _)| id.get());
        let mut taken: Vec<_> = taken.into_iter().filter(|id| *id >= Self::FIRST).collect();
        if taken.len() == 1
            && let Some((other, epoch)) = self.map.allocate(Some(id(Self::FIRST)), filling)
        {
            if Self::FREE.contains(&other.get()) {
                assert!(self.map.free(other, MapWord::FREE, epoch));
            } else {
                taken.push(other.get());
            }
        }
        self.map.stop_filling(filling);
        taken
    }

    /// When nobody is at it any more, and these ids of the frame are taken.
    fn check(&self, taken: &[u64]) {
        assert_eq!(self.loaded.load(atomic::Ordering::Relaxed), 1, "one of them loaded it");
        assert_eq!(self.map.take_changed(), [1], "the next checkpoint writes it");
        let on_stack = std::iter::from_fn(|| self.map.reusable.pop(|index| self.map.known(index)));
        let on_stack = on_stack.filter(|index| *index == 1).count();
        let of_frame = taken.iter().filter(|id| Self::FREE.contains(id)).count();
        assert!(on_stack <= 1, "two cores would fill it");
        if 3 - of_frame >= WORTHWHILE as usize {
            assert_eq!(on_stack, 1, "nobody would ever fill it");
        }
        let rest = std::iter::from_fn(|| self.map.take(1)).map(|(id, _)| id.get());
        let mut all: Vec<_> =
            taken.iter().copied().filter(|id| Self::FREE.contains(id)).chain(rest).collect();
        all.sort_unstable();
        assert_eq!(all, Self::FREE, "each free id is given out once");
    }
}

#[test]
fn two_loaders_of_a_frame() {
    model(3, || {
        let opened = Opened::new();
        let other = Arc::clone(&opened);
        let loader = loom::thread::spawn(move || other.load());
        opened.load();
        loader.join().expect("no panic");
        opened.check(&[]);
    });
}

#[test]
fn two_loaders_of_a_frame_and_a_core_that_takes_ids_of_it() {
    model(2, || {
        let opened = Opened::new();
        let others = [Arc::clone(&opened), Arc::clone(&opened)];
        let [loader, user] = others;
        let loader = loom::thread::spawn(move || loader.load());
        let user = loom::thread::spawn(move || user.use_ids());
        opened.load();
        loader.join().expect("no panic");
        let taken = user.join().expect("no panic");
        opened.check(&taken);
    });
}

/// One core gives ids back while the one that fills the frame leaves it: the frame is on the stack
/// afterwards, once.
#[test]
fn a_frame_with_free_ids_is_on_the_stack_or_filled() {
    loom::model(|| {
        let shared = Arc::new((Frame::full(), FrameStack::default()));
        let (frame, stack) = &*shared;
        let other = Arc::clone(&shared);
        let giver = loom::thread::spawn(move || {
            let (frame, stack) = &*other;
            for at in [3, 7] {
                frame.give(at);
                if frame.claim() {
                    stack.push(5, frame);
                }
            }
        });
        if frame.leave() {
            stack.push(5, frame);
        }
        giver.join().expect("no panic");
        assert_eq!(stack.pop(|_| frame), Some(5), "nobody would ever fill it again");
        assert_eq!(stack.pop(|_| frame), None, "two cores would fill it");
    });
}

/// A frame that leaves the stack and comes back, while another core is about to take it off.
#[test]
fn a_frame_comes_off_the_stack_once() {
    loom::model(|| {
        let shared = Arc::new(([Frame::new(), Frame::new()], FrameStack::default()));
        let (frames, stack) = &*shared;
        stack.push(0, &frames[0]);
        stack.push(1, &frames[1]);
        let other = Arc::clone(&shared);
        let thread = loom::thread::spawn(move || {
            let (frames, stack) = &*other;
            let find = |index: u32| &frames[index as usize];
            let taken = [stack.pop(find), stack.pop(find)];
            if let Some(index) = taken[0] {
                stack.push(index, find(index));
            }
            taken[1]
        });
        let find = |index: u32| &frames[index as usize];
        let mine = stack.pop(find);
        let theirs = thread.join().expect("no panic");
        let left = std::iter::from_fn(|| stack.pop(find));
        let all: Vec<_> = mine.into_iter().chain(theirs).chain(left).collect();
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2, "{all:?}");
    });
}
