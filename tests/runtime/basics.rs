//! The runtime through its public interface: tasks, timers, wake-ups from other threads, pollers
//! and misuse.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant as StdInstant};

use boson::ErrorKind;
use boson::observe;
use boson::rt::poller::{Park, Poller};
use boson::rt::{self, Core, CoreConfig, Instant, JoinError};

fn core() -> Core {
    Core::new(&CoreConfig::default().seed([7; 32])).expect("io_uring is usable")
}

fn run<F: Future>(future: F) -> F::Output {
    core().block_on(future)
}

#[test]
fn tasks_run_and_give_their_results() {
    let sum = run(async {
        let tasks: Vec<_> = (0..1000u64)
            .map(|i| {
                rt::named("add").spawn(async move {
                    rt::yield_now().await;
                    i
                })
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await.expect("no panic");
        }
        sum
    });
    assert_eq!(sum, 499_500);
}

#[test]
fn a_panic_stays_in_its_task() {
    run(async {
        let error =
            rt::named("bad").spawn(async { panic!("on purpose {}", 1) }).await.expect_err("it panicked");
        assert!(matches!(error, JoinError::Panicked(_)));
        assert_eq!(error.to_string(), "the task panicked: on purpose 1");
        assert_eq!(rt::named("good").spawn(async { 5 }).await.expect("runs"), 5);
    });
}

struct SetOnDrop(Rc<Cell<bool>>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn a_cancelled_task_drops_its_future_and_says_so() {
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let guard = SetOnDrop(Rc::clone(&dropped));
        let task = rt::named("waits forever").spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        rt::yield_now().await;
        assert!(!task.is_finished());
        task.cancel();
        assert!(matches!(task.await, Err(JoinError::Cancelled)));
        assert!(dropped.get());
    });
}

#[test]
fn dropping_the_core_drops_every_future() {
    let dropped = Rc::new(Cell::new(false));
    let guard = SetOnDrop(Rc::clone(&dropped));
    let core = core();
    let mut handle = None;
    core.block_on(async {
        handle = Some(rt::named("waits forever").spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        }));
    });
    assert!(!dropped.get());
    drop(core);
    assert!(dropped.get());
    assert!(handle.expect("spawned").is_finished());
}

