//! Which pages lie in a segment, for cleaning.
//!
//! A segment has its header, then bundle after bundle, each from the start of a block on: pages one
//! after the other, each as long as its header says, then the trailer, and zeros to the end of the
//! block. One keeper writes them one after the other, and whoever opens a store goes on in no
//! segment of before. So [`walk`] finds all that was ever durable in there. It ends where neither a
//! page nor a trailer of this generation lies: there the last bundle ended, or one that a crash cut
//! off, which no batch of the log names.
//!
//! What it finds is not believed: whether a page lives says the mapping, and whether it is right
//! its checksum. A header that is damaged hides the pages behind it. Then the segment does not
//! become empty, and stays as it is; nothing in it is lost.

use super::bundle::Trailer;
use super::geometry::GRANULE_BYTES;
use super::map_page::Owner;
use super::page::{MAX_CONTENT_BYTES, stored_granules};
use super::segment::SegmentName;
use crate::store::codec::to_u32;
use crate::store::word::{ColdAddress, MAX_PAGE_BYTES, PageRef};

const PAGE_MAGIC: [u8; 4] = *b"bPG2";
const TRAILER_MAGIC: [u8; 4] = *b"bTRL";

/// A page in a segment: where, and where in the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Lying {
    pub(in crate::store) place: ColdAddress,
    /// The granule of the segment at which it begins.
    pub(in crate::store) granule: u32,
    pub(in crate::store) at: usize,
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Walked {
    pub(in crate::store) pages: Vec<Lying>,
    /// The granule from which on to read for more; none if this was the end.
    pub(in crate::store) next: Option<u32>,
}

/// What begins at one granule.
enum Begins {
    Page(ColdAddress),
    /// Up to this granule, which is the next bundle's.
    Trailer(u32),
    /// What was read ends in it.
    Unread,
    Nothing,
}

/// The pages in `bytes`, which were read from granule `first` of a segment on: the start of a
/// bundle or of a page. They are longer than two pages can be, or go to the end of the segment.
pub(in crate::store) fn walk(bytes: &[u8], first: u32, name: SegmentName, owner: &Owner) -> Walked {
    let mut pages = Vec::new();
    let mut granule = first;
    while granule < owner.geometry.segment_granules() {
        let at = (granule - first) as usize * GRANULE_BYTES;
        match begins(&bytes[at.min(bytes.len())..], granule, name, owner) {
            Begins::Page(place) => {
                pages.push(Lying { place, granule, at });
                granule += place.granules();
            }
            Begins::Trailer(end) => granule = end,
            Begins::Unread if granule > first => return Walked { pages, next: Some(granule) },
            Begins::Unread | Begins::Nothing => return Walked { pages, next: None },
        }
    }
    Walked { pages, next: None }
}

fn begins(bytes: &[u8], granule: u32, name: SegmentName, owner: &Owner) -> Begins {
    let geometry = &owner.geometry;
    let field = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let (Some(magic), Some(long_magic), Some(trailer_len), Some(stored)) =
        (bytes.get(..4), bytes.get(8..12), field(4), field(40))
    else {
        return Begins::Unread;
    };
    let fits = |granules: u32| granule + granules <= geometry.segment_granules();
    if long_magic == PAGE_MAGIC && stored <= MAX_CONTENT_BYTES && fits(stored_granules(stored)) {
        let granules = stored_granules(stored);
        let is_read = bytes.len() >= granules as usize * GRANULE_BYTES;
        let place = geometry.place(name.segment, granule, granules);
        return if is_read { Begins::Page(place) } else { Begins::Unread };
    }
    if magic != TRAILER_MAGIC || !(1..=MAX_PAGE_BYTES).contains(&trailer_len) {
        return Begins::Nothing;
    }
    let granules = to_u32(trailer_len.div_ceil(GRANULE_BYTES));
    if !fits(granules) {
        return Begins::Nothing;
    }
    if bytes.len() < granules as usize * GRANULE_BYTES {
        return Begins::Unread;
    }
    let Some(checksum) = bytes[8..16].try_into().ok().map(u64::from_le_bytes) else {
        return Begins::Nothing;
    };
    let at = PageRef { place: geometry.place(name.segment, granule, granules), checksum };
    match Trailer::parse(bytes, at, owner) {
        Ok(trailer) if trailer.generation == name.generation => {
            Begins::Trailer((granule + granules).next_multiple_of(geometry.block_granules()))
        }
        _ => Begins::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::super::bundle::{Builder, Origin};
    use super::super::geometry::Geometry;
    use super::super::page::{PageHeader, PageKind};
    use super::*;
    use crate::store::word::{ChildWord, Epoch, PageId};

    fn owner() -> Owner {
        let geometry = Geometry::of_namespace(8 << 20, 512, false).expect("large enough");
        Owner { identity: *b"a store of tests", geometry }
    }

    /// Two bundles of `pages` pages each, from the first block on.
    fn segment(name: SegmentName, pages: u64) -> (Vec<u8>, Vec<ColdAddress>) {
        let owner = owner();
        let mut bytes = vec![0; owner.geometry.segment as usize];
        let (mut first, mut places) = (owner.geometry.block_granules(), Vec::new());
        for number in 1..=2 {
            let mut builder = Builder::new(owner, number, name, first);
            let buffer = &mut bytes[first as usize * GRANULE_BYTES..];
            for id in 1..=pages {
                let page = ChildWord::new(PageId::new(100 + id).expect("small"), Epoch::FIRST);
                let content = vec![7; 100 * usize::try_from(id).expect("small")];
                let header = PageHeader::plain(PageKind::Leaf, 0, page);
                let stored = (&content[..], content.len());
                let entry = builder.append(buffer, &header, stored, Origin::default());
                places.push(entry.expect("there is room").place);
            }
            let (offset, len) = builder.seal(buffer).write();
            let end = offset + len as u64 - owner.geometry.offset(name.segment);
            first = u32::try_from(end / GRANULE_BYTES as u64).expect("within the segment");
        }
        (bytes, places)
    }

    fn found(walked: &Walked) -> Vec<ColdAddress> {
        walked.pages.iter().map(|page| page.place).collect()
    }

    #[test]
    fn all_pages_of_all_bundles_are_found_in_one_piece_or_in_several() {
        let name = SegmentName { segment: 5, generation: 3 };
        let (bytes, places) = segment(name, 20);
        let block = owner().geometry.block_granules();
        let walked = walk(&bytes[4096..], block, name, &owner());
        assert_eq!((found(&walked), walked.next), (places.clone(), None));
        let (mut pages, mut next, mut pieces) = (Vec::new(), Some(block), 0);
        while let Some(granule) = next {
            let start = granule as usize * GRANULE_BYTES;
            let walked = walk(&bytes[start..bytes.len().min(start + 5000)], granule, name, &owner());
            pages.extend(found(&walked));
            (next, pieces) = (walked.next, pieces + 1);
        }
        assert_eq!(pages, places);
        assert!(pieces > 3, "{pieces}");
    }

    #[test]
    fn what_an_older_generation_left_ends_it() {
        let old = SegmentName { segment: 5, generation: 2 };
        let (bytes, places) = segment(old, 3);
        let new = SegmentName { generation: 3, ..old };
        let block = owner().geometry.block_granules();
        let walked = walk(&bytes[4096..], block, new, &owner());
        // Pages do not say their generation; that they are dead says the mapping.
        assert_eq!((found(&walked), walked.next), (places[..3].to_vec(), None));
    }
}
