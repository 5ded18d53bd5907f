//! A store without bytes: pages, segments, cleaning, checkpoints. What the account admits finds a
//! segment, always.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::pages::clean::Victims;
use crate::store::pages::segment::{Segments, State, Temperature};
use crate::store::word::{ColdAddress, PageRef};

const LOG_SEGMENTS: u32 = 2;
const BUFFER: u32 = 2 << 20;

struct Store {
    random: StdRng,
    capacity: Capacity,
    account: Account,
    segments: Segments,
    pages: BTreeMap<u64, ColdAddress>,
    map: Vec<ColdAddress>,
    /// Per stream the segment, its end, and how many pages it has.
    open: [Option<(u32, u32, u32)>; 4],
    now: u32,
    checkpoints: usize,
}

impl Store {
    fn new(geometry: Geometry, seed: u64) -> Self {
        let capacity = Capacity::new(geometry, 1, BUFFER);
        let mut segments = Segments::new(geometry, None);
        (0..LOG_SEGMENTS).for_each(|_| _ = segments.open_log().expect("free"));
        Self {
            random: StdRng::seed_from_u64(seed),
            account: Account::new(capacity.room(LOG_SEGMENTS), 0),
            capacity,
            segments,
            pages: BTreeMap::new(),
            map: Vec::new(),
            open: [None; 4],
            now: 1,
            checkpoints: 0,
        }
    }

    /// A place for a page, in a bundle of as many pages as `bundle_granules` take.
    fn place(&mut self, stream: Temperature, granules: u32, bundle_granules: u32) -> ColdAddress {
        let geometry = self.segments.geometry();
        let slot = stream as usize;
        // Behind each bundle a trailer and padding.
        let trailers = |to: u32, pages: u32| {
            let bundles = (to - geometry.block_granules()) / bundle_granules + 1;
            bundles * (geometry.block_granules() + 2) + pages / 2
        };
        if let Some((segment, end, pages)) = self.open[slot]
            && end + granules + trailers(end + granules, pages + 1) > geometry.segment_granules()
        {
            self.segments.seal(segment);
            self.open[slot] = None;
        }
        let (segment, end, pages) = self.open[slot].unwrap_or_else(|| {
            let name = self.segments.open(stream).expect("what was admitted finds room");
            (name.segment, geometry.block_granules(), 0)
        });
        self.open[slot] = Some((segment, end + granules, pages + 1));
        geometry.place(segment, end, granules)
    }

    fn put(&mut self, id: u64, granules: u32, stream: Temperature, bundle_granules: u32) {
        let place = self.place(stream, granules, bundle_granules);
        self.segments.born(place);
        self.now += 1;
        if let Some(old) = self.pages.insert(id, place) {
            self.segments.died(old, self.now);
        }
    }

    fn min_free(&self) -> usize {
        self.capacity.min_free(self.pages.len() as u64 / 256 + 4) as usize
    }

    /// Cleans until there is room for a flush.
    fn clean(&mut self) {
        let mut victims_left = 8 * self.segments.geometry().segments;
        while self.segments.free_count() < self.min_free() {
            if self.segments.waiting_count() > 0 {
                self.checkpoint();
                if self.segments.free_count() >= self.min_free() {
                    break;
                }
            }
            let geometry = self.segments.geometry();
            let mut victims = Victims::new(geometry.segment_granules() - geometry.block_granules());
            for number in geometry.first_segment()..geometry.segments {
                let segment = self.segments.get(number);
                if segment.state == State::Sealed && segment.temperature != Temperature::Map {
                    victims.update(number, segment);
                }
            }
            // As many as the free segments take; then a checkpoint frees them.
            for _ in 0..(self.segments.free_count() + 2).saturating_sub(self.min_free()).max(1) {
                assert!(
                    victims_left > 0,
                    "cleaning does not come to an end: {:?}",
                    self.segments.free_count()
                );
                victims_left -= 1;
                let Some(victim) = victims.choose(self.now, true) else { break };
                victims.remove(victim);
                assert!(self.segments.clean(victim));
                let lies =
                    |place: &ColdAddress| geometry.locate(*place).is_some_and(|(found, _)| found == victim);
                let pages: Vec<_> = self
                    .pages
                    .iter()
                    .filter(|(_, place)| lies(place))
                    .map(|(id, place)| (*id, *place))
                    .collect();
                for (id, place) in pages {
                    self.put(id, place.granules(), Temperature::Cold, 16384);
                }
                assert!(matches!(self.segments.get(victim).state, State::Emptied { .. }));
            }
        }
    }

