//! What a core says about itself and its tasks.

use std::future::Future;
use std::ops::ControlFlow;
use std::panic::Location;
use std::ptr;
use std::rc::Rc;
use std::task::Poll;

use super::state::CoreState;
use crate::rt::record::{CoreLatencies, CoreStats, TaskInfo, TaskOrder, TaskRange, TaskState};
use crate::rt::tasks::Header;
use crate::time::Instant;

impl CoreState {
    pub(in crate::rt) fn stats(&self) -> CoreStats {
        let counters = &self.record.counters;
        CoreStats {
            turns: self.beat.turns(),
            polls: self.beat.polls(),
            tasks: self.tasks.registry.len() + usize::from(self.has_root()),
            spawned: counters.spawned.get(),
            ended: counters.ended.get(),
            panicked: counters.panicked.get(),
            parks: counters.parks.get(),
            remote_wakes: counters.remote_wakes.get(),
            messages: counters.messages.get(),
            reactor: self.io.attachment.reactor.kind(),
            ring_enters: self.io.attachment.reactor.enters(),
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
        self.record.counters.latencies.borrow().clone()
    }

    /// Whether the future of a `block_on` has not ended.
    fn has_root(&self) -> bool {
        // SAFETY: `Root` keeps its task for as long as it is noted here.
        self.tasks.root.get().is_some_and(|task| !unsafe { task.as_ref() }.has_ended())
    }

    /// What is known of the tasks in `range`, that of `block_on` among them.
    pub(in crate::rt) fn tasks(&self, range: TaskRange) -> Vec<TaskInfo> {
        let now = self.clock.now();
        let mut tasks = Vec::with_capacity(range.limit.min(self.tasks.registry.len() + 1));
        let newest_first = range.order == TaskOrder::NewestFirst;
        let mut take = |task: &Header| {
            if tasks.len() < range.limit && range.contains(task.id()) {
                tasks.push(self.describe(task, now));
            }
            tasks.len() < range.limit
        };
        // It is not in the registry, and has its place in the order.
        // SAFETY: `Root` keeps its task for as long as it is noted here.
        let mut root =
            self.tasks.root.get().map(|task| unsafe { task.as_ref() }).filter(|root| !root.has_ended());
        self.tasks.registry.for_each(newest_first, |task| {
            let is_later = |root: &&Header| (root.id() > task.id()) == newest_first;
            let goes_on = root.take_if(|root| is_later(root)).is_none_or(&mut take) && take(task);
            if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        root.map(take);
        tasks
    }

    /// The task that is being polled.
    pub(in crate::rt) fn current_task(&self) -> Option<TaskInfo> {
        self.local.with_running(|task| task.map(|task| self.describe(task, self.clock.now())))
    }

    fn describe(&self, task: &Header, now: Instant) -> TaskInfo {
        let is_running = self.local.running().is_some_and(|running| ptr::eq(running.as_ptr(), task));
        let state = match is_running {
            true => TaskState::Running,
            false if task.state().is_queued() => TaskState::Ready,
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
            queue: self.local.queues.name(task.queue()),
            is_coroutine: task.is_spawned_as_coroutine(),
            is_block_on: task.is_root(),
            stack_bytes: task.stack_bytes(),
        }
    }

    /// The name and creation place of every task but that of `block_on`, the newest first.
    pub(in crate::rt) fn task_sites(&self) -> Vec<(&'static str, &'static Location<'static>)> {
        let mut sites = Vec::with_capacity(self.tasks.registry.len());
        self.tasks.registry.for_each(true, |task| {
            sites.push((task.site().name, task.site().created_at));
            ControlFlow::Continue(())
        });
        sites
    }

    /// Completes when there is no message and no task but that of `block_on`, which awaits this.
    pub(in crate::rt) fn drained(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let core = Rc::clone(self);
        std::future::poll_fn(move |cx| {
            if core.is_drained() {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            let old = core.tasks.drained.replace(Some(waker));
            drop(old);
            Poll::Pending
        })
    }

    /// Whether there is no task but that of `block_on`, and no message.
    pub(super) fn is_drained(&self) -> bool {
        // Without tasks, all that else can be in the inbox is tasks that have ended, and nobody is
        // told when they go.
        self.tasks.registry.len() == 0
            && self.messages.borrow().is_empty()
            && !self.local.inbox.has_messages()
    }
}
