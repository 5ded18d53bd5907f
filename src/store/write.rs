//! The way of a write: admitted, applied to the trees, appended to the log, in one step that
//! nothing can interrupt; then it waits for its durability.

use std::rc::Rc;

use super::codec::to_usize;
use super::cost::{Change, Cost, Demand};
use super::env::Env;
use super::log::Operation;
use super::object::{ObjectRef, Placement, Stored, value_units};
use super::options::{
    Durability, MAX_INLINE_BYTES, MAX_KEY_BYTES, MAX_LOGGED_VALUE_BYTES, MAX_VALUE_BYTES, WriteOptions,
};
use super::page::{Blob, Garbage, NewValue};
use super::shared::StoreShared;
use super::space::grow_step_bytes;
use super::state::{Admission, External, Lookup, StoreState};
use super::tree_state::{Missing, Seek};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};

/// How many nearly empty leaves a write sees to before it begins.
pub(super) const TIDIED_AT_ONCE: usize = 4;

/// A write that was applied: what to wait for before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a write under `Sync` is acknowledged only after `Db::wait`"]
pub struct Commit {
    /// The log sequence number of the write; 0 if nothing was written.
    pub lsn: u64,
    /// Whether its durability has to be waited for.
    pub wait: bool,
}

impl Commit {
    /// One commit that stands for both: waiting for it waits for both.
    pub fn and(self, other: Self) -> Self {
        let waited = |commit: Self| if commit.wait { commit.lsn } else { 0 };
        let wait = self.wait || other.wait;
        Self { lsn: if wait { waited(self).max(waited(other)) } else { self.lsn.max(other.lsn) }, wait }
    }
}

/// What has to happen before a write can be tried again.
pub(super) enum Obstacle {
    Wait,
    Short,
    Missing(Missing),
}

/// A value as it is applied and logged.
pub(super) enum Prepared<'a> {
    Inline(&'a [u8]),
    Logged(&'a [u8], Rc<Blob>),
    External(Rc<Blob>, ObjectRef),
}

/// Checks the stated limits.
pub(super) fn check_limits(key: &[u8], value: Option<&[u8]>) -> Result<()> {
    let refuse = |what: &str, len: usize, max: usize| {
        Err(Error::new(ErrorKind::InvalidInput, "write to store")
            .because(format!("the {what} has {len} bytes, at most {max} are allowed")))
    };
    if key.len() > MAX_KEY_BYTES {
        return refuse("key", key.len(), MAX_KEY_BYTES);
    }
    match value {
        Some(value) if value.len() > MAX_VALUE_BYTES => refuse("value", value.len(), MAX_VALUE_BYTES),
        _ => Ok(()),
    }
}

impl StoreState {
    /// Makes a value ready to be put. `None` if a large one finds no units, with nothing taken.
    pub(super) fn prepare<'a>(&mut self, value: &'a [u8], externalise: bool) -> Option<Prepared<'a>> {
        if value.len() <= MAX_INLINE_BYTES {
            return Some(Prepared::Inline(value));
        }
        let bytes: Rc<[u8]> = value.into();
        if !externalise && value.len() <= MAX_LOGGED_VALUE_BYTES {
            return Some(Prepared::Logged(value, Blob::new(bytes, &mut self.ledger)));
        }
        let stored = self.externalise(Rc::clone(&bytes))?;
        let reference = stored.reference;
        let blob = Blob::stored_at(stored, Some(bytes), &mut self.ledger);
        Some(Prepared::External(blob, reference))
    }

    /// Has `bytes` written to their place ahead of the log. `None` if there are no units for them.
    pub(super) fn externalise(&mut self, bytes: Rc<[u8]>) -> Option<Stored> {
        let placement = Placement::allocate(&mut self.space, bytes.len(), self.ledger.unit)?;
        self.external_extents.extend(placement.extents());
        let plan = placement.plan(&bytes, 0);
        let sequence = self.log.count_external();
        self.external_queue_bytes += bytes.len();
        self.externals.push_back(External { sequence, bytes, content: plan.content, index: plan.index });
        Some(plan.stored)
    }

    /// Whether a change to one key may go on that takes up to `quick`, or what it takes exactly.
    fn admit_change(&mut self, quick: Cost, change: Change<'_>) -> Result<Result<(), Obstacle>> {
        Ok(match self.admit(quick)? {
            Admission::Go => Ok(()),
            Admission::Wait => Err(Obstacle::Wait),
            Admission::Short => match self.lookup(change.tree, change.key) {
                Lookup::Missing(missing) => Err(Obstacle::Missing(missing)),
                _ if self.room_for(self.exact_cost(std::iter::once(change))) == Admission::Go => Ok(()),
                _ => Err(Obstacle::Short),
            },
        })
    }

    /// Takes back a value that was prepared and will not be put.
    pub(super) fn abandon(&mut self, prepared: &Prepared<'_>) {
        if let Prepared::Logged(_, blob) | Prepared::External(blob, _) = prepared {
            blob.retire(&mut self.ledger);
        }
    }

    /// Puts a prepared value into a tree.
    pub(super) fn put(&mut self, tree: u32, key: &[u8], value: &Prepared<'_>) -> Result<(), Missing> {
        let new = match value {
            Prepared::Inline(bytes) => NewValue::Inline(bytes),
            Prepared::Logged(_, blob) | Prepared::External(blob, _) => NewValue::Overflow(Rc::clone(blob)),
        };
        let (owner, ledger) = self.tree_and_ledger(tree);
        if owner.put(key, &new, ledger)? {
            self.note_sparse(tree, key);
        }
        Ok(())
    }

    /// Deletes a key that is there and whose leaf is in memory.
    pub(super) fn delete(&mut self, tree: u32, key: &[u8]) {
        let (owner, ledger) = self.tree_and_ledger(tree);
        if owner.delete(key, ledger) {
            self.note_sparse(tree, key);
        }
    }
}

