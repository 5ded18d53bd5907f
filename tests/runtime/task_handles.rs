//! What the handles of tasks can do: on the same core and from elsewhere, of async tasks and of
//! coroutines.

use crate::support::hooked_waker;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use boson::observe;
use boson::rt::{self, Core, CoreConfig, CoreThread, JoinError, RemoteJoin};
use boson::sim::World;
use boson::{ErrorKind, Outcome, thread};

fn config() -> CoreConfig {
    CoreConfig::default().seed([7; 32])
}

fn run<F: Future>(future: F) -> F::Output {
    Core::new(&config()).expect("a core").block_on(future)
}

/// Notes its destruction, on whatever thread.
#[derive(Clone, Default)]
struct Ends(Arc<AtomicBool>);

impl Ends {
    fn have(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn guard(&self) -> Guard {
        Guard(self.clone())
    }
}

struct Guard(Ends);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::SeqCst);
    }
}

fn is_cancelled(payload: &(dyn Any + Send)) -> bool {
    payload.downcast_ref::<JoinError>().is_some_and(JoinError::is_cancelled)
}

// --- Errors ---

#[test]
fn a_failed_join_is_an_error_like_any_other() {
    fn is_an_error<E: std::error::Error + Send + Sync + 'static>() {}
    is_an_error::<JoinError>();

    async fn of_boson(task: rt::JoinHandle<u32>) -> boson::Result<u32> {
        Ok(task.await? + 1)
    }
    async fn of_anything(task: rt::JoinHandle<u32>) -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
        Ok(task.await? + 1)
    }
    run(async {
        assert_eq!(of_boson(rt::named("works").spawn(async { 1 })).await.expect("no panic"), 2);
        let error =
            of_boson(rt::named("panics").spawn(async { panic!("number {}", 7) })).await.expect_err("a panic");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Panicked, Outcome::Unknown));
        assert!(error.to_string().contains("the task panicked: number 7"), "{error}");
        let error =
            of_anything(rt::named("panics").spawn(async { panic!("literal") })).await.expect_err("a panic");
        assert_eq!(error.to_string(), "the task panicked: literal");
        let waits = rt::named("waits").spawn(std::future::pending());
        waits.cancel();
        let error = of_boson(waits).await.expect_err("cancelled");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Cancelled, Outcome::Unknown));
        let full = boson::Error::from(JoinError::Full);
        assert_eq!((full.kind(), full.outcome()), (ErrorKind::LimitReached, Outcome::NotStarted));
    });
}

#[test]
fn a_panic_can_be_taken_out_and_goes_on() {
    run(async {
        let error = rt::named("panics").spawn(async { std::panic::panic_any(Cell::new(7)) }).await;
        let error = error.expect_err("a panic");
        assert!(error.is_panic() && !error.is_cancelled());
        assert_eq!(error.to_string(), "the task panicked: (no message)");
        let payload = error.into_panic();
        assert_eq!(payload.downcast::<Cell<i32>>().expect("what it panicked with").get(), 7);
        let error = JoinError::Cancelled.try_into_panic().expect_err("no panic");
        assert!(error.is_cancelled());
        let refused = std::panic::catch_unwind(|| JoinError::Full.into_panic());
        assert!(refused.is_err());
    });
}

// --- On the same core ---

#[test]
fn a_handle_that_aborts_can_be_disarmed() {
    run(async {
        let (first, second) = (Ends::default(), Ends::default());
        let waits = |ends: &Ends| {
            let guard = ends.guard();
            rt::named("waits")
                .spawn(async move {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                })
                .cancel_on_drop()
        };
        waits(&first).detach();
        let handle = waits(&second).into_inner();
        rt::sleep(Duration::from_millis(5)).await;
        assert!(!first.have() && !second.have());
        drop(handle.cancel_on_drop());
        rt::sleep(Duration::from_millis(5)).await;
        assert!(!first.have() && second.have());
    });
}