    /// Writes all of the map, which is the most that a checkpoint can have to write.
    fn checkpoint(&mut self) {
        self.checkpoints += 1;
        let mut write = self.segments.freeze();
        let old = std::mem::take(&mut self.map);
        for _ in 0..self.pages.len() / 256 + 2 {
            let place = self.place(Temperature::Map, 65, 16384);
            self.segments.meta_born(place);
            self.map.push(place);
        }
        while write.header().is_some() {
            let place = self.place(Temperature::Map, 65, 16384);
            self.segments.table_placed(&mut write, PageRef { place, checksum: 1 });
        }
        self.segments.superblock_durable(write);
        old.into_iter().for_each(|place| self.segments.meta_died(place));
        while let Some(segment) = self.segments.next_trim() {
            self.segments.trimmed(segment);
        }
    }

    /// A write of a page, flushed in bundles of 16 KiB. Returns whether it was admitted.
    fn write(&mut self, id: u64, granules: u32) -> bool {
        let old = page_bytes(self.pages.get(&id).map_or(0, |place| place.granules()));
        let new = page_bytes(granules);
        // Blind first: as if all of it were new. Then with the old page at hand.
        let reserved = match self.account.admit(new) {
            Ok(()) => {
                self.account.settle(new, new.saturating_sub(old));
                new.saturating_sub(old)
            }
            Err(_) if self.account.admit(new.saturating_sub(old)).is_ok() => new.saturating_sub(old),
            Err(NoRoom { missing }) => {
                assert!(missing > 0);
                return false;
            }
        };
        self.clean();
        self.put(id, granules, Temperature::Hot, 256);
        self.account.installed(old, new, reserved);
        true
    }

    fn delete(&mut self, id: u64) {
        if let Some(old) = self.pages.remove(&id) {
            assert_eq!(self.account.admit(0), Ok(()));
            self.now += 1;
            self.segments.died(old, self.now);
            self.account.installed(page_bytes(old.granules()), 0, 0);
        }
    }

    fn check(&self) {
        let used: u64 = self.pages.values().map(|place| page_bytes(place.granules())).sum();
        assert_eq!(self.account.taken(), (used, 0));
        assert!(used <= self.capacity.room(LOG_SEGMENTS));
    }
}

/// Fills a store, overwrites in it when it is full, empties it; again and again.
fn fill_and_empty(geometry: Geometry, seed: u64, sizes: std::ops::RangeInclusive<u32>, rounds: usize) -> f64 {
    let mut store = Store::new(geometry, seed);
    let mut least: f64 = 1.0;
    for _ in 0..rounds {
        let mut next = 0;
        loop {
            let granules = store.random.random_range(sizes.clone());
            if !store.write(next, granules) {
                break;
            }
            next += 1;
        }
        store.check();
        let used = store.account.taken().0;
        #[expect(clippy::cast_precision_loss, reason = "a share to be printed")]
        let share = used as f64 / geometry.size_bytes() as f64;
        least = least.min(share);
        for _ in 0..next {
            // The same size is admitted in a full store, more than that is not.
            let id = store.random.random_range(0..next);
            let granules = store.pages[&id].granules();
            assert!(store.write(id, granules), "an overwrite of the same size");
        }
        assert!(!store.write(next, *sizes.end()));
        store.check();
        let kept = store.random.random_range(0..10);
        (0..next).filter(|id| id % 10 >= kept).for_each(|id| store.delete(id));
        (0..next).filter(|id| id % 10 < kept).for_each(|id| store.delete(id));
        store.check();
    }
    assert!(store.checkpoints > rounds);
    least
}

#[test]
fn what_was_admitted_can_always_be_written() {
    let geometry = |segments| Geometry { block: 4096, segment: 256 << 10, segments };
    for (segments, sizes) in [(32, 40..=66), (64, 2..=40), (64, 256..=256), (64, 1..=256), (256, 40..=66)] {
        let share = fill_and_empty(geometry(segments), 7, sizes.clone(), 3);
        println!("{segments} segments, pages of {sizes:?} granules: {share:.3} of the namespace hold pages");
        assert!(share > if segments > 32 { 0.6 } else { 0.4 });
    }
}

