//! Says what the task of a future waits for that does not say it itself.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::tasks::{awaited, waiting_for_this};

/// `future`, with `what` as what its task is said to wait for: by [`tasks`](crate::observe::tasks),
/// by the inspector, and in the report of a simulation that is stuck.
///
/// The futures of this crate say so themselves; this is for others, such as those of tokio's
/// primitives in [`sync`](crate::sync), and to say more than they do. Of several futures that one
/// task polls, the first one counts. Outside a task it is `future` alone. It may be dropped
/// whenever `future` may.
///
/// ```
/// use boson::rt;
/// use boson::sync::Semaphore;
/// # boson::run(async {
/// let task = rt::named("client").spawn(async {
///     let connections = Semaphore::new(0);
///     rt::waits_for("a free connection", connections.acquire()).await.map(drop)
/// });
/// rt::yield_now().await;
/// assert_eq!(boson::observe::tasks()[0].waits_for, Some("a free connection"));
/// # task.cancel();
/// # });
/// # Ok::<(), boson::Error>(())
/// ```
pub fn waits_for<F: Future>(what: &'static str, future: F) -> WaitsFor<F> {
    WaitsFor { what, future }
}

pin_project! {
    /// The future of [`waits_for`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub struct WaitsFor<F> {
        what: &'static str,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for WaitsFor<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let other = awaited();
        let polled = this.future.poll(cx);
        if polled.is_pending() && other.is_none() {
            waiting_for_this(this.what);
        }
        polled
    }
}
