//! One policy for user code that may panic: wakers, destructors, subscribers to the log, closures.
//!
//! The runtime calls code that it did not write while it is in the middle of something: it wakes
//! tasks of other executors, drops what futures captured, and writes to a log that somebody
//! subscribed to. All of that may panic, and it may call the runtime again. This module decides
//! what happens then. It is the only one that catches a panic or goes on with one
//! (`tests/tidy.rs` holds that).
//!
//! | user code | what happens on a panic | why | by |
//! |---|---|---|---|
//! | a future; a coroutine's function; the closure of `offload`, `Handle::run` or a scope | it is the result: the joiner gets [`JoinError::Panicked`](crate::rt::JoinError::Panicked), or the scope panics | somebody waits for the result, and the core has other tasks | [`caught`] |
//! | the future of `block_on`, the closure of `blocking`'s calls | it goes on in the caller | the caller waits for it, as for a function | [`PanicPayload::go_on`] |
//! | a waker, whoever wakes it; a destructor or a subscriber that the runtime itself calls; the report of a watchdog | the panic hook reports it, and it ends there; the next one has its turn | nobody waits for it, and those after it must not pay | [`wake`], [`wake_all`], [`drop_contained`], [`contain`] |
//! | a destructor, or the clone of a waker, in a call of the user's own (a channel's `send`, a future's `poll`) | it goes on in the caller; the call has done its work or nothing | it is as if the caller had run it | nobody |
//! | a poller, the clock | it goes on in the caller of `block_on`, or ends the thread of the core with an error | a core without its device or its time is of no use | nobody |
//! | the clock, while a core ends | it ends there, and the I/O in flight is leaked | the core must end whole: wakers elsewhere point to it | [`contain`] |
//! | a coroutine that is unwound, because its core ends or its handle cancels it | it ends the unwinding and goes on in what dropped the coroutine, unless that panics already | a destructor that panics does the same | [`PanicPayload::go_on_unless_panicking`] |
//! | a destructor of a coroutine that is cancelled waits for what is not ready, and the call has no error to return | the process aborts, with the name of the coroutine | the stack is about to go; there is no value to return | [`abort`] |
//! | a scope is dropped by a coroutine that borrows from it | the same | the frames that borrow still run | [`abort`] |
//! | anything, while a panic unwinds and not contained | the process aborts: Rust does that | | |
//!
//! Values are dropped one at a time, each in a frame of its own, so that no second panic comes out
//! while the first one unwinds. A payload that nobody takes is forgotten, because its destructor is
//! user code too.
//!
//! User code is never called while the runtime holds a borrow or a lock of its own: it may come
//! back for the same one. This module cannot enforce that rule; the callers take things out first.
//!
//! What a child of a fork may do is the other policy of this kind; see [`fork`](crate::fork).

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

/// What a task panicked with. Displayed it is the panic's message.
///
/// The payload need not be `Sync`, and this is: so it is given out by value only.
// The lock is never waited for: only printing takes it. Boxed, so that results that hold none are
// small.
pub struct PanicPayload(Box<Mutex<Box<dyn Any + Send>>>);

impl PanicPayload {
    /// What [`std::panic::catch_unwind`] gave.
    #[cold]
    pub fn new(payload: Box<dyn Any + Send>) -> Self {
        Self(Box::new(Mutex::new(payload)))
    }

    /// The payload, to look into or to go on with.
    pub fn into_inner(self) -> Box<dyn Any + Send> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The message, if the payload is a string, as that of `panic!` is.
    pub fn message(&self) -> Option<String> {
        let payload = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let literal = payload.downcast_ref::<&str>().map(|message| (*message).to_owned());
        literal.or_else(|| payload.downcast_ref::<String>().cloned())
    }

    /// The panic goes on in the caller. The panic hook has reported it and is not called again.
    pub(crate) fn go_on(self) -> ! {
        resume_unwind(self.into_inner())
    }

    /// The same, unless the thread panics already: a second panic would end the process.
    pub(crate) fn go_on_unless_panicking(self) {
        if std::thread::panicking() {
            self.forget();
        } else {
            self.go_on();
        }
    }

    /// The panic ends here. The panic hook has reported it.
    pub(crate) fn forget(self) {
        // The payload's destructor is user code and may panic in turn.
        std::mem::forget(self);
    }
}

impl fmt::Display for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A formatter is user code: not under the lock.
        f.write_str(self.message().as_deref().unwrap_or("(no message)"))
    }
}

