//! Stackful coroutines: `boson::thread`, `boson::wait`, their stacks, and what happens at the
//! edges.

use crate::support::own_process::named_in;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use boson::observe;
use boson::rt::{self, Core, CoreConfig, JoinError};
use boson::thread;

fn core() -> Core {
    Core::new(&CoreConfig::default().seed([7; 32])).expect("io_uring is usable")
}

/// Runs `f` as the first coroutine of a new core.
fn run<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    match thread::try_run_on(&core(), f).expect("the ring works") {
        Ok(output) => output,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

fn message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .expect("a panic message")
}

/// Notes that it was dropped.
struct Notes(Rc<Cell<u32>>);

impl Drop for Notes {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn coroutines_spawn_join_and_take_turns() {
    let order = run(|| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let handles: Vec<_> = (0..3)
            .map(|number| {
                let order = Rc::clone(&order);
                thread::spawn(move || {
                    for _ in 0..2 {
                        order.borrow_mut().push(number);
                        thread::yield_now();
                    }
                    number * 10
                })
            })
            .collect();
        let results: Vec<i32> = handles.into_iter().map(|handle| handle.join().expect("no panic")).collect();
        assert_eq!(results, [0, 10, 20]);
        order.take()
    });
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn wait_lets_other_tasks_run_and_an_async_task_can_await_a_coroutine() {
    let core = core();
    let sum = core.block_on(async {
        let (two, three) = (
            thread::spawn(|| boson::wait(rt::named("async").spawn(async { 2 })).expect("no panic")),
            thread::spawn(|| {
                thread::sleep(Duration::from_millis(1));
                boson::wait(async {
                    rt::yield_now().await;
                    3
                })
            }),
        );
        two.await.expect("no panic") + three.await.expect("no panic")
    });
    assert_eq!(sum, 5);
}

#[test]
fn a_panic_is_the_joiners_error_and_leaves_the_core_running() {
    run(|| {
        let panicked = thread::spawn(|| {
            thread::yield_now();
            panic!("on a stack of its own");
        });
        let payload = panicked.join().expect_err("it panicked");
        assert_eq!(message(&*payload), "on a stack of its own");
        assert_eq!(thread::spawn(|| 1).join().expect("the core runs on"), 1);
        assert!(!std::thread::panicking());
    });
}

#[test]
fn names_ids_and_handles() {
    run(|| {
        assert_eq!(thread::current().name(), Some("main"));
        let handle = thread::Builder::new()
            .name(format!("worker {}", 1))
            .spawn(|| (thread::current().id(), thread::current().name().map(str::to_owned)))
            .expect("there is room");
        let thread = handle.thread().clone();
        let (id, name) = handle.join().expect("no panic");
        assert_eq!((thread.id(), thread.name()), (id, name.as_deref()));
        assert_eq!(name.as_deref(), Some("worker 1"));
        assert_ne!(id, thread::current().id());
    });
    assert_ne!(thread::current().name(), Some("main coroutine"), "outside, it is the system's thread");
}

#[test]
fn park_and_unpark_also_from_another_thread() {
    run(|| {
        let parked = thread::spawn(|| {
            thread::park();
            thread::park();
            thread::current().unpark();
            // The token of before.
            thread::park();
        });
        thread::yield_now();
        parked.thread().unpark();
        thread::yield_now();
        assert!(!parked.is_finished());
        let remote = parked.thread().clone();
        std::thread::spawn(move || remote.unpark()).join().expect("no panic");
        parked.join().expect("no panic");
        let started = Instant::now();
        thread::park_timeout(Duration::from_millis(5));
        assert!(started.elapsed() >= Duration::from_millis(5));
    });
}

#[test]
fn cancelling_unwinds_the_stack_where_it_waits() {
    run(|| {
        let dropped = Rc::new(Cell::new(0));
        let outer = Notes(Rc::clone(&dropped));
        let handle = thread::spawn(move || {
            let _outer = outer;
            let _inner = Notes(_outer.0.clone());
            thread::sleep(Duration::from_secs(3600));
            unreachable!("it was cancelled");
        });
        thread::yield_now();
        handle.cancel();
        let payload = handle.join().expect_err("it was cancelled");
        assert!(matches!(payload.downcast_ref(), Some(JoinError::Cancelled)));
        assert_eq!(dropped.get(), 2);
        assert!(!std::thread::panicking());
    });
}

#[test]
fn coroutines_end_with_their_core_started_or_not() {
    let dropped = Rc::new(Cell::new(0));
    let core = core();
    let (started, unstarted) = (Notes(Rc::clone(&dropped)), Notes(Rc::clone(&dropped)));
    core.block_on(async {
        drop(thread::spawn(move || {
            let _started = started;
            thread::park();
        }));
        rt::yield_now().await;
        // The core does not turn to this one any more.
        drop(thread::spawn(move || {
            let _unstarted = unstarted;
        }));
    });
    assert_eq!(dropped.get(), 0);
    drop(core);
    assert_eq!(dropped.get(), 2);
    assert_eq!(thread::stack_stats().used, 0);
}

#[test]
fn what_a_coroutine_captured_is_dropped_once_although_a_destructor_panics() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }

    let dropped = Rc::new(Cell::new(0));
    let (before, after) = (Notes(Rc::clone(&dropped)), Notes(Rc::clone(&dropped)));
    let panics = Panics;
    run(move || {
        let handle = thread::spawn(move || drop((before, panics, after)));
        handle.cancel();
        assert!(handle.join().is_err());
    });
    assert_eq!(dropped.get(), 2);
}

