//! One change of a transaction, and the memory that a core keeps for the next one's.

use std::ops::Range;

use crate::store::btree::VALUE_REFERENCE_BYTES;
use crate::store::wal::Effect;

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// A value among the staged bytes.
    Put(Range<usize>),
    /// A value that is written already.
    Reference([u8; VALUE_REFERENCE_BYTES]),
    Delete,
}

#[derive(Debug)]
pub(super) struct OneChange {
    /// Of the key.
    pub(super) place: usize,
    pub(super) to: To,
    /// On the number of keys.
    pub(super) effect: Effect,
}

/// What a core keeps for the changes of its next transaction: a list, and a buffer for values.
pub(super) type Kept = (Vec<OneChange>, Vec<u8>);
