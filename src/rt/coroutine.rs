//! Stackful coroutines as futures.
//!
//! A [`Coroutine`] is a future that owns a stack. Its `poll` switches to that stack; there the code
//! of the user runs until it ends, or until [`wait`] meets a future that is pending: then it
//! switches back and the poll returns `Pending`. So a coroutine is an ordinary task, woken by the
//! ordinary waker, and everything that is a future (timers, sockets, channels) serves both.
//!
//! The switch is the crate `corosensei`'s: about ten instructions that save what the calling
//! convention preserves.
//!
//! # Cancelling
//!
//! A coroutine that is dropped while it is suspended unwinds: the `wait` that it is in does not
//! return but unwinds like a panic (without the panic hook), so every destructor on its stack runs.
//! It cannot suspend again: a `wait` in one of those destructors gets its future polled once; if
//! that is pending, blocking I/O returns an error, `sleep` and `park` return at once, and a bare
//! `wait`, which has nothing to return, aborts the process with a message. Code that catches the
//! unwinding (`catch_unwind`) goes on to the next `wait`, which unwinds again, [`MAX_UNWINDS`]
//! times at most; then the process is aborted.
//!
//! One that waits in a destructor that its own panic runs cannot unwind from there: Rust ends the
//! process when a panic leaves a destructor that a panic runs. So that `wait` returns as in a
//! destructor of a cancelled coroutine, and the panic goes on to the joiner.
//!
//! # Thread-locals
//!
//! A task never changes its core and a core never changes its thread, so the address of a
//! thread-local that the compiler kept across a switch stays valid. Its content is shared with
//! every other task of the core, as it is for async code; in particular `std::thread::panicking` is
//! true for all of them while one is suspended in a destructor that a panic runs.

mod foreign;
mod future;
mod overflow;
mod park;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) use future::Coroutine;

use super::scheduler::{CoreState, current};
use super::stack;
pub use super::stack::StackStats;
pub(crate) use super::tasks::Identity;
use super::tasks::{Control, Panics, Role, Suspended, local, running, with_running};
use crate::user_code;
use foreign::{block_thread, block_thread_for};

/// How often a cancelled coroutine may catch the unwinding and wait again.
const MAX_UNWINDS: u32 = 1000;

/// Waits for `future`, wherever the caller is:
///
/// - in a coroutine ([`boson::thread::spawn`](crate::thread::spawn)): polls it with the task's
///   waker and lets other tasks run while it is pending;
/// - on a thread without a core: blocks the thread. Futures that need a core (timers, sockets)
///   panic there when polled.
///
/// # Panics
///
/// In an async task, because blocking would stop the whole core: use `.await` there. Also while
/// another core's tasks are dropped inside a coroutine, and with what `future` panics with. If the
/// coroutine is cancelled, `wait` unwinds.
#[track_caller]
pub fn wait<F: Future>(future: F) -> F::Output {
    match wait_unless_cancelled(future) {
        Some(output) => output,
        None => abort(
            "a destructor called `boson::wait` on something that is not ready, while its coroutine was being cancelled",
        ),
    }
}

/// As [`wait`], for `limit` at most, by the core's clock or, on a thread without a core, by the
/// machine's; `None` if that was not enough.
///
/// # Panics
///
/// As [`wait`].
#[track_caller]
pub(crate) fn wait_at_most<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    if running().is_null() && !current::is_inside() {
        return block_thread_for(limit, pin!(future));
    }
    wait(super::deadline::timeout(limit, future)).ok()
}

/// As [`wait`]; `None` if the coroutine is being cancelled, this is called in a destructor, and
/// `future` is pending.
#[track_caller]
pub(crate) fn wait_unless_cancelled<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    if running().is_null() {
        assert!(
            !current::is_inside(),
            "boson::wait would block this core: use `.await` in async code, or call it from a coroutine \
             (`boson::thread::spawn`)"
        );
        return Some(block_thread(future));
    }
    loop {
        let (polled, was_suspended) = with_running(|control| {
            let control = control.expect("called on a coroutine's stack");
            let turn = control.turn();
            control.forget_waits_for();
            let polled = control.with_waker(|waker| future.as_mut().poll(&mut Context::from_waker(waker)));
            (polled, control.turn() != turn)
        });
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        // If the coroutine was suspended inside of `poll`, what woke it may have been meant for
        // this future.
        if !was_suspended && !wait_turn() {
            return None;
        }
    }
}

