//! The trees of a store: by name and by number, in memory and in the catalog.
//!
//! The **catalog** is tree 0, whose root is page 1. For each other tree it has an entry under
//! [`NAMES`] and the tree's name: its number, the child word of its root, its options. Numbers are
//! not used again while the store is open. Tree 1, whose root is page 2, has the long values
//! (`values`).
//!
//! Everything that happens to a tree as a whole is one record of the log, with an operation on the
//! tree and the change of the catalog that goes with it. So the catalog is a tree like any other,
//! and the operation is there for what is not in a tree:
//!
//! | | making a tree |
//! |---|---|
//! | 1 | the root: an empty leaf of a new id |
//! | 2 | a slot in the catalog's leaf, then the number *n* of the write: the entry is there |
//! | 3 | the keeper hears that the root is dirty from *n* on |
//! | 4 | the record *n*: `CreateTree`, and the put of the entry |
//!
//! None of these steps awaits, and all of them are under one lock. The log is kept from *n* on
//! until the root is durable. It may be said after the number is drawn, because the keeper looks
//! only at numbers that are published.
//!
//! # Opening
//!
//! | step | why |
//! |---|---|
//! | the roots of trees that the log has made, and of none that it has removed after that | if such a root was never durable its id is free for the mapping, but it is named in the catalog: it is [claimed](crate::store::btree::Pin::ensure_root), and made again as an empty leaf, before any id is given out |
//! | the catalog is read as it is on the namespace | it may be older than the log, or newer than its start |
//! | the changes that the log has, by number, in their order | they can be made twice |
//! | the newest operation that the log has of each of the catalog's keys | it says the same of trees that are made, and all of trees that lose their names ([`dying`](super::dying)) |
//! | which of the dying trees still have roots | the log's records of the others are dropped |
//! | the overlay of records | it has to know the root of each tree |
//!
//! What is read of the catalog in between is not what the tree 0 will have, but what the log says
//! of tree 0 it says of trees too.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use super::core_store::CoreStore;
use super::operations::{Logged, operation};
use super::registry::{DYING, NAMES, NamedTree, Trees, catalog, unnamed};
use super::scan::Scan;
use super::space::account::{Kind, added_bytes};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::btree::{Change, Refusal, TreeRoot};
use crate::store::cache::Room;
use crate::store::env::Env;
use crate::store::events::Event;
use crate::store::options::{Durability, MAX_TREE_NAME_BYTES, MAX_TREES};
use crate::store::overlay::{Builder, Direction, Newest, TreeChange};
use crate::store::wal::{Effect, Operation};
use crate::store::word::ChildWord;

/// What the empty root of a new tree takes at most, with its header.
pub(super) const ROOT_BYTES: u64 = 256;

