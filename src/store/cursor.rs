//! Cursors over a range of keys, in both directions, one leaf at a time.

use std::collections::VecDeque;
use std::ops::Bound;

use super::env::Env;
use super::page::LeafValue;
use super::shared::StoreShared;
use super::tree_state::Seek;
use crate::block::Namespace;
use crate::error::Result;

/// A cursor over the keys of a [`Tree`](super::Tree) within bounds, ascending or descending.
///
/// It copies one leaf's entries at a time and holds nothing of the store between calls, so it
/// blocks nobody and may be kept as long as you like. Each leaf is read as it is when the cursor
/// comes to it: changes to keys ahead are seen, and no key that stays is missed or shown twice.
pub struct Cursor<E, N> {
    tree: super::Tree<E, N>,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    descending: bool,
    /// Entries of the leaf that was read last, in the cursor's direction; a value that is not in
    /// its leaf is `None`.
    batch: VecDeque<(Vec<u8>, Option<Vec<u8>>)>,
    done: bool,
}

impl<E, N> std::fmt::Debug for Cursor<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor")
            .field("lower", &self.lower)
            .field("upper", &self.upper)
            .finish_non_exhaustive()
    }
}

impl<E: Env, N: Namespace> Cursor<E, N> {
    pub(super) fn new(
        tree: super::Tree<E, N>,
        lower: Bound<Vec<u8>>,
        upper: Bound<Vec<u8>>,
        descending: bool,
    ) -> Self {
        Self { tree, lower, upper, descending, batch: VecDeque::new(), done: false }
    }

    /// The next key and value, or `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt), or the device's code. The same call may be tried
    /// again.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        while self.fill().await? {
            let Some((key, value)) = self.batch.front_mut() else { continue };
            let value = match value.take() {
                Some(value) => Some(value),
                None => self.tree.get(key).await?,
            };
            let key = self.batch.pop_front().map(|(key, _)| key);
            // A large value's key may have been deleted since its leaf was read.
            if let (Some(key), Some(value)) = (key, value) {
                return Ok(Some((key, value)));
            }
        }
        Ok(None)
    }

    /// The next key, or `None` at the end.
    ///
    /// # Errors
    ///
    /// As for [`Cursor::next`].
    pub async fn next_key(&mut self) -> Result<Option<Vec<u8>>> {
        self.fill().await?;
        Ok(self.batch.pop_front().map(|(key, _)| key))
    }

    /// Reads leaves until there are entries; returns whether there are.
    async fn fill(&mut self) -> Result<bool> {
        while self.batch.is_empty() && !self.done {
            self.read_leaf().await?;
        }
        Ok(!self.batch.is_empty())
    }

    async fn read_leaf(&mut self) -> Result<()> {
        let (shared, id) = self.tree.parts();
        let shared: &StoreShared<E, N> = shared;
        let seek = match (self.descending, &self.lower, &self.upper) {
            (false, Bound::Included(key) | Bound::Excluded(key), _) => Seek::Key(key),
            (false, Bound::Unbounded, _) => Seek::Key(&[]),
            (true, _, Bound::Included(key)) => Seek::Key(key),
            (true, _, Bound::Excluded(key)) => Seek::Before(key),
            (true, _, Bound::Unbounded) => Seek::Last,
        };
        let Some(page) = shared.leaf(id, seek).await? else {
            self.done = true;
            return Ok(());
        };
        let leaf = page.as_leaf().expect("a descent ends at a leaf");
        let (below, above) = shared.state.borrow().tree(id).bounds(seek);
        for index in 0..leaf.count() {
            let key = leaf.key(index);
            if !within(key, &self.lower, &self.upper) {
                continue;
            }
            let value = match leaf.value(index) {
                LeafValue::Inline(bytes) => Some(bytes.to_vec()),
                LeafValue::Overflow(_) => None,
            };
            if self.descending {
                self.batch.push_front((key.to_vec(), value));
            } else {
                self.batch.push_back((key.to_vec(), value));
            }
        }
        if self.descending {
            match below {
                Some(below) => self.upper = Bound::Excluded(below),
                None => self.done = true,
            }
        } else {
            match above {
                Some(above) => self.lower = Bound::Included(above),
                None => self.done = true,
            }
        }
        self.done |= is_empty(&self.lower, &self.upper);
        Ok(())
    }
}

fn within(key: &[u8], lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>) -> bool {
    let above = match lower {
        Bound::Included(lower) => key >= lower.as_slice(),
        Bound::Excluded(lower) => key > lower.as_slice(),
        Bound::Unbounded => true,
    };
    let below = match upper {
        Bound::Included(upper) => key <= upper.as_slice(),
        Bound::Excluded(upper) => key < upper.as_slice(),
        Bound::Unbounded => true,
    };
    above && below
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
