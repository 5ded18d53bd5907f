//! A set of slab numbers that threads change at the same time: one bit each.
//!
//! The sets here are hints. A slab's own word says what is true of it; a set says where to look. A
//! hint may be stale, but it must not be lost. So whoever makes something true inserts *after*
//! that, and whoever finds it untrue removes, looks *again*, and inserts if it is true by now. Both
//! are read-modify-writes of one word: either the removal comes first and the insertion stays, or
//! it reads the insertion, and then the second look sees what was true before it.

use crate::store::atomic::{AtomicU64, Ordering};

pub(super) struct Set(Box<[AtomicU64]>);

impl Set {
    /// An empty set of numbers below `most`.
    pub(super) fn new(most: usize) -> Self {
        Self((0..most.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn insert(&self, number: usize) {
        self.0[number / 64].fetch_or(1 << (number % 64), Ordering::AcqRel);
    }

    pub(super) fn remove(&self, number: usize) {
        self.0[number / 64].fetch_and(!(1 << (number % 64)), Ordering::AcqRel);
    }

    /// The first result that `visit` has for a member. Starts near `from`, and goes round once.
    pub(super) fn find<T>(&self, from: usize, mut visit: impl FnMut(usize) -> Option<T>) -> Option<T> {
        let words = self.0.len();
        (0..words).map(|step| (from / 64 + step) % words).find_map(|word| {
            let mut bits = self.0[word].load(Ordering::Relaxed);
            while bits != 0 {
                let bit = usize::try_from(bits.trailing_zeros()).expect("below 64");
                bits &= bits - 1;
                let found = visit(word * 64 + bit);
                if found.is_some() {
                    return found;
                }
            }
            None
        })
    }
}
