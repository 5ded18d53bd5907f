//! The chain of log segments (disk format, section 10): where the next batch goes.
//!
//! The header of each segment names the next one, so that recovery needs no other index. So the
//! next segment has to be there before a segment is opened. A batch does not cross the end of its
//! segment. All segments belong to the page store's table, which gives them out and takes them
//! back; here they are only
//!
//! | a segment is | until |
//! |---|---|
//! | spare: offered, one or two of them | it is named by the header of the one that is opened |
//! | named | the current one has no room for a batch |
//! | current | the named one is opened |
//! | full | a checkpoint begins that starts behind it: handed back ([`Segments::free_before`]) |
//!
//! # A full log
//!
//! Without a spare segment the named one cannot be opened, and the log is full when the current one
//! is. Only a checkpoint makes room, and before that, bundles have to be named in the log. So while
//! there is no spare segment, records leave the last eighth of the current one free (a block at
//! least), for batches of bundles alone. A checkpoint that names its bundles in as few batches as
//! they fit takes a block for some 80 of them.
//!
//! What this does not cover: a bundle whose pages have records that are in no batch yet (W1) waits
//! for them, so also for room. Whoever makes bundles while the log is full takes pages without such
//! records; and lets writers wait before the log is full, while what the buffers hold still fits.
//!
//! A header is written in one piece with the first batch of its segment, except for that of a fresh
//! store's first segment, which formatting writes and flushes before the superblock names it. So
//! the header of the segment where the log starts is always durable.

use std::collections::VecDeque;

use crate::store::pages::{SegmentHeader, SegmentName, SegmentUse};

/// Whose log it is, and the sizes that were fixed at format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct LogFormat {
    pub(in crate::store) identity: [u8; 16],
    pub(in crate::store) segment_bytes: u32,
    /// Batches begin at multiples of this.
    pub(in crate::store) block_bytes: u32,
}

impl LogFormat {
    /// What records leave free in the last segment.
    fn reserve_bytes(&self) -> u32 {
        (self.segment_bytes / 8).next_multiple_of(self.block_bytes)
    }
}

/// A point between two batches: what a superblock says of the log's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct LogPosition {
    pub(in crate::store) segment: SegmentName,
    /// In the segment, in bytes.
    pub(in crate::store) offset: u32,
    /// The number of the next batch.
    pub(in crate::store) batch: u64,
    /// The header checksum of the batch before it.
    pub(in crate::store) chain: u64,
    /// The number of the next record.
    pub(in crate::store) first: u64,
}

/// A place for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: SegmentName,
    pub(super) offset: u32,
    /// What is left of the segment from `offset` on, and of that for a batch with records.
    pub(super) room: u32,
    pub(super) room_for_records: u32,
}

/// The chain, from the segment where the log starts to the one that is named next.
#[derive(Debug)]
pub(in crate::store) struct Segments {
    format: LogFormat,
    /// Full segments and the current one, each with the number of its first batch.
    chain: VecDeque<(SegmentName, u64)>,
    /// How many were handed back.
    freed: u64,
    offset: u32,
    named: SegmentName,
    spare: VecDeque<SegmentName>,
}

impl Segments {
    /// The chain `chain`, the last of which is the current segment, in which the next batch goes to
    /// `offset`; its header names `named`.
    pub(in crate::store) fn new(
        format: LogFormat,
        chain: VecDeque<(SegmentName, u64)>,
        offset: u32,
        named: SegmentName,
    ) -> Self {
        assert!(!chain.is_empty(), "a log has a segment at least");
        Self { format, chain, freed: 0, offset, named, spare: VecDeque::new() }
    }

    /// A segment that may become part of the log, as [`Segments::wants_spare`] asks for: the table
    /// of segments opened it for the log.
    pub(in crate::store) fn offer(&mut self, name: SegmentName) {
        self.spare.push_back(name);
    }

    /// Whether there is no spare segment, so that the named one cannot be opened.
    pub(in crate::store) fn wants_spare(&self) -> bool {
        self.spare.is_empty()
    }

    /// What the log takes, in segments, without spare ones.
    #[cfg(test)]
    pub(in crate::store) fn used(&self) -> usize {
        self.chain.len() + 1
    }

    /// Where the log ends, behind the last batch, in bytes since the log was opened: the chain that
    /// it had then begins at 0.
    pub(in crate::store) fn end(&self) -> u64 {
        self.bytes(self.chain.len() - 1) + u64::from(self.offset)
    }

    /// The same of an offset in a segment of the chain.
    pub(in crate::store) fn position(&self, name: SegmentName, offset: u32) -> Option<u64> {
        let at = self.chain.iter().position(|&(other, _)| other == name)?;
        Some(self.bytes(at) + u64::from(offset))
    }

    /// Where a segment of the chain begins.
    fn bytes(&self, at: usize) -> u64 {
        (self.freed + at as u64) * u64::from(self.format.segment_bytes)
    }

    /// Takes a spare segment out of the log. The table of segments is told that the log has ended
    /// there.
    pub(in crate::store) fn withdraw(&mut self) -> Option<SegmentName> {
        self.spare.pop_back()
    }

    /// A checkpoint begins in whose superblock the log starts at `start`: the segments before it,
    /// oldest first, which are no longer part of the chain. The table of segments is told of each
    /// that the log has ended there, before that checkpoint is frozen, and frees it when the
    /// checkpoint is durable. A `start` that is not in the chain frees nothing.
    #[must_use]
    pub(in crate::store) fn free_before(&mut self, start: SegmentName) -> Vec<SegmentName> {
        let needed = self.chain.iter().position(|&(name, _)| name == start).unwrap_or(0);
        self.freed += needed as u64;
        self.chain.drain(..needed).map(|(name, _)| name).collect()
    }

    /// Where the next batch goes as long as it fits.
    pub(super) fn place(&self) -> Place {
        let (name, _) = *self.chain.back().expect("there is a current segment");
        let room = self.format.segment_bytes - self.offset;
        let reserve = if self.spare.is_empty() { self.format.reserve_bytes() } else { 0 };
        Place { name, offset: self.offset, room, room_for_records: room.saturating_sub(reserve) }
    }

    /// Opens the named segment for the batch `first_batch`. Returns where that goes and the header
    /// that is to be written before it. `None`: there is no spare segment that the header could
    /// name.
    pub(super) fn open(&mut self, epoch: u64, first_batch: u64) -> Option<(Place, SegmentHeader)> {
        let next = self.spare.pop_front()?;
        let name = std::mem::replace(&mut self.named, next);
        self.chain.push_back((name, first_batch));
        self.offset = self.format.block_bytes;
        let usage = SegmentUse::Log { next, epoch: super::buffer::low(epoch) };
        Some((self.place(), SegmentHeader { name, usage, first: first_batch }))
    }

    /// A batch of `bytes` bytes, a multiple of the block, was put to [`Segments::place`].
    pub(super) fn advance(&mut self, bytes: u32) {
        self.offset += bytes;
        assert!(self.offset <= self.format.segment_bytes, "a batch does not cross a segment's end");
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
