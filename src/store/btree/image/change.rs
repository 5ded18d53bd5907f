//! What a page's image says about a change of shape that its parent does not know of yet: a split.
//!
//! The tail of an image is the section of changes, opaque to search and builders. It is empty, or
//! the *pending split*:
//!
//! | size | field |
//! |---|---|
//! | 1 | kind: 1 |
//! | 1 | zero |
//! | 2 | length of the separator |
//! | 12 | zero |
//! | 8 | child word of the new page |
//! | | the separator, not empty |

use super::damage::{Damage, MAX_KEY_BYTES, check};
use crate::store::codec::{Reader, to_u16};
use crate::store::word::ChildWord;

const SPLIT: u8 = 1;

/// The keys from the separator on are in `right` now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingSplit<'a> {
    pub(crate) right: ChildWord,
    /// Not empty.
    pub(crate) separator: &'a [u8],
}

impl PendingSplit<'_> {
    /// Appends it to a section.
    pub(crate) fn append_to(&self, section: &mut Vec<u8>) {
        section.extend_from_slice(&[SPLIT, 0]);
        section.extend_from_slice(&to_u16(self.separator.len()).to_le_bytes());
        section.extend_from_slice(&[0; 12]);
        section.extend_from_slice(&self.right.bits().to_le_bytes());
        section.extend_from_slice(self.separator);
    }
}

/// A section that was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changes<'a> {
    section: &'a [u8],
}

impl<'a> Changes<'a> {
    /// A section that [`Changes::parse`] accepted.
    pub(super) fn new(section: &'a [u8]) -> Self {
        Self { section }
    }

    /// Checks the section, which begins at `at` in its page.
    pub(super) fn parse(section: &'a [u8], at: usize) -> Result<Self, Damage> {
        let is_right = section.is_empty() || decode(section).is_some();
        check(is_right, at, "it is no change of a page")?;
        Ok(Self { section })
    }

    /// The split that the parent may not know of.
    pub(crate) fn pending(&self) -> Option<PendingSplit<'a>> {
        decode(self.section)
    }

    /// The bytes, for a builder.
    pub(crate) fn section(&self) -> &'a [u8] {
        self.section
    }
}

/// None if it is empty, or anything but one change.
fn decode(section: &[u8]) -> Option<PendingSplit<'_>> {
    let mut fields = Reader::new(section);
    let (kind, zero, len) = (fields.u8()?, fields.u8()?, usize::from(fields.u16()?));
    let zeros = (fields.u32()?, fields.u64()?);
    let right = ChildWord::from_bits(fields.u64()?);
    let separator = fields.bytes(len)?;
    let is_right = kind == SPLIT
        && zero == 0
        && zeros == (0, 0)
        && (1..=MAX_KEY_BYTES).contains(&len)
        && right.is_some()
        && fields.is_empty();
    is_right.then_some(PendingSplit { right, separator })
}
