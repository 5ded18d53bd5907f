//! What a store says about itself.

use super::state::StoreState;

/// Sizes now, and counters since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The size of the namespace.
    pub size_bytes: u64,
    /// What is free of it. Some is kept back so that deletes and checkpoints always work.
    pub free_bytes: u64,
    /// The length of the log ring, and how much of it the last checkpoint needs.
    pub log_size_bytes: u64,
    /// How much of the log ring is in use.
    pub log_used_bytes: u64,
    /// Leaves and values in memory.
    pub resident_bytes: usize,
    /// What changed since the last checkpoint and has to be written by the next.
    pub changed_bytes: usize,
    /// Keys in all trees.
    pub keys: u64,
    /// Bytes of log records: what users wrote.
    pub user_bytes: u64,
    /// Bytes written to the log, padding included.
    pub log_bytes: u64,
    /// Batches written to the log: the records per batch tell how well commits are grouped.
    pub log_batches: u64,
    /// Flushes for the sake of the log.
    pub flushes: u64,
    /// Bytes written by checkpoints. With `log_bytes`, over `user_bytes`: the write amplification.
    pub checkpoint_bytes: u64,
    /// Checkpoints taken.
    pub checkpoints: u64,
    /// Pages read from the namespace.
    pub page_loads: u64,
    /// Leaves that the cache let go.
    pub evictions: u64,
    /// The log sequence number of the newest write.
    pub last_lsn: u64,
    /// The log sequence number up to which everything is durable.
    pub durable_lsn: u64,
    /// The log sequence number up to which the last checkpoint goes: recovery replays what comes
    /// after it.
    pub checkpoint_lsn: u64,
}

impl Stats {
    pub(super) fn of(state: &StoreState) -> Self {
        Self {
            size_bytes: state.space.units() * u64::from(state.ledger.unit),
            free_bytes: state.free_bytes(),
            log_size_bytes: state.log.ring.len,
            log_used_bytes: state.log.used_bytes(),
            resident_bytes: state.ledger.resident_bytes,
            changed_bytes: state.changed_bytes(),
            keys: state.trees.iter().flatten().map(|tree| tree.len).sum(),
            user_bytes: state.counters.user_bytes,
            log_bytes: state.counters.log_bytes,
            log_batches: state.counters.log_batches,
            flushes: state.counters.flushes,
            checkpoint_bytes: state.counters.checkpoint_bytes,
            checkpoints: state.checkpoint.completed,
            page_loads: state.counters.page_loads,
            evictions: state.counters.evictions,
            last_lsn: state.log.last_lsn(),
            durable_lsn: state.log.durable_lsn,
            checkpoint_lsn: state.checkpoint.lsn,
        }
    }
}
