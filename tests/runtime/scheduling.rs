//! Which task runs when: budgets, shares, latency classes, stalls, idling, and what is counted.

use crate::support::parts::Parts;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as StdInstant};

use boson::net::{PipeReader, pipe};
use boson::observe;
use boson::observe::Watchdog;
use boson::rt::poller::{Park, Poller};
use boson::rt::queue::{LatencyClass, MAX_TASK_QUEUES, Shares, TaskQueue};
use boson::rt::reactor::ReactorKind;
use boson::rt::time::Clock;
use boson::rt::{self, Core, CoreConfig, Idle, Instant, JoinHandle};
use boson::{ErrorKind, Result};

fn config() -> CoreConfig {
    CoreConfig::default().seed([7; 32])
}

fn run<F: Future>(future: F) -> F::Output {
    Core::new(&config()).expect("io_uring is usable").block_on(future)
}

/// A clock that moves only when a task says how long it worked, so that shares can be counted
/// exactly.
#[derive(Default)]
struct WorkClock(AtomicU64);

impl WorkClock {
    fn work(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).expect("short"), Ordering::Relaxed);
    }
}

impl Clock for WorkClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed))
    }
    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }
}

const WORK: Duration = Duration::from_micros(4);

/// A task that works forever, `WORK` at a time.
fn works(clock: &Arc<WorkClock>, done: &Rc<Cell<u64>>) -> impl Future<Output = ()> + use<> {
    let (clock, done) = (Arc::clone(clock), Rc::clone(done));
    async move {
        loop {
            clock.work(WORK);
            done.set(done.get() + 1);
            rt::yield_now().await;
        }
    }
}

fn run_on_work_clock<F: Future>(make: impl FnOnce(Arc<WorkClock>) -> F) -> F::Output {
    let clock = Arc::new(WorkClock::default());
    let core =
        Core::new(&CoreConfig::default().clock(clock.clone()).seed([7; 32])).expect("io_uring is usable");
    core.block_on(make(clock))
}

#[test]
fn queues_that_compete_get_time_by_their_shares() {
    run_on_work_clock(|clock| async move {
        let counts: Vec<_> = [100u16, 300, 600]
            .into_iter()
            .map(|shares| {
                let queue =
                    TaskQueue::new("test", Shares::new(shares), LatencyClass::NotImportant).expect("room");
                let done = Rc::new(Cell::new(0));
                // More tasks do not get more.
                for _ in 0..700 / shares {
                    rt::named("works").queue(&queue).spawn(works(&clock, &done)).detach();
                }
                (shares, done)
            })
            .collect();
        let smallest = Rc::clone(&counts[0].1);
        let watch = TaskQueue::new("watch", Shares::new(1000), LatencyClass::NotImportant).expect("room");
        rt::named("watch")
            .queue(&watch)
            .spawn(async move {
                while smallest.get() < 1000 {
                    clock.work(WORK);
                    rt::yield_now().await;
                }
            })
            .await
            .expect("no panic");
        for (shares, done) in &counts {
            let expected = u64::from(*shares) * 10;
            assert!(done.get().abs_diff(expected) < expected / 10, "{shares} shares ran {}", done.get());
        }
        let stats = observe::task_queues();
        assert_eq!(stats.len(), 5);
        let measured = stats.iter().find(|queue| queue.shares == 600).expect("it exists").runtime;
        assert!(measured >= WORK * 5000, "{measured:?}");
    });
}

