//! Keys and values that can be checked: what a store gives back is compared byte by byte with what
//! its key and its version say. Shared with `benches/peers`, so it uses nothing but the standard
//! library and the numbers beside it.
//!
//! A key is 16 hexadecimal digits of a 64-bit number: of the record's own number where keys are to
//! ascend, of that number scrambled otherwise. A value is its version (8 bytes, scrambled, so that
//! small versions are no zeros) and bytes that cannot be compressed, all of which come from the
//! key, the version and the seed.

use super::draw::split_mix;

pub(super) const KEY_BYTES: usize = 16;
/// A value holds its version.
pub(super) const MIN_VALUE_BYTES: usize = 8;
/// Added to a record's number it gives a key that no record has, among the keys of the others.
pub(super) const ABSENT: u64 = 1 << 62;

pub(super) type Key = [u8; KEY_BYTES];

/// Whether the keys of records 0, 1, 2, … ascend or lie anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyOrder {
    Ascending,
    Scattered,
}

/// The key of record `number`.
pub(super) fn key(number: u64, order: KeyOrder) -> Key {
    let shown = match order {
        KeyOrder::Ascending => number,
        KeyOrder::Scattered => split_mix(number),
    };
    let mut key = [0; KEY_BYTES];
    for (digit, nibble) in key.iter_mut().zip((0..16).rev().map(|place| (shown >> (4 * place)) & 15)) {
        *digit = b"0123456789abcdef"[usize::try_from(nibble).expect("below 16")];
    }
    key
}

/// The values of a store: their length and their seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values {
    pub(super) bytes: usize,
    pub(super) seed: u64,
}

impl Values {
    /// Makes `value` that of `key` in `version`.
    pub(super) fn fill(&self, key: &[u8], version: u64, value: &mut Vec<u8>) {
        let mark = self.mark(key);
        value.clear();
        value.extend_from_slice(&(version ^ split_mix(mark)).to_le_bytes());
        let mut words = Words::new(mark, version);
        while value.len() + 8 <= self.bytes {
            value.extend_from_slice(&words.next().to_le_bytes());
        }
        let rest = self.bytes - value.len();
        value.extend_from_slice(&words.next().to_le_bytes()[..rest]);
    }

    /// The version of `value`, which was read as that of `key`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn check(&self, key: &[u8], value: &[u8]) -> Result<u64, &'static str> {
        if value.len() != self.bytes {
            return Err("its value has another length");
        }
        let mark = self.mark(key);
        let (version, payload) = value.split_first_chunk().ok_or("its value has no version")?;
        let version = u64::from_le_bytes(*version) ^ split_mix(mark);
        let mut words = Words::new(mark, version);
        let (whole, rest) = payload.as_chunks::<8>();
        // All of them, without a branch each: nearly always they are right.
        let wrong = whole.iter().fold(0, |wrong, word| wrong | (u64::from_le_bytes(*word) ^ words.next()));
        if wrong != 0 || rest != &words.next().to_le_bytes()[..rest.len()] {
            return Err("its value is not what was written for this key");
        }
        Ok(version)
    }

    fn mark(&self, key: &[u8]) -> u64 {
        let mut mark = self.seed;
        for part in key.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            mark = split_mix(mark ^ u64::from_le_bytes(word));
        }
        mark
    }
}

/// What a value holds besides its version.
struct Words(u64);

impl Words {
    fn new(mark: u64, version: u64) -> Self {
        Self(split_mix(mark ^ version.rotate_left(32)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        split_mix(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values = Values { bytes: 100, seed: 5 };

    #[test]
    fn a_value_is_known_by_its_key_and_its_version() {
        let (mut value, key, other) = (Vec::new(), key(3, KeyOrder::Scattered), key(4, KeyOrder::Scattered));
        for bytes in [8, 9, 16, 100, 4096] {
            let values = Values { bytes, ..VALUES };
            for version in [0, 1, u64::MAX] {
                values.fill(&key, version, &mut value);
                assert_eq!(value.len(), bytes);
                assert_eq!(values.check(&key, &value), Ok(version));
            }
            assert!(values.check(&key, &value[1..]).is_err());
            // Shorter ones hold nothing but a version, and any is one.
            if bytes >= 16 {
                assert!(values.check(&other, &value).is_err(), "{bytes}");
                assert!(Values { seed: 6, ..values }.check(&key, &value).is_err(), "{bytes}");
            }
        }
    }

    #[test]
    fn every_byte_counts() {
        let (mut value, key) = (Vec::new(), key(3, KeyOrder::Ascending));
        VALUES.fill(&key, 9, &mut value);
        for at in 0..value.len() {
            value[at] ^= 1;
            assert!(VALUES.check(&key, &value).is_err(), "byte {at}");
            value[at] ^= 1;
        }
    }

    #[test]
    fn values_have_no_byte_more_often_than_chance_has_it() {
        let mut counts = [0; 256];
        let mut value = Vec::new();
        for number in 0..10_000 {
            VALUES.fill(&key(number, KeyOrder::Scattered), 1, &mut value);
            value.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
        }
        assert!(counts.iter().all(|count| (3_500..4_300).contains(count)), "{counts:?}");
    }

    #[test]
    fn keys_ascend_or_are_scattered_and_each_is_one_of_a_kind() {
        let ascending: Vec<Key> = (0..1000).map(|number| key(number, KeyOrder::Ascending)).collect();
        assert!(ascending.is_sorted());
        assert_eq!(&ascending[255], b"00000000000000ff");
        let mut scattered: Vec<Key> = (0..1000).map(|number| key(number, KeyOrder::Scattered)).collect();
        scattered.extend((0..1000).map(|number| key(ABSENT + number, KeyOrder::Scattered)));
        assert!(!scattered.is_sorted());
        scattered.sort_unstable();
        scattered.dedup();
        assert_eq!(scattered.len(), 2000);
    }
}
