//! Cores on threads of their own, and how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use boson::rt::time::Clock;
use boson::rt::{self, Core, CoreConfig, CoreThread, Shutdown};
use boson::{ErrorKind, Outcome};

const PATIENCE: Duration = Duration::from_secs(10);

fn config() -> CoreConfig {
    CoreConfig::default().seed([7; 32])
}

fn start(name: &str) -> CoreThread {
    CoreThread::start(name, &config()).expect("a thread")
}

fn wait_for(thread: &CoreThread) {
    let started = Instant::now();
    while !thread.is_finished() {
        assert!(started.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn it_runs_what_it_is_given_under_its_name() {
    let thread = CoreThread::start(format!("core {}", 1), &config()).expect("a thread");
    let name = thread.handle().run(|| std::thread::current().name().map(str::to_owned));
    assert_eq!(boson::wait(name).expect("it runs").as_deref(), Some("core 1"));
    assert!(!thread.is_finished());
    let error = CoreThread::start("zero\0byte", &config()).expect_err("no such name");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn draining_lets_its_tasks_end_and_tells_of_the_rest() {
    let thread = start("drains");
    let done = Arc::new(AtomicBool::new(false));
    let sets = Arc::clone(&done);
    let ends = rt::named("ends").spawn_on(thread.handle(), async move || {
        rt::sleep(Duration::from_millis(20)).await;
        sets.store(true, Ordering::SeqCst);
    });
    let stays = rt::named("stays").spawn_on(thread.handle(), std::future::pending::<()>);
    let report = thread.shutdown(Shutdown::Drain, Duration::from_millis(200)).expect("the ring works");
    assert!(done.load(Ordering::SeqCst));
    assert_eq!(report.finished, 1);
    assert_eq!(report.cancelled.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["stays"]);
    boson::wait(ends).expect("it had the time");
    assert!(boson::wait(stays).expect_err("it had not").is_cancelled());
}

#[test]
fn cancelling_waits_for_no_task() {
    let thread = start("cancels");
    boson::wait(thread.handle().run(|| rt::named("stays").spawn(std::future::pending::<()>()).detach()))
        .expect("it runs");
    let started = Instant::now();
    let report = thread.shutdown(Shutdown::Cancel, PATIENCE).expect("the ring works");
    assert!(started.elapsed() < PATIENCE / 2);
    assert_eq!((report.finished, report.cancelled.len()), (0, 1));
}

/// User code that the loop calls between tasks.
struct FailingPoller;

impl rt::poller::Poller for FailingPoller {
    fn name(&self) -> &'static str {
        "fails"
    }

    fn poll(&mut self, _: rt::Instant, _: usize) -> usize {
        panic!("a poller on purpose")
    }

    fn next_deadline(&self) -> Option<rt::Instant> {
        None
    }

    fn park(&mut self) -> rt::poller::Park {
        rt::poller::Park::Spin
    }
}

#[test]
fn what_ended_its_core_before_reaches_who_shuts_it_down() {
    let thread = start("panics");
    let registers = thread.handle().run(|| {
        rt::poller::register_poller(std::rc::Rc::new(std::cell::RefCell::new(FailingPoller))).keep();
    });
    drop(registers);
    wait_for(&thread);
    let error = thread.shutdown(Shutdown::Drain, PATIENCE).expect_err("it panicked");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Panicked, Outcome::Unknown));
    assert!(error.to_string().contains("a poller on purpose"), "{error}");
}

#[test]
fn a_core_cannot_wait_for_its_own_thread() {
    let thread = start("itself");
    let handle = thread.handle().clone();
    let refused = handle.run(move || thread.shutdown(Shutdown::Cancel, PATIENCE).map(drop));
    let error = boson::wait(refused).expect("it answers").expect_err("its own thread");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let started = Instant::now();
    // It ends all the same.
    while boson::wait(handle.run(|| ())).is_ok() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_task_shuts_a_core_down_by_a_thread_that_may_block() {
    let thread = start("offloaded");
    let core = Core::new(&config()).expect("a core");
    let report = core.block_on(async {
        let work = rt::offload("shut down", move || thread.shutdown(Shutdown::Drain, PATIENCE));
        work.await?
    });
    assert!(report.expect("the ring works").cancelled.is_empty());
}

/// A clock that cannot tell the time.
struct Broken;

impl Clock for Broken {
    fn now(&self) -> rt::Instant {
        panic!("no time")
    }

    fn unix_time(&self) -> Duration {
        panic!("no time")
    }
}

#[test]
fn one_that_panics_before_it_runs_says_so() {
    let error = CoreThread::start("broken", &CoreConfig::default().clock(Arc::new(Broken)).seed([7; 32]))
        .expect_err("no time");
    assert_eq!((error.kind(), error.to_string().contains("no time")), (ErrorKind::Panicked, true), "{error}");
}
