//! A task: a future on the heap with its reference count, its waker and the slot for its result.
//!
//! A task belongs to one core and is polled, cancelled and completed only there. References are counted without atomics on
//! that core, and through the [`Node`] (see [`inbox`](super::inbox)) everywhere else. A reference is held by the core (until
//! the task has ended and is on no run queue), by the join handle, and by every waker. The run queue needs none of its own,
//! so that to yield counts nothing.
//!
//! The last reference may be a waker's on another thread, after the core is gone. So the future and its result, which need not
//! be `Send`, never wait for that: the future is dropped when the task ends, and a result that nobody takes with the join
//! handle or, if that went first, with the end of the task. What is left to free then runs no code but boson's own.

mod abort;
mod join;
mod join_error;
mod list;
mod site;
mod stage;
mod waker;

use std::cell::{Cell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, RawWaker, Waker};

use super::Instant;
use super::beat::Beat;
use super::coroutine::{Control, Left};
use super::inbox::{Changes, Inbox, Node};
use super::task_local::Locals;

pub(crate) use abort::sealed::Cancel;
pub use abort::{AbortOnDrop, TaskHandle};
pub use join::JoinHandle;
pub use join_error::{JoinError, PanicPayload};
use list::Links;
pub(super) use list::{ReadyList, Registry};
pub(super) use site::{Site, SiteCache};
pub(crate) use stage::wake_all;
use stage::{TaskCell, VTable};
pub(super) use stage::{drop_quietly, each_quietly, quietly};
pub(super) use waker::Canceller;

const STACK_PAGE_BYTES: usize = 4 << 10;

/// On a run queue.
const QUEUED: u8 = 1;
/// The future is gone.
const ENDED: u8 = 1 << 1;
/// The join handle asked for the end of the task.
const CANCELLED: u8 = 1 << 2;
/// Its polls do more than to resume a coroutine: `Header::coroutine` is not set, or the coroutine knows of a panic.
const FUTURE: u8 = 1 << 3;
/// It runs and is the first on its run queue: a coroutine among others that take turns on one of their stacks.
const TURN: u8 = 1 << 4;

/// The part of a task that does not depend on its future's type. `repr(C)`: the node comes first, so that a pointer to the
/// one is a pointer to the other.
///
/// What a poll needs is together, in few cache lines.
#[repr(C)]
pub(super) struct Header {
    node: Node,
    /// The next on its run queue. Says nothing of a task that is on none.
    next_ready: Cell<Option<NonNull<Header>>>,
    /// Only what decides about its turns, so that one comparison tells a coroutine that takes turns: it has none, or is queued.
    flags: Cell<u8>,
    /// Which of the core's task queues it belongs to.
    queue: u8,
    /// The room on its stack, in pages of 4 KiB; 0 for a task without a stack of its own.
    stack_pages: Cell<u16>,
    polls: Cell<u32>,
    /// When it was last polled, or spawned if it never was; as the core's clock was last read.
    since: Cell<Instant>,
    waits_for: Cell<Option<&'static str>>,
    site: &'static Site,
    /// The coroutine that each poll resumes, if that is all that a poll does.
    coroutine: Cell<Option<NonNull<Control>>>,
    vtable: &'static VTable,
    references: Cell<i64>,
    /// Kept alive by the core while it lives, and then by a count of this task's own; see [`Inbox::close`].
    inbox: *const Inbox,
    id: u64,
    /// The future of a `block_on`: not in the registry.
    is_root: bool,
    /// Spawned as a coroutine's.
    is_coroutine: Cell<bool>,
    /// The join handle is gone: nobody will take the result.
    is_detached: Cell<bool>,
    joiner: UnsafeCell<Option<Waker>>,
    links: Links,
    locals: Cell<Option<Rc<Locals>>>,
}

/// What a new task is made of besides its future.
pub(super) struct NewTask<'a> {
    pub(super) inbox: &'a Arc<Inbox>,
    pub(super) site: &'static Site,
    pub(super) id: u64,
    pub(super) queue: u8,
    pub(super) now: Instant,
}

