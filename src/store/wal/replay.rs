//! Reading the log again: the batches from a position on, up to the torn end.
//!
//! Replay asks for whole segments ([`Replay::wants`]), one after the other, and its caller reads
//! them. A batch counts if both its checksums, identity, segment, generation, offset, number, first
//! record and chain are what they must be there, and its epoch is not below that of the batch
//! before.
//!
//! The next batch is where the last one ends, or, if it did not fit there, the first of the segment
//! that the header names.
//!
//! # Torn tails and damage
//!
//! At the first place without a batch, number *s*, the log ends: it is torn there, or was never
//! written further. But if any batch header behind it, in this segment or in the next ones, says
//! that batches up to *s* or a later one were flushed, then the batch *s* was durable and is
//! damaged, and replay refuses to call this the end. So replay looks through the rest of the
//! segment, and through the segments that follow as long as their headers are whole.
//!
//! A batch with both its checksums right that cannot be read was written like that, by a defect,
//! and may have been acknowledged: it is damage as well, and no torn end.
//!
//! A damaged batch behind which nothing was ever written cannot be told from a torn one.

use super::batch::{Batch, BatchHeader, HEADER_BYTES, NoPayload};
use super::buffer::low;
use super::defect::WalDefect;
use super::segments::{LogFormat, LogPosition};
use crate::store::pages::{SegmentHeader, SegmentName, SegmentUse};

/// The whole end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct LogEnd {
    /// Where the next batch goes, if it fits the segment.
    pub(in crate::store) position: LogPosition,
    /// The segment after that.
    pub(in crate::store) named: SegmentName,
    /// The segments that batches were read from, with the number of the first of each.
    pub(in crate::store) chain: Vec<(SegmentName, u64)>,
}

/// A log that is not what was flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct LogDamage {
    /// Replay comes up to here: the last number that is known is `position.first - 1`.
    pub(in crate::store) position: LogPosition,
    /// Batches up to this one were flushed. Zero: the header of the segment where the log starts is
    /// damaged, which was flushed before a superblock named it.
    pub(in crate::store) flushed: u64,
    /// The next batch is what was written, with its checksums, and has records that are none.
    pub(in crate::store) is_unreadable: bool,
}

/// What the header of a segment of the log says.
#[derive(Clone, Copy, Debug)]
struct LogHeader {
    name: SegmentName,
    next: SegmentName,
    epoch: u32,
    /// The number of its first batch.
    first: u64,
}

impl LogHeader {
    fn decode(bytes: &[u8], format: &LogFormat) -> Option<Self> {
        let SegmentHeader { name, usage, first } = SegmentHeader::decode(bytes, &format.identity).ok()?;
        match usage {
            SegmentUse::Log { next, epoch } => Some(Self { name, next, epoch, first }),
            SegmentUse::Pages(_) => None,
        }
    }
}

/// Replay of one log.
#[derive(Debug)]
pub(in crate::store) struct Replay {
    format: LogFormat,
    /// Where the next batch is.
    at: LogPosition,
    epoch: u64,
    /// The segment that the header of `at.segment` names.
    named: Option<SegmentName>,
    chain: Vec<(SegmentName, u64)>,
    /// The segment to read next.
    wants: Option<SegmentName>,
    /// The segment whose batches are being given out.
    entered: Option<SegmentName>,
    /// The log ended in a segment before; what is read now is looked through for later batches.
    is_over: bool,
    /// The newest batch that a header behind the end says to be flushed.
    flushed: u64,
    /// Segments that were looked through, so that headers that name each other end.
    looked: Vec<SegmentName>,
    damaged: bool,
    is_unreadable: bool,
    defect: Option<WalDefect>,
}

impl Replay {
    /// Replay from `start`, which a durable superblock states.
    pub(in crate::store) fn new(format: LogFormat, start: LogPosition, defect: Option<WalDefect>) -> Self {
        Self {
            format,
            at: start,
            epoch: 0,
            named: None,
            chain: Vec::new(),
            wants: Some(start.segment),
            entered: None,
            is_over: false,
            flushed: 0,
            looked: Vec::new(),
            damaged: false,
            is_unreadable: false,
            defect,
        }
    }

    /// The segment to read next, as a whole; its number. `None`: [`Replay::finish`].
    pub(in crate::store) fn wants(&self) -> Option<u32> {
        self.wants.map(|name| name.segment)
    }

