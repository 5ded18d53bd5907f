//! How a namespace is divided: granules, blocks, segments (disk format, section 1).

use crate::store::word::ColdAddress;

/// The unit of addresses, in bytes.
pub(in crate::store) const GRANULE_BYTES: usize = 64;
const _: () = assert!(GRANULE_BYTES as u64 == crate::store::word::GRANULE_BYTES);
/// Segments that begin below this offset are never used: the superblocks lie there.
pub(in crate::store) const FRONT_BYTES: u64 = 512 << 10;
/// The most segments that a store has: as many as the index of their table has room for.
pub(in crate::store) const MAX_SEGMENTS: u32 = 1_000_000;
/// The smallest namespace.
pub(in crate::store) const MIN_STORE_BYTES: u64 = 8 << 20;

const MIN_SEGMENT_BYTES: u64 = 256 << 10;
/// Each bundle ends with its last block. So that this is little beside the pages, a segment has so
/// many blocks, if there are so many segments then.
const MIN_BLOCKS: u64 = 16;
const LEAST_SEGMENTS: u64 = 64;
/// What a segment has at most up to 16 TiB, and beyond. (2^48 bytes in a million segments.)
const USUAL_SEGMENT_BYTES: u64 = 16 << 20;
const MAX_SEGMENT_BYTES: u64 = 512 << 20;
/// A file that grows starts small. It may have a million of these: almost a tebibyte.
const GROWING_SEGMENT_BYTES: u64 = 1 << 20;

/// The sizes that are fixed when a store is formatted, and its length, which may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Geometry {
    /// Bytes that are written at once at least: 4,096, or the namespace's block if that is larger.
    pub(in crate::store) block: u32,
    /// Bytes of a segment, a power of two.
    pub(in crate::store) segment: u32,
    /// Segments of the store, those of the front included.
    pub(in crate::store) segments: u32,
}

impl Geometry {
    /// That of a new store on a namespace of `size` bytes with blocks of `block` bytes, which grows
    /// or keeps its size. `None` if it is below 8 MiB or above 256 TiB.
    pub(in crate::store) fn of_namespace(size: u64, block: u32, grows: bool) -> Option<Self> {
        if !(MIN_STORE_BYTES..=1 << 48).contains(&size) {
            return None;
        }
        let mut segment = if grows {
            GROWING_SEGMENT_BYTES
        } else {
            let part = |of: u64| 1 << (size / of).ilog2();
            let least = MIN_BLOCKS.saturating_mul(block.into()).min(part(LEAST_SEGMENTS));
            part(1024).clamp(least.max(MIN_SEGMENT_BYTES), USUAL_SEGMENT_BYTES)
        };
        while size / segment > u64::from(MAX_SEGMENTS) {
            segment *= 2;
        }
        let (segments, segment) = (u32::try_from(size / segment).ok()?, u32::try_from(segment).ok()?);
        let geometry = Self { block: block.max(4096), segment, segments };
        geometry.is_plausible().then_some(geometry)
    }

    /// Whether a store can have these sizes.
    pub(in crate::store) fn is_plausible(&self) -> bool {
        self.block.is_power_of_two()
            && (4096..=65536).contains(&self.block)
            && self.segment.is_power_of_two()
            && (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&u64::from(self.segment))
            && (self.first_segment() + 2..=MAX_SEGMENTS).contains(&self.segments)
            && self.size_bytes() <= 1 << 48
    }

    /// The first segment that is used.
    pub(in crate::store) fn first_segment(&self) -> u32 {
        u32::try_from(FRONT_BYTES.div_ceil(u64::from(self.segment))).expect("2 at most")
    }

    pub(in crate::store) fn size_bytes(&self) -> u64 {
        u64::from(self.segments) * u64::from(self.segment)
    }

    /// Whether it is a segment that is used.
    pub(in crate::store) fn has(&self, segment: u32) -> bool {
        (self.first_segment()..self.segments).contains(&segment)
    }

