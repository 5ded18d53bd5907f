//! Checkpoints: what changed since the last one goes to free units, then the superblocks point to
//! it.
//!
//! The snapshot is the roots. While it is written, the live trees copy what they change, so the
//! snapshot stays as it was when it was taken. See the disk format, section 7, for the order and
//! why a crash at any point is harmless.

use std::rc::Rc;

use super::catalog::{self, CatalogEntry};
use super::commit::flush_healthy;
use super::disk::RunWriter;
use super::env::Env;
use super::evacuate;
use super::log::LogPoint;
use super::object::{FLAG_HAS_OVERFLOW, ObjectRef, Placement, Stored};
use super::options::StoreDefect;
use super::page::{Blob, Body, Garbage, Ledger, Page, PageRef};
use super::shared::StoreShared;
use super::space::Extent;
use super::state::StoreState;
use super::superblock::{self, Superblock};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};
use crate::rt::yield_now;

/// A tree that is freed lets other tasks run after this many pages.
const PAGES_PER_TURN: usize = 256;

/// Takes checkpoints when they are asked for, until the store is closed or failed.
pub(super) async fn run<E: Env, N: Namespace>(shared: Rc<StoreShared<E, N>>) {
    loop {
        {
            let mut state = shared.state.borrow_mut();
            if state.failed.is_some() || state.closed {
                break;
            }
            let checkpoint = &mut state.checkpoint;
            if checkpoint.requested && checkpoint.paused == 0 {
                checkpoint.requested = false;
                checkpoint.running = true;
                checkpoint.started += 1;
            }
        }
        if !shared.state.borrow().checkpoint.running {
            shared.checkpoint_wake.notified().await;
            continue;
        }
        shared.tidy(usize::MAX).await;
        let clean = shared.state.borrow().closing;
        let result = take(&shared, clean).await;
        {
            let mut state = shared.state.borrow_mut();
            state.checkpoint.running = false;
            state.checkpoint.completed = state.checkpoint.started;
            state.evict();
        }
        match result {
            Ok(()) => {
                shared.progress.notify_all();
                shared.durable.notify_all();
                evacuate::step(&shared).await;
                // Neither may have had anything to wait for.
                yield_now().await;
            }
            Err(error) => shared.fail(&error),
        }
    }
    shared.tasks.set(shared.tasks.get() - 1);
    shared.progress.notify_all();
}

/// What a checkpoint holds on to while it is written.
struct Snapshot {
    trees: Vec<(CatalogEntry, Option<PageRef>)>,
    next_id: u32,
    log_start: LogPoint,
    /// Extents that become free once this checkpoint is durable.
    freeing: Vec<Extent>,
    externals: u64,
}

/// Takes one checkpoint.
pub(super) async fn take<E: Env, N: Namespace>(shared: &StoreShared<E, N>, clean: bool) -> Result<()> {
    resolve_garbage(shared).await?;
    let snapshot = {
        let mut state = shared.state.borrow_mut();
        let unchanged = !state.checkpoint_helps_now() && state.log.last_lsn() == state.checkpoint.lsn;
        if unchanged && !clean && shared.copies.get()[0] > 0 {
            return Ok(());
        }
        snapshot(&mut state)
    };
    if shared.options.defect == Some(StoreDefect::FreeEarly) {
        free(shared, &snapshot.freeing)?;
    }
    while shared.state.borrow().externals_written < snapshot.externals {
        shared.check_failed("checkpoint", crate::error::Outcome::NotStarted)?;
        shared.progress.notified().await;
    }
    let mut writer = PageWriter::new(shared);
    let mut entries = Vec::with_capacity(snapshot.trees.len());
    for (mut entry, root) in snapshot.trees {
        entry.root = match &root {
            None => ObjectRef::default(),
            Some(PageRef::OnDisk(reference)) => *reference,
            Some(PageRef::Resident(page)) => writer.write_tree(page).await?,
        };
        entries.push(entry);
    }
    let catalog = writer.write_object(&catalog::encode(&entries, snapshot.next_id), 0).await?;
    let map = writer.write_map(&snapshot.freeing).await?;
    writer.run.flush(&shared.disk).await?;
    let written = writer.run.total_bytes;
    flush_healthy(shared).await?;
    let superblock = {
        let mut state = shared.state.borrow_mut();
        state.meta = vec![catalog.clone(), map.clone()];
        state.counters.checkpoint_bytes += written;
        describe(shared, &state, snapshot.log_start, catalog.reference, map.reference, clean)
    };
    let mut copies = shared.copies.get();
    superblock::write(&shared.disk, &superblock, &mut copies, || flush_healthy(shared)).await?;
    shared.copies.set(copies);
    if shared.options.defect != Some(StoreDefect::FreeEarly) {
        free(shared, &snapshot.freeing)?;
    }
    let mut state = shared.state.borrow_mut();
    state.checkpoint.units = 0;
    state.checkpoint.freeing_units = 0;
    state.checkpoint.space_units = superblock.units;
    state.checkpoint.lsn = snapshot.log_start.next_lsn - 1;
    state.log.checkpointed(snapshot.log_start);
    Ok(())
}

