//! The packed words of the store, in memory and on the namespace: child words, the two words of a
//! page's mapping entry, addresses, references to pages.
//!
//! A parent stores a [`ChildWord`] for each child. The mapping stores two words for each page: a
//! [`MapWord`], which says where the page is, and a [`SecondWord`], which says what a reader of a
//! cold page has to find there. No other module takes these words apart.
//!
//! A constructor from parts refuses what does not fit its field. A constructor from bits, for words
//! that come out of memory that others write or from the namespace, refuses what no constructor
//! from parts makes. So an accessor cannot fail.

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU64;

use super::codec::Reader;

/// Addresses on the namespace count in granules of this many bytes.
pub(in crate::store) const GRANULE_BYTES: u64 = 64;
/// The longest page, its header included, in bytes.
pub(in crate::store) const MAX_PAGE_BYTES: usize = 64 << 10;
/// How many page ids there are.
pub(in crate::store) const PAGE_IDS: u64 = 1 << PageId::BITS;

/// The low `bits` bits.
const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// The number of a logical page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct PageId(u64);

impl PageId {
    const BITS: u32 = 40;

    /// None from 2^40 on.
    pub(in crate::store) const fn new(id: u64) -> Option<Self> {
        if id > mask(Self::BITS) { None } else { Some(Self(id)) }
    }

    pub(in crate::store) const fn get(self) -> u64 {
        self.0
    }

    /// A page of a model: ids that tests choose.
    #[cfg(test)]
    pub(in crate::store) fn of_test(id: u64) -> Self {
        Self::new(id).expect("below 2^40")
    }
}

/// How often a page's range has changed, modulo 2^24. Epochs are compared for equality only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::store) struct Epoch(u32);

impl Epoch {
    const BITS: u32 = 24;
    /// The epoch of an id that was never used.
    pub(in crate::store) const FIRST: Self = Self(0);

    /// None from 2^24 on.
    pub(in crate::store) const fn new(epoch: u32) -> Option<Self> {
        if epoch >> Self::BITS == 0 { Some(Self(epoch)) } else { None }
    }

    pub(in crate::store) const fn get(self) -> u32 {
        self.0
    }

    /// The epoch after this one. It wraps.
    pub(in crate::store) const fn next(self) -> Self {
        Self((self.0 + 1) & ((1 << Self::BITS) - 1))
    }

    /// The epoch before this one. It wraps.
    pub(in crate::store) const fn before(self) -> Self {
        Self(self.0.wrapping_sub(1) & ((1 << Self::BITS) - 1))
    }

    fn from_low_bits(bits: u64) -> Self {
        let epoch = u32::try_from(bits & mask(Self::BITS)).expect("24 bits fit 32");
        Self(epoch)
    }
}

/// What a parent stores of a child: bits 0 to 39 the page, bits 40 to 63 its epoch when the parent
/// last heard of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct ChildWord(u64);

impl fmt::Debug for ChildWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id().get(), self.epoch().get())
    }
}

impl ChildWord {
    pub(in crate::store) fn new(id: PageId, epoch: Epoch) -> Self {
        Self(id.0 | u64::from(epoch.0) << PageId::BITS)
    }

    /// No page. Its id is that of none.
    pub(in crate::store) const NONE: Self = Self(0);

    /// A page of a test.
    #[cfg(any(test, fuzzing))]
    pub(in crate::store) fn of_numbers(id: u64, epoch: u32) -> Self {
        let id = PageId::new(id).expect("below 2^40");
        Self::new(id, Epoch::new(epoch).expect("below 2^24"))
    }

    /// Whether it names a page: id 0 is that of none.
    pub(in crate::store) fn is_some(self) -> bool {
        self.id().get() != 0
    }

    /// Every word is a child word.
    pub(in crate::store) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(in crate::store) const fn bits(self) -> u64 {
        self.0
    }

    pub(in crate::store) fn id(self) -> PageId {
        PageId(self.0 & mask(PageId::BITS))
    }

