use super::*;
use crate::store::btree::map::{FRAME_PAGES, Filling};
use crate::store::pages::MapPage;
use crate::store::word::NodeAddress;

fn node(number: u64) -> MapWord {
    MapWord::node(NodeAddress::new(number * 64).expect("aligned"))
}

fn at(granule: u64) -> ColdAddress {
    ColdAddress::new(granule, 2).expect("small")
}

/// The image at a place, whose checksum is the place's.
fn image(granule: u64) -> Home {
    let checksum = u32::try_from(granule).expect("small");
    Home { address: at(granule), second: SecondWord::new(checksum, Epoch::FIRST, false, false) }
}

fn cold(granule: u64) -> MapEntry {
    MapEntry::Cold { place: at(granule), second: image(granule).second }
}

/// A mapping and the keeper of its pages.
struct Kept {
    map: Map,
    homes: Homes,
    freeze: MapFreeze,
    filling: Filling,
}

impl Kept {
    fn new() -> Self {
        let (map, homes) = (Map::new(1 << 20), Homes::default());
        Self { map, homes, freeze: MapFreeze::default(), filling: Filling::default() }
    }

    /// A new page with this node.
    fn create(&mut self, number: u64) -> PageId {
        let (id, _) = self.map.allocate(None, &mut self.filling).expect("room");
        self.entry(id).replace(MapWord::FREE, node(number)).expect("it is ours");
        id
    }

    fn entry(&self, id: PageId) -> &Entry {
        self.map.entry(id).loaded().expect("it was given out")
    }

    fn install(&mut self, id: PageId, granule: u64) -> Installed {
        self.homes.install(&self.map, id, image(granule), &mut self.freeze)
    }

    fn clean(&mut self, id: PageId, from: u64, to: u64) -> Installed {
        self.homes.install_moved(&self.map, id, at(from), image(to), &mut self.freeze)
    }

    fn evict(&self, id: PageId, (number, place): (u64, u64)) -> Evicted {
        self.homes.evict(id, self.entry(id), (node(number), at(place)), || true)
    }

    fn load(&self, id: PageId, from: u64, number: u64) -> bool {
        let word = MapWord::cold(at(from), 0).expect("young");
        self.homes.admit(id, self.entry(id), (word, image(from).second), node(number))
    }

    fn free(&mut self, id: PageId, epoch: Epoch) -> Option<Option<ColdAddress>> {
        let step = (self.entry(id).word(), epoch);
        self.homes.free(&self.map, id, step, Some(&mut self.freeze))
    }

    fn begin(&mut self) -> Vec<u32> {
        self.freeze.begin(&self.map, []);
        self.freeze.frames().collect()
    }

    /// A checkpoint of one frame at most: what it writes.
    fn export(&mut self) -> Option<MapPage> {
        let frames: Vec<_> = self.freeze.frames().collect();
        assert!(frames.len() <= 1);
        let page = frames
            .first()
            .map(|frame| self.freeze.export(&self.map, &self.homes, *frame).expect("what changed is loaded"));
        self.freeze.durable();
        page
    }
}

fn of(page: Option<MapPage>, id: PageId) -> MapEntry {
    let at = usize::try_from(id.get() % FRAME_PAGES).expect("small");
    page.expect("the frame changed").entries()[at]
}

#[test]
fn only_the_node_that_is_durable_is_evicted() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    assert_eq!(kept.evict(id, (1, 5)), Evicted::Dirty, "it was never durable");
    assert_eq!(kept.install(id, 5), Installed::Newest { left: None });
    assert_eq!(kept.evict(id, (1, 4)), Evicted::Dirty, "that is not its image");
    assert_eq!(kept.evict(id, (2, 5)), Evicted::Changed, "that is not its node");
    let is_open = kept.homes.evict(id, kept.entry(id), (node(1), at(5)), || false);
    assert_eq!(is_open, Evicted::Dirty, "its area has a change");
    assert_eq!(kept.homes.get(id), Some(image(5)), "none of these forgets the home");
    assert_eq!(kept.evict(id, (1, 5)), Evicted::Done);
    assert_eq!(kept.entry(id).load(), cold(5).words());
    assert_eq!(kept.homes.get(id), None);
}

