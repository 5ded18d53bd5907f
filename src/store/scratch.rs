//! What a transaction works with: what it read, what it stages, what it decided on, and what it
//! keeps in memory meanwhile. The buffers serve one transaction after the other.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use super::page::{LeafValue, Page};

/// The buffers of a transaction that ended, for the next one: a transaction in steady state
/// allocates nothing.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) bases: Vec<Base>,
    pub(super) writes: Vec<StagedWrite>,
    pub(super) list: Vec<Decided>,
    pub(super) staged: Vec<u8>,
}

/// Larger buffers are not kept.
const MAX_KEPT_BYTES: usize = 64 << 10;
const MAX_KEPT_KEYS: usize = 256;

/// A write that a transaction decided on: the index of its key, and where among the staged bytes
/// its new value is; `None` deletes.
pub(super) type Decided = (usize, Option<Range<usize>>);

/// What the store holds at a key.
pub(super) enum Base {
    Absent,
    Leaf(Rc<Page>, usize),
    Bytes(Rc<[u8]>),
}

/// What a transaction did to a key so far: nothing, a value among the staged bytes, a deletion.
#[derive(Clone)]
pub(super) enum StagedWrite {
    None,
    Put(Range<usize>),
    Delete,
}

impl Scratch {
    /// Empties the buffers and keeps them in `place` for the next transaction.
    pub(super) fn keep_in(mut self, place: &Cell<Self>) {
        if self.staged.capacity() <= MAX_KEPT_BYTES && self.bases.capacity() <= MAX_KEPT_KEYS {
            self.list.clear();
            self.staged.clear();
            place.set(self);
        }
    }
}

impl Base {
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Base::Absent => None,
            Base::Bytes(bytes) => Some(bytes),
            Base::Leaf(page, index) => match page.as_leaf().map(|leaf| leaf.value(*index)) {
                Some(LeafValue::Inline(bytes)) => Some(bytes),
                _ => None,
            },
        }
    }
}

/// Keeps what was loaded from being evicted until the transaction has run.
#[derive(Default)]
pub(super) struct Pins {
    pub(super) pages: Vec<Rc<Page>>,
    pub(super) values: Vec<Rc<[u8]>>,
}
