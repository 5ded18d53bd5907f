//! What is known in memory of a store's trees: their names, numbers and roots, and what the log
//! still has of them. `trees` reads it from the catalog and writes both.

use std::collections::{BTreeMap, HashMap};

use crate::store::btree::TreeRoot;
use crate::store::codec::Reader;
use crate::store::overlay::{Newest, TreeChange};
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
/// What those of trees without names begin with. The tree's number follows, and the value is the
/// child word of its root.
pub(super) const DYING: u8 = b'd';

/// A key that no store has, for what is read of a tree that there is not.
pub(in crate::store) fn absent_key() -> (TreeRoot, &'static [u8]) {
    // All keys of the catalog begin with what they are.
    (catalog(), &[])
}

/// The key of the catalog for a tree without a name.
pub(super) fn dying_key(tree: u32) -> [u8; 5] {
    let mut key = [DYING; 5];
    key[1..].copy_from_slice(&tree.to_be_bytes());
    key
}

/// The number in such a key.
fn dying_number(key: &[u8]) -> Option<u32> {
    let number = key.strip_prefix(&[DYING])?.try_into().ok().map(u32::from_be_bytes)?;
    (number > values().tree).then_some(number)
}

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

/// How far a dying tree has come. See the head of
/// [`dying`](super::dying).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Young,
    Kept,
    Old,
    /// All records of the tree have numbers below `from`.
    Empty {
        from: u64,
    },
    Leaving,
    Over,
}

/// The trees of a store that have names, and those that had.
#[derive(Debug)]
pub(super) struct Trees {
    by_number: BTreeMap<u32, NamedTree>,
    by_name: HashMap<Box<str>, u32>,
    dying: BTreeMap<u32, (ChildWord, Stage)>,
    /// The largest number that a tree ever had, as far as that is known.
    last: u32,
}

impl Default for Trees {
    fn default() -> Self {
        let (by_number, by_name, dying) = Default::default();
        Self { by_number, by_name, dying, last: values().tree }
    }
}

impl Trees {
    pub(super) fn insert(&mut self, tree: NamedTree) {
        let number = tree.root.tree;
        self.last = self.last.max(number);
        let before = self.by_name.insert(tree.name.clone(), number);
        if let Some(before) = before.filter(|before| *before != number) {
            self.by_number.remove(&before);
        }
        self.by_number.insert(number, tree);
    }

    /// The name of the tree with this number is that of another one now, or of none.
    pub(super) fn part(&mut self, number: u32, new: Option<NamedTree>) {
        let Some(old) = self.by_number.get(&number) else { return };
        self.dying.insert(number, (old.root.root, Stage::Young));
        self.remove(number);
        if let Some(new) = new {
            self.insert(new);
        }
    }

    /// The trees without names, in the order of their numbers.
    pub(super) fn dying(&self) -> Vec<(TreeRoot, Stage)> {
        self.dying.iter().map(|(&tree, &(root, stage))| (TreeRoot { tree, root }, stage)).collect()
    }

    /// Whether the tree has a name, or is the store's own, or is being taken apart.
    pub(super) fn has_content(&self, number: u32) -> bool {
        match self.dying.get(&number) {
            Some((_, stage)) => matches!(stage, Stage::Young | Stage::Kept | Stage::Old),
            None => self.root_of(number).is_some(),
        }
    }

    pub(super) fn set_stage(&mut self, dying: u32, stage: Stage) {
        if let Some(dying) = self.dying.get_mut(&dying) {
            dying.1 = stage;
        }
    }

    /// Nothing is left of it.
    pub(super) fn forget(&mut self, dying: u32) {
        self.dying.remove(&dying);
    }

    /// Does what an entry of the catalog says, while the store is opened. None if it is none.
    pub(super) fn learn(&mut self, key: &[u8], newest: &Newest<'_>) -> Option<()> {
        match (key.first()?, newest) {
            (&NAMES, Newest::Put { value, .. }) => self.insert(NamedTree::decode(key, value)?),
            (&NAMES, Newest::Deleted) => {
                let name = std::str::from_utf8(&key[1..]).ok()?;
                if let Some(number) = self.by_name.get(name).copied() {
                    self.remove(number);
                }
            }
            (&DYING, Newest::Put { value, .. }) => {
                let number = dying_number(key)?;
                let root = ChildWord::from_bits(u64::from_le_bytes((*value).try_into().ok()?));
                self.last = self.last.max(number);
                self.dying.insert(number, (root.is_some().then_some(root)?, Stage::Old));
            }
            (&DYING, Newest::Deleted) => self.forget(dying_number(key)?),
            _ => return None,
        }
        Some(())
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
        let dying = |(root, stage): &(ChildWord, Stage)| {
            (*stage != Stage::Over).then_some(TreeRoot { tree: number, root: *root })
        };
        let named = || self.by_number.get(&number).map(|tree| tree.root);
        unnamed.or_else(named).or_else(|| self.dying.get(&number).and_then(dying))
    }

    /// The root that a tree has now, if its keys are counted: it is not dying.
    pub(super) fn counted_root_of(&self, number: u32) -> Option<TreeRoot> {
        self.root_of(number).filter(|_| !self.dying.contains_key(&number))
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
                self.forget(*tree);
            }
            TreeChange::Clear { tree, root } | TreeChange::Install { tree, root } => {
                if let Some(tree) = self.by_number.get_mut(tree) {
                    tree.root.root = ChildWord::from_bits(*root);
                }
            }
        }
    }
}
