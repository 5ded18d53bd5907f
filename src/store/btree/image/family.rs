//! What an inner page of level 1 knows about its family: runs and range tombstones.

use super::damage::{Damage, MAX_KEY_BYTES, check};
use super::search::put;
use crate::store::codec::{Reader, to_u16};
use crate::store::word::ChildWord;

pub(crate) const RUN_BYTES: usize = 64;
const TOMBSTONE_FIXED_BYTES: usize = 12;

/// Sorted changes of a family on the namespace:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | child word of its first page |
/// | 8 | 8 | child word of its filter page, or 0 |
/// | 16 | 16 | newest and oldest write number |
/// | 32 | 8 | bytes (4), entries (4) |
/// | 40 | 2 | pages, at least 1 |
/// | 42 | 6 | zero |
/// | 48 | 8 | in the first run only: child word of the filter page of the family's leaves, or 0 |
/// | 56 | 8 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: ChildWord,
    pub(crate) filter: ChildWord,
    pub(crate) newest: u64,
    pub(crate) oldest: u64,
    pub(crate) bytes: u32,
    pub(crate) entries: u32,
    pub(crate) pages: u16,
    pub(crate) family_filter: ChildWord,
}

impl Run {
    pub(crate) fn encode(&self) -> [u8; RUN_BYTES] {
        let mut bytes = [0; RUN_BYTES];
        put(&mut bytes, 0, &self.first.bits().to_le_bytes());
        put(&mut bytes, 8, &self.filter.bits().to_le_bytes());
        put(&mut bytes, 16, &self.newest.to_le_bytes());
        put(&mut bytes, 24, &self.oldest.to_le_bytes());
        put(&mut bytes, 32, &self.bytes.to_le_bytes());
        put(&mut bytes, 36, &self.entries.to_le_bytes());
        put(&mut bytes, 40, &self.pages.to_le_bytes());
        put(&mut bytes, 48, &self.family_filter.bits().to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(bytes);
        let run = Self {
            first: ChildWord::from_bits(fields.u64()?),
            filter: ChildWord::from_bits(fields.u64()?),
            newest: fields.u64()?,
            oldest: fields.u64()?,
            bytes: fields.u32()?,
            entries: fields.u32()?,
            pages: fields.u16()?,
            family_filter: {
                let zeros = fields.bytes(6)?;
                if zeros != [0; 6] {
                    return None;
                }
                ChildWord::from_bits(fields.u64()?)
            },
        };
        let zeros = fields.u64()?;
        let possible = zeros == 0 && run.first.is_some() && run.pages > 0 && run.oldest <= run.newest;
        (possible && fields.is_empty()).then_some(run)
    }
}

/// The runs in `bytes`, newest first.
pub(super) fn runs(bytes: &[u8]) -> impl ExactSizeIterator<Item = Run> + Clone + '_ {
    bytes.chunks_exact(RUN_BYTES).map(|run| Run::decode(run).expect("the image was verified"))
}

/// Checks runs that begin at `at` in their page: whether each is one, and that they are newest
/// first.
pub(super) fn check_runs(bytes: &[u8], at: usize) -> Result<(), Damage> {
    let mut before: Option<Run> = None;
    for (index, bytes) in bytes.chunks_exact(RUN_BYTES).enumerate() {
        let at = at + RUN_BYTES * index;
        let run = Run::decode(bytes).ok_or(Damage::new(at, "it is no run"))?;
        check(index == 0 || run.family_filter == ChildWord::NONE, at, "not the first run has the filter")?;
        check(before.is_none_or(|before| before.newest > run.newest), at, "runs are not newest first")?;
        before = Some(run);
    }
    Ok(())
}

/// The keys in `from..to` are not there as of write `number`.
///
/// | size | field |
/// |---|---|
/// | 8 | write number |
/// | 2, 2 | lengths of from and to |
/// | | from, to |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RangeTombstone<'a> {
    pub(crate) number: u64,
    pub(crate) from: &'a [u8],
    /// Larger than `from`.
    pub(crate) to: &'a [u8],
}

impl RangeTombstone<'_> {
    /// Appends it to a section of them.
    pub(crate) fn append_to(&self, section: &mut Vec<u8>) {
        section.extend_from_slice(&self.number.to_le_bytes());
        section.extend_from_slice(&to_u16(self.from.len()).to_le_bytes());
        section.extend_from_slice(&to_u16(self.to.len()).to_le_bytes());
        section.extend_from_slice(self.from);
        section.extend_from_slice(self.to);
    }
}

/// A tombstone at the front of `section`, and what follows.
pub(super) fn next_tombstone(section: &[u8]) -> Option<(RangeTombstone<'_>, &[u8])> {
    let (fixed, rest) = section.split_at_checked(TOMBSTONE_FIXED_BYTES)?;
    let mut fields = Reader::new(fixed);
    let number = fields.u64()?;
    let (from_len, to_len) = (usize::from(fields.u16()?), usize::from(fields.u16()?));
    let (from, rest) = rest.split_at_checked(from_len)?;
    let (to, rest) = rest.split_at_checked(to_len)?;
    let possible = from < to && from_len <= MAX_KEY_BYTES && to_len <= MAX_KEY_BYTES;
    possible.then_some((RangeTombstone { number, from, to }, rest))
}
