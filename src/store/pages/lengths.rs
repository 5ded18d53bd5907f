//! The page with the number of keys of each tree (disk format, section 9).
//!
//! A checkpoint has one such page, unless all trees are empty. For each tree that has keys, in the
//! order of their numbers, it has the tree's number (4) and how many keys it has (8), from 1 on.
//! All fit one page: there are 1,026 trees at most.

use super::damage::{Checker, Damage, Structure};
use super::map_page::Owner;
use super::page::{self, PageHeader, PageKind, structure_word};
use crate::store::codec::Reader;
use crate::store::word::PageRef;

/// How many keys each tree has, by its number; trees without any are left out.
pub(in crate::store) type TreeLengths = Vec<(u32, u64)>;

/// The header of the page, for a bundle.
pub(in crate::store) fn header() -> PageHeader {
    PageHeader::plain(PageKind::Lengths, 0, structure_word(0, 0))
}

/// The content of the page.
pub(in crate::store) fn encode(lengths: &[(u32, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tree, length) in lengths {
        out.extend_from_slice(&tree.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
    }
    debug_assert!(out.len() <= page::MAX_CONTENT_BYTES);
    out
}

/// What the page says, which was read from where `from` leads.
///
/// # Errors
///
/// What is wrong with it.
pub(in crate::store) fn decode(bytes: &[u8], from: PageRef, owner: &Owner) -> Result<TreeLengths, Damage> {
    let parsed = page::parse(bytes, from.place, &owner.identity);
    let parsed = parsed.map_err(|damage| Damage { structure: Structure::Lengths, ..damage })?;
    let wanted = (PageKind::Lengths, structure_word(0, 0));
    let content = parsed.content_of(Structure::Lengths, wanted, 0, from.checksum)?;
    let is = Checker::new(Structure::Lengths, from.place.offset_bytes());
    let (reader, mut lengths) = (&mut Reader::new(content), TreeLengths::new());
    while !reader.is_empty() {
        let (tree, length) = (is.some(reader.u32())?, is.some(reader.u64())?);
        is.check(length > 0, "a tree in it has no keys")?;
        let is_next = lengths.last().is_none_or(|(last, _)| *last < tree);
        is.check(is_next, "its trees are not in the order of their numbers")?;
        lengths.push((tree, length));
    }
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pages::geometry::Geometry;
    use crate::store::pages::page::stored_granules;
    use crate::store::word::ColdAddress;

    fn read(content: &[u8]) -> Result<TreeLengths, Damage> {
        let geometry = Geometry::of_namespace(8 << 20, 512, false).expect("large enough");
        let owner = Owner { identity: [7; 16], geometry };
        let granules = stored_granules(content.len());
        let mut bytes = vec![0; granules as usize * 64];
        let checksum = header().write(&owner.identity, content, content.len(), &mut bytes);
        decode(&bytes, PageRef { place: ColdAddress::of_numbers(999, granules), checksum }, &owner)
    }

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else_is_taken() {
        let all: TreeLengths = (0..1026).map(|tree| (tree * 3, u64::from(tree) + 1)).collect();
        assert_eq!(read(&encode(&all)), Ok(all));
        assert_eq!(read(&[]), Ok(Vec::new()));
        assert_eq!(encode(&[(2, 3)]), [2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        for wrong in [&[(1, 0)][..], &[(1, 2), (1, 2)], &[(2, 2), (1, 2)]] {
            assert_eq!(read(&encode(wrong)).expect_err("it is wrong").structure, Structure::Lengths);
        }
        assert!(read(&encode(&[(1, 2)])[..11]).is_err());
    }
}
