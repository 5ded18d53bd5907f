//! The operations of a record (disk format, section 10).
//!
//! Merges of values are reads and writes at write time, and are logged as puts: kind 3, which was
//! theirs, is refused.
//!
//! Decoding is total, allocates nothing, and takes only what encoding writes: a length in its
//! shortest form, flags only where they mean something, keys and names within their limits.

use crate::store::codec::{Reader, to_u32};
use crate::store::options::{MAX_KEY_BYTES, MAX_TREE_NAME_BYTES};

/// Expiries have 48 bits: ms since 1970.
const EXPIRY_BYTES: usize = 6;
const REFERENCE_BYTES: usize = 24;

const HAS_EXPIRY: u8 = 1 << 4;
/// Of a part, in place of that.
const IS_LAST: u8 = HAS_EXPIRY;
const EFFECT_SHIFT: u32 = 5;

/// What an operation did to the number of keys of its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Effect {
    None = 0,
    More = 1,
    Less = 2,
    Unknown = 3,
}

/// Where a value lies that is too long for the log: an opaque reference of 24 bytes.
pub(in crate::store) type ValueReference = [u8; REFERENCE_BYTES];

/// One operation of a record. `root` is a child word, `expiry` in ms since 1970, below 2^48.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Operation<'a> {
    /// The number is nobody's. The only operation of its record.
    Void,
    Put {
        tree: u32,
        effect: Effect,
        expiry: Option<u64>,
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        tree: u32,
        effect: Effect,
        key: &'a [u8],
    },
    PutReference {
        tree: u32,
        effect: Effect,
        expiry: Option<u64>,
        reference: ValueReference,
        key: &'a [u8],
    },
    /// The operations behind it belong to a group, and count as those of the group's last part. The
    /// first operation of its record, and not the only one.
    Part(Part),
    CreateTree {
        tree: u32,
        root: u64,
        options: u64,
        name: &'a str,
    },
    RemoveTree {
        tree: u32,
    },
    ClearTree {
        tree: u32,
        root: u64,
    },
    /// An empty `to` is no end.
    DeleteRange {
        tree: u32,
        from: &'a [u8],
        to: &'a [u8],
    },
    InstallTree {
        tree: u32,
        root: u64,
    },
}

/// One of the records that make a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Part {
    /// From the number of this record back to that of the group's first part; 0 in that.
    pub(in crate::store) back: u32,
    /// In the last part: how many there are, two at least.
    pub(in crate::store) parts: Option<u32>,
}

impl Part {
    /// No part has more bytes, operations left out.
    pub(in crate::store) const MAX_BYTES: usize = 11;

    fn is_possible(self) -> bool {
        self.parts.is_none_or(|parts| parts > 1 && self.back >= parts - 1)
    }
}

impl<'a> Operation<'a> {
    /// How many bytes [`Operation::encode`] writes.
    pub(in crate::store) fn encoded_len(&self) -> usize {
        let expiry = |expiry: &Option<u64>| if expiry.is_some() { EXPIRY_BYTES } else { 0 };
        1 + match self {
            Self::Void => 0,
            Self::Put { tree, expiry: e, key, value, .. } => {
                var_len(*tree) + text_len(key) + text_len(value) + expiry(e)
            }
            Self::Delete { tree, key, .. } => var_len(*tree) + text_len(key),
            Self::PutReference { tree, expiry: e, key, .. } => {
                var_len(*tree) + text_len(key) + expiry(e) + REFERENCE_BYTES
            }
            Self::Part(Part { back, parts }) => var_len(*back) + parts.map_or(0, var_len),
            Self::CreateTree { tree, name, .. } => var_len(*tree) + 16 + text_len(name.as_bytes()),
            Self::RemoveTree { tree } => var_len(*tree),
            Self::ClearTree { tree, .. } | Self::InstallTree { tree, .. } => var_len(*tree) + 8,
            Self::DeleteRange { tree, from, to } => var_len(*tree) + text_len(from) + text_len(to),
        }
    }

