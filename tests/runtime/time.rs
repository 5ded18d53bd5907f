//! Sleeps, intervals, deadlines and cancellation, on virtual time: when each comes is exact to a
//! tick of the timers.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use boson::ErrorKind;
use boson::observe;
use boson::rt::time::{Deadline, MissedTick};
use boson::rt::{self, CancelToken, Instant};
use boson::sim::World;

const SECOND: Duration = Duration::from_secs(1);
/// Timers fire in ticks of this length.
const TICK: Duration = Duration::from_micros(17);

fn run<T>(future: impl Future<Output = T>) -> T {
    World::new(1).core("one").block_on(future)
}

fn assert_about(at: Instant, expected: Instant) {
    assert!(expected <= at && at <= expected + TICK, "{at:?} is not {expected:?}");
}

#[test]
fn a_sleep_is_reset_before_while_and_after_it_waits() {
    run(async {
        let start = rt::now();
        let mut sleep = pin!(rt::sleep(SECOND));
        assert_eq!((sleep.deadline(), sleep.is_elapsed()), (None, false), "it starts when it is polled");
        assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(sleep.deadline(), Some(start + SECOND));
        sleep.reset(start + 3 * SECOND);
        sleep.as_mut().await;
        assert_about(rt::now(), start + 3 * SECOND);
        assert_eq!((sleep.deadline(), sleep.is_elapsed()), (Some(start + 3 * SECOND), true));
        sleep.as_mut().await;
        // Again, and to a time that has passed.
        sleep.reset(start + 4 * SECOND);
        assert!(!sleep.is_elapsed());
        sleep.as_mut().await;
        assert_about(rt::now(), start + 4 * SECOND);
        sleep.reset(start);
        sleep.as_mut().await;
        assert_about(rt::now(), start + 4 * SECOND);
    });
}

/// A reset needs no poll to be heard of.
#[test]
fn a_task_that_waits_goes_on_waiting_when_its_sleep_is_reset() {
    use std::cell::RefCell;
    for (first, second) in [(1, 5), (5, 1)] {
        run(async {
            let start = rt::now();
            let sleep = Rc::new(RefCell::new(rt::time::sleep_until(start + first * SECOND)));
            let waits = Rc::clone(&sleep);
            let task = rt::named("waits").spawn(async move {
                std::future::poll_fn(|cx| pin!(&mut *waits.borrow_mut()).poll(cx)).await;
                rt::now()
            });
            rt::sleep(SECOND / 2).await;
            sleep.borrow_mut().reset(start + second * SECOND);
            assert_about(task.await.expect("no panic"), start + second * SECOND);
        });
    }
}

#[test]
fn an_interval_starts_when_it_is_told_and_is_reset() {
    run(async {
        let start = rt::now();
        let mut interval = rt::time::interval_at(start + 5 * SECOND, SECOND).missed_tick(MissedTick::Delay);
        assert_eq!(interval.period(), SECOND);
        assert_eq!(interval.tick().await, start + 5 * SECOND);
        assert_about(rt::now(), start + 5 * SECOND);
        assert_eq!(interval.tick().await, start + 6 * SECOND);
        rt::time::sleep_until(start + Duration::from_millis(6500)).await;
        let reset_at = rt::now();
        interval.reset();
        assert_eq!(interval.tick().await, reset_at + SECOND);
        interval.reset_at(start + 20 * SECOND);
        assert_eq!(interval.tick().await, start + 20 * SECOND);
        assert_eq!(interval.tick().await, start + 21 * SECOND);
        // Given up ticks come all the same.
        for _ in 0..3 {
            assert!(rt::timeout(SECOND / 4, interval.tick()).await.is_err());
        }
        let next = std::future::poll_fn(|cx| interval.poll_tick(cx)).await;
        assert_eq!(next, start + 22 * SECOND);
        assert_about(rt::now(), start + 22 * SECOND);
        // The first one of a plain interval is due at once.
        let before = rt::now();
        assert_eq!(rt::interval(SECOND).tick().await, before);
    });
}

#[test]
fn a_deadline_is_made_of_an_instant() {
    run(async {
        assert_eq!(Deadline::default(), Deadline::NEVER);
        let deadline = Deadline::from(rt::now() + SECOND);
        assert!(!deadline.has_passed());
        let error = deadline.bound(std::future::pending::<()>()).await.expect_err("it passes");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(deadline.has_passed());
    });
}

#[test]
fn a_guard_cancels_its_token_unless_it_is_disarmed() {
    let token = CancelToken::new();
    let child = token.child();
    let kept = child.clone().drop_guard().disarm();
    assert!(!kept.is_cancelled());
    let guard = child.drop_guard();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = guard;
        panic!("on the way out");
    }));
    assert!(panicked.is_err() && kept.is_cancelled() && !token.is_cancelled());
    let mut cancelled = pin!(kept.cancelled());
    assert_eq!(cancelled.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()));
}

#[test]
fn a_sleep_that_was_reset_and_dropped_leaves_no_timer() {
    run(async {
        let mut sleep = Box::pin(rt::sleep(SECOND));
        assert_eq!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        sleep.reset(rt::now() + 2 * SECOND);
        drop(sleep);
        let before = observe::stats().timers_fired;
        rt::sleep(3 * SECOND).await;
        assert_eq!(observe::stats().timers_fired, before + 1);
    });
}
