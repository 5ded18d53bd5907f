//! Batches have every number once and in order, and durable is what a flush covered.

use super::super::batch::{Batch, BatchHeader, BundleEntry, HEADER_BYTES};
use super::super::defect::WalDefect;
use super::super::group::Wal;
use super::super::record::Operation;
use super::super::replay::Replay;
use super::super::tests::{first_header, format, fresh, fresh_with, record, recycle, start};
use super::super::writer::{CoreLog, NoRoom};
use super::{Formed, NoBatch, Point};
use crate::store::pages::SegmentHeader;

const BLOCK: usize = 512;

fn append(log: &CoreLog, byte: u8, len: usize) -> u64 {
    let mut room = log.room(1, len).expect("there is room");
    let mut draw = room.draw().expect("the first");
    let number = draw.number();
    draw.append(len, |out| record(byte, out));
    number
}

fn next(wal: &Wal, out: &mut [u8]) -> Option<Formed> {
    wal.lead().expect("nobody else leads").next_batch(out).expect("it works")
}

/// The header and payload of what was formed, as they would be read.
fn read<'a>(formed: &Formed, out: &'a [u8]) -> (BatchHeader, &'a [u8]) {
    let at = if formed.offset == 0 { BLOCK } else { 0 };
    let (header, _) = BatchHeader::decode(&out[at..formed.bytes]).expect("a header");
    assert_eq!(header.offset as usize, formed.offset as usize + at);
    (header, &out[at + HEADER_BYTES..at + HEADER_BYTES + header.payload_len as usize])
}

#[test]
fn records_of_two_cores_are_merged_by_number() {
    let wal = fresh(64 << 10, 512, (2, 4096), None);
    let (a, b) = (wal.attach().expect("room"), wal.attach().expect("room"));
    assert!(wal.attach().is_none(), "it is for two cores");
    let mut out = vec![0xff; 8192];
    assert_eq!(next(&wal, &mut out), None);
    let by = [&a, &b, &b, &a, &b, &a, &a];
    for (index, log) in by.iter().enumerate() {
        assert_eq!(append(log, 0, 1), index as u64 + 1);
    }
    let formed = next(&wal, &mut out).expect("seven records");
    assert_eq!((formed.segment, formed.offset, formed.bytes, formed.batch, formed.end), (10, 512, 512, 1, 8));
    let (header, payload) = read(&formed, &out);
    assert_eq!((header.first, header.records, header.durable), (1, 7, 0));
    let batch = Batch::check(header, payload).expect("it is whole");
    let voids: Vec<_> = batch.records().map(|(number, record)| (number, record.iter().collect())).collect();
    assert_eq!(voids, (1..8).map(|number| (number, vec![Operation::Void])).collect::<Vec<_>>());
    assert!(out[HEADER_BYTES + payload.len()..512].iter().all(|byte| *byte == 0), "padded with zeros");
}

#[test]
fn one_batch_is_written_while_the_one_before_is_flushed() {
    let wal = fresh(64 << 10, 512, (1, 4096), None);
    let log = wal.attach().expect("room");
    let mut out = vec![0; 8192];
    append(&log, 0, 1);
    let first = next(&wal, &mut out).expect("a record");
    append(&log, 0, 1);
    assert_eq!(next(&wal, &mut out), None, "one is being written");
    let mut lead = wal.lead().expect("nobody else leads");
    assert_eq!(lead.start_flush(), None, "nothing is written");
    lead.written(false);
    assert_eq!(lead.start_flush(), Some(Point { batch: 1, end: 2 }));
    assert_eq!(lead.start_flush(), None, "one is under way");
    let second = lead.next_batch(&mut out).expect("works").expect("a record");
    lead.written(false);
    assert_eq!(lead.flushed(), Point { batch: 1, end: 2 }, "it started before the second was written");
    drop(lead);
    assert_eq!((wal.durable(), first.end, second.end), (2, 2, 3));
    let mut lead = wal.lead().expect("nobody else leads");
    assert_eq!(lead.start_flush(), Some(Point { batch: 2, end: 3 }));
    lead.flushed();
    assert_eq!(lead.start_flush(), None, "everything is durable");
    drop(lead);
    assert_eq!(wal.durable(), 3);
    // What batches say of each other.
    append(&log, 0, 1);
    let (before, sum) = BatchHeader::decode(&out).expect("the second is still there");
    assert_eq!((before.batch, before.durable), (2, 0), "the flush of the first was under way");
    let third = next(&wal, &mut out).expect("a record");
    let (header, _) = read(&third, &out);
    assert_eq!((header.batch, header.durable, header.chain), (3, 2, sum));
}

