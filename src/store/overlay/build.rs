//! Building: the log's operations, one after the other, become one entry for each key.
//!
//! Bytes are copied once, into an arena, so segments of the log can be given back while the log is
//! being read. Order comes last, by one sort: no run in passing would know which entries are gone
//! by the end.
//!
//! An operation on a whole tree starts a new *part*. What older parts of the tree had is gone, and
//! found by nobody. The operation itself is the opener's to do ([`Builder::tree_changes`]).
//!
//! A *group* is a transaction that was too long for a record ([`group`](super::group)). Its
//! operations come when its last part does, as if they were that record's.
//!
//! # Counts
//!
//! What an operation did to the number of keys of its tree was true when it was logged. A
//! checkpoint has the numbers of keys as the writes below some number have left them
//! (`engine/lengths.rs`), and the log starts there or before. So from that number on the builder
//! adds up all effects, not only those of the newest operations. Draining does not count.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::arena::Arena;
use super::entry::{Entry, Newest};
use super::group::{Groups, IncompleteGroup, Taken};
use super::index::Index;
use super::order::{self, Ordered, Prefix};
use super::ranges::{self, Deletion};
use super::{Overlay, Part, Span, TreeRoot};
use crate::store::atomic::{AtomicBool, AtomicU64};
use crate::store::wal::record::{Effect, Operation, Operations};

/// An operation on a whole tree, which the opener does itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum TreeChange {
    Create { tree: u32, root: u64, options: u64, name: Box<str> },
    Remove { tree: u32 },
    Clear { tree: u32, root: u64 },
    Install { tree: u32, root: u64 },
}

/// How the log changed the number of keys of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Counted {
    pub(in crate::store) tree: u32,
    /// From no key at all, not from what the checkpoint says.
    pub(in crate::store) from_zero: bool,
    pub(in crate::store) difference: i64,
    /// False if some operation did not know what it changed.
    pub(in crate::store) is_exact: bool,
}

/// Takes the operations of the log.
#[derive(Debug)]
pub(in crate::store) struct Builder {
    seed: u64,
    counted_from: u64,
    first: Option<u64>,
    sequence: u32,
    arena: Arena,
    entries: Vec<Entry>,
    index: Index,
    parts: Vec<NewPart>,
    /// The newest part of each tree.
    newest: HashMap<u32, u32>,
    /// The tree of the operation before, and its part.
    last: Option<(u32, u32)>,
    changes: Vec<(u64, TreeChange)>,
    groups: Groups,
    spans: Vec<Span>,
}

#[derive(Debug)]
struct NewPart {
    prefix: Prefix,
    deletions: Vec<Deletion>,
    /// Entries, with those that a deletion will take.
    entries: usize,
    is_removed: bool,
    counted: Counted,
}

impl Builder {
    /// `seed` is random, so that nobody can choose keys that all have one hash. Operations with
    /// numbers below `counted_from` are in the counts of the checkpoint.
    pub(in crate::store) fn new(seed: u64, counted_from: u64) -> Self {
        Self {
            seed,
            counted_from,
            first: None,
            sequence: 0,
            arena: Arena::default(),
            entries: Vec::new(),
            index: Index::default(),
            parts: Vec::new(),
            newest: HashMap::new(),
            last: None,
            changes: Vec::new(),
            groups: Groups::default(),
            spans: Vec::new(),
        }
    }

    /// The log starts with the write of this number.
    pub(in crate::store) fn of_log_from(self, first_write: u64) -> Self {
        Self { groups: Groups::new(first_write), ..self }
    }

    /// Takes the next record of the log; numbers grow. `each` is called with the operations that
    /// count from here on.
    ///
    /// # Errors
    ///
    /// It is a part of a group that the log does not have as it was written.
    pub(in crate::store) fn record(
        &mut self,
        number: u64,
        operations: Operations<'_>,
        mut each: impl FnMut(&Operation<'_>),
    ) -> Result<(), IncompleteGroup> {
        match self.groups.take(number, operations)? {
            Taken::Aside => {}
            Taken::Record => self.add_all(number, operations, &mut each),
            Taken::Group { first, records } => {
                self.spans.push(Span { first, last: number });
                for record in &records {
                    self.add_all(number, Operations(record), &mut each);
                }
            }
        }
        Ok(())
    }

    /// What must not be: the groups of which some parts have come count as well.
    pub(in crate::store) fn end_groups(&mut self, number: u64) {
        for record in self.groups.take_open() {
            self.add_all(number, Operations(&record), &mut |_| {});
        }
    }

    fn add_all(&mut self, number: u64, operations: Operations<'_>, each: &mut impl FnMut(&Operation<'_>)) {
        for operation in operations.iter() {
            each(&operation);
            self.add(number, &operation);
        }
    }

