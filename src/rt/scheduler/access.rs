//! What the rest of the runtime asks of a core.

use std::cell::RefCell;
use std::future::Future;
use std::ops::ControlFlow;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use rand::RngCore;

use super::{Header, Shared};
use crate::mem::Arena;
use crate::rt::coroutine;
use crate::rt::handle::Handle;
use crate::rt::inbox::Inbox;
use crate::rt::offload::Pool;
use crate::rt::pollers::{PollerStats, SharedPoller};
use crate::rt::reactor::Reactor;
use crate::rt::run_queue::{DEFAULT_QUEUE, RunQueues};
use crate::rt::stats::{CoreLatencies, CoreStats};
use crate::rt::task::TaskRef;
use crate::rt::task_dump::{TaskInfo, TaskOrder, TaskRange, TaskState};
use crate::rt::task_local::Locals;
use crate::rt::timer::{TimerKey, Wheel};
use crate::rt::{Clock, Idle, Instant};

impl Shared {
    pub(in crate::rt) fn stats(&self) -> CoreStats {
        let counters = &self.counters;
        CoreStats {
            turns: self.beat.turns(),
            polls: self.beat.polls(),
            tasks: self.registry.len() + usize::from(self.has_root()),
            spawned: counters.spawned.get(),
            ended: counters.ended.get(),
            panicked: counters.panicked.get(),
            parks: counters.parks.get(),
            remote_wakes: counters.remote_wakes.get(),
            messages: counters.messages.get(),
            reactor: self.reactor.kind(),
            ring_enters: self.reactor.enters(),
            completions: counters.completions.get(),
            poller_events: counters.poller_events.get(),
            timers_fired: counters.timers_fired.get(),
            stalls: counters.stalls.get(),
            busy: counters.busy.get(),
            spinning: counters.spinning.get(),
            asleep: counters.asleep.get(),
        }
    }

    pub(in crate::rt) fn latencies(&self) -> CoreLatencies {
        self.counters.latencies.borrow().clone()
    }

    /// Whether the future of a `block_on` has not ended.
    fn has_root(&self) -> bool {
        // SAFETY: `Root` keeps its task for as long as it is noted here.
        self.root.get().is_some_and(|task| !unsafe { task.as_ref() }.has_ended())
    }