impl<'a> Prepared<'a> {
    /// The operation that logs putting this at `key`.
    pub(super) fn operation(&self, tree: u32, key: &'a [u8]) -> Operation<'a> {
        match *self {
            Prepared::Inline(value) | Prepared::Logged(value, _) => Operation::Put { tree, key, value },
            Prepared::External(_, reference) => Operation::PutExternal { tree, key, reference },
        }
    }
}

impl<E: Env, N: Namespace> StoreShared<E, N> {
    /// Appends one record for changes that were just applied.
    pub(super) fn log<'a>(
        &self,
        state: &mut StoreState,
        operations: impl Iterator<Item = Operation<'a>>,
        options: WriteOptions,
    ) -> Commit {
        let durability = options.durability.unwrap_or(self.options.durability);
        let before = state.log.used_bytes();
        let (lsn, wake) = state.log.append(operations, durability, || self.env.now());
        state.counters.user_bytes += state.log.used_bytes() - before;
        if wake {
            self.log_wake.notify_all();
        }
        state.checkpoint.requested |= state.wants_checkpoint();
        if state.checkpoint.requested {
            self.checkpoint_wake.notify_all();
        }
        state.evict();
        Commit { lsn, wait: durability == Durability::Sync }
    }

    /// Puts one key.
    pub(super) async fn put(
        &self,
        tree: u32,
        key: &[u8],
        value: &[u8],
        options: WriteOptions,
    ) -> Result<Commit> {
        check_limits(key, Some(value))?;
        self.tidy(TIDIED_AT_ONCE).await;
        let mut patience = Patience::default();
        loop {
            let obstacle = match self.try_put(tree, key, value, options)? {
                Ok(commit) => return Ok(commit),
                Err(obstacle) => obstacle,
            };
            self.overcome(tree, key, obstacle, &mut patience).await?;
        }
    }

