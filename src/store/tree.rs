//! Named trees: the store's ordered maps from byte strings to byte strings.

use std::cell::Cell;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

use super::btree::TreeRoot;
use super::commit::Commit;
use super::cursor::{Bounds, Cursor};
use super::db::Db;
use super::engine::dying::lost_name;
use super::engine::transaction::Transaction;
use super::engine::update::Decision;
use super::env::{Env, RtEnv};
use super::options::{Durability, MAX_KEY_BYTES, MAX_VALUE_BYTES, WriteOptions};
use crate::block::{AnyNamespace, Namespace};
use crate::error::{Error, ErrorKind, Outcome, Result};

/// A name of a tree, and the tree that had it when it was last looked up.
pub(super) struct Named {
    name: Box<str>,
    root: Cell<Option<TreeRoot>>,
}

impl Named {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), root: Cell::new(None) }
    }
}

/// A named tree of a [`Db`]. Cheap to clone; belongs to the core of its store.
pub struct Tree<E: Env = RtEnv, N: Namespace = AnyNamespace> {
    db: Db<E, N>,
    named: Rc<Named>,
}

impl<E: Env, N: Namespace> Clone for Tree<E, N> {
    fn clone(&self) -> Self {
        Self { db: self.db.clone(), named: Rc::clone(&self.named) }
    }
}

impl<E: Env, N: Namespace> std::fmt::Debug for Tree<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("name", &self.named.name).finish_non_exhaustive()
    }
}

/// So many keys are deleted at once.
const KEYS_AT_ONCE: usize = 256;

pub(super) fn to_vecs<'a>(range: &impl RangeBounds<&'a [u8]>) -> Bounds {
    (range.start_bound().map(|key| key.to_vec()), range.end_bound().map(|key| key.to_vec()))
}

/// The bounds of the keys that begin with `prefix`.
pub(super) fn of_prefix(prefix: &[u8]) -> Bounds {
    // The first key behind them: the shortest that is larger than whatever follows the prefix.
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX);
    let end = last.map_or(Bound::Unbounded, |last| {
        let mut end = prefix[..=last].to_vec();
        end[last] += 1;
        Bound::Excluded(end)
    });
    (Bound::Included(prefix.to_vec()), end)
}

/// Checks the stated limits.
fn check_limits(key: &[u8], value: Option<&[u8]>) -> Result<()> {
    let refuse = |what: &str, len: usize, max: usize| {
        Err(Error::new(ErrorKind::InvalidInput, "write to store")
            .because(format!("the {what} has {len} bytes, at most {max} are allowed"))
            .outcome_is(Outcome::NotStarted))
    };
    if key.len() > MAX_KEY_BYTES {
        return refuse("key", key.len(), MAX_KEY_BYTES);
    }
    match value {
        Some(value) if value.len() > MAX_VALUE_BYTES => refuse("value", value.len(), MAX_VALUE_BYTES),
        _ => Ok(()),
    }
}

impl<E: Env, N: Namespace> Tree<E, N> {
    pub(super) fn new(db: Db<E, N>, named: Rc<Named>) -> Self {
        Self { db, named }
    }

