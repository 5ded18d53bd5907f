//! What the code on a coroutine's stack and the core that runs it have in common, and the switch between them.

use std::cell::{Cell, OnceCell, UnsafeCell};
use std::ops::Range;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::Waker;

use corosensei::{CoroutineResult, Yielder};

use super::Identity;
use super::stack::PooledStack;
use crate::rt::scheduler::Shared;
use crate::rt::task::{Header, ReadyList, TaskRef};

/// What must be left of a stack for its coroutine to run others from there: enough for the path to their stacks.
pub(super) const ROOM_BYTES: usize = 16 << 10;

/// Why a coroutine switches back to whoever resumed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rt) enum Suspended {
    /// It waits to be woken, or is on its run queue already.
    Waits,
    /// It is to be put at the end of its run queue.
    Yields,
}

/// How a coroutine's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rt) enum Left {
    /// It is suspended.
    Suspended(Suspended),
    /// Its function has returned or panicked. There is nothing on its stack any more.
    Ended,
}

/// Whose panic it is that the thread is in, as far as a coroutine can tell: `std::thread::panicking` is the thread's, and so also true for
/// a bystander while another coroutine is suspended in a destructor that a panic runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panics {
    /// The thread was in none when the coroutine was last switched to or from. What comes until the next switch is its own.
    None,
    /// There was another's already when it was switched to. One of its own is not noticed while that lasts.
    Others,
    /// It was switched from in one that began while it ran.
    Own,
}

/// What a coroutine does that yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It switches back to whoever resumed it.
    Guest,
    /// The loop resumed it: it lets others run on its stack.
    Lender,
    /// It must look: it is being cancelled, or its thread is inside another core than its own, or outside.
    Restrained,
}

pub(super) type Stack = corosensei::Coroutine<(), Suspended, (), PooledStack>;

/// What does not depend on the type of a coroutine's result. Pinned with the coroutine that it is a part of: the task's header and
/// [`RUNNING`] point to it.
pub(in crate::rt) struct Control {
    /// Borrowed while the coroutine is resumed.
    pub(super) stack: UnsafeCell<Stack>,
    /// On the coroutine's stack; null before the first turn.
    pub(super) yielder: Cell<*const Yielder<(), Suspended>>,
    /// The core that it belongs to, to compare with; null before the first turn.
    pub(super) core: Cell<*const Shared>,
    /// The run queue that it takes its turns from, a part of its core; null before the first turn.
    pub(super) ready: Cell<*const ReadyList>,
    /// Its task, from the first turn on.
    pub(super) task: OnceCell<TaskRef>,
    /// `Lender` only while the loop of its core resumes it and its thread is inside that core.
    pub(super) role: Cell<Role>,
    /// How often the destructor unwound the stack; zero while the coroutine is alive.
    pub(super) unwinds: Cell<u32>,
    /// As of the last switch.
    pub(super) panics: Cell<Panics>,
    /// Its function is over, and its stack is empty.
    pub(super) ended: Cell<bool>,
    /// Where the function's result goes, of a type that the function knows; set before the first turn.
    pub(super) outcome: Cell<*mut ()>,
    /// Above this address there is room for others below a frame.
    pub(super) room_above: usize,
    pub(super) guard: Range<usize>,
    pub(super) stack_bytes: usize,
    pub(super) created_at: &'static Location<'static>,
    pub(super) identity: Arc<Identity>,
}

thread_local! {
    /// The coroutine on whose stack this thread is; null on its own stack. Without a destructor, so that a signal handler may read it.
    static RUNNING: Cell<*const Control> = const { Cell::new(ptr::null()) };
}

/// The coroutine on whose stack the caller is; null on the thread's own stack.
#[inline]
pub(super) fn running() -> *const Control {
    RUNNING.get()
}

/// Calls `f` with the coroutine on whose stack the caller is.
#[inline]
pub(super) fn with_running<R>(f: impl FnOnce(Option<&Control>) -> R) -> R {
    let control = RUNNING.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: `RUNNING` is set only while that coroutine runs or is unwound, when it is neither dropped nor moved, and that is at
    // least as long as the code runs that can read it: code on that coroutine's stack, or a destructor or handler called from there.
    f(unsafe { control.as_ref() })
}

/// The task that a thread inside of `core` runs, if that is on a coroutine's stack which belongs to it. Not while that is unwound: what runs
/// then may be the turn of another.
#[inline]
pub(in crate::rt) fn running_task(core: *const Shared) -> Option<NonNull<Header>> {
    with_running(|control| {
        let control = control.filter(|control| ptr::eq(control.core.get(), core))?;
        control.task.get().map(TaskRef::as_ptr)
    })
}

/// While it lives, the coroutine on whose stack the caller is does not yield to tasks of its core, because the thread is inside another.
pub(in crate::rt) struct Restrained {
    control: *const Control,
    role: Role,
}

impl Restrained {
    /// The thread is about to enter `core`, or to leave its core if that is null.
    pub(in crate::rt) fn new(core: *const Shared) -> Option<Self> {
        with_running(|control| {
            let control = control.filter(|control| !ptr::eq(control.core.get(), core))?;
            Some(Self { control, role: control.role.replace(Role::Restrained) })
        })
    }
}