/// What became of a task that was ready.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
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
    fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    fn set(&self, flag: u8) {
        self.flags.set(self.flags.get() | flag);
    }

    /// Notes that each poll does nothing but to resume a coroutine, which clears this when it is dropped; or that this is not so.
    pub(super) fn set_coroutine(&self, coroutine: Option<&Control>) {
        self.coroutine.set(coroutine.map(NonNull::from));
        let others = self.flags.get() & !FUTURE;
        self.flags.set(if coroutine.is_some() { others } else { others | FUTURE });
    }

    /// A poll of a task that [resumes a coroutine](Self::set_coroutine) has more to do from here on, and is to be a poll of its future; or that
    /// is over.
    #[cold]
    pub(super) fn set_polls_future(&self, more: bool) {
        let others = self.flags.get() & !FUTURE;
        self.flags.set(if more || self.coroutine.get().is_none() { others | FUTURE } else { others });
    }

    /// The coroutine that each poll resumes.
    #[inline]
    pub(super) fn coroutine(&self) -> Option<&Control> {
        // SAFETY: a coroutine is pinned from its first poll on, and clears the pointer to it when it is dropped. The callers are
        // about to resume it, and what drops it comes after that.
        self.coroutine.get().map(|control| unsafe { control.as_ref() })
    }

    pub(super) fn site(&self) -> &'static Site {
        self.site
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn queue(&self) -> u8 {
        self.queue
    }

    pub(super) fn polls(&self) -> u32 {
        self.polls.get()
    }

    /// The room on the task's stack in bytes, if it has one of its own; rounded down to 4 KiB, and at most 256 MiB.
    pub(super) fn stack_bytes(&self) -> Option<usize> {
        let pages = usize::from(self.stack_pages.get());
        (pages > 0).then_some(pages * STACK_PAGE_BYTES)
    }

    /// Notes that the task has a stack of its own.
    pub(super) fn set_stack_bytes(&self, bytes: usize) {
        self.stack_pages.set(u16::try_from(bytes / STACK_PAGE_BYTES).unwrap_or(u16::MAX));
    }

    pub(super) fn since(&self) -> Instant {
        self.since.get()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has(ENDED)
    }

    /// Whether the task is that of a `block_on`.
    pub(super) fn is_root(&self) -> bool {
        self.is_root
    }

    /// Whether the task is that of a coroutine.
    pub(super) fn is_coroutine(&self) -> bool {
        self.is_coroutine.get()
    }

    pub(super) fn is_queued(&self) -> bool {
        self.has(QUEUED)
    }

    pub(super) fn waits_for(&self) -> Option<&'static str> {
        self.waits_for.get()
    }

    /// Notes what the task waits for, until its next poll.
    pub(super) fn set_waits_for(&self, what: &'static str) {
        self.waits_for.set(Some(what));
    }

    /// A coroutine looks at what it may wait for next. It alone need not be told when its poll begins.
    pub(super) fn forget_waits_for(&self) {
        self.waits_for.set(None);
    }

    /// The task-local values, made when first asked for. What the end of the task runs gets values of its own, which go at once:
    /// nobody would drop those of the task any more before it is freed, perhaps on another thread.
    pub(super) fn locals(&self) -> Rc<Locals> {
        if self.has(ENDED) {
            return Rc::default();
        }
        let locals = self.locals.take().unwrap_or_default();
        self.locals.set(Some(Rc::clone(&locals)));
        locals
    }
}

/// An owned reference to a task, on its own core.
pub(super) struct TaskRef(NonNull<Header>);