    /// The store that the tree belongs to.
    pub fn db(&self) -> &Db<E, N> {
        &self.db
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// The tree that has the name now; None if there is none.
    pub(super) fn root(&self) -> Option<TreeRoot> {
        let store = self.db.store();
        match self.named.root.get() {
            Some(root) if !store.has_lost_name(root) => Some(root),
            _ => {
                let root = store.find_tree(&self.named.name).map(|tree| tree.root);
                self.named.root.set(root);
                root
            }
        }
    }

    /// The same, and if there is none it is made. The write that it is made for makes it durable.
    pub(super) async fn root_to_write(&self) -> Result<TreeRoot> {
        if let Some(root) = self.root() {
            return Ok(root);
        }
        let made = self.db.store().open_tree(&self.named.name, 0, Durability::None);
        // Boxed, as what is rare.
        let (tree, _) = Box::pin(made).await?;
        self.named.root.set(Some(tree.root));
        Ok(tree.root)
    }

    /// Runs a write on the tree that has the name, again if the name went to another one meanwhile.
    async fn write<R>(&self, mut write: impl AsyncFnMut(TreeRoot) -> Result<R>) -> Result<R> {
        loop {
            let root = self.root_to_write().await?;
            match write(root).await {
                Err(error) if lost_name(&error).is_some() => {}
                written => return written,
            }
        }
    }

    /// How many keys it holds.
    pub fn len(&self) -> u64 {
        self.root().map_or(0, |root| self.db.store().len(root.tree))
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
        match self.root() {
            Some(root) => self.db.store().get(root, key, read).await,
            None => Ok(None),
        }
    }

    /// Whether `key` is there.
    ///
    /// # Errors
    ///
    /// As for [`Tree::get`].
    pub async fn contains(&self, key: &[u8]) -> Result<bool> {
        match self.root() {
            Some(root) => self.db.store().contains(root, key).await,
            None => Ok(false),
        }
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
        check_limits(key, Some(value))?;
        let durability = self.db.durability(options);
        let number = self.write(async |root| self.db.store().put(root, key, value, durability).await).await?;
        Ok(self.db.commit_of(Some(number), durability))
    }

    /// Puts `key` only if it is not there; returns whether it did.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub async fn insert_if_absent(&self, key: &[u8], value: &[u8], options: WriteOptions) -> Result<bool> {
        self.compare_and_swap(key, None, Some(value), options).await
    }

