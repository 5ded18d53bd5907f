//! The flusher over the real tree: random writes and removals, bundles to a device that is a map,
//! and what a crash leaves: the durable images, read as visitors read them, and the writes from
//! where the log has to be kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::btree::node::ProcessMemory;
use crate::store::btree::nodes::Nodes;
use crate::store::btree::tree::{Change, Numbers, TreeRoot};
use crate::store::events::{Event, Events, Sink};
use crate::store::flush::{BundleId, FlushDefect, Flusher, Next, Plan, Reason, Room};
use crate::store::word::ChildWord;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is durable, and the newest number.
#[derive(Default)]
struct Device {
    images: Mutex<HashMap<PageId, (Content, ColdAddress)>>,
    next_place: AtomicU64,
    numbers: AtomicU64,
}

impl DurableHomes for Device {
    fn home(&self, page: PageId) -> Option<(ColdAddress, SecondWord)> {
        let images = self.images.lock().expect("no test panics with it");
        let (content, place) = images.get(&page)?;
        Some((*place, SecondWord::new(0, content.child.epoch(), false, false)))
    }

    fn newest_number(&self) -> u64 {
        self.numbers.load(Ordering::Acquire)
    }
}

impl Numbers for &Device {
    fn at_least(&mut self) -> u64 {
        self.numbers.load(Ordering::Acquire) + 1
    }

    fn draw(&mut self) -> u64 {
        self.numbers.fetch_add(1, Ordering::AcqRel) + 1
    }
}

impl Device {
    fn place(&self) -> ColdAddress {
        let place = self.next_place.fetch_add(1, Ordering::Relaxed) + 1;
        ColdAddress::new(place, 1).expect("small")
    }

    /// What visitors find in the durable tree, and that nothing else is durable.
    fn read(&self, root: ChildWord) -> Result<Entries, String> {
        let images = self.images.lock().expect("no test panics with it");
        let mut walk = Walk { images: &images, reached: BTreeSet::new(), entries: Entries::new() };
        if images.contains_key(&root.id()) {
            walk.page(root, (Vec::new(), None))?;
        }
        match images.keys().find(|page| !walk.reached.contains(page)) {
            Some(page) => Err(format!("page {page:?} is durable, and nobody comes to it")),
            None => Ok(walk.entries),
        }
    }
}

struct Walk<'d> {
    images: &'d HashMap<PageId, (Content, ColdAddress)>,
    reached: BTreeSet<PageId>,
    entries: Entries,
}

type Bounds = (Vec<u8>, Option<Vec<u8>>);

impl Walk<'_> {
    fn page(&mut self, child: ChildWord, bounds: Bounds) -> Result<(), String> {
        let Some((content, _)) = self.images.get(&child.id()) else {
            return Err(format!("{child:?} is not durable"));
        };
        if !self.reached.insert(child.id()) {
            return Err(format!("{child:?} has two parents"));
        }
        let (lower, mut upper) = bounds;
        if content.child != child {
            let split = match content.level {
                0 => LeafImage::of_verified(&content.image).changes().pending(),
                _ => InnerImage::of_verified(&content.image).changes().pending(),
            };
            let Some(split) = split.filter(|_| content.child.epoch() == child.epoch().next()) else {
                return Err(format!("{child:?} is {:?}", content.child));
            };
            let separator = split.separator.to_vec();
            self.page(split.right, (separator.clone(), upper))?;
            upper = Some(separator);
        }
        if content.level == 0 {
            let image = LeafImage::of_verified(&content.image);
            for entry in image.entries(0..image.len()) {
                let key = entry.key.to_vec();
                if key < lower || upper.as_ref().is_some_and(|upper| key >= *upper) {
                    return Err(format!("{child:?} has a key that is not its own"));
                }
                self.entries.insert(key, entry.value.to_vec());
            }
            return Ok(());
        }
        let image = InnerImage::of_verified(&content.image);
        let mut next = lower;
        for at in 0..image.len() {
            let end = image.upper(at).map(|upper| upper.to_vec());
            self.page(image.child(at), (next.clone(), end.clone().or_else(|| upper.clone())))?;
            next = end.unwrap_or_default();
        }
        Ok(())
    }
}

type Write = (u64, Vec<u8>, Option<Vec<u8>>);