/// A queue that works in the background whenever nothing else does has consumed very much for its
/// shares some day.
#[test]
fn shares_hold_after_years_of_work() {
    run_on_work_clock(|clock| async move {
        let queue = |shares| {
            TaskQueue::new("test", Shares::new(shares), LatencyClass::NotImportant).expect("there is room")
        };
        let (one, three) = (queue(1), queue(3));
        let worker = Arc::clone(&clock);
        let years = async move {
            for _ in 0..20 {
                worker.work(Duration::from_secs(100 * 24 * 3600));
                rt::yield_now().await;
            }
        };
        rt::named("works for years").queue(&one).spawn(years).await.expect("no panic");
        let counts = [&one, &three].map(|queue| {
            let done = Rc::new(Cell::new(0));
            rt::named("works").queue(queue).spawn(works(&clock, &done)).detach();
            done
        });
        rt::sleep(WORK * 4000).await;
        let share = counts[0].get();
        assert!((900..=1100).contains(&share), "{share} of 4000, the other one had {}", counts[1].get());
    });
}

/// Starts tasks that each `work` and then wait for what comes through a pipe.
fn reads(tasks: u64, reader: PipeReader, work: impl Fn() + 'static) -> Vec<JoinHandle<Result<usize>>> {
    let shared = Rc::new((reader, work));
    let read = |_| {
        let shared = Rc::clone(&shared);
        rt::named("reads").spawn(async move {
            let (reader, work) = &*shared;
            work();
            reader.read(Vec::with_capacity(1)).await.parts().0
        })
    };
    (0..tasks).map(read).collect()
}

/// All of them get the end of the pipe.
async fn all_ended(reads: Vec<JoinHandle<Result<usize>>>) {
    for read in reads {
        assert_eq!(read.await.expect("no panic").expect("the end"), 0);
    }
}

/// With many ready tasks one system call takes what all of them ask for, but what the first asks
/// for does not wait for all the others.
#[test]
fn what_tasks_ask_of_the_kernel_is_handed_over_together_but_soon() {
    run_on_work_clock(|clock| async move {
        if observe::stats().reactor != ReactorKind::IoUring {
            // Then each task makes its own system calls.
            return;
        }
        // Tasks that work for 80 µs, and for 4 ms, a tenth of a millisecond of them with each
        // system call.
        for (tasks, calls) in [(20, 1..=3), (1000, 35..=50)] {
            let (reader, writer) = pipe().expect("descriptors");
            rt::yield_now().await;
            let before = observe::stats().ring_enters;
            let reads = reads(tasks, reader, {
                let clock = Arc::clone(&clock);
                move || clock.work(WORK)
            });
            rt::yield_now().await;
            let made = observe::stats().ring_enters - before;
            assert!(calls.contains(&made), "{made} system calls for {tasks} tasks");
            drop(writer);
            all_ended(reads).await;
        }
    });
}

/// What a queue with a latency class waits for does not wait for the tasks of another queue.
#[test]
fn with_several_queues_what_tasks_ask_of_the_kernel_is_handed_over_each_turn() {
    run_on_work_clock(|clock| async move {
        let queue = TaskQueue::new("other", Shares::new(100), LatencyClass::NotImportant).expect("room");
        let (reader, writer) = pipe().expect("descriptors");
        rt::yield_now().await;
        let before = observe::stats();
        let reads = reads(300, reader, {
            let clock = Arc::clone(&clock);
            move || clock.work(WORK)
        });
        rt::yield_now().await;
        let stats = observe::stats();
        let (turns, made) = (stats.turns - before.turns, stats.ring_enters - before.ring_enters);
        assert!(turns >= 90, "{turns} turns: the test shows nothing");
        if stats.reactor == ReactorKind::IoUring {
            assert!(made >= turns - 1, "{made} system calls in {turns} turns");
        }
        drop((writer, queue));
        all_ended(reads).await;
    });
}

/// The kernel does a few at a time of what it deferred. All that is there comes in one turn, so
/// that its tasks run together.
#[test]
fn many_completions_that_were_deferred_come_in_one_turn() {
    const READS: u64 = 200;
    run(async {
        if observe::stats().reactor != ReactorKind::IoUring {
            return;
        }
        let (reader, writer) = pipe().expect("descriptors");
        let reads = reads(READS, reader, || {});
        rt::sleep(Duration::from_millis(5)).await;
        let before = observe::stats();
        // All have the end now, and the core looks around once.
        drop(writer);
        rt::yield_now().await;
        let stats = observe::stats();
        assert_eq!(stats.turns - before.turns, 1);
        let came = stats.completions - before.completions;
        assert!(came >= READS, "{came} completions of {READS}");
        all_ended(reads).await;
    });
}

