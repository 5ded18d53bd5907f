//! The table of segments on the namespace: its rows, its pages, its index (disk format, section
//! 9).
//!
//! A row has 24 bits for live granules: a segment of 512 MiB, of which a million are 256 TiB, has
//! 2^23. Above are 4 bits for the class, 3 for the temperature, and one that says that the counts
//! are wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::{Segment, State, Temperature};
use crate::store::codec::Reader;
use crate::store::pages::damage::{Checker, Damage};
use crate::store::pages::geometry::Geometry;
use crate::store::pages::page::{PageHeader, PageKind, structure_word};
use crate::store::word::PageRef;

/// Rows of a page of the table.
const ROWS: u32 = 256;
const ROW_BYTES: usize = 16;
/// Beside the temperature.
const MISCOUNTED: u32 = 1 << 31;

/// How many pages the table of so many segments has.
pub(in crate::store) fn pages(segments: u32) -> u32 {
    segments.div_ceil(ROWS)
}

/// The page of the table that has the row of `segment`.
pub(in crate::store) fn page_of(segment: u32) -> u32 {
    segment / ROWS
}

/// The segments of a page of the table.
pub(in crate::store) fn segments_of(page: u32, segments: u32) -> std::ops::Range<u32> {
    page * ROWS..segments.min((page + 1) * ROWS)
}

/// What a checkpoint says that a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::store) enum Class {
    Free = 0,
    Pages = 1,
    Log = 2,
    /// Empty as of this checkpoint: may be trimmed once it is durable.
    Emptied = 3,
    Retired = 4,
}

/// The row of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Row {
    pub(in crate::store) generation: u32,
    pub(in crate::store) live: u32,
    pub(in crate::store) class: Class,
    pub(in crate::store) temperature: Temperature,
    pub(in crate::store) pages: u32,
    pub(in crate::store) up2: u32,
    /// What lives in it is not known: it never counts as empty.
    pub(in crate::store) miscounted: bool,
}

impl Row {
    pub(in crate::store) fn of(segment: &Segment) -> Self {
        let class = match segment.state {
            State::Free | State::Added => Class::Free,
            State::Open | State::Sealed | State::Cleaning => Class::Pages,
            // Whether it is part of the log is what the log says, from the superblock on.
            State::Log | State::Ended { .. } => Class::Log,
            State::Emptied { .. } | State::Trimming => Class::Emptied,
            State::Retired => Class::Retired,
        };
        Self {
            generation: segment.generation,
            live: segment.live,
            class,
            temperature: segment.temperature,
            pages: segment.pages,
            up2: segment.up2,
            miscounted: segment.miscounted && class == Class::Pages,
        }
    }

    pub(in crate::store) fn encode(&self, out: &mut Vec<u8>) {
        let bits = self.live
            | u32::from(self.class as u8) << 24
            | u32::from(self.temperature as u8) << 28
            | if self.miscounted { MISCOUNTED } else { 0 };
        for field in [self.generation, bits, self.pages, self.up2] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }

    /// The row of `segment`, or what is wrong with it.
    pub(in crate::store) fn decode(
        reader: &mut Reader<'_>,
        segment: u32,
        geometry: &Geometry,
        is: Checker,
    ) -> Result<Self, Damage> {
        let (generation, bits) = (is.some(reader.u32())?, is.some(reader.u32())?);
        let (pages, up2) = (is.some(reader.u32())?, is.some(reader.u32())?);
        let classes = [Class::Free, Class::Pages, Class::Log, Class::Emptied, Class::Retired];
        let class = classes.into_iter().find(|&class| u32::from(class as u8) == bits >> 24 & 0xf);
        let class = class.ok_or_else(|| is.damage("a segment has a class that is not known"))?;
        let temperature = bits >> 28 & 0x7;
        let temperature = Temperature::ALL.into_iter().find(|&known| u32::from(known as u8) == temperature);
        let miscounted = bits & MISCOUNTED != 0;
        let temperature = temperature.ok_or_else(|| is.damage("a segment has a temperature that is none"))?;
        let live = bits & 0xff_ffff;
        let room = geometry.segment_granules() - geometry.block_granules();
        is.check(live <= room, "more lives in a segment than fits there")?;
        let fits = pages <= live && (live == 0) == (pages == 0);
        is.check(fits || miscounted, "the pages of a segment cannot have this length")?;
        is.check(
            (live == 0 && !miscounted) || class == Class::Pages,
            "pages live in a segment that is not for pages",
        )?;
        is.check(generation > 0 || class == Class::Free, "a segment is used and was never opened")?;
        let front = segment < geometry.first_segment();
        is.check(!front || class == Class::Free, "a segment is used where superblocks lie")?;
        Ok(Self { generation, live, class, temperature, pages, up2, miscounted })
    }
}

