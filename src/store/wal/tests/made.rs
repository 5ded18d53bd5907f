//! Records, headers and segments that tests make.

use super::name;
use crate::store::pages::{SegmentHeader, SegmentName, SegmentUse};
use crate::store::wal::record::{Effect, Operation};
use crate::store::wal::segments::{LogFormat, Segments};

/// The log starts at `start` from now on; what was before is offered again, as if the table of
/// segments had taken it back and given it out.
pub(in crate::store::wal) fn recycle(segments: &mut Segments, start: SegmentName) {
    for freed in segments.free_before(start) {
        segments.offer(name(freed.segment, freed.generation + 1));
    }
}

/// Writes a record that fills `out`: a put of a value of such bytes, if it is long enough for one.
pub(in crate::store::wal) fn record(byte: u8, out: &mut [u8]) {
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
pub(in crate::store::wal) fn first_header(format: LogFormat) -> [u8; SegmentHeader::BYTES] {
    let usage = SegmentUse::Log { next: name(11, 1), epoch: 0 };
    SegmentHeader { name: name(10, 1), usage, first: 1 }.encode(&format.identity)
}
