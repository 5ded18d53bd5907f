//! Bf-Tree. Its log makes every write wait for the next of its rounds, of a millisecond, and is not
//! flushed; so it takes part without a log, and not where writes are to be durable.

use std::cell::RefCell;
use std::path::Path;

use bf_tree::{Config, LeafInsertResult, LeafReadResult, ScanReturnField, StorageBackend};

use super::data::{KEY_BYTES, Key};
use super::engine::{Durability, Engine, Result, Setup};

/// What it stores beside each record of a page, and some room.
const PAGE_ROOM_BYTES: usize = 256;
const PAGE_BYTES: usize = 4096;

pub struct BfTree {
    tree: bf_tree::BfTree,
    record_bytes: usize,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl BfTree {
    pub fn open(directory: &Path, setup: Setup) -> Result<Self> {
        if setup.durability == Durability::Sync {
            return Err("its writes cannot be made durable".to_owned());
        }
        let path = directory.join("bf-tree");
        if path.exists() {
            return Err("it opens what it left only from a snapshot".to_owned());
        }
        let record_bytes = KEY_BYTES + setup.value_bytes;
        if record_bytes > PAGE_BYTES / 2 - PAGE_ROOM_BYTES {
            return Err(format!("records of {record_bytes} bytes are too long for its pages"));
        }
        // It takes a power of two: one that is near.
        let cache = (setup.cache_bytes.max(1 << 20) * 4 / 3).next_power_of_two() / 2;
        let mut config = Config::new(path, cache as usize);
        config.storage_backend(if setup.direct { StorageBackend::StdDirect } else { StorageBackend::Std });
        config.leaf_page_size(PAGE_BYTES);
        let tree = bf_tree::BfTree::with_config(config, None).map_err(|error| format!("{error:?}"))?;
        Ok(Self { tree, record_bytes })
    }

    fn with_buffer<R>(&self, work: impl FnOnce(&mut [u8]) -> R) -> R {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(self.record_bytes.max(PAGE_BYTES), 0);
            work(buffer)
        })
    }
}

impl Engine for BfTree {
    fn read(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        self.with_buffer(|buffer| match self.tree.read(key, buffer) {
            LeafReadResult::Found(bytes) => {
                read(&buffer[..bytes as usize]);
                Ok(true)
            }
            LeafReadResult::Deleted | LeafReadResult::NotFound => Ok(false),
            LeafReadResult::InvalidKey => Err("it takes no such key".to_owned()),
        })
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        match self.tree.insert(key, value) {
            LeafInsertResult::Success => Ok(()),
            LeafInsertResult::InvalidKV(why) => Err(why),
        }
    }

    /// One after the other: it has no batches.
    fn put_all(&self, pairs: &[(Key, Vec<u8>)]) -> Result<()> {
        pairs.iter().try_for_each(|(key, value)| self.put(key, value))
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.tree.delete(key);
        Ok(())
    }

    fn scan(&self, from: &[u8], limit: u64, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut cursor = self
            .tree
            .scan_with_count(from, limit, ScanReturnField::KeyAndValue)
            .map_err(|error| format!("{error:?}"))?;
        self.with_buffer(|buffer| {
            let mut found = 0;
            while let Some((key, value)) = cursor.next(buffer) {
                each(&buffer[..key], &buffer[key..key + value]);
                found += 1;
            }
            Ok(found)
        })
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn note(&self) -> &'static str {
        "without a log"
    }
}
