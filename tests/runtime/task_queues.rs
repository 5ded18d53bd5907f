//! Which queue a task is on, and how long a queue lives.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use boson::observe;
use boson::rt::queue::{LatencyClass, MAX_TASK_QUEUES, Shares, TaskQueue};
use boson::rt::{self, Core, CoreConfig, TaskGroup};
use boson::{ErrorKind, thread};

fn core() -> Core {
    let config = CoreConfig::default().seed([7; 32]);
    Core::new(&config).expect("a core")
}

fn run<F: Future>(future: F) -> F::Output {
    core().block_on(future)
}

fn queue(name: &'static str) -> TaskQueue {
    TaskQueue::new(name, Shares::new(10), LatencyClass::NotImportant).expect("there is room")
}

fn here() -> &'static str {
    TaskQueue::current().name()
}

fn names() -> Vec<&'static str> {
    observe::task_queues().iter().map(|queue| queue.name).collect()
}

#[test]
fn what_a_task_spawns_is_on_its_queue() {
    run(async {
        assert_eq!(here(), "default");
        let job = queue("job");
        let found = rt::named("job").queue(&job).spawn(async {
            let spawned = rt::named("task").spawn(async { here() }).await.expect("no panic");
            let mut group = TaskGroup::new();
            group.spawn_with(rt::named("member"), async { here() });
            let member = group.join_next().await.expect("one runs").expect("no panic");
            let coroutine = thread::spawn(|| {
                let scoped = thread::scope(|scope| scope.spawn(here).join().expect("no panic"));
                let nested = boson::wait(rt::named("nested").spawn(async { here() })).expect("no panic");
                [here(), scoped, nested]
            });
            let [coroutine, scoped, nested] = coroutine.await.expect("no panic");
            [here(), spawned, member, coroutine, scoped, nested]
        });
        assert_eq!(found.await.expect("no panic"), ["job"; 6]);
        assert_eq!(rt::named("outside").spawn(async { here() }).await.expect("no panic"), "default");
    });
}

#[test]
fn tasks_coroutines_and_members_of_groups_can_be_put_on_a_queue() {
    run(async {
        let (outer, inner) = (queue("outer"), queue("inner"));
        let found = rt::named("outer").queue(&outer).spawn(async move {
            let named = || thread::Builder::new().queue(&inner);
            let coroutine = named().spawn(here).expect("there is room").await.expect("no panic");
            let mut group = TaskGroup::new();
            group.spawn_with(rt::named("member").queue(&inner), async { here() });
            let member = group.join_next().await.expect("one runs").expect("no panic");
            let scoped = named();
            let scoped = thread::spawn(move || {
                thread::scope(|scope| {
                    let scoped = scoped.spawn_scoped(scope, here).expect("there is room");
                    scoped.join().expect("no panic")
                })
            });
            let scoped = scoped.await.expect("no panic");
            let back = rt::named("back").queue(&TaskQueue::default_queue()).spawn(async { here() });
            [coroutine, member, scoped, back.await.expect("no panic"), here()]
        });
        assert_eq!(found.await.expect("no panic"), ["inner", "inner", "inner", "default", "outer"]);
    });
}

/// What a task's end spawns is on its queue too, and what runs between tasks spawns on the default
/// one.
#[test]
fn destructors_inherit_and_messages_do_not() {
    struct SpawnsOnDrop(Rc<RefCell<Vec<&'static str>>>);
    impl Drop for SpawnsOnDrop {
        fn drop(&mut self) {
            let seen = Rc::clone(&self.0);
            rt::named("in a destructor").spawn(async move { seen.borrow_mut().push(here()) }).detach();
        }
    }
    run(async {
        let seen = Rc::default();
        let spawns = SpawnsOnDrop(Rc::clone(&seen));
        let task = rt::named("ends").queue(&queue("ends")).spawn(async move {
            let _spawns = spawns;
            std::future::pending::<()>().await;
        });
        rt::yield_now().await;
        task.cancel();
        assert!(task.await.expect_err("cancelled").is_cancelled());
        while seen.borrow().is_empty() {
            rt::yield_now().await;
        }
        assert_eq!(*seen.borrow(), ["ends"]);
        assert_eq!(names(), ["default"], "its last task has ended");
        let job = queue("job");
        let handle = rt::handle();
        let sent = rt::named("sends").queue(&job).spawn(async move {
            let call = handle.run(here).await.expect("no panic");
            let task = rt::named("sent").spawn_on(&handle, async || here()).await.expect("no panic");
            [call, task]
        });
        assert_eq!(sent.await.expect("no panic"), ["default"; 2]);
    });
}

#[test]
fn a_queue_lives_as_long_as_its_last_task_or_handle() {
    run(async {
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let job = queue("job");
        rt::named("ends first")
            .queue(&job)
            .spawn(async {
                rt::named("inherits").spawn(released).detach();
            })
            .await
            .expect("no panic");
        drop(job);
        assert_eq!(names(), ["default", "job"], "of an inherited task alone");
        // Its place is not given to others meanwhile.
        let others: Vec<_> = (2..MAX_TASK_QUEUES).map(|_| queue("other")).collect();
        let full = TaskQueue::new("one more", Shares::DEFAULT, LatencyClass::NotImportant);
        assert_eq!(full.expect_err("no place").kind(), ErrorKind::LimitReached);
        drop(others);
        release.send(()).expect("it waits");
        while names().len() > 1 {
            rt::yield_now().await;
        }
        let current = rt::named("asks").queue(&queue("handle")).spawn(async { TaskQueue::current() });
        let current = current.await.expect("no panic");
        assert_eq!((current.name(), names()), ("handle", vec!["default", "handle"]));
        drop(current);
        assert_eq!(names(), ["default"]);
    });
}

#[test]
fn a_queue_of_another_core_is_refused() {
    let foreign = run(async { queue("foreign") });
    run(async {
        let error = thread::Builder::new().queue(&foreign).spawn(|| ()).expect_err("another core's");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        let on_it =
            rt::named("spawns").spawn(async move { drop(rt::named("task").queue(&foreign).spawn(async {})) });
        assert!(on_it.await.expect_err("another core's").is_panic());
        let (mine, handle) = (queue("mine"), rt::handle());
        let sent = thread::Builder::new().queue(&mine).spawn_on(&handle, || ());
        let error = boson::Error::from(sent.await.expect_err("a queue cannot be sent"));
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}
