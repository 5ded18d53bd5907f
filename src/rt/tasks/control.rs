//! What the code on a coroutine's stack shares with the core that runs it, and the switch between
//! them.

use std::cell::{Cell, OnceCell, UnsafeCell};
use std::ops::Range;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use corosensei::{CoroutineResult, Yielder};

use super::header::Header;
use super::identity::Identity;
use super::list::ReadyList;
use super::reference::TaskRef;
use super::state::Marked;
use crate::rt::stack::PooledStack;

/// What must be left of a stack for its coroutine to run others from there: enough for the path to
/// their stacks.
pub(in crate::rt) const ROOM_BYTES: usize = 16 << 10;

/// Why a coroutine switches back to its resumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rt) enum Suspended {
    /// It waits to be woken, or is on its run queue already.
    Waits,
    /// It is to be put at the end of its run queue.
    Yields,
}

/// How a coroutine's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rt) enum TurnEnd {
    /// It is suspended.
    Suspended(Suspended),
    /// Its function has returned or panicked. There is nothing on its stack any more.
    Ended,
}

/// Whose panic it is that the thread is in, as far as a coroutine can tell:
/// `std::thread::panicking` is the thread's, and so also true for a bystander while another
/// coroutine is suspended in a destructor that a panic runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rt) enum Panics {
    /// The thread was in none when the coroutine was last switched to or from. What comes until the
    /// next switch is its own.
    None,
    /// There was another's already when it was switched to. One of its own is not noticed while
    /// that lasts.
    Others,
    /// It was switched from in one that began while it ran.
    Own,
}

/// What a coroutine does that yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rt) enum Role {
    /// It switches back to its resumer.
    Guest,
    /// The loop resumed it: it lets others run on its stack.
    Lender,
    /// It must look first: it is being cancelled, or its thread is inside another core, or in none.
    Restrained,
}

pub(in crate::rt) type Stack = corosensei::Coroutine<(), Suspended, (), PooledStack>;

/// What does not depend on the type of a coroutine's result. Pinned with the coroutine that it is a
/// part of: the task's header and [`RUNNING`] point to it.
pub(in crate::rt) struct Control {
    /// Borrowed while the coroutine is resumed.
    pub(in crate::rt) stack: UnsafeCell<Stack>,
    /// On the coroutine's stack; null before the first turn.
    pub(in crate::rt) yielder: Cell<*const Yielder<(), Suspended>>,
    /// The [state of the core](crate::rt::scheduler::CoreState) that it belongs to; null before the
    /// first turn.
    pub(in crate::rt) core: Cell<*const ()>,
    /// The run queue that it takes its turns from, a part of its core; null before the first turn.
    pub(in crate::rt) ready: Cell<*const ReadyList>,
    /// Its task, from the first turn on.
    pub(in crate::rt) task: OnceCell<TaskRef>,
    /// `Lender` only while the loop of its core resumes it and its thread is inside that core.
    pub(in crate::rt) role: Cell<Role>,
    /// How often the destructor unwound the stack; zero while the coroutine is alive.
    pub(in crate::rt) unwinds: Cell<u32>,
    /// As of the last switch.
    pub(in crate::rt) panics: Cell<Panics>,
    /// Its function is over, and its stack is empty.
    pub(in crate::rt) ended: Cell<bool>,
    /// Where the function's result goes, of a type that the function knows; set before the first
    /// turn.
    pub(in crate::rt) outcome: Cell<*mut ()>,
    /// Above this address there is room for others below a frame.
    pub(in crate::rt) room_above: usize,
    pub(in crate::rt) guard: Range<usize>,
    pub(in crate::rt) stack_bytes: usize,
    pub(in crate::rt) created_at: &'static Location<'static>,
    pub(in crate::rt) identity: Arc<Identity>,
}

thread_local! {
    /// The coroutine on whose stack this thread is; null on its own stack. Without a destructor, so
    /// that a signal handler may read it.
    static RUNNING: Cell<*const Control> = const { Cell::new(ptr::null()) };
}

/// The coroutine on whose stack the caller is; null on the thread's own stack.
#[inline]
pub(in crate::rt) fn running() -> *const Control {
    RUNNING.get()
}

/// Calls `f` with the coroutine on whose stack the caller is.
#[inline]
pub(in crate::rt) fn with_running<R>(f: impl FnOnce(Option<&Control>) -> R) -> R {
    let control = RUNNING.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: `RUNNING` is set only while that coroutine runs or is unwound, when it is neither
    // dropped nor moved, and that is at least as long as the code runs that can read it: code on
    // that coroutine's stack, or a destructor or handler called from there.
    f(unsafe { control.as_ref() })
}

