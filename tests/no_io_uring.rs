//! Cores where the kernel refuses io_uring: what they take instead, what they say, and that it holds under misuse.

use std::sync::Arc;
use std::thread;

use boson::ErrorKind;
use boson::rt::{self, Core, CoreConfig, MonotonicClock, ReactorChoice, ReactorKind};
use without_io_uring::forbid_io_uring;

fn config(reactor: ReactorChoice) -> CoreConfig {
    let mut config = CoreConfig::new(Arc::new(MonotonicClock::new()), [7; 32]);
    config.reactor = reactor;
    config
}

fn core(reactor: ReactorChoice) -> Core {
    Core::new(&config(reactor)).expect("a core")
}

/// Runs `body` in a thread of its own in which io_uring calls fail with `errno`.
fn refused<T: Send + 'static>(errno: i32, body: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(move || {
        forbid_io_uring(errno).expect("the kernel takes a filter");
        body()
    })
    .join()
    .expect("no panic")
}

#[test]
fn a_core_takes_epoll_where_io_uring_is_refused_and_says_so() {
    for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENOMEM] {
        let (by_core, by_task) = refused(errno, || {
            let core = core(ReactorChoice::Auto);
            let by_task = core.block_on(async { rt::stats().reactor }).expect("runs");
            (core.stats().reactor, by_task)
        });
        assert_eq!((by_core, by_task), (ReactorKind::Epoll, ReactorKind::Epoll), "errno {errno}");
    }
}

#[test]
fn a_core_takes_io_uring_exactly_where_the_probe_says_that_it_may() {
    let may = rt::probe_io_uring().is_ok();
    // Set by the program that runs all tests with the filter: then it is in force.
    if std::env::var("BOSON_TEST_IO_URING").is_ok_and(|value| value == "forbidden") {
        assert!(!may, "io_uring is said to be forbidden here, and works");
    }
    let expected = if may { ReactorKind::IoUring } else { ReactorKind::Epoll };
    assert_eq!(core(ReactorChoice::Auto).stats().reactor, expected);
    assert_eq!(core(ReactorChoice::Epoll).stats().reactor, ReactorKind::Epoll);
}

#[test]
fn a_program_can_insist_on_io_uring() {
    let error = refused(libc::EPERM, || Core::new(&config(ReactorChoice::IoUring)).expect_err("refused"));
    assert_eq!(error.code(), Some(libc::EPERM));
    assert!(error.to_string().contains("seccomp"), "{error}");
}

#[test]
fn a_mistake_in_the_configuration_is_no_reason_for_epoll() {
    if rt::probe_io_uring().is_err() {
        // The kernel says that it is forbidden before it looks at the number.
        return;
    }
    let mut config = config(ReactorChoice::Auto);
    config.ring_entries = 1 << 20;
    let error = Core::new(&config).expect_err("too many entries");
    assert_eq!(error.code(), Some(libc::EINVAL));
    assert_ne!(error.kind(), ErrorKind::Unsupported);
}
