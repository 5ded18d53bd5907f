//! Bytes that are no page: each is refused, or is a page on which everything works.

use crate::store::word::ChildWord;
use proptest::prelude::*;

use super::*;
use crate::store::btree::image::fuzzing;

/// All that a leaf may have, in few bytes.
fn small_leaf() -> Vec<u8> {
    let version =
        |kind, number, expiry_ms, value: &[u8]| Version { kind, number, expiry_ms, value: value.to_vec() };
    let reference = ValueReference { value: 20, len: 9000, checksum: 1 };
    let reference: [u8; VALUE_REFERENCE_BYTES] = reference.encode();
    let contents = Contents::from([
        (b"key".to_vec(), vec![version(EntryKind::Value, None, Some(5000), b"v")]),
        (
            b"key and more".to_vec(),
            vec![
                version(EntryKind::Deleted, Some(9), None, b""),
                version(EntryKind::Value, Some(8), None, b"+"),
                version(EntryKind::Value, None, None, b"value"),
            ],
        ),
        (b"key, large".to_vec(), vec![version(EntryKind::Reference, None, None, &reference)]),
    ]);
    let mut changes = Vec::new();
    PendingSplit { right: ChildWord::of_numbers(30, 2), separator: b"kez" }.append_to(&mut changes);
    build(entries(&contents), &changes)
}

fn small_inner() -> Vec<u8> {
    let words = [21, 22, 23].map(|id| ChildWord::of_numbers(id, 4));
    let separators: [&[u8]; 2] = [b"key", b"key and more"];
    let branches = words.iter().enumerate().map(|(index, &child)| Branch {
        child,
        upper: separators.get(index).map(|separator| KeyParts::whole(separator)),
    });
    let run = Run {
        first: words[0],
        filter: ChildWord::NONE,
        newest: 7,
        oldest: 6,
        bytes: 1000,
        entries: 10,
        pages: 1,
        family_filter: words[1],
    };
    let (mut tombstones, mut changes) = (Vec::new(), Vec::new());
    RangeTombstone { number: 5, from: b"a", to: b"b" }.append_to(&mut tombstones);
    PendingSplit { right: words[1], separator: b"key" }.append_to(&mut changes);
    let parts = InnerParts { runs: &run.encode(), tombstones: &tombstones, changes: &changes };
    let builder = InnerBuilder::new(branches, parts);
    let mut image = vec![0; builder.size_bytes()];
    builder.write(&mut image);
    image
}

/// Each byte with other values, as if the checksum had been made to fit.
#[test]
fn any_single_byte_is_refused_or_harmless() {
    let (leaf, inner) = (small_leaf(), small_inner());
    LeafImage::parse(&leaf).expect("a leaf");
    InnerImage::parse(&inner, 1).expect("an inner page");
    for (image, decode) in [(leaf, fuzzing::leaf as fn(&[u8])), (inner, |bytes| fuzzing::inner(bytes, 1))] {
        for at in 0..image.len() {
            let mut damaged = image.clone();
            let byte = image[at];
            let flipped = (0..8).map(|bit| byte ^ 1 << bit);
            for value in flipped.chain([0, 0x7f, 0x80, 0xff, byte.wrapping_add(1), byte.wrapping_sub(1)]) {
                damaged[at] = value;
                decode(&damaged);
            }
        }
        for len in 0..image.len() {
            decode(&image[..len]);
        }
    }
}

