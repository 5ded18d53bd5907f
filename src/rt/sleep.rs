//! Futures that wait for a time.

use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use super::Instant;
use super::context::{now, waiting_for};
use super::scheduler::{Shared, in_core};
use super::timer::TimerKey;
use crate::error::{Error, ErrorKind, Outcome, Result};

/// Completes `duration` from its first poll on; late by a timer tick (16.4 µs) at most when the core is idle.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { core: Weak::new(), state: SleepState::For(duration) }
}

/// Completes at `deadline`, at its first poll if that has passed.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { core: Weak::new(), state: SleepState::Until(deadline) }
}

/// The future of [`sleep`] and [`sleep_until`].
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    core: Weak<Shared>,
    state: SleepState,
}

enum SleepState {
    For(Duration),
    Until(Instant),
    Waiting { key: TimerKey, deadline: Instant },
    Done,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = now();
        let deadline = match self.state {
            SleepState::For(duration) => now + duration,
            SleepState::Until(deadline) | SleepState::Waiting { deadline, .. } => deadline,
            SleepState::Done => return Poll::Ready(()),
        };
        if deadline <= now {
            self.disarm();
            return Poll::Ready(());
        }
        let unchanged = |core: &Rc<Shared>| match self.state {
            SleepState::Waiting { key, .. } if std::ptr::eq(self.core.as_ptr(), Rc::as_ptr(core)) => {
                core.timers().borrow_mut().get_mut(key).is_some_and(|current| current.will_wake(cx.waker()))
            }
            _ => false,
        };
        waiting_for("a timer");
        if in_core("rt::sleep", unchanged) {
            return Poll::Pending;
        }
        let waker = cx.waker().clone();
        // The old waker is dropped with no borrow held: its destructor may be foreign code.
        let old = in_core("rt::sleep", |core| {
            let mut timers = core.timers().borrow_mut();
            if let SleepState::Waiting { key, .. } = self.state
                && std::ptr::eq(self.core.as_ptr(), Rc::as_ptr(core))
                && let Some(current) = timers.get_mut(key)
            {
                return Some(std::mem::replace(current, waker));
            }
            let key = timers.insert(deadline, waker);
            let before = std::mem::replace(&mut self.state, SleepState::Waiting { key, deadline });
            let core_before = std::mem::replace(&mut self.core, Rc::downgrade(core));
            match before {
                // It waited on another core of this thread.
                SleepState::Waiting { key, .. } if !std::ptr::eq(core_before.as_ptr(), Rc::as_ptr(core)) => {
                    core_before.upgrade().and_then(|core| core.timers().borrow_mut().remove(key))
                }
                _ => None,
            }
        });
        drop(old);
        Poll::Pending
    }
}

impl Sleep {
    fn disarm(&mut self) {
        if let SleepState::Waiting { key, .. } = std::mem::replace(&mut self.state, SleepState::Done)
            && let Some(core) = self.core.upgrade()
        {
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
        f.debug_struct("Sleep").finish_non_exhaustive()
    }
}

/// Gives `future` `duration` to complete. When the time is up the future is dropped, which cancels its I/O.
///
/// # Errors
///
/// [`TimedOut`](ErrorKind::TimedOut) with outcome [`Unknown`](Outcome::Unknown): what the future was doing may have taken
/// effect.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut sleep = std::pin::pin!(sleep(duration));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        sleep
            .as_mut()
            .poll(cx)
            .map(|()| Err(Error::new(ErrorKind::TimedOut, "timeout").outcome_is(Outcome::Unknown)))
    })
    .await
}
