//! Applying what a transaction decided to write: all of it in one step, as one record of the log.
//!
//! A record that does not fit the log is written to a place of its own, ahead of a record that
//! refers to it. A transaction that only deletes may be divided instead
//! ([`WriteOptions::divisible`]): each part frees what the next one needs.

use super::codec::to_u32;
use super::cost::{Change, Cost, Demand};
use super::env::Env;
use super::log::{Operation, RECORD_HEADER_BYTES};
use super::object::value_units;
use super::options::{MAX_INLINE_BYTES, MAX_TRANSACTION_BYTES, WriteOptions};
use super::scratch::{Decided, Pins};
use super::shared::StoreShared;
use super::state::{Admission, Lookup, StoreState};
use super::tree_state::Seek;
use super::write::{Commit, Patience, check_limits};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};

/// What an operation takes of a record at most, besides key and value.
const OPERATION_BYTES: usize = 32;

/// A tree and a key in it, and its new value; `None` deletes.
type KeyAndValue<'a> = ((u32, &'a [u8]), Option<&'a [u8]>);

/// What a transaction decided to write, or a part of it.
#[derive(Clone, Copy)]
pub(super) struct Writes<'a> {
    pub(super) keys: &'a [(u32, &'a [u8])],
    pub(super) list: &'a [Decided],
    pub(super) staged: &'a [u8],
}

impl<'a> Writes<'a> {
    /// The key and the new value of each write; `None` deletes.
    fn iter(self) -> impl Iterator<Item = KeyAndValue<'a>> {
        self.list
            .iter()
            .map(move |(index, range)| (self.keys[*index], range.clone().map(|range| &self.staged[range])))
    }

    /// The only write, if there is just one.
    fn only(self) -> Option<KeyAndValue<'a>> {
        self.iter().next().filter(|_| self.list.len() == 1)
    }

    fn only_deletes(self) -> bool {
        self.list.iter().all(|(_, value)| value.is_none())
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (first, rest) = self.list.split_at(at);
        (Self { list: first, ..self }, Self { list: rest, ..self })
    }

    fn changes(self) -> impl Iterator<Item = Change<'a>> {
        self.iter().map(|((tree, key), value)| Change { tree, key, value_len: value.map(<[u8]>::len) })
    }

    /// A quick bound of the units that they take.
    fn quick_cost(self, state: &StoreState) -> Cost {
        if let Some(((tree, key), value)) = self.only() {
            let bytes = value.map_or(0, |value| key.len() + value.len().min(MAX_INLINE_BYTES));
            let large = value.map_or(0, |value| value_units(value.len(), state.ledger.unit));
            let demand = if value.is_some() { Demand::Grows } else { Demand::Frees };
            return Cost { units: state.change_units(tree, 1, bytes) + large, demand };
        }
        let (mut units, mut demand) = (0, Demand::Frees);
        // Per tree: keys, and bytes of entries. A transaction touches few trees.
        let mut trees: Vec<(u32, usize, usize)> = Vec::new();
        for ((tree, key), value) in self.iter() {
            let at = trees.iter().position(|entry| entry.0 == tree).unwrap_or_else(|| {
                trees.push((tree, 0, 0));
                trees.len() - 1
            });
            trees[at].1 += 1;
            if let Some(value) = value {
                demand = Demand::Grows;
                trees[at].2 += key.len() + value.len().min(MAX_INLINE_BYTES);
                units += value_units(value.len(), state.ledger.unit);
            }
        }
        units += trees.iter().map(|&(tree, keys, bytes)| state.change_units(tree, keys, bytes)).sum::<u64>();
        Cost { units, demand }
    }

    fn record(self, max_bytes: usize) -> RecordForm {
        let mut form = RecordForm { all_bytes: 0, small_bytes: 0, max_bytes };
        for ((_, key), value) in self.iter() {
            let len = value.map_or(0, <[u8]>::len);
            let fixed = OPERATION_BYTES + key.len();
            form.all_bytes += fixed + len;
            form.small_bytes += fixed + if len > MAX_INLINE_BYTES { 0 } else { len };
        }
        form
    }
}

/// How a transaction is logged.
#[derive(Clone, Copy, Debug)]
struct RecordForm {
    all_bytes: usize,
    /// Without the values that can go ahead of the log.
    small_bytes: usize,
    /// The longest record that the log takes.
    max_bytes: usize,
}

impl RecordForm {
    /// Large values go to their places ahead of the log.
    fn externalises(self) -> bool {
        self.all_bytes > self.max_bytes / 4
    }

