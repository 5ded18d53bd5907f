//! Segments: what each is for, how much of it lives, and when it may be written again.
//!
//! | state | meaning | next, by |
//! |---|---|---|
//! | added | the namespace has grown by it, the superblock does not know it yet | free: [`Segments::superblock_durable`] |
//! | free | may be opened; its generation is known | open: [`Segments::open`]; log: [`Segments::open_log`] |
//! | open | one core appends bundles | sealed: [`Segments::seal`] |
//! | sealed | full | cleaning: [`Segments::clean`]; emptied when nothing in it lives |
//! | cleaning | its live pages are being moved | emptied when the last is dead; sealed: [`Segments::leave`] |
//! | emptied (*n*) | nothing current lies here; what was durable before checkpoint *n* may | trimming, once *n* is durable: [`Segments::next_trim`] |
//! | trimming | checkpoint *n* is durable | free, or retired: [`Segments::trimmed`] |
//! | log | holds batches | ended: [`Segments::end_log`] |
//! | ended (*n*) | the log starts behind it from checkpoint *n* on | free for the log: [`Segments::superblock_durable`] |
//! | retired | writing it failed three times, or it has had its last generation | none |
//!
//! **When a segment is empty.** It is full, nothing in it lives, and no bundle in it is *under
//! way*: appended, and neither installed in the map nor given up. (A bundle that is written but not
//! installed has no live page yet; without the count its segment could go before it counts.)
//!
//! **Why a generation late.** After an emptied segment's last page died, recovery may still read
//! it: the last durable checkpoint refers to that page, or the log names a bundle in it that the
//! checkpoint does not include. Checkpoint *n*, the first that begins after that moment, includes
//! all of it, so once its superblock is durable, nothing does. (*n* includes every bundle up to a
//! batch, [`Naming`](super::bundle::Naming), and the table as of the same instant: rows that change
//! while a checkpoint is written are kept as they were.)
//!
//! **After recovery** nothing is trimmed until the superblock with the new epoch is durable
//! ([`Segments::epoch_durable`]): before, the next opening could begin with the same state and the
//! same epoch, and would read what was trimmed.
//!
//! **The log.** This table owns its segments, too: [`wal`](crate::store::wal) has those that it was
//! given by [`Segments::open_log`], and hands back those before the start that the next checkpoint
//! names, for [`Segments::end_log`] before that checkpoint is frozen.
//!
//! **Growing.** A checkpoint that has begun has as many rows as segments were there then
//! ([`TableWrite::segments`]); its superblock states as many. A bundle in a segment that no durable
//! superblock knows could not be found again. So what was added is free when the first checkpoint
//! that began later is durable.
//!
//! **Holes.** Where a write may find no block on disk, a free segment may be opened only once it
//! has its blocks ([`hollow`]).
//!
//! **What is counted.** The rows of the table count pages that map entries refer to. The pages of
//! the map and of the table itself are counted apart, and not stored: who loads a checkpoint reads
//! all references to them and counts them again. So writing the table changes nothing in it.

mod header;
mod hollow;
mod load;
mod supply;
mod table;
#[cfg(test)]
mod tests;

pub(in crate::store) use header::{SegmentHeader, SegmentName, SegmentUse};
pub(in crate::store) use load::TableLoad;
pub(in crate::store) use table::{Class, Row, TableWrite};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::defect::PagesDefect;
use super::geometry::Geometry;
use crate::store::word::{ColdAddress, PageRef};

/// After so many failed writes a segment is not written again.
const MAX_FAILURES: u8 = 3;

/// What pages a segment has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::store) enum Temperature {
    /// Pages that were flushed by age.
    #[default]
    Hot = 0,
    /// Pages that cleaning moved, or that were not written for long.
    Cold = 1,
    Values = 2,
    /// The map and the segment table.
    Map = 3,
}

impl Temperature {
    pub(in crate::store) const ALL: [Self; 4] = [Self::Hot, Self::Cold, Self::Values, Self::Map];
}