#[test]
fn sleeps_end_in_the_order_of_their_deadlines_and_not_early() {
    run(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let started = rt::now();
        let tasks: Vec<_> = [30u64, 10, 20, 0]
            .into_iter()
            .map(|millis| {
                let order = Rc::clone(&order);
                rt::named("sleeper").spawn(async move {
                    rt::sleep(Duration::from_millis(millis)).await;
                    assert!(rt::now() - started >= Duration::from_millis(millis));
                    order.borrow_mut().push(millis);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(*order.borrow(), [0, 10, 20, 30]);
    });
}

#[test]
fn a_timeout_drops_what_took_too_long() {
    run(async {
        let error =
            rt::timeout(Duration::from_millis(5), std::future::pending::<()>()).await.expect_err("times out");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(rt::timeout(Duration::from_secs(60), async { 3 }).await.expect("in time"), 3);
    });
}

#[test]
fn wakers_work_from_other_threads_while_the_core_sleeps() {
    run(async {
        for round in 0..200 {
            let done = Arc::new(AtomicBool::new(false));
            let thread_done = Arc::clone(&done);
            let mut thread = None;
            let task = rt::named("waits for a thread").spawn({
                std::future::poll_fn(move |cx| {
                    if done.load(Ordering::Acquire) {
                        return Poll::Ready(());
                    }
                    if thread.is_none() {
                        let (waker, done): (Waker, _) = (cx.waker().clone(), Arc::clone(&thread_done));
                        thread = Some(std::thread::spawn(move || {
                            if round % 2 == 0 {
                                std::thread::sleep(Duration::from_micros(200));
                            }
                            // Clones and drops made here are counted here.
                            let copies: Vec<_> = (0..3).map(|_| waker.clone()).collect();
                            done.store(true, Ordering::Release);
                            copies[1].wake_by_ref();
                            waker.wake();
                        }));
                    }
                    Poll::Pending
                })
            });
            rt::timeout(Duration::from_secs(10), task).await.expect("woken in time").expect("no panic");
        }
    });
}

#[test]
fn wakers_may_outlive_the_task_and_the_core() {
    let waker = run(async {
        let slot = Rc::new(RefCell::new(None));
        let keep = Rc::clone(&slot);
        rt::named("hands out its waker")
            .spawn(async move {
                std::future::poll_fn(|cx| {
                    keep.borrow_mut().replace(cx.waker().clone());
                    Poll::Ready(())
                })
                .await;
            })
            .await
            .expect("no panic");
        slot.take().expect("it was polled")
    });
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let waker = waker.clone();
            std::thread::spawn(move || {
                for _ in 0..1000 {
                    let copy = waker.clone();
                    waker.wake_by_ref();
                    copy.wake();
                }
            })
        })
        .collect();
    drop(waker);
    for thread in threads {
        thread.join().expect("no panic");
    }
}

#[test]
fn a_handle_runs_futures_from_other_threads() {
    let core = core();
    let handle = core.handle();
    let thread = std::thread::spawn(move || {
        let other = Core::new(&CoreConfig::default().seed([8; 32])).expect("io_uring is usable");
        other.block_on(async {
            let id = rt::named("remote").spawn_on(&handle, || async {
                // `Rc` in the task: the future is made and stays on the core.
                let local = Rc::new(21);
                rt::sleep(Duration::from_millis(1)).await;
                *local * 2
            });
            id.await.expect("ran")
        })
    });
    core.block_on(async {
        while !thread.is_finished() {
            rt::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(thread.join().expect("no panic"), 42);
}

#[test]
fn a_handle_of_a_core_that_is_gone_says_cancelled() {
    let gone = core().handle();
    let result = run(async move { rt::named("never").spawn_on(&gone, || async { 1 }).await });
    assert!(matches!(result, Err(JoinError::Cancelled)));
}

struct CountingPoller {
    polls: Rc<Cell<u64>>,
}

impl Poller for CountingPoller {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
        self.polls.set(self.polls.get() + 1);
        0
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn park(&mut self) -> Park {
        Park::Idle
    }
}

#[test]
fn pollers_and_timers_get_their_turn_while_tasks_yield_without_end() {
    run(async {
        let polls = Rc::new(Cell::new(0));
        let poller = Rc::new(RefCell::new(CountingPoller { polls: Rc::clone(&polls) }));
        let registration = rt::poller::register_poller(poller);
        let greedy = rt::named("greedy").spawn(async {
            loop {
                rt::yield_now().await;
            }
        });
        let started = StdInstant::now();
        rt::sleep(Duration::from_millis(20)).await;
        assert!(started.elapsed() < Duration::from_millis(200), "the timer starved");
        let before = polls.get();
        assert!(before > 100, "the poller starved: {before} polls in 20 ms");
        drop(registration);
        rt::sleep(Duration::from_millis(1)).await;
        let after = polls.get();
        rt::sleep(Duration::from_millis(5)).await;
        assert_eq!(polls.get(), after, "a dropped registration ends the polling");
        greedy.cancel();
    });
}

#[test]
fn an_idle_core_sleeps_in_the_kernel() {
    run(async {
        let started = thread_cpu_time();
        let wall = StdInstant::now();
        rt::sleep(Duration::from_millis(500)).await;
        let used = thread_cpu_time() - started;
        assert!(used < wall.elapsed() / 100, "an idle core used {used:?} of {:?}", wall.elapsed());
        assert!(observe::stats().parks > 0);
    });
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("CPU time is positive")
}

#[test]
fn misuse_is_an_error_or_a_clear_panic() {
    let nested = run(async { core().try_block_on(async {}).expect_err("nested").to_string() });
    assert!(nested.contains("inside a boson core already"), "{nested}");

    let config = CoreConfig::default().seed([0; 32]).cpu(Some(100_000));
    let error = Core::new(&config).expect_err("no such CPU");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    let panic = std::panic::catch_unwind(|| {
        drop(rt::named("nowhere").spawn(async {}));
    })
    .expect_err("outside a core");
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .map(str::to_owned)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    assert!(message.expect("a message").contains("outside a boson core"));
}

#[test]
fn randomness_comes_from_the_seed() {
    let draw = || {
        run(async {
            let mut bytes = [0u8; 32];
            rt::random::fill_random(&mut bytes);
            bytes
        })
    };
    assert_eq!(draw(), draw());
}

#[test]
fn default_configurations_share_a_clock_and_no_seed() {
    let (one, other) = (CoreConfig::default(), CoreConfig::default());
    let drawn = |config: &CoreConfig| {
        let core = Core::new(config).expect("io_uring is usable");
        core.block_on(async {
            let mut bytes = [0; 16];
            rt::random::fill_random(&mut bytes);
            (rt::now(), bytes)
        })
    };
    // Not apart by the time between the two calls, and whatever else happened since the first one
    // of the process.
    let [before, between, after, copied] = [drawn(&one), drawn(&other), drawn(&one), drawn(&one.clone())];
    assert!(before.0 <= between.0 && between.0 <= after.0);
    // Not even two cores of one configuration.
    assert!(before.1 != between.1 && before.1 != after.1 && before.1 != copied.1);
}