    /// The record itself goes to a place of its own ahead of the log.
    fn spills(self) -> bool {
        self.small_bytes > self.max_bytes
    }

    /// The units that it takes outside of the log.
    fn units(self, unit: u32) -> u64 {
        if self.spills() { value_units(self.small_bytes, unit) } else { 0 }
    }

    fn check(self) -> Result<()> {
        if self.small_bytes <= MAX_TRANSACTION_BYTES {
            return Ok(());
        }
        Err(Error::new(ErrorKind::LimitReached, "transact").because(format!(
            "the transaction writes {} bytes of keys and small values, at most {MAX_TRANSACTION_BYTES} are allowed",
            self.small_bytes
        )))
    }
}

impl<E: Env, N: Namespace> StoreShared<E, N> {
    /// Applies what a transaction decided on.
    pub(super) async fn apply_all(&self, writes: Writes<'_>, options: WriteOptions) -> Result<Commit> {
        if writes.list.is_empty() {
            return Ok(Commit::default());
        }
        for ((_, key), value) in writes.iter() {
            check_limits(key, value)?;
        }
        let record = writes.record(self.state.borrow().log.max_record_bytes());
        record.check()?;
        let divides = options.divisible && writes.only_deletes();
        let applied =
            if divides && record.spills() { None } else { self.try_apply(writes, record, options)? };
        let commit = match applied {
            Some(commit) => commit,
            None if divides => self.delete_in_parts(writes, options).await?,
            None => self.apply_exclusively(writes, record, options).await?,
        };
        self.relieve().await;
        Ok(commit)
    }

    /// Waits while the log or the changed pages are beyond their bounds.
    async fn relieve(&self) {
        while self.state.borrow_mut().is_pressed() {
            self.checkpoint_wake.notify_all();
            self.progress.notified().await;
        }
    }

