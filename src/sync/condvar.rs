//! A condition variable between any threads.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::mutex::{Mutex, MutexGuard};
use super::wait_queue::{At, QueueWaiter, Told, WaitQueue};
use crate::rt::coroutine::wait_at_most;
use crate::rt::noted;

/// Tasks of any threads wait here, without the lock, for a change of what a [`Mutex`] holds.
///
/// Change the value under the lock, and notify before or after giving it up: no waiter misses it.
/// Those that wait are told in the order in which they came. Another task may take the lock first
/// and undo the change: check the condition again, or use [`Condvar::wait_while`].
///
/// A wait that is dropped (by a timeout, say) does not hold the lock; take it anew. If it had been
/// told by [`Condvar::notify_one`], another one is told in its stead.
#[derive(Debug)]
pub struct Condvar {
    queue: WaitQueue,
}

impl Condvar {
    const_unless_loom! {
        /// A condition variable that nobody waits on.
        pub fn new() -> Self {
            Self { queue: WaitQueue::new() }
        }
    }

    /// Gives up the lock, waits to be told, and takes the lock again. It begins to wait, and gives
    /// up the lock, with its first poll.
    pub async fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let mutex: &'a Mutex<T> = MutexGuard::mutex(&guard);
        let mut notified = pin!(CondvarWait::new(self, guard));
        notified.as_mut().await;
        let guard = mutex.lock().await;
        notified.made_use();
        guard
    }

    /// As [`wait`](Self::wait), from a coroutine or a thread, for `limit` at most; and whether it
    /// was told. The time that it then takes to get the lock does not count: a waiter that was told
    /// in time is not late because it has to wait for the lock.
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub(crate) fn blocking_wait_at_most<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        let mutex: &'a Mutex<T> = MutexGuard::mutex(&guard);
        let mut notified = pin!(Some(CondvarWait::new(self, guard)));
        let told =
            notified.as_mut().as_pin_mut().and_then(|notified| wait_at_most(limit, notified)).is_some();
        if !told {
            // Before it waits for the lock: nobody is to tell it now.
            notified.set(None);
        }
        let guard = mutex.blocking_lock();
        if let Some(notified) = notified.as_mut().as_pin_mut() {
            notified.made_use();
        }
        (guard, told)
    }

    /// Waits until `condition` no longer holds.
    pub async fn wait_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while condition(&mut guard) {
            guard = self.wait(guard).await;
        }
        guard
    }

    /// Tells one task that waits; returns whether there was one.
    pub fn notify_one(&self) -> bool {
        // A task that changed the value under the lock after a waiter gave it up knows of that
        // waiter, through the lock.
        self.queue.tell_one()
    }

    /// Tells everybody who waits. A waker that panics costs nobody else the notification.
    pub fn notify_all(&self) {
        self.queue.tell_all();
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

pin_project! {
    /// Gives up the lock, and waits to be told. What it was told alone it owes to the next one
    /// until it has been made use of.
    struct CondvarWait<'a, 'm, T: ?Sized> {
        condvar: &'a Condvar,
        #[pin]
        waiter: QueueWaiter<'a>,
        // The lock, until it begins to wait.
        guard: Option<MutexGuard<'m, T>>,
    }

    impl<T: ?Sized> PinnedDrop for CondvarWait<'_, '_, T> {
        fn drop(this: Pin<&mut Self>) {
            if this.waiter.leave() == Some(Told::Alone) {
                this.condvar.notify_one();
            }
        }
    }
}

impl<'a, 'm, T: ?Sized> CondvarWait<'a, 'm, T> {
    fn new(condvar: &'a Condvar, guard: MutexGuard<'m, T>) -> Self {
        Self { condvar, waiter: QueueWaiter::new(&condvar.queue), guard: Some(guard) }
    }

    /// It was told, and the waiter has looked.
    fn made_use(self: Pin<&mut Self>) {
        self.waiter.take_notice();
    }

    fn poll_told(self: Pin<&mut Self>, cx: &Context<'_>) -> Poll<()> {
        let this = self.project();
        let waiter = this.waiter.into_ref();
        if let Some(guard) = this.guard.take() {
            let waker = cx.waker().clone();
            this.condvar.queue.lock().push(waiter, At::Back, waker);
            // It waits now: the next holder of the lock may notify it at once.
            drop(guard);
            return Poll::Pending;
        }
        ready!(waiter.poll_told(cx));
        Poll::Ready(())
    }
}

impl<T: ?Sized> Future for CondvarWait<'_, '_, T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        noted("a condition variable", self.poll_told(cx))
    }
}
