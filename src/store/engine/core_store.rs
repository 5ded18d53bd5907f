//! What the cores of a store share, and one core's part of it.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::change::Kept;
use super::counts::{Count, count};
use super::defect::Defects;
use super::dying::lost::Dying;
use super::in_flight::Loads;
use super::latches::Latches;
use super::lengths::{Lengths, LengthsOfCore};
use super::log::{CoreDriver, LogDriver};
use super::log_limit::{KeptForCore, LogLimit};
use super::meters::Meters;
use super::overlays::{Access, Overlays};
use super::pending::Pending;
use super::registry::Trees;
use super::signal::{Errand, Progress, Signal};
use super::space::account::{Space, reserve};
use super::state::PageState;
use super::values::numbers::LongValues;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt::Instant;
use crate::store::btree::{Core, IMAGE_BYTES, Nodes};
use crate::store::cache::hand::{Hand, Round};
use crate::store::cache::{CacheMemory, CacheMemoryOfCore};
use crate::store::env::Env;
use crate::store::events::{Event, Events};
use crate::store::failure::Failure;
use crate::store::flush::Flusher;
use crate::store::growth::Growth;
use crate::store::pages::{Geometry, Owner};
use crate::store::word::PageId;

/// No more than this share of a store has to be durable together,
const GROWTH_SHARE: u64 = 16;
/// and no more than this share of what no write is admitted to fill.
const GROWTH_RESERVE_SHARE: u32 = 2;

/// One core's part of the pages in memory.
pub(super) type NodesOfCore = Core<CacheMemoryOfCore>;

/// What all cores of a store share. It has no namespace: each core has a handle of its own.
pub(in crate::store) struct Shared {
    pub(super) name: String,
    /// As it was when the store was opened: it may have grown.
    pub(super) owner: Owner,
    pub(super) memory: CacheMemory,
    pub(super) nodes: Arc<Nodes<CacheMemoryOfCore>>,
    pub(super) log: Arc<LogDriver>,
    pub(super) state: Arc<Mutex<PageState>>,
    flusher: Mutex<Flusher>,
    wanted: Mutex<Vec<PageId>>,
    /// What the log has and the trees do not.
    pub(super) overlay: Overlays,
    /// Of keys that a step writes.
    pub(super) latches: Latches,
    /// Keys of a large transaction that is not decided.
    pub(super) pending: Pending,
    trees: Mutex<Trees>,
    pub(super) lengths: Lengths,
    pub(super) loads: Loads,
    pub(super) values: LongValues,
    pub(super) dying: Dying,
    pub(super) round: Arc<Round>,
    /// There is something for the keeper to do.
    pub(super) keeper: Arc<Signal>,
    /// The keeper has done something.
    pub(super) progress: Progress,
    pub(super) requests: Mutex<Requests>,
    pub(super) wanted_log_bytes: u64,
    pub(super) log_limit: Arc<LogLimit>,
    /// How much may wait to be durable together.
    pub(super) growth: Arc<Growth>,
    /// Writes may be refused: the store was asked to close, or has failed.
    may_refuse: AtomicBool,
    /// Somebody waits, and nothing moves.
    stands_still: AtomicBool,
    is_memory_waited_for: AtomicBool,
    pub(super) space: Space,
    pub(super) meters: Meters,
    events: Mutex<Vec<Arc<Events>>>,
    /// Ask the cores for memory that they do not use.
    collectors: Mutex<Vec<Weak<Signal>>>,
    /// How many [duties](Duty) there are.
    duties: AtomicUsize,
    failure: OnceLock<Failure>,
}

/// What is asked of the keeper, and what it has done.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Checkpoints that were asked for, and those that are complete: numbers of requests.
    pub(super) wanted: u64,
    pub(super) done: u64,
    /// Requests up to this one were refused, and why.
    pub(super) refused: (u64, Option<(ErrorKind, String)>),
    /// The same for room for writes that grow.
    pub(super) room_wanted: u64,
    pub(super) room_done: u64,
    /// Whether the store closes: the last checkpoint includes everything.
    pub(super) is_closing: bool,
    /// The keeper has ended.
    pub(super) is_closed: bool,
}

impl Requests {
    /// What was asked so far, of each kind.
    pub(super) fn asked(&self) -> [u64; 2] {
        [self.wanted, self.room_wanted]
    }

    /// Checkpoints were taken, or refused, up to this request.
    pub(super) fn answered(&self) -> u64 {
        self.done.max(self.refused.0)
    }

    /// Whether all of that has an answer.
    pub(super) fn is_answered(&self, [checkpoint, room]: [u64; 2]) -> bool {
        self.answered() >= checkpoint && self.room_done >= room
    }
}

