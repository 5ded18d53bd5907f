//! Objects: strings of bytes on the namespace and the references to them (disk format, section 3).

use std::rc::Rc;

use super::codec::{Reader, checksum, to_u32};
use super::options::{MAX_INLINE_BYTES, MAX_VALUE_BYTES};
use super::space::{Extent, Space};

/// How an object is found and checked: where it is, how long, and its checksum. Held by the page
/// that refers to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ObjectRef {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u32,
    pub(super) checksum: u64,
}

/// The content lies in fragments that index pages list.
pub(super) const FLAG_SCATTERED: u32 = 1;
/// A leaf that refers to overflow values.
pub(super) const FLAG_HAS_OVERFLOW: u32 = 2;
const KNOWN_FLAGS: u32 = FLAG_SCATTERED | FLAG_HAS_OVERFLOW;

/// The size of an encoded reference.
pub(super) const REF_BYTES: usize = 24;
/// The largest run of units that is asked for at once.
pub(super) const MAX_FRAGMENT_BYTES: usize = 1 << 20;
const INDEX_MAGIC: u32 = u32::from_le_bytes(*b"bIDX");
const INDEX_HEADER_BYTES: usize = 8 + REF_BYTES;

impl ObjectRef {
    pub(super) fn is_nothing(&self) -> bool {
        self.len == 0
    }

    pub(super) fn is_scattered(&self) -> bool {
        self.flags & FLAG_SCATTERED != 0
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.address.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
    }

    pub(super) fn to_bytes(self) -> [u8; REF_BYTES] {
        let mut bytes = [0; REF_BYTES];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.flags.to_le_bytes());
        bytes[16..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let (address, len, flags, checksum) = (reader.u64()?, reader.u32()?, reader.u32()?, reader.u64()?);
        (flags & !KNOWN_FLAGS == 0).then_some(Self { address, len, flags, checksum })
    }

    /// Whether it can refer to a large value.
    pub(super) fn is_value(&self) -> bool {
        let len = self.len as usize;
        self.flags & FLAG_HAS_OVERFLOW == 0 && len > MAX_INLINE_BYTES && len <= MAX_VALUE_BYTES
    }
}

/// An object that is on the namespace, with what is known about the units it takes.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) reference: ObjectRef,
    /// Every extent of a scattered object, index pages included; `None` while they were not read.
    pub(super) scattered: Option<Rc<[Extent]>>,
}

impl Stored {
    /// What a reference that was just read from its parent tells.
    pub(super) fn from_ref(reference: ObjectRef) -> Self {
        Self { reference, scattered: None }
    }

    /// The extents, unless they have to be read from the index first.
    pub(super) fn extents(&self, unit: u32) -> Option<Vec<Extent>> {
        match &self.scattered {
            Some(extents) => Some(extents.to_vec()),
            None if self.reference.is_scattered() => None,
            None => Some(vec![plain_extent(&self.reference, unit)]),
        }
    }
}

/// The units of a plain object.
pub(super) fn plain_extent(reference: &ObjectRef, unit: u32) -> Extent {
    Extent { start: reference.address / u64::from(unit), units: reference.len.div_ceil(unit) }
}

/// How many units `len` bytes of content take at most, index pages included.
pub(super) fn object_cost(len: usize, unit: u32) -> u64 {
    let units = (len as u64).div_ceil(u64::from(unit));
    if units > 1 { units + units.div_ceil(fragments_per_index(unit) as u64) } else { units }
}

/// The units that a value takes besides its leaf.
pub(super) fn value_units(len: usize, unit: u32) -> u64 {
    if len > MAX_INLINE_BYTES { object_cost(len, unit) } else { 0 }
}

/// How many fragments one index page lists.
pub(super) fn fragments_per_index(unit: u32) -> usize {
    (unit as usize - INDEX_HEADER_BYTES) / REF_BYTES
}

/// Where an object is going to lie.
pub(super) struct Placement {
    content: Vec<Extent>,
    index: Vec<Extent>,
    unit: u32,
}

/// What to write for an object: pieces of its content, and index pages.
pub(super) struct WritePlan {
    pub(super) stored: Stored,
    /// Extent, and the range of the content that goes there.
    pub(super) content: Vec<(Extent, std::ops::Range<usize>)>,
    pub(super) index: Vec<(Extent, Vec<u8>)>,
}