#[test]
fn a_cancelled_coroutine_that_catches_the_unwinding_is_unwound_again() {
    run(|| {
        let caught = Rc::new(Cell::new(0));
        let count = Rc::clone(&caught);
        let handle = thread::spawn(move || {
            for _ in 0..3 {
                assert!(catch_unwind(thread::park).is_err());
                count.set(count.get() + 1);
            }
            panic!("after all");
        });
        thread::yield_now();
        handle.cancel();
        let payload = handle.join().expect_err("it was cancelled and panicked");
        assert_eq!(message(&*payload), "after all");
        assert_eq!(caught.get(), 3);
        assert_eq!(thread::spawn(|| 1).join().expect("the core runs on"), 1);
    });
}

#[test]
fn what_blocks_in_a_destructor_of_a_cancelled_coroutine_returns_at_once() {
    struct Blocks(Rc<Cell<u32>>);
    impl Drop for Blocks {
        fn drop(&mut self) {
            thread::sleep(Duration::from_secs(3600));
            thread::park();
            thread::yield_now();
            assert_eq!(boson::wait(async { 1 }), 1, "what is ready is ready");
            self.0.set(1);
        }
    }
    run(|| {
        let dropped = Rc::new(Cell::new(0));
        let blocks = Blocks(Rc::clone(&dropped));
        let handle = thread::spawn(move || {
            let _blocks = blocks;
            thread::park();
        });
        thread::yield_now();
        handle.cancel();
        assert!(handle.join().is_err());
        assert_eq!(dropped.get(), 1);
    });
}

#[test]
fn a_destructor_that_a_panic_runs_may_wait() {
    struct Waits(Rc<Cell<bool>>);
    impl Drop for Waits {
        fn drop(&mut self) {
            thread::sleep(Duration::from_millis(1));
            self.0.set(true);
        }
    }
    run(|| {
        let waited = Rc::new(Cell::new(false));
        let waits = Waits(Rc::clone(&waited));
        let handle = thread::spawn(move || {
            let _waits = waits;
            panic!("with something to clean up");
        });
        assert!(handle.join().is_err());
        assert!(waited.get());
    });
}

/// Sleeps when it is dropped, and then notes that.
struct Sleeps(Rc<Cell<u32>>);

