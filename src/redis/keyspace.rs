//! Databases of keys with values and expiry times, as trees of a store.
//!
//! The database `n` is the tree named `n`. The stored form of a value:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | flags: bit 0 is set if there is an expiry time, bit 1 if the key is a long one; the others are zero |
//! | 8, if bit 0 is set | the expiry time: milliseconds since the Unix epoch, little endian |
//! | 4, if bit 1 is set | how long the rest of the key is, little endian |
//! | that many, if bit 1 is set | the rest of the key |
//! | the rest | the value |
//!
//! Expiry times therefore survive a restart. An expired key is absent from every access. The first
//! access that meets it deletes it, or the [active expiry](super::expiry) does.
//!
//! Keys of up to 4,095 bytes ([`MAX_PLAIN_KEY_BYTES`]) are stored as they are. The store takes no
//! key above 4,096 bytes, so the stored form of a longer key is its first 4,064 bytes
//! ([`LONG_KEY_PREFIX_BYTES`]) and the SHA-256 of all of it: 4,096 bytes, which no plain key has.
//! The value carries the key from byte 4,064 on. Long keys that begin with the same 4,064 bytes are
//! in no particular order among each other; otherwise stored keys are in the order of the keys
//! themselves.

mod stored;

use std::borrow::Cow;
use std::cell::Cell;
use std::future::Future;
use std::ops::{Bound, ControlFlow, Range};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

pub(super) use self::stored::{KeyspaceEntry, LONG_KEY_PREFIX_BYTES};
use self::stored::{StoredHeader, is_long, key_rest, stored_key};
use super::shared::SharedState;
use super::stats::{Counted, Counts};
use super::tracking::{NOBODY, Tracking};
use super::volatile::VolatileKeys;
pub(super) use super::volatile::{DATABASES, UnixMs};
use crate::block::Namespace;
use crate::store::{Commit, Db, Env, Reading, Tree, Txn, WriteOptions};
use crate::{Error, ErrorKind, Result};

/// How large a buffer for composing values is kept, in bytes.
const KEPT_SCRATCH_BYTES: usize = 64 * 1024;
/// How many keys a scan visits before it lets other tasks run.
const KEYS_PER_TURN: usize = 256;
/// How often a random key may turn out to be expired before RANDOMKEY gives up.
const RANDOM_TRIES: usize = 100;

/// A key that a scan visits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visited<'a> {
    /// Where the scan is: the key as the store has it.
    pub(super) position: &'a [u8],
    /// The key.
    pub(super) key: &'a [u8],
    /// What it holds.
    pub(super) entry: KeyspaceEntry<'a>,
}

/// The part of a long key that its stored form `position` holds.
fn key_prefix(position: &[u8]) -> Result<&[u8]> {
    position.get(..LONG_KEY_PREFIX_BYTES).ok_or_else(|| corrupt_value(position))
}

fn corrupt_value(key: &[u8]) -> Error {
    Error::new(ErrorKind::Corrupt, "read key")
        .at(key.escape_ascii().to_string())
        .because("the stored value has an unknown form")
}

/// The databases.
pub(super) struct Keyspace<E: Env, N: Namespace> {
    db: Db<E, N>,
    trees: Vec<Tree<E, N>>,
    shared: Arc<SharedState>,
    counts: Arc<Counts>,
    /// The buffer in which values get their stored form; taken out while it is used.
    scratch: Cell<Vec<u8>>,
}

impl<E: Env, N: Namespace> Keyspace<E, N> {
    /// The databases of `db`.
    ///
    /// # Errors
    ///
    /// [`LimitReached`](ErrorKind::LimitReached) if the store has too many other trees.
    pub(super) fn new(db: Db<E, N>, shared: Arc<SharedState>, counts: Arc<Counts>) -> Result<Self> {
        let mut trees = Vec::with_capacity(DATABASES);
        for index in 0..DATABASES {
            trees.push(db.tree(&index.to_string())?);
        }
        Ok(Self { trees, db, shared, counts, scratch: Cell::default() })
    }

    /// The store.
    pub(super) fn db(&self) -> &Db<E, N> {
        &self.db
    }