    /// Makes `new` of `key` only if its value is `expected`; returns whether it was. `None` stands
    /// for a key that is not there.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub async fn compare_and_swap(
        &self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: WriteOptions,
    ) -> Result<bool> {
        check_limits(key, new)?;
        let mut was_expected = false;
        let decide = |found: Option<&[u8]>, value: &mut Vec<u8>| {
            was_expected = found == expected;
            match new {
                _ if !was_expected || found == new => Decision::Keep,
                Some(new) => {
                    value.extend_from_slice(new);
                    Decision::Put
                }
                None => Decision::Delete,
            }
        };
        self.update(key, options, decide).await?;
        Ok(was_expected)
    }

    /// Makes of `key` what `decide` says, which gets its value, `None` if it is not there, and an
    /// empty buffer for a new one; returns whether something was written. No other write of the key
    /// comes in between, so this is how counters, sets and whatever else grows by operands are
    /// kept.
    ///
    /// `decide` may be called several times, when the key has changed before its decision was
    /// carried out: the last call counts. It must not call the store. If it panics nothing has
    /// changed.
    ///
    /// ```
    /// # boson::run(async {
    /// use boson::store::{Db, Decision, WriteOptions};
    ///
    /// let tree = Db::open("mem:64M").await?.tree("counters")?;
    /// for amount in [1_u64, 20, 300] {
    ///     let add = |found: Option<&[u8]>, new: &mut Vec<u8>| {
    ///         let sum = found.and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes);
    ///         new.extend_from_slice(&(sum + amount).to_le_bytes());
    ///         Decision::Put
    ///     };
    ///     tree.update(b"visits", WriteOptions::default(), add).await?;
    /// }
    /// assert_eq!(tree.get(b"visits").await?.as_deref(), Some(&321_u64.to_le_bytes()[..]));
    /// # Ok::<(), boson::Error>(())
    /// # }).expect("it works");
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub async fn update(
        &self,
        key: &[u8],
        options: WriteOptions,
        mut decide: impl FnMut(Option<&[u8]>, &mut Vec<u8>) -> Decision,
    ) -> Result<bool> {
        check_limits(key, None)?;
        let durability = self.db.durability(options);
        let mut number = None;
        self.write(async |root| {
            number = self.db.store().update(root, key, durability, &mut decide).await?;
            Ok(())
        })
        .await?;
        self.db.wait(self.db.commit_of(number, durability)).await?;
        Ok(number.is_some())
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
        check_limits(key, None)?;
        if self.root().is_none() {
            self.db.store().check_health()?;
            return Ok((false, Commit::default()));
        }
        let durability = self.db.durability(options);
        let number = self.write(async |root| self.db.store().delete(root, key, durability).await).await?;
        Ok((number.is_some(), self.db.commit_of(number, durability)))
    }

    /// Deletes every key at once, in a time that does not depend on their number. The space comes
    /// back bit by bit in the background.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`]. It also works on a full namespace.
    pub async fn clear(&self, options: WriteOptions) -> Result<()> {
        let commit = self.apply_clear(options).await?;
        self.db.wait(commit).await
    }

    /// Like [`Tree::clear`], without waiting for durability: give the commit to [`Db::wait`].
    ///
    /// # Errors
    ///
    /// As for [`Tree::clear`].
    pub async fn apply_clear(&self, options: WriteOptions) -> Result<Commit> {
        let durability = self.db.durability(options);
        let cleared = self.db.store().clear_tree(&self.named.name, durability).await?;
        Ok(self.db.commit_of(cleared.map(|(_, number)| number), durability))
    }

    /// Deletes the keys in `range`, some at a time, and waits for their durability; returns how
    /// many there were. Others may write meanwhile, and see part of it done; a crash may leave part
    /// of it. To delete all keys, [`Tree::clear`] is faster.
    ///
    /// # Errors
    ///
    /// As for [`Tree::delete`]; those that were deleted before are gone.
    pub async fn delete_range<'a>(
        &self,
        range: impl RangeBounds<&'a [u8]>,
        options: WriteOptions,
    ) -> Result<u64> {
        self.delete_all(self.range(range), options).await
    }

    /// Deletes the keys that begin with `prefix`, as [`Tree::delete_range`] does.
    ///
    /// # Errors
    ///
    /// As for [`Tree::delete_range`].
    pub async fn delete_prefix(&self, prefix: &[u8], options: WriteOptions) -> Result<u64> {
        self.delete_all(self.prefix(prefix), options).await
    }

    async fn delete_all(&self, mut cursor: Cursor<E, N>, options: WriteOptions) -> Result<u64> {
        let (mut deleted, mut commit) = (0, Commit::default());
        loop {
            let mut keys = Vec::with_capacity(KEYS_AT_ONCE);
            while keys.len() < KEYS_AT_ONCE
                && let Some(key) = cursor.next_key().await?
            {
                keys.push(key);
            }
            if keys.is_empty() {
                break;
            }
            let declared: Vec<_> = keys.iter().map(|key| (self, &key[..])).collect();
            let delete = |txn: &mut Transaction<'_>| {
                (0..keys.len()).filter(|&place| txn.delete_at(place)).count() as u64
            };
            let (some, number) = self.db.apply(&declared, options.divisible(true), delete).await?;
            deleted += some;
            commit = commit.and(number);
        }
        self.db.wait(commit).await?;
        Ok(deleted)
    }

    /// A cursor over the keys that begin with `prefix`, ascending.
    pub fn prefix(&self, prefix: &[u8]) -> Cursor<E, N> {
        Cursor::new(self, of_prefix(prefix), false)
    }

    /// A cursor over the keys that begin with `prefix`, descending.
    pub fn prefix_descending(&self, prefix: &[u8]) -> Cursor<E, N> {
        Cursor::new(self, of_prefix(prefix), true)
    }

    /// A cursor over the keys in `range`, ascending.
    pub fn range<'a>(&self, range: impl RangeBounds<&'a [u8]>) -> Cursor<E, N> {
        Cursor::new(self, to_vecs(&range), false)
    }

    /// A cursor over the keys in `range`, descending.
    pub fn range_descending<'a>(&self, range: impl RangeBounds<&'a [u8]>) -> Cursor<E, N> {
        Cursor::new(self, to_vecs(&range), true)
    }

    /// A key chosen by `random` (uniform 64-bit numbers), roughly evenly; `None` if the tree is
    /// empty.
    ///
    /// # Errors
    ///
    /// As for [`Tree::get`].
    pub async fn random(&self, random: impl FnMut() -> u64) -> Result<Option<Vec<u8>>> {
        match self.root() {
            Some(root) => self.db.store().random_key(root, random).await,
            None => Ok(None),
        }
    }
}
