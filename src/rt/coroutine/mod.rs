//! Stackful coroutines as futures.
//!
//! A [`Coroutine`] is a future that owns a stack. Its `poll` switches to that stack; there the code of the user runs until it
//! ends, or until [`wait`] meets a future that is pending: then it switches back and the poll returns `Pending`. So a coroutine is an
//! ordinary task, woken by the ordinary waker, and everything that is a future (timers, sockets, channels) serves both.
//!
//! The switch is the crate `corosensei`'s: about ten instructions that save what the calling convention preserves.
//!
//! # Cancelling
//!
//! A coroutine that is dropped while it is suspended unwinds: the `wait` that it is in does not return but unwinds like a panic
//! (without the panic hook), so every destructor on its stack runs. It cannot suspend again: a `wait` in one of those
//! destructors gets its future polled once; if that is pending, blocking I/O returns an error, `sleep` and `park` return at once, and
//! a bare `wait`, which has nothing to return, aborts the process with a message. Code that catches the unwinding
//! (`catch_unwind`) goes on to the next `wait`, which unwinds again, [`MAX_UNWINDS`] times at most; then the process is aborted.
//!
//! # Thread-locals
//!
//! A task never changes its core and a core never changes its thread, so a thread-local's address that the compiler kept across a
//! switch stays right. Its content is shared with every other task of the core, as it is for async code;
//! in particular `std::thread::panicking` is true for all of them while one is suspended in a destructor that a panic runs.

mod identity;
mod overflow;
mod stack;

use std::cell::Cell;
use std::future::Future;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use corosensei::{CoroutineResult, Yielder};

pub(crate) use identity::Identity;
pub use stack::StackStats;

use super::current;
use super::scheduler::{Shared, with_core};
use crate::error::Result;
use stack::PooledStack;

/// How often a cancelled coroutine may catch the unwinding and wait again.
const MAX_UNWINDS: u32 = 1000;

/// What must be left of a stack for its coroutine to poll others from there: enough for the path to their stacks and for the
/// unwinder, which carries a panic of theirs across.
const ROOM_BYTES: usize = 16 << 10;

/// A function that runs on a stack of its own, as a future.
pub(crate) struct Coroutine<T: 'static> {
    stack: corosensei::Coroutine<(), (), T, PooledStack>,
    /// What it ended with, if that was on another coroutine's stack.
    ended: Option<std::thread::Result<T>>,
    control: Control,
}

/// What the code on a coroutine's stack finds of the coroutine, through [`RUNNING`].
struct Control {
    /// On the coroutine's stack; null before the first poll.
    yielder: Cell<*const Yielder<(), ()>>,
    /// The task's, valid for the poll that is going on; null while the stack is unwound by the destructor.
    waker: Cell<*const Waker>,
    /// The core that polls, to compare with.
    core: Cell<*const Shared>,
    /// How often the destructor unwound the stack; zero while the coroutine is alive.
    unwinds: Cell<u32>,
    guard: Range<usize>,
    stack_bytes: usize,
    created_at: &'static Location<'static>,
    identity: Arc<Identity>,
}

thread_local! {
    /// The coroutine on whose stack this thread is; null on its own stack. Without a destructor, so that a signal handler may read it.
    static RUNNING: Cell<*const Control> = const { Cell::new(std::ptr::null()) };
}

/// Calls `f` with the coroutine on whose stack the caller is.
#[inline]
fn with_running<R>(f: impl FnOnce(Option<&Control>) -> R) -> R {
    let control = RUNNING.try_with(Cell::get).unwrap_or(std::ptr::null());
    // SAFETY: `RUNNING` is set only while `Running` borrows the control, and that is at least as long as the code runs that can
    // read it: code on that coroutine's stack, or a destructor or handler called from there.
    f(unsafe { control.as_ref() })
}

impl Control {
    /// Whether there is room on the stack that the caller is on, which is this coroutine's, to poll others from there.
    #[inline]
    fn has_room(&self) -> bool {
        let here = 0u8;
        std::ptr::from_ref(&here).addr().saturating_sub(self.guard.end) >= ROOM_BYTES
    }
}

/// While it lives, the thread is on a coroutine's stack.
struct Running<'a> {
    outer: *const Control,
    _control: &'a Control,
}

impl<'a> Running<'a> {
    fn enter(control: &'a Control) -> Self {
        control.core.set(current::core());
        Self { outer: RUNNING.replace(control), _control: control }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        RUNNING.set(self.outer);
    }
}

