//! The image of an inner page with one [`Edit`]: what lies beside it is copied in rows.
//!
//! An [`InnerBuilder`](super::InnerBuilder) takes every separator apart and writes it again, three
//! times over. But a split or a removal changes one child of hundreds. As in a leaf that is patched
//! (`leaf_patch.rs`), the separators before it are one row of bytes, and those behind it another.
//!
//! That needs a page whose separators share the same prefix afterwards. The image is the one that a
//! builder makes, byte for byte.

use std::ops::Range;

use super::damage::MAX_CONTENT_BYTES;
use super::family::RUN_BYTES;
use super::inner::{CHILD_BYTES, Edit, InnerImage, InnerParts, children_at};
use super::key::KeyParts;
use super::search::{IMAGE_HEADER_BYTES, KeyWriter, put};
use crate::store::codec::to_u16;
use crate::store::word::ChildWord;

/// An inner page with an edit, to be written.
#[derive(Clone, Debug)]
pub(crate) struct PatchedInner<'a> {
    image: InnerImage<'a>,
    parts: InnerParts<'a>,
    /// The separators that stay in front, the new one, and those that stay behind it.
    front: Range<usize>,
    separator: Option<KeyParts<'a>>,
    back: Range<usize>,
    /// The children before and behind those that change, and what these become.
    children: (Range<usize>, [Option<ChildWord>; 2], Range<usize>),
    first: KeyParts<'a>,
}

impl<'a> PatchedInner<'a> {
    /// `image` with `edit`, and with these sections in place of its own. None if a builder has to
    /// make it.
    pub(crate) fn new(image: InnerImage<'a>, edit: Edit<'a>, parts: InnerParts<'a>) -> Option<Self> {
        let (children, separators) = (image.len(), image.separators().len());
        let (front, separator, back, children) = match edit {
            Edit::Replace { index, child } => {
                let changed = (0..index, [Some(child), None], index + 1..children);
                (0..separators, None, separators..separators, changed)
            }
            Edit::Split { index, left, separator, right } => {
                let changed = (0..index, [Some(left), Some(right)], index + 1..children);
                (0..index, Some(separator), index..separators, changed)
            }
            Edit::Remove { index, child } => {
                let changed = (0..index, [Some(child), None], index + 2..children);
                (0..index, None, index + 1..separators, changed)
            }
        };
        let at = |range: &Range<usize>| (!range.is_empty()).then(|| image.separator(range.start));
        let last = |range: &Range<usize>| (!range.is_empty()).then(|| image.separator(range.end - 1));
        let first = at(&front).or(separator).or(at(&back))?;
        let last = last(&back).or(separator).or(last(&front))?;
        let patched = Self { image, parts, front, separator, back, children, first };
        (first.common_len(&last) == image.separators().prefix_len()).then_some(patched)
    }

    /// The number of children.
    fn len(&self) -> usize {
        self.front.len() + usize::from(self.separator.is_some()) + self.back.len() + 1
    }

    fn children_at(&self) -> usize {
        children_at(self.len(), self.image.separators().prefix_len())
    }

    fn rests_at(&self) -> usize {
        self.children_at() + CHILD_BYTES * self.len() + self.parts.runs.len()
    }

    /// The length of the image.
    pub(crate) fn size_bytes(&self) -> usize {
        let prefix_len = self.image.separators().prefix_len();
        let new = self.separator.map_or(0, |separator| KeyWriter::rest_bytes(&separator, prefix_len));
        let rests = self.image.rests(&self.front).len() + new + self.image.rests(&self.back).len();
        self.rests_at() + rests + self.parts.tombstones.len() + self.parts.changes.len()
    }

    /// Writes the image to `out`, which is as long as [`PatchedInner::size_bytes`] says, and that
    /// at most [`MAX_CONTENT_BYTES`].
    pub(crate) fn write(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.size_bytes(), "the buffer is as long as the image");
        assert!(out.len() <= MAX_CONTENT_BYTES, "an inner page of {} bytes is to be split", out.len());
        let (front, changed, back) = &self.children;
        let mut at = self.children_at();
        put(out, at, self.image.child_bytes(front));
        at += CHILD_BYTES * front.len();
        for child in changed.iter().flatten() {
            put(out, at, &child.bits().to_le_bytes());
            at += CHILD_BYTES;
        }
        put(out, at, self.image.child_bytes(back));
        put(out, at + CHILD_BYTES * back.len(), self.parts.runs);

        let prefix_len = self.image.separators().prefix_len();
        let mut keys = KeyWriter::new(out, Some(&self.first), prefix_len, self.len() - 1);
        let mut end = self.copy_row(out, &mut keys, &self.front, self.rests_at());
        if let Some(separator) = self.separator {
            let (rest_end, ascends) = keys.write(out, separator, end);
            assert!(ascends && separator.len() > 0, "separators do not ascend");
            end = rest_end;
        }
        end = self.copy_row(out, &mut keys, &self.back, end);

        out[..IMAGE_HEADER_BYTES].fill(0);
        for (field, section) in [(8, self.parts.tombstones), (4, self.parts.changes)] {
            let at = if section.is_empty() { 0 } else { to_u16(end) };
            put(out, field, &at.to_le_bytes());
            put(out, end, section);
            end += section.len();
        }
        put(out, 0, &to_u16(self.len()).to_le_bytes());
        put(out, 2, &to_u16(prefix_len).to_le_bytes());
        put(out, 6, &to_u16(self.parts.runs.len() / RUN_BYTES).to_le_bytes());
    }

    /// Copies the separators of a row, their rests to `to`, and returns where these end.
    fn copy_row(&self, out: &mut [u8], keys: &mut KeyWriter<'a>, row: &Range<usize>, to: usize) -> usize {
        let rests = self.image.rests(row);
        put(out, to, rests);
        keys.write_row(out, self.image.separators(), row.clone(), to);
        to + rests.len()
    }
}
