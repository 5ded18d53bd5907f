//! Tasks from their spawn to their end: names, cancellation, groups, deadlines, intervals,
//! task-locals, and the end of a core.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use boson::observe;
use boson::observe::TaskState;
use boson::rt::time::{Clock, Deadline, MissedTick, MonotonicClock};
use boson::rt::{self, CancelToken, Core, CoreConfig, Instant, JoinError, Shutdown, TaskGroup};
use boson::{ErrorKind, Outcome};

fn core() -> Core {
    Core::new(&CoreConfig::default().seed([7; 32])).expect("io_uring is usable")
}

fn run<F: Future>(future: F) -> F::Output {
    core().block_on(future)
}

struct SetOnDrop(Rc<Cell<bool>>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn waits(dropped: &Rc<Cell<bool>>) -> impl Future<Output = ()> + use<> {
    let guard = SetOnDrop(Rc::clone(dropped));
    async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    }
}

const MOMENT: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_handle_knows_its_task() {
    run(async {
        let first = rt::named("first").spawn(async {});
        let second = rt::named("second").spawn(async {});
        assert_eq!((first.name(), second.name()), ("first", "second"));
        assert!(first.created_at().file().ends_with("runtime/lifecycle.rs"));
        assert_ne!(first.id(), second.id());
        assert_eq!(second.created_at().line(), first.created_at().line() + 1);
    });
}

#[test]
fn detached_tasks_run_on_and_abort_on_drop_ends_them() {
    run(async {
        let dropped = Rc::new(Cell::new(false));
        rt::named("detached").spawn(waits(&dropped)).detach();
        rt::sleep(MOMENT).await;
        assert!(!dropped.get());
        let dropped = Rc::new(Cell::new(false));
        let handle = rt::named("bound to its handle").spawn(waits(&dropped)).cancel_on_drop();
        rt::sleep(MOMENT).await;
        assert!(!dropped.get() && !handle.handle().is_finished());
        drop(handle);
        rt::sleep(MOMENT).await;
        assert!(dropped.get());
        assert_eq!(rt::named("result").spawn(async { 3 }).cancel_on_drop().await.expect("no panic"), 3);
    });
}

#[test]
fn a_panic_of_block_ons_future_goes_on_in_its_caller_and_the_core_lives() {
    let core = core();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        core.block_on(async {
            rt::yield_now().await;
            panic!("on purpose");
        })
    }));
    let payload = panic.expect_err("it panicked");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"on purpose"));
    assert_eq!(core.block_on(async { 5 }), 5);
}

#[test]
fn block_on_takes_futures_that_borrow() {
    let core = core();
    let mut log = vec![String::from("before")];
    let waker = core.block_on(async {
        log.push("inside".to_owned());
        rt::sleep(MOMENT).await;
        // A waker that outlives the call, and what the future borrowed.
        std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
    });
    assert_eq!(log, ["before", "inside"]);
    drop(log);
    waker.wake_by_ref();
    assert_eq!(core.block_on(async { 1 }), 1);
    drop(core);
    waker.wake();
}

#[test]
fn a_groups_results_come_as_they_end_and_the_rest_ends_with_it() {
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let mut group = TaskGroup::new();
        for millis in [30u64, 10, 20] {
            group.spawn_with(rt::named("sleeper"), async move {
                rt::sleep(Duration::from_millis(millis)).await;
                millis
            });
        }
        group.spawn_with(rt::named("panics"), async { panic!("on purpose") });
        let waits = waits(&dropped);
        group.spawn_with(rt::named("waits"), async {
            waits.await;
            0
        });
        assert_eq!(group.len(), 5);
        let first = group.join_next().await.expect("five run");
        assert!(matches!(first, Err(JoinError::Panicked(_))));
        for expected in [10, 20, 30] {
            assert_eq!(group.join_next().await.expect("some run").expect("no panic"), expected);
        }
        assert!(!dropped.get());
        drop(group);
        rt::sleep(MOMENT).await;
        assert!(dropped.get());
        assert!(TaskGroup::<()>::new().join_next().await.is_none());
    });
}