#[test]
fn coroutines_are_detached_and_aborted_as_tasks_are() {
    run(async {
        let (detached, aborted) = (Ends::default(), Ends::default());
        let parks = |ends: &Ends| {
            let guard = ends.guard();
            thread::spawn(move || {
                let _guard = guard;
                thread::park();
            })
        };
        parks(&detached).detach();
        drop(parks(&aborted).cancel_on_drop());
        rt::sleep(Duration::from_millis(5)).await;
        assert!(!detached.have() && aborted.have());
        assert_eq!(thread::spawn(|| 3).cancel_on_drop().await.expect("no panic"), 3);
    });
}

/// A coroutine that waits for another one, and is cancelled meanwhile.
#[test]
fn joining_a_handle_that_aborts_keeps_its_promise() {
    run(async {
        let ends = Ends::default();
        let guard = ends.guard();
        let outer = thread::spawn(|| {
            let inner = thread::spawn(move || {
                let _guard = guard;
                thread::park();
            });
            inner.cancel_on_drop().join()
        });
        rt::sleep(Duration::from_millis(5)).await;
        assert!(!ends.have());
        outer.cancel();
        assert!(is_cancelled(&*outer.await.expect_err("cancelled")));
        rt::sleep(Duration::from_millis(5)).await;
        assert!(ends.have());
        let joins = thread::spawn(|| {
            let ended = thread::spawn(|| 1);
            thread::yield_now();
            ended.cancel_on_drop().join().expect("no panic")
                + thread::spawn(|| 2).cancel_on_drop().join().expect("no panic")
        });
        assert_eq!(joins.await.expect("no panic"), 3);
    });
}

#[test]
fn a_scoped_coroutine_that_is_cancelled_is_no_panic_of_its_scope() {
    run(async {
        let ends = Ends::default();
        let unwinds = ends.clone();
        let program = thread::spawn(move || {
            let borrowed = RefCell::new(Vec::new());
            thread::scope(|scope| {
                let waits = scope.spawn(|| {
                    let _guard = unwinds.guard();
                    borrowed.borrow_mut().push("began");
                    thread::park();
                    borrowed.borrow_mut().push("went on");
                });
                thread::yield_now();
                waits.cancel();
                assert!(is_cancelled(&*waits.join().expect_err("cancelled")));
                let never_began = scope.spawn(|| borrowed.borrow_mut().push("never"));
                never_began.cancel();
                assert!(is_cancelled(&*never_began.join().expect_err("cancelled")));
                drop(scope.spawn(thread::park).cancel_on_drop());
                let runs_on = scope.spawn(|| {
                    thread::yield_now();
                    borrowed.borrow_mut().push("detached");
                });
                runs_on.detach();
                let kept = scope.spawn(|| 4).cancel_on_drop().into_inner();
                assert_eq!(kept.join().expect("no panic"), 4);
            });
            borrowed.into_inner()
        });
        assert_eq!(program.await.expect("no panic"), ["began", "detached"]);
        assert!(ends.have());
    });
}

/// A panic is one also in a scope in which others were cancelled.
#[test]
fn a_scoped_coroutine_that_panics_is_still_noticed() {
    run(async {
        let program = thread::spawn(|| {
            thread::scope(|scope| {
                scope.spawn(thread::park).cancel();
                scope.spawn(|| panic!("on purpose")).detach();
            });
        });
        assert!(!is_cancelled(&*program.await.expect_err("a panic")));
    });
}

// --- On another core ---

/// A task there that waits forever, once it has begun.
fn waits_on(core: &CoreThread, ends: &Ends) -> RemoteJoin<()> {
    let (begun, begins) = mpsc::channel();
    let guard = ends.guard();
    let task = rt::named("waits").spawn_on(core.handle(), move || async move {
        let _guard = guard;
        begun.send(()).expect("somebody asks");
        std::future::pending::<()>().await;
    });
    begins.recv().expect("it begins");
    task
}

fn eventually(what: impl Fn() -> bool) {
    for _ in 0..5000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("not in five seconds");
}

