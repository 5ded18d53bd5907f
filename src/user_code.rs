//! One policy for user code that may panic: wakers, destructors, subscribers to the log, closures.
//!
//! The runtime calls code that it did not write while it is in the middle of something: it wakes
//! tasks of other executors, drops what futures captured, and writes to a log that somebody
//! subscribed to. All of that may panic, and it may call the runtime again. The policy:
//!
//! | user code | a panic in it | the caller |
//! |---|---|---|
//! | a future, a coroutine's function, the closure of `offload`, `Handle::run` or a scope | is the result of the task or call ([`caught`]): its joiner gets [`JoinError::Panicked`](crate::rt::JoinError::Panicked) | goes on |
//! | the future of `block_on` | goes on in the caller of `block_on` | ends |
//! | a waker, a destructor, a subscriber, the clock of a core that ends: nobody waits for it | is reported by the panic hook and ends here ([`contain`]) | goes on with the next one |
//! | a coroutine that is unwound, because its core ends or its handle cancels it | ends the unwinding; a second panic during it aborts the process, as Rust does | goes on |
//! | a `wait` that cannot return, in a destructor of a coroutine that is cancelled | aborts the process, with the name of the coroutine | |
//!
//! A second panic while the first one unwinds ends the process. So values are dropped one at a
//! time, each in a frame of its own ([`drop_contained`]), and a payload is forgotten, because its
//! destructor is user code too.
//!
//! User code is never called while the runtime holds a borrow or a lock of its own: it may come
//! back for the same one. That rule this module cannot enforce; the callers take things out first.
//!
//! What a child of a fork may do is the other policy of this kind; see [`fork`](crate::fork).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// Runs user code whose panic is a result: that of a task, a call or a scope.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> std::thread::Result<T> {
    // Whatever the panic left half done is the user's own: the runtime holds no borrow meanwhile.
    catch_unwind(AssertUnwindSafe(call))
}

/// Runs user code that nobody waits for. A panic ends here. Returns whether there was none.
pub(crate) fn contain(call: impl FnOnce()) -> bool {
    let result = caught(call);
    let returned = result.is_ok();
    // The panic hook has reported it. The payload's destructor is user code and may panic in turn.
    std::mem::forget(result);
    returned
}

/// Runs user code for each of `all`, also for those after one for which it panics.
pub(crate) fn contain_each<T>(mut all: impl Iterator<Item = T>, mut call: impl FnMut(T)) {
    // One frame serves all up to the next panic, which has used up the item that it came from.
    while !contain(|| all.by_ref().for_each(&mut call)) {}
}

/// Wakes every waker, also those after one that panics.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    contain_each(wakers.into_iter(), Waker::wake);
}

/// Drops a value that user code made.
pub(crate) fn drop_contained<T>(value: T) {
    contain(|| drop(value));
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