/// See the table at the head of the module; a checkpoint is named by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum State {
    Added,
    Free,
    Open,
    Sealed,
    Cleaning,
    Emptied { freed_at: u64 },
    Trimming,
    Log,
    Ended { freed_at: u64 },
    Retired,
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Segment {
    pub(in crate::store) state: State,
    pub(in crate::store) temperature: Temperature,
    /// Grows by one whenever it is opened; 0 if it never was.
    pub(in crate::store) generation: u32,
    /// Granules and pages that the map refers to.
    pub(in crate::store) live: u32,
    pub(in crate::store) pages: u32,
    /// Granules of the map's and the table's own pages.
    pub(in crate::store) meta: u32,
    /// When the last page died and when the one before it, in units of 2^16 write numbers.
    pub(in crate::store) up1: u32,
    pub(in crate::store) up2: u32,
    under_way: u32,
    failures: u8,
    /// More pages died than lived: the table was damaged, and what lives here is not known.
    miscounted: bool,
}

impl Segment {
    const FREE: Self = Self {
        state: State::Free,
        temperature: Temperature::Hot,
        generation: 0,
        live: 0,
        pages: 0,
        meta: 0,
        up1: 0,
        up2: 0,
        under_way: 0,
        failures: 0,
        miscounted: false,
    };

    fn is_empty(&self) -> bool {
        self.live == 0 && self.pages == 0 && self.meta == 0 && self.under_way == 0 && !self.miscounted
    }

    /// No more died than lived.
    #[cfg(test)]
    pub(in crate::store) fn is_counted(&self) -> bool {
        !self.miscounted
    }

    /// Whether it is full, and pages may live in it.
    pub(in crate::store) fn is_sealed(&self) -> bool {
        self.state == State::Sealed
    }

    /// Whether moving what is known to live in it makes it empty. A page of a bundle that is under
    /// way is in no map entry: cleaning would not find it.
    pub(in crate::store) fn can_be_emptied(&self) -> bool {
        self.under_way == 0 && !self.miscounted
    }
}

/// The table of all segments.
#[derive(Debug)]
pub(in crate::store) struct Segments {
    geometry: Geometry,
    segments: Vec<Segment>,
    /// Free ones: to be used from the lowest on, so that a file stays short.
    free: BTreeSet<u32>,
    /// Free ones that were part of the log, whose blocks are written.
    log_pool: BTreeSet<u32>,
    /// Free ones that may have no blocks on disk.
    hollow: hollow::Hollow,
    /// Added ones, from the number on that they begin with, in the order of `freed_at`.
    added: VecDeque<(u64, std::ops::Range<u32>)>,
    /// Emptied and ended ones, in the order of `freed_at`.
    emptied: VecDeque<(u64, u32)>,
    ended: VecDeque<(u64, u32)>,
    /// The newest checkpoint that has begun, and the newest that is durable.
    begun: u64,
    durable: u64,
    /// While a checkpoint is written: rows as they were when it began, of those that changed.
    kept: Option<BTreeMap<u32, Row>>,
    /// Pages of the table in which a row changed since the last checkpoint began.
    changed: BTreeSet<u32>,
    /// Segments that changed since cleaning looked at them last.
    touched: BTreeSet<u32>,
    /// Granules and pages that the map refers to, in all segments.
    live: (u64, u64),
    /// Where the table is, as of the last durable checkpoint.
    table: Vec<Option<PageRef>>,
    index: Option<PageRef>,
    /// Recovery has not counted yet all that lives.
    is_loading: bool,
    /// The epoch of this opening is in a durable superblock.
    is_epoch_durable: bool,
    defect: Option<PagesDefect>,
}

impl Segments {
    /// The table of a new store, before its first checkpoint: all segments are free.
    pub(in crate::store) fn new(geometry: Geometry, defect: Option<PagesDefect>) -> Self {
        let free = (geometry.first_segment()..geometry.segments).collect();
        Self {
            geometry,
            segments: vec![Segment::FREE; geometry.segments as usize],
            free,
            log_pool: BTreeSet::new(),
            hollow: hollow::Hollow::default(),
            added: VecDeque::new(),
            emptied: VecDeque::new(),
            ended: VecDeque::new(),
            begun: 0,
            durable: 0,
            kept: None,
            changed: (0..table::pages(geometry.segments)).collect(),
            touched: BTreeSet::new(),
            live: (0, 0),
            table: Vec::new(),
            index: None,
            is_loading: false,
            is_epoch_durable: true,
            defect,
        }
    }

