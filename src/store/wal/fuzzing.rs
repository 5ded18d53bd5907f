//! What the fuzzer feeds: the log's decoders, which have to take any bytes. There is no such module
//! in any other build.

use super::batch::{Batch, BatchHeader, HEADER_BYTES};
use super::record::{Operation, Operations};
use super::replay::Replay;
use super::segments::{LogFormat, LogPosition};
use crate::store::pages::{SegmentHeader, SegmentName};

const SEGMENT_BYTES: u32 = 4096;
const BLOCK_BYTES: u32 = 512;

/// `data` as a record: it is refused, or encoding what it says gives the same bytes.
pub fn record(data: &[u8]) {
    let operations = Operations(data);
    if operations.is_valid() {
        let mut bytes = vec![0; operations.iter().map(|operation| operation.encoded_len()).sum()];
        let rest = operations.iter().fold(bytes.as_mut_slice(), |rest, operation| operation.encode(rest));
        assert!(rest.is_empty(), "a length was said wrong");
        assert_eq!(bytes, data);
    } else {
        assert!(operations.iter().count() <= data.len());
    }
}

/// `data` as a batch, and as the header of a segment.
pub fn batch(data: &[u8]) {
    if let Some((header, _)) = BatchHeader::decode(data) {
        let mut bytes = [0; HEADER_BYTES];
        header.encode(&mut bytes);
        assert_eq!(bytes, data[..HEADER_BYTES]);
        let payload = data[HEADER_BYTES..].get(..header.payload_len as usize);
        if let Some(batch) = payload.and_then(|payload| Batch::check(header, payload).ok()) {
            let records = batch.records().inspect(|(_, record)| assert!(record.is_valid())).count();
            assert_eq!(records, header.records as usize);
            assert_eq!(batch.bundles().count(), header.bundles as usize);
        }
    }
    if let Some(identity) = data.get(16..32).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
        && let Ok(header) = SegmentHeader::decode(data, &identity)
    {
        assert_eq!(header.encode(&identity), data[..SegmentHeader::BYTES]);
    }
}

/// `data` as the segments of a log, 0 to 3. What a batch says and where it lies is the input's
/// choice, whose identity is zero.
pub fn log(data: &[u8]) {
    let format = LogFormat { identity: [0; 16], segment_bytes: SEGMENT_BYTES, block_bytes: BLOCK_BYTES };
    let start = LogPosition {
        segment: SegmentName { segment: 0, generation: 0 },
        offset: BLOCK_BYTES,
        batch: 1,
        chain: 0,
        first: 0,
    };
    let mut image = vec![0; 4 * SEGMENT_BYTES as usize];
    for (place, byte) in image.iter_mut().zip(data) {
        *place = *byte;
    }
    let mut replay = Replay::new(format, start, None);
    let (mut next, mut reads) = (0, 0);
    while let Some(segment) = replay.wants() {
        let bytes = image.chunks(SEGMENT_BYTES as usize).nth(segment as usize).unwrap_or(&[]);
        replay.segment(bytes);
        while let Some(batch) = replay.next_batch(bytes) {
            for (number, record) in batch.records() {
                assert_eq!(number, next, "numbers have no holes");
                assert!(
                    !record
                        .iter()
                        .any(|operation| matches!(operation, Operation::Put { key, .. } if key.len() > 4096))
                );
                next += 1;
            }
        }
        reads += 1;
        assert!(reads < 1000, "it reads for ever");
    }
    if let Ok(end) = replay.finish() {
        assert_eq!(end.position.first, next);
    }
}
