//! What the row `store` asks of a peer. Errors are the peer's own, as text.

use std::path::Path;
use std::time::Duration;

use super::data::Key;

pub type Result<T> = std::result::Result<T, String>;

/// When a write is acknowledged: the same three for every store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once. A log, where there is one, goes to the page cache.
    None,
    /// At once; everything is flushed once in this time.
    Interval(Duration),
    /// Once it is durable.
    Sync,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub durability: Durability,
    /// Caches and write buffers together, in bytes.
    pub cache_bytes: u64,
    /// Past the page cache, where the store has that.
    pub direct: bool,
    pub value_bytes: usize,
}

/// A store that several threads use at once.
pub trait Engine: Send + Sync {
    /// Shows the value of `key` to `read`; returns whether there is one.
    fn read(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool>;
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Puts all of these, or after a crash none.
    fn put_all(&self, pairs: &[(Key, Vec<u8>)]) -> Result<()>;
    fn delete(&self, key: &[u8]) -> Result<()>;
    /// Shows up to `limit` keys with their values, ascending, from the first at or after `from`;
    /// returns how many.
    fn scan(&self, from: &[u8], limit: u64, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64>;
    /// Makes everything written so far durable.
    fn flush(&self) -> Result<()>;
    /// Brings everything written so far where it stays, and waits for what runs in the background.
    fn settle(&self) -> Result<()>;
    /// What one should know of how it takes part.
    fn note(&self) -> &'static str {
        ""
    }
}

/// An error of any of the peers.
pub fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// All peers, by their names.
pub const NAMES: [&str; 6] = ["rocksdb", "fjall", "redb", "lmdb", "sled", "bf-tree"];

/// Opens the store called `name` in `directory`, which is there.
pub fn open(name: &str, directory: &Path, setup: Setup) -> Result<Box<dyn Engine>> {
    Ok(match name {
        "rocksdb" => Box::new(super::rocks::Rocks::open(directory, setup)?),
        "fjall" => Box::new(super::fjall::Fjall::open(directory, setup)?),
        "redb" => Box::new(super::redb::Redb::open(directory, setup)?),
        "lmdb" => Box::new(super::lmdb::Lmdb::open(directory, setup)?),
        "sled" => Box::new(super::sled::Sled::open(directory, setup)?),
        "bf-tree" => Box::new(super::bf_tree::BfTree::open(directory, setup)?),
        other => return Err(format!("`{other}` is none of {}", NAMES.join(", "))),
    })
}
