//! The catalog: which trees a checkpoint holds (disk format, section 5).

use std::collections::HashSet;

use super::codec::{Reader, to_u16, to_u32};
use super::object::ObjectRef;
use super::options::{MAX_TREE_NAME_BYTES, MAX_TREES};

/// No tree has an id from this on: ids are reused, so they stay near the number of trees.
pub(super) const MAX_TREE_IDS: usize = MAX_TREES * 64;
/// No store has as many keys: with what each takes of a leaf they would not fit into 2^64 bytes.
const MAX_KEYS: u64 = 1 << 62;

/// A tree as the catalog lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CatalogEntry {
    pub(super) id: u32,
    pub(super) len: u64,
    pub(super) root: ObjectRef,
    pub(super) name: String,
}

/// The content of a catalog.
pub(super) fn encode(entries: &[CatalogEntry], next_id: u32) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&to_u32(entries.len()).to_le_bytes());
    out.extend_from_slice(&next_id.to_le_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.id.to_le_bytes());
        out.extend_from_slice(&entry.len.to_le_bytes());
        entry.root.encode(&mut out);
        out.extend_from_slice(&to_u16(entry.name.len()).to_le_bytes());
        out.extend_from_slice(entry.name.as_bytes());
    }
    out
}

/// The trees and the next id; `None` if it does not parse or breaks a limit.
pub(super) fn decode(content: &[u8]) -> Option<(Vec<CatalogEntry>, u32)> {
    let mut reader = Reader::new(content);
    let (count, next_id) = (reader.u32()? as usize, reader.u32()?);
    if count > MAX_TREES || next_id as usize > MAX_TREE_IDS {
        return None;
    }
    let mut entries: Vec<CatalogEntry> = Vec::with_capacity(count);
    let (mut names, mut keys) = (HashSet::with_capacity(count), 0u64);
    for _ in 0..count {
        let (id, len, root) = (reader.u32()?, reader.u64()?, ObjectRef::decode(&mut reader)?);
        let name_len = usize::from(reader.u16()?);
        let name = std::str::from_utf8(reader.bytes(name_len)?).ok()?.to_owned();
        let follows = entries.last().is_none_or(|last| last.id < id);
        keys = keys.checked_add(len)?;
        let counts = keys < MAX_KEYS && (len == 0 || !root.is_nothing());
        let is_name = name.len() <= MAX_TREE_NAME_BYTES && names.insert(name.clone());
        if !follows || id >= next_id || !counts || !is_name {
            return None;
        }
        entries.push(CatalogEntry { id, len, root, name });
    }
    reader.is_empty().then_some((entries, next_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_checkpoint_lists_is_refused() {
        let root = ObjectRef { address: 8192, len: 4096, flags: 0, checksum: 5 };
        let tree = |id, len, root, name: &str| CatalogEntry { id, len, root, name: name.into() };
        let nothing = ObjectRef::default();
        for entries in [
            [tree(1, 1, root, "a"), tree(1, 1, root, "b")],
            [tree(2, 1, root, "a"), tree(1, 1, root, "b")],
            [tree(0, 1, root, "a"), tree(1, 1, root, "a")],
            [tree(0, 1, root, "a"), tree(1, 1, nothing, "b")],
            [tree(0, 1, root, "a"), tree(1, u64::MAX, root, "b")],
            [tree(0, 1, root, "a"), tree(1, 1, root, &"b".repeat(MAX_TREE_NAME_BYTES + 1))],
        ] {
            assert_eq!(decode(&encode(&entries, 3)), None, "{entries:?}");
        }
    }

    #[test]
    fn a_catalog_reads_back_and_no_prefix_of_it_does() {
        let root = ObjectRef { address: 8192, len: 4096, flags: 2, checksum: 5 };
        let entries = vec![
            CatalogEntry { id: 0, len: 3, root, name: "keys".into() },
            CatalogEntry { id: 4, len: 0, root: ObjectRef::default(), name: String::new() },
        ];
        let content = encode(&entries, 5);
        assert_eq!(decode(&content), Some((entries.clone(), 5)));
        assert!((0..content.len()).all(|cut| decode(&content[..cut]).is_none()));
        assert_eq!(decode(&encode(&entries, 4)), None, "an id that was never given out");
        assert_eq!(
            decode(&encode(&entries, u32::MAX)),
            None,
            "room for so many trees would not fit in memory"
        );
    }
}
