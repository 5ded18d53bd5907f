//! Images of inner pages (disk format, section 7).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | number of children *n*, at least 1 |
//! | 2 | 2 | length of the prefix of all separators |
//! | 4 | 2 | offset of the section of changes, or 0 |
//! | 6 | 2 | number of runs *r* (0 unless level 1) |
//! | 8 | 2 | offset of the range tombstones, or 0 (0 unless level 1) |
//! | 10 | 6 | zero |
//! | 16 | | prefix, heads, slots of the *n* - 1 separators (`search.rs`) |
//! | | 8 *n* | child words |
//! | | 64 *r* | runs, newest first (`family.rs`) |
//! | | | rests of the separators, one behind the other |
//! | | | range tombstones (`family.rs`) |
//! | | | the section of changes (`change.rs`) |
//!
//! Child *i* holds the keys from separator *i* - 1 on and below separator *i*. Separators are not
//! empty, and ascend. Heads stand near the header, so that a descent can ask for their lines before
//! it has read how many there are.

use std::ops::Range;

use super::change::Changes;
use super::damage::{Damage, MAX_CONTENT_BYTES, check};
use super::family::{RUN_BYTES, RangeTombstone, Run, check_runs, next_tombstone, runs};
use super::key::KeyParts;
use super::search::{IMAGE_HEADER_BYTES, PER_KEY_BYTES, Position, SortedKeys, padded, put};
use crate::store::codec::u16_at;
use crate::store::word::{ChildWord, PageId};

pub(super) const CHILD_BYTES: usize = 8;

/// An inner page over its bytes, which were verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InnerImage<'a> {
    content: &'a [u8],
    children: &'a [[u8; CHILD_BYTES]],
    separators: SortedKeys<'a>,
}

/// A child, and the separator to its right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Branch<'a> {
    pub(crate) child: ChildWord,
    /// The child's keys are below it. `None`: the page's own bound.
    pub(crate) upper: Option<KeyParts<'a>>,
}

impl<'a> InnerImage<'a> {
    /// Checks everything that `content`, a page of `level` after its header, has to be, once.
    /// Total: what is no inner page is refused with the reason.
    pub(crate) fn parse(content: &'a [u8], level: u8) -> Result<Self, Damage> {
        let sizes = (IMAGE_HEADER_BYTES..=MAX_CONTENT_BYTES).contains(&content.len());
        check(sizes, 0, "no inner page has this length")?;
        check(u16_at(content, 0) > 0, 0, "there are no children")?;
        check(content[10..16] == [0; 6], 10, "bytes of the header are not zero")?;
        let image = Self::locate(content).ok_or(Damage::new(2, "separators and children do not fit"))?;
        let is_first = level == 1;
        check(is_first || u16_at(content, 6) == 0, 6, "runs above level 1")?;
        let rests_at = image.runs_at() + RUN_BYTES * usize::from(u16_at(content, 6));
        check(rests_at <= content.len(), 6, "runs do not fit")?;
        check_runs(image.run_bytes(), image.runs_at())?;
        for (index, child) in image.children.iter().enumerate() {
            let at = image.children_at() + CHILD_BYTES * index;
            check(ChildWord::from_bits(u64::from_le_bytes(*child)).is_some(), at, "it is no child")?;
        }
        let separators_end = image.separators.parse(rests_at, false, |offset, rest_len| {
            let end = offset + rest_len;
            check(end <= content.len(), offset, "a separator does not fit")?;
            Ok(end)
        })?;
        let empty = image.len() > 1 && image.separator(0).len() == 0;
        check(!empty, IMAGE_HEADER_BYTES, "a separator is empty")?;
        let (tombstones_at, changes_at) = image.tail();
        check(tombstones_at == separators_end, 8, "there is something behind the last separator")?;
        let inside = (tombstones_at..=content.len()).contains(&changes_at);
        check(inside, 4, "changes begin outside of the image")?;
        check(is_first || u16_at(content, 8) == 0, 8, "range tombstones above level 1")?;
        let mut rest = &content[tombstones_at..changes_at];
        check(rest.is_empty() == (u16_at(content, 8) == 0), 8, "there are no range tombstones")?;
        while !rest.is_empty() {
            let at = changes_at - rest.len();
            (_, rest) = next_tombstone(rest).ok_or(Damage::new(at, "it is no range tombstone"))?;
        }
        check((changes_at == content.len()) == (u16_at(content, 4) == 0), 4, "there are no changes")?;
        Changes::parse(&content[changes_at..], changes_at)?;
        Ok(image)
    }

