//! Batches read back; one that was changed anywhere does not.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::record::tests::{any_operation, encode};
use super::{Batch, BatchHeader, BundleEntry, HEADER_BYTES, NoPayload};
use crate::store::codec::{checksum, to_u32};

fn header() -> BatchHeader {
    BatchHeader {
        payload_len: 0,
        identity: *b"0123456789abcdef",
        epoch: 3,
        batch: 77,
        segment: 5,
        offset: 8192,
        generation: 2,
        bundles: 0,
        first: 4000,
        records: 0,
        durable: 76,
        chain: 0x1234,
        payload_checksum: 0,
    }
}

/// The header and payload of a batch with these records.
fn batch(records: &[Vec<u8>], bundles: &[BundleEntry]) -> (BatchHeader, Vec<u8>) {
    let mut payload: Vec<u8> = bundles.iter().flat_map(BundleEntry::encode).collect();
    for (index, record) in records.iter().enumerate() {
        payload.extend_from_slice(&to_u32(record.len()).to_le_bytes());
        payload.extend_from_slice(&to_u32(index).to_le_bytes());
        payload.extend_from_slice(record);
    }
    let header = BatchHeader {
        payload_len: to_u32(payload.len()),
        bundles: to_u32(bundles.len()),
        records: to_u32(records.len()),
        payload_checksum: checksum(&payload),
        ..header()
    };
    (header, payload)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_batch_reads_back(
        owned in vec(any_operation(), 0..12),
        bundles in vec(any::<(u64, u64, u64)>(), 0..4),
        flip in any::<prop::sample::Index>(),
    ) {
        let records: Vec<_> = owned.iter().map(|owned| encode(&owned.record())).collect();
        let bundles: Vec<_> = bundles
            .into_iter()
            .map(|(number, trailer, checksum)| BundleEntry { number, trailer, checksum })
            .collect();
        let (header, payload) = batch(&records, &bundles);
        let mut bytes = [0; HEADER_BYTES];
        let sum = header.encode(&mut bytes);
        prop_assert_eq!(BatchHeader::decode(&bytes), Some((header, sum)));
        let read = Batch::check(header, &payload).expect("it is whole");
        prop_assert_eq!(read.bundles().collect::<Vec<_>>(), bundles);
        let found: Vec<_> = read.records().map(|(number, operations)| (number, operations.0.to_vec())).collect();
        let expected: Vec<_> = (4000..).zip(records).collect();
        prop_assert_eq!(found, expected);

        let place = flip.index(HEADER_BYTES);
        bytes[place] ^= 0x10;
        prop_assert_eq!(BatchHeader::decode(&bytes), None);
        if !payload.is_empty() {
            let mut payload = payload;
            let place = flip.index(payload.len());
            payload[place] ^= 0x10;
            prop_assert_eq!(Batch::check(header, &payload).ok(), None);
        }
    }
}

/// A payload that says something else than its header, with a good checksum.
#[test]
fn a_payload_that_contradicts_its_header_is_refused() {
    let void = vec![0_u8];
    let (good, payload) = batch(&[void.clone(), void.clone()], &[]);
    assert!(Batch::check(good, &payload).is_ok());
    assert_eq!(
        Batch::check(BatchHeader { records: 1, ..good }, &payload),
        Err(NoPayload::Unreadable),
        "one record too many"
    );
    assert_eq!(
        Batch::check(BatchHeader { records: 3, ..good }, &payload),
        Err(NoPayload::Unreadable),
        "one record too few"
    );
    assert_eq!(Batch::check(BatchHeader { bundles: 1, ..good }, &payload), Err(NoPayload::Unreadable));
    let mut twice = payload.clone();
    twice[9 + 4] = 0;
    let header = BatchHeader { payload_checksum: checksum(&twice), ..good };
    assert_eq!(Batch::check(header, &twice), Err(NoPayload::Unreadable), "one number twice");
    let mut long = payload.clone();
    long[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    let header = BatchHeader { payload_checksum: checksum(&long), ..good };
    assert_eq!(Batch::check(header, &long), Err(NoPayload::Unreadable), "a record of 4 GiB");
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let header = BatchHeader { payload_len: 100, ..header() };
    let impossible = [
        BatchHeader { records: 12, ..header },
        BatchHeader { bundles: 5, ..header },
        BatchHeader { bundles: u32::MAX, records: u32::MAX, ..header },
        BatchHeader { durable: header.batch, ..header },
        BatchHeader { first: u64::MAX, records: 1, ..header },
    ];
    for header in impossible {
        let mut bytes = [0; HEADER_BYTES];
        header.encode(&mut bytes);
        assert_eq!(BatchHeader::decode(&bytes), None, "{header:?}");
    }
}
