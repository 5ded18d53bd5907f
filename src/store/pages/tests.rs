//! The parts together, on a device that loses power: bundles, checkpoints, cleaning, trims, and
//! recovery after any of their steps. What is recovered is what the bundles that the log names say.
//! There is no log: the test keeps the list of what it would name.

mod disk;
mod recovery;

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::bundle::{self, Builder, FlushClock, Full, Naming, Origin, Sealed, Trailer};
use super::clean::Victims;
use super::defect::PagesDefect;
use super::geometry::Geometry;
use super::map_page::{self, ENTRIES, MapEntry, MapPage, MapTree, Owner};
use super::page::{self, PageHeader, PageKind};
use super::segment::{SegmentHeader, SegmentName, SegmentUse, Segments, State, Temperature};
use super::superblock::{LogStart, Sequences, Superblock, Update, UpdateStep};
use crate::store::codec::to_usize;
use crate::store::word::{ChildWord, ColdAddress, PageId, PageRef};
use disk::Disk;

const IDS: u64 = 600;

fn owner() -> Owner {
    Owner { identity: [9; 16], geometry: Geometry { block: 4096, segment: 256 << 10, segments: 32 } }
}

/// What a checkpoint has still to do.
struct Checkpoint {
    first_batch: u64,
    table: super::segment::TableWrite,
    change: super::map_page::MapChange,
    /// Once map and table are flushed.
    update: Option<(Superblock, Update)>,
}

struct Store {
    random: StdRng,
    defect: Option<PagesDefect>,
    disk: Disk,
    segments: Segments,
    tree: MapTree,
    map: BTreeMap<u64, MapPage>,
    changed: std::collections::BTreeSet<(u8, u64)>,
    superblock: Superblock,
    epoch: u64,
    sequences: Sequences,
    clock: FlushClock,
    bundles: u64,
    open: [Option<(SegmentName, u32)>; 4],
    written: Vec<bundle::Written>,
    durable: VecDeque<bundle::Durable>,
    naming: Naming,
    checkpoint: Option<Checkpoint>,
    next_sequence: u64,
    /// The log: batches with what they name, from 1 on.
    log: Vec<Vec<(u64, PageRef)>>,
    /// What the named bundles come to: the content of each page.
    model: BTreeMap<u64, Vec<u8>>,
    contents: BTreeMap<(u64, u64), Vec<u8>>,
}

impl Store {
    fn new(seed: u64, defect: Option<PagesDefect>) -> Self {
        let first = Superblock {
            clean: false,
            salvaged: false,
            identity: owner().identity,
            sequence: 0,
            epoch: 1,
            geometry: owner().geometry,
            parent: 0,
            log: LogStart { segment: 2, generation: 1, offset: 4096, batch: 1, chain: 0, first_write: 0 },
            checkpoint: 0,
            first_batch: 1,
            next_page: IDS,
            map: None,
            map_levels: 2,
            table: None,
            used_granules: 0,
            written_ms: 0,
            lengths: None,
            lengths_at: 0,
        };
        let mut store = Self {
            random: StdRng::seed_from_u64(seed),
            defect,
            disk: Disk::default(),
            segments: Segments::new(owner().geometry, defect),
            tree: MapTree::default(),
            map: BTreeMap::new(),
            changed: [(0, 0), (0, 1), (0, 2)].into(),
            superblock: first,
            epoch: 1,
            sequences: [0; 4],
            clock: FlushClock::default(),
            bundles: 0,
            open: [None; 4],
            written: Vec::new(),
            durable: VecDeque::new(),
            naming: Naming::default(),
            checkpoint: None,
            next_sequence: 1,
            log: Vec::new(),
            model: BTreeMap::new(),
            contents: BTreeMap::new(),
        };
        // The log's segment, which this test does not write.
        store.segments.open_log().expect("free");
        store.begin_checkpoint();
        while store.checkpoint.is_some() {
            store.go_on();
        }
        store
    }

    fn next_batch(&self) -> u64 {
        self.log.len() as u64 + 1
    }

    fn entry(&self, id: u64) -> MapEntry {
        self.map.get(&(id / ENTRIES as u64)).map_or(MapEntry::Unused, |page| page.0[slot(id)])
    }