impl<T> Coroutine<T> {
    /// Puts `f` on a stack with room for `stack_bytes`. It starts when the future is first polled.
    ///
    /// # Errors
    ///
    /// As for a stack from the pool: no room, or too large.
    pub(crate) fn new(
        stack_bytes: usize,
        identity: Arc<Identity>,
        created_at: &'static Location<'static>,
        f: impl FnOnce() -> T + 'static,
    ) -> Result<Self> {
        let stack = PooledStack::take(stack_bytes)?;
        let control = Control {
            yielder: Cell::new(std::ptr::null()),
            waker: Cell::new(std::ptr::null()),
            core: Cell::new(std::ptr::null()),
            unwinds: Cell::new(0),
            guard: stack.guard(),
            stack_bytes: stack.len(),
            created_at,
            identity,
        };
        let stack = corosensei::Coroutine::with_stack(stack, move |yielder, ()| {
            with_running(|control| {
                control.expect("set by the poll that switched here").yielder.set(yielder);
            });
            f()
        });
        Ok(Self { stack, ended: None, control })
    }
}

/// What it ended with is moved like any other value.
impl<T> Unpin for Coroutine<T> {}

impl<T> Future for Coroutine<T> {
    type Output = T;

    /// # Panics
    ///
    /// With what the function panics with, and if polled again after it ended.
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        if this.stack.done() {
            match this.ended.take() {
                Some(Ok(output)) => return Poll::Ready(output),
                Some(Err(payload)) => resume_unwind(payload),
                None => {}
            }
        }
        this.control.waker.set(cx.waker());
        if this.control.yielder.get().is_null() {
            super::context::has_a_stack(this.control.stack_bytes);
        }
        let running = Running::enter(&this.control);
        if running.outer.is_null() {
            let is_first = this.control.yielder.get().is_null();
            let result = this.stack.resume(());
            drop(running);
            return match result {
                CoroutineResult::Yield(()) => {
                    if is_first {
                        with_core(|core| core.set_running_is_coroutine(true));
                    }
                    Poll::Pending
                }
                CoroutineResult::Return(output) => Poll::Ready(output),
            };
        }
        let result = catch_unwind(AssertUnwindSafe(|| this.stack.resume(())));
        drop(running);
        this.ended = Some(match result {
            Ok(CoroutineResult::Yield(())) => return Poll::Pending,
            Ok(CoroutineResult::Return(output)) => Ok(output),
            Err(payload) => Err(payload),
        });
        // The end of a task runs code of others, for which there is room on the thread's own stack only.
        with_core(|core| core.set_running_is_coroutine(false));
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T> Drop for Coroutine<T> {
    /// # Panics
    ///
    /// With what the function panics with after it caught the unwinding.
    fn drop(&mut self) {
        if self.stack.done() {
            return;
        }
        if !self.stack.started() {
            // The function's captures are dropped here, as those of any closure: not on its stack.
            self.stack.force_unwind();
            return;
        }
        self.control.unwinds.set(1);
        self.control.waker.set(std::ptr::null());
        let running = Running::enter(&self.control);
        // Not left to the field's own destructor, which aborts when a panic comes out.
        let unwound = catch_unwind(AssertUnwindSafe(|| self.stack.force_unwind()));
        drop(running);
        if let Err(payload) = unwound {
            if std::thread::panicking() {
                // Reported by the hook already; a second panic would end the process.
                std::mem::forget(payload);
            } else {
                resume_unwind(payload);
            }
        }
    }
}

/// Waits for `future`, wherever the caller is:
///
/// - in a coroutine ([`boson::thread::spawn`](crate::thread::spawn)): polls it with the task's waker and lets other tasks run while
///   it is pending;
/// - on a thread without a core: blocks the thread. Futures that need a core (timers, sockets) panic there when polled.
///
/// # Panics
///
/// In an async task, because blocking would stop the whole core: use `.await` there. Also while another core's
/// tasks are dropped inside a coroutine, and with what `future` panics with. If the coroutine is cancelled, `wait` unwinds.
#[track_caller]
pub fn wait<F: Future>(future: F) -> F::Output {
    match wait_unless_cancelled(future) {
        Some(output) => output,
        None => abort(
            "a destructor called `boson::wait` on something that is not ready, while its coroutine was being cancelled",
        ),
    }
}

/// As [`wait`]; `None` if the coroutine is being cancelled, this is called in a destructor, and `future` is pending.
#[track_caller]
pub(crate) fn wait_unless_cancelled<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    if RUNNING.with(Cell::get).is_null() {
        assert!(
            !super::is_in_core(),
            "boson::wait would block this core: use `.await` in async code, or call it from a coroutine \
             (`boson::thread::spawn`)"
        );
        return Some(block_thread(future));
    }
    loop {
        // Read anew after each switch: the future that holds the control may have moved.
        let waker = with_running(|control| control.map_or(std::ptr::null(), |control| control.waker.get()));
        // SAFETY: the waker was set from the context of the poll that is going on, which outlives what it runs.
        let waker = unsafe { waker.as_ref() }.unwrap_or(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
            return Some(output);
        }
        if !suspend() {
            return None;
        }
    }
}