impl Drop for Sleeps {
    fn drop(&mut self) {
        thread::sleep(Duration::from_secs(3600));
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn a_coroutine_that_waits_in_a_destructor_that_its_panic_runs_can_be_cancelled() {
    run(|| {
        let slept = Rc::new(Cell::new(0));
        let sleeps = [Sleeps(Rc::clone(&slept)), Sleeps(Rc::clone(&slept))];
        let handle = thread::spawn(move || {
            let _sleeps = sleeps;
            panic!("with something to clean up");
        });
        thread::yield_now();
        handle.cancel();
        let payload = handle.join().expect_err("it panicked");
        assert_eq!(message(&*payload), "with something to clean up", "what it panicked with is not lost");
        assert_eq!(slept.get(), 2, "the destructors ran to their ends");
    });
}

#[test]
fn a_coroutine_that_catches_its_panic_after_it_was_cancelled_is_unwound_where_it_waits() {
    run(|| {
        let notes = Rc::new(Cell::new(0));
        let (sleeps, dropped) = (Sleeps(Rc::clone(&notes)), Notes(Rc::clone(&notes)));
        let handle = thread::spawn(move || {
            let _dropped = dropped;
            let caught = catch_unwind(AssertUnwindSafe(move || {
                let _sleeps = sleeps;
                panic!("caught");
            }));
            assert!(caught.is_err());
            thread::park();
            unreachable!("nobody unparks it");
        });
        thread::yield_now();
        handle.cancel();
        let payload = handle.join().expect_err("it was cancelled");
        let error = payload.downcast_ref::<JoinError>().expect("no panic came out of it");
        assert!(error.is_cancelled());
        assert_eq!(notes.get(), 2);
    });
}

#[test]
fn a_core_ends_what_waits_in_a_destructor_that_a_panic_runs() {
    let slept = Rc::new(Cell::new(0));
    let core = core();
    core.block_on(async {
        let sleeps = Sleeps(Rc::clone(&slept));
        drop(thread::spawn(move || {
            let _sleeps = sleeps;
            panic!("with something to clean up");
        }));
        rt::yield_now().await;
    });
    assert_eq!(slept.get(), 0);
    drop(core);
    assert_eq!(slept.get(), 1);
}

/// Yields when it is dropped, until it is told to stop, and then notes that.
struct YieldsUntil(Rc<Cell<bool>>, Rc<Cell<u32>>);

impl Drop for YieldsUntil {
    fn drop(&mut self) {
        while !self.0.get() {
            thread::yield_now();
        }
        self.1.set(self.1.get() + 1);
    }
}

#[test]
fn a_coroutine_that_was_a_bystander_of_a_panic_knows_its_own_later() {
    // With more of them, the one that panics has its turns on another's stack, below others, or
    // both.
    let others = [(1, 0), (0, 1), (1, 1), (3, 0), (0, 3), (2, 2)];
    let cases =
        others.into_iter().flat_map(|(before, after)| (0..4).map(move |yields| (before, after, yields)));
    for (before, after, yields_before) in cases {
        run(move || {
            let stop = Rc::new(Cell::new(false));
            let noted = Rc::new(Cell::new(0));
            let slept = Rc::new(Cell::new(0));
            // One after another: a panic that begins while another one is suspended in its own is
            // not told from that.
            let turn = Rc::new(Cell::new(None));
            let bystander = |number: u32| {
                let (turn, sleeps) = (Rc::clone(&turn), Sleeps(Rc::clone(&slept)));
                thread::spawn(move || {
                    while turn.get() != Some(number) {
                        thread::yield_now();
                    }
                    let _sleeps = sleeps;
                    panic!("its own");
                })
            };
            let went_on = Rc::new(Cell::new(false));
            let cancelled = |_| {
                let went_on = Rc::clone(&went_on);
                thread::spawn(move || {
                    for _ in 0..1_000_000 {
                        thread::yield_now();
                    }
                    went_on.set(true);
                })
            };
            let mut bystanders: Vec<_> = (0..before).map(bystander).collect();
            let mut to_cancel: Vec<_> = (0..before).map(cancelled).collect();
            let yields = YieldsUntil(Rc::clone(&stop), Rc::clone(&noted));
            let panics = thread::spawn(move || {
                let _yields = yields;
                for _ in 0..yields_before {
                    thread::yield_now();
                }
                panic!("the first");
            });
            to_cancel.extend((0..after).map(cancelled));
            bystanders.extend((before..before + after).map(bystander));
            // The one that runs the others on its stack is this one, or one of them.
            if yields_before % 2 == 0 {
                (0..10).for_each(|_| thread::yield_now());
            } else {
                // On a slow machine the first is over before the panic begins.
                for _ in 0..1000 {
                    thread::sleep(Duration::from_millis(1));
                    if std::thread::panicking() {
                        break;
                    }
                }
            }
            assert!(std::thread::panicking(), "for the whole thread");
            for bystander in to_cancel {
                bystander.cancel();
                let payload = bystander.join().expect_err("it was cancelled");
                assert!(payload.downcast_ref::<JoinError>().is_some_and(JoinError::is_cancelled));
                assert!(!went_on.get(), "it is in no panic of its own, and so it is unwound where it is");
            }
            stop.set(true);
            if yields_before >= 2 {
                // It goes on to the end of its panic, and is not unwound from there.
                panics.cancel();
            }
            let payload = panics.join().expect_err("it panicked");
            assert_eq!(message(&*payload), "the first");
            assert_eq!(noted.get(), 1);
            for (number, bystander) in (0..).zip(bystanders) {
                turn.set(Some(number));
                for _ in 0..4 {
                    thread::yield_now();
                }
                bystander.cancel();
                let payload = bystander.join().expect_err("it panicked");
                assert_eq!(message(&*payload), "its own");
            }
            assert_eq!(slept.get(), before + after);
        });
    }
}

#[test]
fn cancelling_unwinds_also_while_another_coroutine_is_suspended_in_its_panic() {
    run(|| {
        let slept = Rc::new(Cell::new(0));
        let dropped = Rc::new(Cell::new(0));
        // It waits before the panic begins, and another one after that. Both also let others run on
        // their stacks.
        let waits = |notes: Notes| {
            move || {
                let _notes = notes;
                thread::yield_now();
                thread::yield_now();
                boson::wait(std::future::pending::<()>());
            }
        };
        let before = thread::spawn(waits(Notes(Rc::clone(&dropped))));
        thread::yield_now();
        let sleeps = Sleeps(Rc::clone(&slept));
        let panics = thread::spawn(move || {
            let _sleeps = sleeps;
            panic!("with something to clean up");
        });
        thread::yield_now();
        let after = thread::spawn(waits(Notes(Rc::clone(&dropped))));
        for _ in 0..4 {
            thread::yield_now();
        }
        assert!(std::thread::panicking(), "for the whole thread");
        before.cancel();
        after.cancel();
        assert!(before.join().is_err());
        assert!(after.join().is_err());
        assert_eq!(dropped.get(), 2);
        assert_eq!(slept.get(), 0);
        panics.cancel();
        assert!(panics.join().is_err());
        assert_eq!(slept.get(), 1);
        assert!(!std::thread::panicking());
    });
}

/// Uses at least `depth` times 1 KiB of stack.
fn recurse(depth: u32) -> u32 {
    let frame = black_box([depth; 256]);
    if depth == 0 { frame[0] } else { recurse(depth - 1) + black_box(frame)[1] - depth + 1 }
}

#[test]
fn a_larger_stack_has_room_for_deep_recursion() {
    run(|| {
        let deep =
            thread::Builder::new().stack_size(32 << 20).spawn(|| recurse(5_000)).expect("there is room");
        assert_eq!(deep.join().expect("no panic"), 5_000);
    });
}

#[test]
fn a_wait_in_a_nested_poll_suspends_the_whole_coroutine() {
    let polls = run(|| {
        let other = Rc::new(Cell::new(0));
        let count = Rc::clone(&other);
        drop(rt::named("other").spawn(async move {
            loop {
                count.set(count.get() + 1);
                rt::yield_now().await;
            }
        }));
        let inner = std::future::poll_fn(|_| {
            thread::yield_now();
            boson::wait(rt::yield_now());
            Poll::Ready(())
        });
        boson::wait(inner);
        other.get()
    });
    assert!(polls >= 2);
}

#[test]
fn a_wake_that_comes_while_a_poll_is_suspended_is_not_lost() {
    run(|| {
        for inner in [thread::yield_now, || thread::sleep(Duration::from_millis(2))] {
            let waker = Rc::new(RefCell::new(None::<std::task::Waker>));
            let is_ready = Rc::new(Cell::new(false));
            let (slot, ready) = (Rc::clone(&waker), Rc::clone(&is_ready));
            let waits = thread::spawn(move || {
                boson::wait(std::future::poll_fn(|cx| {
                    if ready.get() {
                        return Poll::Ready(());
                    }
                    slot.replace(Some(cx.waker().clone()));
                    inner();
                    Poll::Pending
                }));
            });
            while waker.borrow().is_none() {
                thread::yield_now();
            }
            is_ready.set(true);
            waker.take().expect("it is there").wake();
            let joined = boson::wait(rt::timeout(Duration::from_secs(10), waits));
            joined.expect("it was woken").expect("no panic");
        }
    });
}

#[test]
fn waiting_in_an_async_task_is_refused_with_what_to_do() {
    let blocking: [(&str, fn()); 5] = [
        (".await", || boson::wait(std::future::pending())),
        ("boson::thread::sleep", || thread::sleep(Duration::ZERO)),
        ("boson::thread::park", thread::park),
        ("boson::thread::yield_now", thread::yield_now),
        ("boson::thread::park_timeout", || thread::park_timeout(Duration::ZERO)),
    ];
    for (name, function) in blocking {
        let joined = core().block_on(async { rt::named("async").spawn(async move { function() }).await });
        let Err(JoinError::Panicked(payload)) = joined else { panic!("{name} blocked") };
        assert!(payload.to_string().contains(name), "{payload}");
    }
}

#[test]
fn on_a_plain_thread_wait_blocks_it() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let waker_sent = AtomicU32::new(0);
    std::thread::spawn(move || {
        let waker: std::task::Waker = receiver.recv().expect("it is sent");
        std::thread::sleep(Duration::from_millis(5));
        waker.wake();
    });
    boson::wait(std::future::poll_fn(|cx| {
        if waker_sent.fetch_add(1, Ordering::Relaxed) == 0 {
            sender.send(cx.waker().clone()).expect("it is received");
            return Poll::Pending;
        }
        Poll::Ready(())
    }));
    assert_eq!(waker_sent.load(Ordering::Relaxed), 2, "polled once before and once after the wake-up");
    thread::sleep(Duration::from_millis(1));
    thread::yield_now();
    thread::current().unpark();
    thread::park();
}

#[test]
fn spawning_outside_a_core_is_refused_with_what_to_do() {
    let error = thread::Builder::new().spawn(|| ()).expect_err("there is no core");
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    let payload = catch_unwind(|| drop(thread::spawn(|| ()))).expect_err("there is no core");
    assert!(message(&*payload).contains("boson::thread::run"), "{}", message(&*payload));
}

#[test]
fn a_coroutine_takes_and_returns_values_of_any_size() {
    let core = core();
    let doubled = core.block_on(async {
        let mut captured = [21_u8; 4 << 10];
        let double = move || {
            captured.iter_mut().for_each(|byte| *byte *= 2);
            captured
        };
        thread::spawn(double).await
    });
    assert_eq!(doubled.expect("the ring works"), [42; 4 << 10]);
}

#[test]
fn a_stack_too_large_is_an_error_and_nothing_starts() {
    run(|| {
        let dropped = Rc::new(Cell::new(0));
        let notes = Notes(Rc::clone(&dropped));
        let error =
            thread::Builder::new().stack_size(2 << 30).spawn(move || drop(notes)).expect_err("too large");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert_eq!(dropped.get(), 1, "the function is dropped");
    });
}

#[test]
fn joining_when_the_core_does_not_run_is_refused_unless_it_ended() {
    let core = core();
    let (ended, waiting) = thread::try_run_on(&core, || {
        let ended = thread::spawn(|| 1);
        let waiting = thread::spawn(thread::park);
        thread::yield_now();
        (ended, waiting)
    })
    .expect("the ring works")
    .expect("no panic");
    assert_eq!(ended.join().expect("no panic"), 1);
    let payload = catch_unwind(AssertUnwindSafe(|| waiting.join())).expect_err("nobody runs the core");
    assert!(message(&*payload).contains("does not run"));
}

#[test]
fn a_core_dropped_in_a_coroutine_cannot_suspend_it() {
    struct Waits;
    impl Drop for Waits {
        fn drop(&mut self) {
            boson::wait(std::future::pending::<()>());
        }
    }
    let inner = core();
    let handle = inner.block_on(async {
        let waits = Waits;
        let handle = rt::named("waits").spawn(async move {
            let _waits = waits;
            std::future::pending::<()>().await;
        });
        rt::yield_now().await;
        Rc::new(RefCell::new(handle))
    });
    run(move || {
        drop(inner);
        // Its destructor's panic became the task's result.
        assert!(handle.borrow().is_finished());
        assert_eq!(thread::spawn(|| 1).join().expect("the core runs on"), 1);
    });
}

#[test]
fn scoped_coroutines_borrow_from_their_caller() {
    run(|| {
        let mut numbers = vec![1, 2, 3];
        let sum = Cell::new(0);
        let total = thread::scope(|scope| {
            let handle = scope.spawn(|| {
                thread::yield_now();
                numbers.iter().sum::<i32>()
            });
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(1));
                sum.set(5);
            });
            handle.join().expect("no panic")
        });
        numbers.push(total);
        assert_eq!((numbers, sum.get()), (vec![1, 2, 3, 6], 5));
    });
}

