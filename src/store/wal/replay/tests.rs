//! Logs that were cut, flipped, shuffled or made up.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::batch::HEADER_BYTES;
use super::super::defect::WalDefect;
use super::super::group::Wal;
use super::super::record::Operation;
use super::super::segments::{LogFormat, LogPosition};
use super::super::tests::{first_header, format, fresh_with, name, recycle, start};
use super::{LogDamage, LogEnd, Replay};
use crate::store::pages::{SegmentHeader, SegmentUse};

const SEGMENT: u32 = 8192;
const BLOCK: u32 = 512;

fn log_format() -> LogFormat {
    format(SEGMENT, BLOCK)
}

type Segments = BTreeMap<u32, Vec<u8>>;

/// One write of the log, and the batch in it.
#[derive(Clone)]
struct Write {
    segment: u32,
    offset: usize,
    bytes: Vec<u8>,
    batch: u64,
    /// Where the batch begins in it, and where its payload ends.
    header: usize,
    end: usize,
    durable: u64,
    /// The position before it.
    before: LogPosition,
}

/// A log on a namespace, all of it written.
struct Written {
    segments: Segments,
    writes: Vec<Write>,
    start: LogPosition,
    end: LogPosition,
    /// What each record says.
    records: BTreeMap<u64, Vec<u8>>,
}

