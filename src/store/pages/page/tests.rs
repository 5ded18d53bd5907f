//! Page headers: they come back, and whatever is another is refused.

use proptest::prelude::*;

use super::*;

const IDENTITY: [u8; 16] = *b"identity of some";

fn place(stored: usize) -> ColdAddress {
    ColdAddress::of_numbers(999, stored_granules(stored))
}

fn header() -> PageHeader {
    PageHeader {
        flags: PageFlags { numbered: true, moved_versions: true, ..PageFlags::default() },
        bundle: 12,
        newest: 345,
        tree: 6,
        earliest_expiry_seconds: 7,
        ..PageHeader::plain(PageKind::Leaf, 0, ChildWord::of_numbers(99, 3))
    }
}

fn identity() -> PageIdentity {
    PageIdentity { kind: PageKind::Leaf, level: 0, page: ChildWord::of_numbers(99, 3), tree: 6 }
}

/// The page, up to a granule.
fn sealed(header: &PageHeader, stored: &[u8], content_len: usize) -> Vec<u8> {
    let mut page = vec![0xee; to_usize(place(stored.len()).len_bytes())];
    let sum = header.write(&IDENTITY, stored, content_len, &mut page);
    assert_eq!(page[..8], sum.to_le_bytes());
    page
}

proptest! {
    #[test]
    fn a_page_says_what_it_was_sealed_with(
        content in proptest::collection::vec(any::<u8>(), 0..300),
        kind in 0usize..10,
        flags in 0u8..16,
        numbers: (u64, u64, u32, u32),
        more in 0usize..100,
    ) {
        let kind = PageKind::ALL[kind];
        let bit = |bit: u8| flags >> bit & 1 != 0;
        let (bundle, newest, tree, earliest_expiry_seconds) = numbers;
        let header = PageHeader {
            kind,
            level: if kind == PageKind::Inner { 9 } else { 0 },
            flags: PageFlags {
                changes: bit(0), numbered: bit(1), references: bit(2), moved_versions: bit(3),
            },
            bundle,
            newest: if matches!(kind, PageKind::Leaf | PageKind::Run) { newest } else { 0 },
            tree,
            earliest_expiry_seconds,
            ..header()
        };
        let mut bytes = sealed(&header, &content, content.len());
        bytes.resize(bytes.len() + more, 0xee);
        let page = parse(&bytes, place(content.len()), &IDENTITY).expect("a page");
        prop_assert_eq!(page.header, header);
        prop_assert_eq!((page.stored, page.content_len), (&content[..], content.len()));
    }

    #[test]
    fn any_bytes_are_refused(mut data in proptest::collection::vec(any::<u8>(), 64..600)) {
        data[8..12].copy_from_slice(b"bPG2");
        let stored = data.len() - 64;
        data[40..44].copy_from_slice(&to_u32(stored).to_le_bytes());
        data.resize(to_usize(place(stored).len_bytes()), 0);
        prop_assert!(parse(&data, place(stored), &IDENTITY).is_err());
    }
}

/// Each bit of a whole page, one after the other.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let content = [5; 400];
    let mut page = sealed(&header(), &content, content.len());
    let (place, len) = (place(content.len()), PAGE_HEADER_BYTES + content.len());
    for at in 0..len {
        for bit in 0..8 {
            page[at] ^= 1 << bit;
            let damage = parse(&page, place, &IDENTITY).expect_err("flipped");
            assert_eq!((damage.structure, damage.offset), (Structure::Page, 999 * 64), "byte {at}");
            page[at] ^= 1 << bit;
        }
    }
    assert!(parse(&page, place, &IDENTITY).is_ok());
    for len in 0..page.len() {
        assert!(parse(&page[..len], place, &IDENTITY).is_err(), "{len} bytes");
    }
}

#[test]
fn another_page_than_the_one_that_was_meant_is_refused() {
    let bytes = sealed(&header(), b"content", 7);
    let page = parse(&bytes, place(7), &IDENTITY).expect("a page");
    assert_eq!(page.check(&identity()), Ok(()));
    let others = [
        PageIdentity { kind: PageKind::Run, ..identity() },
        PageIdentity { level: 1, ..identity() },
        PageIdentity { page: ChildWord::of_numbers(99, 4), ..identity() },
        PageIdentity { page: ChildWord::of_numbers(98, 3), ..identity() },
        PageIdentity { tree: 7, ..identity() },
    ];
    for other in others {
        assert!(page.check(&other).is_err(), "{other:?}");
    }
    assert!(parse(&bytes, place(7), b"identitz of some").is_err());
    assert!(parse(&bytes, place(100), &IDENTITY).is_err(), "a reference of another length");
}

