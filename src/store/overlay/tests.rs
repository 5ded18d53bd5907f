//! Overlays over trees that are maps: what readers see, whatever is drained meanwhile.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

use super::build::{Builder, TreeChange};
use super::claim::{Claim, Claimed, Hand};
use super::view::{Direction, View};
use super::*;
use crate::store::wal::record::{Effect, Operation};

mod model;
mod threads;
mod timing;
mod units;

type Key = Vec<u8>;

/// What a tree has of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Put(Vec<u8>, Option<u64>),
    Reference([u8; 24], Option<u64>),
}

impl Value {
    fn of(newest: Newest<'_>) -> Option<Self> {
        match newest {
            Newest::Put { value, expiry } => Some(Self::Put(value.into(), expiry)),
            Newest::PutReference { reference, expiry } => Some(Self::Reference(reference, expiry)),
            Newest::Deleted => None,
        }
    }
}

type Content = BTreeMap<Key, Value>;

/// Trees with an overlay over them, and all the rules kept.
#[derive(Debug)]
struct Store {
    overlay: Overlay,
    trees: BTreeMap<u32, (u64, Mutex<Content>)>,
}

impl Store {
    fn root_of(&self, tree: u32) -> Option<u64> {
        self.trees.get(&tree).map(|(root, _)| *root)
    }

    fn tree(&self, tree: u32) -> (TreeRoot, &Mutex<Content>) {
        let (root, content) = &self.trees[&tree];
        (TreeRoot { tree, root: *root }, content)
    }

    fn read(&self, tree: u32, key: &[u8]) -> Option<Value> {
        let (root, content) = self.tree(tree);
        match self.overlay.get(root, key) {
            Some(newest) => Value::of(newest),
            None => content.lock().expect("no panic").get(key).cloned(),
        }
    }

    /// Brings what is claimed into its tree.
    fn install(&self, tree: u32, claim: Claim<'_>) {
        let record = claim.record();
        set(&mut self.tree(tree).1.lock().expect("no panic"), record.key, Value::of(record.newest));
        claim.finish();
    }

    /// Writes a key. False: it is busy.
    fn write(&self, tree: u32, key: &[u8], value: Option<Value>) -> bool {
        let (root, content) = self.tree(tree);
        match self.overlay.claim(root, key) {
            Claimed::Nothing => {}
            Claimed::Mine(claim) => self.install(tree, claim),
            Claimed::Busy => return false,
        }
        set(&mut content.lock().expect("no panic"), key, value);
        true
    }

    /// All that is between two keys, read by views of `limit` entries.
    fn scan(
        &self,
        tree: u32,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        limit: usize,
    ) -> Vec<(Key, Value)> {
        let (root, content) = self.tree(tree);
        let (mut from, mut to) = (from.map(<[u8]>::to_vec), to.map(<[u8]>::to_vec));
        let mut found = Vec::new();
        loop {
            let piece = (slice(&from), slice(&to));
            let view = self.overlay.view(root, piece, direction, limit);
            let piece = match (view.end(), direction) {
                (None, _) => piece,
                (Some(end), Direction::Forwards) => (piece.0, Bound::Included(end)),
                (Some(end), Direction::Backwards) => (Bound::Included(end), piece.1),
            };
            let mut merged = merge(&view, &content.lock().expect("no panic"), piece);
            if direction == Direction::Backwards {
                merged.reverse();
            }
            found.extend(merged);
            match (view.end(), direction) {
                (None, _) => return found,
                (Some(end), Direction::Forwards) => from = Bound::Excluded(end.to_vec()),
                (Some(end), Direction::Backwards) => to = Bound::Excluded(end.to_vec()),
            }
        }
    }

    /// Brings everything into the trees.
    fn drain(&self) {
        let mut hand = Hand::default();
        while !self.overlay.is_drained() {
            for taken in self.overlay.take_next(&mut hand, 7, |tree| self.root_of(tree)) {
                if let Claimed::Mine(claim) = self.overlay.claim_at(taken) {
                    self.install(taken.0.tree, claim);
                }
            }
            self.drain_range(usize::MAX);
        }
    }

    /// One step of the drain of ranges: up to so many keys.
    fn drain_range(&self, count: usize) {
        let Some(range) = self.overlay.next_range(|tree| self.root_of(tree)) else { return };
        let TreeRoot { tree, .. } = range.tree();
        let from = range.from();
        let end = range.to().map_or(Bound::Unbounded, Bound::Excluded);
        let content = self.tree(tree).1.lock().expect("no panic");
        let mut keys = content.range::<[u8], _>((Bound::Included(&*from), end)).map(|(key, _)| key.clone());
        let step: Vec<Key> = keys.by_ref().take(count).collect();
        let next = keys.next();
        drop(keys);
        drop(content);
        for key in step {
            loop {
                match self.overlay.claim(range.tree(), &key) {
                    Claimed::Nothing => break,
                    Claimed::Mine(claim) => self.install(tree, claim),
                    Claimed::Busy => std::thread::yield_now(),
                }
            }
        }
        while !range.pass(next.as_deref()) {
            std::thread::yield_now();
        }
    }
}

fn set(content: &mut Content, key: &[u8], value: Option<Value>) {
    match value {
        Some(value) => content.insert(key.to_vec(), value),
        None => content.remove(key),
    };
}

fn slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// Whether there can be keys between these.
fn is_empty((from, to): (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
    }
}

/// A view over what a tree has of a piece.
fn merge(view: &View<'_>, content: &Content, piece: (Bound<&[u8]>, Bound<&[u8]>)) -> Vec<(Key, Value)> {
    let records = view.records().filter_map(|record| Some((record.key.to_vec(), Value::of(record.newest)?)));
    let mut merged: BTreeMap<Key, Value> = records.collect();
    if !is_empty(piece) {
        let of_tree = content.range::<[u8], _>(piece).filter(|(key, _)| !view.hides(key));
        for (key, value) in of_tree {
            assert!(merged.insert(key.clone(), value.clone()).is_none(), "the view hides its own keys");
        }
    }
    merged.into_iter().collect()
}

fn put<'a>(tree: u32, key: &'a [u8], value: &'a [u8]) -> Operation<'a> {
    Operation::Put { tree, effect: Effect::More, expiry: None, key, value }
}

fn delete(tree: u32, key: &[u8]) -> Operation<'_> {
    Operation::Delete { tree, effect: Effect::Less, key }
}

/// An overlay of these operations, with the root 7 for each tree.
fn overlay_of(operations: &[Operation<'_>]) -> Overlay {
    let mut builder = Builder::new(1, 0);
    for (number, operation) in (1..).zip(operations) {
        builder.add(number, operation);
    }
    builder.finish(|_| Some(7))
}
