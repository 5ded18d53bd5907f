//! Transactions: several keys, in any trees, read and changed in one step.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::apply::Writes;
use super::codec::checksum;
use super::env::Env;
use super::options::WriteOptions;
use super::page::LeafValue;
use super::scratch::{Base, Decided, Pins, Scratch, StagedWrite};
use super::shared::StoreShared;
use super::state::Lookup;
use super::tree_state::Seek;
use super::write::{Commit, Obstacle, Patience, TIDIED_AT_ONCE};
use crate::block::Namespace;
use crate::error::Result;

/// The view of a transaction's closure: the declared keys, and what was written to them so far.
///
/// A key is named by its tree and itself; the methods that end in `_at` take its index in the list
/// of declared keys instead. Nothing that the closure writes reaches the store before it has
/// returned; then all of it does, or nothing.
///
/// # Panics
///
/// Its methods panic for a key that was not declared.
pub struct Txn<'a> {
    keys: &'a [(u32, &'a [u8])],
    /// Where each key is, made when a key of many is first asked for.
    index: OnceCell<HashMap<(u32, &'a [u8]), usize>>,
    bases: Vec<Base>,
    /// For each index, the first index of the same key; empty if no key was declared twice.
    aliases: Vec<usize>,
    writes: Vec<StagedWrite>,
    staged: Vec<u8>,
}

impl Txn<'_> {
    /// How many keys were declared.
    pub fn len(&self) -> usize {
        self.bases.len()
    }

    /// Whether no key was declared.
    pub fn is_empty(&self) -> bool {
        self.bases.is_empty()
    }

    /// Which of the declared keys `key` of the tree with the number `tree` is.
    pub(super) fn index_of(&self, tree: u32, key: &[u8]) -> usize {
        /// So few are compared one by one.
        const FEW: usize = 16;
        let wanted = (tree, key);
        let found = if self.keys.len() <= FEW {
            self.keys.iter().position(|declared| *declared == wanted)
        } else {
            let places = || self.keys.iter().enumerate().rev().map(|(at, key)| (*key, at)).collect();
            self.index.get_or_init(places).get(&wanted).copied()
        };
        found.unwrap_or_else(|| panic!("a transaction uses only keys that it declared, but not {key:?}"))
    }

    /// The value of key `index` as this transaction sees it.
    pub fn get_at(&self, index: usize) -> Option<&[u8]> {
        let index = self.canonical(index);
        match &self.writes[index] {
            StagedWrite::Put(range) => Some(&self.staged[range.clone()]),
            StagedWrite::Delete => None,
            StagedWrite::None => self.bases[index].bytes(),
        }
    }

    /// Whether key `index` is there, as this transaction sees it.
    pub fn contains_at(&self, index: usize) -> bool {
        let index = self.canonical(index);
        match &self.writes[index] {
            StagedWrite::Put(_) => true,
            StagedWrite::Delete => false,
            StagedWrite::None => !matches!(self.bases[index], Base::Absent),
        }
    }

    /// Puts `value` at key `index`.
    pub fn put_at(&mut self, index: usize, value: &[u8]) {
        self.put_parts_at(index, &[value]);
    }

    /// Puts the concatenation of `parts` at key `index`.
    pub fn put_parts_at(&mut self, index: usize, parts: &[&[u8]]) {
        let index = self.canonical(index);
        let start = self.staged.len();
        parts.iter().for_each(|part| self.staged.extend_from_slice(part));
        self.writes[index] = StagedWrite::Put(start..self.staged.len());
    }

    /// Deletes key `index`; returns whether it was there.
    pub fn delete_at(&mut self, index: usize) -> bool {
        let was_there = self.contains_at(index);
        let index = self.canonical(index);
        self.writes[index] = StagedWrite::Delete;
        was_there
    }

    /// Takes everything back that was put or deleted so far.
    pub fn discard(&mut self) {
        self.writes.fill(StagedWrite::None);
        self.staged.clear();
    }

    fn canonical(&self, index: usize) -> usize {
        if self.aliases.is_empty() { index } else { self.aliases[index] }
    }

    /// The writes that change something. Lets go of the pages that were read: a page that something
    /// else refers to would have to be copied.
    fn finish(mut self, mut list: Vec<Decided>) -> Scratch {
        let changes = self.writes.drain(..).zip(&self.bases).enumerate();
        list.extend(changes.filter_map(|(index, (write, base))| match write {
            StagedWrite::Put(range) => Some((index, Some(range))),
            StagedWrite::Delete if !matches!(base, Base::Absent) => Some((index, None)),
            StagedWrite::Delete | StagedWrite::None => None,
        }));
        self.bases.clear();
        Scratch { bases: self.bases, writes: self.writes, list, staged: self.staged }
    }
}

impl std::fmt::Debug for Txn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Txn").field("keys", &self.bases.len()).finish_non_exhaustive()
    }
}

/// The index of the first equal key for each key, or nothing if all differ.
fn find_aliases(keys: &[(u32, &[u8])]) -> Vec<usize> {
    /// So few are compared by a checksum each with each, which is cheaper than a hash map; it needs
    /// no hash that nobody can foresee, since the work is bounded.
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

impl<E: Env, N: Namespace> StoreShared<E, N> {
    /// Runs a transaction over `keys` (tree and key each) and applies what it wrote.
    pub(super) async fn transact<R>(
        &self,
        keys: &[(u32, &[u8])],
        options: WriteOptions,
        run: impl FnOnce(&mut Txn<'_>) -> R,
    ) -> Result<(R, Commit)> {
        self.tidy(TIDIED_AT_ONCE).await;
        let aliases = find_aliases(keys);
        let mut pins = Pins::default();
        let Scratch { mut bases, mut writes, list, staged } = self.scratch.take();
        self.resolve(keys, &mut bases, &mut pins).await?;
        writes.resize(keys.len(), StagedWrite::None);
        let mut txn = Txn { keys, index: OnceCell::new(), writes, bases, aliases, staged };
        let result = run(&mut txn);
        // From here to the log nothing else runs, unless space is short: then no other write is let
        // in.
        let scratch = txn.finish(list);
        drop(pins);
        let writes = Writes { keys, list: &scratch.list, staged: &scratch.staged };
        let commit = self.apply_all(writes, options).await;
        scratch.keep_in(&self.scratch);
        Ok((result, commit?))
    }

    /// Loads every key's page and value; ends in the step in which all are in memory and writes are
    /// admitted.
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
                    // The value may have been replaced, and its units reused, meanwhile: only the
                    // second time counts.
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
}
