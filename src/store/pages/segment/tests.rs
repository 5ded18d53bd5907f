//! Random operations on the table beside a model of what is durable; a crash loads the last durable
//! table and looks at whether everything that it refers to is still there.

mod states;

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::codec::to_usize;
use crate::store::pages::map_page::Owner;
use crate::store::pages::page;

const IDS: u64 = 60;

fn owner() -> Owner {
    Owner { identity: [1; 16], geometry: Geometry { block: 4096, segment: 256 << 10, segments: 32 } }
}

/// A page or table page that lies somewhere, in this generation of its segment.
type Placed = (ColdAddress, u32);
type Map = BTreeMap<u64, Placed>;
/// Segments of the log, in its order.
type Log = Vec<SegmentName>;
/// A bundle that the log names: its segment, ids and places of its pages. Where there is no segment
/// a checkpoint began.
type Named = (Option<SegmentName>, Vec<(u64, ColdAddress)>);

struct Bundle {
    segment: SegmentName,
    pages: Vec<(u64, ColdAddress)>,
}

/// What the last durable superblock refers to, and the bundles that the log names behind it.
#[derive(Clone, Default)]
struct Durable {
    checkpoint: u64,
    index: Option<PageRef>,
    map: Map,
    named: Vec<Named>,
    log: Log,
}

struct Model {
    random: StdRng,
    segments: Segments,
    /// Per segment what was written in its generation; nothing of it is left after a trim, or when
    /// the segment is opened again.
    disk: BTreeMap<u32, (u32, BTreeMap<u64, Vec<u8>>)>,
    open: [Option<(SegmentName, u32)>; 2],
    under_way: VecDeque<Bundle>,
    map: Map,
    log: Log,
    /// The checkpoint under way: what it writes of the table, the map as of its beginning, the log.
    writing: Option<(TableWrite, Map, Log)>,
    durable: Durable,
    now: u32,
}

impl Model {
    fn new(seed: u64, defect: Option<PagesDefect>) -> Self {
        let mut model = Self {
            random: StdRng::seed_from_u64(seed),
            segments: Segments::new(owner().geometry, defect),
            disk: BTreeMap::new(),
            open: [None; 2],
            under_way: VecDeque::new(),
            map: Map::new(),
            log: Vec::new(),
            writing: None,
            durable: Durable::default(),
            now: 0,
        };
        model.next_log();
        // Formatting ends with a checkpoint.
        model.begin();
        model.end();
        model
    }

    /// What is written to a segment in its new generation is written over what was there.
    fn opened(&mut self, name: SegmentName) {
        let SegmentName { segment, generation } = name;
        let old = self.disk.insert(segment, (generation, BTreeMap::new()));
        let known = |named: &SegmentName| named.segment == segment && named.generation >= generation;
        let durable = &self.durable;
        assert!(
            !durable.named.iter().any(|(place, _)| place.as_ref().is_some_and(known)),
            "a generation of a named bundle"
        );
        assert!(!durable.log.iter().any(known), "a generation of the log");
        let in_map = durable.map.values().any(|(place, old)| {
            owner().geometry.locate(*place).expect("inside").0 == segment && *old >= generation
        });
        assert!(!in_map, "a generation that the map refers to");
        if let Some((old, _)) = old {
            assert!(generation >= old, "generations grow");
        }
    }

    fn next_log(&mut self) {
        if let Some((name, _)) = self.segments.open_log() {
            self.opened(name);
            self.log.push(name);
        }
    }

    /// Room for `granules` of stream 0 (pages) or 1 (map); `None` if no segment is free.
    fn place(&mut self, stream: usize, granules: u32) -> Option<(SegmentName, ColdAddress)> {
        let room = owner().geometry.segment_granules();
        if let Some((name, end)) = self.open[stream]
            && end + granules > room
        {
            self.segments.seal(name.segment);
            self.open[stream] = None;
        }
        if self.open[stream].is_none() {
            let temperature = if stream == 0 { Temperature::Hot } else { Temperature::Map };
            let name = self.segments.open(temperature)?;
            self.opened(name);
            self.open[stream] = Some((name, 64));
        }
        let (name, end) = self.open[stream].as_mut().expect("opened");
        let place = owner().geometry.place(name.segment, *end, granules);
        *end += granules;
        Some((*name, place))
    }

