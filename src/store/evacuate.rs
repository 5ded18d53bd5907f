//! The steps by which a namespace becomes smaller ([`Shrink`] says in which order): what lies
//! beyond its new end is moved, then the end is given back.

use std::cell::Cell;
use std::rc::Rc;

use super::codec::{to_u32, to_usize};
use super::cost::{Cost, Demand};
use super::env::Env;
use super::object::{FLAG_HAS_OVERFLOW, ObjectRef, Stored, plain_extent, value_units};
use super::page::{Blob, Body, LeafValue, Page, PageRef};
use super::shared::StoreShared;
use super::shrink::{Evacuation, Shrink};
use super::space::grow_step_bytes;
use super::state::{Admission, Lookup, StoreState};
use super::tree_state::{Descent, Missing, Seek, TreeState};
use crate::block::Namespace;
use crate::error::Result;
use crate::rt::yield_now;

/// A namespace may have as much more than its content calls for as its log takes, and at least
/// this.
const MIN_SLACK_BYTES: u64 = 4 << 20;
/// How much is moved between two checkpoints.
const MOVE_BYTES: u64 = 16 << 20;
/// How many pages are looked at before other tasks run.
const PAGES_PER_TURN: u32 = 4096;
/// How many pages are loaded or moved before a checkpoint that others wait for comes first.
const MIN_TURNS: u32 = 64;
/// How many checkpoints are taken for an attempt, besides four for each time that [`MOVE_BYTES`]
/// fit the namespace.
const MIN_ROUNDS: u64 = 64;
impl StoreState {
    /// The size, in units, up to which the namespace grows rather than wait for a checkpoint, and
    /// down to which it shrinks: one and a half times what the trees take, and twice the log.
    pub(super) fn largest_units(&self) -> u64 {
        let content = self.content_units();
        self.log_end_units() + content + content / 2 + self.slack_units()
    }

    /// Where the log ends: below that nothing moves.
    fn log_end_units(&self) -> u64 {
        (self.log.ring.offset + self.log.ring.len) / u64::from(self.ledger.unit)
    }

    fn slack_units(&self) -> u64 {
        self.log.ring.len.max(MIN_SLACK_BYTES) / u64::from(self.ledger.unit)
    }

    /// Whether a checkpoint should be taken so that the namespace shrinks.
    pub(super) fn should_shrink(&self) -> bool {
        !self.shrink.is_resting() && self.is_too_large()
    }

    fn is_too_large(&self) -> bool {
        let (size, unit) = (self.space.units(), u64::from(self.ledger.unit));
        size > self.min_units && size > self.largest_units() + grow_step_bytes(size * unit) / unit
    }

    /// The size, in units, that a shrinking namespace gets: with some room to write before it grows
    /// again.
    fn shrunk_units(&self) -> u64 {
        let content = self.content_units();
        let room = content / 4 + self.slack_units() / 2 + self.reserve_units();
        (self.log_end_units() + content + room + 2 * self.overhead_units()).max(self.min_units)
    }
}

/// Takes the next step towards a smaller namespace, if it should be smaller. To be called after a
/// checkpoint.
pub(super) async fn step<E: Env, N: Namespace>(shared: &StoreShared<E, N>) {
    if let Err(error) = try_step(shared).await {
        // It stays as large as it is, which harms nobody.
        tracing::warn!("{} could not be made smaller: {error}", shared.disk.name());
        give_up(&mut shared.state.borrow_mut());
    }
}

fn give_up(state: &mut StoreState) {
    state.shrink = Shrink::after_failure();
    state.space.set_ceiling(u64::MAX);
}

