//! Little-endian reading and writing of on-disk structures. Reading is total: what does not fit is `None`.

use xxhash_rust::xxh3::xxh3_64;

/// The checksum of everything on disk.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
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

/// Overwrites the `u16` at `offset`, which the caller knows to be inside.
pub(super) fn put_u16_at(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
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
