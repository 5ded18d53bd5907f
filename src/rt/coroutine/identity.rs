//! Who a coroutine is to others: its number, its name, and the token that `unpark` leaves.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::rt::context::noted;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Shared by the coroutine and the handles to it on every thread.
#[derive(Debug)]
pub(crate) struct Identity {
    id: u64,
    name: Option<Box<str>>,
    parking: Mutex<Parking>,
}

#[derive(Debug, Default)]
struct Parking {
    /// Someone called `unpark` since the last `park` returned.
    token: bool,
    waker: Option<Waker>,
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
            waker.wake();
        }
    }

    /// Completes when there is a token, and takes it.
    pub(crate) fn park(&self) -> Park<'_> {
        Park(self)
    }
}

/// The future of [`Identity::park`].
pub(crate) struct Park<'a>(&'a Identity);

impl Future for Park<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let (polled, old) = {
            let mut parking = self.0.parking.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut parking.token) {
                (Poll::Ready(()), Some(waker))
            } else {
                (Poll::Pending, parking.waker.replace(waker))
            }
        };
        // Its destructor may be foreign code: not under the lock.
        drop(old);
        noted("an unpark", polled)
    }
}
