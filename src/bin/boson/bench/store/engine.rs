//! What the bench and the stress test ask of a store, and the store that gives it.
//!
//! Everything that they do to a store goes through [`Engine`]; another store takes part with
//! another implementation.

use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use boson::block::{AnyDevice, Device, NamespaceAddress, NamespaceConfig, first_data};
use boson::store::{Db, Durability, Options, RtEnv, SharedDb, Tree, WriteOptions};
use boson::{Error, ErrorKind, Result};

use super::data::Key;

/// A store with one tree. Handles are cheap to clone; errors are those of the store.
pub(super) trait Engine: Clone + 'static {
    /// What `read` makes of the value of `key`.
    async fn read<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>>;

    /// Puts one value, with the durability that the store was opened with.
    async fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Puts all of these, or after a crash none, with the same durability.
    async fn put_all(&self, pairs: &[(Key, Vec<u8>)]) -> Result<()>;

    /// Deletes; returns whether it was there.
    async fn delete(&self, key: &[u8]) -> Result<bool>;

    /// Replaces the value of `key` by what `change` makes of it, in one step that no other write
    /// can come into.
    async fn modify<R>(&self, key: &[u8], change: impl FnMut(Option<&[u8]>, &mut Vec<u8>) -> R) -> Result<R>;

    /// Shows up to `limit` keys with their values to `each`, ascending, from the first at or after
    /// `from`; returns how many.
    async fn scan(&self, from: &[u8], limit: u64, each: impl FnMut(&[u8], &[u8])) -> Result<u64>;

    /// Makes everything written so far durable.
    async fn flush(&self) -> Result<()>;

    /// Brings everything written so far where it stays.
    async fn checkpoint(&self) -> Result<()>;

    /// Ends the store.
    async fn close(&self) -> Result<()>;

    /// What it takes on its namespace, in bytes.
    fn used_bytes(&self) -> u64;
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) durability: Durability,
    pub(super) cache_bytes: usize,
}

/// A device on which a store is, or is to be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    address: NamespaceAddress,
    device: AnyDevice,
}

impl Place {
    pub(super) async fn open(address: &NamespaceAddress, config: &NamespaceConfig) -> Result<Self> {
        let device = AnyDevice::open_with(address, config).await?;
        Ok(Self { address: address.clone(), device })
    }

    /// Whether nothing was ever written to it.
    pub(super) async fn is_empty(&self) -> Result<bool> {
        Ok(first_data(&self.device.attach().await?).await?.is_none())
    }

    /// What is lost when the process ends cannot be opened by another one.
    pub(super) fn outlives_the_process(&self) -> bool {
        !matches!(self.address, NamespaceAddress::Memory { .. })
    }

    /// The store on it: a fresh one with `format`, or if it is empty.
    pub(super) async fn store(&self, setup: Setup, format: bool) -> Result<Store> {
        let options =
            Options::default().durability(setup.durability).cache_bytes(setup.cache_bytes).format(format);
        self.of(Db::open_on(RtEnv, self.device.attach().await?, options).await?)
    }

    fn of(&self, db: Db) -> Result<Store> {
        let tree = db.tree("bench")?;
        let file = match &self.address {
            NamespaceAddress::File { path, .. } => Some(path.clone()),
            _ => None,
        };
        Ok(Store { db, tree, file })
    }
}

impl Store {
    /// This store, for another core.
    pub(super) fn elsewhere(&self, place: &Place) -> Elsewhere {
        Elsewhere { db: self.db.shared(), place: place.clone() }
    }

    /// Leaves the store, for a core that ends.
    pub(super) async fn detach(self) -> Result<()> {
        let Self { db, tree, .. } = self;
        drop(tree);
        db.detach().await
    }
}

/// A store on its way to another core.
pub(super) struct Elsewhere {
    db: SharedDb,
    place: Place,
}

impl Elsewhere {
    pub(super) async fn attach(self) -> Result<Store> {
        self.place.of(self.db.attach(&self.place.device).await?)
    }
}

/// The store of this version, on one core.
#[derive(Clone, Debug)]
pub(super) struct Store {
    db: Db,
    tree: Tree,
    /// Where its bytes can be counted.
    file: Option<std::path::PathBuf>,
}

impl Engine for Store {
    async fn read<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        self.tree.get_with(key, read).await
    }

    async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.tree.put(key, value).await
    }

    async fn put_all(&self, pairs: &[(Key, Vec<u8>)]) -> Result<()> {
        let keys: Vec<_> = pairs.iter().map(|(key, _)| (&self.tree, &key[..])).collect();
        let put = |txn: &mut boson::store::Txn<'_>| {
            pairs.iter().enumerate().for_each(|(at, (_, value))| txn.put_at(at, value));
        };
        self.db.transact(&keys, WriteOptions::default(), put).await
    }

    async fn delete(&self, key: &[u8]) -> Result<bool> {
        self.tree.delete(key).await
    }

    async fn modify<R>(
        &self,
        key: &[u8],
        mut change: impl FnMut(Option<&[u8]>, &mut Vec<u8>) -> R,
    ) -> Result<R> {
        let keys = [(&self.tree, key)];
        let modify = |txn: &mut boson::store::Txn<'_>| {
            let mut value = Vec::new();
            let result = change(txn.get_at(0), &mut value);
            txn.put_at(0, &value);
            result
        };
        self.db.transact(&keys, WriteOptions::default(), modify).await
    }

    async fn scan(&self, from: &[u8], limit: u64, mut each: impl FnMut(&[u8], &[u8])) -> Result<u64> {
        let mut cursor = self.tree.range((Bound::Included(from), Bound::Unbounded));
        let mut found = 0;
        while found < limit {
            let Some((key, value)) = cursor.next_ref().await? else { break };
            each(key, value);
            found += 1;
        }
        Ok(found)
    }

    async fn flush(&self) -> Result<()> {
        self.db.flush().await
    }

    async fn checkpoint(&self) -> Result<()> {
        self.db.checkpoint().await
    }

    async fn close(&self) -> Result<()> {
        self.db.close().await
    }

    fn used_bytes(&self) -> u64 {
        /// What `st_blocks` counts in (stat(2)), in bytes.
        const STAT_BLOCK_BYTES: u64 = 512;
        let allocated = self.file.as_ref().and_then(|path| std::fs::metadata(path).ok());
        allocated.map_or_else(
            || {
                let stats = self.db.stats();
                stats.size_bytes.saturating_sub(stats.free_bytes)
            },
            |file| file.blocks() * STAT_BLOCK_BYTES,
        )
    }
}

/// Bytes written to the namespaces of this core since they were attached.
pub(super) fn written_to_namespaces() -> u64 {
    boson::block::stats().iter().map(|stats| stats.writes.bytes).sum()
}

/// `none`, `sync`, or the milliseconds of an interval, such as `100ms`.
pub(super) fn parse_durability(text: &str) -> std::result::Result<Durability, String> {
    match text {
        "none" => Ok(Durability::None),
        "sync" => Ok(Durability::Sync),
        "interval" => Ok(Durability::Interval(Duration::from_secs(1))),
        other => other
            .strip_suffix("ms")
            .and_then(|millis| millis.parse().ok())
            .map(|millis| Durability::Interval(Duration::from_millis(millis)))
            .ok_or_else(|| format!("`{other}` is none of none, interval, sync and a time such as 100ms")),
    }
}

pub(super) fn not_empty(address: &str) -> Error {
    Error::new(ErrorKind::ForeignData, "bench store")
        .at(address.to_owned())
        .because("it is not empty: --format gives up what it holds, --load off uses the records in it")
}