#[test]
fn a_task_on_another_core_is_cancelled_from_anywhere() {
    let other = CoreThread::start("other", &config()).expect("a thread");
    let ends = Ends::default();
    let task = waits_on(&other, &ends);
    assert!(!task.is_finished());
    task.cancel();
    eventually(|| task.is_finished());
    assert!(ends.have());
    assert!(boson::wait(task).expect_err("cancelled").is_cancelled());

    // From a task of a third core, and by dropping.
    let (first, second) = (Ends::default(), Ends::default());
    let (aborts, detached) = (waits_on(&other, &first).cancel_on_drop(), waits_on(&other, &second));
    run(async move { drop(aborts) });
    eventually(|| first.have());
    detached.detach();
    assert_eq!(
        boson::wait(other.handle().run(|| observe::stats().tasks)).expect("it runs"),
        2,
        "`block_on`, and the detached one"
    );
    assert!(!second.have());
}

#[test]
fn a_cancel_after_the_end_changes_nothing() {
    let other = CoreThread::start("other", &config()).expect("a thread");
    let task = rt::named("ends").spawn_on(other.handle(), async || 5);
    eventually(|| task.is_finished());
    task.cancel();
    assert_eq!(boson::wait(task).expect("it ended first"), 5);
    let call = other.handle().run(|| 6);
    eventually(|| call.is_finished());
    call.cancel();
    assert_eq!(boson::wait(call.cancel_on_drop()).expect("it ended first"), 6);
}

#[test]
fn what_the_core_has_not_come_to_is_not_started() {
    let core = Core::new(&config()).expect("a core");
    let handle = core.handle();
    let made = Arc::new(AtomicBool::new(false));
    let makes = || {
        let made = Arc::clone(&made);
        move || made.store(true, Ordering::SeqCst)
    };
    let (spawns, calls) = (makes(), makes());
    let task = rt::named("never").spawn_on(&handle, async move || spawns());
    let call = handle.run(calls);
    task.cancel();
    call.cancel();
    core.block_on(async {
        assert!(task.await.expect_err("cancelled").is_cancelled());
        assert!(call.await.expect_err("cancelled").is_cancelled());
    });
    assert!(!made.load(Ordering::SeqCst));
}

