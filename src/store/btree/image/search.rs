//! The sorted keys of an image, and how one is found among them.
//!
//! The keys share a prefix. Of each key the 4 bytes after it are its **head**, kept as a number in
//! an array of their own; its **slot** says where the rest is and how long the key is:
//!
//! | bytes | |
//! |---|---|
//! | *p* | the prefix, padded with zeros to a multiple of 4 |
//! | 4 *n* | heads, little endian numbers whose highest byte is the first of the four |
//! | 4 *n* | slots: offset in the content of the key's rest (2), length of the key after the prefix (2) |
//!
//! A key that ends within its head is padded with zeros there. Two keys with equal heads compare by
//! their rests and then by their lengths: if one ends within the head it is a prefix of the other.
//!
//! A search compares the prefix once, counts the smaller heads, and looks at whole keys among equal
//! heads only.

use std::cmp::Ordering;
use std::ops::Range;

use super::damage::{Damage, MAX_KEY_BYTES, check};
use super::key::{HEAD_BYTES, KeyParts};
use crate::store::codec::{compare, to_u16, to_usize};

/// The header of a leaf's or an inner page's image; the prefix follows.
pub(super) const IMAGE_HEADER_BYTES: usize = 16;
/// What a head and a slot take.
pub(super) const PER_KEY_BYTES: usize = HEAD_BYTES + 4;

/// As many heads as are counted instead of halved. To count is a loop without branches that
/// compilers make vector instructions of; its loads do not wait for each other, while each step of
/// a binary search waits for the line of the one before (`docs/experiments/leaf-layout.md`).
const COUNTED_HEADS: usize = 256;

/// Where a key is, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// The index of the first entry with the key.
    Found(usize),
    /// The index of the first entry with a larger key.
    Insert(usize),
}

/// A prefix, heads and slots in the content of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct SortedKeys<'a> {
    content: &'a [u8],
    prefix: &'a [u8],
    heads: &'a [[u8; HEAD_BYTES]],
    slots: &'a [[u8; 4]],
}

/// What is left of a key that begins with the prefix.
struct Sought<'k> {
    head: u32,
    rest: &'k [u8],
    len: usize,
}

/// What the prefix takes.
pub(super) fn padded(prefix_len: usize) -> usize {
    prefix_len.next_multiple_of(4)
}

impl<'a> SortedKeys<'a> {
    /// `count` keys that share a prefix of this length; `None` if they do not fit.
    #[inline]
    pub(super) fn locate(content: &'a [u8], prefix_len: usize, count: usize) -> Option<Self> {
        let prefix = content.get(IMAGE_HEADER_BYTES..IMAGE_HEADER_BYTES + prefix_len)?;
        let (words, _) = content.get(IMAGE_HEADER_BYTES + padded(prefix_len)..)?.as_chunks::<4>();
        Some(Self { content, prefix, heads: words.get(..count)?, slots: words.get(count..2 * count)? })
    }

    /// Checks padding, lengths and order. Entries begin at `from`; `entry_end` gets the offset of
    /// each entry and the length of the key's rest there, and says where the entry ends; it has to
    /// refuse what does not fit. Keys may be `repeated`. Returns the end of the last entry.
    pub(super) fn parse(
        &self,
        from: usize,
        repeated: bool,
        mut entry_end: impl FnMut(usize, usize) -> Result<usize, Damage>,
    ) -> Result<usize, Damage> {
        let at = IMAGE_HEADER_BYTES;
        let heads_at = at + padded(self.prefix.len());
        let padding = &self.content[at + self.prefix.len()..heads_at];
        check(padding.iter().all(|&byte| byte == 0), at, "the padding of the prefix is not zero")?;
        check(self.len() > 0 || self.prefix.is_empty(), at, "there is a prefix of no keys")?;
        let slots_at = heads_at + HEAD_BYTES * self.len();
        let mut end = from;
        for index in 0..self.len() {
            let slot_at = slots_at + 4 * index;
            let (offset, len) = self.slot(index);
            check(self.prefix.len() + len <= MAX_KEY_BYTES, slot_at, "a key is too long")?;
            check(offset == end, slot_at, "an entry does not follow the one before")?;
            end = entry_end(offset, len.saturating_sub(HEAD_BYTES))?;
            let padding = self.head(index).to_be_bytes();
            let padding = &padding[len.min(HEAD_BYTES)..];
            check(
                padding.iter().all(|&byte| byte == 0),
                heads_at + 4 * index,
                "a head is longer than its key",
            )?;
            if index > 0 {
                let order = self.order(index - 1, index);
                let ascends = order == Ordering::Less || (repeated && order == Ordering::Equal);
                check(ascends, heads_at + 4 * index, "keys do not ascend")?;
            }
        }
        Ok(end)
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(super) fn prefix_len(&self) -> usize {
        self.prefix.len()
    }

    #[inline]
    pub(super) fn head(&self, index: usize) -> u32 {
        u32::from_le_bytes(self.heads[index])
    }

    /// The offset of the key's rest, and the length of the key after the prefix.
    #[inline]
    pub(super) fn slot(&self, index: usize) -> (usize, usize) {
        let [a, b, c, d] = self.slots[index];
        (u16::from_le_bytes([a, b]).into(), u16::from_le_bytes([c, d]).into())
    }

    #[inline]
    fn rest(&self, index: usize) -> &'a [u8] {
        let (offset, len) = self.slot(index);
        &self.content[offset..offset + len.saturating_sub(HEAD_BYTES)]
    }

