//! What a server counts: each core for itself, and all of them in a sum.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::lock::lock;

/// Counts since the start or the last CONFIG RESETSTAT, of all cores together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that were refused because there were too many.
    pub rejected_connections: u64,
    /// Commands that were run.
    pub commands: u64,
    /// Error replies.
    pub errors: u64,
    /// Bytes received.
    pub input_bytes: u64,
    /// Bytes sent.
    pub output_bytes: u64,
    /// Clients dropped because they did not take their replies.
    pub dropped_clients: u64,
    /// Reads that found their key.
    pub keyspace_hits: u64,
    /// Reads that did not.
    pub keyspace_misses: u64,
    /// Keys deleted because they had expired.
    pub expired_keys: u64,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    Connections,
    RejectedConnections,
    Commands,
    Errors,
    InputBytes,
    OutputBytes,
    DroppedClients,
    KeyspaceHits,
    KeyspaceMisses,
    ExpiredKeys,
}

/// How many counts there are.
const COUNTS: usize = Counted::ExpiredKeys as usize + 1;

/// The counts of one core. Others read them, and write nothing here: a core counts without an
/// atomic addition.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Counts([AtomicU64; COUNTS]);

impl Counts {
    pub(super) fn add(&self, counted: Counted, amount: usize) {
        let count = &self.0[counted as usize];
        let amount = u64::try_from(amount).unwrap_or(u64::MAX);
        count.store(count.load(Ordering::Relaxed).saturating_add(amount), Ordering::Relaxed);
    }
}

/// The counts of all cores.
#[derive(Debug, Default)]
pub(super) struct AllCounts {
    cores: Mutex<Vec<Arc<Counts>>>,
    /// What they were at the last CONFIG RESETSTAT.
    before: Mutex<[u64; COUNTS]>,
}

impl AllCounts {
    /// Those of a core that comes, and how many came before it.
    pub(super) fn add_core(&self) -> (Arc<Counts>, usize) {
        let counts = Arc::new(Counts::default());
        let mut cores = lock(&self.cores);
        cores.push(Arc::clone(&counts));
        (counts, cores.len() - 1)
    }

    fn sums(&self) -> [u64; COUNTS] {
        let cores = lock(&self.cores);
        std::array::from_fn(|index| {
            cores.iter().map(|core| core.0[index].load(Ordering::Relaxed)).fold(0, u64::saturating_add)
        })
    }

    pub(super) fn reset(&self) {
        *lock(&self.before) = self.sums();
    }

    pub(super) fn get(&self) -> Stats {
        let (sums, before) = (self.sums(), *lock(&self.before));
        let of = |counted: Counted| sums[counted as usize].saturating_sub(before[counted as usize]);
        Stats {
            connections: of(Counted::Connections),
            rejected_connections: of(Counted::RejectedConnections),
            commands: of(Counted::Commands),
            errors: of(Counted::Errors),
            input_bytes: of(Counted::InputBytes),
            output_bytes: of(Counted::OutputBytes),
            dropped_clients: of(Counted::DroppedClients),
            keyspace_hits: of(Counted::KeyspaceHits),
            keyspace_misses: of(Counted::KeyspaceMisses),
            expired_keys: of(Counted::ExpiredKeys),
        }
    }
}
