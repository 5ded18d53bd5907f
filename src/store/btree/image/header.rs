//! The header in front of each page's content on the namespace (`docs/store-design.md`, 7.6).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | checksum of bytes 8 to the end of the content as stored |
//! | 8 | 4 | magic `62 50 47 32` (`bPG2`) |
//! | 12 | 1 | kind |
//! | 13 | 1 | level (inner pages from 1, map pages from 0, else 0) |
//! | 14 | 1 | flags: bits 0 and 1 compression (0 none, 1 lz4 block, 2 zstd frame); bit 2 has changes; bit 3 has numbered entries; bit 4 has value references; bit 5 older versions are in the history tree |
//! | 15 | 1 | zero |
//! | 16 | 8 | child word: the page's id and epoch (map pages: level and index) |
//! | 24 | 8 | number of its bundle |
//! | 32 | 8 | `complete_to` (leaves), newest write number (runs), else zero |
//! | 40 | 4 | length of the content as stored |
//! | 44 | 4 | length of the content |
//! | 48 | 4 | tree |
//! | 52 | 4 | earliest expiry, seconds since 1970, at least 1; 0 for none |
//! | 56 | 8 | identity of the store, its first 8 bytes |
//!
//! The checksum comes first and covers everything else: no flipped bit of a page goes unnoticed.

use super::damage::{Damage, MAX_CONTENT_BYTES, check};
use super::leaf::{LeafImage, LeafSummary};
use super::search::put;
use crate::store::btree::word::ChildWord;
use crate::store::codec::{Reader, checksum, to_u32};

pub(crate) const PAGE_HEADER_BYTES: usize = 64;
/// The longest page, its header included, and the longest content of one that has no image, in
/// bytes.
pub(crate) const MAX_PAGE_BYTES: usize = 64 << 10;
const MAGIC: [u8; 4] = *b"bPG2";
const CHECKED_FROM: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
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

    fn decode(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether its content is an image, the same in memory.
    fn has_image(self) -> bool {
        matches!(self, Self::Leaf | Self::Inner | Self::Run | Self::Filter)
    }
}

/// How the content is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None = 0,
    Lz4 = 1,
    Zstd = 2,
}

/// What the header says that nobody could tell from the rest of its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageFlags {
    pub(crate) changes: bool,
    pub(crate) numbered: bool,
    pub(crate) references: bool,
    /// Older versions of some key are in the history tree.
    pub(crate) moved_versions: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) kind: PageKind,
    pub(crate) level: u8,
    pub(crate) compression: Compression,
    pub(crate) flags: PageFlags,
    pub(crate) page: ChildWord,
    pub(crate) bundle: u64,
    /// Leaves: `complete_to`. Runs: the newest write number. Else zero.
    pub(crate) newest: u64,
    /// The length of the content once it is decompressed.
    pub(crate) content_bytes: u32,
    pub(crate) tree: u32,
    /// Since 1970; 0 for none.
    pub(crate) earliest_expiry_seconds: u32,
    /// The first bytes of the store's identity.
    pub(crate) identity: [u8; 8],
}

/// A page whose header and checksum are right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredPage<'a> {
    pub(crate) header: PageHeader,
    pub(crate) checksum: u64,
    /// As stored, perhaps compressed.
    pub(crate) content: &'a [u8],
}

impl PageHeader {
    /// Writes the header in front of the content: `page` is the header's 64 bytes and the content
    /// as stored. Returns the checksum.
    pub(crate) fn seal(&self, page: &mut [u8]) -> u64 {
        let stored_bytes = page.len() - PAGE_HEADER_BYTES;
        put(page, 8, &MAGIC);
        put(page, 12, &[self.kind as u8, self.level, self.flag_bits(), 0]);
        put(page, 16, &self.page.bits().to_le_bytes());
        put(page, 24, &self.bundle.to_le_bytes());
        put(page, 32, &self.newest.to_le_bytes());
        put(page, 40, &to_u32(stored_bytes).to_le_bytes());
        put(page, 44, &self.content_bytes.to_le_bytes());
        put(page, 48, &self.tree.to_le_bytes());
        put(page, 52, &self.earliest_expiry_seconds.to_le_bytes());
        put(page, 56, &self.identity);
        let checksum = checksum(&page[CHECKED_FROM..]);
        put(page, 0, &checksum.to_le_bytes());
        checksum
    }

    fn flag_bits(&self) -> u8 {
        let PageFlags { changes, numbered, references, moved_versions } = self.flags;
        self.compression as u8
            | u8::from(changes) << 2
            | u8::from(numbered) << 3
            | u8::from(references) << 4
            | u8::from(moved_versions) << 5
    }

