//! Signals that are awaited: none is lost, whichever task stops waiting at whatever time.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use boson::observe;
use boson::rt::reactor::ReactorChoice;
use boson::rt::signal::{Signal, Signals};
use boson::rt::{self, Core, CoreConfig};
use boson::{ErrorKind, Result};

/// Runs `test` on a core with an io_uring, where there is one, and on one with epoll.
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        let config = CoreConfig::default().seed([5; 32]).reactor(reactor);
        let core = Core::new(&config).expect("a core");
        core.block_on(test());
    }
}

/// Sends a signal to this thread alone: the others of the test program have it unblocked.
fn raise(number: libc::c_int) {
    // SAFETY: the signal is blocked in this thread, so that nothing but the descriptor takes it.
    assert_eq!(unsafe { libc::raise(number) }, 0);
}

async fn soon(next: impl Future<Output = Result<Signal>>) -> Signal {
    rt::timeout(Duration::from_secs(5), next).await.expect("no signal was lost").expect("it is read")
}

fn poll_once(future: Pin<&mut impl Future>) {
    assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn signals_are_told_apart() {
    own_process!();
    on_both(async || {
        let all = [
            (Signal::Hangup, libc::SIGHUP),
            (Signal::Interrupt, libc::SIGINT),
            (Signal::Quit, libc::SIGQUIT),
            (Signal::User1, libc::SIGUSR1),
            (Signal::User2, libc::SIGUSR2),
            (Signal::Terminate, libc::SIGTERM),
        ];
        let signals = Signals::of(&all.map(|(signal, _)| signal)).expect("a descriptor");
        for (signal, number) in all {
            raise(number);
            assert_eq!(soon(signals.next()).await, signal);
        }
        let both = Signals::new().expect("a descriptor");
        raise(libc::SIGTERM);
        assert_eq!(soon(both.next()).await, Signal::Terminate);
    });
    let error = Signals::of(&[]).expect_err("nothing to wait for");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

/// As in a `select` that something else wins.
#[test]
fn a_signal_that_came_for_a_dropped_future_is_the_next_ones() {
    own_process!();
    on_both(async || {
        let signals = Signals::new().expect("a descriptor");
        for turns in 0..20 {
            let mut lost = Box::pin(signals.next());
            poll_once(lost.as_mut());
            raise(libc::SIGTERM);
            // The signal is read by now, or is not, or is being.
            for _ in 0..turns % 4 {
                rt::sleep(Duration::from_micros(300)).await;
            }
            drop(lost);
            if turns % 2 == 0 {
                rt::yield_now().await;
            }
            assert_eq!(soon(signals.next()).await, Signal::Terminate, "after {turns} turns");
        }
    });
}

#[test]
fn a_signal_that_came_for_a_dropped_future_wakes_another_that_waits() {
    own_process!();
    on_both(async || {
        let signals = Rc::new(Signals::of(&[Signal::User1]).expect("a descriptor"));
        for raised_before in [true, false] {
            for turns in 0..4 {
                let mut lost = Box::pin(signals.next());
                poll_once(lost.as_mut());
                let waiting = rt::named("waits").spawn({
                    let signals = Rc::clone(&signals);
                    async move { soon(signals.next()).await }
                });
                for _ in 0..turns {
                    rt::sleep(Duration::from_micros(300)).await;
                }
                if raised_before {
                    raise(libc::SIGUSR1);
                    rt::sleep(Duration::from_micros(300)).await;
                }
                drop(lost);
                if !raised_before {
                    raise(libc::SIGUSR1);
                }
                assert_eq!(waiting.await.expect("no panic"), Signal::User1);
            }
        }
    });
}

#[test]
fn a_task_that_awaits_a_signal_is_shown_as_such() {
    own_process!();
    on_both(async || {
        let signals = Signals::new().expect("a descriptor");
        let task = rt::named("waits").spawn(async move { drop(signals.next().await) });
        rt::sleep(Duration::from_millis(1)).await;
        let tasks = observe::tasks();
        let waits = tasks.iter().find(|task| task.name == "waits").expect("it lives");
        assert_eq!(waits.waits_for, Some("a signal"));
        task.cancel();
    });
}