/// Gives units back that no checkpoint refers to any more.
fn free<E: Env, N: Namespace>(shared: &StoreShared<E, N>, extents: &[Extent]) -> Result<()> {
    let mut state = shared.state.borrow_mut();
    for &extent in extents {
        if !state.space.release(extent) {
            let offset = extent.start.saturating_mul(u64::from(shared.disk.unit));
            return Err(shared.disk.corrupt(offset, "units that were in use are free in the allocation map"));
        }
    }
    Ok(())
}

/// The superblock of the store as it is, for the given start of the log and places.
pub(super) fn describe<E: Env, N: Namespace>(
    shared: &StoreShared<E, N>,
    state: &StoreState,
    log_start: LogPoint,
    catalog: ObjectRef,
    map: ObjectRef,
    clean: bool,
) -> Superblock {
    let ring = state.log.ring;
    Superblock {
        clean,
        identity: ring.identity,
        sequence: shared.copies.get().iter().max().copied().unwrap_or(0) + 1,
        epoch: state.log.epoch,
        block: ring.block,
        unit: shared.disk.unit,
        units: state.space.units(),
        log_offset: ring.offset,
        log_len: ring.len,
        log_start,
        catalog,
        map,
    }
}

impl StoreState {
    /// Whether anything changed since the last snapshot.
    fn checkpoint_helps_now(&self) -> bool {
        self.ledger.dirty_units > 0
            || self.ledger.has_released()
            || self.space.units() != self.checkpoint.space_units
    }
}

fn snapshot(state: &mut StoreState) -> Snapshot {
    let overhead = state.overhead_units();
    state.checkpoint.units = state.ledger.snapshot() + overhead;
    state.space.rewind();
    for stored in std::mem::take(&mut state.meta) {
        state.ledger.release(&stored);
    }
    let freeing = state.ledger.take_released();
    state.checkpoint.freeing_units = freeing.iter().map(|extent| u64::from(extent.units)).sum();
    state.external_extents.clear();
    let created = |tree: &&super::tree_state::TreeState| tree.created;
    let trees: Vec<_> = (0u32..)
        .zip(&state.trees)
        .filter_map(|(id, tree)| tree.as_ref().filter(created).map(|tree| (id, tree)))
        .map(|(id, tree)| {
            let entry =
                CatalogEntry { id, len: tree.len, root: ObjectRef::default(), name: tree.name.clone() };
            (entry, tree.root.clone())
        })
        .collect();
    Snapshot {
        next_id: trees.last().map_or(0, |(entry, _)| entry.id + 1),
        trees,
        log_start: state.log.seal(),
        freeing,
        externals: state.log.externals(),
    }
}

