//! Task queues as their users see them: shares of a core.

use std::rc::{Rc, Weak};

use super::scheduler::{CoreState, current, in_core};
#[cfg(doc)]
use super::tasks::MAX_TASK_QUEUES;
use super::tasks::{DEFAULT_QUEUE, LatencyClass, Shares};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;

/// Tasks that share a part of their core. Cheap to clone; the queue goes with its last handle and
/// its last task.
///
/// A task is put on a queue by [`TaskBuilder::queue`](super::TaskBuilder::queue), or
/// [`thread::Builder::queue`](crate::thread::Builder::queue) if it is a coroutine. What it spawns
/// in turn is on the same queue, unless it says otherwise, so that all of a job stays within the
/// job's part of the core.
///
/// ```
/// # use boson::rt::{self, Core, CoreConfig};
/// # use boson::rt::queue::{LatencyClass, Shares, TaskQueue};
/// # use boson::rt::time::MonotonicClock;
/// # fn main() -> boson::Result<()> {
/// boson::run(async {
///     // A tenth of what the default queue has, whenever that has something to do.
///     let background = TaskQueue::new("compaction", Shares::new(10), LatencyClass::NotImportant)?;
///     rt::named("compact").queue(&background).spawn(async { /* … */ }).await?;
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TaskQueue(Rc<Registered>);

struct Registered {
    core: Weak<CoreState>,
    queue: u8,
    name: &'static str,
}

impl TaskQueue {
    /// A queue on this core.
    ///
    /// # Errors
    ///
    /// [`LimitReached`](ErrorKind::LimitReached) if the core has [`MAX_TASK_QUEUES`] already.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn new(name: &'static str, shares: Shares, latency: LatencyClass) -> Result<Self> {
        in_core("rt::queue::TaskQueue::new", |core| {
            let queue = core.queues().add(name, shares, latency)?;
            Ok(Self(Rc::new(Registered { core: Rc::downgrade(core), queue, name })))
        })
    }

    /// The queue of the task that is being polled; between tasks (in a message, a waker or a
    /// poller) the default one.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn current() -> Self {
        in_core("rt::queue::TaskQueue::current", |core| Self::numbered(core, core.local().current_queue()))
    }

    /// The queue that every core has: of the future of [`block_on`](super::Core::block_on), of
    /// tasks that other threads spawn, and of everything that those spawn. For a task that serves
    /// the whole core and may be started by any other.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn default_queue() -> Self {
        in_core("rt::queue::TaskQueue::default_queue", |core| Self::numbered(core, DEFAULT_QUEUE))
    }

    /// Another handle of a queue that is not free.
    fn numbered(core: &Rc<CoreState>, queue: u8) -> Self {
        core.queues().retain(queue);
        let name = core.queues().name(queue);
        Self(Rc::new(Registered { core: Rc::downgrade(core), queue, name }))
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Gives it other shares from now on.
    pub fn set_shares(&self, shares: Shares) {
        if let Some(core) = self.0.core.upgrade() {
            core.queues().set_shares(self.0.queue, shares);
        }
    }

    /// Whether it belongs to the core that the caller is in.
    pub(crate) fn is_here(&self) -> bool {
        current::with(|core| core.is_some_and(|core| self.number_on(core).is_some()))
    }

    /// Gives it another latency class from now on.
    pub fn set_latency(&self, latency: LatencyClass) {
        if let Some(core) = self.0.core.upgrade() {
            core.queues().set_latency(self.0.queue, latency);
        }
    }

    /// Its number, if it belongs to `core`.
    pub(super) fn number_on(&self, core: &Rc<CoreState>) -> Option<u8> {
        std::ptr::eq(self.0.core.as_ptr(), Rc::as_ptr(core)).then_some(self.0.queue)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.queues().release(self.queue);
        }
    }
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskQueue").field("name", &self.name).finish_non_exhaustive()
    }
}
