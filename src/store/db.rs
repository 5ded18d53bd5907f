//! The store's front door: opening, trees, transactions, durability, closing.

use std::rc::Rc;

use super::env::{Env, RtEnv};
use super::options::{Options, WriteOptions};
use super::shared::StoreShared;
use super::stats::Stats;
use super::tree::Tree;
use super::txn::Txn;
use super::verify::{self, VerifyReport};
use super::write::Commit;
use super::{checkpoint, commit, recover};
use crate::block::{AnyNamespace, Namespace};
use crate::error::{Error, ErrorKind, Outcome, Result};

/// A store on a [`Namespace`], in an environment that gives it tasks and time.
///
/// A handle is cheap to clone and belongs to one core. When the last one is dropped, what was
/// written so far is made durable in the background; [`Db::close`] waits for that and saves the
/// next opening the replay of the log.
pub struct Db<E = RtEnv, N = AnyNamespace> {
    shared: Rc<StoreShared<E, N>>,
    /// Ends the background tasks when the last handle goes.
    guard: Rc<CloseGuard>,
}

impl<E, N> Clone for Db<E, N> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared), guard: Rc::clone(&self.guard) }
    }
}

impl<E, N> std::fmt::Debug for Db<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").finish_non_exhaustive()
    }
}

/// Runs once, when the last handle is dropped.
struct CloseGuard(Box<dyn Fn()>);