/// Has every other ready task and every poller take a turn; false outside a coroutine.
///
/// This and what it calls are inlined into the caller: a switch of stacks inside further functions leaves the processor's stack of
/// return addresses out of step, and each return above and below is then mispredicted, which costs several times the switch.
#[inline]
#[track_caller]
pub(crate) fn yield_now() -> bool {
    let control = RUNNING.get();
    // SAFETY: as in `with_running`; not used after the switch, when the control may have moved.
    let Some(control) = (unsafe { control.as_ref() }) else { return false };
    if control.waker.get().is_null() {
        return false;
    }
    assert_own_core(control);
    // SAFETY: the core polls this coroutine, so it is alive, and nothing below ends it.
    let core = unsafe { &*control.core.get() };
    if core.yield_running(control.has_room()) {
        return true;
    }
    suspend()
}

#[inline]
#[track_caller]
fn assert_own_core(control: &Control) {
    assert!(
        std::ptr::eq(control.core.get(), current::core()),
        "a coroutine cannot wait while the tasks of another core are dropped inside it"
    );
}

/// Switches to whoever polls the coroutine, until it is polled again. False if it cannot, because it is being cancelled and is in a
/// destructor. Unwinds if it is cancelled meanwhile, or was before.
#[inline]
#[track_caller]
fn suspend() -> bool {
    let yielder = with_running(|control| {
        let control = control.expect("called on a coroutine's stack");
        assert_own_core(control);
        if control.unwinds.get() > 0 && !may_unwind_again(control) {
            return std::ptr::null();
        }
        control.yielder.get()
    });
    // SAFETY: the yielder lies on the stack of the coroutine that runs, below this frame, and lives as long as its function.
    let Some(yielder) = (unsafe { yielder.as_ref() }) else { return false };
    yielder.suspend(());
    true
}

/// Of a coroutine that is being cancelled and waits: whether it is unwound (once more), as it is unless it is in a destructor.
#[cold]
fn may_unwind_again(control: &Control) -> bool {
    if std::thread::panicking() {
        return false;
    }
    control.unwinds.set(control.unwinds.get() + 1);
    if control.unwinds.get() > MAX_UNWINDS {
        abort("a cancelled coroutine caught the unwinding and waited again, over and over");
    }
    true
}

#[cold]
fn abort(reason: &str) -> ! {
    let (name, created_at) = with_running(|control| {
        control.map_or((String::new(), None), |control| {
            (control.identity.name().unwrap_or("<unnamed>").to_owned(), Some(control.created_at))
        })
    });
    let created_at = created_at.map_or_else(String::new, ToString::to_string);
    eprintln!("boson: coroutine '{name}' (created at {created_at}): {reason}");
    std::process::abort()
}

/// Polls on a thread that has no core, sleeping in between.
fn block_thread<F: Future>(mut future: Pin<&mut F>) -> F::Output {
    struct Unpark {
        thread: std::thread::Thread,
        woken: std::sync::atomic::AtomicBool,
    }

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.woken.store(true, std::sync::atomic::Ordering::Release);
            self.thread.unpark();
        }
    }

    let unpark =
        Arc::new(Unpark { thread: std::thread::current(), woken: std::sync::atomic::AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        // `park` may return for other reasons, and the token may be meant for someone else's `park`.
        while !unpark.woken.swap(false, std::sync::atomic::Ordering::Acquire) {
            std::thread::park();
        }
    }
}

/// The identity of the coroutine on whose stack the caller is.
pub(crate) fn current_identity() -> Option<Arc<Identity>> {
    with_running(|control| control.map(|control| Arc::clone(&control.identity)))
}

/// What the calling thread's pool of coroutine stacks holds.
pub fn stack_stats() -> StackStats {
    stack::stats()
}

/// Gives the memory of the calling thread's free coroutine stacks back to the kernel, and their address space where a whole slab is
/// free.
pub fn trim_stacks() {
    stack::trim();
}