    pub(in crate::store) fn epoch(self) -> Epoch {
        Epoch::from_low_bits(self.0 >> PageId::BITS)
    }
}

/// Where an image lies on the namespace: address and length, both in granules.
///
/// As a word of 8 bytes, of which zero is none: bits 63..62 are 2, bits 61..52 the length minus 1,
/// bits 51..10 the address, bits 9..0 zero. So an `Option` of it takes 8 bytes, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct ColdAddress(NonZeroU64);

impl fmt::Debug for ColdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.granule(), self.granules())
    }
}

impl ColdAddress {
    const ADDRESS_BITS: u32 = 42;
    const ADDRESS: u32 = 10;
    const LENGTH: u32 = 52;
    const TAG: u32 = 62;
    const COLD: u64 = 2;
    /// The longest image, in granules: 64 KiB.
    pub(in crate::store) const MAX_GRANULES: u32 = 1024;

    /// `granule` is the address, below 2^42; `granules` the length, 1 to 1,024. None beyond.
    pub(in crate::store) const fn new(granule: u64, granules: u32) -> Option<Self> {
        if granule > mask(Self::ADDRESS_BITS) || granules == 0 || granules > Self::MAX_GRANULES {
            return None;
        }
        let length = (granules - 1) as u64;
        match NonZeroU64::new(Self::COLD << Self::TAG | length << Self::LENGTH | granule << Self::ADDRESS) {
            Some(word) => Some(Self(word)),
            None => None,
        }
    }

    /// A place of a test.
    #[cfg(any(test, fuzzing))]
    pub(in crate::store) fn of_numbers(granule: u64, granules: u32) -> Self {
        Self::new(granule, granules).expect("in range")
    }

    /// None if no address has this word.
    pub(in crate::store) const fn from_bits(bits: u64) -> Option<Self> {
        if bits >> Self::TAG != Self::COLD || bits & mask(Self::ADDRESS) != 0 {
            return None;
        }
        match NonZeroU64::new(bits) {
            Some(word) => Some(Self(word)),
            None => None,
        }
    }

    /// What was stored by [`ColdAddress::optional_bits`]. None if nothing is stored like that.
    pub(in crate::store) const fn optional_from_bits(bits: u64) -> Option<Option<Self>> {
        match Self::from_bits(bits) {
            Some(address) => Some(Some(address)),
            None if bits == 0 => Some(None),
            None => None,
        }
    }

    /// The word, 0 for none.
    pub(in crate::store) fn optional_bits(address: Option<Self>) -> u64 {
        address.map_or(0, Self::bits)
    }

    pub(in crate::store) const fn bits(self) -> u64 {
        self.0.get()
    }

    /// The address in granules.
    pub(in crate::store) const fn granule(self) -> u64 {
        self.0.get() >> Self::ADDRESS & mask(Self::ADDRESS_BITS)
    }

    /// The length in granules, 1 to 1,024.
    pub(in crate::store) fn granules(self) -> u32 {
        let length = self.0.get() >> Self::LENGTH & mask(Self::TAG - Self::LENGTH);
        u32::try_from(length).expect("10 bits fit 32") + 1
    }

    /// The address in bytes.
    pub(in crate::store) const fn offset_bytes(self) -> u64 {
        self.granule() * GRANULE_BYTES
    }

    /// The length in bytes.
    pub(in crate::store) fn len_bytes(self) -> u64 {
        u64::from(self.granules()) * GRANULE_BYTES
    }
}

/// A reference to a page that the map does not know: the map's own pages, those of the segment
/// table, trailers of bundles. As bytes it is a word and a checksum, both zero for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct PageRef {
    pub(in crate::store) place: ColdAddress,
    /// The checksum in its header.
    pub(in crate::store) checksum: u64,
}

impl PageRef {
    /// The length of a reference, in bytes.
    pub(in crate::store) const BYTES: usize = 16;