#[test]
fn a_group_that_is_cancelled_still_gives_every_result() {
    run(async {
        let mut group = TaskGroup::new();
        for _ in 0..100 {
            group.spawn_with(rt::named("waits"), std::future::pending::<()>());
        }
        rt::yield_now().await;
        group.cancel_all();
        let mut cancelled = 0;
        while let Some(result) = group.join_next().await {
            assert!(matches!(result, Err(JoinError::Cancelled)));
            cancelled += 1;
        }
        assert_eq!(cancelled, 100);
    });
}

#[test]
fn deadlines_mean_the_same_when_they_are_handed_on() {
    run(async {
        let deadline = Deadline::within(Duration::from_millis(20));
        assert!(deadline.remaining().expect("it has an end") <= Duration::from_millis(20));
        assert!(!deadline.has_passed());
        deadline.bound(rt::sleep(MOMENT)).await.expect("in time");
        let started = rt::now();
        let error = deadline.bound(rt::sleep(PATIENCE)).await.expect_err("too late");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::TimedOut, Outcome::Unknown));
        assert!(rt::now() - started < PATIENCE / 2);
        assert!(deadline.has_passed());
        // Polled once all the same.
        assert_eq!(deadline.bound(async { 7 }).await.expect("ready at once"), 7);
        assert!(deadline.bound(std::future::pending::<()>()).await.is_err());

        assert_eq!(Deadline::NEVER.remaining(), None);
        assert!(!Deadline::NEVER.has_passed());
        Deadline::NEVER.bound(rt::sleep(MOMENT)).await.expect("no end");
        assert_eq!(Deadline::NEVER.earlier(deadline), deadline);
        assert!(rt::time::timeout_at(Instant::ORIGIN, std::future::pending::<()>()).await.is_err());
    });
}

#[test]
fn intervals_tick_at_multiples_of_their_period() {
    run(async {
        let mut interval = rt::interval(Duration::from_millis(5));
        let first = interval.tick().await;
        for tick in 1..4 {
            let due = interval.tick().await;
            assert_eq!(due, first + Duration::from_millis(5) * tick);
            assert!(rt::now() >= due);
        }
        // A tick that was not awaited to its end is not lost.
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(interval.tick()).poll(&mut cx).is_pending());
        assert_eq!(interval.tick().await, first + Duration::from_millis(20));

        let mut skips = rt::interval(Duration::from_millis(5)).missed_tick(MissedTick::Skip);
        let first = skips.tick().await;
        rt::sleep(Duration::from_millis(12)).await;
        skips.tick().await;
        let due = skips.tick().await;
        assert!(due >= first + Duration::from_millis(15));
        assert_eq!((due - first).as_nanos() % 5_000_000, 0);
    });
}

#[test]
fn cancelling_a_token_reaches_its_children_and_not_its_parent() {
    run(async {
        let root = CancelToken::new();
        let child = root.child();
        let grandchild = child.child();
        // The middle one is kept by the one below.
        drop(child);
        let other = root.child();
        other.cancel();
        assert!(other.is_cancelled() && !root.is_cancelled() && !grandchild.is_cancelled());
        let waits = {
            let grandchild = grandchild.clone();
            rt::named("waits").spawn(async move { grandchild.cancelled().await })
        };
        let runs = {
            let root = root.clone();
            rt::named("runs").spawn(async move { root.run(std::future::pending::<()>()).await })
        };
        rt::sleep(MOMENT).await;
        assert!(!waits.is_finished() && !runs.is_finished());
        assert_eq!(root.run(async { 3 }).await.expect("ready at once"), 3);
        root.cancel();
        waits.await.expect("no panic");
        let error = runs.await.expect("no panic").expect_err("cancelled");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Cancelled, Outcome::Unknown));
        let error = root.run(async { 3 }).await.expect_err("it is cancelled already");
        assert_eq!(error.outcome(), Outcome::NotStarted);
        assert!(root.child().is_cancelled());
    });
}

