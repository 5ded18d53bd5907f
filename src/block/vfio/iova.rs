//! The addresses by which a device knows memory (IOVA): which there are and which are taken.
//!
//! Memory gets its own address where the IOMMU can translate that and nothing else has it, so that
//! traces of both sides read alike. A processor's addresses have 47 bits, and some IOMMUs translate
//! only 39; then, or where the platform keeps the address for itself (the window of message
//! signalled interrupts on x86, for one), memory gets the lowest free address.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::capabilities::{self, u32_at, u64_at};

/// Addresses below this are not given out, so that none is 0.
const LOWEST: u64 = 64 << 10;
/// Regions keep their place within such a unit: what is aligned for this process is so for the
/// device.
const SMALL_BYTES: u64 = 64 << 10;
/// The same for regions of at least this size, so that the IOMMU can translate a hugepage in one
/// step.
const LARGE_BYTES: u64 = 2 << 20;

/// `VFIO_IOMMU_INFO_PGSIZES` and `VFIO_IOMMU_INFO_CAPS`.
const HAS_PAGE_SIZES: u32 = 1;
const HAS_CAPABILITIES: u32 = 1 << 1;
/// `VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`.
const CAPABILITY_RANGES: u16 = 1;

/// Which addresses a device may use.
#[derive(Debug)]
pub(super) struct IovaSpace {
    page_bytes: u64,
    allowed: Vec<RangeInclusive<u64>>,
    /// What is taken: lengths in bytes by first address.
    used: BTreeMap<u64, u64>,
}

impl IovaSpace {
    pub(super) fn new(page_bytes: u64, allowed: Vec<RangeInclusive<u64>>) -> Self {
        Self { page_bytes, allowed, used: BTreeMap::new() }
    }

    /// What the kernel says in `struct vfio_iommu_type1_info` and its capability of address ranges,
    /// which leaves out what the platform reserves; `None` if it does not say it (before Linux
    /// 5.4).
    pub(super) fn parse(info: &[u8]) -> Option<Self> {
        let flags = u32_at(info, 4)?;
        let page_bytes = if flags & HAS_PAGE_SIZES == 0 {
            4096
        } else {
            1 << u64_at(info, 8)?.trailing_zeros().clamp(12, 30)
        };
        if flags & HAS_CAPABILITIES == 0 {
            return None;
        }
        let ranges = capabilities::find(info, u32_at(info, 16)?, CAPABILITY_RANGES)?;
        let count = usize::try_from(u32_at(info, ranges + 8)?).ok()?;
        let range = |number: usize| {
            let first = ranges + 16 + number * 16;
            Some(u64_at(info, first)?..=u64_at(info, first + 8)?)
        };
        let allowed = (0..count).map(range).collect::<Option<Vec<_>>>()?;
        Some(Self::new(page_bytes, allowed))
    }

    /// The unit of mappings, in bytes; a power of two.
    pub(super) fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// The highest address that there is.
    pub(super) fn highest(&self) -> u64 {
        self.allowed.iter().map(|range| *range.end()).max().unwrap_or(0)
    }

    /// Takes an address for `len` bytes at `address` of the process, both whole pages; `None` if
    /// none is free.
    pub(super) fn reserve(&mut self, address: u64, len: u64) -> Option<u64> {
        let iova = if self.is_free(address, len) { address } else { self.lowest_free(address, len)? };
        self.used.insert(iova, len);
        Some(iova)
    }

    /// Gives back what [`reserve`](Self::reserve) gave.
    pub(super) fn release(&mut self, iova: u64) {
        self.used.remove(&iova);
    }

    fn is_free(&self, first: u64, len: u64) -> bool {
        let Some(last) = first.checked_add(len - 1) else { return false };
        first >= LOWEST
            && self.allowed.iter().any(|range| range.contains(&first) && range.contains(&last))
            && !self.is_taken(first, last)
    }

