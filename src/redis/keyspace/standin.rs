//! A stand-in for the store.
#![allow(missing_docs, missing_debug_implementations, clippy::all, clippy::unwrap_used, clippy::cast_possible_truncation)]
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Bound;
use std::rc::Rc;

use crate::Result;

pub struct Db<E, N> {
    trees: Rc<RefCell<BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>>>,
    world: PhantomData<(E, N)>,
}
impl<E, N> Clone for Db<E, N> {
    fn clone(&self) -> Self {
        Self { trees: self.trees.clone(), world: PhantomData }
    }
}
pub struct Tree<E, N> {
    db: Db<E, N>,
    name: String,
}
type Trees = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;
pub struct Txn<'a>(&'a mut Trees, Vec<(String, Vec<u8>)>, Vec<Option<Option<Vec<u8>>>>);
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit(u64);
impl Commit {
    pub fn and(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }
}
#[derive(Default)]
pub struct WriteOptions;

impl<E, N> Db<E, N> {
    pub fn new() -> Self {
        Self { trees: Rc::default(), world: PhantomData }
    }
    pub fn tree(&self, name: &str) -> Tree<E, N> {
        self.trees.borrow_mut().entry(name.to_owned()).or_default();
        Tree { db: self.clone(), name: name.to_owned() }
    }
    pub async fn transact<R>(
        &self,
        keys: &[(&Tree<E, N>, &[u8])],
        _options: WriteOptions,
        f: impl FnOnce(&mut Txn<'_>) -> R,
    ) -> Result<(R, Commit)> {
        let keys: Vec<_> = keys.iter().map(|(tree, key)| (tree.name.clone(), key.to_vec())).collect();
        let len = keys.len();
        let mut trees = self.trees.borrow_mut();
        let mut txn = Txn(&mut trees, keys, vec![None; len]);
        let result = f(&mut txn);
        let mut commit = Commit(0);
        for ((tree, key), write) in txn.1.into_iter().zip(txn.2) {
            let tree = txn.0.entry(tree).or_default();
            match write {
                None => continue,
                Some(None) => drop(tree.remove(&key)),
                Some(Some(value)) => drop(tree.insert(key, value)),
            }
            commit = Commit(1);
        }
        Ok((result, commit))
    }
    pub async fn wait(&self, _commit: Commit) -> Result<()> {
        Ok(())
    }
}
impl Txn<'_> {
    fn canonical(&self, index: usize) -> usize {
        self.1.iter().position(|key| *key == self.1[index]).unwrap()
    }
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let index = self.canonical(index);
        match &self.2[index] {
            Some(write) => write.as_deref(),
            None => self.0.get(&self.1[index].0)?.get(&self.1[index].1).map(Vec::as_slice),
        }
    }
    pub fn put_parts(&mut self, index: usize, parts: &[&[u8]]) {
        let index = self.canonical(index);
        self.2[index] = Some(Some(parts.concat()));
    }
    pub fn put(&mut self, index: usize, value: &[u8]) {
        self.put_parts(index, &[value]);
    }
    pub fn delete(&mut self, index: usize) -> bool {
        let there = self.get(index).is_some();
        let index = self.canonical(index);
        self.2[index] = Some(None);
        there
    }
    pub fn discard(&mut self) {
        self.2.fill(None);
    }
}
impl<E, N> Tree<E, N> {
    pub async fn get_with<R>(&self, key: &[u8], f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        let trees = self.db.trees.borrow();
        Ok(f(trees[&self.name].get(key).map(Vec::as_slice)))
    }
    pub fn len(&self) -> u64 {
        self.db.trees.borrow()[&self.name].len() as u64
    }
    pub async fn clear(&self) -> Result<Commit> {
        self.db.trees.borrow_mut().get_mut(&self.name).unwrap().clear();
        Ok(Commit(1))
    }
    pub async fn random(&self, seed: u64) -> Result<Option<Vec<u8>>> {
        let trees = self.db.trees.borrow();
        let tree = &trees[&self.name];
        if tree.is_empty() {
            return Ok(None);
        }
        Ok(tree.keys().nth((seed % tree.len() as u64) as usize).cloned())
    }
    pub fn range(&self, from: Bound<&[u8]>) -> Cursor<'_, E, N> {
        Cursor { tree: self, from: from.map(<[u8]>::to_vec) }
    }
}
pub struct Cursor<'a, E, N> {
    tree: &'a Tree<E, N>,
    from: Bound<Vec<u8>>,
}
impl<E, N> Cursor<'_, E, N> {
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let trees = self.tree.db.trees.borrow();
        let next = trees[&self.tree.name]
            .range((self.from.clone(), Bound::Unbounded))
            .next()
            .map(|(key, value)| (key.clone(), value.clone()));
        if let Some((key, _)) = &next {
            self.from = Bound::Excluded(key.clone());
        }
        Ok(next)
    }
}