/// A bundle, its images, and ids that are free with it.
type UnderWay = (BundleId, Vec<(Content, ColdAddress)>, Vec<ChildWord>);

/// The flusher's side: bundles under way, and the device.
struct Keeper {
    flusher: Flusher,
    queues: Vec<Arc<Events>>,
    under_way: Vec<UnderWay>,
    bundles: usize,
    removed: usize,
}

const ROOM: Room = Room { bytes: 256 << 10, entries: 500 };

impl Keeper {
    fn new(queues: Vec<Arc<Events>>, defect: Option<FlushDefect>) -> Self {
        Self { flusher: Flusher::new(1, defect), queues, under_way: Vec::new(), bundles: 0, removed: 0 }
    }

    fn plan(&mut self, core: &Core<ProcessMemory>, device: &Device, budget: usize, reason: Reason) -> bool {
        let pages = CorePages { core, homes: device };
        let queues = &self.queues;
        let take = &mut |to: &mut Vec<Event>| queues.iter().for_each(|queue| queue.drain(to));
        let mut next = self.flusher.next_bundle(&pages, take, ROOM, budget, reason);
        if matches!(next, Next::TooLarge(_)) {
            // A tree that grew before it was ever durable: a group of bundles, named in one batch.
            let group = Room { bytes: 64 * ROOM.bytes, entries: 64 * ROOM.entries };
            next = self.flusher.next_bundle(&pages, take, group, budget, reason);
        }
        let Next::Bundle(plan) = next else { return false };
        let Plan { bundle, pages, freed, newest } = plan;
        // W1: what emptied a page is in the log before the page is gone.
        assert!(pages.iter().all(|page| page.newest <= newest) && newest <= device.newest_number());
        assert!(freed.is_empty() || newest > 0);
        let images = pages.into_iter().map(|page| (page.content, device.place())).collect();
        self.under_way.push((bundle, images, freed));
        self.bundles += 1;
        true
    }

    fn durable(&mut self, core: &Core<ProcessMemory>, device: &Device, at: usize) {
        let (bundle, images, freed) = self.under_way.remove(at);
        let mut durable = device.images.lock().expect("no test panics with it");
        for (content, place) in &images {
            durable.insert(content.child.id(), (content.clone(), *place));
        }
        for page in &freed {
            durable.remove(&page.id());
        }
        drop(durable);
        let settled = self.flusher.durable(bundle, &CorePages { core, homes: device });
        assert_eq!(settled.pages.len(), images.len());
        let pin = core.pin();
        for (content, place) in &images {
            pin.install_flushed(content, *place);
        }
        for page in settled.freed {
            let gone = ChildWord::new(page.id(), page.epoch().before());
            assert!(pin.release_gone(gone), "{page:?} is gone");
            self.removed += 1;
        }
        drop(pin);
        core.collect();
    }

    fn log_start(&mut self, core: &Core<ProcessMemory>, device: &Device) -> u64 {
        let next = device.newest_number() + 1;
        let queues = &self.queues;
        let take = &mut |to: &mut Vec<Event>| queues.iter().for_each(|queue| queue.drain(to));
        self.flusher.log_start(next, &CorePages { core, homes: device }, take)
    }

    fn close(&mut self, core: &Core<ProcessMemory>, device: &Device) {
        for _ in 0..10_000 {
            while !self.under_way.is_empty() {
                self.durable(core, device, 0);
            }
            if !self.plan(core, device, ROOM.bytes, Reason::Close) {
                break;
            }
        }
        assert_eq!(self.log_start(core, device), device.newest_number() + 1, "{:?}", self.flusher);
        assert_eq!(self.flusher.dirty_count(), 0);
    }
}

/// What comes back: the durable tree, and the writes from `log_start` on.
fn recovered(device: &Device, root: ChildWord, log: &[Write], log_start: u64) -> Result<Entries, String> {
    let mut entries = device.read(root)?;
    for (_, key, value) in log.iter().filter(|(number, ..)| *number >= log_start) {
        match value {
            Some(value) => entries.insert(key.clone(), value.clone()),
            None => entries.remove(key),
        };
    }
    Ok(entries)
}

/// What is written, at random, and deleted, in runs of neighbours, by turns.
struct Program {
    random: StdRng,
    keys: u32,
    at: u32,
    run: (u32, u32),
}

