//! fjall. A memtable is an eighth of the cache's bytes, 64 MiB at most, and there may be two; the
//! rest is its block cache. Filters of 10 bits are its default; no compression.

use std::path::Path;

use fjall::config::{CompressionPolicy, HashRatioPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::data::Key;
use super::engine::{Durability, Engine, Result, Setup, failed};

const WORKERS: usize = 2;
/// Its default, and the least that it recommends.
const MAX_MEMTABLE_BYTES: u64 = 64 << 20;
const MIN_MEMTABLE_BYTES: u64 = 1 << 20;

pub struct Fjall {
    database: Database,
    keyspace: Keyspace,
    sync: bool,
}

impl Fjall {
    pub fn open(directory: &Path, setup: Setup) -> Result<Self> {
        let memtable = (setup.cache_bytes / 8).clamp(MIN_MEMTABLE_BYTES, MAX_MEMTABLE_BYTES);
        let database = Database::builder(directory)
            .cache_size(setup.cache_bytes.saturating_sub(2 * memtable).max(1 << 20))
            .worker_threads(WORKERS)
            .journal_compression(CompressionType::None)
            .open()
            .map_err(failed)?;
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(memtable)
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
                .data_block_hash_ratio_policy(HashRatioPolicy::all(0.75))
        };
        let keyspace = database.keyspace("bench", options).map_err(failed)?;
        Ok(Self { database, keyspace, sync: setup.durability == Durability::Sync })
    }

    fn wait(&self) -> Result<()> {
        if self.sync { self.database.persist(PersistMode::SyncData).map_err(failed) } else { Ok(()) }
    }
}

impl Engine for Fjall {
    fn read(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let found = self.keyspace.get(key).map_err(failed)?;
        Ok(found.map(|value| read(&value)).is_some())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keyspace.insert(key, value).map_err(failed)?;
        self.wait()
    }

    fn put_all(&self, pairs: &[(Key, Vec<u8>)]) -> Result<()> {
        let mut batch = self.database.batch().durability(self.sync.then_some(PersistMode::SyncData));
        pairs.iter().for_each(|(key, value)| batch.insert(&self.keyspace, &key[..], &value[..]));
        batch.commit().map_err(failed)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.keyspace.remove(key).map_err(failed)?;
        self.wait()
    }

    fn scan(&self, from: &[u8], limit: u64, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64> {
        let mut found = 0;
        for guard in self.keyspace.range(from..).take(limit as usize) {
            let (key, value) = guard.into_inner().map_err(failed)?;
            each(&key, &value);
            found += 1;
        }
        Ok(found)
    }

    fn flush(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncAll).map_err(failed)
    }

    fn settle(&self) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait().map_err(failed)?;
        while self.database.outstanding_flushes() > 0 || self.database.active_compactions() > 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(())
    }
}
