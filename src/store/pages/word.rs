//! Words of 8 bytes that name pages and places (disk format 2, section 7.4).

use super::geometry::GRANULE_BYTES;
use crate::store::codec::Reader;

/// How many page ids there are.
pub(super) const PAGE_IDS: u64 = 1 << 40;
/// The longest page, its header included, in bytes.
pub(super) const MAX_PAGE_BYTES: usize = 1024 * GRANULE_BYTES;

/// A page and its epoch, as its parent knows them: id (40 bits), epoch (24 bits). 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ChildWord(pub(super) u64);

impl ChildWord {
    /// `id` is below [`PAGE_IDS`]; of `epoch` the low 24 bits count.
    pub(super) fn new(id: u64, epoch: u32) -> Self {
        debug_assert!(id < PAGE_IDS);
        Self(id | u64::from(epoch) << 40)
    }

    pub(super) fn id(self) -> u64 {
        self.0 & (PAGE_IDS - 1)
    }

    pub(super) fn epoch(self) -> u32 {
        u32::try_from(self.0 >> 40).expect("24 bits are left")
    }
}

/// Where a page lies on the namespace: address and length in granules. 0 is none.
///
/// Bits 63..62 are 2, bits 61..52 the length minus 1, bits 51..10 the address; bits 9..0 are zero
/// here (in memory the mapping keeps the clock's age there).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ColdWord(pub(super) u64);

impl ColdWord {
    pub(super) const NONE: Self = Self(0);

    /// `granule` is below 2^42, `granules` is 1 to 1,024.
    pub(super) fn new(granule: u64, granules: u32) -> Self {
        debug_assert!(granule < 1 << 42 && (1..=1024).contains(&granules));
        Self(2 << 62 | u64::from(granules - 1) << 52 | granule << 10)
    }

    /// The word, unless `word` is neither 0 nor a cold word.
    pub(super) fn checked(word: u64) -> Option<Self> {
        (word == 0 || (word >> 62 == 2 && word & 0x3ff == 0)).then_some(Self(word))
    }

    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The address, in granules from the start of the namespace.
    pub(super) fn granule(self) -> u64 {
        self.0 >> 10 & ((1 << 42) - 1)
    }

    /// The length in granules; 0 for none.
    pub(super) fn granules(self) -> u32 {
        if self.is_none() { 0 } else { u32::try_from(self.0 >> 52 & 0x3ff).expect("10 bits are left") + 1 }
    }

    /// The address in bytes.
    pub(super) fn offset(self) -> u64 {
        self.granule() * GRANULE_BYTES as u64
    }

    /// The length in bytes.
    pub(super) fn len_bytes(self) -> usize {
        self.granules() as usize * GRANULE_BYTES
    }
}

/// What a map entry says beside the place: the low half of the page's checksum, its epoch, flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SecondWord(pub(super) u64);

impl SecondWord {
    /// Written to the cold stream.
    pub(super) const COLD: u64 = 1 << 56;
    /// Has entries with an expiry time.
    pub(super) const EXPIRES: u64 = 1 << 57;
    /// Was moved by cleaning; only in trailers of bundles.
    pub(super) const MOVED: u64 = 1 << 63;

    /// `flags` are of the constants above.
    pub(super) fn new(checksum: u64, epoch: u32, flags: u64) -> Self {
        Self(checksum & 0xffff_ffff | u64::from(epoch & 0xff_ffff) << 32 | flags)
    }

    /// The word, unless it has bits that are not `flags`.
    pub(super) fn checked(word: u64, flags: u64) -> Option<Self> {
        (word >> 56 << 56 & !flags == 0).then_some(Self(word))
    }

    pub(super) fn epoch(self) -> u32 {
        u32::try_from(self.0 >> 32 & 0xff_ffff).expect("24 bits are left")
    }

    /// The low half of the checksum in the page's header.
    pub(super) fn checksum(self) -> u32 {
        u32::try_from(self.0 & 0xffff_ffff).expect("32 bits are left")
    }

    pub(super) fn is_moved(self) -> bool {
        self.0 & Self::MOVED != 0
    }

    /// As the map keeps it, without the mark of a trailer.
    pub(super) fn settled(self) -> Self {
        Self(self.0 & !Self::MOVED)
    }
}

/// A reference to a page that is not in the map: the map's own pages and the segment table's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PageRef {
    /// Where it is; none for "there is no such page".
    pub(super) place: ColdWord,
    /// The checksum in its header.
    pub(super) checksum: u64,
}

impl PageRef {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.place.0.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
    }

    /// `None` if the bytes end, or if they are no reference.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let place = ColdWord::checked(reader.u64()?)?;
        let checksum = reader.u64()?;
        (!place.is_none() || checksum == 0).then_some(Self { place, checksum })
    }
}