/// Pollers have their turn after each 10 µs of tasks. If they take long, what tasks ask of the
/// kernel does not wait for many turns.
#[test]
fn what_tasks_ask_of_the_kernel_does_not_wait_for_many_turns_of_slow_pollers() {
    struct Slow(Arc<WorkClock>);
    impl Poller for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }
        fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
            self.0.work(Duration::from_micros(100));
            0
        }
        fn next_deadline(&self) -> Option<Instant> {
            None
        }
        fn park(&mut self) -> Park {
            Park::Spin
        }
    }
    run_on_work_clock(|clock| async move {
        rt::poller::register_poller(Rc::new(RefCell::new(Slow(Arc::clone(&clock))))).keep();
        let (reader, writer) = pipe().expect("descriptors");
        rt::yield_now().await;
        let before = observe::stats();
        let reads = reads(300, reader, {
            let clock = Arc::clone(&clock);
            move || clock.work(WORK)
        });
        rt::yield_now().await;
        let stats = observe::stats();
        let (turns, made) = (stats.turns - before.turns, stats.ring_enters - before.ring_enters);
        assert!(turns >= 90, "{turns} turns: the test shows nothing");
        if stats.reactor == ReactorKind::IoUring {
            assert!(made >= turns / 2 - 1, "{made} system calls in {turns} turns");
        }
        drop(writer);
        all_ended(reads).await;
    });
}

/// Writes a byte into a pipe, `bytes` times, each long after the last.
fn slow_writer(bytes: usize) -> (PipeReader, std::thread::JoinHandle<()>) {
    let (reader, mut writer) = std::io::pipe().expect("descriptors");
    let thread = std::thread::spawn(move || {
        for _ in 0..bytes {
            std::thread::sleep(Duration::from_micros(300));
            std::io::Write::write_all(&mut writer, b"x").expect("somebody reads");
        }
    });
    (PipeReader::from_descriptor(reader).expect("a pipe"), thread)
}

async fn read_one_by_one(reader: &PipeReader, bytes: usize) {
    let mut buf = Vec::with_capacity(1);
    for _ in 0..bytes {
        buf.clear();
        let (read, back) = reader.read(buf).await.parts();
        assert_eq!(read.expect("a byte"), 1);
        buf = back;
    }
}

/// What the only task asks for, and the sleep until that is there, are one system call: also on a
/// core that spins where that pays, because here it does not.
#[test]
fn a_core_that_sleeps_hands_over_what_tasks_ask_of_the_kernel_with_the_same_call() {
    const READS: u32 = 200;
    for idle in [Idle::Sleep, Idle::Adaptive { spin: Duration::from_micros(50) }] {
        Core::new(&config().idle(idle)).expect("a core").block_on(async {
            let (reader, writer) = slow_writer(READS as usize);
            let before = observe::stats();
            read_one_by_one(&reader, READS as usize).await;
            let stats = observe::stats();
            writer.join().expect("no panic");
            if stats.reactor != ReactorKind::IoUring {
                return;
            }
            let (made, came) =
                (stats.ring_enters - before.ring_enters, stats.completions - before.completions);
            // The first spins may see nothing come, and a few reads may find their byte.
            assert!(made <= u64::from(READS) * 5 / 4, "{made} system calls for {READS} reads with {idle:?}");
            assert_eq!(came, u64::from(READS), "with {idle:?}");
        });
    }
}

/// Says how the core may sleep, and counts how often it was asked.
struct Asked(Park, Rc<Cell<u64>>);

