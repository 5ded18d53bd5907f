//! Forming batches from the buffers of all cores, and what is durable.
//!
//! The leader is a state machine; its caller does the I/O:
//!
//! | call | may be made | then |
//! |---|---|---|
//! | [`Leader::next_batch`] | no batch is being written | write what it put into the buffer |
//! | [`Leader::written`] | that write is complete | |
//! | [`Leader::start_flush`] | something is written that no flush covers, and no flush is under way | flush |
//! | [`Leader::flushed`] | that flush is complete | numbers below its result are durable |
//! | [`Leader::fail`] | a write or a flush failed | nothing is written any more |
//!
//! Whoever forms a batch or starts a flush reports its end, or a failure if it goes away before:
//! until then no other begins.
//!
//! So two batches may be under way: one is written while the one before is flushed. A flush covers
//! what was written when it *started*. After a failure no flush proves anything: the device may
//! have dropped what it could not keep, and said so only once.
//!
//! **W1**: a bundle is named only in a batch whose last number is at least the newest number in
//! its pages. The leader names it once that number is in an earlier batch, in the order in which
//! bundles came. A *group* of bundles, which have to be durable together, is named in one batch.
//!
//! The records of a batch are in the order of their numbers. Each buffer's are already, so the next
//! number is at the front of some buffer; if it is at none although it is published, a record was
//! lost, and the log must not go on.

use std::collections::VecDeque;

use super::batch::{BUNDLE_BYTES, BatchHeader, BundleEntry, HEADER_BYTES, RECORD_HEAD_BYTES};
use super::buffer::{Consumer, Front, low};
use super::defect::WalDefect;
use super::order::Order;
use super::segments::{LogFormat, LogPosition, Segments};
use crate::store::codec::{checksum, to_u32};
use crate::store::pages::SegmentName;

/// A batch that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Formed {
    /// Where: the segment, and the offset in it.
    pub(in crate::store) segment: u32,
    pub(in crate::store) offset: u32,
    /// How many bytes from the front of the buffer; whole blocks.
    pub(in crate::store) bytes: usize,
    /// Those of them that are records.
    pub(in crate::store) records_bytes: usize,
    pub(in crate::store) batch: u64,
    /// The number after its last record.
    pub(in crate::store) end: u64,
    /// How many bundles it names: the oldest of those that were added and not named before.
    pub(in crate::store) bundles: u32,
}

/// A flush that is under way: it covers these batches, and the numbers below this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Point {
    pub(in crate::store) batch: u64,
    pub(in crate::store) end: u64,
}

/// Why there is no next batch, although there is something to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum NoBatch {
    /// The next segment cannot be opened: offer one ([`Segments::offer`]), or make a checkpoint,
    /// for which batches of bundles alone are still formed.
    NoSegment,
    /// This number was published and its record is nowhere. A defect of the store: no more writes.
    Lost(u64),
    /// A write or a flush has failed.
    Failed,
}

/// Bundles that are named together: so many fit what a full log keeps for them.
pub(in crate::store) const MAX_GROUP: usize = 128;
const _: () = assert!(HEADER_BYTES + MAX_GROUP * BUNDLE_BYTES <= 4096, "a batch of a group is one block");

/// Forms batches; one for a log, and one core at a time has it.
#[derive(Debug)]
pub(in crate::store) struct Leader {
    format: LogFormat,
    epoch: u64,
    consumers: Vec<Consumer>,
    fronts: Vec<Option<Front>>,
    /// The chain of segments.
    pub(in crate::store) segments: Segments,
    /// Groups, each with the newest number in its pages.
    bundles: VecDeque<(u64, Vec<BundleEntry>)>,
    /// The next batch, its chain and its first number.
    batch: u64,
    chain: u64,
    first: u64,
    writing: Option<Point>,
    written: Point,
    flushing: Option<Point>,
    durable: Point,
    failed: bool,
    defect: Option<WalDefect>,
}

impl Leader {
    /// A leader whose next batch is at `position`, before which everything is durable.
    pub(super) fn new(
        format: LogFormat,
        epoch: u64,
        position: LogPosition,
        segments: Segments,
        consumers: Vec<Consumer>,
        defect: Option<WalDefect>,
    ) -> Self {
        let LogPosition { batch, chain, first, .. } = position;
        let durable = Point { batch: batch - 1, end: first };
        Self {
            format,
            epoch,
            fronts: vec![None; consumers.len()],
            consumers,
            segments,
            bundles: VecDeque::new(),
            batch,
            chain,
            first,
            writing: None,
            written: durable,
            flushing: None,
            durable,
            failed: false,
            defect,
        }
    }