    /// What is known of the tasks in `range`, that of `block_on` among them.
    pub(in crate::rt) fn tasks(&self, range: TaskRange) -> Vec<TaskInfo> {
        let now = self.clock.now();
        let mut tasks = Vec::with_capacity(range.limit.min(self.registry.len() + 1));
        let newest_first = range.order == TaskOrder::NewestFirst;
        let mut take = |task: &Header| {
            if tasks.len() < range.limit && range.contains(task.id()) {
                tasks.push(self.describe(task, now));
            }
            tasks.len() < range.limit
        };
        // It is not in the registry, and has its place in the order.
        // SAFETY: `Root` keeps its task for as long as it is noted here.
        let mut root = self.root.get().map(|task| unsafe { task.as_ref() }).filter(|root| !root.has_ended());
        self.registry.for_each(newest_first, |task| {
            let is_later = |root: &&Header| (root.id() > task.id()) == newest_first;
            let goes_on = root.take_if(|root| is_later(root)).is_none_or(&mut take) && take(task);
            if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        root.map(take);
        tasks
    }

    /// The task that is being polled.
    pub(in crate::rt) fn current_task(&self) -> Option<TaskInfo> {
        self.with_running(|task| task.map(|task| self.describe(task, self.clock.now())))
    }

    fn describe(&self, task: &Header, now: Instant) -> TaskInfo {
        let is_running = self.running().is_some_and(|running| ptr::eq(running.as_ptr(), task));
        let state = match is_running {
            true => TaskState::Running,
            false if task.is_queued() => TaskState::Ready,
            false => TaskState::Waiting,
        };
        TaskInfo {
            id: task.id(),
            name: task.site().name,
            created_at: task.site().created_at,
            state,
            waits_for: task.waits_for().filter(|_| state == TaskState::Waiting),
            since: now - task.since(),
            polls: task.polls(),
            queue: self.queues.name(task.queue()),
            is_coroutine: task.is_coroutine(),
            is_block_on: task.is_root(),
            stack_bytes: task.stack_bytes(),
        }
    }

    /// The name and creation place of every task but that of `block_on`, the newest first.
    pub(in crate::rt) fn task_sites(&self) -> Vec<(&'static str, &'static Location<'static>)> {
        let mut sites = Vec::with_capacity(self.registry.len());
        self.registry.for_each(true, |task| {
            sites.push((task.site().name, task.site().created_at));
            ControlFlow::Continue(())
        });
        sites
    }

    /// Completes when there is no task but that of `block_on`, for which it is, and no message.
    pub(in crate::rt) fn drained(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let core = Rc::clone(self);
        std::future::poll_fn(move |cx| {
            if core.is_drained() {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            let old = core.drained.replace(Some(waker));
            drop(old);
            Poll::Pending
        })
    }

    /// Whether there is no task but that of `block_on`, and no message.
    pub(super) fn is_drained(&self) -> bool {
        // Without tasks, what else is in the inbox are those that ended: nobody is told when it has gone.
        self.registry.len() == 0 && self.messages.borrow().is_empty() && !self.inbox.has_messages()
    }

    /// The task that runs, if one does: that of the coroutine on whose stack this is, or the one that the loop polls.
    #[inline]
    fn running(&self) -> Option<NonNull<Header>> {
        coroutine::running_task(self).or(self.polling.get())
    }

    /// Runs `f` with the header of the task that is being polled, if one is.
    #[inline]
    pub(in crate::rt) fn with_running<R>(&self, f: impl FnOnce(Option<&Header>) -> R) -> R {
        // SAFETY: set while the task is being polled, when its core's own reference keeps it alive.
        f(self.running().map(|task| unsafe { task.as_ref() }))
    }

    /// The task that is being polled.
    pub(in crate::rt) fn running_task(&self) -> Option<TaskRef> {
        // SAFETY: as in `with_running`; tasks are polled on their core's thread.
        self.running().map(|task| unsafe { TaskRef::borrow(task) })
    }

    /// The task-local values of the task that is being polled. Code of the core's that is in none (a waker, a poller, a
    /// destructor at the end) gets values of its own, which go at once.
    pub(in crate::rt) fn locals(&self) -> Rc<Locals> {
        self.with_running(|task| task.map(Header::locals)).unwrap_or_default()
    }

    /// A task panicked in a way that the loop does not see.
    pub(in crate::rt) fn count_panic(&self) {
        self.counters.panicked.set(self.counters.panicked.get() + 1);
    }

    pub(in crate::rt) fn is_forked(&self) -> bool {
        self.process.is_left()
    }

    pub(in crate::rt) fn idle(&self) -> Idle {
        self.idle
    }

    /// The queue of the task that is being polled; between tasks the default one.
    #[inline]
    pub(in crate::rt) fn current_queue(self: &Rc<Self>) -> u8 {
        self.with_running(|task| task.map_or(DEFAULT_QUEUE, Header::queue))
    }

    pub(in crate::rt) fn queues(&self) -> &RunQueues {
        &self.queues
    }

    #[inline]
    pub(in crate::rt) fn inbox_ptr(&self) -> *const Inbox {
        Arc::as_ptr(&self.inbox)
    }

    pub(in crate::rt) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(in crate::rt) fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    pub(in crate::rt) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(in crate::rt) fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(in crate::rt) fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.inbox), Arc::clone(&self.beat), self.process)
    }

    pub(in crate::rt) fn fill_random(&self, bytes: &mut [u8]) {
        self.rng.borrow_mut().fill_bytes(bytes);
    }

    pub(in crate::rt) fn timers(&self) -> &RefCell<Wheel<Waker>> {
        &self.timers
    }

    pub(in crate::rt) fn poller_stats(&self) -> Vec<PollerStats> {
        self.pollers.stats()
    }

    pub(in crate::rt) fn add_poller(&self, poller: SharedPoller, budget: Option<usize>) -> u64 {
        self.pollers.add(poller, budget)
    }

    pub(in crate::rt) fn remove_poller(&self, id: u64) {
        self.pollers.remove(id, &self.reactor);
    }

    pub(in crate::rt) fn remove_timer(&self, key: TimerKey) {
        let waker = self.timers.borrow_mut().remove(key);
        drop(waker);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        crate::rt::current::forget(self);
    }
}
