//! A readers-writer lock for the tasks of one core.

use std::cell::{Ref, RefCell, RefMut};
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::TryLockError;
use super::semaphore::{Semaphore, SemaphoreAcquire, SemaphorePermit};

/// How many may read at once; a writer takes as many permits.
const MAX_READERS: u32 = u32::MAX;

/// A value that many tasks of one core read or one changes, also across awaits. At most 2³² − 1
/// readers at a time; more wait.
///
/// Strictly first come, first served: readers that come while a writer waits are behind it, so
/// neither side starves. A task that holds a read guard and awaits another one may therefore wait
/// forever, if a writer came in between.
///
/// ```
/// # use std::time::Duration;
/// use boson::rt;
/// use boson::sync::local::RwLock;
/// # boson::run(async {
/// let table = RwLock::new(vec![1, 2, 3]);
/// let (one, other) = (table.read().await, table.read().await);
/// assert!(rt::timeout(Duration::from_millis(1), table.write()).await.is_err());
/// drop((one, other));
/// table.write().await.push(4);
/// # });
/// # Ok::<(), boson::Error>(())
/// ```
pub struct RwLock<T: ?Sized> {
    semaphore: Semaphore,
    /// Borrowed exactly by those who hold permits.
    value: RefCell<T>,
}

impl<T> RwLock<T> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Self {
            semaphore: Semaphore::inside_of("a read-write lock", MAX_READERS as usize),
            value: RefCell::new(value),
        }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Takes the lock for reading, when it is this task's turn.
    pub fn read(&self) -> RwLockRead<'_, T> {
        RwLockRead { lock: self, acquire: self.semaphore.acquire() }
    }

    /// Takes the lock for changing the value, when it is this task's turn.
    pub fn write(&self) -> RwLockWrite<'_, T> {
        RwLockWrite { lock: self, acquire: self.semaphore.acquire_many(MAX_READERS) }
    }

    /// Takes the lock for reading if that is possible now.
    ///
    /// # Errors
    ///
    /// If somebody holds it for writing or waits for it.
    pub fn try_read(&self) -> Result<RwLockReadGuard<'_, T>, TryLockError> {
        match self.semaphore.try_acquire() {
            Ok(permit) => Ok(RwLockReadGuard { value: self.value.borrow(), permit }),
            Err(_) => Err(TryLockError),
        }
    }

    /// Takes the lock for changing the value if that is possible now.
    ///
    /// # Errors
    ///
    /// If somebody holds it or waits for it.
    pub fn try_write(&self) -> Result<RwLockWriteGuard<'_, T>, TryLockError> {
        match self.semaphore.try_acquire_many(MAX_READERS) {
            Ok(permit) => Ok(RwLockWriteGuard { value: self.value.borrow_mut(), lock: self, permit }),
            Err(_) => Err(TryLockError),
        }
    }

    /// The value, which nobody else can reach now.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock").field("value", &&self.value).finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`RwLock::read`]. Its place in the queue is that of its first poll.
    #[must_use = "futures do nothing unless awaited"]
    pub struct RwLockRead<'a, T: ?Sized> {
        lock: &'a RwLock<T>,
        #[pin]
        acquire: SemaphoreAcquire<'a>,
    }
}

pin_project! {
    /// The future of [`RwLock::write`]. Its place in the queue is that of its first poll.
    #[must_use = "futures do nothing unless awaited"]
    pub struct RwLockWrite<'a, T: ?Sized> {
        lock: &'a RwLock<T>,
        #[pin]
        acquire: SemaphoreAcquire<'a>,
    }
}

impl<'a, T: ?Sized> Future for RwLockRead<'a, T> {
    type Output = RwLockReadGuard<'a, T>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.acquire.poll(cx) {
            Poll::Ready(Ok(permit)) => {
                Poll::Ready(RwLockReadGuard { value: this.lock.value.borrow(), permit })
            }
            // The lock never closes its semaphore.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<'a, T: ?Sized> Future for RwLockWrite<'a, T> {
    type Output = RwLockWriteGuard<'a, T>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.acquire.poll(cx) {
            Poll::Ready(Ok(permit)) => {
                let value = this.lock.value.borrow_mut();
                Poll::Ready(RwLockWriteGuard { value, lock: this.lock, permit })
            }
            // The lock never closes its semaphore.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: ?Sized> fmt::Debug for RwLockRead<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLockRead").finish_non_exhaustive()
    }
}

impl<T: ?Sized> fmt::Debug for RwLockWrite<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLockWrite").finish_non_exhaustive()
    }
}

/// A [`RwLock`] held for reading, until this is dropped. `T` may be a part of the lock's value, see
/// [`RwLockReadGuard::map`].
#[must_use = "dropping it gives the lock up"]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    // Fields are dropped in this order: the value is free before the next task hears of it.
    value: Ref<'a, T>,
    permit: SemaphorePermit<'a>,
}

impl<'a, T: ?Sized> RwLockReadGuard<'a, T> {
    /// The same guard for a part of the value.
    pub fn map<U: ?Sized>(guard: Self, part: impl FnOnce(&T) -> &U) -> RwLockReadGuard<'a, U> {
        RwLockReadGuard { value: Ref::map(guard.value, part), permit: guard.permit }
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A [`RwLock`] held for changing its value, until this is dropped.
#[must_use = "dropping it gives the lock up"]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    // Fields are dropped in this order: the value is free before the next task hears of it.
    value: RefMut<'a, T>,
    lock: &'a RwLock<T>,
    permit: SemaphorePermit<'a>,
}

impl<'a, T: ?Sized> RwLockWriteGuard<'a, T> {
    /// Goes on reading and lets other readers in, without a moment in which somebody else could
    /// change the value.
    pub fn downgrade(self) -> RwLockReadGuard<'a, T> {
        let Self { value, lock, mut permit } = self;
        drop(value);
        // Borrowed before the permits go back, which wakes others.
        let value = lock.value.borrow();
        let others = permit.split(MAX_READERS as usize - 1);
        let guard = RwLockReadGuard { value, permit };
        drop(others);
        guard
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
