//! Deleted ranges: keys without a newer entry are deleted there, whatever the tree says.
//!
//! The builder takes entries out that are older than a deletion of their range. After that it does
//! not matter which deletion is older than which, and a part of the overlay has the union of its
//! ranges: disjoint, in order.
//!
//! A range has no entries that could have states. It has [`Progress`] instead:
//!
//! | a key of the range is | readers | writers of the key, and the drain |
//! |---|---|---|
//! | not listed | say that it is deleted | may claim it: it is listed as claimed |
//! | listed as claimed | say that it is deleted | are busy |
//! | listed as drained, or below `passed` | look into the tree | look into the tree |
//!
//! The drain goes through the tree's keys in the range, and claims and deletes each as a writer of
//! the key would. Then it says how far it has come ([`Range::pass`]). It cannot pass a key that
//! somebody has claimed, who would delete in the tree what others have written meanwhile.
//!
//! Readers of keys in such a range take a lock for a moment. Deletions of ranges are rare, and
//! those that a crash left in the log still more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::PoisonError;

#[cfg(loom)]
use loom::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(shuttle)]
use shuttle::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(any(loom, shuttle)))]
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::entry::Taken;
use crate::store::atomic::{AtomicBool, Ordering};

/// Keys from `from` on, below `to` if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deletion {
    pub(super) from: Box<[u8]>,
    pub(super) to: Option<Box<[u8]>>,
    pub(super) number: u64,
    /// How many operations were added before it.
    pub(super) sequence: u32,
}

/// Cuts deletions, in the order in which they were made, at each other's ends. The pieces are
/// disjoint and in order; each has the sequence of the newest deletion that covers it, and the
/// number of the oldest one.
pub(super) fn cut(deletions: &[Deletion]) -> Vec<Deletion> {
    #[derive(Default)]
    struct Point {
        begin: Vec<usize>,
        end: Vec<usize>,
    }
    let mut points: BTreeMap<&[u8], Point> = BTreeMap::new();
    for (at, Deletion { from, to, .. }) in deletions.iter().enumerate() {
        if to.as_ref().is_some_and(|to| to <= from) {
            continue;
        }
        points.entry(from).or_default().begin.push(at);
        if let Some(to) = to {
            points.entry(to).or_default().end.push(at);
        }
    }
    let (mut pieces, mut open) = (Vec::new(), BTreeSet::new());
    let mut points = points.into_iter().peekable();
    while let Some((from, point)) = points.next() {
        open.extend(point.begin);
        for at in point.end {
            open.remove(&at);
        }
        if let (Some(&oldest), Some(&newest)) = (open.first(), open.last()) {
            let to = points.peek().map(|(to, _)| Box::from(*to));
            let (number, sequence) = (deletions[oldest].number, deletions[newest].sequence);
            pieces.push(Deletion { from: from.into(), to, number, sequence });
        }
    }
    pieces
}

/// The ranges that the pieces make together.
pub(super) fn join(pieces: Vec<Deletion>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for piece in pieces {
        match ranges.last_mut() {
            Some(last) if last.to.as_ref() == Some(&piece.from) => {
                last.to = piece.to;
                last.number = last.number.min(piece.number);
            }
            _ => ranges.push(Range::new(piece)),
        }
    }
    ranges
}

/// A deleted range, while the tree may have keys in it.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) from: Box<[u8]>,
    pub(super) to: Option<Box<[u8]>>,
    /// No write that deletes in it is older.
    pub(super) number: u64,
    /// Set with Release, under the lock of `progress`.
    is_drained: AtomicBool,
    progress: RwLock<Progress>,
}

#[derive(Debug)]
struct Progress {
    /// Keys below are drained.
    passed: Box<[u8]>,
    /// Keys from there on: whether they are drained, or claimed.
    keys: BTreeMap<Box<[u8]>, bool>,
}

/// What a range hides of the tree, at one moment.
#[derive(Debug)]
pub(super) struct Hidden<'o> {
    range: &'o Range,
    passed: Box<[u8]>,
    drained: BTreeSet<Box<[u8]>>,
}

/// How far the drain of a range has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// A key on the way is claimed.
    Blocked,
    Partly,
    /// By this call.
    Wholly,
}

