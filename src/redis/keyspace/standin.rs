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
pub struct Txn<'a>(&'a mut BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>);
#[derive(Clone, Copy, Debug)]
pub struct Commit;

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
        _keys: &[(&Tree<E, N>, &[u8])],
        f: impl FnOnce(&mut Txn<'_>) -> R,
    ) -> Result<(R, Commit)> {
        Ok((f(&mut Txn(&mut self.trees.borrow_mut())), Commit))
    }
    pub async fn wait_durable(&self, _commit: Commit) -> Result<()> {
        Ok(())
    }
}
impl Txn<'_> {
    pub fn get<E, N>(&self, tree: &Tree<E, N>, key: &[u8]) -> Option<&[u8]> {
        self.0.get(&tree.name).and_then(|tree| tree.get(key)).map(Vec::as_slice)
    }
    pub fn put<E, N>(&mut self, tree: &Tree<E, N>, key: &[u8], value: &[u8]) {
        self.0.entry(tree.name.clone()).or_default().insert(key.to_vec(), value.to_vec());
    }
    pub fn delete<E, N>(&mut self, tree: &Tree<E, N>, key: &[u8]) -> bool {
        self.0.get_mut(&tree.name).is_some_and(|tree| tree.remove(key).is_some())
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
        Ok(Commit)
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
