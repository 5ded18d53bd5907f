//! Scans: the keys of a range, in either direction, one leaf at a time.
//!
//! The place of a scan is a key, so it survives whatever becomes of the pages: the next leaf is the
//! one that has that key when the scan comes to it. What was read of a leaf is copied, up to
//! [`BATCH_BYTES`] at a time, and between two calls the scan holds nothing of the store.
//!
//! What the overlay of records has of the keys ahead is taken *before* the leaf is read, and goes
//! before it: a key that is drained in between would be in neither otherwise. A page that is
//! missing is loaded, and both are read again.
//!
//! | a step ends | because | the next one starts |
//! |---|---|---|
//! | at the leaf's end | all of it is copied | at the leaf's bound |
//! | at a key of the overlay | the overlay was asked for [`OVERLAID_AT_ONCE`] keys at most | behind that key |
//! | at a key | the batch is full | behind that key |
//!
//! Changes of keys ahead are seen if they are made before the scan comes to their leaf. No key that
//! stays is missed, or shown twice.

use std::iter::Peekable;
use std::ops::Bound;
use std::rc::Rc;

use super::core_store::CoreStore;
use super::operations::{overlaid, reference_of};
use super::values::Reference;
use crate::block::Namespace;
use crate::error::Result;
use crate::store::btree::{Refusal, Target, TreeRoot, Value};
use crate::store::env::Env;
use crate::store::overlay::{Direction, Newest, Record, View};

/// How much of a leaf is copied at once, in bytes of keys and values. One entry fits in any case.
const BATCH_BYTES: usize = 32 << 10;
/// How many keys of the overlay a step looks at.
const OVERLAID_AT_ONCE: usize = 256;

/// Entries that were copied and not given out yet.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each key and each value ends; a value begins where its key ends.
    ends: Vec<(usize, usize)>,
    next: usize,
    /// The last value lies elsewhere: its bytes are the reference.
    has_reference: bool,
    is_full: bool,
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        (self.next, self.has_reference, self.is_full) = (0, false, false);
    }

    /// Copies an entry, unless the batch is full.
    fn push(&mut self, key: &[u8], value: &[u8], is_reference: bool) {
        let is_over = !self.ends.is_empty() && self.bytes.len() + key.len() > BATCH_BYTES;
        self.is_full |= is_over || self.has_reference;
        if self.is_full {
            return;
        }
        self.has_reference = is_reference;
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
    }

    /// The next entry that is to be given out, if its value lies elsewhere.
    fn next_elsewhere(&self) -> Option<(&[u8], Reference)> {
        let is_it = self.has_reference && self.next + 1 == self.ends.len();
        let (key, reference) = self.entry(self.next).filter(|_| is_it)?;
        Some((key, reference_of(reference)))
    }

    /// The last entry gets its value in place of the reference.
    fn set_value(&mut self, value: &[u8]) {
        let (key_end, end) = self.ends.last_mut().expect("it has the entry");
        self.bytes.truncate(*key_end);
        self.bytes.extend_from_slice(value);
        *end = self.bytes.len();
        self.has_reference = false;
    }

    fn entry(&self, at: usize) -> Option<(&[u8], &[u8])> {
        let (key_end, end) = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].1);
        Some((&self.bytes[start..key_end], &self.bytes[key_end..end]))
    }
}

/// A scan over keys of one tree.
pub(in crate::store) struct Scan<E: Env, N: Namespace> {
    store: Rc<CoreStore<E, N>>,
    tree: TreeRoot,
    /// What is still to be read.
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    direction: Direction,
    batch: Batch,
    is_done: bool,
}

impl<E: Env, N: Namespace> Scan<E, N> {
    pub(in crate::store) fn new(
        store: &Rc<CoreStore<E, N>>,
        tree: TreeRoot,
        (lower, upper): (Bound<Vec<u8>>, Bound<Vec<u8>>),
        direction: Direction,
    ) -> Self {
        let is_done = is_empty(&lower, &upper);
        let store = Rc::clone(store);
        Self { store, tree, lower, upper, direction, batch: Batch::default(), is_done }
    }

