//! Futures that wait for a time.

use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::scheduler::{CoreState, in_core};
use super::tasks::waiting_for_a_timer;
use super::this_core::now;
use super::timer::TimerKey;
use crate::time::Instant;

/// Completes `duration` from its first poll on. Never early; late by
/// - a timer tick (16.4 µs), and the rest of the turn of a core that is busy;
/// - on a core that slept in the kernel meanwhile, the time in which that wakes it (some 50 µs on
///   an idle machine), and on epoll the slack that `ppoll` allows itself besides: a thousandth of
///   the time, at least 50 µs (`PR_SET_TIMERSLACK`), at most 100 ms. A core that always polls
///   ([`Idle::Poll`](super::Idle)) has neither.
///
/// # Panics
///
/// When polled outside a core.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { core: Weak::new(), state: SleepState::For(duration) }
}

/// Completes at `deadline`, at its first poll if that has passed. Otherwise as [`sleep`].
///
/// # Panics
///
/// When polled outside a core.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { core: Weak::new(), state: SleepState::Until(deadline) }
}

/// The future of [`sleep`] and [`sleep_until`].
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    core: Weak<CoreState>,
    state: SleepState,
}

enum SleepState {
    For(Duration),
    Until(Instant),
    Waiting {
        key: TimerKey,
        deadline: Instant,
    },
    /// It was to end at this time.
    Done(Instant),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let SleepState::Waiting { key, deadline } = self.state {
            if self.is_here() {
                return self.poll_again(key, deadline, cx);
            }
            // It waited on another core of this thread, whose time may be another.
            self.disarm();
            self.state = SleepState::Until(deadline);
        }
        let now = now();
        let deadline = match self.state {
            SleepState::For(duration) => now + duration,
            SleepState::Until(deadline) => deadline,
            SleepState::Waiting { .. } | SleepState::Done(_) => return Poll::Ready(()),
        };
        if deadline <= now {
            self.state = SleepState::Done(deadline);
            return Poll::Ready(());
        }
        waiting_for_a_timer();
        let waker = cx.waker().clone();
        in_core("rt::sleep", |core| {
            let key = core.timers().borrow_mut().insert(deadline, waker);
            self.state = SleepState::Waiting { key, deadline };
            self.core = Rc::downgrade(core);
        });
        Poll::Pending
    }
}

impl Sleep {
    /// Has it complete at `deadline` instead, also if it is complete already. A task that waits for
    /// it goes on waiting.
    pub fn reset(&mut self, deadline: Instant) {
        let before = std::mem::replace(&mut self.state, SleepState::Until(deadline));
        // Its task is woken by the new timer as it would have been by the old one.
        if let SleepState::Waiting { key, .. } = before
            && let Some(core) = self.core.upgrade()
        {
            let waker = core.timers().borrow_mut().remove(key);
            if let Some(waker) = waker {
                let key = core.timers().borrow_mut().insert(deadline, waker);
                self.state = SleepState::Waiting { key, deadline };
            }
        }
    }

    /// When it completes; `None` for one of [`sleep`] that was not polled yet.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            SleepState::For(_) => None,
            SleepState::Until(deadline)
            | SleepState::Waiting { deadline, .. }
            | SleepState::Done(deadline) => Some(deadline),
        }
    }

    /// Whether it has completed.
    pub fn is_elapsed(&self) -> bool {
        matches!(self.state, SleepState::Done(_))
    }

    /// Whether it waits on the core that it is polled on.
    fn is_here(&self) -> bool {
        in_core("rt::sleep", |core| std::ptr::eq(self.core.as_ptr(), Rc::as_ptr(core)))
    }

    /// It waits here. The clock is not asked: the wheel forgets an entry when it fires, never
    /// early.
    fn poll_again(&mut self, key: TimerKey, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let will_wake = |waker: &mut Waker| waker.will_wake(cx.waker());
        match in_core("rt::sleep", |core| core.timers().borrow_mut().get_mut(key).map(will_wake)) {
            None if in_core("rt::sleep", |core| core.last_reading()) < deadline => {
                // It did not fire: the core crashed, in a simulation, and forgot its timers.
                self.state = SleepState::Until(deadline);
                return Pin::new(self).poll(cx);
            }
            None => {
                self.state = SleepState::Done(deadline);
                return Poll::Ready(());
            }
            Some(true) => {}
            Some(false) => {
                let waker = cx.waker().clone();
                // The old waker is dropped with no borrow held: its destructor may be user code.
                let old = in_core("rt::sleep", |core| {
                    core.timers().borrow_mut().get_mut(key).map(|current| std::mem::replace(current, waker))
                });
                drop(old);
            }
        }
        waiting_for_a_timer();
        Poll::Pending
    }

    fn disarm(&mut self) {
        if let SleepState::Waiting { key, deadline } = self.state
            && let Some(core) = self.core.upgrade()
        {
            self.state = SleepState::Done(deadline);
            core.remove_timer(key);
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline()).finish_non_exhaustive()
    }
}