    pub(in crate::store) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(in crate::store) fn get(&self, segment: u32) -> &Segment {
        &self.segments[segment as usize]
    }

    /// Segments that may be opened at once.
    pub(in crate::store) fn free_count(&self) -> usize {
        self.free.len() + self.log_pool.len()
    }

    /// Segments that are empty and wait for a checkpoint or for their trim.
    pub(in crate::store) fn waiting_count(&self) -> usize {
        let trimming = |segment: &&Segment| segment.state == State::Trimming;
        self.emptied.len() + self.segments.iter().filter(trimming).count()
    }

    /// Changes a segment; its row is kept for the checkpoint under way.
    fn change(&mut self, segment: u32) -> &mut Segment {
        let row = Row::of(&self.segments[segment as usize]);
        if let Some(kept) = &mut self.kept {
            kept.entry(segment).or_insert(row);
        }
        self.changed.insert(table::page_of(segment));
        self.touched.insert(segment);
        &mut self.segments[segment as usize]
    }

    /// How many segments the log has.
    pub(in crate::store) fn log_count(&self) -> usize {
        self.segments.iter().filter(|segment| segment.state == State::Log).count()
    }

    /// Opens a free segment for bundles. `None` if there is none.
    pub(in crate::store) fn open(&mut self, temperature: Temperature) -> Option<SegmentName> {
        let is_early = self.defect == Some(PagesDefect::ReuseEarly);
        loop {
            let early = if is_early { self.emptied.pop_front().map(|(_, segment)| segment) } else { None };
            let segment = early.or_else(|| self.free.pop_first()).or_else(|| self.log_pool.pop_first())?;
            if let Some(name) = self.start(segment, State::Open, temperature) {
                return Some(name);
            }
        }
    }

    /// Opens a free segment for the log: it, and whether its blocks were written before.
    pub(in crate::store) fn open_log(&mut self) -> Option<(SegmentName, bool)> {
        loop {
            let written = self.log_pool.pop_first();
            let segment = written.or_else(|| self.free.pop_first())?;
            if let Some(name) = self.start(segment, State::Log, Temperature::Hot) {
                return Some((name, written.is_some()));
            }
        }
    }

    /// Begins the next generation of a free segment. `None`: it has had its last, and is retired. A
    /// generation that came again would make old pages and batches look like new ones.
    fn start(&mut self, segment: u32, state: State, temperature: Temperature) -> Option<SegmentName> {
        let changed = self.change(segment);
        let Some(generation) = changed.generation.checked_add(1) else {
            changed.state = State::Retired;
            return None;
        };
        let failures = changed.failures;
        *changed = Segment { state, temperature, generation, failures, ..Segment::FREE };
        Some(SegmentName { segment, generation })
    }

    /// An open segment takes no more bundles.
    pub(in crate::store) fn seal(&mut self, segment: u32) {
        if self.get(segment).state == State::Open {
            self.change(segment).state = State::Sealed;
            self.look(segment);
        }
    }

    /// Victims of cleaning are sealed segments that can be emptied.
    pub(in crate::store) fn clean(&mut self, segment: u32) -> bool {
        let found = self.get(segment);
        let is_victim = found.state == State::Sealed && found.can_be_emptied();
        if is_victim {
            self.change(segment).state = State::Cleaning;
        }
        is_victim
    }

    /// Cleaning leaves a segment that is not empty yet.
    pub(in crate::store) fn leave(&mut self, segment: u32) {
        if self.get(segment).state == State::Cleaning {
            self.change(segment).state = State::Sealed;
        }
    }

    /// A bundle will be written to an open segment.
    pub(in crate::store) fn appended(&mut self, segment: u32) {
        self.change(segment).under_way += 1;
    }