#[test]
fn a_token_is_cancelled_from_another_thread() {
    run(async {
        for round in 0..100 {
            let token = CancelToken::new();
            let remote = token.clone();
            let thread = std::thread::spawn(move || {
                if round % 2 == 0 {
                    std::thread::sleep(Duration::from_micros(100));
                }
                remote.cancel();
            });
            rt::timeout(PATIENCE, token.child().cancelled()).await.expect("in time");
            thread.join().expect("no panic");
        }
    });
}

#[test]
fn a_deep_tree_of_tokens_ends_without_deep_recursion() {
    let root = CancelToken::new();
    let mut leaf = root.child();
    for _ in 0..200_000 {
        leaf = leaf.child();
    }
    root.cancel();
    assert!(leaf.is_cancelled());
    drop(root);
    drop(leaf);
}

rt::task_local! {
    static NUMBER: u32;
    static GUARD: Rc<Cell<bool>>;
    static NAMES: RefCell<Vec<&'static str>>;
    static SETS: SetOnDrop;
}

#[test]
fn every_task_has_its_own_locals() {
    run(async {
        NUMBER.set(1);
        let tasks: Vec<_> = (10..20)
            .map(|number| {
                rt::named("local").spawn(async move {
                    assert_eq!(NUMBER.get(), None, "inherited");
                    NUMBER.set(number);
                    NAMES.set(RefCell::default());
                    rt::yield_now().await;
                    NAMES.with(|names| names.expect("set").borrow_mut().push("one"));
                    rt::sleep(MOMENT).await;
                    NAMES.with(|names| assert_eq!(*names.expect("set").borrow(), ["one"]));
                    NUMBER.get()
                })
            })
            .collect();
        for (task, number) in tasks.into_iter().zip(10..) {
            assert_eq!(task.await.expect("no panic"), Some(number));
        }
        assert_eq!(NUMBER.get(), Some(1));
        NUMBER.clear();
        assert_eq!(NUMBER.get(), None);
        assert!(GUARD.with(|guard| guard.is_none()));
    });
}

#[test]
fn locals_are_dropped_with_their_task() {
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let guard = SetOnDrop(Rc::clone(&dropped));
        let task = rt::named("local").spawn(async move {
            SETS.set(guard);
            std::future::pending::<()>().await;
        });
        rt::sleep(MOMENT).await;
        assert!(!dropped.get());
        task.cancel();
        assert!(task.await.is_err());
        assert!(dropped.get());
    });
}

#[test]
fn the_dump_says_what_each_task_does() {
    run(async {
        rt::named("sleeps").spawn(rt::sleep(PATIENCE)).detach();
        rt::named("waits").spawn(std::future::pending::<()>()).detach();
        rt::named("asks")
            .spawn(async {
                rt::sleep(MOMENT).await;
                rt::named("ready").spawn(async {}).detach();
                let tasks = observe::tasks();
                let find = |name| tasks.iter().find(|task| task.name == name).expect("it lives");
                assert_eq!(find("asks").state, TaskState::Running);
                assert_eq!(find("asks").polls, 2);
                assert_eq!(find("ready").state, TaskState::Ready);
                assert_eq!(find("sleeps").state, TaskState::Waiting);
                assert_eq!(find("sleeps").waits_for, Some("a timer"));
                assert!(find("sleeps").since >= MOMENT / 2);
                assert_eq!(find("waits").waits_for, None);
                let line = find("sleeps").to_string();
                assert!(line.contains("\"sleeps\" waits for a timer since"), "{line}");
            })
            .await
            .expect("no panic");
    });
}