    /// The page in bytes that [`InnerImage::parse`] accepted before, or a builder wrote: without a
    /// look at them. Of other bytes it may panic, now or later.
    #[inline]
    pub(crate) fn of_verified(content: &'a [u8]) -> Self {
        Self::locate(content).expect("the image was verified")
    }

    #[inline]
    fn locate(content: &'a [u8]) -> Option<Self> {
        let header = content.first_chunk::<IMAGE_HEADER_BYTES>()?;
        let (count, prefix_len): (usize, usize) = (u16_at(header, 0).into(), u16_at(header, 2).into());
        let separators = SortedKeys::locate(content, prefix_len, count.checked_sub(1)?)?;
        let children =
            content.get(children_at(count, prefix_len)..)?.as_chunks::<CHILD_BYTES>().0.get(..count)?;
        Some(Self { content, children, separators })
    }

    fn children_at(&self) -> usize {
        children_at(self.len(), u16_at(self.content, 2).into())
    }

    fn runs_at(&self) -> usize {
        self.children_at() + CHILD_BYTES * self.len()
    }

    /// Where range tombstones and changes begin.
    fn tail(&self) -> (usize, usize) {
        let changes_at = match u16_at(self.content, 4) {
            0 => self.content.len(),
            at => at.into(),
        };
        let tombstones_at = match u16_at(self.content, 8) {
            0 => changes_at,
            at => at.into(),
        };
        (tombstones_at, changes_at)
    }

    /// The number of children.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.children.len()
    }

    /// The whole image.
    pub(crate) fn content(&self) -> &'a [u8] {
        self.content
    }

    #[inline]
    pub(crate) fn child(&self, index: usize) -> ChildWord {
        ChildWord::from_bits(u64::from_le_bytes(self.children[index]))
    }

    /// The separator between the children `index` and `index + 1`.
    pub(crate) fn separator(&self, index: usize) -> KeyParts<'a> {
        self.separators.key(index)
    }

    /// The separator to the right of a child; `None` for the last.
    pub(crate) fn upper(&self, index: usize) -> Option<KeyParts<'a>> {
        (index + 1 < self.len()).then(|| self.separator(index))
    }

    pub(super) fn separators(&self) -> &SortedKeys<'a> {
        &self.separators
    }

    /// The rests of these separators, which lie one behind the other.
    pub(super) fn rests(&self, range: &Range<usize>) -> &'a [u8] {
        let at = |index| match index < self.separators.len() {
            true => self.separators.slot(index).0,
            false => self.tail().0,
        };
        &self.content[at(range.start)..at(range.end)]
    }

    /// The words of these children, as they lie there.
    pub(super) fn child_bytes(&self, range: &Range<usize>) -> &'a [u8] {
        self.children[range.clone()].as_flattened()
    }

    /// The index and the word of the child that holds `key`. The child's bounds are
    /// [`InnerImage::upper`] of the index and of the one before: a point read does not need them,
    /// and to look at them is a miss of the cache.
    #[inline]
    pub(crate) fn child_for(&self, key: &[u8]) -> (usize, ChildWord) {
        let index = self.separators.upper_bound(key);
        (index, self.child(index))
    }

    /// The index of the child that holds the largest keys below `key`.
    pub(crate) fn child_below(&self, key: &[u8]) -> usize {
        match self.separators.position(key) {
            Position::Found(index) | Position::Insert(index) => index,
        }
    }

    /// The index of the child with this page id.
    pub(crate) fn index_of(&self, id: PageId) -> Option<usize> {
        (0..self.len()).find(|&index| self.child(index).id() == id)
    }

    fn run_bytes(&self) -> &'a [u8] {
        let len = RUN_BYTES * usize::from(u16_at(self.content, 6));
        &self.content[self.runs_at()..self.runs_at() + len]
    }

    /// The runs of the family, newest first.
    pub(crate) fn runs(&self) -> impl ExactSizeIterator<Item = Run> + Clone + 'a {
        runs(self.run_bytes())
    }

    pub(crate) fn range_tombstones(&self) -> impl Iterator<Item = RangeTombstone<'a>> + Clone + 'a {
        let mut rest = self.parts().tombstones;
        std::iter::from_fn(move || {
            let (tombstone, after) = next_tombstone(rest)?;
            rest = after;
            Some(tombstone)
        })
    }

    /// The changes of shape that are under way, of the page and of its children.
    pub(crate) fn changes(&self) -> Changes<'a> {
        Changes::new(self.parts().changes)
    }

    /// What the page has besides its children, as its successor takes it over.
    pub(crate) fn parts(&self) -> InnerParts<'a> {
        let (tombstones_at, changes_at) = self.tail();
        InnerParts {
            runs: self.run_bytes(),
            tombstones: &self.content[tombstones_at..changes_at],
            changes: &self.content[changes_at..],
        }
    }

    /// The children at these indices, with the separators to their right.
    pub(crate) fn branches(
        &self,
        range: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = Branch<'a>> + ExactSizeIterator + Clone + 'a {
        let image = *self;
        range.map(move |index| Branch { child: image.child(index), upper: image.upper(index) })
    }

    /// The children as they are after `edit`, for an [`InnerBuilder`](super::InnerBuilder).
    pub(crate) fn edited<'e>(
        &self,
        edit: Edit<'e>,
    ) -> impl DoubleEndedIterator<Item = Branch<'e>> + ExactSizeIterator + Clone + 'e
    where
        'a: 'e,
    {
        let image: InnerImage<'e> = *self;
        let len = match edit {
            Edit::Replace { .. } => image.len(),
            Edit::Split { .. } => image.len() + 1,
            Edit::Remove { .. } => image.len() - 1,
        };
        (0..len).map(move |index| edit.branch(&image, index))
    }
}

