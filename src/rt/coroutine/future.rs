//! A coroutine as a future: [`Coroutine`].

use std::cell::{Cell, OnceCell, UnsafeCell};
use std::future::Future;
use std::marker::PhantomPinned;
use std::panic::Location;
use std::pin::Pin;
use std::ptr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::overflow::report_overflows;
use crate::rt::scheduler::with_core;
use crate::rt::stack::PooledStack;
use crate::rt::tasks::{
    Control, Identity, Outer, Panics, ROOM_BYTES, Role, Stack, Suspended, TurnEnd, with_running,
};
use crate::user_code::{PanicPayload, caught};

/// What a function may capture to be put on its stack as it is, in bytes; a larger one is boxed.
/// corosensei panics above 1,024.
const MAX_CAPTURED_BYTES: usize = 512;

/// What a function ended with: its result, or what it panicked with.
type Outcome<T> = Cell<Option<Result<T, PanicPayload>>>;

/// A function that runs on a stack of its own, as a future. It is polled by one task of one core
/// from the first poll on, with the waker of that task, whatever other futures may be around it.
pub(crate) struct Coroutine<T: 'static> {
    control: Control,
    /// Written by the code on the stack when the function is over.
    outcome: Outcome<T>,
    /// Its task, the thread and the code on its stack have pointers to it from the first poll on.
    _pinned: PhantomPinned,
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
    ) -> crate::Result<Self> {
        if size_of_val(&f) > MAX_CAPTURED_BYTES {
            let f: Box<dyn FnOnce() -> T> = Box::new(f);
            return Self::new(stack_bytes, identity, created_at, f);
        }
        report_overflows()?;
        let stack = PooledStack::take(stack_bytes)?;
        let (guard, stack_bytes) = (stack.guard(), stack.len());
        let control = Control {
            stack: UnsafeCell::new(on_stack(stack, f)),
            yielder: Cell::new(ptr::null()),
            core: Cell::new(ptr::null()),
            ready: Cell::new(ptr::null()),
            task: OnceCell::new(),
            role: Cell::new(Role::Guest),
            unwinds: Cell::new(0),
            panics: Cell::new(Panics::None),
            ended: Cell::new(false),
            outcome: Cell::new(ptr::null_mut()),
            room_above: guard.end + ROOM_BYTES,
            guard,
            stack_bytes,
            created_at,
            identity,
        };
        Ok(Self { control, outcome: Cell::new(None), _pinned: PhantomPinned })
    }

    /// Wakes the task that polls it. One that was not polled yet is to be polled anyway.
    pub(crate) fn wake(&self) {
        if let Some(task) = self.control.task.get() {
            task.with_waker(Waker::wake_by_ref);
        }
    }

    /// The first poll begins: from here on the coroutine belongs to the task that is being polled.
    #[inline(never)]
    fn begin(&self, cx: &Context<'_>) {
        let task = with_core(|core| {
            let task = core.local().running_task();
            if let Some(task) = &task {
                self.control.ready.set(core.queues().list(task.header().queue()));
            }
            self.control.core.set(std::rc::Rc::as_ptr(core).cast());
            task
        });
        let task = task.expect("a coroutine is polled by a task");
        assert!(
            ptr::eq(cx.waker().data(), task.as_waker_data()),
            "a coroutine is polled with the waker of its task"
        );
        task.header().set_stack_bytes(self.control.stack_bytes);
        self.control.outcome.set(ptr::from_ref(&self.outcome).cast_mut().cast());
        let is_first = self.control.task.set(task).is_ok();
        debug_assert!(is_first, "it begins once");
    }
}

/// Puts `f` on `stack`. What it ends with goes to the coroutine's outcome.
fn on_stack<T: 'static>(stack: PooledStack, f: impl FnOnce() -> T + 'static) -> Stack {
    corosensei::Coroutine::with_stack(stack, move |yielder, ()| {
        let outcome = with_running(|control| {
            let control = control.expect("set by the poll that switched here");
            control.yielder.set(yielder);
            control.outcome.get().cast::<Outcome<T>>()
        });
        let result = caught(f);
        if let Err(payload) = result {
            // The unwinding of a cancelled coroutine ends with `corosensei`, which began it.
            let is_cancelled =
                with_running(|control| control.is_some_and(|control| control.unwinds.get() > 0));
            if is_cancelled {
                payload.go_on();
            }
            keep(outcome, Err(payload));
        } else {
            keep(outcome, result);
        }
    })
}

