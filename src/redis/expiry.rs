//! Active expiry: the deletion of expired keys that nobody asks for.

use std::cell::RefCell;
use std::ops::{Bound, ControlFlow};

use super::keyspace::{DATABASES, Keyspace, UnixMs, Visited};
use crate::Result;
use crate::block::Namespace;
use crate::store::Env;

/// How many expired keys are deleted in one transaction.
const KEYS_PER_TRANSACTION: usize = 64;
/// Expired keys beyond this many bytes are left to the next transaction, since a single one may be
/// half a GiB long.
const KEY_BYTES_PER_TRANSACTION: usize = 1 << 20;
/// How long to wait after a pass that met an error, in milliseconds.
const RETRY_MS: UnixMs = 10_000;

/// How far the passes over the databases have come.
///
/// A pass visits the keys of one database in order. It finds out when the next key expires, and
/// there is no other pass until then: keys that live long, or forever, cost nothing.
#[derive(Debug)]
pub(super) struct ExpiryCycle {
    database: usize,
    /// The stored form of the key after which the pass goes on; `None` between two passes.
    after: Option<Vec<u8>>,
    /// Keys with expiry times that this pass has found and left.
    volatile_keys: u64,
    /// When the first of them expires.
    earliest: UnixMs,
}

impl Default for ExpiryCycle {
    fn default() -> Self {
        Self { database: 0, after: None, volatile_keys: 0, earliest: UnixMs::MAX }
    }
}

impl ExpiryCycle {
    /// Before the first pass.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Visits at most `budget` keys and deletes those that have expired at `now`. Returns how many
    /// keys it visited, which is fewer than `budget` if there was no more to do.
    ///
    /// # Errors
    ///
    /// Those of the store. The pass over the database ends there.
    pub(super) async fn step<E: Env, N: Namespace>(
        &mut self,
        keyspace: &Keyspace<E, N>,
        now: UnixMs,
        budget: usize,
    ) -> Result<usize> {
        let mut visited = 0;
        let mut databases_done = 0;
        while visited < budget && databases_done < DATABASES {
            if self.after.is_some() || keyspace.volatile(self.database).may_have_expired(now) {
                visited += self.visit(keyspace, now, budget - visited).await?;
            }
            if self.after.is_none() {
                self.database = (self.database + 1) % DATABASES;
                databases_done += 1;
            }
        }
        Ok(visited)
    }

    /// Goes on with the pass over the current database.
    async fn visit<E: Env, N: Namespace>(
        &mut self,
        keyspace: &Keyspace<E, N>,
        now: UnixMs,
        budget: usize,
    ) -> Result<usize> {
        let volatile = keyspace.volatile(self.database);
        let after = self.after.take();
        if after.is_none() {
            // From here on, each write of a key with an expiry time notes it; the pass finds the
            // others.
            volatile.forget();
            (self.volatile_keys, self.earliest) = (0, UnixMs::MAX);
        }
        let mut visited = 0;
        let mut expired: Vec<Vec<u8>> = Vec::new();
        let mut expired_bytes = 0;
        let mut last_position = Vec::new();
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let scanned = keyspace
            .scan(self.database, from, |Visited { position, key, entry }| {
                visited += 1;
                match entry.expires_at {
                    Some(expires_at) if expires_at <= now => {
                        expired_bytes += key.len();
                        expired.push(key.to_vec());
                    }
                    Some(expires_at) => {
                        self.volatile_keys += 1;
                        self.earliest = self.earliest.min(expires_at);
                    }
                    None => {}
                }
                if visited < budget
                    && expired.len() < KEYS_PER_TRANSACTION
                    && expired_bytes < KEY_BYTES_PER_TRANSACTION
                {
                    return ControlFlow::Continue(());
                }
                last_position.extend_from_slice(position);
                ControlFlow::Break(())
            })
            .await;
        // What cannot be read is left to the command that asks for it; this pass ends, and another
        // one comes.
        let more = scanned.inspect_err(|_| volatile.note(now.saturating_add(RETRY_MS)))?;
        if more {
            self.after = Some(last_position);
        } else {
            volatile.set_counted(self.volatile_keys);
            volatile.note(self.earliest);
        }
        if !expired.is_empty() {
            let keys: Vec<&[u8]> = expired.iter().map(Vec::as_slice).collect();
            let deleted = keyspace.delete_expired(self.database, &keys, now).await;
            deleted.inspect_err(|_| volatile.note(now.saturating_add(RETRY_MS)))?;
        }
        Ok(visited)
    }
}

/// Takes the cycle out for one step, so that no borrow is held while the step waits for the store.
#[derive(Debug, Default)]
pub(super) struct SharedExpiryCycle(RefCell<Option<ExpiryCycle>>);

impl SharedExpiryCycle {
    /// Runs one step, unless another one is still under way.
    pub(super) async fn step<E: Env, N: Namespace>(
        &self,
        keyspace: &Keyspace<E, N>,
        now: UnixMs,
        budget: usize,
    ) -> Result<usize> {
        let cycle = self.0.borrow_mut().take();
        let Some(mut cycle) = cycle else { return Ok(0) };
        let result = cycle.step(keyspace, now, budget).await;
        *self.0.borrow_mut() = Some(cycle);
        result
    }

    pub(super) fn new() -> Self {
        Self(RefCell::new(Some(ExpiryCycle::new())))
    }
}