async fn try_step<E: Env, N: Namespace>(shared: &StoreShared<E, N>) -> Result<()> {
    if shared.disk.units() > shared.state.borrow().space.units() {
        return truncate(shared).await;
    }
    let Some(target) = target(shared) else { return Ok(()) };
    let has_moved = shared.state.borrow().space.top() > target && evacuate(shared, target).await?;
    let mut state = shared.state.borrow_mut();
    let rounds = state.shrink.evacuation().map_or(0, Evacuation::count_round);
    let most_rounds = MIN_ROUNDS + 4 * state.space.units() * u64::from(shared.disk.unit) / MOVE_BYTES;
    if state.space.top() <= target && state.has_room_in(target) {
        state.space.shrink(target);
    } else if (!has_moved && state.released_units() == 0) || rounds > most_rounds {
        // The next checkpoint would change nothing.
        give_up(&mut state);
        return Ok(());
    }
    // It writes what was moved and frees where that was, or records the new size.
    state.checkpoint.requested = true;
    Ok(())
}

/// The checkpoint that was just taken knows the smaller size: gives the rest back.
async fn truncate<E: Env, N: Namespace>(shared: &StoreShared<E, N>) -> Result<()> {
    let units = {
        let mut state = shared.state.borrow_mut();
        if state.checkpoint.space_units != state.space.units() {
            return Ok(());
        }
        state.shrink = Shrink::Truncating;
        state.space.units()
    };
    let before = shared.disk.namespace.size_bytes();
    let result = shared.disk.namespace.shrink(units * u64::from(shared.disk.unit)).await;
    let mut state = shared.state.borrow_mut();
    // What was not given back can be used.
    state.space.grow(shared.disk.units());
    state.space.set_ceiling(u64::MAX);
    state.shrink = Shrink::Idle;
    // More may have become free meanwhile.
    state.checkpoint.requested |= result.is_ok() && state.should_shrink();
    drop(state);
    shared.progress.notify_all();
    let now = shared.disk.namespace.size_bytes();
    if now < before {
        tracing::debug!("{} shrank from {} to {} MiB", shared.disk.name(), before >> 20, now >> 20);
    }
    result
}

/// What the size is to become, if it is to become smaller; sets the ceiling.
fn target<E: Env, N: Namespace>(shared: &StoreShared<E, N>) -> Option<u64> {
    let mut state = shared.state.borrow_mut();
    if let Some(target) = state.shrink.evacuation().map(|evacuation| evacuation.target) {
        // More was written meanwhile than was foreseen.
        if state.shrunk_units() > target + target / 8 {
            give_up(&mut state);
            return None;
        }
        return Some(target);
    }
    let target = state.shrunk_units();
    if state.shrink.rest() || !state.is_too_large() || target >= state.space.units() {
        return None;
    }
    state.shrink = Shrink::Evacuating(Evacuation::to(target));
    state.space.set_ceiling(target);
    Some(target)
}

/// Counts some of what lies beyond `ceiling` as changed. Returns whether there was any, or may be.
async fn evacuate<E: Env, N: Namespace>(shared: &StoreShared<E, N>, ceiling: u64) -> Result<bool> {
    let (mut moved_units, mut turns) = (0, 0);
    while moved_units * u64::from(shared.disk.unit) < MOVE_BYTES {
        // No checkpoint is taken meanwhile: this goes on after one that others wait for.
        if turns >= MIN_TURNS && shared.state.borrow().checkpoint.requested {
            return Ok(true);
        }
        turns += 1;
        let (tree, found) = {
            let mut guard = shared.state.borrow_mut();
            let state = &mut *guard;
            let Some(Evacuation { tree, key, .. }) = state.shrink.evacuation() else { break };
            let tree = *tree;
            if tree >= state.trees.len() {
                break;
            }
            let search = Search { ceiling, unit: shared.disk.unit, left: Cell::new(PAGES_PER_TURN) };
            let owner = state.trees[tree].as_ref();
            let found = owner.and_then(|owner| owner.find_beyond(key, &search));
            (to_u32(tree), found)
        };
        let Some((key, beyond)) = found else {
            shared.state.borrow_mut().shrink.go_on_at(to_usize(u64::from(tree)) + 1, Vec::new());
            continue;
        };
        match beyond {
            // It is looked into at once, before the cache can let it go again.
            Beyond::Missing(missing) => shared.load(tree, Seek::Key(&key), missing).await?,
            Beyond::Page(level) => {
                let Some(units) = move_page(shared, tree, &key, level, ceiling).await? else {
                    // There is no room for it before a checkpoint gives some back.
                    return Ok(moved_units > 0);
                };
                moved_units += units;
                yield_now().await;
            }
            Beyond::Unknown => yield_now().await,
        }
        shared.state.borrow_mut().shrink.go_on_at(to_usize(u64::from(tree)), key);
    }
    let mut guard = shared.state.borrow_mut();
    let state = &mut *guard;
    let is_over = state.shrink.evacuation().is_some_and(|evacuation| evacuation.tree >= state.trees.len());
    if is_over {
        state.shrink.go_on_at(0, Vec::new());
    }
    Ok(moved_units > 0)
}

