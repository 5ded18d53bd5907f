//! New tasks.

use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;

use super::header::{Header, NewTask, RegistryLinks};
use super::inbox::InboxNode;
use super::join::JoinHandle;
use super::reference::TaskRef;
use super::stage::{self, TaskCell};
use super::state::TurnState;

impl TaskRef {
    /// A new task, not yet queued: the core's own reference to it, and the handle to its result.
    pub(in crate::rt) fn new<F>(new: &NewTask<'_>, future: F) -> (Self, JoinHandle<F::Output>)
    where
        F: Future + 'static,
    {
        // SAFETY: a `'static` future may be dropped at any time.
        unsafe { Self::new_unbounded(new, future, false) }
    }

    /// The task of a `block_on`: not in the registry.
    ///
    /// # Safety
    ///
    /// The caller sees to it that the task has ended and its result was taken or dropped before the
    /// lifetime of `F` is over.
    pub(in crate::rt) unsafe fn new_root<F: Future>(
        new: &NewTask<'_>,
        future: F,
    ) -> (Self, JoinHandle<F::Output>) {
        // SAFETY: the caller's promise is the same.
        unsafe { Self::new_unbounded(new, future, true) }
    }

    /// # Safety
    ///
    /// The task ends, and its result is taken or dropped, before the lifetime of `F` is over.
    unsafe fn new_unbounded<F: Future>(
        new: &NewTask<'_>,
        future: F,
        is_root: bool,
    ) -> (Self, JoinHandle<F::Output>) {
        new.inbox.task_made();
        let header = Header {
            node: InboxNode::new(),
            next_ready: Cell::new(None),
            state: TurnState::new(),
            queue: new.queue,
            stack_pages: Cell::new(0),
            polls: Cell::new(0),
            since: Cell::new(new.now),
            waits_for: Cell::new(None),
            site: new.site,
            polled_coroutine: Cell::new(None),
            vtable: TaskCell::<F>::VTABLE,
            references: Cell::new(2),
            inbox: Arc::as_ptr(new.inbox),
            id: new.id,
            is_root,
            spawned_as_coroutine: Cell::new(false),
            is_detached: Cell::new(false),
            joiner: UnsafeCell::new(None),
            links: RegistryLinks::default(),
            locals: Cell::new(None),
        };
        let header = TaskCell::allocate(header, future);
        (Self(header), JoinHandle::new(header, stage::take::<F>))
    }
}
