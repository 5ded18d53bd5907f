//! Locks and channels with the surface of [`std::sync`], for coroutines and threads alike.
//!
//! A coroutine that waits lets the other tasks of its core run; a plain thread is blocked. One lock may be shared by coroutines of
//! several cores and by threads. Nobody starves: a [`Mutex`] may be taken by who comes at the right moment, but who was overtaken a few times
//! is next, and an [`RwLock`] goes first come, first served. Poisoning is `std`'s: a lock whose guard is dropped by a panic (or by cancelling)
//! is poisoned.
//!
//! They stand on the primitives of [`rt::sync`].
//!
//! # Different from `std::sync`
//!
//! - [`sync_channel`](mpsc::sync_channel) with a bound of zero does not make the sender wait for a receiver: it has room for one message.
//! - A lock that is asked for in a destructor of a coroutine that is being cancelled, and is not free, aborts the process with a message.

pub mod mpsc;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rt::sync::const_unless_loom;
use crate::rt::{self, wait};

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

    /// The caller has just taken the lock.
    fn watch(&self) -> Watch<'_> {
        Watch { poison: self, was_panicking: std::thread::panicking() }
    }
}

/// Notices when a guard is dropped by a panic. Dropped with the lock held.
#[derive(Debug)]
struct Watch<'a> {
    poison: &'a Poison,
    was_panicking: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.was_panicking && std::thread::panicking() {
            self.poison.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Mutual exclusion.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized> {
    poison: Poison,
    lock: rt::sync::Mutex<T>,
}

/// Holds a [`Mutex`] until it is dropped.
#[derive(Debug)]
#[must_use = "if unused the Mutex will immediately unlock"]
pub struct MutexGuard<'a, T: ?Sized> {
    // Dropped in this order.
    watch: Watch<'a>,
    guard: rt::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    const_unless_loom! {
        /// An unlocked mutex.
        pub fn new(value: T) -> Self {
            Self { poison: Poison(AtomicBool::new(false)), lock: rt::sync::Mutex::new(value) }
        }
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
    fn guard<'a>(&'a self, guard: rt::sync::MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        MutexGuard::new(&self.poison, guard)
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
        self.guard(self.lock.blocking_lock())
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

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    fn new(poison: &'a Poison, guard: rt::sync::MutexGuard<'a, T>) -> LockResult<Self> {
        poison.check(Self { watch: poison.watch(), guard })
    }

    /// For a wait without the lock: a panic there is not one with the lock.
    fn unwatched(self) -> (&'a Poison, rt::sync::MutexGuard<'a, T>) {
        (self.watch.poison, self.guard)
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
    // Dropped in this order.
    _watch: Watch<'a>,
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
        self.poison.check(RwLockWriteGuard { _watch: self.poison.watch(), guard })
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

/// Waits for something that a [`Mutex`] guards to change. As with `std`'s, a notification for nobody is lost, and what was waited for may be
/// gone when the wait returns.
#[derive(Debug, Default)]
pub struct Condvar(rt::sync::Condvar);

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
    const_unless_loom! {
        /// With nobody waiting.
        pub fn new() -> Self {
            Self(rt::sync::Condvar::new())
        }
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
        let (poison, guard) = guard.unwatched();
        MutexGuard::new(poison, wait(self.0.wait(guard)))
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
        let (poison, guard) = guard.unwatched();
        let mutex = rt::sync::MutexGuard::mutex(&guard);
        let waited = wait(rt::timeout(duration, self.0.wait(guard)));
        let timed_out = WaitTimeoutResult(waited.is_err());
        match MutexGuard::new(poison, waited.unwrap_or_else(|_| mutex.blocking_lock())) {
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
        self.0.notify_all();
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
