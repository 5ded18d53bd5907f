//! What is made once, and stays.

use std::sync::OnceLock;

#[cfg(loom)]
use crate::store::atomic::{AtomicBool, Mutex, Ordering};

/// A [`OnceLock`]. Loom does not see into that, so in its models a flag beside it says that the
/// value is there, and a lock makes those wait that would make it.
pub(super) struct Once<T> {
    value: OnceLock<T>,
    #[cfg(loom)]
    is_made: AtomicBool,
    #[cfg(loom)]
    making: Mutex<()>,
}

impl<T> Once<T> {
    pub(super) fn new() -> Self {
        Self {
            value: OnceLock::new(),
            #[cfg(loom)]
            is_made: AtomicBool::new(false),
            #[cfg(loom)]
            making: Mutex::new(()),
        }
    }

    /// The value, if it is made; and all that its maker did before.
    #[inline]
    pub(super) fn get(&self) -> Option<&T> {
        #[cfg(loom)]
        if !self.is_made.load(Ordering::Acquire) {
            return None;
        }
        self.value.get()
    }

    /// The value, made by this call if nobody else has.
    pub(super) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        #[cfg(loom)]
        let _making = self.making.lock().expect("no panic in a model");
        let value = self.value.get_or_init(make);
        #[cfg(loom)]
        self.is_made.store(true, Ordering::Release);
        value
    }
}
