//! What a page's image says about changes of shape that its parent does not know of yet.
//!
//! The tail of an image is a section of changes, opaque to search and builders. Each is:
//!
//! | size | field |
//! |---|---|
//! | 1 | kind: 1 split, 2 absorbed, 3 merging |
//! | 1 | zero |
//! | 2 | length of the separator |
//! | 4 | zero |
//! | 8 | child word of the left page (merging), else 0 |
//! | 8 | child word of the other page |
//! | | the separator |
//!
//! A page has one split or absorbed page at most, its *pending change*, and that comes first. Only
//! inner pages have merges.

use super::damage::{Damage, MAX_KEY_BYTES, check};
use crate::store::codec::{Reader, to_u16};
use crate::store::word::ChildWord;

const FIXED_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    /// The keys from the separator on are in `right` now.
    Split = 1,
    /// The keys from the separator on were those of `right`.
    Absorbed = 2,
    /// `right` is to go into `left`; the separator is between them.
    Merging = 3,
}

/// A change that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) kind: ChangeKind,
    /// [`ChildWord::NONE`] unless it is a merge.
    pub(crate) left: ChildWord,
    pub(crate) right: ChildWord,
    /// Not empty.
    pub(crate) separator: &'a [u8],
}

impl Change<'_> {
    /// Appends it to a section.
    pub(crate) fn append_to(&self, section: &mut Vec<u8>) {
        section.extend_from_slice(&[self.kind as u8, 0]);
        section.extend_from_slice(&to_u16(self.separator.len()).to_le_bytes());
        section.extend_from_slice(&[0; 4]);
        section.extend_from_slice(&self.left.bits().to_le_bytes());
        section.extend_from_slice(&self.right.bits().to_le_bytes());
        section.extend_from_slice(self.separator);
    }
}

/// The changes of a section that was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changes<'a> {
    section: &'a [u8],
}

impl<'a> Changes<'a> {
    /// A section that [`Changes::parse`] accepted.
    pub(super) fn new(section: &'a [u8]) -> Self {
        Self { section }
    }

    /// Checks the section, which begins at `at` in its page. Pages that are no inner pages have no
    /// merges.
    pub(super) fn parse(section: &'a [u8], at: usize, inner: bool) -> Result<Self, Damage> {
        let changes = Self { section };
        let mut rest = section;
        while !rest.is_empty() {
            let place = at + section.len() - rest.len();
            let (change, after) = decode(rest).ok_or(Damage::new(place, "it is no change of a page"))?;
            let first = rest.len() == section.len();
            let merging = change.kind == ChangeKind::Merging;
            check(merging || first, place, "the pending change is not the first")?;
            check(!merging || inner, place, "a merge is marked in a page without children")?;
            rest = after;
        }
        Ok(changes)
    }

    /// The split or absorbed page that the parent may not know of.
    pub(crate) fn pending(&self) -> Option<Change<'a>> {
        self.into_iter().next().filter(|change| change.kind != ChangeKind::Merging)
    }

    /// The bytes, for a builder.
    pub(crate) fn section(&self) -> &'a [u8] {
        self.section
    }
}

impl<'a> IntoIterator for Changes<'a> {
    type Item = Change<'a>;
    type IntoIter = ChangeIter<'a>;

    fn into_iter(self) -> ChangeIter<'a> {
        ChangeIter { rest: self.section }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ChangeIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ChangeIter<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        let (change, rest) = decode(self.rest)?;
        self.rest = rest;
        Some(change)
    }
}

fn decode(section: &[u8]) -> Option<(Change<'_>, &[u8])> {
    let (fixed, rest) = section.split_at_checked(FIXED_BYTES)?;
    let mut fields = Reader::new(fixed);
    let kind = match fields.u8()? {
        1 => ChangeKind::Split,
        2 => ChangeKind::Absorbed,
        3 => ChangeKind::Merging,
        _ => return None,
    };
    let zero = fields.u8()?;
    let len = usize::from(fields.u16()?);
    let zeros = fields.u32()?;
    let left = ChildWord::from_bits(fields.u64()?);
    let right = ChildWord::from_bits(fields.u64()?);
    let (separator, rest) = rest.split_at_checked(len)?;
    let is_right = zero == 0
        && zeros == 0
        && (1..=MAX_KEY_BYTES).contains(&len)
        && right.is_some()
        && if kind == ChangeKind::Merging { left.is_some() } else { left == ChildWord::NONE };
    is_right.then_some((Change { kind, left, right, separator }, rest))
}
