//! A leaf image in which some entries change: what lies between them is copied in rows.
//!
//! A [`LeafBuilder`](super::LeafBuilder) takes every entry apart and writes it again. But of a leaf
//! that gets ten changes most is as it was. Entries lie one behind the other in the order of their
//! keys, so those between two changes are one row of bytes in the old image and in the new one.
//! Their heads are another row, and their slots differ by the distance that the entries have moved.
//! So each change costs a little, and each row one copy.
//!
//! That needs a leaf that is plain (each entry is a live key), whose keys share the same prefix
//! afterwards. The image is the one that a builder makes, byte for byte.

use std::ops::Range;

use super::damage::MAX_CONTENT_BYTES;
use super::entry::{Entry, EntryKind};
use super::key::KeyParts;
use super::leaf::{LeafHeader, LeafImage};
use super::search::{IMAGE_HEADER_BYTES, KeyWriter, PER_KEY_BYTES, padded, put};
use crate::store::codec::to_u32;

/// A change of a leaf: the entries from `at` until `behind`, which are versions of its key, give
/// way to `entry`, or to nothing if that is a deletion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch<'a> {
    pub(crate) entry: Entry<'a>,
    pub(crate) at: usize,
    pub(crate) behind: usize,
}

impl Patch<'_> {
    /// Whether the key is there afterwards.
    pub(crate) fn stays(&self) -> bool {
        self.entry.kind != EntryKind::Deleted
    }
}

/// An empty list with the memory of this one, whose patches are of another leaf. (To collect what
/// comes of a vector uses its memory, if the length of an item is the same.)
pub(crate) fn emptied<'a>(mut patches: Vec<Patch<'_>>) -> Vec<Patch<'a>> {
    patches.clear();
    patches.into_iter().map(|_| unreachable!("it is empty")).collect()
}

/// A leaf image with its patches, to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PatchedLeaf<'p, 'a> {
    image: LeafImage<'a>,
    patches: &'p [Patch<'a>],
    section: &'p [u8],
    first: KeyParts<'a>,
    count: usize,
    entries_bytes: usize,
    live_bytes: u32,
}

impl<'p, 'a> PatchedLeaf<'p, 'a> {
    /// `image` with `patches`, one of each key and in the order of their keys, and a section of
    /// changes of shape, which may be empty. None if a builder has to make it.
    pub(crate) fn new(image: LeafImage<'a>, patches: &'p [Patch<'a>], section: &'p [u8]) -> Option<Self> {
        let (first, last) = (first_key(&image, patches)?, last_key(&image, patches)?);
        if !image.is_plain() || first.common_len(&last) != image.prefix_len() {
            return None;
        }
        let mut count = image.len();
        let mut entries_bytes = image.offset(count) - image.offset(0);
        let mut live_bytes = image.live_bytes();
        for patch in patches {
            if patch.stays() {
                count += 1;
                entries_bytes +=
                    KeyWriter::rest_bytes(&patch.entry.key, image.prefix_len()) + patch.entry.body_bytes();
                live_bytes += to_u32(patch.entry.key.len() + patch.entry.value.len());
            }
            for index in patch.at..patch.behind {
                count -= 1;
                entries_bytes -= image.offset(index + 1) - image.offset(index);
                let old = image.get(index);
                live_bytes -= to_u32(old.key.len() + old.value.len());
            }
        }
        Some(Self { image, patches, section, first, count, entries_bytes, live_bytes })
    }

    fn entries_at(&self) -> usize {
        IMAGE_HEADER_BYTES + padded(self.image.prefix_len()) + PER_KEY_BYTES * self.count
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The length of the image.
    pub(crate) fn size_bytes(&self) -> usize {
        self.entries_at() + self.entries_bytes + self.section.len()
    }

    /// Writes the image to `out`, which is as long as [`PatchedLeaf::size_bytes`] says, and that at
    /// most [`MAX_CONTENT_BYTES`].
    pub(crate) fn write(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.size_bytes(), "the buffer is as long as the image");
        assert!(out.len() <= MAX_CONTENT_BYTES, "a leaf of {} bytes is to be split", out.len());
        let prefix_len = self.image.prefix_len();
        let mut keys = KeyWriter::new(out, Some(&self.first), prefix_len, self.count);
        let (mut done, mut end) = (0, self.entries_at());
        for patch in self.patches {
            end = self.copy_row(out, &mut keys, done..patch.at, end);
            done = patch.behind;
            if patch.stays() {
                let (rest_end, _) = keys.write(out, patch.entry.key, end);
                end = patch.entry.write_body(out, rest_end);
            }
        }
        end = self.copy_row(out, &mut keys, done..self.image.len(), end);
        put(out, end, self.section);
        let header = LeafHeader {
            count: self.count,
            prefix_len,
            changes_at: if self.section.is_empty() { 0 } else { end },
            entries_at: self.entries_at(),
            live_bytes: self.live_bytes,
            live_keys: to_u32(self.count),
        };
        header.write(out);
    }

    /// Copies the entries of a row to `to`, and returns where they end.
    fn copy_row(&self, out: &mut [u8], keys: &mut KeyWriter<'a>, row: Range<usize>, to: usize) -> usize {
        if row.is_empty() {
            return to;
        }
        let bytes = &self.image.content()[self.image.offset(row.start)..self.image.offset(row.end)];
        put(out, to, bytes);
        keys.write_row(out, self.image.keys(), row, to);
        to + bytes.len()
    }
}

/// The smallest key with these patches.
fn first_key<'a>(image: &LeafImage<'a>, patches: &[Patch<'a>]) -> Option<KeyParts<'a>> {
    let mut done = 0;
    for patch in patches {
        if patch.at > done {
            break;
        }
        if patch.stays() {
            return Some(patch.entry.key);
        }
        done = patch.behind;
    }
    (done < image.len()).then(|| image.keys().key(done))
}

/// The largest key with these patches.
fn last_key<'a>(image: &LeafImage<'a>, patches: &[Patch<'a>]) -> Option<KeyParts<'a>> {
    let mut end = image.len();
    for patch in patches.iter().rev() {
        if patch.behind < end {
            break;
        }
        if patch.stays() {
            return Some(patch.entry.key);
        }
        end = patch.at;
    }
    Some(image.keys().key(end.checked_sub(1)?))
}