/// The task that a thread inside of `core` runs, if that is on a coroutine's stack which belongs to
/// it. Not while that is unwound: what runs then may be the turn of another.
#[inline]
pub(in crate::rt) fn running_task(core: *const ()) -> Option<NonNull<Header>> {
    with_running(|control| {
        let control = control.filter(|control| ptr::eq(control.core.get(), core))?;
        control.task.get().map(TaskRef::as_ptr)
    })
}

/// While it lives, the coroutine on whose stack the caller is does not yield to tasks of its core,
/// because the thread is inside another.
pub(in crate::rt) struct Restrained {
    control: *const Control,
    role: Role,
}

impl Restrained {
    /// The thread is about to enter `core`, or to leave its core if that is null.
    pub(in crate::rt) fn new(core: *const ()) -> Option<Self> {
        with_running(|control| {
            let control = control.filter(|control| !ptr::eq(control.core.get(), core))?;
            Some(Self { control, role: control.role.replace(Role::Restrained) })
        })
    }
}

impl Drop for Restrained {
    fn drop(&mut self) {
        // SAFETY: this is on the stack of that coroutine, or was made while it was unwound there:
        // it is neither suspended, which its role has kept it from, nor dropped before what is on
        // its stack is.
        unsafe { &*self.control }.role.set(self.role);
    }
}

/// While it lives, other coroutines may run than the one that did before, which is the one that
/// runs again then.
pub(in crate::rt) struct Outer(*const Control);

impl Outer {
    #[inline]
    pub(in crate::rt) fn new() -> Self {
        Self(RUNNING.get())
    }

    /// The same for a caller that knows the coroutine that runs.
    #[inline]
    pub(in crate::rt) fn of(running: &Control) -> Self {
        Self(running)
    }
}

impl Drop for Outer {
    #[inline]
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}

impl Control {
    /// Whether there is room on the stack that the caller is on, which is this coroutine's, to run
    /// others from there.
    #[inline]
    pub(in crate::rt) fn has_room(&self) -> bool {
        let here = 0u8;
        ptr::from_ref(&here).addr() >= self.room_above
    }

    /// It looks at what it may wait for next.
    pub(in crate::rt) fn forget_waits_for(&self) {
        if let Some(task) = self.task.get() {
            task.header().forget_waits_for();
        }
    }

    /// The run queue that it takes its turns from; null before the first turn.
    pub(in crate::rt) fn ready(&self) -> *const ReadyList {
        self.ready.get()
    }

    /// Whether it lets others run on its stack when it yields, from here on until it is told
    /// otherwise. It is not [restrained](Role::Restrained).
    #[inline]
    pub(in crate::rt) fn set_lender(&self, lends: bool) {
        self.role.set(if lends { Role::Lender } else { Role::Guest });
    }

    /// The core and the run queue that it belongs to, and its task.
    ///
    /// # Safety
    ///
    /// It is a lender, and the caller is on its stack.
    #[inline]
    pub(in crate::rt) unsafe fn home(&self) -> (*const (), &ReadyList, NonNull<Header>) {
        // SAFETY: set when its first turn began, and taken by its destructor, which does not run
        // while it does.
        let task = unsafe { self.task.get().unwrap_unchecked() };
        // SAFETY: as above: it is a part of that core.
        let ready = unsafe { &*self.ready.get() };
        (self.core.get(), ready, task.as_ptr())
    }

    /// Notes that the code that runs from here on is on this coroutine's stack.
    ///
    /// # Safety
    ///
    /// The control stays where it is, and an [`Outer`] that exists already is dropped before the
    /// control is.
    #[inline]
    pub(in crate::rt) unsafe fn enter(&self) {
        RUNNING.set(self);
    }

    /// Switches to its stack until it switches back. A panic of its function is not one here: it is
    /// the outcome. Whether others panic is [noted](Self::switched_to) before, if it is not known
    /// that nobody does.
    ///
    /// # Safety
    ///
    /// - It is pinned, and has not [ended](Self::ended).
    /// - It is suspended, or was never resumed: it neither runs nor has others run on its stack.
    /// - The thread is inside its core, which counts it as the running task, and an [`Outer`]
    ///   exists that is dropped before it is.
    #[inline]
    pub(in crate::rt) unsafe fn resume(&self) -> TurnEnd {
        // SAFETY: pinned, and the `Outer` goes before it does, by the caller's word.
        unsafe { self.enter() };
        // SAFETY: only who resumes or drops it uses the stack. It is not being resumed, by the
        // caller's word, and not dropped while it is (see `Coroutine::drop`).
        let stack = unsafe { &mut *self.stack.get() };
        match stack.resume(()) {
            CoroutineResult::Yield(suspended) => TurnEnd::Suspended(suspended),
            CoroutineResult::Return(()) => {
                self.ended.set(true);
                TurnEnd::Ended
            }
        }
    }