impl Poller for Asked {
    fn name(&self) -> &'static str {
        "asked"
    }
    fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
        0
    }
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    fn park(&mut self) -> Park {
        self.1.set(self.1.get() + 1);
        self.0
    }
}

/// A poller may prepare its device for a sleep when it is asked, which costs a system call.
#[test]
fn pollers_are_not_asked_about_a_sleep_that_another_one_forbids() {
    Core::new(&config().idle(Idle::Sleep)).expect("a core").block_on(async {
        let asked = [(); 3].map(|()| Rc::new(Cell::new(0)));
        let register = |park, asked: &Rc<Cell<u64>>| {
            rt::poller::register_poller(Rc::new(RefCell::new(Asked(park, Rc::clone(asked)))))
        };
        let [before, spins, behind] = &asked;
        let _before = register(Park::Idle, before);
        let spinning = register(Park::Spin, spins);
        let _behind = register(Park::Idle, behind);
        rt::sleep(Duration::from_millis(5)).await;
        assert!(spins.get() > 10, "the core asked {} times", spins.get());
        assert_eq!((before.get(), behind.get()), (1, 0), "the first time nobody knew");
        drop(spinning);
        rt::sleep(Duration::from_millis(5)).await;
        assert!(before.get() > 1 && before.get() == behind.get() + 1, "all are asked: {asked:?}");
        assert!(before.get() < 100, "and the core sleeps: {asked:?}");
    });
}

/// A poller keeps the core from sleeping, with events in every turn or without.
#[test]
fn what_tasks_ask_of_the_kernel_does_not_wait_for_a_sleep_that_does_not_come() {
    struct Sleepless(usize);
    impl Poller for Sleepless {
        fn name(&self) -> &'static str {
            "sleepless"
        }
        fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
            self.0
        }
        fn next_deadline(&self) -> Option<Instant> {
            None
        }
        fn park(&mut self) -> Park {
            Park::Spin
        }
    }
    for events in [0, 1] {
        Core::new(&config().idle(Idle::Sleep)).expect("a core").block_on(async {
            rt::poller::register_poller(Rc::new(RefCell::new(Sleepless(events)))).keep();
            let (reader, writer) = slow_writer(3);
            let reads = rt::timeout(Duration::from_secs(10), read_one_by_one(&reader, 3));
            reads.await.expect("the reads reach the kernel");
            writer.join().expect("no panic");
        });
    }
}

#[test]
fn a_queue_that_slept_saves_nothing_up() {
    run_on_work_clock(|clock| async move {
        let queue = TaskQueue::new("sleeper", Shares::DEFAULT, LatencyClass::NotImportant).expect("room");
        let busy = Rc::new(Cell::new(0));
        rt::named("works").spawn(works(&clock, &busy)).detach();
        while busy.get() < 1000 {
            rt::yield_now().await;
        }
        let late = Rc::new(Cell::new(0));
        rt::named("works").queue(&queue).spawn(works(&clock, &late)).detach();
        let before = busy.get();
        while late.get() < 1000 {
            rt::yield_now().await;
        }
        let meanwhile = busy.get() - before;
        assert!(meanwhile.abs_diff(1000) < 100, "the other queue ran {meanwhile} times meanwhile");
    });
}