    fn write(&mut self, name: SegmentName, place: ColdAddress, bytes: Vec<u8>) {
        let (generation, content) = self.disk.get_mut(&name.segment).expect("it was opened");
        assert_eq!(*generation, name.generation);
        content.insert(place.granule(), bytes);
    }

    /// The pages in the segment that has the fewest.
    fn fewest_pages(&self) -> Vec<u64> {
        let mut of = BTreeMap::<u32, Vec<u64>>::new();
        for (&id, (place, _)) in &self.map {
            of.entry(owner().geometry.locate(*place).expect("inside").0).or_default().push(id);
        }
        of.into_values().min_by_key(Vec::len).unwrap_or_default()
    }

    fn append(&mut self) {
        // The last free segments are for the map and the log, the last but those for cleaning.
        let free = self.segments.free_count();
        if free < 6 {
            return;
        }
        let victim = if free < 12 { self.fewest_pages() } else { Vec::new() };
        let mut bundle = Bundle { segment: SegmentName { segment: 0, generation: 0 }, pages: Vec::new() };
        for _ in 0..self.random.random_range(1..5) {
            let granules = self.random.random_range(1..300);
            let Some((segment, place)) = self.place(0, granules) else { break };
            if !bundle.pages.is_empty() && bundle.segment != segment {
                // It would be of two segments; its room stays unused.
                break;
            }
            bundle.segment = segment;
            self.write(segment, place, Vec::new());
            let id = victim.get(bundle.pages.len()).copied();
            let id = id.unwrap_or_else(|| self.random.random_range(0..IDS));
            if bundle.pages.iter().all(|(other, _)| *other != id) {
                bundle.pages.push((id, place));
            }
        }
        if !bundle.pages.is_empty() {
            self.segments.appended(bundle.segment.segment);
            self.under_way.push_back(bundle);
        }
    }

    /// The oldest bundle becomes durable and is installed, or writing it fails.
    fn settle(&mut self) {
        let Some(bundle) = self.under_way.pop_front() else { return };
        let worn = bundle.segment.segment % 7 == 3;
        if self.random.random_range(0..if worn { 3 } else { 40 }) == 0 {
            let segment = bundle.segment.segment;
            if self.segments.failed(segment) {
                self.open
                    .iter_mut()
                    .filter(|open| open.is_some_and(|open| open.0.segment == segment))
                    .for_each(|open| *open = None);
            }
            return;
        }
        self.now += 1;
        for &(id, place) in &bundle.pages {
            self.segments.born(place);
            if let Some((old, _)) = self.map.insert(id, (place, bundle.segment.generation)) {
                self.segments.died(old, self.now);
            }
        }
        self.segments.settled(bundle.segment.segment);
        self.durable.named.push((Some(bundle.segment), bundle.pages));
    }

    fn begin(&mut self) {
        if self.writing.is_some() {
            return;
        }
        while self.log.len() > 1 {
            // Where the log starts from this checkpoint on.
            let name = self.log.remove(0);
            self.segments.end_log(name.segment);
        }
        let write = self.segments.freeze();
        self.durable.named.push((None, Vec::new()));
        self.writing = Some((write, self.map.clone(), self.log.clone()));
    }

    fn end(&mut self) {
        let Some((mut write, map, log)) = self.writing.take() else { return };
        while let Some(header) = write.header() {
            let content = self.segments.content(&write);
            let granules = page::stored_granules(content.len());
            let (segment, place) = self.place(1, granules).expect("some are kept for this");
            let mut bytes = vec![0; to_usize(place.len_bytes())];
            let checksum = header.write(&owner().identity, &content, content.len(), &mut bytes);
            self.write(segment, place, bytes);
            self.segments.table_placed(&mut write, PageRef { place, checksum });
        }
        let begun = self.durable.named.iter().rposition(|(place, _)| place.is_none()).expect("begin");
        self.durable.named.drain(..=begun);
        self.durable = Durable {
            checkpoint: write.checkpoint(),
            index: write.index(),
            map,
            named: std::mem::take(&mut self.durable.named),
            log,
        };
        self.segments.superblock_durable(write);
    }

    fn trim(&mut self) {
        if let Some(segment) = self.segments.next_trim() {
            self.disk.get_mut(&segment).expect("it was used").1.clear();
            if self.random.random_range(0..4) > 0 {
                self.segments.trimmed(segment);
            }
        }
    }