    /// The clients that hear of changes.
    pub(super) fn tracking(&self) -> &Tracking {
        &self.shared.tracking
    }

    pub(super) fn volatile(&self, database: usize) -> &VolatileKeys {
        &self.shared.volatile[database]
    }

    /// Calls `read` once with what `key` holds at `now`, without a copy, and returns what it
    /// returns.
    ///
    /// # Errors
    ///
    /// Those of the store, and [`Corrupt`](ErrorKind::Corrupt) if the value is in no form that this
    /// module writes.
    pub(super) async fn read<R>(
        &self,
        database: usize,
        key: &[u8],
        now: UnixMs,
        mut read: impl FnMut(Option<KeyspaceEntry<'_>>) -> R,
    ) -> Result<R> {
        let stored_key = stored_key(key);
        let found =
            self.trees[database].get_with(&stored_key, |stored| match KeyspaceEntry::decode(stored) {
                None => Err(corrupt_value(key)),
                Some(entry) if entry.is_live(now) => Ok(Some(read(Some(entry)))),
                Some(_) => Ok(None),
            });
        let found = found.await?.transpose()?;
        if let Some(Some(result)) = found {
            self.counts.add(Counted::KeyspaceHits, 1);
            return Ok(result);
        }
        self.counts.add(Counted::KeyspaceMisses, 1);
        if found.is_some() {
            self.try_delete_expired(database, &[key], now).await;
        }
        Ok(read(None))
    }

    /// Gives `read` what each of `keys` holds, all as of one moment.
    ///
    /// # Errors
    ///
    /// Those of [`Keyspace::read`].
    pub(super) async fn read_all<'k>(
        &self,
        database: usize,
        mut keys: impl ExactSizeIterator<Item = &'k [u8]>,
        now: UnixMs,
        mut read: impl FnMut(Option<KeyspaceEntry<'_>>),
    ) -> Result<()> {
        if keys.len() == 1
            && let Some(key) = keys.next()
        {
            return self.read(database, key, now, read).await;
        }
        let keys: Vec<&[u8]> = keys.collect();
        let stored: Vec<_> = keys.iter().map(|key| stored_key(key)).collect();
        let declared: Vec<_> = stored.iter().map(|key| (&self.trees[database], &**key)).collect();
        let all = |reading: &Reading<'_>| {
            let mut has_expired = false;
            for (index, key) in keys.iter().enumerate() {
                let entry = reading.get_at(index).map(KeyspaceEntry::decode);
                let entry = entry.map(|entry| entry.ok_or_else(|| corrupt_value(key))).transpose()?;
                let live = entry.filter(|entry| entry.is_live(now));
                has_expired |= entry.is_some() && live.is_none();
                let counted = if live.is_some() { Counted::KeyspaceHits } else { Counted::KeyspaceMisses };
                self.counts.add(counted, 1);
                read(live);
            }
            Ok::<_, Error>(has_expired)
        };
        if self.db.read(&declared, all).await?? {
            self.try_delete_expired(database, &keys, now).await;
        }
        Ok(())
    }

