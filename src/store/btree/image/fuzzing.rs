//! What the fuzz targets and the tests of damage do with bytes: decode them, and if they are a
//! page, everything that a page can do. There is no such module in any other build.
#![cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "the fuzzer has what is public here"))]

use crate::store::word::ChildWord;
use std::collections::BTreeMap;

use super::*;

/// Decodes bytes as a leaf's content. If they are one, whatever it says fits together, and a leaf
/// with the same entries can be built.
pub fn leaf(content: &[u8]) {
    let Ok(leaf) = LeafImage::parse(content) else { return };
    let entries = leaf.entries(0..leaf.len());
    for (index, entry) in entries.clone().enumerate() {
        let key = entry.key.to_vec();
        let Position::Found(first) = leaf.search(&key) else { panic!("entry {index} is not found") };
        let after = leaf.upper_bound(&key);
        assert_eq!(leaf.lower_bound(&key), first);
        assert!((first..after).contains(&index), "{index} is not in {first}..{after}");
        assert!((first..after).all(|same| leaf.get(same).key.compare(&entry.key).is_eq()));
        let longer = [&key[..], &[0]].concat();
        assert_eq!(leaf.lower_bound(&longer), after, "nothing is between a key and the next string");
    }
    assert!(leaf.lower_bound(&[]) == 0 && leaf.upper_bound(&[0xff; MAX_KEY_BYTES + 1]) == leaf.len());
    assert_eq!(leaf.changes().pending().is_some(), !leaf.changes().section().is_empty());
    assert!(leaf.changes().pending().is_none_or(|change| !change.separator.is_empty()));
    let builder = LeafBuilder::new(entries.clone(), leaf.changes().section());
    if builder.size_bytes() <= MAX_CONTENT_BYTES {
        let mut again = vec![0xaa; builder.size_bytes()];
        let summary = builder.write(&mut again);
        let again = LeafImage::parse(&again).expect("what is built is a leaf");
        assert_eq!(again.summary(), summary);
        assert_eq!(leaf.summary(), summary);
        assert_same(again.entries(0..again.len()), entries.clone());
    }
    if let Some(point) = SplitPoint::of(entries.clone(), 50) {
        let mut separator = Vec::new();
        point.append_separator_to(&mut separator);
        assert_eq!(leaf.lower_bound(&separator), point.left, "the separator separates");
    }
}

fn assert_same<'a, 'b>(
    some: impl ExactSizeIterator<Item = Entry<'a>>,
    others: impl ExactSizeIterator<Item = Entry<'b>>,
) {
    assert_eq!(some.len(), others.len());
    for (a, b) in some.zip(others) {
        assert!(a.key.compare(&b.key).is_eq());
        assert_eq!((a.kind, a.number, a.expiry_ms, a.value), (b.kind, b.number, b.expiry_ms, b.value));
    }
}

/// The same for the content of an inner page of `level`.
pub fn inner(content: &[u8], level: u8) {
    let Ok(inner) = InnerImage::parse(content, level) else { return };
    for index in 0..inner.len() {
        let upper = inner.upper(index).map(KeyParts::to_vec);
        if let Some(upper) = upper {
            assert_eq!(inner.child_for(&upper), (index + 1, inner.child(index + 1)));
            assert_eq!(inner.child_below(&upper), index);
        }
        let word = inner.child(index);
        assert!(inner.index_of(word.id()).is_some_and(|found| found <= index));
        let mut replaced = content.to_vec();
        replace_child(&mut replaced, index, ChildWord::of_numbers(word.id().get(), word.epoch().get() ^ 1));
        InnerImage::parse(&replaced, level).expect("only an epoch is another");
    }
    assert_eq!(inner.child_for(&[]).0, 0);
    assert_eq!(inner.runs().filter(|run| run.pages == 0).count(), 0);
    assert!(inner.range_tombstones().all(|tombstone| tombstone.from < tombstone.to));
    let _ = inner.changes().pending();
    let builder = InnerBuilder::new(inner.branches(0..inner.len()), inner.parts());
    if builder.size_bytes() <= MAX_CONTENT_BYTES {
        let mut again = vec![0xaa; builder.size_bytes()];
        builder.write(&mut again);
        let again = InnerImage::parse(&again, level).expect("what is built is an inner page");
        for (a, b) in again.branches(0..again.len()).zip(inner.branches(0..inner.len())) {
            assert_eq!(a.child, b.child);
            assert_eq!(a.upper.map(KeyParts::to_vec), b.upper.map(KeyParts::to_vec));
        }
        assert!(again.runs().eq(inner.runs()) && again.range_tombstones().eq(inner.range_tombstones()));
        assert!(again.changes().section() == inner.changes().section());
    }
    let left = inner_split_point(inner.branches(0..inner.len()));
    assert_eq!(left.is_none(), inner.len() == 1);
    if inner.len() > 1 {
        let edit = Edit::Remove { index: 0, child: inner.child(0) };
        let builder = InnerBuilder::new(inner.edited(edit), InnerParts::default());
        let mut fewer = vec![0xaa; builder.size_bytes()];
        builder.write(&mut fewer);
        InnerImage::parse(&fewer, level).expect("what is built is an inner page");
    }
}

