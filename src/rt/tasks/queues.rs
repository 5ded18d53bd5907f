//! Task queues: which of a core's ready tasks runs next.
//!
//! Each [`TaskQueue`](crate::rt::queue::TaskQueue) has shares and a latency class. Among the queues
//! with ready tasks the one runs that consumed the least time for its shares (its *virtual
//! runtime*, as in Linux's CFS and in glommio), unless a queue whose latency matters has waited as
//! long as it may. Time is measured for a whole slice of many polls, and only when more than one
//! queue exists.

use std::cell::Cell;
use std::ptr::NonNull;
use std::time::Duration;

use super::header::Header;
use super::list::ReadyList;
use crate::error::{Error, ErrorKind, Result};
use crate::rt::record::TaskQueueStats;
use crate::time::Instant;

/// Task queues of a core at most, the default one included.
pub const MAX_TASK_QUEUES: usize = 64;

/// Beyond this virtual runtimes are counted anew: at their end all would be the same, and one queue
/// would run alone. 53 days of work of a queue with one share.
const MAX_VIRTUAL_RUNTIME: u64 = 1 << 62;

/// How much of a core a task queue gets when it competes with others: in proportion to its shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares(u16);

impl Shares {
    /// What the default queue has.
    pub const DEFAULT: Self = Self(100);

