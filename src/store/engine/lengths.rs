//! How many keys each tree has.
//!
//! Whoever writes a key by `update`, `put`, `delete`, a transaction, or by making a tree, knows
//! whether the key was there, and so what the write does to the number of keys: its
//! [`Effect`], which its record has too. Blind writes ([`CoreStore::write`]) do not know, and count
//! nothing: who wants to know the length of a tree writes none to it.
//!
//! # In memory
//!
//! Each core adds up the effects of its own writes, by tree and root, behind a lock that nobody
//! else wants but readers of a length and, once a checkpoint, the keeper. The length of a tree is
//! the sum over all cores, and what there was before.
//!
//! # What a checkpoint has of it
//!
//! Lengths as of a number S, the *cut*: what the writes below S have left, and nothing of any
//! other. Recovery takes these, and adds the effects of all records from S on ([`Counted`]). That
//! is right by two rules, both about one superblock, which names S, the lengths and the log's
//! start together:
//!
//! 1. **The log starts at S or before**, so that no effect is missing.
//! 2. **The log is durable up to S** before the superblock is written, so that no crash takes a
//!    write that the lengths include.
//!
//! So there are two sums on each core, for numbers below the cut and from the cut on:
//!
//! | step | who | what |
//! |---|---|---|
//! | 1 | a writer | draws its number *n* |
//! | 2 | a writer | under its core's lock: adds the effect to the sum below the cut if *n* is below it, else to the other |
//! | 3 | a writer | appends its record |
//! | a | the keeper | under the locks of all cores: S := the next number; what each core has counted so far is below |
//! | b | the keeper | waits until the log is durable up to S |
//! | c | the keeper | the sums below the cut are the lengths at S |
//!
//! A write with a number below S may come to step 2 before *a* or after it, and is counted below in
//! either case. One with *n* at S or above comes to it after *a*: else its draw, which is before
//! its step 2, would come before the keeper looks at the counter, and *n* would be below S. At *c*
//! all numbers below S are in batches of the log, so their writers were through step 2.
//!
//! The lock of a core is not contended, and so does not need more than two atomic operations. There
//! is nothing else to order, and no number has to be drawn for the cut.
//!
//! # If the log cannot go on
//!
//! It may wait for a segment that only this checkpoint gives back. So *b* ends after [`PATIENCE`],
//! and the checkpoint takes the lengths of the cut before; the log starts at that cut, or before.
//! The new cut stays as it is until the log is durable up to it, and counts for the next
//! checkpoint. So of two checkpoints the second always has a later cut than the first, if the log
//! goes on at all, however slow.
//!
//! # Trees that come to their end
//!
//! A tree that is cleared gets another root, so sums are by root as well. Until it is certain that
//! the write which does it, or which removes the tree, is durable the lengths of a cut have the old
//! root's: [`Lengths::end`] says by which number it ended, and the sums go with the first cut
//! behind that. What takes the old tree apart counts for nothing ([`dying`](super::dying)), and
//! recovery counts nothing for a tree without a name. A new root has no keys at first, and needs no
//! step. Recovery counts from none where the log, from S on, has the tree made or cleared.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::core_store::CoreStore;
use super::defect::{Defects, EngineDefect};
use crate::block::Namespace;
use crate::error::Result;
use crate::store::btree::TreeRoot;
use crate::store::env::Env;
use crate::store::overlay::Counted;
use crate::store::pace::either;
use crate::store::pages::TreeLengths;
use crate::store::wal::Effect;

/// So long a checkpoint waits for the log.
const PATIENCE: Duration = Duration::from_millis(100);

/// A tree's number, and the bits of its root.
type Root = (u32, u64);
type Sums = HashMap<Root, i64>;

fn root(tree: TreeRoot) -> Root {
    (tree.tree, tree.root.bits())
}

fn add(sums: &mut Sums, root: Root, difference: i64) {
    *sums.entry(root).or_default() += difference;
}

/// Locks what no panic leaves half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many keys each tree has, as the writes below a number have left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) number: u64,
    pub(super) lengths: TreeLengths,
}