    pub(in crate::store) fn encode(page: Option<Self>) -> [u8; Self::BYTES] {
        let (place, checksum) = page.map_or((0, 0), |page| (page.place.bits(), page.checksum));
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&place.to_le_bytes());
        out[8..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// None if the bytes end, or are no reference; else the page, or that there is none.
    pub(in crate::store) fn decode(reader: &mut Reader<'_>) -> Option<Option<Self>> {
        let (place, checksum) = (reader.u64()?, reader.u64()?);
        match ColdAddress::optional_from_bits(place)? {
            Some(place) => Some(Some(Self { place, checksum })),
            None => (checksum == 0).then_some(None),
        }
    }
}

/// The address of a node in memory: a multiple of 64, not 0, below 2^48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::store) struct NodeAddress(NonZeroU64);

impl NodeAddress {
    const BITS: u32 = 48;
    /// The alignment of nodes, in bytes.
    pub(in crate::store) const ALIGN: u64 = 64;

    /// None for 0, for what is not aligned, and from 2^48 on.
    pub(in crate::store) const fn new(address: u64) -> Option<Self> {
        if address > mask(Self::BITS) || !address.is_multiple_of(Self::ALIGN) {
            return None;
        }
        match NonZeroU64::new(address) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }

    pub(in crate::store) const fn get(self) -> u64 {
        self.0.get()
    }
}

/// Why a mapping word has neither a node nor an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Special {
    /// The map frame of this word is being evicted: load the directory again.
    Frozen,
    /// The page's image cannot be read.
    Damaged,
}

/// What a mapping word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum MapView {
    /// The id is not in use. The second word has the epoch where it left off.
    Free,
    /// The page's node is in memory.
    Node(NodeAddress),
    /// The page is its image on the namespace. `age` is for the clock, 0 to 3.
    Cold {
        address: ColdAddress,
        age: u8,
    },
    Special(Special),
}

/// The first word of a page in the mapping.
///
/// | bits 63..62 | rest |
/// |---|---|
/// | 0 free | zero |
/// | 1 node | bits 47..0 the address, 64-byte aligned |
/// | 2 cold | bits 61..52 length in granules minus 1; bits 51..10 address in granules; bits 9..8 age |
/// | 3 special | bits 7..0: 1 frozen, 2 damaged |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct MapWord(u64);

impl MapWord {
    const TAG: u32 = 62;
    const NODE: u64 = 1;
    const COLD: u64 = 2;
    const SPECIAL: u64 = 3;
    const AGE: u32 = 8;
    const AGE_BITS: u32 = 2;
    const FROZEN: u64 = 1;
    const DAMAGED: u64 = 2;

    /// The id is not in use.
    pub(in crate::store) const FREE: Self = Self(0);

    pub(in crate::store) fn node(address: NodeAddress) -> Self {
        Self(Self::NODE << Self::TAG | address.get())
    }

    /// None for an `age` above 3.
    pub(in crate::store) fn cold(address: ColdAddress, age: u8) -> Option<Self> {
        if u64::from(age) > mask(Self::AGE_BITS) {
            return None;
        }
        Some(Self(address.bits() | u64::from(age) << Self::AGE))
    }

    pub(in crate::store) fn special(special: Special) -> Self {
        let code = match special {
            Special::Frozen => Self::FROZEN,
            Special::Damaged => Self::DAMAGED,
        };
        Self(Self::SPECIAL << Self::TAG | code)
    }

    /// None if no other constructor makes this word.
    pub(in crate::store) fn from_bits(bits: u64) -> Option<Self> {
        let word = Self(bits);
        let made = match bits >> Self::TAG {
            Self::NODE => Self::node(NodeAddress::new(bits & mask(Self::TAG))?),
            Self::COLD => Self::cold(word.cold_address(), word.age())?,
            Self::SPECIAL => match bits & mask(Self::TAG) {
                Self::FROZEN => Self::special(Special::Frozen),
                Self::DAMAGED => Self::special(Special::Damaged),
                _ => return None,
            },
            _ => Self::FREE,
        };
        (made == word).then_some(word)
    }

    /// The word of an entry of the mapping, where only words of this type are stored.
    pub(in crate::store) fn from_memory(bits: u64) -> Self {
        debug_assert!(Self::from_bits(bits).is_some(), "{bits:#x} was never a mapping word");
        Self(bits)
    }

