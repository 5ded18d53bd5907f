//! A condition variable for coroutines and threads.

use std::time::Duration;

use super::{LockResult, MutexGuard, PoisonError};
use crate::rt::coroutine::wait_at_most;
use crate::rt::wait;
use crate::sync::const_unless_loom;

/// Waits for something that a [`Mutex`](super::Mutex) guards to change. As with `std`'s, a
/// notification for nobody is lost, and what was waited for may be gone when the wait returns.
#[derive(Debug, Default)]
pub struct Condvar(crate::sync::Condvar);

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
            Self(crate::sync::Condvar::new())
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

    /// As [`wait`](Self::wait), for `duration` at most. The time that it then takes to get the
    /// mutex comes on top.
    ///
    /// # Errors
    ///
    /// With the guard, if the mutex is poisoned.
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        duration: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let (poison, guard) = guard.unwatched();
        let (guard, was_notified) = self.0.blocking_wait_at_most(guard, duration);
        with_result(MutexGuard::new(poison, guard), WaitTimeoutResult(!was_notified))
    }

    /// As [`wait_while`](Self::wait_while), for `duration` at most. The time was up if `condition`
    /// still holds.
    ///
    /// # Errors
    ///
    /// With the guard, if the mutex is poisoned.
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn wait_timeout_while<'a, T: ?Sized, F: FnMut(&mut T) -> bool>(
        &self,
        mut guard: MutexGuard<'a, T>,
        duration: Duration,
        mut condition: F,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let (poison, mutex) = (guard.watch.poison, crate::sync::MutexGuard::mutex(&guard.guard));
        let waiting = async {
            while condition(&mut guard) {
                let (poison, unwatched) = guard.unwatched();
                guard = MutexGuard::new(poison, self.0.wait(unwatched).await)?;
            }
            Ok(guard)
        };
        if let Some(waited) = wait_at_most(duration, waiting) {
            return with_result(waited, WaitTimeoutResult(false));
        }
        match MutexGuard::new(poison, mutex.blocking_lock()) {
            Ok(mut guard) => {
                let timed_out = WaitTimeoutResult(condition(&mut guard));
                Ok((guard, timed_out))
            }
            poisoned => with_result(poisoned, WaitTimeoutResult(true)),
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

fn with_result<G>(guard: LockResult<G>, timed_out: WaitTimeoutResult) -> LockResult<(G, WaitTimeoutResult)> {
    match guard {
        Ok(guard) => Ok((guard, timed_out)),
        Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), timed_out))),
    }
}
