//! The catalog: which trees a checkpoint holds (disk format, section 5).

use super::codec::{Reader, to_u16, to_u32};
use super::object::ObjectRef;
use super::options::{MAX_TREE_NAME_BYTES, MAX_TREES};

/// No tree has an id from this on: ids are reused, so they stay near the number of trees.
pub(super) const MAX_TREE_IDS: usize = MAX_TREES * 64;

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
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, len, root) = (reader.u32()?, reader.u64()?, ObjectRef::decode(&mut reader)?);
        let name_len = usize::from(reader.u16()?);
        let name = std::str::from_utf8(reader.bytes(name_len)?).ok()?.to_owned();
        if id >= next_id || name.len() > MAX_TREE_NAME_BYTES {
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
