//! The state of one core.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::pollers::{Pollers, SharedPoller};
use crate::fork::Process;
use crate::mem::Arena;
use crate::reactor::pool::Pool;
use crate::reactor::{Attachment, Reactor};
use crate::rt::config::{CoreConfig, Idle};
use crate::rt::record::{Beat, Counters, PollerStats, SiteCache};
use crate::rt::tasks::{Header, Inbox, Local, Locals, Message, Registry, RunQueues, waiting_for};
use crate::rt::timer::{TimerKey, Wheel};
use crate::time::{Clock, Instant};

/// The state of one core.
// `repr(C)`: `Local` comes first, so that a pointer to the one is a pointer to the other.
#[repr(C)]
pub(in crate::rt) struct CoreState {
    /// What its tasks and their wakers reach: run queues, inbox, the time.
    pub(super) local: Local,
    /// What other threads may read of it.
    pub(super) beat: Arc<Beat>,
    pub(super) turn: TurnBudget,
    pub(super) tasks: Tasks,
    pub(super) timers: Timers,
    /// Taken from the inbox and not run yet.
    pub(super) messages: RefCell<VecDeque<Message>>,
    pub(super) io: Io,
    pub(super) record: Record,
    pub(super) clock: Arc<dyn Clock>,
    /// What the layers above keep for as long as the core lives.
    core_locals: Locals,
    idle: Idle,
    rng: RefCell<StdRng>,
}

/// What the turns of the loop have left.
pub(super) struct TurnBudget {
    /// The number of the poll before which the loop looks at the clock.
    pub(super) until: Cell<u64>,
    /// Turns since devices, timers and the inbox had theirs, and when that was.
    pub(super) skipped: Cell<u32>,
    pub(super) looked_around_at: Cell<Instant>,
    /// The number of polls at which the round of messages ends, and how many messages it still has
    /// room for.
    pub(super) round: Cell<(u64, u64)>,
    /// The number of polls by which every task that was ready when operations were last handed to
    /// the kernel has had its turn; and when the first turn since then began, if one did.
    pub(super) submission: Cell<(u64, Option<Instant>)>,
}

/// The tasks of a core that have not ended.
pub(super) struct Tasks {
    pub(super) registry: Registry,
    /// The task of the `block_on` that goes on.
    pub(super) root: Cell<Option<NonNull<Header>>>,
    /// Woken when the last task has ended.
    pub(super) drained: Cell<Option<Waker>>,
    pub(super) sites: SiteCache,
}

/// The timers of a core.
pub(super) struct Timers {
    pub(super) wheel: RefCell<Wheel<Waker>>,
    /// Reused by `fire_timers`.
    pub(super) fired: RefCell<Vec<Waker>>,
}

/// What a core does I/O with.
pub(super) struct Io {
    /// The reactor and the pool of threads, as operations find them.
    pub(super) attachment: Attachment,
    pub(super) pollers: Pollers,
    pub(super) arena: Arena,
    /// By when the I/O in flight of a core that ends must have ended, if somebody said.
    pub(super) deadline: Cell<Option<Instant>>,
}

/// What a core counts and measures.
pub(super) struct Record {
    pub(super) counters: Counters,
    /// Until when `counters` know what the time went to.
    pub(super) accounted: Cell<Instant>,
    /// The number of polls at which the task that was last on the queue has run, and since when it
    /// is followed.
    pub(super) followed: Cell<(u64, Instant)>,
    pub(super) stall_after: Duration,
}

impl CoreState {
    pub(in crate::rt) fn new(
        config: &CoreConfig,
        seed: [u8; 32],
        inbox: Arc<Inbox>,
        reactor: Reactor,
        pool: Arc<Pool>,
        arena: Arena,
    ) -> Self {
        let now = config.clock.now();
        Self {
            local: Local { inbox, queues: RunQueues::new(), now: Cell::new(now), polling: Cell::new(None) },
            beat: Arc::new(Beat::new()),
            turn: TurnBudget {
                until: Cell::new(0),
                skipped: Cell::new(0),
                looked_around_at: Cell::new(now),
                round: Cell::new((0, 0)),
                submission: Cell::new((0, None)),
            },
            tasks: Tasks {
                registry: Registry::default(),
                root: Cell::new(None),
                drained: Cell::default(),
                sites: SiteCache::new(),
            },
            timers: Timers { wheel: RefCell::new(Wheel::new(now)), fired: RefCell::default() },
            messages: RefCell::default(),
            io: Io {
                attachment: Attachment { reactor, pool, process: Process::current(), waits_for: waiting_for },
                pollers: Pollers::default(),
                arena,
                deadline: Cell::new(None),
            },
            record: Record {
                counters: Counters::default(),
                accounted: Cell::new(now),
                followed: Cell::new((u64::MAX, now)),
                stall_after: config.stall_after,
            },
            clock: Arc::clone(&config.clock),
            core_locals: Locals::default(),
            idle: config.idle,
            rng: RefCell::new(StdRng::from_seed(seed)),
        }
    }

    /// The task-local values of the task that is being polled. Code of the core's that is in none
    /// (a waker, a poller, a destructor at the end) gets values of its own, which go at once.
    pub(in crate::rt) fn locals(&self) -> Rc<Locals> {
        self.local.with_running(|task| task.map(Header::locals)).unwrap_or_default()
    }

    /// What the layers above keep for as long as the core lives.
    pub(in crate::rt) fn core_locals(&self) -> &Locals {
        &self.core_locals
    }

    /// A task panicked in a way that the loop does not see.
    pub(in crate::rt) fn count_panic(&self) {
        self.record.counters.panicked.set(self.record.counters.panicked.get() + 1);
    }

    pub(in crate::rt) fn idle(&self) -> Idle {
        self.idle
    }

    pub(in crate::rt) fn queues(&self) -> &RunQueues {
        &self.local.queues
    }

    /// What its tasks and their wakers reach.
    #[inline]
    pub(in crate::rt) fn local(&self) -> &Local {
        &self.local
    }

    /// What the thread's operations start on while it is inside this core.
    pub(super) fn attachment(&self) -> *const Attachment {
        &raw const self.io.attachment
    }

    pub(in crate::rt) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(in crate::rt) fn arena(&self) -> &Arena {
        &self.io.arena
    }

    pub(in crate::rt) fn inbox(&self) -> &Arc<Inbox> {
        &self.local.inbox
    }

    pub(in crate::rt) fn beat(&self) -> &Arc<Beat> {
        &self.beat
    }

    /// Whose core it is.
    #[inline]
    pub(in crate::rt) fn process(&self) -> Process {
        self.io.attachment.process
    }

    pub(in crate::rt) fn fill_random(&self, bytes: &mut [u8]) {
        self.rng.borrow_mut().fill_bytes(bytes);
    }

    pub(in crate::rt) fn timers(&self) -> &RefCell<Wheel<Waker>> {
        &self.timers.wheel
    }

    pub(in crate::rt) fn poller_stats(&self) -> Vec<PollerStats> {
        self.io.pollers.stats()
    }

    pub(in crate::rt) fn add_poller(&self, poller: SharedPoller, budget: Option<usize>) -> u64 {
        self.io.pollers.add(poller, budget)
    }

    pub(in crate::rt) fn remove_poller(&self, id: u64) {
        self.io.pollers.remove(id, &self.io.attachment.reactor);
    }

    pub(in crate::rt) fn remove_timer(&self, key: TimerKey) {
        let waker = self.timers.wheel.borrow_mut().remove(key);
        drop(waker);
    }
}
