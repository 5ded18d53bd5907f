//! Clearing and removing trees: the name lets go of the old content at once, and a task takes that
//! apart later.
//!
//! Clearing gives a name a **new tree**, with a number and an empty root of its own. The old number
//! becomes a **dying tree**: it has no name, and nothing of it can be reached by one. Removing is
//! the same without a new tree. Either is one record of the log, however large the tree is:
//!
//! | | cleared | removed |
//! |---|---|---|
//! | operation on trees | `CreateTree` of the new one | – |
//! | the name's entry in the catalog | put: the new number and root | deleted |
//! | the entry [`DYING`](super::registry::DYING) and the old number | put: the old root | put: the old root |
//!
//! A dying tree is a tree to all that goes on below: the log has its records, an opening finds it
//! in the catalog, and brings what the log has into it. That matters, as its keys are the only ones
//! that know of its long values (`values`). So the record does not have `RemoveTree`, with which a
//! reader of the log drops all records of a tree; that comes with the last step.
//!
//! # The stages of a dying tree
//!
//! | [`Stage`] | what is true | next, by |
//! |---|---|---|
//! | `Young` | it lost its name since the store was opened | `Kept`: the task, when it is empty |
//! | `Kept` | it is empty; its root stays for those who still have it | `Old`, or `Over`: an opening |
//! | `Old` | it had no name when the store was opened: only the task has its root | `Empty`: the task |
//! | `Empty` | it is one empty leaf, and the log has records of it below `from` alone | `Leaving`: the keeper, when the log starts at `from` or later |
//! | `Leaving` | the flusher has its root to free | `Over`: the keeper, when a bundle is durable that frees it |
//! | `Over` | the durable mapping does not have its root | none: the task deletes the catalog's entry |
//!
//! The task deletes the keys as anybody would, some at a time, in records of the log that also have
//! the markers of long values to which the keys refer. The structure changes of `btree/smo.rs` take
//! the pages away, and the flusher gives their ids and their places back. A leaf that stays because
//! memory is short is emptied once more. What an error leaves is tried again every [`AGAIN`].
//!
//! # Who still has the old root
//!
//! Whoever looked a tree up and then awaited something may come back when it is dying.
//!
//! - A **writer** asks [`CoreStore::check_tree`] when it has room in the log, behind its last
//!   await. It is refused, and looks the tree up again. A writer on another core that asks just
//!   before the tree is cleared writes beside the clearing, which is then the later of the two.
//! - A **reader** or a scan finds keys that were there, or no more keys. So the page of the root
//!   has to be that root for as long as the store is open: this is why there are the stages `Young`
//!   and `Kept`. It costs an id, and an empty leaf, for each clearing until the next opening.
//!
//! # The end of a root
//!
//! A root has no parent that could be written without it. So the catalog's entry names it until
//! the durable mapping does not have it any more. The order is:
//!
//! 1. The log starts behind all records of the tree: no replay makes its root again, or brings a
//!    key into it.
//! 2. The trailer of a bundle says that the id is free, as for a page that was removed. When the
//!    bundle is durable, and not before, the id may be another page's, with another epoch.
//! 3. One record has `RemoveTree`, and the deletion of the catalog's entry.
//!
//! After a crash before 3 the opening finds the entry, and asks the mapping. If the id has exactly
//! the epoch of the entry, that is the root, and its tree is `Old`: it is taken apart again, which
//! finds nothing. Otherwise the tree is `Over`. Nothing but the mapping is read for this.

use std::ops::Bound;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::core_store::CoreStore;
use super::drain::AGAIN;
use super::operations::{Logged, operation, overlaid};
use super::registry::{NamedTree, Trees, catalog, dying_key};
use super::scan::Scan;
use super::signal::Signal;
use super::transaction::Key;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt::yield_now;
use crate::store::btree::{Change, Refusal, Target, TreeRoot};
use crate::store::cache::Room;
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::overlay::Direction;
use crate::store::pace::either;
use crate::store::wal::{Effect, Operation, Room as LogRoom};
use crate::store::word::ChildWord;

/// So many keys are deleted by one record, and before others run: some µs each, and more where a
/// page goes.
const KEYS_AT_ONCE: usize = 16;
/// How often what is left of a tree is gone over at a time.
const ROUNDS: usize = 4;

/// How far a dying tree has come. See the head of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Young,
    Kept,
    Old,
    /// All records of the tree have numbers below `from`.
    Empty {
        from: u64,
    },
    Leaving,
    Over,
}

