//! The store's front door: opening, trees, transactions, durability, closing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::commit::Commit;
use super::engine::core_store::CoreStore;
use super::engine::dying::lost_name;
use super::engine::open::open;
use super::engine::registry::absent_key;
use super::engine::transaction::{Key, Reading, Transaction};
use super::engine::verify::Report as VerifyReport;
use super::env::{Env, RtEnv};
use super::options::{Durability, MAX_TREE_NAME_BYTES, Options, WriteOptions};
use super::shared::SharedDb;
use super::stats::Stats;
use super::tree::{Named, Tree};
use crate::block::{AnyNamespace, Namespace};
use crate::error::{Error, ErrorKind, Outcome, Result};

/// A store on a [`Namespace`], in an environment that gives it tasks and time.
///
/// A handle is cheap to clone and belongs to one core; [`Db::shared`] brings the store to others.
/// When the last handle of the core that opened the store is dropped, it is closed in the
/// background; [`Db::close`] waits for that.
pub struct Db<E: Env = RtEnv, N: Namespace = AnyNamespace> {
    opened: Rc<Opened<E, N>>,
}

impl<E: Env, N: Namespace> Clone for Db<E, N> {
    fn clone(&self) -> Self {
        Self { opened: Rc::clone(&self.opened) }
    }
}

impl<E: Env, N: Namespace> std::fmt::Debug for Db<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("name", &self.store().name()).finish_non_exhaustive()
    }
}

/// Whether a write was refused because there is no room for it, in the store or in its log.
fn is_want_of_room(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::LimitReached)
        && error.outcome() == Outcome::NotStarted
}

/// What the handles of a store share.
struct Opened<E: Env, N: Namespace> {
    store: Rc<CoreStore<E, N>>,
    durability: Durability,
    /// The trees for which there are handles, or were.
    trees: RefCell<HashMap<Box<str>, Rc<Named>>>,
    /// This core has opened it, and has not attached to what another one opened.
    is_opener: bool,
}

impl<E: Env, N: Namespace> Drop for Opened<E, N> {
    /// Closes the store behind the last handle.
    fn drop(&mut self) {
        if self.is_opener && self.store.is_open() {
            let store = Rc::clone(&self.store);
            self.store.env().spawn("store close", async move {
                if let Err(error) = store.close().await {
                    tracing::error!("store {} was not closed as it should be: {error}", store.name());
                }
            });
        }
    }
}

