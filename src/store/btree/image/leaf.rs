//! Leaf images (disk format, section 7).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | number of entries *n* |
//! | 2 | 2 | length of the prefix |
//! | 4 | 2 | offset of the section of changes, or 0 |
//! | 6 | 2 | offset where entries begin |
//! | 8 | 4 | sum of the lengths of live keys and of their values as they lie in the leaf |
//! | 12 | 4 | number of live keys |
//! | 16 | | prefix, heads, slots (`search.rs`) |
//! | | | entries (`entry.rs`), one behind the other |
//! | | | the section of changes (`change.rs`) |
//!
//! A key is live if its newest version is not a deletion. Of one key several versions may follow
//! each other, the newest first: their write numbers descend, and the oldest may have none.

use std::cmp::Ordering;
use std::ops::Range;

use super::change::Changes;
use super::damage::{Damage, MAX_CONTENT_BYTES, check};
use super::entry::{Body, Entry, EntryKind};
use super::key::HEAD_BYTES;
use super::search::{IMAGE_HEADER_BYTES, PER_KEY_BYTES, Position, SortedKeys, padded, put};
use crate::store::codec::{to_u16, to_u32, u16_at};

/// What the smallest entry takes: an empty key that is deleted.
const MIN_ENTRY_BYTES: usize = PER_KEY_BYTES + 1;

/// A leaf over its bytes, which were verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafImage<'a> {
    content: &'a [u8],
    keys: SortedKeys<'a>,
}

/// What a leaf says of its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeafSummary {
    pub(crate) live_keys: u32,
    /// Lengths of live keys and of their newest values as they lie in the leaf.
    pub(crate) live_bytes: u32,
    /// Some entry has a write number.
    pub(crate) numbered: bool,
    /// Some entry is a value reference.
    pub(crate) references: bool,
    /// In ms since 1970.
    pub(crate) earliest_expiry_ms: Option<u64>,
}

/// The header of a leaf's image.
pub(super) struct LeafHeader {
    pub(super) count: usize,
    pub(super) prefix_len: usize,
    /// 0 if there are none.
    pub(super) changes_at: usize,
    pub(super) entries_at: usize,
    pub(super) live_bytes: u32,
    pub(super) live_keys: u32,
}

impl LeafHeader {
    pub(super) fn write(&self, out: &mut [u8]) {
        for (at, field) in [(0, self.count), (2, self.prefix_len), (4, self.changes_at), (6, self.entries_at)]
        {
            put(out, at, &to_u16(field).to_le_bytes());
        }
        put(out, 8, &self.live_bytes.to_le_bytes());
        put(out, 12, &self.live_keys.to_le_bytes());
    }
}

