//! The streams of bundles: which segment each of them fills, and building a bundle there.
//!
//! Each stream has one segment open. A bundle goes behind the one before; when what is left of the
//! segment is too little for the largest page, the segment is sealed and another one opened. The
//! header of a segment is written in one piece with its first bundle.

use crate::mem::DmaBuf;
use crate::store::pages::{
    Builder, Full, GRANULE_BYTES, MAX_BUNDLE_ENTRIES, MAX_BUNDLE_PAGES_BYTES, Owner, Sealed, SegmentHeader,
    SegmentName, SegmentUse, Segments, Temperature, trailer_bytes,
};
use crate::store::word::MAX_PAGE_BYTES;

/// The segment that a stream fills.
#[derive(Clone, Copy, Debug)]
struct Filling {
    segment: SegmentName,
    /// The granule at which the next bundle starts.
    next: u32,
}

/// What a bundle has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BundleRoom {
    /// Bytes of pages with their headers.
    pub(super) bytes: usize,
    pub(super) entries: usize,
}

/// What a bundle has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BundleLoad {
    /// Bytes of pages with their headers, in whole granules.
    pub(super) pages_bytes: usize,
    /// Pages that its trailer lists.
    pub(super) entries: usize,
    /// Ids that it frees.
    pub(super) freed: usize,
}

impl BundleLoad {
    /// What it takes, in whole blocks.
    fn stored_bytes(&self, block: usize) -> usize {
        (self.pages_bytes + trailer_bytes(self.entries, self.freed)).next_multiple_of(block)
    }
}

/// A bundle that is to be written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) sealed: Sealed,
    /// Where on the namespace, in bytes, and what.
    pub(super) offset: u64,
    pub(super) buf: DmaBuf,
}

/// No segment is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoSegment;

/// The streams of a store.
#[derive(Debug)]
pub(super) struct Streams {
    owner: Owner,
    filling: [Option<Filling>; Temperature::ALL.len()],
    /// The largest page that is usual, its header included, in granules: a segment is full that has
    /// no room for it. [`Streams::room_for`] has room for any.
    largest_page: u32,
}

impl Streams {
    pub(super) fn new(owner: Owner, largest_page: u32) -> Self {
        Self { owner, filling: [None; Temperature::ALL.len()], largest_page }
    }

    /// The namespace has grown.
    pub(super) fn grow(&mut self, owner: Owner) {
        self.owner = owner;
    }

    /// Whether the segment that `stream` fills has room for a bundle.
    pub(super) fn has_room(&self, stream: Temperature) -> bool {
        self.filling[stream as usize].is_some_and(|filling| self.room_of(filling).is_some())
    }

    /// The room of the next bundle of `stream`, at least the largest page.
    ///
    /// # Errors
    ///
    /// A segment is needed, and none is free.
    pub(super) fn room(
        &mut self,
        segments: &mut Segments,
        stream: Temperature,
    ) -> Result<BundleRoom, NoSegment> {
        if let Some(room) = self.filling[stream as usize].and_then(|filling| self.room_of(filling)) {
            return Ok(room);
        }
        if let Some(full) = self.filling[stream as usize].take() {
            segments.seal(full.segment.segment);
        }
        let segment = segments.open(stream).ok_or(NoSegment)?;
        let filling = Filling { segment, next: self.owner.geometry.block_granules() };
        self.filling[stream as usize] = Some(filling);
        Ok(self.room_of(filling).expect("an empty segment has room for the largest page"))
    }

    /// The same, with room for a page of `page_bytes`. A leaf that found no memory to be split may
    /// be longer than what is usual: up to 20 KiB, and what its area has.
    ///
    /// # Errors
    ///
    /// As [`Streams::room`].
    pub(super) fn room_for(
        &mut self,
        segments: &mut Segments,
        stream: Temperature,
        page_bytes: usize,
    ) -> Result<BundleRoom, NoSegment> {
        let room = self.room(segments, stream)?;
        if room.bytes >= page_bytes {
            return Ok(room);
        }
        if let Some(short) = self.filling[stream as usize].take() {
            segments.seal(short.segment.segment);
        }
        self.room(segments, stream)
    }

    /// None if the largest page does not fit.
    fn room_of(&self, filling: Filling) -> Option<BundleRoom> {
        let geometry = self.owner.geometry;
        let granules = geometry.segment_granules() - filling.next;
        let left = granules as usize * GRANULE_BYTES;
        // A page is rarely shorter than half a block; one more entry than that is a bundle more.
        let entries = (left / 512).clamp(8, MAX_BUNDLE_ENTRIES);
        let trailer = trailer_bytes(entries, 0);
        let padding = geometry.block as usize;
        let bytes = left.saturating_sub(trailer.next_multiple_of(GRANULE_BYTES) + padding);
        let bytes = bytes.min(MAX_BUNDLE_PAGES_BYTES);
        let largest = (self.largest_page as usize * GRANULE_BYTES).min(MAX_PAGE_BYTES);
        (bytes >= largest).then_some(BundleRoom { bytes, entries })
    }

    /// Builds the bundle `number` of `stream`, in the segment that [`Streams::room`] looked at
    /// last. `fill` adds what `load` says, no more than that room. The bundle is under way from
    /// then on ([`Segments::appended`]).
    pub(super) fn build<R>(
        &mut self,
        segments: &mut Segments,
        (stream, number): (Temperature, u64),
        load: &BundleLoad,
        fill: impl FnOnce(&mut Builder, &mut [u8]) -> Result<R, Full>,
    ) -> (Written, R) {
        let geometry = self.owner.geometry;
        let filling = self.filling[stream as usize].as_mut().expect("its room was looked at");
        let block = geometry.block as usize;
        let is_first = filling.next == geometry.block_granules();
        let head = if is_first { block } else { 0 };
        let mut buf = DmaBuf::zeroed(head + load.stored_bytes(block));
        let mut builder = Builder::new(self.owner, number, filling.segment, filling.next);
        let filled =
            fill(&mut builder, &mut buf[head..]).expect("a bundle has the room that it was said to have");
        let sealed = builder.seal(&mut buf[head..]);
        let (offset, len) = sealed.write();
        assert_eq!(head + len, buf.len(), "a bundle is as long as what it has");
        if is_first {
            let usage = SegmentUse::Pages(stream);
            let header = SegmentHeader { name: filling.segment, usage, first: number };
            buf[..SegmentHeader::BYTES].copy_from_slice(&header.encode(&self.owner.identity));
        }
        filling.next += u32::try_from(len / GRANULE_BYTES).expect("below a segment");
        segments.appended(filling.segment.segment);
        (Written { sealed, offset: offset - head as u64, buf }, filled)
    }
}