#[test]
fn a_durable_write_does_not_stand_in_for_the_flush_of_the_batch_before() {
    let wal = fresh(64 << 10, 512, (1, 4096), None);
    let log = wal.attach().expect("room");
    let mut out = vec![0; 8192];
    append(&log, 0, 1);
    next(&wal, &mut out).expect("a record");
    wal.lead().expect("nobody else leads").written(false);
    append(&log, 0, 1);
    next(&wal, &mut out).expect("a record");
    wal.lead().expect("nobody else leads").written(true);
    assert_eq!(wal.durable(), 1);
    wal.lead().expect("nobody else leads").start_flush().expect("two batches");
    wal.lead().expect("nobody else leads").flushed();
    assert_eq!(wal.durable(), 3);
    append(&log, 0, 1);
    next(&wal, &mut out).expect("a record");
    wal.lead().expect("nobody else leads").written(true);
    assert_eq!(wal.durable(), 4);
}

#[test]
fn nothing_is_durable_after_a_failure() {
    let wal = fresh(64 << 10, 512, (1, 4096), None);
    let log = wal.attach().expect("room");
    let mut out = vec![0; 8192];
    append(&log, 0, 1);
    next(&wal, &mut out).expect("a record");
    let mut lead = wal.lead().expect("nobody else leads");
    lead.written(false);
    lead.start_flush().expect("something is written");
    lead.leader().fail();
    assert_eq!(lead.flushed().batch, 0, "a flush beside a failure proves nothing");
    assert_eq!(lead.start_flush(), None);
    lead.written(true);
    assert_eq!(lead.leader().durable().batch, 0);
    assert_eq!(lead.next_batch(&mut out), Err(NoBatch::Failed));
}

#[test]
fn a_bundle_is_named_after_the_numbers_in_its_pages() {
    let wal = fresh(64 << 10, 512, (1, 4096), None);
    let log = wal.attach().expect("room");
    let mut out = vec![0; 8192];
    let entry = |number| BundleEntry { number, trailer: 9, checksum: 8 };
    {
        let mut lead = wal.lead().expect("nobody else leads");
        lead.leader().add_bundle(1, entry(50));
        lead.leader().add_bundle(0, entry(51));
    }
    assert_eq!(next(&wal, &mut out), None, "number 1 is in no batch, and 51 waits for 50");
    append(&log, 0, 1);
    append(&log, 0, 1);
    let formed = next(&wal, &mut out).expect("two records");
    let (header, _) = read(&formed, &out);
    assert_eq!((header.records, header.bundles), (2, 0), "number 1 was in no batch before");
    wal.lead().expect("nobody else leads").written(false);
    let formed = next(&wal, &mut out).expect("bundles alone make a batch");
    let (header, payload) = read(&formed, &out);
    let batch = Batch::check(header, payload).expect("whole");
    assert_eq!((header.records, batch.bundles().collect::<Vec<_>>()), (0, vec![entry(50), entry(51)]));
}

