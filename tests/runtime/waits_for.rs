//! What a task waits for is said of every primitive, in the report of a simulation that is stuck.

use std::future::{Future, pending};
use std::time::Duration;

use boson::blocking::sync::{self as blocking, Arc, OnceLock};
use boson::observe;
use boson::sim::{Stuck, World};
use boson::thread;
use boson::{rt, sync};

/// Runs `start`, which starts a task that waits forever, and returns what that task is said to
/// wait for.
fn awaited<F: Future<Output = ()> + 'static>(start: impl FnOnce() -> F) -> Option<&'static str> {
    let world = World::new(1);
    let stuck: Stuck = world
        .core("a")
        .try_block_on(async {
            start().await;
            pending::<()>().await;
        })
        .expect_err("everything waits");
    let (_, tasks) = stuck.tasks().next().expect("a core");
    let waits_for = tasks[0].waits_for;
    if let Some(what) = waits_for {
        assert!(stuck.to_string().contains(what), "{stuck}");
    }
    waits_for
}

/// The same of a coroutine.
fn coroutine(wait: impl FnOnce() + 'static) -> Option<&'static str> {
    awaited(|| async {
        thread::spawn(wait);
    })
}

/// The same of an async task.
fn task<F: Future<Output = ()> + 'static>(wait: impl FnOnce() -> F + 'static) -> Option<&'static str> {
    awaited(|| async {
        drop(rt::named("waits").spawn(wait()));
    })
}

#[test]
fn blocking_primitives_say_what_is_waited_for() {
    let mutex = || {
        let mutex = blocking::Mutex::new(());
        let _guard = mutex.lock();
        drop(mutex.lock());
    };
    assert_eq!(coroutine(mutex), Some("a mutex"));
    let read = || {
        let lock = blocking::RwLock::new(());
        let _guard = lock.write();
        drop(lock.read());
    };
    assert_eq!(coroutine(read), Some("a read-write lock"));
    let write = || {
        let lock = blocking::RwLock::new(());
        let _guard = lock.read();
        drop(lock.write());
    };
    assert_eq!(coroutine(write), Some("a read-write lock"));
    let condvar = || {
        let mutex = blocking::Mutex::new(());
        drop(blocking::Condvar::new().wait(mutex.lock().expect("not poisoned")));
    };
    assert_eq!(coroutine(condvar), Some("a condition variable"));
    assert_eq!(
        coroutine(|| {
            blocking::Barrier::new(2).wait();
        }),
        Some("a barrier")
    );
    let receive = || {
        let (_sender, receiver) = blocking::mpsc::channel::<()>();
        receiver.recv().expect("never");
    };
    assert_eq!(coroutine(receive), Some("a message of a channel"));
    let send = || {
        let (sender, _receiver) = blocking::mpsc::sync_channel(1);
        sender.send(1).expect("room");
        sender.send(2).expect("never");
    };
    assert_eq!(coroutine(send), Some("room in a channel"));
    assert_eq!(
        coroutine(|| {
            OnceLock::<()>::new().wait();
        }),
        Some("a value that is being made")
    );
}

#[test]
fn a_wait_group_and_whatever_is_wrapped_say_what_is_waited_for() {
    let group = || async {
        let group = sync::WaitGroup::new();
        let _token = group.token();
        group.wait().await;
    };
    assert_eq!(task(group), Some("a wait group"));
    let condvar = || async {
        let mutex = sync::Mutex::new(());
        drop(sync::Condvar::new().wait(mutex.lock().await).await);
    };
    assert_eq!(task(condvar), Some("a condition variable"));
    let tokio = || async {
        let semaphore = sync::Semaphore::new(0);
        drop(rt::waits_for("a free connection", semaphore.acquire()).await);
    };
    assert_eq!(task(tokio), Some("a free connection"));
    let other = || async {
        let semaphore = sync::Semaphore::new(0);
        drop(semaphore.acquire().await);
    };
    assert_eq!(task(other), None, "a bare type of tokio says nothing");
}

#[test]
fn the_first_of_several_futures_counts_and_the_wrapper_says_more_than_what_is_in_it() {
    let inner = || async {
        let (_sender, receiver) = sync::local::oneshot::channel::<()>();
        let _never = rt::waits_for("the answer", receiver).await;
    };
    assert_eq!(task(inner), Some("the answer"));
    let nested = || async {
        rt::waits_for("the whole", rt::waits_for("the part", pending::<()>())).await;
    };
    assert_eq!(task(nested), Some("the whole"));
    let both = || async {
        let one = rt::waits_for("the one", pending::<()>());
        let other = rt::waits_for("the other", pending::<()>());
        futures_util::future::join(one, other).await;
    };
    assert_eq!(task(both), Some("the one"));
    let after_a_timer = || async {
        let sleep = rt::sleep(Duration::from_secs(u64::from(u32::MAX)));
        futures_util::future::join(sleep, rt::waits_for("the answer", pending::<()>())).await;
    };
    let world = World::new(1);
    world.core("a").block_on(async {
        let task = rt::named("waits").spawn(after_a_timer());
        rt::sleep(Duration::from_millis(1)).await;
        assert_eq!(observe::tasks()[0].waits_for, Some("the answer"), "a timer says less");
        task.cancel();
    });
    let shared = Arc::new(());
    assert_eq!(boson::wait(rt::waits_for("nobody asks", async { Arc::strong_count(&shared) })), 1);
}