/// What the cores of a store tell each other of trees without names.
#[derive(Debug, Default)]
pub(super) struct Dying {
    lost: LostTrees,
    /// There is something to take apart.
    pub(super) asked: Arc<Signal>,
}

/// The numbers of the trees that have lost their names since the store was opened: a bit each, in
/// pieces of which each is twice as long as the one before. No piece moves, so readers take no
/// lock.
#[derive(Debug, Default)]
struct LostTrees {
    pieces: [OnceLock<Box<[AtomicU64]>>; 27],
}

impl LostTrees {
    /// The piece of a number, the word in it, and the bit in that.
    fn place(number: u32) -> (usize, usize, u64) {
        let word = u64::from(number) / 64 + 1;
        let piece = word.ilog2();
        let in_piece = usize::try_from(word - (1 << piece)).expect("there are less than 2^26 words");
        (piece as usize, in_piece, 1 << (number % 64))
    }

    fn insert(&self, number: u32) {
        let (piece, word, bit) = Self::place(number);
        let words =
            self.pieces[piece].get_or_init(|| (0..1_u64 << piece).map(|_| AtomicU64::new(0)).collect());
        words[word].fetch_or(bit, Ordering::Release);
    }

    fn contains(&self, number: u32) -> bool {
        let (piece, word, bit) = Self::place(number);
        self.pieces[piece].get().is_some_and(|words| words[word].load(Ordering::Acquire) & bit != 0)
    }
}

/// What became of an attempt to take a name from a tree.
enum Parting {
    Done(Option<NamedTree>, u64),
    /// The name has another tree, or none, by now.
    Changed,
    Refused(Refusal),
}

/// What the log says when a name lets go of its tree, and gets another, or none.
fn part_operations<'o>(
    new: Option<&'o NamedTree>,
    changes: &[(Key<'o>, Change<'o>, Effect)],
) -> Vec<Operation<'o>> {
    let create = new.map(|NamedTree { name, root, options }| Operation::CreateTree {
        tree: root.tree,
        root: root.root.bits(),
        options: *options,
        name,
    });
    let changes = changes.iter().map(|((tree, key), change, effect)| operation(*tree, key, *change, *effect));
    create.into_iter().chain(changes).collect()
}