#[test]
fn a_batch_that_does_not_fit_opens_the_next_segment() {
    let wal = fresh_with(format(4096, 512), 1, (1, 4096), None);
    let log = wal.attach().expect("room");
    let mut out = vec![0; 8192];
    let mut places = Vec::new();
    let mut chain = 0;
    for index in 0..6_u8 {
        append(&log, index, 900);
        append(&log, index, 900);
        loop {
            let formed = wal.lead().expect("nobody else leads").next_batch(&mut out);
            let formed = match formed {
                Ok(Some(formed)) => formed,
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error, NoBatch::NoSegment);
                    let mut lead = wal.lead().expect("nobody else leads");
                    let current = lead.leader().position().segment;
                    recycle(&mut lead.leader().segments, current);
                    continue;
                }
            };
            wal.lead().expect("nobody else leads").written(true);
            let (header, _) = read(&formed, &out);
            assert_eq!(header.chain, chain);
            let at = if formed.offset == 0 { BLOCK } else { 0 };
            chain = BatchHeader::decode(&out[at..]).expect("a header").1;
            if at > 0 {
                let header =
                    SegmentHeader::decode(&out, &format(0, 0).identity).expect("a header goes with it");
                assert_eq!((header.first, header.name.segment), (formed.batch, formed.segment));
            }
            places.push((header.segment, header.generation, header.offset));
        }
    }
    // With the batch's header two records take 2048 bytes, one 1024.
    let segments = [(10, 1), (11, 1), (12, 1), (10, 2), (11, 2), (12, 2)];
    let both_one = [512, 2560];
    let one_both = [512, 1536];
    let expected: Vec<_> = segments
        .iter()
        .zip([both_one, one_both].iter().cycle())
        .flat_map(|(&(segment, generation), offsets)| offsets.map(|offset| (segment, generation, offset)))
        .take(places.len())
        .collect();
    assert_eq!(places, expected);
    assert_eq!(places.len(), 8);
}

#[test]
fn a_record_is_never_split_and_the_longest_fits() {
    let wal = fresh(4096, 512, (1, 16 << 10), None);
    let log = wal.attach().expect("room");
    let longest = log.max_record_bytes();
    assert_eq!(longest, 4096 / 4 - HEADER_BYTES);
    assert!(matches!(log.room(1, longest + 1), Err(NoRoom::TooLong)));
    append(&log, 0, longest);
    let mut out = vec![0; longest + HEADER_BYTES + 2 * BLOCK];
    let formed = next(&wal, &mut out).expect("a record");
    assert_eq!(read(&formed, &out).1.len(), longest + 8);
}

#[test]
fn a_number_that_was_published_and_is_nowhere_stops_the_log() {
    let wal = fresh(64 << 10, 512, (2, 4096), None);
    let log = wal.attach().expect("room");
    append(&log, 0, 1);
    // Drawn by a core that says it published, and did not.
    let number = wal.order().draw(1, 0, 1);
    wal.order().idle(1);
    append(&log, 0, 1);
    let mut out = vec![0; 8192];
    let lost = wal.lead().expect("nobody else leads").next_batch(&mut out);
    assert_eq!(lost, Err(NoBatch::Lost(number)));
}

#[test]
fn a_batch_ends_before_a_number_that_is_not_published() {
    for defect in [None, Some(WalDefect::CutTooLate)] {
        let wal = fresh(64 << 10, 512, (2, 4096), defect);
        let (a, b) = (wal.attach().expect("room"), wal.attach().expect("room"));
        append(&a, 0, 1);
        let mut room = b.room(1, 1).expect("there is room");
        let mut draw = room.draw().expect("the first");
        append(&a, 0, 1);
        let mut out = vec![0; 8192];
        let formed = next(&wal, &mut out).expect("a record");
        if defect.is_none() {
            assert_eq!(formed.end, draw.number());
        } else {
            assert_eq!(formed.end, draw.number() + 2, "noticed: it counts what is not there");
        }
        draw.append(1, |out| out[0] = 0);
    }
}