impl Drop for Restrained {
    fn drop(&mut self) {
        // SAFETY: this is on the stack of that coroutine, or was made while it was unwound there: it is neither suspended, which its
        // role has kept it from, nor dropped before what is on its stack is.
        unsafe { &*self.control }.role.set(self.role);
    }
}

/// While it lives, other coroutines may run than the one that did before, which is the one that runs again then.
pub(in crate::rt) struct Outer(*const Control);

impl Outer {
    #[inline]
    pub(in crate::rt) fn new() -> Self {
        Self(RUNNING.get())
    }

    /// The same of the one that runs, by who knows it.
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
    /// Whether there is room on the stack that the caller is on, which is this coroutine's, to run others from there.
    #[inline]
    pub(in crate::rt) fn has_room(&self) -> bool {
        let here = 0u8;
        ptr::from_ref(&here).addr() >= self.room_above
    }

    /// It looks at what it may wait for next.
    pub(super) fn forget_waits_for(&self) {
        if let Some(task) = self.task.get() {
            task.header().forget_waits_for();
        }
    }

    /// The run queue that it takes its turns from; null before the first turn.
    pub(in crate::rt) fn ready(&self) -> *const ReadyList {
        self.ready.get()
    }

    /// Whether it lets others run on its stack when it yields, from here on until it is told otherwise. It is not
    /// [restrained](Role::Restrained).
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
    pub(in crate::rt) unsafe fn home(&self) -> (&Shared, &ReadyList, NonNull<Header>) {
        // SAFETY: set when its first turn began, and taken by its destructor, which does not run while it does.
        let task = unsafe { self.task.get().unwrap_unchecked() };
        // SAFETY: set when its first turn began, too. The core is alive while its loop resumes the coroutine, which is what a lender
        // is, and stays where it is.
        let core = unsafe { &*self.core.get() };
        // SAFETY: as above: it is a part of that core.
        let ready = unsafe { &*self.ready.get() };
        (core, ready, task.as_ptr())
    }

    /// Notes that the code that runs from here on is on this coroutine's stack.
    ///
    /// # Safety
    ///
    /// The control stays where it is, and an [`Outer`] that exists already is dropped before the control is.
    #[inline]
    pub(super) unsafe fn enter(&self) {
        RUNNING.set(self);
    }

    /// Switches to its stack until it switches back. A panic of its function is not one here: it is the outcome. Whether others panic is
    /// [noted](Self::switched_to) before, if it is not known that nobody does.
    ///
    /// # Safety
    ///
    /// - It is pinned, and has not [ended](Self::ended).
    /// - It is suspended, or was never resumed: it neither runs nor has others run on its stack.
    /// - The thread is inside its core, which counts it as the running task, and an [`Outer`] exists that is dropped before it is.
    #[inline]
    pub(in crate::rt) unsafe fn resume(&self) -> Left {
        // SAFETY: pinned, and the `Outer` goes before it does, by the caller's word.
        unsafe { self.enter() };
        // SAFETY: only who resumes or drops it uses the stack. It is not being resumed, by the caller's word, and not dropped while
        // it is (see `Coroutine::drop`).
        let stack = unsafe { &mut *self.stack.get() };
        match stack.resume(()) {
            CoroutineResult::Yield(suspended) => Left::Suspended(suspended),
            CoroutineResult::Return(()) => {
                self.ended.set(true);
                Left::Ended
            }
        }
    }

    /// Notes whether the thread panics before code runs on this coroutine's stack again. What was noted before is done with if it does not.
    #[inline]
    pub(super) fn switched_to(&self) {
        if std::thread::panicking() || self.panics.get() != Panics::None {
            self.note_panic(Panics::Others);
        }
    }

    /// Notes whether the coroutine panics before others run.
    #[inline]
    pub(super) fn switched_from(&self) {
        if std::thread::panicking() {
            self.note_panic(Panics::Own);
        }
    }

    /// Notes, after it was suspended, that a panic in which it was before is over, if it is: the next one that it finds the thread in is
    /// another's. While one is known its turns are polls of its future, so only those ask.
    #[inline]
    pub(super) fn was_suspended(&self) {
        if self.panics.get() != Panics::None {
            self.note_panic(Panics::Own);
        }
    }

    /// At a switch, where a panic that is new to the coroutine can only be `new`. While there is one, its turns are polls of its future, which
    /// look for the end of it: so those who resume it otherwise need not.
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
    pub(super) fn tell_task(&self) {
        if let Some(task) = self.task.get() {
            task.header().set_polls_future(self.panics.get() != Panics::None);
        }
    }

    /// Puts the coroutine, which yielded, at the end of its run queue.
    pub(in crate::rt) fn requeue(&self) {
        if let Some(task) = self.task.get()
            && let Some(ready) = task.mark_queued()
        {
            crate::rt::scheduler::with_core(|core| core.enqueue(ready));
        }
    }

    /// The number of its turn.
    pub(super) fn turn(&self) -> u32 {
        self.task.get().map_or(0, |task| task.header().polls())
    }

    /// Calls `f` with a waker of its task; one that does nothing while it is cancelled.
    #[inline]
    pub(super) fn with_waker<R>(&self, f: impl FnOnce(&Waker) -> R) -> R {
        match self.task.get() {
            Some(task) if self.unwinds.get() == 0 => task.with_waker(f),
            _ => f(Waker::noop()),
        }
    }
}
