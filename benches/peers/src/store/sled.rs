//! sled 0.34, its stable version. Its flush is sync_file_range(2), which leaves the device's cache
//! as it is; so it takes no part where writes are to be durable.

use std::path::Path;

use sled::{Batch, Config, Db, Mode};

use super::data::Key;
use super::engine::{Durability, Engine, Result, Setup, failed};

pub struct Sled {
    db: Db,
}

impl Sled {
    pub fn open(directory: &Path, setup: Setup) -> Result<Self> {
        let flush_every = match setup.durability {
            Durability::Interval(time) => Some(time.as_millis() as u64),
            Durability::None => None,
            Durability::Sync => return Err("its flush does not reach the device".to_owned()),
        };
        let db = Config::new()
            .path(directory.join("sled"))
            .cache_capacity(setup.cache_bytes)
            .mode(Mode::HighThroughput)
            .flush_every_ms(flush_every)
            .open()
            .map_err(failed)?;
        Ok(Self { db })
    }
}

impl Engine for Sled {
    fn read(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let found = self.db.get(key).map_err(failed)?;
        Ok(found.map(|value| read(&value)).is_some())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.insert(key, value).map(drop).map_err(failed)
    }

    fn put_all(&self, pairs: &[(Key, Vec<u8>)]) -> Result<()> {
        let mut batch = Batch::default();
        pairs.iter().for_each(|(key, value)| batch.insert(&key[..], &value[..]));
        self.db.apply_batch(batch).map_err(failed)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.db.remove(key).map(drop).map_err(failed)
    }

    fn scan(&self, from: &[u8], limit: u64, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64> {
        let mut found = 0;
        for pair in self.db.range(from..).take(limit as usize) {
            let (key, value) = pair.map_err(failed)?;
            each(&key, &value);
            found += 1;
        }
        Ok(found)
    }

    fn flush(&self) -> Result<()> {
        self.db.flush().map(drop).map_err(failed)
    }

    fn settle(&self) -> Result<()> {
        self.flush()
    }
}
