//! The state of an open store, without its I/O: trees, space, log, accounts.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::codec::to_usize;
use super::cost::{Cost, Demand};
use super::log::Log;
use super::object::{Stored, object_cost};
use super::options::{MAX_TREE_NAME_BYTES, MAX_TREES};
use super::page::{Ledger, PageRef};
use super::shrink::Shrink;
use super::space::{Extent, Space};
use super::tree_state::{Seek, TreeState};
use crate::error::{Error, ErrorKind, Outcome, Result};

/// Units that are kept back for writes that take no more room in the end, besides a share of the
/// namespace.
const RESERVE_UNITS: u64 = 64;
/// That share, and the most that this comes to.
const RESERVE_SHARE: u64 = 64;
const MAX_RESERVE_SHARE_UNITS: u64 = 4096;
/// The share of the namespace that a checkpoint is taken for so that it becomes free again.
const RELEASED_SHARE: u64 = 8;
/// The least and the most that this comes to.
const MIN_RELEASED_UNITS: u64 = 256;
const MAX_RELEASED_UNITS: u64 = 256 << 10;
/// How many nearly empty leaves are remembered. Each write sees to those that were left before it.
const MAX_SPARSE: usize = 4096;
/// Changed pages below this never call for a checkpoint.
const MIN_DIRTY_LIMIT_BYTES: usize = 4 << 20;
/// Values on their way to their place beyond this make writers wait.
const MAX_EXTERNAL_QUEUE_BYTES: usize = 64 << 20;

/// Why the store takes no more writes.
#[derive(Clone)]
pub(super) struct Failure {
    kind: ErrorKind,
    code: Option<i32>,
    text: String,
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        Self { kind: error.kind(), code: error.code(), text: error.to_string() }
    }

    /// The error that a write, or one that waits for its durability, gets.
    pub(super) fn error(&self, operation: &'static str, outcome: Outcome) -> Error {
        let error = match self.code {
            Some(code) => Error::os(code, operation),
            None => Error::new(self.kind, operation),
        };
        let text =
            format!("the store failed and takes no more writes until it is opened again: {}", self.text);
        error.because(text).outcome_is(outcome)
    }
}

/// A large value on its way to its place.
pub(super) struct External {
    pub(super) sequence: u64,
    pub(super) bytes: Rc<[u8]>,
    pub(super) content: Vec<(Extent, std::ops::Range<usize>)>,
    pub(super) index: Vec<(Extent, Vec<u8>)>,
}

/// Where checkpoints stand.
#[derive(Default)]
pub(super) struct CheckpointState {
    pub(super) requested: bool,
    /// While greater than zero no checkpoint starts.
    pub(super) paused: u32,
    pub(super) running: bool,
    pub(super) started: u64,
    pub(super) completed: u64,
    /// Units that the running checkpoint may still take.
    pub(super) units: u64,
    /// Units that the running checkpoint gives back when it is durable.
    pub(super) freeing_units: u64,
    /// The size of the namespace that the last one recorded, in units.
    pub(super) space_units: u64,
    /// The LSN up to which the last one goes.
    pub(super) lsn: u64,
}

/// What was counted since the store was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) user_bytes: u64,
    pub(super) log_bytes: u64,
    pub(super) log_batches: u64,
    pub(super) flushes: u64,
    pub(super) checkpoint_bytes: u64,
    pub(super) page_loads: u64,
    pub(super) evictions: u64,
}

pub(super) struct StoreState {
    /// By id; ids that no tree has are gaps.
    pub(super) trees: Vec<Option<TreeState>>,
    pub(super) by_name: HashMap<String, u32>,
    pub(super) ledger: Ledger,
    pub(super) space: Space,
    pub(super) log: Log,
    pub(super) failed: Option<Failure>,
    /// No writes any more: closed, or the last handle is gone.
    pub(super) closing: bool,
    pub(super) closed: bool,
    /// One transaction waits for space with its writes decided: no other may write.
    pub(super) exclusive: bool,
    /// The size, in units, that the namespace cannot be made smaller than.
    pub(super) min_units: u64,
    /// How it is being made smaller.
    pub(super) shrink: Shrink,
    pub(super) checkpoint: CheckpointState,
    /// Where the catalog and the map of the last checkpoint are.
    pub(super) meta: Vec<Stored>,
    /// Extents of values written ahead of the log since the last snapshot.
    pub(super) external_extents: Vec<Extent>,
    pub(super) externals: VecDeque<External>,
    pub(super) external_queue_bytes: usize,
    pub(super) externals_written: u64,
    pub(super) cache_bytes: usize,
    /// Where eviction continues.
    hand: (usize, Vec<u8>),
    pub(super) counters: Counters,
    /// Trees, and keys that lead to nearly empty leaves whose neighbours have to be loaded to merge
    /// with them.
    sparse: VecDeque<(u32, Vec<u8>)>,
}

