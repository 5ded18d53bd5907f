//! The header in front of every page (disk format 2, section 7.6).
//!
//! The design has kind, level and flags at offset 4 and the stored length at 40; the checksum
//! covers bytes 16 to the end. So a flipped bit in kind, level or flags would go unnoticed. Here
//! the two fields have changed places: a wrong length is noticed by the checksum over it.

use super::damage::{Checker, Damage, Structure};
use super::geometry::GRANULE_BYTES;
use super::word::{ChildWord, ColdWord, MAX_PAGE_BYTES};
use crate::store::codec::{Reader, checksum, to_u32};

/// The length of the header, in bytes.
pub(super) const PAGE_HEADER_BYTES: usize = 64;
/// The longest content, stored or not, in bytes.
pub(super) const MAX_CONTENT_BYTES: usize = MAX_PAGE_BYTES - PAGE_HEADER_BYTES;
const MAGIC: [u8; 4] = *b"bPG2";

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum PageKind {
    Leaf = 1,
    Inner = 2,
    Run = 3,
    Filter = 4,
    Value = 5,
    ValueIndex = 6,
    Map = 7,
    SegmentTable = 8,
    SegmentTableIndex = 9,
}

impl PageKind {
    const ALL: [Self; 9] = [
        Self::Leaf,
        Self::Inner,
        Self::Run,
        Self::Filter,
        Self::Value,
        Self::ValueIndex,
        Self::Map,
        Self::SegmentTable,
        Self::SegmentTableIndex,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// How the content is stored.
pub(super) const COMPRESSION: u8 = 0b11;
/// Flags that say something about the content.
pub(super) const KNOWN_FLAGS: u8 = 0b11_1111;

/// What the header says, but for the magic, the checksum, the lengths and the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) kind: PageKind,
    /// Inner pages from 1, the map from 0, others 0.
    pub(super) level: u8,
    pub(super) flags: u8,
    /// The page's id and epoch; of map pages index and level, of table pages their index.
    pub(super) page: ChildWord,
    /// The number of its bundle.
    pub(super) bundle: u64,
    /// Leaves: the image has every write up to here. Runs: their newest write.
    pub(super) complete_to: u64,
    pub(super) tree: u32,
    /// Seconds since 1970, 0 for none.
    pub(super) earliest_expiry: u32,
}

impl PageHeader {
    /// The header of a page without a tree.
    pub(super) fn plain(kind: PageKind, level: u8, page: ChildWord, bundle: u64) -> Self {
        Self { kind, level, flags: 0, page, bundle, complete_to: 0, tree: 0, earliest_expiry: 0 }
    }

    /// Writes header and content to the front of `out`, and zeros behind them, up to a granule;
    /// `content_len` is the length before compression. Returns the checksum.
    ///
    /// # Panics
    ///
    /// If `out` is too short: it has [`stored_granules`] of `stored`.
    pub(super) fn write(&self, store: &[u8; 16], stored: &[u8], content_len: usize, out: &mut [u8]) -> u64 {
        let out = &mut out[..stored_granules(stored.len()) as usize * GRANULE_BYTES];
        let (header, content) = out.split_at_mut(PAGE_HEADER_BYTES);
        header[..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&to_u32(stored.len()).to_le_bytes());
        header[16..24].copy_from_slice(&self.page.0.to_le_bytes());
        header[24..32].copy_from_slice(&self.bundle.to_le_bytes());
        header[32..40].copy_from_slice(&self.complete_to.to_le_bytes());
        header[40..44].copy_from_slice(&[self.kind as u8, self.level, self.flags, 0]);
        header[44..48].copy_from_slice(&to_u32(content_len).to_le_bytes());
        header[48..52].copy_from_slice(&self.tree.to_le_bytes());
        header[52..56].copy_from_slice(&self.earliest_expiry.to_le_bytes());
        header[56..64].copy_from_slice(&store[..8]);
        content[..stored.len()].copy_from_slice(stored);
        content[stored.len()..].fill(0);
        let sum = checksum(&out[16..PAGE_HEADER_BYTES + stored.len()]);
        out[8..16].copy_from_slice(&sum.to_le_bytes());
        sum
    }
}

/// The granules that a page takes whose content is `stored` bytes long.
pub(super) fn stored_granules(stored: usize) -> u32 {
    to_u32((PAGE_HEADER_BYTES + stored).div_ceil(GRANULE_BYTES))
}

/// A page as it was read.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) header: PageHeader,
    pub(super) checksum: u64,
    /// As stored, perhaps compressed.
    pub(super) stored: &'a [u8],
    /// The length of the content when it is not compressed, in bytes.
    pub(super) content_len: usize,
}

