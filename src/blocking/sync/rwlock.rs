//! A readers-writer lock for coroutines and threads.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicBool;

use super::{LockResult, Poison, TryLockError, TryLockResult, Watch};
use crate::rt::{wait, waits_for};

/// What those wait for.
const WHAT: &str = "a read-write lock";

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
        let guard = self.lock.try_read().unwrap_or_else(|_| wait(waits_for(WHAT, self.lock.read())));
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
        let guard = self.lock.try_write().unwrap_or_else(|_| wait(waits_for(WHAT, self.lock.write())));
        self.write_guard(guard)
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
        self.poison.is_set()
    }

    /// Forgets that a writing guard was dropped by a panic.
    pub fn clear_poison(&self) {
        self.poison.clear();
    }

    /// The value, without locking: nobody else can have the lock.
    ///
    /// # Errors
    ///
    /// With the value, if the lock is poisoned.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.poison.check(self.lock.get_mut())
    }
}

impl<T> From<T> for RwLock<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<'a, T: ?Sized> RwLockWriteGuard<'a, T> {
    /// Goes on reading, without a moment in which somebody else could change the value.
    pub fn downgrade(guard: Self) -> RwLockReadGuard<'a, T> {
        RwLockReadGuard(tokio::sync::RwLockWriteGuard::downgrade(guard.guard))
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
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