    /// Takes the next operation of the log; numbers do not decrease.
    pub(in crate::store) fn add(&mut self, number: u64, operation: &Operation<'_>) {
        let first = self.spans.last().filter(|span| span.last == number).map_or(number, |span| span.first);
        self.first = Some(self.first.map_or(first, |before| before.min(first)));
        self.sequence = self.sequence.checked_add(1).expect("a log has less than 2^32 operations");
        match *operation {
            Operation::Put { tree, effect, expiry, key, value } => {
                self.write(number, (tree, effect), key, &Newest::Put { value, expiry });
            }
            Operation::PutReference { tree, effect, expiry, reference, key } => {
                self.write(number, (tree, effect), key, &Newest::PutReference { reference, expiry });
            }
            Operation::Delete { tree, effect, key } => {
                self.write(number, (tree, effect), key, &Newest::Deleted);
            }
            Operation::DeleteRange { tree, from, to } => {
                let sequence = self.sequence;
                let to = if to.is_empty() { None } else { Some(to.into()) };
                let part = self.part(tree);
                if !part.is_removed {
                    part.deletions.push(Deletion { from: from.into(), to, number, sequence });
                    self.count(number, tree, Effect::Unknown);
                }
            }
            Operation::CreateTree { tree, root, options, name } => {
                self.start_over(number, tree);
                self.changes.push((number, TreeChange::Create { tree, root, options, name: name.into() }));
            }
            Operation::RemoveTree { tree } => {
                self.start_over(number, tree);
                self.part(tree).is_removed = true;
                self.changes.push((number, TreeChange::Remove { tree }));
            }
            Operation::ClearTree { tree, root } => {
                self.start_over(number, tree);
                self.changes.push((number, TreeChange::Clear { tree, root }));
            }
            Operation::InstallTree { tree, root } => {
                self.start_over(number, tree);
                self.count(number, tree, Effect::Unknown);
                self.changes.push((number, TreeChange::Install { tree, root }));
            }
            // What is in parts does not come here before the last of them.
            Operation::Void | Operation::Part(_) => {}
        }
    }

    /// What to do with whole trees, in the order of the log, with the write numbers.
    pub(in crate::store) fn tree_changes(&self) -> &[(u64, TreeChange)] {
        &self.changes
    }

    /// The newest operation of each key of a tree, in no order. What deletions of ranges did to
    /// them is left out.
    pub(in crate::store) fn newest_of(&self, tree: u32) -> impl Iterator<Item = (&[u8], Newest<'_>)> {
        let part = self.newest.get(&tree).copied();
        let entries = self.entries.iter().filter(move |entry| Some(entry.part) == part);
        entries.map(|entry| (entry.key(&self.arena), entry.newest(&self.arena)))
    }

