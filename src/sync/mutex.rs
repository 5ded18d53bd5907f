//! A mutex between any threads, for a value that stays locked while its task awaits.

use std::cell::UnsafeCell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::TryLockError;
use super::raw_mutex::{Acquire, RawMutex};
use crate::rt::wait;

/// A value that one task at a time works on, on whatever thread, also across awaits.
///
/// A task that finds the lock free takes it, though others may wait: a lock that is given up and
/// taken again on one core costs much less than one that goes to another. Those that wait are told
/// to look first come, first served, and one that was overtaken four times, each time after it had
/// been told, is given the lock: nobody starves. As long as a task that was told or given the lock
/// does not run, because its core is busy, those that wait behind it wait too.
///
/// A wait allocates nothing. It may be dropped at any time (by [`rt::timeout`](crate::rt::timeout),
/// say): the others keep their places, and what it was told or given goes to the next one.
///
/// There is no poisoning: a task that panics drops its guard, and the next one finds the value as
/// it was left.
///
/// Between tasks of one core, [`local::Mutex`](super::local::Mutex) costs less.
pub struct Mutex<T: ?Sized> {
    raw: RawMutex,
    value: UnsafeCell<T>,
}

// SAFETY: the value goes to whichever thread takes the lock, so it must be `Send`; one thread at a
// time has it, so it need not be `Sync`.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    const_unless_loom! {
        /// A mutex that nobody holds.
        pub fn new(value: T) -> Self {
            Self { raw: RawMutex::new(), value: UnsafeCell::new(value) }
        }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock. Waits from the first poll on that does not find it free.
    #[inline]
    pub fn lock(&self) -> MutexLock<'_, T> {
        MutexLock { acquire: self.raw.acquire(), mutex: self }
    }

    /// As [`Mutex::lock`], with a guard that keeps the mutex alive.
    pub async fn lock_owned(self: Arc<Self>) -> OwnedMutexGuard<T> {
        self.raw.acquire().await;
        OwnedMutexGuard::new(self)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    ///
    /// If somebody holds it.
    #[inline]
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>, TryLockError> {
        if self.raw.try_acquire() { Ok(MutexGuard::new(self)) } else { Err(TryLockError) }
    }

    /// As [`Mutex::try_lock`], with a guard that keeps the mutex alive.
    ///
    /// # Errors
    ///
    /// If somebody holds it.
    pub fn try_lock_owned(self: Arc<Self>) -> Result<OwnedMutexGuard<T>, TryLockError> {
        if self.raw.try_acquire() { Ok(OwnedMutexGuard::new(self)) } else { Err(TryLockError) }
    }

    /// Takes the lock, and blocks the thread meanwhile, or in a coroutine the coroutine.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait: it would stop the whole core.
    #[track_caller]
    pub fn blocking_lock(&self) -> MutexGuard<'_, T> {
        self.try_lock().unwrap_or_else(|_| wait(self.lock()))
    }

    /// As [`Mutex::blocking_lock`], with a guard that keeps the mutex alive.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn blocking_lock_owned(self: Arc<Self>) -> OwnedMutexGuard<T> {
        // The lock is the owned guard's from here on.
        std::mem::forget(self.blocking_lock());
        OwnedMutexGuard::new(self)
    }

    /// The value, which nobody else can reach now.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Mutex");
        match self.try_lock() {
            Ok(value) => f.field("value", &&*value),
            Err(_) => f.field("value", &format_args!("<locked>")),
        };
        f.finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`Mutex::lock`].
    #[must_use = "futures do nothing unless awaited"]
    pub struct MutexLock<'a, T: ?Sized> {
        #[pin]
        acquire: Acquire<'a>,
        mutex: &'a Mutex<T>,
    }
}

impl<'a, T: ?Sized> Future for MutexLock<'a, T> {
    type Output = MutexGuard<'a, T>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        ready!(this.acquire.poll(cx));
        Poll::Ready(MutexGuard::new(this.mutex))
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
    mutex: &'a Mutex<T>,
    /// What it lends; with it, threads may share a guard only if they may share the value.
    _value: PhantomData<&'a mut T>,
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// The caller has just taken the lock of `mutex`.
    #[inline]
    fn new(mutex: &'a Mutex<T>) -> Self {
        Self { mutex, _value: PhantomData }
    }

