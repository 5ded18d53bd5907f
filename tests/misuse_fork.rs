//! A process that forks while it has a core. Alone in its file: other tests' threads would hold locks at the fork.

use std::sync::Arc;
use std::time::Duration;

use boson::rt::{self, Core, CoreConfig, CoreThread, JoinError, MonotonicClock, Shutdown, Watchdog};

fn config() -> CoreConfig {
    CoreConfig::new(Arc::new(MonotonicClock::new()), [7; 32])
}

fn core() -> Core {
    Core::new(&config()).expect("io_uring is usable")
}

fn message_of_panic(call: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let payload = std::panic::catch_unwind(call).expect_err("it is not allowed here");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).expect("a message")
}

/// Runs `child` in a forked process; whether it said that all is well.
fn in_fork(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child only runs `child` and leaves with `_exit`. Other threads of the test may hold locks of the allocator at
    // the fork; glibc's own handlers make that one usable in the child.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "no process");
    if pid == 0 {
        // SAFETY: asks for a signal that ends the child should it hang.
        unsafe { libc::alarm(10) };
        let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!well)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made; `status` is room for its status.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    waited == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn a_forked_child_cannot_use_its_parents_core_and_leaves_it_alone() {
    let mut core = Some(core());
    let parents = core.as_ref().expect("just made");
    parents.block_on(rt::sleep(Duration::from_millis(1))).expect("the ring works");
    rt_task_in_flight(parents);
    let handle = parents.handle();
    let thread = CoreThread::start("parents", &config()).expect("a thread");
    let watchdog = Watchdog::start(std::slice::from_ref(&handle), Duration::from_secs(10)).expect("a thread");
    let (mut thread, mut watchdog) = (Some(thread), Some(watchdog));
    let well = in_fork(|| {
        let core = core.take().expect("copied");
        let refused = core.block_on(async {}).is_err_and(|error| error.to_string().contains("forked"));
        // Nothing of the parent's is cancelled.
        drop(core);
        // A core of its own works.
        let own = Core::new(&config()).and_then(|own| own.block_on(async { 3 }));
        refused && own.is_ok_and(|three| three == 3)
    });
    assert!(well, "the child");
    let well = in_fork(|| {
        let thread = thread.take().expect("copied");
        let own = Core::new(&config()).expect("io_uring is usable");
        // It says so, and nobody waits for what will not come.
        let sent = rt::timeout(Duration::from_secs(5), thread.handle().run(|| 1));
        let refused = own.block_on(sent).is_ok_and(|sent| matches!(sent, Ok(Err(JoinError::Cancelled))));
        // Its threads are not in this process.
        drop(thread);
        drop(watchdog.take());
        refused
    });
    assert!(well, "the child with its parent's threads");
    what_waits_at_the_fork_says_cancelled(parents_thread(&thread));
    let well = in_fork(|| core.take().expect("copied").shutdown(Shutdown::Cancel, Duration::ZERO).is_err());
    assert!(well, "the child that shuts its parent's core down");
    drop((thread, watchdog));
    // In the middle of a task: it ends there with a panic, and the core with an error.
    let core = core.expect("the child took its copy");
    core.block_on(async {
        let well = in_fork(|| message_of_panic(|| drop(rt::spawn("child", async {}))).contains("forked"));
        assert!(well, "the child inside a task");
        rt::sleep(Duration::from_millis(1)).await;
    })
    .expect("the parent goes on");
    drop(handle);
}

/// Leaves a task that sleeps on the core.
fn rt_task_in_flight(core: &Core) {
    core.block_on(async { rt::spawn("sleeps", rt::sleep(Duration::from_secs(60))).detach() }).expect("runs");
}

fn parents_thread(thread: &Option<CoreThread>) -> &CoreThread {
    thread.as_ref().expect("the child took its copy")
}

/// Results of the parent's threads that come after the fork come to the parent alone; what was there before is the child's too.
fn what_waits_at_the_fork_says_cancelled(thread: &CoreThread) {
    let mut pending = Box::pin(thread.handle().spawn("for ever", std::future::pending::<()>));
    let mut done = Box::pin(thread.handle().run(|| 7));
    let own = core();
    own.block_on(async {
        let soon = rt::timeout(Duration::from_millis(1), &mut pending).await;
        assert!(soon.is_err(), "it waits");
        // The message behind it was run before this one.
        thread.handle().run(|| ()).await.expect("runs");
    })
    .expect("the ring works");
    let well = in_fork(|| {
        let own = core();
        own.block_on(rt::timeout(Duration::from_secs(5), async {
            matches!((&mut pending).await, Err(JoinError::Cancelled))
                && (&mut done).await.is_ok_and(|it| it == 7)
        }))
        .is_ok_and(|answered| answered.is_ok_and(|well| well))
    });
    assert!(well, "the child that awaits its parent's result");
}
