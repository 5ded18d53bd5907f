//! Little-endian reading and writing of on-disk structures. Reading is total: what does not fit is
//! `None`.

use std::cmp::Ordering;

use xxhash_rust::xxh3::xxh3_64;

/// The checksum of everything on disk. Under a fuzzer it is the same for all bytes, so that what
/// the fuzzer changes reaches the decoder behind it.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    if cfg!(fuzzing) { 0x5eed_5eed } else { xxh3_64(bytes) }
}

/// Reads fields from the front of a slice.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn identity(&mut self) -> Option<[u8; 16]> {
        self.array()
    }
}

/// Reads the `u16` at `offset`, which the caller knows to be inside.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

/// `a.cmp(b)`, for keys: what decides is mostly among the first bytes, and a call of `memcmp` costs
/// more than comparing those.
#[inline]
pub(super) fn compare(a: &[u8], b: &[u8]) -> Ordering {
    if let (Some((a_head, a_rest)), Some((b_head, b_rest))) =
        (a.split_first_chunk::<16>(), b.split_first_chunk::<16>())
    {
        let (a_head, b_head) = (u128::from_be_bytes(*a_head), u128::from_be_bytes(*b_head));
        if a_head != b_head || (a_rest.is_empty() && b_rest.is_empty()) {
            return a_head.cmp(&b_head);
        }
        return a_rest.cmp(b_rest);
    }
    a.cmp(b)
}

/// A size or offset that is known to fit the address space.
pub(super) fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("a size in memory fits the address space")
}

/// A length that a stated limit keeps below 4 GiB.
pub(super) fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("a stated limit keeps this length below 4 GiB")
}

/// A length that a stated limit keeps below 64 KiB.
pub(super) fn to_u16(value: usize) -> u16 {
    u16::try_from(value).expect("a stated limit keeps this length below 64 KiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_compare_as_byte_strings_do() {
        let mut keys = vec![Vec::new()];
        for len in [1, 3, 7, 8, 9, 12, 15, 16, 17, 24, 63, 64, 65, 80] {
            for place in [0, 1, 6, 7, 8, 11, 14, 15, 16, 62, 63, 64, 79] {
                for byte in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut key = vec![0x80; len];
                    key[place.min(len - 1)] = byte;
                    keys.push(key);
                }
            }
        }
        for a in &keys {
            for b in &keys {
                assert_eq!(compare(a, b), a.cmp(b), "{a:?} {b:?}");
            }
        }
    }
}
