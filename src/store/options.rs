//! How a store is opened and how a write becomes durable.

use std::time::Duration;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;
/// The longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 512 << 20;
/// The longest name of a tree, in bytes.
pub const MAX_TREE_NAME_BYTES: usize = 255;
/// The most trees in a store.
pub const MAX_TREES: usize = 1024;
/// The smallest namespace that holds a store, in bytes.
pub const MIN_NAMESPACE_BYTES: u64 = 8 << 20;
/// The least memory that the pages of a store take, in bytes.
pub const MIN_CACHE_BYTES: usize = 1 << 20;

/// When a write is acknowledged, and so what a crash can take away. Whatever it takes, the state is
/// a prefix of the history of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once. It reaches the namespace within 100 ms (and then survives the process), but is
    /// never flushed for its own sake.
    None,
    /// At once. It is durable after this time: the commit starts after half of it, and needs less
    /// than the other half on any device that keeps up.
    Interval(Duration),
    /// Once it is durable. Writers that wait at the same time share a flush.
    Sync,
}

/// How one write is done.
///
/// ```
/// use boson::store::{Durability, WriteOptions};
///
/// let patient = WriteOptions::default().durability(Durability::None).divisible(true);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    pub(crate) durability: Option<Durability>,
    pub(crate) divisible: bool,
}

impl WriteOptions {
    /// The write is durable when it is acknowledged.
    pub const SYNC: Self = Self { durability: Some(Durability::Sync), divisible: false };
    /// The write is acknowledged at once and never flushed for its own sake.
    pub const NONE: Self = Self { durability: Some(Durability::None), divisible: false };

    /// Sets the durability; by default it is the store's own.
    #[must_use]
    pub const fn durability(self, durability: Durability) -> Self {
        Self { durability: Some(durability), ..self }
    }

    /// Sets whether a transaction that only deletes may be carried out in parts, each a record of
    /// its own, where a nearly full namespace has no room for all of it at once, or the log's
    /// record is too short; by default not. No other write comes in between, but a crash may leave
    /// some of its keys.
    #[must_use]
    pub const fn divisible(self, divisible: bool) -> Self {
        Self { divisible, ..self }
    }
}

/// How a store is opened.
///
/// ```
/// use boson::store::{Durability, Options};
///
/// let options = Options::default().durability(Durability::Sync).cache_bytes(1 << 30);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    pub(super) format: bool,
    pub(super) create: bool,
    pub(super) durability: Durability,
    pub(super) log_bytes: u64,
    pub(super) cache_bytes: usize,
    pub(super) identity: Option<[u8; 16]>,
}

impl Options {
    /// Sets whether a new store is made even if the namespace holds foreign data or another store,
    /// which are lost; by default not.
    #[must_use]
    pub fn format(self, format: bool) -> Self {
        Self { format, ..self }
    }

    /// Sets whether a store is made on a namespace that holds nothing; by default it is. Without,
    /// opening one fails with [`NotFound`](crate::ErrorKind::NotFound).
    #[must_use]
    pub fn create(self, create: bool) -> Self {
        Self { create, ..self }
    }

    /// Sets the durability of writes that do not say; an interval of one second by default.
    #[must_use]
    pub fn durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// Sets how long the log may become, in bytes; 128 MiB by default. It is at most a 32nd of the
    /// store, or three segments of it where that is more; for a large transaction it may be longer
    /// for a while. When it is half as long as it may be, a checkpoint lets what is not needed any
    /// more go. It bounds the time that recovery takes, and the size of a transaction, which is a
    /// quarter of it at most.
    #[must_use]
    pub fn log_bytes(self, log_bytes: u64) -> Self {
        Self { log_bytes, ..self }
    }

    /// Sets how many bytes of memory pages take, changed ones included; 256 MiB by default, and at
    /// least [`MIN_CACHE_BYTES`]. Leaves, inner pages and pieces of long values are pages. Beside
    /// them are the log's buffer (a 32nd of this, 64 KiB to 1 MiB), 16 bytes for each page on the
    /// namespace near which one was used, 32 for each page in memory, and, for a while after a
    /// crash, what the log had.
    #[must_use]
    pub fn cache_bytes(self, cache_bytes: usize) -> Self {
        Self { cache_bytes: cache_bytes.max(MIN_CACHE_BYTES), ..self }
    }

    /// Sets the identity of a new store, which keeps what an earlier store left on the namespace
    /// apart; by default the store draws it at random.
    #[must_use]
    pub fn identity(self, identity: [u8; 16]) -> Self {
        Self { identity: Some(identity), ..self }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: false,
            create: true,
            durability: Durability::Interval(Duration::from_secs(1)),
            log_bytes: 128 << 20,
            cache_bytes: 256 << 20,
            identity: None,
        }
    }
}
