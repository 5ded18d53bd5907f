//! The streams of bundles: which segment each of them fills, and building a bundle there.
//!
//! Each stream has one segment open. A bundle goes behind the one before; when what is left of the
//! segment is too little for the largest page, the segment is sealed and another one opened. The
//! header of a segment is written in one piece with its first bundle.
//!
//! A group of bundles may go on in other segments. They are opened before any of its bundles is
//! built ([`Streams::reserve`]): a page that was told its place is written there.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::mem::DmaBuf;
use crate::store::btree::MAX_NODE_BYTES;
use crate::store::pages::{
    Builder, Full, GRANULE_BYTES, MAX_BUNDLE_ENTRIES, MAX_BUNDLE_PAGES_BYTES, Owner, Sealed, SegmentHeader,
    SegmentName, SegmentUse, Segments, Temperature, trailer_bytes,
};
use crate::store::wal::MAX_GROUP;
use crate::store::word::MAX_PAGE_BYTES;

/// A page of the tree is a node in memory before: that is what it may take with its header.
const LONGEST_PAGE_BYTES: usize = MAX_NODE_BYTES + GRANULE_BYTES;

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

/// Why there is no place for a group of bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    NoSegment,
    /// It would be more bundles than may be.
    TooMany,
}

/// No segment is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoSegment;

/// The streams of a store.
#[derive(Debug)]
pub(super) struct Streams {
    owner: Owner,
    filling: [Option<Filling>; Temperature::ALL.len()],
    /// Segments that are open for the bundles of a group, in the order of their use. None but
    /// between [`Streams::reserve`] and the last of these bundles.
    reserved: [VecDeque<SegmentName>; Temperature::ALL.len()],
    /// The largest page, its header included, in granules.
    largest_page: u32,
}

impl Streams {
    pub(super) fn new(owner: Owner, largest_page: u32) -> Self {
        Self { owner, filling: [None; Temperature::ALL.len()], reserved: Default::default(), largest_page }
    }

    /// The namespace has grown.
    pub(super) fn grow(&mut self, owner: Owner) {
        self.owner = owner;
    }

    /// Whether the segment that `stream` fills has room for a bundle.
    pub(super) fn has_room(&self, stream: Temperature) -> bool {
        self.filling[stream as usize].is_some_and(|filling| self.room_of(filling).is_some())
    }

    /// What bundles still find room for in the segment that `stream` fills, about.
    pub(super) fn left_bytes(&self, stream: Temperature) -> usize {
        let segment = self.owner.geometry.segment_granules();
        let filling = self.filling[stream as usize].filter(|filling| self.room_of(*filling).is_some());
        let granules = filling.map_or(0, |filling| (segment - filling.next) as usize);
        (granules * GRANULE_BYTES / 8 * 7).saturating_sub(self.largest_page_bytes())
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
        let reserved = self.reserved[stream as usize].pop_front();
        let segment = reserved.or_else(|| segments.open(stream)).ok_or(NoSegment)?;
        let filling = self.empty(segment);
        self.filling[stream as usize] = Some(filling);
        Ok(self.room_of(filling).expect("an empty segment has room for the largest page"))
    }

    fn empty(&self, segment: SegmentName) -> Filling {
        Filling { segment, next: self.owner.geometry.block_granules() }
    }

    /// What a group of bundles has room for, however pages and segments divide it: of two bundles
    /// one may be the end of a segment, and the other ends where the largest page did not fit, or
    /// where it has as many entries as it may.
    pub(super) fn group_room(&self) -> BundleRoom {
        let empty = self.empty(SegmentName { segment: self.owner.geometry.first_segment(), generation: 0 });
        let room = self.room_of(empty).expect("an empty segment has room for the largest page");
        let filled = room.bytes - self.largest_page_bytes();
        BundleRoom { bytes: filled * (MAX_GROUP * 3 / 8 - 1), entries: room.entries * (MAX_GROUP / 8 - 1) }
    }

    /// So many bytes of pages fit a group, with some that they need beside them.
    pub(super) fn growth_bytes(&self) -> u64 {
        self.group_room().bytes as u64 / 4 * 3
    }

    /// What a page counts at least if it is not the bytes that a group has no room for, but its
    /// entries.
    pub(super) fn least_page_bytes(&self) -> usize {
        let BundleRoom { bytes, entries } = self.group_room();
        bytes / entries
    }

    /// Divides pages of these lengths, and freed ids, into bundles that fit, `most` at most, and
    /// opens the segments that they need. They are to be built next, with [`Streams::room`] before
    /// each. The pages are in the order in which the bundles have them.
    ///
    /// # Errors
    ///
    /// There are not enough segments, or bundles. Nothing was changed but that segments that were
    /// opened for it are free only after a checkpoint.
    pub(super) fn reserve(
        &mut self,
        segments: &mut Segments,
        stream: Temperature,
        (pages, freed): (&[usize], usize),
        most: usize,
    ) -> Result<Vec<BundleLoad>, NoPlace> {
        let divided = self.divide(segments, stream, (pages, freed), most);
        if divided.is_err() {
            for segment in self.reserved[stream as usize].drain(..) {
                segments.seal(segment.segment);
            }
        }
        divided
    }

    fn divide(
        &mut self,
        segments: &mut Segments,
        stream: Temperature,
        (mut pages, mut freed): (&[usize], usize),
        most: usize,
    ) -> Result<Vec<BundleLoad>, NoPlace> {
        let block = self.owner.geometry.block as usize;
        let mut filling = self.filling[stream as usize];
        let mut loads = Vec::new();
        while !pages.is_empty() || freed > 0 {
            if loads.len() == most {
                return Err(NoPlace::TooMany);
            }
            let left = filling.and_then(|filling| Some((filling, self.room_of(filling)?)));
            let (mut place, room) = match left {
                Some(left) => left,
                None => {
                    let segment = segments.open(stream).ok_or(NoPlace::NoSegment)?;
                    self.reserved[stream as usize].push_back(segment);
                    let empty = self.empty(segment);
                    (empty, self.room_of(empty).expect("an empty segment has room for the largest page"))
                }
            };
            let mut load = BundleLoad::default();
            for bytes in pages.iter().take(room.entries) {
                if load.pages_bytes + bytes > room.bytes {
                    assert!(load.entries > 0, "any bundle has room for the largest page");
                    break;
                }
                load.pages_bytes += bytes;
                load.entries += 1;
            }
            // An entry of a trailer is as long as four freed ids.
            load.freed = freed.min((room.entries - load.entries) * 4);
            (pages, freed) = (&pages[load.entries..], freed - load.freed);
            let granules = load.stored_bytes(block) / GRANULE_BYTES;
            place.next += u32::try_from(granules).expect("below a segment");
            filling = Some(place);
            loads.push(load);
        }
        Ok(loads)
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
        (bytes >= self.largest_page_bytes()).then_some(BundleRoom { bytes, entries })
    }

    fn largest_page_bytes(&self) -> usize {
        (self.largest_page as usize * GRANULE_BYTES).clamp(LONGEST_PAGE_BYTES, MAX_PAGE_BYTES)
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