    /// Runs `change` atomically on what `keys` hold at `now`, for the client with the id `writer`,
    /// and tells those that track the keys that it changes. It may run several times, and its last
    /// run counts.
    ///
    /// # Errors
    ///
    /// Those of the store, and [`Corrupt`](ErrorKind::Corrupt); nothing was changed then.
    pub(super) async fn update<R>(
        &self,
        database: usize,
        keys: &[&[u8]],
        now: UnixMs,
        writer: u64,
        mut change: impl FnMut(&mut Update<'_, '_>) -> R,
    ) -> Result<(R, Commit)> {
        let tree = &self.trees[database];
        let long_keys: Vec<Cow<'_, [u8]>>;
        let stored_keys: Vec<&[u8]>;
        let stored = if keys.iter().any(|key| is_long(key)) {
            long_keys = keys.iter().map(|key| stored_key(key)).collect();
            stored_keys = long_keys.iter().map(|key| &**key).collect();
            &stored_keys
        } else {
            keys
        };
        let mut earliest = UnixMs::MAX;
        let mut deleted_expired = 0;
        let mut changed = None;
        let run = |txn: &mut Txn<'_>| {
            let scratch = self.scratch.take();
            let mut update = Update {
                txn,
                keys,
                scratch,
                now,
                expired: 0,
                earliest: UnixMs::MAX,
                changed: self.tracking().is_active().then(Vec::new),
                corrupt: None,
            };
            let result = change(&mut update);
            let Update { txn, scratch, expired, corrupt, .. } = update;
            changed = update.changed;
            earliest = update.earliest;
            self.keep_scratch(scratch);
            if let Some(index) = corrupt {
                txn.discard();
                return Err(corrupt_value(keys[index]));
            }
            deleted_expired = expired;
            Ok(result)
        };
        // Where a full store has no room for all deletions at once, they go on in parts.
        let options = WriteOptions { divisible: true, ..WriteOptions::default() };
        let applied = match *stored {
            [key] => self.db.apply(&[(tree, key)], options, run).await,
            [first, second] => self.db.apply(&[(tree, first), (tree, second)], options, run).await,
            _ => {
                let keys: Vec<_> = stored.iter().map(|&key| (tree, key)).collect();
                self.db.apply(&keys, options, run).await
            }
        };
        if self.tracking().is_active() {
            // Also if it failed: what became of it may be unknown. If nobody tracked keys when it
            // ran, it did not note which ones it changed.
            match changed {
                Some(changed) => {
                    let changed: Vec<&[u8]> = changed.into_iter().map(|index| keys[index]).collect();
                    self.tracking().invalidate(&changed, writer);
                }
                None => self.tracking().invalidate(keys, writer),
            }
        }
        let (result, commit) = applied?;
        self.counts.add(Counted::ExpiredKeys, deleted_expired);
        // Only now, so that no pass of active expiry can have ended in between.
        self.volatile(database).note(earliest);
        Ok((result?, commit))
    }

    /// Sets `key`, whatever it holds, for the client with the id `writer`, and tells those that
    /// track it.
    ///
    /// # Errors
    ///
    /// Those of the store; nothing was changed then.
    pub(super) async fn put(
        &self,
        database: usize,
        key: &[u8],
        value: &[u8],
        expires_at: Option<UnixMs>,
        writer: u64,
    ) -> Result<Commit> {
        let (stored_key, key_rest) = (stored_key(key), key_rest(key));
        let mut stored = self.scratch.take();
        stored.extend_from_slice(StoredHeader::new(expires_at, key_rest).as_bytes());
        stored.extend_from_slice(key_rest);
        stored.extend_from_slice(value);
        let result = self.trees[database].apply_put(&stored_key, &stored, WriteOptions::default()).await;
        self.keep_scratch(stored);
        self.volatile(database).note(expires_at.unwrap_or(UnixMs::MAX));
        self.tracking().invalidate(&[key], writer);
        result
    }

    fn keep_scratch(&self, mut scratch: Vec<u8>) {
        scratch.clear();
        scratch.shrink_to(KEPT_SCRATCH_BYTES);
        self.scratch.set(scratch);
    }

    /// Deletes those of `keys` that have expired; returns how many it deleted.
    pub(super) async fn delete_expired(&self, database: usize, keys: &[&[u8]], now: UnixMs) -> Result<usize> {
        // Nobody waits for this to become durable: after a crash the keys are expired all the same.
        let (deleted, _) = self
            .update(database, keys, now, NOBODY, |update| {
                (0..keys.len()).filter(|&index| update.delete_if_expired(index)).count()
            })
            .await?;
        Ok(deleted)
    }

    /// Deletes expired keys that a read met. The read succeeds whether or not the store takes
    /// writes.
    async fn try_delete_expired(&self, database: usize, keys: &[&[u8]], now: UnixMs) {
        if let Err(error) = self.delete_expired(database, keys, now).await {
            tracing::debug!("an expired key stays for now: {error}");
        }
    }

    /// Gives `visit` the keys of a database in order, from the stored form `from` on, expired ones
    /// included, until `visit` breaks or there are no more. Returns whether it broke.
    ///
    /// Keys may be written and deleted meanwhile; a key that is there all the time is visited once.
    ///
    /// # Errors
    ///
    /// Those of the store, and [`Corrupt`](ErrorKind::Corrupt).
    pub(super) async fn scan(
        &self,
        database: usize,
        from: Bound<&[u8]>,
        mut visit: impl FnMut(Visited<'_>) -> ControlFlow<()>,
    ) -> Result<bool> {
        let mut cursor = self.trees[database].range((from, Bound::Unbounded));
        let mut visited = 0usize;
        let mut long_key = Vec::new();
        while let Some((position, stored)) = cursor.next_ref().await? {
            let (entry, key_rest) =
                KeyspaceEntry::decode_with_key_rest(stored).ok_or_else(|| corrupt_value(position))?;
            let key = match key_rest {
                None => position,
                Some(rest) => {
                    long_key.clear();
                    long_key.extend_from_slice(key_prefix(position)?);
                    long_key.extend_from_slice(rest);
                    long_key.as_slice()
                }
            };
            if visit(Visited { position, key, entry }).is_break() {
                return Ok(true);
            }
            visited += 1;
            if visited.is_multiple_of(KEYS_PER_TURN) {
                yield_now().await;
            }
        }
        Ok(false)
    }

    /// The stored form of the first key of a database, from the stored form `from` on, for which
    /// `is_it` breaks with true; none if it breaks with false before, or never breaks.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn find_position(
        &self,
        database: usize,
        from: &[u8],
        mut is_it: impl FnMut(&[u8]) -> ControlFlow<bool>,
    ) -> Result<Option<Vec<u8>>> {
        let mut cursor = self.trees[database].range(from..);
        let mut visited = 0usize;
        while let Some(position) = cursor.next_key().await? {
            if let ControlFlow::Break(found) = is_it(&position) {
                return Ok(found.then_some(position));
            }
            visited += 1;
            if visited.is_multiple_of(KEYS_PER_TURN) {
                yield_now().await;
            }
        }
        Ok(None)
    }

    /// How many keys a database has, including expired ones that nobody has met since.
    pub(super) fn len(&self, database: usize) -> u64 {
        self.trees[database].len()
    }

    /// Deletes all keys of some databases, one after the other, and tells all that track keys.
    ///
    /// # Errors
    ///
    /// Those of the store. Some of the databases may be empty then.
    pub(super) async fn clear(&self, databases: Range<usize>) -> Result<Commit> {
        let mut result = Ok(Commit::default());
        for tree in &self.trees[databases] {
            let cleared = tree.apply_clear(WriteOptions::default()).await;
            result = result.and_then(|commit| Ok(commit.and(cleared?)));
            if result.is_err() {
                break;
            }
        }
        self.tracking().invalidate_all();
        result
    }

    /// A key of a database, chosen by numbers from `random`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn random_key(
        &self,
        database: usize,
        now: UnixMs,
        mut random: impl FnMut() -> u64,
    ) -> Result<Option<Vec<u8>>> {
        for _ in 0..RANDOM_TRIES {
            let Some(position) = self.trees[database].random(&mut random).await? else { break };
            let key = self.trees[database].get_with(&position, |stored| {
                let (entry, key_rest) =
                    KeyspaceEntry::decode_with_key_rest(stored).ok_or_else(|| corrupt_value(&position))?;
                let key = match key_rest {
                    None => position.clone(),
                    Some(rest) => [key_prefix(&position)?, rest].concat(),
                };
                Ok::<_, Error>((key, entry.is_live(now)))
            });
            match key.await?.transpose()? {
                Some((key, true)) => return Ok(Some(key)),
                Some((key, false)) => self.try_delete_expired(database, &[&key], now).await,
                None => {}
            }
        }
        Ok(None)
    }

    /// Waits until `commit` and everything before it is as durable as the store was told to make
    /// it.
    ///
    /// # Errors
    ///
    /// The store could not write it. Whether it survives a restart is unknown.
    pub(super) async fn wait_durable(&self, commit: Commit) -> Result<()> {
        self.db.wait(commit).await
    }
}