    pub(super) fn key(&self, index: usize) -> KeyParts<'a> {
        let (_, len) = self.slot(index);
        KeyParts::new(self.prefix, self.head(index).to_be_bytes(), len, self.rest(index))
    }

    /// How the keys at two indices compare.
    pub(super) fn order(&self, a: usize, b: usize) -> Ordering {
        let heads = self.head(a).cmp(&self.head(b));
        heads.then_with(|| self.rest(a).cmp(self.rest(b))).then_with(|| self.slot(a).1.cmp(&self.slot(b).1))
    }

    /// The index of the first key that is not smaller, and whether it is this one.
    #[inline]
    pub(super) fn position(&self, key: &[u8]) -> Position {
        let sought = match self.strip(key) {
            Ok(sought) => sought,
            Err(index) => return Position::Insert(index),
        };
        let first = first_head(self.heads, sought.head);
        if first == self.len() || self.head(first) != sought.head {
            return Position::Insert(first);
        }
        match self.compare(first, &sought) {
            Ordering::Equal => Position::Found(first),
            Ordering::Greater => Position::Insert(first),
            Ordering::Less => self.position_among(first + 1, &sought),
        }
    }

    /// `position`, from index `from` on, whose head may be the one that is sought.
    #[cold]
    fn position_among(&self, from: usize, sought: &Sought<'_>) -> Position {
        let equal = self.equal_heads(from, sought.head);
        let index = self.partition(equal, |index| self.compare(index, sought) == Ordering::Less);
        let found = index < self.len()
            && self.head(index) == sought.head
            && self.compare(index, sought) == Ordering::Equal;
        if found { Position::Found(index) } else { Position::Insert(index) }
    }

    /// The index of the first key that is larger.
    #[inline]
    pub(super) fn upper_bound(&self, key: &[u8]) -> usize {
        let sought = match self.strip(key) {
            Ok(sought) => sought,
            Err(index) => return index,
        };
        let first = first_head(self.heads, sought.head);
        if first == self.len() || self.head(first) != sought.head {
            return first;
        }
        let equal = self.equal_heads(first, sought.head);
        self.partition(equal, |index| self.compare(index, &sought) != Ordering::Greater)
    }

    /// `key` after the prefix; if it does not begin with it, the index at which it would be.
    #[inline]
    fn strip<'k>(&self, key: &'k [u8]) -> Result<Sought<'k>, usize> {
        let after = match key.split_at_checked(self.prefix.len()) {
            Some((front, after)) if front == self.prefix => after,
            // A key that ends within the prefix is smaller than it.
            _ => return Err(if key < self.prefix { 0 } else { self.len() }),
        };
        Ok(match after.split_first_chunk::<HEAD_BYTES>() {
            Some((head, rest)) => Sought { head: u32::from_be_bytes(*head), rest, len: after.len() },
            None => {
                let mut head = [0; HEAD_BYTES];
                head[..after.len()].copy_from_slice(after);
                Sought { head: u32::from_be_bytes(head), rest: &[], len: after.len() }
            }
        })
    }

    /// How the key at `index` compares with one of the same head.
    #[inline]
    fn compare(&self, index: usize, sought: &Sought<'_>) -> Ordering {
        let (offset, len) = self.slot(index);
        let rest = &self.content[offset..offset + len.saturating_sub(HEAD_BYTES)];
        compare(rest, sought.rest).then(len.cmp(&sought.len))
    }

    /// The indices from `from` on whose head is this one.
    fn equal_heads(&self, from: usize, head: u32) -> Range<usize> {
        let after = head.checked_add(1).map_or(self.len(), |next| first_head(self.heads, next));
        from..after.max(from)
    }

    /// The first index in `range` of which `before` is not true, if it is true of a part at the
    /// front.
    fn partition(&self, range: Range<usize>, before: impl Fn(usize) -> bool) -> usize {
        let (mut from, mut to) = (range.start, range.end);
        while from < to {
            let middle = from + (to - from) / 2;
            if before(middle) { from = middle + 1 } else { to = middle }
        }
        from
    }
}

