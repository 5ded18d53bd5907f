//! The task that takes dying trees apart, and the end of their roots: see the head of
//! [`dying`](super).

use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::Stage;
use crate::block::Namespace;
use crate::error::Result;
use crate::rt::yield_now;
use crate::store::btree::{Change, Target, TreeRoot};
use crate::store::cache::Room;
use crate::store::engine::core_store::{CoreStore, ErrandEnds, Shared};
use crate::store::engine::drain::AGAIN;
use crate::store::engine::operations::{Logged, operation, overlaid};
use crate::store::engine::registry::{Trees, catalog, dying_key};
use crate::store::engine::scan::Scan;
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::pace::either;
use crate::store::wal::{Effect, Operation};
use crate::store::word::ChildWord;

/// So many keys are deleted by one record, and before others run: some µs each, and more where a
/// page goes.
const KEYS_AT_ONCE: usize = 16;
/// How often what is left of a tree is gone over at a time.
const ROUNDS: usize = 4;
/// Who waits for room tries again when so many keys are deleted.
pub(super) const ASKED_KEYS: u64 = 1024;

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Which of the dying trees that an opening has found are still there.
    ///
    /// # Errors
    ///
    /// As for loading a frame of the mapping.
    pub(in crate::store::engine) async fn open_dying(&self, trees: &mut Trees) -> Result<()> {
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
        self.shared.dying.errand.ask();
        Ok(())
    }

    /// Waits until the task has deleted some more keys, or can do no more for now. False if it was
    /// at rest.
    ///
    /// # Errors
    ///
    /// The store takes no writes.
    pub(in crate::store::engine) async fn wait_for_remains(&self) -> Result<bool> {
        let dying = &self.shared.dying;
        let (wanted, enough) = (dying.errand.wanted(), dying.deleted() + ASKED_KEYS);
        let was_at_work = dying.errand.is_at_work();
        loop {
            let moment = self.shared.progress.now();
            if !dying.errand.is_at_work() || dying.errand.is_done(wanted) || dying.deleted() >= enough {
                return Ok(was_at_work);
            }
            self.shared.check_writable("write to store")?;
            self.shared.progress.since(moment).await;
        }
    }

    /// Whether nothing is left that the task could do.
    async fn take_trees_apart(self: &Rc<Self>) -> bool {
        let dying = self.shared.trees().dying();
        let mut is_done = true;
        for (tree, stage) in dying {
            if self.shared.is_over() {
                return true;
            }
            match self.take_on(tree, stage).await {
                Ok(is_on) => is_done &= is_on,
                Err(error) => {
                    tracing::debug!(%error, "tree {} waits to be taken apart", tree.tree);
                    is_done = false;
                }
            }
            yield_now().await;
        }
        is_done
    }

    /// Brings a dying tree to its next stage, if that is the task's to do. False: not now.
    async fn take_on(self: &Rc<Self>, tree: TreeRoot, stage: Stage) -> Result<bool> {
        let next = match stage {
            Stage::Kept | Stage::Empty { .. } | Stage::Leaving => return Ok(true),
            Stage::Over => return self.forget(tree.tree).await.map(|()| true),
            Stage::Young | Stage::Old if !self.empty(tree).await? => return Ok(false),
            Stage::Young => Stage::Kept,
            Stage::Old => {
                // What it still has are deletions of what is not there.
                self.shared.overlay.retire(overlaid(tree));
                Stage::Empty { from: self.log.log().next_number() }
            }
        };
        self.shared.trees().set_stage(tree.tree, next);
        Ok(true)
    }

    /// Deletes what a tree has; whether it is one empty leaf now.
    async fn empty(self: &Rc<Self>, tree: TreeRoot) -> Result<bool> {
        for _ in 0..ROUNDS {
            let mut scan = Scan::of_remains(self, tree);
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
                if self.shared.dying.has_deleted(keys.len()) {
                    self.shared.progress.tell();
                }
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
            let mut room = self.log_room(super::record_bytes(&operations)).await?;
            if !self.may_write(catalog(), &key) {
                continue;
            }
            let written = {
                let pin = self.core.pin_with(Room::Reserve);
                pin.write(catalog(), &key, Change::Delete, &mut Logged { room: &mut room })
            };
            match written {
                Ok(number) => {
                    self.lengths.add(catalog(), number, Effect::Less);
                    super::append(&mut room, &operations);
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
    pub(in crate::store::engine) fn let_roots_go(&self) {
        let start = self.shared.state().superblock.log.first_write;
        let mut trees = self.shared.trees();
        let is_free = |stage: Stage| matches!(stage, Stage::Empty { from } if from <= start);
        let free = trees.dying().into_iter().filter(|(_, stage)| is_free(*stage));
        let free: Vec<_> = free.map(|(tree, _)| tree).collect();
        if free.is_empty() {
            return;
        }
        let roots: Vec<_> = free.iter().map(|tree| tree.root).collect();
        let going: HashSet<_> = self.shared.flusher().let_roots_go(&roots).into_iter().collect();
        for tree in free.iter().filter(|tree| going.contains(&tree.root)) {
            trees.set_stage(tree.tree, Stage::Leaving);
        }
    }

    /// A bundle is durable that frees these pages. Some may be the roots of dying trees.
    pub(in crate::store::engine) fn roots_went(&self, freed: &[ChildWord]) {
        let mut trees = self.shared.trees();
        let leaving = trees.dying().into_iter().filter(|(_, stage)| *stage == Stage::Leaving);
        let leaving: HashMap<_, _> = leaving.map(|(tree, _)| (tree.root.id(), tree.tree)).collect();
        let gone: Vec<_> = freed.iter().filter_map(|freed| leaving.get(&freed.id())).collect();
        for tree in &gone {
            trees.set_stage(**tree, Stage::Over);
        }
        if !gone.is_empty() {
            self.shared.dying.errand.ask();
        }
    }
}

/// Takes dying trees apart whenever it is asked to, as long as the core is there and the store
/// takes writes.
pub(in crate::store::engine) async fn take_apart_when_asked<E: Env, N: Namespace>(
    store: Weak<CoreStore<E, N>>,
    shared: Arc<Shared>,
) {
    let _ends = ErrandEnds { shared: Arc::clone(&shared), of: |shared| &shared.dying.errand };
    let errand = &shared.dying.errand;
    loop {
        errand.asked().await;
        loop {
            let Some(store) = store.upgrade() else { return };
            let wanted = errand.wanted();
            let (is_done, env) = (store.take_trees_apart().await, store.env.clone());
            drop(store);
            // Those too who wait for what is left.
            errand.set_done(wanted);
            shared.progress.tell();
            if is_done {
                break;
            }
            either(errand.asked(), env.sleep(AGAIN)).await;
        }
    }
}
