//! Log lines carry the task that wrote them, where somebody asks for it.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boson::rt::queue::TaskQueue;
use boson::rt::{self, Core, CoreConfig, TaskGroup};
use boson::thread;
use tracing::level_filters::LevelFilter;
use tracing::{Level, info};
use tracing_subscriber::fmt::MakeWriter;

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Runs `future` on a core, and returns the lines that were logged at `level` or above.
fn logged(level: Level, future: impl Future<Output = ()>) -> Vec<String> {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_max_level(LevelFilter::from(level))
        .with_ansi(false)
        .without_time()
        .finish();
    let core = Core::new(&CoreConfig::default().seed([0; 32])).expect("a core");
    tracing::subscriber::with_default(subscriber, || core.block_on(future));
    let text = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

/// The line that contains `text`.
fn line<'a>(lines: &'a [String], text: &str) -> &'a str {
    lines.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text:?} in {lines:#?}"))
}

struct LogsItsEnd;

impl Drop for LogsItsEnd {
    fn drop(&mut self) {
        info!("dropped");
    }
}

async fn some_tasks() {
    let steps = |marks: [&'static str; 3]| async move {
        for mark in marks {
            info!("{mark}");
            rt::yield_now().await;
        }
    };
    let first = rt::named("first").spawn(steps(["f1", "f2", "f3"]));
    let second = rt::named("second").spawn(steps(["s1", "s2", "s3"]));
    info!("between");
    first.await.expect("it ends");
    second.await.expect("it ends");
    let ends = rt::named("cancelled").spawn(async {
        let _ends = LogsItsEnd;
        std::future::pending::<()>().await;
    });
    rt::yield_now().await;
    ends.cancel();
    assert!(ends.await.is_err());
}

#[test]
fn a_line_names_its_task_across_polls() {
    own_process!();
    let lines = logged(Level::DEBUG, some_tasks());
    for (name, marks) in [("first", ["f1", "f2", "f3"]), ("second", ["s1", "s2", "s3"])] {
        for mark in marks {
            let line = line(&lines, mark);
            assert!(
                line.contains(&format!("task{{name=\"{name}\" created_at=tests/alone/tracing_spans.rs:")),
                "{line}"
            );
            assert_eq!(line.matches("task{").count(), 1, "{line}");
        }
    }
    assert!(line(&lines, "f1").contains("id=2}"), "the first after block_on: {lines:#?}");
    assert!(!line(&lines, "between").contains("task{"), "block_on has no span");
    assert!(line(&lines, "dropped").contains("task{name=\"cancelled\""), "a destructor is the task's too");
}

#[test]
fn every_way_to_spawn_is_covered() {
    own_process!();
    let lines = logged(Level::DEBUG, async {
        let queue =
            TaskQueue::new("queue", rt::queue::Shares::default(), rt::queue::LatencyClass::NotImportant);
        let queue = queue.expect("there is room");
        rt::named("queued").queue(&queue).spawn(async { info!("one") }).await.expect("it ends");
        let joined = rt::named("sent").spawn_on(&rt::handle(), || async { info!("two") });
        joined.await.expect("it ends");
        let mut group = TaskGroup::new();
        group.spawn_with(rt::named("grouped"), async { info!("three") });
        group.join_next().await.expect("one").expect("it ends");
    });
    for (mark, name) in [("one", "queued"), ("two", "sent"), ("three", "grouped")] {
        assert!(line(&lines, mark).contains(&format!("task{{name=\"{name}\"")), "{lines:#?}");
    }
}

#[test]
fn who_does_not_ask_gets_none() {
    own_process!();
    let lines = logged(Level::INFO, some_tasks());
    assert_eq!(
        lines.iter().filter(|line| line.contains("INFO alone::tracing_spans:")).count(),
        8,
        "{lines:#?}"
    );
    assert!(lines.iter().all(|line| !line.contains("task{")), "{lines:#?}");
}

#[test]
fn sleeping_is_traced() {
    own_process!();
    let lines = logged(Level::TRACE, rt::sleep(Duration::from_millis(5)));
    let sleeping = line(&lines, "sleeping");
    assert!(sleeping.contains("boson::rt") && sleeping.contains("at_most_us="), "{sleeping}");
    assert!(line(&lines, "awake").contains("asleep_us="), "{lines:#?}");
    let quiet = logged(Level::DEBUG, rt::sleep(Duration::from_millis(5)));
    assert!(!quiet.iter().any(|line| line.contains("sleeping") || line.contains("awake")), "{quiet:#?}");
}

/// A subscriber is user code, which may use the runtime.
#[test]
fn a_subscriber_may_spawn() {
    own_process!();
    struct Spawns(Rc<std::cell::Cell<u32>>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let runs = Rc::clone(&self.0);
            drop(rt::named("from a destructor in a span").spawn(async move { runs.set(runs.get() + 1) }));
        }
    }
    let runs = Rc::new(std::cell::Cell::new(0));
    let seen = Rc::clone(&runs);
    logged(Level::TRACE, async move {
        let spawns = Spawns(Rc::clone(&seen));
        rt::named("outer").spawn(async move { drop(spawns) }).await.expect("it ends");
        rt::yield_now().await;
    });
    assert_eq!(runs.get(), 1);
}

#[test]
fn a_coroutine_keeps_its_span_when_it_yields_waits_panics_and_is_cancelled() {
    own_process!();
    let lines = logged(Level::DEBUG, async {
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let yields = |name: &'static str| {
            let spawned = named(name).spawn(move || {
                for turn in 0..300 {
                    info!("{name} {turn}");
                    thread::yield_now();
                }
                boson::wait(rt::sleep(Duration::from_millis(1)));
                info!("{name} slept");
                name.len()
            });
            spawned.expect("there is room")
        };
        let (first, second) = (yields("first"), yields("second"));
        let panics = named("third").spawn(|| {
            thread::yield_now();
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        let cancelled = named("fourth").spawn(|| {
            let _logs_its_end = LogsItsEnd;
            thread::park();
        });
        let cancelled = cancelled.expect("there is room");
        assert_eq!(first.await.expect("no panic") + second.await.expect("no panic"), 11);
        let payload = panics.expect("there is room").await.expect_err("it panicked");
        assert_eq!(payload.downcast_ref(), Some(&"on purpose"));
        cancelled.cancel();
        assert!(cancelled.await.is_err());
    });
    for name in ["first", "second"] {
        for text in (0..300).map(|turn| format!("{name} {turn}")).chain([format!("{name} slept")]) {
            let line = lines.iter().find(|line| line.ends_with(&text)).expect("it was logged");
            assert!(line.contains(&format!("task{{name=\"{name}\"")), "{line}");
        }
    }
    // They take turns as without spans.
    let turns: Vec<&String> =
        lines.iter().filter(|line| line.contains(" 299") || line.contains(" 298")).collect();
    for (line, end) in turns.iter().zip(["first 298", "second 298", "first 299", "second 299"]) {
        assert!(line.ends_with(end), "{turns:?}");
    }
    assert!(line(&lines, "dropped").contains("task{name=\"fourth\""));
}