#[test]
fn draining_lets_tasks_end_and_names_those_that_do_not() {
    let core = core();
    let dropped = Rc::new(Cell::new(false));
    core.block_on(async {
        for _ in 0..10 {
            rt::named("ends").spawn(rt::sleep(Duration::from_millis(5))).detach();
        }
        rt::named("waits").spawn(waits(&dropped)).detach();
    });
    let report = core.shutdown(Shutdown::Drain, Duration::from_millis(100)).expect("the ring works");
    assert_eq!(report.finished, 10);
    assert_eq!(report.cancelled.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["waits"]);
    assert!(dropped.get());

    let core = self::core();
    core.block_on(async { rt::named("ends").spawn(rt::sleep(MOMENT)).detach() });
    let started = std::time::Instant::now();
    let report = core.shutdown(Shutdown::Drain, PATIENCE).expect("the ring works");
    assert_eq!((report.finished, report.cancelled.len()), (1, 0));
    assert!(started.elapsed() < PATIENCE / 2, "it waited although nothing was left");
}

#[test]
fn cancelling_a_core_drops_its_tasks_at_once() {
    let core = core();
    let dropped = Rc::new(Cell::new(false));
    core.block_on(async { rt::named("waits").spawn(waits(&dropped)).detach() });
    let report = core.shutdown(Shutdown::Cancel, Duration::ZERO).expect("the ring works");
    assert_eq!((report.finished, report.cancelled.len()), (0, 1));
    assert!(dropped.get());
}

#[test]
fn draining_runs_what_other_threads_sent_before() {
    let core = core();
    let handle = core.handle();
    let (spawned, called) = (rt::named("ends").spawn_on(&handle, || rt::sleep(MOMENT)), handle.run(|| 7));
    let started = std::time::Instant::now();
    let report = core.shutdown(Shutdown::Drain, PATIENCE).expect("the ring works");
    assert_eq!((report.finished, report.cancelled.len()), (1, 0));
    assert!(started.elapsed() < PATIENCE / 2, "it waited although nothing was left");
    let (spawned, called) = run(async { (spawned.await, called.await) });
    spawned.expect("it was there before the shutdown");
    assert_eq!(called.expect("it was there before the shutdown"), 7);

    // A message that makes no task.
    let core = self::core();
    let called = core.handle().run(|| 7);
    let started = std::time::Instant::now();
    core.shutdown(Shutdown::Drain, PATIENCE).expect("the ring works");
    assert!(started.elapsed() < PATIENCE / 2, "it waited although nothing was left");
    assert_eq!(run(called).expect("it was there before the shutdown"), 7);
}

/// The machine's clock, which stands still for a while after it was stopped: what a task does
/// meanwhile takes no time of its turn.
struct StopsForAWhile {
    clock: MonotonicClock,
    stopped: Mutex<Option<Instant>>,
}

impl StopsForAWhile {
    const WHILE: Duration = Duration::from_millis(100);

    fn stop(&self) {
        *self.stopped.lock().expect("no panic") = Some(self.clock.now());
    }
}

impl Clock for StopsForAWhile {
    fn now(&self) -> Instant {
        let (now, stopped) = (self.clock.now(), *self.stopped.lock().expect("no panic"));
        stopped.filter(|stopped| now - *stopped < Self::WHILE).unwrap_or(now)
    }

    fn unix_time(&self) -> Duration {
        self.clock.unix_time()
    }
}

/// That another thread let go of a task that has ended is neither a task nor a message.
#[test]
fn draining_does_not_wait_for_a_thread_that_let_go_of_the_last_task() {
    let clock = Arc::new(StopsForAWhile { clock: MonotonicClock::new(), stopped: Mutex::default() });
    let config = CoreConfig::default().clock(Arc::clone(&clock) as Arc<dyn Clock>).seed([7; 32]);
    let core = Core::new(&config).expect("io_uring is usable");
    core.block_on(async {
        rt::named("last")
            .spawn(async move {
                let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
                // The core looks whether it is drained in this very turn, before it looks into its
                // inbox.
                clock.stop();
                std::thread::spawn(move || drop(waker)).join().expect("no panic");
            })
            .detach();
    });
    let started = std::time::Instant::now();
    let report = core.shutdown(Shutdown::Drain, PATIENCE).expect("the ring works");
    assert_eq!((report.finished, report.cancelled.len()), (1, 0));
    assert!(started.elapsed() < PATIENCE / 2, "it waited although nothing was left");
}
