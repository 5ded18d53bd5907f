//! What a task can ask of the core it runs on. Every function here panics outside a core.

use std::cell::RefCell;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use super::handle::Handle;
use super::scheduler::{CoreStats, Shared, current_inbox, with_core};
use super::task::JoinHandle;
use super::timer::TimerKey;
use super::{Instant, Poller};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::mem::Arena;

/// Starts a task on this core. `name` says what it is in statistics and messages. Dropping the handle detaches it.
#[track_caller]
pub fn spawn<F: Future + 'static>(name: &'static str, future: F) -> JoinHandle<F::Output> {
    let created_at = Location::caller();
    with_core(|core| core.spawn(name, created_at, future))
}

/// Whether the calling thread is inside a core, so that the functions of this module can be called.
pub fn is_in_core() -> bool {
    !current_inbox().is_null()
}

/// Monotonic time by the core's clock.
#[track_caller]
pub fn now() -> Instant {
    with_core(|core| core.clock().now())
}

/// Wall-clock time since the Unix epoch by the core's clock.
#[track_caller]
pub fn unix_time() -> Duration {
    with_core(|core| core.clock().unix_time())
}

/// Fills `bytes` from the core's seeded, cryptographically strong generator.
#[track_caller]
pub fn fill_random(bytes: &mut [u8]) {
    with_core(|core| core.fill_random(bytes));
}

/// The core's arena.
#[track_caller]
pub fn arena() -> Arena {
    with_core(|core| core.arena().clone())
}

/// A handle through which other threads can send work to this core.
#[track_caller]
pub fn handle() -> Handle {
    with_core(|core| core.handle())
}

/// The core's counters.
#[track_caller]
pub fn stats() -> CoreStats {
    with_core(|core| core.stats())
}

/// The name and creation place of every task on this core.
#[track_caller]
pub fn tasks() -> Vec<(&'static str, &'static Location<'static>)> {
    with_core(|core| core.tasks())
}

/// Has the core poll `poller` on every turn, until the registration is dropped.
#[track_caller]
pub fn register_poller(poller: Rc<RefCell<dyn Poller>>) -> PollerRegistration {
    with_core(|core| PollerRegistration { core: Rc::downgrade(core), id: core.add_poller(poller) })
}

/// Keeps a poller registered with its core.
#[must_use = "dropping it removes the poller"]
pub struct PollerRegistration {
    core: Weak<Shared>,
    id: u64,
}

impl PollerRegistration {
    /// Keeps the poller registered for as long as its core lives.
    pub fn keep(mut self) {
        self.core = Weak::new();
    }
}

impl Drop for PollerRegistration {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.remove_poller(self.id);
        }
    }
}

impl std::fmt::Debug for PollerRegistration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollerRegistration").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Lets every other ready task and every poller have a turn.
pub fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

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
        if with_core(unchanged) {
            return Poll::Pending;
        }
        let waker = cx.waker().clone();
        // The old waker is dropped with no borrow held: its destructor may be foreign code.
        let old = with_core(|core| {
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
