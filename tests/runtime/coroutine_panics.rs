//! Whose panic it is that a thread of coroutines is in, where one of them goes on after its own.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use boson::blocking::sync::Mutex;
use boson::rt::{Core, CoreConfig, JoinError};
use boson::thread;

/// Runs `f` as the first coroutine of a new core.
fn run(f: impl FnOnce() + 'static) {
    let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("a core");
    if let Err(payload) = thread::try_run_on(&core, f).expect("the core works") {
        std::panic::resume_unwind(payload);
    }
}

/// Waits when it is dropped.
struct Waits(Duration);

impl Drop for Waits {
    fn drop(&mut self) {
        thread::sleep(self.0);
    }
}

/// Panics, waits while it does, and catches it.
fn catches_a_panic() {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _waits = Waits(Duration::from_millis(1));
        panic!("to be caught");
    }));
    assert!(caught.is_err());
}

fn until(is_true: &Cell<bool>) {
    while !is_true.get() {
        thread::yield_now();
    }
}

#[test]
fn one_that_caught_its_panic_is_unwound_where_it_waits() {
    run(|| {
        let (caught, went_on) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let (catches, goes_on) = (Rc::clone(&caught), Rc::clone(&went_on));
        let handle = thread::spawn(move || {
            catches_a_panic();
            catches.set(true);
            thread::sleep(Duration::from_secs(3600));
            goes_on.set(true);
        });
        until(&caught);
        handle.cancel();
        let payload = handle.join().expect_err("it was cancelled");
        assert!(payload.downcast_ref::<JoinError>().is_some_and(JoinError::is_cancelled));
        assert!(!went_on.get(), "it is in no panic");
    });
}

#[test]
fn one_that_caught_its_panic_does_not_take_anothers_for_it() {
    run(|| {
        let mutex = Arc::new(Mutex::new(()));
        let caught = Rc::new(Cell::new(false));
        let (locks, catches) = (Arc::clone(&mutex), Rc::clone(&caught));
        let locker = thread::spawn(move || {
            catches_a_panic();
            let _guard = locks.lock().expect("not poisoned");
            catches.set(true);
            thread::park();
        });
        until(&caught);
        let panics = thread::spawn(|| {
            let _waits = Waits(Duration::from_secs(3600));
            panic!("another");
        });
        while !std::thread::panicking() {
            thread::yield_now();
        }
        locker.thread().unpark();
        locker.join().expect("no panic came out of it");
        assert!(!mutex.is_poisoned(), "the panic is another's");
        panics.cancel();
        assert!(panics.join().is_err());
        assert!(!std::thread::panicking());
    });
}