#[test]
fn a_write_that_does_not_fit_is_refused_with_what_is_missing() {
    let mut account = Account::new(1000, 600);
    assert_eq!(account.admit(400), Ok(()));
    assert_eq!(account.admit(1), Err(NoRoom { missing: 1 }));
    assert_eq!(account.admit(0), Ok(()));
    account.settle(400, 100);
    assert_eq!(account.taken(), (600, 100));
    assert_eq!(account.admit(301), Err(NoRoom { missing: 1 }));
    account.installed(50, 150, 100);
    assert_eq!(account.taken(), (700, 0));
    account.set_room(500);
    assert_eq!(account.admit(1), Err(NoRoom { missing: 201 }));
    assert_eq!(account.admit(0), Ok(()), "a delete");
    assert_eq!(account.admit(u64::MAX).map_err(|no_room| no_room.missing > 0), Err(true));
}

#[test]
fn a_segment_holds_what_is_said_and_no_page_is_longer_than_a_sixteenth() {
    for bits in 18..=29 {
        let geometry = Geometry { block: 4096, segment: 1 << bits, segments: 4000 };
        let capacity = Capacity::new(geometry, 2, BUFFER);
        assert!(capacity.max_page_granules() * 16 <= geometry.segment_granules());
        let share = 100 * capacity.segment_bytes() / u64::from(geometry.segment);
        assert!(share >= 90, "{share} % of {} bytes", geometry.segment);
        assert_eq!(capacity.reserve(), 100);
        assert!(capacity.room(8) < geometry.size_bytes());
    }
    let tiny = Capacity::new(Geometry { block: 4096, segment: 256 << 10, segments: 5 }, 8, BUFFER);
    assert_eq!(tiny.room(9), 0, "and no overflow");
}

/// Real bundles of pages of any lengths in a buffer of this size, until the segment is full: it
/// holds what the account counts with. Pages that just do not fit are the worst.
#[test]
fn a_segment_holds_what_is_said_with_small_buffers_too() {
    use crate::store::pages::bundle::{Builder, Origin};
    use crate::store::pages::map_page::Owner;
    use crate::store::pages::page::{PageHeader, PageKind};
    use crate::store::pages::segment::SegmentName;
    use crate::store::word::ChildWord;

    let name = SegmentName { segment: 5, generation: 1 };
    let header = PageHeader::plain(PageKind::Value, 0, ChildWord::of_numbers(20, 1));
    for (bits, buffer_bytes) in
        [(18, 24 << 10), (18, 32 << 10), (18, 64 << 10), (20, 128 << 10), (20, 2 << 20)]
    {
        let geometry = Geometry { block: 4096, segment: 1 << bits, segments: 64 };
        let owner = Owner { identity: [1; 16], geometry };
        let capacity = Capacity::new(geometry, 1, buffer_bytes);
        let most = capacity.max_page_granules();
        let mut buffer = vec![0; buffer_bytes as usize];
        for granules in [1, 2, 3, 7, most / 3, most / 2 + 1, most - 1, most] {
            let content = vec![1; granules as usize * GRANULE_BYTES - 64];
            let (mut end, mut held) = (geometry.block_granules(), 0);
            loop {
                let mut builder = Builder::new(owner, 1, name, end);
                let page = (&content[..], content.len());
                while builder.append(&mut buffer, &header, page, Origin::default()).is_ok() {
                    held += page_bytes(granules);
                }
                if builder.is_empty() {
                    break;
                }
                let (_, len) = builder.seal(&mut buffer).write();
                end += to_u32(len / GRANULE_BYTES);
                if end >= geometry.segment_granules() {
                    break;
                }
            }
            let said = capacity.segment_bytes();
            assert!(held >= said, "2^{bits}, buffer {buffer_bytes}, {granules} granules: {held} of {said}");
        }
    }
    assert_eq!(Capacity::new(Geometry { block: 4096, segment: 1 << 20, segments: 64 }, 1, 4096).room(2), 0);
}
