//! What the tests of the log share.

use std::collections::VecDeque;

use super::defect::WalDefect;
use super::group::Wal;
use super::record::{Effect, Operation};
use super::segments::{LogFormat, LogPosition, Segments};
use crate::store::pages::{SegmentHeader, SegmentName, SegmentUse};

/// The first record of a fresh log.
pub(super) const FIRST: u64 = 1;

pub(super) fn format(segment_bytes: u32, block_bytes: u32) -> LogFormat {
    LogFormat { identity: *b"a log for tests.", segment_bytes, block_bytes }
}

pub(super) fn name(segment: u32, generation: u32) -> SegmentName {
    SegmentName { segment, generation }
}

/// The log starts at `start` from now on; what was before is offered again, as if the table of
/// segments had taken it back and given it out.
pub(super) fn recycle(segments: &mut Segments, start: SegmentName) {
    for freed in segments.free_before(start) {
        segments.offer(name(freed.segment, freed.generation + 1));
    }
}

/// Writes a record that fills `out`: a put of a value of such bytes, or for a short one voids'
/// kind of operation that has no content.
pub(super) fn record(byte: u8, out: &mut [u8]) {
    let put = |key, value| Operation::Put { tree: 7, effect: Effect::None, expiry: None, key, value };
    let (key, value) = (vec![byte; 3], vec![byte; out.len()]);
    for (key_len, less) in (0..4).flat_map(|key_len| (4..9).map(move |less| (key_len, less + key_len))) {
        let Some(len) = out.len().checked_sub(less) else { continue };
        let put = put(&key[..key_len], &value[..len]);
        if put.encoded_len() == out.len() {
            put.encode(out);
            return;
        }
    }
    let short = [&[0][..], &[7, 9], &[2, 7, 0]];
    out.copy_from_slice(short[out.len() - 1]);
}

/// The header of a fresh log's first segment.
pub(super) fn first_header(format: LogFormat) -> [u8; SegmentHeader::BYTES] {
    let usage = SegmentUse::Log { next: name(11, 1), epoch: 0 };
    SegmentHeader { name: name(10, 1), usage, first: 1 }.encode(&format.identity)
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
mod measure;