impl Shared {
    pub(in crate::store) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn new(
        name: String,
        (memory, nodes): (CacheMemory, Arc<Nodes<CacheMemoryOfCore>>),
        (log, state): (Arc<LogDriver>, Arc<Mutex<PageState>>),
        keeper: Arc<Signal>,
        (wanted_log_bytes, log_limit): (u64, Arc<LogLimit>),
    ) -> Self {
        let (owner, most, log_start) = {
            let state = lock(&state);
            // A group takes its segments all at once: it is to be little beside the store, and is
            // to find them when the store is full, which may be when little of it is solid.
            let geometry = state.owner.geometry;
            let least = Geometry { segments: 0, ..geometry };
            let reserve = reserve(if state.segments.is_sparse() { least } else { geometry });
            let kept = u64::from(reserve / GROWTH_RESERVE_SHARE) * u64::from(geometry.segment);
            let most = state.streams.growth_bytes().min(geometry.size_bytes() / GROWTH_SHARE);
            (state.owner, most.min(kept / 8 * 7), state.superblock.log.first_write)
        };
        Self {
            name,
            owner,
            memory,
            nodes,
            log,
            state,
            flusher: Mutex::new(Flusher::new(log_start, Defects::now().flush)),
            wanted: Mutex::default(),
            overlay: Overlays::default(),
            latches: Latches::default(),
            pending: Pending::default(),
            trees: Mutex::default(),
            lengths: Lengths::default(),
            loads: Loads::default(),
            values: LongValues::default(),
            dying: Dying::default(),
            round: Arc::default(),
            keeper,
            progress: Progress::default(),
            requests: Mutex::default(),
            wanted_log_bytes,
            log_limit,
            growth: Arc::new(Growth::new(most, IMAGE_BYTES as u64)),
            may_refuse: AtomicBool::new(false),
            stands_still: AtomicBool::new(false),
            is_memory_waited_for: AtomicBool::new(false),
            space: Space::default(),
            meters: Meters::default(),
            events: Mutex::default(),
            collectors: Mutex::default(),
            duties: AtomicUsize::new(0),
            failure: OnceLock::new(),
        }
    }

    /// The state of the pages. Nothing awaits while it is locked.
    pub(super) fn state(&self) -> MutexGuard<'_, PageState> {
        lock(&self.state)
    }

    /// The flusher: the keeper locks it for as long as it takes to capture the pages of a bundle,
    /// and any core to look at the growth. Nothing awaits meanwhile.
    pub(super) fn flusher(&self) -> MutexGuard<'_, Flusher> {
        lock(&self.flusher)
    }

    /// The evicter found these pages dirty. The keeper has them written.
    pub(super) fn want(&self, pages: impl IntoIterator<Item = PageId>) {
        lock(&self.wanted).extend(pages);
    }

    /// What was wanted since the call before.
    pub(super) fn take_wanted(&self) -> Vec<PageId> {
        std::mem::take(&mut *lock(&self.wanted))
    }

    /// The trees. Nothing awaits while they are locked.
    pub(super) fn trees(&self) -> MutexGuard<'_, Trees> {
        lock(&self.trees)
    }

    pub(super) fn requests(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }

    /// Appends the events of all cores.
    pub(super) fn take_events(&self, all: &mut Vec<Event>) {
        let known = all.len();
        lock(&self.events).iter().for_each(|queue| queue.drain(all));
        for event in &all[known..] {
            match event {
                Event::Split { .. } => count(Count::Splits),
                Event::RootSplit { .. } => count(Count::RootSplits),
                Event::Removed { .. } => count(Count::Removals),
                Event::Collapsed { .. } => count(Count::Collapses),
                Event::Packed { .. } => count(Count::Packs),
                Event::Dirty { .. } | Event::Posted { .. } => {}
            }
        }
    }

    pub(super) fn add_queue(&self) -> Arc<Events> {
        let queue = Arc::new(Events::counted(Arc::clone(&self.growth)));
        lock(&self.events).push(Arc::clone(&queue));
        queue
    }

    /// One more core can be asked for its memory.
    pub(super) fn add_collector(&self) -> Arc<Signal> {
        let asked = Arc::new(Signal::default());
        lock(&self.collectors).push(Arc::downgrade(&asked));
        asked
    }

    /// All cores give back the memory that they do not use (`collect`).
    pub(super) fn ask_for_memory(&self) {
        lock(&self.collectors).retain(|asked| {
            let asked = asked.upgrade();
            asked.inspect(|asked| asked.set()).is_some()
        });
    }

    /// Somebody waits for memory, and says so again when that took a while.
    pub(super) fn wait_for_memory_begins(&self) {
        self.is_memory_waited_for.store(true, Ordering::Relaxed);
    }

    /// Whether somebody did since the call before.
    pub(super) fn take_memory_waited_for(&self) -> bool {
        self.is_memory_waited_for.swap(false, Ordering::Relaxed)
    }

    pub(super) fn stands_still(&self) -> bool {
        self.stands_still.load(Ordering::Relaxed)
    }

    pub(super) fn set_standing_still(&self, stands_still: bool) {
        self.stands_still.store(stands_still, Ordering::Relaxed);
    }

    /// An I/O that writes depend on failed: no page is written any more. If the log has failed that
    /// is why.
    pub(super) fn fail(&self, error: &Error) {
        self.failure.get_or_init(|| {
            let failure = self.log.why_failed().unwrap_or_else(|| Failure::of(error));
            tracing::error!("store {} failed: {}", self.name, failure.text());
            failure
        });
        self.may_refuse.store(true, Ordering::Release);
        self.keeper.set();
        self.overlay.signal.set();
        self.progress.tell();
    }

    /// The store was closed, or has failed: what runs in the background ends.
    pub(super) fn is_over(&self) -> bool {
        self.requests().is_closed || self.failure.get().is_some()
    }

    /// Whether a task of the store still runs that has a [duty](Duty).
    pub(super) fn is_at_work(&self) -> bool {
        self.duties.load(Ordering::Relaxed) > 0
    }

    /// Asks the keeper for a checkpoint, the last one if the store `is_closing`. The number of the
    /// request.
    pub(super) fn request(&self, is_closing: bool) -> u64 {
        let mut requests = self.requests();
        requests.wanted += 1;
        requests.is_closing |= is_closing;
        self.may_refuse.fetch_or(is_closing, Ordering::Release);
        self.keeper.set();
        requests.wanted
    }

    /// The error for who wants to write to a store that has failed, or is being closed.
    pub(in crate::store) fn check_writable(&self, operation: &'static str) -> Result<()> {
        if !self.may_refuse.load(Ordering::Acquire) {
            return Ok(());
        }
        self.check_failed(operation, Outcome::NotStarted)?;
        if self.requests().is_closing { Err(closed(operation)) } else { Ok(()) }
    }

    /// The error of the failure, if there was one.
    pub(super) fn check_failed(&self, operation: &'static str, outcome: Outcome) -> Result<()> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.error(operation, outcome)))
    }
}