    /// Writes the operation to the front of `out`, and returns what is left of it.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than [`Operation::encoded_len`].
    pub(in crate::store) fn encode<'o>(&self, out: &'o mut [u8]) -> &'o mut [u8] {
        let mut out = Out { rest: out };
        match *self {
            Self::Void => out.u8(0),
            Self::Put { tree, effect, expiry, key, value } => {
                out.u8(1 | flags(effect, expiry));
                out.var(tree);
                out.var(to_u32(key.len()));
                out.var(to_u32(value.len()));
                out.expiry(expiry);
                out.bytes(key);
                out.bytes(value);
            }
            Self::Delete { tree, effect, key } => {
                out.u8(2 | flags(effect, None));
                out.var(tree);
                out.text(key);
            }
            Self::PutReference { tree, effect, expiry, reference, key } => {
                out.u8(4 | flags(effect, expiry));
                out.var(tree);
                out.var(to_u32(key.len()));
                out.expiry(expiry);
                out.bytes(&reference);
                out.bytes(key);
            }
            Self::Part(Part { back, parts }) => {
                out.u8(5 | if parts.is_some() { IS_LAST } else { 0 });
                out.var(back);
                if let Some(parts) = parts {
                    out.var(parts);
                }
            }
            Self::CreateTree { tree, root, options, name } => {
                out.u8(6);
                out.var(tree);
                out.u64(root);
                out.u64(options);
                out.text(name.as_bytes());
            }
            Self::RemoveTree { tree } => {
                out.u8(7);
                out.var(tree);
            }
            Self::ClearTree { tree, root } => {
                out.u8(8);
                out.var(tree);
                out.u64(root);
            }
            Self::DeleteRange { tree, from, to } => {
                out.u8(9);
                out.var(tree);
                out.var(to_u32(from.len()));
                out.var(to_u32(to.len()));
                out.bytes(from);
                out.bytes(to);
            }
            Self::InstallTree { tree, root } => {
                out.u8(10);
                out.var(tree);
                out.u64(root);
            }
        }
        out.rest
    }

    fn decode(reader: &mut Reader<'a>) -> Option<Self> {
        let head = reader.u8()?;
        let (kind, has_expiry) = (head & 0xf, head & HAS_EXPIRY != 0);
        let effect = match head >> EFFECT_SHIFT {
            0 => Effect::None,
            1 => Effect::More,
            2 => Effect::Less,
            3 => Effect::Unknown,
            _ => return None,
        };
        let flags_allowed = match kind {
            1 | 4 => true,
            2 => !has_expiry,
            5 => effect == Effect::None,
            _ => head == kind,
        };
        if !flags_allowed {
            return None;
        }
        let expiry = |reader: &mut Reader<'a>| {
            if !has_expiry {
                return Some(None);
            }
            let mut bytes = [0; 8];
            bytes[..EXPIRY_BYTES].copy_from_slice(reader.bytes(EXPIRY_BYTES)?);
            Some(Some(u64::from_le_bytes(bytes)))
        };
        Some(match kind {
            0 => Self::Void,
            1 => {
                let (tree, key_len, value_len) = (var(reader)?, key_len(reader)?, var(reader)?);
                let expiry = expiry(reader)?;
                let (key, value) = (reader.bytes(key_len)?, reader.bytes(value_len as usize)?);
                Self::Put { tree, effect, expiry, key, value }
            }
            2 => {
                let (tree, key_len) = (var(reader)?, key_len(reader)?);
                Self::Delete { tree, effect, key: reader.bytes(key_len)? }
            }
            4 => {
                let (tree, key_len, expiry) = (var(reader)?, key_len(reader)?, expiry(reader)?);
                let reference = reference(reader)?;
                Self::PutReference { tree, effect, expiry, reference, key: reader.bytes(key_len)? }
            }
            5 => {
                let back = var(reader)?;
                let parts = if head & IS_LAST == 0 { None } else { Some(var(reader)?) };
                Self::Part(Some(Part { back, parts }).filter(|part| part.is_possible())?)
            }
            6 => {
                let (tree, root, options) = (var(reader)?, reader.u64()?, reader.u64()?);
                let len = Some(var(reader)? as usize).filter(|&len| len <= MAX_TREE_NAME_BYTES)?;
                let name = std::str::from_utf8(reader.bytes(len)?).ok()?;
                Self::CreateTree { tree, root, options, name }
            }
            7 => Self::RemoveTree { tree: var(reader)? },
            8 => Self::ClearTree { tree: var(reader)?, root: reader.u64()? },
            9 => {
                let (tree, from, to) = (var(reader)?, key_len(reader)?, key_len(reader)?);
                Self::DeleteRange { tree, from: reader.bytes(from)?, to: reader.bytes(to)? }
            }
            10 => Self::InstallTree { tree: var(reader)?, root: reader.u64()? },
            _ => return None,
        })
    }
}

