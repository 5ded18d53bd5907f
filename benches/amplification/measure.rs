//! Workloads, and what a store did under them.

use crate::device::{Device, KINDS, Kind, Victim};
use crate::lsm::{Levels, Lsm};
use crate::numbers::{Bits, Random, Zipf, shuffled};
use crate::store::{Config, Costs, Store, USER};

const SEED: u64 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keys {
    Uniform,
    /// YCSB's, 0.99.
    Zipfian,
    /// The same, the hottest keys first in key order.
    Clustered,
}

/// The keys of a workload after loading.
pub(crate) struct Draw {
    keys: u32,
    zipf: Option<Zipf>,
    clustered: bool,
}

impl Draw {
    pub(crate) fn new(which: Keys, keys: u32) -> Self {
        let zipf = (which != Keys::Uniform).then(|| Zipf::new(keys, 0.99));
        Self { keys, zipf, clustered: which == Keys::Clustered }
    }

    pub(crate) fn next(&self, random: &mut Random) -> u32 {
        match &self.zipf {
            Some(zipf) if self.clustered => zipf.rank(random),
            Some(zipf) => zipf.draw(random),
            None => random.below(self.keys),
        }
    }
}

/// Per user byte written, or per operation.
#[derive(Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub(crate) full: bool,
    pub(crate) log: f64,
    pub(crate) written: [f64; KINDS],
    pub(crate) moved: f64,
    pub(crate) total: f64,
    /// Device in use by live user bytes: mean, most, after closing.
    pub(crate) mean: f64,
    pub(crate) most: f64,
    pub(crate) closed: f64,
    /// Reads per write, their bytes by user bytes.
    pub(crate) reads: f64,
    pub(crate) read_bytes: f64,
    /// Reads for one uniform key when nothing is cached.
    pub(crate) cold_reads: f64,
    pub(crate) run_records: f64,
    pub(crate) area: u64,
}

/// An empty store that takes all its keys once, in random order.
pub(crate) fn loaded(config: Config) -> Store {
    let mut store = Store::new(config);
    let order =
        if config.ascending { (0..config.keys).collect() } else { shuffled(config.keys, &mut Random(SEED)) };
    for key in order {
        store.put(key);
        if store.device.full {
            break;
        }
    }
    store
}

/// `rounds` times as many overwrites as there are keys, in a store that was loaded at random.
pub(crate) fn overwrite(config: Config, which: Keys, rounds: u32) -> Outcome {
    let mut store = loaded(config);
    let before = store.costs();
    store.device.most_used = store.device.segments() - store.device.free();
    let draw = Draw::new(which, config.keys);
    let mut random = Random(SEED + 1);
    for _ in 0..rounds * config.keys {
        if store.device.full {
            break;
        }
        store.put(draw.next(&mut random));
    }
    outcome(store, before)
}

pub(crate) fn outcome(mut store: Store, before: Costs) -> Outcome {
    let after = store.costs();
    let config = store.config;
    if store.device.full {
        return Outcome { full: true, ..Outcome::default() };
    }
    store.audit();
    let user = after.user - before.user;
    let per = |after: u64, before: u64| (after - before) as f64 / user as f64;
    let mut written = [0.0; KINDS];
    for (kind, written) in written.iter_mut().enumerate() {
        *written = per(after.written[kind], before.written[kind]);
    }
    let (log, moved) = (per(after.log, before.log), per(after.moved, before.moved));
    let live = (u64::from(config.keys) * USER) as f64;
    let log_share = config.log as f64 / live;
    let used = (after.used - before.used) as f64 / (after.sampled - before.sampled).max(1) as f64;
    let mut random = Random(SEED + 2);
    let cold = (0..10_000).map(|_| store.cold_read(random.below(config.keys)).0).sum::<f64>() / 10_000.0;
    let most = store.device.most_used as f64 * config.segment as f64;
    let records = store.run_records();
    store.close();
    let held = store.device.segments() - store.device.free();
    Outcome {
        full: false,
        log,
        written,
        moved,
        total: log + moved + written.iter().sum::<f64>(),
        mean: used / live + log_share,
        most: most / live + log_share,
        closed: held as f64 * config.segment as f64 / live,
        reads: (after.reads - before.reads) as f64 * USER as f64 / user as f64,
        read_bytes: per(after.read_bytes, before.read_bytes),
        cold_reads: cold,
        run_records: records,
        area: store.most_area,
    }
}

impl Outcome {
    pub(crate) fn head() {
        println!(
            "{:<38} {:>6} {:>5} {:>5} {:>5} {:>5} {:>5} {:>5} {:>5}  {:>5} {:>5} {:>6}  {:>6} {:>5} {:>5}",
            "",
            "total",
            "log",
            "leaf",
            "part",
            "run",
            "inner",
            "map",
            "moved",
            "mean",
            "most",
            "closed",
            "reads",
            "bytes",
            "get"
        );
    }

    pub(crate) fn print(&self, name: &str) {
        if self.full {
            println!("{name:<38}   full");
            return;
        }
        let [leaf, part, run, family, map] = self.written;
        println!(
            "{name:<38} {:>6.2} {:>5.2} {leaf:>5.2} {part:>5.2} {run:>5.2} {family:>5.2} {map:>5.2} {:>5.2}  \
             {:>5.2} {:>5.2} {:>6.2}  {:>6.3} {:>5.1} {:>5.2}",
            self.total,
            self.log,
            self.moved,
            self.mean,
            self.most,
            self.closed,
            self.reads,
            self.read_bytes,
            self.cold_reads
        );
    }

