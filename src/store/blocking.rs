//! The store for ordinary threads: handles that any thread has, and calls that block it.
//!
//! The store runs on a core of boson's in a thread of its own. A call is a message there, and its
//! answer one back: some µs, which a program of many small reads avoids with [`Db::run`], whose
//! closure runs on the core and may do many things at once. Calls of several threads share flushes,
//! as those of several tasks do.
//!
//! ```
//! use boson::store::blocking::Db;
//!
//! # fn main() -> boson::Result<()> {
//! let db = Db::open("mem:64M")?;
//! let fruit = db.tree("fruit")?;
//! std::thread::scope(|scope| {
//!     for name in [&b"apples"[..], b"pears", b"plums"] {
//!         let fruit = &fruit;
//!         scope.spawn(move || fruit.put(name, b"5"));
//!     }
//! });
//! let names: Vec<_> = fruit.prefix(b"p").map(|entry| entry.map(|(name, _)| name)).collect::<Result<_, _>>()?;
//! assert_eq!(names, [b"pears", b"plums"]);
//! db.close()
//! # }
//! ```
//!
//! What is not here is in [`store`](super), and goes through [`Db::run`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use super::cursor::Bounds;
use super::tree::{of_prefix, to_vecs};
use super::{Decision, Options, Stats, Txn, VerifyReport, WriteOptions};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt::{self, CoreConfig, CoreThread, Handle};

/// So many entries an iterator fetches at once,
const ENTRIES_AT_ONCE: usize = 256;
/// unless they have more bytes than this.
const BYTES_AT_ONCE: usize = 256 << 10;

thread_local! {
    /// The store of this core, until it is closed.
    static OPEN: RefCell<Option<super::Db>> = const { RefCell::new(None) };
}

/// A store whose calls block the thread. Cheap to clone, for any thread.
///
/// It is closed when the last handle is dropped; [`Db::close`] says whether that worked.
#[derive(Clone)]
pub struct Db {
    core: Arc<StoreCore>,
}

/// The core that the store runs on.
struct StoreCore {
    handle: Handle,
    /// None once it was closed.
    thread: Mutex<Option<CoreThread>>,
}

/// A named tree of a [`Db`]. Cheap to clone, for any thread.
#[derive(Clone)]
pub struct Tree {
    db: Db,
    name: Arc<str>,
}

impl Db {
    /// Opens the store at `address`, as [`store::Db::open`](super::Db::open), on a core of its own.
    ///
    /// # Errors
    ///
    /// As for that, and for [`CoreThread::start`].
    pub fn open(address: &str) -> Result<Self> {
        Self::open_with(address, Options::default(), &CoreConfig::default())
    }

    /// Like [`Db::open`], with options for the store and for its core.
    ///
    /// # Errors
    ///
    /// As for [`Db::open`].
    pub fn open_with(address: &str, options: Options, config: &CoreConfig) -> Result<Self> {
        let thread = CoreThread::start("boson-store", config)?;
        let address = address.to_owned();
        let opening = rt::named("open store").spawn_on(thread.handle(), move || async move {
            let db = super::Db::open_with(&address, options).await?;
            OPEN.set(Some(db));
            Ok(())
        });
        block_on(opening)?;
        let handle = thread.handle().clone();
        Ok(Self { core: Arc::new(StoreCore { handle, thread: Mutex::new(Some(thread)) }) })
    }

