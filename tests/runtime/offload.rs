//! Work that may block, beside the core: results, panics, limits, and what outlives the core.

#![expect(clippy::async_yields_async, reason = "futures that outlive `block_on` are what is tested")]

use std::cell::Cell;
use std::fs;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use boson::rt::task::Offload;
use boson::rt::{self, Core, CoreConfig, JoinError, offload};

const PATIENCE: Duration = Duration::from_secs(20);
/// As documented.
const QUEUE_LIMIT: usize = 1024;

fn core_with(threads: usize) -> Core {
    let config = CoreConfig::default().seed([7; 32]).offload_threads(threads);
    Core::new(&config).expect("a core")
}

fn run<F: Future>(threads: usize, future: F) -> F::Output {
    core_with(threads).block_on(async { rt::timeout(PATIENCE, future).await.expect("it hangs") })
}

/// Closed until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().expect("no panic");
        let (open, _) = self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open).expect("no panic");
        assert!(*open, "nobody opened");
    }
}

/// Fills `threads` threads with jobs that wait for the gate. They are on their threads when this
/// returns.
async fn occupy(threads: usize, gate: &Gate) -> Vec<rt::JoinHandle<()>> {
    let (started, all): (SyncSender<()>, Receiver<()>) = sync_channel(threads);
    let jobs = (0..threads)
        .map(|_| {
            let (gate, started) = (gate.clone(), started.clone());
            rt::named("waits for the gate").spawn(async move {
                let work = move || {
                    started.send(()).expect("the test waits");
                    gate.pass();
                };
                offload("gate", work).await.expect("ran");
            })
        })
        .collect();
    let mut there = 0;
    while there < threads {
        rt::sleep(Duration::from_millis(1)).await;
        there += all.try_iter().count();
    }
    jobs
}

#[test]
fn the_core_goes_on_while_a_closure_blocks() {
    run(4, async {
        let gate = Gate::default();
        let blocked = gate.clone();
        let blocking = rt::named("asks").spawn(async move {
            offload("a rather long name", move || {
                blocked.pass();
                (thread::current().id(), fs::read_to_string("/proc/thread-self/comm").expect("procfs"))
            })
            .await
        });
        for _ in 0..5 {
            rt::sleep(Duration::from_millis(1)).await;
        }
        assert!(!blocking.is_finished());
        gate.open();
        let (thread, name) = blocking.await.expect("no panic").expect("ran");
        assert_ne!(thread, thread::current().id());
        assert_eq!(name.trim_end(), "a rather long n", "what `top -H` shows while it runs");
    });
}

#[test]
fn a_panic_is_the_awaiters_error() {
    run(1, async {
        let error = offload("bad", || -> u8 { panic!("on purpose {}", 3) }).await.expect_err("it panicked");
        assert_eq!(error.to_string(), "the task panicked: on purpose 3");
        let error = offload("no core here", rt::now).await.expect_err("it panicked");
        assert!(error.to_string().contains("outside a boson core"), "{error}");
        // The only thread has survived both.
        assert_eq!(offload("good", || 5).await.expect("ran"), 5);
    });
}

/// Panics when it is dropped, with a payload that does so too.
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 && !thread::panicking() {
            std::panic::panic_any(Self(self.0 - 1));
        }
    }
}

#[test]
fn a_thread_survives_results_and_panics_that_panic_when_they_are_dropped() {
    run(1, async {
        let gate = Gate::default();
        let occupied = occupy(1, &gate).await;
        let mut result = Box::pin(offload("a result", || Bomb(3)));
        let mut panic = Box::pin(offload("a panic", || -> u32 { std::panic::panic_any(Bomb(3)) }));
        assert!(poll_once(&mut result.as_mut()).is_pending());
        assert!(poll_once(&mut panic.as_mut()).is_pending());
        // Nobody takes what they give: the thread drops it.
        drop((result, panic));
        gate.open();
        for job in occupied {
            job.await.expect("no panic");
        }
        assert_eq!(offload("good", || 5).await.expect("the only thread goes on"), 5);
    });
}

struct CountsDrops(Arc<AtomicUsize>);