#[test]
fn a_queue_whose_latency_matters_does_not_wait_for_its_share() {
    let longest_wait = |latency, later| {
        run_on_work_clock(|clock| async move {
            let urgent = TaskQueue::new("urgent", Shares::new(1), latency).expect("room");
            urgent.set_latency(later);
            let done = Rc::new(Cell::new(0));
            for _ in 0..20 {
                rt::named("works").spawn(works(&clock, &done)).detach();
            }
            // A poll is a long time for one share: it would wait for thousands of the others'.
            rt::named("often ready")
                .queue(&urgent)
                .spawn(async move {
                    let mut longest = Duration::ZERO;
                    for _ in 0..50 {
                        clock.work(WORK);
                        let ready = clock.now();
                        rt::yield_now().await;
                        longest = longest.max(clock.now() - ready);
                    }
                    longest
                })
                .await
                .expect("no panic")
        })
    };
    let limit = Duration::from_micros(40);
    let longest = longest_wait(LatencyClass::Matters(limit), LatencyClass::Matters(limit));
    assert!(longest <= limit + Duration::from_micros(20), "it waited for {longest:?}");
    let longest = longest_wait(LatencyClass::NotImportant, LatencyClass::Matters(limit));
    assert!(longest <= limit + Duration::from_micros(20), "it waited for {longest:?}, told later");
    let control = longest_wait(LatencyClass::NotImportant, LatencyClass::NotImportant);
    assert!(control > limit * 5, "it waited for {control:?} only, without its class");
    let control = longest_wait(LatencyClass::Matters(limit), LatencyClass::NotImportant);
    assert!(control > limit * 5, "it waited for {control:?} only, without its class");
}

#[test]
fn task_queues_have_a_limit_and_go_with_their_last_task() {
    run(async {
        let make = || TaskQueue::new("test", Shares::DEFAULT, LatencyClass::NotImportant);
        let mut queues: Vec<_> = (1..MAX_TASK_QUEUES).map(|_| make().expect("room")).collect();
        assert_eq!(make().expect_err("the default queue counts").kind(), ErrorKind::LimitReached);
        let task = rt::named("keeps its queue").queue(&queues[0]).spawn(rt::sleep(Duration::from_millis(5)));
        queues.remove(0);
        assert!(make().is_err(), "the queue of a task went before it");
        task.await.expect("no panic");
        queues.push(make().expect("room again"));
        queues.clear();
        assert_eq!(observe::task_queues().len(), 1);
    });
}

struct Feeds {
    budgets: Rc<RefCell<Vec<usize>>>,
}

impl Poller for Feeds {
    fn name(&self) -> &'static str {
        "feeds"
    }
    fn poll(&mut self, _now: Instant, budget: usize) -> usize {
        self.budgets.borrow_mut().push(budget);
        budget
    }
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    fn park(&mut self) -> Park {
        Park::Idle
    }
}

#[test]
fn a_pollers_budget_is_its_registrations() {
    run(async {
        let budgets = Rc::new(RefCell::new(Vec::new()));
        let feeds = |budgets| Rc::new(RefCell::new(Feeds { budgets: Rc::clone(budgets) }));
        let small = rt::poller::register_poller_with_budget(feeds(&budgets), 3);
        rt::sleep(Duration::from_millis(1)).await;
        drop(small);
        assert!(!budgets.borrow().is_empty() && budgets.borrow().iter().all(|budget| *budget == 3));
        budgets.borrow_mut().clear();
        let usual = rt::poller::register_poller(feeds(&budgets));
        rt::sleep(Duration::from_millis(1)).await;
        drop(usual);
        assert!(!budgets.borrow().is_empty() && budgets.borrow().iter().all(|budget| *budget == 64));
    });
}

#[test]
fn devices_are_polled_often_however_long_the_polls_of_tasks_are() {
    struct Notes(Rc<RefCell<Vec<Instant>>>);
    impl Poller for Notes {
        fn name(&self) -> &'static str {
            "notes"
        }
        fn poll(&mut self, now: Instant, _budget: usize) -> usize {
            self.0.borrow_mut().push(now);
            0
        }
        fn next_deadline(&self) -> Option<Instant> {
            None
        }
        fn park(&mut self) -> Park {
            Park::Spin
        }
    }
    for nanos in [10u64, 500, 3000, 9000] {
        run_on_work_clock(|clock| async move {
            let work = Duration::from_nanos(nanos);
            let polled = Rc::new(RefCell::new(Vec::new()));
            rt::poller::register_poller(Rc::new(RefCell::new(Notes(Rc::clone(&polled))))).keep();
            for _ in 0..200 {
                let clock = Arc::clone(&clock);
                rt::named("works")
                    .spawn(async move {
                        loop {
                            clock.work(work);
                            rt::yield_now().await;
                        }
                    })
                    .detach();
            }
            for _ in 0..100 {
                rt::yield_now().await;
            }
            let polled = polled.borrow();
            let longest = polled.windows(2).map(|pair| pair[1] - pair[0]).max().expect("polled twice");
            assert!(longest < Duration::from_micros(20), "polls of {work:?}: {longest:?} between two looks");
        });
    }
}

