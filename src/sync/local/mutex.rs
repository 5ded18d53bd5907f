//! A mutex for the tasks of one core, for a value that stays borrowed while its task awaits.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::TryLockError;
use super::semaphore::{Semaphore, SemaphoreAcquire, SemaphorePermit};

/// A value that one task of a core at a time works on, also across awaits. (Without an await in
/// between, a `RefCell` does.)
///
/// Strictly first come, first served: the lock is handed to the task that has waited longest, and
/// nobody takes it before that task runs. A task that is dropped after the lock was handed to it
/// hands it on. There is no poisoning: a task that panics drops its guard, and the next one finds
/// the value as it was left.
///
/// ```
/// # use std::time::Duration;
/// use boson::rt;
/// use boson::sync::local::Mutex;
/// # boson::run(async {
/// let log = Mutex::new(Vec::new());
/// let mut guard = log.lock().await;
/// guard.push("held across an await");
/// rt::yield_now().await;
/// assert!(rt::timeout(Duration::from_millis(1), log.lock()).await.is_err());
/// drop(guard);
/// assert_eq!(log.lock().await.len(), 1);
/// # });
/// # Ok::<(), boson::Error>(())
/// ```
pub struct Mutex<T: ?Sized> {
    semaphore: Semaphore,
    /// Borrowed exactly by the holder of the one permit.
    value: RefCell<T>,
}

impl<T> Mutex<T> {
    /// A mutex that nobody holds.
    pub const fn new(value: T) -> Self {
        Self { semaphore: Semaphore::inside_of("a mutex", 1), value: RefCell::new(value) }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock, when it is this task's turn.
    pub fn lock(&self) -> MutexLock<'_, T> {
        MutexLock { mutex: self, acquire: self.semaphore.acquire() }
    }

    /// Takes the lock if that is possible now.
    ///
    /// # Errors
    ///
    /// If somebody holds it or waits for it.
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>, TryLockError> {
        match self.semaphore.try_acquire() {
            Ok(permit) => Ok(self.guard(permit)),
            Err(_) => Err(TryLockError),
        }
    }

    /// The value, which nobody else can reach now.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn guard<'a>(&'a self, permit: SemaphorePermit<'a>) -> MutexGuard<'a, T> {
        MutexGuard { value: self.value.borrow_mut(), mutex: self, _permit: permit }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("value", &&self.value).finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`Mutex::lock`]. Its place in the queue is that of its first poll.
    #[must_use = "futures do nothing unless awaited"]
    pub struct MutexLock<'a, T: ?Sized> {
        mutex: &'a Mutex<T>,
        #[pin]
        acquire: SemaphoreAcquire<'a>,
    }
}

impl<'a, T: ?Sized> Future for MutexLock<'a, T> {
    type Output = MutexGuard<'a, T>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.acquire.poll(cx) {
            Poll::Ready(Ok(permit)) => Poll::Ready(this.mutex.guard(permit)),
            // A mutex never closes its semaphore.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: ?Sized> fmt::Debug for MutexLock<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexLock").finish_non_exhaustive()
    }
}

/// The lock of a [`Mutex`], which is given up when this is dropped.
#[must_use = "dropping it gives the lock up"]
pub struct MutexGuard<'a, T: ?Sized> {
    // Fields are dropped in this order: the value is free before the next task hears of it.
    value: RefMut<'a, T>,
    mutex: &'a Mutex<T>,
    _permit: SemaphorePermit<'a>,
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// The mutex that `guard` holds.
    pub fn mutex(guard: &Self) -> &'a Mutex<T> {
        guard.mutex
    }

    /// A guard of the part of the value that `part` returns.
    pub fn map<U: ?Sized>(guard: Self, part: impl FnOnce(&mut T) -> &mut U) -> MappedMutexGuard<'a, U> {
        MappedMutexGuard { value: RefMut::map(guard.value, part), _permit: guard._permit }
    }

    /// A guard of the part of the value that `part` returns.
    ///
    /// # Errors
    ///
    /// With `guard`, if it returns none.
    pub fn try_map<U: ?Sized>(
        guard: Self,
        part: impl FnOnce(&mut T) -> Option<&mut U>,
    ) -> Result<MappedMutexGuard<'a, U>, Self> {
        let Self { value, mutex, _permit: permit } = guard;
        match RefMut::filter_map(value, part) {
            Ok(value) => Ok(MappedMutexGuard { value, _permit: permit }),
            Err(value) => Err(Self { value, mutex, _permit: permit }),
        }
    }
}

/// The lock of a [`Mutex`] with a part of its value, see [`MutexGuard::map`]. The lock is given up
/// when this is dropped.
#[must_use = "dropping it gives the lock up"]
pub struct MappedMutexGuard<'a, T: ?Sized> {
    // Fields are dropped in this order: the value is free before the next task hears of it.
    value: RefMut<'a, T>,
    _permit: SemaphorePermit<'a>,
}

impl<'a, T: ?Sized> MappedMutexGuard<'a, T> {
    /// A guard of the part of this part that `part` returns.
    pub fn map<U: ?Sized>(guard: Self, part: impl FnOnce(&mut T) -> &mut U) -> MappedMutexGuard<'a, U> {
        MappedMutexGuard { value: RefMut::map(guard.value, part), _permit: guard._permit }
    }
}

impl<T: ?Sized> Deref for MappedMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> DerefMut for MappedMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MappedMutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
