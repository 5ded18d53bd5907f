//! What the tests of the log share.

use std::collections::VecDeque;

use super::defect::WalDefect;
use super::group::Wal;
use super::segments::{LogFormat, LogPosition, Segments};
use crate::store::pages::SegmentName;
#[cfg(not(loom))]
pub(super) use made::{first_header, record, recycle};

/// The first record of a fresh log.
pub(super) const FIRST: u64 = 1;

pub(super) fn format(segment_bytes: u32, block_bytes: u32) -> LogFormat {
    LogFormat { identity: *b"a log for tests.", segment_bytes, block_bytes }
}

pub(super) fn name(segment: u32, generation: u32) -> SegmentName {
    SegmentName { segment, generation }
}

/// Where a fresh log starts: segment 10, whose header names segment 11.
pub(super) fn start(block_bytes: u32) -> LogPosition {
    LogPosition { segment: name(10, 1), offset: block_bytes, batch: 1, chain: 0, first: FIRST }
}

/// A fresh log with `spare` more segments.
pub(super) fn fresh_with(
    format: LogFormat,
    spare: u32,
    buffers: (usize, usize),
    defect: Option<WalDefect>,
) -> Wal {
    let start = start(format.block_bytes);
    let chain = VecDeque::from([(start.segment, start.batch)]);
    let mut segments = Segments::new(format, chain, start.offset, name(11, 1));
    (0..spare).for_each(|index| segments.offer(name(12 + index, 1)));
    Wal::new(format, 1, start, segments, buffers, defect)
}

/// The same with two spare segments.
pub(super) fn fresh(
    segment_bytes: u32,
    block_bytes: u32,
    buffers: (usize, usize),
    defect: Option<WalDefect>,
) -> Wal {
    fresh_with(format(segment_bytes, block_bytes), 2, buffers, defect)
}

#[cfg(not(loom))]
mod crash;
#[cfg(loom)]
mod loom_tests;
#[cfg(not(loom))]
mod made;
#[cfg(not(loom))]
mod measure;
