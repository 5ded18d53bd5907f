//! A transaction's keys by name: which tree, which key.

use super::engine::transaction::Transaction;
use super::env::Env;
use super::tree::Tree;
use crate::block::Namespace;

/// The place of `key` of `tree` among the declared keys.
fn place<E: Env, N: Namespace>(transaction: &Transaction<'_>, tree: &Tree<E, N>, key: &[u8]) -> usize {
    // The tree's root is the one that was declared: the closure runs in the step in which it was
    // seen to have its name.
    let place = tree.root().and_then(|root| transaction.place_of(root.tree, key));
    place.unwrap_or_else(|| panic!("a transaction uses only keys that it declared, but not {key:?}"))
}

impl Transaction<'_> {
    /// The value of `key` in `tree`, as this transaction sees it.
    pub fn get<E: Env, N: Namespace>(&self, tree: &Tree<E, N>, key: &[u8]) -> Option<&[u8]> {
        self.get_at(place(self, tree, key))
    }

    /// Whether `key` is in `tree`, as this transaction sees it.
    pub fn contains<E: Env, N: Namespace>(&self, tree: &Tree<E, N>, key: &[u8]) -> bool {
        self.contains_at(place(self, tree, key))
    }

    /// Puts `value` at `key` in `tree`.
    pub fn put<E: Env, N: Namespace>(&mut self, tree: &Tree<E, N>, key: &[u8], value: &[u8]) {
        self.put_at(place(self, tree, key), value);
    }

    /// Puts the concatenation of `parts` at `key` in `tree`.
    pub fn put_parts<E: Env, N: Namespace>(&mut self, tree: &Tree<E, N>, key: &[u8], parts: &[&[u8]]) {
        self.put_parts_at(place(self, tree, key), parts);
    }

    /// Deletes `key` from `tree`; returns whether it was there.
    pub fn delete<E: Env, N: Namespace>(&mut self, tree: &Tree<E, N>, key: &[u8]) -> bool {
        self.delete_at(place(self, tree, key))
    }
}
