//! A leveled log-structured merge tree in the same counting, beside figures that are known.

use crate::numbers::{Bits, id, whole};
use crate::store::USER;

/// Record in a table and in the journal, with what is around it.
const IN_TABLE: f64 = 127.0;
const LOGGED: u64 = 137;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    /// Records of a memtable: its bytes by what a record takes in it.
    pub(crate) memtable: u32,
    pub(crate) first_level: u64,
    pub(crate) table: u64,
    /// Targets follow from the last level's size (RocksDB), not from the first's (fjall).
    pub(crate) dynamic: bool,
}

/// RocksDB's defaults: 64 MiB of memtable at some 170 bytes, 256 MiB, tables of 64 MiB.
pub(crate) const ROCKSDB: Levels =
    Levels { memtable: 395_000, first_level: 256 << 20, table: 64 << 20, dynamic: true };
/// fjall's: 64 MiB of memtable at some 136 bytes.
pub(crate) const FJALL: Levels = Levels { memtable: 493_000, dynamic: false, ..ROCKSDB };

impl Levels {
    /// The same for a store that is smaller by `scale`.
    pub(crate) fn scaled(self, scale: f64) -> Self {
        let shrink = |bytes: u64| whole(bytes as f64 * scale);
        let memtable = id(usize::try_from(shrink(u64::from(self.memtable))).expect("fits"));
        Self { memtable, first_level: shrink(self.first_level), table: shrink(self.table), ..self }
    }
}

/// Sorted keys.
type Table = Vec<u32>;

pub(crate) struct Lsm {
    levels: Levels,
    fresh: Bits,
    memtable: Vec<u32>,
    first: Vec<Table>,
    below: Vec<Vec<Table>>,
    pub(crate) user: u64,
    pub(crate) logged: u64,
    pub(crate) written: u64,
    pub(crate) read: u64,
    /// The most bytes on the device: tables, journal, and what a compaction holds twice.
    pub(crate) most: u64,
}

const RATIO: f64 = 10.0;

fn bytes(tables: &[Table]) -> u64 {
    tables.iter().map(|table| whole(table.len() as f64 * IN_TABLE)).sum()
}

fn overlaps(a: &Table, b: &Table) -> bool {
    a.first() <= b.last() && b.first() <= a.last()
}

impl Lsm {
    pub(crate) fn new(levels: Levels, keys: u32) -> Self {
        let below = vec![Vec::new()];
        Self {
            levels,
            fresh: Bits::new(keys),
            memtable: Vec::new(),
            first: Vec::new(),
            below,
            user: 0,
            logged: 0,
            written: 0,
            read: 0,
            most: 0,
        }
    }

    pub(crate) fn put(&mut self, key: u32) {
        self.user += USER;
        self.logged += LOGGED;
        if self.fresh.set(key) {
            self.memtable.push(key);
        }
        // A skip list keeps every version: an overwrite takes room too.
        if self.logged.is_multiple_of(u64::from(self.levels.memtable) * LOGGED) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut table = std::mem::take(&mut self.memtable);
        table.sort_unstable();
        for &key in &table {
            self.fresh.clear(key, key + 1);
        }
        self.written += bytes(std::slice::from_ref(&table));
        self.first.push(table);
        self.note(0);
        if self.first.len() >= 4 {
            let from = std::mem::take(&mut self.first);
            self.merge(from, 0);
        }
        while let Some(level) = self.too_large() {
            let table = self.pick(level);
            self.merge(vec![table], level + 1);
        }
    }

    /// The level that is furthest above its target. Puts a new level on top if there should be one.
    fn too_large(&mut self) -> Option<usize> {
        let sizes: Vec<f64> = self.below.iter().map(|level| bytes(level) as f64).collect();
        let last = sizes.len() - 1;
        let base = self.levels.first_level as f64;
        let target = |level: usize| {
            if self.levels.dynamic {
                let largest = sizes.iter().copied().fold(0.0, f64::max);
                (largest / RATIO.powi(i32::try_from(last - level).unwrap_or(9))).min(base)
            } else {
                base * RATIO.powi(i32::try_from(level).unwrap_or(9))
            }
        };
        let grown = if self.levels.dynamic {
            sizes[last] / RATIO.powi(i32::try_from(last).unwrap_or(9)) > base
        } else {
            sizes.iter().enumerate().all(|(level, &size)| size > target(level))
        };
        let over = (0..last).filter(|&level| sizes[level] > target(level));
        let over = over.max_by(|&a, &b| (sizes[a] / target(a)).total_cmp(&(sizes[b] / target(b))));
        if grown {
            self.below.insert(0, Vec::new());
            return None;
        }
        over
    }

    /// The table of a level that overlaps the fewest bytes below, per byte of its own.
    fn pick(&mut self, level: usize) -> Table {
        let cost = |table: &Table| {
            let next = self.below[level + 1].iter().filter(|next| overlaps(table, next));
            next.map(Vec::len).sum::<usize>() as f64 / table.len() as f64
        };
        let tables = self.below[level].iter().enumerate();
        let least = tables.min_by(|(_, a), (_, b)| cost(a).total_cmp(&cost(b)));
        let index = least.expect("a level above its target has tables").0;
        self.below[level].remove(index)
    }

    fn merge(&mut self, mut from: Vec<Table>, level: usize) {
        from.sort_unstable_by_key(|table| table.first().copied());
        let apart = from.is_sorted_by(|a, b| a.last() < b.first());
        let into = std::mem::take(&mut self.below[level]);
        let (overlapping, mut kept): (Vec<_>, Vec<_>) =
            into.into_iter().partition(|table| from.iter().any(|other| overlaps(table, other)));
        if overlapping.is_empty() && apart {
            kept.extend(from);
        } else {
            let taken = bytes(&from) + bytes(&overlapping);
            let mut all: Vec<u32> = from.into_iter().chain(overlapping).flatten().collect();
            all.sort_unstable();
            all.dedup();
            self.read += taken;
            let most = usize::try_from(whole(self.levels.table as f64 / IN_TABLE)).expect("fits").max(1);
            let tables: Vec<Table> = all.chunks(most).map(<[u32]>::to_vec).collect();
            self.written += bytes(&tables);
            kept.extend(tables);
            self.below[level] = kept;
            self.note(taken);
            return;
        }
        kept.sort_unstable_by_key(|table| table.first().copied());
        self.below[level] = kept;
    }

    fn note(&mut self, twice: u64) {
        self.most = self.most.max(self.held() + twice + self.journal());
    }

    /// The most bytes of the journal of one memtable.
    pub(crate) fn journal(&self) -> u64 {
        u64::from(self.levels.memtable) * LOGGED
    }

    /// Bytes of tables.
    pub(crate) fn held(&self) -> u64 {
        bytes(&self.first) + self.below.iter().map(|level| bytes(level)).sum::<u64>()
    }
}