impl<E: Env, N: Namespace> std::fmt::Debug for Keyspace<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyspace").field("db", &self.db).finish_non_exhaustive()
    }
}

/// An atomic change to some keys of a database, each called by its index among them.
pub(super) struct Update<'a, 't> {
    txn: &'a mut Txn<'t>,
    keys: &'a [&'a [u8]],
    scratch: Vec<u8>,
    now: UnixMs,
    expired: usize,
    /// When the first of the keys that were written expires.
    earliest: UnixMs,
    /// The keys that were changed, for the clients that track keys; `None` if no client does.
    changed: Option<Vec<usize>>,
    /// A key whose value could not be understood.
    corrupt: Option<usize>,
}

impl Update<'_, '_> {
    /// What a key holds.
    pub(super) fn get(&mut self, index: usize) -> Option<KeyspaceEntry<'_>> {
        let entry = KeyspaceEntry::decode(self.txn.get_at(index)?);
        if entry.is_none() {
            self.corrupt = Some(index);
        }
        entry.filter(|entry| entry.is_live(self.now))
    }

    fn note_change(&mut self, index: usize) {
        if let Some(changed) = &mut self.changed {
            changed.push(index);
        }
    }

    /// Sets a key to `value`, until `expires_at`.
    pub(super) fn put(&mut self, index: usize, value: &[u8], expires_at: Option<UnixMs>) {
        self.note_change(index);
        self.earliest = self.earliest.min(expires_at.unwrap_or(UnixMs::MAX));
        let key_rest = key_rest(self.keys[index]);
        self.txn.put_parts_at(index, &[StoredHeader::new(expires_at, key_rest).as_bytes(), key_rest, value]);
    }

    /// Sets a key to what `write` appends to its buffer, given the present value; until
    /// `expires_at`.
    pub(super) fn compose(
        &mut self,
        index: usize,
        expires_at: Option<UnixMs>,
        write: impl FnOnce(&mut Vec<u8>, Option<&[u8]>),
    ) {
        self.note_change(index);
        let present = self.txn.get_at(index).and_then(KeyspaceEntry::decode);
        let present = present.filter(|entry| entry.is_live(self.now)).map(|entry| entry.value);
        self.scratch.clear();
        write(&mut self.scratch, present);
        self.earliest = self.earliest.min(expires_at.unwrap_or(UnixMs::MAX));
        let key_rest = key_rest(self.keys[index]);
        self.txn.put_parts_at(
            index,
            &[StoredHeader::new(expires_at, key_rest).as_bytes(), key_rest, &self.scratch],
        );
    }

    /// Changes when a key expires, if it is there.
    pub(super) fn set_expiry(&mut self, index: usize, expires_at: Option<UnixMs>) {
        if self.get(index).is_some() {
            self.compose(index, expires_at, |value, present| {
                value.extend_from_slice(present.unwrap_or_default())
            });
        }
    }

    /// Deletes a key; returns whether it was there. This works even if its value cannot be
    /// understood.
    pub(super) fn delete(&mut self, index: usize) -> bool {
        let expired = self.is_expired(index);
        let deleted = self.txn.delete_at(index);
        if deleted {
            self.note_change(index);
        }
        self.expired += usize::from(deleted && expired);
        deleted && !expired
    }

    /// Whether a key is there and has expired.
    fn is_expired(&self, index: usize) -> bool {
        let entry = self.txn.get_at(index).and_then(KeyspaceEntry::decode);
        entry.is_some_and(|entry| !entry.is_live(self.now))
    }

    /// Deletes a key if it has expired; returns whether it did.
    fn delete_if_expired(&mut self, index: usize) -> bool {
        let expired = self.is_expired(index);
        if expired {
            self.txn.delete_at(index);
            self.note_change(index);
            self.expired += 1;
        }
        expired
    }
}

impl std::fmt::Debug for Update<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Update").field("now", &self.now).finish_non_exhaustive()
    }
}

/// Lets other tasks run before it completes.
pub(super) fn yield_now() -> impl Future<Output = ()> {
    struct Yield(bool);
    impl Future for Yield {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
    Yield(false)
}