#[test]
fn a_header_that_says_another_thing_than_the_content_is_refused() {
    let header = header();
    let flags = PageFlags { moved_versions: false, ..header.flags };
    assert_eq!(header.check_content(flags, Some(7_999), place(1)), Ok(()));
    assert!(header.check_content(flags, Some(8_000), place(1)).is_err());
    assert!(header.check_content(flags, None, place(1)).is_err());
    let others = [
        PageFlags { changes: true, ..flags },
        PageFlags { numbered: false, ..flags },
        PageFlags { references: true, ..flags },
    ];
    for flags in others {
        assert!(header.check_content(flags, Some(7_999), place(1)).is_err(), "{flags:?}");
    }
    assert_eq!((expiry_seconds(None), expiry_seconds(Some(5))), (0, 1), "an expiry is never 0");
    assert_eq!(expiry_seconds(Some(u64::MAX)), u32::MAX);
}

/// The longest content, in a page of 64 KiB; and the lengths that compression may have.
#[test]
fn lengths_that_cannot_be_are_refused() {
    let content = vec![3; MAX_CONTENT_BYTES];
    let bytes = sealed(&header(), &content, content.len());
    assert_eq!(bytes.len(), MAX_PAGE_BYTES);
    assert!(parse(&bytes, place(content.len()), &IDENTITY).is_ok());
    let cases = [
        (PageKind::Leaf, Compression::None, 100, true),
        (PageKind::Leaf, Compression::None, 101, false),
        (PageKind::Leaf, Compression::Lz4, 101, true),
        (PageKind::Leaf, Compression::Zstd, 100, false),
        (PageKind::Leaf, Compression::Lz4, MAX_CONTENT_BYTES, true),
        (PageKind::Leaf, Compression::Lz4, MAX_CONTENT_BYTES + 1, false),
        (PageKind::Value, Compression::Zstd, MAX_PAGE_BYTES, true),
        (PageKind::Value, Compression::Zstd, MAX_PAGE_BYTES + 1, false),
    ];
    for (kind, compression, content_len, fits) in cases {
        let header = PageHeader { kind, compression, newest: 0, ..header() };
        let bytes = sealed(&header, &[1; 100], content_len);
        let page = parse(&bytes, place(100), &IDENTITY);
        assert_eq!(page.is_ok(), fits, "{kind:?} {compression:?} {content_len}");
    }
}

#[test]
fn kinds_have_their_levels_and_those_without_entries_no_write_number() {
    for kind in PageKind::ALL {
        for level in 0..=u8::MAX {
            let header = PageHeader { kind, level, newest: 0, ..header() };
            let bytes = sealed(&header, b"content", 7);
            let fits = match kind {
                PageKind::Inner => level > 0,
                PageKind::Map => level <= 4,
                _ => level == 0,
            };
            assert_eq!(parse(&bytes, place(7), &IDENTITY).is_ok(), fits, "{kind:?} of level {level}");
        }
        let level = u8::from(kind == PageKind::Inner);
        let bytes = sealed(&PageHeader { kind, level, ..header() }, b"content", 7);
        let has_entries = matches!(kind, PageKind::Leaf | PageKind::Run);
        assert_eq!(parse(&bytes, place(7), &IDENTITY).is_ok(), has_entries, "{kind:?}");
    }
}

/// The fuzzer's seeds were written from the description of the format by another program; so this
/// says too that the bytes are those of the description.
#[test]
fn headers_are_those_that_the_description_makes() {
    for name in ["store_leaf", "store_inner"] {
        let seed = |which: &str| {
            let path = format!("{}/fuzz/seeds/{name}/{which}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(path).expect("the seed is there").split_off(1)
        };
        let (mut bytes, content) = (seed("page"), seed("content"));
        // The seed has the fuzzer's checksum, and ends with its content.
        let checksum = checksum(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&bytes[56..64]);
        bytes.resize(to_usize(place(content.len()).len_bytes()), 0);
        let page = parse(&bytes, place(content.len()), &identity).expect("a page");
        assert_eq!((page.stored, page.header.page), (&content[..], ChildWord::of_numbers(99, 3)));
        let mut again = vec![0; bytes.len()];
        page.header.write(&identity, page.stored, page.content_len, &mut again);
        assert_eq!(again, bytes);
    }
}
