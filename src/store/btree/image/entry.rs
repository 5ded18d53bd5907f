//! The entries of a leaf.
//!
//! | size | field |
//! |---|---|
//! | | the key after prefix and head (nothing if it ends there) |
//! | 1 | bits 0 and 1 kind (0 value, 1 value reference, 2 deleted); bit 2 has a write number; bit 3 expires; bits 4 to 7 zero |
//! | 1 to 3 | length of the value, LEB128 in its shortest form (kind 0 only) |
//! | 0 or 8 | write number |
//! | 0 or 6 | when it expires, ms since 1970 |
//! | | the value, or a value reference (24) |
//!
//! The key's rest comes first, so a search compares it without decoding what stands before it.

use super::damage::{Damage, MAX_LEAF_VALUE_BYTES, check};
use super::key::KeyParts;
use super::search::put;
use crate::store::codec::Reader;

pub(crate) const VALUE_REFERENCE_BYTES: usize = 24;
const NUMBERED: u8 = 1 << 2;
const EXPIRES: u8 = 1 << 3;
const NUMBER_BYTES: usize = 8;
const EXPIRY_BYTES: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Value = 0,
    /// The value lies in pages of its own; the entry has a [`ValueReference`].
    Reference = 1,
    /// The key is not there from this version on. It has no value and does not expire.
    Deleted = 2,
}

/// A version of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) kind: EntryKind,
    /// The number of its write; `None` if every reader sees it.
    pub(crate) number: Option<u64>,
    /// In ms since 1970, below 2^48.
    pub(crate) expiry_ms: Option<u64>,
    pub(crate) key: KeyParts<'a>,
    /// Of a reference its 24 bytes.
    pub(crate) value: &'a [u8],
}

/// Where a value is that does not lie with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueReference {
    /// The number of the value, from 1 on.
    pub(crate) value: u64,
    /// In bytes.
    pub(crate) len: u64,
    /// Of the whole value.
    pub(crate) checksum: u64,
}

impl ValueReference {
    pub(crate) fn encode(&self) -> [u8; VALUE_REFERENCE_BYTES] {
        let mut bytes = [0; VALUE_REFERENCE_BYTES];
        put(&mut bytes, 0, &self.value.to_le_bytes());
        put(&mut bytes, 8, &self.len.to_le_bytes());
        put(&mut bytes, 16, &self.checksum.to_le_bytes());
        bytes
    }

    /// `None` if these are no 24 bytes, or name no value.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(bytes);
        let reference = Self { value: fields.u64()?, len: fields.u64()?, checksum: fields.u64()? };
        (fields.is_empty() && reference.value != 0).then_some(reference)
    }
}

/// An entry without its key.
pub(super) struct Body<'a> {
    pub(super) kind: EntryKind,
    pub(super) number: Option<u64>,
    pub(super) expiry_ms: Option<u64>,
    pub(super) value: &'a [u8],
}

impl<'a> Body<'a> {
    /// What follows the key's rest at `at` in `content`, and where it ends. Total.
    #[inline]
    pub(super) fn decode(content: &'a [u8], at: usize) -> Option<(Self, usize)> {
        let mut rest = content.get(at..)?;
        let [flags] = take(&mut rest)?;
        let (kind, len) = match flags & 3 {
            0 => (EntryKind::Value, take_len(&mut rest)?),
            1 => (EntryKind::Reference, VALUE_REFERENCE_BYTES),
            2 => (EntryKind::Deleted, 0),
            _ => return None,
        };
        let number = match flags & NUMBERED {
            0 => None,
            _ => Some(u64::from_le_bytes(take(&mut rest)?)),
        };
        let expiry_ms = match flags & EXPIRES {
            0 => None,
            _ => {
                let [a, b, c, d, e, f] = take::<EXPIRY_BYTES>(&mut rest)?;
                Some(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
            }
        };
        let (value, after) = rest.split_at_checked(len)?;
        Some((Self { kind, number, expiry_ms, value }, content.len() - after.len()))
    }

    /// Checks what [`Body::decode`] takes as it is. The flags are at `at`.
    pub(super) fn check(&self, content: &[u8], at: usize) -> Result<(), Damage> {
        check(content[at] >> 4 == 0, at, "unknown flags of an entry")?;
        let expires = self.expiry_ms.is_some();
        match self.kind {
            EntryKind::Value => check(self.value.len() <= MAX_LEAF_VALUE_BYTES, at, "a value is too long"),
            EntryKind::Deleted => check(!expires, at, "a deleted entry expires"),
            EntryKind::Reference => {
                let reference = ValueReference::decode(self.value);
                check(reference.is_some(), at, "a value reference names no value")
            }
        }
    }
}

#[inline]
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (front, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*front)
}

/// A length of 3 bytes at most, in its shortest form.
#[inline]
fn take_len(rest: &mut &[u8]) -> Option<usize> {
    let [first] = take(rest)?;
    if first < 0x80 {
        return Some(first.into());
    }
    let mut len = usize::from(first & 0x7f);
    for shift in [7, 14] {
        let [byte] = take(rest)?;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return (byte != 0).then_some(len);
        }
    }
    None
}

fn len_bytes(len: usize) -> usize {
    match len {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => 3,
    }
}

impl Entry<'_> {
    fn has_len(&self) -> bool {
        self.kind == EntryKind::Value
    }

    /// What the entry takes after its key's rest, in bytes.
    pub(super) fn body_bytes(&self) -> usize {
        let len = if self.has_len() { len_bytes(self.value.len()) } else { 0 };
        let number = if self.number.is_some() { NUMBER_BYTES } else { 0 };
        let expiry = if self.expiry_ms.is_some() { EXPIRY_BYTES } else { 0 };
        1 + len + number + expiry + self.value.len()
    }

    /// Writes what follows the key's rest at `at`, and returns where it ends.
    pub(super) fn write_body(&self, out: &mut [u8], mut at: usize) -> usize {
        let numbered = if self.number.is_some() { NUMBERED } else { 0 };
        let expires = if self.expiry_ms.is_some() { EXPIRES } else { 0 };
        out[at] = self.kind as u8 | numbered | expires;
        at += 1;
        match u8::try_from(self.value.len()) {
            _ if !self.has_len() => {}
            // Most are that short.
            Ok(len @ ..0x80) => {
                out[at] = len;
                at += 1;
            }
            _ => {
                let bytes = to_leb128(self.value.len());
                for byte in &bytes[..len_bytes(self.value.len())] {
                    out[at] = *byte;
                    at += 1;
                }
            }
        }
        if let Some(number) = self.number {
            put(out, at, &number.to_le_bytes());
            at += NUMBER_BYTES;
        }
        if let Some(expiry_ms) = self.expiry_ms {
            put(out, at, &expiry_ms.to_le_bytes()[..EXPIRY_BYTES]);
            at += EXPIRY_BYTES;
        }
        put(out, at, self.value);
        at + self.value.len()
    }
}

/// As many of the three bytes count as [`len_bytes`] says.
fn to_leb128(len: usize) -> [u8; 3] {
    let count = len_bytes(len);
    let mut bytes = [0; 3];
    for (index, byte) in bytes.iter_mut().enumerate().take(count) {
        let low = len >> (7 * index) & 0x7f;
        let more = if index + 1 < count { 0x80 } else { 0 };
        *byte = u8::try_from(low | more).expect("8 bits are left");
    }
    bytes
}
