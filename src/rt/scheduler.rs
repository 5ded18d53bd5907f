//! The loop of one core: run ready tasks for a budget, poll every poller for a budget, fire timers, drain the inbox; when
//! nothing happened for a while, sleep in the kernel.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rustix::thread::CpuSet;

use super::handle::Handle;
use super::inbox::{Inbox, Message};
use super::task::{JoinHandle, TaskRef, apply_changes, bury};
use super::timer::{TimerKey, Wheel};
use super::uring::{Doorbell, Reactor, RingFeatures};
use super::{Clock, Instant, Park, Poller};
use crate::error::{Error, ErrorKind, Result};
use crate::mem::Arena;

/// Tasks run per turn before the pollers get theirs.
const TASKS_PER_TURN: usize = 128;
/// Tasks run between two looks at the clock.
const TASKS_PER_CLOCK_READING: usize = 16;
/// A turn's tasks stop after this long even if the budget is not used up, so that a completed I/O waits no longer.
const TASK_TIME_PER_TURN: Duration = Duration::from_micros(50);
/// Events that one poller may handle per turn.
const EVENTS_PER_POLL: usize = 64;
/// Timers fired per turn.
const TIMERS_PER_TURN: usize = 256;

/// How a core is set up. [`CoreConfig::new`] gives the defaults.
#[derive(Clone)]
pub struct CoreConfig {
    /// The CPU to pin the core's thread to; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from: the seed of the core's generator (ChaCha12).
    pub seed: [u8; 32],
    /// The size of the io_uring's submission queue, in entries; a power of two.
    pub ring_entries: u32,
    /// Which of the kernel's io_uring features the core may use if they are there.
    pub ring_features: RingFeatures,
    /// How long a core keeps polling after the last event before it sleeps in the kernel.
    pub spin: Duration,
    /// The size of the core's arena, in bytes. Pages are touched only with use.
    pub arena_bytes: usize,
}

impl CoreConfig {
    /// Not pinned, 256 ring entries, 10 µs of spinning, a 16 MiB arena.
    pub fn new(clock: Arc<dyn Clock>, seed: [u8; 32]) -> Self {
        Self {
            cpu: None,
            clock,
            seed,
            ring_entries: 256,
            ring_features: RingFeatures::all(),
            spin: Duration::from_micros(10),
            arena_bytes: 16 << 20,
        }
    }
}

impl std::fmt::Debug for CoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The seed makes sequence numbers and ports unguessable: it does not belong in a log.
        f.debug_struct("CoreConfig")
            .field("cpu", &self.cpu)
            .field("ring_entries", &self.ring_entries)
            .field("ring_features", &self.ring_features)
            .field("spin", &self.spin)
            .field("arena_bytes", &self.arena_bytes)
            .finish_non_exhaustive()
    }
}

/// What a core counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreStats {
    /// Turns of the loop.
    pub turns: u64,
    /// Task polls.
    pub polls: u64,
    /// Tasks that live now.
    pub tasks: usize,
    /// Times the core slept in the kernel.
    pub parks: u64,
    /// System calls made on the io_uring.
    pub ring_enters: u64,
}

/// One core: a scheduler with its tasks, timers, pollers and io_uring, on the thread that made it.
pub struct Core {
    shared: Rc<Shared>,
}

type SharedPoller = Rc<RefCell<dyn Poller>>;

pub(super) struct Shared {
    clock: Arc<dyn Clock>,
    inbox: Arc<Inbox>,
    reactor: Rc<Reactor>,
    queue: RefCell<VecDeque<TaskRef>>,
    /// Taken from the inbox and not run yet.
    messages: RefCell<VecDeque<Message>>,
    registry: RefCell<Registry>,
    timers: RefCell<Wheel<Waker>>,
    /// Reused by `fire_timers`.
    fired: RefCell<Vec<Waker>>,
    pollers: RefCell<Vec<(u64, SharedPoller)>>,
    next_poller_id: Cell<u64>,
    rng: RefCell<StdRng>,
    arena: Arena,
    spin: Duration,
    turns: Cell<u64>,
    polls: Cell<u64>,
    parks: Cell<u64>,
}

#[derive(Default)]
struct Registry {
    tasks: Vec<Option<TaskRef>>,
    free: Vec<usize>,
}

thread_local! {
    /// `ManuallyDrop`: without a destructor it can be used while the thread's other locals are destroyed. [`Inside`] empties it.
    static CURRENT: RefCell<ManuallyDrop<Option<Rc<Shared>>>> = const { RefCell::new(ManuallyDrop::new(None)) };
    static CURRENT_INBOX: Cell<*const Inbox> = const { Cell::new(std::ptr::null()) };
}