    fn set(&mut self, id: u64, entry: MapEntry) {
        let index = id / ENTRIES as u64;
        let old = std::mem::replace(&mut self.map.entry(index).or_default().0[slot(id)], entry);
        self.segments.died(old.place(), 1);
        self.changed.insert((0, index));
    }

    /// Fills one bundle of a stream by `fill`, and writes it. `fill` says whether it has more.
    fn bundle(
        &mut self,
        stream: Temperature,
        mut fill: impl FnMut(&mut Builder, &mut [u8]) -> Result<(), Full>,
    ) -> Option<(Sealed, u32)> {
        let index = stream as usize;
        let mut buffer = vec![0; 64 << 10];
        for _ in 0..2 {
            let is_new = self.open[index].is_none();
            if is_new {
                let opened = self.segments.open(stream)?;
                self.open[index] = Some((opened, owner().geometry.block_granules()));
            }
            let (segment, end) = self.open[index].expect("opened");
            self.bundles += 1;
            let number = bundle::number(self.epoch, self.bundles);
            let mut builder = Builder::new(owner(), number, segment, end);
            _ = fill(&mut builder, &mut buffer);
            if builder.is_empty() {
                self.segments.seal(segment.segment);
                self.open[index] = None;
                continue;
            }
            let sealed = builder.seal(&mut buffer);
            let (offset, len) = sealed.write();
            if is_new {
                let usage = SegmentUse::Pages(stream);
                let header = SegmentHeader { name: segment, usage, first: number };
                self.disk.write(owner().geometry.offset(segment.segment), &header.encode(&owner().identity));
            }
            self.disk.write(offset, &buffer[..len]);
            let end = end + u32::try_from(len / 64).expect("small");
            self.open[index] = Some((segment, end));
            if end >= owner().geometry.segment_granules() {
                self.segments.seal(segment.segment);
                self.open[index] = None;
            }
            self.segments.appended(segment.segment);
            return Some((sealed, segment.segment));
        }
        panic!("a new segment has room");
    }

    fn write_pages(&mut self) {
        if self.segments.free_count() < 6 {
            return;
        }
        let mut pages = Vec::new();
        for _ in 0..self.random.random_range(1..6) {
            let id = self.random.random_range(1..IDS);
            let mut content = vec![0; self.random.random_range(1..9000)];
            self.random.fill(&mut content[..]);
            pages.push((id, content, self.entry(id)));
        }
        pages.sort_by_key(|(id, ..)| *id);
        pages.dedup_by_key(|(id, ..)| *id);
        let freed = self.random.random_range(0..3) == 0;
        let mut done = 0;
        let written = self.bundle(Temperature::Hot, |builder, buffer| {
            for (number, (id, content, old)) in pages.iter().enumerate() {
                if freed && number == 0 && pages.len() > 1 {
                    builder.free(buffer, ChildWord::of_numbers(*id, 6))?;
                } else {
                    let header = PageHeader::plain(PageKind::Leaf, 0, ChildWord::of_numbers(*id, 5));
                    let origin = Origin { replaces: old.place(), ..Origin::default() };
                    builder.append(buffer, &header, (content, content.len()), origin)?;
                }
                done = number + 1;
            }
            Ok(())
        });
        let Some((sealed, _)) = written else { return };
        for (id, content, _) in pages.into_iter().take(done) {
            self.contents.insert((sealed.trailer().number, id), content);
        }
        self.written.push(sealed.written(&self.clock));
    }

