//! The write path of section 4 of the design, counted: log, areas, and one of three ways to bring
//! changes to the leaves.

mod audit;
mod families;
mod leaves;
mod room;

use std::collections::{HashMap, VecDeque};

use crate::device::{Device, KINDS, Kind, Victim};
use crate::numbers::{Bits, granules, whole};

/// Key of 16 bytes and value of 100.
pub(crate) const USER: u64 = 116;
/// A record in the log: 12 bytes around key and value, and its share of a batch of 1,000.
pub(crate) const LOGGED: u64 = USER + 12 + 1;
/// Record in a leaf: head and slot, flags, length; the head is 4 bytes of the key.
const IN_LEAF: u64 = USER + 6;
/// The same with its write number.
const IN_RUN: u64 = IN_LEAF + 8;
/// Record in an area, and in one that a family shares.
const IN_AREA: u64 = 8 + 13 + USER + 7;
/// Page header and content header.
const HEADER: u64 = 80;
/// Trailer and log entry of a bundle, per page.
const PER_PAGE: u64 = 33;
const FILTER: f64 = 1.6;
/// Most records in a leaf image of 4,032 bytes.
const LEAF_RECORDS: u32 = 32;
const MAP_PAGE: u64 = 64 + 256 * 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scheme {
    /// A changed leaf is written as a whole.
    Whole,
    /// Its changes are written beside it, at most this many times or half its size.
    Parts(u32),
    /// The changes of a family are written as a run.
    Runs,
}

/// When a family's runs are folded into its leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fold {
    /// Its own runs reach `share` of its leaves.
    Share,
    /// All runs reach half of `share` of all leaves: the family with the largest share of runs.
    Largest,
    /// The same: the next one in key order, and flushes go round in key order too.
    Sweep,
    /// The same order, when free segments run out and no segment is mostly garbage.
    Room,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) scheme: Scheme,
    pub(crate) keys: u32,
    /// Bytes for areas; none if everything is in memory.
    pub(crate) areas: Option<u64>,
    /// Areas belong to families, not to leaves.
    pub(crate) shared: bool,
    pub(crate) log: u64,
    /// Age in the log at which a page is flushed, as a share of the log.
    pub(crate) age: f64,
    pub(crate) device: u64,
    pub(crate) segment: u64,
    pub(crate) streams: usize,
    pub(crate) victim: Victim,
    pub(crate) family: usize,
    pub(crate) share: f64,
    pub(crate) max_runs: usize,
    pub(crate) fold: Fold,
    /// `Fold::Room`: a segment with a smaller share of live bytes is cleaned before any fold.
    pub(crate) clean_below: f64,
    /// Runs are of the whole store: no inner page changes with them.
    pub(crate) store_wide: bool,
    /// Emptied segments wait for a checkpoint, not only for the log.
    pub(crate) late_reuse: bool,
    /// Keys come in ascending order.
    pub(crate) ascending: bool,
    /// Keeps what each page holds, to be checked.
    pub(crate) checked: bool,
}

impl Config {
    /// Whether families are flushed in key order.
    fn goes_round(&self) -> bool {
        self.scheme == Scheme::Runs && matches!(self.fold, Fold::Sweep | Fold::Room)
    }
}

struct Leaf {
    page: u32,
    family: u32,
    frame: u32,
    /// Keys that it is for.
    low: u32,
    high: u32,
    records: u32,
    dirty: u32,
    in_runs: u32,
    oldest: u64,
    parts: Vec<u32>,
    part_bytes: u64,
}

#[derive(Default)]
struct Family {
    page: u32,
    leaves: Vec<u32>,
    dirty: u32,
    area: u64,
    oldest: u64,
    leaf_bytes: u64,
    run_bytes: u64,
    run_records: u32,
    runs: Vec<u32>,
    /// The next one in key order.
    next: u32,
}

/// What a run cost; reads and bytes of folds, consolidations and cleaning.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Costs {
    pub(crate) user: u64,
    pub(crate) log: u64,
    pub(crate) written: [u64; KINDS],
    pub(crate) moved: u64,
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) flushes: u64,
    pub(crate) flushed: u64,
    pub(crate) folds: u64,
    pub(crate) checkpoints: u64,
    /// Checkpoints that segments were waiting for.
    pub(crate) forced: u64,
    /// Samples of the bytes of segments in use, and their sum.
    pub(crate) sampled: u64,
    pub(crate) used: u64,
}

pub(crate) struct Store {
    pub(crate) config: Config,
    pub(crate) device: Device,
    leaves: Vec<Leaf>,
    families: Vec<Family>,
    leaf_of: Vec<u32>,
    present: Bits,
    dirty: Bits,
    /// Leaves or families by the log position of their oldest change.
    by_age: VecDeque<(u32, u64)>,
    /// Slots used, map page and whether it changed, of each map frame.
    frames: Vec<(u32, u32, bool)>,
    frame: u32,
    area_bytes: u64,
    pub(crate) most_area: u64,
    run_bytes: u64,
    leaf_bytes: u64,
    /// The families whose turn it is to be flushed, and to be folded.
    flush_hand: u32,
    fold_hand: u32,
    checkpoint_at: u64,
    costs: Costs,
    /// What pages hold and the newest version of each key, if checked.
    content: HashMap<u32, Vec<(u32, u32)>>,
    latest: Vec<u32>,
    version: u32,
}

