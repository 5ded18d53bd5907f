//! What a store's handles and background tasks share, and how pages get into memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::disk::Disk;
use super::env::Env;
use super::options::Options;
use super::page::{Blob, Page};
use super::scratch::Scratch;
use super::state::{Failure, StoreState};
use super::tree_state::{Descent, Missing, Seek};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::sync::local::Notify;

pub(super) struct StoreShared<E, N> {
    pub(super) env: E,
    pub(super) disk: Disk<N>,
    pub(super) options: Options,
    pub(super) state: RefCell<StoreState>,
    /// Wakes the task that writes the log.
    pub(super) log_wake: Notify,
    /// Wakes the task that takes checkpoints.
    pub(super) checkpoint_wake: Notify,
    /// Wakes the task that writes large values.
    pub(super) external_wake: Notify,
    /// Told when the log or a checkpoint has moved on, or the store failed.
    pub(super) progress: Notify,
    /// Told when more of the log is durable, or the store failed.
    pub(super) durable: Notify,
    /// Told when the store failed.
    pub(super) failure: Notify,
    /// The sequence numbers of the superblock copies, and the newest.
    pub(super) copies: Cell<[u64; 4]>,
    pub(super) tasks: Cell<u32>,
    /// Buffers for the next transaction.
    pub(super) scratch: Cell<Scratch>,
}

impl<E: Env, N: Namespace> StoreShared<E, N> {
    pub(super) fn new(env: E, disk: Disk<N>, options: Options, state: StoreState, copies: [u64; 4]) -> Self {
        Self {
            env,
            disk,
            options,
            state: RefCell::new(state),
            log_wake: Notify::new(),
            checkpoint_wake: Notify::new(),
            external_wake: Notify::new(),
            progress: Notify::new(),
            durable: Notify::new(),
            failure: Notify::new(),
            copies: Cell::new(copies),
            tasks: Cell::new(0),
            scratch: Cell::default(),
        }
    }

    /// Records that an I/O that writes depend on failed: no write is taken any more, those that
    /// wait get the error.
    pub(super) fn fail(&self, error: &Error) {
        let mut state = self.state.borrow_mut();
        if state.failed.is_none() {
            tracing::error!("store {} failed: {error}", self.disk.name());
            state.failed = Some(Failure::of(error));
        }
        drop(state);
        self.failure.notify_all();
        self.wake_all();
    }

    pub(super) fn wake_all(&self) {
        self.log_wake.notify_all();
        self.checkpoint_wake.notify_all();
        self.external_wake.notify_all();
        self.progress.notify_all();
        self.durable.notify_all();
    }

    /// The error of the failure, if there was one.
    pub(super) fn check_failed(&self, operation: &'static str, outcome: Outcome) -> Result<()> {
        match &self.state.borrow().failed {
            Some(failure) => Err(failure.error(operation, outcome)),
            None => Ok(()),
        }
    }

    /// Asks for a checkpoint to start.
    pub(super) fn request_checkpoint(&self) {
        self.state.borrow_mut().checkpoint.requested = true;
        self.checkpoint_wake.notify_all();
    }

    /// Waits until a checkpoint that starts after this call is complete.
    pub(super) async fn wait_checkpoint(&self) -> Result<()> {
        let target = self.state.borrow().checkpoint.started + 1;
        loop {
            self.check_failed("checkpoint", Outcome::Unknown)?;
            {
                let state = self.state.borrow();
                if state.checkpoint.completed >= target {
                    return Ok(());
                }
                if state.closed {
                    return Err(Error::new(ErrorKind::Closed, "checkpoint").because("the store was closed"));
                }
            }
            self.request_checkpoint();
            self.progress.notified().await;
        }
    }

    /// The leaf that `seek` leads to in `tree`, loaded if need be; `None` if the tree is empty.
    pub(super) async fn leaf(&self, tree: u32, seek: Seek<'_>) -> Result<Option<Rc<Page>>> {
        loop {
            let missing = match self.state.borrow().tree(tree).descend(seek) {
                Descent::Empty => return Ok(None),
                Descent::Leaf(page) => return Ok(Some(page)),
                Descent::Missing(missing) => missing,
            };
            self.load(tree, seek, missing).await?;
        }
    }

    /// Loads a page that a descent found missing. The caller descends again: the tree may have
    /// changed meanwhile.
    pub(super) async fn load(&self, tree: u32, seek: Seek<'_>, missing: Missing) -> Result<()> {
        let read = self.disk.read_object(missing.reference).await;
        let mut state = self.state.borrow_mut();
        let current = match state.tree(tree).descend(seek) {
            Descent::Missing(now) => now.reference == missing.reference,
            _ => false,
        };
        if !current {
            // Its units may have been reused while they were read.
            return Ok(());
        }
        let (content, stored) = read?;
        let corrupt = |what| self.disk.corrupt(missing.reference.address, what);
        let body = Page::decode(content, &mut state.ledger).map_err(corrupt)?;
        let (lower, upper) = state.tree(tree).bounds(seek);
        let bounds = (lower.as_deref(), upper.as_deref());
        Page::check_place(&body, missing.level, &missing.reference, bounds).map_err(corrupt)?;
        state.counters.page_loads += 1;
        let (tree, ledger) = state.tree_and_ledger(tree);
        tree.install(seek, body, stored, ledger);
        state.evict();
        Ok(())
    }

    /// The bytes of a large value, loaded if need be.
    pub(super) async fn blob(&self, blob: &Blob) -> Result<Rc<[u8]>> {
        blob.touched.set(true);
        if let Some(bytes) = &*blob.bytes.borrow() {
            return Ok(Rc::clone(bytes));
        }
        let reference = blob.stored.borrow().as_ref().map(|stored| stored.reference);
        let reference = reference.expect("a value is in memory or on the namespace");
        let (content, stored) = self.disk.read_object(reference).await?;
        let bytes: Rc<[u8]> = content.into();
        let mut state = self.state.borrow_mut();
        if !blob.superseded.get() {
            *blob.stored.borrow_mut() = Some(stored);
            blob.cache(Rc::clone(&bytes), &mut state.ledger);
        }
        state.evict();
        Ok(bytes)
    }
}