/// Whether a write may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Go,
    /// Until the log or a checkpoint has moved on.
    Wait,
    /// There is no room for it now.
    Short,
}

impl StoreState {
    pub(super) fn new(space: Space, log: Log, unit: u32, cache_bytes: usize) -> Self {
        Self {
            trees: Vec::new(),
            by_name: HashMap::new(),
            ledger: Ledger::new(unit),
            space,
            log,
            failed: None,
            closing: false,
            closed: false,
            exclusive: false,
            min_units: u64::MAX,
            shrink: Shrink::default(),
            checkpoint: CheckpointState::default(),
            meta: Vec::new(),
            external_extents: Vec::new(),
            externals: VecDeque::new(),
            external_queue_bytes: 0,
            externals_written: 0,
            cache_bytes,
            hand: (0, Vec::new()),
            counters: Counters::default(),
            sparse: VecDeque::new(),
        }
    }

    pub(super) fn tree(&self, id: u32) -> &TreeState {
        self.trees[id as usize].as_ref().expect("a handle's tree exists")
    }

    /// The parts that a change of a tree touches.
    pub(super) fn tree_and_ledger(&mut self, id: u32) -> (&mut TreeState, &mut Ledger) {
        (self.trees[id as usize].as_mut().expect("a handle's tree exists"), &mut self.ledger)
    }

    /// Adds a tree under the next id.
    ///
    /// # Errors
    ///
    /// The name is too long, or there are too many trees.
    pub(super) fn add_tree(&mut self, name: &str) -> Result<u32> {
        if name.len() > MAX_TREE_NAME_BYTES {
            return Err(Error::new(ErrorKind::InvalidInput, "open tree").because(format!(
                "the name has {} bytes, at most {MAX_TREE_NAME_BYTES} are allowed",
                name.len()
            )));
        }
        if self.by_name.len() >= MAX_TREES {
            return Err(Error::new(ErrorKind::LimitReached, "open tree")
                .because(format!("the store has {MAX_TREES} trees already")));
        }
        // Ids of trees that were opened and never written to are free again after the store was
        // reopened.
        let free = self.trees.iter().position(Option::is_none);
        let id = super::codec::to_u32(free.unwrap_or(self.trees.len()));
        self.place_tree(id, TreeState::new(name.to_owned()));
        Ok(id)
    }

    /// Puts a tree at its id.
    pub(super) fn place_tree(&mut self, id: u32, tree: TreeState) {
        if self.trees.len() <= id as usize {
            self.trees.resize_with(id as usize + 1, || None);
        }
        self.by_name.insert(tree.name.clone(), id);
        self.trees[id as usize] = Some(tree);
    }

    /// Takes note of a leaf that was left nearly empty beside a neighbour that is not in memory.
    pub(super) fn note_sparse(&mut self, tree: u32, key: &[u8]) {
        if self.sparse.len() < MAX_SPARSE {
            self.sparse.push_back((tree, key.to_vec()));
        }
    }

    pub(super) fn next_sparse(&mut self) -> Option<(u32, Vec<u8>)> {
        self.sparse.pop_front()
    }

    /// Whether a write may go on that takes up to `cost`.
    pub(super) fn admit(&mut self, cost: Cost) -> Result<Admission> {
        if let Some(failure) = &self.failed {
            return Err(failure.error("write to store", Outcome::NotStarted));
        }
        if self.closing {
            return Err(Error::new(ErrorKind::Closed, "write to store")
                .because("the store was closed")
                .outcome_is(Outcome::NotStarted));
        }
        if self.exclusive || self.log.is_congested() || self.external_queue_bytes > MAX_EXTERNAL_QUEUE_BYTES {
            return Ok(Admission::Wait);
        }
        if self.outruns_checkpoints() {
            self.checkpoint.requested = true;
            return Ok(Admission::Wait);
        }
        Ok(self.room_for(cost))
    }