    /// Moves the pages of the emptiest sealed segment, as cleaning does.
    fn clean(&mut self) {
        let mut victims = Victims::new(owner().geometry.segment_granules());
        for number in 2..owner().geometry.segments {
            let found = self.segments.get(number);
            if found.state == State::Sealed && found.temperature != Temperature::Map {
                victims.update(number, found);
            }
        }
        let Some(victim) = victims.choose(2, true).filter(|_| self.segments.free_count() > 3) else { return };
        let lies = |id: &u64| {
            let place = self.entry(*id).place();
            place.and_then(|place| owner().geometry.locate(place)).is_some_and(|(found, _)| found == victim)
        };
        let pages: Vec<_> =
            (1..IDS).filter(lies).filter_map(|id| Some((id, self.entry(id).place()?))).collect();
        if pages.is_empty() {
            // Its bundles are not installed yet.
            return;
        }
        let contents: Vec<_> = pages.iter().map(|(id, place)| self.read_page(*id, *place)).collect();
        let mut done = 0;
        let written = self.bundle(Temperature::Cold, |builder, buffer| {
            for (number, ((id, place), content)) in pages.iter().zip(&contents).enumerate() {
                let header = PageHeader::plain(PageKind::Leaf, 0, ChildWord::of_numbers(*id, 5));
                let origin = Origin { is_cold_stream: true, is_moved: true, replaces: Some(*place) };
                builder.append(buffer, &header, (content, content.len()), origin)?;
                done = number + 1;
            }
            Ok(())
        });
        let Some((sealed, _)) = written else { return };
        for ((id, _), content) in pages.into_iter().zip(contents).take(done) {
            self.contents.insert((sealed.trailer().number, id), content);
        }
        self.written.push(sealed.written(&self.clock));
    }

    fn read_page(&self, id: u64, place: ColdAddress) -> Vec<u8> {
        let bytes = self.disk.read(place.offset_bytes(), to_usize(place.len_bytes()));
        let page = page::parse(&bytes, place, &owner().identity).expect("a whole page");
        assert_eq!(page.header.page.id(), PageId::of_test(id));
        page.stored.to_vec()
    }

    /// A flush; what it covers is named in the next batch, which is durable at once.
    fn flush(&mut self) {
        let flush = self.clock.begin();
        self.disk.flush();
        let (mut named, mut later) = (Vec::new(), Vec::new());
        let batch = self.next_batch();
        for bundle in std::mem::take(&mut self.written) {
            match bundle.flushed(flush) {
                Ok(flushed) => {
                    named.push(flushed.record());
                    let bundle =
                        flushed.name(batch, 0, None).expect("no writes").durable(batch).expect("durable");
                    self.tell_model(bundle.trailer());
                    self.durable.push_back(bundle);
                }
                Err(bundle) => later.push(bundle),
            }
        }
        self.written = later;
        self.naming.named(batch, named.len());
        self.log.push(named);
    }

    /// A moved page has the content that it had, so moves change nothing.
    fn tell_model(&mut self, trailer: &Trailer) {
        for entry in trailer.entries.iter().filter(|entry| !entry.is_moved) {
            let id = entry.page.id().get();
            self.model.insert(id, self.contents[&(trailer.number, id)].clone());
        }
        trailer.freed.iter().for_each(|page| _ = self.model.remove(&page.id().get()));
    }

    /// Installs the oldest durable bundle in the map.
    fn install(&mut self) {
        let Some(bundle) = self.durable.pop_front() else { return };
        for entry in bundle.entries() {
            self.segments.born(entry.place);
            let id = entry.page.id().get();
            if entry.is_moved && self.entry(id).place() != entry.replaces {
                self.segments.died(entry.place, 1);
            } else {
                self.set(id, MapEntry::Cold { place: entry.place, second: entry.second });
            }
        }
        for page in bundle.freed() {
            self.set(page.id().get(), MapEntry::Free { epoch: page.epoch() });
        }
        assert!(self.naming.installed(bundle.batch()));
        self.segments.settled(bundle.trailer().segment);
    }

    /// Writes map and table of a checkpoint, which are not flushed yet.
    fn begin_checkpoint(&mut self) {
        let Some(first_batch) = self.naming.freeze(self.next_batch()).filter(|_| self.checkpoint.is_none())
        else {
            return;
        };
        let mut table = self.segments.freeze();
        let tree = self.tree.clone();
        let mut write = tree.write(std::mem::take(&mut self.changed), IDS);
        while let Some((level, index)) = write.next() {
            let content = match level {
                0 => self.map.entry(index).or_default().encode(),
                _ => write.content(level, index),
            };
            let page = self.write_meta(&map_page::header(level, index), &content);
            self.segments.meta_born(page.place);
            write.placed(page);
        }
        while let Some(header) = table.header() {
            let content = self.segments.content(&table);
            let page = self.write_meta(&header, &content);
            self.segments.table_placed(&mut table, page);
        }
        self.checkpoint = Some(Checkpoint { first_batch, table, change: write.finish(), update: None });
    }

