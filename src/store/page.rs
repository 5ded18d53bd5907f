//! Pages of a tree in memory: copy-on-write, counted references, clean or changed.
//!
//! A page is changed in place while only the live tree refers to it, and copied first while a
//! checkpoint's snapshot refers to it too (the snapshot holds the root, so "shared" spreads from
//! the root down as the live tree copies its path). Everything here is synchronous; what is missing
//! is reported, loaded by the caller, and installed.

mod inner;
mod leaf;
mod ledger;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub(super) use inner::{Inner, PageRef};
pub(super) use leaf::{Leaf, LeafValue, NewValue};
pub(super) use ledger::{Garbage, Ledger, Reservation};

use super::object::{FLAG_HAS_OVERFLOW, ObjectRef, Stored, object_cost};

/// The smallest size of a page image, and the step it grows by.
pub(super) const PAGE_STEP_BYTES: usize = 4096;
/// A page that would become larger is split, if it holds enough entries.
pub(super) const PAGE_TARGET_BYTES: usize = 8192;
/// A page smaller than this looks for a neighbour to merge with.
pub(super) const MERGE_BELOW_BYTES: usize = 2048;
/// Neighbours merge if both fit in this.
pub(super) const MERGED_MAX_BYTES: usize = 6144;

/// One version of a page.
pub(super) struct Page {
    /// Where this version lies on the namespace; `None` if it was changed since.
    pub(super) stored: RefCell<Option<Stored>>,
    /// The live tree has moved on from this version: only a snapshot refers to it.
    pub(super) superseded: Cell<bool>,
    /// Used since the eviction hand passed.
    pub(super) touched: Cell<bool>,
    pub(super) reservation: Reservation,
    /// The bytes counted for it in [`Ledger::resident_bytes`].
    counted_bytes: Cell<usize>,
    pub(super) body: Body,
}

/// What a page holds.
#[derive(Clone)]
pub(super) enum Body {
    Leaf(Leaf),
    Inner(Inner),
}

impl Page {
    /// A new, changed page. Call [`Page::settle`] once it is in the tree.
    pub(super) fn new(body: Body) -> Self {
        Self {
            stored: RefCell::new(None),
            superseded: Cell::new(false),
            touched: Cell::new(true),
            reservation: Reservation::default(),
            counted_bytes: Cell::new(0),
            body,
        }
    }

    /// A page as it was read.
    pub(super) fn loaded(body: Body, stored: Stored, ledger: &mut Ledger) -> Self {
        let page = Self::new(body);
        *page.stored.borrow_mut() = Some(stored);
        page.count_bytes(ledger);
        page
    }