/// The roots that the log has made and that are still those of their trees, each with the number of
/// the write that made it.
pub(super) fn made_by_log(records: &Builder) -> impl Iterator<Item = (TreeRoot, u64)> + use<> {
    let mut made = BTreeMap::new();
    for (number, change) in records.tree_changes() {
        match change {
            TreeChange::Create { tree, root, .. }
            | TreeChange::Clear { tree, root }
            | TreeChange::Install { tree, root } => {
                let root = TreeRoot { tree: *tree, root: ChildWord::from_bits(*root) };
                made.insert(*tree, (root, *number));
            }
            TreeChange::Remove { tree } => _ = made.remove(tree),
        }
    }
    made.into_values()
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Finds the trees, while the store is opened and nobody else has it. The overlay is there
    /// then.
    ///
    /// # Errors
    ///
    /// As for loading a page, and that the catalog is damaged.
    pub(super) async fn open_trees(self: &Rc<Self>, records: Builder) -> Result<()> {
        for tree in unnamed() {
            self.make_root(tree).await?;
            self.shared.flusher().know_root(tree.root.id());
        }
        for (root, from) in made_by_log(&records) {
            if self.make_root(root).await? {
                self.dirty_root(root, from);
            }
        }
        let no_entry = || {
            Error::new(ErrorKind::Corrupt, "open store")
                .at(self.shared.name.clone())
                .because("an entry of its catalog is none")
        };
        let mut trees = Trees::default();
        for kind in [NAMES, DYING] {
            let keys = (Bound::Included(vec![kind]), Bound::Excluded(vec![kind + 1]));
            let mut scan = Scan::new(self, catalog(), keys, Direction::Forwards);
            while let Some((key, value)) = scan.next_ref().await? {
                trees.learn(key, &Newest::Put { value, expiry: None }).ok_or_else(no_entry)?;
            }
        }
        records.tree_changes().iter().for_each(|(_, change)| trees.apply(change));
        for (key, newest) in records.newest_of(catalog().tree) {
            if matches!(key.first(), Some(&(NAMES | DYING))) {
                trees.learn(key, &newest).ok_or_else(no_entry)?;
            }
        }
        self.open_dying(&mut trees).await?;
        self.shared.lengths.replayed(records.counted(), |tree| trees.counted_root_of(tree));
        self.shared.overlay.add(records.finish(|tree| trees.root_of(tree).map(|tree| tree.root.bits())));
        *self.shared.trees() = trees;
        Ok(())
    }

    /// Makes a root that was never durable; whether it was so.
    async fn make_root(&self, tree: TreeRoot) -> Result<bool> {
        loop {
            let made = self.core.pin_with(Room::Reserve).ensure_root(tree);
            match made {
                Ok(is_made) => return Ok(is_made),
                Err(refusal) => self.overcome(refusal).await?,
            }
        }
    }

    /// The keeper hears that a root is not durable, and that the log has made it with the number
    /// `from`.
    pub(super) fn dirty_root(&self, TreeRoot { tree, root }: TreeRoot, from: u64) {
        self.events.push(Event::Dirty { tree, parent: root.id(), page: root.id(), from });
    }

    /// The tree with this name.
    pub(in crate::store) fn find_tree(&self, name: &str) -> Option<NamedTree> {
        self.shared.trees().find(name).cloned()
    }

    /// The trees, in the order of their numbers.
    pub(in crate::store) fn trees(&self) -> Vec<NamedTree> {
        self.shared.trees().all()
    }

    /// The tree with this name, made if there is none. With the number of the write that made it,
    /// if that was now; `options` are those of a new tree.
    ///
    /// # Errors
    ///
    /// As for a write, that the name is too long, and that there are as many trees as there may be.
    pub(in crate::store) async fn open_tree(
        &self,
        name: &str,
        options: u64,
        durability: Durability,
    ) -> Result<(NamedTree, Option<u64>)> {
        let refused = |kind, why: String| {
            Err(Error::new(kind, "open tree").because(why).outcome_is(Outcome::NotStarted))
        };
        if name.len() > MAX_TREE_NAME_BYTES {
            return refused(
                ErrorKind::InvalidInput,
                format!("a tree's name has at most {MAX_TREE_NAME_BYTES} bytes"),
            );
        }
        let key = NamedTree::key(name);
        let most = create_operations(&NamedTree { name: name.into(), root: catalog(), options }, |pair| {
            // The number is longer than that of the catalog.
            pair.iter().map(|operation| operation.encoded_len() + size_of::<u32>()).sum()
        });
        let adds = added_bytes(&key, Change::Put(&[0; size_of::<u64>() * 4])) + ROOT_BYTES;
        let (mut reserved, mut asked) = (0, 0);
        loop {
            if let Some(found) = self.find_tree(name) {
                return Ok((found, None));
            }
            if self.shared.trees().len() >= MAX_TREES {
                return refused(ErrorKind::LimitReached, format!("a store has at most {MAX_TREES} trees"));
            }
            if !self.shared.space.admit_up_to(&mut reserved, (adds, Kind::Adds)) {
                self.ask_for_room(&mut asked).await?;
                continue;
            }
            self.wait_for_log().await?;
            self.bring_over(catalog(), &key).await?;
            let mut room = self.log_room(most).await?;
            // Nothing awaits from here to the record.
            if !self.may_write(catalog(), &key) {
                continue;
            }
            let made = self.make_tree(name, options, &mut room);
            drop(room);
            match made {
                Ok(None) => {}
                Ok(Some((tree, number))) => {
                    self.log.commit(number, durability);
                    return Ok((tree, Some(number)));
                }
                Err(refusal) => self.overcome(refusal).await?,
            }
        }
    }

    /// None if there is a tree with this name meanwhile, or no room for one.
    fn make_tree(
        &self,
        name: &str,
        options: u64,
        room: &mut crate::store::wal::Room<'_>,
    ) -> std::result::Result<Option<(NamedTree, u64)>, Refusal> {
        let mut trees = self.shared.trees();
        if trees.find(name).is_some() || trees.len() >= MAX_TREES {
            return Ok(None);
        }
        let root = self.core.new_tree(trees.next_number())?;
        let tree = NamedTree { name: name.into(), root, options };
        let pin = self.core.pin();
        let entry = tree.encode();
        let change = Change::Put(&entry);
        let number = pin.write(catalog(), &NamedTree::key(name), change, &mut Logged { room });
        let number = number.inspect_err(|_| pin.release_root(root))?;
        self.dirty_root(root, number);
        self.lengths.add(catalog(), number, Effect::More);
        create_operations(&tree, |pair| {
            let len = pair.iter().map(Operation::encoded_len).sum();
            room.append(len, |mut out| {
                for operation in pair {
                    out = operation.encode(out);
                }
            });
        });
        trees.insert(tree.clone());
        Ok(Some((tree, number)))
    }
}

/// What the log says of a new tree.
fn create_operations<R>(tree: &NamedTree, then: impl FnOnce(&[Operation<'_>]) -> R) -> R {
    let NamedTree { name, root, options } = tree;
    let (key, entry) = (NamedTree::key(name), tree.encode());
    let create = Operation::CreateTree { tree: root.tree, root: root.root.bits(), options: *options, name };
    let put = operation(catalog(), &key, Change::Put(&entry), Effect::More);
    then(&[create, put])
}