    /// Whether a checkpoint should be taken: much was changed, or much would be given back, or the
    /// log needs room.
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.dirty_bytes() > self.dirty_limit_bytes()
            || self.log.is_half_full()
            || self.ledger.released_units() > self.released_limit_units()
            || self.should_shrink()
    }

    /// Whether writers have to wait for the next checkpoint.
    fn outruns_checkpoints(&self) -> bool {
        // While checkpoints are paused room is used up instead; what has changed has to stay in
        // memory.
        let may_come = self.checkpoint.paused == 0;
        self.dirty_bytes() > 2 * self.dirty_limit_bytes()
            || (may_come && self.released_units() > 2 * self.released_limit_units())
    }

    /// The units that nothing live uses but that are not free before a checkpoint is durable.
    pub(super) fn released_units(&self) -> u64 {
        self.ledger.released_units() + self.checkpoint.freeing_units
    }

    /// How many of those a checkpoint is taken for.
    fn released_limit_units(&self) -> u64 {
        (self.space.units() / RELEASED_SHARE).clamp(MIN_RELEASED_UNITS, MAX_RELEASED_UNITS)
    }

    /// Whether writers should wait for the log or a checkpoint.
    pub(super) fn is_pressed(&mut self) -> bool {
        if self.failed.is_some() || self.closed {
            return false;
        }
        let too_much = self.outruns_checkpoints();
        self.checkpoint.requested |= too_much;
        too_much || self.log.is_congested() || self.external_queue_bytes > MAX_EXTERNAL_QUEUE_BYTES
    }

    /// Whether too many values are on their way to their places.
    pub(super) fn is_pressed_by_values(&self) -> bool {
        self.failed.is_none() && !self.closed && self.external_queue_bytes > MAX_EXTERNAL_QUEUE_BYTES
    }

    /// Whether there is room for `cost`.
    pub(super) fn room_for(&self, cost: Cost) -> Admission {
        let kept_back = match cost.demand {
            Demand::Frees => 0,
            Demand::Keeps => self.reserve_units() / 2,
            Demand::Grows => self.reserve_units(),
        };
        let needed = self.promised_units() + kept_back + cost.units;
        if self.space.free_units() >= needed { Admission::Go } else { Admission::Short }
    }

    /// Whether the namespace could do with `units` units.
    pub(super) fn has_room_in(&self, units: u64) -> bool {
        let cut = self.space.units().saturating_sub(units);
        self.space.free_units() >= cut + self.promised_units() + self.reserve_units()
    }

    /// The units that checkpoints will take for what has changed already.
    fn promised_units(&self) -> u64 {
        self.ledger.dirty_units + self.checkpoint.units + self.overhead_units()
    }

    /// The units that are kept back for writes that take no more room in the end.
    pub(super) fn reserve_units(&self) -> u64 {
        RESERVE_UNITS + (self.space.units() / RESERVE_SHARE).min(MAX_RESERVE_SHARE_UNITS)
    }

    fn dirty_bytes(&self) -> usize {
        to_usize(self.ledger.dirty_units) * self.ledger.unit as usize
    }

    fn dirty_limit_bytes(&self) -> usize {
        (self.cache_bytes / 4).max(MIN_DIRTY_LIMIT_BYTES)
    }

    /// The units that pages and values take, or will.
    pub(super) fn object_units(&self) -> u64 {
        self.space.object_units() + self.ledger.dirty_units
    }

    /// The units that the trees take, or will at the next checkpoint.
    pub(super) fn content_units(&self) -> u64 {
        self.object_units().saturating_sub(self.released_units())
    }

    /// The units that every checkpoint takes for the catalog and the map.
    pub(super) fn overhead_units(&self) -> u64 {
        let map = to_usize(self.space.units() / 8) + 1024;
        let catalog = 8 + self.trees.len() * (MAX_TREE_NAME_BYTES + 48);
        object_cost(map, self.ledger.unit) + object_cost(catalog, self.ledger.unit)
    }

    /// Whether a checkpoint would change anything.
    pub(super) fn checkpoint_helps(&self) -> bool {
        self.checkpoint.running || self.ledger.dirty_units > 0 || self.ledger.has_released()
    }

    /// Lets go of some clean, unused leaves and values if more is in memory than the cache may
    /// hold: the more the further it is beyond, since one large value can be worth many leaves.
    pub(super) fn evict(&mut self) {
        const MAX_STEPS: usize = 64;
        const MIN_STEP_BYTES: usize = 128 << 10;
        if self.trees.is_empty() {
            return;
        }
        // What was changed has to stay, so looking for more would be in vain.
        let changed = self.dirty_bytes() + to_usize(self.checkpoint.units) * self.ledger.unit as usize;
        let excess = self.ledger.resident_bytes.saturating_sub(self.cache_bytes + changed);
        let steps = (excess / (self.cache_bytes / MAX_STEPS).max(MIN_STEP_BYTES)).min(MAX_STEPS) + 1;
        let mut trees_finished = 0;
        for _ in 0..steps {
            // At most once round: a leaf's second chance lasts until the next call, so that what
            // was just loaded is used.
            if self.ledger.resident_bytes <= self.cache_bytes || trees_finished == self.trees.len() {
                break;
            }
            trees_finished += usize::from(self.evict_step());
        }
    }

    /// Moves the hand on; says whether it came to the end of a tree.
    fn evict_step(&mut self) -> bool {
        const LEAVES_PER_STEP: usize = 16;
        let (tree_index, key) = &mut self.hand;
        *tree_index %= self.trees.len();
        let next = match &self.trees[*tree_index] {
            Some(tree) => evict_from(tree, key, LEAVES_PER_STEP, &mut self.ledger, &mut self.counters),
            None => None,
        };
        match next {
            Some(next) => {
                *key = next;
                false
            }
            None => {
                *tree_index += 1;
                key.clear();
                true
            }
        }
    }
}