    /// Whether any address from `first` to `last` is taken.
    fn is_taken(&self, first: u64, last: u64) -> bool {
        self.used.range(..=last).next_back().is_some_and(|(start, len)| start + len > first)
    }

    fn lowest_free(&self, address: u64, len: u64) -> Option<u64> {
        let unit = if len >= LARGE_BYTES { LARGE_BYTES } else { SMALL_BYTES.max(self.page_bytes) };
        for range in &self.allowed {
            let mut first = at_place((*range.start()).max(LOWEST), address % unit, unit)?;
            while let Some(last) = first.checked_add(len - 1).filter(|last| last <= range.end()) {
                // The first that is in the way. Each step gets past at least one that is taken.
                let before = self.used.range(..=first).next_back().map(|(start, len)| start + len);
                let within = self.used.range(first..=last).next().map(|(start, len)| start + len);
                match before.filter(|end| *end > first).or(within) {
                    None => return Some(first),
                    Some(end) => first = at_place(end, address % unit, unit)?,
                }
            }
        }
        None
    }
}

/// The first number from `from` on that is `place` more than a multiple of `unit`.
fn at_place(from: u64, place: u64, unit: u64) -> Option<u64> {
    let base = from.saturating_sub(place).checked_next_multiple_of(unit)?;
    base.checked_add(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;
    /// As of an IOMMU with 39 bits, with the window of interrupts left out.
    const LOW: RangeInclusive<u64> = 0..=0xfedf_ffff;
    const HIGH: RangeInclusive<u64> = 0xfef0_0000..=0x7f_ffff_ffff;

    fn space() -> IovaSpace {
        IovaSpace::new(PAGE, vec![LOW, HIGH])
    }

    #[test]
    fn memory_keeps_its_address_where_that_is_allowed_and_free() {
        let mut space = space();
        assert_eq!(space.reserve(0x1_2345_6000, PAGE), Some(0x1_2345_6000));
        // Twice the same memory: the second cannot have the same address.
        assert_eq!(space.reserve(0x1_2345_6000, PAGE), Some(LOWEST + 0x6000));
        space.release(0x1_2345_6000);
        assert_eq!(space.reserve(0x1_2345_5000, 2 * PAGE), Some(0x1_2345_5000));
        // The last byte is allowed, the one after it is not.
        assert_eq!(space.reserve(0x7f_ffff_f000, PAGE), Some(0x7f_ffff_f000));
    }

    #[test]
    fn otherwise_it_gets_the_lowest_free_address_within_what_is_allowed() {
        let mut space = space();
        let far = 0x7f12_3456_0000;
        assert_eq!(space.reserve(far, SMALL_BYTES), Some(LOWEST));
        assert_eq!(space.reserve(far, 3 * SMALL_BYTES), Some(LOWEST + SMALL_BYTES));
        assert_eq!(space.reserve(far, SMALL_BYTES), Some(LOWEST + 4 * SMALL_BYTES));
        space.release(LOWEST + SMALL_BYTES);
        assert_eq!(
            space.reserve(far, 4 * SMALL_BYTES),
            Some(LOWEST + 5 * SMALL_BYTES),
            "the gap is too small"
        );
        assert_eq!(space.reserve(far, 3 * SMALL_BYTES), Some(LOWEST + SMALL_BYTES), "the gap fits");
        // Neither across the gap nor inside of it.
        let mut space = self::space();
        assert_eq!(space.reserve(0xfedf_f000, 2 * PAGE), Some(LOWEST + 0xf000));
        assert_eq!(space.reserve(0xfee0_0000, PAGE), Some(LOWEST));
        // Only above the gap, at its place within two megabytes.
        assert_eq!(space.reserve(far, 0xfee0_0000), Some(0xfef6_0000));
        assert_eq!(space.reserve(far, 0x80_0000_0000), None);
        // Not past the last address of all.
        assert_eq!(space.reserve(u64::MAX - PAGE + 1, 2 * PAGE), Some(LOWEST + SMALL_BYTES + 0xf000));
    }

    #[test]
    fn memory_keeps_its_place_in_64_kilobytes_and_hugepages_in_two_megabytes() {
        let mut space = space();
        for offset in [0_u64, PAGE, 15 * PAGE] {
            let iova = space.reserve(0x7f00_0000_0000 + offset, PAGE).expect("free");
            assert_eq!(iova % SMALL_BYTES, offset);
        }
        let iova = space.reserve(0x7f00_0000_0000, 2 * LARGE_BYTES).expect("free");
        assert_eq!((iova % LARGE_BYTES, iova > 0), (0, true));
        let iova = space.reserve(0x7f00_0000_3000, LARGE_BYTES).expect("free");
        assert_eq!(iova % LARGE_BYTES, 0x3000);
    }

    #[test]
    fn what_is_given_out_never_overlaps_and_all_of_it_comes_back() {
        let mut space = IovaSpace::new(PAGE, vec![0..=64 * PAGE - 1, 80 * PAGE..=400 * PAGE - 1]);
        let mut taken: Vec<(u64, u64)> = Vec::new();
        let mut random: u64 = 1;
        for _ in 0..10_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pages = (random >> 33) % 9 + 1;
            let address = (random >> 40) % 450 * PAGE;
            if random >> 63 == 0 {
                if let Some(iova) = space.reserve(address, pages * PAGE) {
                    let last = iova + pages * PAGE - 1;
                    assert!(space.allowed.iter().any(|range| range.contains(&iova) && range.contains(&last)));
                    let apart = |(start, end): &(u64, u64)| *start > last || *end < iova;
                    assert!(taken.iter().all(apart), "{iova:x} of {pages} pages is taken: {taken:x?}");
                    taken.push((iova, last));
                }
            } else if !taken.is_empty() {
                let at = usize::try_from(random >> 20).unwrap_or(0) % taken.len();
                space.release(taken.swap_remove(at).0);
            }
        }
        taken.drain(..).for_each(|(iova, _)| space.release(iova));
        assert!(space.used.is_empty());
    }

    /// An information structure with two capabilities, the second with ranges.
    fn info(ranges: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [0_u32, HAS_PAGE_SIZES | HAS_CAPABILITIES] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(0x4020_1000_u64.to_ne_bytes());
        bytes.extend(24_u32.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        // The limit of mappings: kind 3, version 1, next at 40.
        bytes.extend([3_u16, 1].iter().flat_map(|half| half.to_ne_bytes()));
        bytes.extend([40_u32, 65535, 0].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend([1_u16, 1].iter().flat_map(|half| half.to_ne_bytes()));
        let count = u32::try_from(ranges.len()).expect("few");
        bytes.extend([0, count, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()));
        bytes.extend(
            ranges.iter().flat_map(|(first, last)| [first.to_ne_bytes(), last.to_ne_bytes()]).flatten(),
        );
        bytes
    }

    #[test]
    fn the_kernels_answer_is_read() {
        let bytes = info(&[(0, 0xfedf_ffff), (0xfef0_0000, 0xffff_ffff_ffff)]);
        let space = IovaSpace::parse(&bytes).expect("whole");
        assert_eq!(space.page_bytes(), PAGE);
        assert_eq!(space.allowed, [LOW, 0xfef0_0000..=0xffff_ffff_ffff]);
        assert_eq!(space.highest(), 0xffff_ffff_ffff);
        for len in 0..bytes.len() {
            assert!(IovaSpace::parse(&bytes[..len]).is_none(), "cut to {len} bytes");
        }
        // Capabilities in a circle.
        let mut circle = bytes;
        circle[40..42].copy_from_slice(&7_u16.to_ne_bytes());
        circle[44..48].copy_from_slice(&24_u32.to_ne_bytes());
        assert!(IovaSpace::parse(&circle).is_none());
    }
}
