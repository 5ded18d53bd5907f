//! Transactions: several keys, in any trees, read and changed in one step.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::codec::checksum;
use super::env::Env;
use super::log::Operation;
use super::options::{MAX_INLINE_BYTES, WriteOptions};
use super::page::{LeafValue, Page};
use super::shared::Shared;
use super::state::{Admission, Lookup, State};
use super::tree_state::Seek;
use super::write::{Commit, Obstacle, Patience, check_limits, value_units};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};

/// The view of a transaction's closure: the declared keys, by their index, and what was written to them so far.
///
/// Nothing that it says reaches the store before the closure has returned; then all of it does, or nothing.
///
/// # Panics
///
/// Its methods panic for an index beyond the declared keys.
pub struct Txn {
    bases: Vec<Base>,
    /// For each index, the first index of the same key; empty if no key was declared twice.
    aliases: Vec<usize>,
    writes: Vec<Write>,
    staged: Vec<u8>,
}

/// The buffers of a transaction that ended, for the next one: a transaction in steady state allocates nothing.
#[derive(Default)]
pub(super) struct Scratch {
    bases: Vec<Base>,
    writes: Vec<Write>,
    list: Vec<(usize, Option<Range<usize>>)>,
    staged: Vec<u8>,
}

/// Larger buffers are not kept.
const MAX_KEPT_BYTES: usize = 64 << 10;
const MAX_KEPT_KEYS: usize = 256;

/// What the store holds at a key.
enum Base {
    Absent,
    Leaf(Rc<Page>, usize),
    Bytes(Rc<[u8]>),
}

#[derive(Clone)]
enum Write {
    None,
    Put(Range<usize>),
    Delete,
}

impl Txn {
    /// How many keys were declared.
    pub fn len(&self) -> usize {
        self.bases.len()
    }

    /// Whether no key was declared.
    pub fn is_empty(&self) -> bool {
        self.bases.is_empty()
    }

    /// The value of key `index` as this transaction sees it.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let index = self.canonical(index);
        match &self.writes[index] {
            Write::Put(range) => Some(&self.staged[range.clone()]),
            Write::Delete => None,
            Write::None => self.bases[index].bytes(),
        }
    }

    /// Whether key `index` is there, as this transaction sees it.
    pub fn contains(&self, index: usize) -> bool {
        let index = self.canonical(index);
        match &self.writes[index] {
            Write::Put(_) => true,
            Write::Delete => false,
            Write::None => !matches!(self.bases[index], Base::Absent),
        }
    }

    /// Puts `value` at key `index`.
    pub fn put(&mut self, index: usize, value: &[u8]) {
        self.put_parts(index, &[value]);
    }

    /// Puts the concatenation of `parts` at key `index`.
    pub fn put_parts(&mut self, index: usize, parts: &[&[u8]]) {
        let index = self.canonical(index);
        let start = self.staged.len();
        parts.iter().for_each(|part| self.staged.extend_from_slice(part));
        self.writes[index] = Write::Put(start..self.staged.len());
    }

    /// Deletes key `index`; returns whether it was there.
    pub fn delete(&mut self, index: usize) -> bool {
        let was_there = self.contains(index);
        let index = self.canonical(index);
        self.writes[index] = Write::Delete;
        was_there
    }

    /// Takes everything back that was put or deleted so far.
    pub fn discard(&mut self) {
        self.writes.fill(Write::None);
        self.staged.clear();
    }

    fn canonical(&self, index: usize) -> usize {
        if self.aliases.is_empty() { index } else { self.aliases[index] }
    }

    /// The writes that change something. Lets go of the pages that were read: a page that something else
    /// refers to would have to be copied.
    fn finish(mut self, mut list: Vec<(usize, Option<Range<usize>>)>) -> Writes {
        let changes = self.writes.drain(..).zip(&self.bases).enumerate();
        list.extend(changes.filter_map(|(index, (write, base))| match write {
            Write::Put(range) => Some((index, Some(range))),
            Write::Delete if !matches!(base, Base::Absent) => Some((index, None)),
            Write::Delete | Write::None => None,
        }));
        self.bases.clear();
        Writes { scratch: Scratch { bases: self.bases, writes: self.writes, list, staged: self.staged } }
    }
}

/// What a transaction decided to write: in `list` the index of each key, and where in `staged` its new value
/// is; `None` deletes.
struct Writes {
    scratch: Scratch,
}

