//! What a task can ask of the core it runs on. Every function here panics outside a core.

use std::cell::RefCell;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use super::current;
use super::handle::Handle;
use super::pollers::PollerStats;
use super::run_queue::{TaskQueue, TaskQueueStats};
use super::scheduler::{Shared, in_core};
use super::stats::{CoreLatencies, CoreStats};
use super::task::JoinHandle;
use super::task_dump::{TaskInfo, TaskRange};
use super::{Instant, Poller, task_span};
use crate::mem::Arena;

/// Starts a task on this core, on the [queue](TaskQueue) of the task that calls; outside of a task on the default queue. `name`
/// says what it is in statistics and messages. Dropping the handle detaches it.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn spawn<F: Future + 'static>(name: &'static str, future: F) -> JoinHandle<F::Output> {
    let created_at = Location::caller();
    task_span::spawn("rt::spawn", Shared::current_queue, name, created_at, future)
}

/// Starts a task on `queue`, which says how much of the core it gets. What it spawns by [`spawn`] is on that queue too. Otherwise as
/// [`spawn`].
///
/// # Panics
///
/// Outside a core, and if `queue` is another core's.
#[track_caller]
pub fn spawn_in<F: Future + 'static>(
    queue: &TaskQueue,
    name: &'static str,
    future: F,
) -> JoinHandle<F::Output> {
    let created_at = Location::caller();
    spawn_at(Some(queue), name, created_at, future)
}

/// As [`spawn_in`] or, without a queue, as [`spawn`], for a caller elsewhere.
#[track_caller]
#[inline]
pub(super) fn spawn_at<F: Future + 'static>(
    queue: Option<&TaskQueue>,
    name: &'static str,
    created_at: &'static Location<'static>,
    future: F,
) -> JoinHandle<F::Output> {
    let number = |core: &Rc<Shared>| match queue {
        Some(queue) => queue.number_on(core).expect("a task queue is used on the core that it was made on"),
        None => core.current_queue(),
    };
    task_span::spawn("rt::spawn_in", number, name, created_at, future)
}

/// Starts the task of a coroutine, for a caller elsewhere.
#[track_caller]
#[inline]
pub(crate) fn spawn_coroutine<F: Future + 'static>(
    queue: Option<&TaskQueue>,
    name: &'static str,
    created_at: &'static Location<'static>,
    future: F,
) -> JoinHandle<F::Output> {
    let task = spawn_at(queue, name, created_at, future);
    task.is_of_a_coroutine();
    task
}

/// Whether the calling thread is inside a core, so that the functions of this module can be called.
pub fn is_in_core() -> bool {
    current::is_inside()
}

/// Monotonic time by the core's clock.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn now() -> Instant {
    in_core("rt::now", |core| core.clock().now())
}

/// Wall-clock time since the Unix epoch by the core's clock.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn unix_time() -> Duration {
    in_core("rt::unix_time", |core| core.clock().unix_time())
}

/// Fills `bytes` from the core's seeded, cryptographically strong generator.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn fill_random(bytes: &mut [u8]) {
    in_core("rt::fill_random", |core| core.fill_random(bytes));
}

/// The core's arena.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn arena() -> Arena {
    in_core("rt::arena", |core| core.arena().clone())
}

/// A handle through which other threads can send work to this core.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn handle() -> Handle {
    in_core("rt::handle", |core| core.handle())
}

/// The core's counters.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn stats() -> CoreStats {
    in_core("rt::stats", |core| core.stats())
}

/// How long things took on this core.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn latencies() -> CoreLatencies {
    in_core("rt::latencies", |core| core.latencies())
}

/// What this core's task queues did.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn task_queues() -> Vec<TaskQueueStats> {
    in_core("rt::task_queues", |core| core.queues().stats())
}

/// What this core's pollers did, in the order in which they are polled.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn pollers() -> Vec<PollerStats> {
    in_core("rt::pollers", |core| core.poller_stats())
}

/// What a timer notes. Anything else takes its place: a time-out says less than what it is for.
static TIMER: &str = "a timer";

