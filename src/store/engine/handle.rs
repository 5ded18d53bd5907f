//! What the public handles ask of a core's store besides its keys.

use super::core_store::CoreStore;
use super::operations::Look;
use super::write_back::PAGE_BYTES;
use crate::block::Namespace;
use crate::error::{Error, Outcome, Result};
use crate::store::btree::TreeRoot;
use crate::store::codec::to_usize;
use crate::store::env::Env;
use crate::store::stats::Stats;

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// The name of the namespace.
    pub(in crate::store) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(in crate::store) fn env(&self) -> &E {
        &self.env
    }

    /// Whether a key is there. A long value is not read.
    ///
    /// # Errors
    ///
    /// As for loading a page.
    pub(in crate::store) async fn contains(&self, tree: TreeRoot, key: &[u8]) -> Result<bool> {
        loop {
            match self.look(tree, key, &mut Some(|_: &[u8]| ())) {
                Ok(look) => return Ok(!matches!(look, Look::Absent)),
                Err(miss) => Box::pin(self.load(miss)).await?,
            }
        }
    }

    /// The number of the next write.
    pub(in crate::store) fn next_number(&self) -> u64 {
        self.log.log().next_number()
    }

    /// All numbers below this one are durable.
    pub(in crate::store) fn durable_number(&self) -> u64 {
        self.log.durable()
    }

    /// Whether the store takes writes: it was not closed, and has not failed.
    pub(in crate::store) fn is_open(&self) -> bool {
        self.check_health().is_ok()
    }

    /// The error of who would write.
    pub(in crate::store) fn check_health(&self) -> Result<()> {
        self.shared.check_writable("store")
    }

    /// Completes when the store has failed, with the error.
    pub(in crate::store) async fn failed(&self) -> Error {
        loop {
            let moment = self.shared.progress.now();
            if let Err(error) = self.shared.check_failed("store", Outcome::NotStarted) {
                return error;
            }
            self.shared.progress.since(moment).await;
        }
    }

    /// Sizes now, and what was counted since the store was opened.
    pub(in crate::store) fn stats(&self) -> Stats {
        let (shared, log) = (&self.shared, self.log.shared().meters());
        let (used_bytes, growth, room) = shared.space.taken();
        let geometry = shared.state().owner.geometry;
        let (checkpoint_first, room) = {
            let state = shared.state();
            // Blocks that it has to ask for count until the file system refuses some.
            let room = if state.segments.is_refused() { room } else { self.whole_room(&state) };
            (state.superblock.log.first_write, room)
        };
        let meters = &shared.meters;
        Stats {
            size_bytes: geometry.size_bytes(),
            free_bytes: room.saturating_sub(used_bytes.saturating_add(growth)),
            used_bytes,
            log_size_bytes: shared.log_limit.longest(),
            log_used_bytes: shared.log_limit.used(),
            resident_bytes: to_usize(shared.memory.account().used_bytes()),
            changed_bytes: shared.flusher().dirty_count() * to_usize(PAGE_BYTES),
            keys: self.trees().iter().map(|tree| self.len(tree.root.tree)).sum(),
            user_bytes: log.record_bytes.get(),
            log_bytes: log.bytes.get(),
            log_batches: log.batches.get(),
            flushes: log.flushes.get(),
            page_bytes: meters.page_bytes.get(),
            moved_bytes: meters.moved_bytes.get(),
            checkpoint_bytes: meters.checkpoint_bytes.get(),
            checkpoints: meters.checkpoints.get(),
            page_loads: meters.page_loads.get(),
            evictions: meters.evictions.get(),
            last_lsn: self.next_number() - 1,
            durable_lsn: self.durable_number() - 1,
            checkpoint_lsn: checkpoint_first - 1,
        }
    }
}
