//! What identifies a coroutine to others: its number, its name, and the token that `unpark` leaves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use crate::user_code::wake;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Shared by the coroutine and the handles to it on every thread.
#[derive(Debug)]
pub(crate) struct Identity {
    id: u64,
    name: Option<Box<str>>,
    pub(in crate::rt) parking: Mutex<Parking>,
}

#[derive(Debug, Default)]
pub(in crate::rt) struct Parking {
    /// Someone called `unpark` since the last `park` returned.
    pub(in crate::rt) token: bool,
    pub(in crate::rt) waker: Option<Waker>,
}

impl Identity {
    pub(crate) fn new(name: Option<String>) -> Arc<Self> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, name: name.map(String::into_boxed_str), parking: Mutex::default() })
    }

    /// Different from every other coroutine's of this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Ends the `park` that is going on, or the next one.
    pub(crate) fn unpark(&self) {
        let waker = {
            let mut parking = self.parking.lock().unwrap_or_else(PoisonError::into_inner);
            parking.token = true;
            parking.waker.take()
        };
        if let Some(waker) = waker {
            wake(waker);
        }
    }
}
