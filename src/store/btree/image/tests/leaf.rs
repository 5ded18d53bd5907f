//! Leaf images against a `BTreeMap`.

use crate::store::word::ChildWord;
use proptest::prelude::*;

use super::*;

fn changes() -> Vec<u8> {
    let mut section = Vec::new();
    let right = ChildWord::of_numbers(77, 5);
    PendingSplit { right, separator: b"zz" }.append_to(&mut section);
    section
}

proptest! {
    #[test]
    fn a_leaf_has_what_it_was_built_from(contents in contents(), with_changes in any::<bool>()) {
        let changes = if with_changes { changes() } else { Vec::new() };
        let image = build(entries(&contents), &changes);
        prop_assert_eq!(LeafBuilder::new(entries(&contents), &changes).len(), contents.values().map(Vec::len).sum::<usize>());
        let leaf = LeafImage::parse(&image).expect("what was built is a leaf");
        prop_assert_eq!(leaf.content(), &image[..]);
        let expected = owned(entries(&contents));
        prop_assert_eq!(leaf.len(), expected.len());
        prop_assert_eq!(&owned(leaf.entries(0..leaf.len())), &expected);
        let mut backwards = owned(leaf.entries(0..leaf.len()).rev());
        backwards.reverse();
        prop_assert_eq!(&backwards, &expected);
        prop_assert_eq!(leaf.changes().section(), &changes[..]);
        prop_assert_eq!(leaf.changes().pending().is_some(), with_changes);
        let live: Vec<_> = contents.iter().filter(|(_, versions)| versions[0].kind != EntryKind::Deleted).collect();
        let summary = leaf.summary();
        prop_assert_eq!(summary.live_keys as usize, live.len());
        let bytes: usize = live.iter().map(|(key, versions)| key.len() + versions[0].value.len()).sum();
        prop_assert_eq!(summary.live_bytes as usize, bytes);
        let all = || contents.values().flatten();
        prop_assert_eq!(summary.earliest_expiry_ms, all().filter_map(|version| version.expiry_ms).min());
        prop_assert_eq!(summary.numbered, all().any(|version| version.number.is_some()));
        prop_assert_eq!(summary.references, all().any(|version| version.kind == EntryKind::Reference));
    }

    #[test]
    fn searches_and_bounds_are_those_of_a_sorted_list(contents in contents()) {
        let image = build(entries(&contents), &[]);
        let leaf = LeafImage::of_verified(&image);
        let all = owned(entries(&contents));
        for probe in probes(contents.keys()) {
            let lower = all.partition_point(|(key, _)| *key < probe);
            let upper = all.partition_point(|(key, _)| *key <= probe);
            let expected = if lower < upper { Position::Found(lower) } else { Position::Insert(lower) };
            prop_assert_eq!(leaf.search(&probe), expected, "{:?}", &probe);
            prop_assert_eq!(leaf.lower_bound(&probe), lower, "{:?}", &probe);
            prop_assert_eq!(leaf.upper_bound(&probe), upper, "{:?}", &probe);
            let newest = contents.get(&probe).map(|versions| versions[0].clone());
            prop_assert_eq!(leaf.find(&probe).map(|entry| Version::of(&entry)), newest);
        }
    }

    /// Whatever is cut, both halves hold what they held together, and the separator separates.
    #[test]
    fn a_split_keeps_every_entry_on_its_side(contents in contents(), share in 0usize..=100) {
        let image = build(entries(&contents), &[]);
        let leaf = LeafImage::of_verified(&image);
        let all = leaf.entries(0..leaf.len());
        let Some(point) = SplitPoint::of(all, share) else {
            prop_assert!(contents.len() < 2);
            return Ok(());
        };
        prop_assert!(contents.len() > 1);
        let mut separator = Vec::new();
        point.append_separator_to(&mut separator);
        let left = build(leaf.entries(0..point.left), &[]);
        let right = build(leaf.entries(point.left..leaf.len()), &[]);
        let (left, right) = (LeafImage::parse(&left).expect("a leaf"), LeafImage::parse(&right).expect("a leaf"));
        let (left, right) = (owned(left.entries(0..left.len())), owned(right.entries(0..right.len())));
        prop_assert!(!left.is_empty() && !right.is_empty());
        prop_assert!(left.iter().all(|(key, _)| *key < separator));
        prop_assert!(right.iter().all(|(key, _)| *key >= separator));
        // It is the shortest: one byte fewer would not be above the left side.
        prop_assert!(left[left.len() - 1].0[..] >= separator[..separator.len() - 1]);
        prop_assert_eq!([left, right].concat(), owned(entries(&contents)));
    }

    /// Parts of two leaves of different prefixes go into one.
    #[test]
    fn entries_move_between_leaves_in_their_pieces(contents in contents(), cut in any::<prop::sample::Index>()) {
        let keys: Vec<_> = contents.keys().cloned().collect();
        prop_assume!(keys.len() > 1);
        let mut left = contents.clone();
        let right = left.split_off(&keys[cut.index(keys.len())]);
        let (a, b) = (build(entries(&left), &[]), build(entries(&right), &[]));
        let (a, b) = (LeafImage::of_verified(&a), LeafImage::of_verified(&b));
        let both = build(a.entries(0..a.len()).chain(b.entries(0..b.len())), &[]);
        prop_assert_eq!(both, build(entries(&contents), &[]));
    }

    #[test]
    fn a_patched_leaf_is_the_one_that_is_built(
        contents in contents(),
        roles in prop::collection::vec(0..6u8, 60),
        with_changes in any::<bool>(),
    ) {
        let section = if with_changes { changes() } else { Vec::new() };
        let of = |kind, len| vec![Version { kind, number: None, expiry_ms: None, value: vec![9; len] }];
        let (new, gone) = (of(EntryKind::Value, 17), of(EntryKind::Deleted, 0));
        let [mut before, mut after, mut patches] = [(); 3].map(|()| Contents::new());
        for ((key, mut old), role) in contents.into_iter().zip(roles) {
            old.truncate(1);
            if old[0].kind == EntryKind::Deleted {
                old = of(EntryKind::Value, 140);
            }
            if matches!(role, 0..4) {
                before.insert(key.clone(), old.clone());
            }
            match role {
                0 | 1 => drop(after.insert(key, old)),
                3 | 4 => drop(patches.insert(key, gone.clone())),
                _ => {
                    after.insert(key.clone(), new.clone());
                    patches.insert(key, new.clone());
                }
            }
        }
        let image = build(entries(&before), &[]);
        let image = LeafImage::parse(&image).expect("a leaf");
        let patches: Vec<_> = entries(&patches)
            .map(|entry| match image.search(&entry.key.to_vec()) {
                Position::Found(at) => Patch { entry, at, behind: at + 1 },
                Position::Insert(at) => Patch { entry, at, behind: at },
            })
            .collect();
        let expected = build(entries(&after), &section);
        let has_same_prefix = LeafImage::parse(&expected).expect("a leaf").prefix_len() == image.prefix_len();
        match PatchedLeaf::new(image, &patches, &section) {
            None => prop_assert!(after.is_empty() || !has_same_prefix),
            Some(patched) => {
                prop_assert_eq!(patched.len(), after.len());
                let mut image = vec![0xaa; patched.size_bytes()];
                patched.write(&mut image);
                prop_assert_eq!(image, expected);
            }
        }
    }

    #[test]
    fn keys_in_pieces_compare_as_keys_do(keys in keys(2..20)) {
        let versions = vec![Version { kind: EntryKind::Deleted, number: None, expiry_ms: None, value: Vec::new() }];
        let contents: Contents = keys.iter().take(10).map(|key| (key.clone(), versions.clone())).collect();
        let image = build(entries(&contents), &[]);
        let leaf = LeafImage::of_verified(&image);
        for (index, a) in contents.keys().enumerate() {
            let parts = leaf.get(index).key;
            prop_assert_eq!(parts.len(), a.len());
            prop_assert_eq!(&parts.to_vec(), a);
            for b in probes(keys.iter()) {
                prop_assert_eq!(parts.is(&b), *a == b);
                prop_assert_eq!(parts.compare(&KeyParts::whole(&b)), a.cmp(&b));
                prop_assert_eq!(KeyParts::whole(&b).compare(&parts), b.cmp(a));
                let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
                prop_assert_eq!(parts.common_len(&KeyParts::whole(&b)), common);
            }
        }
    }
}

