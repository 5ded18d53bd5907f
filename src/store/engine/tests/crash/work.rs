//! Clients: they write in phases until the power fails, to several trees, which they make as they
//! come to them, and clear or remove now and then. Some of their writes are transactions over keys
//! of several trees. What they read
//! has to be what was written last: nothing awaits between an operation and its mark in the
//! history.

use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::history::Change;
use super::{Machine, add};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt;
use crate::store::btree::TreeRoot;
use crate::store::engine::registry::NamedTree;
use crate::store::engine::tests::Store;
use crate::store::engine::transaction::Key;
use crate::store::engine::values::INLINE_BYTES;
use crate::store::options::Durability;

/// What has more keys than this is counted as large.
const LARGE: usize = 20;
const INTERVAL: Duration = Duration::from_millis(60);
/// The trees by their places in a [`History`](super::History); the first is the catalog.
const NAMES: [&str; 5] = ["", "left", "right", "up", "down"];

/// What the clients of one seed do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    /// Trees, the catalog left out.
    trees: usize,
    pub(super) keys: u32,
    /// Values are shorter than this.
    longest: usize,
    /// One in so many keys is long.
    long_keys: u32,
    /// One in so many writes is a transaction, and one in so many of these has many keys.
    transactions: u32,
    large: u32,
    /// One in so many writes clears a tree, or removes it.
    clears: u32,
    /// Whether clients rest between writes.
    rests: bool,
}

/// What a client does for a while.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Puts and deletes of any keys.
    Mixed,
    /// Puts of a range, upwards.
    Insert,
    /// Deletes a range.
    Delete,
    /// Puts one key again and again.
    Hot,
}

impl Workload {
    pub(super) fn random(random: &mut StdRng) -> Self {
        Self {
            trees: random.random_range(2..NAMES.len()),
            keys: [30, 200, 1000][random.random_range(0..3)],
            longest: [20, 300, 1000, 30_000][random.random_range(0..4)],
            long_keys: [10, 1000, u32::MAX][random.random_range(0..3)],
            transactions: [2, 10][random.random_range(0..2)],
            large: [5, 50, u32::MAX][random.random_range(0..3)],
            clears: [50, 500, u32::MAX][random.random_range(0..3)],
            rests: random.random(),
        }
    }

    pub(super) fn key(&self, number: u32) -> Vec<u8> {
        let mut key = number.to_be_bytes().to_vec();
        if number % self.long_keys == 7 {
            key.resize(700, b'k');
        }
        key
    }

    /// The places of all trees.
    pub(super) fn trees(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.trees
    }

    /// Whether the store takes numbers for itself: for pieces of long values, for parts, and for
    /// trees that are cleared.
    pub(super) fn has_others(&self) -> bool {
        self.has_long_values() || self.large < u32::MAX || self.clears < u32::MAX
    }

    /// Whether some of the values are long.
    fn has_long_values(&self) -> bool {
        self.longest > INLINE_BYTES
    }

    fn any_tree(&self, random: &mut StdRng) -> usize {
        random.random_range(self.trees())
    }

    fn any_key(&self, random: &mut StdRng) -> Vec<u8> {
        self.key(random.random_range(0..self.keys))
    }
}

/// The name of a tree.
pub(super) fn name(tree: usize) -> &'static str {
    NAMES[tree]
}

/// Whether the tree has lost its name since it was looked up.
fn was_cleared(error: &Error) -> bool {
    let was_cleared = crate::store::engine::dying::lost_name(error).is_some();
    assert!(!was_cleared || error.outcome() == Outcome::NotStarted, "{error}");
    was_cleared
}

/// Whether a write was refused, and not begun, because the store is full.
fn is_full(error: &Error) -> bool {
    error.kind() == ErrorKind::NoSpace && error.outcome() == Outcome::NotStarted
}

/// A value that no other write has, if it is long enough.
fn value(random: &mut StdRng, longest: usize) -> Vec<u8> {
    let stamp: u32 = random.random();
    let mut value = vec![random.random(); random.random_range(0..longest)];
    value.iter_mut().zip(stamp.to_le_bytes()).for_each(|(to, from)| *to = from);
    value
}

/// What tells a value from others: its length, and its beginning.
pub(super) fn stamp(value: &[u8]) -> (usize, u32) {
    let mut bytes = [0; 4];
    value.iter().zip(&mut bytes).for_each(|(from, to)| *to = *from);
    (value.len(), u32::from_le_bytes(bytes))
}