    /// The page at the start of `bytes`, which may go on behind it. Total: checks the header by
    /// itself and the checksum. Whether it is the page that was looked for,
    /// [`PageHeader::check_identity`] says.
    pub(crate) fn decode(bytes: &[u8]) -> Result<StoredPage<'_>, Damage> {
        let short = Damage::new(0, "it is shorter than a page's header");
        let (header, rest) = bytes.split_at_checked(PAGE_HEADER_BYTES).ok_or(short)?;
        let (header, stored_bytes, expected) = Self::fields(header).ok_or(short)??;
        let stored_bytes = usize::try_from(stored_bytes).unwrap_or(usize::MAX);
        let content_bytes = usize::try_from(header.content_bytes).unwrap_or(usize::MAX);
        let max_bytes = if header.kind.has_image() { MAX_CONTENT_BYTES } else { MAX_PAGE_BYTES };
        check(content_bytes <= max_bytes, 44, "the content is longer than a page's")?;
        check(stored_bytes <= MAX_CONTENT_BYTES, 40, "the page is longer than 64 KiB")?;
        let lengths = match header.compression {
            Compression::None => stored_bytes == content_bytes,
            Compression::Lz4 | Compression::Zstd => stored_bytes < content_bytes,
        };
        check(lengths, 40, "the stored content has not the length that it should have")?;
        let content = rest.get(..stored_bytes).ok_or(Damage::new(40, "the page goes on beyond its end"))?;
        let checksum = checksum(&bytes[CHECKED_FROM..PAGE_HEADER_BYTES + stored_bytes]);
        check(checksum == expected, 0, "the checksum is not that of the page")?;
        Ok(StoredPage { header, checksum, content })
    }

    /// The fields, the length as stored and the checksum; `None` if there are fewer than 64 bytes.
    fn fields(header: &[u8]) -> Option<Result<(Self, u32, u64), Damage>> {
        let mut fields = Reader::new(header);
        let checksum = fields.u64()?;
        let magic = fields.bytes(4)?;
        let (kind, level, flags, zero) = (fields.u8()?, fields.u8()?, fields.u8()?, fields.u8()?);
        let page = ChildWord::from_bits(fields.u64()?);
        let (bundle, newest) = (fields.u64()?, fields.u64()?);
        let (stored_bytes, content_bytes) = (fields.u32()?, fields.u32()?);
        let (tree, earliest_expiry_seconds) = (fields.u32()?, fields.u32()?);
        let identity = fields.u64()?.to_le_bytes();
        let decoded = (|| {
            check(magic == MAGIC, 8, "it is no page")?;
            let kind = PageKind::decode(kind).ok_or(Damage::new(12, "unknown kind of page"))?;
            let levels = match kind {
                PageKind::Inner => level >= 1,
                PageKind::Map => level <= 3,
                _ => level == 0,
            };
            check(levels, 13, "no page of this kind has this level")?;
            let compression = match flags & 3 {
                0 => Compression::None,
                1 => Compression::Lz4,
                2 => Compression::Zstd,
                _ => return Err(Damage::new(14, "unknown compression")),
            };
            let bit = |bit: u8| flags >> bit & 1 != 0;
            let flags =
                PageFlags { changes: bit(2), numbered: bit(3), references: bit(4), moved_versions: bit(5) };
            check(!bit(6) && !bit(7) && zero == 0, 14, "unknown flags of a page")?;
            let is_entries = matches!(kind, PageKind::Leaf | PageKind::Run);
            check(is_entries || newest == 0, 32, "a page without entries has a write number")?;
            let header = Self {
                kind,
                level,
                compression,
                flags,
                page,
                bundle,
                newest,
                content_bytes,
                tree,
                earliest_expiry_seconds,
                identity,
            };
            Ok((header, stored_bytes, checksum))
        })();
        Some(decoded)
    }

    /// Checks that this is the page that a reference means.
    pub(crate) fn check_identity(&self, expected: &PageIdentity) -> Result<(), Damage> {
        check(self.identity == expected.store, 56, "the page is of another store")?;
        check(self.kind == expected.kind, 12, "the page is of another kind")?;
        check(self.level == expected.level, 13, "the page is of another level")?;
        check(self.page == expected.page, 16, "it is another page, or another state of it")?;
        check(self.tree == expected.tree, 48, "the page is of another tree")
    }

    /// Checks what the header says of a leaf against the leaf.
    pub(crate) fn check_leaf(&self, leaf: &LeafImage<'_>) -> Result<(), Damage> {
        let summary = leaf.summary();
        let flags = PageFlags {
            changes: !leaf.changes().section().is_empty(),
            numbered: summary.numbered,
            references: summary.references,
            moved_versions: self.flags.moved_versions,
        };
        check(self.flags == flags, 14, "the flags are not those of the leaf")?;
        let expiry = expiry_seconds(&summary);
        check(self.earliest_expiry_seconds == expiry, 52, "the earliest expiry is not that of the leaf")
    }
}

/// What whoever refers to a page knows of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageIdentity {
    pub(crate) kind: PageKind,
    pub(crate) level: u8,
    pub(crate) page: ChildWord,
    pub(crate) tree: u32,
    pub(crate) store: [u8; 8],
}

/// The header's field: the second in which the earliest expiry lies, at least 1 and as large as
/// 4 bytes allow; 0 for none.
pub(crate) fn expiry_seconds(summary: &LeafSummary) -> u32 {
    summary.earliest_expiry_ms.map_or(0, |ms| u32::try_from(ms / 1000).unwrap_or(u32::MAX).max(1))
}