#[test]
fn a_watchdog_says_which_task_a_core_is_stuck_in_while_it_is() {
    let core = Core::new(&config()).expect("io_uring is usable");
    let stalls = Arc::new(Mutex::new(Vec::new()));
    let watchdog = Watchdog::start_with(&[core.handle()], Duration::from_millis(100), {
        let stalls = Arc::clone(&stalls);
        move |stall| stalls.lock().expect("no panic").push(stall.clone())
    })
    .expect("a thread");
    core.block_on(async {
        let seen = Arc::clone(&stalls);
        rt::named("blocks")
            .spawn(async move {
                let started = StdInstant::now();
                // Until it is reported: the report comes while it is stuck.
                while seen.lock().expect("no panic").is_empty() {
                    std::thread::sleep(Duration::from_millis(5));
                    assert!(started.elapsed() < Duration::from_secs(10), "nobody noticed");
                }
            })
            .await
            .expect("no panic");
        let noticed = stalls.lock().expect("no panic").len();
        // A core that sleeps is not stuck.
        rt::sleep(Duration::from_millis(400)).await;
        assert_eq!(stalls.lock().expect("no panic").len(), noticed);
    });
    drop(watchdog);
    let stalls = stalls.lock().expect("no panic");
    let (name, place) = stalls[0].task.expect("it was in a task");
    assert_eq!(name, "blocks");
    assert!(place.file().ends_with("runtime/scheduling.rs"));
    assert!(stalls[0].lasts >= Duration::from_millis(100));
}

#[test]
fn the_idle_setting_goes_from_always_poll_to_always_sleep() {
    let after_a_moment = |idle| {
        let core = Core::new(&config().idle(idle)).expect("io_uring is usable");
        core.block_on(rt::sleep(Duration::from_millis(50)));
        core.stats()
    };
    let polls = after_a_moment(Idle::Poll);
    assert_eq!(polls.parks, 0);
    assert!(polls.spinning > Duration::from_millis(20), "{polls:?}");
    let sleeps = after_a_moment(Idle::Sleep);
    assert!(sleeps.parks > 0 && sleeps.turns < 100, "{sleeps:?}");
    assert!(sleeps.asleep > Duration::from_millis(40), "{sleeps:?}");
    let adapts = after_a_moment(Idle::Adaptive { spin: Duration::from_micros(500) });
    assert!(adapts.parks > 0 && adapts.turns > sleeps.turns, "{adapts:?}");
}

#[test]
fn what_a_core_does_is_counted() {
    run(async {
        let before = observe::stats();
        for _ in 0..10 {
            rt::named("sleeps").spawn(rt::sleep(Duration::from_millis(1))).await.expect("no panic");
        }
        assert!(rt::named("panics").spawn(async { panic!("on purpose") }).await.is_err());
        let after = observe::stats();
        assert_eq!(after.spawned - before.spawned, 11);
        assert_eq!(after.ended - before.ended, 11);
        assert_eq!(after.panicked - before.panicked, 1);
        assert!(after.timers_fired - before.timers_fired >= 10);
        assert!(after.polls - before.polls >= 22);
        assert!(after.turns > before.turns);
        let latencies = observe::latencies();
        assert!(latencies.poll.count() >= 10 && latencies.turn.count() >= 10);
        assert!(latencies.queue_wait.count() >= 10, "{latencies:?}");
        assert!(latencies.turn.max() >= latencies.poll.quantile(0.5));
    });
}

