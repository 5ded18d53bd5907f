//! Locks and channels with the surface of [`std::sync`], for coroutines and threads alike.
//!
//! A coroutine that waits lets the other tasks of its core run; a plain thread is blocked. One lock may be shared by coroutines of
//! several cores and by threads. They are fair: who waits first is next. Poisoning is `std`'s: a lock whose guard is dropped by a panic
//! (or by cancelling) is poisoned.
//!
//! They stand on the primitives of the `tokio` crate, of which the `sync` feature needs no runtime.
//!
//! # Different from `std::sync`
//!
//! - [`sync_channel`](mpsc::sync_channel) with a bound of zero does not make the sender wait for a receiver: it has room for one message.
//! - A lock that is asked for in a destructor of a coroutine that is being cancelled, and is not free, aborts the process with a message.

pub mod mpsc;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rt::wait;

pub use std::sync::{
    Arc, LazyLock, LockResult, Once, OnceLock, PoisonError, TryLockError, TryLockResult, Weak, atomic,
};

/// Whether a guard was dropped by a panic.
#[derive(Debug, Default)]
struct Poison(AtomicBool);

impl Poison {
    fn check<G>(&self, guard: G) -> LockResult<G> {
        if self.0.load(Ordering::Relaxed) { Err(PoisonError::new(guard)) } else { Ok(guard) }
    }

    /// Called with the lock held.
    fn guard_dropped(&self, was_panicking: bool) {
        if !was_panicking && std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Mutual exclusion.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized> {
    poison: Poison,
    lock: tokio::sync::Mutex<T>,
}

/// Holds a [`Mutex`] until it is dropped.
#[derive(Debug)]
#[must_use = "if unused the Mutex will immediately unlock"]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    was_panicking: bool,
    guard: tokio::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    /// An unlocked mutex.
    pub const fn new(value: T) -> Self {
        Self { poison: Poison(AtomicBool::new(false)), lock: tokio::sync::Mutex::const_new(value) }
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// With the value, if the mutex is poisoned.
    pub fn into_inner(self) -> LockResult<T> {
        let Self { poison, lock } = self;
        poison.check(lock.into_inner())
    }
}

impl<T: ?Sized> Mutex<T> {
    fn guard<'a>(&'a self, guard: tokio::sync::MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.poison.check(MutexGuard { mutex: self, was_panicking: std::thread::panicking(), guard })
    }

    /// Waits for the mutex.
    ///
    /// # Errors
    ///
    /// With the guard, if the mutex is poisoned.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match self.lock.try_lock() {
            Ok(guard) => self.guard(guard),
            Err(_) => self.guard(wait(self.lock.lock())),
        }
    }

    /// Takes the mutex if it is free.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it is not; with the guard, if it is poisoned.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        let guard = self.lock.try_lock().map_err(|_| TryLockError::WouldBlock)?;
        Ok(self.guard(guard)?)
    }

    /// Whether a guard was dropped by a panic.
    pub fn is_poisoned(&self) -> bool {
        self.poison.0.load(Ordering::Relaxed)
    }

    /// Forgets that a guard was dropped by a panic.
    pub fn clear_poison(&self) {
        self.poison.0.store(false, Ordering::Relaxed);
    }

    /// The value, without locking: nobody else can have the mutex.
    ///
    /// # Errors
    ///
    /// With the value, if the mutex is poisoned.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.poison.check(self.lock.get_mut())
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.poison.guard_dropped(self.was_panicking);
    }
}

/// Many readers or one writer.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized> {
    poison: Poison,
    lock: tokio::sync::RwLock<T>,
}

/// Reads what a [`RwLock`] holds until it is dropped.
#[derive(Debug)]
#[must_use = "if unused the RwLock will immediately unlock"]
pub struct RwLockReadGuard<'a, T: ?Sized>(tokio::sync::RwLockReadGuard<'a, T>);

/// Writes what a [`RwLock`] holds until it is dropped.
#[derive(Debug)]
#[must_use = "if unused the RwLock will immediately unlock"]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    poison: &'a Poison,
    was_panicking: bool,
    guard: tokio::sync::RwLockWriteGuard<'a, T>,
}

impl<T> RwLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { poison: Poison(AtomicBool::new(false)), lock: tokio::sync::RwLock::const_new(value) }
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// With the value, if the lock is poisoned.
    pub fn into_inner(self) -> LockResult<T> {
        let Self { poison, lock } = self;
        poison.check(lock.into_inner())
    }
}