/// A page of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TablePage {
    Rows(u32),
    Index,
    Nothing,
}

/// What one checkpoint writes of the table: pages with rows that changed, then the index.
#[derive(Debug)]
pub(in crate::store) struct TableWrite {
    checkpoint: u64,
    segments: u32,
    pending: BTreeSet<u32>,
    placed: BTreeMap<u32, PageRef>,
    index: Option<PageRef>,
}

impl TableWrite {
    pub(in crate::store) fn new(checkpoint: u64, segments: u32, pending: BTreeSet<u32>) -> Self {
        Self { checkpoint, segments, pending, placed: BTreeMap::new(), index: None }
    }

    /// The number of the checkpoint.
    pub(in crate::store) fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    /// How many segments it knows, which its superblock has to state.
    pub(in crate::store) fn segments(&self) -> u32 {
        self.segments
    }

    fn next(&self) -> TablePage {
        match self.pending.first() {
            Some(&page) => TablePage::Rows(page),
            None if self.index.is_none() => TablePage::Index,
            None => TablePage::Nothing,
        }
    }

    /// The header of the page to write next, for a bundle; `None` if all are written. Its content
    /// is [`Segments::content`](super::Segments::content), and it is placed by
    /// [`Segments::table_placed`](super::Segments::table_placed).
    pub(in crate::store) fn header(&self) -> Option<PageHeader> {
        Some(match self.next() {
            TablePage::Rows(page) => {
                PageHeader::plain(PageKind::SegmentTable, 0, structure_word(page.into(), 0))
            }
            TablePage::Index => PageHeader::plain(PageKind::SegmentTableIndex, 0, structure_word(0, 0)),
            TablePage::Nothing => return None,
        })
    }

    pub(in crate::store) fn content(&self, old: &[Option<PageRef>], row: impl Fn(u32) -> Row) -> Vec<u8> {
        let (segments, mut out) = (self.segments, Vec::new());
        match self.next() {
            TablePage::Rows(page) => {
                segments_of(page, segments).for_each(|segment| row(segment).encode(&mut out));
            }
            TablePage::Index => {
                out.extend_from_slice(&segments.to_le_bytes());
                out.extend_from_slice(&[0; 4]);
                for page in 0..pages(segments) {
                    let before = || old.get(page as usize).copied().flatten();
                    let placed = self.placed.get(&page).copied().or_else(before);
                    out.extend_from_slice(&PageRef::encode(placed));
                }
            }
            TablePage::Nothing => {}
        }
        debug_assert!(
            out.len() <= crate::store::pages::page::MAX_CONTENT_BYTES && out.len() % ROW_BYTES <= 8
        );
        out
    }

    pub(in crate::store) fn placed(&mut self, page: PageRef) {
        match self.next() {
            TablePage::Rows(rows) => {
                self.pending.remove(&rows);
                self.placed.insert(rows, page);
            }
            TablePage::Index => self.index = Some(page),
            TablePage::Nothing => {}
        }
    }

    /// The index page, for the superblock, once there is no next page.
    pub(in crate::store) fn index(&self) -> Option<PageRef> {
        self.index
    }

    /// Puts the new places into `table`: the pages that it has left, and the index.
    pub(in crate::store) fn apply(self, table: &mut Vec<Option<PageRef>>) -> (Vec<PageRef>, Option<PageRef>) {
        let mut left = Vec::new();
        for (page, place) in self.placed {
            let page = page as usize;
            if table.len() <= page {
                table.resize(page + 1, None);
            }
            left.extend(table[page].replace(place));
        }
        (left, self.index)
    }
}
