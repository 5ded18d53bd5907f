//! What a store says about itself.

/// Sizes now, and counters since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The size of the store on its namespace.
    pub size_bytes: u64,
    /// How much more it takes as it is, keys and values with what goes with them. What is kept back
    /// so that deletes, cleaning and checkpoints always work is not free.
    pub free_bytes: u64,
    /// What pages take on the namespace: the newest image of each.
    pub used_bytes: u64,
    /// How long the log may be before writers wait for a checkpoint.
    pub log_size_bytes: u64,
    /// How long the log is that the last checkpoint needs.
    pub log_used_bytes: u64,
    /// What is in memory, of all that [`Options::cache_bytes`](super::Options::cache_bytes) bounds.
    pub resident_bytes: usize,
    /// Pages that were changed and not written since, at their most.
    pub changed_bytes: usize,
    /// Keys in all trees.
    pub keys: u64,
    /// Bytes of log records: what users wrote.
    pub user_bytes: u64,
    /// Bytes written to the log, padding included.
    pub log_bytes: u64,
    /// Batches written to the log: the records per batch tell how well commits are grouped.
    pub log_batches: u64,
    /// Flushes, and forced writes, for the sake of the log.
    pub flushes: u64,
    /// Bytes written of pages, with those that cleaning moved. With `log_bytes` and
    /// `checkpoint_bytes`, over `user_bytes`: the write amplification.
    pub page_bytes: u64,
    /// Those that cleaning moved.
    pub moved_bytes: u64,
    /// Bytes written by checkpoints.
    pub checkpoint_bytes: u64,
    /// Checkpoints taken.
    pub checkpoints: u64,
    /// Pages read from the namespace.
    pub page_loads: u64,
    /// Pages that the cache let go.
    pub evictions: u64,
    /// The log sequence number of the newest write.
    pub last_lsn: u64,
    /// The log sequence number up to which everything is durable.
    pub durable_lsn: u64,
    /// The log sequence number up to which the last checkpoint goes: recovery replays what comes
    /// after it.
    pub checkpoint_lsn: u64,
}
