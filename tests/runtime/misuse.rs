//! What must not be done, and what happens if it is.

use crate::support::not_run;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boson::ErrorKind;
use boson::observe;
use boson::rt::{self, Core, CoreConfig, JoinError};

fn config() -> CoreConfig {
    CoreConfig::default().seed([7; 32])
}

fn core() -> Core {
    Core::new(&config()).expect("io_uring is usable")
}

fn message_of_panic(call: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let payload = std::panic::catch_unwind(call).expect_err("it is not allowed here");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).expect("a message")
}

#[test]
fn outside_a_core_a_call_panics_with_its_name_and_what_to_do() {
    for (name, message) in [
        ("rt::spawn", message_of_panic(|| drop(rt::named("nowhere").spawn(async {})))),
        ("rt::now", message_of_panic(|| _ = rt::now())),
        ("observe::stats", message_of_panic(|| _ = observe::stats())),
        (
            "rt::Deadline",
            message_of_panic(|| _ = rt::time::Deadline::within(Duration::ZERO)).replace("now", "Deadline"),
        ),
    ] {
        assert!(message.contains(name), "{message}");
        assert!(message.contains("outside a boson core: call it from inside `Core::block_on`"), "{message}");
    }
    assert!(!rt::is_in_core());
    rt::task::waiting_for("nothing");
}

#[test]
fn block_on_inside_a_core_is_an_error() {
    let (outer, inner) = (core(), core());
    let error = outer.block_on(async { inner.try_block_on(async {}) }).expect_err("nested");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("inside a boson core already"), "{error}");
}

#[test]
fn signals_during_waits_are_not_noticed() {
    extern "C" fn ignore(_: i32) {}
    let handler: extern "C" fn(i32) = ignore;
    // SAFETY: the handler does nothing, and SIGALRM is nobody else's in this process. Without
    // SA_RESTART (`signal` in glibc sets it, but the waits of a ring are never restarted) every
    // wait is interrupted.
    unsafe { libc::signal(libc::SIGALRM, handler as libc::sighandler_t) };
    let every = libc::timeval { tv_sec: 0, tv_usec: 500 };
    let storm = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: `storm` is a valid setting; the old one is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const storm, std::ptr::null_mut()) };
    let started = Instant::now();
    core().block_on(async {
        for _ in 0..20 {
            rt::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(started.elapsed() >= Duration::from_millis(200));
    let calm = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 0 },
    };
    // SAFETY: as above; this ends the storm.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const calm, std::ptr::null_mut()) };
}

#[test]
fn a_core_that_cannot_be_made_leaves_its_thread_on_the_cpus_that_it_had() {
    let cpus = || rustix::thread::sched_getaffinity(None).expect("a thread may ask for its own");
    let before = cpus();
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu));
    if before.count() < 2 {
        return not_run::not_run("with one CPU, being pinned to it cannot be seen");
    }
    let pinned = config().cpu(first);
    let wrong = pinned.clone().arena_bytes(usize::MAX / 2);
    Core::new(&wrong).expect_err("no machine has so much memory");
    assert_eq!(cpus(), before);
    drop(Core::new(&pinned).expect("io_uring is usable"));
    assert_eq!(cpus().count(), 1, "a core that was made is pinned");
}

#[test]
fn a_core_takes_no_more_messages_than_its_limit() {
    let core = Core::new(&config().messages(4)).expect("io_uring is usable");
    let handle = core.handle();
    let mut sent: Vec<_> =
        (0..5).map(|i| rt::named("message").spawn_on(&handle, move || async move { i })).collect();
    let refused = sent.pop().expect("five");
    core.block_on(async {
        for (i, result) in sent.into_iter().enumerate() {
            assert_eq!(result.await.expect("there was room"), i);
        }
        assert!(matches!(refused.await, Err(JoinError::Full)));
        assert_eq!(rt::handle().run(|| 5).await.expect("there is room again"), 5);
    });
}

/// Polls a future on a thread that is no core's.
fn block_on_thread<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) =
            future.as_mut().poll(&mut std::task::Context::from_waker(&waker))
        {
            return output;
        }
        std::thread::park();
    }
}

#[test]
fn a_panic_on_another_core_is_the_joiners_error_and_the_core_goes_on() {
    let thread = rt::CoreThread::start("remote", &config()).expect("a thread");
    let handle = thread.handle();
    let error = block_on_thread(
        rt::named("panics").spawn_on(handle, || async { panic!("on {}", String::from("purpose")) }),
    );
    let Err(JoinError::Panicked(payload)) = error else { panic!("{error:?}") };
    assert_eq!(payload.message().as_deref(), Some("on purpose"));
    let error = block_on_thread(
        rt::named("panics early").spawn_on(handle, || -> std::future::Ready<()> { panic!("early") }),
    );
    assert!(matches!(error, Err(JoinError::Panicked(_))));
    let error = block_on_thread(handle.run(|| -> u32 { panic!("in a call") }));
    assert!(matches!(error, Err(JoinError::Panicked(_))));
    assert_eq!(block_on_thread(handle.run(|| observe::stats().panicked)).expect("it goes on"), 3);
}
