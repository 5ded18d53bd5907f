//! Locking what several cores share for a moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. Nothing here is left half done by a panic: what is locked is one value, or is
/// changed in a step that does not panic.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