    /// Applies the writes, if there is room for them now.
    fn try_apply(
        &self,
        writes: Writes<'_>,
        record: RecordForm,
        options: WriteOptions,
    ) -> Result<Option<Commit>> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let mut cost = writes.quick_cost(state);
        cost.units += record.units(state.ledger.unit);
        // The log takes the record also while it is congested: this writer waits afterwards, the
        // next one before.
        let fits = match state.admit(cost)? {
            Admission::Go => true,
            Admission::Wait => state.room_for(cost) == Admission::Go || state.has_room_for(writes, record),
            Admission::Short => state.has_room_for(writes, record),
        };
        if !fits {
            return Ok(None);
        }
        Ok(self.apply_now(state, writes, record, options))
    }

    /// Changes the trees and appends the record. `None`, with nothing changed, if large values find
    /// no units.
    fn apply_now(
        &self,
        state: &mut StoreState,
        writes: Writes<'_>,
        record: RecordForm,
        options: WriteOptions,
    ) -> Option<Commit> {
        let externalise = record.externalises();
        if let Some(((tree, key), value)) = writes.only() {
            return match value {
                Some(value) => self.put_now(state, tree, key, value, externalise, options),
                None => Some(self.delete_now(state, tree, key, options)),
            };
        }
        let mut puts = Vec::with_capacity(writes.list.len());
        let mut deletes = Vec::new();
        for (key, value) in writes.iter() {
            match value.map(|value| state.prepare(value, externalise)) {
                Some(Some(prepared)) => puts.push((key, prepared)),
                Some(None) => {
                    puts.iter().for_each(|(_, prepared)| state.abandon(prepared));
                    return None;
                }
                None => deletes.push(key),
            }
        }
        let created: Vec<(u32, String)> = puts
            .iter()
            .filter_map(|((tree, _), _)| state.mark_created(*tree).map(|name| (*tree, name)))
            .collect();
        let operations = || {
            let creates = created.iter().map(|(tree, name)| Operation::CreateTree { tree: *tree, name });
            let puts = puts.iter().map(|((tree, key), prepared)| prepared.operation(*tree, key));
            let deletes = deletes.iter().map(|&(tree, key)| Operation::Delete { tree, key });
            creates.chain(puts).chain(deletes)
        };
        let spilled = if record.spills() {
            let Some(reference) = spill(state, operations()) else {
                created.iter().for_each(|&(tree, _)| state.unmark_created(tree));
                puts.iter().for_each(|(_, prepared)| state.abandon(prepared));
                return None;
            };
            Some(Operation::Spilled { reference })
        } else {
            None
        };
        // Puts come first: they keep the leaves of all declared keys from being merged away.
        for ((tree, key), prepared) in &puts {
            let done = state.put(*tree, key, prepared);
            assert!(done.is_ok(), "a declared key's leaf is in memory");
        }
        deletes.iter().for_each(|&(tree, key)| state.delete(tree, key));
        if !state.externals.is_empty() {
            self.external_wake.notify_all();
        }
        Some(match spilled {
            Some(spilled) => self.log(state, std::iter::once(spilled), options),
            None => self.log(state, operations(), options),
        })
    }

    /// Waits for space with every other write kept out, so that what the transaction read stays
    /// true.
    async fn apply_exclusively(
        &self,
        writes: Writes<'_>,
        record: RecordForm,
        options: WriteOptions,
    ) -> Result<Commit> {
        let _lock = ExclusiveLock::take(self);
        let mut patience = Patience::default();
        loop {
            self.make_room(&mut patience).await?;
            if let Some(commit) = self.apply_part(writes, record, options).await? {
                return Ok(commit);
            }
        }
    }

    /// Deletes in parts, each as large as there is room for. Every other write is kept out.
    async fn delete_in_parts(&self, writes: Writes<'_>, options: WriteOptions) -> Result<Commit> {
        let _lock = ExclusiveLock::take(self);
        let max_record_bytes = self.state.borrow().log.max_record_bytes();
        let mut patience = Patience::default();
        let (mut rest, mut at_once, mut commit) = (writes, writes.list.len(), Commit::default());
        while !rest.list.is_empty() {
            let (part, after) = rest.split_at(at_once.min(rest.list.len()));
            let record = part.record(max_record_bytes);
            let done = if record.spills() { None } else { self.apply_part(part, record, options).await? };
            match done {
                Some(applied) => {
                    commit = commit.and(applied);
                    (rest, at_once, patience) = (after, part.list.len() * 2, Patience::default());
                }
                None if part.list.len() > 1 => at_once = part.list.len() / 2,
                None => {
                    let began = rest.list.len() < writes.list.len();
                    let outcome = if began { Outcome::Unknown } else { Outcome::NotStarted };
                    self.make_room(&mut patience).await.map_err(|error| error.outcome_is(outcome))?;
                }
            }
        }
        Ok(commit)
    }

    /// Applies writes whose leaves may have been evicted since they were decided on, if there is
    /// room.
    async fn apply_part(
        &self,
        writes: Writes<'_>,
        record: RecordForm,
        options: WriteOptions,
    ) -> Result<Option<Commit>> {
        let mut pins = Pins::default();
        for ((tree, key), _) in writes.iter() {
            pins.pages.extend(self.leaf(tree, Seek::Key(key)).await?);
        }
        self.check_failed("write to store", Outcome::NotStarted)?;
        drop(pins);
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let is_missing = |(tree, key)| matches!(state.lookup(tree, key), Lookup::Missing(_));
        if writes.iter().any(|(key, _)| is_missing(key)) || !state.has_room_for(writes, record) {
            return Ok(None);
        }
        Ok(self.apply_now(state, writes, record, options))
    }
}

impl StoreState {
    /// Whether there is room for the writes, whose leaves are in memory.
    fn has_room_for(&self, writes: Writes<'_>, record: RecordForm) -> bool {
        let mut cost = self.exact_cost(writes.changes());
        cost.units += record.units(self.ledger.unit);
        self.room_for(cost) == Admission::Go
    }
}

/// Has a record written to a place of its own; returns what refers to it. `None`, with nothing
/// taken, if there are no units for it.
fn spill<'a>(
    state: &mut StoreState,
    operations: impl Iterator<Item = Operation<'a>>,
) -> Option<super::object::ObjectRef> {
    let mut record = vec![0; RECORD_HEADER_BYTES];
    operations.for_each(|operation| operation.encode(&mut record));
    let len = to_u32(record.len() - RECORD_HEADER_BYTES);
    record[..RECORD_HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
    let stored = state.externalise(record.into())?;
    // The next checkpoint holds what it says; then nothing needs it any more.
    state.ledger.release(&stored);
    Some(stored.reference)
}

/// Keeps every other write out while it lives.
struct ExclusiveLock<'a, E: Env, N: Namespace>(&'a StoreShared<E, N>);

impl<'a, E: Env, N: Namespace> ExclusiveLock<'a, E, N> {
    fn take(shared: &'a StoreShared<E, N>) -> Self {
        shared.state.borrow_mut().exclusive = true;
        Self(shared)
    }
}

impl<E: Env, N: Namespace> Drop for ExclusiveLock<'_, E, N> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().exclusive = false;
        self.0.progress.notify_all();
    }
}
