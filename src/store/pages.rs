//! The page store: superblocks, segments, bundles of pages, and the map of pages.
//!
//! Nothing in here does I/O. Each part is a value or a state machine; the caller reads and writes
//! the blocks that it names, and tells it what became of them. `docs/store-design.md`, sections 4,
//! 6 and 7, is the design; this is what a caller has to keep apart:
//!
//! | part | what it knows |
//! |---|---|
//! | `geometry` | granules, blocks, segments (addresses are words: `store::word`) |
//! | `superblock` | where everything starts: four copies, how they are written, which one counts |
//! | `segment` | the header of each segment, what each is for, how much of it lives, when it may be written again |
//! | `page` | the header in front of each page |
//! | `bundle` | pages that are durable together: their bytes, their states, what must go with them |
//! | `overlay` | what bundles since the last checkpoint say about pages, at recovery |
//! | `map_page` | pages of the map, and which of them a checkpoint has to write |
//! | `lengths` | the page with the number of keys of each tree |
//! | `clean` | which segment to clean next, and how fast |
//! | `walk` | which pages lie in a segment |
//! | `space` | which writes are admitted, so that each of them can be carried out |
//!
//! **One checkpoint.** (0) The segments that the log leaves behind its new start go to
//! `Segments::end_log`. (1) `Naming::freeze` says that every bundle up to a batch of the log is
//! installed in the map, and `Segments::freeze` remembers the table as it is. (2) `MapWrite` and
//! `Segments::write` say which pages to write, and where they refer to. (3) A flush. (4) The
//! `superblock::Update`. (5) `Segments::superblock_durable`: what was empty at (1) may be trimmed,
//! and only what was trimmed may be written again.

mod bundle;
mod clean;
mod damage;
mod defect;
#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod geometry;
mod lengths;
mod map_page;
mod overlay;
mod page;
mod segment;
mod space;
mod superblock;
#[cfg(test)]
mod tests;
mod walk;

pub(in crate::store) use bundle::{
    Builder, FlushClock, Full, MAX_ENTRIES as MAX_BUNDLE_ENTRIES, MAX_PAGES_BYTES as MAX_BUNDLE_PAGES_BYTES,
    Origin, Sealed, Trailer, number as bundle_number, trailer_len as trailer_bytes,
};
pub(in crate::store) use clean::{CleanPace, STEP_BYTES, Supply, Victims};
pub(in crate::store) use damage::Damage;
pub(in crate::store) use defect::PagesDefect;
pub(in crate::store) use geometry::{GRANULE_BYTES, Geometry, MIN_STORE_BYTES};
pub(in crate::store) use lengths::{
    TreeLengths, decode as decode_lengths, encode as encode_lengths, header as lengths_header,
};
pub(in crate::store) use map_page::{
    MAP_CONTENT_BYTES, MapChange, MapEntry, MapLoad, MapPage, MapTree, Owner, header as map_header,
};
pub(in crate::store) use overlay::Overlay;
pub(in crate::store) use page::{
    Compression, PAGE_HEADER_BYTES, Page, PageFlags, PageHeader, PageKind, expiry_seconds,
    parse as parse_page, stored_granules,
};
pub(in crate::store) use segment::{
    SegmentHeader, SegmentName, SegmentUse, Segments, TableLoad, TableWrite, Temperature,
};
pub(in crate::store) use space::Capacity;
pub(in crate::store) use superblock::{
    BYTES as SUPERBLOCK_BYTES, COPIES as SUPERBLOCK_COPIES, Choice, LogStart, Refusal, Sequences, Superblock,
    Update, UpdateStep, V1_COPIES as V1_SUPERBLOCK_COPIES, choose, is_version_1,
};
pub(in crate::store) use walk::{Lying, Walked, walk};