/// Finds the units of detached trees and unread indexes. What cannot be read stays in use: it is
/// lost, but nothing else is.
async fn resolve_garbage<E: Env, N: Namespace>(shared: &StoreShared<E, N>) -> Result<()> {
    loop {
        let garbage = shared.state.borrow_mut().ledger.next_garbage();
        let result = match garbage {
            None => return Ok(()),
            Some(Garbage::Object(reference)) => match shared.disk.object_extents(reference).await {
                Ok(extents) => {
                    shared.state.borrow_mut().ledger.release_extents(extents);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Some(Garbage::Tree(root)) => free_tree(shared, root).await,
        };
        if let Err(error) = result {
            tracing::warn!(
                "units of {} that nothing refers to could not be freed: {error}",
                shared.disk.name()
            );
        }
    }
}

async fn free_tree<E: Env, N: Namespace>(shared: &StoreShared<E, N>, root: PageRef) -> Result<()> {
    let mut stack = vec![(root, None)];
    let mut result = Ok(());
    let mut freed = 0;
    while let Some((slot, level)) = stack.pop() {
        freed += 1;
        if freed % PAGES_PER_TURN == 0 {
            yield_now().await;
        }
        match slot {
            PageRef::Resident(page) => {
                let mut state = shared.state.borrow_mut();
                match &page.body {
                    Body::Leaf(leaf) => leaf.blobs().iter().for_each(|blob| blob.retire(&mut state.ledger)),
                    Body::Inner(inner) => stack.extend(children(inner)),
                }
                page.retire(&mut state.ledger);
            }
            PageRef::OnDisk(reference)
                if level == Some(0)
                    && reference.flags & FLAG_HAS_OVERFLOW == 0
                    && !reference.is_scattered() =>
            {
                shared.state.borrow_mut().ledger.release(&Stored::from_ref(reference));
            }
            PageRef::OnDisk(reference) => {
                let read = shared.disk.read_object(reference).await;
                let mut state = shared.state.borrow_mut();
                let ledger: &mut Ledger = &mut state.ledger;
                let decoded = read.and_then(|(content, stored)| {
                    let corrupt = |what| shared.disk.corrupt(reference.address, what);
                    let body = Page::decode(content, ledger).map_err(corrupt)?;
                    Page::check_place(&body, level, &reference, (None, None)).map_err(corrupt)?;
                    Ok((body, stored))
                });
                match decoded {
                    Ok((body, stored)) => {
                        match &body {
                            Body::Leaf(leaf) => leaf.blobs().iter().for_each(|blob| blob.retire(ledger)),
                            Body::Inner(inner) => stack.extend(children(inner)),
                        }
                        ledger.release(&stored);
                    }
                    Err(error) => result = Err(error),
                }
            }
        }
    }
    result
}

fn children(inner: &super::page::Inner) -> impl Iterator<Item = (PageRef, Option<u8>)> + '_ {
    (0..inner.count()).map(|index| (inner.child(index).borrow().clone(), Some(inner.level - 1)))
}

/// Something that was handed to the run writer and becomes "stored" once that has written it.
enum Written {
    Page(Rc<Page>, Stored),
    Blob(Rc<Blob>, Stored),
}

struct PageWriter<'a, E, N> {
    shared: &'a StoreShared<E, N>,
    run: RunWriter,
    written: Vec<Written>,
}

impl<'a, E: Env, N: Namespace> PageWriter<'a, E, N> {
    fn new(shared: &'a StoreShared<E, N>) -> Self {
        Self { shared, run: RunWriter::new(&shared.disk), written: Vec::new() }
    }

    /// Writes what changed in a tree, children before parents; returns the reference to its root.
    async fn write_tree(&mut self, root: &Rc<Page>) -> Result<ObjectRef> {
        let mut levels = Vec::new();
        collect_dirty(root, &mut levels);
        for (level, pages) in levels.into_iter().enumerate() {
            if level == 0 {
                for page in &pages {
                    self.write_blobs(page).await?;
                }
                self.settle().await?;
            }
            for page in pages {
                let (content, flags) = match &page.body {
                    Body::Leaf(leaf) => {
                        (leaf.encode(), if leaf.blobs().is_empty() { 0 } else { FLAG_HAS_OVERFLOW })
                    }
                    Body::Inner(inner) => (inner.encode(), 0),
                };
                let stored = self.write_object(&content, flags).await?;
                self.written.push(Written::Page(page, stored));
            }
            self.settle().await?;
        }
        Ok(root.reference().expect("the root was clean, or is written now"))
    }