/// What runs in the background, as others see it: if it goes away before it is done, the store
/// fails, and nobody waits for it for ever.
pub(super) struct Duty {
    shared: Arc<Shared>,
    name: &'static str,
    is_done: bool,
}

impl Duty {
    pub(super) fn new(shared: &Arc<Shared>, name: &'static str) -> Self {
        shared.duties.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), name, is_done: false }
    }

    /// It has come to its end, or has said why not.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        // Of a store that was closed nothing is left to be done, however far this one has heard.
        if !self.is_done && !self.shared.is_over() {
            let why = format!("the task `{}` went away before it was done", self.name);
            self.shared.fail(&Error::new(ErrorKind::Cancelled, "keep store").because(why));
        }
        self.shared.duties.fetch_sub(1, Ordering::Relaxed);
        self.shared.progress.tell();
    }
}

/// However a task ends that does an errand, nobody waits for it then.
pub(super) struct ErrandEnds {
    pub(super) shared: Arc<Shared>,
    pub(super) of: fn(&Shared) -> &Errand,
}

impl Drop for ErrandEnds {
    fn drop(&mut self) {
        (self.of)(&self.shared).set_done(u64::MAX);
        self.shared.progress.tell();
    }
}

/// Locks what no panic leaves half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of an operation on a store that was closed, or is being closed.
pub(super) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation).because("the store was closed").outcome_is(Outcome::NotStarted)
}

/// One core's part of a store.
pub(in crate::store) struct CoreStore<E: Env, N: Namespace> {
    pub(in crate::store) shared: Arc<Shared>,
    pub(super) env: E,
    pub(super) namespace: N,
    pub(super) core: NodesOfCore,
    /// What it tells the keeper by itself; the pages tell the rest.
    pub(super) events: Arc<Events>,
    pub(super) log: CoreDriver<E, N>,
    /// For its buffer of the log.
    pub(super) _kept: KeptForCore,
    pub(super) overlay: RefCell<Access>,
    pub(super) lengths: LengthsOfCore,
    pub(super) hand: Hand,
    /// Pages that this core does not evict now: a transaction is making its changes.
    pub(super) spared: RefCell<Vec<PageId>>,
    /// An empty buffer that has room, for the value of a write that is decided.
    pub(super) buffer: Cell<Vec<u8>>,
    /// Memory for the changes of the next transaction.
    pub(super) kept: Cell<Kept>,
    /// The core is to give back memory that it does not use.
    pub(super) asked: Arc<Signal>,
    /// The file system below has no room, and is not asked again before this.
    pub(super) full_until: Cell<Option<Instant>>,
}