/// Works until the power fails, or the store does.
pub(super) async fn client(machine: Rc<Machine>, store: Store, seed: u64) {
    if let Err(error) = Client::new(&machine, &store, seed).work().await {
        machine.history.borrow_mut().fail(format!("a client: {error}"));
    }
}

/// Asks for checkpoints.
pub(super) async fn operator(machine: Rc<Machine>, store: Store, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let longest_us = [1_000, 10_000][random.random_range(0..2)];
    loop {
        rt::sleep(Duration::from_micros(random.random_range(0..longest_us))).await;
        let last = machine.history.borrow().last();
        let taken = store.checkpoint().await;
        let mut history = machine.history.borrow_mut();
        match taken {
            Ok(()) => history.acknowledge(last),
            Err(error) => {
                history.fail(format!("a checkpoint: {error}"));
                return;
            }
        }
    }
}

/// Asks where the log has to start, which has the flusher look at the events of all cores: it may
/// at any time, whatever is under way.
pub(super) async fn watcher(store: Store, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let longest_us = [200, 5_000][random.random_range(0..2)];
    loop {
        rt::sleep(Duration::from_micros(random.random_range(0..longest_us))).await;
        _ = store.log_start_number();
    }
}

struct Client<'m> {
    machine: &'m Machine,
    store: &'m Store,
    random: StdRng,
    durability: Durability,
}

impl<'m> Client<'m> {
    fn new(machine: &'m Machine, store: &'m Store, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let durability = match random.random_range(0..4) {
            0 => Durability::None,
            1 => Durability::Interval(INTERVAL),
            _ => Durability::Sync,
        };
        Self { machine, store, random, durability }
    }

    async fn work(&mut self) -> Result<()> {
        let workload = self.machine.workload;
        loop {
            let phases = [Phase::Mixed, Phase::Insert, Phase::Delete, Phase::Hot];
            let phase = phases[self.random.random_range(0..4)];
            let tree = workload.any_tree(&mut self.random);
            let count = self.random.random_range(1..=workload.keys);
            let first = self.random.random_range(0..workload.keys);
            for step in 0..count {
                let upwards = (first + step) % workload.keys;
                let number = match phase {
                    Phase::Mixed => self.random.random_range(0..workload.keys),
                    Phase::Insert | Phase::Delete => upwards,
                    Phase::Hot => first,
                };
                let is_delete = match phase {
                    Phase::Mixed => self.random.random_ratio(1, 3),
                    Phase::Insert | Phase::Hot => false,
                    Phase::Delete => true,
                };
                let change = self.change(tree, workload.key(number), is_delete);
                let is_delete = change.value.is_none();
                let done = if self.random.random_ratio(1, workload.transactions) {
                    self.transact(change).await
                } else if is_delete {
                    // It is always admitted.
                    self.write(change).await?;
                    Ok(())
                } else {
                    self.write(change).await
                };
                match done {
                    Err(error) if is_full(&error) => add(&self.machine.coverage.refused, 1),
                    done => done?,
                }
                if self.random.random_ratio(1, workload.clears) {
                    self.clear(tree).await?;
                }
                if self.random.random_ratio(1, 8) {
                    self.read().await?;
                }
                if workload.rests && self.random.random_ratio(1, 2) {
                    rt::sleep(Duration::from_micros(self.random.random_range(0..200))).await;
                }
            }
            if self.random.random_ratio(1, 4) {
                rt::sleep(Duration::from_millis(self.random.random_range(0..20))).await;
            }
        }
    }

    fn change(&mut self, tree: usize, key: Vec<u8>, is_delete: bool) -> Change {
        let longest = self.machine.workload.longest;
        let value = (!is_delete).then(|| value(&mut self.random, longest));
        Change { tree, key, value }
    }

    /// The tree, which is made if there is none yet.
    async fn tree(&self, tree: usize) -> Result<TreeRoot> {
        let (found, made) = self.store.open_tree(name(tree), 0, self.durability).await?;
        if let Some(number) = made {
            let (key, value) = (NamedTree::key(name(tree)), found.encode().to_vec());
            let change = Change { tree: 0, key, value: Some(value) };
            self.machine.history.borrow_mut().wrote(number, vec![change]);
        }
        Ok(found.root)
    }

    async fn write(&mut self, change: Change) -> Result<()> {
        loop {
            let root = self.tree(change.tree).await?;
            let written = match &change.value {
                Some(value) => self.store.put(root, &change.key, value, self.durability).await.map(Some),
                None => self.store.delete(root, &change.key, self.durability).await,
            };
            match written {
                Ok(Some(number)) => return self.wrote(number, vec![change]).await,
                // It was not there.
                Ok(None) => return Ok(()),
                Err(error) if was_cleared(&error) => add(&self.machine.coverage.outdated, 1),
                Err(error) => return Err(error),
            }
        }
    }

