//! Waiting on a thread that has no core: the thread sleeps.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::time::{Clock, MonotonicClock};

/// Polls `future`, sleeping in between.
pub(super) fn block_thread<F: Future>(future: Pin<&mut F>) -> F::Output {
    let output = block(future, || {
        thread::park();
        true
    });
    output.expect("nothing but the future ends the wait")
}

/// The same, for `limit` at most; `None` if that was not enough. `future` is polled at least once.
pub(super) fn block_thread_for<F: Future>(limit: Duration, future: Pin<&mut F>) -> Option<F::Output> {
    // The machine's own clock: without a core there is no other one, and no simulation either.
    let clock = MonotonicClock::new();
    let end = clock.now() + limit;
    block(future, || {
        let left = end - clock.now();
        if !left.is_zero() {
            thread::park_timeout(left);
        }
        !left.is_zero()
    })
}

/// Polls `future`, and sleeps with `sleep` until it is to be polled again or `sleep` returns false.
fn block<F: Future>(mut future: Pin<&mut F>, sleep: impl Fn() -> bool) -> Option<F::Output> {
    let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        // `park` may return for other reasons, and the token may be meant for someone else's
        // `park`.
        while !unpark.woken.swap(false, Ordering::Acquire) {
            if !sleep() {
                return None;
            }
        }
    }
}

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