    /// The mutex that `guard` holds.
    pub fn mutex(guard: &Self) -> &'a Mutex<T> {
        guard.mutex
    }

    /// A guard of the part of the value that `part` returns.
    pub fn map<U: ?Sized>(guard: Self, part: impl FnOnce(&mut T) -> &mut U) -> MappedMutexGuard<'a, U> {
        MappedMutexGuard::map(Self::mapped(guard), part)
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
        let mutex = guard.mutex;
        MappedMutexGuard::try_map(Self::mapped(guard), part).map_err(|whole| {
            std::mem::forget(whole);
            Self::new(mutex)
        })
    }

    /// A guard of the whole value.
    fn mapped(guard: Self) -> MappedMutexGuard<'a, T> {
        let mutex = guard.mutex;
        std::mem::forget(guard);
        // SAFETY: the pointer is to a field of a reference's target.
        let value = unsafe { NonNull::new_unchecked(mutex.value.get()) };
        MappedMutexGuard { value, _held: Held(&mutex.raw), _value: PhantomData }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock, and so is the only way to the value, and lends it for
        // as long as the guard is borrowed.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; the guard is borrowed mutably.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.raw.release();
    }
}

/// The lock of a [`Mutex`] that is kept alive by it, which is given up when this is dropped.
#[must_use = "dropping it gives the lock up"]
pub struct OwnedMutexGuard<T: ?Sized> {
    mutex: Arc<Mutex<T>>,
    /// What it lends, see [`MutexGuard`].
    _value: PhantomData<T>,
}

impl<T: ?Sized> OwnedMutexGuard<T> {
    /// The caller has just taken the lock of `mutex`.
    fn new(mutex: Arc<Mutex<T>>) -> Self {
        Self { mutex, _value: PhantomData }
    }

    /// The mutex that `guard` holds.
    pub fn mutex(guard: &Self) -> &Arc<Mutex<T>> {
        &guard.mutex
    }
}

impl<T: ?Sized> Deref for OwnedMutexGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock, and so is the only way to the value, and lends it for
        // as long as the guard is borrowed.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for OwnedMutexGuard<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; the guard is borrowed mutably.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for OwnedMutexGuard<T> {
    fn drop(&mut self) {
        self.mutex.raw.release();
    }
}

/// The lock of a [`Mutex`] together with a part of its value; the lock is given up when this is
/// dropped.
#[must_use = "dropping it gives the lock up"]
pub struct MappedMutexGuard<'a, T: ?Sized> {
    /// A pointer: a guard that is being dropped as somebody's argument has nothing to itself any
    /// more once the lock is given up.
    value: NonNull<T>,
    _held: Held<'a>,
    _value: PhantomData<&'a mut T>,
}

/// Gives the lock up.
struct Held<'a>(&'a RawMutex);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

// SAFETY: the guard is a `&mut T` for those who use it, and its lock may be given up by any thread.
unsafe impl<T: ?Sized + Send> Send for MappedMutexGuard<'_, T> {}
// SAFETY: a shared guard gives out `&T` only.
unsafe impl<T: ?Sized + Sync> Sync for MappedMutexGuard<'_, T> {}

impl<'a, T: ?Sized> MappedMutexGuard<'a, T> {
    /// A guard of the part of the value that `part` returns.
    pub fn map<U: ?Sized>(mut guard: Self, part: impl FnOnce(&mut T) -> &mut U) -> MappedMutexGuard<'a, U> {
        let value = NonNull::from(part(&mut guard));
        MappedMutexGuard { value, _held: guard._held, _value: PhantomData }
    }

    /// A guard of the part of the value that `part` returns.
    ///
    /// # Errors
    ///
    /// With `guard`, if it returns none.
    pub fn try_map<U: ?Sized>(
        mut guard: Self,
        part: impl FnOnce(&mut T) -> Option<&mut U>,
    ) -> Result<MappedMutexGuard<'a, U>, Self> {
        match part(&mut guard).map(NonNull::from) {
            Some(value) => Ok(MappedMutexGuard { value, _held: guard._held, _value: PhantomData }),
            None => Err(guard),
        }
    }
}

impl<T: ?Sized> Deref for MappedMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the pointer was made from the one `&mut` to a part of the value, which the lock
        // that this guard holds protects, and lives as long as the mutex, which this guard borrows.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for MappedMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; the guard is borrowed mutably.
        unsafe { self.value.as_mut() }
    }
}

macro_rules! shown_as_the_value {
    ($($guard:ty),*) => {
        $(impl<T: ?Sized + fmt::Debug> fmt::Debug for $guard {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&**self, f)
            }
        }

        impl<T: ?Sized + fmt::Display> fmt::Display for $guard {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&**self, f)
            }
        })*
    };
}

shown_as_the_value!(MutexGuard<'_, T>, OwnedMutexGuard<T>, MappedMutexGuard<'_, T>);