impl Db {
    /// Opens the store at `address`, which names a namespace: `file:example.boson`,
    /// `blk:/dev/nvme0n1` or `mem:1G`. What was never written becomes a fresh store.
    ///
    /// ```
    /// # boson::run(async {
    /// use boson::store::Db;
    ///
    /// let db = Db::open("mem:64M").await?;
    /// let fruit = db.tree("fruit")?;
    /// fruit.put(b"apples", b"5").await?;
    /// assert_eq!(fruit.get(b"apples").await?.as_deref(), Some(&b"5"[..]));
    /// db.close().await?;
    /// # Ok::<(), boson::Error>(())
    /// # }).expect("it works");
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Db::open_on`], and what parsing the address and opening the namespace say.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open(address: &str) -> Result<Self> {
        Self::open_with(address, Options::default()).await
    }

    /// The same with other options than the default ones.
    ///
    /// # Errors
    ///
    /// As for [`Db::open`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open_with(address: &str, options: Options) -> Result<Self> {
        let namespace = AnyNamespace::open(&address.parse()?).await?;
        Self::open_on(RtEnv, namespace, options).await
    }
}

impl<E: Env, N: Namespace> Db<E, N> {
    /// Opens the store on `namespace`; a namespace that was never written becomes a fresh store.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the namespace is too small.
    /// - [`ForeignData`](ErrorKind::ForeignData): it holds something else. Nothing was changed; see
    ///   [`Options::format`].
    /// - [`UnsupportedFormat`](ErrorKind::UnsupportedFormat): another version wrote it.
    /// - [`Corrupt`](ErrorKind::Corrupt): superblocks, segment table, map or a durable part of the
    ///   log are damaged; the message says where. Nothing was changed.
    /// - Otherwise the device's own code.
    pub async fn open_on(env: E, namespace: N, options: Options) -> Result<Self> {
        let store = open(env, namespace, &options).await?;
        Ok(Self::of(store, options.durability, true))
    }

    fn of(store: Rc<CoreStore<E, N>>, durability: Durability, is_opener: bool) -> Self {
        Self { opened: Rc::new(Opened { store, durability, trees: RefCell::default(), is_opener }) }
    }

    /// A further core's first handle.
    pub(super) fn attached(store: Rc<CoreStore<E, N>>, durability: Durability) -> Self {
        Self::of(store, durability, false)
    }

    /// The store, for further cores to attach to.
    pub fn shared(&self) -> SharedDb {
        SharedDb::new(&self.store().shared, self.opened.durability)
    }

    pub(super) fn store(&self) -> &Rc<CoreStore<E, N>> {
        &self.opened.store
    }

    pub(super) fn durability(&self, options: WriteOptions) -> Durability {
        options.durability.unwrap_or(self.opened.durability)
    }

    /// What is to be waited for after a write with this number; None if nothing was written.
    pub(super) fn commit_of(&self, number: Option<u64>, durability: Durability) -> Commit {
        number.map_or_else(Commit::default, |lsn| Commit { lsn, wait: durability == Durability::Sync })
    }

    /// The tree called `name` (at most 255 bytes). It comes into being with the first write to it.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput): the name is too long.
    pub fn tree(&self, name: &str) -> Result<Tree<E, N>> {
        if name.len() > MAX_TREE_NAME_BYTES {
            return Err(Error::new(ErrorKind::InvalidInput, "open tree")
                .because(format!(
                    "its name has {} bytes, at most {MAX_TREE_NAME_BYTES} are allowed",
                    name.len()
                ))
                .outcome_is(Outcome::NotStarted));
        }
        let mut trees = self.opened.trees.borrow_mut();
        let named = match trees.get(name) {
            Some(named) => Rc::clone(named),
            None => {
                let named = Rc::new(Named::new(name));
                trees.insert(name.into(), Rc::clone(&named));
                named
            }
        };
        drop(trees);
        Ok(Tree::new(self.clone(), named))
    }

    /// The names of the trees that were written to, in the order in which they came to be.
    pub fn tree_names(&self) -> Vec<String> {
        self.store().trees().into_iter().map(|tree| tree.name.into()).collect()
    }

    /// Removes the tree called `name` with all that it has; returns whether there was one. Handles
    /// of it stay: the first write makes it again.
    ///
    /// # Errors
    ///
    /// As for [`Tree::clear`].
    pub async fn remove_tree(&self, name: &str, options: WriteOptions) -> Result<bool> {
        let durability = self.durability(options);
        let number = self.store().remove_tree(name, durability).await?;
        self.wait(self.commit_of(number, durability)).await?;
        Ok(number.is_some())
    }

    /// Runs `run` over the declared `keys` as one transaction, and waits for its durability.
    ///
    /// The keys' pages and values are loaded first; then `run` runs without interruption, and what
    /// it wrote is applied and logged: all of it survives a crash, or nothing. If it wrote nothing,
    /// the log is not touched. It may run several times, when the keys have changed before its
    /// writes were applied: the last run counts. `run` must not write to the store by other means.
    ///
    /// Trees that are declared and do not exist are made.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`]; and [`LimitReached`](ErrorKind::LimitReached) if what is written is
    /// longer than a quarter of the log may be. If it is refused, nothing was applied, unless the
    /// options let it be divided.
    pub async fn transact<R>(
        &self,
        keys: &[(&Tree<E, N>, &[u8])],
        options: WriteOptions,
        run: impl FnMut(&mut Transaction<'_>) -> R,
    ) -> Result<R> {
        let (result, commit) = self.apply(keys, options, run).await?;
        self.wait(commit).await?;
        Ok(result)
    }

    /// Like [`Db::transact`], without waiting for durability: give the commit to [`Db::wait`]. A
    /// server applies a pipeline of commands like this and waits once, for all commits joined by
    /// [`Commit::and`].
    ///
    /// # Errors
    ///
    /// As for [`Db::transact`].
    pub async fn apply<R>(
        &self,
        keys: &[(&Tree<E, N>, &[u8])],
        options: WriteOptions,
        mut run: impl FnMut(&mut Transaction<'_>) -> R,
    ) -> Result<(R, Commit)> {
        let durability = self.durability(options);
        loop {
            // One key, which is the most frequent number, takes no memory of its own.
            let (one, many);
            let declared: &[Key<'_>] = match keys {
                [(tree, key)] => {
                    one = [(tree.root_to_write().await?, *key)];
                    &one
                }
                _ => {
                    let mut all = Vec::with_capacity(keys.len());
                    for (tree, key) in keys {
                        all.push((tree.root_to_write().await?, *key));
                    }
                    many = all;
                    &many
                }
            };
            let done = self.store().transact(declared, durability, &mut run).await;
            match done {
                Ok((result, number)) => return Ok((result, self.commit_of(number, durability))),
                // A tree was cleared meanwhile: its name leads to another one now.
                Err(error) if lost_name(&error).is_some() => {}
                Err(error) if options.divisible && is_want_of_room(&error) => {
                    match self.store().transact_in_parts(declared, durability, &mut run).await {
                        Ok(Some((result, number))) => {
                            return Ok((result, self.commit_of(number, durability)));
                        }
                        Ok(None) => return Err(error),
                        Err(error) if lost_name(&error).is_some() => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What `run` makes of the declared `keys`, all as of one moment. Nothing is written, and
    /// nothing that writers wait for is waited for: it works on a store that is full, closed or has
    /// failed.
    /// `run` must not call the store.
    ///
    /// # Errors
    ///
    /// As for [`Tree::get`].
    pub async fn read<R>(
        &self,
        keys: &[(&Tree<E, N>, &[u8])],
        run: impl FnOnce(&Reading<'_>) -> R,
    ) -> Result<R> {
        let mut run = Some(run);
        loop {
            let mut declared: Vec<Key<'_>> = Vec::with_capacity(keys.len());
            for (tree, key) in keys {
                declared.push(match tree.root() {
                    Some(root) => (root, *key),
                    None => absent_key(),
                });
            }
            let read = self.store().read(&declared, |reading| run.take().map(|run| run(reading))).await;
            match read {
                Ok(result) => return Ok(result.expect("it runs once")),
                Err(error) if lost_name(&error).is_some() && run.is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until a write is as durable as it asked for.
    ///
    /// # Errors
    ///
    /// The error of the device, with outcome [`Unknown`](Outcome::Unknown): the write was applied,
    /// and may be found again after the store is reopened.
    pub async fn wait(&self, commit: Commit) -> Result<()> {
        if commit.wait { self.store().wait(commit.lsn).await } else { Ok(()) }
    }

    /// Makes everything written so far durable, and waits for it.
    ///
    /// # Errors
    ///
    /// As for [`Db::wait`].
    pub async fn flush(&self) -> Result<()> {
        match self.last_lsn() {
            0 => Ok(()),
            last => self.store().wait(last).await,
        }
    }

    /// The log sequence number of the newest write.
    pub fn last_lsn(&self) -> u64 {
        self.store().next_number() - 1
    }

    /// The log sequence number up to which everything is durable.
    pub fn durable_lsn(&self) -> u64 {
        self.store().durable_number() - 1
    }

    /// Writes every changed page, so that the log before this call is not needed any more.
    ///
    /// # Errors
    ///
    /// As for [`Db::wait`].
    pub async fn checkpoint(&self) -> Result<()> {
        self.store().checkpoint().await
    }

    /// Refuses further writes, takes a last checkpoint, and ends the background tasks. Reads still
    /// work.
    ///
    /// # Errors
    ///
    /// As for [`Db::wait`]; the store is closed in any case.
    pub async fn close(&self) -> Result<()> {
        self.store().close().await
    }

    /// Makes this core's writes durable and completes when it has nothing of the store under way:
    /// for a core that ends while the store goes on. Finish everything else with the store on this
    /// core first, and drop its other handles.
    ///
    /// A core that ends in the middle of a write of the log takes the store with it: nobody knows
    /// what became of that write, so the store fails for the other cores, and is to be opened
    /// again. On the core that opened the store this is [`Db::close`].
    ///
    /// # Errors
    ///
    /// The store has failed.
    pub async fn detach(self) -> Result<()> {
        if self.opened.is_opener { self.close().await } else { self.store().rest().await }
    }

    /// Reads and checks everything that the store refers to; reports what is damaged, with the keys
    /// that it costs, and whether pages are lost. Reads and writes go on meanwhile.
    ///
    /// # Errors
    ///
    /// Only what keeps the check from being done; damage is in the report.
    pub async fn verify(&self) -> Result<VerifyReport> {
        self.verify_with(|_| ()).await
    }

    /// Like [`Db::verify`]; tells `progress` now and then what was found so far.
    ///
    /// # Errors
    ///
    /// As for [`Db::verify`].
    pub async fn verify_with(&self, progress: impl FnMut(&VerifyReport)) -> Result<VerifyReport> {
        self.store().verify(progress).await
    }

    /// Sizes and counters.
    pub fn stats(&self) -> Stats {
        self.store().stats()
    }

    /// Fails if the store takes no more writes, because it was closed or because an I/O failed.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed), or that I/O's error.
    pub fn health(&self) -> Result<()> {
        self.store().check_health()
    }

    /// Waits until the store takes no more writes because an I/O failed, and returns that I/O's
    /// error. A server that cannot write is better ended, and started again when the device works.
    /// A read that fails, or finds damage, is no such failure; nor is a namespace that is full.
    pub async fn failed(&self) -> Error {
        self.store().failed().await
    }
}
