//! Entries of an area: sequence number (8 bytes; for an intent the address of its transaction
//! record), length of the value (4), flags (1), expiry (6, if there is one), key, value. Integers
//! are little endian. Flags: bit 0 there is an expiry; bits 7..4 what an intent becomes.

use super::slot::{Kind, Request, SlotWord};
use super::slots::EntryBytes;

const FIXED_BYTES: usize = 13;
const EXPIRY_BYTES: usize = 6;
const MAX_HEAD_BYTES: usize = FIXED_BYTES + EXPIRY_BYTES;
const HAS_EXPIRY: u8 = 1;
const BECOMES: u32 = 4;

/// An entry to be written. Its sequence number comes later.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct NewEntry<'a> {
    pub(in crate::store) kind: Kind,
    /// 16 bits of the key's hash, the same for the same key.
    pub(in crate::store) tag: u16,
    /// At most 8,191 bytes.
    pub(in crate::store) key: &'a [u8],
    /// Key and value together have at most 262,117 bytes.
    pub(in crate::store) value: &'a [u8],
    /// In milliseconds since 1970, below 2^48.
    pub(in crate::store) expiry_ms: Option<u64>,
    /// What the entry is once its transaction has committed; for an intent only.
    pub(in crate::store) becomes: Option<Kind>,
}

impl<'a> NewEntry<'a> {
    /// A plain write, without an expiry.
    pub(in crate::store) fn new(kind: Kind, tag: u16, key: &'a [u8], value: &'a [u8]) -> Self {
        Self { kind, tag, key, value, expiry_ms: None, becomes: None }
    }

    /// The bytes of the entry's head, and how many they are. The number is 0.
    ///
    /// # Panics
    ///
    /// If the expiry or the value's length does not fit its field, or a kind is not an intent and
    /// becomes something, or is one and does not.
    pub(super) fn head(&self) -> ([u8; MAX_HEAD_BYTES], usize) {
        assert!((self.kind == Kind::Intent) == self.becomes.is_some(), "intents, and no others, become");
        let value_len = u32::try_from(self.value.len()).expect("values in areas are short");
        let mut head = [0; MAX_HEAD_BYTES];
        head[8..12].copy_from_slice(&value_len.to_le_bytes());
        head[12] = self.becomes.map_or(0, Kind::code) << BECOMES;
        let Some(expiry_ms) = self.expiry_ms else { return (head, FIXED_BYTES) };
        assert!(expiry_ms >> (8 * EXPIRY_BYTES) == 0, "an expiry has 48 bits");
        head[12] |= HAS_EXPIRY;
        head[FIXED_BYTES..].copy_from_slice(&expiry_ms.to_le_bytes()[..EXPIRY_BYTES]);
        (head, MAX_HEAD_BYTES)
    }

    /// What the entry asks of a slot, if its head has `head_len` bytes.
    pub(super) fn request(&self, head_len: usize) -> Request {
        Request {
            kind: self.kind,
            tag: self.tag,
            key_len: self.key.len(),
            entry_len: head_len + self.key.len() + self.value.len(),
        }
    }

    /// The bytes of the heap that the entry takes.
    pub(in crate::store) fn room_bytes(&self) -> usize {
        let (_, head_len) = self.head();
        self.request(head_len).entry_len.next_multiple_of(SlotWord::UNIT)
    }
}

/// An entry of a live slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Entry<'a> {
    pub(in crate::store) kind: Kind,
    /// The number of the write; of an [intent](Kind::Intent) the address of its transaction record;
    /// of a cached copy the number of what it is a copy of, or 0.
    pub(in crate::store) seq: u64,
    /// 16 bits of the key's hash.
    pub(in crate::store) tag: u16,
    pub(in crate::store) key: &'a [u8],
    pub(in crate::store) value: &'a [u8],
    /// In milliseconds since 1970.
    pub(in crate::store) expiry_ms: Option<u64>,
    /// What an intent becomes.
    pub(in crate::store) becomes: Option<Kind>,
}

impl<'a> Entry<'a> {
    pub(super) fn read(word: SlotWord, bytes: EntryBytes<'a>) -> Self {
        let fixed = bytes.get(0, FIXED_BYTES);
        let number = |from: &[u8]| {
            let mut number = [0; 8];
            number[..from.len()].copy_from_slice(from);
            u64::from_le_bytes(number)
        };
        let flags = fixed[12];
        let has_expiry = flags & HAS_EXPIRY != 0;
        let key_at = if has_expiry { MAX_HEAD_BYTES } else { FIXED_BYTES };
        let value_len = usize::try_from(number(&fixed[8..12])).expect("32 bits fit a length");
        Self {
            kind: word.kind(),
            seq: number(&fixed[..8]),
            tag: word.tag(),
            key: bytes.get(key_at, word.key_len()),
            value: bytes.get(key_at + word.key_len(), value_len),
            expiry_ms: has_expiry.then(|| number(bytes.get(FIXED_BYTES, EXPIRY_BYTES))),
            becomes: Kind::of_code(u64::from(flags >> BECOMES)),
        }
    }

    /// The same entry for another area. Its number comes later, as always.
    pub(in crate::store) fn again(self) -> NewEntry<'a> {
        let Self { kind, tag, key, value, expiry_ms, becomes, .. } = self;
        NewEntry { kind, tag, key, value, expiry_ms, becomes }
    }

    /// The entry that an intent is once its transaction has committed under `seq`.
    pub(super) fn committed(self, seq: u64) -> Self {
        let kind = self.becomes.expect("an intent becomes something");
        Self { kind, seq, becomes: None, ..self }
    }
}