    /// What `work` makes of the store, on the store's core: as many operations as you like, for one
    /// message there and one back. Threads may do this at the same time; each is a task there.
    ///
    /// # Errors
    ///
    /// Those of `work`. [`Closed`](ErrorKind::Closed) if the store is,
    /// [`Panicked`](ErrorKind::Panicked) if `work` has panicked, and
    /// [`InvalidInput`](ErrorKind::InvalidInput) on a core of boson's, which must not block: use
    /// [`store::Db`](super::Db) there.
    pub fn run<R, F>(&self, work: impl FnOnce(super::Db) -> F + Send + 'static) -> Result<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + 'static,
    {
        block_on(rt::named("store call").spawn_on(&self.core.handle, move || async move {
            match OPEN.with_borrow(Clone::clone) {
                Some(db) => work(db).await,
                None => Err(Error::new(ErrorKind::Closed, "use store")
                    .because("the store was closed")
                    .outcome_is(Outcome::NotStarted)),
            }
        }))
    }

    /// The tree called `name`, as [`store::Db::tree`](super::Db::tree).
    ///
    /// # Errors
    ///
    /// As for that.
    pub fn tree(&self, name: &str) -> Result<Tree> {
        let name: Arc<str> = name.into();
        let of_core = Arc::clone(&name);
        self.run(async move |db| db.tree(&of_core).map(|_| ()))?;
        Ok(Tree { db: self.clone(), name })
    }

    /// The names of the trees.
    ///
    /// # Errors
    ///
    /// As for [`Db::run`].
    pub fn tree_names(&self) -> Result<Vec<String>> {
        self.run(async |db| Ok(db.tree_names()))
    }

    /// Removes a tree, as [`store::Db::remove_tree`](super::Db::remove_tree).
    ///
    /// # Errors
    ///
    /// As for that.
    pub fn remove_tree(&self, name: &str, options: WriteOptions) -> Result<bool> {
        let name = name.to_owned();
        self.run(async move |db| db.remove_tree(&name, options).await)
    }

    /// Changes the declared `keys` as one transaction, as
    /// [`store::Db::transact`](super::Db::transact): all of it is there afterwards, or nothing.
    /// `run` names a key by its place among them, and runs on the store's core.
    ///
    /// # Errors
    ///
    /// As for that.
    ///
    /// # Panics
    ///
    /// If a tree is another store's.
    pub fn transact<R: Send + 'static>(
        &self,
        keys: &[(&Tree, &[u8])],
        options: WriteOptions,
        run: impl FnMut(&mut Txn<'_>) -> R + Send + 'static,
    ) -> Result<R> {
        let is_own = |tree: &Tree| Arc::ptr_eq(&tree.db.core, &self.core);
        assert!(keys.iter().all(|(tree, _)| is_own(tree)), "a transaction is on trees of one store");
        let keys: Vec<_> = keys.iter().map(|(tree, key)| (Arc::clone(&tree.name), key.to_vec())).collect();
        self.run(async move |db| {
            let mut trees = Vec::with_capacity(keys.len());
            for (name, _) in &keys {
                trees.push(db.tree(name)?);
            }
            let keys: Vec<_> = trees.iter().zip(&keys).map(|(tree, (_, key))| (tree, &key[..])).collect();
            db.transact(&keys, options, run).await
        })
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    ///
    /// As for [`store::Db::flush`](super::Db::flush).
    pub fn flush(&self) -> Result<()> {
        self.run(async |db| db.flush().await)
    }

    /// Writes every changed page, as [`store::Db::checkpoint`](super::Db::checkpoint).
    ///
    /// # Errors
    ///
    /// As for that.
    pub fn checkpoint(&self) -> Result<()> {
        self.run(async |db| db.checkpoint().await)
    }

    /// Reads and checks everything, as [`store::Db::verify`](super::Db::verify).
    ///
    /// # Errors
    ///
    /// As for that.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.run(async |db| db.verify().await)
    }

    /// Sizes and counters.
    ///
    /// # Errors
    ///
    /// As for [`Db::run`].
    pub fn stats(&self) -> Result<Stats> {
        self.run(async |db| Ok(db.stats()))
    }

    /// Closes the store for all handles, and ends its core.
    ///
    /// # Errors
    ///
    /// As for [`store::Db::close`](super::Db::close). A store that was closed before is closed.
    pub fn close(&self) -> Result<()> {
        refuse_on_a_core()?;
        self.core.close()
    }
}

impl StoreCore {
    fn close(&self) -> Result<()> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(()) };
        block_on(rt::named("close store").spawn_on(thread.handle(), || async {
            match OPEN.take() {
                Some(db) => db.close().await,
                None => Ok(()),
            }
        }))
    }
}

