//! How a store is opened and how a write becomes durable.

use std::time::Duration;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;
/// The longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 512 << 20;
/// The most that one transaction writes in keys and values of at most 2 KiB, in bytes.
pub const MAX_TRANSACTION_BYTES: usize = 1 << 30;
/// The longest name of a tree, in bytes.
pub const MAX_TREE_NAME_BYTES: usize = 255;
/// The most trees in a store.
pub const MAX_TREES: usize = 1024;
/// The smallest namespace that holds a store, in bytes.
pub const MIN_NAMESPACE_BYTES: u64 = 8 << 20;
/// The smallest log ring, in bytes.
pub const MIN_LOG_BYTES: u64 = 512 << 10;

/// Values up to this size lie in the leaf.
pub(super) const MAX_INLINE_BYTES: usize = 2048;
/// Values up to this size are carried by the log; larger ones go to their place first.
pub(super) const MAX_LOGGED_VALUE_BYTES: usize = 128 << 10;

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
/// let patient = WriteOptions::default().with_durability(Durability::None).with_divisible(true);
/// assert!(patient.divisible);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Instead of the store's own durability.
    pub durability: Option<Durability>,
    /// A transaction that only deletes may be carried out in parts, each a record of its own, where
    /// a nearly full namespace has no room for all of it at once, or the log's record is too short.
    /// No other write comes in between, but a crash may leave some of its keys.
    pub divisible: bool,
}

impl WriteOptions {
    /// The write is durable when it is acknowledged.
    pub const SYNC: Self = Self { durability: Some(Durability::Sync), divisible: false };
    /// The write is acknowledged at once and never flushed for its own sake.
    pub const NONE: Self = Self { durability: Some(Durability::None), divisible: false };

    /// With this durability instead of the store's own.
    #[must_use]
    pub const fn with_durability(self, durability: Durability) -> Self {
        Self { durability: Some(durability), ..self }
    }

    /// Whether a transaction that only deletes [may be divided](Self::divisible).
    #[must_use]
    pub const fn with_divisible(self, divisible: bool) -> Self {
        Self { divisible, ..self }
    }
}

/// How a store is opened.
///
/// ```
/// use boson::store::{Durability, Options};
///
/// let options = Options::default().with_durability(Durability::Sync).with_cache_bytes(1 << 30);
/// assert_eq!(options.log_bytes, 64 << 20);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Make a new store even if the namespace holds foreign data or another store: what it held is
    /// lost.
    pub format: bool,
    /// The durability of writes that do not say.
    pub durability: Durability,
    /// The length of the log ring of a new store, in bytes; rounded up to 64 KiB, at least
    /// [`MIN_LOG_BYTES`], at most a quarter of the namespace's (maximal) size. It bounds the time
    /// that recovery takes and a transaction's size.
    pub log_bytes: u64,
    /// How many bytes of leaves and values are kept in memory. Changed pages stay until a
    /// checkpoint has written them, also beyond this. Inner pages are always kept.
    pub cache_bytes: usize,
    /// The identity of a new store, which keeps what an earlier store left on the namespace apart;
    /// without one, the store draws it at random.
    pub identity: Option<[u8; 16]>,
    /// The promise that the store is to break.
    pub(super) defect: Option<StoreDefect>,
}

impl Options {
    /// The defaults, with an identity for a store that is to repeat.
    pub fn new(identity: [u8; 16]) -> Self {
        Self { identity: Some(identity), ..Self::default() }
    }

    /// Whether a new store is made even over foreign data or another store, which are lost.
    #[must_use]
    pub fn with_format(self, format: bool) -> Self {
        Self { format, ..self }
    }

    /// With another durability of writes that do not say.
    #[must_use]
    pub fn with_durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// With another length of a new store's log ring, in bytes: see [`Options::log_bytes`].
    #[must_use]
    pub fn with_log_bytes(self, log_bytes: u64) -> Self {
        Self { log_bytes, ..self }
    }

    /// With another size of the cache, in bytes: see [`Options::cache_bytes`].
    #[must_use]
    pub fn with_cache_bytes(self, cache_bytes: usize) -> Self {
        Self { cache_bytes, ..self }
    }

    /// With a defect, to prove that a test would notice it.
    #[cfg(test)]
    #[must_use]
    pub(super) fn with_defect(self, defect: Option<StoreDefect>) -> Self {
        Self { defect, ..self }
    }
}

impl Default for Options {
    /// Interval durability of one second, a log of 64 MiB, a cache of 256 MiB, no formatting over
    /// data.
    fn default() -> Self {
        Self {
            format: false,
            durability: Durability::Interval(Duration::from_secs(1)),
            log_bytes: 64 << 20,
            cache_bytes: 256 << 20,
            identity: None,
            defect: None,
        }
    }
}

/// A promise that a store breaks on purpose, so that the tests of crashes prove that they would
/// notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreDefect {
    /// Flushes are not sent to the namespace.
    SkipFlush,
    /// Writes are acknowledged as durable when their batch is about to be written.
    AckBeforeWrite,
    /// Units are reused before the checkpoint that frees them is durable.
    FreeEarly,
    /// Recovery takes batches after a hole in the log.
    IgnoreChain,
}