/// What one core's writes did.
#[derive(Debug, Default)]
struct Changes {
    cut: u64,
    /// By numbers below the cut, since the last cut.
    below: Sums,
    /// By numbers from the cut on.
    above: Sums,
}

/// What the cores share. Lock order: this, then cores in their order.
#[derive(Debug, Default)]
struct State {
    cores: Vec<Arc<Mutex<Changes>>>,
    /// What is below the last cut, and not a core's.
    below: Sums,
    /// Roots that are those of no tree any more, each with the number of the write that did it.
    ended: Vec<(Root, u64)>,
    cut: u64,
    /// The log may not be durable up to the cut.
    is_pending: bool,
    /// What a checkpoint may have: the last cut up to which the log is known to be durable.
    last: Cut,
    /// What the last checkpoint has.
    stored: TreeLengths,
}

/// The lengths of a store's trees.
#[derive(Debug, Default)]
pub(super) struct Lengths(Mutex<State>);

/// One core's way to them.
#[derive(Debug)]
pub(super) struct LengthsOfCore {
    changes: Arc<Mutex<Changes>>,
}

impl LengthsOfCore {
    /// The write with this number, which is drawn and whose record is not appended yet, had this
    /// effect.
    pub(super) fn add(&self, tree: TreeRoot, number: u64, effect: Effect) {
        let difference = match effect {
            Effect::More => 1,
            Effect::Less => -1,
            Effect::None | Effect::Unknown => return,
        };
        self.add_all(tree, number, difference);
    }

    /// The same where it did so much to the number of keys.
    pub(super) fn add_all(&self, tree: TreeRoot, number: u64, difference: i64) {
        let changes = &mut *lock(&self.changes);
        let sums = if number < changes.cut { &mut changes.below } else { &mut changes.above };
        add(sums, root(tree), difference);
    }
}

impl State {
    /// The sums below the cut are complete.
    fn settle(&mut self) {
        let Self { cores, below, ended, cut, .. } = self;
        for core in &*cores {
            lock(core).below.drain().for_each(|(root, difference)| add(below, root, difference));
        }
        ended.retain(|(root, number)| {
            if number < cut {
                below.remove(root);
            }
            number >= cut
        });
        let mut lengths = BTreeMap::<u32, i64>::new();
        below.iter().for_each(|((tree, _), length)| *lengths.entry(*tree).or_default() += length);
        let lengths = lengths.into_iter().filter_map(|(tree, length)| {
            let length = u64::try_from(length).ok().filter(|length| *length > 0)?;
            Some((tree, length))
        });
        self.last = Cut { number: *cut, lengths: lengths.collect() };
        self.is_pending = false;
    }

    /// A new cut, at the number that `next` says is the next one.
    fn move_cut(&mut self, next: impl FnOnce() -> u64) {
        let Self { cores, below, cut, is_pending, .. } = self;
        // Of a core that is gone all numbers are below the new cut, and there will be no others.
        cores.retain_mut(|core| {
            let Some(changes) = Arc::get_mut(core) else { return true };
            let changes = changes.get_mut().unwrap_or_else(PoisonError::into_inner);
            let all = changes.below.drain().chain(changes.above.drain());
            all.for_each(|(root, difference)| add(below, root, difference));
            false
        });
        let mut locked: Vec<_> = cores.iter().map(|core| lock(core)).collect();
        *cut = next();
        for changes in &mut locked {
            let changes = &mut **changes;
            changes.cut = *cut;
            changes.below.drain().for_each(|(root, difference)| add(below, root, difference));
            std::mem::swap(&mut changes.below, &mut changes.above);
        }
        *is_pending = true;
    }
}

impl Lengths {
    /// What the checkpoint has, while the store is opened.
    pub(super) fn load(&self, cut: Cut) {
        let state = &mut *lock(&self.0);
        state.stored.clone_from(&cut.lengths);
        state.last = cut;
    }