impl Writes {
    fn iter(&self) -> impl Iterator<Item = (usize, Option<&[u8]>)> + '_ {
        let Scratch { list, staged, .. } = &self.scratch;
        list.iter().map(|(index, range)| (*index, range.clone().map(|range| &staged[range])))
    }

    /// The only write, if there is just one.
    fn only(&self) -> Option<(usize, Option<&[u8]>)> {
        self.iter().next().filter(|_| self.scratch.list.len() == 1)
    }

    /// The units that they take at most, and whether they only delete.
    fn cost(&self, keys: &[(u32, &[u8])], state: &State) -> (u64, bool) {
        if let Some((index, value)) = self.only() {
            let (tree, key) = keys[index];
            let bytes = value.map_or(0, |value| key.len() + value.len().min(MAX_INLINE_BYTES));
            let large = value.map_or(0, |value| value_units(value.len(), state.ledger.unit));
            return (state.change_units(tree, 1, bytes) + large, value.is_none());
        }
        let (mut units, mut deleting) = (0, true);
        // Per tree: keys, and bytes of entries. A transaction touches few trees.
        let mut trees: Vec<(u32, usize, usize)> = Vec::new();
        for (index, value) in self.iter() {
            let (tree, key) = keys[index];
            let at = trees.iter().position(|entry| entry.0 == tree).unwrap_or_else(|| {
                trees.push((tree, 0, 0));
                trees.len() - 1
            });
            trees[at].1 += 1;
            if let Some(value) = value {
                deleting = false;
                trees[at].2 += key.len() + value.len().min(MAX_INLINE_BYTES);
                units += value_units(value.len(), state.ledger.unit);
            }
        }
        units += trees.iter().map(|&(tree, keys, bytes)| state.change_units(tree, keys, bytes)).sum::<u64>();
        (units, deleting)
    }
}

impl Base {
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Base::Absent => None,
            Base::Bytes(bytes) => Some(bytes),
            Base::Leaf(page, index) => match page.as_leaf().map(|leaf| leaf.value(*index)) {
                Some(LeafValue::Inline(bytes)) => Some(bytes),
                _ => None,
            },
        }
    }
}

impl std::fmt::Debug for Txn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Txn").field("keys", &self.bases.len()).finish_non_exhaustive()
    }
}

/// The index of the first equal key for each key, or nothing if all differ.
fn find_aliases(keys: &[(u32, &[u8])]) -> Vec<usize> {
    /// So few are compared by a checksum each with each, which is cheaper than a hash map; it needs no hash that nobody
    /// can foresee, since the work is bounded.
    const FEW: usize = 32;
    if keys.len() < 2 {
        return Vec::new();
    }
    if keys.len() <= FEW {
        let mut sums = [0; FEW];
        sums.iter_mut().zip(keys).for_each(|(sum, (_, key))| *sum = checksum(key));
        let sums = &sums[..keys.len()];
        if !(1..sums.len()).any(|index| sums[..index].contains(&sums[index])) {
            return Vec::new();
        }
    }
    let mut first = HashMap::with_capacity(keys.len());
    let aliases: Vec<usize> =
        keys.iter().enumerate().map(|(index, key)| *first.entry(*key).or_insert(index)).collect();
    if first.len() == keys.len() { Vec::new() } else { aliases }
}

/// What a pass over the declared keys found.
enum Pass {
    Ready,
    Blocked(usize, Obstacle),
    /// A large value has to be loaded.
    Blob(usize, Rc<super::page::Blob>),
}

/// Keeps what was loaded from being evicted until the transaction has run.
#[derive(Default)]
struct Pins {
    pages: Vec<Rc<Page>>,
    values: Vec<Rc<[u8]>>,
}

impl<E: Env, N: Namespace> Shared<E, N> {
    /// Runs a transaction over `keys` (tree and key each) and applies what it wrote.
    pub(super) async fn transact<R>(
        &self,
        keys: &[(u32, &[u8])],
        options: WriteOptions,
        run: impl FnOnce(&mut Txn) -> R,
    ) -> Result<(R, Commit)> {
        let aliases = find_aliases(keys);
        let mut pins = Pins::default();
        let Scratch { mut bases, mut writes, list, staged } = self.scratch.take();
        self.resolve(keys, &mut bases, &mut pins).await?;
        writes.resize(keys.len(), Write::None);
        let mut txn = Txn { writes, bases, aliases, staged };
        let result = run(&mut txn);
        // From here to the log nothing else runs, unless space is short: then no other write is let in.
        let writes = txn.finish(list);
        drop(pins);
        let commit = self.apply_all(keys, &writes, options).await;
        self.keep(writes.scratch);
        Ok((result, commit?))
    }

