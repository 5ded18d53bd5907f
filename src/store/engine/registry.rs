//! What is known in memory of a store's trees: their names, numbers and roots, and what the log
//! still has of them. `trees` reads it from the catalog and writes both.

use std::collections::{BTreeMap, HashMap};

use crate::store::btree::TreeRoot;
use crate::store::codec::Reader;
use crate::store::overlay::TreeChange;
use crate::store::word::{ChildWord, Epoch, PageId};

/// The catalog: the tree of trees.
pub(in crate::store) fn catalog() -> TreeRoot {
    let id = PageId::new(1).expect("small");
    TreeRoot { tree: 0, root: ChildWord::new(id, Epoch::FIRST) }
}

/// The tree of long values.
pub(in crate::store) fn values() -> TreeRoot {
    let id = PageId::new(2).expect("small");
    TreeRoot { tree: 1, root: ChildWord::new(id, Epoch::FIRST) }
}

/// The trees that each store has from the start, and that have no names.
pub(super) fn unnamed() -> [TreeRoot; 2] {
    [catalog(), values()]
}

/// What the keys of the catalog that name trees begin with.
pub(super) const NAMES: u8 = b't';

/// A tree of the store, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct NamedTree {
    pub(in crate::store) name: Box<str>,
    pub(in crate::store) root: TreeRoot,
    pub(in crate::store) options: u64,
}

impl NamedTree {
    pub(super) fn key(name: &str) -> Vec<u8> {
        [&[NAMES], name.as_bytes()].concat()
    }

    /// What the catalog has of it.
    pub(super) fn encode(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.root.tree.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.root.root.bits().to_le_bytes());
        bytes[12..].copy_from_slice(&self.options.to_le_bytes());
        bytes
    }

    /// None if that is no entry of the catalog.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(key.strip_prefix(&[NAMES])?).ok()?;
        let mut reader = Reader::new(value);
        let (tree, root, options) = (reader.u32()?, ChildWord::from_bits(reader.u64()?), reader.u64()?);
        let is_tree = tree > values().tree && root.is_some() && reader.is_empty();
        is_tree.then(|| Self { name: name.into(), root: TreeRoot { tree, root }, options })
    }
}

/// The trees of a store that have names.
#[derive(Debug)]
pub(super) struct Trees {
    by_number: BTreeMap<u32, NamedTree>,
    by_name: HashMap<Box<str>, u32>,
    /// The largest number that a tree ever had, as far as that is known.
    last: u32,
}

impl Default for Trees {
    fn default() -> Self {
        Self { by_number: BTreeMap::new(), by_name: HashMap::new(), last: values().tree }
    }
}

impl Trees {
    pub(super) fn insert(&mut self, tree: NamedTree) {
        let number = tree.root.tree;
        self.last = self.last.max(number);
        self.by_name.insert(tree.name.clone(), number);
        self.by_number.insert(number, tree);
    }

    fn remove(&mut self, number: u32) {
        let Some(tree) = self.by_number.remove(&number) else { return };
        // Another tree may have the name by now.
        if self.by_name.get(&tree.name) == Some(&number) {
            self.by_name.remove(&tree.name);
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&NamedTree> {
        self.by_number.get(self.by_name.get(name)?)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// All of them, in the order of their numbers.
    pub(super) fn all(&self) -> Vec<NamedTree> {
        self.by_number.values().cloned().collect()
    }

    /// The number of the next tree to be made.
    pub(super) fn next_number(&self) -> u32 {
        self.last + 1
    }

    /// The root that a tree has now.
    pub(super) fn root_of(&self, number: u32) -> Option<TreeRoot> {
        let unnamed = unnamed().into_iter().find(|tree| tree.tree == number);
        unnamed.or_else(|| self.by_number.get(&number).map(|tree| tree.root))
    }

    /// Does what the log says, whether it was done before or not.
    pub(super) fn apply(&mut self, change: &TreeChange) {
        match change {
            TreeChange::Create { tree, root, options, name } => {
                let root = TreeRoot { tree: *tree, root: ChildWord::from_bits(*root) };
                self.insert(NamedTree { name: name.clone(), root, options: *options });
            }
            TreeChange::Remove { tree } => {
                self.last = self.last.max(*tree);
                self.remove(*tree);
            }
            TreeChange::Clear { tree, root } | TreeChange::Install { tree, root } => {
                if let Some(tree) = self.by_number.get_mut(tree) {
                    tree.root.root = ChildWord::from_bits(*root);
                }
            }
        }
    }
}