    /// What the log has beside it, once it is known which trees there are.
    pub(super) fn replayed(
        &self,
        counted: impl Iterator<Item = Counted>,
        root_of: impl Fn(u32) -> Option<TreeRoot>,
    ) {
        let State { below, last, .. } = &mut *lock(&self.0);
        for (tree, length) in &last.lengths {
            if let Some(tree) = root_of(*tree) {
                below.insert(root(tree), i64::try_from(*length).unwrap_or(i64::MAX));
            }
        }
        for Counted { tree, from_zero, difference, .. } in counted {
            let Some(tree) = root_of(tree) else { continue };
            let length = below.entry(root(tree)).or_default();
            *length = if from_zero { difference } else { length.saturating_add(difference) };
        }
    }

    /// One more core.
    pub(super) fn attach(&self) -> LengthsOfCore {
        let state = &mut *lock(&self.0);
        let changes = Arc::new(Mutex::new(Changes { cut: state.cut, ..Changes::default() }));
        state.cores.push(Arc::clone(&changes));
        LengthsOfCore { changes }
    }

    /// The write with this number, which is drawn and whose record is not appended yet, has cleared
    /// the tree of this root, or removed it. Nobody writes to it with a larger number, but for
    /// writers of other cores that were on their way: what they add counts for no tree that has a
    /// name.
    pub(super) fn end(&self, tree: TreeRoot, number: u64) {
        lock(&self.0).ended.push((root(tree), number));
    }

    pub(super) fn of(&self, tree: TreeRoot) -> u64 {
        let state = lock(&self.0);
        let root = root(tree);
        let sum = |sums: &Sums| sums.get(&root).copied().unwrap_or(0);
        let mut length = sum(&state.below);
        for core in &state.cores {
            let changes = lock(core);
            length = length.saturating_add(sum(&changes.below)).saturating_add(sum(&changes.above));
        }
        u64::try_from(length).unwrap_or(0)
    }

    /// The number up to which the log is to be durable for the next checkpoint. Numbers below
    /// `durable` are.
    fn begin_cut(&self, durable: u64, next: impl FnOnce() -> u64) -> u64 {
        let mut state = lock(&self.0);
        if state.is_pending && state.cut <= durable {
            state.settle();
        }
        if !state.is_pending {
            state.move_cut(next);
        }
        state.cut
    }

    /// What the next checkpoint has. Numbers below `durable` are durable.
    fn end_cut(&self, durable: u64) -> Cut {
        let mut state = lock(&self.0);
        if state.is_pending && state.cut <= durable {
            state.settle();
        }
        state.last.clone()
    }

    /// Whether the last checkpoint has the same lengths.
    pub(super) fn are_stored(&self, cut: &Cut) -> bool {
        lock(&self.0).stored == cut.lengths
    }

    /// A checkpoint is durable that has these.
    pub(super) fn stored(&self, cut: Cut) {
        lock(&self.0).stored = cut.lengths;
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// How many keys a tree has; 0 if there is no such tree, or it has lost its name. Writes that
    /// are under way may be counted or not. It is exact if nobody wrote to the tree without looking
    /// ([`CoreStore::write`]).
    pub(in crate::store) fn len(&self, tree: u32) -> u64 {
        let root = self.shared.trees().counted_root_of(tree);
        root.map_or(0, |tree| self.shared.lengths.of(tree))
    }

    /// The lengths for a checkpoint: as of now, or of the cut before if the log does not go on.
    ///
    /// # Errors
    ///
    /// The log has failed.
    pub(super) async fn cut_lengths(&self) -> Result<Cut> {
        let (lengths, durable) = (&self.shared.lengths, || self.log.durable());
        let cut = lengths.begin_cut(durable(), || self.log.log().next_number());
        if Defects::now().has(EngineDefect::CutNotWaitedFor) {
            return Ok(lengths.end_cut(cut));
        }
        if Defects::now().has(EngineDefect::LogStartPassesCut) {
            return Ok(lock(&lengths.0).last.clone());
        }
        // That a checkpoint waits here is not what its bundles may count on.
        let waits = !Defects::now().has(EngineDefect::InstalledBeforeDurable);
        if waits && cut > durable() {
            let mut waited = Ok(());
            let wait = async { waited = self.log.wait(cut - 1).await };
            either(wait, self.env.sleep(PATIENCE)).await;
            waited?;
        }
        Ok(lengths.end_cut(durable()))
    }
}

#[cfg(test)]
mod tests;