fn area_of(records: u32) -> u64 {
    match records {
        0 => 0,
        1 => 256,
        2 => 64 + 512,
        3..=5 => 64 + 1024,
        6..=10 => 64 + 2048,
        more => 64 + 2048 + (u64::from(more) - 10) * (IN_AREA + 8),
    }
}

fn part_of(bytes: u64, share: f64) -> u64 {
    whole(bytes as f64 * share)
}

fn image_bytes(records: u32) -> u64 {
    granules(HEADER + u64::from(records) * IN_LEAF)
}

impl Store {
    pub(crate) fn new(config: Config) -> Self {
        let log_segments = config.log.div_ceil(config.segment) + 1;
        let pages = config.device.saturating_sub(log_segments * config.segment);
        let count = usize::try_from(pages / config.segment).expect("fits");
        let mut reserve = 6.max(count / 40);
        if config.scheme == Scheme::Runs {
            let family = config.family as u64 * 4032 * 4 / 3;
            reserve += usize::try_from(family.div_ceil(config.segment)).expect("fits");
        }
        let device = Device::new(pages, config.segment, reserve, config.streams, config.victim);
        let mut store = Self {
            config,
            device,
            leaves: Vec::new(),
            families: Vec::new(),
            leaf_of: vec![0; config.keys as usize],
            present: Bits::new(config.keys),
            dirty: Bits::new(config.keys),
            by_age: VecDeque::new(),
            frames: Vec::new(),
            frame: 0,
            area_bytes: 0,
            most_area: 0,
            run_bytes: 0,
            leaf_bytes: 0,
            flush_hand: 0,
            fold_hand: 0,
            checkpoint_at: 0,
            costs: Costs::default(),
            content: HashMap::new(),
            latest: if config.checked { vec![0; config.keys as usize] } else { Vec::new() },
            version: 0,
        };
        let page = store.device.reserve_page(Kind::Family, 0);
        store.families.push(Family { page, leaves: vec![0], ..Family::default() });
        store.new_frame();
        store.new_leaf(0, config.keys, 0, 0, 0);
        store
    }

    /// A blind write.
    pub(crate) fn put(&mut self, key: u32) {
        self.costs.user += USER;
        self.costs.log += LOGGED;
        let now = self.costs.log;
        if self.config.checked {
            self.version += 1;
            self.latest[key as usize] = self.version;
        }
        let at = self.leaf_of[key as usize];
        if self.dirty.set(key) {
            let leaf = &mut self.leaves[at as usize];
            leaf.dirty += 1;
            let family = &mut self.families[leaf.family as usize];
            family.dirty += 1;
            let more =
                if self.config.shared { IN_AREA + 8 } else { area_of(leaf.dirty) - area_of(leaf.dirty - 1) };
            family.area += more;
            self.area_bytes += more;
            if self.config.scheme == Scheme::Runs {
                if family.dirty == 1 {
                    family.oldest = now;
                    self.by_age.push_back((leaf.family, now));
                }
            } else if leaf.dirty == 1 {
                leaf.oldest = now;
                self.by_age.push_back((at, now));
            }
        }
        if self.present.set(key) {
            self.leaves[at as usize].records += 1;
        }
        self.make_progress();
        if (self.costs.user / USER).is_multiple_of(1024) {
            let used = self.device.segments() - self.device.free();
            self.costs.sampled += 1;
            self.costs.used += used as u64 * self.device.segment_bytes;
        }
    }

    fn make_progress(&mut self) {
        self.most_area = self.most_area.max(self.area_bytes);
        while self.config.areas.is_some_and(|limit| self.area_bytes > limit) {
            if self.config.goes_round() {
                self.flush_next();
            } else if self.config.scheme == Scheme::Runs {
                let largest = self.families.iter().zip(0..).max_by_key(|(family, _)| family.area);
                let (_, family) = largest.expect("there is a family");
                self.flush_family(family);
            } else {
                self.flush_oldest(u64::MAX);
            }
        }
        let aged = whole(self.config.log as f64 * self.config.age);
        self.flush_oldest(self.costs.log.saturating_sub(aged));
        if self.costs.log - self.checkpoint_at > self.config.log / 2 {
            self.checkpoint();
        }
    }

    /// Flushes what has a change from before `before`; with `u64::MAX` only the oldest one.
    fn flush_oldest(&mut self, before: u64) {
        while let Some(&(unit, since)) = self.by_age.front() {
            if since >= before {
                return;
            }
            if self.config.goes_round() {
                let family = &self.families[unit as usize];
                if family.dirty > 0 && family.oldest == since {
                    self.flush_next();
                } else {
                    self.by_age.pop_front();
                }
                continue;
            }
            self.by_age.pop_front();
            if self.config.scheme == Scheme::Runs {
                let family = &self.families[unit as usize];
                if family.dirty > 0 && family.oldest == since {
                    self.flush_family(unit);
                }
            } else {
                let leaf = &self.leaves[unit as usize];
                if leaf.dirty == 0 || leaf.oldest != since {
                    continue;
                }
                self.make_room();
                self.flush_leaf(unit);
            }
            if before == u64::MAX {
                return;
            }
        }
    }

    /// Flushes everything and lets the log go, as a store that closes.
    pub(crate) fn close(&mut self) {
        let now = self.costs.log + 1;
        self.flush_oldest(now);
        self.checkpoint();
    }

    fn write(&mut self, page: u32, bytes: u64) {
        self.device.write(page, granules(bytes) + PER_PAGE);
        self.costs.log += 24;
    }
}
