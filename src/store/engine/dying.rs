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
//! The task ([`apart`]) deletes the keys as anybody would, some at a time, in records of the log
//! that also have the markers of long values to which the keys refer. The structure changes of
//! `btree/smo.rs` take the pages away, and the flusher gives their ids and their places back. A
//! leaf that stays because memory is short, or because the overlay of records hides what it has, is
//! emptied once more. What is left then, or by an error, is tried again every
//! [`AGAIN`](super::drain::AGAIN), and when the log is drained.
//!
//! A tree that is [one empty leaf](CoreStore::is_empty_now) is not cleared: it is what clearing
//! would make.
//!
//! # Room
//!
//! Clearing takes the room of an entry and of an empty root. For that some room is kept beyond what
//! any other write is admitted to ([`Kind::Clears`]), so it works on a full store. What a dying
//! tree takes counts as used until it is gone. A write for which there is no room waits for that:
//! each time the task has deleted some keys ([`ASKED_KEYS`](apart::ASKED_KEYS)) the account is made
//! exact, and the write tries again. It is refused only if nothing is taken apart any more.
//!
//! # Who still has the old root
//!
//! Whoever looked a tree up and then awaited something may come back when it is dying.
//!
//! - A **writer** asks [`CoreStore::check_tree`] when it has room in the log, behind its last
//!   await. It is refused, and looks the tree up again ([`lost_name`] tells that error from a
//!   device's). A writer on another core that asks just
//!   before the tree is cleared writes beside the clearing, which is then the later of the two.
//! - A **transaction** asks before it reads and after it has read, as the task may be at work on
//!   another core. So what it makes of the tree is made of all of it, before it was cleared.
//! - A **reader** finds what was there, or nothing; one of several keys asks as a transaction does.
//!   Whoever keeps a root between operations asks [`CoreStore::has_lost_name`] first.
//! - A **scan** asks before each key, and ends. It shows nothing that was written after the
//!   clearing.
//!
//! So the page of the root has to be that root for as long as the store is open: this is why there
//! are the stages `Young` and `Kept`. It costs an id, and an empty leaf, for each clearing until
//! the next opening.
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

mod apart;
pub(super) mod lost;

use std::ops::Bound;

pub(super) use self::apart::take_apart_when_asked;
use self::lost::LostName;
pub(in crate::store) use self::lost::lost_name;
use super::core_store::CoreStore;
use super::operations::{operation, overlaid};
pub(super) use super::registry::Stage;
use super::registry::{NamedTree, catalog, dying_key};
use super::space::account::{Kind, added_bytes};
use super::transaction::Key;
use super::trees::ROOT_BYTES;
use crate::block::Namespace;
use crate::error::Result;
use crate::store::btree::{Change, Refusal, Target, TreeRoot};
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::overlay::Direction;
use crate::store::wal::{Effect, Operation, Room as LogRoom};

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
    /// that has the name now, which is the same if it is empty, and the number of the write that
    /// made it so or of a newer one; None if there is no such tree.
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

    /// Whether the tree was cleared or removed since the store was opened: whoever has its root is
    /// to look its name up again.
    pub(in crate::store) fn has_lost_name(&self, tree: TreeRoot) -> bool {
        self.shared.dying.lost.contains(tree.tree)
    }

    /// Refuses an operation on a tree that has lost its name ([`lost_name`]). Between
    /// this and the number of a write nothing may await.
    pub(super) fn check_tree(&self, tree: TreeRoot) -> Result<()> {
        if self.has_lost_name(tree) { Err(LostName::error(tree.tree)) } else { Ok(()) }
    }

    pub(super) fn check_trees(&self, keys: &[Key<'_>]) -> Result<()> {
        keys.iter().try_for_each(|(tree, _)| self.check_tree(*tree))
    }

    /// Whether clearing the tree would change nothing. What cannot be read is not looked at.
    async fn is_empty_leaf(&self, tree: TreeRoot) -> bool {
        // Most trees have keys, and their first pages are not loaded for this.
        while self.shared.lengths.of(tree) == 0 {
            match self.is_empty_now(tree) {
                // Nothing awaits from here on.
                Ok(is_empty) => return is_empty && !self.has_lost_name(tree),
                Err(refusal) if self.overcome(refusal).await.is_err() => return false,
                Err(_) => {}
            }
        }
        false
    }

    fn is_empty_now(&self, tree: TreeRoot) -> std::result::Result<bool, Refusal> {
        let mut access = self.overlay.borrow_mut();
        let all = (Bound::Unbounded, Bound::Unbounded);
        let is_overlaid = access.all(&self.shared.overlay).iter().any(|overlay| {
            let view = overlay.view(overlaid(tree), all, Direction::Forwards, 1);
            view.end().is_some() || view.records().next().is_some()
        });
        if is_overlaid {
            return Ok(false);
        }
        let mut is_empty = true;
        let next = self.core.pin().scan_leaf(tree, &Target::At(Vec::new()), |_, _| is_empty = false)?;
        Ok(is_empty && next.is_none())
    }

    async fn part_with(
        &self,
        name: &str,
        keeps_name: bool,
        durability: Durability,
    ) -> Result<Option<(Option<NamedTree>, u64)>> {
        let mut asked = 0;
        loop {
            let Some(old) = self.find_tree(name) else { return Ok(None) };
            if keeps_name && self.is_empty_leaf(old.root).await {
                let newest = self.log.log().next_number() - 1;
                self.shared.check_writable("write to store")?;
                self.log.commit(newest, durability);
                return Ok(Some((Some(old), newest)));
            }
            let (name_key, dying_key) = (NamedTree::key(name), dying_key(old.root.tree));
            let keys = [(catalog(), &name_key[..]), (catalog(), &dying_key[..])];
            // No number is longer.
            let longest = NamedTree { root: TreeRoot { tree: u32::MAX, root: old.root.root }, ..old.clone() };
            let entry = longest.encode();
            let puts = keys.map(|key| (key, Change::Put(&entry), Effect::Unknown));
            let most = record_bytes(&part_operations(Some(&longest), &puts));
            let adds = added_bytes(&dying_key, Change::Put(&entry)) + ROOT_BYTES;
            let Some(held) = self.shared.space.hold(adds, Kind::Clears) else {
                self.ask_for_room(&mut asked).await?;
                continue;
            };
            self.wait_for_log().await?;
            self.prepare(&keys).await?;
            let mut room = self.log_room(most).await?;
            if !self.may_change(&keys) {
                continue;
            }
            // Nothing awaits from here to the record.
            let parted = self.part_now(&old, keeps_name, keys, &mut room)?;
            drop(room);
            match parted {
                Parting::Done(new, number) => {
                    held.wrote_all();
                    self.log.commit(number, durability);
                    self.shared.dying.errand.ask();
                    // A large transaction that has keys of the tree is to give up.
                    self.shared.progress.tell();
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
        if let Err(refusal) = self.is_ready(&keys) {
            return Ok(Parting::Refused(refusal));
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
        self.apply_all(&keys, changes.iter().map(|(key, change, _)| (*key, *change)), number);
        for ((tree, _), _, effect) in &changes {
            self.lengths.add(*tree, number, *effect);
        }
        self.shared.lengths.end(old.root, number);
        append(room, &part_operations(new.as_ref(), &changes));
        self.shared.dying.lost.insert(old.root.tree);
        trees.part(old.root.tree, new.clone());
        Ok(Parting::Done(new, number))
    }
}