    fn read(&self, place: ColdAddress) -> Vec<u8> {
        let segment = owner().geometry.locate(place).expect("inside").0;
        let found = self.disk.get(&segment).and_then(|(_, content)| content.get(&place.granule()));
        found.cloned().unwrap_or_default()
    }

    /// Loads what is durable. A panic is a store that lost something.
    fn crash(&mut self) {
        let durable = self.durable.clone();
        let index = durable.index.expect("a checkpoint has a table");
        let mut load = TableLoad::new(&self.read(index.place), index, owner()).expect("index");
        while let Some(place) = load.next() {
            load.read(&self.read(place)).expect("a page of the table");
        }
        let mut loading = load.finish(durable.checkpoint, self.segments.defect);
        let mut map = durable.map.clone();
        // The log that was written since: it may reach further than what the checkpoint knew.
        let start = durable.log[0];
        let first = self.log.iter().position(|&segment| segment == start);
        let log = first.map_or_else(|| durable.log.clone(), |first| self.log[first..].to_vec());
        for &name in &log {
            assert_eq!(self.disk[&name.segment].0, name.generation, "a segment of the log was written over");
            loading.log(name).expect("a segment of the log");
        }
        for (name, pages) in &durable.named {
            let Some(name) = *name else { continue };
            loading.bundle(name, Temperature::Hot, 0).expect("a named bundle");
            for &(id, place) in pages {
                // As the trailers are read at recovery, too.
                assert_eq!(self.disk[&name.segment].0, name.generation, "a named bundle was written over");
                assert!(
                    self.disk[&name.segment].1.contains_key(&place.granule()),
                    "a named bundle was trimmed"
                );
                loading.segments.born(place);
                if let Some((old, _)) = map.insert(id, (place, name.generation)) {
                    loading.segments.died(old, self.now);
                }
            }
        }
        self.segments = loading.finish();
        // The superblock with the next epoch.
        self.segments.epoch_durable();
        for (id, (place, generation)) in &map {
            let segment = owner().geometry.locate(*place).expect("inside").0;
            let (found, content) = &self.disk[&segment];
            assert!(found == generation, "page {id} was written over");
            assert!(content.contains_key(&place.granule()), "page {id} was trimmed");
        }
        self.map = map;
        self.log = log;
        self.open = [None; 2];
        self.under_way.clear();
        self.writing = None;
        self.durable.named.retain(|(place, _)| place.is_some());
        self.check();
    }

    /// Counts agree with what the map says.
    fn check(&self) {
        let mut counts = BTreeMap::<u32, (u32, u32)>::new();
        for (place, generation) in self.map.values() {
            let segment = owner().geometry.locate(*place).expect("inside").0;
            assert_eq!(self.segments.get(segment).generation, *generation);
            let (live, pages) = counts.entry(segment).or_default();
            *live += place.granules();
            *pages += 1;
        }
        for segment in 0..owner().geometry.segments {
            let found = self.segments.get(segment);
            let (live, pages) = counts.get(&segment).copied().unwrap_or_default();
            assert_eq!((found.live, found.pages), (live, pages), "segment {segment}");
            assert!(!found.miscounted);
            let used = matches!(found.state, State::Open | State::Sealed | State::Cleaning);
            assert!(pages == 0 || used, "{found:?}");
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..35 => self.append(),
            35..65 => self.settle(),
            65..70 => {
                let sealed = self.random.random_range(0..owner().geometry.segments);
                if self.segments.clean(sealed) && self.random.random_range(0..2) == 0 {
                    self.segments.leave(sealed);
                }
            }
            70..75 => {
                // A page is deleted. (In a store its id goes with a bundle; here at once.)
                let id = self.random.random_range(0..IDS);
                if self.under_way.is_empty() && self.writing.is_none() {
                    if let Some((old, _)) = self.map.remove(&id) {
                        self.segments.died(old, self.now);
                    }
                    self.begin();
                    self.end();
                }
            }
            75..80 => self.begin(),
            80..85 => self.end(),
            85..93 => self.trim(),
            93..96 if self.log.len() < 4 && self.segments.free_count() > 3 => self.next_log(),
            96..98 => self.crash(),
            _ => self.check(),
        }
    }
}

