//! An entry: the newest operation of one key, and how far it has come into the tree.
//!
//! | state | readers | writers of the key, and the drain |
//! |---|---|---|
//! | undrained | answer from the entry | may claim it |
//! | draining | answer from the entry | are busy: somebody has the claim |
//! | drained | look into the tree | look into the tree |
//! | gone | as if there was no entry | as if there was no entry |
//!
//! | from | to | by whom | access |
//! |---|---|---|---|
//! | undrained | draining | whoever claims it | compare-and-swap, Acquire |
//! | draining | drained | the claim's owner, after the entry is in the tree | store, Release |
//! | draining | undrained | the claim's owner, who could not install it | store, Release |
//! | undrained | gone | the builder, before anybody reads | plain |
//!
//! A reader loads the state with Acquire. If it reads *drained*, the entry's value is in the tree
//! for it.

use super::arena::{Arena, Place};
use crate::store::atomic::{AtomicU8, Ordering};
use crate::store::wal::record::ValueReference;

const UNDRAINED: u8 = 0;
const DRAINING: u8 = 1;
const DRAINED: u8 = 2;
const GONE: u8 = 3;

const EXPIRY_BYTES: usize = 8;

/// What the newest operation makes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Newest<'o> {
    /// `expiry` in ms since 1970.
    Put {
        value: &'o [u8],
        expiry: Option<u64>,
    },
    PutReference {
        reference: ValueReference,
        expiry: Option<u64>,
    },
    /// It has no value, whatever the tree says.
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    PutReference,
    Deleted,
}

/// Its bytes in the arena: the key, the expiry if there is one, the value or reference.
#[derive(Debug)]
pub(super) struct Entry {
    /// 0: the overlay's.
    pub(super) number: u64,
    /// How many operations were added before its newest one.
    pub(super) sequence: u32,
    /// Whose key it is: an index of parts.
    pub(super) part: u32,
    place: Place,
    tail_len: u32,
    key_len: u16,
    kind: Kind,
    has_expiry: bool,
    state: AtomicU8,
}

/// What somebody found who wanted to claim an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Mine,
    Busy,
    Drained,
    Gone,
}

impl Entry {
    pub(super) fn new(
        (part, number, sequence): (u32, u64, u32),
        key: &[u8],
        newest: &Newest<'_>,
        arena: &mut Arena,
    ) -> Self {
        let tail = Tail::of(newest);
        let place = arena.add([key, tail.expiry(), tail.rest]);
        let key_len = u16::try_from(key.len()).expect("a record's key has 4,096 bytes at most");
        let state = AtomicU8::new(UNDRAINED);
        let (kind, has_expiry, tail_len) = (tail.kind, tail.has_expiry, tail.len());
        Self { number, sequence, part, place, tail_len, key_len, kind, has_expiry, state }
    }

    /// Takes a newer operation of the same key. Its value goes into the place of the old one if it
    /// is not longer, so a key that is written all the time does not fill memory.
    pub(super) fn renew(&mut self, number: u64, sequence: u32, newest: &Newest<'_>, arena: &mut Arena) {
        let tail = Tail::of(newest);
        if tail.len() <= self.tail_len {
            let at = usize::from(self.key_len);
            let old = arena.bytes_mut(self.place, at + tail.len() as usize);
            let (expiry, rest) = old[at..].split_at_mut(tail.expiry().len());
            expiry.copy_from_slice(tail.expiry());
            rest.copy_from_slice(tail.rest);
        } else {
            let key = arena.bytes(self.place, usize::from(self.key_len)).to_vec();
            self.place = arena.add([&key, tail.expiry(), tail.rest]);
        }
        (self.kind, self.has_expiry, self.tail_len) = (tail.kind, tail.has_expiry, tail.len());
        (self.number, self.sequence) = (number, sequence);
    }

    pub(super) fn key<'a>(&self, arena: &'a Arena) -> &'a [u8] {
        arena.bytes(self.place, usize::from(self.key_len))
    }

    pub(super) fn newest<'a>(&self, arena: &'a Arena) -> Newest<'a> {
        let key_len = usize::from(self.key_len);
        let tail = &arena.bytes(self.place, key_len + self.tail_len as usize)[key_len..];
        let (expiry, rest) = match tail.split_first_chunk::<EXPIRY_BYTES>() {
            Some((expiry, rest)) if self.has_expiry => (Some(u64::from_le_bytes(*expiry)), rest),
            _ => (None, tail),
        };
        match self.kind {
            Kind::Put => Newest::Put { value: rest, expiry },
            Kind::PutReference => {
                Newest::PutReference { reference: rest.try_into().expect("all of them are as long"), expiry }
            }
            Kind::Deleted => Newest::Deleted,
        }
    }

    /// Whether the entry and not the tree has what is newest.
    pub(super) fn answers(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), UNDRAINED | DRAINING)
    }

    /// Whether its key has a value by it.
    pub(super) fn is_put(&self) -> bool {
        self.kind != Kind::Deleted
    }

    /// The same, and the entry answers.
    pub(super) fn puts(&self) -> bool {
        self.is_put() && self.answers()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state.load(Ordering::Relaxed) == GONE
    }

    /// Older than a deletion of its range. The builder says so, while it has the entry alone.
    pub(super) fn forget(&mut self) {
        self.state = AtomicU8::new(GONE);
    }

    pub(super) fn claim(&self) -> Taken {
        let claimed = self.state.compare_exchange(UNDRAINED, DRAINING, Ordering::Acquire, Ordering::Acquire);
        match claimed {
            Ok(_) => Taken::Mine,
            Err(DRAINING) => Taken::Busy,
            Err(DRAINED) => Taken::Drained,
            Err(_) => Taken::Gone,
        }
    }

    /// Its owner has it in the tree.
    pub(super) fn drained(&self) {
        self.state.store(DRAINED, Ordering::Release);
    }

    /// Its owner could not install it.
    pub(super) fn undrained(&self) {
        self.state.store(UNDRAINED, Ordering::Release);
    }
}

/// What stands behind the key.
struct Tail<'a> {
    kind: Kind,
    has_expiry: bool,
    expiry: [u8; EXPIRY_BYTES],
    rest: &'a [u8],
}

impl<'a> Tail<'a> {
    fn of(newest: &'a Newest<'_>) -> Self {
        let (kind, expiry, rest): (_, _, &[u8]) = match newest {
            Newest::Put { value, expiry } => (Kind::Put, *expiry, value),
            Newest::PutReference { reference, expiry } => (Kind::PutReference, *expiry, reference),
            Newest::Deleted => (Kind::Deleted, None, &[]),
        };
        let has_expiry = expiry.is_some();
        Self { kind, has_expiry, expiry: expiry.unwrap_or_default().to_le_bytes(), rest }
    }

    fn expiry(&self) -> &[u8] {
        if self.has_expiry { &self.expiry } else { &[] }
    }

    fn len(&self) -> u32 {
        let expiry = if self.has_expiry { EXPIRY_BYTES } else { 0 };
        u32::try_from(expiry + self.rest.len()).expect("a record is shorter than a segment of the log")
    }
}
