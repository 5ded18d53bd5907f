//! Gives every value to every receiver, on one core.
//!
//! The channel keeps the last `capacity` values; sending never waits. A receiver that falls further
//! behind is told how many it missed, and goes on with the oldest one kept. A value is dropped when
//! every receiver has seen it, or when it is overwritten. Receivers that wait are woken in the
//! order in which they came. A send costs one allocation, a wait none.
//!
//! ```
//! # use std::time::Duration;
//! use boson::rt;
//! use boson::sync::local::broadcast::{self, error::RecvError};
//! # boson::run(async {
//! let (sender, mut slow) = broadcast::channel(2);
//! let mut quick = sender.subscribe();
//! for number in 1..=3 {
//!     sender.send(number)?;
//!     assert_eq!(quick.recv().await, Ok(number));
//! }
//! assert!(rt::timeout(Duration::from_millis(1), quick.recv()).await.is_err());
//! assert_eq!(slow.recv().await, Err(RecvError::Lagged(1)));
//! assert_eq!(slow.recv().await, Ok(2));
//! # Ok::<(), boson::Error>(())
//! # })?;
//! # Ok::<(), boson::Error>(())
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::rc::Rc;

pub use super::error::broadcast as error;
use super::notify::Notify;
use error::{RecvError, SendError, TryRecvError};

/// A channel that keeps the last `capacity` values, and at least one.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let channel = Rc::new(BroadcastShared {
        capacity: capacity.max(1),
        kept: RefCell::new(Kept { slots: VecDeque::new(), first: 0 }),
        senders: Cell::new(1),
        receivers: Cell::new(1),
        sent: Notify::new(),
    });
    (Sender { channel: Rc::clone(&channel) }, Receiver { channel, next: 0 })
}

struct BroadcastShared<T> {
    capacity: usize,
    /// Borrowed only to move values in and out: they are dropped and cloned outside of the borrow.
    kept: RefCell<Kept<T>>,
    senders: Cell<usize>,
    receivers: Cell<usize>,
    sent: Notify,
}

struct Kept<T> {
    slots: VecDeque<ValueSlot<T>>,
    /// The number of the first slot, counted from the channel's beginning.
    first: u64,
}

struct ValueSlot<T> {
    /// `None` when everybody has seen it.
    value: Option<Rc<T>>,
    /// How many have not.
    unseen_by: usize,
}

impl<T> Kept<T> {
    /// The number of the next value that is sent.
    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// One receiver fewer has yet to see the value `number`. The last one gets the value itself.
    fn see(&mut self, number: u64) -> Option<Rc<T>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get_mut(index)?;
        slot.unseen_by -= 1;
        if slot.unseen_by == 0 { slot.value.take() } else { slot.value.clone() }
    }
}

/// A sending end.
pub struct Sender<T> {
    channel: Rc<BroadcastShared<T>>,
}

impl<T> Sender<T> {
    /// Sends `value` to every receiver there is now, and returns how many those are.
    ///
    /// # Errors
    ///
    /// If there is none: `value` comes back.
    pub fn send(&self, value: T) -> Result<usize, SendError<T>> {
        let receivers = self.channel.receivers.get();
        if receivers == 0 {
            return Err(SendError(value));
        }
        let value = Rc::new(value);
        let overwritten = {
            let mut kept = self.channel.kept.borrow_mut();
            let full = kept.slots.len() == self.channel.capacity;
            let overwritten = if full { kept.slots.pop_front() } else { None };
            kept.first += u64::from(full);
            kept.slots.push_back(ValueSlot { value: Some(value), unseen_by: receivers });
            overwritten
        };
        self.channel.sent.notify_all();
        drop(overwritten);
        Ok(receivers)
    }

    /// A new receiver, of what is sent from now on.
    pub fn subscribe(&self) -> Receiver<T> {
        self.channel.receivers.set(self.channel.receivers.get() + 1);
        let next = self.channel.kept.borrow().end();
        Receiver { channel: Rc::clone(&self.channel), next }
    }

    /// How many receivers there are.
    pub fn receiver_count(&self) -> usize {
        self.channel.receivers.get()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.channel.senders.set(self.channel.senders.get() + 1);
        Self { channel: Rc::clone(&self.channel) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.channel.senders.set(self.channel.senders.get() - 1);
        if self.channel.senders.get() == 0 {
            self.channel.sent.notify_all();
        }
    }
}

/// A receiving end.
pub struct Receiver<T> {
    channel: Rc<BroadcastShared<T>>,
    /// The number of the value that it sees next.
    next: u64,
}

impl<T: Clone> Receiver<T> {
    /// The next value. A future that is dropped loses none.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] if values were overwritten before this call, [`RecvError::Closed`] if
    /// none will come.
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        self.recv_shared().await.map(Rc::unwrap_or_clone)
    }

    /// The next value, if it is there.
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv`], and [`TryRecvError::Empty`] if it is not there yet.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.try_recv_shared().map(Rc::unwrap_or_clone)
    }
}

impl<T> Receiver<T> {
    /// As [`Receiver::recv`], without a copy of the value.
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv`].
    pub async fn recv_shared(&mut self) -> Result<Rc<T>, RecvError> {
        loop {
            match self.try_recv_shared() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Closed) => return Err(RecvError::Closed),
                Err(TryRecvError::Lagged(count)) => return Err(RecvError::Lagged(count)),
                Err(TryRecvError::Empty) => {}
            }
            let channel = Rc::clone(&self.channel);
            let next = self.next;
            let mut sent = pin!(channel.sent.notified());
            std::future::poll_fn(|cx| {
                let told = sent.as_mut().poll(cx);
                // Something may have been sent while the waker was cloned.
                let is_over = channel.senders.get() == 0 || channel.kept.borrow().end() != next;
                if is_over { std::task::Poll::Ready(()) } else { told }
            })
            .await;
        }
    }

    /// As [`Receiver::try_recv`], without a copy of the value.
    ///
    /// # Errors
    ///
    /// As [`Receiver::try_recv`].
    pub fn try_recv_shared(&mut self) -> Result<Rc<T>, TryRecvError> {
        let mut kept = self.channel.kept.borrow_mut();
        let missed = kept.first.saturating_sub(self.next);
        if missed > 0 {
            self.next = kept.first;
            return Err(TryRecvError::Lagged(missed));
        }
        match kept.see(self.next) {
            Some(value) => {
                self.next += 1;
                Ok(value)
            }
            None if self.channel.senders.get() == 0 => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// A new receiver, of what is sent from now on.
    #[must_use]
    pub fn resubscribe(&self) -> Self {
        self.channel.receivers.set(self.channel.receivers.get() + 1);
        let next = self.channel.kept.borrow().end();
        Self { channel: Rc::clone(&self.channel), next }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.channel.receivers.set(self.channel.receivers.get() - 1);
        let (first, end) = {
            let kept = self.channel.kept.borrow();
            (kept.first.max(self.next), kept.end())
        };
        for number in first..end {
            // Dropped outside the borrow, as every value.
            let value = self.channel.kept.borrow_mut().see(number);
            drop(value);
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("receivers", &self.channel.receivers).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("next", &self.next).finish_non_exhaustive()
    }
}