impl Drop for CountsDrops {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll_once<T>(future: &mut std::pin::Pin<&mut Offload<T>>) -> Poll<Result<T, JoinError>> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_closure_whose_future_is_dropped_runs_to_its_end() {
    run(1, async {
        let dropped = Arc::new(AtomicUsize::new(0));
        let ran = Arc::new(AtomicUsize::new(0));
        let gate = Gate::default();
        let (result, runs, blocked) = (CountsDrops(Arc::clone(&dropped)), Arc::clone(&ran), gate.clone());
        {
            let mut future = pin!(offload("dropped", move || {
                blocked.pass();
                runs.fetch_add(1, Ordering::SeqCst);
                result
            }));
            assert!(poll_once(&mut future).is_pending());
        }
        gate.open();
        while dropped.load(Ordering::SeqCst) == 0 {
            rt::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        // One that was never polled was never begun.
        let (result, runs) = (CountsDrops(Arc::clone(&dropped)), Arc::clone(&ran));
        drop(offload("never polled", move || {
            runs.fetch_add(1, Ordering::SeqCst);
            result
        }));
        offload("after it", || ()).await.expect("ran");
        assert_eq!((ran.load(Ordering::SeqCst), dropped.load(Ordering::SeqCst)), (1, 2));
    });
}

#[test]
fn a_full_queue_makes_callers_wait_in_their_order() {
    run(2, async {
        let gate = Gate::default();
        let occupied = occupy(2, &gate).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let submit = |number: usize| {
            let order = Arc::clone(&order);
            offload("ordered", move || order.lock().expect("no panic").push(number))
        };
        let total = QUEUE_LIMIT + 300;
        let mut futures: Vec<_> = (0..total).map(|number| Some(Box::pin(submit(number)))).collect();
        let mut cx = Context::from_waker(Waker::noop());
        for future in futures.iter_mut().flatten() {
            assert!(future.as_mut().poll(&mut cx).is_pending());
        }
        // Of those in line some go away. What is queued runs in any case.
        let leaves = |number: usize| number >= QUEUE_LIMIT && number.is_multiple_of(3);
        for (number, future) in futures.iter_mut().enumerate() {
            if leaves(number) {
                *future = None;
            }
        }
        gate.open();
        for task in occupied {
            task.await.expect("no panic");
        }
        let tasks: Vec<_> =
            futures.into_iter().flatten().map(|future| rt::named("one of many").spawn(future)).collect();
        for task in tasks {
            task.await.expect("no panic").expect("ran");
        }
        let mut ran = order.lock().expect("no panic").clone();
        // Two threads take them in turn, and may note it a few places apart.
        assert!(ran.windows(2).filter(|pair| pair[0] > pair[1] + 64).count() < 10, "not in order: {ran:?}");
        ran.sort_unstable();
        assert_eq!(ran, (0..total).filter(|number| !leaves(*number)).collect::<Vec<_>>());
    });
}

#[test]
fn room_that_somebody_did_not_take_goes_to_the_next_in_line() {
    run(1, async {
        let gate = Gate::default();
        let occupied = occupy(1, &gate).await;
        let mut queued: Vec<_> = (0..QUEUE_LIMIT).map(|_| Box::pin(offload("queued", || ()))).collect();
        let mut cx = Context::from_waker(Waker::noop());
        for future in &mut queued {
            assert!(future.as_mut().poll(&mut cx).is_pending());
        }
        // As many as will ever be room wait for it and do not take it when they are woken.
        let mut idle: Vec<_> =
            (0..QUEUE_LIMIT).map(|_| Box::pin(offload("does not come back", || ()))).collect();
        for future in &mut idle {
            assert!(future.as_mut().poll(&mut cx).is_pending());
        }
        let last = rt::named("last in line").spawn(offload("last", || 7));
        rt::yield_now().await;
        rt::yield_now().await;
        gate.open();
        for future in queued {
            future.await.expect("ran");
        }
        drop(idle);
        assert_eq!(last.await.expect("no panic").expect("ran"), 7);
        drop(occupied);
    });
}

#[test]
fn no_more_threads_than_configured_and_not_on_the_cores_own_cpu() {
    let before = rustix::thread::sched_getaffinity(None).expect("allowed CPUs").count();
    // A thread of its own: it stays pinned.
    thread::spawn(move || {
        let first = (0..rustix::thread::CpuSet::MAX_CPU)
            .find(|cpu| rustix::thread::sched_getaffinity(None).is_ok_and(|set| set.is_set(*cpu)));
        let config = CoreConfig::default().seed([7; 32]).offload_threads(3).cpu(first);
        let core = Core::new(&config).expect("a core");
        core.block_on(async {
            let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let tasks: Vec<_> = (0..60)
                .map(|_| {
                    let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                    let work = move || {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(2));
                        now.fetch_sub(1, Ordering::SeqCst);
                        rustix::thread::sched_getaffinity(None).expect("allowed CPUs").count()
                    };
                    rt::named("counts").spawn(offload("counts", work))
                })
                .collect();
            for task in tasks {
                assert_eq!(task.await.expect("no panic").expect("ran"), before, "pinned like its core");
            }
            assert_eq!(most.load(Ordering::SeqCst), 3);
        });
    })
    .join()
    .expect("no panic");
}

#[test]
fn signals_are_for_other_threads() {
    let masks = run(1, async {
        offload("signals", || fs::read_to_string("/proc/thread-self/status").expect("procfs")).await
    })
    .expect("ran");
    let line = masks.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask");
    let blocked = u64::from_str_radix(line.trim(), 16).expect("a number");
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGALRM, libc::SIGUSR1] {
        assert_ne!(blocked & 1 << (signal - 1), 0, "signal {signal} is delivered to it");
    }
}

