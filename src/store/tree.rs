//! Named trees: the store's ordered maps from byte strings to byte strings.

use std::ops::RangeBounds;
use std::rc::Rc;

use super::cursor::Cursor;
use super::db::Db;
use super::env::{Env, RtEnv};
use super::options::WriteOptions;
use super::page::LeafValue;
use super::shared::StoreShared;
use super::state::Lookup;
use super::tree_state::Seek;
use super::write::Commit;
use crate::block::{AnyNamespace, Namespace};
use crate::error::Result;

/// A named tree of a [`Db`]. Cheap to clone; belongs to the core of its store.
pub struct Tree<E = RtEnv, N = AnyNamespace> {
    db: Db<E, N>,
    pub(super) id: u32,
}

impl<E, N> Clone for Tree<E, N> {
    fn clone(&self) -> Self {
        Self { db: self.db.clone(), id: self.id }
    }
}

impl<E, N> std::fmt::Debug for Tree<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<E: Env, N: Namespace> Tree<E, N> {
    pub(super) fn new(db: Db<E, N>, id: u32) -> Self {
        Self { db, id }
    }

    pub(super) fn parts(&self) -> (&StoreShared<E, N>, u32) {
        (self.db.shared(), self.id)
    }

    /// The store that the tree belongs to.
    pub fn db(&self) -> &Db<E, N> {
        &self.db
    }

    /// How many keys it holds.
    pub fn len(&self) -> u64 {
        self.db.shared().state.borrow().tree(self.id).len
    }

    /// Whether it holds no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the value of `key`.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) with the address if what is stored is damaged, or the
    /// device's code. Other keys keep working.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get_with(key, <[u8]>::to_vec).await
    }

    /// What `read` makes of the value of `key`, without a copy. `read` must not call the store.
    ///
    /// # Errors
    ///
    /// As for [`Tree::get`].
    pub async fn get_with<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        let shared = self.db.shared();
        let mut failed = None;
        loop {
            let found = shared.state.borrow().lookup(self.id, key);
            let blob = match found {
                Lookup::Absent => return Ok(None),
                Lookup::Missing(missing) => {
                    shared.load(self.id, Seek::Key(key), missing).await?;
                    continue;
                }
                Lookup::Found(page, index) => match page.as_leaf().map(|leaf| leaf.value(index)) {
                    Some(LeafValue::Overflow(blob)) => Rc::clone(blob),
                    Some(LeafValue::Inline(bytes)) => return Ok(Some(read(bytes))),
                    None => unreachable!("a lookup ends at a leaf"),
                },
            };
            match shared.blob(&blob).await {
                Ok(bytes) => return Ok(Some(read(&bytes))),
                // The value may have been replaced, and its units reused, while it was read: only
                // the second time counts.
                Err(error) if failed.replace(blob.id) == Some(blob.id) => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Whether `key` is there.
    ///
    /// # Errors
    ///
    /// As for [`Tree::get`].
    pub async fn contains(&self, key: &[u8]) -> Result<bool> {
        let page = self.db.shared().leaf(self.id, Seek::Key(key)).await?;
        Ok(page.is_some_and(|page| page.as_leaf().is_some_and(|leaf| leaf.search(key).is_ok())))
    }

    /// Inserts or replaces, with the store's durability.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) beyond the limits of key and value,
    /// [`NoSpace`](crate::ErrorKind::NoSpace) if the namespace is full: in both cases nothing
    /// happened. After a failed write or flush of the namespace every write gets that error;
    /// outcome [`Unknown`](crate::Outcome::Unknown) says that this one may be found again after the
    /// store is reopened.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let commit = self.apply_put(key, value, WriteOptions::default()).await?;
        self.db.wait(commit).await
    }

    /// Like [`Tree::put`], with options.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub async fn put_with(&self, key: &[u8], value: &[u8], options: WriteOptions) -> Result<()> {
        let commit = self.apply_put(key, value, options).await?;
        self.db.wait(commit).await
    }

    /// Like [`Tree::put_with`], without waiting for durability: give the result to [`Db::wait`].
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub async fn apply_put(&self, key: &[u8], value: &[u8], options: WriteOptions) -> Result<Commit> {
        self.db.shared().put(self.id, key, value, options).await
    }

    /// Deletes `key`, with the store's durability; returns whether it was there.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`]. Deletes also work on a full namespace.
    pub async fn delete(&self, key: &[u8]) -> Result<bool> {
        self.delete_with(key, WriteOptions::default()).await
    }

    /// Like [`Tree::delete`], with options.
    ///
    /// # Errors
    ///
    /// As for [`Tree::delete`].
    pub async fn delete_with(&self, key: &[u8], options: WriteOptions) -> Result<bool> {
        let (was_there, commit) = self.apply_delete(key, options).await?;
        self.db.wait(commit).await?;
        Ok(was_there)
    }

    /// Like [`Tree::delete_with`], without waiting for durability: give the commit to [`Db::wait`].
    ///
    /// # Errors
    ///
    /// As for [`Tree::delete`].
    pub async fn apply_delete(&self, key: &[u8], options: WriteOptions) -> Result<(bool, Commit)> {
        self.db.shared().delete(self.id, key, options).await
    }

    /// Deletes every key at once, in constant time; the space comes back with the next checkpoint.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub async fn clear(&self, options: WriteOptions) -> Result<()> {
        let commit = self.apply_clear(options).await?;
        self.db.wait(commit).await
    }

    /// Like [`Tree::clear`], without waiting for durability: give the commit to [`Db::wait`].
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub async fn apply_clear(&self, options: WriteOptions) -> Result<Commit> {
        self.db.shared().clear(self.id, options).await
    }

    /// A cursor over the keys in `range`, ascending.
    pub fn range<'a>(&self, range: impl RangeBounds<&'a [u8]>) -> Cursor<E, N> {
        self.cursor(&range, false)
    }

    /// A cursor over the keys in `range`, descending.
    pub fn range_descending<'a>(&self, range: impl RangeBounds<&'a [u8]>) -> Cursor<E, N> {
        self.cursor(&range, true)
    }

    fn cursor<'a>(&self, range: &impl RangeBounds<&'a [u8]>, descending: bool) -> Cursor<E, N> {
        let lower = range.start_bound().map(|key| key.to_vec());
        let upper = range.end_bound().map(|key| key.to_vec());
        Cursor::new(self.clone(), lower, upper, descending)
    }

    /// A key chosen by `random` (uniform 64-bit numbers), roughly evenly; `None` if the tree is
    /// empty.
    ///
    /// # Errors
    ///
    /// As for [`Tree::get`].
    pub async fn random(&self, mut random: impl FnMut() -> u64) -> Result<Option<Vec<u8>>> {
        let shared = self.db.shared();
        loop {
            let seek = shared.state.borrow().tree(self.id).random_seek(&mut random);
            let key = match seek {
                Ok(key) => key,
                Err(missing) => {
                    shared.load(self.id, Seek::Key(&[]), missing).await?;
                    continue;
                }
            };
            let Some(page) = shared.leaf(self.id, Seek::Key(&key)).await? else { return Ok(None) };
            let leaf = page.as_leaf().expect("a descent ends at a leaf");
            if leaf.count() > 0 {
                let index = super::codec::to_usize(random() % leaf.count() as u64);
                return Ok(Some(leaf.key(index).to_vec()));
            }
        }
    }
}