    async fn write_blobs(&mut self, page: &Page) -> Result<()> {
        let Body::Leaf(leaf) = &page.body else { return Ok(()) };
        for blob in leaf.blobs() {
            if blob.stored.borrow().is_some() {
                continue;
            }
            let bytes = blob.bytes.borrow().clone().expect("a value that is not stored is in memory");
            let stored = self.write_object(&bytes, 0).await?;
            self.written.push(Written::Blob(Rc::clone(blob), stored));
        }
        Ok(())
    }

    /// Waits for what was handed over, and only then marks it as stored: nobody may read it back
    /// earlier.
    async fn settle(&mut self) -> Result<()> {
        self.run.flush(&self.shared.disk).await?;
        let mut state = self.shared.state.borrow_mut();
        for written in self.written.drain(..) {
            match written {
                Written::Page(page, stored) => page.written(stored, &mut state.ledger),
                Written::Blob(blob, stored) => blob.written(stored, &mut state.ledger),
            }
        }
        Ok(())
    }

    async fn write_object(&mut self, content: &[u8], flags: u32) -> Result<Stored> {
        let placement = {
            let mut state = self.shared.state.borrow_mut();
            let placement = Placement::allocate(&mut state.space, content.len(), self.shared.disk.unit);
            let taken = placement.as_ref().map_or(0, Placement::units);
            state.checkpoint.units = state.checkpoint.units.saturating_sub(taken);
            placement.ok_or_else(|| self.no_space())?
        };
        self.write_placed(placement, content, flags).await
    }

    async fn write_placed(&mut self, placement: Placement, content: &[u8], flags: u32) -> Result<Stored> {
        let plan = placement.plan(content, flags);
        for (extent, range) in plan.content {
            self.run.push(&self.shared.disk, extent, &content[range]).await?;
        }
        for (extent, page) in plan.index {
            self.run.push(&self.shared.disk, extent, &page).await?;
        }
        Ok(plan.stored)
    }

    /// Writes the allocation map of this checkpoint, the map's own units included.
    async fn write_map(&mut self, freeing: &[Extent]) -> Result<Stored> {
        const SLACK_BYTES: usize = 64;
        let (placement, content) = {
            let mut guard = self.shared.state.borrow_mut();
            let state = &mut *guard;
            loop {
                let len = state.space.used_bytes() + SLACK_BYTES;
                let placement = Placement::allocate(&mut state.space, len, self.shared.disk.unit)
                    .ok_or_else(|| self.no_space())?;
                if state.space.used_bytes() <= len {
                    let freeing = if self.shared.options.defect == Some(StoreDefect::FreeEarly) {
                        &[]
                    } else {
                        freeing
                    };
                    let except = freeing.iter().chain(&state.external_extents);
                    break (placement, state.space.to_bytes(len, except));
                }
                state.space.undo(placement.extents());
            }
        };
        self.write_placed(placement, &content, 0).await
    }

    fn no_space(&self) -> Error {
        Error::new(ErrorKind::NoSpace, "checkpoint").at(self.shared.disk.name().to_owned())
    }
}

/// The changed pages by level, leaves first, in key order.
fn collect_dirty(page: &Rc<Page>, levels: &mut Vec<Vec<Rc<Page>>>) {
    if !page.is_dirty() {
        return;
    }
    let level = page.as_inner().map_or(0, |inner| usize::from(inner.level));
    if levels.len() <= level {
        levels.resize_with(level + 1, Vec::new);
    }
    if let Some(inner) = page.as_inner() {
        for index in 0..inner.count() {
            if let PageRef::Resident(child) = &*inner.child(index).borrow() {
                collect_dirty(child, levels);
            }
        }
    }
    levels[level].push(Rc::clone(page));
}