/// The inbox of the core that the calling thread is inside of; null outside.
pub(super) fn current_inbox() -> *const Inbox {
    CURRENT_INBOX.try_with(Cell::get).unwrap_or(std::ptr::null())
}

/// Runs `f` with the core that the calling thread is inside of. `f` runs no code of the user's but the clock: neither wakers nor
/// destructors, which may enter or end another core.
#[track_caller]
pub(super) fn with_core<R>(f: impl FnOnce(&Rc<Shared>) -> R) -> R {
    CURRENT.with_borrow(|current| {
        f(current.as_ref().expect("called outside a boson core: call it from inside `Core::block_on`"))
    })
}

/// Puts a woken task of the current core on its run queue.
pub(super) fn enqueue(task: TaskRef) {
    if task.mark_queued() {
        with_core(|core| core.queue.borrow_mut().push_back(task));
    }
}

impl Core {
    /// A core on the calling thread, pinned if the configuration says so.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a CPU that does not exist or is not allowed here, the kernel's code if
    /// there is no memory, and [`Unsupported`](ErrorKind::Unsupported) where io_uring is forbidden.
    pub fn new(config: &CoreConfig) -> Result<Self> {
        if let Some(cpu) = config.cpu {
            pin_thread(cpu)?;
        }
        let doorbell = Arc::new(Doorbell::new()?);
        let reactor = Reactor::new(config.ring_entries, config.ring_features, &doorbell)?;
        let ring_doorbell = Box::new(move || doorbell.ring());
        let shared = Shared {
            clock: Arc::clone(&config.clock),
            inbox: Arc::new(Inbox::new(ring_doorbell, bury)),
            reactor: Rc::new(reactor),
            queue: RefCell::default(),
            messages: RefCell::default(),
            registry: RefCell::default(),
            timers: RefCell::new(Wheel::new(config.clock.now())),
            fired: RefCell::default(),
            pollers: RefCell::default(),
            next_poller_id: Cell::new(0),
            rng: RefCell::new(StdRng::from_seed(config.seed)),
            arena: Arena::new(config.arena_bytes)?,
            spin: config.spin,
            turns: Cell::new(0),
            polls: Cell::new(0),
            parks: Cell::new(0),
        };
        Ok(Self { shared: Rc::new(shared) })
    }

