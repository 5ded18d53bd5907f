//! RocksDB, as its wiki's "Setup options and basic tuning" has it for point lookups: bloom filters
//! of 10 bits, index and filter blocks in the block cache, a hash index in the data blocks, levels
//! sized from the bottom. A quarter of the cache's bytes are write buffers. No compression: values
//! cannot be compressed. The log is on.

use std::path::Path;
use std::time::{Duration, Instant};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DataBlockIndexType, Options, ReadOptions, WriteBatch,
    WriteOptions,
};

use super::data::Key;
use super::engine::{Durability, Engine, Result, Setup, failed};

/// As many as the machine of the comparison has CPUs.
const BACKGROUND_JOBS: i32 = 2;
const WRITE_BUFFERS: u64 = 2;
/// `db_bench` and the wiki have 64 MB.
const MAX_WRITE_BUFFER_BYTES: u64 = 64 << 20;

pub struct Rocks {
    db: DB,
    write: WriteOptions,
}

impl Rocks {
    pub fn open(directory: &Path, setup: Setup) -> Result<Self> {
        let write_buffer = (setup.cache_bytes / 4 / WRITE_BUFFERS).clamp(1 << 20, MAX_WRITE_BUFFER_BYTES);
        let block_cache = setup.cache_bytes.saturating_sub(WRITE_BUFFERS * write_buffer).max(1 << 20);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(block_cache as usize));
        table.set_bloom_filter(10.0, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        table.set_data_block_hash_ratio(0.75);
        table.set_format_version(5);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(write_buffer as usize);
        options.set_max_write_buffer_number(WRITE_BUFFERS as i32);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_target_file_size_base(64 << 20);
        options.set_max_bytes_for_level_base(256 << 20);
        options.set_compression_type(DBCompressionType::None);
        options.set_max_background_jobs(BACKGROUND_JOBS);
        options.set_bytes_per_sync(1 << 20);
        options.set_use_direct_reads(setup.direct);
        options.set_use_direct_io_for_flush_and_compaction(setup.direct);
        options.set_keep_log_file_num(1);
        let db = DB::open(&options, directory).map_err(failed)?;
        let mut write = WriteOptions::default();
        write.set_sync(setup.durability == Durability::Sync);
        Ok(Self { db, write })
    }

    fn property(&self, name: &str) -> u64 {
        self.db.property_int_value(name).ok().flatten().unwrap_or(0)
    }
}

impl Engine for Rocks {
    fn read(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let found = self.db.get_pinned(key).map_err(failed)?;
        Ok(found.map(|value| read(&value)).is_some())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.put_opt(key, value, &self.write).map_err(failed)
    }

    fn put_all(&self, pairs: &[(Key, Vec<u8>)]) -> Result<()> {
        let mut batch = WriteBatch::default();
        pairs.iter().for_each(|(key, value)| batch.put(key, value));
        self.db.write_opt(batch, &self.write).map_err(failed)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.db.delete_opt(key, &self.write).map_err(failed)
    }

    fn scan(&self, from: &[u8], limit: u64, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64> {
        let mut options = ReadOptions::default();
        // Their files may be gone when the iterator goes: by then that is for another thread.
        options.set_background_purge_on_iterator_cleanup(true);
        let mut cursor = self.db.raw_iterator_opt(options);
        cursor.seek(from);
        let mut found = 0;
        while found < limit
            && let Some((key, value)) = cursor.item()
        {
            each(key, value);
            found += 1;
            if found < limit {
                cursor.next();
            }
        }
        cursor.status().map_err(failed)?;
        Ok(found)
    }

    fn flush(&self) -> Result<()> {
        self.db.flush_wal(true).map_err(failed)
    }

    fn settle(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(600);
        self.db.flush().map_err(failed)?;
        let began = Instant::now();
        let busy =
            ["rocksdb.compaction-pending", "rocksdb.num-running-compactions", "rocksdb.num-running-flushes"];
        while busy.iter().any(|name| self.property(name) > 0) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