impl LeafSummary {
    /// Adds an entry; `first` says that it is the newest version of its key.
    pub(super) fn add(&mut self, entry: &Entry<'_>, first: bool) {
        if first && entry.kind != EntryKind::Deleted {
            self.live_keys += 1;
            self.live_bytes += to_u32(entry.key.len() + entry.value.len());
        }
        self.numbered |= entry.number.is_some();
        self.references |= entry.kind == EntryKind::Reference;
        self.earliest_expiry_ms = match (self.earliest_expiry_ms, entry.expiry_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl<'a> LeafImage<'a> {
    /// Checks everything that `content`, a page after its header, has to be, once. Total: what is
    /// no leaf is refused with the reason.
    pub(crate) fn parse(content: &'a [u8]) -> Result<Self, Damage> {
        let sizes = (IMAGE_HEADER_BYTES..=MAX_CONTENT_BYTES).contains(&content.len());
        check(sizes, 0, "no leaf has this length")?;
        let count = usize::from(u16_at(content, 0));
        check(count <= content.len() / MIN_ENTRY_BYTES, 0, "more entries than there is room for")?;
        let image = Self::locate(content).ok_or(Damage::new(2, "prefix and heads do not fit"))?;
        let entries_at = usize::from(u16_at(content, 6));
        let expected = IMAGE_HEADER_BYTES + padded(image.prefix_len()) + PER_KEY_BYTES * count;
        check(entries_at == expected, 6, "entries do not begin behind the slots")?;
        let end = image.entries_end();
        check((entries_at..=content.len()).contains(&end), 4, "changes begin outside of the image")?;
        check((end == content.len()) == (u16_at(content, 4) == 0), 4, "there are no changes")?;
        let entry_end = |offset: usize, rest_len: usize| {
            let at = offset + rest_len;
            let (body, end) =
                Body::decode(&content[..end], at).ok_or(Damage::new(offset, "an entry does not fit"))?;
            body.check(content, at)?;
            Ok(end)
        };
        let entries_end = image.keys.parse(entries_at, true, entry_end)?;
        check(entries_end == end, end, "there is something behind the last entry")?;
        image.check_versions()?;
        let summary = image.summary();
        check(u32_at(content, 8) == summary.live_bytes, 8, "the live bytes are not those of the entries")?;
        check(u32_at(content, 12) == summary.live_keys, 12, "the live keys are not those of the entries")?;
        Changes::parse(&content[end..], end)?;
        Ok(image)
    }

    /// The leaf in bytes that [`LeafImage::parse`] accepted before, or a builder wrote: without a
    /// look at them. Of other bytes it may panic, now or later.
    #[inline]
    pub(crate) fn of_verified(content: &'a [u8]) -> Self {
        Self::locate(content).expect("the image was verified")
    }

    #[inline]
    fn locate(content: &'a [u8]) -> Option<Self> {
        let header = content.first_chunk::<IMAGE_HEADER_BYTES>()?;
        let (count, prefix_len) = (u16_at(header, 0).into(), u16_at(header, 2).into());
        let keys = SortedKeys::locate(content, prefix_len, count)?;
        Some(Self { content, keys })
    }

    fn check_versions(&self) -> Result<(), Damage> {
        for index in 1..self.len() {
            let same = self.keys.order(index - 1, index) == Ordering::Equal;
            let descends = || match (self.get(index - 1).number, self.get(index).number) {
                (Some(newer), Some(older)) => newer > older,
                (newer, _) => newer.is_some(),
            };
            check(!same || descends(), self.keys.slot(index).0, "the newest version is not the first")?;
        }
        Ok(())
    }

    pub(super) fn prefix_len(&self) -> usize {
        u16_at(self.content, 2).into()
    }

    pub(super) fn keys(&self) -> &SortedKeys<'a> {
        &self.keys
    }

    /// Where the entry at `index` begins; of `len` where the last one ends.
    pub(super) fn offset(&self, index: usize) -> usize {
        if index < self.len() { self.keys.slot(index).0 } else { self.entries_end() }
    }

    /// Lengths of live keys and of their values as they lie in the leaf.
    pub(super) fn live_bytes(&self) -> u32 {
        u32_at(self.content, 8)
    }

    fn entries_end(&self) -> usize {
        match u16_at(self.content, 4) {
            0 => self.content.len(),
            at => at.into(),
        }
    }

    /// The number of entries; versions of one key count each.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The whole image.
    pub(crate) fn content(&self) -> &'a [u8] {
        self.content
    }

    /// Where `key` is, or would be. Of several versions the newest is found.
    #[inline]
    pub(crate) fn search(&self, key: &[u8]) -> Position {
        self.keys.position(key)
    }

    /// The newest version of `key`.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Option<Entry<'a>> {
        match self.search(key) {
            Position::Found(index) => Some(self.get(index)),
            Position::Insert(_) => None,
        }
    }

    /// Whether each entry is a live key: there are no older versions, and no deletions.
    pub(crate) fn is_plain(&self) -> bool {
        to_u32(self.len()) == u32_at(self.content, 12)
    }

    /// The index behind the versions of a key, of which the first is at `index`.
    pub(crate) fn behind_versions(&self, index: usize) -> usize {
        let mut behind = index + 1;
        while behind < self.len() && self.keys.order(index, behind) == Ordering::Equal {
            behind += 1;
        }
        behind
    }

    /// The index of the first entry whose key is not smaller.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Position::Found(index) | Position::Insert(index) => index,
        }
    }

    /// The index of the first entry whose key is larger.
    pub(crate) fn upper_bound(&self, key: &[u8]) -> usize {
        self.keys.upper_bound(key)
    }

    /// The entry at `index`, which is below `len`.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Entry<'a> {
        let (offset, len) = self.keys.slot(index);
        let at = offset + len.saturating_sub(HEAD_BYTES);
        let (body, _) = Body::decode(self.content, at).expect("the image was verified");
        let Body { kind, number, expiry_ms, value } = body;
        Entry { kind, number, expiry_ms, key: self.keys.key(index), value }
    }

    /// The entries at these indices, from either end.
    pub(crate) fn entries(
        &self,
        range: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = Entry<'a>> + ExactSizeIterator + Clone + 'a {
        let image = *self;
        range.map(move |index| image.get(index))
    }

    /// The changes of shape that are under way.
    pub(crate) fn changes(&self) -> Changes<'a> {
        Changes::new(&self.content[self.entries_end()..])
    }

    /// Walks all entries.
    pub(crate) fn summary(&self) -> LeafSummary {
        let mut summary = LeafSummary::default();
        for index in 0..self.len() {
            let first = index == 0 || self.keys.order(index - 1, index) != Ordering::Equal;
            summary.add(&self.get(index), first);
        }
        summary
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}