    fn try_put(
        &self,
        tree: u32,
        key: &[u8],
        value: &[u8],
        options: WriteOptions,
    ) -> Result<Result<Commit, Obstacle>> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let units = state.change_units(tree, 1, key.len() + value.len().min(MAX_INLINE_BYTES))
            + value_units(value.len(), state.ledger.unit);
        let cost = Cost { units, demand: Demand::Grows };
        if let Err(obstacle) = state.admit_change(cost, Change { tree, key, value_len: Some(value.len()) })? {
            return Ok(Err(obstacle));
        }
        // An overflow value is made only once nothing can be in its way.
        if value.len() > MAX_INLINE_BYTES
            && let Lookup::Missing(missing) = state.lookup(tree, key)
        {
            return Ok(Err(Obstacle::Missing(missing)));
        }
        let large = value.len() > state.log.max_record_bytes() / 4;
        if value.len() <= MAX_INLINE_BYTES {
            // One descent finds what is missing, or puts.
            if let Err(missing) = state.put(tree, key, &Prepared::Inline(value)) {
                return Ok(Err(Obstacle::Missing(missing)));
            }
            return Ok(Ok(self.log_put(state, tree, key, &Prepared::Inline(value), options)));
        }
        Ok(self.put_now(state, tree, key, value, large, options).ok_or(Obstacle::Short))
    }

    /// Puts a key whose leaf is in memory. `None`, with nothing changed, if a large value finds no
    /// units.
    pub(super) fn put_now(
        &self,
        state: &mut StoreState,
        tree: u32,
        key: &[u8],
        value: &[u8],
        externalise: bool,
        options: WriteOptions,
    ) -> Option<Commit> {
        let prepared = state.prepare(value, externalise)?;
        let done = state.put(tree, key, &prepared);
        assert!(done.is_ok(), "the key's leaf is in memory");
        Some(self.log_put(state, tree, key, &prepared, options))
    }

    fn log_put(
        &self,
        state: &mut StoreState,
        tree: u32,
        key: &[u8],
        value: &Prepared<'_>,
        options: WriteOptions,
    ) -> Commit {
        if matches!(value, Prepared::External(..)) {
            self.external_wake.notify_all();
        }
        let name = state.mark_created(tree);
        let create = name.as_deref().map(|name| Operation::CreateTree { tree, name });
        let operations = create.into_iter().chain([value.operation(tree, key)]);
        self.log(state, operations, options)
    }

    /// Deletes a key that is there and whose leaf is in memory.
    pub(super) fn delete_now(
        &self,
        state: &mut StoreState,
        tree: u32,
        key: &[u8],
        options: WriteOptions,
    ) -> Commit {
        state.delete(tree, key);
        self.log(state, [Operation::Delete { tree, key }].into_iter(), options)
    }

    /// Deletes one key; returns whether it was there.
    pub(super) async fn delete(
        &self,
        tree: u32,
        key: &[u8],
        options: WriteOptions,
    ) -> Result<(bool, Commit)> {
        check_limits(key, None)?;
        self.tidy(TIDIED_AT_ONCE).await;
        let mut patience = Patience::default();
        loop {
            let obstacle = match self.try_delete(tree, key, options)? {
                Ok(done) => return Ok(done),
                Err(obstacle) => obstacle,
            };
            self.overcome(tree, key, obstacle, &mut patience).await?;
        }
    }

    /// Merges up to `most` of the leaves that earlier writes left nearly empty with their
    /// neighbours, which are loaded for that. Where that fails they stay apart.
    ///
    /// It comes before a write, not after: a write that was applied returns at once.
    pub(super) async fn tidy(&self, most: usize) {
        for _ in 0..most {
            let sparse = self.state.borrow_mut().next_sparse();
            let Some((tree, key)) = sparse else { return };
            // The neighbour on the one side, and the other if that is too full.
            for _ in 0..2 {
                if !self.merge_with_sibling(tree, &key).await {
                    break;
                }
            }
        }
    }

    /// Loads a neighbour of the nearly empty leaf that `key` leads to, and merges them if they fit.
    /// Returns whether there is another neighbour to try.
    async fn merge_with_sibling(&self, tree: u32, key: &[u8]) -> bool {
        let sibling = self.state.borrow().tree(tree).missing_sibling(key);
        let Some(sibling) = sibling else { return false };
        if self.load(tree, sibling.seek(), sibling.missing).await.is_err() {
            return false;
        }
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let cost = Cost { units: state.change_units(tree, 1, 0), demand: Demand::Frees };
        if state.failed.is_some() || state.closed || state.room_for(cost) != Admission::Go {
            return false;
        }
        let (owner, ledger) = state.tree_and_ledger(tree);
        owner.tidy(key, ledger)
    }

    fn try_delete(
        &self,
        tree: u32,
        key: &[u8],
        options: WriteOptions,
    ) -> Result<Result<(bool, Commit), Obstacle>> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        match state.lookup(tree, key) {
            Lookup::Absent => return Ok(Ok((false, Commit::default()))),
            Lookup::Missing(missing) => return Ok(Err(Obstacle::Missing(missing))),
            Lookup::Found(..) => {}
        }
        let cost = Cost { units: state.change_units(tree, 1, 0), demand: Demand::Frees };
        if let Err(obstacle) = state.admit_change(cost, Change { tree, key, value_len: None })? {
            return Ok(Err(obstacle));
        }
        Ok(Ok((true, self.delete_now(state, tree, key, options))))
    }

    /// Removes every key of a tree.
    pub(super) async fn clear(&self, tree: u32, options: WriteOptions) -> Result<Commit> {
        let mut patience = Patience::default();
        loop {
            let obstacle = {
                let mut guard = self.state.borrow_mut();
                let state = &mut *guard;
                match state.admit(Cost { units: 0, demand: Demand::Frees })? {
                    Admission::Go => {
                        let (cleared, ledger) = state.tree_and_ledger(tree);
                        let Some(root) = cleared.root.take() else { return Ok(Commit::default()) };
                        cleared.len = 0;
                        ledger.discard(Garbage::Tree(root));
                        state.checkpoint.requested = true;
                        return Ok(self.log(state, [Operation::ClearTree { tree }].into_iter(), options));
                    }
                    Admission::Wait => Obstacle::Wait,
                    Admission::Short => Obstacle::Short,
                }
            };
            self.overcome(tree, &[], obstacle, &mut patience).await?;
        }
    }

    /// Does what a write needs before it can be tried again.
    pub(super) async fn overcome(
        &self,
        tree: u32,
        key: &[u8],
        obstacle: Obstacle,
        patience: &mut Patience,
    ) -> Result<()> {
        match obstacle {
            Obstacle::Missing(missing) => {
                self.load(tree, Seek::Key(key), missing).await?;
            }
            Obstacle::Wait => {
                if self.state.borrow().checkpoint.requested {
                    self.checkpoint_wake.notify_all();
                }
                self.log_wake.notify_all();
                self.progress.notified().await;
            }
            Obstacle::Short => self.make_room(patience).await?,
        }
        Ok(())
    }

    /// Makes room: a checkpoint gives back what it can, or the namespace grows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`] if neither helps any more.
    pub(super) async fn make_room(&self, patience: &mut Patience) -> Result<()> {
        if self.state.borrow().shrink.is_truncating() {
            self.progress.notified().await;
            return Ok(());
        }
        let size = self.disk.namespace.size_bytes();
        let max = self.disk.namespace.info().max_size_bytes;
        let step = grow_step_bytes(size).next_multiple_of(u64::from(self.disk.unit));
        let wanted = size.saturating_add(step).min(max);
        let (may_grow, helps) = {
            let mut state = self.state.borrow_mut();
            if self.disk.units() > state.space.units() {
                // The namespace was about to shrink. It can be used as it is.
                state.space.grow(self.disk.units());
                return Ok(());
            }
            // A namespace that is larger than what it holds calls for has room that only waits for
            // a checkpoint.
            let large = wanted / u64::from(self.disk.unit) > state.largest_units();
            let give_back_first = large && patience.checkpoints == 0 && state.released_units() > 0;
            (size < max && !patience.growth_failed && !give_back_first, state.checkpoint_helps())
        };
        if may_grow {
            match self.disk.namespace.grow(wanted).await {
                Ok(()) => {
                    self.state.borrow_mut().space.grow(self.disk.units());
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::NoSpace => patience.growth_failed = true,
                Err(error) => return Err(error),
            }
        }
        if patience.checkpoints >= 2 || !helps {
            return Err(Error::new(ErrorKind::NoSpace, "write to store").at(self.disk.name().to_owned()).because(
                "the namespace is full; nothing of this write was applied, delete keys or enlarge the namespace",
            ));
        }
        patience.checkpoints += 1;
        self.wait_checkpoint().await
    }

    /// Waits until a commit is as durable as it asked for. The log knows already that it has to be.
    pub(super) async fn wait(&self, commit: Commit) -> Result<()> {
        if commit.wait { self.until_durable(commit.lsn).await } else { Ok(()) }
    }

    /// Asks for everything up to `lsn` to become durable, and waits for it.
    pub(super) async fn make_durable(&self, lsn: u64) -> Result<()> {
        self.state.borrow_mut().log.demand(lsn);
        self.log_wake.notify_all();
        self.until_durable(lsn).await
    }

    async fn until_durable(&self, lsn: u64) -> Result<()> {
        loop {
            {
                let state = self.state.borrow();
                if state.log.durable_lsn >= lsn {
                    return Ok(());
                }
                if let Some(failure) = &state.failed {
                    return Err(failure.error("commit", Outcome::Unknown));
                }
                if state.closed {
                    return Err(Error::new(ErrorKind::Closed, "commit").because("the store was closed"));
                }
            }
            self.durable.notified().await;
        }
    }
}

/// What a write has tried already to get room.
#[derive(Default)]
pub(super) struct Patience {
    checkpoints: u32,
    growth_failed: bool,
}

impl StoreState {
    /// Marks a tree as created; returns its name if a record has to say so first.
    pub(super) fn mark_created(&mut self, tree: u32) -> Option<String> {
        let (tree, _) = self.tree_and_ledger(tree);
        (!std::mem::replace(&mut tree.created, true)).then(|| tree.name.clone())
    }

    /// Takes [`StoreState::mark_created`] back.
    pub(super) fn unmark_created(&mut self, tree: u32) {
        self.tree_and_ledger(tree).0.created = false;
    }

    /// The bytes that are free, as statistics say it.
    pub(super) fn free_bytes(&self) -> u64 {
        self.space.free_units() * u64::from(self.ledger.unit)
    }

    /// The bytes that changed pages will take at the next checkpoint.
    pub(super) fn changed_bytes(&self) -> usize {
        to_usize(self.ledger.dirty_units) * self.ledger.unit as usize
    }
}