    /// Notes whether the thread panics before code runs on this coroutine's stack again. What was
    /// noted before is done with if it does not.
    #[inline]
    pub(in crate::rt) fn switched_to(&self) {
        if std::thread::panicking() || self.panics.get() != Panics::None {
            self.note_panic(Panics::Others);
        }
    }

    /// Notes whether the coroutine panics before others run.
    #[inline]
    pub(in crate::rt) fn switched_from(&self) {
        if std::thread::panicking() {
            self.note_panic(Panics::Own);
        }
    }

    /// Notes, after it was suspended, that a panic in which it was before is over, if it is: the
    /// next one that it finds the thread in is another's. While one is known its turns are polls of
    /// its future, so only those ask.
    #[inline]
    pub(in crate::rt) fn was_suspended(&self) {
        if self.panics.get() != Panics::None {
            self.note_panic(Panics::Own);
        }
    }

    /// At a switch, where a panic that is new to the coroutine can only be `new`. While there is
    /// one, its turns are polls of its future, which look for the end of it: so those who resume it
    /// otherwise need not.
    #[cold]
    fn note_panic(&self, new: Panics) {
        self.panics.set(match self.panics.get() {
            _ if !std::thread::panicking() => Panics::None,
            Panics::None => new,
            known => known,
        });
        self.tell_task();
    }

    /// Says in its task's header whether a turn is more than to resume it.
    #[cold]
    pub(in crate::rt) fn tell_task(&self) {
        if let Some(task) = self.task.get() {
            task.header().set_polls_future(self.panics.get() != Panics::None);
        }
    }

    /// The number of its turn.
    pub(in crate::rt) fn turn(&self) -> u32 {
        self.task.get().map_or(0, |task| task.header().polls())
    }
}

impl Header {
    /// Notes that each poll does nothing but resume `coroutine`, which clears this when it is
    /// dropped; or that polls do more.
    pub(in crate::rt) fn set_polled_coroutine(&self, coroutine: Option<&Control>) {
        self.polled_coroutine.set(coroutine.map(|control| NonNull::from(control).cast()));
        self.state.set_polls_future(coroutine.is_none());
    }

    /// Says whether a task that [resumes a coroutine](Self::set_polled_coroutine) has more to do in
    /// its polls from here on.
    #[cold]
    pub(in crate::rt) fn set_polls_future(&self, more: bool) {
        self.state.set_polls_future(more || self.polled_coroutine.get().is_none());
    }

    /// The coroutine that each poll resumes.
    #[inline]
    pub(in crate::rt) fn polled_coroutine(&self) -> Option<&Control> {
        // SAFETY: `set_polled_coroutine` made the pointer from a control. A coroutine is pinned
        // from its first poll on, and clears the pointer when it is dropped. The callers are about
        // to resume it, and what drops it comes after that.
        self.polled_coroutine.get().map(|control| unsafe { control.cast::<Control>().as_ref() })
    }
}

impl TaskRef {
    /// Marks the task as queued and gives what a [`ReadyList`] takes; `None` if it is queued
    /// already or has ended.
    #[inline]
    pub(in crate::rt) fn mark_queued(&self) -> Option<NonNull<Header>> {
        mark_queued(self.0)
    }
}

/// Marks a task that is alive, on its own core, as queued; `None` if it is queued already or has
/// ended.
#[inline]
pub(in crate::rt) fn mark_queued(task: NonNull<Header>) -> Option<NonNull<Header>> {
    // SAFETY: alive by the reference that each caller holds.
    match unsafe { task.as_ref() }.state().mark_queued() {
        Marked::Ready => Some(task),
        Marked::NotNow => None,
        Marked::InTurn => leave_front(task),
    }
}

/// Takes a coroutine that is woken while it is in turn from the front of its queue.
#[cold]
fn leave_front(task: NonNull<Header>) -> Option<NonNull<Header>> {
    // SAFETY: alive, as in `mark_queued`.
    let header = unsafe { task.as_ref() };
    // SAFETY: set for every coroutine that had a turn, to a part of its core, which is alive and
    // runs it.
    let ready = unsafe { header.polled_coroutine()?.ready().as_ref() }?;
    let first = ready.leave();
    debug_assert_eq!(first, Some(task), "the coroutine in turn is the first");
    header.state().leave_turn();
    first
}