/// The operations of one record.
///
/// [`Operations::is_valid`] says whether they parse; of what does not, iteration returns what comes
/// before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Operations<'a>(pub(in crate::store) &'a [u8]);

impl<'a> Operations<'a> {
    /// Whether all of it is operations, at least one, each where it may be.
    pub(in crate::store) fn is_valid(&self) -> bool {
        let mut reader = Reader::new(self.0);
        let (mut count, mut has_void, mut has_part) = (0_usize, false, false);
        while !reader.is_empty() {
            let Some(operation) = Operation::decode(&mut reader) else { return false };
            if matches!(operation, Operation::Part(_)) {
                if count > 0 {
                    return false;
                }
                has_part = true;
            }
            has_void |= operation == Operation::Void;
            count += 1;
        }
        count > usize::from(has_part) && (count == 1 || !has_void)
    }

    /// Which part of a group they are, and the operations behind that.
    pub(in crate::store) fn part(&self) -> Option<(Part, Operations<'a>)> {
        let mut reader = Reader::new(self.0);
        match Operation::decode(&mut reader)? {
            Operation::Part(part) => Some((part, Operations(reader.rest()))),
            _ => None,
        }
    }

    /// The operations, in the order in which they were made.
    pub(in crate::store) fn iter(&self) -> impl Iterator<Item = Operation<'a>> + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || if reader.is_empty() { None } else { Operation::decode(&mut reader) })
    }
}

fn flags(effect: Effect, expiry: Option<u64>) -> u8 {
    (effect as u8) << EFFECT_SHIFT | if expiry.is_some() { HAS_EXPIRY } else { 0 }
}

fn key_len(reader: &mut Reader<'_>) -> Option<usize> {
    Some(var(reader)? as usize).filter(|&len| len <= MAX_KEY_BYTES)
}

fn reference(reader: &mut Reader<'_>) -> Option<ValueReference> {
    reader.bytes(REFERENCE_BYTES)?.try_into().ok()
}

/// A LEB128 number of 32 bits in its shortest form.
fn var(reader: &mut Reader<'_>) -> Option<u32> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let byte = reader.u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            let shortest = byte != 0 || shift == 0;
            return u32::try_from(value).ok().filter(|_| shortest);
        }
    }
    None
}

fn var_len(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

fn text_len(text: &[u8]) -> usize {
    var_len(to_u32(text.len())) + text.len()
}

/// Writes fields to the front of a slice.
struct Out<'o> {
    rest: &'o mut [u8],
}

impl Out<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let (place, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        self.rest = rest;
    }

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    fn var(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.u8(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.u8(value.to_le_bytes()[0]);
    }

    fn text(&mut self, text: &[u8]) {
        self.var(to_u32(text.len()));
        self.bytes(text);
    }

    fn expiry(&mut self, expiry: Option<u64>) {
        if let Some(expiry) = expiry {
            debug_assert!(expiry >> 48 == 0, "an expiry has 48 bits");
            self.bytes(&expiry.to_le_bytes()[..EXPIRY_BYTES]);
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests;