fn put(segments: &mut Segments, segment: u32, offset: usize, bytes: &[u8]) {
    let place = segments.entry(segment).or_insert_with(|| vec![0; SEGMENT as usize]);
    place[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Writes `count` batches of a few records each. Of three segments beside the current one each is
/// used again and again. A batch is flushed when the second one after it has been written.
fn write(seed: u64, count: u64) -> Written {
    let mut random = StdRng::seed_from_u64(seed);
    let wal = fresh_with(log_format(), 2, (1, 1 << 14), None);
    let log = wal.attach().expect("room");
    let mut written = Written {
        segments: Segments::new(),
        writes: Vec::new(),
        start: start(BLOCK),
        end: start(BLOCK),
        records: BTreeMap::new(),
    };
    put(&mut written.segments, 10, 0, &first_header(log_format()));
    let mut out = vec![0; 4096];
    for batch in 1..=count {
        for _ in 0..random.random_range(1..4) {
            let (key, value) = (random.random::<[u8; 8]>(), vec![7; random.random_range(0..400)]);
            let effect = super::super::record::Effect::None;
            let operation = Operation::Put { tree: 9, effect, expiry: None, key: &key, value: &value };
            let mut room = log.room(1, operation.encoded_len()).expect("there is room");
            let mut draw = room.draw().expect("the first");
            let mut bytes = vec![0; operation.encoded_len()];
            operation.encode(&mut bytes);
            draw.append(bytes.len(), |out| out.copy_from_slice(&bytes));
            written.records.insert(draw.number() - 1, bytes);
        }
        one_batch(&wal, &mut written, &mut out, batch);
    }
    written.end = wal.lead().expect("nobody else leads").leader().position();
    written
}

fn one_batch(wal: &Wal, written: &mut Written, out: &mut [u8], batch: u64) {
    let mut lead = wal.lead().expect("nobody else leads");
    let before = lead.leader().position();
    if batch >= 3 {
        lead.flushed();
    }
    let formed = lead.next_batch(out).expect("there are segments").expect("there are records");
    assert_eq!(formed.batch, batch);
    lead.start_flush();
    lead.written(false);
    put(&mut written.segments, formed.segment, formed.offset as usize, &out[..formed.bytes]);
    let opened = formed.offset == 0;
    let header = if opened { BLOCK as usize } else { 0 };
    if opened {
        // The log starts in the segment before this one.
        let full = written.writes.last().expect("it was not the first").segment;
        let first =
            written.writes.iter().rfind(|write| write.segment == full && write.offset <= BLOCK as usize);
        written.start = first.expect("it has a first batch").before;
        written.start.offset = BLOCK;
        written.start.segment = if written.start.segment.segment == full {
            written.start.segment
        } else {
            let place = written.segments[&full].as_slice();
            SegmentHeader::decode(place, &log_format().identity).expect("a header").name
        };
        recycle(&mut lead.leader().segments, written.start.segment);
    }
    let (decoded, _) = super::BatchHeader::decode(&out[header..]).expect("a header");
    written.writes.push(Write {
        segment: formed.segment,
        offset: formed.offset as usize,
        bytes: out[..formed.bytes].to_vec(),
        batch,
        header,
        end: header + HEADER_BYTES + decoded.payload_len as usize,
        durable: decoded.durable,
        before,
    });
}

impl Written {
    /// Replays `segments`, and checks that what comes is what was written, from the first batch on
    /// without a hole.
    fn replay(&self, segments: &Segments) -> Result<LogEnd, LogDamage> {
        let mut replay = Replay::new(log_format(), self.start, None);
        let (mut next, mut record_number) = (self.start.batch, self.start.first);
        let mut reads = 0;
        while let Some(segment) = replay.wants() {
            let empty = Vec::new();
            let bytes: &[u8] = segments.get(&segment).unwrap_or(&empty);
            replay.segment(bytes);
            while let Some(batch) = replay.next_batch(bytes) {
                assert_eq!(batch.header.batch, next);
                for (number, record) in batch.records() {
                    assert_eq!(number, record_number);
                    assert!(record.0 == self.records[&number], "record {number}");
                    record_number += 1;
                }
                next += 1;
            }
            reads += 1;
            assert!(reads < 20, "it reads for ever");
        }
        let end = replay.finish();
        let (Ok(LogEnd { position, .. }) | Err(LogDamage { position, .. })) = end;
        assert_eq!((position.batch, position.first), (next, record_number));
        end
    }

    /// The writes that the log from its start on consists of.
    fn live(&self) -> &[Write] {
        let first = self.writes.partition_point(|write| write.batch < self.start.batch);
        &self.writes[first..]
    }
}

#[test]
fn a_whole_log_reads_back() {
    for seed in 0..20 {
        let written = write(seed, 60);
        assert!(written.start.segment.generation >= 2, "segments were used again");
        let end = written.replay(&written.segments).expect("it is whole");
        assert_eq!(end.position, written.end);
        assert_eq!(end.chain.last().expect("a segment").0, end.position.segment);
        assert_eq!(end.chain[0].0, written.start.segment);
    }
}

#[test]
fn a_fresh_log_is_empty() {
    let mut written = write(0, 1);
    let header = written.segments[&10][..512].to_vec();
    written.segments.clear();
    put(&mut written.segments, 10, 0, &header);
    let end = written.replay(&written.segments).expect("nothing is damaged");
    assert_eq!((end.position, end.named), (start(BLOCK), name(11, 1)));
}

/// The power fails at each byte of what is written.
#[test]
fn every_prefix_ends_at_its_last_whole_batch() {
    let written = write(1, 60);
    // The namespace before the last writes: what is left of segments' earlier lives.
    for cut in written.writes.len() - 8..written.writes.len() {
        let mut segments = Segments::new();
        put(&mut segments, 10, 0, &written.segments[&10][..64]);
        for write in &written.writes[..cut] {
            put(&mut segments, write.segment, write.offset, &write.bytes);
        }
        let torn = &written.writes[cut];
        if torn.batch <= written.start.batch {
            continue;
        }
        for len in 0..=torn.bytes.len() {
            let mut segments = segments.clone();
            put(&mut segments, torn.segment, torn.offset, &torn.bytes[..len]);
            let end = written.replay(&segments).expect("a torn end is no damage");
            // Zeros that are missing may be there already.
            let whole = end.position.batch == torn.batch + 1;
            assert!(whole || end.position.batch == torn.batch, "byte {len}");
            assert!(!whole || len > torn.header, "byte {len}");
            assert!(whole || len < torn.end, "byte {len}");
        }
    }
}

/// One byte of the log is flipped, each in turn.
#[test]
fn a_flipped_byte_is_damage_if_it_was_flushed_and_a_torn_end_else() {
    let written = write(2, 60);
    let (mut refused, mut torn) = (0, 0);
    for write in written.live() {
        // A batch that knows of the flush of this one.
        let claimed =
            written.live().iter().any(|other| other.batch > write.batch && other.durable >= write.batch);
        for place in 0..write.bytes.len() {
            let mut segments = written.segments.clone();
            segments.get_mut(&write.segment).expect("it is written")[write.offset + place] ^= 0x20;
            let outcome = written.replay(&segments);
            let is_segment_header = place < write.header && place < SegmentHeader::BYTES;
            let is_batch = (write.header..write.end).contains(&place);
            if is_segment_header && write.batch == written.start.batch {
                let damage = outcome.expect_err("the log starts in this segment");
                assert_eq!((damage.position, damage.flushed), (written.start, 0));
            } else if !is_batch && !is_segment_header {
                assert_eq!(outcome.expect("padding").position, written.end);
            } else if claimed {
                let damage = outcome.expect_err("it was flushed");
                assert_eq!(damage.position.batch, write.batch);
                assert!(damage.flushed >= write.batch);
                refused += 1;
            } else {
                assert_eq!(outcome.expect("nobody knows of its flush").position.batch, write.batch);
                torn += 1;
            }
        }
    }
    assert!(refused > 1000 && torn > 500, "{refused} {torn}");
}

/// Writes land in places that are not theirs, or not at all.
#[test]
fn misdirected_and_lost_writes_bring_no_wrong_batch() {
    let mut refused = 0;
    for seed in 0..400 {
        let written = write(seed % 10, 60);
        let mut random = StdRng::seed_from_u64(seed);
        let live = written.live();
        let mut segments = written.segments.clone();
        let victim = &live[random.random_range(0..live.len())];
        let source = &written.writes[random.random_range(0..written.writes.len())];
        let blocks = victim.bytes.len() / BLOCK as usize;
        for block in 0..blocks {
            let at = block * BLOCK as usize;
            let bytes = match random.random_range(0..3) {
                // It stayed where it was, what another write says, or nothing.
                0 => continue,
                1 => source.bytes.get(at..at + BLOCK as usize).unwrap_or(&[0; BLOCK as usize]).to_vec(),
                _ => vec![0; BLOCK as usize],
            };
            put(&mut segments, victim.segment, victim.offset + at, &bytes);
        }
        refused += u32::from(written.replay(&segments).is_err());
    }
    assert!(refused > 50, "{refused} of 400");
}

/// A tail that a crash left stays behind the end; the log goes on before it in a new epoch.
#[test]
fn a_tail_of_an_earlier_epoch_does_not_come_back() {
    for defect in [None, Some(WalDefect::IgnoreChain)] {
        let written = write(3, 12);
        // The second batch is lost, those after it are there, nothing was flushed.
        let mut segments = written.segments.clone();
        let lost = &written.writes[1];
        assert_eq!(lost.offset + lost.bytes.len(), written.writes[2].offset, "the third follows it");
        // In its place comes another batch of the same length, of a new epoch.
        let mut bytes = lost.bytes.clone();
        let (header, _) = super::BatchHeader::decode(&bytes).expect("a header");
        let header = super::BatchHeader { epoch: 2, ..header };
        header.encode((&mut bytes[..HEADER_BYTES]).try_into().expect("as long"));
        put(&mut segments, lost.segment, lost.offset, &bytes);
        let mut replay = Replay::new(log_format(), start(BLOCK), defect);
        let mut batches = Vec::new();
        while let Some(segment) = replay.wants() {
            let bytes: &[u8] = segments.get(&segment).map_or(&[], Vec::as_slice);
            replay.segment(bytes);
            while let Some(batch) = replay.next_batch(bytes) {
                batches.push(batch.header.batch)
            }
        }
        assert_eq!(batches.len() > 2, defect.is_some(), "{batches:?} with {defect:?}");
    }
}

/// A torn tail left the header of a segment, which names a next one; the log came there again in a
/// new epoch, and of its write only the batch arrived.
#[test]
fn a_segment_header_of_an_earlier_epoch_leads_nowhere() {
    let written = write(5, 60);
    let opened = written.writes.iter().rfind(|write| write.header > 0).expect("segments were opened");
    let identity = log_format().identity;
    let header = SegmentHeader::decode(&opened.bytes, &identity).expect("a header");
    let mut segments = written.segments.clone();
    let SegmentUse::Log { next, epoch } = header.usage else { panic!("it is of the log") };
    let usage = SegmentUse::Log { next, epoch: epoch + 1 };
    put(&mut segments, opened.segment, 0, &SegmentHeader { usage, ..header }.encode(&identity));
    let outcome = written.replay(&segments);
    let (Ok(LogEnd { position, .. }) | Err(LogDamage { position, .. })) = outcome;
    assert_eq!(position.batch, opened.batch);
}

/// A batch whose header is whole, and says something else than its place asks for.
#[test]
fn a_batch_that_says_something_else_is_not_the_next() {
    let written = write(6, 60);
    let last = written.writes.last().expect("there are some");
    let (header, _) = super::BatchHeader::decode(&last.bytes[last.header..]).expect("a header");
    let others = [
        super::BatchHeader { identity: [0; 16], ..header },
        super::BatchHeader { batch: header.batch + 1, ..header },
        super::BatchHeader { segment: header.segment + 1, ..header },
        super::BatchHeader { offset: header.offset + BLOCK, ..header },
        super::BatchHeader { generation: header.generation + 1, ..header },
        super::BatchHeader { generation: header.generation - 1, ..header },
        super::BatchHeader { first: header.first + 1, ..header },
        super::BatchHeader { chain: header.chain + 1, ..header },
        super::BatchHeader { epoch: header.epoch - 1, ..header },
        super::BatchHeader { payload_len: u32::MAX, ..header },
    ];
    for other in others {
        let mut segments = written.segments.clone();
        let mut bytes = [0; HEADER_BYTES];
        other.encode(&mut bytes);
        put(&mut segments, last.segment, last.offset + last.header, &bytes);
        let end = written.replay(&segments).expect("nobody knows of its flush");
        assert_eq!(end.position.batch, last.batch, "{other:?}");
    }
}

/// Nothing that a namespace can hold makes replay panic or read for ever.
#[test]
fn noise_is_no_log() {
    let written = write(4, 60);
    let mut random = StdRng::seed_from_u64(4);
    for _ in 0..300 {
        let mut segments = written.segments.clone();
        for bytes in segments.values_mut() {
            for _ in 0..random.random_range(0..30) {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
            if random.random_ratio(1, 10) {
                bytes.truncate(random.random_range(0..bytes.len()));
            }
        }
        let _ = written.replay(&segments);
    }
}

/// Its checksums are right, and its last record ends with what is no operation: whatever wrote it
/// may have acknowledged it. Also as the last batch, behind which nothing says that it was flushed.
#[test]
fn a_batch_that_was_written_and_cannot_be_read_is_damage() {
    let written = write(7, 60);
    let opened = written.live().iter().rfind(|write| write.header > 0).expect("segments were opened");
    for bad in [written.writes.last().expect("there are some"), opened] {
        let mut segments = written.segments.clone();
        let mut bytes = bad.bytes.clone();
        let (header, _) = super::BatchHeader::decode(&bytes[bad.header..]).expect("a header");
        let record_at = bad.header + HEADER_BYTES + 8;
        // Kind 3, which no operation has.
        bytes[record_at] = 3;
        let sum = crate::store::codec::checksum(&bytes[bad.header + HEADER_BYTES..bad.end]);
        let header = super::BatchHeader { payload_checksum: sum, ..header };
        header.encode((&mut bytes[bad.header..bad.header + HEADER_BYTES]).try_into().expect("as long"));
        put(&mut segments, bad.segment, bad.offset, &bytes);
        let damage = written.replay(&segments).expect_err("it is no torn end");
        assert_eq!((damage.position.batch, damage.is_unreadable), (bad.batch, true));
    }
}
