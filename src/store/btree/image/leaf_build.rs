//! Building a leaf image, and where to split one.

use super::damage::{MAX_CONTENT_BYTES, MAX_KEY_BYTES};
use super::entry::Entry;
use super::key::{HEAD_BYTES, KeyParts};
use super::leaf::{LeafHeader, LeafSummary};
use super::search::{IMAGE_HEADER_BYTES, KeyWriter, PER_KEY_BYTES, padded, put};

/// Writes a leaf image into a buffer of its size. It walks the entries twice (for prefix and size,
/// and to write), a third time if keys are shorter than prefix and head, and allocates nothing.
#[derive(Clone, Debug)]
pub(crate) struct LeafBuilder<'c, I> {
    entries: I,
    changes: &'c [u8],
    count: usize,
    prefix_len: usize,
    entries_bytes: usize,
}

impl<'a, 'c, I: Iterator<Item = Entry<'a>> + Clone> LeafBuilder<'c, I> {
    /// Of entries in the order that a leaf has them in, and a section of changes, which may be
    /// empty.
    pub(crate) fn new(entries: I, changes: &'c [u8]) -> Self {
        let (mut count, mut first, mut last) = (0, None, None);
        let (mut key_bytes, mut body_bytes, mut shortest) = (0, 0, usize::MAX);
        for entry in entries.clone() {
            count += 1;
            first = first.or(Some(entry.key));
            last = Some(entry.key);
            key_bytes += entry.key.len();
            body_bytes += entry.body_bytes();
            shortest = shortest.min(entry.key.len());
        }
        // Keys between the first and the last share what those share.
        let prefix_len = match (first, last) {
            (Some(first), Some(last)) => first.common_len(&last),
            _ => 0,
        };
        let in_front = prefix_len + HEAD_BYTES;
        let rests_bytes = if shortest >= in_front && count > 0 {
            key_bytes - count * in_front
        } else {
            entries.clone().map(|entry| KeyWriter::rest_bytes(&entry.key, prefix_len)).sum()
        };
        let entries_bytes = rests_bytes + body_bytes;
        Self { entries, changes, count, prefix_len, entries_bytes }
    }

    fn entries_at(&self) -> usize {
        IMAGE_HEADER_BYTES + padded(self.prefix_len) + PER_KEY_BYTES * self.count
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The length of the image.
    pub(crate) fn size_bytes(&self) -> usize {
        self.entries_at() + self.entries_bytes + self.changes.len()
    }

    /// Writes the image to `out`, which is as long as [`LeafBuilder::size_bytes`] says, and that at
    /// most [`MAX_CONTENT_BYTES`]. The keys have to ascend.
    pub(crate) fn write(self, out: &mut [u8]) -> LeafSummary {
        assert_eq!(out.len(), self.size_bytes(), "the buffer is as long as the image");
        assert!(out.len() <= MAX_CONTENT_BYTES, "a leaf of {} bytes is to be split", out.len());
        let first = self.entries.clone().next();
        let first_key = first.as_ref().map(|entry| &entry.key);
        let mut keys = KeyWriter::new(out, first_key, self.prefix_len, self.count);
        let mut summary = LeafSummary::default();
        let mut end = self.entries_at();
        for entry in self.entries.clone() {
            debug_assert!(entry.key.len() <= MAX_KEY_BYTES, "a key of {} bytes", entry.key.len());
            let (rest_end, is_newest) = keys.write(out, entry.key, end);
            summary.add(&entry, is_newest);
            end = entry.write_body(out, rest_end);
        }
        let header = LeafHeader {
            count: self.count,
            prefix_len: self.prefix_len,
            changes_at: if self.changes.is_empty() { 0 } else { end },
            entries_at: self.entries_at(),
            live_bytes: summary.live_bytes,
            live_keys: summary.live_keys,
        };
        header.write(out);
        put(out, end, self.changes);
        summary
    }
}

/// Where to cut sorted entries in two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitPoint<'a> {
    /// How many entries go to the left.
    pub(crate) left: usize,
    right_key: KeyParts<'a>,
    separator_len: usize,
}

impl<'a> SplitPoint<'a> {
    /// The cut that leaves about `left_percent` of the entries' bytes on the left, never between
    /// two versions of a key; `None` if there is only one key. Of the cuts within a sixteenth of
    /// all bytes from there it is the one with the shortest separator.
    pub(crate) fn of(entries: impl Iterator<Item = Entry<'a>> + Clone, left_percent: usize) -> Option<Self> {
        // Whole keys: what they share is stored once in either half.
        let size = |entry: &Entry<'_>| PER_KEY_BYTES + entry.key.len() + entry.body_bytes();
        let total: usize = entries.clone().map(|entry| size(&entry)).sum();
        let left_bytes = total * left_percent / 100;
        let mut best: Option<((u8, usize, usize), Self)> = None;
        let (mut before, mut bytes): (Option<KeyParts<'a>>, usize) = (None, 0);
        for (left, entry) in entries.enumerate() {
            if let Some(before) = before
                && before.compare(&entry.key).is_lt()
            {
                // The shortest string that is larger than `before` and not larger than the key.
                let separator_len = before.common_len(&entry.key) + 1;
                let distance = bytes.abs_diff(left_bytes);
                // Within the window the separator decides, outside of it the distance.
                let near = distance <= total / 16;
                let rank = if near { (0, separator_len, distance) } else { (1, distance, 0) };
                if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                    best = Some((rank, Self { left, right_key: entry.key, separator_len }));
                }
            }
            before = Some(entry.key);
            bytes += size(&entry);
        }
        best.map(|(_, point)| point)
    }

    /// Appends the separator to `buffer`: it is larger than each key on the left and not larger
    /// than one on the right.
    pub(crate) fn append_separator_to(&self, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        buffer.resize(start + self.separator_len, 0);
        self.right_key.copy_from(0, &mut buffer[start..]);
    }
}