#[test]
fn a_scope_reports_panics_after_everything_ended() {
    run(|| {
        let ended = Cell::new(0);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(2));
                    ended.set(ended.get() + 1);
                });
                scope.spawn(|| panic!("not joined"));
            });
        }));
        assert_eq!(message(&*panicked.expect_err("one panicked")), "a scoped coroutine panicked");
        assert_eq!(ended.get(), 1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(2));
                    ended.set(ended.get() + 1);
                });
                panic!("the scope itself");
            });
        }));
        assert_eq!(message(&*panicked.expect_err("it panicked")), "the scope itself");
        assert_eq!(ended.get(), 2);
        thread::scope(|scope| {
            let joined = scope.spawn(|| panic!("joined")).join();
            assert_eq!(message(&*joined.expect_err("it panicked")), "joined");
        });
    });
}

#[test]
fn a_scope_that_is_cancelled_leaves_no_tasks_behind() {
    let core = core();
    core.block_on(async {
        let tasks_before = observe::stats().tasks;
        for turns in 0..4 {
            let parent = thread::spawn(|| {
                thread::scope(|scope| {
                    scope.spawn(thread::park);
                    scope.spawn(|| thread::sleep(Duration::from_secs(100)));
                    scope.spawn(|| thread::scope(|inner| inner.spawn(thread::park).join()));
                });
            });
            // Cancelled before its children began, before they wait, and after.
            for _ in 0..turns {
                rt::yield_now().await;
            }
            parent.cancel();
            assert!(parent.await.is_err());
        }
        rt::yield_now().await;
        rt::yield_now().await;
        assert_eq!(observe::stats().tasks, tasks_before);
    });
    let began = Instant::now();
    core.shutdown(rt::Shutdown::Drain, Duration::from_secs(20)).expect("the ring works");
    assert!(began.elapsed() < Duration::from_secs(10), "nothing is left to wait for");
}