fn run(seed: u64, defect: Option<PagesDefect>) -> [usize; 3] {
    let mut model = Model::new(seed, defect);
    let mut coverage = [0; 3];
    for _ in 0..1500 {
        model.step();
        coverage[0] = coverage[0]
            .max(model.disk.values().map(|(generation, _)| *generation as usize).max().unwrap_or(0));
        coverage[1] += usize::from(model.segments.log_pool.len() > 1);
        coverage[2] += usize::from(model.segments.segments.iter().any(|found| found.state == State::Retired));
    }
    model.crash();
    coverage
}

#[test]
fn nothing_that_is_durable_is_written_over_or_trimmed() {
    let first = std::env::var("BOSON_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..60, |seed| seed..seed + 1);
    let mut all = [0; 3];
    for seed in seeds {
        println!("BOSON_SEED={seed}");
        let coverage = run(seed, None);
        (0..3).for_each(|index| all[index] += coverage[index]);
    }
    assert!(
        first.is_some() || all.iter().all(|&times| times > 60),
        "generations, log pool, retired: {all:?}"
    );
}

/// The first seed within 60 that notices the defect.
fn noticed(defect: PagesDefect) -> Option<u64> {
    (0..60).find(|&seed| std::panic::catch_unwind(|| run(seed, Some(defect))).is_err())
}

#[test]
fn early_reuse_is_noticed() {
    println!("{:?}", noticed(PagesDefect::ReuseEarly).expect("early reuse must be noticed"));
}

#[test]
fn an_early_trim_is_noticed() {
    println!("{:?}", noticed(PagesDefect::TrimEarly).expect("an early trim must be noticed"));
}

#[test]
fn impossible_rows_are_damage() {
    let geometry = owner().geometry;
    let is =
        crate::store::pages::damage::Checker::new(crate::store::pages::damage::Structure::SegmentTable, 9);
    let good = Row {
        generation: 3,
        live: 100,
        class: Class::Pages,
        temperature: Temperature::Cold,
        pages: 2,
        up2: 5,
        miscounted: false,
    };
    let decode = |row: &Row, segment| {
        let mut bytes = Vec::new();
        row.encode(&mut bytes);
        Row::decode(&mut crate::store::codec::Reader::new(&bytes), segment, &geometry, is)
    };
    assert_eq!(decode(&good, 2), Ok(good));
    assert!(decode(&good, 1).is_err(), "among the superblocks");
    for live in [100, 0, 1] {
        // A row that says that its counts are wrong may have any.
        let wrong = Row { live, miscounted: true, ..good };
        assert_eq!(decode(&wrong, 2), Ok(wrong));
    }
    for bad in [
        Row { live: 0, ..good },
        Row { live: 4096 - 63, ..good },
        Row { pages: 101, ..good },
        Row { pages: 0, ..good },
        Row { generation: 0, ..good },
        Row { class: Class::Emptied, ..good },
        Row { class: Class::Log, ..good },
        Row { class: Class::Free, live: 0, pages: 0, miscounted: true, ..good },
    ] {
        assert!(decode(&bad, 2).is_err(), "{bad:?}");
    }
    for bits in [5 << 24, 8 << 24, 4 << 28] {
        let bytes = [3, bits, 0, 0].map(|field: u32| field.to_le_bytes()).concat();
        assert!(Row::decode(&mut crate::store::codec::Reader::new(&bytes), 2, &geometry, is).is_err());
    }
}

#[test]
fn a_store_that_grows_has_more_segments_and_one_that_shrinks_loses_free_ones() {
    let mut segments = Segments::new(owner().geometry, None);
    assert_eq!((segments.free_count(), segments.free_at_end()), (30, 30));
    let first = segments.open(Temperature::Hot).expect("free");
    assert_eq!(first.segment, 2, "from the lowest on");
    assert_eq!(segments.free_at_end(), 29);
    segments.grow(300);
    assert_eq!((segments.free_count(), segments.geometry().segments), (29, 300));
    segments.grow(200);
    segments.grow(2_000_000);
    assert_eq!(segments.geometry().segments, 300, "it does not shrink by this, nor beyond a million");
    let mut disk = states::TableDisk::default();
    let write = segments.freeze();
    assert_eq!(segments.content(&write).len(), 256 * 16);
    disk.write(&mut segments, write);
    assert_eq!((segments.free_count(), segments.waiting_count()), (297, 0));
}