/// The index of the first head that is not smaller.
#[inline]
pub(super) fn first_head(heads: &[[u8; HEAD_BYTES]], head: u32) -> usize {
    let smaller = |other: &[u8; HEAD_BYTES]| u32::from_le_bytes(*other) < head;
    let mut heads = heads;
    let mut before = 0;
    while heads.len() > COUNTED_HEADS {
        let (front, back) = heads.split_at(heads.len() / 2);
        let in_back = smaller(&back[0]);
        before += if in_back { front.len() } else { 0 };
        heads = if in_back { back } else { front };
    }
    let counted: u32 = heads.iter().map(|other| u32::from(smaller(other))).sum();
    before + to_usize(counted.into())
}

/// Writes prefix, heads and slots of keys that come in their order.
pub(super) struct KeyWriter<'a> {
    prefix_len: usize,
    heads_at: usize,
    slots_at: usize,
    written: usize,
    before: Option<(u32, KeyParts<'a>)>,
}

impl<'a> KeyWriter<'a> {
    /// For `count` keys, the first of which is `first`, that share `prefix_len` bytes.
    pub(super) fn new(out: &mut [u8], first: Option<&KeyParts<'_>>, prefix_len: usize, count: usize) -> Self {
        let at = IMAGE_HEADER_BYTES;
        let heads_at = at + padded(prefix_len);
        if let Some(first) = first {
            first.copy_from(0, &mut out[at..at + prefix_len]);
        }
        out[at + prefix_len..heads_at].fill(0);
        Self { prefix_len, heads_at, slots_at: heads_at + HEAD_BYTES * count, written: 0, before: None }
    }

    /// What the key's rest takes.
    pub(super) fn rest_bytes(key: &KeyParts<'_>, prefix_len: usize) -> usize {
        key.len().saturating_sub(prefix_len + HEAD_BYTES)
    }

    /// Writes the next key, its rest at `offset`. Returns where that ends, and whether the key is
    /// larger than the one before; a smaller one is a defect of the caller.
    pub(super) fn write(&mut self, out: &mut [u8], key: KeyParts<'a>, offset: usize) -> (usize, bool) {
        let head = u32::from_be_bytes(key.head_at(self.prefix_len));
        let order = self.check_order(head, &key);
        self.before = Some((head, key));
        put(out, self.heads_at + 4 * self.written, &head.to_le_bytes());
        let slot_at = self.slots_at + 4 * self.written;
        put(out, slot_at, &to_u16(offset).to_le_bytes());
        put(out, slot_at + 2, &to_u16(key.len() - self.prefix_len).to_le_bytes());
        self.written += 1;
        let end = offset + Self::rest_bytes(&key, self.prefix_len);
        key.copy_from(self.prefix_len + HEAD_BYTES, &mut out[offset..end]);
        (end, order.is_lt())
    }

    /// Writes a row of keys of an image with the same prefix, whose entries were copied to `offset`
    /// as they lie there.
    pub(super) fn write_row(
        &mut self,
        out: &mut [u8],
        keys: &SortedKeys<'a>,
        row: Range<usize>,
        offset: usize,
    ) {
        let Some(last) = row.clone().last() else { return };
        self.check_order(keys.head(row.start), &keys.key(row.start));
        self.before = Some((keys.head(last), keys.key(last)));
        let in_row = |at: usize| at + 4 * self.written..at + 4 * (self.written + row.len());
        out[in_row(self.heads_at)].copy_from_slice(keys.heads[row.clone()].as_flattened());
        // The offset is the lower half of a slot.
        let moved = u32::from(to_u16(offset)).wrapping_sub(u32::from(to_u16(keys.slot(row.start).0)));
        let (slots, _) = out[in_row(self.slots_at)].as_chunks_mut::<4>();
        for (slot, before) in slots.iter_mut().zip(&keys.slots[row.clone()]) {
            let before = u32::from_le_bytes(*before);
            let moved = before.wrapping_add(moved) & 0xffff;
            *slot = (before & !0xffff | moved).to_le_bytes();
        }
        self.written += row.len();
    }

    /// How the last key that was written compares with the next one, which has this head. That it
    /// is not larger is checked.
    fn check_order(&self, head: u32, key: &KeyParts<'_>) -> Ordering {
        let order = self.before.map_or(Ordering::Less, |(before_head, before)| {
            let order = before_head.cmp(&head).then_with(|| before.compare(key));
            debug_assert_eq!(order, before.compare(key), "keys do not share the prefix");
            order
        });
        assert!(order.is_le(), "keys do not ascend");
        order
    }
}

/// Overwrites the bytes at `at` with `bytes`.
pub(super) fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}