#[test]
fn a_scope_that_is_cancelled_ends_what_borrows_from_it_first() {
    /// Asks what is borrowed whether it lives by a flag beside it, which can be read though it does
    /// not.
    struct Checks<'a>(#[expect(dead_code, reason = "only borrows")] &'a Ends, Rc<Cell<bool>>, Rc<Cell<u32>>);
    impl Drop for Checks<'_> {
        fn drop(&mut self) {
            self.2.set(self.2.get() + u32::from(self.1.get()));
        }
    }
    struct Ends(Rc<Cell<bool>>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.set(false);
        }
    }
    for by_core in [false, true] {
        let dropped = Rc::new(Cell::new(0));
        let count = Rc::clone(&dropped);
        let core = core();
        thread::try_run_on(&core, move || {
            let handle = thread::spawn(move || {
                let alive = Ends(Rc::new(Cell::new(true)));
                thread::scope(|scope| {
                    for _ in 0..3 {
                        scope.spawn(|| {
                            let _checks = Checks(&alive, Rc::clone(&alive.0), Rc::clone(&count));
                            thread::park();
                        });
                    }
                });
            });
            thread::yield_now();
            thread::yield_now();
            if !by_core {
                handle.cancel();
                assert!(handle.join().is_err());
            }
        })
        .expect("the ring works")
        .expect("no panic");
        drop(core);
        assert_eq!(dropped.get(), 3, "dropped while what they borrow was there; by the core: {by_core}");
    }
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("there is a /proc").lines().count()
}

