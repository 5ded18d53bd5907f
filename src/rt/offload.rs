//! Work that may block, on threads beside the core.
//!
//! Every core has a pool of its own: at most [`CoreConfig::offload_threads`](super::CoreConfig)
//! threads, started as they are needed and ended when they were idle for ten seconds. They run on
//! the CPUs that the process was given, not on the core's, with all signals blocked, and are named
//! after what they run. Up to 1,024 jobs wait in the queue; later ones wait for room, in
//! the order of arrival.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::remote_join::{RemoteJoin, oneshot};
use super::tasks::{JoinError, noted, noted_over};
use crate::reactor::current::attached;
use crate::reactor::pool::{Job, Place, Pool, Refused, Work};
use crate::user_code::caught;

/// Runs `work` on a thread that may block. `name` says what it is, and is the thread's name while
/// it runs (the kernel shows 15 bytes).
///
/// It is queued when the future is first polled, and waits its turn while the queue is full. Once
/// queued it runs to its end: when the future is dropped, its result is dropped on the thread; when
/// the core ends, the thread goes on without it. Dropping the future before that drops `work`.
///
/// The future is for tasks of one core. Inside `work` there is no core: the functions of
/// [`rt`](super) panic there, which the future gives as an error.
///
/// # Errors
///
/// The future gives [`JoinError::Panicked`] if `work` panics, and [`JoinError::Cancelled`] if it
/// never ran: the core is gone, or the pool has no thread and the kernel gives it none.
///
/// # Panics
///
/// The future panics if it is first polled outside a core, or polled again after it gave the
/// result.
#[doc(alias = "spawn_blocking")]
pub fn offload<T, F>(name: &'static str, work: F) -> Offload<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (sender, join) = oneshot();
    let run = Box::new(move || {
        sender.send(caught(work).map_err(JoinError::Panicked));
    });
    Offload { join, job: Some(Job { name, work: Work::Closure(run) }), waiting: None }
}

/// The future of [`offload`].
#[must_use = "futures do nothing unless awaited"]
pub struct Offload<T> {
    join: RemoteJoin<T>,
    /// Not queued yet.
    job: Option<Job>,
    /// Where it waits for room in the queue.
    waiting: Option<(Place, Arc<Pool>)>,
}

impl<T> Future for Offload<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(job) = this.job.take() {
            let (_, pool) = this
                .waiting
                .get_or_insert_with(|| (Place::default(), attached(|attached| Arc::clone(&attached.pool))));
            let pool = Arc::clone(pool);
            let place = this.waiting.as_mut().map(|(place, _)| place).expect("set above");
            match pool.submit(job, place, cx.waker()) {
                Ok(_) => this.waiting = None,
                Err(Refused::Full(job)) => {
                    this.job = Some(job);
                    return noted("a thread for blocking calls", Poll::Pending);
                }
                // Dropping the job tells `join`.
                Err(Refused::NoThread(job, _)) => drop(job),
            }
        }
        noted_over("another core or thread", "a blocking call", Pin::new(&mut this.join).poll(cx))
    }
}

impl<T> Drop for Offload<T> {
    fn drop(&mut self) {
        if let Some((place, pool)) = self.waiting.take() {
            pool.leave(place);
        }
    }
}

impl<T> fmt::Debug for Offload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offload").field("queued", &self.job.is_none()).finish_non_exhaustive()
    }
}