#[test]
fn an_empty_leaf_is_sixteen_bytes() {
    let image = build(std::iter::empty(), &[]);
    assert_eq!(image.len(), 16);
    let leaf = LeafImage::parse(&image).expect("a leaf");
    assert_eq!(leaf.search(b"anything"), Position::Insert(0));
    assert_eq!((leaf.lower_bound(b""), leaf.upper_bound(b"\xff")), (0, 0));
}

/// 116 bytes of key and value, random keys: what the design's arithmetic counts on.
#[test]
fn an_entry_of_116_bytes_takes_122() {
    let value = vec![7; 100];
    let keys: Vec<[u8; 16]> = (0..30u8).map(|first| [first * 8; 16]).collect();
    let whole = |key| Entry { kind: EntryKind::Value, number: None, expiry_ms: None, key, value: &value };
    let image = build(keys.iter().map(|key| whole(KeyParts::whole(key))), &[]);
    assert_eq!(image.len(), 16 + 30 * 122);
}

/// Of separators that leave the halves about as large, the shortest.
#[test]
fn the_separator_is_short_where_it_can_be() {
    let mut keys: Vec<String> = (0..50).map(|number| format!("apple/{number:03}")).collect();
    keys.extend((0..52).map(|number| format!("banana/{number:03}")));
    let all = keys.iter().map(|key| Entry {
        kind: EntryKind::Value,
        number: None,
        expiry_ms: None,
        key: KeyParts::whole(key.as_bytes()),
        value: b"some value",
    });
    let point = SplitPoint::of(all, 50).expect("two keys");
    let mut separator = Vec::new();
    point.append_separator_to(&mut separator);
    assert_eq!((point.left, &separator[..]), (50, &b"b"[..]));
}

