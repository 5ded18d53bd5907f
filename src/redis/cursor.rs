//! The cursors of SCAN.
//!
//! Keys lie in an ordered tree, so a scan is a position in that order: the key that it visited
//! last. A client carries a number instead, its cursor, which is a hash of that key. All scans that
//! stop at one key have the same cursor.
//!
//! The server remembers the positions that were used last, up to [`MAX_REMEMBERED_BYTES`]. If it
//! has forgotten one, or never knew it because it was restarted since, it looks for it among the
//! keys. If the key is gone as well, the scan starts over: that repeats keys, which SCAN may do,
//! and misses none. So every number is a valid cursor.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::xxh3_64;

/// How much the remembered positions may take, in bytes.
pub(super) const MAX_REMEMBERED_BYTES: usize = 16 << 20;
/// How much memory a position takes besides its key, in bytes.
const POSITION_BYTES: usize = 128;
/// Cursors are below 2 to this power: some clients keep numbers as JavaScript does, in a `double`.
const CURSOR_BITS: u32 = 53;

/// The cursor of a scan that has visited the keys up to `key`, as the store has it. Never 0, which
/// starts a scan.
pub(super) fn cursor_of(key: &[u8]) -> u64 {
    (xxh3_64(key) >> (u64::BITS - CURSOR_BITS)).max(1)
}

/// Whether `cursor` can be that of a key.
pub(super) fn is_possible(cursor: u64) -> bool {
    cursor != 0 && cursor >> CURSOR_BITS == 0
}

#[derive(Debug)]
struct ScanPosition {
    key: Vec<u8>,
    /// When it was used last.
    used: u64,
}

impl ScanPosition {
    fn bytes(&self) -> usize {
        POSITION_BYTES + self.key.len()
    }
}

/// The positions that are remembered.
#[derive(Debug)]
pub(super) struct ScanCursors {
    positions: HashMap<u64, ScanPosition>,
    /// The cursors by when they were used last.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    bytes: usize,
    max_bytes: usize,
}

impl Default for ScanCursors {
    fn default() -> Self {
        Self::new(MAX_REMEMBERED_BYTES)
    }
}

impl ScanCursors {
    /// No positions yet, and never more than `max_bytes` of them.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { positions: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0, max_bytes }
    }

    /// The key after which the scan with `cursor` goes on, if it is remembered.
    pub(super) fn resume(&mut self, cursor: u64) -> Option<&[u8]> {
        let position = self.positions.get_mut(&cursor)?;
        self.uses += 1;
        self.by_use.remove(&std::mem::replace(&mut position.used, self.uses));
        self.by_use.insert(self.uses, cursor);
        Some(&position.key)
    }

    /// The cursor of a scan that stops at `key`. `None` if that cursor already stands for another
    /// key with the same hash; the scan must not stop here then.
    pub(super) fn stop_at(&mut self, key: &[u8]) -> Option<u64> {
        let cursor = cursor_of(key);
        if let Some(remembered) = self.resume(cursor) {
            return (remembered == key).then_some(cursor);
        }
        self.uses += 1;
        let position = ScanPosition { key: key.to_vec(), used: self.uses };
        self.bytes += position.bytes();
        self.by_use.insert(self.uses, cursor);
        self.positions.insert(cursor, position);
        while self.bytes > self.max_bytes
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            let forgotten = self.positions.remove(&oldest);
            self.bytes -= forgotten.map_or(0, |position| position.bytes());
        }
        Some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_that_stop_at_one_key_share_a_position() {
        let mut cursors = ScanCursors::default();
        let cursor = cursors.stop_at(b"a").expect("free");
        for _ in 0..1_000 {
            assert_eq!(cursors.stop_at(b"a"), Some(cursor));
            assert_eq!(cursors.resume(cursor), Some(&b"a"[..]));
        }
        assert_eq!((cursors.positions.len(), cursors.by_use.len()), (1, 1));
        assert_eq!(cursors.bytes, POSITION_BYTES + 1);
    }

    #[test]
    fn what_was_not_used_for_longest_is_forgotten() {
        let mut cursors = ScanCursors::new(3 * (POSITION_BYTES + 1));
        let [a, b, c] = [b"a", b"b", b"c"].map(|key| cursors.stop_at(key).expect("free"));
        assert_eq!(cursors.resume(a), Some(&b"a"[..]));
        let d = cursors.stop_at(b"d").expect("free");
        assert_eq!(cursors.resume(b), None);
        for (cursor, key) in [(a, b"a"), (c, b"c"), (d, b"d")] {
            assert_eq!(cursors.resume(cursor), Some(&key[..]));
        }
        for index in 0..10_000u32 {
            cursors.stop_at(&index.to_be_bytes());
            assert!(cursors.bytes <= cursors.max_bytes);
            assert_eq!(cursors.positions.len(), cursors.by_use.len());
        }
    }

    #[test]
    fn a_scan_does_not_stop_where_its_cursor_stands_for_another_key() {
        let mut cursors = ScanCursors::default();
        let position = ScanPosition { key: b"another".to_vec(), used: 0 };
        cursors.positions.insert(cursor_of(b"a"), position);
        cursors.by_use.insert(0, cursor_of(b"a"));
        assert_eq!(cursors.stop_at(b"a"), None);
        assert_eq!(cursors.resume(cursor_of(b"a")), Some(&b"another"[..]));
    }

    #[test]
    fn cursors_are_what_a_double_can_hold() {
        for index in 0..10_000u32 {
            let cursor = cursor_of(&index.to_be_bytes());
            assert!(is_possible(cursor) && cursor < 1 << 53);
        }
        assert!(!is_possible(0) && !is_possible(1 << 53) && !is_possible(u64::MAX));
    }
}