/// Parses the page at the front of `bytes`, which were read from `place`, of the store `store`.
///
/// That the page is the one that was meant (kind, level, id, epoch, checksum) is for the caller to
/// check: [`Page::is`].
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn parse<'a>(bytes: &'a [u8], place: ColdWord, store: &[u8; 16]) -> Result<Page<'a>, Damage> {
    let is = Checker::new(Structure::Page, place.offset());
    let bytes = is.some(bytes.get(..place.len_bytes()))?;
    let reader = &mut Reader::new(bytes);
    is.check(is.some(reader.bytes(4))? == MAGIC, "there is no page of a boson store")?;
    let stored_len = is.some(reader.u32())? as usize;
    let sum = is.some(reader.u64())?;
    let page = ChildWord(is.some(reader.u64())?);
    let (bundle, complete_to) = (is.some(reader.u64())?, is.some(reader.u64())?);
    let (kind, level) = (is.some(reader.u8())?, is.some(reader.u8())?);
    let (flags, zero) = (is.some(reader.u8())?, is.some(reader.u8())?);
    let content_len = is.some(reader.u32())? as usize;
    let (tree, earliest_expiry) = (is.some(reader.u32())?, is.some(reader.u32())?);
    let owner = is.some(reader.bytes(8))?;
    is.check(stored_len <= MAX_CONTENT_BYTES, "it is longer than a page can be")?;
    is.check(stored_granules(stored_len) == place.granules(), "its length is not that of its reference")?;
    let stored = is.some(reader.bytes(stored_len))?;
    is.check(sum == checksum(&bytes[16..PAGE_HEADER_BYTES + stored_len]), "its checksum is wrong")?;
    is.check(owner == &store[..8], "it belongs to another store")?;
    let kind = is.some(PageKind::from_byte(kind)).map_err(|_| is.damage("its kind is not known"))?;
    is.check(flags & !KNOWN_FLAGS == 0 && zero == 0, "it has flags that are not known")?;
    let lengths_fit = match flags & COMPRESSION {
        0 => content_len == stored_len,
        1 | 2 => content_len <= MAX_CONTENT_BYTES,
        _ => false,
    };
    is.check(lengths_fit, "the length of its content cannot be right")?;
    let header = PageHeader { kind, level, flags, page, bundle, complete_to, tree, earliest_expiry };
    Ok(Page { header, checksum: sum, stored, content_len })
}

impl<'a> Page<'a> {
    /// The content of a page that the store itself made, which is never compressed, if it is of
    /// this kind and place in its structure and has this checksum.
    ///
    /// # Errors
    ///
    /// That it is another page.
    pub(super) fn is(
        self,
        structure: Structure,
        place: ColdWord,
        wanted: (PageKind, u8, ChildWord, u64),
    ) -> Result<&'a [u8], Damage> {
        let is = Checker::new(structure, place.offset());
        let header = &self.header;
        let found = (header.kind, header.level, header.page, self.checksum);
        is.check(found == wanted, "another page, or an older one, lies in its place")?;
        is.check(header.flags == 0, "it has flags that no such page has")?;
        Ok(self.stored)
    }
}