#[test]
fn a_loader_takes_the_image_that_it_read_or_looks_again() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    kept.install(id, 5);
    kept.evict(id, (1, 5));
    assert!(!kept.load(id, 6, 2), "it lies elsewhere");
    let word = MapWord::cold(at(5), 0).expect("young");
    let stale = (word, image(6).second);
    assert!(!kept.homes.admit(id, kept.entry(id), stale, node(2)), "it was another image");
    assert!(!kept.homes.is_current(id, kept.entry(id), stale.0, stale.1));
    assert!(kept.homes.is_current(id, kept.entry(id), word, image(5).second));
    assert!(kept.load(id, 5, 2));
    assert!(!kept.load(id, 5, 3), "somebody was faster");
    assert_eq!((kept.entry(id).word(), kept.homes.get(id)), (node(2), Some(image(5))));
}

#[test]
fn an_image_that_cannot_be_read_stays_what_is_durable() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    kept.install(id, 5);
    kept.evict(id, (1, 5));
    let word = MapWord::cold(at(5), 0).expect("young");
    assert!(kept.homes.give_up(id, kept.entry(id), (word, image(5).second)));
    assert_eq!(kept.entry(id).word().view(), MapView::Special(Special::Damaged));
    kept.begin();
    assert_eq!(of(kept.export(), id), cold(5));
}

#[test]
fn a_clean_page_whose_image_is_moved_is_clean() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    kept.install(id, 5);
    assert_eq!(kept.clean(id, 4, 8), Installed::Unwanted, "that was not the newest");
    assert_eq!(kept.clean(id, 5, 6), Installed::Newest { left: Some(at(5)) });
    assert_eq!(kept.clean(id, 6, 7), Installed::Newest { left: Some(at(6)) });
    assert_eq!(kept.evict(id, (1, 7)), Evicted::Dirty, "its node has the place of before");
    assert_eq!(kept.evict(id, (1, 5)), Evicted::Done);
    assert_eq!(kept.entry(id).load(), cold(7).words());
    assert_eq!(kept.clean(id, 7, 9), Installed::Newest { left: Some(at(7)) }, "it is cold");
    assert_eq!(kept.entry(id).load(), cold(9).words());
    assert!(kept.load(id, 9, 2));
    assert_eq!(kept.evict(id, (2, 9)), Evicted::Done, "the node has the place that it was read from");
}

#[test]
fn a_flush_makes_a_page_clean_that_was_moved() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    kept.install(id, 5);
    kept.clean(id, 5, 6);
    kept.entry(id).replace(node(1), node(2)).expect("nobody else changes it");
    assert_eq!(kept.install(id, 7), Installed::Newest { left: Some(at(6)) });
    assert_eq!(kept.evict(id, (2, 5)), Evicted::Dirty, "that was the image before");
    assert_eq!(kept.evict(id, (2, 7)), Evicted::Done);
}

/// Cleaning has moved the image of a page, and the place where it was is given out once more: for
/// the next image of the same page.
#[test]
fn a_place_that_is_given_out_again_is_that_of_the_next_image_alone() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    kept.install(id, 5);
    kept.clean(id, 5, 6);
    kept.homes.tells(id, at(5));
    kept.entry(id).replace(node(1), node(2)).expect("nobody else changes it");
    assert_eq!(kept.evict(id, (2, 5)), Evicted::Dirty, "what is durable is the image before");
    assert_eq!(kept.homes.get(id), Some(image(6)));
    assert_eq!(kept.install(id, 5), Installed::Newest { left: Some(at(6)) });
    assert_eq!(kept.evict(id, (2, 5)), Evicted::Done);
    assert_eq!(kept.entry(id).load(), cold(5).words());
}

#[test]
fn a_checkpoint_writes_the_durable_state_of_each_page() {
    let mut kept = Kept::new();
    let [new, resident, evicted, freed, given_back] = [1, 2, 3, 4, 5].map(|number| kept.create(number));
    kept.install(resident, 20);
    kept.entry(resident).replace(node(2), node(22)).expect("nobody else changes it");
    kept.install(evicted, 30);
    kept.evict(evicted, (3, 30));
    kept.install(freed, 40);
    assert_eq!(kept.free(freed, Epoch::FIRST.next()), Some(Some(at(40))));
    let back = (node(5), Epoch::FIRST);
    assert_eq!(kept.homes.free(&kept.map, given_back, back, None), Some(None));
    assert_eq!(kept.begin(), [0]);
    let page = kept.export();
    let of = |id| of(page.clone(), id);
    assert_eq!(of(new), MapEntry::Unused, "it was never durable");
    assert_eq!(of(resident), cold(20), "not what it is in memory");
    assert_eq!(of(evicted), cold(30));
    assert_eq!(of(freed), MapEntry::Free { epoch: Epoch::FIRST.next() });
    assert_eq!(of(given_back), MapEntry::Unused);
    assert_eq!(kept.begin(), [0; 0], "nothing changed since");
    kept.freeze.durable();
}

