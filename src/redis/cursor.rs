//! The cursors of SCAN.
//!
//! Keys lie in an ordered tree, so a scan is a position in that order: the last key it visited. A client carries a number;
//! the server remembers which position it stands for. A bounded number of them: an abandoned scan's is forgotten when
//! [`MAX_CURSORS`] newer ones were handed out.

use std::collections::BTreeMap;

/// How many cursors are remembered.
pub const MAX_CURSORS: usize = 4096;

#[derive(Debug)]
struct Position {
    last_key: Vec<u8>,
    /// The cursor that this one followed. A client may repeat a call whose reply it lost, so it stays valid until the
    /// scan has moved on once more.
    predecessor: Option<u64>,
}

/// The positions that cursors stand for.
#[derive(Debug, Default)]
pub struct ScanCursors {
    /// In the order they were handed out.
    positions: BTreeMap<u64, Position>,
    last: u64,
}

impl ScanCursors {
    /// No cursor yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key after which the scan with `cursor` goes on; `None` if the cursor is unknown or forgotten.
    pub fn resume(&mut self, cursor: u64) -> Option<&[u8]> {
        let predecessor = self.positions.get_mut(&cursor)?.predecessor.take();
        if let Some(predecessor) = predecessor {
            self.positions.remove(&predecessor);
        }
        self.positions.get(&cursor).map(|position| position.last_key.as_slice())
    }

    /// A cursor for the scan that came with cursor `predecessor` (0 for a new one) and has visited keys up to `last_key`.
    pub fn advance(&mut self, predecessor: u64, last_key: Vec<u8>) -> u64 {
        self.last += 1;
        let predecessor = Some(predecessor).filter(|&cursor| cursor != 0);
        self.positions.insert(self.last, Position { last_key, predecessor });
        if self.positions.len() > MAX_CURSORS {
            self.positions.pop_first();
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_scan_keeps_two_positions() {
        let mut cursors = ScanCursors::new();
        let mut cursor = 0;
        for index in 0..10_000u32 {
            if cursor != 0 {
                assert_eq!(cursors.resume(cursor), Some(&(index - 1).to_be_bytes()[..]));
            }
            cursor = cursors.advance(cursor, index.to_be_bytes().to_vec());
            assert!(cursors.positions.len() <= 2);
        }
    }

    #[test]
    fn a_call_whose_reply_was_lost_can_be_repeated() {
        let mut cursors = ScanCursors::new();
        let first = cursors.advance(0, b"a".to_vec());
        assert_eq!(cursors.resume(first), Some(&b"a"[..]));
        cursors.advance(first, b"b".to_vec());
        assert_eq!(cursors.resume(first), Some(&b"a"[..]));
    }

    #[test]
    fn the_oldest_cursor_is_forgotten() {
        let mut cursors = ScanCursors::new();
        let abandoned = cursors.advance(0, b"a".to_vec());
        for _ in 1..MAX_CURSORS {
            cursors.advance(0, b"b".to_vec());
        }
        assert!(cursors.resume(abandoned).is_some());
        cursors.advance(0, b"c".to_vec());
        assert_eq!(cursors.resume(abandoned), None);
        assert_eq!(cursors.positions.len(), MAX_CURSORS);
    }
}
