//! A meeting point for tasks of any threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::rt::waits_for;

/// Lets tasks of any threads go on together, once a given number of them have come. It can be used again and again.
///
/// A task that stops waiting before the others are there is not counted; one that does so later was. Who comes last is the leader.
#[derive(Debug)]
pub struct Barrier {
    size: usize,
    state: Mutex<State>,
    complete: Notify,
}

#[derive(Debug)]
struct State {
    arrived: usize,
    /// Counts the meetings, and wraps.
    meeting: u64,
}

impl Barrier {
    /// A barrier for `size` tasks; one for none is one for one.
    pub const fn new(size: usize) -> Self {
        Self {
            size: if size == 0 { 1 } else { size },
            state: Mutex::new(State { arrived: 0, meeting: 0 }),
            complete: Notify::const_new(),
        }
    }

    /// Waits, from the first poll on, until all are there. It may be dropped at any time.
    pub async fn wait(&self) -> BarrierWaitResult {
        let Some(place) = self.arrive() else {
            self.complete.notify_waiters();
            return BarrierWaitResult { is_leader: true };
        };
        let over = async {
            loop {
                // Made before it looks: it hears of what is complete after that. It may also hear of the meeting before.
                let complete = self.complete.notified();
                if place.is_over() {
                    return;
                }
                complete.await;
            }
        };
        waits_for("a barrier", over).await;
        BarrierWaitResult { is_leader: false }
    }

    /// `None` for the one that comes last.
    fn arrive(&self) -> Option<Place<'_>> {
        let mut state = self.lock();
        let meeting = state.meeting;
        state.arrived += 1;
        if state.arrived < self.size {
            return Some(Place { barrier: self, meeting });
        }
        state.arrived = 0;
        state.meeting = meeting.wrapping_add(1);
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who has come to a meeting. Dropped before the others have, it has not.
struct Place<'a> {
    barrier: &'a Barrier,
    meeting: u64,
}

impl Place<'_> {
    fn is_over(&self) -> bool {
        self.barrier.lock().meeting != self.meeting
    }
}

impl Drop for Place<'_> {
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