/// Has every other ready task and every poller take a turn; false outside a coroutine.
///
/// This and what it calls are inlined into the caller: a switch of stacks inside further functions
/// leaves the processor's stack of return addresses out of step, and each return above and below is
/// then mispredicted, which costs several times the switch.
#[inline]
#[track_caller]
pub(crate) fn yield_now() -> bool {
    // SAFETY: as in `with_running`.
    let Some(control) = (unsafe { running().as_ref() }) else { return false };
    let suspended = match control.role.get() {
        Role::Guest => Suspended::Yields,
        // The loop takes note of it.
        Role::Lender if std::thread::panicking() => Suspended::Yields,
        Role::Lender => {
            // SAFETY: it is the lender, this is on its stack, and the thread does not panic.
            match unsafe { CoreState::run_others(control) } {
                Some(suspended) => {
                    control.switched_to();
                    suspended
                }
                None => return true,
            }
        }
        Role::Restrained if !may_yield(control) => return false,
        Role::Restrained => Suspended::Yields,
    };
    suspend(control, suspended);
    true
}

/// Whether a restrained coroutine yields: not while it is being cancelled.
#[cold]
#[track_caller]
fn may_yield(control: &Control) -> bool {
    if control.unwinds.get() > 0 {
        return false;
    }
    assert_own_core(control);
    true
}

/// A coroutine waits for its own core.
#[inline]
#[track_caller]
fn assert_own_core(control: &Control) {
    let is_unwound = control.unwinds.get() > 0;
    assert!(
        (is_unwound || control.role.get() != Role::Restrained)
            && std::ptr::eq(control.core.get(), local::current().cast()),
        "a coroutine cannot wait while the tasks of another core are dropped inside it"
    );
}

/// Switches to the resumer of the coroutine, until it is resumed again. Unwinds if it is cancelled
/// meanwhile.
#[inline]
fn suspend(control: &Control, suspended: Suspended) {
    // SAFETY: the yielder lies on the stack of the coroutine that runs, below this frame, and lives
    // as long as its function.
    let yielder = unsafe { &*control.yielder.get() };
    control.switched_from();
    yielder.suspend(suspended);
}

/// Suspends the coroutine on whose stack this is until its task is woken. Returns false if it
/// cannot, because it is being cancelled and is in a destructor. Unwinds if it was cancelled
/// before, or is while it waits.
#[inline]
#[track_caller]
fn wait_turn() -> bool {
    with_running(|control| {
        let control = control.expect("called on a coroutine's stack");
        assert_own_core(control);
        if control.unwinds.get() > 0 && !may_unwind_again(control) {
            return false;
        }
        suspend(control, Suspended::Waits);
        // Resumed by its destructor if it is in a panic of its own, which must come to its end.
        control.unwinds.get() == 0
    })
}

/// Of a coroutine that is being cancelled and waits: whether it is unwound (once more), as it is
/// unless it is in a destructor.
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
    user_code::abort(format_args!("coroutine '{name}' (created at {created_at}): {reason}"))
}

/// The identity of the coroutine on whose stack the caller is.
pub(crate) fn current_identity() -> Option<Arc<Identity>> {
    with_running(|control| control.map(|control| Arc::clone(&control.identity)))
}

/// Whether the caller is in a coroutine that is being cancelled.
pub(crate) fn is_being_cancelled() -> bool {
    with_running(|control| control.is_some_and(|control| control.unwinds.get() > 0))
}

/// Whether the caller panics: in a coroutine only if the panic is its own, and not one in which
/// another coroutine of the thread is suspended. While one is, a panic that begins meanwhile is
/// taken for that one.
pub(crate) fn is_panicking() -> bool {
    std::thread::panicking()
        && with_running(|control| control.is_none_or(|control| control.panics.get() != Panics::Others))
}

/// What the calling thread's pool of coroutine stacks holds.
pub fn stack_stats() -> StackStats {
    stack::stats()
}

/// Gives the memory of the calling thread's free coroutine stacks back to the kernel, and their
/// address space where a whole slab is free.
pub fn trim_stacks() {
    stack::trim();
}
