//! What wakers and futures on a core's own thread reach of the core: its run queues and the task
//! that runs.
//!
//! One thread-local pointer without a destructor says which core the thread is inside of, so that
//! it can be read while the thread's other locals are destroyed, and so that waking a task of the
//! own core costs one access to thread-local storage.

use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::control;
use super::header::Header;
use super::inbox::Inbox;
use super::queues::{DEFAULT_QUEUE, RunQueues};
use super::reference::TaskRef;
use crate::time::Instant;

/// The part of a core that its tasks and their wakers reach. The first field of the core's state,
/// so that a pointer to the one is a pointer to the other.
pub(in crate::rt) struct Local {
    pub(in crate::rt) inbox: Arc<Inbox>,
    pub(in crate::rt) queues: RunQueues,
    /// The time as last read.
    pub(in crate::rt) now: Cell<Instant>,
    /// The task that the loop polls. Another one runs while a coroutine lets others run on its
    /// stack: [`Local::running`] knows.
    pub(in crate::rt) polling: Cell<Option<NonNull<Header>>>,
}

thread_local! {
    static CURRENT: Cell<*const Local> = const { Cell::new(ptr::null()) };
}

/// Calls `f` with the core that the calling thread is inside of, if any. `f` runs no user code but
/// the clock: neither wakers nor destructors, which may enter or end another core.
#[inline]
pub(in crate::rt) fn with<R>(f: impl FnOnce(Option<&Local>) -> R) -> R {
    // SAFETY: `set_current` was promised that the core lives until it is replaced, and `f` replaces
    // none.
    f(unsafe { CURRENT.get().as_ref() })
}

/// The core that the calling thread is inside of, to compare with; null outside.
#[inline]
pub(in crate::rt) fn current() -> *const Local {
    CURRENT.get()
}

/// Says which core the thread is inside of, or none if `core` is null; returns which it was before.
///
/// # Safety
///
/// `core` is null or stays where it is, and alive, until another call replaces it.
pub(in crate::rt) unsafe fn set_current(core: *const Local) -> *const Local {
    CURRENT.replace(core)
}

impl Local {
    #[inline]
    pub(in crate::rt) fn inbox_ptr(&self) -> *const Inbox {
        Arc::as_ptr(&self.inbox)
    }

    /// Puts a task that was just marked as queued on its run queue.
    #[inline]
    pub(in crate::rt) fn enqueue(&self, task: NonNull<Header>) {
        // SAFETY: a task that is marked as queued is kept alive by its core's own reference.
        let queue = unsafe { task.as_ref() }.queue();
        self.queues.push(queue, task, &self.now);
    }

    /// The task that runs, if one does: that of the coroutine on whose stack this is, or the one
    /// that the loop polls.
    #[inline]
    pub(in crate::rt) fn running(&self) -> Option<NonNull<Header>> {
        control::running_task(ptr::from_ref(self).cast()).or(self.polling.get())
    }

    /// Calls `f` with the header of the task that runs, if one does.
    #[inline]
    pub(in crate::rt) fn with_running<R>(&self, f: impl FnOnce(Option<&Header>) -> R) -> R {
        // SAFETY: set while the task is being polled, when its core's own reference keeps it alive.
        f(self.running().map(|task| unsafe { task.as_ref() }))
    }

    /// The task that runs.
    pub(in crate::rt) fn running_task(&self) -> Option<TaskRef> {
        // SAFETY: as in `with_running`; tasks are polled on their core's thread.
        self.running().map(|task| unsafe { TaskRef::borrow(task) })
    }

    /// The queue of the task that runs; between tasks the default one.
    #[inline]
    pub(in crate::rt) fn current_queue(&self) -> u8 {
        self.with_running(|task| task.map_or(DEFAULT_QUEUE, Header::queue))
    }
}
