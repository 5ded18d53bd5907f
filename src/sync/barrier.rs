//! A meeting point for tasks of any threads.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};
use std::task::{Poll, Waker, ready};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};

use super::wait_queue::{At, QueueWaiter, WaitQueue};
use crate::rt::waits_for;

/// Lets tasks of any threads go on together, once a given number of them have come. It can be used
/// again and again.
///
/// A task that stops waiting before the others are there does not count; one that stops later does.
/// The last to come is the leader.
#[derive(Debug)]
pub struct Barrier {
    size: usize,
    state: Mutex<BarrierState>,
    /// The tasks that wait for the others. They enter under the lock of `state`, so that the last
    /// to come finds them.
    waiting: WaitQueue,
}

#[derive(Debug)]
struct BarrierState {
    arrived: usize,
    /// Counts the meetings, and wraps.
    meeting: u64,
}

impl Barrier {
    const_unless_loom! {
        /// A barrier for `size` tasks; 0 counts as 1.
        pub fn new(size: usize) -> Self {
            Self {
                size: if size == 0 { 1 } else { size },
                state: Mutex::new(BarrierState { arrived: 0, meeting: 0 }),
                waiting: WaitQueue::new(),
            }
        }
    }

    /// Waits, from the first poll on, until all are there. It may be dropped at any time.
    pub async fn wait(&self) -> BarrierWaitResult {
        let Some(place) = self.arrive() else {
            self.waiting.tell_all();
            return BarrierWaitResult { is_leader: true };
        };
        let waiter = pin!(QueueWaiter::new(&self.waiting));
        let waiter = waiter.as_ref();
        let over = poll_fn(|cx| {
            loop {
                if waiter.is_idle() {
                    // User code makes the waker and drops it: under no lock.
                    let unused = self.enter(&place, waiter, cx.waker().clone());
                    return if unused.is_some() { Poll::Ready(()) } else { Poll::Pending };
                }
                ready!(waiter.poll_told(cx));
                waiter.take_notice();
                // It may have been told of the meeting before.
                if place.is_over() {
                    return Poll::Ready(());
                }
            }
        });
        waits_for("a barrier", over).await;
        BarrierWaitResult { is_leader: false }
    }

    /// Makes the idle `waiter` wait for the others; gives the waker back if they are there.
    fn enter(&self, place: &Arrival<'_>, waiter: Pin<&QueueWaiter<'_>>, waker: Waker) -> Option<Waker> {
        let state = self.lock();
        if state.meeting != place.meeting {
            return Some(waker);
        }
        self.waiting.lock().push(waiter, At::Back, waker);
        None
    }

    /// `None` for the one that comes last.
    fn arrive(&self) -> Option<Arrival<'_>> {
        let mut state = self.lock();
        let meeting = state.meeting;
        state.arrived += 1;
        if state.arrived < self.size {
            return Some(Arrival { barrier: self, meeting });
        }
        state.arrived = 0;
        state.meeting = meeting.wrapping_add(1);
        None
    }

    fn lock(&self) -> MutexGuard<'_, BarrierState> {
        // Nothing panics under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that has come to a meeting. If it is dropped before the others have come, it does not
/// count.
struct Arrival<'a> {
    barrier: &'a Barrier,
    meeting: u64,
}

impl Arrival<'_> {
    fn is_over(&self) -> bool {
        self.barrier.lock().meeting != self.meeting
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut state = self.barrier.lock();
        if state.meeting == self.meeting {
            state.arrived -= 1;
        }
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