#[test]
fn voids_take_the_place_of_what_came_to_nothing() {
    let wal = fresh(64 << 10, 512, (1, 4096), None);
    let log = wal.attach().expect("room");
    let mut room = log.room(2, 200).expect("there is room");
    room.draw().expect("1 and 2").void();
    let mut draw = room.draw().expect("3 and 4");
    draw.append(100, |out| record(9, out));
    drop(draw);
    assert!(room.draw().is_none(), "the room was used");
    drop(room);
    let mut room = log.room(1, 1).expect("there is room");
    for _ in 0..super::super::writer::VOIDS {
        drop(room.draw().expect("eight times"));
    }
    assert!(room.draw().is_none());
    let mut out = vec![0; 8192];
    let formed = next(&wal, &mut out).expect("twelve records");
    let (header, payload) = read(&formed, &out);
    assert_eq!(header.records, 12);
    let lens: Vec<u32> = {
        let mut at = 0;
        let mut lens = Vec::new();
        while at < payload.len() {
            let len = u32::from_le_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            lens.push(len);
            at += 8 + len as usize;
        }
        lens
    };
    assert_eq!(lens, [1, 1, 100, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn a_core_that_leaves_leaves_its_records() {
    let wal = fresh(64 << 10, 512, (1, 4096), None);
    let log = wal.attach().expect("room");
    append(&log, 0, 1);
    wal.detach(log);
    let log = wal.attach().expect("it is free again");
    append(&log, 0, 1);
    let mut out = vec![0; 8192];
    assert_eq!(next(&wal, &mut out).expect("two records").end, 3);
    assert_eq!(wal.lead().expect("nobody").leader().position().segment, start(512).segment);
}

#[test]
fn a_full_buffer_is_an_answer_until_a_batch_was_formed() {
    let wal = fresh(64 << 10, 512, (1, 4096), None);
    let log = wal.attach().expect("room");
    let mut appended = 0;
    while log.room(1, 100).is_ok() {
        append(&log, 0, 100);
        appended += 1;
    }
    assert!((25..40).contains(&appended), "{appended} records");
    assert_eq!(log.room(1, 100).err(), Some(NoRoom::Full));
    assert!((3000..4096).contains(&log.pending_bytes()));
    let mut out = vec![0; 8192];
    next(&wal, &mut out).expect("records");
    assert!(log.room(1, 100).is_ok());
    // Rooms that are alive count.
    let mut rooms = Vec::new();
    while let Ok(room) = log.room(1, 100) {
        rooms.push(room);
        assert!(rooms.len() < 100);
    }
    assert!(rooms.len() < 25);
    drop(rooms.pop());
    assert!(log.room(1, 100).is_ok());
}

/// The log is full of records: bundles are still named, so that a checkpoint can free it, and after
/// that it goes on. What was written reads back as one log.
#[test]
fn a_full_log_names_bundles_until_a_checkpoint_has_freed_it() {
    let format = format(8192, 512);
    let wal = fresh_with(format, 1, (1, 4096), None);
    let log = wal.attach().expect("room");
    let mut disk = vec![vec![0; 8192]; 13];
    disk[10][..64].copy_from_slice(&first_header(format));
    let mut out = vec![0; 8192];
    let mut write = |wal: &Wal| -> Result<Formed, NoBatch> {
        let mut lead = wal.lead().expect("nobody else leads");
        let formed = lead.next_batch(&mut out)?.expect("there is something to write");
        lead.written(true);
        let at = formed.offset as usize;
        disk[formed.segment as usize][at..at + formed.bytes].copy_from_slice(&out[..formed.bytes]);
        Ok(formed)
    };
    let mut segments = Vec::new();
    let full = loop {
        append(&log, 1, 900);
        match write(&wal) {
            Ok(formed) => segments.push(formed.segment),
            Err(error) => break error,
        }
    };
    assert_eq!(full, NoBatch::NoSegment);
    segments.dedup();
    assert_eq!(segments, [10, 11], "segment 12 is named");
    // Each bundle in a batch of its own: the reserve has 1024 bytes and more.
    for number in 0..2 {
        let entry = BundleEntry { number, trailer: 9, checksum: 8 };
        wal.lead().expect("nobody else leads").leader().add_bundle(1, entry);
        let formed = write(&wal).expect("room is kept for it");
        assert_eq!((formed.segment, formed.bundles), (11, 1));
        assert_eq!(write(&wal), Err(NoBatch::NoSegment), "and not for records");
    }
    // The checkpoint includes all that is in batches.
    let start = wal.lead().expect("nobody else leads").leader().position();
    recycle(&mut wal.lead().expect("nobody else leads").leader().segments, start.segment);
    let formed = write(&wal).expect("it goes on");
    assert_eq!((formed.segment, formed.bundles), (12, 0));
    let chain_start = super::super::tests::start(512);
    let mut replay = Replay::new(format, chain_start, None);
    let (mut bundles, mut records) = (0, 0);
    while let Some(segment) = replay.wants() {
        let bytes = disk.get(segment as usize).map_or(&[][..], Vec::as_slice);
        replay.segment(bytes);
        while let Some(batch) = replay.next_batch(bytes) {
            bundles += batch.bundles().count();
            records += batch.records().count();
        }
    }
    let end = replay.finish().expect("it is whole").position;
    assert_eq!((end.batch, end.first), (formed.batch + 1, formed.end));
    assert_eq!((bundles, records as u64 + 1), (2, formed.end));
}
