//! The header in front of each page's content on the namespace (disk format, section 6).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | checksum of bytes 8 to the end of the content as stored |
//! | 8 | 4 | magic `62 50 47 32` (`bPG2`) |
//! | 12 | 1 | kind |
//! | 13 | 1 | level (inner pages from 1, map pages from 0 to 4, else 0) |
//! | 14 | 1 | flags: bits 0 and 1 compression (0 none, 1 lz4 block, 2 zstd frame); bit 2 has changes; bit 3 has numbered entries; bit 4 has value references; bit 5 older versions are in the history tree |
//! | 15 | 1 | zero |
//! | 16 | 8 | child word: the page's id and epoch (map pages: index and level; table pages: index) |
//! | 24 | 8 | number of its bundle |
//! | 32 | 8 | newest write number in a leaf or a run, else zero |
//! | 40 | 4 | length of the content as stored |
//! | 44 | 4 | length of the content |
//! | 48 | 4 | tree |
//! | 52 | 4 | earliest expiry, seconds since 1970, at least 1; 0 for none |
//! | 56 | 8 | identity of the store, its first 8 bytes |
//!
//! The checksum comes first and covers everything else: no flipped bit of a page goes unnoticed.
//!
//! **One form.** What [`parse`] takes is what [`PageHeader::write`] makes of it, byte for byte. It
//! looks at the header by itself; whether this is the page that was meant, [`Page::check`] says,
//! and whether the header says the same as the content, [`PageHeader::check_content`].

#[cfg(test)]
mod tests;

use super::damage::{Checker, Damage, Structure};
use super::geometry::GRANULE_BYTES;
use crate::store::codec::{Reader, checksum, to_u32, to_usize};
use crate::store::word::{ChildWord, ColdAddress, Epoch, MAX_PAGE_BYTES, PageId};

/// The length of the header, in bytes.
pub(in crate::store) const PAGE_HEADER_BYTES: usize = 64;
/// The longest content as stored, and of images in memory, in bytes.
pub(in crate::store) const MAX_CONTENT_BYTES: usize = MAX_PAGE_BYTES - PAGE_HEADER_BYTES;
/// The highest level of a page of the map.
pub(in crate::store) const MAX_MAP_LEVEL: u8 = 4;
const MAGIC: [u8; 4] = *b"bPG2";
const CHECKED_FROM: usize = 8;

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::store) enum PageKind {
    Leaf = 1,
    Inner = 2,
    Run = 3,
    Filter = 4,
    Value = 5,
    ValueIndex = 6,
    Map = 7,
    SegmentTable = 8,
    SegmentTableIndex = 9,
    Lengths = 10,
}

impl PageKind {
    const ALL: [Self; 10] = [
        Self::Leaf,
        Self::Inner,
        Self::Run,
        Self::Filter,
        Self::Value,
        Self::ValueIndex,
        Self::Map,
        Self::SegmentTable,
        Self::SegmentTableIndex,
        Self::Lengths,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == byte)
    }

    /// Whether its content is an image, the same in memory.
    fn has_image(self) -> bool {
        matches!(self, Self::Leaf | Self::Inner | Self::Run | Self::Filter)
    }

    fn has_level(self, level: u8) -> bool {
        match self {
            Self::Inner => level >= 1,
            Self::Map => level <= MAX_MAP_LEVEL,
            _ => level == 0,
        }
    }
}

/// How the content is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::store) enum Compression {
    #[default]
    None = 0,
    Lz4 = 1,
    Zstd = 2,
}

/// What the header says that nobody could tell from the rest of its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct PageFlags {
    /// A split, or another change of structure, is under way.
    pub(in crate::store) changes: bool,
    /// Some entry has a write number.
    pub(in crate::store) numbered: bool,
    /// Some value lies elsewhere.
    pub(in crate::store) references: bool,
    /// Older versions of some key are in the history tree.
    pub(in crate::store) moved_versions: bool,
}

/// What the header says, but for the magic, the checksum, the lengths and the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct PageHeader {
    pub(in crate::store) kind: PageKind,
    pub(in crate::store) level: u8,
    pub(in crate::store) compression: Compression,
    pub(in crate::store) flags: PageFlags,
    pub(in crate::store) page: ChildWord,
    /// The number of its bundle.
    pub(in crate::store) bundle: u64,
    /// Leaves and runs: the newest write in the image. A bundle with the page is named in a batch
    /// of the log that reaches this write (W1).
    pub(in crate::store) newest: u64,
    pub(in crate::store) tree: u32,
    /// Since 1970; 0 for none.
    pub(in crate::store) earliest_expiry_seconds: u32,
}