/// Builds a leaf of what `data` says, which cannot fail, and holds it against a map. Each entry:
/// flags, lengths of key and value in a byte each, key. A key that comes again is an older version.
pub fn build_leaf(mut data: &[u8]) {
    let mut versions: BTreeMap<&[u8], Vec<(u8, usize)>> = BTreeMap::new();
    while let [flags, key_len, value_len, rest @ ..] = data {
        let (key, rest) = rest.split_at(rest.len().min(usize::from(key_len % 40)));
        versions.entry(key).or_default().push((*flags, usize::from(*value_len)));
        data = rest;
    }
    let reference = ValueReference { value: 17, len: 2000, checksum: 3 }.encode();
    let values = [0x5a; 255];
    let mut entries = Vec::new();
    for (key, versions) in &versions {
        for (index, &(flags, value_len)) in versions.iter().enumerate() {
            let (kind, value) = match flags & 3 {
                0 => (EntryKind::Value, &values[..value_len]),
                1 => (EntryKind::Reference, &reference[..]),
                _ => (EntryKind::Deleted, &[][..]),
            };
            let oldest = index + 1 == versions.len();
            let number = (!oldest || flags & 4 != 0).then(|| u64::MAX - index as u64);
            let expiry_ms = (flags & 8 != 0 && kind != EntryKind::Deleted).then_some(u64::from(flags));
            entries.push(Entry { kind, number, expiry_ms, key: KeyParts::whole(key), value });
        }
    }
    let builder = LeafBuilder::new(entries.iter().copied(), &[]);
    if builder.size_bytes() > MAX_CONTENT_BYTES {
        return;
    }
    let mut content = vec![0xaa; builder.size_bytes()];
    builder.write(&mut content);
    let built = LeafImage::parse(&content).expect("what is built is a leaf");
    assert_same(built.entries(0..built.len()), entries.iter().copied());
    let keys: Vec<&[u8]> = versions.keys().copied().collect();
    for key in &keys {
        assert_eq!(built.find(key).map(|entry| entry.key.to_vec()).as_deref(), Some(*key));
    }
    leaf(&content);
}

/// Builds an inner page of what `data` says, which cannot fail, and holds it against a list. Each
/// separator: its length in a byte, then it.
pub fn build_inner(mut data: &[u8]) {
    let mut separators = std::collections::BTreeSet::new();
    while let [len, rest @ ..] = data {
        let (separator, rest) = rest.split_at(rest.len().min(usize::from(len % 40)));
        if !separator.is_empty() {
            separators.insert(separator);
        }
        data = rest;
    }
    let separators: Vec<&[u8]> = separators.into_iter().collect();
    let branches = (0..=separators.len()).map(|index| Branch {
        child: ChildWord::of_numbers(index as u64 + 16, 1),
        upper: separators.get(index).map(|separator| KeyParts::whole(separator)),
    });
    let builder = InnerBuilder::new(branches, InnerParts::default());
    if builder.size_bytes() > MAX_CONTENT_BYTES {
        return;
    }
    let mut content = vec![0xaa; builder.size_bytes()];
    builder.write(&mut content);
    let built = InnerImage::parse(&content, 2).expect("what is built is an inner page");
    for (index, separator) in separators.iter().enumerate() {
        assert_eq!(built.child_for(separator).0, index + 1);
        assert_eq!(built.separator(index).to_vec(), *separator);
    }
    inner(&content, 2);
}