    /// Parses the content of a page that is on the namespace; says what is wrong with it otherwise.
    pub(super) fn decode(content: Vec<u8>, ledger: &mut Ledger) -> Result<Body, &'static str> {
        match content.first() {
            Some(&leaf::KIND) => Leaf::decode(content, ledger).map(Body::Leaf),
            Some(&inner::KIND) => Inner::decode(&content).map(Body::Inner).ok_or("not a valid inner page"),
            _ => Err("not a page"),
        }
    }

    /// Checks what was decoded against what its parent says of it: its level (0 for a leaf; `None`
    /// for a root), its flags, and the keys that may be in it, from `lower` up to, not including,
    /// `upper`.
    pub(super) fn check_place(
        body: &Body,
        level: Option<u8>,
        reference: &ObjectRef,
        (lower, upper): (Option<&[u8]>, Option<&[u8]>),
    ) -> Result<(), &'static str> {
        let (own_level, has_overflow, ends) = match body {
            Body::Leaf(leaf) => {
                (0, !leaf.blobs().is_empty(), Some((leaf.key(0), leaf.key(leaf.count() - 1))))
            }
            Body::Inner(inner) => {
                let last = inner.count().checked_sub(2);
                (inner.level, false, last.map(|last| (inner.separator(0), inner.separator(last))))
            }
        };
        if level.is_some_and(|level| level != own_level) {
            return Err("a page of another level of the tree");
        }
        if has_overflow != (reference.flags & FLAG_HAS_OVERFLOW != 0) {
            return Err("a page that has values of its own where its parent knows of none, or the reverse");
        }
        let fits = |(first, last)| {
            lower.is_none_or(|lower| lower <= first) && upper.is_none_or(|upper| last < upper)
        };
        if ends.is_none_or(fits) { Ok(()) } else { Err("a page whose keys belong elsewhere") }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.stored.borrow().is_none()
    }

    pub(super) fn as_leaf(&self) -> Option<&Leaf> {
        match &self.body {
            Body::Leaf(leaf) => Some(leaf),
            Body::Inner(_) => None,
        }
    }

    pub(super) fn as_inner(&self) -> Option<&Inner> {
        match &self.body {
            Body::Inner(inner) => Some(inner),
            Body::Leaf(_) => None,
        }
    }

    /// The units that the next checkpoint holds ready for it: none while it is unchanged.
    pub(super) fn reserved_units(&self, ledger: &Ledger) -> u64 {
        self.reservation.units(ledger)
    }

    /// The reference to this version, once it is on the namespace.
    pub(super) fn reference(&self) -> Option<ObjectRef> {
        self.stored.borrow().as_ref().map(|stored| stored.reference)
    }

    /// How long its content would be on the namespace.
    pub(super) fn encoded_bytes(&self) -> usize {
        match &self.body {
            Body::Leaf(leaf) => leaf.compact_bytes(),
            Body::Inner(inner) => inner.encoded_bytes(),
        }
    }

    /// How much of that is used: what decides about merging.
    pub(super) fn used_bytes(&self) -> usize {
        match &self.body {
            Body::Leaf(leaf) => leaf.used_bytes(),
            Body::Inner(inner) => inner.encoded_bytes(),
        }
    }

    /// Brings the ledger up to date with a page that was just changed.
    pub(super) fn settle(&self, ledger: &mut Ledger) {
        self.reservation.set(ledger, object_cost(self.encoded_bytes(), ledger.unit));
        self.count_bytes(ledger);
    }

    fn count_bytes(&self, ledger: &mut Ledger) {
        let now = match &self.body {
            Body::Leaf(leaf) => leaf.image_bytes(),
            Body::Inner(_) => 0,
        };
        ledger.resident_bytes = ledger.resident_bytes - self.counted_bytes.replace(now) + now;
    }

    /// Makes `page` this tree's own and changed: copies it if a snapshot shares it.
    pub(super) fn own<'a>(page: &'a mut Rc<Self>, ledger: &mut Ledger) -> &'a mut Self {
        if Rc::get_mut(page).is_none() {
            page.superseded.set(true);
            match &*page.stored.borrow() {
                Some(stored) => ledger.release(stored),
                None => page.reservation.cancel(ledger),
            }
            let copy = Self::new(page.body.clone());
            copy.counted_bytes.set(page.counted_bytes.take());
            *page = Rc::new(copy);
        }
        let own = Rc::get_mut(page).expect("it was the only reference, or is a fresh copy");
        if let Some(stored) = own.stored.get_mut().take() {
            ledger.release(&stored);
        }
        own.touched.set(true);
        own
    }

    /// Records that the live tree no longer refers to `page` (merged away, or emptied).
    pub(super) fn retire(&self, ledger: &mut Ledger) {
        self.superseded.set(true);
        match &*self.stored.borrow() {
            Some(stored) => ledger.release(stored),
            None => self.reservation.cancel(ledger),
        }
        ledger.resident_bytes -= self.counted_bytes.take();
    }

    /// Records that the cache let go of a clean page.
    pub(super) fn evicted(&self, ledger: &mut Ledger) {
        ledger.resident_bytes -= self.counted_bytes.take();
    }

    /// Records that a checkpoint wrote this version.
    pub(super) fn written(&self, stored: Stored, ledger: &mut Ledger) {
        if self.superseded.get() {
            ledger.release(&stored);
        }
        self.reservation.clear();
        *self.stored.borrow_mut() = Some(stored);
    }
}

/// The separator and the right half of a page that was split.
pub(super) struct Split {
    pub(super) separator: Vec<u8>,
    pub(super) right: Rc<Page>,
}

