//! What an inspector says about a process: against known loads, bad askers, dead and living
//! sockets, stuck cores.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use boson::ErrorKind;
use boson::block::{Device, Fault, MemoryDevice, MemoryOptions, Namespace};
use boson::mem::DmaBuf;
use boson::observe;
use boson::observe::inspect::{COUNTERS, Client, Inspector, MAX_TASKS_PER_ANSWER, TaskRecord};
use boson::observe::{TaskOrder, TaskRange, TaskState};
use boson::rt::poller::{Park, Poller};
use boson::rt::reactor::{ReactorChoice, ReactorKind, RingFeature, RingFeatures};
use boson::rt::{self, CoreConfig, CoreThread};

/// A path for a socket that no other test has; removed at the end.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("boson-inspect-{}-{number}.sock", std::process::id())))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn config() -> CoreConfig {
    CoreConfig::default().seed([0; 32])
}

fn core() -> CoreThread {
    CoreThread::start("inspected", &config()).expect("a core")
}

/// Runs `f` on the core and waits for it.
fn run_on<T: Send + 'static>(core: &CoreThread, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    drop(core.handle().run(move || sender.send(f())));
    receiver.recv_timeout(Duration::from_secs(10)).expect("the core runs")
}

fn all_tasks(client: &Client) -> Vec<TaskRecord> {
    client.tasks(0, TaskRange::ALL).expect("an answer").tasks
}