    /// What the log did to the numbers of keys, per tree that it still has.
    pub(in crate::store) fn counted(&self) -> impl Iterator<Item = Counted> + '_ {
        let parts = self.newest.values().map(|&part| &self.parts[part as usize]);
        parts.filter(|part| !part.is_removed).map(|part| part.counted)
    }

    /// The overlay. `root_of` says the root of a tree after all of [`Builder::tree_changes`]; none
    /// if there is no such tree, and what the log has of it is dropped.
    pub(in crate::store) fn finish(mut self, mut root_of: impl FnMut(u32) -> Option<u64>) -> Overlay {
        let mut trees: Vec<(TreeRoot, u32)> = Vec::new();
        for (&tree, &part) in &self.newest {
            let wanted = !self.parts[part as usize].is_removed;
            if let Some(root) = root_of(tree).filter(|_| wanted) {
                trees.push((TreeRoot { tree, root }, part));
            }
        }
        trees.sort_unstable_by_key(|(root, _)| root.tree);
        let mut order = self.order(&trees);
        let mut parts = Vec::with_capacity(trees.len());
        let mut end = 0;
        for (root, number) in trees {
            let part = &mut self.parts[number as usize];
            let start = end;
            end += part.entries;
            order::sort(&mut order[start..end], &self.entries, &self.arena);
            let pieces = ranges::cut(&std::mem::take(&mut part.deletions));
            let gone = forget(&order[start..end], &pieces, &mut self.entries, &self.arena);
            let ranges = ranges::join(pieces);
            let left = (end - start - gone + ranges.len()) as u64;
            let puts = order[start..end].iter().filter(|at| self.entries[at.entry as usize].puts()).count();
            parts.push(Part {
                root,
                number,
                positions: start..end,
                prefix: std::mem::take(&mut part.prefix),
                ranges,
                left: AtomicU64::new(left),
                puts: AtomicU64::new(puts as u64),
                is_open: AtomicBool::new(left > 0),
            });
        }
        let open = parts.iter().filter(|part| part.is_open()).count() as u64;
        Overlay {
            seed: self.seed,
            first: self.first.unwrap_or(0),
            last: 0,
            spans: self.spans,
            arena: self.arena,
            entries: self.entries,
            index: self.index,
            order,
            parts,
            open: AtomicU64::new(open),
        }
    }

    fn write(&mut self, number: u64, (tree, effect): (u32, Effect), key: &[u8], newest: &Newest<'_>) {
        let sequence = self.sequence;
        let part = self.part_of(tree);
        if self.parts[part as usize].is_removed {
            return;
        }
        self.count(number, tree, effect);
        let hash = hash(self.seed, part, key);
        let Self { index, entries, arena, .. } = self;
        let old = index.find(hash, |entry| {
            let entry = &entries[entry as usize];
            entry.part == part && entry.key(arena) == key
        });
        if let Some(old) = old {
            entries[old as usize].renew(number, sequence, newest, arena);
            return;
        }
        let entry = u32::try_from(entries.len()).expect("there are less than 2^32 operations");
        entries.push(Entry::new((part, number, sequence), key, newest, arena));
        index.insert(hash, entry);
        let part = &mut self.parts[part as usize];
        part.entries += 1;
        part.prefix.narrow(key);
    }

    /// The newest part of a tree.
    fn part_of(&mut self, tree: u32) -> u32 {
        if let Some((last, part)) = self.last
            && last == tree
        {
            return part;
        }
        let part = match self.newest.get(&tree) {
            Some(&part) => part,
            None => self.start_part(tree, false),
        };
        self.last = Some((tree, part));
        part
    }

    fn part(&mut self, tree: u32) -> &mut NewPart {
        let part = self.part_of(tree);
        &mut self.parts[part as usize]
    }

    fn start_part(&mut self, tree: u32, from_zero: bool) -> u32 {
        let part = u32::try_from(self.parts.len()).expect("there are less than 2^32 operations");
        self.parts.push(NewPart {
            prefix: Prefix::default(),
            deletions: Vec::new(),
            entries: 0,
            is_removed: false,
            counted: Counted { tree, from_zero, difference: 0, is_exact: true },
        });
        self.newest.insert(tree, part);
        self.last = None;
        part
    }

    /// All that was before in the tree is gone.
    fn start_over(&mut self, number: u64, tree: u32) {
        self.start_part(tree, number >= self.counted_from);
    }

    fn count(&mut self, number: u64, tree: u32, effect: Effect) {
        if number >= self.counted_from {
            let counted = &mut self.part(tree).counted;
            match effect {
                Effect::None => {}
                Effect::More => counted.difference += 1,
                Effect::Less => counted.difference -= 1,
                Effect::Unknown => counted.is_exact = false,
            }
        }
    }

    /// The entries of these parts, each part's together, not sorted yet.
    fn order(&self, trees: &[(TreeRoot, u32)]) -> Vec<Ordered> {
        let mut places = vec![None; self.parts.len()];
        let mut total = 0;
        for (_, part) in trees {
            places[*part as usize] = Some(total);
            total += self.parts[*part as usize].entries;
        }
        let mut order = vec![Ordered { head: 0, entry: 0 }; total];
        for (number, entry) in (0..).zip(&self.entries) {
            if let Some(place) = &mut places[entry.part as usize] {
                let head = self.parts[entry.part as usize].prefix.head(entry.key(&self.arena));
                order[*place] = Ordered { head, entry: number };
                *place += 1;
            }
        }
        order
    }
}

pub(super) fn hash(seed: u64, part: u32, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed ^ u64::from(part))
}

/// Marks the entries as gone that are older than a deletion of their range; how many they are.
fn forget(order: &[Ordered], pieces: &[Deletion], entries: &mut [Entry], arena: &Arena) -> usize {
    let (mut gone, mut at) = (0, 0);
    for piece in pieces {
        at +=
            order[at..].partition_point(|ordered| entries[ordered.entry as usize].key(arena) < &*piece.from);
        while let Some(ordered) = order.get(at) {
            let entry = &mut entries[ordered.entry as usize];
            if piece.to.as_ref().is_some_and(|to| entry.key(arena) >= &**to) {
                break;
            }
            if entry.sequence < piece.sequence {
                entry.forget();
                gone += 1;
            }
            at += 1;
        }
    }
    gone
}