impl TaskRef {
    /// A new task, not yet queued: the core's own reference to it, and the handle to its result.
    pub(super) fn new<F>(new: &NewTask<'_>, future: F) -> (Self, JoinHandle<F::Output>)
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
    /// The caller sees to it that the task has ended and its result was taken or dropped before the lifetime of `F` is over.
    pub(super) unsafe fn new_root<F: Future>(new: &NewTask<'_>, future: F) -> (Self, JoinHandle<F::Output>) {
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
            node: Node::new(),
            next_ready: Cell::new(None),
            flags: Cell::new(FUTURE),
            queue: new.queue,
            stack_pages: Cell::new(0),
            polls: Cell::new(0),
            since: Cell::new(new.now),
            waits_for: Cell::new(None),
            site: new.site,
            coroutine: Cell::new(None),
            vtable: TaskCell::<F>::VTABLE,
            references: Cell::new(2),
            inbox: Arc::as_ptr(new.inbox),
            id: new.id,
            is_root,
            is_coroutine: Cell::new(false),
            is_detached: Cell::new(false),
            joiner: UnsafeCell::new(None),
            links: Links::default(),
            locals: Cell::new(None),
        };
        let header = TaskCell::allocate(header, future);
        (Self(header), JoinHandle::new(header, stage::take::<F>))
    }

    /// Another reference to a task.
    ///
    /// # Safety
    ///
    /// The task is alive, and this is the thread of its core.
    pub(super) unsafe fn borrow(task: NonNull<Header>) -> Self {
        // SAFETY: alive by the caller's word.
        let references = unsafe { &task.as_ref().references };
        references.set(references.get() + 1);
        Self(task)
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: this reference is counted, so the task is not freed while `self` lives.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.header().has(ENDED)
    }

    /// Calls `f` with a waker of the task.
    #[inline]
    pub(super) fn with_waker<R>(&self, f: impl FnOnce(&Waker) -> R) -> R {
        // SAFETY: this reference keeps the task alive for the call.
        let waker = unsafe { borrowed_waker(self.0) };
        f(&waker)
    }

    pub(super) fn as_ptr(&self) -> NonNull<Header> {
        self.0
    }

    /// What the wakers of the task point to.
    pub(super) fn as_waker_data(&self) -> *const () {
        self.0.as_ptr().cast_const().cast()
    }

    /// Marks the task as queued and gives what a [`ReadyList`] takes; `None` if it is queued already or has ended.
    #[inline]
    pub(super) fn mark_queued(&self) -> Option<NonNull<Header>> {
        mark_queued(self.0)
    }

    /// Drops the future if the task has not ended. It is not being polled: a core's loop or its end calls this.
    pub(super) fn cancel(&self, registry: &Registry) {
        if !self.has_ended() {
            // SAFETY: the task is alive, on its own core and not ended; the caller (the core, between polls) is not inside its
            // poll.
            unsafe { (self.header().vtable.cancel)(self.0) };
            // SAFETY: as above, and its future is gone.
            unsafe { end(self.0, registry) };
        }
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        let header = self.header();
        let left = header.references.get() - 1;
        header.references.set(left);
        if header.node.is_unreferenced(left) {
            // SAFETY: a `TaskRef` exists only while the core does, which keeps its inbox alive.
            let inbox = unsafe { &*header.inbox };
            // SAFETY: no reference is left, here or elsewhere, and no other thread is about to list the node.
            unsafe { (header.vtable.free)(self.0) };
            inbox.task_freed();
        }
    }
}

/// Marks a task that is alive, on its own core, as queued; `None` if it is queued already or has ended.
#[inline]
pub(super) fn mark_queued(task: NonNull<Header>) -> Option<NonNull<Header>> {
    // SAFETY: alive by the reference that each caller holds.
    let flags = unsafe { &task.as_ref().flags };
    if flags.get() & (QUEUED | ENDED) != 0 {
        return if flags.get() & TURN == 0 { None } else { leave_front(task) };
    }
    flags.set(flags.get() | QUEUED);
    Some(task)
}

/// Takes a coroutine from its place at the front of its queue that is woken while it [has its turn](TURN) there.
#[cold]
fn leave_front(task: NonNull<Header>) -> Option<NonNull<Header>> {
    // SAFETY: alive, as in `mark_queued`.
    let header = unsafe { task.as_ref() };
    // SAFETY: set for every coroutine that had a turn, to a part of its core, which is alive and runs it.
    let ready = unsafe { header.coroutine()?.ready().as_ref() }?;
    let first = ready.leave();
    debug_assert_eq!(first, Some(task), "who has its turn is the first");
    header.flags.set(header.flags.get() & !TURN);
    first
}

