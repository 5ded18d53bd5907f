//! What is told of tasks from outside and from inside.

use std::future::Future;
use std::time::Duration;

use boson::observe;
use boson::observe::{TaskInfo, TaskOrder, TaskRange, TaskState};
use boson::rt::queue::{LatencyClass, Shares, TaskQueue};
use boson::rt::{self, Core, CoreConfig};
use boson::thread;

fn core() -> Core {
    let config = CoreConfig::default().seed([7; 32]);
    Core::new(&config).expect("a core")
}

fn run<F: Future>(future: F) -> F::Output {
    core().block_on(future)
}

fn named(name: &str) -> TaskInfo {
    let tasks = observe::tasks();
    let found = tasks.iter().find(|task| task.name == name);
    found.unwrap_or_else(|| panic!("{name} is among {tasks:?}")).clone()
}

#[test]
fn scoped_coroutines_have_the_name_and_place_that_they_were_given() {
    // An assertion that fails in a scope is noticed when its coroutines have ended.
    const LONG: Duration = Duration::from_secs(2);
    run(async {
        let program = thread::Builder::new().name("program".to_owned()).spawn(|| {
            thread::scope(|scope| {
                let first = line!();
                let builder = thread::Builder::new().name("worker".to_owned());
                let worker =
                    builder.spawn_scoped(scope, || thread::park_timeout(LONG)).expect("there is room");
                let between = line!();
                let unnamed = scope.spawn(|| thread::park_timeout(LONG));
                let last = line!();
                thread::sleep(Duration::from_millis(5));
                let found = named("worker");
                assert!(found.is_coroutine);
                assert_eq!(found.created_at.file(), file!());
                assert!((first..between).contains(&found.created_at.line()), "{found}");
                let found = named("coroutine");
                assert_eq!(found.created_at.file(), file!());
                assert!((between..last).contains(&found.created_at.line()), "{found}");
                worker.thread().unpark();
                unnamed.thread().unpark();
            });
        });
        program.expect("there is room").await.expect("no panic");
    });
}

#[test]
fn what_a_scope_and_its_joiners_wait_for_is_said() {
    run(async {
        let waits = |name: &str, f: fn()| {
            thread::Builder::new().name(name.to_owned()).spawn(f).expect("there is room").detach();
        };
        waits("ends a scope", || {
            thread::scope(|scope| scope.spawn(thread::park).detach());
        });
        waits("joins", || {
            thread::scope(|scope| drop(scope.spawn(thread::park).join()));
        });
        rt::sleep(Duration::from_millis(5)).await;
        assert_eq!(named("ends a scope").waits_for, Some("the coroutines of a scope"));
        assert_eq!(named("joins").waits_for, Some("the end of a coroutine"));
    });
}

/// What a program waits for that lives in `main`.
#[test]
fn the_future_of_block_on_is_a_task_among_the_others() {
    run(async {
        let line = line!() - 1;
        rt::named("asks")
            .spawn(async move {
                rt::sleep(Duration::from_millis(5)).await;
                let root = named("block_on");
                assert!(root.is_block_on && !root.is_coroutine);
                assert_eq!((root.queue, root.waits_for), ("default", Some("the end of a task")));
                assert_eq!(root.state, TaskState::Waiting);
                assert!(root.created_at.file().ends_with("task_dump.rs") && root.created_at.line() < line);
                assert_eq!(observe::tasks().iter().filter(|task| task.is_block_on).count(), 1);
            })
            .await
            .expect("no panic");
        assert_eq!(named("block_on").state, TaskState::Running);
    });
}

/// Pages of a long list: each task once, wherever that of `block_on` comes.
#[test]
fn the_future_of_block_on_has_its_place_in_the_order() {
    let core = core();
    core.block_on(async {
        (0..3).for_each(|_| rt::named("before").spawn(std::future::pending::<()>()).detach());
    });
    core.block_on(async {
        (0..3).for_each(|_| rt::named("after").spawn(std::future::pending::<()>()).detach());
        let all = observe::tasks();
        assert_eq!(all.len(), 7);
        let ids: Vec<_> = all.iter().map(|task| task.id).collect();
        assert!(ids.is_sorted_by(|a, b| a > b), "the newest first: {ids:?}");
        assert_eq!(all.iter().position(|task| task.is_block_on), Some(3));
        for (order, limit) in
            [(TaskOrder::NewestFirst, 1), (TaskOrder::OldestFirst, 2), (TaskOrder::OldestFirst, 4)]
        {
            let (mut found, mut last) = (Vec::new(), None);
            loop {
                let page = observe::tasks_in(TaskRange { order, after: last, limit });
                assert!(page.len() <= limit);
                let Some(task) = page.last() else { break };
                last = Some(task.id);
                found.extend(page.iter().map(|task| task.id));
            }
            if order == TaskOrder::OldestFirst {
                found.reverse();
            }
            assert_eq!(found, ids, "{order:?} by {limit}");
        }
        assert!(observe::tasks_in(TaskRange { limit: 0, ..TaskRange::ALL }).is_empty());
    });
}

#[test]
fn counters_agree_with_the_dump() {
    fn agree() -> usize {
        let stats = observe::stats();
        let lives = usize::try_from(stats.spawned - stats.ended).expect("few");
        assert_eq!((lives, observe::tasks().len()), (stats.tasks, stats.tasks));
        lives
    }
    let core = core();
    core.block_on(async {
        assert_eq!(agree(), 1);
        rt::named("waits").spawn(std::future::pending::<()>()).detach();
        assert_eq!(agree(), 2);
        rt::named("ends").spawn(async {}).await.expect("no panic");
        assert_eq!(agree(), 2);
    });
    assert_eq!(core.stats().tasks, 1);
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        core.block_on(async { panic!("on purpose") })
    }));
    assert!(unwound.is_err());
    assert_eq!(core.stats().tasks, 1);
    assert_eq!(core.block_on(async { agree() }), 2);
}

#[test]
fn a_task_can_ask_who_it_is() {
    run(async {
        assert!(observe::current_task().expect("a task").is_block_on);
        let queue =
            TaskQueue::new("job", Shares::DEFAULT, LatencyClass::NotImportant).expect("there is room");
        let asked = rt::named("asks").queue(&queue).spawn(async { observe::current_task().expect("a task") });
        let id = asked.id();
        let task = asked.await.expect("no panic");
        assert_eq!((task.id, task.name, task.queue, task.state), (id, "asks", "job", TaskState::Running));
        assert!(!task.is_coroutine && !task.is_block_on && task.stack_bytes.is_none());
        let builder = thread::Builder::new().name("coroutine that asks".to_owned());
        let coroutine = builder.spawn(|| observe::current_task().expect("a task")).expect("there is room");
        assert!(named("coroutine that asks").is_coroutine, "also before it begins");
        let task = coroutine.await.expect("no panic");
        assert_eq!((task.name, task.queue, task.is_coroutine), ("coroutine that asks", "default", true));
        assert!(task.stack_bytes.is_some());
        let between = rt::handle().run(|| observe::current_task().is_none()).await;
        assert!(between.expect("no panic"));
    });
}
