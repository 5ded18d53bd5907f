//! Page headers.

use crate::store::btree::word::ChildWord;
use proptest::prelude::*;

use super::*;

fn header(content: &[u8]) -> PageHeader {
    let leaf = LeafImage::parse(content).expect("a leaf");
    let summary: LeafSummary = leaf.summary();
    PageHeader {
        kind: PageKind::Leaf,
        level: 0,
        compression: Compression::None,
        flags: PageFlags {
            changes: false,
            numbered: summary.numbered,
            references: summary.references,
            moved_versions: true,
        },
        page: ChildWord::of_numbers(99, 3),
        bundle: 12,
        newest: 345,
        content_bytes: u32::try_from(content.len()).expect("short"),
        tree: 6,
        earliest_expiry_seconds: expiry_seconds(&summary),
        identity: *b"identity",
    }
}

fn page(content: &[u8]) -> (PageHeader, Vec<u8>) {
    let header = header(content);
    let mut page = [&[0; PAGE_HEADER_BYTES], content].concat();
    header.seal(&mut page);
    (header, page)
}

fn identity() -> PageIdentity {
    PageIdentity {
        kind: PageKind::Leaf,
        level: 0,
        page: ChildWord::of_numbers(99, 3),
        tree: 6,
        store: *b"identity",
    }
}

proptest! {
    #[test]
    fn a_page_says_what_it_was_sealed_with(contents in contents(), more in 0usize..100) {
        let content = build(entries(&contents), &[]);
        let (header, mut page) = page(&content);
        page.resize(page.len() + more, 0xee);
        let stored: StoredPage<'_> = PageHeader::decode(&page).expect("a page");
        prop_assert_eq!(&stored.checksum.to_le_bytes(), &page[..8]);
        prop_assert_eq!(stored.header, header);
        prop_assert_eq!(stored.content, &content[..]);
        let leaf = LeafImage::parse(stored.content).expect("a leaf");
        prop_assert_eq!(stored.header.check_leaf(&leaf), Ok(()));
        prop_assert_eq!(stored.header.check_identity(&identity()), Ok(()));
    }
}

/// Each bit of a whole page, one after the other.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let version = Version { kind: EntryKind::Value, number: Some(4), expiry_ms: None, value: vec![5; 20] };
    let contents: Contents = (0..20u8).map(|key| (vec![key; 9], vec![version.clone()])).collect();
    let (_, mut page) = page(&build(entries(&contents), &[]));
    for at in 0..page.len() {
        for bit in 0..8 {
            page[at] ^= 1 << bit;
            assert!(PageHeader::decode(&page).is_err(), "bit {bit} of byte {at}");
            page[at] ^= 1 << bit;
        }
    }
    assert!(PageHeader::decode(&page).is_ok());
    for len in 0..page.len() {
        assert!(PageHeader::decode(&page[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn another_page_than_the_one_that_was_meant_is_refused() {
    let (_, page) = page(&build(std::iter::empty(), &[]));
    let header = PageHeader::decode(&page).expect("a page").header;
    let others = [
        PageIdentity { kind: PageKind::Run, ..identity() },
        PageIdentity { level: 1, ..identity() },
        PageIdentity { page: ChildWord::of_numbers(99, 4), ..identity() },
        PageIdentity { page: ChildWord::of_numbers(98, 3), ..identity() },
        PageIdentity { tree: 7, ..identity() },
        PageIdentity { store: *b"identitz", ..identity() },
    ];
    for other in others {
        assert!(header.check_identity(&other).is_err(), "{other:?}");
    }
}

#[test]
fn a_child_word_is_an_id_and_an_epoch() {
    for (id, epoch) in [(0, 0), (1, 0), ((1 << 40) - 1, (1 << 24) - 1), (77, 5)] {
        let word = ChildWord::of_numbers(id, epoch);
        assert_eq!((word.id().get(), word.epoch().get(), word.is_some()), (id, epoch, id != 0));
        assert_eq!(ChildWord::from_bits(word.bits()), word);
    }
}

/// The longest content, in a page of 64 KiB; one byte more is none.
#[test]
fn a_page_is_64_kib_at_most() {
    let content = build(std::iter::empty(), &[]);
    for (more, fits) in [(0, true), (1, false)] {
        let len = MAX_CONTENT_BYTES + more;
        let mut page = vec![0; PAGE_HEADER_BYTES + len];
        PageHeader { content_bytes: u32::try_from(len).expect("short"), ..header(&content) }.seal(&mut page);
        assert_eq!(page.len(), MAX_PAGE_BYTES + more);
        assert_eq!(PageHeader::decode(&page).is_ok(), fits, "{len} bytes");
    }
}

#[test]
fn every_kind_of_page_has_a_header() {
    let kinds = [
        (PageKind::Leaf, 0),
        (PageKind::Inner, 1),
        (PageKind::Run, 0),
        (PageKind::Filter, 0),
        (PageKind::Value, 0),
        (PageKind::ValueIndex, 0),
        (PageKind::Map, 3),
        (PageKind::SegmentTable, 0),
        (PageKind::SegmentTableIndex, 0),
    ];
    let content = build(std::iter::empty(), &[]);
    for (kind, level) in kinds {
        let header = PageHeader { kind, level, newest: 0, ..header(&content) };
        let mut page = [&[0; PAGE_HEADER_BYTES], &content[..]].concat();
        header.seal(&mut page);
        assert_eq!(PageHeader::decode(&page).expect("a page").header, header);
        let wrong = PageHeader { level: 4 - 4 * u8::from(kind == PageKind::Inner), ..header };
        wrong.seal(&mut page);
        assert!(PageHeader::decode(&page).is_err(), "{kind:?} of level {}", wrong.level);
    }
}