impl Program {
    fn new(seed: u64, keys: u32) -> Self {
        Self { random: StdRng::seed_from_u64(seed), keys, at: 0, run: (0, 0) }
    }

    /// The next key by its number, and the value, which makes leaves of ten keys.
    fn next(&mut self) -> (u32, Option<Vec<u8>>) {
        self.at += 1;
        let is_put =
            self.random.random_range(0..100) < if (self.at / self.keys).is_multiple_of(2) { 95 } else { 3 };
        if is_put {
            let mut value = vec![7; self.random.random_range(100..700)];
            value[..4].copy_from_slice(&self.at.to_le_bytes());
            return (self.random.random_range(0..self.keys), Some(value));
        }
        if self.run.0 == self.run.1 {
            let from = self.random.random_range(0..self.keys);
            self.run = (from, (from + self.random.random_range(1..60)).min(self.keys));
        }
        let key = self.run.0;
        self.run.0 += 1;
        (key, None)
    }
}

fn key(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn one_thread(seed: u64, writes: u32, defect: Option<FlushDefect>) -> Result<(usize, usize), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let device = Device::default();
    let queue = Arc::new(Events::default());
    let nodes = Nodes::new(ProcessMemory, 1 << 20, 2);
    let core = nodes.attach_with(Sink::Keeper(Arc::clone(&queue))).expect("a core");
    let tree = core.new_tree(1).expect("room");
    let mut keeper = Keeper::new(vec![queue], defect);
    let mut log: Vec<Write> = Vec::new();
    let mut model = Entries::new();
    let mut program = Program::new(seed, random.random_range(100..900));
    for _ in 0..writes {
        let (key, value) = program.next();
        let key = self::key(key);
        let change = value.as_ref().map_or(Change::Delete, |value| Change::Put(value));
        let number = core.pin().write(tree, &key, change, &mut &device).expect("room");
        log.push((number, key.clone(), value.clone()));
        match value {
            Some(value) => model.insert(key, value),
            None => model.remove(&key),
        };
        match random.random_range(0..400) {
            0..10 => {
                let reason = [Reason::Age, Reason::Pressure][random.random_range(0..2)];
                if reason == Reason::Pressure {
                    keeper.flusher.want(PageId::of_test(random.random_range(16..100)));
                }
                let budget = random.random_range(1..100_000);
                keeper.plan(&core, &device, budget, reason);
            }
            10..25 if !keeper.under_way.is_empty() => {
                let at = random.random_range(0..keeper.under_way.len());
                if random.random_range(0..5) == 0 {
                    let (bundle, ..) = keeper.under_way.remove(at);
                    keeper.flusher.failed(bundle);
                } else {
                    keeper.durable(&core, &device, at);
                }
                let log_start = keeper.log_start(&core, &device);
                if recovered(&device, tree.root, &log, log_start)? != model {
                    return Err(format!("after write {number} the tree is another"));
                }
            }
            _ => {}
        }
    }
    keeper.close(&core, &device);
    // Nothing is dirty: the log is not needed.
    if device.read(tree.root)? != model {
        return Err("closed, and the tree is another".into());
    }
    Ok((keeper.bundles, keeper.removed))
}

/// `BOSON_SEED=N` runs that seed alone, `BOSON_SEEDS=N` as many.
fn seeds(most: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    match number("BOSON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BOSON_SEEDS").unwrap_or(most),
    }
}