/// Runs the ignored test `name` in a process of its own, perhaps under `limit` (an argument of
/// `ulimit`).
fn in_child(name: &str, limit: Option<&str>) -> std::process::Output {
    let test = std::env::current_exe().expect("there is one");
    let limit = limit.map_or_else(String::new, |limit| format!("ulimit {limit}; "));
    Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -c 0; {limit}exec \"$0\" --exact --ignored --nocapture --test-threads=1 {}",
            named_in(module_path!(), name)
        ))
        .arg(test)
        .output()
        .expect("a shell")
}

#[test]
fn fifty_thousand_sleeping_coroutines_need_few_mappings() {
    let count = if mprotect_only() { 5_000 } else { 50_000 };
    run(move || {
        let before = mappings();
        let handles: Vec<_> = (0..count).map(|_| thread::spawn(thread::park)).collect();
        thread::sleep(Duration::from_millis(1));
        assert_eq!(thread::stack_stats().used, count + 1);
        let more = mappings().saturating_sub(before);
        assert!(more < if mprotect_only() { 12_000 } else { 200 }, "{more} mappings for {count} stacks");
        handles.iter().for_each(|handle| handle.thread().unpark());
        handles.into_iter().for_each(|handle| handle.join().expect("no panic"));
        assert_eq!(thread::stack_stats().used, 1);
        let reserved = thread::stack_stats().reserved_bytes;
        thread::trim_stacks();
        assert!(thread::stack_stats().reserved_bytes < reserved / 10);
    });
}

