//! Deadlines: points in time that are handed from a call to the calls that it makes.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use super::sleep::{Sleep, sleep, sleep_until};
use super::this_core::now;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::time::Instant;

/// When something must be done. Unlike a duration it means the same when it is handed on.
///
/// ```
/// # use std::time::Duration;
/// # use boson::rt::{self, Core, CoreConfig};
/// # use boson::rt::time::Deadline;
/// # fn main() -> boson::Result<()> {
/// async fn request(deadline: Deadline) -> boson::Result<()> {
///     deadline.bound(rt::sleep(Duration::from_millis(1))).await?;
///     // Whatever time is left.
///     deadline.bound(rt::sleep(Duration::from_millis(1))).await
/// }
/// boson::run(async { request(Deadline::within(Duration::from_secs(5))).await })
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

impl Default for Deadline {
    /// [`Deadline::NEVER`].
    fn default() -> Self {
        Self::NEVER
    }
}

impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Self {
        Self::at(instant)
    }
}

impl Deadline {
    /// At no time.
    pub const NEVER: Self = Self(Instant::FAR_FUTURE);

    /// `duration` from now.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn within(duration: Duration) -> Self {
        Self(now() + duration)
    }

    /// At `instant`.
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The time; `None` for [`Deadline::NEVER`].
    pub fn instant(self) -> Option<Instant> {
        (self != Self::NEVER).then_some(self.0)
    }

    /// The time that is left, zero when it has passed; `None` for [`Deadline::NEVER`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn remaining(self) -> Option<Duration> {
        self.instant().map(|instant| instant - now())
    }

    /// Whether the time has come.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn has_passed(self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }

    /// The earlier one of the two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }

    /// Gives `future` until this deadline. When the time is up the future is dropped, which cancels
    /// its I/O.
    ///
    /// The future is polled at least once, also when the deadline has passed.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](ErrorKind::TimedOut) with outcome [`Unknown`](Outcome::Unknown): what the
    /// future was doing may have taken effect.
    ///
    /// # Panics
    ///
    /// When polled outside a core, unless the deadline is never.
    pub async fn bound<F: Future>(self, future: F) -> Result<F::Output> {
        match self.instant() {
            Some(instant) => bound(sleep_until(instant), future).await,
            None => Ok(future.await),
        }
    }
}

/// Gives `future` `duration` to complete, from its first poll on. When the time is up the future is
/// dropped, which cancels its I/O.
///
/// # Errors
///
/// [`TimedOut`](ErrorKind::TimedOut) with outcome [`Unknown`](Outcome::Unknown): what the future
/// was doing may have taken effect.
///
/// # Panics
///
/// When polled outside a core.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output> {
    bound(sleep(duration), future).await
}

/// Gives `future` until `instant`. The same as [`Deadline::bound`].
///
/// # Errors
///
/// As for [`timeout`].
///
/// # Panics
///
/// When polled outside a core.
pub async fn timeout_at<F: Future>(instant: Instant, future: F) -> Result<F::Output> {
    bound(sleep_until(instant), future).await
}

async fn bound<F: Future>(sleep: Sleep, future: F) -> Result<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut sleep = std::pin::pin!(sleep);
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