    fn write_meta(&mut self, header: &PageHeader, content: &[u8]) -> PageRef {
        let mut page = None;
        let (sealed, segment) = self
            .bundle(Temperature::Map, |builder, buffer| {
                page = Some(builder.append_meta(buffer, header, content)?);
                Ok(())
            })
            .expect("segments are kept for checkpoints");
        assert!(sealed.trailer().entries.is_empty());
        // Its page is counted; once that is dead, so is the bundle.
        self.segments.settled(segment);
        page.expect("it has room in a segment of its own")
    }

    /// The next step of the checkpoint under way.
    fn go_on(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        let Some((_, update)) = &mut checkpoint.update else {
            self.disk.flush();
            _ = self.clock.begin();
            let (map, levels) = checkpoint.change.root(&self.tree);
            let superblock = Superblock {
                sequence: self.next_sequence,
                epoch: self.epoch,
                parent: if self.superblock.sequence == 0 { 0 } else { self.superblock.checksum() },
                checkpoint: checkpoint.table.checkpoint(),
                first_batch: checkpoint.first_batch,
                map,
                map_levels: levels.into(),
                table: checkpoint.table.index(),
                ..self.superblock
            };
            checkpoint.update = Some((superblock, Update::new(superblock, &self.sequences)));
            return;
        };
        match update.step() {
            Some(UpdateStep::Write { offset, bytes }) => self.disk.write(offset, &bytes[..]),
            Some(UpdateStep::Flush) => self.disk.flush(),
            None => {
                let Checkpoint { table, change, update, .. } = self.checkpoint.take().expect("under way");
                self.superblock = update.expect("complete").0;
                self.sequences = [self.superblock.sequence; 4];
                self.next_sequence = self.superblock.sequence + 1;
                self.segments.superblock_durable(table);
                let left = self.tree.apply(change);
                left.into_iter().for_each(|place| self.segments.meta_died(place));
            }
        }
    }

    fn trim(&mut self) {
        if let Some(segment) = self.segments.next_trim() {
            self.disk.trim(owner().geometry.offset(segment), owner().geometry.segment as usize);
            self.segments.trimmed(segment);
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..30 => self.write_pages(),
            30..45 => self.flush(),
            45..65 => self.install(),
            65..72 => self.clean(),
            72..76 => self.begin_checkpoint(),
            76..90 => {
                self.go_on();
                // What a checkpoint does is what is to be cut.
                if self.random.random_range(0..8) == 0 {
                    self.crash();
                }
            }
            90..98 => self.trim(),
            _ => self.crash(),
        }
    }
}

fn slot(id: u64) -> usize {
    usize::try_from(id % ENTRIES as u64).expect("below 256")
}

fn run(seed: u64, defect: Option<PagesDefect>) -> [u64; 2] {
    let mut store = Store::new(seed, defect);
    let mut cleaned = 0;
    for _ in 0..600 {
        store.step();
        cleaned +=
            u64::from((2..32).any(|segment| store.segments.get(segment).temperature == Temperature::Cold));
    }
    store.crash();
    [cleaned, store.superblock.checkpoint]
}

#[test]
fn the_recovered_map_is_that_of_the_named_bundles() {
    let first = std::env::var("BOSON_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..40, |seed| seed..seed + 1);
    let mut all = [0; 2];
    for seed in seeds {
        println!("BOSON_SEED={seed}");
        let coverage = run(seed, None);
        (0..2).for_each(|index| all[index] += coverage[index]);
    }
    assert!(first.is_some() || all.iter().all(|&times| times > 200), "moves, checkpoints: {all:?}");
}

fn noticed(defect: PagesDefect) -> Option<u64> {
    (0..60).find(|&seed| std::panic::catch_unwind(|| run(seed, Some(defect))).is_err())
}

#[test]
fn early_reuse_early_trims_and_moves_that_win_are_noticed() {
    for defect in [PagesDefect::ReuseEarly, PagesDefect::TrimEarly, PagesDefect::MovedWins] {
        println!("{defect:?}: {:?}", noticed(defect).expect("it must be noticed"));
    }
}