/// Notes what the task that is being polled waits for, for [`tasks`]. A future that returns `Pending` calls it, unless it is made
/// of others that do. The first of several in one poll counts, though not if it is a timer. The note lasts until the task's next
/// poll. Does nothing outside a task.
// Not inlined, so that the polls that call it are.
#[inline(never)]
pub fn waiting_for(what: &'static str) {
    note(|before| before.is_none_or(|before| std::ptr::eq(before, TIMER)).then_some(what));
}

/// Notes that the task waits for a timer.
#[inline]
pub(super) fn waiting_for_a_timer() {
    note(|before| before.is_none().then_some(TIMER));
}

/// Notes what the task waits for if `poll` is pending.
#[inline]
pub(super) fn noted<T>(what: &'static str, poll: Poll<T>) -> Poll<T> {
    if poll.is_pending() {
        waiting_for(what);
    }
    poll
}

/// The same for a future around one that noted `inner`.
#[inline]
pub(super) fn noted_over<T>(inner: &'static str, what: &'static str, poll: Poll<T>) -> Poll<T> {
    if poll.is_pending() {
        note(|before| (before == Some(inner)).then_some(what));
    }
    poll
}

/// What the task that is being polled is noted to wait for, if that is not a timer.
#[inline]
pub(super) fn awaited() -> Option<&'static str> {
    let mut awaited = None;
    note(|before| {
        awaited = before.filter(|before| !std::ptr::eq(*before, TIMER));
        None
    });
    awaited
}

/// Notes that the task waits for `what`, whatever was noted before.
#[inline]
pub(super) fn waiting_for_this(what: &'static str) {
    note(|_| Some(what));
}

/// Replaces the note of the task that is being polled if `choose` says by what.
#[inline]
fn note(choose: impl FnOnce(Option<&'static str>) -> Option<&'static str>) {
    current::with(|core| {
        if let Some(core) = core {
            core.with_running(|task| {
                if let Some(task) = task
                    && let Some(what) = choose(task.waits_for())
                {
                    task.set_waits_for(what);
                }
            });
        }
    });
}

/// What is known of every task on this core that has not ended, the newest first. The future of [`block_on`](super::Core::block_on) is
/// one of them.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn tasks() -> Vec<TaskInfo> {
    in_core("rt::tasks", |core| core.tasks(TaskRange::ALL))
}

/// What is known of the task that is being polled; `None` between tasks: in a message ([`Handle::run`]), a waker that a timer or a device
/// calls, and a poller.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn current_task() -> Option<TaskInfo> {
    in_core("rt::current_task", |core| core.current_task())
}

/// What is known of some tasks on this core: a piece of [`tasks`], for cores with very many. Takes time for each task that it has
/// to pass by.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn tasks_in(range: TaskRange) -> Vec<TaskInfo> {
    in_core("rt::tasks_in", |core| core.tasks(range))
}

/// Has the core poll `poller` on every turn, until the registration is dropped.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn register_poller(poller: Rc<RefCell<dyn Poller>>) -> PollerRegistration {
    in_core("rt::register_poller", |core| PollerRegistration {
        core: Rc::downgrade(core),
        id: core.add_poller(poller, None),
    })
}

/// The same, with at most `budget` events per turn in place of 64. 0 counts as 1.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn register_poller_with_budget(poller: Rc<RefCell<dyn Poller>>, budget: usize) -> PollerRegistration {
    in_core("rt::register_poller_with_budget", |core| PollerRegistration {
        core: Rc::downgrade(core),
        id: core.add_poller(poller, Some(budget)),
    })
}

/// Keeps a poller registered with its core.
#[must_use = "dropping it removes the poller"]
pub struct PollerRegistration {
    core: Weak<Shared>,
    id: u64,
}

impl PollerRegistration {
    /// Keeps the poller registered for as long as its core lives.
    pub fn keep(mut self) {
        self.core = Weak::new();
    }
}

impl Drop for PollerRegistration {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.remove_poller(self.id);
        }
    }
}

impl std::fmt::Debug for PollerRegistration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollerRegistration").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Lets the other ready tasks, and now and then the pollers, have a turn.
pub fn yield_now() -> YieldNow {
    YieldNow { yielded: false }
}

/// The future of [`yield_now`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
