//! Building the image of an inner page, and where to split one.

use super::damage::MAX_CONTENT_BYTES;
use super::family::RUN_BYTES;
use super::inner::{Branch, CHILD_BYTES, InnerParts, children_at};
use super::key::KeyParts;
use super::search::{IMAGE_HEADER_BYTES, KeyWriter, PER_KEY_BYTES, put};
use crate::store::codec::to_u16;

/// Writes the image of an inner page into a buffer of its size. It walks the children three times
/// (for the prefix, for the size, to write), and allocates nothing.
#[derive(Clone, Debug)]
pub(crate) struct InnerBuilder<'p, I> {
    branches: I,
    parts: InnerParts<'p>,
    count: usize,
    prefix_len: usize,
    rests_bytes: usize,
}

/// The separators between `branches`: that to the right of the last is the page's own bound.
fn separators<'a>(
    branches: impl Iterator<Item = Branch<'a>> + Clone,
    count: usize,
) -> impl Iterator<Item = KeyParts<'a>> + Clone {
    branches
        .take(count.saturating_sub(1))
        .map(|branch| branch.upper.expect("there is a separator between two children"))
}

impl<'a, 'p, I: Iterator<Item = Branch<'a>> + Clone> InnerBuilder<'p, I> {
    /// Of at least one child. The separator to the right of the last is left out.
    pub(crate) fn new(branches: I, parts: InnerParts<'p>) -> Self {
        let count = branches.clone().count();
        assert!(count > 0, "an inner page has children");
        let (mut first, mut last) = (None, None);
        for separator in separators(branches.clone(), count) {
            first = first.or(Some(separator));
            last = Some(separator);
        }
        let prefix_len = match (first, last) {
            (Some(first), Some(last)) => first.common_len(&last),
            _ => 0,
        };
        let rests = separators(branches.clone(), count);
        let rests_bytes = rests.map(|separator| KeyWriter::rest_bytes(&separator, prefix_len)).sum();
        Self { branches, parts, count, prefix_len, rests_bytes }
    }

    fn children_at(&self) -> usize {
        children_at(self.count, self.prefix_len)
    }

    fn rests_at(&self) -> usize {
        self.children_at() + CHILD_BYTES * self.count + self.parts.runs.len()
    }

    /// The length of the image.
    pub(crate) fn size_bytes(&self) -> usize {
        self.rests_at() + self.rests_bytes + self.parts.tombstones.len() + self.parts.changes.len()
    }

    /// Writes the image to `out`, which is as long as [`InnerBuilder::size_bytes`] says, and that
    /// at most [`MAX_CONTENT_BYTES`]. The separators have to ascend.
    pub(crate) fn write(self, out: &mut [u8]) {
        assert_eq!(out.len(), self.size_bytes(), "the buffer is as long as the image");
        assert!(out.len() <= MAX_CONTENT_BYTES, "an inner page of {} bytes is to be split", out.len());
        for (index, branch) in self.branches.clone().enumerate() {
            let at = self.children_at() + CHILD_BYTES * index;
            put(out, at, &branch.child.bits().to_le_bytes());
        }
        put(out, self.children_at() + CHILD_BYTES * self.count, self.parts.runs);
        let separators = separators(self.branches.clone(), self.count);
        let first = separators.clone().next();
        let (prefix_len, count) = (self.prefix_len, self.count - 1);
        let mut keys = KeyWriter::new(out, first.as_ref(), prefix_len, count);
        let mut end = self.rests_at();
        for separator in separators {
            let (rest_end, ascends) = keys.write(out, separator, end);
            assert!(ascends && separator.len() > 0, "separators do not ascend");
            end = rest_end;
        }
        let sections = [(8, self.parts.tombstones), (4, self.parts.changes)];
        out[..IMAGE_HEADER_BYTES].fill(0);
        for (field, section) in sections {
            let at = if section.is_empty() { 0 } else { to_u16(end) };
            put(out, field, &at.to_le_bytes());
            put(out, end, section);
            end += section.len();
        }
        put(out, 0, &to_u16(self.count).to_le_bytes());
        put(out, 2, &to_u16(self.prefix_len).to_le_bytes());
        put(out, 6, &to_u16(self.parts.runs.len() / RUN_BYTES).to_le_bytes());
    }
}

/// How many children stay on the left if sorted children are cut in two halves of about the same
/// bytes: each half has one at least. The separator to the right of the last of them goes to the
/// parent. Of the cuts within a sixteenth of all bytes from the middle it is the one with the
/// shortest separator. `None` for a single child.
pub(crate) fn inner_split_point<'a>(branches: impl Iterator<Item = Branch<'a>> + Clone) -> Option<usize> {
    let size = |branch: &Branch<'_>| {
        CHILD_BYTES + PER_KEY_BYTES + branch.upper.map_or(0, |separator| separator.len())
    };
    let (count, total) = branches.clone().fold((0usize, 0), |(n, sum), branch| (n + 1, sum + size(&branch)));
    let mut best = None;
    let mut bytes = 0;
    for (index, branch) in branches.take(count.saturating_sub(1)).enumerate() {
        bytes += size(&branch);
        let distance = bytes.abs_diff(total / 2);
        let separator_len = branch.upper.map_or(0, |separator| separator.len());
        let near = distance <= total / 16;
        let rank = if near { (0, separator_len, distance) } else { (1, distance, 0) };
        if best.is_none_or(|(least, _)| rank < least) {
            best = Some((rank, index + 1));
        }
    }
    best.map(|(_, left)| left)
}
