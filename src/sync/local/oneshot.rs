//! Hands one value from a task to another on the same core.
//!
//! A channel costs one allocation, when it is made.
//!
//! ```
//! # use std::time::Duration;
//! use boson::rt;
//! use boson::sync::local::oneshot;
//! # boson::run(async {
//! let (sender, mut receiver) = oneshot::channel();
//! // By reference, so that the receiver outlives the deadline.
//! assert!(rt::timeout(Duration::from_millis(1), &mut receiver).await.is_err());
//! sender.send("answer").expect("somebody listens");
//! assert_eq!(receiver.await?, "answer");
//! # Ok::<(), boson::Error>(())
//! # })?;
//! # Ok::<(), boson::Error>(())
//! ```

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub use super::error::oneshot as error;
use super::waker_slot::WakerSlot;
use crate::rt::noted;
use error::{RecvError, TryRecvError};

/// A channel for one value.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(OneshotShared {
        value: Cell::new(None),
        sender_gone: Cell::new(false),
        closed: Cell::new(false),
        receiver: WakerSlot::default(),
        sender: WakerSlot::default(),
    });
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared })
}

struct OneshotShared<T> {
    value: Cell<Option<T>>,
    sender_gone: Cell<bool>,
    /// The receiver takes nothing any more.
    closed: Cell<bool>,
    receiver: WakerSlot,
    sender: WakerSlot,
}

/// The end that sends.
pub struct Sender<T> {
    shared: Rc<OneshotShared<T>>,
}

impl<T> Sender<T> {
    /// Sends `value`.
    ///
    /// # Errors
    ///
    /// If the receiver is gone or closed: `value` comes back.
    pub fn send(self, value: T) -> Result<(), T> {
        if self.shared.closed.get() {
            return Err(value);
        }
        self.shared.value.set(Some(value));
        // Dropping the sender wakes the receiver.
        Ok(())
    }

    /// Whether the receiver is gone or closed.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// Completes when the receiver is gone or closed, so that the value need not be made.
    pub async fn closed(&mut self) {
        poll_fn(|cx| {
            if !self.shared.closed.get() {
                self.shared.sender.register(cx);
            }
            if self.shared.closed.get() {
                Poll::Ready(())
            } else {
                noted("the end of a oneshot", Poll::Pending)
            }
        })
        .await;
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.sender_gone.set(true);
        self.shared.sender.clear();
        self.shared.receiver.wake();
    }
}

/// The end that receives: a future of the value. It may be polled by reference and tried again.
#[must_use = "futures do nothing unless awaited"]
pub struct Receiver<T> {
    shared: Rc<OneshotShared<T>>,
}

impl<T> Receiver<T> {
    /// The value, if it is there.
    ///
    /// # Errors
    ///
    /// If it was not sent yet, or never will be.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.shared.value.take() {
            Some(value) => Ok(value),
            None if self.shared.sender_gone.get() || self.shared.closed.get() => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Refuses what is not sent yet. A value that was sent can still be received.
    pub fn close(&mut self) {
        self.shared.closed.set(true);
        self.shared.sender.wake();
    }

    fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Result<T, RecvError>> {
        for may_register in [true, false] {
            match self.try_recv() {
                Ok(value) => return Poll::Ready(Ok(value)),
                Err(TryRecvError::Closed) => return Poll::Ready(Err(RecvError)),
                Err(_) if may_register => self.shared.receiver.register(cx),
                Err(_) => {}
            }
        }
        noted("the message of a oneshot", Poll::Pending)
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_recv(cx)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.set(true);
        self.shared.sender.wake();
        self.shared.receiver.clear();
        drop(self.shared.value.take());
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("sender_gone", &self.shared.sender_gone).finish_non_exhaustive()
    }
}