/// Runs, range tombstones and changes of an inner page, each as the bytes of its section.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InnerParts<'a> {
    pub(crate) runs: &'a [u8],
    pub(crate) tombstones: &'a [u8],
    pub(crate) changes: &'a [u8],
}

/// A change of an inner page's children. Indices are those before it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit<'e> {
    /// The child at `index` is `child`, as after a change of its epoch.
    Replace { index: usize, child: ChildWord },
    /// The child at `index` became `left` and, from `separator` on, `right`.
    Split { index: usize, left: ChildWord, separator: KeyParts<'e>, right: ChildWord },
    /// The children at `index` and `index + 1` became `child`.
    Remove { index: usize, child: ChildWord },
}

impl<'e> Edit<'e> {
    fn branch(&self, image: &InnerImage<'e>, new: usize) -> Branch<'e> {
        let old = |index| Branch { child: image.child(index), upper: image.upper(index) };
        match *self {
            Edit::Replace { index, child } if new == index => Branch { child, ..old(new) },
            Edit::Split { index, left, separator, .. } if new == index => {
                Branch { child: left, upper: Some(separator) }
            }
            Edit::Split { index, right, .. } if new == index + 1 => {
                Branch { child: right, upper: image.upper(index) }
            }
            Edit::Remove { index, child } if new == index => Branch { child, upper: image.upper(index + 1) },
            Edit::Split { index, .. } if new > index => old(new - 1),
            Edit::Remove { index, .. } if new > index => old(new + 1),
            _ => old(new),
        }
    }
}

/// Sets the word of the child at `index` in an image: all that changes when a child's epoch does.
pub(crate) fn replace_child(content: &mut [u8], index: usize, child: ChildWord) {
    assert!(index < usize::from(u16_at(content, 0)), "there is no child {index}");
    let children_at = children_at(u16_at(content, 0).into(), u16_at(content, 2).into());
    put(content, children_at + CHILD_BYTES * index, &child.bits().to_le_bytes());
}

/// Where the words of `count` children begin behind a prefix of this length.
pub(super) fn children_at(count: usize, prefix_len: usize) -> usize {
    IMAGE_HEADER_BYTES + padded(prefix_len) + PER_KEY_BYTES * (count - 1)
}