    /// All pages of a bundle are installed, or it was given up before it was written.
    pub(in crate::store) fn settled(&mut self, segment: u32) {
        let changed = self.change(segment);
        changed.under_way = changed.under_way.saturating_sub(1);
        self.look(segment);
    }

    /// Writing a bundle failed; it is written elsewhere. Returns whether the segment is to be given
    /// up: it is sealed then, and retired once it is empty.
    pub(in crate::store) fn failed(&mut self, segment: u32) -> bool {
        let changed = self.change(segment);
        changed.failures = changed.failures.saturating_add(1);
        let gives_up = changed.failures >= MAX_FAILURES;
        if gives_up {
            self.seal(segment);
        }
        self.settled(segment);
        gives_up
    }

    /// A map entry refers to `place` now. Places outside of all segments are no one's.
    pub(in crate::store) fn born(&mut self, place: ColdAddress) {
        if let Some((segment, _)) = self.geometry.locate(place) {
            let changed = self.change(segment);
            changed.live = changed.live.saturating_add(place.granules());
            changed.pages = changed.pages.saturating_add(1);
            self.live.0 += u64::from(place.granules());
            self.live.1 += 1;
        }
    }

    /// No map entry refers to `place` any more, if there is one. `now` is in units of 2^16 write
    /// numbers.
    pub(in crate::store) fn died(&mut self, place: impl Into<Option<ColdAddress>>, now: u32) {
        let Some(place) = place.into() else { return };
        let Some((segment, _)) = self.geometry.locate(place) else { return };
        let changed = self.change(segment);
        changed.miscounted |= changed.live < place.granules() || changed.pages == 0;
        changed.live = changed.live.saturating_sub(place.granules());
        changed.pages = changed.pages.saturating_sub(1);
        changed.up2 = changed.up1;
        changed.up1 = changed.up1.max(now);
        self.live.0 = self.live.0.saturating_sub(u64::from(place.granules()));
        self.live.1 = self.live.1.saturating_sub(1);
        self.look(segment);
    }

    /// A page of the map or of the table was written to `place`.
    pub(in crate::store) fn meta_born(&mut self, place: ColdAddress) {
        if let Some((segment, _)) = self.geometry.locate(place) {
            self.touched.insert(segment);
            let meta = &mut self.segments[segment as usize].meta;
            *meta = meta.saturating_add(place.granules());
        }
    }

    /// The superblock is durable that does not refer to this page of the map or table any more.
    pub(in crate::store) fn meta_died(&mut self, place: ColdAddress) {
        if let Some((segment, _)) = self.geometry.locate(place) {
            if self.get(segment).meta < place.granules() {
                self.change(segment).miscounted = true;
            }
            self.touched.insert(segment);
            let changed = &mut self.segments[segment as usize];
            changed.meta = changed.meta.saturating_sub(place.granules());
            self.look(segment);
        }
    }

    /// Pages of this segment come from others: it is as old as they are.
    pub(in crate::store) fn inherit(&mut self, segment: u32, up2: u32) {
        let changed = self.change(segment);
        changed.up2 = changed.up2.max(up2);
        changed.up1 = changed.up1.max(up2);
    }

    /// The segment is emptied, if it is full and nothing in it lives.
    fn look(&mut self, segment: u32) {
        let found = self.get(segment);
        let full = matches!(found.state, State::Sealed | State::Cleaning);
        if full && found.is_empty() && !self.is_loading {
            let freed_at = self.begun + 1;
            self.change(segment).state = State::Emptied { freed_at };
            self.emptied.push_back((freed_at, segment));
        }
    }

    /// A segment of the log lies before the start of the log that the next checkpoint names.
    pub(in crate::store) fn end_log(&mut self, segment: u32) {
        if self.get(segment).state == State::Log {
            let freed_at = self.begun + 1;
            self.change(segment).state = State::Ended { freed_at };
            self.ended.push_back((freed_at, segment));
        }
    }

