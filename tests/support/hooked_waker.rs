//! A waker that counts its wake-ups and runs what a test wants when it is cloned, woken or dropped.

#![allow(dead_code, reason = "not every test uses every hook")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

type Action = RefCell<Option<Box<dyn FnOnce()>>>;

/// What a test knows of one waker and its clones. For one thread only, and leaked, so that wakers
/// may outlive everything.
#[derive(Default)]
pub(crate) struct Hook {
    pub(crate) wakes: Cell<usize>,
    pub(crate) on_clone: Action,
    pub(crate) on_wake: Action,
    pub(crate) on_drop: Action,
}

impl Hook {
    pub(crate) fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    pub(crate) fn waker(&'static self) -> Waker {
        // SAFETY: the functions of the table take the pointer for a `&'static Hook`, which it is;
        // the tests never send one of these wakers to another thread.
        unsafe { Waker::new(std::ptr::from_ref(self).cast(), &TABLE) }
    }

    /// Polls `future` with this waker.
    pub(crate) fn poll<F: Future + ?Sized>(&'static self, future: &mut Pin<Box<F>>) -> Poll<F::Output> {
        let waker = self.waker();
        let result = future.as_mut().poll(&mut Context::from_waker(&waker));
        // Not one of the drops that a test waits for.
        std::mem::forget(waker);
        result
    }

    /// How often it was woken since the last call.
    pub(crate) fn take_wakes(&self) -> usize {
        self.wakes.take()
    }
}

fn run(action: &Action) {
    let action = action.borrow_mut().take();
    if let Some(action) = action {
        action();
    }
}

fn hook(data: *const ()) -> &'static Hook {
    // SAFETY: only `Hook::waker` makes these pointers, of leaked hooks.
    unsafe { &*data.cast::<Hook>() }
}

static TABLE: RawWakerVTable = RawWakerVTable::new(
    |data| {
        run(&hook(data).on_clone);
        RawWaker::new(data, &TABLE)
    },
    |data| wake(hook(data)),
    |data| wake(hook(data)),
    |data| run(&hook(data).on_drop),
);

fn wake(hook: &Hook) {
    hook.wakes.set(hook.wakes.get() + 1);
    run(&hook.on_wake);
}