proptest! {
    #[test]
    fn many_bytes_are_refused_or_harmless(
        contents in contents(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        header in any::<bool>(),
    ) {
        let mut image = build(entries(&contents), &[]);
        for (at, value) in damage {
            let len = if header { 16 } else { image.len() };
            image[at.index(len)] = value;
        }
        fuzzing::leaf(&image);
        fuzzing::inner(&image, 1);
    }

    #[test]
    fn whatever_is_built_holds_together(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::build_leaf(&data);
        fuzzing::build_inner(&data);
    }
}

/// Where and why a leaf is refused.
#[test]
fn the_reason_is_the_first_thing_that_is_wrong() {
    let image = small_leaf();
    // Prefix "key" and its padding, 5 heads, 5 slots.
    let (heads, slots, entries) = (20, 40, 60);
    let cases: [(usize, u8, &str); 13] = [
        (0, 200, "more entries than there is room for"),
        (3, 1, "prefix and heads do not fit"),
        (6, 61, "entries do not begin behind the slots"),
        (5, 0xff, "changes begin outside of the image"),
        (8, 99, "the live bytes are not those of the entries"),
        (12, 9, "the live keys are not those of the entries"),
        (19, 1, "the padding of the prefix is not zero"),
        (heads, 1, "a head is longer than its key"),
        (heads + 7, 0xff, "keys do not ascend"),
        (slots + 3, 0xff, "a key is too long"),
        (slots, 61, "an entry does not follow the one before"),
        (entries, 0x10, "unknown flags of an entry"),
        (entries + 1, 90, "an entry does not fit"),
    ];
    for (at, value, reason) in cases {
        let mut damaged = image.clone();
        damaged[at] = value;
        assert_eq!(LeafImage::parse(&damaged).expect_err(reason).reason, reason);
    }
}

/// Of equal keys the newest comes first, and only the oldest may have no number.
#[test]
fn versions_in_another_order_are_refused() {
    let version = |number| Version { kind: EntryKind::Value, number, expiry_ms: None, value: Vec::new() };
    for (newer, older) in [(Some(3), Some(4)), (Some(3), Some(3)), (None, Some(3)), (None, None)] {
        let contents = Contents::from([(b"k".to_vec(), vec![version(newer), version(older)])]);
        let damage = LeafImage::parse(&build(entries(&contents), &[])).expect_err("the wrong order");
        assert_eq!(damage.reason, "the newest version is not the first");
    }
}

/// The offset of an empty section is 0, so an image has one form.
#[test]
fn an_empty_section_of_changes_has_no_place() {
    let mut leaf = build(std::iter::empty(), &[]);
    leaf[4] = u8::try_from(leaf.len()).expect("16");
    assert_eq!(LeafImage::parse(&leaf).expect_err("another form").reason, "there are no changes");
}

#[test]
fn damage_says_where_and_why() {
    let damage: Damage = LeafImage::parse(&[0; 8]).expect_err("too short");
    assert_eq!(damage.to_string(), "at byte 0: no leaf has this length");
}

/// The fuzzer's seeds were written from the description of the format by another program; so this
/// says too that the bytes are those of the description.
#[test]
fn images_are_those_that_the_description_makes() {
    let seed = |name: &str| {
        let path = format!("{}/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("the seed is there").split_off(1)
    };
    assert_eq!(small_leaf(), seed("store_leaf/content"));
    assert_eq!(small_inner(), seed("store_inner/content"));
    InnerImage::parse(&seed("store_inner/upper"), 2).expect("an inner page");
}

/// Also where the key before has the same head, so that their rests would be compared.
#[test]
fn a_separator_beyond_the_end_is_refused() {
    let separators: [&[u8]; 3] = [b"a", b"bcdefgh1", b"bcdefgh2"];
    let branches = (0..4).map(|index| Branch {
        child: ChildWord::of_numbers(16 + index, 1),
        upper: separators.get(usize::try_from(index).expect("small")).map(|key| KeyParts::whole(key)),
    });
    let builder = InnerBuilder::new(branches, InnerParts::default());
    let mut image = vec![0; builder.size_bytes()];
    builder.write(&mut image);
    // Behind 3 heads: the length in the third slot.
    let len_at = 16 + 3 * 4 + 2 * 4 + 2;
    assert_eq!(image[len_at], 8);
    image[len_at] = 200;
    let damage = InnerImage::parse(&image, 1).expect_err("it is longer than the page");
    assert_eq!(damage.reason, "a separator does not fit");
}

/// A page has one pending split at most.
#[test]
fn sections_of_changes_that_cannot_be_are_refused() {
    let page = ChildWord::of_numbers(40, 1);
    let split = PendingSplit { right: page, separator: b"s" };
    let cases: [(&[PendingSplit<'_>], bool); 4] = [
        (&[split], true),
        (&[split, split], false),
        (&[PendingSplit { right: ChildWord::NONE, ..split }], false),
        (&[PendingSplit { separator: b"", ..split }], false),
    ];
    for (changes, is_right) in cases {
        let mut section = Vec::new();
        changes.iter().for_each(|change| change.append_to(&mut section));
        let leaf = build(std::iter::empty(), &section);
        assert_eq!(LeafImage::parse(&leaf).is_ok(), is_right, "{changes:?}");
        let branches = [Branch { child: page, upper: None }].into_iter();
        let parts = InnerParts { changes: &section, ..InnerParts::default() };
        let builder = InnerBuilder::new(branches, parts);
        let mut inner = vec![0; builder.size_bytes()];
        builder.write(&mut inner);
        assert_eq!(InnerImage::parse(&inner, 3).is_ok(), is_right, "{changes:?}");
    }
}
