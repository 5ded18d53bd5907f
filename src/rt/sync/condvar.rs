//! A condition variable between any threads.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

/// Tasks of any threads wait here, without the lock, for a change of what a [`Mutex`] holds.
///
/// Change the value under the lock, and notify before or after giving it up: no waiter misses it. Those that wait are told in the order
/// in which they came. A wait may end without a notification, and another task may take the lock first and undo the change:
/// check the condition again, or use [`Condvar::wait_while`].
///
/// A wait that is dropped (by a timeout, say) does not hold the lock; take it anew. If it had been told by
/// [`Condvar::notify_one`], another one is told in its stead.
#[derive(Debug, Default)]
pub struct Condvar {
    notify: Notify,
    /// How many wait, so that a notification for nobody is not stored. Exact for those who hold the lock.
    waiters: AtomicUsize,
}

impl Condvar {
    /// A condition variable that nobody waits on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives up the lock, waits to be told, and takes the lock again. It begins to wait, and gives up the lock, with its first poll.
    pub async fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let mutex: &'a Mutex<T> = MutexGuard::mutex(&guard);
        let mut told = PassOn { condvar: self, owed: false };
        {
            let _waiting = Waiting::new(self);
            let mut notified = pin!(self.notify.notified());
            notified.as_mut().enable();
            drop(guard);
            notified.await;
            told.owed = true;
        }
        let guard = mutex.lock().await;
        told.owed = false;
        guard
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

    /// Tells one task that waits.
    pub fn notify_one(&self) {
        // Relaxed: who changed the value under the lock after a waiter gave it up sees that waiter counted, through the lock.
        if self.waiters.load(Ordering::Relaxed) > 0 {
            self.notify.notify_one();
        }
    }

    /// Tells everybody who waits.
    pub fn notify_all(&self) {
        self.notify.notify_waiters();
    }
}

/// One waiter more, while this lives.
struct Waiting<'a>(&'a Condvar);

impl<'a> Waiting<'a> {
    fn new(condvar: &'a Condvar) -> Self {
        condvar.waiters.fetch_add(1, Ordering::Relaxed);
        Self(condvar)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells another one, when a wait that was told ends before it has the lock. It may have been told with all: then this is one of
/// the wake-ups without need.
struct PassOn<'a> {
    condvar: &'a Condvar,
    owed: bool,
}

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        if self.owed {
            self.condvar.notify_one();
        }
    }
}