    /// Granules of a segment.
    pub(in crate::store) fn segment_granules(&self) -> u32 {
        self.segment / 64
    }

    /// Granules of a block.
    pub(in crate::store) fn block_granules(&self) -> u32 {
        self.block / 64
    }

    /// The byte at which a segment starts.
    pub(in crate::store) fn offset(&self, segment: u32) -> u64 {
        u64::from(segment) * u64::from(self.segment)
    }

    /// The place of so many granules of a segment, from `granule` on.
    ///
    /// # Panics
    ///
    /// If there are none or more than 1,024 of them.
    pub(in crate::store) fn place(&self, segment: u32, granule: u32, granules: u32) -> ColdAddress {
        let granule = u64::from(segment) * u64::from(self.segment_granules()) + u64::from(granule);
        ColdAddress::new(granule, granules).expect("2^48 bytes are 2^42 granules, and a page has 64 KiB")
    }

    /// The segment in which a page lies wholly, behind its header, and its first granule in there.
    /// `None` if no page can lie there.
    pub(in crate::store) fn locate(&self, place: ColdAddress) -> Option<(u32, u32)> {
        let of_segment = u64::from(self.segment_granules());
        let segment = u32::try_from(place.granule() / of_segment).ok()?;
        let first = u32::try_from(place.granule() % of_segment).ok()?;
        let fits = first >= self.block_granules()
            && first.checked_add(place.granules()).is_some_and(|end| end <= self.segment_granules());
        (self.has(segment) && fits).then_some((segment, first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_a_thousandth_within_bounds() {
        let of = |size, grows| Geometry::of_namespace(size, 512, grows).map(|geometry| geometry.segment);
        assert_eq!(of((8 << 20) - 1, false), None);
        assert_eq!(of(8 << 20, false), Some(256 << 10));
        assert_eq!(of(1 << 30, false), Some(1 << 20));
        assert_eq!(of((2 << 30) - 1, false), Some(1 << 20));
        assert_eq!(of(1 << 40, false), Some(16 << 20));
        assert_eq!(of(8 << 20, true), Some(1 << 20));
        let of_blocks = |size| Geometry::of_namespace(size, 65536, false).map(|geometry| geometry.segment);
        assert_eq!(of_blocks(8 << 20), Some(256 << 10));
        assert_eq!(of_blocks(32 << 20), Some(512 << 10));
        assert_eq!(of_blocks(100 << 20), Some(1 << 20));
        assert_eq!(of_blocks(1 << 40), Some(16 << 20));
        assert_eq!(of(1 << 48, false), Some(512 << 20));
        assert_eq!(of((1 << 48) + 1, false), None);
        for bits in 23..=48 {
            for size in [(1u64 << bits).saturating_sub(4096), 1 << bits, 3 << (bits - 1)] {
                for grows in [false, true] {
                    if let Some(geometry) = Geometry::of_namespace(size, 4096, grows) {
                        assert!(geometry.is_plausible() && geometry.size_bytes() <= size, "{geometry:?}");
                        assert!(size - geometry.size_bytes() < u64::from(geometry.segment));
                    }
                }
            }
        }
    }

    #[test]
    fn a_page_lies_within_one_segment_behind_its_header() {
        let geometry = Geometry::of_namespace(8 << 20, 512, false).expect("large enough");
        assert_eq!(geometry.first_segment(), 2);
        let at = |segment, granule, len| geometry.locate(geometry.place(segment, granule, len));
        assert_eq!(at(2, 64, 1), Some((2, 64)));
        assert_eq!(at(2, 63, 1), None, "there is the segment's header");
        assert_eq!(at(2, 4095, 1), Some((2, 4095)));
        assert_eq!(at(2, 4095, 2), None);
        assert_eq!(at(1, 64, 1), None, "there are superblocks");
        assert_eq!(at(31, 64, 1024), Some((31, 64)));
        assert_eq!(at(32, 64, 1), None);
    }
}