impl PageHeader {
    /// The header of a page without a tree, in a bundle that says its number later.
    pub(in crate::store) fn plain(kind: PageKind, level: u8, page: ChildWord) -> Self {
        Self {
            kind,
            level,
            compression: Compression::None,
            flags: PageFlags::default(),
            page,
            bundle: 0,
            newest: 0,
            tree: 0,
            earliest_expiry_seconds: 0,
        }
    }

    /// Writes header and content to the front of `out`, and zeros behind them, up to a granule;
    /// `content_len` is the length before compression. Returns the checksum.
    ///
    /// # Panics
    ///
    /// If `out` is too short: it has [`stored_granules`] of `stored`.
    pub(in crate::store) fn write(
        &self,
        identity: &[u8; 16],
        stored: &[u8],
        content_len: usize,
        out: &mut [u8],
    ) -> u64 {
        let out = &mut out[..stored_granules(stored.len()) as usize * GRANULE_BYTES];
        let (header, content) = out.split_at_mut(PAGE_HEADER_BYTES);
        header[8..12].copy_from_slice(&MAGIC);
        header[12..16].copy_from_slice(&[self.kind as u8, self.level, self.flag_bits(), 0]);
        header[16..24].copy_from_slice(&self.page.bits().to_le_bytes());
        header[24..32].copy_from_slice(&self.bundle.to_le_bytes());
        header[32..40].copy_from_slice(&self.newest.to_le_bytes());
        header[40..44].copy_from_slice(&to_u32(stored.len()).to_le_bytes());
        header[44..48].copy_from_slice(&to_u32(content_len).to_le_bytes());
        header[48..52].copy_from_slice(&self.tree.to_le_bytes());
        header[52..56].copy_from_slice(&self.earliest_expiry_seconds.to_le_bytes());
        header[56..64].copy_from_slice(&identity[..8]);
        content[..stored.len()].copy_from_slice(stored);
        content[stored.len()..].fill(0);
        let sum = checksum(&out[CHECKED_FROM..PAGE_HEADER_BYTES + stored.len()]);
        out[..CHECKED_FROM].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    fn flag_bits(&self) -> u8 {
        let PageFlags { changes, numbered, references, moved_versions } = self.flags;
        self.compression as u8
            | u8::from(changes) << 2
            | u8::from(numbered) << 3
            | u8::from(references) << 4
            | u8::from(moved_versions) << 5
    }

    /// Checks what the header says of its content against what the content says of itself, as the
    /// flags of a page whose older versions are where the header says, and its earliest expiry.
    ///
    /// # Errors
    ///
    /// That they differ; the page was read from `place`.
    pub(in crate::store) fn check_content(
        &self,
        flags: PageFlags,
        earliest_expiry_ms: Option<u64>,
        place: ColdAddress,
    ) -> Result<(), Damage> {
        let is = Checker::new(Structure::Page, place.offset_bytes());
        let flags = PageFlags { moved_versions: self.flags.moved_versions, ..flags };
        is.check(self.flags == flags, "its flags are not those of its content")?;
        let expiry = expiry_seconds(earliest_expiry_ms);
        is.check(self.earliest_expiry_seconds == expiry, "its earliest expiry is not that of its content")
    }
}

/// The header's field: the second in which the earliest expiry lies, at least 1 and as large as
/// 4 bytes allow; 0 for none.
pub(in crate::store) fn expiry_seconds(earliest_ms: Option<u64>) -> u32 {
    earliest_ms.map_or(0, |ms| u32::try_from(ms / 1000).unwrap_or(u32::MAX).max(1))
}

/// What the map's and the table's own pages have in place of id and epoch.
pub(in crate::store) fn structure_word(index: u64, level: u8) -> ChildWord {
    let index = PageId::new(index).expect("there are fewer of these than ids");
    ChildWord::new(index, Epoch::new(level.into()).expect("8 bits fit 24"))
}

/// The granules that a page takes whose content is `stored` bytes long.
pub(in crate::store) fn stored_granules(stored: usize) -> u32 {
    to_u32((PAGE_HEADER_BYTES + stored).div_ceil(GRANULE_BYTES))
}

/// A page whose header and checksum are right.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Page<'a> {
    pub(in crate::store) header: PageHeader,
    pub(in crate::store) checksum: u64,
    /// As stored, perhaps compressed.
    pub(in crate::store) stored: &'a [u8],
    /// The length of the content when it is not compressed, in bytes.
    pub(in crate::store) content_len: usize,
    place: ColdAddress,
}

/// What whoever refers to a page knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct PageIdentity {
    pub(in crate::store) kind: PageKind,
    pub(in crate::store) level: u8,
    pub(in crate::store) page: ChildWord,
    pub(in crate::store) tree: u32,
}

