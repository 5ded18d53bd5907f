//! Cursors over a range of keys, in both directions, one leaf at a time.

use std::ops::Bound;

use super::engine::scan::Scan;
use super::env::Env;
use super::overlay::Direction;
use super::tree::Tree;
use crate::block::Namespace;
use crate::error::Result;

/// Where a cursor begins and ends.
pub(super) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// A cursor over the keys of a [`Tree`] within bounds, ascending or descending.
///
/// It copies a leaf's entries, some at a time, and holds nothing of the store between calls, so it
/// blocks nobody and may be kept as long as you like. Each leaf is read as it is when the cursor
/// comes to it: changes to keys ahead are seen, and no key that stays is missed or shown twice. It
/// ends when the tree is cleared or removed.
pub struct Cursor<E: Env, N: Namespace> {
    /// None if there was no such tree.
    scan: Option<Scan<E, N>>,
}

impl<E: Env, N: Namespace> std::fmt::Debug for Cursor<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").finish_non_exhaustive()
    }
}

impl<E: Env, N: Namespace> Cursor<E, N> {
    pub(super) fn new(tree: &Tree<E, N>, bounds: Bounds, is_descending: bool) -> Self {
        let direction = if is_descending { Direction::Backwards } else { Direction::Forwards };
        Self { scan: tree.root().map(|root| Scan::new(tree.db().store(), root, bounds, direction)) }
    }

    /// The next key and value, or `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt), or the device's code. The same call may be tried
    /// again.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.next_ref().await?.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    /// The same, borrowed from the cursor until the next call.
    ///
    /// # Errors
    ///
    /// As for [`Cursor::next`].
    pub async fn next_ref(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        match &mut self.scan {
            Some(scan) => scan.next_ref().await,
            None => Ok(None),
        }
    }

    /// The next key, or `None` at the end. Values that do not lie with their keys are not read.
    ///
    /// # Errors
    ///
    /// As for [`Cursor::next`].
    pub async fn next_key(&mut self) -> Result<Option<Vec<u8>>> {
        match &mut self.scan {
            Some(scan) => Ok(scan.next_key().await?.map(<[u8]>::to_vec)),
            None => Ok(None),
        }
    }
}