#[test]
fn a_crash_at_any_bundle_loses_nothing() {
    let (mut bundles, mut removed) = (0, 0);
    for seed in seeds(12) {
        let found = one_thread(seed, 2500, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        bundles += found.0;
        removed += found.1;
    }
    println!("{bundles} bundles, {removed} pages removed");
    assert!(bundles > 10 && removed > 10);
}

#[test]
fn each_broken_rule_is_noticed_with_the_real_tree() {
    let defects = [
        FlushDefect::NoPartner,
        FlushDefect::ParentAhead,
        FlushDefect::ChildTwoAhead,
        FlushDefect::RemovalAlone,
        FlushDefect::LogForgets,
        FlushDefect::RangeBeforeOwner,
    ];
    for defect in defects {
        let found = (0..12).find_map(|seed| {
            let run = std::panic::catch_unwind(|| one_thread(seed, 2500, Some(defect)));
            match run {
                Ok(found) => found.err().map(|wrong| (seed, wrong)),
                Err(_) => Some((seed, "it panics".into())),
            }
        });
        match found {
            Some((seed, wrong)) => println!("{defect:?}: seed {seed}: {wrong}"),
            None => panic!("{defect:?} is not noticed"),
        }
    }
}

/// Two threads write, a third flushes. Each write holds a lock of its thread, so that the log and
/// the model are known at each crash; the flusher takes no such lock while it puts bundles
/// together.
fn threads(seed: u64, writes: u32, defect: Option<FlushDefect>) -> Result<(usize, usize), String> {
    struct Written {
        log: Vec<Write>,
        model: Entries,
    }
    let device = Device::default();
    let queues: Vec<_> = (0..3).map(|_| Arc::new(Events::default())).collect();
    let nodes = Nodes::new(ProcessMemory, 1 << 20, 3);
    let attach = |at: usize| nodes.attach_with(Sink::Keeper(Arc::clone(&queues[at]))).expect("a core");
    let tree = attach(2).new_tree(1).expect("room");
    let done = AtomicBool::new(false);
    let written: [Mutex<Written>; 2] =
        std::array::from_fn(|_| Mutex::new(Written { log: Vec::new(), model: Entries::new() }));
    let write = |thread: u32, tree: TreeRoot| {
        let mut program = Program::new(seed * 2 + u64::from(thread), 500);
        let core = attach(thread as usize);
        for _ in 0..writes {
            // Neighbours of each other's keys, but never the same.
            let (key, value) = program.next();
            let key = self::key(key * 2 + thread);
            let change = value.as_ref().map_or(Change::Delete, |value| Change::Put(value));
            let mut written = written[thread as usize].lock().expect("no panic");
            let number = core.pin().write(tree, &key, change, &mut &device).expect("room");
            written.log.push((number, key.clone(), value.clone()));
            match value {
                Some(value) => written.model.insert(key, value),
                None => written.model.remove(&key),
            };
            drop(written);
            core.collect();
        }
    };
    std::thread::scope(|scope| {
        let write = &write;
        let writers = [0, 1].map(|thread| scope.spawn(move || write(thread, tree)));
        let flusher = scope.spawn(|| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut keeper = Keeper::new(queues.clone(), defect);
            let core = attach(2);
            while !done.load(Ordering::Acquire) {
                keeper.plan(&core, &device, random.random_range(1..100_000), Reason::Age);
                if keeper.under_way.len() > 2 || random.random_range(0..3) == 0 {
                    while !keeper.under_way.is_empty() {
                        let at = random.random_range(0..keeper.under_way.len());
                        keeper.durable(&core, &device, at);
                    }
                    let log_start = keeper.log_start(&core, &device);
                    // The power fails while no write is half done.
                    let written = [&written[0], &written[1]].map(|written| written.lock().expect("no panic"));
                    let mut log: Vec<Write> =
                        written.iter().flat_map(|one| one.log.iter().cloned()).collect();
                    log.sort_by_key(|(number, ..)| *number);
                    let mut model = written[0].model.clone();
                    model.extend(written[1].model.clone());
                    drop(written);
                    if recovered(&device, tree.root, &log, log_start)? != model {
                        return Err(String::from("the tree is another"));
                    }
                }
            }
            keeper.close(&core, &device);
            Ok((keeper.bundles, keeper.removed))
        });
        for writer in writers {
            writer.join().map_err(|_| String::from("a writer panicked"))?;
        }
        done.store(true, Ordering::Release);
        let found = flusher.join().map_err(|_| String::from("the flusher panicked"))??;
        let mut model = Entries::new();
        written.iter().for_each(|written| model.extend(written.lock().expect("no panic").model.clone()));
        if device.read(tree.root)? != model {
            return Err("closed, and the tree is another".into());
        }
        Ok(found)
    })
}

#[test]
fn two_threads_write_while_a_third_flushes() {
    let (mut bundles, mut removed) = (0, 0);
    for seed in seeds(6) {
        let found = threads(seed, 1500, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        bundles += found.0;
        removed += found.1;
    }
    println!("{bundles} bundles, {removed} pages removed");
    assert!(bundles > 3 && removed > 3);
}