/// Parses the page at the front of `bytes`, which were read from `place`, of the store with this
/// identity. That it is the page that was meant is for the caller to check: [`Page::check`].
///
/// # Errors
///
/// What is wrong with it.
pub(in crate::store) fn parse<'a>(
    bytes: &'a [u8],
    place: ColdAddress,
    identity: &[u8; 16],
) -> Result<Page<'a>, Damage> {
    let is = Checker::new(Structure::Page, place.offset_bytes());
    let bytes = is.some(bytes.get(..to_usize(place.len_bytes())))?;
    let reader = &mut Reader::new(bytes);
    let sum = is.some(reader.u64())?;
    is.check(is.some(reader.bytes(4))? == MAGIC, "there is no page of a boson store")?;
    let (kind, level) = (is.some(reader.u8())?, is.some(reader.u8())?);
    let (flags, zero) = (is.some(reader.u8())?, is.some(reader.u8())?);
    let page = ChildWord::from_bits(is.some(reader.u64())?);
    let (bundle, newest) = (is.some(reader.u64())?, is.some(reader.u64())?);
    let (stored_len, content_len) = (is.some(reader.u32())? as usize, is.some(reader.u32())? as usize);
    let (tree, earliest_expiry_seconds) = (is.some(reader.u32())?, is.some(reader.u32())?);
    let owner = is.some(reader.bytes(8))?;
    is.check(stored_len <= MAX_CONTENT_BYTES, "it is longer than a page can be")?;
    is.check(stored_granules(stored_len) == place.granules(), "its length is not that of its reference")?;
    let stored = is.some(reader.bytes(stored_len))?;
    let checked = is.some(bytes.get(CHECKED_FROM..PAGE_HEADER_BYTES + stored_len))?;
    is.check(sum == checksum(checked), "its checksum is wrong")?;
    is.check(owner == &identity[..8], "it belongs to another store")?;
    let kind = PageKind::from_byte(kind).ok_or_else(|| is.damage("its kind is not known"))?;
    is.check(kind.has_level(level), "no page of its kind has its level")?;
    let compression = match flags & 3 {
        0 => Compression::None,
        1 => Compression::Lz4,
        2 => Compression::Zstd,
        _ => return Err(is.damage("its compression is not known")),
    };
    let bit = |bit: u8| flags >> bit & 1 != 0;
    is.check(!bit(6) && !bit(7) && zero == 0, "it has flags that are not known")?;
    let flags = PageFlags { changes: bit(2), numbered: bit(3), references: bit(4), moved_versions: bit(5) };
    let has_entries = matches!(kind, PageKind::Leaf | PageKind::Run);
    is.check(has_entries || newest == 0, "it has a write number and no entries")?;
    let longest = if kind.has_image() { MAX_CONTENT_BYTES } else { MAX_PAGE_BYTES };
    let lengths_fit = match compression {
        Compression::None => content_len == stored_len,
        Compression::Lz4 | Compression::Zstd => stored_len < content_len && content_len <= longest,
    };
    is.check(lengths_fit, "the length of its content cannot be right")?;
    let header =
        PageHeader { kind, level, compression, flags, page, bundle, newest, tree, earliest_expiry_seconds };
    Ok(Page { header, checksum: sum, stored, content_len, place })
}

impl<'a> Page<'a> {
    /// Checks that this is the page that a reference means. (Kind and level first: a reference to a
    /// leaf that leads to an inner page is the more telling.)
    ///
    /// # Errors
    ///
    /// That it is another page.
    pub(in crate::store) fn check(&self, wanted: &PageIdentity) -> Result<(), Damage> {
        let is = Checker::new(Structure::Page, self.place.offset_bytes());
        let header = &self.header;
        let found = (header.kind, header.level);
        is.check(found == (wanted.kind, wanted.level), "a page of another kind or level lies in its place")?;
        is.check(header.page == wanted.page, "another page, or another state of it, lies in its place")?;
        is.check(header.tree == wanted.tree, "a page of another tree lies in its place")
    }

    /// The content of a page that the store itself made, which is never compressed, if it is this
    /// one, with this checksum.
    ///
    /// # Errors
    ///
    /// That it is another page.
    pub(in crate::store) fn content_of(
        self,
        structure: Structure,
        (kind, page): (PageKind, ChildWord),
        level: u8,
        checksum: u64,
    ) -> Result<&'a [u8], Damage> {
        let is = Checker::new(structure, self.place.offset_bytes());
        let wanted = PageHeader { bundle: self.header.bundle, ..PageHeader::plain(kind, level, page) };
        let found = self.header == wanted && self.checksum == checksum;
        is.check(found, "another page, or an older one, lies in its place")?;
        Ok(self.stored)
    }
}
