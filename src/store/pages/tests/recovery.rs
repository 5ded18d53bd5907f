//! Opening the store on what a power cut left, and what has to be found.

use std::collections::BTreeMap;

use super::super::bundle::{Naming, Trailer};
use super::super::map_page::{ENTRIES, MapEntry, MapLoad, MapPage};
use super::super::overlay::Overlay;
use super::super::segment::{TableLoad, Temperature};
use super::super::superblock::{self, Choice, LogStart};
use super::{IDS, Store, owner};
use crate::store::codec::to_usize;
use crate::store::pages::segment::SegmentName;
use crate::store::word::{ColdAddress, Epoch};

impl Store {
    /// The power goes, and the store is opened on what is left.
    pub(super) fn crash(&mut self) {
        self.disk.crash(&mut self.random);
        let blocks = superblock::COPIES.map(|offset| self.disk.read(offset, 4096));
        let found = superblock::choose(blocks.each_ref().map(|block| Some(&block[..])));
        let Ok(Choice::Store { superblock, sequences, next_sequence }) = found else {
            panic!("no superblock: {found:?}");
        };
        assert!(superblock.sequence >= self.superblock.sequence, "an older superblock");
        let read = |place: ColdAddress| self.disk.read(place.offset_bytes(), to_usize(place.len_bytes()));
        let table = superblock.table.expect("every checkpoint has a table");
        let mut load = TableLoad::new(&read(table.place), table, owner()).expect("the table's index");
        while let Some(place) = load.next() {
            load.read(&read(place)).expect("a page of the table");
        }
        let mut loading = load.finish(superblock.checkpoint, self.defect);
        let LogStart { segment, generation, .. } = superblock.log;
        loading.log(SegmentName { segment, generation }).expect("the log's segment");
        let levels = u8::try_from(superblock.map_levels).expect("few");
        let mut load = MapLoad::new(superblock.map, levels, superblock.next_page, owner());
        while let Some(place) = load.next() {
            load.read(&read(place)).expect("a page of the map");
        }
        let tree = load.finish();
        tree.pages().for_each(|page| loading.meta(page.place));
        let mut overlay = Overlay::new(self.defect);
        for (batch, named) in (1..).zip(&self.log) {
            for (number, at) in named.iter().filter(|_| batch >= superblock.first_batch) {
                let trailer = Trailer::parse(&read(at.place), *at, &owner()).expect("a named bundle");
                assert_eq!(trailer.number, *number);
                let Trailer { segment, generation, .. } = trailer;
                let segment = SegmentName { segment, generation };
                loading
                    .bundle(segment, Temperature::Hot, at.place.offset_bytes())
                    .expect("a segment of pages");
                overlay.add(&trailer, &mut loading.segments);
            }
        }
        self.changed.clear();
        self.map.clear();
        for index in 0..IDS.div_ceil(ENTRIES as u64) {
            let from = tree.find(0, index).expect("each was written once");
            let mut page =
                MapPage::decode(&read(from.place), index, from, &owner()).expect("a page of the map");
            if overlay.apply(index, &mut page, &mut loading.segments) {
                self.changed.insert((0, index));
            }
            self.map.insert(index, page);
        }
        assert_eq!(overlay.next(), None);
        self.segments = loading.finish();
        // The superblock with the next epoch.
        self.segments.epoch_durable();
        self.tree = tree;
        // (A store writes the next epoch before anything else. This one knows it.)
        self.epoch += 1;
        self.superblock = *superblock;
        (self.sequences, self.next_sequence, self.bundles) = (sequences, next_sequence, 0);
        self.open = [None; 4];
        self.written.clear();
        self.durable.clear();
        self.naming = Naming::default();
        self.checkpoint = None;
        self.check();
    }

    /// The map says what the model does, and the segments count what the map does.
    fn check(&self) {
        let mut counts = BTreeMap::<u32, u32>::new();
        for id in 1..IDS {
            let entry = self.entry(id);
            let Some(content) = self.model.get(&id) else {
                assert!(
                    matches!(entry, MapEntry::Unused)
                        || entry == MapEntry::Free { epoch: Epoch::new(6).expect("small") },
                    "{id}: {entry:?}"
                );
                continue;
            };
            let Some(place) = entry.place() else { panic!("page {id} is lost") };
            assert!(self.read_page(id, place) == *content, "page {id} is another one");
            let segment = owner().geometry.locate(place).expect("inside").0;
            *counts.entry(segment).or_default() += place.granules();
        }
        for segment in 0..owner().geometry.segments {
            let live = counts.get(&segment).copied().unwrap_or_default();
            assert_eq!(self.segments.get(segment).live, live, "segment {segment}");
        }
    }
}