/// Whether the next poll of a task that is on a run queue does nothing but to resume a coroutine.
#[inline]
pub(super) fn is_coroutine(header: &Header) -> bool {
    header.flags.get() == QUEUED
}

/// Whether a task is a coroutine that runs and is the first on its run queue, and may go on.
#[inline]
pub(super) fn has_turn(header: &Header) -> bool {
    header.flags.get() == QUEUED | TURN
}

/// Marks a running task as one that [has its turn](has_turn), if it is a coroutine that may go on and is not queued; false otherwise.
/// The caller puts it first on its run queue.
pub(super) fn mark_turn(header: &Header) -> bool {
    let marks = header.flags.get() == 0;
    if marks {
        header.flags.set(QUEUED | TURN);
    }
    marks
}

/// The turn is over of a task that had it at the front of its queue, from where the caller takes it; false if it had none.
pub(super) fn end_turn(header: &Header) -> bool {
    let had = header.has(TURN);
    if had {
        header.flags.set(header.flags.get() & !(QUEUED | TURN));
    }
    had
}

/// A turn begins of a task that [is a coroutine](is_coroutine): it was taken from its run queue, or it [has its turn](has_turn) as the first
/// on it. As many polls as `number` began before.
#[inline]
pub(super) fn begin_coroutine(header: &Header, is_first: bool, now: Instant, beat: &Beat, number: u64) {
    header.flags.set(if is_first { QUEUED | TURN } else { 0 });
    beat.poll_after(number, header.site);
    header.polls.set(header.polls.get().wrapping_add(1));
    header.since.set(now);
}

/// A poll of a task begins that was taken from a run queue.
#[inline]
pub(super) fn begin(header: &Header, now: Instant, beat: &Beat) {
    header.flags.set(header.flags.get() & !QUEUED);
    beat.poll(header.site);
    header.polls.set(header.polls.get().wrapping_add(1));
    header.since.set(now);
    header.waits_for.set(None);
}

/// A waker without a reference of its own; clones made from it take theirs.
///
/// # Safety
///
/// The task is alive for as long as the waker is used.
#[inline]
unsafe fn borrowed_waker(task: NonNull<Header>) -> ManuallyDrop<Waker> {
    // SAFETY: the waker's functions expect a `Header` of a live task, which it is by the caller's word; `ManuallyDrop` keeps the waker
    // from dropping a reference that it never took.
    ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(task.as_ptr().cast(), &waker::VTABLE)) })
}

/// Resumes the coroutine of a task whose poll [does nothing else](is_coroutine).
///
/// # Safety
///
/// `header` is that of the core's running task, whose poll [began](begin), on the thread of the core, which is inside of it; the
/// coroutine does not run yet, and an [`Outer`](super::coroutine::Outer) exists that is dropped before the task's future is. It
/// [was a coroutine](is_coroutine) when its poll began.
#[inline]
pub(super) unsafe fn resume(header: &Header) -> Left {
    // SAFETY: it had no `FUTURE` flag when its poll began, by the caller's word, and that is cleared only where the pointer is set, which
    // goes only together with setting the flag.
    let control = unsafe { header.coroutine().unwrap_unchecked() };
    // SAFETY: it was suspended before it was noted in the header, and when it ends the note is removed, here. The rest is the
    // caller's word.
    let left = unsafe { control.resume() };
    if left == Left::Ended {
        header.set_coroutine(None);
    }
    left
}

/// Polls a task that was taken from a run queue once, or drops its future if it was cancelled.
///
/// # Safety
///
/// `task` was just popped from a [`ReadyList`] of the core whose thread this is, which counts it as running and whose registry
/// `registry` is. No task is being polled.
#[inline]
pub(super) unsafe fn run(task: NonNull<Header>, now: Instant, registry: &Registry, beat: &Beat) -> Polled {
    // SAFETY: marked as queued, so the core's own reference keeps it alive.
    let header = unsafe { task.as_ref() };
    if header.flags.get() & (ENDED | CANCELLED) != 0 {
        header.flags.set(header.flags.get() & !QUEUED);
        // SAFETY: the core's own reference to a task that was queued is there still, and is taken over here.
        let task = ManuallyDrop::new(TaskRef(task));
        if task.has_ended() {
            drop(ManuallyDrop::into_inner(task));
            return Polled::Gone;
        }
        task.cancel(registry);
        return Polled::Ended;
    }
    begin(header, now, beat);
    // SAFETY: it has not ended, and the rest is the caller's word.
    unsafe { poll(task, registry) }
}