impl Drop for StoreCore {
    fn drop(&mut self) {
        // On a core of boson's nothing may block: there the thread ends by itself, and what was
        // not durable yet may be lost.
        if !rt::is_in_core()
            && let Err(error) = self.close()
        {
            tracing::error!("a store was not closed as it should be: {error}");
        }
    }
}

fn refuse_on_a_core() -> Result<()> {
    if !rt::is_in_core() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "use store")
        .because("a core of boson's must not block: use boson::store::Db there")
        .outcome_is(Outcome::NotStarted))
}

fn block_on<R>(join: rt::RemoteJoin<Result<R>>) -> Result<R> {
    refuse_on_a_core()?;
    pollster::block_on(join).map_err(Error::from)?
}

impl Tree {
    /// The store that the tree belongs to.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn run<R: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(super::Tree) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let name = Arc::clone(&self.name);
        self.db.run(async move |db| work(db.tree(&name)?).await)
    }

    /// How many keys it holds.
    ///
    /// # Errors
    ///
    /// As for [`Db::run`].
    pub fn len(&self) -> Result<u64> {
        self.run(async |tree| Ok(tree.len()))
    }

    /// Whether it holds no key.
    ///
    /// # Errors
    ///
    /// As for [`Db::run`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// A copy of the value of `key`.
    ///
    /// # Errors
    ///
    /// As for [`store::Tree::get`](super::Tree::get).
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let key = key.to_vec();
        self.run(async move |tree| tree.get(&key).await)
    }

    /// Whether `key` is there.
    ///
    /// # Errors
    ///
    /// As for [`store::Tree::contains`](super::Tree::contains).
    pub fn contains(&self, key: &[u8]) -> Result<bool> {
        let key = key.to_vec();
        self.run(async move |tree| tree.contains(&key).await)
    }

    /// Puts a value, with the store's durability.
    ///
    /// # Errors
    ///
    /// As for [`store::Tree::put`](super::Tree::put).
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_with(key, value, WriteOptions::default())
    }

    /// Like [`Tree::put`], with options.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub fn put_with(&self, key: &[u8], value: &[u8], options: WriteOptions) -> Result<()> {
        let (key, value) = (key.to_vec(), value.to_vec());
        self.run(async move |tree| tree.put_with(&key, &value, options).await)
    }

    /// Puts `key` only if it is not there; returns whether it did.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub fn insert_if_absent(&self, key: &[u8], value: &[u8], options: WriteOptions) -> Result<bool> {
        self.compare_and_swap(key, None, Some(value), options)
    }

    /// Makes `new` of `key` only if its value is `expected`, as
    /// [`store::Tree::compare_and_swap`](super::Tree::compare_and_swap).
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub fn compare_and_swap(
        &self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: WriteOptions,
    ) -> Result<bool> {
        let (key, expected, new) = (key.to_vec(), expected.map(<[u8]>::to_vec), new.map(<[u8]>::to_vec));
        self.run(async move |tree| {
            tree.compare_and_swap(&key, expected.as_deref(), new.as_deref(), options).await
        })
    }

    /// Makes of `key` what `decide` says, as [`store::Tree::update`](super::Tree::update). It runs
    /// on the store's core.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`].
    pub fn update(
        &self,
        key: &[u8],
        options: WriteOptions,
        decide: impl FnMut(Option<&[u8]>, &mut Vec<u8>) -> Decision + Send + 'static,
    ) -> Result<bool> {
        let key = key.to_vec();
        self.run(async move |tree| tree.update(&key, options, decide).await)
    }

    /// Deletes `key`, with the store's durability; returns whether it was there.
    ///
    /// # Errors
    ///
    /// As for [`store::Tree::delete`](super::Tree::delete).
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        self.delete_with(key, WriteOptions::default())
    }

    /// Like [`Tree::delete`], with options.
    ///
    /// # Errors
    ///
    /// As for [`Tree::delete`].
    pub fn delete_with(&self, key: &[u8], options: WriteOptions) -> Result<bool> {
        let key = key.to_vec();
        self.run(async move |tree| tree.delete_with(&key, options).await)
    }

    /// Deletes the keys in `range`, as [`store::Tree::delete_range`](super::Tree::delete_range).
    ///
    /// # Errors
    ///
    /// As for that.
    pub fn delete_range<'a>(&self, range: impl RangeBounds<&'a [u8]>, options: WriteOptions) -> Result<u64> {
        let bounds = to_vecs(&range);
        self.run(async move |tree| tree.delete_range(borrowed(&bounds), options).await)
    }

    /// Deletes the keys that begin with `prefix`, as [`Tree::delete_range`] does.
    ///
    /// # Errors
    ///
    /// As for [`Tree::delete_range`].
    pub fn delete_prefix(&self, prefix: &[u8], options: WriteOptions) -> Result<u64> {
        let prefix = prefix.to_vec();
        self.run(async move |tree| tree.delete_prefix(&prefix, options).await)
    }

    /// Deletes every key at once, as [`store::Tree::clear`](super::Tree::clear).
    ///
    /// # Errors
    ///
    /// As for that.
    pub fn clear(&self, options: WriteOptions) -> Result<()> {
        self.run(async move |tree| tree.clear(options).await)
    }

    /// The keys in `range` and their values, ascending.
    pub fn range<'a>(&self, range: impl RangeBounds<&'a [u8]>) -> Iter {
        Iter::new(self, to_vecs(&range), false)
    }

    /// The same, descending.
    pub fn range_descending<'a>(&self, range: impl RangeBounds<&'a [u8]>) -> Iter {
        Iter::new(self, to_vecs(&range), true)
    }

    /// The keys that begin with `prefix` and their values, ascending.
    pub fn prefix(&self, prefix: &[u8]) -> Iter {
        Iter::new(self, of_prefix(prefix), false)
    }

    /// The same, descending.
    pub fn prefix_descending(&self, prefix: &[u8]) -> Iter {
        Iter::new(self, of_prefix(prefix), true)
    }
}