    /// Names a bundle in a batch, once the numbers up to `newest`, the newest in its pages, are in
    /// batches. It is durable when [`Leader::durable`] reaches that batch, and its pages were
    /// flushed before this call.
    pub(in crate::store) fn add_bundle(&mut self, newest: u64, entry: BundleEntry) {
        self.add_group(newest, vec![entry]);
    }

    /// The same for bundles that have to be durable together: one batch names all of them.
    ///
    /// # Panics
    ///
    /// If there is none, or there are more than [`MAX_GROUP`].
    pub(in crate::store) fn add_group(&mut self, newest: u64, entries: Vec<BundleEntry>) {
        assert!((1..=MAX_GROUP).contains(&entries.len()), "a batch has room for a group");
        self.bundles.push_back((newest, entries));
    }

    /// Where the next batch goes, for a checkpoint.
    pub(in crate::store) fn position(&self) -> LogPosition {
        let place = self.segments.place();
        LogPosition {
            segment: place.name,
            offset: place.offset,
            batch: self.batch,
            chain: self.chain,
            first: self.first,
        }
    }

    /// All batches up to this one, and numbers below this one, are durable.
    pub(in crate::store) fn durable(&self) -> Point {
        self.durable
    }

    /// Forms a batch at the front of `out`, which is longer than the longest record by
    /// [`HEADER_BYTES`] and two blocks at least, and limits the batch. `None` while a batch is
    /// being written, and if there is nothing to write.
    pub(in crate::store) fn next_batch(
        &mut self,
        order: &Order,
        out: &mut [u8],
    ) -> Result<Option<Formed>, NoBatch> {
        if self.failed {
            return Err(NoBatch::Failed);
        }
        if self.writing.is_some() {
            return Ok(None);
        }
        let cut = order.stable();
        for (front, consumer) in self.fronts.iter_mut().zip(&mut self.consumers) {
            consumer.refresh();
            *front = consumer.front();
        }
        if self.first >= cut && !self.is_bundle_due() {
            return Ok(None);
        }
        let block = self.format.block_bytes as usize;
        let place = self.segments.place();
        let blocks = |bytes: u32, out: &[u8]| out.len().min(bytes as usize) / block * block;
        let room = blocks(place.room_for_records, out);
        if let Some(formed) = self.fill(place.name, place.offset, cut, &mut out[..room])? {
            return Ok(Some(formed));
        }
        let Some((place, header)) = self.segments.open(self.epoch, self.batch) else {
            // The log is full: what is left of it is for bundles alone.
            let room = blocks(place.room, out);
            let formed = self.fill(place.name, place.offset, self.first, &mut out[..room])?;
            return formed.map(Some).ok_or(NoBatch::NoSegment);
        };
        let (head, batch) = out.split_at_mut(block);
        let room = blocks(place.room_for_records, batch);
        let formed = self.fill(place.name, place.offset, cut, &mut batch[..room])?;
        let formed = formed.expect("a record that was let in fits an empty segment");
        head.fill(0);
        let header = header.encode(&self.format.identity);
        head[..header.len()].copy_from_slice(&header);
        Ok(Some(Formed { offset: 0, bytes: formed.bytes + block, ..formed }))
    }

    fn is_bundle_due(&self) -> bool {
        self.bundles.front().is_some_and(|(newest, _)| *newest < self.first)
    }

    /// Forms a batch that fills `out` at most. `None` if nothing of what is there fits.
    fn fill(
        &mut self,
        name: SegmentName,
        offset: u32,
        cut: u64,
        out: &mut [u8],
    ) -> Result<Option<Formed>, NoBatch> {
        let Some((header, payload)) = out.split_first_chunk_mut::<HEADER_BYTES>() else { return Ok(None) };
        let (mut len, mut bundles) = (0, 0);
        while self.is_bundle_due() && len < payload.len() / 2 {
            let (_, group) = self.bundles.front().expect("one is due");
            let Some(places) = payload.get_mut(len..len + group.len() * BUNDLE_BYTES) else { break };
            for (place, entry) in places.chunks_exact_mut(BUNDLE_BYTES).zip(group) {
                place.copy_from_slice(&entry.encode());
            }
            len += places.len();
            bundles += to_u32(group.len());
            self.bundles.pop_front();
        }
        let gathered = self.gather(cut, &mut payload[len..])?;
        if bundles == 0 && gathered.records == 0 {
            return Ok(None);
        }
        len += gathered.bytes;
        let encoded = BatchHeader {
            payload_len: to_u32(len),
            identity: self.format.identity,
            epoch: self.epoch,
            batch: self.batch,
            segment: name.segment,
            offset,
            generation: name.generation,
            bundles,
            first: self.first,
            records: gathered.records,
            durable: self.durable.batch.min(self.batch - 1),
            chain: self.chain,
            payload_checksum: checksum(&payload[..len]),
        };
        self.chain = encoded.encode(header);
        let bytes = (HEADER_BYTES + len).next_multiple_of(self.format.block_bytes as usize);
        payload[len..bytes - HEADER_BYTES].fill(0);
        self.segments.advance(to_u32(bytes));
        self.first = encoded.end();
        let point = Point { batch: self.batch, end: self.first };
        self.batch += 1;
        self.writing = Some(point);
        if self.defect == Some(WalDefect::AckBeforeWrite) {
            self.durable = point;
        }
        let Point { batch, end } = point;
        let records_bytes = gathered.bytes;
        Ok(Some(Formed { segment: name.segment, offset, bytes, records_bytes, batch, end, bundles }))
    }