impl Placement {
    /// Takes units for `len` bytes: one run if there is one, scattered otherwise. `None`, with
    /// nothing taken, if there are not enough.
    pub(super) fn allocate(space: &mut Space, len: usize, unit: u32) -> Option<Self> {
        let mut left = to_u32(len.div_ceil(unit as usize));
        let max_run = to_u32(MAX_FRAGMENT_BYTES / unit as usize);
        let mut content = Vec::with_capacity(left.div_ceil(max_run) as usize);
        let mut run = left.min(max_run);
        while left > 0 {
            run = run.min(left);
            match space.allocate(run) {
                Some(extent) => {
                    content.push(extent);
                    left -= run;
                }
                None if run > 1 => run = run.div_ceil(2),
                None => {
                    space.undo(content.iter().copied());
                    return None;
                }
            }
        }
        let mut index = Vec::new();
        if content.len() > 1 {
            for _ in 0..content.len().div_ceil(fragments_per_index(unit)) {
                match space.allocate(1) {
                    Some(extent) => index.push(extent),
                    None => {
                        space.undo(content.iter().chain(&index).copied());
                        return None;
                    }
                }
            }
        }
        Some(Self { content, index, unit })
    }

    /// Every extent, index pages included.
    pub(super) fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.content.iter().chain(&self.index).copied()
    }

    /// How many units it takes.
    pub(super) fn units(&self) -> u64 {
        self.extents().map(|extent| u64::from(extent.units)).sum()
    }

    /// The reference to `content` lying here, and what to write where.
    pub(super) fn plan(self, content: &[u8], flags: u32) -> WritePlan {
        let unit = self.unit;
        let address = |extent: &Extent| extent.start * u64::from(unit);
        let mut pieces = Vec::with_capacity(self.content.len());
        let mut fragments = Vec::with_capacity(self.content.len());
        let mut at = 0;
        for extent in &self.content {
            let end = content.len().min(at + extent.units as usize * unit as usize);
            fragments.push(ObjectRef {
                address: address(extent),
                len: to_u32(end - at),
                flags: 0,
                checksum: checksum(&content[at..end]),
            });
            pieces.push((*extent, at..end));
            at = end;
        }
        if self.index.is_empty() {
            let reference =
                fragments.first().map_or_else(ObjectRef::default, |only| ObjectRef { flags, ..*only });
            return WritePlan { stored: Stored::from_ref(reference), content: pieces, index: Vec::new() };
        }
        let mut next = ObjectRef::default();
        let mut index = Vec::with_capacity(self.index.len());
        let chunks: Vec<_> = fragments.chunks(fragments_per_index(unit)).collect();
        for (extent, chunk) in self.index.iter().zip(chunks).rev() {
            let page = encode_index(chunk, next, unit);
            next = ObjectRef { address: address(extent), len: unit, flags: 0, checksum: checksum(&page) };
            index.push((*extent, page));
        }
        let reference = ObjectRef {
            address: next.address,
            len: to_u32(content.len()),
            flags: flags | FLAG_SCATTERED,
            checksum: next.checksum,
        };
        let scattered = Some(self.extents().collect());
        WritePlan { stored: Stored { reference, scattered }, content: pieces, index }
    }
}

fn encode_index(fragments: &[ObjectRef], next: ObjectRef, unit: u32) -> Vec<u8> {
    let mut page = Vec::with_capacity(unit as usize);
    page.extend_from_slice(&INDEX_MAGIC.to_le_bytes());
    page.extend_from_slice(&to_u32(fragments.len()).to_le_bytes());
    next.encode(&mut page);
    fragments.iter().for_each(|fragment| fragment.encode(&mut page));
    page.resize(unit as usize, 0);
    page
}

/// The fragments of an index page whose checksum was right, and the next index page.
pub(super) fn decode_index(page: &[u8]) -> Option<(Vec<ObjectRef>, ObjectRef)> {
    let mut reader = Reader::new(page);
    if reader.u32()? != INDEX_MAGIC {
        return None;
    }
    let count = reader.u32()? as usize;
    let next = ObjectRef::decode(&mut reader)?;
    if count > page.len() / REF_BYTES {
        return None;
    }
    let fragments = (0..count).map(|_| ObjectRef::decode(&mut reader)).collect::<Option<Vec<_>>>()?;
    let are_plain = fragments.iter().chain([&next]).all(|reference| reference.flags == 0);
    let are_whole = fragments.iter().all(|fragment| !fragment.is_nothing());
    (are_plain && are_whole && (next.is_nothing() || next.len as usize == page.len()))
        .then_some((fragments, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_page_that_no_encoder_writes_is_refused() {
        const UNIT: u32 = 4096;
        let fragment = ObjectRef { address: 8192, len: 5000, flags: 0, checksum: 1 };
        let next = ObjectRef { address: 4096, len: UNIT, flags: 0, checksum: 2 };
        let decode = |fragments: &[ObjectRef], next| decode_index(&encode_index(fragments, next, UNIT));
        assert_eq!(decode(&[fragment, fragment], next), Some((vec![fragment, fragment], next)));
        assert!(decode(&[fragment], ObjectRef::default()).is_some());
        let scattered = ObjectRef { flags: FLAG_SCATTERED, ..fragment };
        assert_eq!(decode(&[fragment, scattered], next), None, "a fragment of fragments");
        assert_eq!(decode(&[ObjectRef::default()], next), None, "a fragment of nothing");
        assert_eq!(decode(&[fragment], fragment), None, "an index page of another length");
    }
}
