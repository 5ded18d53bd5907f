//! What the tests of images share: keys that are hard on prefixes and heads, and entries as values.

#[cfg(target_arch = "x86_64")]
mod budget;
mod damage;
mod inner;
mod leaf;

use std::collections::BTreeMap;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

/// The empty key, keys that are prefixes of each other, keys that end 3, 4 and 5 bytes behind a
/// prefix, long common prefixes, the longest keys.
fn keys(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let prefix = prop_oneof![
        4 => Just(Vec::new()),
        2 => Just(vec![0]),
        2 => Just(vec![0xff; 5]),
        4 => Just(b"a prefix of some length/".to_vec()),
        1 => Just(vec![b'x'; 200]),
    ];
    let byte = prop::sample::select(vec![0, 1, b'a', b'b', 0x7f, 0x80, 0xff]);
    let one = move |prefix: Vec<u8>| {
        let prefix = prop_oneof![9 => Just(prefix), 1 => Just(b"a pre".to_vec())];
        (prefix, vec(byte.clone(), 0..9), prop_oneof![30 => Just(0), 1 => Just(MAX_KEY_BYTES)]).prop_map(
            |(mut key, suffix, len)| {
                key.extend(suffix);
                key.resize(key.len().max(len), b'z');
                key
            },
        )
    };
    prefix
        .prop_flat_map(move |prefix| btree_set(one(prefix), count.clone()))
        .prop_map(|keys| keys.into_iter().collect())
}

/// A version of a key, as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    kind: EntryKind,
    number: Option<u64>,
    expiry_ms: Option<u64>,
    value: Vec<u8>,
}

impl Version {
    fn of(entry: &Entry<'_>) -> Self {
        let Entry { kind, number, expiry_ms, value, .. } = *entry;
        Self { kind, number, expiry_ms, value: value.to_vec() }
    }

    fn entry<'a>(&'a self, key: KeyParts<'a>) -> Entry<'a> {
        Entry { kind: self.kind, number: self.number, expiry_ms: self.expiry_ms, key, value: &self.value }
    }

    /// What it adds to a leaf, roughly and at most.
    fn bytes(&self) -> usize {
        26 + self.value.len()
    }
}

fn version() -> impl Strategy<Value = Version> {
    let len = prop_oneof![8 => 0usize..130, 1 => Just(MAX_LEAF_VALUE_BYTES)];
    let expiry = prop_oneof![Just(None), (0u64..1 << 48).prop_map(Some)];
    let kinds = [EntryKind::Value, EntryKind::Value, EntryKind::Reference, EntryKind::Deleted];
    (prop::sample::select(kinds.to_vec()), expiry, len, any::<u8>()).prop_map(
        |(kind, expiry_ms, len, fill)| match kind {
            EntryKind::Deleted => Version { kind, number: None, expiry_ms: None, value: Vec::new() },
            EntryKind::Reference => {
                let value =
                    ValueReference { value: u64::from(fill) + 16, len: 5000, checksum: 7 }.encode().to_vec();
                Version { kind, number: None, expiry_ms, value }
            }
            _ => Version { kind, number: None, expiry_ms, value: vec![fill; len] },
        },
    )
}

/// By their keys, versions from the newest to the oldest.
type Contents = BTreeMap<Vec<u8>, Vec<Version>>;

/// As many as fit an image.
fn contents() -> impl Strategy<Value = Contents> {
    let versions = (prop_oneof![6 => vec(version(), 1..2), 1 => vec(version(), 1..6)], any::<bool>());
    (keys(0..60), vec(versions, 60)).prop_map(|(keys, versions)| {
        let mut room = 60_000;
        let mut number = 10_000;
        let mut contents = Contents::new();
        for (key, (mut versions, all_numbered)) in keys.into_iter().zip(versions) {
            let count = versions.len();
            for (index, version) in versions.iter_mut().enumerate() {
                if all_numbered || index + 1 < count {
                    version.number = Some(number);
                    number -= 1;
                }
                room = usize::saturating_sub(room, key.len() + version.bytes());
            }
            if room == 0 {
                break;
            }
            contents.insert(key, versions);
        }
        contents
    })
}

/// The entries of `contents`, in the order of a leaf.
fn entries(contents: &Contents) -> impl Iterator<Item = Entry<'_>> + Clone {
    contents
        .iter()
        .flat_map(|(key, versions)| versions.iter().map(|version| version.entry(KeyParts::whole(key))))
}

/// Each entry of a leaf with its key, as values.
fn owned<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<(Vec<u8>, Version)> {
    entries.map(|entry| (entry.key.to_vec(), Version::of(&entry))).collect()
}

fn build<'a>(entries: impl Iterator<Item = Entry<'a>> + Clone, changes: &[u8]) -> Vec<u8> {
    let builder = LeafBuilder::new(entries, changes);
    let mut image = vec![0xaa; builder.size_bytes()];
    builder.write(&mut image);
    image
}

/// Keys to look for among `keys`: these, and such as are a little smaller or larger.
fn probes<'a>(keys: impl Iterator<Item = &'a Vec<u8>>) -> Vec<Vec<u8>> {
    let mut probes = vec![Vec::new(), vec![0xff; 8], b"a pre".to_vec(), b"a prefix of some length/".to_vec()];
    for key in keys {
        probes.push(key.clone());
        probes.push([&key[..], &[0]].concat());
        probes.push([&key[..], &[0xff; 5]].concat());
        if let Some((&last, front)) = key.split_last() {
            probes.push(front.to_vec());
            probes.push([front, &[last.wrapping_add(1)]].concat());
            probes.push([front, &[last.wrapping_sub(1), 0xff]].concat());
            probes.push(key[..key.len() / 2].to_vec());
        }
    }
    probes
}
