use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::store::pages::MapEntry;
use crate::store::word::{ColdAddress, NodeAddress, Special};

fn node(number: u64) -> MapWord {
    MapWord::node(NodeAddress::new(number * 64).expect("aligned"))
}

fn cold(granule: u64) -> MapWord {
    MapWord::cold(ColdAddress::new(granule, 1).expect("small"), 0).expect("young")
}

fn second(checksum: u32, epoch: Epoch) -> SecondWord {
    SecondWord::new(checksum, epoch, false, false)
}

#[test]
fn reserved_ids_have_entries_and_are_not_given_out() {
    let map = Map::new(1);
    let mut filling = Filling::default();
    let (first, epoch) = map.allocate(None, &mut filling).expect("there are more");
    assert_eq!((first.get(), epoch), (RESERVED_PAGES, Epoch::FIRST));
    for id in 0..RESERVED_PAGES {
        let entry = map.entry(PageId::new(id).expect("small")).loaded().expect("in the first frame");
        assert_eq!(entry.word(), MapWord::FREE);
    }
}

#[test]
fn an_id_that_was_never_given_out_has_no_entry() {
    let map = Map::new(1 << 20);
    for id in [256, 1 << 18, 1 << 20, 1 << 39] {
        let entry = map.entry(PageId::new(id).expect("40 bits"));
        assert!(matches!(entry, Lookup::Never), "{id}: {entry:?}");
    }
}

#[test]
fn siblings_get_ids_of_one_frame_while_it_has_some() {
    let map = Map::new(1 << 20);
    let (mut left, mut right) = (Filling::default(), Filling::default());
    let (a, _) = map.allocate(None, &mut left).expect("free");
    let (b, _) = map.allocate(None, &mut right).expect("free");
    assert_ne!(a.get() / FRAME_PAGES, b.get() / FRAME_PAGES, "each core fills a frame of its own");
    let mut of_frame = 1;
    while let Some((id, _)) = map.allocate(Some(b), &mut left)
        && id.get() / FRAME_PAGES == b.get() / FRAME_PAGES
    {
        of_frame += 1;
    }
    assert_eq!(of_frame, FRAME_PAGES);
}

#[test]
fn when_all_ids_are_in_use_there_is_none_until_some_are_free_again() {
    let map = Map::new(1);
    let mut filling = Filling::default();
    let mut ids = Vec::new();
    while let Some((id, _)) = map.allocate(None, &mut filling) {
        ids.push(id);
    }
    assert_eq!(ids.len() as u64, FRAME_PAGES * CHUNK_FRAMES as u64 - RESERVED_PAGES);
    assert!(map.allocate(None, &mut filling).is_none());
    let of_one_frame = &ids[1000..1000 + WORTHWHILE as usize + 256];
    for &id in of_one_frame {
        assert!(map.free(id, MapWord::FREE, Epoch::FIRST.next()));
    }
    let (id, epoch) = map.allocate(None, &mut filling).expect("some are free");
    assert!(of_one_frame.contains(&id));
    assert_eq!(epoch, Epoch::FIRST.next());
}

#[test]
fn a_cold_entry_is_read_as_it_was_at_one_moment() {
    let map = Map::new(1);
    let (id, epoch) = map.allocate(None, &mut Filling::default()).expect("free");
    let entry = map.entry(id).loaded().expect("it was given out");
    entry.replace(MapWord::FREE, node(1)).expect("it is the caller's");
    let is_done = crate::store::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The checksum of the image at granule n is n.
            for number in 1..50_000u32 {
                let image = second(number, epoch);
                entry.make_cold(node(1), cold(number.into()), image).expect("nobody else changes it");
                entry.replace(cold(number.into()), node(1)).expect("nobody else changes it");
            }
            is_done.store(true, Ordering::Release);
        });
        while !is_done.load(Ordering::Acquire) {
            let (word, second) = entry.load();
            if word != node(1) {
                assert_eq!(word, cold(second.checksum_low().into()));
            }
        }
    });
}