    /// A checkpoint begins, at an instant when every bundle that it includes is installed and no
    /// other. Returns what is to be written of the table. One at a time.
    pub(in crate::store) fn freeze(&mut self) -> TableWrite {
        debug_assert!(self.kept.is_none(), "one checkpoint at a time");
        self.begun += 1;
        self.kept = Some(BTreeMap::new());
        self.rewrite_cleaned_table();
        TableWrite::new(self.begun, self.geometry.segments, std::mem::take(&mut self.changed))
    }

    /// The content of the page of the table that is to be written next.
    pub(in crate::store) fn content(&self, write: &TableWrite) -> Vec<u8> {
        write.content(&self.table, |segment| {
            let kept = self.kept.as_ref().and_then(|kept| kept.get(&segment));
            kept.copied().unwrap_or_else(|| Row::of(self.get(segment)))
        })
    }

    /// The page of the table that was to be written next lies there.
    pub(in crate::store) fn table_placed(&mut self, write: &mut TableWrite, page: PageRef) {
        write.placed(page);
        self.meta_born(page.place);
    }

    /// The superblock of the checkpoint under way is durable; `write` is what it wrote of the
    /// table.
    pub(in crate::store) fn superblock_durable(&mut self, write: TableWrite) {
        self.kept = None;
        self.durable = self.begun;
        self.is_epoch_durable = true;
        let (left, index) = write.apply(&mut self.table);
        let old_index = std::mem::replace(&mut self.index, index);
        for page in left.into_iter().chain(old_index) {
            self.meta_died(page.place);
        }
        while let Some(&(freed_at, segment)) = self.ended.front()
            && freed_at <= self.durable
        {
            self.ended.pop_front();
            self.change(segment).state = State::Free;
            self.log_pool.insert(segment);
        }
        while let Some((freed_at, _)) = self.added.front()
            && *freed_at <= self.durable
            && let Some((_, added)) = self.added.pop_front()
        {
            for segment in added {
                self.segments[segment as usize].state = State::Free;
                self.free.insert(segment);
            }
        }
    }

    /// A superblock with the epoch of this opening is durable: what was recovered as emptied may be
    /// trimmed.
    pub(in crate::store) fn epoch_durable(&mut self) {
        self.is_epoch_durable = true;
    }

    /// The next segment to be trimmed: nothing that may be read lies in it. The caller trims it
    /// (where that is of use), then calls [`Segments::trimmed`]; or [`Segments::hollowed`] before.
    pub(in crate::store) fn next_trim(&mut self) -> Option<u32> {
        if !self.is_epoch_durable {
            return None;
        }
        let early = self.defect == Some(PagesDefect::TrimEarly);
        let until = if early { self.begun } else { self.durable };
        let &(_, segment) = self.emptied.front().filter(|(freed_at, _)| *freed_at <= until)?;
        self.emptied.pop_front();
        self.change(segment).state = State::Trimming;
        Some(segment)
    }

    /// A segment was trimmed: it is free.
    pub(in crate::store) fn trimmed(&mut self, segment: u32) {
        let found = *self.get(segment);
        if found.state == State::Trimming {
            let retired = found.failures >= MAX_FAILURES;
            self.change(segment).state = if retired { State::Retired } else { State::Free };
            if !retired {
                self.free.insert(segment);
            }
        }
    }

    /// The namespace has grown to `segments`. They are free once a checkpoint is durable that began
    /// after this.
    pub(in crate::store) fn grow(&mut self, segments: u32) {
        let old = self.geometry.segments;
        let grown = Geometry { segments, ..self.geometry };
        if segments > old && grown.is_plausible() {
            self.geometry = grown;
            let added = Segment { state: State::Added, ..Segment::FREE };
            self.segments.resize(segments as usize, added);
            self.added.push_back((self.begun + 1, old..segments));
            self.changed.extend(table::page_of(old)..table::pages(segments));
        }
    }

    /// How many free segments there are at the end, which can be cut off.
    pub(in crate::store) fn free_at_end(&self) -> u32 {
        let used = self.segments.iter().skip(self.geometry.first_segment() as usize).rev();
        let last = used.take_while(|segment| segment.state == State::Free);
        u32::try_from(last.count()).expect("there are a million segments at most")
    }
}