/// It needs no message, so it is not refused when there is no room for one.
#[test]
fn a_full_core_can_be_asked_to_cancel() {
    let core = Core::new(&config().messages(1)).expect("a core");
    let handle = core.handle();
    let ends = Ends::default();
    let guard = ends.guard();
    let task = rt::named("waits").spawn_on(&handle, async move || {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    core.block_on(async { rt::sleep(Duration::from_millis(1)).await });
    let fills = handle.run(|| ());
    let refused = handle.run(|| ());
    assert!(refused.is_finished());
    std::thread::scope(|scope| scope.spawn(|| task.cancel()).join().expect("no panic"));
    core.block_on(async {
        assert!(task.await.expect_err("cancelled").is_cancelled());
        fills.await.expect("there was room");
    });
    assert!(ends.have());
}

#[test]
fn handles_may_outlive_the_core() {
    let other = CoreThread::start("other", &config()).expect("a thread");
    let ends = Ends::default();
    let task = waits_on(&other, &ends);
    drop(other);
    assert!(ends.have() && task.is_finished());
    task.cancel();
    assert!(boson::wait(task.cancel_on_drop()).expect_err("its core ended").is_cancelled());
}

/// A cancel that meets the end of the core, over and over.
#[test]
fn a_core_may_end_while_its_task_is_cancelled() {
    for _ in 0..50 {
        let other = CoreThread::start("other", &config()).expect("a thread");
        let ends = Ends::default();
        let task = waits_on(&other, &ends);
        let cancels = std::thread::spawn(move || {
            task.cancel();
            boson::wait(task)
        });
        drop(other);
        assert!(cancels.join().expect("no panic").expect_err("either way").is_cancelled());
        assert!(ends.have());
    }
}

#[test]
fn a_coroutine_on_another_core_is_started_joined_and_unwound() {
    let other = CoreThread::start("other", &config()).expect("a thread");
    let named = || thread::Builder::new().name("remote".to_owned());
    let work = named().spawn_on(other.handle(), || {
        thread::sleep(Duration::from_millis(1));
        let task = observe::current_task().expect("a task");
        (
            thread::current().name().map(str::to_owned),
            std::thread::current().id(),
            task.is_coroutine,
            task.name,
        )
    });
    let (name, there, is_coroutine, task) = boson::wait(work).expect("no panic");
    assert_eq!((name.as_deref(), is_coroutine, task), (Some("remote"), true, "remote"));
    assert_ne!(there, std::thread::current().id());

    let ends = Ends::default();
    let (guard, (begun, begins)) = (ends.guard(), mpsc::channel());
    let waits = named().spawn_on(other.handle(), move || {
        let _guard = guard;
        begun.send(()).expect("somebody asks");
        loop {
            // After the first of these its polls do nothing but to resume it.
            thread::yield_now();
        }
    });
    begins.recv().expect("it begins");
    waits.cancel();
    // From a coroutine, which waits for it.
    let joined = run(async { thread::spawn(|| boson::wait(waits)).await }).expect("no panic");
    assert!(joined.expect_err("cancelled").is_cancelled());
    assert!(ends.have());

    let panics = boson::wait(named().spawn_on(other.handle(), || panic!("on purpose")));
    assert_eq!(panics.expect_err("a panic").to_string(), "the task panicked: on purpose");
    let too_large = boson::wait(named().stack_size(usize::MAX / 2).spawn_on(other.handle(), || ()));
    let error = too_large.expect_err("no such stack");
    assert!(matches!(error, JoinError::NotStarted(_)), "{error}");
    assert_eq!(boson::Error::from(error).kind(), ErrorKind::InvalidInput);
    assert_eq!(boson::wait(other.handle().run(|| observe::stats().tasks)).expect("it runs"), 1);
}

/// The same in a simulation: no order of events loses a cancel.
#[test]
fn simulated_cores_cancel_each_others_tasks() {
    for seed in 0..200 {
        let world = World::new(seed);
        let (here, there) = (world.core("here"), world.core("there"));
        let other = there.handle();
        here.block_on(async move {
            let ends = Ends::default();
            let (of_task, of_coroutine) = (ends.guard(), Ends::default());
            let task = rt::named("waits").spawn_on(&other, async move || {
                let _guard = of_task;
                rt::sleep(Duration::from_secs(3600)).await;
            });
            let guard = of_coroutine.guard();
            let coroutine = thread::Builder::new().spawn_on(&other, move || {
                let _guard = guard;
                thread::park();
            });
            if seed % 2 == 0 {
                rt::sleep(Duration::from_millis(1)).await;
            }
            task.cancel();
            coroutine.cancel();
            assert!(task.await.expect_err("cancelled").is_cancelled());
            assert!(coroutine.await.expect_err("cancelled").is_cancelled());
            assert!(ends.have() && of_coroutine.have());
            assert!(rt::now().as_nanos() < 3_600_000_000_000, "nobody waited for the hour");
        });
    }
}

#[test]
fn a_result_that_nobody_takes_is_dropped() {
    let other = CoreThread::start("other", &config()).expect("a thread");
    let ends = Ends::default();
    let guard = ends.guard();
    let task = rt::named("gives a guard").spawn_on(other.handle(), async move || guard);
    eventually(|| task.is_finished());
    assert!(!ends.have());
    task.detach();
    assert!(ends.have());
}

#[test]
fn a_handle_whose_waker_ends_the_core_when_it_is_cloned_gives_the_result_at_once() {
    let core = Core::new(&config()).expect("a core");
    let mut task = None;
    core.block_on(async { task = Some(rt::named("waits").spawn(std::future::pending::<()>())) });
    let mut task = Box::pin(task.expect("spawned"));
    let hook = hooked_waker::Hook::new();
    hook.on_clone.replace(Some(Box::new(move || drop(core))));
    let polled = hook.poll(&mut task);
    assert!(matches!(polled, std::task::Poll::Ready(Err(JoinError::Cancelled))), "nobody would wake it");
}