#[derive(Clone, Debug)]
enum Step {
    Allocate,
    Near(prop::sample::Index),
    Free(prop::sample::Index),
    StopFilling,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Allocate),
        2 => any::<prop::sample::Index>().prop_map(Step::Near),
        5 => any::<prop::sample::Index>().prop_map(Step::Free),
        1 => Just(Step::StopFilling),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// No id is given out twice, each comes back with the epoch that it was freed with, and the ids
    /// that are free are used before new frames are.
    #[test]
    fn ids_are_given_out_once_and_used_again(steps in prop::collection::vec(step(), 1..2000)) {
        let map = Map::new(1 << 19);
        let mut fillings = [Filling::default(), Filling::default()];
        let mut used = Vec::new();
        let mut epochs: HashMap<PageId, Epoch> = HashMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            let filling = &mut fillings[number % 2];
            match step {
                Step::Free(index) if !used.is_empty() => {
                    let id = used.swap_remove(index.index(used.len()));
                    let epoch = epochs[&id].next();
                    assert!(map.free(id, MapWord::FREE, epoch));
                    epochs.insert(id, epoch);
                }
                Step::StopFilling => map.stop_filling(filling),
                step => {
                    let neighbour = match step {
                        Step::Near(index) if !used.is_empty() => Some(used[index.index(used.len())]),
                        _ => None,
                    };
                    let (id, epoch) = map.allocate(neighbour, filling).expect("there is room");
                    prop_assert_eq!(epoch, epochs.get(&id).copied().unwrap_or(Epoch::FIRST));
                    prop_assert!(!used.contains(&id), "{:?} was given out twice", id);
                    epochs.insert(id, epoch);
                    used.push(id);
                }
            }
        }
    }
}

/// Frames that are emptied come back: 200,000 ids in turn need a few frames.
#[test]
fn ids_that_come_and_go_do_not_use_up_the_mapping() {
    let map = Map::new(1 << 18);
    let mut filling = Filling::default();
    let mut living = std::collections::VecDeque::new();
    for _ in 0..200_000 {
        living.push_back(map.allocate(None, &mut filling).expect("most ids are free").0);
        if living.len() > 5000 {
            assert!(map.free(living.pop_front().expect("5001"), MapWord::FREE, Epoch::FIRST));
        }
    }
    let frames = map.next_frame.load(Ordering::Relaxed);
    assert!(frames < 40, "5,000 ids take 20 frames if they are full; {frames} were made");
}

#[test]
fn threads_never_have_the_same_id() {
    const ROUNDS: usize = 200;
    let map = Map::new(1 << 18);
    let all = Mutex::new(HashSet::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut filling = Filling::default();
                for round in 0..ROUNDS {
                    let ids: Vec<_> =
                        (0..300).map(|_| map.allocate(None, &mut filling).expect("room").0).collect();
                    let mut taken = all.lock().expect("no panic");
                    assert!(ids.iter().all(|id| taken.insert(*id)), "in use twice, round {round}");
                    drop(taken);
                    let mut taken = all.lock().expect("no panic");
                    ids.iter().for_each(|id| assert!(taken.remove(id)));
                    drop(taken);
                    for id in ids {
                        assert!(map.free(id, MapWord::FREE, Epoch::FIRST));
                    }
                }
                map.stop_filling(&mut filling);
            });
        }
    });
    let frames = map.next_frame.load(Ordering::Relaxed);
    assert!(frames < 12, "600 ids at once take 3 frames if they are full; {frames} were made");
}

/// The mapping of a store that has given out the ids of four frames, 0 to 3.
fn opened() -> Map {
    Map::open(1 << 20, 4 * FRAME_PAGES - 10)
}

fn stored(granule: u64, checksum: u32, epoch: Epoch) -> MapEntry {
    let place = ColdAddress::new(granule, 1).expect("small");
    MapEntry::Cold { place, second: second(checksum, epoch) }
}

#[test]
fn after_opening_a_frame_is_absent_until_it_is_loaded() {
    let map = opened();
    let entry = |id| map.entry(PageId::of_test(id));
    for id in [0, 20, 256, 4 * FRAME_PAGES - 1] {
        assert!(matches!(entry(id), Lookup::Absent(frame) if u64::from(frame) == id / FRAME_PAGES));
    }
    assert!(matches!(entry(4 * FRAME_PAGES), Lookup::Never), "no id of this frame was given out");
    let epoch = Epoch::FIRST.next();
    let mut page = MapPage::default();
    page.entries_mut()[1] = stored(9, 77, epoch);
    page.entries_mut()[2] = MapEntry::Free { epoch };
    page.entries_mut()[3] = MapEntry::Damaged { second: second(5, epoch) };
    assert!(map.install_frame(2, page, |_| false));
    let words = |at| entry(2 * FRAME_PAGES + at).loaded().expect("it is loaded").load();
    assert_eq!(words(0), (MapWord::FREE, second(0, Epoch::FIRST)));
    assert_eq!(words(1), (cold(9), second(77, epoch)));
    assert_eq!(words(2), (MapWord::FREE, second(0, epoch)));
    assert_eq!(words(3), (MapWord::special(Special::Damaged), second(5, epoch)));
    assert!(map.take_changed().is_empty(), "it is as its map page says");
    assert!(!map.install_frame(2, MapPage::default(), |_| panic!("it is there")), "the first one stands");
    assert_eq!(words(1), (cold(9), second(77, epoch)));
    assert!(!map.install_frame(4, MapPage::default(), |_| panic!("it is new")), "it is not absent");
}