fn record_bytes(operations: &[Operation<'_>]) -> usize {
    operations.iter().map(Operation::encoded_len).sum()
}

fn append(room: &mut LogRoom<'_>, operations: &[Operation<'_>]) {
    room.append(record_bytes(operations), |mut out| {
        for operation in operations {
            out = operation.encode(out);
        }
    });
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Makes the tree with this name empty, in a time that does not depend on what it has. The tree
    /// that has the name now, and the number of the write; None if there is no such tree.
    ///
    /// # Errors
    ///
    /// As for a write.
    pub(in crate::store) async fn clear_tree(
        &self,
        name: &str,
        durability: Durability,
    ) -> Result<Option<(NamedTree, u64)>> {
        let parted = self.part_with(name, true, durability).await?;
        Ok(parted.map(|(new, number)| (new.expect("the name is kept"), number)))
    }

    /// Removes the tree with this name, in a time that does not depend on what it has. The number
    /// of the write; None if there is no such tree.
    ///
    /// # Errors
    ///
    /// As for a write.
    pub(in crate::store) async fn remove_tree(
        &self,
        name: &str,
        durability: Durability,
    ) -> Result<Option<u64>> {
        Ok(self.part_with(name, false, durability).await?.map(|(_, number)| number))
    }

    /// Refuses a write to a tree that has lost its name. Between this and the number of the write
    /// nothing may await.
    pub(super) fn check_tree(&self, tree: TreeRoot) -> Result<()> {
        if self.shared.dying.lost.contains(tree.tree) {
            let why = "the tree was cleared or removed meanwhile: it is to be looked up again";
            let error = Error::new(ErrorKind::NotFound, "write to store").because(why);
            return Err(error.outcome_is(Outcome::NotStarted));
        }
        Ok(())
    }

    async fn part_with(
        &self,
        name: &str,
        keeps_name: bool,
        durability: Durability,
    ) -> Result<Option<(Option<NamedTree>, u64)>> {
        loop {
            let Some(old) = self.find_tree(name) else { return Ok(None) };
            let (name_key, dying_key) = (NamedTree::key(name), dying_key(old.root.tree));
            let keys = [(catalog(), &name_key[..]), (catalog(), &dying_key[..])];
            // No number is longer.
            let longest = NamedTree { root: TreeRoot { tree: u32::MAX, root: old.root.root }, ..old.clone() };
            let entry = longest.encode();
            let puts = keys.map(|key| (key, Change::Put(&entry), Effect::Unknown));
            let most = record_bytes(&part_operations(Some(&longest), &puts));
            self.wait_for_log().await?;
            self.prepare(&keys).await?;
            let mut room = self.log_room(most).await?;
            if !self.has_memory(keys.len()) {
                // Others took it while this waited for the log.
                continue;
            }
            // Nothing awaits from here to the record.
            let parted = self.part_now(&old, keeps_name, keys, &mut room)?;
            drop(room);
            match parted {
                Parting::Done(new, number) => {
                    self.log.commit(number, durability);
                    self.shared.dying.asked.set();
                    return Ok(Some((new, number)));
                }
                Parting::Changed => {}
                Parting::Refused(refusal) => self.overcome(refusal).await?,
            }
        }
    }

    fn part_now(
        &self,
        old: &NamedTree,
        keeps_name: bool,
        keys: [Key<'_>; 2],
        room: &mut LogRoom<'_>,
    ) -> Result<Parting> {
        let mut trees = self.shared.trees();
        if trees.find(&old.name) != Some(old) {
            return Ok(Parting::Changed);
        }
        for (tree, key) in keys {
            if let Err(miss) = self.core.pin().get(tree, key).map(drop) {
                return Ok(Parting::Refused(miss.into()));
            }
        }
        let new = if keeps_name {
            match self.core.new_tree(trees.next_number()) {
                Ok(root) => Some(NamedTree { root, ..old.clone() }),
                Err(refusal) => return Ok(Parting::Refused(refusal)),
            }
        } else {
            None
        };
        let (entry, old_root) = (new.as_ref().map(NamedTree::encode), old.root.root.bits().to_le_bytes());
        let (to_name, effect) = match &entry {
            Some(entry) => (Change::Put(entry), Effect::None),
            None => (Change::Delete, Effect::Less),
        };
        let [name_key, dying_key] = keys;
        let changes = [(name_key, to_name, effect), (dying_key, Change::Put(&old_root), Effect::More)];
        let number = room.draw_one();
        if let Some(new) = &new {
            self.dirty_root(new.root, number);
        }
        let done = changes
            .iter()
            .try_for_each(|((tree, key), change, _)| self.apply_one(*tree, key, *change, number));
        if let Err(error) = &done {
            // As for a transaction that runs out of memory: whoever opens the store again finds all
            // of it.
            self.shared.fail(error);
        }
        for ((tree, _), _, effect) in &changes {
            self.lengths.add(*tree, number, *effect);
        }
        self.shared.lengths.end(old.root, number);
        append(room, &part_operations(new.as_ref(), &changes));
        done?;
        self.shared.dying.lost.insert(old.root.tree);
        trees.part(old.root.tree, new.clone());
        Ok(Parting::Done(new, number))
    }

    /// Which of the dying trees that an opening has found are still there.
    ///
    /// # Errors
    ///
    /// As for loading a frame of the mapping.
    pub(super) async fn open_dying(&self, trees: &mut Trees) -> Result<()> {
        for (tree, _) in trees.dying() {
            let is_there = loop {
                let found = self.core.pin().has_root(tree);
                match found {
                    Ok(is_there) => break is_there,
                    Err(miss) => self.load(miss).await?,
                }
            };
            if !is_there {
                trees.set_stage(tree.tree, Stage::Over);
            }
        }
        self.shared.dying.asked.set();
        Ok(())
    }

    /// Whether nothing is left that the task could do.
    async fn take_trees_apart(self: &Rc<Self>) -> bool {
        let dying = self.shared.trees().dying();
        let mut is_done = true;
        for (tree, stage) in dying {
            if self.shared.is_over() {
                return true;
            }
            if let Err(error) = self.take_on(tree, stage).await {
                tracing::debug!(%error, "tree {} waits to be taken apart", tree.tree);
                is_done = false;
            }
        }
        is_done
    }

    /// Brings a dying tree to its next stage, if that is the task's to do.
    async fn take_on(self: &Rc<Self>, tree: TreeRoot, stage: Stage) -> Result<()> {
        let next = match stage {
            Stage::Kept | Stage::Empty { .. } | Stage::Leaving => return Ok(()),
            Stage::Over => return self.forget(tree.tree).await,
            Stage::Young | Stage::Old if !self.empty(tree).await? => return Ok(()),
            Stage::Young => Stage::Kept,
            Stage::Old => {
                // What it still has are deletions of what is not there.
                self.shared.overlay.retire(overlaid(tree));
                Stage::Empty { from: self.log.log().next_number() }
            }
        };
        self.shared.trees().set_stage(tree.tree, next);
        Ok(())
    }

    /// Deletes what a tree has; whether it is one empty leaf now.
    async fn empty(self: &Rc<Self>, tree: TreeRoot) -> Result<bool> {
        for _ in 0..ROUNDS {
            let mut scan = Scan::new(self, tree, (Bound::Unbounded, Bound::Unbounded), Direction::Forwards);
            let mut keys: Vec<Vec<u8>> = Vec::with_capacity(KEYS_AT_ONCE);
            loop {
                keys.clear();
                while keys.len() < KEYS_AT_ONCE
                    && let Some(key) = scan.next_key().await?
                {
                    keys.push(key.to_vec());
                }
                if keys.is_empty() {
                    break;
                }
                self.delete_remains(tree, &keys).await?;
                yield_now().await;
            }
            if self.is_leaf(tree).await? {
                return Ok(true);
            }
            self.touch_leaves(tree).await?;
        }
        Ok(false)
    }

    async fn is_leaf(&self, tree: TreeRoot) -> Result<bool> {
        loop {
            let children = self.core.pin().children(tree.root.id());
            match children {
                Ok(children) => return Ok(children.is_none()),
                Err(miss) => self.load(miss).await?,
            }
        }
    }

    /// Deletes nothing in each leaf, which takes those away that are empty and had to stay.
    async fn touch_leaves(&self, tree: TreeRoot) -> Result<()> {
        let mut lower = Some(Vec::new());
        while let Some(key) = lower {
            lower = loop {
                let read = self.core.pin().scan_leaf(tree, &Target::At(key.clone()), |_, _| ());
                match read {
                    Ok(next) => break next,
                    Err(refusal) => self.overcome(refusal).await?,
                }
            };
            self.delete_remains(tree, &[key]).await?;
            yield_now().await;
        }
        Ok(())
    }

    /// The last of a tree: its entry in the catalog.
    async fn forget(&self, tree: u32) -> Result<()> {
        let key = dying_key(tree);
        let operations =
            [Operation::RemoveTree { tree }, operation(catalog(), &key, Change::Delete, Effect::Less)];
        loop {
            self.wait_for_log().await?;
            self.bring_over(catalog(), &key).await?;
            let mut room = self.log_room(record_bytes(&operations)).await?;
            let written = {
                let pin = self.core.pin_with(Room::Reserve);
                pin.write(catalog(), &key, Change::Delete, &mut Logged { room: &mut room })
            };
            match written {
                Ok(number) => {
                    self.lengths.add(catalog(), number, Effect::Less);
                    append(&mut room, &operations);
                    drop(room);
                    self.shared.trees().forget(tree);
                    self.log.commit(number, Durability::None);
                    return Ok(());
                }
                Err(refusal) => {
                    drop(room);
                    self.overcome(refusal).await?;
                }
            }
        }
    }

    /// The flusher is to free the roots of dying trees of which the log has nothing any more.
    pub(super) fn let_roots_go(&self) {
        let start = self.shared.state().superblock.log.first_write;
        let mut trees = self.shared.trees();
        for (tree, stage) in trees.dying() {
            if matches!(stage, Stage::Empty { from } if from <= start)
                && self.shared.flusher().let_root_go(tree.root)
            {
                trees.set_stage(tree.tree, Stage::Leaving);
            }
        }
    }

    /// A bundle is durable that frees these pages. Some may be the roots of dying trees.
    pub(super) fn roots_went(&self, freed: &[ChildWord]) {
        let mut trees = self.shared.trees();
        let is_freed = |root: ChildWord| freed.iter().any(|freed| freed.id() == root.id());
        let mut any = false;
        for (tree, _) in trees.dying().into_iter().filter(|(_, stage)| *stage == Stage::Leaving) {
            if is_freed(tree.root) {
                trees.set_stage(tree.tree, Stage::Over);
                any = true;
            }
        }
        if any {
            self.shared.dying.asked.set();
        }
    }
}

/// Takes dying trees apart whenever it is asked to, as long as the core is there and the store
/// takes writes.
pub(super) async fn take_apart_when_asked<E: Env, N: Namespace>(
    store: Weak<CoreStore<E, N>>,
    asked: Arc<Signal>,
) {
    loop {
        asked.wait().await;
        loop {
            let Some(store) = store.upgrade() else { return };
            let (is_done, env) = (store.take_trees_apart().await, store.env.clone());
            drop(store);
            if is_done {
                break;
            }
            either(asked.wait(), env.sleep(AGAIN)).await;
        }
    }
}