impl<T: ?Sized> RwLock<T> {
    fn write_guard<'a>(
        &'a self,
        guard: tokio::sync::RwLockWriteGuard<'a, T>,
    ) -> LockResult<RwLockWriteGuard<'a, T>> {
        let was_panicking = std::thread::panicking();
        self.poison.check(RwLockWriteGuard { poison: &self.poison, was_panicking, guard })
    }

    /// Waits until nobody writes.
    ///
    /// # Errors
    ///
    /// With the guard, if the lock is poisoned.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        let guard = self.lock.try_read().unwrap_or_else(|_| wait(self.lock.read()));
        self.poison.check(RwLockReadGuard(guard))
    }

    /// Waits until nobody reads or writes.
    ///
    /// # Errors
    ///
    /// With the guard, if the lock is poisoned.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        self.write_guard(self.lock.try_write().unwrap_or_else(|_| wait(self.lock.write())))
    }

    /// Reads if nobody writes or waits to.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if somebody does; with the guard, if the lock is poisoned.
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        let guard = self.lock.try_read().map_err(|_| TryLockError::WouldBlock)?;
        Ok(self.poison.check(RwLockReadGuard(guard))?)
    }

    /// Writes if nobody reads or writes.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if somebody does; with the guard, if the lock is poisoned.
    pub fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        let guard = self.lock.try_write().map_err(|_| TryLockError::WouldBlock)?;
        Ok(self.write_guard(guard)?)
    }

    /// Whether a writing guard was dropped by a panic.
    pub fn is_poisoned(&self) -> bool {
        self.poison.0.load(Ordering::Relaxed)
    }

    /// Forgets that a writing guard was dropped by a panic.
    pub fn clear_poison(&self) {
        self.poison.0.store(false, Ordering::Relaxed);
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.poison.guard_dropped(self.was_panicking);
    }
}

/// Waits for something that a [`Mutex`] guards to change. As with `std`'s, a wait may return without a notification.
#[derive(Debug, Default)]
pub struct Condvar(tokio::sync::Notify);

/// Whether a wait ended because its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was up.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// With nobody waiting.
    pub const fn new() -> Self {
        Self(tokio::sync::Notify::const_new())
    }

    /// Gives the mutex up, waits for a notification, and takes the mutex again.
    ///
    /// # Errors
    ///
    /// With the guard, if the mutex is poisoned.
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let mutex = guard.mutex;
        let mut notified = std::pin::pin!(self.0.notified());
        // Before the mutex is free: a notification from now on counts.
        notified.as_mut().enable();
        drop(guard);
        wait(notified);
        mutex.lock()
    }

    /// As [`wait`](Self::wait), again and again while `condition` holds.
    ///
    /// # Errors
    ///
    /// With the guard, if the mutex is poisoned.
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn wait_while<'a, T: ?Sized, F: FnMut(&mut T) -> bool>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: F,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait`](Self::wait), for `duration` at most. Only inside a core, which has the timer.
    ///
    /// # Errors
    ///
    /// With the guard, if the mutex is poisoned.
    ///
    /// # Panics
    ///
    /// In an async task and outside a core.
    #[track_caller]
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        duration: std::time::Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let mutex = guard.mutex;
        let mut notified = std::pin::pin!(self.0.notified());
        notified.as_mut().enable();
        drop(guard);
        let timed_out = WaitTimeoutResult(wait(crate::rt::timeout(duration, notified)).is_err());
        match mutex.lock() {
            Ok(guard) => Ok((guard, timed_out)),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), timed_out))),
        }
    }

    /// Ends one wait.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Ends every wait.
    pub fn notify_all(&self) {
        self.0.notify_waiters();
    }
}

/// Lets a number of coroutines or threads wait for each other.
#[derive(Debug)]
pub struct Barrier(tokio::sync::Barrier);

/// Who was the last to come to a [`Barrier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierWaitResult(bool);

impl BarrierWaitResult {
    /// True for exactly one of those that waited.
    pub fn is_leader(&self) -> bool {
        self.0
    }
}

impl Barrier {
    /// For `count` of them.
    pub fn new(count: usize) -> Self {
        Self(tokio::sync::Barrier::new(count))
    }

    /// Waits for the others.
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn wait(&self) -> BarrierWaitResult {
        BarrierWaitResult(wait(self.0.wait()).is_leader())
    }
}