#[test]
fn what_is_newer_than_a_map_page_is_applied_to_it_and_is_to_be_written() {
    let map = opened();
    let newer = stored(3, 4, Epoch::FIRST);
    assert!(map.install_frame(1, MapPage::default(), |page| {
        page.entries_mut()[8] = newer;
        true
    }));
    let entry = map.entry(PageId::of_test(FRAME_PAGES + 8)).loaded().expect("it is loaded");
    assert_eq!(entry.load(), newer.words());
    assert_eq!(map.take_changed(), [1]);
    assert!(map.take_changed().is_empty(), "they are taken once");
}

#[test]
fn ids_of_a_frame_are_given_out_when_it_is_loaded_and_has_enough_of_them() {
    let map = opened();
    let mut filling = Filling::default();
    let new = |filling: &mut Filling| map.allocate(None, filling).expect("room").0.get() / FRAME_PAGES;
    assert_eq!(new(&mut filling), 4, "no frame of before is loaded");
    let near = map.allocate(Some(PageId::of_test(FRAME_PAGES)), &mut filling).expect("room").0;
    assert_eq!(near.get() / FRAME_PAGES, 4, "nor that of the neighbour");
    let with_free = |free: u32| {
        let mut page = MapPage::default();
        let in_use = usize::try_from(FRAME_PAGES).expect("small") - free as usize;
        page.entries_mut()[..in_use].fill(stored(1, 1, Epoch::FIRST));
        page
    };
    assert!(map.install_frame(1, with_free(WORTHWHILE), |_| false));
    assert!(map.install_frame(2, with_free(WORTHWHILE - 1), |_| false));
    map.stop_filling(&mut filling);
    let mut of_frames = Vec::new();
    let mut others = [Filling::default(), Filling::default()];
    others.iter_mut().for_each(|filling| of_frames.push(new(filling)));
    assert_eq!(of_frames, [4, 1], "the last one that was put on the stack comes first");
    let near = map.allocate(Some(PageId::of_test(2 * FRAME_PAGES)), &mut filling).expect("room").0;
    assert_eq!(near.get(), 3 * FRAME_PAGES - u64::from(WORTHWHILE - 1), "a few serve neighbours");
}

#[test]
fn the_first_ids_are_reserved_after_opening_too() {
    let map = opened();
    assert!(map.install_frame(0, MapPage::default(), |_| false));
    let (first, _) = map.allocate(None, &mut Filling::default()).expect("room");
    assert_eq!(first.get(), RESERVED_PAGES);
}

#[test]
fn a_store_that_never_gave_out_an_id_is_opened_as_a_new_one() {
    let map = Map::open(1, 0);
    assert!(matches!(map.entry(PageId::of_test(1)), Lookup::Entry(_)));
    assert_eq!(map.next_page(), FRAME_PAGES);
}

/// 16.22 bytes for each page of a loaded frame, 0.06 for each of an absent one: the head of the
/// module says of what.
#[test]
fn the_memory_of_a_page_is_as_documented() {
    let (entries, bits, stack) = (256 * 16, 256 / 8, 8);
    assert_eq!(size_of::<Frame>(), entries + bits + stack);
    let chunk = Chunk::new();
    let frames = chunk.frames.len();
    let directory = size_of_val(&*chunk.frames) / frames;
    let changed_bits = 8 * size_of_val(&*chunk.changed) / frames;
    assert_eq!((directory, changed_bits), (16, 1));
    let hundredths = |bytes: usize| bytes * 100 / 256;
    assert_eq!(hundredths(size_of::<Frame>() + directory), 1621);
    assert_eq!(hundredths(directory), 6);
    // What a chunk itself takes is for 2^18 pages.
    assert!(size_of::<Once<Chunk>>() <= 64);
}
