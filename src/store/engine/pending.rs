//! Keys of a large transaction that is not decided yet: writers wait until it is. So they do for
//! keys that are read at one moment and do not fit memory.
//!
//! A large transaction reads its keys one after the other, and what it makes of them takes many
//! steps. So nobody else may write them meanwhile, on any core. Readers pass by: until it is
//! decided the keys have what they had.
//!
//! | | |
//! |---|---|
//! | [`Pending::take_turn`] | one such transaction at a time |
//! | [`Turn::mark`] | its keys are pending |
//! | [`Pending::has`] | a writer looks, in the step in which it writes: a load, while nothing is pending |
//! | [`Turn`] is dropped | it is decided, or given up: no key is pending |
//!
//! Nobody who waits for a turn, or for a key, holds anything that others wait for. For who takes a
//! cleared tree apart others do wait: whoever has keys of the tree pending gives up then
//! (`transaction/large.rs`).
//!
//! Keys are known by their hashes, so a writer may wait for a key that is another's. The seed is
//! random, so that nobody can choose such keys.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::core_store::{CoreStore, Shared};
use super::defect::{Defects, EngineDefect};
use crate::block::Namespace;
use crate::error::Result;
use crate::store::btree::TreeRoot;
use crate::store::env::Env;

/// What is hashed is a hash already.
#[derive(Debug, Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("hashes are numbers");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type Hashes = HashSet<u64, BuildHasherDefault<Same>>;

#[derive(Debug, Default)]
struct State {
    seed: u64,
    keys: Hashes,
}

/// The keys that are pending, of all cores of a store.
#[derive(Debug, Default)]
pub(super) struct Pending {
    is_taken: AtomicBool,
    /// Some key is pending. Release, by who has the turn.
    is_any: AtomicBool,
    state: Mutex<State>,
}

impl Pending {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a key is pending.
    pub(super) fn has(&self, tree: u32, key: &[u8]) -> bool {
        if !self.is_any.load(Ordering::Acquire) {
            return false;
        }
        let state = self.state();
        state.keys.contains(&hash(state.seed, tree, key))
    }
}

fn hash(seed: u64, tree: u32, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed ^ u64::from(tree))
}

/// The turn of a large transaction. Dropped, it is over, and its keys are not pending any more.
pub(super) struct Turn<'s> {
    shared: &'s Shared,
}

impl Turn<'_> {
    /// So many keys at most are going to be pending. `seed` is random.
    pub(super) fn begin(&self, keys: usize, seed: u64) {
        let keys = Hashes::with_capacity_and_hasher(keys, BuildHasherDefault::default());
        *self.shared.pending.state() = State { seed, keys };
        self.shared.pending.is_any.store(true, Ordering::Release);
    }

    /// These keys are pending.
    pub(super) fn mark<'k>(&self, keys: impl Iterator<Item = (u32, &'k [u8])>) {
        let mut state = self.shared.pending.state();
        let State { seed, keys: pending } = &mut *state;
        pending.extend(keys.map(|(tree, key)| hash(*seed, tree, key)));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let pending = &self.shared.pending;
        pending.is_any.store(false, Ordering::Release);
        let before = std::mem::take(&mut *pending.state());
        pending.is_taken.store(false, Ordering::Release);
        drop(before);
        self.shared.progress.tell();
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Waits until no large transaction is at work, and is the next. What was asked of the keeper
    /// by then comes first: it waits until all that such transactions have left to the drain is
    /// through, which it never would be if they followed each other without a pause. Each waits for
    /// that once, so that no requests without a pause keep it from its turn.
    ///
    /// # Errors
    ///
    /// The store takes no writes.
    pub(super) async fn take_turn(&self) -> Result<Turn<'_>> {
        let mut asked = None;
        loop {
            let moment = self.shared.progress.now();
            self.shared.check_writable("write to store")?;
            let is_answered = {
                let requests = self.shared.requests();
                let now = requests.asked();
                if asked.is_none() && !requests.is_answered(now) {
                    asked = Some(now);
                }
                asked.is_none_or(|asked| requests.is_answered(asked))
            };
            if is_answered && let Some(turn) = self.try_turn() {
                return Ok(turn);
            }
            self.shared.progress.since(moment).await;
        }
    }

    /// The turn, if no large transaction is at work.
    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        let is_free = !self.shared.pending.is_taken.swap(true, Ordering::AcqRel);
        is_free.then(|| Turn { shared: &self.shared })
    }

    /// Whether a writer of the key has to wait.
    pub(super) fn is_pending(&self, tree: TreeRoot, key: &[u8]) -> bool {
        self.shared.pending.has(tree.tree, key) && !Defects::now().has(EngineDefect::PendingIgnored)
    }

    /// Waits while a key is pending.
    ///
    /// # Errors
    ///
    /// The store takes no writes.
    pub(super) async fn wait_until_decided(&self, tree: TreeRoot, key: &[u8]) -> Result<()> {
        while self.is_pending(tree, key) {
            let moment = self.shared.progress.now();
            self.shared.check_writable("write to store")?;
            // Once more: what was told before that moment wakes nobody.
            if self.is_pending(tree, key) {
                self.shared.progress.since(moment).await;
            }
        }
        Ok(())
    }
}