/// A value too large for a leaf. Its leaf's image refers to it by `id`.
pub(super) struct Blob {
    pub(super) id: u64,
    pub(super) len: usize,
    /// The value, unless it is on the namespace and the cache let it go.
    pub(super) bytes: RefCell<Option<Rc<[u8]>>>,
    /// Where it lies; `None` until a checkpoint has written it (or was given its place ahead of the
    /// log).
    pub(super) stored: RefCell<Option<Stored>>,
    pub(super) superseded: Cell<bool>,
    /// Its leaf was evicted: nothing counts, or evicts, what a reader loads after that.
    detached: Cell<bool>,
    pub(super) touched: Cell<bool>,
    pub(super) reservation: Reservation,
}

impl Blob {
    /// A value that is only in memory so far.
    pub(super) fn new(bytes: Rc<[u8]>, ledger: &mut Ledger) -> Rc<Self> {
        ledger.resident_bytes += bytes.len();
        let blob = Self::at(ledger.take_blob_id(), bytes.len(), None);
        blob.reservation.set(ledger, object_cost(bytes.len(), ledger.unit));
        *blob.bytes.borrow_mut() = Some(bytes);
        Rc::new(blob)
    }

    /// A value that has its place already.
    pub(super) fn stored_at(stored: Stored, bytes: Option<Rc<[u8]>>, ledger: &mut Ledger) -> Rc<Self> {
        let blob = Self::at(ledger.take_blob_id(), stored.reference.len as usize, Some(stored));
        ledger.resident_bytes += bytes.as_ref().map_or(0, |bytes| bytes.len());
        *blob.bytes.borrow_mut() = bytes;
        Rc::new(blob)
    }

    fn at(id: u64, len: usize, stored: Option<Stored>) -> Self {
        Self {
            id,
            len,
            bytes: RefCell::new(None),
            stored: RefCell::new(stored),
            superseded: Cell::new(false),
            detached: Cell::new(false),
            touched: Cell::new(true),
            reservation: Reservation::default(),
        }
    }

    /// Records that the live tree no longer refers to it.
    pub(super) fn retire(&self, ledger: &mut Ledger) {
        self.superseded.set(true);
        match &*self.stored.borrow() {
            Some(stored) => ledger.release(stored),
            None => self.reservation.cancel(ledger),
        }
        self.uncount(ledger);
    }

    /// Takes its bytes out of the count of resident bytes.
    fn uncount(&self, ledger: &mut Ledger) {
        if self.bytes.borrow().is_some() {
            ledger.resident_bytes -= self.len;
        }
    }

    /// Keeps bytes that were just read.
    pub(super) fn cache(&self, bytes: Rc<[u8]>, ledger: &mut Ledger) {
        self.touched.set(true);
        if self.bytes.borrow().is_none() && !self.superseded.get() && !self.detached.get() {
            ledger.resident_bytes += self.len;
            *self.bytes.borrow_mut() = Some(bytes);
        }
    }

    /// Lets the bytes go if they are on the namespace, not used since the last call, and nobody
    /// else (a reader, or the task that writes them) holds them.
    pub(super) fn evict(&self, ledger: &mut Ledger) {
        let unused = !self.touched.replace(false);
        let alone = self.bytes.borrow().as_ref().is_some_and(|bytes| Rc::strong_count(bytes) == 1);
        if unused && alone && self.stored.borrow().is_some() {
            self.drop_bytes(ledger);
        }
    }

    /// Records that the cache let go of its leaf.
    pub(super) fn evicted(&self, ledger: &mut Ledger) {
        self.detached.set(true);
        self.drop_bytes(ledger);
    }

    fn drop_bytes(&self, ledger: &mut Ledger) {
        self.uncount(ledger);
        self.bytes.take();
    }

    /// Records that a checkpoint wrote it.
    pub(super) fn written(&self, stored: Stored, ledger: &mut Ledger) {
        if self.superseded.get() {
            ledger.release(&stored);
        }
        self.reservation.clear();
        *self.stored.borrow_mut() = Some(stored);
    }
}