/// A full leaf of small records is a page of 4 KiB; what cannot be split stays below 16 KiB.
#[test]
fn sizes_are_those_of_the_design() {
    assert_eq!(LEAF_TARGET_BYTES + crate::store::pages::PAGE_HEADER_BYTES, 4096);
    let (key, value) = (vec![9; MAX_KEY_BYTES], vec![1; MAX_LEAF_VALUE_BYTES]);
    let long_keys = [KeyParts::whole(&key[1..]), KeyParts::whole(&key)];
    for (keys, value) in [(&long_keys[..], &value[..1008]), (&[KeyParts::whole(&key[..16])], &value)] {
        let entry = |key| Entry { kind: EntryKind::Value, number: Some(1), expiry_ms: Some(1), key, value };
        let image = build(keys.iter().copied().map(entry), &changes());
        assert!(image.len() <= IMAGE_BYTES, "{}", image.len());
    }
}

/// More heads than are counted at once.
#[test]
fn thousands_of_keys_are_found() {
    for count in [255u16, 256, 257, 511, 513, 5000] {
        let mut keys: Vec<[u8; 5]> = Vec::new();
        for number in 0..count {
            let [a, b] = (13 * u32::from(number) % 65_521).to_be_bytes()[2..] else { unreachable!() };
            keys.push([7, 7, 7, a, b]);
        }
        keys.sort_unstable();
        let entry = |key| Entry { kind: EntryKind::Deleted, number: None, expiry_ms: None, key, value: &[] };
        let image = build(keys.iter().map(|key| entry(KeyParts::whole(key))), &[]);
        let leaf = LeafImage::parse(&image).expect("a leaf");
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(leaf.search(key), Position::Found(index));
            assert_eq!(leaf.upper_bound(key), index + 1);
            assert_eq!(leaf.search(&[&key[..], &[0]].concat()), Position::Insert(index + 1));
        }
    }
}

#[test]
#[should_panic(expected = "keys do not ascend")]
fn a_leaf_is_not_built_of_keys_in_another_order() {
    let entry = |key| Entry { kind: EntryKind::Deleted, number: None, expiry_ms: None, key, value: &[] };
    build([b"b", b"a"].into_iter().map(|key| entry(KeyParts::whole(key))), &[]);
}

/// Of what is no live key a patch does not know.
#[test]
fn a_leaf_with_a_deletion_is_not_patched() {
    let entry =
        |key, kind| Entry { kind, number: None, expiry_ms: None, key: KeyParts::whole(key), value: &[] };
    let patches = |at| [Patch { entry: entry(b"aa", EntryKind::Value), at, behind: at }];
    let build = |kind| build([entry(b"a", EntryKind::Value), entry(b"b", kind)].into_iter(), &[]);
    let (plain, deleted) = (build(EntryKind::Value), build(EntryKind::Deleted));
    let is_patched = |image| PatchedLeaf::new(LeafImage::of_verified(image), &patches(1), &[]).is_some();
    assert!(is_patched(&plain) && !is_patched(&deleted));
}