#[test]
fn a_watchdog_may_end_in_its_own_report() {
    let core = Core::new(&config()).expect("io_uring is usable");
    let slot = Arc::new(Mutex::new(None));
    let (sender, ended) = std::sync::mpsc::channel();
    let watchdog = Watchdog::start_with(&[core.handle()], Duration::from_millis(20), {
        let slot = Arc::clone(&slot);
        move |_| {
            let watchdog: Option<Watchdog> = slot.lock().expect("no panic").take();
            let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(watchdog)));
            sender.send(dropped.is_ok()).expect("the test waits");
        }
    })
    .expect("a thread");
    *slot.lock().expect("no panic") = Some(watchdog);
    core.block_on(async { std::thread::sleep(Duration::from_millis(200)) });
    assert!(ended.recv_timeout(Duration::from_secs(10)).expect("it is reported"), "it joins itself");
}

#[test]
fn time_outside_of_block_on_is_not_the_cores() {
    let core = Core::new(&config()).expect("io_uring is usable");
    core.block_on(rt::yield_now());
    std::thread::sleep(Duration::from_millis(300));
    core.block_on(async {
        // A whole turn, which is counted.
        rt::sleep(Duration::from_millis(1)).await;
    });
    let stats = core.stats();
    assert!(stats.busy + stats.spinning < Duration::from_millis(200), "{stats:?}");
    assert!(core.latencies().turn.max() < 200_000_000, "{:?}", core.latencies().turn);
}

struct CountsPolls(Rc<Cell<u32>>);

impl Poller for CountsPolls {
    fn name(&self) -> &'static str {
        "counts polls"
    }
    fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
        self.0.set(self.0.get() + 1);
        0
    }
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    fn park(&mut self) -> Park {
        Park::Idle
    }
}

/// A core that polls a poller, and how often.
fn core_with_a_poller(config: &CoreConfig) -> (Core, Rc<Cell<u32>>) {
    let core = Core::new(config).expect("a core");
    let polls = Rc::new(Cell::new(0));
    let poller = CountsPolls(Rc::clone(&polls));
    core.block_on(async { rt::poller::register_poller(Rc::new(RefCell::new(poller))).keep() });
    (core, polls)
}

/// Each `block_on` is over with its first poll: devices, timers and other threads get their turn in
/// between all the same.
#[test]
fn block_ons_that_end_at_once_leave_devices_timers_and_messages_their_turn() {
    let (core, polls) = core_with_a_poller(&config());
    let sleeper =
        core.block_on(async { Some(rt::named("sleeps").spawn(rt::sleep(Duration::from_millis(2)))) });
    let sleeper = sleeper.expect("runs");
    let mut message = std::pin::pin!(core.handle().run(|| 3));
    let mut cx = Context::from_waker(Waker::noop());
    let deadline = StdInstant::now() + Duration::from_secs(10);
    let mut sent = None;
    while !sleeper.is_finished() || sent.is_none() || polls.get() == 0 {
        core.block_on(async {});
        if sent.is_none()
            && let Poll::Ready(answer) = message.as_mut().poll(&mut cx)
        {
            sent = Some(answer.expect("it ran"));
        }
        assert!(StdInstant::now() < deadline, "somebody starves");
    }
    assert_eq!(sent, Some(3));
}

/// The same while the clock stands still.
#[test]
fn block_ons_are_counted_where_no_time_passes() {
    let (core, polls) =
        core_with_a_poller(&CoreConfig::default().clock(Arc::new(WorkClock::default())).seed([7; 32]));
    for _ in 0..1000 {
        core.block_on(async {});
    }
    assert!((10..100).contains(&polls.get()), "{} polls", polls.get());
}