/// Counts the page at `level` that holds `key` as changed and, if it is a leaf, puts its values
/// that lie beyond `ceiling` anew. Returns how many units that takes; `None` if there is no room
/// for it now.
async fn move_page<E: Env, N: Namespace>(
    shared: &StoreShared<E, N>,
    tree: u32,
    key: &[u8],
    level: u8,
    ceiling: u64,
) -> Result<Option<u64>> {
    let search = Search { ceiling, unit: shared.disk.unit, left: Cell::new(0) };
    let (mut units, values) = {
        let mut guard = shared.state.borrow_mut();
        let state = &mut *guard;
        let leaf = match state.tree(tree).descend(Seek::Key(key)) {
            Descent::Leaf(leaf) if level == 0 => Some(leaf),
            _ => None,
        };
        let values = leaf.as_ref().map_or_else(Vec::new, |leaf| values_beyond(leaf, &search));
        let lies_beyond = leaf.is_none_or(|leaf| search.is_beyond(leaf.stored.borrow().as_ref()));
        let units = if lies_beyond { state.change_units(tree, 1, 0) } else { 0 };
        if state.room_for(Cost { units, demand: Demand::Frees }) != Admission::Go {
            return Ok(None);
        }
        if lies_beyond {
            let (owner, ledger) = state.tree_and_ledger(tree);
            owner.touch(key, level, ledger);
        }
        (units, values)
    };
    for (key, blob) in values {
        find_extents(shared, &blob).await?;
        if !search.blob_is_beyond(&blob) {
            continue;
        }
        let bytes = shared.blob(&blob).await?;
        while shared.state.borrow_mut().is_pressed_by_values() {
            shared.check_failed("move value", crate::error::Outcome::NotStarted)?;
            shared.progress.notified().await;
        }
        let mut guard = shared.state.borrow_mut();
        let state = &mut *guard;
        let is_same = match state.lookup(tree, &key) {
            Lookup::Found(page, index) => match page.as_leaf().map(|leaf| leaf.value(index)) {
                Some(LeafValue::Overflow(now)) => Rc::ptr_eq(now, &blob),
                _ => false,
            },
            _ => false,
        };
        // Somebody has overwritten it, or its leaf was evicted: then the next pass finds it.
        if !is_same {
            continue;
        }
        let cost = state.change_units(tree, 1, 0) + value_units(bytes.len(), shared.disk.unit);
        if state.room_for(Cost { units: cost, demand: Demand::Frees }) != Admission::Go {
            return Ok(None);
        }
        let Some(prepared) = state.prepare(&bytes, false) else { return Ok(None) };
        let done = state.put(tree, &key, &prepared);
        assert!(done.is_ok(), "the leaf was just looked up");
        units += cost;
        drop(guard);
        shared.external_wake.notify_all();
    }
    Ok(Some(units))
}