    /// Clears a tree, or removes it: everything that it has goes in one write.
    async fn clear(&mut self, tree: usize) -> Result<()> {
        let (name, durability) = (name(tree), self.durability);
        let (number, entry) = if self.random.random_ratio(1, 3) {
            (self.store.remove_tree(name, durability).await?, None)
        } else {
            let before = self.store.find_tree(name);
            let cleared = self.store.clear_tree(name, durability).await?;
            if cleared.as_ref().map(|(now, _)| now) == before.as_ref() {
                // It was empty: nothing was written.
                return Ok(());
            }
            cleared.map(|(new, number)| (number, new.encode().to_vec())).unzip()
        };
        // There is none.
        let Some(number) = number else { return Ok(()) };
        add(&self.machine.coverage.clears, 1);
        let content = Rc::clone(self.machine.history.borrow().content());
        let gone = content.tree(tree).keys().map(|key| Change { tree, key: key.clone(), value: None });
        let name = Change { tree: 0, key: NamedTree::key(name), value: entry };
        let changes = gone.chain([name]).collect();
        drop(content);
        self.wrote(number, changes).await
    }

    /// Makes a change together with some others.
    async fn transact(&mut self, first: Change) -> Result<()> {
        let workload = self.machine.workload;
        let mut changes = vec![first];
        let more = match self.random.random_ratio(1, workload.large) {
            true if workload.has_long_values() => self.random.random_range(LARGE..80),
            true => self.random.random_range(LARGE..900),
            false => self.random.random_range(1..6),
        };
        for _ in 0..more {
            let tree = workload.any_tree(&mut self.random);
            let key = workload.any_key(&mut self.random);
            let is_delete = self.random.random_ratio(1, 4);
            changes.push(self.change(tree, key, is_delete));
        }
        let mut roots = Vec::with_capacity(changes.len());
        for change in &changes {
            roots.push(self.tree(change.tree).await?);
        }
        let keys: Vec<Key<'_>> =
            roots.iter().zip(&changes).map(|(root, change)| (*root, &change.key[..])).collect();
        let done = self.store.transact(&keys, self.durability, |transaction| {
            for (place, change) in changes.iter().enumerate() {
                match &change.value {
                    Some(value) => transaction.put_at(place, value),
                    None => _ = transaction.delete_at(place),
                }
            }
        });
        let (_, number) = match done.await {
            Ok(done) => done,
            // It is longer than a part of the log.
            Err(error) if error.kind() == ErrorKind::LimitReached => return Ok(()),
            Err(error) if was_cleared(&error) => {
                add(&self.machine.coverage.outdated, 1);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if changes.len() > LARGE {
            add(&self.machine.coverage.large, 1);
        }
        add(&self.machine.coverage.transactions, 1);
        match number {
            Some(number) => self.wrote(number, changes).await,
            // It deleted what was not there.
            None => Ok(()),
        }
    }

    async fn wrote(&mut self, number: u64, changes: Vec<Change>) -> Result<()> {
        self.machine.history.borrow_mut().wrote(number, changes);
        add(&self.machine.coverage.writes, 1);
        match self.durability {
            // Some go on, and wait with a later write.
            Durability::Sync if self.random.random_ratio(2, 3) => {}
            Durability::Sync => {
                self.store.wait(number).await?;
                self.machine.history.borrow_mut().acknowledge(number);
            }
            Durability::Interval(within) => {
                self.machine.history.borrow_mut().promise(number, rt::now() + within);
            }
            Durability::None => {}
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        let workload = self.machine.workload;
        let (tree, key) = (workload.any_tree(&mut self.random), workload.any_key(&mut self.random));
        let root = self.tree(tree).await?;
        let now = || self.machine.history.borrow().content().tree(tree).get(&key).cloned();
        let (before, clears) = (now(), self.machine.coverage.clears.get());
        let found = self.store.get(root, &key, <[u8]>::to_vec).await?;
        // Of what others do meanwhile it may see some.
        let is_steady = before == now() && clears == self.machine.coverage.clears.get();
        let mut history = self.machine.history.borrow_mut();
        let expected = history.content().tree(tree).get(&key);
        if is_steady && found.as_ref() != expected {
            let (found, expected) = (found.as_deref().map(stamp), expected.map(|value| stamp(value)));
            let what = format!("a client read {found:?} instead of {expected:?} (length, stamp)");
            history.fail(what);
        }
        Ok(())
    }
}