    /// The next key and its value; None at the end.
    ///
    /// # Errors
    ///
    /// As for loading a page. The same call may be tried again.
    pub(in crate::store) async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.next_ref().await?.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    /// The same, borrowed from the scan.
    ///
    /// # Errors
    ///
    /// As for [`Scan::next`].
    pub(in crate::store) async fn next_ref(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        loop {
            if self.batch.next == self.batch.ends.len() && !self.is_done {
                self.read_leaf().await?;
            } else if let Some((key, reference)) = self.batch.next_elsewhere() {
                let mut value = Box::pin(self.store.read_value(&reference, &mut None)).await?;
                if value.is_none() {
                    // It was replaced after the leaf was read.
                    value = self.store.get(self.tree, key, <[u8]>::to_vec).await?;
                }
                match value {
                    Some(value) => self.batch.set_value(&value),
                    None => self.batch.next += 1,
                }
            } else {
                break;
            }
        }
        let at = self.batch.next;
        self.batch.next = (at + 1).min(self.batch.ends.len());
        Ok(self.batch.entry(at))
    }

    /// The next key, whatever its value is; None at the end.
    ///
    /// # Errors
    ///
    /// As for [`Scan::next`].
    pub(in crate::store) async fn next_key(&mut self) -> Result<Option<&[u8]>> {
        while self.batch.next == self.batch.ends.len() && !self.is_done {
            self.read_leaf().await?;
        }
        let at = self.batch.next;
        self.batch.next = (at + 1).min(self.batch.ends.len());
        Ok(self.batch.entry(at).map(|(key, _)| key))
    }

    /// One of the keys of the next leaf that has some, each as likely as the others. None if no
    /// leaf ahead has one.
    ///
    /// # Errors
    ///
    /// As for loading a page.
    async fn random_of_leaf(&mut self, random: u64) -> Result<Option<Vec<u8>>> {
        while self.batch.ends.is_empty() && !self.is_done {
            self.read_leaf().await?;
        }
        let at = random.checked_rem(self.batch.ends.len() as u64);
        let entry = at.and_then(|at| self.batch.entry(usize::try_from(at).ok()?));
        Ok(entry.map(|(key, _)| key.to_vec()))
    }

    /// Copies what one leaf has ahead, and goes on to the next. There may be nothing.
    async fn read_leaf(&mut self) -> Result<()> {
        loop {
            self.batch.clear();
            match self.copy() {
                Ok(reached) => {
                    self.advance(reached);
                    return Ok(());
                }
                Err(refusal) => self.store.overcome(refusal).await?,
            }
        }
    }

