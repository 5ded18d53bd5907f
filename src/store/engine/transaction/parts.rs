//! Deleting many keys, each by a write of its own.
//!
//! A transaction of many deletions takes a part of the log, and its turn. Deletions that need not
//! be seen together do without: each reads its key and deletes it in one step, on all cores
//! ([`Pin::update`](crate::store::btree::Pin::update)), and needs neither space nor the memory of
//! others. What another task has written to a key meanwhile is deleted and counted, or comes after
//! the deletion, and stays.

use super::{Kept, Key, To, Transaction, first_places, run_on};
use crate::block::Namespace;
use crate::error::{Outcome, Result};
use crate::rt::yield_now;
use crate::store::engine::core_store::CoreStore;
use crate::store::engine::dying::lost_name;
use crate::store::env::Env;
use crate::store::options::Durability;

/// So many keys are deleted before others run.
const KEYS_AT_ONCE: usize = 16;

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Runs a transaction that only deletes in parts: what `run` decides for the keys as they were
    /// at one moment is carried out by [`CoreStore::delete_in_parts`]. None if it does anything
    /// else than to delete; then nothing was done.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::read`] and [`CoreStore::delete_in_parts`].
    pub(in crate::store) async fn transact_in_parts<R>(
        &self,
        keys: &[Key<'_>],
        durability: Durability,
        run: &mut impl FnMut(&mut Transaction<'_>) -> R,
    ) -> Result<Option<(R, Option<u64>)>> {
        let ran = self
            .read(keys, |reading| run_on(keys, (reading.found(), first_places(keys)), Kept::default(), run));
        let (result, changes) = ran.await??;
        if changes.list.iter().any(|change| change.to != To::Delete) {
            return Ok(None);
        }
        let doomed: Vec<Key<'_>> = changes.list.iter().map(|change| keys[change.place]).collect();
        let (_, number) = self.delete_in_parts(&doomed, durability).await?;
        Ok(Some((result, number)))
    }

    /// Deletes these keys, one after the other: others may see some of them deleted, and a crash
    /// may leave the rest. How many were there, and the number of the last write, if there was one.
    ///
    /// A tree that loses its name meanwhile was cleared before what is left of its keys was to be
    /// deleted: they are not there.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::delete`]. The outcome is [`Outcome::Unknown`] if some keys were deleted
    /// before.
    pub(in crate::store) async fn delete_in_parts(
        &self,
        keys: &[Key<'_>],
        durability: Durability,
    ) -> Result<(u64, Option<u64>)> {
        // Whoever has a root from before a clearing may mean the keys that came after it.
        self.check_trees(keys)?;
        // They are durable in their order: it is enough to hurry the last.
        let of_each = if durability == Durability::Sync { Durability::None } else { durability };
        let (mut deleted, mut last) = (0, None);
        for (at, (tree, key)) in keys.iter().enumerate() {
            match self.delete(*tree, key, of_each).await {
                Ok(None) => {}
                Ok(Some(number)) => (deleted, last) = (deleted + 1, Some(number)),
                Err(error) if lost_name(&error).is_some() => {}
                Err(error) if last.is_some() => return Err(error.outcome_is(Outcome::Unknown)),
                Err(error) => return Err(error),
            }
            if at % KEYS_AT_ONCE == KEYS_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        if let Some(number) = last {
            self.log.commit(number, durability);
        }
        Ok((deleted, last))
    }
}