impl Drop for CloseGuard {
    fn drop(&mut self) {
        (self.0)();
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
    /// - [`UnsupportedFormat`](ErrorKind::UnsupportedFormat): a newer version wrote it.
    /// - [`Corrupt`](ErrorKind::Corrupt): superblocks, catalog, map or a durable part of the log
    ///   are damaged; the message says where. Nothing was changed.
    /// - Otherwise the device's own code.
    pub async fn open_on(env: E, namespace: N, options: Options) -> Result<Self> {
        let shared = Rc::new(recover::open(env, namespace, options).await?);
        shared.tasks.set(3);
        {
            let mut state = shared.state.borrow_mut();
            let min_size_bytes = shared.disk.namespace.info().min_size_bytes;
            state.min_units = min_size_bytes.div_ceil(u64::from(shared.disk.unit));
            state.checkpoint.requested = state.ledger.has_released() || state.should_shrink();
        }
        shared.env.spawn("store log", commit::run(Rc::clone(&shared)));
        shared.env.spawn("store checkpoint", checkpoint::run(Rc::clone(&shared)));
        shared.env.spawn("store values", commit::run_values(Rc::clone(&shared)));
        let last = Rc::clone(&shared);
        let guard = CloseGuard(Box::new(move || abandon(&last)));
        Ok(Self { shared, guard: Rc::new(guard) })
    }

    pub(super) fn shared(&self) -> &StoreShared<E, N> {
        &self.shared
    }

    /// The tree called `name` (at most 255 bytes). It comes into being with the first write to it.
    ///
    /// # Errors
    ///
    /// The name is too long, or there are 1024 trees already.
    pub fn tree(&self, name: &str) -> Result<Tree<E, N>> {
        let mut state = self.shared.state.borrow_mut();
        let id = match state.by_name.get(name) {
            Some(&id) => id,
            None => state.add_tree(name)?,
        };
        drop(state);
        Ok(Tree::new(self.clone(), id))
    }

    /// The names of the trees that were written to, in no particular order.
    pub fn tree_names(&self) -> Vec<String> {
        let state = self.shared.state.borrow();
        state.trees.iter().flatten().filter(|tree| tree.created).map(|tree| tree.name.clone()).collect()
    }

    /// Runs `run` over the declared `keys` as one transaction, and waits for its durability.
    ///
    /// The keys' pages and values are loaded first; then `run` runs once, without interruption, and
    /// what it wrote is applied and logged as one record: all of it survives a crash, or nothing.
    /// If it wrote nothing, the log is not touched. `run` must not write to the store by other
    /// means.
    ///
    /// # Errors
    ///
    /// As for [`Tree::put`]; and [`LimitReached`](ErrorKind::LimitReached) if the keys and values
    /// of up to 2 KiB exceed [`MAX_TRANSACTION_BYTES`](super::MAX_TRANSACTION_BYTES). If it is
    /// refused, nothing was applied, unless the options let it be divided.
    pub async fn transact<R>(
        &self,
        keys: &[(&Tree<E, N>, &[u8])],
        options: WriteOptions,
        run: impl FnOnce(&mut Txn<'_>) -> R,
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
        run: impl FnOnce(&mut Txn<'_>) -> R,
    ) -> Result<(R, Commit)> {
        if let [(tree, key)] = keys {
            return self.shared.transact(&[(tree.parts().1, key)], options, run).await;
        }
        let keys: Vec<_> = keys.iter().map(|(tree, key)| (tree.parts().1, *key)).collect();
        self.shared.transact(&keys, options, run).await
    }

    /// Waits until a write is as durable as it asked for.
    ///
    /// # Errors
    ///
    /// The error of the device, with outcome [`Unknown`](Outcome::Unknown): the write was applied,
    /// and may be found again after the store is reopened.
    pub async fn wait(&self, commit: Commit) -> Result<()> {
        self.shared.wait(commit).await
    }

    /// Makes everything written so far durable, and waits for it.
    ///
    /// # Errors
    ///
    /// As for [`Db::wait`].
    pub async fn flush(&self) -> Result<()> {
        let lsn = self.shared.state.borrow().log.last_lsn();
        self.shared.make_durable(lsn).await
    }

    /// The log sequence number of the newest write.
    pub fn last_lsn(&self) -> u64 {
        self.shared.state.borrow().log.last_lsn()
    }

    /// The log sequence number up to which everything is durable.
    pub fn durable_lsn(&self) -> u64 {
        self.shared.state.borrow().log.durable_lsn
    }

    /// Writes every changed page, so that the log before this call is not needed any more.
    ///
    /// # Errors
    ///
    /// As for [`Db::wait`].
    pub async fn checkpoint(&self) -> Result<()> {
        self.shared.wait_checkpoint().await
    }

    /// Refuses further writes, takes a last checkpoint, and ends the background tasks. Reads still
    /// work.
    ///
    /// # Errors
    ///
    /// As for [`Db::wait`]; the store is closed in any case.
    pub async fn close(&self) -> Result<()> {
        let shared = &self.shared;
        if shared.state.borrow().closed {
            return Ok(());
        }
        shared.state.borrow_mut().closing = true;
        let result = shared.wait_checkpoint().await;
        shared.state.borrow_mut().closed = true;
        shared.wake_all();
        while shared.tasks.get() > 0 {
            shared.progress.notified().await;
        }
        result
    }

    /// Reads and checks everything that the store refers to; reports what is damaged and whether
    /// units are lost. Writes go on meanwhile, checkpoints wait.
    ///
    /// # Errors
    ///
    /// Only what keeps the check from being done; damage is in the report.
    pub async fn verify(&self) -> Result<VerifyReport> {
        verify::run(&self.shared).await
    }

    /// Sizes and counters.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.shared.state.borrow())
    }

    /// Fails if the store takes no more writes because an I/O failed.
    ///
    /// # Errors
    ///
    /// That I/O's error.
    pub fn health(&self) -> Result<()> {
        if self.shared.state.borrow().closing {
            return Err(Error::new(ErrorKind::Closed, "store")
                .because("the store was closed")
                .outcome_is(Outcome::NotStarted));
        }
        self.shared.check_failed("store", Outcome::NotStarted)
    }

    /// Waits until the store takes no more writes because an I/O failed, and returns that I/O's
    /// error. A server that cannot write is better ended, and started again when the device works.
    /// A read that fails, or finds damage, is no such failure; nor is a namespace that is full.
    pub async fn failed(&self) -> Error {
        loop {
            if let Err(error) = self.shared.check_failed("store", Outcome::NotStarted) {
                return error;
            }
            self.shared.failure.notified().await;
        }
    }
}

/// The last handle is gone: what is buffered is committed by the background task, then everything
/// ends.
fn abandon<E: Env, N: Namespace>(shared: &Rc<StoreShared<E, N>>) {
    let mut state = shared.state.borrow_mut();
    if state.closed {
        return;
    }
    state.closing = true;
    let lsn = state.log.last_lsn();
    drop(state);
    let last = Rc::clone(shared);
    shared.env.spawn("store close", async move {
        if let Err(error) = last.make_durable(lsn).await {
            tracing::error!("the last writes to store {} were lost: {error}", last.disk.name());
        }
        last.state.borrow_mut().closed = true;
        last.wake_all();
    });
}
