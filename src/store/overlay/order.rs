//! The entries of each part in the order of their keys.
//!
//! An order holds the first eight bytes of each key behind what all keys of the part begin with. So
//! sorting and searching look at keys only where these are equal.

use std::cmp::Ordering;
use std::ops::{Bound, Range};

use super::arena::Arena;
use super::entry::Entry;

/// Where an entry is in the order of all; those of one part are next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Position(pub(super) u32);

impl Position {
    pub(super) fn new(at: usize) -> Self {
        Self(u32::try_from(at).expect("a log has less than 2^32 operations"))
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ordered {
    pub(super) head: u64,
    pub(super) entry: u32,
}

/// What all keys of a part begin with.
#[derive(Debug, Default)]
pub(super) struct Prefix(Option<Vec<u8>>);

impl Prefix {
    /// One more key.
    pub(super) fn narrow(&mut self, key: &[u8]) {
        match &mut self.0 {
            None => self.0 = Some(key.to_vec()),
            Some(prefix) if key.starts_with(prefix) => {}
            Some(prefix) => {
                let common = prefix.iter().zip(key).take_while(|(a, b)| a == b).count();
                prefix.truncate(common);
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Of a key that begins with the prefix.
    pub(super) fn head(&self, key: &[u8]) -> u64 {
        let rest = &key[self.bytes().len()..];
        if let Some(head) = rest.first_chunk() {
            return u64::from_be_bytes(*head);
        }
        let mut head = [0; 8];
        head[..rest.len()].copy_from_slice(rest);
        u64::from_be_bytes(head)
    }
}

pub(super) fn sort(order: &mut [Ordered], entries: &[Entry], arena: &Arena) {
    let key = |ordered: &Ordered| entries[ordered.entry as usize].key(arena);
    order.sort_unstable_by(|a, b| a.head.cmp(&b.head).then_with(|| key(a).cmp(key(b))));
}

/// The positions in `part` of the keys between `from` and `to`.
pub(super) fn between<'k>(
    (order, part): (&[Ordered], Range<usize>),
    prefix: &Prefix,
    key_of: impl Fn(&Ordered) -> &'k [u8],
    (from, to): (Bound<&[u8]>, Bound<&[u8]>),
) -> Range<usize> {
    let of_part = &order[part.clone()];
    // How many keys are below `key`, or equal to it if that is asked for.
    let below = |key: &[u8], or_equal: bool| {
        let shared = prefix.bytes();
        if !key.starts_with(shared) {
            return if key < shared { 0 } else { of_part.len() };
        }
        let head = prefix.head(key);
        of_part.partition_point(|ordered| {
            let order = ordered.head.cmp(&head).then_with(|| key_of(ordered).cmp(key));
            order == Ordering::Less || or_equal && order == Ordering::Equal
        })
    };
    let first = match from {
        Bound::Unbounded => 0,
        Bound::Included(key) => below(key, false),
        Bound::Excluded(key) => below(key, true),
    };
    let end = match to {
        Bound::Unbounded => of_part.len(),
        Bound::Included(key) => below(key, true),
        Bound::Excluded(key) => below(key, false),
    };
    part.start + first..part.start + end.max(first)
}