impl fmt::Debug for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PanicPayload").field(&self.message()).finish()
    }
}

/// Runs user code whose panic is a result: that of a task, a call or a scope.
// Every poll of a task comes through here; a frame of its own would be a tenth of a yield.
#[inline(always)]
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, PanicPayload> {
    // Whatever the panic left half done is the user's own: the runtime holds no borrow meanwhile.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(output) => Ok(output),
        Err(payload) => Err(PanicPayload::new(payload)),
    }
}

/// Runs user code that nobody waits for. A panic ends here. Returns whether there was none.
pub(crate) fn contain(call: impl FnOnce()) -> bool {
    caught(call).map_err(PanicPayload::forget).is_ok()
}

/// Runs user code for each of `all`, also for those after one for which it panics.
pub(crate) fn contain_each<T>(mut all: impl Iterator<Item = T>, mut call: impl FnMut(T)) {
    // One frame serves all up to the next panic, which has used up the item that it came from.
    while !contain(|| all.by_ref().for_each(&mut call)) {}
}

/// Wakes a task, which may be one of another executor.
#[inline]
pub(crate) fn wake(waker: Waker) {
    contain(|| waker.wake());
}

/// Wakes every waker, also those after one that panics.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    contain_each(wakers.into_iter(), Waker::wake);
}

/// Drops a value that user code made.
pub(crate) fn drop_contained<T>(value: T) {
    contain(|| drop(value));
}

/// Ends the process, because user code did what has no other answer; `reason` says what.
#[cold]
pub(crate) fn abort(reason: fmt::Arguments<'_>) -> ! {
    eprintln!("boson: {reason}");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::panic_any;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct PanicsWhenDropped<'a>(&'a Cell<u32>);

    impl Drop for PanicsWhenDropped<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            panic!("a destructor");
        }
    }

    #[test]
    fn a_panic_is_contained_and_said() {
        assert!(contain(|| {}));
        assert!(!contain(|| panic!("on purpose")));
    }

    #[test]
    fn a_panic_that_is_a_result_goes_on_where_it_is_told_to() {
        let result = caught(|| -> u32 { panic!("on {}", "purpose") });
        let payload = result.expect_err("it panicked");
        assert_eq!(payload.message().as_deref(), Some("on purpose"));
        let again = caught(|| payload.go_on()).map(|never: std::convert::Infallible| never);
        assert_eq!(again.expect_err("it went on").to_string(), "on purpose");
    }

    #[test]
    fn a_second_panic_does_not_go_on_while_the_first_unwinds() {
        struct GoesOnInDrop(Option<PanicPayload>);
        impl Drop for GoesOnInDrop {
            fn drop(&mut self) {
                self.0.take().expect("once").go_on_unless_panicking();
            }
        }
        let second = || caught(|| panic!("the second")).expect_err("it panicked");
        let in_a_panic = caught(|| {
            let _goes_on = GoesOnInDrop(Some(second()));
            panic!("the first");
        });
        assert_eq!(in_a_panic.expect_err("it panicked").to_string(), "the first");
        let alone = caught(|| drop(GoesOnInDrop(Some(second()))));
        assert_eq!(alone.expect_err("it went on").to_string(), "the second");
    }

    #[test]
    fn a_payload_whose_destructor_panics_is_not_dropped() {
        struct Payload;
        impl Drop for Payload {
            fn drop(&mut self) {
                panic!("the payload's destructor");
            }
        }
        assert!(!contain(|| panic_any(Payload)));
    }

    #[test]
    fn one_that_panics_keeps_none_after_it_from_its_turn() {
        let seen = Cell::new(0);
        contain_each(1..=5, |number| {
            seen.set(seen.get() + number);
            assert!(number % 2 == 0, "an odd one");
        });
        assert_eq!(seen.get(), 15);
    }

    #[test]
    fn every_waker_wakes_although_one_panics() {
        struct Counts(AtomicUsize);
        impl Wake for Counts {
            fn wake(self: Arc<Self>) {
                assert!(self.0.fetch_add(1, Ordering::Relaxed) != 1, "the second");
            }
        }
        let counts = Arc::new(Counts(AtomicUsize::new(0)));
        wake_all((0..3).map(|_| Waker::from(Arc::clone(&counts))));
        assert_eq!(counts.0.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_is_dropped_one_by_one_may_panic_each_time() {
        let drops = Cell::new(0);
        (0..3).map(|_| PanicsWhenDropped(&drops)).for_each(drop_contained);
        assert_eq!(drops.get(), 3);
    }
}