#[test]
fn a_core_that_ends_lets_closures_run_on() {
    let gate = Gate::default();
    let ran = Arc::new(AtomicUsize::new(0));
    let core = core_with(1);
    let waits = core.block_on(async {
        drop(occupy(1, &gate).await);
        let queued: Vec<_> = (0..10)
            .map(|_| {
                let ran = Arc::clone(&ran);
                let work = move || ran.fetch_add(1, Ordering::SeqCst);
                rt::named("queues").spawn(async move { offload("queued", work).await.map(drop) })
            })
            .collect();
        rt::sleep(Duration::from_millis(1)).await;
        drop(queued);
        Box::pin(offload("too late", || 5))
    });
    // Does not wait for the gate.
    drop(core);
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    gate.open();
    let give_up = std::time::Instant::now() + PATIENCE;
    while ran.load(Ordering::SeqCst) < 10 {
        assert!(std::time::Instant::now() < give_up, "queued closures were not run");
        thread::sleep(Duration::from_millis(1));
    }
    // A future that was not polled belongs to no core yet.
    assert_eq!(run(1, waits).expect("ran"), 5);
}

#[test]
fn a_future_in_line_when_its_core_ends_says_cancelled() {
    let gate = Gate::default();
    let core = core_with(1);
    let dropped = Arc::new(AtomicUsize::new(0));
    let mut in_line = core.block_on(async {
        drop(occupy(1, &gate).await);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..QUEUE_LIMIT {
            assert!(Box::pin(offload("queued", || ())).as_mut().poll(&mut cx).is_pending());
        }
        let result = CountsDrops(Arc::clone(&dropped));
        let mut in_line = Box::pin(offload("in line", move || result));
        assert!(in_line.as_mut().poll(&mut cx).is_pending());
        in_line
    });
    drop(core);
    gate.open();
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Err(error)) = in_line.as_mut().poll(&mut cx) else { panic!("it never runs") };
    assert!(matches!(error, JoinError::Cancelled));
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "the closure was not dropped");
}

#[test]
fn idle_threads_end() {
    fn threads() -> usize {
        let names = fs::read_dir("/proc/self/task").expect("procfs").filter_map(|entry| {
            // A thread may have ended meanwhile.
            fs::read_to_string(entry.ok()?.path().join("comm")).ok()
        });
        names.filter(|name| name.trim_end() == "soon idle").count()
    }
    let core = core_with(1);
    core.block_on(async {
        offload("soon idle", || ()).await.expect("ran");
        assert_eq!(threads(), 1);
        let waited = Rc::new(Cell::new(0));
        while threads() > 0 {
            rt::sleep(Duration::from_millis(100)).await;
            waited.set(waited.get() + 1);
            assert!(waited.get() < 150, "an idle thread is there after 15 s");
        }
        // And another one comes when there is work.
        assert_eq!(offload("soon idle", || 1).await.expect("ran"), 1);
    });
}