    /// Applies what a transaction decided on.
    async fn apply_all(
        &self,
        keys: &[(u32, &[u8])],
        writes: &Writes,
        options: WriteOptions,
    ) -> Result<Commit> {
        if writes.scratch.list.is_empty() {
            return Ok(Commit::default());
        }
        for (index, value) in writes.iter() {
            check_limits(keys[index].1, value)?;
        }
        let externalise = self.record_policy(keys, writes)?;
        let commit = match self.try_apply(keys, writes, externalise, options)? {
            Some(commit) => commit,
            None => self.apply_exclusively(keys, writes, externalise, options).await?,
        };
        self.relieve().await;
        Ok(commit)
    }

    /// Keeps the buffers for the next transaction.
    fn keep(&self, mut scratch: Scratch) {
        if scratch.staged.capacity() <= MAX_KEPT_BYTES && scratch.bases.capacity() <= MAX_KEPT_KEYS {
            scratch.list.clear();
            scratch.staged.clear();
            self.scratch.set(scratch);
        }
    }

    /// Waits while the log or the changed pages are beyond their bounds.
    async fn relieve(&self) {
        while self.state.borrow_mut().is_pressed() {
            self.checkpoint_wake.notify_all();
            self.progress.notified().await;
        }
    }

    /// Loads every key's page and value; ends in the step in which all are in memory and writes are admitted.
    async fn resolve(&self, keys: &[(u32, &[u8])], bases: &mut Vec<Base>, pins: &mut Pins) -> Result<()> {
        let mut patience = Patience::default();
        let mut failed = None;
        if keys.len() > 1 {
            // Mostly all of them are in memory.
            if matches!(self.pass(keys, bases), Pass::Ready) {
                return Ok(());
            }
            bases.clear();
            for &(tree, key) in keys {
                pins.pages.extend(self.leaf(tree, Seek::Key(key)).await?);
            }
        }
        loop {
            bases.clear();
            match self.pass(keys, bases) {
                Pass::Ready => return Ok(()),
                Pass::Blocked(index, obstacle) => {
                    let (tree, key) = keys[index];
                    self.overcome(tree, key, obstacle, &mut patience).await?;
                    pins.pages.extend(self.leaf(tree, Seek::Key(key)).await?);
                }
                Pass::Blob(index, blob) => match self.blob(&blob).await {
                    Ok(bytes) => pins.values.push(bytes),
                    // The value may have been replaced, and its units reused, meanwhile: only the second time
                    // counts.
                    Err(error) if failed.replace((index, blob.id)) == Some((index, blob.id)) => {
                        return Err(error);
                    }
                    Err(_) => {}
                },
            }
        }
    }

    fn pass(&self, keys: &[(u32, &[u8])], bases: &mut Vec<Base>) -> Pass {
        let state = self.state.borrow();
        if state.exclusive {
            return Pass::Blocked(0, Obstacle::Wait);
        }
        for (index, &(tree, key)) in keys.iter().enumerate() {
            bases.push(match state.lookup(tree, key) {
                Lookup::Absent => Base::Absent,
                Lookup::Missing(missing) => return Pass::Blocked(index, Obstacle::Missing(missing)),
                Lookup::Found(page, at) => {
                    let blob = match page.as_leaf().map(|leaf| leaf.value(at)) {
                        Some(LeafValue::Overflow(blob)) => Some(Rc::clone(blob)),
                        _ => None,
                    };
                    match blob {
                        None => Base::Leaf(page, at),
                        Some(blob) => match blob.bytes.borrow().as_ref() {
                            Some(bytes) => Base::Bytes(Rc::clone(bytes)),
                            None => return Pass::Blob(index, Rc::clone(&blob)),
                        },
                    }
                }
            });
        }
        Pass::Ready
    }

    /// Whether large values have to go ahead of the log so that the record fits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LimitReached`] if it does not fit even so.
    fn record_policy(&self, keys: &[(u32, &[u8])], writes: &Writes) -> Result<bool> {
        const OPERATION_BYTES: usize = 64;
        let max = self.state.borrow().log.max_record_bytes();
        let mut all = 0;
        let mut small = 0;
        for (index, value) in writes.iter() {
            let len = value.map_or(0, <[u8]>::len);
            let fixed = OPERATION_BYTES + keys[index].1.len();
            all += fixed + len;
            small += fixed + if len > MAX_INLINE_BYTES { 0 } else { len };
        }
        if small > max {
            return Err(Error::new(ErrorKind::LimitReached, "transact").because(format!(
                "the transaction writes {small} bytes of keys and small values, at most {max} fit the log's record"
            )));
        }
        Ok(all > max / 4)
    }