/// Whether the kernel is older than Linux 6.13, where every guard is a mapping.
fn mprotect_only() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("there is a /proc");
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) < (Some(6), Some(13))
}

#[test]
fn an_overflow_names_the_coroutine_and_ends_the_process() {
    let output = in_child("child_overflows", None);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let says = |text: &str| assert!(stderr.contains(text), "{text} is missing in: {stderr}");
    says("coroutine 'deep' (created at tests/runtime/coroutine.rs:");
    says("overflowed its stack of 64 KiB");
    says("stack_size");
}

#[test]
#[ignore = "ends its process; run by another test"]
fn child_overflows() {
    run(|| {
        let builder = thread::Builder::new().name("deep".to_owned()).stack_size(64 << 10);
        let _ = builder.spawn(|| recurse(1_000_000)).expect("there is room").join();
    });
}

#[test]
fn another_fault_still_goes_to_the_handler_of_before() {
    let output = in_child("child_overflows_its_thread", None);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains("has overflowed its stack") && !stderr.contains("boson: coroutine"), "{stderr}");
}

#[test]
#[ignore = "ends its process; run by another test"]
fn child_overflows_its_thread() {
    run(|| thread::spawn(|| ()).join().expect("no panic"));
    recurse(1_000_000);
}

#[test]
fn without_address_space_spawning_is_an_error() {
    let output = in_child("child_runs_out_of_address_space", Some("-v 2000000"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

#[test]
#[ignore = "needs a limit on its process; run by another test"]
fn child_runs_out_of_address_space() {
    run(|| {
        let mut handles = Vec::new();
        let error = loop {
            match thread::Builder::new().spawn(thread::park) {
                Ok(handle) => handles.push(handle),
                Err(error) => break error,
            }
            assert!(handles.len() < 1_000_000, "there is a limit");
        };
        assert!(error.to_string().contains("ulimit -v"), "{error}");
        assert!(catch_unwind(|| drop(thread::spawn(|| ()))).is_err());
        let count = handles.len();
        assert!(count > 100);
        handles.into_iter().for_each(|handle| {
            handle.thread().unpark();
            handle.join().expect("no panic");
        });
        assert!(thread::spawn(|| true).join().expect("there is room again"));
    });
}

#[test]
fn what_address_space_there_is_becomes_stacks() {
    let output = in_child("child_fills_its_address_space", Some(&format!("-v {ADDRESS_SPACE_KIB}")));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

const ADDRESS_SPACE_KIB: usize = 2_000_000;

#[test]
#[ignore = "needs a limit on its process; run by another test"]
fn child_fills_its_address_space() {
    const STACK_KIB: usize = 16 << 10;
    run(|| {
        let builder = || thread::Builder::new().stack_size(STACK_KIB << 10);
        let handles: Vec<_> = std::iter::from_fn(|| builder().spawn(thread::park).ok()).collect();
        let status = std::fs::read_to_string("/proc/self/status").expect("there is a /proc");
        let used = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("its size is there");
        let used: usize = used.trim().trim_end_matches(" kB").parse().expect("a number");
        // Less than a stack and its guard, and what little else was mapped and unmapped meanwhile.
        let left = ADDRESS_SPACE_KIB - used;
        assert!(left < STACK_KIB + 1024, "{left} KiB are left over by {} stacks", handles.len());
        for handle in handles {
            handle.thread().unpark();
            handle.join().expect("no panic");
        }
    });
}

#[test]
fn a_wait_that_cannot_return_ends_the_process_with_a_message() {
    let output = in_child("child_waits_in_a_destructor", None);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains("coroutine 'stubborn'") && stderr.contains("destructor"), "{stderr}");
}

#[test]
#[ignore = "ends its process; run by another test"]
fn child_waits_in_a_destructor() {
    struct Waits;
    impl Drop for Waits {
        fn drop(&mut self) {
            boson::wait(std::future::pending::<()>());
        }
    }
    run(|| {
        let builder = thread::Builder::new().name("stubborn".to_owned());
        let handle = builder
            .spawn(|| {
                let _waits = Waits;
                thread::park();
            })
            .expect("there is room");
        thread::yield_now();
        handle.cancel();
        let _ = handle.join();
    });
}

fn _join_handles_are_futures<T>(
    handle: thread::JoinHandle<T>,
) -> impl Future<Output = std::thread::Result<T>> {
    handle
}

#[test]
fn what_a_coroutine_captures_and_returns_is_aligned() {
    #[repr(align(512))]
    struct Sector([u8; 512]);
    fn is_aligned<T>(value: &T) -> bool {
        std::ptr::from_ref(value).addr().is_multiple_of(align_of::<T>())
    }
    // Of several stacks, whose tops lie at different places in their pages.
    let spawn = |number| {
        let sector = Sector([number; 512]);
        thread::spawn(move || is_aligned(&sector).then_some(sector))
    };
    run(move || {
        for (number, handle) in (0..10).map(|number| (number, spawn(number))).collect::<Vec<_>>() {
            let sector = handle.join().expect("no panic").expect("aligned when it was captured");
            assert!(is_aligned(&sector) && sector.0 == [number; 512]);
        }
    });
}