    pub(in crate::store) const fn bits(self) -> u64 {
        self.0
    }

    pub(in crate::store) fn view(self) -> MapView {
        match self.0 >> Self::TAG {
            Self::NODE => {
                let address = NodeAddress::new(self.0 & mask(Self::TAG));
                MapView::Node(address.expect("constructors make no other node words"))
            }
            Self::COLD => MapView::Cold { address: self.cold_address(), age: self.age() },
            Self::SPECIAL if self.0 & mask(Self::TAG) == Self::FROZEN => MapView::Special(Special::Frozen),
            Self::SPECIAL => MapView::Special(Special::Damaged),
            _ => MapView::Free,
        }
    }

    /// Of a cold word.
    fn cold_address(self) -> ColdAddress {
        let address = ColdAddress::from_bits(self.0 & !mask(ColdAddress::ADDRESS));
        address.expect("a cold word is an address and an age")
    }

    fn age(self) -> u8 {
        u8::try_from((self.0 >> Self::AGE) & mask(Self::AGE_BITS)).expect("2 bits fit 8")
    }
}

/// The second word of a page in the mapping, for cold pages and free ids: bits 31..0 the low half
/// of the image's checksum, bits 55..32 the epoch, bits 63..56 flags (56: written to the cold
/// stream, 57: has expiries).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct SecondWord(u64);

impl SecondWord {
    const EPOCH: u32 = 32;
    const COLD_STREAM: u64 = 1 << 56;
    const HAS_EXPIRIES: u64 = 1 << 57;
    const KNOWN: u64 = mask(56) | Self::COLD_STREAM | Self::HAS_EXPIRIES;
    /// In trailers of bundles only: cleaning moved the page.
    const MOVED: u64 = 1 << 63;

    pub(in crate::store) fn new(
        checksum_low: u32,
        epoch: Epoch,
        is_cold_stream: bool,
        has_expiries: bool,
    ) -> Self {
        let flags = [(is_cold_stream, Self::COLD_STREAM), (has_expiries, Self::HAS_EXPIRIES)];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
        Self(u64::from(checksum_low) | u64::from(epoch.0) << Self::EPOCH | flags)
    }

    /// None if a flag is set that has no meaning.
    pub(in crate::store) const fn from_bits(bits: u64) -> Option<Self> {
        if bits & !Self::KNOWN == 0 { Some(Self(bits)) } else { None }
    }

    /// As a trailer has it: with the mark of a page that cleaning moved, or without.
    pub(in crate::store) const fn trailer_bits(self, is_moved: bool) -> u64 {
        if is_moved { self.0 | Self::MOVED } else { self.0 }
    }

    /// The word of a trailer, and whether it is marked. None if a flag is set that has no meaning.
    pub(in crate::store) const fn from_trailer_bits(bits: u64) -> Option<(Self, bool)> {
        match Self::from_bits(bits & !Self::MOVED) {
            Some(word) => Some((word, bits & Self::MOVED != 0)),
            None => None,
        }
    }

    /// The second word of an entry of the mapping, where only words of this type are stored.
    pub(in crate::store) fn from_memory(bits: u64) -> Self {
        debug_assert!(Self::from_bits(bits).is_some(), "{bits:#x} was never a second word");
        Self(bits)
    }

    pub(in crate::store) const fn bits(self) -> u64 {
        self.0
    }

    pub(in crate::store) fn checksum_low(self) -> u32 {
        u32::try_from(self.0 & mask(32)).expect("32 bits")
    }

    pub(in crate::store) fn epoch(self) -> Epoch {
        Epoch::from_low_bits(self.0 >> Self::EPOCH)
    }

    pub(in crate::store) const fn is_cold_stream(self) -> bool {
        self.0 & Self::COLD_STREAM != 0
    }

    pub(in crate::store) const fn has_expiries(self) -> bool {
        self.0 & Self::HAS_EXPIRIES != 0
    }
}
