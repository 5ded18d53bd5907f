//! The part of a task that does not depend on its future's type.

use std::cell::{Cell, UnsafeCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::inbox::{Inbox, InboxNode};
use super::locals::Locals;
use super::state::TurnState;
use crate::rt::record::Site;
use crate::time::Instant;

const STACK_PAGE_BYTES: usize = 4 << 10;

/// The part of a task that does not depend on its future's type. `repr(C)`: the node comes first,
/// so that a pointer to the one is a pointer to the other.
///
/// What a poll needs is together, in few cache lines.
#[repr(C)]
pub(in crate::rt) struct Header {
    pub(super) node: InboxNode,
    /// The next on its run queue. Says nothing of a task that is on none.
    pub(super) next_ready: Cell<Option<NonNull<Header>>>,
    /// What decides about its turns, and nothing else: one comparison tells a coroutine that may be
    /// resumed.
    pub(super) state: TurnState,
    /// Which of the core's task queues it belongs to.
    pub(super) queue: u8,
    /// The room on its stack, in pages of 4 KiB; 0 for a task without a stack of its own.
    pub(super) stack_pages: Cell<u16>,
    pub(super) polls: Cell<u32>,
    /// When it was last polled, or spawned if it never was; as the core's clock was last read.
    pub(super) since: Cell<Instant>,
    pub(super) waits_for: Cell<Option<&'static str>>,
    pub(super) site: &'static Site,
    /// The [`Control`](super::control::Control) of the coroutine that each poll resumes, if that is
    /// all that a poll does.
    pub(super) polled_coroutine: Cell<Option<NonNull<()>>>,
    pub(super) vtable: &'static VTable,
    pub(super) references: Cell<i64>,
    /// Kept alive by the core while it lives, and then by a count of this task's own; see
    /// [`Inbox::close`].
    pub(super) inbox: *const Inbox,
    pub(super) id: u64,
    /// The future of a `block_on`: not in the registry.
    pub(super) is_root: bool,
    /// Spawned as a coroutine's.
    pub(super) spawned_as_coroutine: Cell<bool>,
    /// The join handle is gone: nobody will take the result.
    pub(super) is_detached: Cell<bool>,
    pub(super) joiner: UnsafeCell<Option<Waker>>,
    pub(super) links: RegistryLinks,
    pub(super) locals: Cell<Option<Rc<Locals>>>,
}

/// What a task does by the type of its future.
pub(super) struct VTable {
    /// Polls the future once.
    pub(super) poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Polled,
    /// Drops the future, leaving `result`.
    pub(super) cancel: unsafe fn(NonNull<Header>),
    /// Drops the result, if it was not taken.
    pub(super) discard: unsafe fn(NonNull<Header>),
    /// Frees the task.
    pub(super) free: unsafe fn(NonNull<Header>),
}

/// RegistryLinks of a task in the registry of its core.
#[derive(Default)]
pub(super) struct RegistryLinks {
    pub(super) previous: Cell<Option<NonNull<Header>>>,
    pub(super) next: Cell<Option<NonNull<Header>>>,
}

/// What a new task is made of besides its future.
pub(in crate::rt) struct NewTask<'a> {
    pub(in crate::rt) inbox: &'a Arc<Inbox>,
    pub(in crate::rt) site: &'static Site,
    pub(in crate::rt) id: u64,
    pub(in crate::rt) queue: u8,
    pub(in crate::rt) now: Instant,
}

/// What became of a task that was ready.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::rt) enum Polled {
    /// It goes on later.
    Pending,
    /// It has ended just now.
    Ended,
    /// It has ended just now, with a panic.
    Panicked,
    /// It had ended before its turn came.
    Gone,
}

impl Header {
    /// Where it stands.
    #[inline]
    pub(in crate::rt) fn state(&self) -> &TurnState {
        &self.state
    }

    pub(in crate::rt) fn site(&self) -> &'static Site {
        self.site
    }

    pub(in crate::rt) fn id(&self) -> u64 {
        self.id
    }

    pub(in crate::rt) fn queue(&self) -> u8 {
        self.queue
    }

    pub(in crate::rt) fn polls(&self) -> u32 {
        self.polls.get()
    }

    /// The room on the task's stack in bytes, if it has one of its own; rounded down to 4 KiB, and
    /// at most 256 MiB.
    pub(in crate::rt) fn stack_bytes(&self) -> Option<usize> {
        let pages = usize::from(self.stack_pages.get());
        (pages > 0).then_some(pages * STACK_PAGE_BYTES)
    }

    /// Notes that the task has a stack of its own.
    pub(in crate::rt) fn set_stack_bytes(&self, bytes: usize) {
        self.stack_pages.set(u16::try_from(bytes / STACK_PAGE_BYTES).unwrap_or(u16::MAX));
    }

    pub(in crate::rt) fn since(&self) -> Instant {
        self.since.get()
    }

    pub(in crate::rt) fn has_ended(&self) -> bool {
        self.state.has_ended()
    }

    /// Whether the task is that of a `block_on`.
    pub(in crate::rt) fn is_root(&self) -> bool {
        self.is_root
    }

    /// Whether the task is that of a coroutine.
    pub(in crate::rt) fn is_spawned_as_coroutine(&self) -> bool {
        self.spawned_as_coroutine.get()
    }

    pub(in crate::rt) fn waits_for(&self) -> Option<&'static str> {
        self.waits_for.get()
    }

    /// Notes what the task waits for, until its next poll.
    pub(in crate::rt) fn set_waits_for(&self, what: &'static str) {
        self.waits_for.set(Some(what));
    }

    /// A coroutine looks at what it may wait for next. It alone need not be told when its poll
    /// begins.
    pub(in crate::rt) fn forget_waits_for(&self) {
        self.waits_for.set(None);
    }

    /// The task-local values, made when first asked for. What the end of the task runs gets values
    /// of its own, which go at once: nobody would drop those of the task any more before it is
    /// freed, perhaps on another thread.
    pub(in crate::rt) fn locals(&self) -> Rc<Locals> {
        if self.state.has_ended() {
            return Rc::default();
        }
        let locals = self.locals.take().unwrap_or_default();
        self.locals.set(Some(Rc::clone(&locals)));
        locals
    }
}