    /// The segment that was wanted has these bytes: [`Replay::next_batch`] gives its batches. One
    /// that is shorter than the format says, or does not exist, has none.
    pub(in crate::store) fn segment(&mut self, bytes: &[u8]) {
        let Some(name) = self.wants.take() else { return };
        let header = LogHeader::decode(bytes, &self.format).filter(|header| header.name == name);
        if self.chain.is_empty() {
            // The header of the segment where the log starts is durable.
            let Some(header) = header else {
                self.damaged = true;
                return;
            };
            self.enter(header);
        } else if let Some(header) = header.filter(|header| !self.is_over && self.continues(header, bytes)) {
            let (segment, offset) = (name, self.format.block_bytes);
            self.at = LogPosition { segment, offset, ..self.at };
            self.flushed = 0;
            self.looked.clear();
            self.enter(header);
        } else {
            self.is_over = true;
            self.look(bytes, self.format.block_bytes);
            self.looked.push(name);
            self.wants = header.map(|header| header.next).filter(|next| !self.is_known(*next));
        }
    }

    /// The end of the log, once no segment is wanted.
    pub(in crate::store) fn finish(self) -> Result<LogEnd, LogDamage> {
        let position = self.at;
        match self.named {
            Some(named) if !self.damaged && !self.is_unreadable && self.flushed < position.batch => {
                Ok(LogEnd { position, named, chain: self.chain })
            }
            _ => {
                let Self { flushed, is_unreadable, .. } = self;
                Err(LogDamage { position, flushed, is_unreadable })
            }
        }
    }

    /// The batches of this segment come next, from `at` on.
    fn enter(&mut self, header: LogHeader) {
        self.chain.push((header.name, header.first));
        self.named = Some(header.next);
        self.entered = Some(header.name);
    }

    /// The next batch of the segment that was given last, whose bytes these are. None at its end:
    /// then the next one is wanted.
    pub(in crate::store) fn next_batch<'b>(&mut self, bytes: &'b [u8]) -> Option<Batch<'b>> {
        let entered = self.entered?;
        match self.batch(bytes) {
            Ok((batch, chain)) => {
                let header = batch.header;
                let stored = header.stored_bytes(self.format.block_bytes);
                self.epoch = header.epoch;
                self.at = LogPosition {
                    segment: self.at.segment,
                    offset: self.at.offset + u32::try_from(stored).expect("it lies in the segment"),
                    batch: header.batch + 1,
                    chain,
                    first: header.end(),
                };
                Some(batch)
            }
            Err(why) => {
                self.is_unreadable |= why == NoPayload::Unreadable;
                self.entered = None;
                self.look(bytes, self.at.offset);
                self.looked.push(entered);
                self.wants = self.named.filter(|next| !self.is_known(*next));
                None
            }
        }
    }

    fn is_known(&self, name: SegmentName) -> bool {
        self.looked.contains(&name) || self.chain.iter().any(|(known, _)| *known == name)
    }

    /// Whether the segment with this header begins with the batch that comes next.
    fn continues(&self, header: &LogHeader, bytes: &[u8]) -> bool {
        let at = LogPosition { segment: header.name, offset: self.format.block_bytes, ..self.at };
        let first = Self { at, wants: None, chain: Vec::new(), looked: Vec::new(), ..*self };
        let epoch = match first.batch(bytes) {
            Ok((batch, _)) => batch.header.epoch,
            // The segment is entered, and replay ends there with damage.
            Err(NoPayload::Unreadable) => return header.first == self.at.batch,
            Err(NoPayload::Torn) => return false,
        };
        header.first == self.at.batch && header.epoch == low(epoch)
    }

    /// The batch at `at` and its header's checksum, if all of it is right.
    fn batch<'b>(&self, bytes: &'b [u8]) -> Result<(Batch<'b>, u64), NoPayload> {
        let at = self.at.offset as usize;
        let segment = bytes.get(..self.format.segment_bytes as usize).ok_or(NoPayload::Torn)?;
        let rest = segment.get(at..).ok_or(NoPayload::Torn)?;
        let (header, sum) = BatchHeader::decode(rest).ok_or(NoPayload::Torn)?;
        let is_next = header.batch == self.at.batch
            && header.chain == self.at.chain
            && header.first == self.at.first
            && header.epoch >= self.epoch;
        let is_here = header.identity == self.format.identity
            && header.segment == self.at.segment.segment
            && header.generation == self.at.segment.generation
            && header.offset as usize == at;
        if !is_here || !(is_next || self.defect == Some(WalDefect::IgnoreChain)) {
            return Err(NoPayload::Torn);
        }
        let payload = at + HEADER_BYTES..at + HEADER_BYTES + header.payload_len as usize;
        let payload = segment.get(payload).ok_or(NoPayload::Torn)?;
        Ok((Batch::check(header, payload)?, sum))
    }

    /// Notes what batch headers from `offset` on say to be flushed.
    fn look(&mut self, bytes: &[u8], offset: u32) {
        let blocks = bytes.chunks(self.format.block_bytes as usize);
        for block in blocks.skip((offset / self.format.block_bytes) as usize) {
            let header = BatchHeader::decode(block).filter(|(h, _)| h.identity == self.format.identity);
            if let Some((header, _)) = header {
                self.flushed = self.flushed.max(header.durable);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