/// Reads where a scattered value lies, if that is not known yet.
async fn find_extents<E: Env, N: Namespace>(shared: &StoreShared<E, N>, blob: &Blob) -> Result<()> {
    let unknown = match &*blob.stored.borrow() {
        Some(stored) if stored.reference.is_scattered() && stored.scattered.is_none() => stored.reference,
        _ => return Ok(()),
    };
    let extents = shared.disk.object_extents(unknown).await?;
    // A value that was overwritten meanwhile was given back as it was known then.
    if !blob.superseded.get() {
        *blob.stored.borrow_mut() = Some(Stored { reference: unknown, scattered: Some(extents.into()) });
    }
    Ok(())
}

fn values_beyond(leaf: &Page, search: &Search) -> Vec<(Vec<u8>, Rc<Blob>)> {
    let Some(leaf) = leaf.as_leaf() else { return Vec::new() };
    if leaf.blobs().is_empty() {
        return Vec::new();
    }
    (0..leaf.count())
        .filter_map(|index| match leaf.value(index) {
            LeafValue::Overflow(blob) if search.blob_is_beyond(blob) => {
                Some((leaf.key(index).to_vec(), Rc::clone(blob)))
            }
            _ => None,
        })
        .collect()
}

/// What has to be moved, or looked into, next.
enum Beyond {
    /// A page of this level.
    Page(u8),
    /// A page that has to be loaded first.
    Missing(Missing),
    /// What comes from here on was not looked at.
    Unknown,
}

struct Search {
    ceiling: u64,
    unit: u32,
    /// How many more pages are looked at.
    left: Cell<u32>,
}

impl TreeState {
    /// The first page that holds keys from `from` on and lies, or has a value that lies, beyond the
    /// ceiling, and a key that leads to it.
    fn find_beyond(&self, from: &[u8], search: &Search) -> Option<(Vec<u8>, Beyond)> {
        find_in(self.root.as_ref()?, None, from, search)
    }
}

/// Searches below `slot`, to which `from` leads; `level` is what its parent says.
fn find_in(slot: &PageRef, level: Option<u8>, from: &[u8], search: &Search) -> Option<(Vec<u8>, Beyond)> {
    let found = |beyond| Some((from.to_vec(), beyond));
    if search.left.get() == 0 {
        return found(Beyond::Unknown);
    }
    search.left.set(search.left.get() - 1);
    let page = match slot {
        PageRef::Resident(page) => page,
        PageRef::OnDisk(reference) => {
            // What cannot be told from the reference is looked into.
            let has_more = level != Some(0) || reference.flags & FLAG_HAS_OVERFLOW != 0;
            if has_more || reference.is_scattered() || search.has_beyond(reference) {
                return found(Beyond::Missing(Missing { reference: *reference, level }));
            }
            return None;
        }
    };
    let is_beyond = search.is_beyond(page.stored.borrow().as_ref());
    match &page.body {
        Body::Leaf(leaf) if is_beyond || leaf.blobs().iter().any(|blob| search.blob_is_beyond(blob)) => {
            found(Beyond::Page(0))
        }
        Body::Leaf(_) => None,
        Body::Inner(inner) if is_beyond => found(Beyond::Page(inner.level)),
        Body::Inner(inner) => (inner.child_for(from)..inner.count()).find_map(|index| {
            let lower = if index == 0 { from } else { inner.separator(index - 1).max(from) };
            find_in(&inner.child(index).borrow(), Some(inner.level - 1), lower, search)
        }),
    }
}

impl Search {
    fn blob_is_beyond(&self, blob: &Blob) -> bool {
        self.is_beyond(blob.stored.borrow().as_ref())
    }

    /// Whether any of an object lies beyond. One whose extents are not known may.
    fn is_beyond(&self, stored: Option<&Stored>) -> bool {
        let Some(stored) = stored else { return false };
        match &stored.scattered {
            Some(extents) => extents.iter().any(|extent| extent.end() > self.ceiling),
            None => stored.reference.is_scattered() || self.has_beyond(&stored.reference),
        }
    }

    fn has_beyond(&self, plain: &ObjectRef) -> bool {
        plain_extent(plain, self.unit).end() > self.ceiling
    }
}