    /// The copy of one leaf, and how far it goes.
    fn copy(&mut self) -> std::result::Result<Reached, Refusal> {
        let Self { store, tree, lower, upper, direction, batch, .. } = self;
        let mut access = store.overlay.borrow_mut();
        let range = (as_slice(lower), as_slice(upper));
        let overlay = access.get();
        let view = overlay.map(|overlay| overlay.view(overlaid(*tree), range, *direction, OVERLAID_AT_ONCE));
        let pin = store.core.pin();
        let mut merge = Merge::new(view.as_ref(), *direction);
        let each = |key: &[u8], value: Value<'_>| {
            if lies_in(key, range) {
                merge.leaf(key, value, batch);
            }
        };
        let next = pin.scan_leaf(*tree, &target(lower, upper, *direction), each)?;
        merge.finish(next.as_deref(), batch);
        if batch.is_full {
            let (last, _) = batch.entry(batch.ends.len() - 1).expect("what is full has an entry");
            return Ok(Reached::Key(last.to_vec()));
        }
        let end = view.as_ref().and_then(View::end);
        let before_leaf_ends =
            |end: &&[u8]| next.as_ref().is_none_or(|next| is_inside(end, next, *direction));
        match end.filter(before_leaf_ends) {
            Some(end) => Ok(Reached::Key(end.to_vec())),
            None => Ok(next.map_or(Reached::End, Reached::Leaf)),
        }
    }

    fn advance(&mut self, reached: Reached) {
        match (reached, self.direction) {
            (Reached::End, _) => self.is_done = true,
            (Reached::Key(key), Direction::Forwards) => self.lower = Bound::Excluded(key),
            (Reached::Leaf(key), Direction::Forwards) => self.lower = Bound::Included(key),
            (Reached::Key(key) | Reached::Leaf(key), Direction::Backwards) => {
                self.upper = Bound::Excluded(key);
            }
        }
        self.is_done |= is_empty(&self.lower, &self.upper);
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// A key of a tree, each about as likely as the others if `random` gives each number of 64 bits
    /// as often. None if the tree is empty.
    ///
    /// # Errors
    ///
    /// As for loading a page.
    pub(in crate::store) async fn random_key(
        self: &Rc<Self>,
        tree: TreeRoot,
        mut random: impl FnMut() -> u64,
    ) -> Result<Option<Vec<u8>>> {
        let bound = loop {
            let bound = self.core.pin().random_bound(tree, &mut random);
            match bound {
                Ok(bound) => break bound,
                Err(miss) => self.load(miss).await?,
            }
        };
        // There may be nothing from there on, but something before.
        for from in [bound, Vec::new()] {
            let range = (Bound::Included(from), Bound::Unbounded);
            let mut scan = Scan::new(self, tree, range, Direction::Forwards);
            if let Some(key) = scan.random_of_leaf(random()).await? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}

/// How far a step came.
enum Reached {
    /// Everything up to this key, and the key, is copied.
    Key(Vec<u8>),
    /// Everything up to a leaf's bound: the next leaf begins with it, or, backwards, is below it.
    Leaf(Vec<u8>),
    End,
}

/// The entries of a leaf and the records of the overlay, each in the scan's order, merged.
struct Merge<'v> {
    records: Peekable<Box<dyn Iterator<Item = Record<'v>> + 'v>>,
    view: Option<&'v View<'v>>,
    direction: Direction,
}

impl<'v> Merge<'v> {
    fn new(view: Option<&'v View<'v>>, direction: Direction) -> Self {
        let records: Box<dyn Iterator<Item = Record<'v>> + 'v> = match (view, direction) {
            (None, _) => Box::new(std::iter::empty()),
            (Some(view), Direction::Forwards) => Box::new(view.records()),
            (Some(view), Direction::Backwards) => Box::new(view.records().rev()),
        };
        Self { records: records.peekable(), view, direction }
    }

    /// Whether `a` comes before `b`.
    fn is_before(&self, a: &[u8], b: &[u8]) -> bool {
        match self.direction {
            Direction::Forwards => a < b,
            Direction::Backwards => a > b,
        }
    }

    /// One more entry of the leaf.
    fn leaf(&mut self, key: &[u8], value: Value<'_>, batch: &mut Batch) {
        while let Some(record) = self.records.peek().copied()
            && self.is_before(record.key, key)
        {
            push_record(&record, batch);
            self.records.next();
        }
        let is_hidden = |view: &View<'_>| {
            // Of keys behind its end the view knows nothing: the next step reads them.
            view.end().is_some_and(|end| self.is_before(end, key)) || view.hides(key)
        };
        if !self.view.is_some_and(is_hidden) {
            batch.push(key, value.value, value.is_reference);
        }
    }

    /// The leaf has no more; the next one begins at `next`, or, backwards, is below it.
    fn finish(mut self, next: Option<&[u8]>, batch: &mut Batch) {
        while let Some(record) = self.records.next()
            && next.is_none_or(|next| is_inside(record.key, next, self.direction))
        {
            push_record(&record, batch);
        }
    }
}

fn push_record(record: &Record<'_>, batch: &mut Batch) {
    match record.newest {
        Newest::Put { value, .. } => batch.push(record.key, value, false),
        Newest::PutReference { reference, .. } => batch.push(record.key, &reference, true),
        Newest::Deleted => {}
    }
}

/// Whether a key is on this side of the bound between two leaves.
fn is_inside(key: &[u8], bound: &[u8], direction: Direction) -> bool {
    match direction {
        Direction::Forwards => key < bound,
        Direction::Backwards => key >= bound,
    }
}

/// The leaf to be read next.
fn target(lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>, direction: Direction) -> Target<Vec<u8>> {
    match (direction, lower, upper) {
        (Direction::Forwards, Bound::Included(key) | Bound::Excluded(key), _) => Target::At(key.clone()),
        (Direction::Forwards, Bound::Unbounded, _) => Target::At(Vec::new()),
        (Direction::Backwards, _, Bound::Excluded(key)) => Target::Below(Some(key.clone())),
        // Below the first key that is larger.
        (Direction::Backwards, _, Bound::Included(key)) => Target::Below(Some([key, &[0][..]].concat())),
        (Direction::Backwards, _, Bound::Unbounded) => Target::Below(None),
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn lies_in(key: &[u8], range: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    std::ops::RangeBounds::<[u8]>::contains(&range, key)
}

/// Whether no key can lie between the bounds.
fn is_empty(lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>) -> bool {
    match (lower, upper) {
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (
            Bound::Included(lower) | Bound::Excluded(lower),
            Bound::Included(upper) | Bound::Excluded(upper),
        ) => lower >= upper,
        _ => false,
    }
}
