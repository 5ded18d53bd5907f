//! Groups of tasks.

use crate::support::hooked_waker;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use boson::observe;
use boson::rt::{self, Core, CoreConfig, TaskGroup};
use hooked_waker::Hook;

fn run<F: Future>(future: F) -> F::Output {
    let config = CoreConfig::default().seed([7; 32]);
    Core::new(&config).expect("a core").block_on(future)
}

/// Counts its destruction.
struct Ends(Rc<Cell<u32>>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

fn waits(ended: &Rc<Cell<u32>>) -> impl Future<Output = ()> + use<> {
    let ends = Ends(Rc::clone(ended));
    async move {
        let _ends = ends;
        std::future::pending::<()>().await;
    }
}

#[test]
fn results_come_with_the_number_of_their_task() {
    run(async {
        let mut group = TaskGroup::new();
        let slow = group.spawn_with(rt::named("slow"), async {
            rt::sleep(Duration::from_millis(20)).await;
            "slow"
        });
        let fast = group.spawn_with(rt::named("fast"), async { "fast" });
        assert!(observe::tasks().iter().any(|task| task.id == slow && task.name == "slow"));
        let (id, result) = group.join_next_with_id().await.expect("two run");
        assert_eq!((id, result.expect("no panic")), (fast, "fast"));
        let (id, result) = group.join_next_with_id().await.expect("one runs");
        assert_eq!((id, result.expect("no panic")), (slow, "slow"));
        assert!(group.join_next_with_id().await.is_none());
    });
}

#[test]
fn a_result_that_is_there_can_be_had_without_waiting() {
    run(async {
        let mut group = TaskGroup::new();
        assert!(group.try_join_next().is_none());
        let id = group.spawn_with(rt::named("ends"), async { 7 });
        assert!(group.try_join_next().is_none(), "it has not run");
        rt::yield_now().await;
        let (joined, result) = group.try_join_next_with_id().expect("it has ended");
        assert_eq!((joined, result.expect("no panic")), (id, 7));
        assert!(group.is_empty() && group.try_join_next().is_none());
    });
}

#[test]
fn shutting_down_waits_until_every_task_is_gone() {
    run(async {
        let ended = Rc::default();
        let mut group = TaskGroup::new();
        for _ in 0..10 {
            group.spawn_with(rt::named("waits"), waits(&ended));
        }
        rt::yield_now().await;
        group.shutdown().await;
        assert_eq!((ended.get(), group.len()), (10, 0));
        group.spawn_with(rt::named("again"), async {});
        assert!(group.join_next().await.expect("one runs").is_ok());
    });
}

#[test]
fn tasks_that_are_detached_outlive_the_group() {
    run(async {
        let ended = Rc::default();
        let mut group = TaskGroup::new();
        let detached = group.spawn_with(rt::named("detached"), waits(&ended));
        group.detach_all();
        assert!(group.is_empty());
        group.spawn_with(rt::named("kept"), waits(&ended));
        drop(group);
        rt::sleep(Duration::from_millis(5)).await;
        assert_eq!(ended.get(), 1);
        assert!(observe::tasks().iter().any(|task| task.id == detached));
    });
}

/// The end of a detached task is told to nobody, least of all to what the group was used for since.
#[test]
fn the_end_of_a_detached_task_is_no_result() {
    run(async {
        let mut group = TaskGroup::new();
        group.spawn_with(rt::named("detached"), async { 1 });
        group.detach_all();
        rt::yield_now().await;
        group.spawn_with(rt::named("joined"), async { 2 });
        assert_eq!(group.join_next().await.expect("one runs").expect("no panic"), 2);
        assert!(group.join_next().await.is_none());
    });
}

#[test]
fn the_last_members_destructor_may_ask_for_results() {
    struct Asks(Rc<std::cell::RefCell<Option<TaskGroup<()>>>>, Rc<Cell<bool>>);
    impl Drop for Asks {
        fn drop(&mut self) {
            let group = self.0.take();
            if let Some(mut group) = group {
                // It has not quite ended.
                self.1.set(group.try_join_next().is_none() && group.len() == 1);
                self.0.replace(Some(group));
            }
        }
    }
    run(async {
        let shared = Rc::default();
        let asked = Rc::new(Cell::new(false));
        let asks = Asks(Rc::clone(&shared), Rc::clone(&asked));
        let mut group = TaskGroup::new();
        group.spawn_with(rt::named("asks"), async move { drop(asks) });
        shared.replace(Some(group));
        rt::yield_now().await;
        let group = shared.take();
        assert!(asked.get());
        assert!(group.expect("put back").join_next().await.expect("one ran").is_ok());
    });
}

/// The joiner is told when a task's future goes, which is before there is a result. One that looks
/// at once is told again.
#[test]
fn a_joiner_that_looks_before_the_task_has_quite_ended_is_told_again() {
    run(async {
        let group = Rc::new(RefCell::new(TaskGroup::new()));
        group.borrow_mut().spawn_with(rt::named("ends"), async { 7 });
        let joins = Rc::clone(&group);
        let hook = Hook::new();
        let join = move || hook.poll(&mut Box::pin(joins.borrow_mut().join_next()));
        assert!(join().is_pending());
        let found = Rc::new(Cell::new(None));
        let finds = Rc::clone(&found);
        hook.on_wake.replace(Some(Box::new(move || finds.set(Some(join().is_pending())))));
        rt::yield_now().await;
        assert_eq!(found.get(), Some(true), "it looked too early");
        assert_eq!(hook.take_wakes(), 2);
        let result = group.borrow_mut().try_join_next();
        assert_eq!(result.expect("it has ended").expect("no panic"), 7);
    });
}