    /// Applies the writes, if there is room for them now.
    fn try_apply(
        &self,
        keys: &[(u32, &[u8])],
        writes: &Writes,
        externalise: bool,
        options: WriteOptions,
    ) -> Result<Option<Commit>> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let (units, deleting) = writes.cost(keys, state);
        // The log takes the record also while it is congested: this writer waits afterwards, the next one before.
        match state.admit(units, deleting)? {
            Admission::Go => {}
            Admission::Wait if state.room_for(units, deleting) == Admission::Go => {}
            Admission::Wait | Admission::Short => return Ok(None),
        }
        Ok(self.apply_now(state, keys, writes, externalise, options))
    }

    /// Changes the trees and appends the record. `None`, with nothing changed, if large values find no units.
    fn apply_now(
        &self,
        state: &mut State,
        keys: &[(u32, &[u8])],
        writes: &Writes,
        externalise: bool,
        options: WriteOptions,
    ) -> Option<Commit> {
        if let Some((index, value)) = writes.only() {
            let (tree, key) = keys[index];
            return match value {
                Some(value) => self.put_now(state, tree, key, value, externalise, options),
                None => Some(self.delete_now(state, tree, key, options)),
            };
        }
        let mut puts = Vec::with_capacity(writes.scratch.list.len());
        let mut deletes = Vec::new();
        for (index, value) in writes.iter() {
            match value.map(|value| state.prepare(value, externalise)) {
                Some(Some(prepared)) => puts.push((keys[index], prepared)),
                Some(None) => {
                    puts.iter().for_each(|(_, prepared)| state.abandon(prepared));
                    return None;
                }
                None => deletes.push(keys[index]),
            }
        }
        let mut created = Vec::new();
        // Puts come first: they keep the leaves of all declared keys from being merged away.
        for ((tree, key), prepared) in &puts {
            if let Some(name) = state.mark_created(*tree) {
                created.push((*tree, name));
            }
            let done = state.put(*tree, key, prepared);
            assert!(done.is_ok(), "a declared key's leaf is in memory");
        }
        for &(tree, key) in &deletes {
            let (tree, ledger) = state.tree_and_ledger(tree);
            tree.delete(key, ledger);
        }
        if !state.externals.is_empty() {
            self.external_wake.notify_all();
        }
        let creates = created.iter().map(|(tree, name)| Operation::CreateTree { tree: *tree, name });
        let puts = puts.iter().map(|((tree, key), prepared)| prepared.operation(*tree, key));
        let deletes = deletes.iter().map(|&(tree, key)| Operation::Delete { tree, key });
        Some(self.log(state, creates.chain(puts).chain(deletes), options))
    }

    /// Waits for space with every other write kept out, so that what the transaction read stays true.
    async fn apply_exclusively(
        &self,
        keys: &[(u32, &[u8])],
        writes: &Writes,
        externalise: bool,
        options: WriteOptions,
    ) -> Result<Commit> {
        let _lock = ExclusiveLock::take(self);
        let mut patience = Patience::default();
        loop {
            self.make_room(&mut patience).await?;
            let mut pins = Pins::default();
            for &(tree, key) in keys {
                pins.pages.extend(self.leaf(tree, Seek::Key(key)).await?);
            }
            self.check_failed("write to store", Outcome::NotStarted)?;
            drop(pins);
            let mut guard = self.state.borrow_mut();
            let state = &mut *guard;
            let resident =
                keys.iter().all(|(tree, key)| !matches!(state.lookup(*tree, key), Lookup::Missing(_)));
            let (units, deleting) = writes.cost(keys, state);
            if resident
                && state.room_for(units, deleting) == Admission::Go
                && let Some(commit) = self.apply_now(state, keys, writes, externalise, options)
            {
                return Ok(commit);
            }
        }
    }
}

/// Keeps every other write out while it lives.
struct ExclusiveLock<'a, E: Env, N: Namespace>(&'a Shared<E, N>);

impl<'a, E: Env, N: Namespace> ExclusiveLock<'a, E, N> {
    fn take(shared: &'a Shared<E, N>) -> Self {
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