fn borrowed((from, to): &Bounds) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice))
}

type Entry = (Vec<u8>, Vec<u8>);

/// Keys and values of a [`Tree`], in order. It fetches some at a time and holds nothing of the
/// store in between; what others change ahead of it is seen, or not, as for a
/// [`Cursor`](super::Cursor).
pub struct Iter {
    tree: Tree,
    /// What is not fetched yet; None at the end.
    bounds: Option<Bounds>,
    is_descending: bool,
    fetched: VecDeque<Entry>,
}

impl Iter {
    fn new(tree: &Tree, bounds: Bounds, is_descending: bool) -> Self {
        Self { tree: tree.clone(), bounds: Some(bounds), is_descending, fetched: VecDeque::new() }
    }

    fn fetch(&mut self, bounds: Bounds) -> Result<()> {
        let is_descending = self.is_descending;
        let (bounds, fetched, is_all) = self.tree.run(async move |tree| {
            let range = borrowed(&bounds);
            let mut cursor = if is_descending { tree.range_descending(range) } else { tree.range(range) };
            let (mut entries, mut bytes, mut is_all) = (VecDeque::new(), 0, false);
            while entries.len() < ENTRIES_AT_ONCE && bytes < BYTES_AT_ONCE && !is_all {
                match cursor.next().await? {
                    Some((key, value)) => {
                        bytes += key.len() + value.len();
                        entries.push_back((key, value));
                    }
                    None => is_all = true,
                }
            }
            Ok((bounds, entries, is_all))
        })?;
        if let Some((last, _)) = fetched.back().filter(|_| !is_all) {
            let behind = Bound::Excluded(last.clone());
            let (from, to) = bounds;
            self.bounds = Some(if is_descending { (from, behind) } else { (behind, to) });
        }
        self.fetched = fetched;
        Ok(())
    }
}

impl Iterator for Iter {
    type Item = Result<Entry>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.fetched.is_empty()
            && let Some(bounds) = self.bounds.take()
            && let Err(error) = self.fetch(bounds)
        {
            return Some(Err(error));
        }
        self.fetched.pop_front().map(Ok)
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").finish_non_exhaustive()
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("tree", &self.tree).finish_non_exhaustive()
    }
}