impl Hidden<'_> {
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.range.contains(key) && *key >= *self.passed && !self.drained.contains(key)
    }
}

impl Range {
    fn new(piece: Deletion) -> Self {
        let Deletion { from, to, number, .. } = piece;
        let progress = RwLock::new(Progress { passed: from.clone(), keys: BTreeMap::new() });
        Self { from, to, number, is_drained: AtomicBool::new(false), progress }
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        *self.from <= *key && self.to.as_ref().is_none_or(|to| *key < **to)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Acquire)
    }

    /// Whether the range and not the tree has what is newest of this key, which lies in it.
    pub(super) fn answers(&self, key: &[u8]) -> bool {
        if self.is_drained() {
            return false;
        }
        let progress = self.read();
        !self.is_drained() && *key >= *progress.passed && progress.keys.get(key) != Some(&true)
    }

    pub(super) fn claim(&self, key: &[u8]) -> Taken {
        if self.is_drained() {
            return Taken::Drained;
        }
        let mut progress = self.write();
        match progress.keys.get(key) {
            _ if self.is_drained() || *key < *progress.passed => Taken::Drained,
            Some(true) => Taken::Drained,
            Some(false) => Taken::Busy,
            None => {
                progress.keys.insert(key.into(), false);
                Taken::Mine
            }
        }
    }

    /// The owner of the claim has the deletion in the tree.
    pub(super) fn drained(&self, key: Box<[u8]>) {
        self.write().keys.insert(key, true);
    }

    /// The owner of the claim could not delete the key.
    pub(super) fn undrained(&self, key: &[u8]) {
        self.write().keys.remove(key);
    }

    /// Says that the tree has no key below `to` any more that is to be deleted; none at all if
    /// there is no `to`.
    pub(super) fn pass(&self, to: Option<&[u8]>) -> Passed {
        let mut progress = self.write();
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        let mut below = progress.keys.range::<[u8], _>((Bound::Unbounded, end));
        if below.any(|(_, is_drained)| !is_drained) {
            return Passed::Blocked;
        }
        if let Some(to) = to {
            progress.keys = progress.keys.split_off(to);
            progress.passed = progress.passed.as_ref().max(to).into();
            return Passed::Partly;
        }
        if self.is_drained() {
            return Passed::Partly;
        }
        progress.keys.clear();
        self.is_drained.store(true, Ordering::Release);
        Passed::Wholly
    }

    /// Where the drain goes on.
    pub(super) fn passed(&self) -> Box<[u8]> {
        self.read().passed.clone()
    }

    /// What the range hides now of the keys between `from` and `to`.
    pub(super) fn hidden(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Option<Hidden<'_>> {
        let progress = self.read();
        if self.is_drained() {
            return None;
        }
        let listed = progress.keys.iter().filter(|(key, is_drained)| {
            **is_drained && std::ops::RangeBounds::<[u8]>::contains(&(from, to), &key[..])
        });
        let drained = listed.map(|(key, _)| key.clone()).collect();
        Some(Hidden { range: self, passed: progress.passed.clone(), drained })
    }

    fn read(&self) -> RwLockReadGuard<'_, Progress> {
        self.progress.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Progress> {
        self.progress.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The range that a key lies in.
pub(super) fn find<'r>(ranges: &'r [Range], key: &[u8]) -> Option<&'r Range> {
    let behind = ranges.partition_point(|range| *range.from <= *key);
    ranges[..behind].last().filter(|range| range.contains(key))
}

/// What the ranges hide now of the keys between `from` and `to`.
pub(super) fn hidden<'r>(ranges: &'r [Range], from: Bound<&[u8]>, to: Bound<&[u8]>) -> Vec<Hidden<'r>> {
    let first = match from {
        Bound::Unbounded => 0,
        Bound::Included(from) | Bound::Excluded(from) => {
            ranges.partition_point(|range| range.to.as_ref().is_some_and(|to| **to <= *from))
        }
    };
    let of_piece = ranges[first..].iter().take_while(|range| match to {
        Bound::Unbounded => true,
        Bound::Included(to) | Bound::Excluded(to) => *range.from <= *to,
    });
    of_piece.filter_map(|range| range.hidden(from, to)).collect()
}
