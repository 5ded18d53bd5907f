//! A transaction's keys by name: which tree, which key.

use super::tree::Tree;
use super::txn::Txn;

impl Txn<'_> {
    /// The value of `key` in `tree`, as this transaction sees it.
    pub fn get<E, N>(&self, tree: &Tree<E, N>, key: &[u8]) -> Option<&[u8]> {
        self.get_at(self.index_of(tree.id, key))
    }

    /// Whether `key` is in `tree`, as this transaction sees it.
    pub fn contains<E, N>(&self, tree: &Tree<E, N>, key: &[u8]) -> bool {
        self.contains_at(self.index_of(tree.id, key))
    }

    /// Puts `value` at `key` in `tree`.
    pub fn put<E, N>(&mut self, tree: &Tree<E, N>, key: &[u8], value: &[u8]) {
        self.put_at(self.index_of(tree.id, key), value);
    }

    /// Puts the concatenation of `parts` at `key` in `tree`.
    pub fn put_parts<E, N>(&mut self, tree: &Tree<E, N>, key: &[u8], parts: &[&[u8]]) {
        self.put_parts_at(self.index_of(tree.id, key), parts);
    }

    /// Deletes `key` from `tree`; returns whether it was there.
    pub fn delete<E, N>(&mut self, tree: &Tree<E, N>, key: &[u8]) -> bool {
        self.delete_at(self.index_of(tree.id, key))
    }
}