/// Polls a task whose poll [began](begin).
///
/// # Safety
///
/// The task has not ended, and the core, whose thread this is and whose registry `registry` is, counts it as running. No task is being
/// polled.
#[inline]
pub(super) unsafe fn poll(task: NonNull<Header>, registry: &Registry) -> Polled {
    // SAFETY: a task that has not ended is in its core's registry, or the root.
    let header = unsafe { task.as_ref() };
    // SAFETY: the core's own reference to a task that has not ended outlives its poll.
    let waker = unsafe { borrowed_waker(task) };
    // SAFETY: the task is live, on its own core, not ended (so the stage holds the future), and not being polled by the
    // caller's word.
    let polled = unsafe { (header.vtable.poll)(task, &mut Context::from_waker(&waker)) };
    if polled != Polled::Pending {
        // SAFETY: the task is live, on its own core, and its future is gone.
        unsafe { end(task, registry) };
    }
    polled
}

/// The end of a task whose future is gone: tells the joiner, and gives up the core's own reference.
///
/// # Safety
///
/// The task is alive, on its own core whose registry this is, and did not end before.
unsafe fn end(task: NonNull<Header>, registry: &Registry) {
    // SAFETY: alive by the caller's word.
    let header = unsafe { task.as_ref() };
    header.set(ENDED);
    if !header.is_root {
        // SAFETY: every other task is in its core's registry from its spawn to its end.
        unsafe { registry.remove(task) };
    }
    // SAFETY: `joiner` is touched only on the task's core, here and in `JoinHandle::poll`, neither of which calls into
    // foreign code while it holds the borrow: `take` moves the waker out first.
    let joiner = unsafe { &mut *header.joiner.get() }.take();
    if let Some(joiner) = joiner {
        stage::quietly(|| joiner.wake());
    }
    if let Some(locals) = header.locals.take() {
        stage::drop_quietly(locals);
    }
    if header.is_detached.get() {
        // SAFETY: the task is live, on its own core and has ended, and its join handle is gone.
        unsafe { (header.vtable.discard)(task) };
    }
    if !header.has(QUEUED) {
        // The core's own reference. That of a queued one goes when it is popped.
        drop(TaskRef(task));
    }
}

/// Applies what other threads did to a task and hands the core a reference to it if it was woken. Called by the core for
/// each task on its inbox's list.
pub(super) fn apply_changes(node: NonNull<Node>, changes: &Changes) -> Option<TaskRef> {
    let task = node.cast::<Header>();
    // SAFETY: every node on a list is the first field of a task's `repr(C)` header, and the task is not freed before this
    // call has applied its changes: freeing needs the count that is settled here.
    let references = unsafe { &task.as_ref().references };
    // One more for the reference made here, which frees the task on drop if it was the last.
    references.set(references.get() + changes.references + 1);
    let task = TaskRef(task);
    if changes.cancelled {
        task.header().set(CANCELLED);
    }
    changes.woken.then_some(task)
}

/// The owner's part after the core is gone: only counting and freeing. The future and its result are gone already.
pub(super) fn bury(node: NonNull<Node>, changes: Changes) {
    let task = node.cast::<Header>();
    // SAFETY: as in `apply_changes`.
    let header = unsafe { task.as_ref() };
    let left = header.references.get() + changes.references;
    header.references.set(left);
    if header.node.is_unreferenced(left) {
        let inbox = header.inbox;
        // SAFETY: no reference is left, here or elsewhere, and no other thread is about to list the node.
        unsafe { (header.vtable.free)(task) };
        // SAFETY: when it closed, the inbox took a count for each task that was left, this one among them; whoever called holds
        // another count while it works on the inbox.
        unsafe { Arc::decrement_strong_count(inbox) };
    }
}
