//! How tasks come to a core: spawned ones, and that of a `block_on`.

use std::future::Future;
use std::panic::Location;

use super::state::CoreState;
use crate::rt::record::{self, Phase};
use crate::rt::tasks::{DEFAULT_QUEUE, JoinError, JoinHandle, NewTask, TaskRef};

impl CoreState {
    pub(in crate::rt) fn spawn<F: Future + 'static>(
        &self,
        queue: u8,
        name: Option<&'static str>,
        created_at: &'static Location<'static>,
        future: F,
    ) -> JoinHandle<F::Output> {
        let (task, handle) = TaskRef::new(&self.new_task(queue, name, created_at), future);
        self.local.queues.retain(queue);
        if let Some(ready) = task.mark_queued() {
            self.local.enqueue(ready);
        }
        self.tasks.registry.insert(task);
        handle
    }

    /// Starts the task of a `block_on`.
    pub(in crate::rt) fn start_root<F: Future>(
        &self,
        created_at: &'static Location<'static>,
        future: F,
    ) -> Root<'_, F::Output> {
        // The time that the thread spent outside of the core is not the core's.
        self.record.accounted.set(self.read_clock());
        let new = self.new_task(DEFAULT_QUEUE, Some("block_on"), created_at);
        // SAFETY: `Root` ends the task and drops its result when it goes. It is on the stack of
        // `block_on`, as the future was.
        let (task, handle) = unsafe { TaskRef::new_root(&new, future) };
        if let Some(ready) = task.mark_queued() {
            self.local.enqueue(ready);
        }
        // `Root` has its handle, and so keeps it until it is no longer noted here.
        self.tasks.root.set(Some(task.as_ptr()));
        // The core's own reference, which goes with the end of the task.
        std::mem::forget(task);
        Root { core: self, handle }
    }

    fn new_task(
        &self,
        queue: u8,
        name: Option<&'static str>,
        created_at: &'static Location<'static>,
    ) -> NewTask<'_> {
        let id = self.record.counters.spawned.get() + 1;
        self.record.counters.spawned.set(id);
        NewTask {
            inbox: &self.local.inbox,
            site: self.tasks.sites.get(name, created_at),
            id,
            queue,
            now: self.local.now.get(),
        }
    }
}

/// The task of a `block_on`. It ends with this, at the latest.
pub(in crate::rt) struct Root<'a, T> {
    core: &'a CoreState,
    handle: JoinHandle<T>,
}

impl<T> Root<'_, T> {
    /// What it waits for, as far as it says.
    pub(in crate::rt) fn waits_for(&self) -> Option<&'static str> {
        self.handle.waits_for()
    }

    pub(in crate::rt) fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// The result, once.
    pub(in crate::rt) fn take(&mut self) -> Option<std::result::Result<T, JoinError>> {
        self.handle.take()
    }
}

impl<T> Drop for Root<'_, T> {
    fn drop(&mut self) {
        // The loop may have been left by a panic in the middle of a poll: of a waker, after the
        // task had ended.
        self.core.local.polling.set(None);
        self.core.turn.until.set(0);
        self.core.beat.enter(Phase::Outside);
        self.core.tasks.root.set(None);
        if !self.handle.is_finished() {
            record::add(&self.core.record.counters.ended, 1);
        }
        // SAFETY: this is the core's thread, and its loop, which alone polls tasks, has been left.
        unsafe { self.handle.end_now(&self.core.tasks.registry) };
    }
}
