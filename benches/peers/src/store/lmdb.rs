//! LMDB, by heed. Its cache is the page cache. Writes that need not be durable at once go to a
//! writable mapping (`MDB_WRITEMAP | MDB_NOSYNC`), which is its fastest; durable ones are written
//! and flushed with each commit.

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use super::data::Key;
use super::engine::{Durability, Engine, Result, Setup, failed};

/// Address space, of which a file takes what it holds.
const MAP_BYTES: usize = 32 << 30;
/// Each thread that reads has a place.
const READERS: u32 = 256;

pub struct Lmdb {
    env: &'static Env,
    database: Database<'static, Bytes, Bytes>,
}

impl Lmdb {
    pub fn open(directory: &Path, setup: Setup) -> Result<Self> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_readers(READERS);
        let mut flags = EnvFlags::NO_READ_AHEAD;
        if setup.durability != Durability::Sync {
            flags |= EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC;
        }
        // SAFETY: nobody but this process uses the files, and it does so through this environment
        // alone. Without flushes a crash of the machine may damage them; they are made anew then.
        unsafe { options.flags(flags) };
        // SAFETY: as above: the mapped file changes through this environment alone.
        let env = unsafe { options.open(directory) }.map_err(failed)?;
        // A process opens one; what its databases refer to may as well stay.
        let env: &'static Env = Box::leak(Box::new(env));
        let transaction = env.write_txn().map_err(failed)?;
        let created = env.create_databases_and_commit(transaction, |opener, transaction| {
            opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
        });
        Ok(Self { env, database: created.map_err(|error: heed::Error| failed(error))?.unwrap_commit() })
    }
}

impl Engine for Lmdb {
    fn read(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let transaction = self.env.read_txn().map_err(failed)?;
        let found = self.database.get(&transaction, key).map_err(failed)?;
        Ok(found.map(read).is_some())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut transaction = self.env.write_txn().map_err(failed)?;
        self.database.put(&mut transaction, key, value).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    fn put_all(&self, pairs: &[(Key, Vec<u8>)]) -> Result<()> {
        let mut transaction = self.env.write_txn().map_err(failed)?;
        for (key, value) in pairs {
            self.database.put(&mut transaction, key, value).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        let mut transaction = self.env.write_txn().map_err(failed)?;
        self.database.delete(&mut transaction, key).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    fn scan(&self, from: &[u8], limit: u64, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64> {
        use std::ops::Bound;
        let transaction = self.env.read_txn().map_err(failed)?;
        let range = (Bound::Included(from), Bound::Unbounded);
        let mut found = 0;
        for pair in self.database.range(&transaction, &range).map_err(failed)?.take(limit as usize) {
            let (key, value) = pair.map_err(failed)?;
            each(key, value);
            found += 1;
        }
        Ok(found)
    }

    fn flush(&self) -> Result<()> {
        self.env.force_sync().map_err(failed)
    }

    fn settle(&self) -> Result<()> {
        self.flush()
    }

    fn note(&self) -> &'static str {
        "its cache is the page cache, of any size"
    }
}
