//! Locks and channels with the surface of [`std::sync`], for coroutines and threads alike.
//!
//! A coroutine that waits lets the other tasks of its core run; a plain thread is blocked. One lock
//! may be shared by coroutines of several cores and by threads. Nobody starves: a [`Mutex`] may be
//! taken by who comes at the right moment, but who was overtaken a few times is next, and an
//! [`RwLock`] goes first come, first served. Poisoning is `std`'s: a lock whose guard is dropped by
//! a panic (or by cancelling) is poisoned. One that panics while another coroutine of its core is
//! suspended in a destructor that a panic runs may not be noticed: `std` tells whether a thread
//! panics, and not how often.
//!
//! They stand on the primitives of [`sync`](crate::sync).
//!
//! # Deadlines
//!
//! What has a timed wait in `std` has one here: by the core's clock, or on a thread without a core
//! by the machine's. To bound any other wait, use the primitive of [`sync`](crate::sync): its waits
//! are futures, for `wait` and [`rt::timeout`](crate::rt::timeout()), which needs a core.
//!
//! ```
//! use std::time::Duration;
//!
//! use boson::sync::Mutex;
//! use boson::{rt, thread};
//!
//! thread::run(|| {
//! let mutex = Mutex::new(());
//! let guard = mutex.blocking_lock();
//! assert!(boson::wait(rt::timeout(Duration::from_millis(1), mutex.lock())).is_err());
//! # drop(guard);
//! });
//! ```
//!
//! # Different from `std::sync`
//!
//! - [`sync_channel`](mpsc::sync_channel) with a bound of zero does not make the sender wait for a
//!   receiver: it has room for one message.
//! - [`Once`], [`OnceLock`] and [`LazyLock`] are poisoned by cancelling too, where a panic would
//!   poison them.
//! - What `std` has under other names for the nightly compiler is missing, and so are its
//!   deprecated functions.
//! - A lock that is asked for in a destructor of a coroutine that is being cancelled, and is not
//!   free, aborts the process with a message.

mod condvar;
pub mod mpsc;
mod once;
mod rwlock;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rt::coroutine::is_panicking;
use crate::rt::wait;
use crate::sync::const_unless_loom;

pub use std::sync::{Arc, LockResult, PoisonError, TryLockError, TryLockResult, Weak, atomic};

pub use condvar::{Condvar, WaitTimeoutResult};
pub use once::{LazyLock, Once, OnceLock, OnceState};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Whether a guard was dropped by a panic.
#[derive(Debug, Default)]
struct Poison(AtomicBool);

impl Poison {
    fn check<G>(&self, guard: G) -> LockResult<G> {
        if self.is_set() { Err(PoisonError::new(guard)) } else { Ok(guard) }
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// The caller has just taken the lock.
    fn watch(&self) -> Watch<'_> {
        Watch { poison: self, was_panicking: is_panicking() }
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
        if !self.was_panicking && is_panicking() {
            self.poison.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Mutual exclusion.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized> {
    poison: Poison,
    lock: crate::sync::Mutex<T>,
}

/// Holds a [`Mutex`] until it is dropped.
#[derive(Debug)]
#[must_use = "if unused the Mutex will immediately unlock"]
pub struct MutexGuard<'a, T: ?Sized> {
    // Dropped in this order.
    watch: Watch<'a>,
    guard: crate::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    const_unless_loom! {
        /// An unlocked mutex.
        pub fn new(value: T) -> Self {
            Self { poison: Poison(AtomicBool::new(false)), lock: crate::sync::Mutex::new(value) }
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
    fn guard<'a>(&'a self, guard: crate::sync::MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
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
        self.poison.is_set()
    }

    /// Forgets that a guard was dropped by a panic.
    pub fn clear_poison(&self) {
        self.poison.clear();
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

impl<T: ?Sized + fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    fn new(poison: &'a Poison, guard: crate::sync::MutexGuard<'a, T>) -> LockResult<Self> {
        poison.check(Self { watch: poison.watch(), guard })
    }

    /// For a wait without the lock: a panic there is not one with the lock.
    fn unwatched(self) -> (&'a Poison, crate::sync::MutexGuard<'a, T>) {
        (self.watch.poison, self.guard)
    }
}

/// Lets a number of coroutines or threads wait for each other. A coroutine that is cancelled while
/// it waits is not counted.
#[derive(Debug)]
pub struct Barrier(crate::sync::Barrier);

/// Says which task came to a [`Barrier`] last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierWaitResult(bool);

impl BarrierWaitResult {
    /// True for exactly one of those that waited.
    pub fn is_leader(&self) -> bool {
        self.0
    }
}

impl Barrier {
    const_unless_loom! {
        /// A barrier for `count` coroutines or threads; 0 counts as 1.
        pub fn new(count: usize) -> Self {
            Self(crate::sync::Barrier::new(count))
        }
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
