//! redb. Writes that need not be durable at once are commits with `Durability::None`, which a later
//! commit with `Immediate` makes durable.

use std::path::Path;

use redb::{Database, ReadableDatabase, TableDefinition};

use super::data::Key;
use super::engine::{Durability, Engine, Result, Setup, failed};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("bench");

pub struct Redb {
    database: Database,
    durability: redb::Durability,
}

impl Redb {
    pub fn open(directory: &Path, setup: Setup) -> Result<Self> {
        let database = Database::builder()
            .set_cache_size(setup.cache_bytes as usize)
            .create(directory.join("redb"))
            .map_err(failed)?;
        let durability = match setup.durability {
            Durability::Sync => redb::Durability::Immediate,
            Durability::None | Durability::Interval(_) => redb::Durability::None,
        };
        let store = Self { database, durability };
        store.write(redb::Durability::Immediate, |_| Ok(()))?;
        Ok(store)
    }

    fn write(
        &self,
        durability: redb::Durability,
        change: impl FnOnce(&mut redb::Table<'_, &[u8], &[u8]>) -> Result<()>,
    ) -> Result<()> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        transaction.set_durability(durability).map_err(failed)?;
        change(&mut transaction.open_table(TABLE).map_err(failed)?)?;
        transaction.commit().map_err(failed)
    }
}

impl Engine for Redb {
    fn read(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let table = transaction.open_table(TABLE).map_err(failed)?;
        let found = redb::ReadableTable::get(&table, key).map_err(failed)?;
        Ok(found.map(|value| read(value.value())).is_some())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.write(self.durability, |table| table.insert(key, value).map(drop).map_err(failed))
    }

    fn put_all(&self, pairs: &[(Key, Vec<u8>)]) -> Result<()> {
        self.write(self.durability, |table| {
            pairs
                .iter()
                .try_for_each(|(key, value)| table.insert(&key[..], &value[..]).map(drop).map_err(failed))
        })
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.write(self.durability, |table| table.remove(key).map(drop).map_err(failed))
    }

    fn scan(&self, from: &[u8], limit: u64, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let table = transaction.open_table(TABLE).map_err(failed)?;
        let mut found = 0;
        for pair in redb::ReadableTable::range(&table, from..).map_err(failed)?.take(limit as usize) {
            let (key, value) = pair.map_err(failed)?;
            each(key.value(), value.value());
            found += 1;
        }
        Ok(found)
    }

    fn flush(&self) -> Result<()> {
        self.write(redb::Durability::Immediate, |_| Ok(()))
    }

    fn settle(&self) -> Result<()> {
        self.flush()
    }
}
