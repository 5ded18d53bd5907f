//! `boson::blocking::sync::{Once, OnceLock, LazyLock}`: initialisers that wait, panic and are
//! cancelled.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use boson::blocking::sync::{Arc, LazyLock, Once, OnceLock};
use boson::rt::{self, Core, CoreConfig};
use boson::thread;

/// Runs `f` in a coroutine of a core on a thread of its own, and fails if that hangs.
fn run<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("a core");
        let output = thread::try_run_on(&core, f).expect("the core works").expect("no panic");
        sender.send(output).expect("somebody waits");
    });
    receiver.recv_timeout(Duration::from_secs(20)).expect("it neither hangs nor panics")
}

/// Runs other tasks of this core.
fn suspend() {
    thread::sleep(Duration::from_millis(2));
}

#[test]
fn an_initialiser_may_suspend_while_others_of_its_core_ask() {
    static LAZY: LazyLock<u32> = LazyLock::new(|| {
        suspend();
        7
    });
    let made = run(|| {
        let cell = Arc::new(OnceLock::new());
        let calls = Arc::new(AtomicU32::new(0));
        let once = Arc::new(Once::new());
        let tasks: Vec<_> = (0..3)
            .map(|number| {
                let (cell, calls, once) = (Arc::clone(&cell), Arc::clone(&calls), Arc::clone(&once));
                thread::spawn(move || {
                    once.call_once(|| {
                        suspend();
                        calls.fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(once.is_completed());
                    let first = *cell.get_or_init(|| {
                        suspend();
                        number
                    });
                    (*LAZY, first)
                })
            })
            .collect();
        assert_eq!(*cell.wait(), 0, "the one who came first");
        once.wait();
        let made: Vec<_> = tasks.into_iter().map(|task| task.join().expect("no panic")).collect();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        made
    });
    assert_eq!(made, [(7, 0); 3]);
}

#[test]
fn threads_and_cores_share_what_is_made_once() {
    let cell = Arc::new(OnceLock::new());
    let calls = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..4_u32)
        .map(|number| {
            let (cell, calls) = (Arc::clone(&cell), Arc::clone(&calls));
            let get = move || {
                *cell.get_or_init(|| {
                    std::thread::sleep(Duration::from_millis(5));
                    calls.fetch_add(1, Ordering::Relaxed) + 40
                })
            };
            std::thread::spawn(move || if number.is_multiple_of(2) { run(get) } else { get() })
        })
        .collect();
    assert_eq!(*cell.wait(), 40);
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().expect("no panic"), 40));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn who_panics_or_is_cancelled_poisons_as_in_std_and_a_cell_is_tried_again() {
    run(|| {
        let once = Arc::new(Once::new());
        let runner = Arc::clone(&once);
        let runner = thread::spawn(move || runner.call_once(thread::park));
        thread::yield_now();
        let waiter = Arc::clone(&once);
        let waiter = thread::spawn(move || waiter.call_once(|| {}));
        thread::yield_now();
        runner.cancel();
        assert!(runner.join().is_err());
        assert!(waiter.join().is_err(), "poisoned");
        assert!(catch_unwind(AssertUnwindSafe(|| once.wait())).is_err());
        once.call_once_force(|state| assert!(state.is_poisoned()));
        assert!(once.is_completed());
        once.call_once(|| unreachable!("complete"));

        let cell = Arc::new(OnceLock::new());
        let maker = Arc::clone(&cell);
        let maker = thread::spawn(move || {
            *maker.get_or_init(|| {
                thread::park();
                1
            })
        });
        thread::yield_now();
        let next = Arc::clone(&cell);
        let next = thread::spawn(move || *next.get_or_init(|| 2));
        thread::yield_now();
        maker.cancel();
        assert!(maker.join().is_err());
        assert_eq!(next.join().expect("no panic"), 2);

        let lazy: LazyLock<u32> = LazyLock::new(|| panic!("once"));
        for _ in 0..2 {
            assert!(catch_unwind(AssertUnwindSafe(|| *lazy)).is_err());
        }
    });
}

#[test]
fn a_cell_is_set_cloned_compared_and_emptied_as_in_std() {
    let mut cell = OnceLock::new();
    assert_eq!(cell.get(), None);
    assert_eq!(cell.get_mut(), None);
    assert_eq!(cell.set(1), Ok(()));
    assert_eq!(cell.set(2), Err(2));
    assert_eq!(cell.clone(), cell);
    assert_eq!(*cell.wait(), 1);
    assert_eq!(format!("{cell:?} {:?}", OnceLock::<u32>::new()), "OnceLock(1) OnceLock(<uninit>)");
    *cell.get_mut().expect("set") += 1;
    assert_eq!(cell.take(), Some(2));
    assert_ne!(cell, OnceLock::from(2));
    assert_eq!(*cell.get_or_init(|| 3), 3);
    assert_eq!(cell.into_inner(), Some(3));
}

#[test]
fn an_async_task_makes_the_value_but_does_not_wait_for_one() {
    let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("a core");
    core.block_on(async {
        let cell = Arc::new(OnceLock::new());
        let maker = Arc::clone(&cell);
        let maker = thread::spawn(move || {
            *maker.get_or_init(|| {
                thread::park();
                1
            })
        });
        rt::yield_now().await;
        let refused = catch_unwind(AssertUnwindSafe(|| *cell.get_or_init(|| 2)));
        assert!(refused.is_err(), "it would block the core");
        maker.thread().unpark();
        rt::sleep(Duration::from_millis(1)).await;
        assert_eq!(*cell.get_or_init(|| 3), 1);
        assert_eq!(*OnceLock::new().get_or_init(|| 4), 4);
    });
}
