//! Waiting for an `unpark`.

use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll};

use crate::rt::tasks::{Identity, noted};

impl Identity {
    /// Completes when there is a token, and takes it.
    pub(crate) fn park(&self) -> ParkFuture<'_> {
        ParkFuture(self)
    }
}

/// The future of [`Identity::park`].
pub(crate) struct ParkFuture<'a>(&'a Identity);

impl Future for ParkFuture<'_> {
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
        // Its destructor may be user code: not under the lock.
        drop(old);
        noted("an unpark", polled)
    }
}