/// Puts what a function ended with where its future finds it.
#[inline]
fn keep<T>(outcome: *const Outcome<T>, result: Result<T, PanicPayload>) {
    // SAFETY: set by `Coroutine::begin` of the coroutine on whose stack this is, from its field of
    // this very type. It is pinned, and not dropped before its stack is empty: `Coroutine::drop`
    // unwinds what is on it.
    let outcome = unsafe { &*outcome };
    outcome.set(Some(result));
}

impl<T> Future for Coroutine<T> {
    type Output = T;

    /// # Panics
    ///
    /// With what the function panics with, and if polled again after it gave its result.
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = self.into_ref().get_ref();
        let control = &this.control;
        if !control.ended.get() {
            let is_first = control.task.get().is_none();
            if is_first {
                this.begin(cx);
            }
            let outer = Outer::new();
            control.switched_to();
            // SAFETY: pinned; not ended, and so suspended or new, because a task is not polled
            // while it is being polled; the thread is inside the core whose loop polls this task.
            // `outer` is dropped below.
            let left = unsafe { control.resume() };
            drop(outer);
            if let TurnEnd::Suspended(suspended) = left {
                control.was_suspended();
                if is_first {
                    with_core(|core| core.set_running_coroutine(Some(control)));
                    control.tell_task();
                }
                if suspended == Suspended::Yields {
                    requeue(control);
                }
                return Poll::Pending;
            }
        }
        match this.outcome.take() {
            Some(Ok(output)) => Poll::Ready(output),
            Some(Err(payload)) => payload.go_on(),
            None => panic!("a coroutine is not polled again after it gave its result"),
        }
    }
}

impl<T> Drop for Coroutine<T> {
    /// # Panics
    ///
    /// With what the function panics with after it caught the unwinding, what it was panicking with
    /// when it waited in a destructor, or what a destructor of what it captured or returned panics
    /// with then.
    fn drop(&mut self) {
        let control = &mut self.control;
        let task = control.task.take();
        if let Some(task) = &task {
            // Its task may live on, and must not be resumed.
            task.header().set_polled_coroutine(None);
        }
        if control.ended.get() {
            return;
        }
        let stack = control.stack.get_mut();
        if stack.done() {
            // It is the one that runs, or below it: this would free the stack that the thread is
            // on.
            super::abort("a coroutine was dropped by itself");
        }
        let unwound = if stack.started() {
            control.unwinds.set(1);
            control.role.set(Role::Restrained);
            let is_in_own_panic = control.panics.replace(Panics::Own) == Panics::Own;
            let _outer = Outer::new();
            // SAFETY: this is its destructor, which `_outer` does not outlive, and it does not move
            // meanwhile.
            unsafe { control.enter() };
            // Not left to the field's own destructor, which aborts when a panic comes out.
            caught(|| {
                // SAFETY: not being resumed, or it would be `done`.
                let stack = unsafe { &mut *control.stack.get() };
                if is_in_own_panic {
                    // To unwind it from a destructor that this panic runs would end the process. It
                    // goes on, and cannot wait any more. If it caught the panic and waits again, it
                    // is unwound from there.
                    stack.resume(());
                }
                stack.force_unwind();
                // The function may have caught the unwinding and returned.
                drop(self.outcome.take());
            })
        } else {
            // The function's captures are dropped here, as those of any closure: not on its stack.
            let dropped = caught(|| stack.force_unwind());
            if dropped.is_err() {
                // corosensei would drop them again. SAFETY: nothing is on a stack that was never
                // switched to but the function, and that was dropped: a destructor that panics does
                // not keep the other captures from being dropped.
                unsafe { stack.force_reset() };
            }
            dropped
        };
        if let Err(payload) = unwound {
            payload.go_on_unless_panicking();
        }
    }
}

/// Puts a coroutine, which yielded, at the end of its run queue.
fn requeue(control: &Control) {
    if let Some(task) = control.task.get()
        && let Some(ready) = task.mark_queued()
    {
        with_core(|core| core.local().enqueue(ready));
    }
}
