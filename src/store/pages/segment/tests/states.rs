//! States that segments may have when a checkpoint is written, or read.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use super::owner;
use crate::store::codec::to_usize;
use crate::store::pages::map_page::Owner;
use crate::store::pages::page;

/// The pages of tables, each at a place of its own in segments from 20 on.
#[derive(Default)]
pub(super) struct TableDisk {
    pages: BTreeMap<u64, Vec<u8>>,
    next: u32,
}

impl TableDisk {
    /// Writes the rest of a checkpoint. Returns where it is, its number, and the number of segments
    /// that its superblock states.
    pub(super) fn write(&mut self, segments: &mut Segments, mut write: TableWrite) -> (PageRef, u64, u32) {
        while let Some(header) = write.header() {
            let content = segments.content(&write);
            let place = owner().geometry.place(20, 64 + self.next, page::stored_granules(content.len()));
            self.next += place.granules();
            let mut bytes = vec![0; to_usize(place.len_bytes())];
            let checksum = header.write(&owner().identity, &content, content.len(), &mut bytes);
            self.pages.insert(place.granule(), bytes);
            segments.table_placed(&mut write, PageRef { place, checksum });
        }
        let index = write.index().expect("it was written last");
        let stated = (index, write.checkpoint(), write.segments());
        segments.superblock_durable(write);
        stated
    }

    fn load(&self, (index, checkpoint, segments): (PageRef, u64, u32)) -> load::Loading {
        let owner = Owner { geometry: Geometry { segments, ..owner().geometry }, ..owner() };
        let read = |place: ColdAddress| &self.pages[&place.granule()];
        let mut load = TableLoad::new(read(index.place), index, owner).expect("an index");
        while let Some(place) = load.next() {
            load.read(read(place)).expect("a page of the table");
        }
        load.finish(checkpoint, None)
    }
}

#[test]
fn a_store_that_grows_while_a_checkpoint_is_written_can_be_opened() {
    for begun_before in [true, false] {
        let (mut segments, mut disk) = (Segments::new(owner().geometry, None), TableDisk::default());
        let write = segments.freeze();
        disk.write(&mut segments, write);
        let write = if begun_before { segments.freeze() } else { TableWrite::new(0, 0, BTreeSet::new()) };
        segments.grow(600);
        let write = if begun_before { write } else { segments.freeze() };
        let stated = disk.write(&mut segments, write);
        assert_eq!(stated.2, if begun_before { 32 } else { 600 });
        let loaded = disk.load(stated).finish();
        assert_eq!(loaded.geometry().segments, stated.2);
        // What no durable superblock knows is not opened: its bundles could not be found again.
        let opened: Vec<_> = std::iter::from_fn(|| segments.open(Temperature::Hot)).collect();
        assert!(opened.iter().all(|name| name.segment < stated.2));
        assert_eq!(opened.len(), loaded.free_count() + 1, "the loaded one has its table in segment 20");
    }
}

#[test]
fn counts_that_are_wrong_stay_wrong_when_the_store_is_opened_again() {
    let (mut segments, mut disk) = (Segments::new(owner().geometry, None), TableDisk::default());
    let name = segments.open(Temperature::Hot).expect("free");
    let place = |granule, granules| owner().geometry.place(name.segment, granule, granules);
    segments.born(place(64, 10));
    segments.born(place(74, 10));
    segments.seal(name.segment);
    // It was damaged: a page dies that is longer than what lives.
    segments.died(place(64, 30), 1);
    segments.died(place(74, 10), 2);
    assert_eq!(segments.get(name.segment).state, State::Sealed, "something else may live there");
    let write = segments.freeze();
    let stated = disk.write(&mut segments, write);
    let loaded = disk.load(stated).finish();
    let found = loaded.get(name.segment);
    assert_eq!((found.state, found.miscounted), (State::Sealed, true));
    assert!(!segments.clean(name.segment), "moving what is known to live there does not empty it");
}

#[test]
fn a_segment_that_has_had_its_last_generation_retires() {
    let mut segments = Segments::new(owner().geometry, None);
    segments.segments[2].generation = u32::MAX;
    segments.segments[3].generation = u32::MAX;
    let (log, _) = segments.open_log().expect("there are others");
    let name = segments.open(Temperature::Hot).expect("there are others");
    assert_eq!((log.segment, name.segment), (4, 5));
    let states = [2, 3].map(|segment| segments.get(segment).state);
    // One is met by each search, from the lowest on.
    assert_eq!(states, [State::Retired, State::Retired]);
    assert_eq!(Row::of(segments.get(2)).class, Class::Retired);
}

#[test]
fn nothing_is_trimmed_after_recovery_before_the_new_epoch_is_durable() {
    let (mut segments, mut disk) = (Segments::new(owner().geometry, None), TableDisk::default());
    let name = segments.open(Temperature::Hot).expect("free");
    segments.seal(name.segment);
    assert!(matches!(segments.get(name.segment).state, State::Emptied { .. }));
    let write = segments.freeze();
    let stated = disk.write(&mut segments, write);
    assert_eq!(segments.next_trim(), Some(name.segment));
    let mut loaded = disk.load(stated).finish();
    assert_eq!((loaded.next_trim(), loaded.waiting_count()), (None, 1));
    loaded.epoch_durable();
    assert_eq!(loaded.next_trim(), Some(name.segment));
}

#[test]
fn a_segment_with_a_bundle_under_way_is_no_victim() {
    let mut segments = Segments::new(owner().geometry, None);
    let name = segments.open(Temperature::Hot).expect("free");
    segments.born(owner().geometry.place(name.segment, 64, 10));
    segments.appended(name.segment);
    segments.seal(name.segment);
    let mut victims = crate::store::pages::clean::Victims::new(4000);
    victims.update(name.segment, segments.get(name.segment));
    assert_eq!((victims.choose(9, true), victims.choose(9, false)), (None, None));
    assert!(!segments.clean(name.segment));
    segments.settled(name.segment);
    victims.update(name.segment, segments.get(name.segment));
    assert_eq!(victims.choose(9, true), Some(name.segment));
    segments.appended(name.segment);
    victims.update(name.segment, segments.get(name.segment));
    assert_eq!(victims.choose(9, true), None, "it is taken out again");
    segments.settled(name.segment);
    assert!(segments.clean(name.segment));
}