/// Asks again until `is_good` (what is asked for takes effect on another thread).
fn eventually<T>(mut ask: impl FnMut() -> T, is_good: impl Fn(&T) -> bool) -> T {
    let started = Instant::now();
    loop {
        let answer = ask();
        if is_good(&answer) || started.elapsed() > Duration::from_secs(10) {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_dump_tells_what_each_task_waits_for_and_since_when() {
    let (core, path) = (core(), SocketPath::new());
    let _inspector = Inspector::start(&path.0, "a test", vec![core.handle().clone()]).expect("it starts");
    let client = Client::new(&path.0);
    let line = line!() + 2;
    run_on(&core, || {
        drop(rt::named("sleeps for an hour").spawn(rt::sleep(Duration::from_secs(3600))));
        drop(rt::named("waits for nothing that is known").spawn(std::future::pending::<()>()));
        drop(rt::named("never rests").spawn(async {
            loop {
                rt::yield_now().await;
            }
        }));
    });
    std::thread::sleep(Duration::from_millis(60));

    let tasks = all_tasks(&client);
    let named = |name: &str| tasks.iter().find(|task| task.name == name).expect(name);
    let sleeper = named("sleeps for an hour");
    assert_eq!((sleeper.state, sleeper.waits_for.as_deref()), (TaskState::Waiting, Some("a timer")));
    assert!((60..5_000).contains(&sleeper.since.as_millis()), "{sleeper:?}");
    assert_eq!(sleeper.polls, 1);
    assert!(sleeper.created_at.starts_with(&format!("{}:{line}:", file!())), "{sleeper:?}");
    let stranger = named("waits for nothing that is known");
    assert_eq!((stranger.state, stranger.waits_for.as_deref()), (TaskState::Waiting, None));
    let busy = named("never rests");
    assert_eq!((busy.state, busy.waits_for.as_deref()), (TaskState::Ready, None));
    assert!(busy.polls > 100 && busy.since < sleeper.since, "{busy:?}");
    assert!(sleeper.id < stranger.id && stranger.id < busy.id);
}

#[test]
fn every_way_to_wait_has_a_name() {
    use boson::sync::local;
    let (core, path) = (core(), SocketPath::new());
    let _inspector = Inspector::start(&path.0, "a test", vec![core.handle().clone()]).expect("it starts");
    run_on(&core, || {
        // Kept for as long as the task that waits, which is until the core ends.
        drop(rt::named("mutex").spawn(async {
            let mutex = local::Mutex::new(());
            let _held = mutex.lock().await;
            drop(rt::timeout(Duration::from_secs(3600), mutex.lock()).await);
        }));
        drop(rt::named("semaphore").spawn(async { drop(local::Semaphore::new(0).acquire().await) }));
        drop(rt::named("notify").spawn(async { local::Notify::new().notified().await }));
        drop(rt::named("channel").spawn(async {
            let (_sender, mut receiver) = local::mpsc::channel::<()>(1);
            receiver.recv().await
        }));
        drop(
            rt::named("join")
                .spawn(async { drop(rt::named("joined").spawn(std::future::pending::<()>()).await) }),
        );
        drop(rt::named("interval").spawn(async {
            let mut interval = rt::interval(Duration::from_secs(3600));
            interval.tick().await;
            interval.tick().await;
        }));
    });
    let client = Client::new(&path.0);
    let tasks = eventually(|| all_tasks(&client), |tasks| tasks.iter().all(|task| task.polls > 0));
    for (name, what) in [
        ("mutex", "a mutex"),
        ("semaphore", "a semaphore"),
        ("notify", "a notification"),
        ("channel", "a message of a channel"),
        ("join", "the end of a task"),
        ("interval", "a timer"),
    ] {
        let task = tasks.iter().find(|task| task.name == name).expect(name);
        assert_eq!(task.waits_for.as_deref(), Some(what), "{task:?}");
    }
}

#[test]
fn a_coroutine_has_its_name_its_place_and_its_stack() {
    let (core, path) = (core(), SocketPath::new());
    let _inspector = Inspector::start(&path.0, "a test", vec![core.handle().clone()]).expect("it starts");
    let line = line!() + 3;
    run_on(&core, || {
        let dreamer = boson::thread::Builder::new().name("dreamer".to_owned()).stack_size(64 << 10);
        let sleeper = dreamer.spawn(|| boson::thread::sleep(Duration::from_secs(3600)));
        drop(sleeper.expect("there is room"));
        drop(boson::thread::spawn(boson::thread::park));
    });
    let client = Client::new(&path.0);
    let tasks = eventually(|| all_tasks(&client), |tasks| tasks.iter().all(|task| task.polls > 0));
    let sleeper = tasks.iter().find(|task| task.name == "dreamer").expect("it has its name");
    assert!(sleeper.created_at.starts_with(&format!("{}:{line}:", file!())), "{sleeper:?}");
    assert_eq!(sleeper.waits_for.as_deref(), Some("a timer"));
    assert!(sleeper.stack_bytes.is_some_and(|bytes| (48 << 10..=64 << 10).contains(&bytes)), "{sleeper:?}");
    let parked = tasks.iter().find(|task| task.name == "coroutine").expect("one without a name");
    assert_eq!(parked.waits_for.as_deref(), Some("an unpark"));
    assert!(parked.stack_bytes.is_some());
    assert!(parked.is_coroutine && !parked.is_block_on && parked.queue == "default", "{parked:?}");
    let roots: Vec<_> = tasks.iter().filter(|task| task.is_block_on).collect();
    assert!(matches!(roots[..], [root] if root.name == "block_on" && !root.is_coroutine), "{tasks:?}");
}

#[test]
fn a_snapshot_counts_what_happened_in_between() {
    let (core, path) = (core(), SocketPath::new());
    let _inspector =
        Inspector::start(&path.0, "counting = 100%\n", vec![core.handle().clone()]).expect("it starts");
    let client = Client::new(&path.0);
    let before = client.snapshot().expect("an answer");
    assert_eq!(before.process.program, "counting = 100%\n", "any name comes through");
    assert_eq!(before.process.id, u64::from(std::process::id()));
    assert_eq!(before.process.release, env!("CARGO_PKG_VERSION"));
    run_on(&core, || {
        for _ in 0..100 {
            drop(rt::named("short").spawn(rt::sleep(Duration::from_millis(1))));
        }
    });
    let ended = |client: &Client| client.snapshot().expect("an answer");
    let ended_by = before.cores[0].stats.ended + 100;
    let after = eventually(|| ended(&client), |snapshot| snapshot.cores[0].stats.ended >= ended_by);
    let (old, new) = (&before.cores[0], &after.cores[0]);
    assert!(!new.is_silent && new.now > old.now);
    assert_eq!(new.stats.spawned - old.stats.spawned, 100);
    assert_eq!(new.stats.ended - old.stats.ended, 100);
    assert_eq!(new.stats.timers_fired - old.stats.timers_fired, 100);
    assert!(new.stats.polls - old.stats.polls >= 200, "each is polled twice");
    assert!(new.stats.asleep > old.stats.asleep && new.stats.busy > old.stats.busy);
    let polls = new.latencies.poll.since(&old.latencies.poll);
    assert!((1..=new.stats.polls - old.stats.polls).contains(&polls.count()), "{polls:?}");
    assert!(polls.quantile(0.5) > 0 && polls.sum() >= polls.max(), "{polls:?}");
    // What a core says of itself is what the asking side sees.
    let (stats, turn) = run_on(&core, || (observe::stats(), observe::latencies().turn));
    assert!(stats.spawned == new.stats.spawned && stats.turns >= new.stats.turns);
    assert!(turn.count() >= new.latencies.turn.count() && turn.max() >= new.latencies.turn.max());
    let values: Vec<u64> = COUNTERS.iter().map(|counter| counter.get(&new.stats)).collect();
    assert!(values.iter().filter(|value| **value > 0).count() > 8, "{values:?}");
}

#[test]
fn a_snapshot_says_what_a_core_does_its_io_through() {
    let old = config().ring_features(RingFeatures::linux_5_15());
    let configs = [config(), config().reactor(ReactorChoice::Epoll), old];
    let cores = configs.map(|config| CoreThread::start("inspected", &config).expect("a core"));
    let path = SocketPath::new();
    let handles = cores.iter().map(|core| core.handle().clone()).collect();
    let _inspector = Inspector::start(&path.0, "a test", handles).expect("it starts");
    let snapshot = Client::new(&path.0).snapshot().expect("an answer");
    for (core, report) in cores.iter().zip(&snapshot.cores) {
        let (stats, features) = run_on(core, || (observe::stats(), rt::reactor::ring_features()));
        assert_eq!((report.stats.reactor, report.ring_features), (stats.reactor, features));
    }
    let by_default =
        if rt::reactor::probe_io_uring().is_ok() { ReactorKind::IoUring } else { ReactorKind::Epoll };
    let kinds: Vec<ReactorKind> = snapshot.cores.iter().map(|core| core.stats.reactor).collect();
    assert_eq!(kinds, [by_default, ReactorKind::Epoll, by_default]);
    let features: Vec<RingFeatures> = snapshot.cores.iter().map(|core| core.ring_features).collect();
    assert_eq!(features[1], RingFeatures::none());
    assert_eq!(
        features[0],
        rt::reactor::probe_ring_features().map_or(RingFeatures::none(), |probed| {
            // Whether a device can be polled shows only when one is opened.
            probed.with(RingFeature::PolledDevices)
        })
    );
    let newer = |feature: &RingFeature| !RingFeatures::linux_5_15().contains(*feature);
    assert_eq!(features[2].iter().filter(newer).count(), 0, "{:?}", features[2]);
}

/// Has nine events each time that it is polled, forever.
struct Nine;

impl Poller for Nine {
    fn name(&self) -> &'static str {
        "nine at a time"
    }

    fn poll(&mut self, _now: rt::Instant, budget: usize) -> usize {
        budget.min(9)
    }

    fn next_deadline(&self) -> Option<rt::Instant> {
        None
    }

    fn park(&mut self) -> Park {
        Park::Spin
    }
}

#[test]
fn each_poller_is_told_of_by_its_name() {
    let (core, path) = (core(), SocketPath::new());
    let _inspector = Inspector::start(&path.0, "a test", vec![core.handle().clone()]).expect("it starts");
    let client = Client::new(&path.0);
    assert!(client.snapshot().expect("an answer").cores[0].pollers.is_empty());
    run_on(&core, || {
        rt::poller::register_poller(Rc::new(RefCell::new(Nine))).keep();
        rt::poller::register_poller_with_budget(Rc::new(RefCell::new(Nine)), 4).keep();
    });
    let ask = || client.snapshot().expect("an answer").cores.remove(0);
    let core = eventually(ask, |core| core.pollers.iter().all(|poller| poller.events > 100));
    let [roomy, tight] = &core.pollers[..] else { panic!("there are two: {:?}", core.pollers) };
    assert_eq!((roomy.name.as_str(), roomy.budget, roomy.exhausted), ("nine at a time", 64, 0));
    assert_eq!((tight.budget, tight.exhausted), (4, tight.events / 4));
    assert_eq!(roomy.events / 9, tight.events / 4, "both are polled in each turn");
    // The core adds up its own when the turn is over.
    let sum = roomy.events + tight.events;
    assert!([sum, sum - 13].contains(&core.stats.poller_events), "{} of {sum}", core.stats.poller_events);
}

#[test]
fn each_namespace_is_told_of_by_its_name() {
    let (core, path) = (core(), SocketPath::new());
    let _inspector = Inspector::start(&path.0, "a test", vec![core.handle().clone()]).expect("it starts");
    let client = Client::new(&path.0);
    assert!(client.snapshot().expect("an answer").cores[0].namespaces.is_empty());
    let name = "mem:a name, with % and =";
    let (sender, receiver) = std::sync::mpsc::channel();
    drop(core.handle().spawn(move || async move {
        let options = MemoryOptions::new(1 << 20).write_latency(Duration::from_micros(50));
        let device = MemoryDevice::open(name, options).expect("possible options");
        // Both are of one name: they are told of as one.
        for _ in 0..2 {
            let namespace = device.attach().await.expect("attaches");
            for _ in 0..10 {
                namespace.write(0, DmaBuf::zeroed(8192)).await.expect("writes");
            }
            namespace.read(1 << 20, DmaBuf::zeroed(4096)).await.expect_err("past the end");
            namespace.read(4096, DmaBuf::zeroed(4096)).await.expect("reads");
            device.inject([Fault::read()]);
            namespace.read(4096, DmaBuf::zeroed(4096)).await.expect_err("injected");
            device.inject([]);
            std::mem::forget(namespace);
        }
        device.inject([Fault::read().hangs()]);
        let waiting = device.attach().await.expect("attaches");
        drop(rt::spawn(async move { waiting.read(0, DmaBuf::zeroed(4096)).await.map(drop) }));
        rt::yield_now().await;
        sender.send(()).expect("somebody listens");
    }));
    receiver.recv_timeout(Duration::from_secs(10)).expect("the core runs");
    let ask = || client.snapshot().expect("an answer").cores.remove(0);
    let core = eventually(ask, |core| core.namespaces.first().is_some_and(|stats| stats.queue_depth == 1));
    let [stats] = &core.namespaces[..] else { panic!("there is one: {:?}", core.namespaces) };
    assert_eq!((stats.name.as_str(), stats.queue_depth, stats.max_queue_depth), (name, 1, 1));
    assert_eq!((stats.writes.completed, stats.writes.failed, stats.writes.bytes), (20, 0, 20 * 8192));
    assert_eq!(stats.writes.latency.count(), 20);
    assert!(stats.writes.latency.max() > 1000, "{:?}", stats.writes.latency);
    // What is refused does not count: the device never heard of it.
    assert_eq!((stats.reads.completed, stats.reads.failed, stats.reads.bytes), (2, 2, 2 * 4096));
    assert_eq!((stats.trims.completed, stats.retries, stats.copied_bytes), (0, 0, 0));
}

/// The time in which there was nothing to wait for is no part of the wait.
#[test]
fn the_wait_for_a_turn_ends_with_the_turn() {
    let core = core();
    run_on(&core, || {
        drop(rt::named("now and then").spawn(async {
            for _ in 0..10 {
                rt::sleep(Duration::from_millis(20)).await;
            }
        }));
    });
    let waits = || run_on(&core, || observe::latencies().queue_wait);
    let waits = eventually(waits, |waits| waits.count() >= 10);
    assert!(waits.count() >= 10 && waits.quantile(0.5) < 10_000_000, "{waits:?}");
}

#[test]
fn many_tasks_come_in_pieces_from_either_end() {
    const TASKS: usize = 2500;
    let (core, path) = (core(), SocketPath::new());
    let _inspector = Inspector::start(&path.0, "many", vec![core.handle().clone()]).expect("it starts");
    let client = Client::new(&path.0);
    run_on(&core, || {
        for _ in 0..TASKS {
            drop(rt::named("one of many").spawn(std::future::pending::<()>()));
        }
    });
    for order in [TaskOrder::OldestFirst, TaskOrder::NewestFirst] {
        let (mut seen, mut after, mut pieces) = (Vec::new(), None, 0);
        loop {
            let range = TaskRange { order, after, limit: usize::MAX };
            let page = client.tasks(0, range).expect("an answer").tasks;
            assert!(page.len() <= MAX_TASKS_PER_ANSWER);
            seen.extend(page.iter().map(|task| task.id));
            pieces += 1;
            if page.len() < MAX_TASKS_PER_ANSWER {
                break;
            }
            after = page.last().map(|task| task.id);
        }
        // And that of `block_on`.
        assert_eq!((seen.len(), pieces), (TASKS + 1, 3), "{order:?}");
        let sorted = match order {
            TaskOrder::OldestFirst => seen.is_sorted_by(|a, b| a < b),
            TaskOrder::NewestFirst => seen.is_sorted_by(|a, b| a > b),
        };
        assert!(sorted, "{order:?}");
    }
    let error = client.tasks(1, TaskRange::ALL).expect_err("there is one core");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

/// Lets a stuck core go on when a test ends, also by a failure: its thread is waited for.
struct Release(Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_stuck_core_is_silent_and_hides_no_other() {
    let (stuck, free, path) = (core(), core(), SocketPath::new());
    let handles = vec![stuck.handle().clone(), free.handle().clone()];
    let _inspector = Inspector::start(&path.0, "half stuck", handles).expect("it starts");
    let client = Client::new(&path.0);
    let release = Arc::new(AtomicBool::new(false));
    let _release_at_the_end = Release(Arc::clone(&release));
    let released = Arc::clone(&release);
    drop(rt::named("never returns").spawn_on(stuck.handle(), move || async move {
        while !released.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
    }));
    let silent = |client: &Client| -> Vec<bool> {
        client.snapshot().expect("an answer").cores.iter().map(|core| core.is_silent).collect()
    };
    let seen = eventually(|| silent(&client), |silent| silent[0]);
    assert_eq!(seen, [true, false]);
    // A core that has a question already is not asked again and costs no time.
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(silent(&client), [true, false]);
    }
    assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
    let report = &client.snapshot().expect("an answer").cores[0];
    let (name, place) = report.stuck_in.clone().expect("it says in which task");
    assert!(name == "never returns" && place.starts_with(file!()), "{name} {place}");
    assert_eq!(report.stats.reactor, ReactorKind::Unknown, "it did not say");
    assert!(client.tasks(0, TaskRange::ALL).expect("an answer").is_silent);
    release.store(true, Ordering::Relaxed);
    assert_eq!(eventually(|| silent(&client), |silent| !silent[0]), [false, false]);
    // So is one that has ended.
    drop(stuck);
    assert_eq!(silent(&client), [true, false]);
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_inspector() {
    let (core, path) = (core(), SocketPath::new());
    let inspector = Inspector::start(&path.0, "first", vec![core.handle().clone()]).expect("it starts");
    assert_eq!(inspector.path(), path.0);
    assert_eq!(fs::metadata(&path.0).expect("it is there").permissions().mode() & 0o777, 0o600);
    // A living one is not taken over.
    let error = Inspector::start(&path.0, "second", Vec::new()).expect_err("somebody listens");
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert_eq!(Client::new(&path.0).snapshot().expect("an answer").process.program, "first");
    drop(inspector);
    assert!(!path.0.exists(), "it removes its socket");
    let error = Client::new(&path.0).snapshot().expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    // What a killed process left behind is taken over.
    drop(UnixListener::bind(&path.0).expect("a socket"));
    let error = Client::new(&path.0).snapshot().expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(error.to_string().contains("has ended"), "{error}");
    let third = Inspector::start(&path.0, "third", vec![core.handle().clone()]).expect("it takes over");
    assert_eq!(Client::new(&path.0).snapshot().expect("an answer").process.program, "third");
    // A name that is somebody else's by now stays.
    fs::remove_file(&path.0).expect("ours");
    fs::write(&path.0, "precious").expect("written");
    drop(third);
    assert_eq!(fs::read(&path.0).expect("still there"), b"precious");

    // What is no socket is left alone.
    let error = Inspector::start(&path.0, "fourth", Vec::new()).expect_err("it is a file");
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert_eq!(fs::read(&path.0).expect("still there"), b"precious");
    let long = std::env::temp_dir().join("x".repeat(108));
    let error = Inspector::start(&long, "fifth", Vec::new()).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = Inspector::start(path.0.join("below"), "sixth", Vec::new()).expect_err("no directory");
    assert_eq!(error.kind(), ErrorKind::Os, "{error}");
}

#[test]
fn bad_askers_get_a_sentence_and_harm_nobody() {
    let (core, path) = (core(), SocketPath::new());
    let _inspector = Inspector::start(&path.0, "a test", vec![core.handle().clone()]).expect("it starts");
    let long = [b'x'; 300];
    for (request, reason) in [
        (&b"GET / HTTP/1.1\r\n"[..], "starts%20with%20boson-inspect/1"),
        (b"\n", "starts%20with"),
        (b"boson-inspect/2 stats\n", "speaks%20version%201"),
        (b"boson-inspect/ stats\n", "speaks%20version%201"),
        (b"boson-inspect/1\n", "there%20are%20stats"),
        (b"boson-inspect/1 fortune\n", "there%20are%20stats"),
        (b"boson-inspect/1 tasks\n", "no%20such%20core"),
        (b"boson-inspect/1 tasks core=99999999999999999999999\n", "no%20such%20core"),
        (b"boson-inspect/1 tasks core=0 order=best\n", "oldest%20or%20newest"),
        (b"\xff\xfe\x00\n", "starts%20with"),
        (b"boson-inspect/1 stats", "256%20bytes"),
        (&long[..256], "256%20bytes"),
    ] {
        let mut stream = UnixStream::connect(&path.0).expect("it listens");
        stream.write_all(request).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("half-closed");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(
            answer.starts_with("boson-inspect/1 error reason=") && answer.ends_with("\nend\n"),
            "{answer}"
        );
        assert!(answer.contains(reason), "{}: {answer}", request.escape_ascii());
    }

    // One that says nothing, one that takes nothing, and many that go at once: the next one waits a
    // moment, no more.
    let silent = UnixStream::connect(&path.0).expect("it listens");
    for _ in 0..50 {
        drop(UnixStream::connect(&path.0));
    }
    let started = Instant::now();
    let snapshot = Client::new(&path.0).snapshot().expect("an answer");
    assert_eq!(snapshot.cores.len(), 1);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    drop(silent);
}

/// Each of them says or takes something before a single read or write of the inspector would give
/// up.
#[test]
fn slow_askers_hold_others_up_for_a_moment_only() {
    const PAUSE: Duration = Duration::from_millis(400);
    let (core, path) = (core(), SocketPath::new());
    let _inspector = Inspector::start(&path.0, "a test", vec![core.handle().clone()]).expect("it starts");
    let name: &'static str = "x".repeat(2048).leak();
    run_on(&core, move || {
        for _ in 0..MAX_TASKS_PER_ANSWER {
            rt::named(name).spawn(std::future::pending::<()>()).detach();
        }
    });
    for takes in [false, true] {
        let request: &[u8] = if takes { b"boson-inspect/1 tasks core=0\n" } else { b"" };
        let goes_on = move |stream: &mut UnixStream| {
            // More than the socket has room for is to be taken.
            if takes {
                stream.read(&mut vec![0; 64 << 10]).is_ok_and(|len| len > 0)
            } else {
                stream.write_all(b"b").is_ok()
            }
        };
        let mut slow = UnixStream::connect(&path.0).expect("it listens");
        slow.write_all(request).expect("sent");
        let asker = std::thread::spawn(move || {
            for _ in 0..12 {
                if !goes_on(&mut slow) {
                    return;
                }
                std::thread::sleep(PAUSE);
            }
        });
        let started = Instant::now();
        Client::new(&path.0).snapshot().expect("an answer");
        assert!(started.elapsed() < 5 * PAUSE, "{:?}", started.elapsed());
        asker.join().expect("no panic");
    }
}

/// With a time limit the kernel does not go on by itself with what a signal's handler, a stop or a
/// debugger interrupted.
#[test]
fn an_answer_is_whole_though_signals_come_to_the_inspectors_thread() {
    extern "C" fn nothing(_: libc::c_int) {}
    let nothing: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler does nothing, and no other test of this program uses the signal.
    unsafe { libc::signal(libc::SIGUSR2, nothing as libc::sighandler_t) };
    let interrupt = || {
        let threads = fs::read_dir("/proc/self/task").expect("a list of threads");
        for thread in threads.map(|entry| entry.expect("a thread").path()) {
            let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
            let id =
                thread.file_name().and_then(|name| name.to_str()?.parse::<libc::pid_t>().ok()).unwrap_or(0);
            if name.trim_end() == "boson-inspect" {
                // SAFETY: it takes no pointers. A thread that has ended meanwhile is an error.
                unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), id, libc::SIGUSR2) };
            }
        }
    };
    let (core, path) = (core(), SocketPath::new());
    let _inspector = Inspector::start(&path.0, "a test", vec![core.handle().clone()]).expect("it starts");
    let name: &'static str = "x".repeat(2048).leak();
    run_on(&core, move || {
        for _ in 0..MAX_TASKS_PER_ANSWER {
            rt::named(name).spawn(std::future::pending::<()>()).detach();
        }
    });
    let mut stream = UnixStream::connect(&path.0).expect("it listens");
    let pause = || std::thread::sleep(Duration::from_millis(20));
    for piece in [&b"boson-inspect/1 "[..], b"tasks ", b"core=0\n"] {
        stream.write_all(piece).expect("it listens");
        pause();
        interrupt();
        pause();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.len() > 1 << 20 && answer.ends_with("\nend\n"), "{} bytes came", answer.len());
}

#[test]
fn who_else_may_listen_at_the_path_is_told_apart() {
    for (answer, kind, part) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], ErrorKind::Unsupported, "no boson inspector"),
        (b"", ErrorKind::Unsupported, "no boson inspector"),
        (b"boson-inspect/7 ok\nend\n", ErrorKind::Unsupported, "speaks version 7"),
        (b"boson-inspect/1 ok pid=1\ncore core=0 po", ErrorKind::Corrupt, "cut off"),
        (b"boson-inspect/1 error reason=not%20today\nend\n", ErrorKind::InvalidInput, "not today"),
        (b"\xff\xff\xff", ErrorKind::Unsupported, "no boson inspector"),
    ] {
        let path = SocketPath::new();
        let listener = UnixListener::bind(&path.0).expect("a socket");
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 64];
            let read = stream.read(&mut request).expect("a request");
            stream.write_all(answer).expect("taken");
            request[..read].to_vec()
        });
        let error = Client::new(&path.0).snapshot().expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(answering.join().expect("no panic"), b"boson-inspect/1 stats\n");
    }
}