/// Looks at up to `count` leaves under one inner page from `hand` on; returns where to continue, if
/// not at the end.
fn evict_from(
    tree: &TreeState,
    hand: &[u8],
    count: usize,
    ledger: &mut Ledger,
    counters: &mut Counters,
) -> Option<Vec<u8>> {
    let Some(PageRef::Resident(root)) = &tree.root else { return None };
    let mut page = Rc::clone(root);
    let mut upper: Option<Vec<u8>> = None;
    loop {
        let next = {
            let Some(inner) = page.as_inner() else {
                // A root that is a leaf stays, but its values may be large.
                page.as_leaf()?.blobs().iter().for_each(|blob| blob.evict(ledger));
                return None;
            };
            let index = inner.child_for(hand);
            if inner.level == 1 {
                let end = inner.count().min(index + count);
                for child in index..end {
                    evict_page(&mut inner.child(child).borrow_mut(), ledger, counters);
                }
                return if end < inner.count() { Some(inner.separator(end - 1).to_vec()) } else { upper };
            }
            if index + 1 < inner.count() {
                upper = Some(inner.separator(index).to_vec());
            }
            match &*inner.child(index).borrow() {
                PageRef::Resident(child) => Rc::clone(child),
                PageRef::OnDisk(_) => return upper,
            }
        };
        page = next;
    }
}

fn evict_page(slot: &mut PageRef, ledger: &mut Ledger, counters: &mut Counters) {
    let PageRef::Resident(page) = slot else { return };
    let Some(leaf) = page.as_leaf() else { return };
    let unused = !page.touched.replace(false);
    match page.reference() {
        Some(reference) if unused && Rc::strong_count(page) == 1 => {
            leaf.blobs().iter().for_each(|blob| blob.evicted(ledger));
            page.evicted(ledger);
            *slot = PageRef::OnDisk(reference);
            counters.evictions += 1;
        }
        _ => leaf.blobs().iter().for_each(|blob| blob.evict(ledger)),
    }
}

/// What a lookup in memory found.
pub(super) enum Lookup {
    Absent,
    /// The leaf and the index in it.
    Found(Rc<super::page::Page>, usize),
    Missing(super::tree_state::Missing),
}

impl StoreState {
    /// Looks `key` up among the pages in memory.
    pub(super) fn lookup(&self, tree: u32, key: &[u8]) -> Lookup {
        match self.tree(tree).descend(Seek::Key(key)) {
            super::tree_state::Descent::Empty => Lookup::Absent,
            super::tree_state::Descent::Missing(missing) => Lookup::Missing(missing),
            super::tree_state::Descent::Leaf(page) => {
                match page.as_leaf().expect("a descent ends at a leaf").search(key) {
                    Ok(index) => Lookup::Found(page, index),
                    Err(_) => Lookup::Absent,
                }
            }
        }
    }
}
