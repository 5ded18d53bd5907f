//! Scans: the keys of a range, in either direction, one leaf at a time.
//!
//! The place of a scan is a key, so it survives whatever becomes of the pages: the next leaf is the
//! one that has that key when the scan comes to it. What was read of a leaf is copied, up to
//! [`BATCH_BYTES`] at a time, and between two calls the scan holds nothing of the store.
//!
//! What the overlays of records have of the keys ahead is taken *before* the leaf is read, and goes
//! before it: a key that is drained in between would be in neither otherwise. A page that is
//! missing is loaded, and both are read again. Of several overlays none has a key of another; a
//! step goes as far as the one that was asked for the least.
//!
//! | a step ends | because | the next one starts |
//! |---|---|---|
//! | at the leaf's end | all of it is copied | at the leaf's bound |
//! | at a key of the overlay | the overlay was asked for [`OVERLAID_AT_ONCE`] keys at most | behind that key |
//! | at a key | the batch is full | behind that key |
//!
//! Changes of keys ahead are seen if they are made before the scan comes to their leaf. No key that
//! stays is missed, or shown twice.
//!
//! A scan is one of the tree that it began on. Once that is cleared or removed it ends, whatever it
//! has copied, and whatever the name has by then.

use std::cmp::Ordering;
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
    /// It goes on when the tree has lost its name.
    is_of_remains: bool,
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
        let batch = Batch::default();
        Self { store, tree, lower, upper, direction, batch, is_done, is_of_remains: false }
    }

    /// A scan over all that is left of a tree that has lost its name.
    pub(super) fn of_remains(store: &Rc<CoreStore<E, N>>, tree: TreeRoot) -> Self {
        let all = (Bound::Unbounded, Bound::Unbounded);
        Self { is_of_remains: true, ..Self::new(store, tree, all, Direction::Forwards) }
    }

    /// Ends the scan if its tree has lost its name.
    fn look_at_tree(&mut self) {
        if !self.is_of_remains && self.store.has_lost_name(self.tree) {
            self.batch.clear();
            self.is_done = true;
        }
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
            self.look_at_tree();
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
        self.look_at_tree();
        while self.batch.next == self.batch.ends.len() && !self.is_done {
            self.read_leaf().await?;
            self.look_at_tree();
        }
        let at = self.batch.next;
        self.batch.next = (at + 1).min(self.batch.ends.len());
        Ok(self.batch.entry(at).map(|(key, _)| key))
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
        let overlays = access.all(&store.shared.overlay).iter();
        let views =
            overlays.map(|overlay| overlay.view(overlaid(*tree), range, *direction, OVERLAID_AT_ONCE));
        let views: Vec<_> = views.collect();
        let pin = store.core.pin();
        let mut merge = Merge::new(&views, *direction);
        let end = merge.end;
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

/// How far a step came.
enum Reached {
    /// Everything up to this key, and the key, is copied.
    Key(Vec<u8>),
    /// Everything up to a leaf's bound: the next leaf begins with it, or, backwards, is below it.
    Leaf(Vec<u8>),
    End,
}

/// The entries of a leaf and the records of the overlays, each in the scan's order, merged.
struct Merge<'v> {
    records: Vec<Peekable<Box<dyn Iterator<Item = Record<'v>> + 'v>>>,
    views: &'v [View<'v>],
    /// The last key of which all views know.
    end: Option<&'v [u8]>,
    direction: Direction,
}

impl<'v> Merge<'v> {
    fn new(views: &'v [View<'v>], direction: Direction) -> Self {
        let records = views.iter().map(|view| {
            let records: Box<dyn Iterator<Item = Record<'v>> + 'v> = match direction {
                Direction::Forwards => Box::new(view.records()),
                Direction::Backwards => Box::new(view.records().rev()),
            };
            records.peekable()
        });
        let ends = views.iter().filter_map(View::end);
        let end = ends.min_by(|a, b| in_order(direction, a, b));
        Self { records: records.collect(), views, end, direction }
    }

    /// Whether `a` comes before `b`.
    fn is_before(&self, a: &[u8], b: &[u8]) -> bool {
        in_order(self.direction, a, b).is_lt()
    }

    /// The next record, if it is one of which all views know and that `is_wanted`.
    fn next_record(&mut self, is_wanted: impl FnOnce(&[u8]) -> bool) -> Option<Record<'v>> {
        let (direction, end) = (self.direction, self.end);
        let next = self.records.iter_mut().filter_map(|records| {
            let key = records.peek()?.key;
            Some((key, records))
        });
        let (key, records) = next.min_by(|(a, _), (b, _)| in_order(direction, a, b))?;
        let is_known = end.is_none_or(|end| in_order(direction, key, end).is_le());
        if is_known && is_wanted(key) { records.next() } else { None }
    }

    /// One more entry of the leaf.
    fn leaf(&mut self, key: &[u8], value: Value<'_>, batch: &mut Batch) {
        let direction = self.direction;
        while let Some(record) = self.next_record(|of| in_order(direction, of, key).is_lt()) {
            push_record(&record, batch);
        }
        // Of keys behind the end some view knows nothing: the next step reads them.
        let is_behind = self.end.is_some_and(|end| self.is_before(end, key));
        if !is_behind && !self.views.iter().any(|view| view.hides(key)) {
            batch.push(key, value.value, value.is_reference);
        }
    }

    /// The leaf has no more; the next one begins at `next`, or, backwards, is below it.
    fn finish(mut self, next: Option<&[u8]>, batch: &mut Batch) {
        let direction = self.direction;
        let is_inside = |key: &[u8]| next.is_none_or(|next| is_inside(key, next, direction));
        while let Some(record) = self.next_record(is_inside) {
            push_record(&record, batch);
        }
    }
}

/// How two keys follow each other in a scan.
fn in_order(direction: Direction, a: &[u8], b: &[u8]) -> Ordering {
    match direction {
        Direction::Forwards => a.cmp(b),
        Direction::Backwards => b.cmp(a),
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
