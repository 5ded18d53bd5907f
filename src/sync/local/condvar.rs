//! A condition variable for the tasks of one core.

use std::future::poll_fn;
use std::pin::pin;

use super::mutex::{Mutex, MutexGuard};
use super::notify::Notify;

/// Tasks of one core wait here, without the lock, for a change of what a [`Mutex`] holds.
///
/// Those that wait are told in the order in which they came, and then take the lock in that order.
/// There are no spurious wake-ups, but another task may take the lock first and undo the change:
/// check the condition again, or use [`Condvar::wait_while`].
///
/// A wait that is dropped (by a timeout, say) does not hold the lock; take it anew. If it had been
/// told by [`Condvar::notify_one`], the next one is told in its stead.
///
/// ```
/// # use std::time::Duration;
/// use std::rc::Rc;
/// use boson::rt;
/// use boson::sync::local::{Condvar, Mutex};
/// # boson::run(async {
/// let shared = Rc::new((Mutex::new(Vec::new()), Condvar::new()));
/// let filler = Rc::clone(&shared);
/// rt::named("filler").spawn(async move {
///     filler.0.lock().await.push(1);
///     filler.1.notify_one();
/// });
/// let (queue, filled) = (&shared.0, &shared.1);
/// let guard = queue.lock().await;
/// let filling = filled.wait_while(guard, |queue| queue.is_empty());
/// assert_eq!(rt::timeout(Duration::from_secs(1), filling).await?.pop(), Some(1));
/// # Ok::<(), boson::Error>(())
/// # })?;
/// # Ok::<(), boson::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Condvar {
    notify: Notify,
}

impl Condvar {
    /// A condition variable that nobody waits on.
    pub const fn new() -> Self {
        Self { notify: Notify::new() }
    }

    /// Gives up the lock, waits to be told, and takes the lock again. It begins to wait, and gives
    /// up the lock, with its first poll.
    pub async fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let mutex: &'a Mutex<T> = MutexGuard::mutex(&guard);
        let mut guard = Some(guard);
        let mut owed = PassOn { notify: &self.notify, owed: false };
        let mut notified = pin!(self.notify.notified());
        owed.owed = poll_fn(|cx| {
            let told = notified.as_mut().poll_alone(cx);
            // It waits now: the next holder of the lock may notify it. And the waker of that task
            // may do so at once.
            match guard.take() {
                Some(guard) => {
                    drop(guard);
                    notified.as_mut().poll_alone(cx)
                }
                None => told,
            }
        })
        .await;
        let guard = mutex.lock().await;
        owed.owed = false;
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

    /// Tells the task that has waited longest; returns whether there was one.
    pub fn notify_one(&self) -> bool {
        self.notify.notify_one()
    }

    /// Tells everybody who waits.
    pub fn notify_all(&self) {
        self.notify.notify_all();
    }
}

/// Tells the next one, when a wait that was told alone ends before it has the lock.
struct PassOn<'a> {
    notify: &'a Notify,
    owed: bool,
}

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        if self.owed {
            self.notify.notify_one();
        }
    }
}