    /// The total, or that it did not fit.
    pub(crate) fn short(&self) -> String {
        if self.full { "full".into() } else { format!("{:.2}", self.total) }
    }
}

/// A leveled tree under the same: totals of load and overwrite, space, bytes read by overwrites.
pub(crate) struct LevelsOutcome {
    pub(crate) load: f64,
    pub(crate) load_read: f64,
    pub(crate) total: f64,
    pub(crate) mean: f64,
    pub(crate) most: f64,
    pub(crate) end: f64,
}

pub(crate) fn leveled(levels: Levels, keys: u32, which: Keys, rounds: u32) -> LevelsOutcome {
    let mut lsm = Lsm::new(levels, keys);
    let mut random = Random(SEED);
    for key in shuffled(keys, &mut random) {
        lsm.put(key);
    }
    let (user, written, load_read) = (lsm.user, lsm.logged + lsm.written, lsm.read);
    let live = (u64::from(keys) * USER) as f64;
    let load = written as f64 / user as f64;
    lsm.most = 0;
    let draw = Draw::new(which, keys);
    let (mut held, mut samples) = (0.0, 0.0);
    for index in 0..rounds * keys {
        lsm.put(draw.next(&mut random));
        if index % 65_536 == 0 {
            held += (lsm.held() + lsm.journal()) as f64;
            samples += 1.0;
        }
    }
    LevelsOutcome {
        load,
        load_read: load_read as f64 / user as f64,
        total: (lsm.logged + lsm.written - written) as f64 / ((lsm.user - user).max(1)) as f64,
        mean: held / samples / live,
        most: lsm.most as f64 / live,
        end: lsm.held() as f64 / live,
    }
}

/// Pages of 4 KiB written again at random on a device that they fill to `fill`: bytes written per
/// byte of them.
pub(crate) fn cleaning(fill: f64, victim: Victim, which: Keys, segment: u64) -> f64 {
    let pages = 40_000;
    let room = (f64::from(pages) * 4096.0 / fill).round();
    let reserve = 2;
    let bytes = crate::numbers::whole(room) + (reserve as u64 + 1) * segment;
    let mut device = Device::new(bytes, segment, reserve, 1, victim);
    for page in 0..pages {
        let page = device.reserve_page(Kind::Leaf, page);
        device.write(page, 4096);
    }
    let draw = Draw::new(which, pages);
    let mut random = Random(SEED);
    let (mut written, mut moved) = (0, 0);
    for round in 0..12 {
        if round == 6 {
            (written, moved) = (device.written[Kind::Leaf as usize], device.moved);
        }
        for _ in 0..pages {
            device.write(draw.next(&mut random), 4096);
            while device.free() + device.waiting.len() < reserve {
                let Some(at) = device.victim() else { return f64::INFINITY };
                for page in device.pages_in(at) {
                    device.move_from(page, at);
                }
            }
            device.checkpoint();
        }
    }
    assert!(!device.full, "no page was lost");
    device.audit();
    let written = (device.written[Kind::Leaf as usize] - written) as f64;
    1.0 + (device.moved - moved) as f64 / written
}

/// Reads and writes of a device, per operation, of half gets and half overwrites.
pub(crate) fn mixed(config: Config, cache: u64) -> (f64, f64) {
    let mut store = loaded(config);
    let draw = Draw::new(Keys::Zipfian, config.keys);
    let mut random = Random(SEED + 1);
    let records = usize::try_from(cache / 200).expect("fits");
    let (mut slots, mut hand) = (Vec::new(), 0);
    let (mut known, mut touched) = (Bits::new(config.keys), Bits::new(config.keys));
    let operations = 3 * config.keys;
    let (mut reads, mut before) = (0.0, store.costs());
    for operation in 0..operations {
        if operation == operations / 2 {
            (reads, before) = (0.0, store.costs());
        }
        let key = draw.next(&mut random);
        if random.next() & 1 == 0 {
            store.put(key);
        } else if !store.is_dirty(key) {
            if !known.set(key) {
                touched.set(key);
                continue;
            }
            reads += store.cold_read(key).0;
            // The clock: records that were touched again stay for another round.
            if slots.len() < records {
                slots.push(key);
                continue;
            }
            while touched.get(slots[hand]) {
                touched.clear(slots[hand], slots[hand] + 1);
                hand = (hand + 1) % slots.len();
            }
            known.clear(slots[hand], slots[hand] + 1);
            slots[hand] = key;
            hand = (hand + 1) % slots.len();
        }
    }
    let after = store.costs();
    let count = f64::from(operations - operations / 2);
    let own = (after.reads - before.reads) as f64;
    let bytes: u64 = after.written.iter().sum::<u64>() + after.moved + after.log;
    let earlier: u64 = before.written.iter().sum::<u64>() + before.moved + before.log;
    if store.device.full {
        return (f64::NAN, f64::NAN);
    }
    ((reads + own) / count, (bytes - earlier) as f64 / (after.user - before.user) as f64)
}
