//! The stored form of keys and values; the table is in [`keyspace`](super).

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::super::volatile::UnixMs;
use crate::store::MAX_KEY_BYTES;

/// The longest key that is stored as it is, in bytes.
pub(in super::super) const MAX_PLAIN_KEY_BYTES: usize = MAX_KEY_BYTES - 1;
/// How many bytes at the beginning of the stored form of a longer key are the key's own.
pub(in super::super) const LONG_KEY_PREFIX_BYTES: usize = MAX_KEY_BYTES - HASH_BYTES;
/// How many bytes follow them: the SHA-256 of the whole key.
const HASH_BYTES: usize = 32;

/// Set in the flags of a value that has an expiry time.
const HAS_EXPIRY: u8 = 1 << 0;
/// Set in the flags of a value that carries the rest of its key.
const HAS_KEY_REST: u8 = 1 << 1;

pub(super) fn is_long(key: &[u8]) -> bool {
    key.len() > MAX_PLAIN_KEY_BYTES
}

/// `key` as the store has it.
pub(super) fn stored_key(key: &[u8]) -> Cow<'_, [u8]> {
    if !is_long(key) {
        return Cow::Borrowed(key);
    }
    Cow::Owned([&key[..LONG_KEY_PREFIX_BYTES], &Sha256::digest(key)[..]].concat())
}

/// The part of `key` that its value carries.
pub(super) fn key_rest(key: &[u8]) -> &[u8] {
    if is_long(key) { &key[LONG_KEY_PREFIX_BYTES..] } else { &[] }
}

/// A key's value and when it expires, if ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct KeyspaceEntry<'a> {
    /// The value.
    pub(in super::super) value: &'a [u8],
    /// When the key ceases to exist.
    pub(in super::super) expires_at: Option<UnixMs>,
}

impl<'a> KeyspaceEntry<'a> {
    /// The entry in its stored form.
    pub(super) fn decode(stored: &'a [u8]) -> Option<Self> {
        match *stored {
            [0, ref value @ ..] => Some(Self { value, expires_at: None }),
            _ => Self::decode_with_key_rest(stored).map(|(entry, _)| entry),
        }
    }

    /// The entry in its stored form, and the rest of its key if the key is a long one.
    pub(super) fn decode_with_key_rest(stored: &'a [u8]) -> Option<(Self, Option<&'a [u8]>)> {
        let (&flags, mut value) = stored.split_first()?;
        if flags & !(HAS_EXPIRY | HAS_KEY_REST) != 0 {
            return None;
        }
        let mut expires_at = None;
        if flags & HAS_EXPIRY != 0 {
            let (expiry, rest) = value.split_first_chunk()?;
            (expires_at, value) = (Some(UnixMs::from_le_bytes(*expiry)), rest);
        }
        let mut key_rest = None;
        if flags & HAS_KEY_REST != 0 {
            let (len, rest) = value.split_first_chunk()?;
            let (key, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
            (key_rest, value) = (Some(key), rest);
        }
        Some((Self { value, expires_at }, key_rest))
    }

    /// Whether it is still there at `now`.
    pub(in super::super) fn is_live(&self, now: UnixMs) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

/// What stands in front of a stored value, and of the rest of its key.
pub(super) struct StoredHeader {
    bytes: [u8; 13],
    len: usize,
}

impl StoredHeader {
    /// For a value whose key has `key_rest` left to be stored with it.
    pub(super) fn new(expires_at: Option<UnixMs>, key_rest: &[u8]) -> Self {
        let mut header = Self { bytes: [0; 13], len: 1 };
        if let Some(expires_at) = expires_at {
            header.bytes[0] |= HAS_EXPIRY;
            header.push(expires_at.to_le_bytes());
        }
        if !key_rest.is_empty() {
            header.bytes[0] |= HAS_KEY_REST;
            // The store takes no value whose length does not fit in a u32.
            header.push(u32::try_from(key_rest.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        header
    }

    fn push<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += N;
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_keys_of_short_and_long_keys_cannot_be_confused() {
        let long = vec![b'k'; MAX_KEY_BYTES];
        let stored = stored_key(&long);
        assert_eq!(stored.len(), MAX_KEY_BYTES);
        assert_eq!(stored[..LONG_KEY_PREFIX_BYTES], long[..LONG_KEY_PREFIX_BYTES]);
        // The stored form, sent as a key, is another key.
        assert_ne!(stored_key(&stored), stored);
        let plain = &long[1..];
        assert_eq!(stored_key(plain), plain);
        assert!(key_rest(plain).is_empty());
        assert_eq!(key_rest(&long).len(), HASH_BYTES);
    }

    #[test]
    fn what_is_written_is_read() {
        for expires_at in [None, Some(0), Some(UnixMs::MAX)] {
            for rest in [&b""[..], b"rest of the key"] {
                let mut stored = StoredHeader::new(expires_at, rest).as_bytes().to_vec();
                stored.extend_from_slice(rest);
                stored.extend_from_slice(b"value");
                let entry = KeyspaceEntry { value: b"value", expires_at };
                let key_rest = Some(rest).filter(|rest| !rest.is_empty());
                assert_eq!(KeyspaceEntry::decode(&stored), Some(entry));
                assert_eq!(KeyspaceEntry::decode_with_key_rest(&stored), Some((entry, key_rest)));
                let head = stored.len() - b"value".len();
                for end in 0..head {
                    assert_eq!(KeyspaceEntry::decode(&stored[..end]), None, "{end} bytes of the head");
                }
            }
        }
        assert_eq!(KeyspaceEntry::decode(&[4, 0, 0]), None);
    }
}