/// A page that was created in an id that was used before, and is never durable, is free with the
/// epoch that it was given out with.
#[test]
fn what_was_never_durable_is_free_as_it_was() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    let epoch = Epoch::FIRST.next().next();
    kept.free(id, epoch);
    let (again, of_use) = kept.map.allocate(Some(id), &mut kept.filling).expect("room");
    assert_eq!((again, of_use), (id, epoch), "it is the first that is free");
    kept.entry(id).replace(MapWord::FREE, node(2)).expect("it is ours");
    kept.begin();
    assert_eq!(of(kept.export(), id), MapEntry::Free { epoch });
    assert!(kept.freeze.frames().next().is_none());
    kept.install(id, 9);
    kept.begin();
    assert_eq!(of(kept.export(), id), cold(9));
}

#[test]
fn an_image_of_a_page_that_is_free_is_unwanted() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    kept.free(id, Epoch::FIRST.next());
    assert_eq!(kept.install(id, 5), Installed::Unwanted);
    assert_eq!(kept.homes.get(id), None, "the next use has no home");
    let never = PageId::of_test(1 << 30);
    assert_eq!(kept.install(never, 5), Installed::Unwanted);
}

#[test]
fn what_changes_while_a_checkpoint_is_written_is_in_the_next_one() {
    let mut kept = Kept::new();
    let [flushed, moved, freed, cleaned] = [1, 2, 3, 4].map(|number| kept.create(number));
    for (id, granule) in [(flushed, 10), (moved, 20), (freed, 30), (cleaned, 40)] {
        kept.install(id, granule);
    }
    kept.evict(cleaned, (4, 40));
    assert_eq!(kept.begin(), [0]);
    kept.install(flushed, 11);
    kept.install(flushed, 12);
    kept.evict(moved, (2, 20));
    kept.clean(moved, 20, 21);
    let created = kept.create(6);
    kept.install(created, 60);
    kept.free(freed, Epoch::FIRST.next());
    kept.load(cleaned, 40, 5);
    let page = kept.export();
    let of_first = [flushed, moved, freed, cleaned, created].map(|id| of(page.clone(), id));
    assert_eq!(of_first, [cold(10), cold(20), cold(30), cold(40), MapEntry::Unused]);
    assert_eq!(kept.begin(), [0]);
    let page = kept.export();
    let of_second = [flushed, moved, freed, cleaned, created].map(|id| of(page.clone(), id));
    let free = MapEntry::Free { epoch: Epoch::FIRST.next() };
    assert_eq!(of_second, [cold(12), cold(21), free, cold(40), cold(60)]);
}

#[test]
fn a_frame_that_is_exported_already_keeps_nothing() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    kept.install(id, 5);
    assert_eq!(kept.begin(), [0]);
    let page = kept.freeze.export(&kept.map, &kept.homes, 0);
    assert_eq!(of(page, id), cold(5));
    kept.install(id, 6);
    kept.freeze.durable();
    assert_eq!(kept.begin(), [0], "it changed after it was exported");
    assert_eq!(of(kept.export(), id), cold(6));
}

#[test]
fn the_frames_of_a_checkpoint_that_is_given_up_are_in_the_next_one() {
    let mut kept = Kept::new();
    let id = kept.create(1);
    kept.install(id, 5);
    assert_eq!(kept.begin(), [0]);
    kept.freeze.export(&kept.map, &kept.homes, 0).expect("loaded");
    kept.freeze.give_up(&kept.map);
    assert_eq!(kept.begin(), [0]);
    assert_eq!(of(kept.export(), id), cold(5));
}

/// What is exported is what the next opening loads.
#[test]
fn an_exported_frame_is_loaded_as_it_was() {
    let mut kept = Kept::new();
    let [resident, freed] = [1, 2].map(|number| kept.create(number));
    kept.install(resident, 20);
    kept.free(freed, Epoch::FIRST.next());
    let next_page = kept.freeze.begin(&kept.map, []);
    let page = kept.export().expect("it changed");
    let map = Map::open(1 << 20, next_page);
    assert!(map.install_frame(0, page, |_| false));
    assert_eq!(map.entry(resident).loaded().expect("loaded").load(), cold(20).words());
    let (first, epoch) = map.allocate(None, &mut Filling::default()).expect("room");
    assert_eq!((first, epoch), (freed, Epoch::FIRST.next()));
}

#[test]
fn a_home_takes_32_bytes() {
    assert_eq!(size_of::<(PageId, super::Kept)>(), 32);
}