    /// Takes the records from `first` on, below `cut`, in their order, as many as fit `out`.
    fn gather(&mut self, cut: u64, out: &mut [u8]) -> Result<Gathered, NoBatch> {
        let mut gathered = Gathered { records: 0, bytes: 0 };
        let mut core = 0;
        for number in self.first..cut {
            let wanted = low(number);
            let is_it = |front: &Option<Front>| front.is_some_and(|front| front.number == wanted);
            if !is_it(&self.fronts[core]) {
                match self.fronts.iter().position(is_it) {
                    Some(found) => core = found,
                    None if self.defect == Some(WalDefect::CutTooLate) => {
                        if !self.pretend(number, &mut gathered, out) {
                            break;
                        }
                        continue;
                    }
                    None => {
                        self.failed = true;
                        return Err(NoBatch::Lost(number));
                    }
                }
            }
            let front = self.fronts[core].expect("it was compared");
            let len = RECORD_HEAD_BYTES + front.len as usize;
            let Some(place) = out[gathered.bytes..].get_mut(..len) else { break };
            self.consumers[core].take(front, place);
            // In the batch a number counts from the batch's first.
            place[4..RECORD_HEAD_BYTES].copy_from_slice(&gathered.records.to_le_bytes());
            self.fronts[core] = self.consumers[core].front();
            gathered.records += 1;
            gathered.bytes += len;
        }
        self.consumers.iter_mut().for_each(Consumer::release);
        Ok(gathered)
    }

    /// What a leader does that believes a number to be published which is not: it counts it, and
    /// the record, when it comes, is older than the batch and left out.
    #[cold]
    fn pretend(&mut self, number: u64, gathered: &mut Gathered, out: &mut [u8]) -> bool {
        for (front, consumer) in self.fronts.iter_mut().zip(&mut self.consumers) {
            while let Some(old) = front.filter(|front| low(number).wrapping_sub(front.number) < 1 << 31) {
                consumer.take(old, &mut vec![0; RECORD_HEAD_BYTES + old.len as usize]);
                *front = consumer.front();
            }
        }
        let Some(place) = out[gathered.bytes..].get_mut(..=RECORD_HEAD_BYTES) else { return false };
        place[..4].copy_from_slice(&1_u32.to_le_bytes());
        place[4..RECORD_HEAD_BYTES].copy_from_slice(&gathered.records.to_le_bytes());
        place[RECORD_HEAD_BYTES] = 0;
        gathered.records += 1;
        gathered.bytes += RECORD_HEAD_BYTES + 1;
        true
    }

    /// The batch that was formed last is written. `is_durable`: by a write that is durable itself,
    /// or to a namespace without a volatile cache. It counts as durable if the batch before does;
    /// else a flush covers both.
    pub(in crate::store) fn written(&mut self, is_durable: bool) {
        if let Some(point) = self.writing.take() {
            self.written = point;
            let is_next = self.durable.batch + 1 == point.batch;
            if !self.failed && (is_durable && is_next || self.defect == Some(WalDefect::SkipFlush)) {
                self.durable = point;
            }
        }
    }

    /// Starts a flush of what is written, if there is something that none has covered, and none is
    /// under way.
    pub(in crate::store) fn start_flush(&mut self) -> Option<Point> {
        if self.failed || self.flushing.is_some() || self.durable.batch >= self.written.batch {
            return None;
        }
        self.flushing = Some(self.written);
        self.flushing
    }

    /// The flush is complete. Returns what is durable now.
    pub(in crate::store) fn flushed(&mut self) -> Point {
        if let Some(point) = self.flushing.take().filter(|_| !self.failed)
            && point.batch > self.durable.batch
        {
            self.durable = point;
        }
        self.durable
    }

    /// A write or a flush failed. What was not durable has an unknown outcome.
    pub(in crate::store) fn fail(&mut self) {
        self.failed = true;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gathered {
    records: u32,
    /// Of these records.
    bytes: usize,
}

#[cfg(all(test, not(loom)))]
mod tests;