    /// `shares` of a core; 0 counts as 1, and more than 1000 as 1000.
    pub const fn new(shares: u16) -> Self {
        Self(match shares {
            0 => 1,
            1..1000 => shares,
            _ => 1000,
        })
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Shares {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How soon a ready task of a queue must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LatencyClass {
    /// A queue that has ready tasks runs after this long at the latest, whatever its shares, as
    /// soon as the task that runs yields. The core looks at the time at least this often between
    /// tasks.
    Matters(Duration),
    /// Shares alone decide.
    NotImportant,
}

/// The queue of tasks that are spawned from no other queue's, and that name none.
pub(in crate::rt) const DEFAULT_QUEUE: u8 = 0;

/// One queue. A slot without a name is free.
// Of a size by which an index is multiplied with a shift.
#[repr(align(128))]
struct QueueSlot {
    ready: ReadyList,
    name: Cell<Option<&'static str>>,
    shares: Cell<Shares>,
    latency: Cell<LatencyClass>,
    /// Nanoseconds run, times 1000, by shares.
    virtual_runtime: Cell<u64>,
    runtime: Cell<Duration>,
    /// When it last became ready or ran.
    waits_since: Cell<Instant>,
    /// Tasks that have not ended, and handles; clones of one count as one.
    users: Cell<usize>,
}

impl QueueSlot {
    fn new(name: Option<&'static str>) -> Self {
        Self {
            ready: ReadyList::default(),
            name: Cell::new(name),
            shares: Cell::new(Shares::DEFAULT),
            latency: Cell::new(LatencyClass::NotImportant),
            virtual_runtime: Cell::new(0),
            runtime: Cell::new(Duration::ZERO),
            waits_since: Cell::new(Instant::ORIGIN),
            users: Cell::new(usize::from(name.is_some())),
        }
    }
}

/// The run queues of a core.
pub(in crate::rt) struct RunQueues {
    /// A queue's number is an index.
    slots: [QueueSlot; MAX_TASK_QUEUES],
    /// A bit for each queue with ready tasks.
    ready: Cell<u64>,
    /// Queues that are not free.
    used: Cell<usize>,
    /// The virtual runtime of the queue that ran last: one that slept starts from there.
    virtual_now: Cell<u64>,
    /// The shortest time that a latency class gives.
    slice: Cell<Duration>,
}

impl RunQueues {
    pub(in crate::rt) fn new() -> Self {
        Self {
            slots: std::array::from_fn(|at| QueueSlot::new((at == 0).then_some("default"))),
            ready: Cell::new(0),
            used: Cell::new(1),
            virtual_now: Cell::new(0),
            slice: Cell::new(Duration::MAX),
        }
    }

    /// Appends a task that was just marked as queued to its queue. `now` is the time as last read.
    #[inline]
    pub(in crate::rt) fn push(&self, queue: u8, task: NonNull<Header>, now: &Cell<Instant>) {
        let slot = &self.slots[usize::from(queue)];
        slot.ready.push(task);
        self.became_ready(queue, slot, now);
    }

    /// The same at the front of its queue.
    pub(in crate::rt) fn push_front(&self, queue: u8, task: NonNull<Header>, now: &Cell<Instant>) {
        let slot = &self.slots[usize::from(queue)];
        slot.ready.push_front(task);
        self.became_ready(queue, slot, now);
    }

    #[inline]
    fn became_ready(&self, queue: u8, slot: &QueueSlot, now: &Cell<Instant>) {
        let bit = 1 << queue;
        if self.ready.get() & bit == 0 {
            self.ready.set(self.ready.get() | bit);
            slot.waits_since.set(now.get());
            // What it did not use while it had nothing to do is not saved up.
            slot.virtual_runtime.set(slot.virtual_runtime.get().max(self.virtual_now.get()));
        }
    }

    /// Takes the first task of a queue.
    #[inline]
    pub(in crate::rt) fn pop(&self, queue: u8) -> Option<NonNull<Header>> {
        let slot = &self.slots[usize::from(queue)];
        let task = slot.ready.pop();
        if slot.ready.is_empty() {
            self.ready.set(self.ready.get() & !(1 << queue));
        }
        task
    }

    /// Takes the first task of a queue, which is a coroutine that has its turn there.
    #[inline]
    pub(in crate::rt) fn leave(&self, queue: u8) -> Option<NonNull<Header>> {
        let slot = &self.slots[usize::from(queue)];
        let task = slot.ready.leave();
        if slot.ready.is_empty() {
            self.ready.set(self.ready.get() & !(1 << queue));
        }
        task
    }

    /// The tasks of a queue, to leave as many on it as before.
    #[inline]
    pub(in crate::rt) fn list(&self, queue: u8) -> &ReadyList {
        &self.slots[usize::from(queue)].ready
    }

    /// Takes the task of a queue after `choose` (of how many there are) others.
    pub(in crate::rt) fn take(
        &self,
        queue: u8,
        choose: impl FnOnce(usize) -> usize,
    ) -> Option<NonNull<Header>> {
        let slot = &self.slots[usize::from(queue)];
        let task = slot.ready.take(choose(slot.ready.len()));
        if slot.ready.is_empty() {
            self.ready.set(self.ready.get() & !(1 << queue));
        }
        task
    }

    pub(in crate::rt) fn is_empty(&self) -> bool {
        self.ready.get() == 0
    }

    /// How many tasks are ready.
    pub(in crate::rt) fn len(&self) -> usize {
        let mut ready = self.ready.get();
        let mut len = 0;
        while ready != 0 {
            len += self.slots[ready.trailing_zeros() as usize].ready.len();
            ready &= ready - 1;
        }
        len
    }

    /// The queue to run a slice of at `now`; `None` if nothing is ready.
    #[inline]
    pub(in crate::rt) fn choose(&self, now: Instant) -> Option<u8> {
        let ready = self.ready.get();
        if ready & (ready.wrapping_sub(1)) == 0 {
            // None or one.
            return u8::try_from(ready.trailing_zeros()).ok().filter(|_| ready != 0);
        }
        self.choose_among(ready, now)
    }

    #[cold]
    fn choose_among(&self, ready: u64, now: Instant) -> Option<u8> {
        let queues = (0..u8::try_from(MAX_TASK_QUEUES).unwrap_or(u8::MAX)).filter(|at| ready >> at & 1 == 1);
        let overdue = |at: u8| {
            let slot = &self.slots[usize::from(at)];
            match slot.latency.get() {
                LatencyClass::Matters(longest) => {
                    Some(slot.waits_since.get() + longest).filter(|by| *by <= now)
                }
                LatencyClass::NotImportant => None,
            }
        };
        let urgent = queues.clone().filter_map(|at| overdue(at).map(|by| (by, at))).min();
        let fair = || queues.min_by_key(|at| self.slots[usize::from(*at)].virtual_runtime.get());
        urgent.map(|(_, at)| at).or_else(fair)
    }

    /// Whether slices must be measured.
    pub(in crate::rt) fn compete(&self) -> bool {
        self.used.get() > 1
    }

    /// How long a slice may be so that every latency class holds.
    pub(in crate::rt) fn slice(&self) -> Duration {
        self.slice.get()
    }

    /// A slice of `queue` took `time` and ended at `now`.
    pub(in crate::rt) fn charge(&self, queue: u8, time: Duration, now: Instant) {
        let slot = &self.slots[usize::from(queue)];
        slot.runtime.set(slot.runtime.get() + time);
        // At least 1, so that a clock that stands still shares too.
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let virtual_time = nanos.saturating_mul(1000) / u64::from(slot.shares.get().0);
        self.virtual_now.set(slot.virtual_runtime.get());
        slot.virtual_runtime.set(slot.virtual_runtime.get().saturating_add(virtual_time));
        slot.waits_since.set(now);
        if slot.virtual_runtime.get() > MAX_VIRTUAL_RUNTIME {
            self.start_anew();
        }
    }

    /// Has virtual time begin with the queue that ran last. What lay further back is not saved up
    /// in any case.
    #[cold]
    fn start_anew(&self) {
        let now = self.virtual_now.replace(0);
        for slot in &self.slots {
            slot.virtual_runtime.set(slot.virtual_runtime.get().saturating_sub(now));
        }
    }

    /// A task or a handle of the queue was made.
    pub(in crate::rt) fn retain(&self, queue: u8) {
        if queue != DEFAULT_QUEUE {
            let users = &self.slots[usize::from(queue)].users;
            users.set(users.get() + 1);
        }
    }

    /// A task or a handle of the queue has gone.
    pub(in crate::rt) fn release(&self, queue: u8) {
        if queue == DEFAULT_QUEUE {
            return;
        }
        let slot = &self.slots[usize::from(queue)];
        slot.users.set(slot.users.get() - 1);
        if slot.users.get() == 0 {
            slot.name.set(None);
            self.used.set(self.used.get() - 1);
            self.measure_slice();
        }
    }

    /// The name of a queue that is not free.
    pub(in crate::rt) fn name(&self, queue: u8) -> &'static str {
        self.slots[usize::from(queue)].name.get().unwrap_or_default()
    }

    pub(in crate::rt) fn add(&self, name: &'static str, shares: Shares, latency: LatencyClass) -> Result<u8> {
        let Some(at) = self.slots.iter().position(|slot| slot.name.get().is_none() && slot.ready.is_empty())
        else {
            return Err(Error::new(ErrorKind::LimitReached, "make a task queue")
                .because(format!("a core has {MAX_TASK_QUEUES} at most")));
        };
        let slot = &self.slots[at];
        slot.name.set(Some(name));
        slot.shares.set(shares);
        slot.latency.set(latency);
        slot.virtual_runtime.set(self.virtual_now.get());
        slot.runtime.set(Duration::ZERO);
        slot.users.set(1);
        self.used.set(self.used.get() + 1);
        self.measure_slice();
        Ok(u8::try_from(at).unwrap_or(DEFAULT_QUEUE))
    }

    /// Gives a queue other shares from now on.
    pub(in crate::rt) fn set_shares(&self, queue: u8, shares: Shares) {
        self.slots[usize::from(queue)].shares.set(shares);
    }

    /// Gives a queue another latency class from now on.
    pub(in crate::rt) fn set_latency(&self, queue: u8, latency: LatencyClass) {
        self.slots[usize::from(queue)].latency.set(latency);
        self.measure_slice();
    }

    fn measure_slice(&self) {
        let named = self.slots.iter().filter(|slot| slot.name.get().is_some());
        let shortest = named.filter_map(|slot| match slot.latency.get() {
            LatencyClass::Matters(longest) => Some(longest),
            LatencyClass::NotImportant => None,
        });
        self.slice.set(shortest.min().unwrap_or(Duration::MAX));
    }

    pub(in crate::rt) fn stats(&self) -> Vec<TaskQueueStats> {
        let of = |slot: &QueueSlot| {
            slot.name.get().map(|name| TaskQueueStats {
                name,
                shares: slot.shares.get().get(),
                ready: slot.ready.len(),
                runtime: slot.runtime.get(),
            })
        };
        self.slots.iter().filter_map(of).collect()
    }
}
