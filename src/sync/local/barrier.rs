//! A meeting point for the tasks of one core.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::notify::{Notified, Notify};
use crate::rt::noted_over;

/// Lets tasks of one core go on together, once a given number of them have come. It can be used
/// again and again.
///
/// A task that stops waiting before the others are there is not counted. The last to come is the
/// leader; the others go on in the order in which they came.
///
/// ```
/// # use std::time::Duration;
/// use std::rc::Rc;
/// use boson::rt;
/// use boson::sync::local::Barrier;
/// # boson::run(async {
/// let barrier = Rc::new(Barrier::new(2));
/// assert!(rt::timeout(Duration::from_millis(1), barrier.wait()).await.is_err());
/// let other = Rc::clone(&barrier);
/// let task = rt::named("other").spawn(async move { other.wait().await.is_leader() });
/// let here = barrier.wait().await.is_leader();
/// assert_ne!(here, task.await.expect("no panic"));
/// # });
/// # Ok::<(), boson::Error>(())
/// ```
#[derive(Debug)]
pub struct Barrier {
    size: usize,
    arrived: Cell<usize>,
    /// Counts the meetings, and wraps.
    meeting: Cell<u64>,
    complete: Notify,
}

impl Barrier {
    /// A barrier for `size` tasks; 0 counts as 1.
    pub const fn new(size: usize) -> Self {
        Self {
            size: if size == 0 { 1 } else { size },
            arrived: Cell::new(0),
            meeting: Cell::new(0),
            complete: Notify::new(),
        }
    }

    /// Waits, from the first poll on, until all are there.
    pub fn wait(&self) -> BarrierWait<'_> {
        BarrierWait { barrier: self, meeting: None, notified: self.complete.notified() }
    }
}

pin_project! {
    /// The future of [`Barrier::wait`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub struct BarrierWait<'a> {
        barrier: &'a Barrier,
        // The meeting that this one waits for.
        meeting: Option<u64>,
        #[pin]
        notified: Notified<'a>,
    }

    impl PinnedDrop for BarrierWait<'_> {
        fn drop(this: Pin<&mut Self>) {
            if this.meeting == Some(this.barrier.meeting.get()) {
                this.barrier.arrived.set(this.barrier.arrived.get() - 1);
            }
        }
    }
}

impl Future for BarrierWait<'_> {
    type Output = BarrierWaitResult;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let barrier = *this.barrier;
        if this.meeting.is_none() {
            let arrived = barrier.arrived.get() + 1;
            if arrived == barrier.size {
                barrier.arrived.set(0);
                barrier.meeting.set(barrier.meeting.get().wrapping_add(1));
                barrier.complete.notify_all();
                return Poll::Ready(BarrierWaitResult { is_leader: true });
            }
            barrier.arrived.set(arrived);
            *this.meeting = Some(barrier.meeting.get());
        }
        let told = this.notified.poll(cx);
        // The meeting may have completed while the waker was cloned, and this one was not told
        // then.
        if told.is_ready() || *this.meeting != Some(barrier.meeting.get()) {
            *this.meeting = None;
            return Poll::Ready(BarrierWaitResult { is_leader: false });
        }
        noted_over("a notification", "a barrier", Poll::Pending)
    }
}

/// What [`Barrier::wait`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierWaitResult {
    is_leader: bool,
}

impl BarrierWaitResult {
    /// Whether this task came last. Exactly one of each meeting did.
    pub fn is_leader(&self) -> bool {
        self.is_leader
    }
}
