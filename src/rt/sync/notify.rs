//! Tells waiting tasks of one core that something they wait for may have changed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A condition that tasks of one core wait for.
///
/// A task checks its condition, and if it does not hold yet awaits [`Notify::notified`]. Nothing is stored for later
/// waiters: on one core nothing runs between the check and the wait, so no notification can be missed.
#[derive(Debug, Default)]
pub struct Notify {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// In the order of arrival. A waiter that was told is removed; that is how it knows.
    waiters: BTreeMap<u64, Waker>,
    /// Those that `notify_one` told and that were not polled since. One that is dropped instead passes it on.
    told_alone: BTreeSet<u64>,
}

impl Notify {
    /// A condition that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Completes once one of the `notify_` calls reaches this waiter. Waits from the first poll on.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, id: None }
    }

    /// Wakes every waiter.
    pub fn notify_all(&self) {
        let waiters = std::mem::take(&mut self.state.borrow_mut().waiters);
        for waker in waiters.into_values() {
            waker.wake();
        }
    }

    /// Wakes the waiter that has waited longest; returns whether there was one. If that one is dropped before it could see it,
    /// the next one is told.
    pub fn notify_one(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let first = state.waiters.pop_first();
        if let Some((id, _)) = &first {
            state.told_alone.insert(*id);
        }
        drop(state);
        match first {
            Some((_, waker)) => {
                waker.wake();
                true
            }
            None => false,
        }
    }
}

/// The future of [`Notify::notified`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Notified<'a> {
    notify: &'a Notify,
    id: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Cloned before, and dropped after, the borrow: wakers may be foreign code.
        let waker = cx.waker().clone();
        let notify = self.notify;
        let mut state = notify.state.borrow_mut();
        let (polled, old) = match self.id {
            None => {
                let id = state.next_id;
                state.next_id += 1;
                self.id = Some(id);
                (Poll::Pending, state.waiters.insert(id, waker))
            }
            Some(id) => match state.waiters.get_mut(&id) {
                Some(current) => (Poll::Pending, Some(std::mem::replace(current, waker))),
                None => {
                    state.told_alone.remove(&id);
                    (Poll::Ready(()), Some(waker))
                }
            },
        };
        drop(state);
        drop(old);
        polled
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let mut state = self.notify.state.borrow_mut();
            let waker = state.waiters.remove(&id);
            let told_alone = state.told_alone.remove(&id);
            drop(state);
            drop(waker);
            if told_alone {
                self.notify.notify_one();
            }
        }
    }
}