    /// Runs `future` and every task on this core until `future` is done. Other tasks then stay where they are, and go on in
    /// the next `block_on`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) when called from inside a core; otherwise a failure of the io_uring.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output> {
        let _inside = Inside::enter(&self.shared)?;
        let woken = Arc::new(RootWaker::new(Arc::clone(&self.shared.inbox)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut future = pin!(future);
        let mut idle_since: Option<Instant> = None;
        loop {
            let mut worked = 0;
            if woken.take() {
                worked += 1;
                if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return Ok(output);
                }
            }
            worked += self.shared.turn()?;
            if worked > 0 {
                idle_since = None;
                continue;
            }
            let now = self.shared.clock.now();
            let since = *idle_since.get_or_insert(now);
            if now - since >= self.shared.spin {
                self.shared.park(now, &woken)?;
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// A handle that other threads can send work through.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared.inbox))
    }

    /// Counters.
    pub fn stats(&self) -> CoreStats {
        self.shared.stats()
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Drop for Core {
    /// Ends every task by dropping its future, then waits for the I/O that they left in flight. The thread may be inside another
    /// core meanwhile.
    fn drop(&mut self) {
        let inside = Inside::replace(&self.shared);
        drop(self.shared.messages.take());
        self.shared.end_tasks();
        self.shared.reactor.shut_down();
        // An orphan's or a poller's destructor may have spawned.
        drop(self.shared.pollers.take());
        self.shared.end_tasks();
        drop(inside);
        self.shared.inbox.close();
    }
}

/// While it lives, the thread is inside a core.
struct Inside {
    /// The core that it was inside of before.
    outer: Option<Rc<Shared>>,
}

impl Inside {
    fn enter(shared: &Rc<Shared>) -> Result<Self> {
        if CURRENT.with_borrow(|current| current.is_some()) {
            return Err(Error::new(ErrorKind::InvalidInput, "block_on").because(
                "this thread is inside a boson core already: spawn a task or await the future instead",
            ));
        }
        Ok(Self::replace(shared))
    }

    fn replace(shared: &Rc<Shared>) -> Self {
        Self { outer: set_current(Some(Rc::clone(shared))) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The core itself is alive: its owner is what this guard was made by.
        drop(set_current(self.outer.take()));
    }
}

/// Makes `core` the one that the thread is inside of, and returns the one before.
fn set_current(core: Option<Rc<Shared>>) -> Option<Rc<Shared>> {
    CURRENT_INBOX.set(core.as_ref().map_or(std::ptr::null(), |core| Arc::as_ptr(&core.inbox)));
    ManuallyDrop::into_inner(CURRENT.replace(ManuallyDrop::new(core)))
}

/// The waker of `block_on`'s own future; works from every thread.
struct RootWaker {
    woken: std::sync::atomic::AtomicBool,
    inbox: Arc<Inbox>,
}

impl RootWaker {
    fn new(inbox: Arc<Inbox>) -> Self {
        Self { woken: std::sync::atomic::AtomicBool::new(true), inbox }
    }

    fn take(&self) -> bool {
        self.is_set() && self.woken.swap(false, std::sync::atomic::Ordering::AcqRel)
    }

    fn is_set(&self) -> bool {
        self.woken.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Wake for RootWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let was_set = self.woken.swap(true, std::sync::atomic::Ordering::AcqRel);
        if !was_set && current_inbox() != Arc::as_ptr(&self.inbox) {
            // An empty message: the core wakes and looks at the flag.
            self.inbox.send(Box::new(|| ()));
        }
    }
}

impl Shared {
    /// One turn of the loop; returns how much was done.
    fn turn(&self) -> Result<usize> {
        self.turns.set(self.turns.get() + 1);
        let started = self.clock.now();
        let mut worked = self.run_tasks(started);
        worked += self.reactor.poll()?;
        let now = if worked > 0 { self.clock.now() } else { started };
        worked += self.poll_pollers(now);
        worked += self.fire_timers(now);
        worked += self.inbox.drain(|node, changes| {
            if let Some(task) = apply_changes(node, &changes)
                && task.mark_queued()
            {
                self.queue.borrow_mut().push_back(task);
            }
        });
        worked += self.run_messages();
        Ok(worked)
    }

    /// Runs messages. They make tasks: no more of them than a turn has room to run, or those that are there already would wait
    /// longer with every turn.
    fn run_messages(&self) -> usize {
        if self.messages.borrow().is_empty() {
            self.inbox.take_messages(&mut self.messages.borrow_mut());
        }
        let room = TASKS_PER_TURN.saturating_sub(self.queue.borrow().len()).max(TASKS_PER_CLOCK_READING);
        let mut ran = 0;
        while ran < room {
            let Some(message) = self.messages.borrow_mut().pop_front() else { break };
            message();
            ran += 1;
        }
        ran
    }

    fn run_tasks(&self, started: Instant) -> usize {
        let budget = self.queue.borrow().len().min(TASKS_PER_TURN);
        let mut ran = 0;
        while ran < budget {
            let Some(task) = self.queue.borrow_mut().pop_front() else { break };
            if task.run() {
                self.forget(&task);
            }
            ran += 1;
            if ran % TASKS_PER_CLOCK_READING == 0 && self.clock.now() - started > TASK_TIME_PER_TURN {
                break;
            }
        }
        self.polls.set(self.polls.get() + ran as u64);
        ran
    }

    fn poll_pollers(&self, now: Instant) -> usize {
        let mut worked = 0;
        let mut at = 0;
        // By index and with a borrow per step: a poller may be added or removed by what another one completes.
        while let Some(poller) = { self.pollers.borrow().get(at).map(|(_, poller)| Rc::clone(poller)) } {
            worked += poller.borrow_mut().poll(now, EVENTS_PER_POLL);
            at += 1;
        }
        worked
    }

    fn fire_timers(&self, now: Instant) -> usize {
        // Wakers may be anybody's and may come back for the timers: not under the borrow.
        let mut fired = self.fired.take();
        let count = self.timers.borrow_mut().expire(now, TIMERS_PER_TURN, |waker| fired.push(waker));
        fired.drain(..).for_each(Waker::wake);
        // Keeps the allocation.
        self.fired.replace(fired);
        count
    }

    /// Sleeps in the kernel until something may have happened.
    fn park(&self, now: Instant, root: &RootWaker) -> Result<()> {
        let mut until = self.timers.borrow().next_deadline();
        let mut earlier = |deadline: Option<Instant>| {
            until = match (until, deadline) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        let mut at = 0;
        // As in `poll_pollers`.
        while let Some(poller) = { self.pollers.borrow().get(at).map(|(_, poller)| Rc::clone(poller)) } {
            at += 1;
            let mut poller = poller.borrow_mut();
            earlier(poller.next_deadline());
            match poller.park() {
                Park::Idle => {}
                Park::Wake(descriptor) => self.reactor.wake_when_readable(descriptor)?,
                Park::Nap(longest) => earlier(Some(now + longest)),
                Park::Spin => return Ok(()),
            }
        }
        if until.is_some_and(|until| until <= now) {
            return Ok(());
        }
        // A poller may have woken tasks of this core when it was asked.
        let woken = root.is_set() || !self.queue.borrow().is_empty();
        if !woken && self.inbox.park() && !root.is_set() {
            self.parks.set(self.parks.get() + 1);
            self.reactor.wait(until.map(|until| until - now))?;
        }
        self.inbox.unpark();
        Ok(())
    }

    pub(super) fn spawn<F: Future + 'static>(
        &self,
        name: &'static str,
        created_at: &'static Location<'static>,
        future: F,
    ) -> JoinHandle<F::Output> {
        let (task, handle) = TaskRef::new(Arc::clone(&self.inbox), name, created_at, future);
        let mut registry = self.registry.borrow_mut();
        let index = registry.free.pop().unwrap_or_else(|| {
            registry.tasks.push(None);
            registry.tasks.len() - 1
        });
        task.set_registry_index(index);
        registry.tasks[index] = Some(task.clone());
        if task.mark_queued() {
            self.queue.borrow_mut().push_back(task);
        }
        handle
    }

    /// Takes an ended task out of the registry.
    fn forget(&self, task: &TaskRef) {
        let mut registry = self.registry.borrow_mut();
        let index = task.registry_index();
        let registered = registry.tasks[index].take();
        registry.free.push(index);
        // Dropping may free the task and run a destructor that spawns: not under the borrow.
        drop(registry);
        drop(registered);
    }

    /// Ends every task, also those that destructors spawn meanwhile.
    fn end_tasks(&self) {
        loop {
            let registry = self.registry.take();
            if registry.tasks.is_empty() {
                break;
            }
            for task in registry.tasks.into_iter().flatten() {
                task.cancel();
            }
        }
        let queued = self.queue.take();
        drop(queued);
        let timers = self.timers.take();
        drop(timers);
    }

    pub(super) fn stats(&self) -> CoreStats {
        let registry = self.registry.borrow();
        CoreStats {
            turns: self.turns.get(),
            polls: self.polls.get(),
            tasks: registry.tasks.len() - registry.free.len(),
            parks: self.parks.get(),
            ring_enters: self.reactor.enters(),
        }
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(super) fn reactor(&self) -> &Rc<Reactor> {
        &self.reactor
    }

    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(super) fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.inbox))
    }

    pub(super) fn fill_random(&self, bytes: &mut [u8]) {
        self.rng.borrow_mut().fill_bytes(bytes);
    }

    pub(super) fn timers(&self) -> &RefCell<Wheel<Waker>> {
        &self.timers
    }

    pub(super) fn add_poller(&self, poller: SharedPoller) -> u64 {
        let id = self.next_poller_id.get();
        self.next_poller_id.set(id + 1);
        self.pollers.borrow_mut().push((id, poller));
        id
    }

    pub(super) fn remove_poller(&self, id: u64) {
        let mut pollers = self.pollers.borrow_mut();
        if let Some(at) = pollers.iter().position(|(other, _)| *other == id) {
            let removed = pollers.remove(at);
            drop(pollers);
            // It may be about to close the descriptor it was watched by.
            self.reactor.unwatch_all();
            drop(removed);
        }
    }

    /// The names and creation places of all tasks.
    pub(super) fn tasks(&self) -> Vec<(&'static str, &'static Location<'static>)> {
        self.registry.borrow().tasks.iter().flatten().map(|task| (task.name(), task.created_at())).collect()
    }

    pub(super) fn remove_timer(&self, key: TimerKey) {
        let waker = self.timers.borrow_mut().remove(key);
        drop(waker);
    }
}

fn pin_thread(cpu: usize) -> Result<()> {
    let invalid = |detail: String| {
        Error::new(ErrorKind::InvalidInput, "pin core").at(format!("CPU {cpu}")).because(detail)
    };
    if cpu >= CpuSet::MAX_CPU {
        return Err(invalid(format!("CPU numbers end at {}", CpuSet::MAX_CPU - 1)));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|errno| {
        if errno == rustix::io::Errno::INVAL {
            let allowed = rustix::thread::sched_getaffinity(None).map_or(0, |set| set.count());
            invalid(format!(
                "no such CPU, or not allowed for this process (it may use {allowed}); see `nproc`"
            ))
        } else {
            Error::os(errno.raw_os_error(), "pin core").at(format!("CPU {cpu}"))
        }
    })
}
