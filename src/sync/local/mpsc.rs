//! Queues from many tasks of a core to one: bounded, where senders wait for room, and unbounded.
//!
//! Values arrive in the order in which they were sent. Senders that wait for room are served first
//! come, first served; one that is dropped after it got its place passes that on. The queue's
//! memory grows with use and is kept: in the steady state nothing is allocated.
//!
//! ```
//! # use std::time::Duration;
//! use boson::rt;
//! use boson::sync::local::mpsc;
//! # boson::run(async {
//! let (sender, mut receiver) = mpsc::channel(1);
//! sender.send("first").await?;
//! // No room: the value that is not sent in time is dropped with the future.
//! assert!(rt::timeout(Duration::from_millis(1), sender.send("second")).await.is_err());
//! assert_eq!(receiver.recv().await, Some("first"));
//! assert!(rt::timeout(Duration::from_millis(1), receiver.recv()).await.is_err());
//! drop(sender);
//! assert_eq!(receiver.recv().await, None);
//! # Ok::<(), boson::Error>(())
//! # })?;
//! # Ok::<(), boson::Error>(())
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::TryAcquireError;
pub use super::error::mpsc as error;
use super::semaphore::Semaphore;
use super::waker_slot::WakerSlot;
use crate::rt::noted;
use error::{SendError, TryRecvError, TrySendError};

/// A channel that holds `capacity` values, and at least one; more senders wait.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let channel = Rc::new(MpscShared::new(Some(Semaphore::inside_of("room in a channel", capacity.max(1)))));
    (Sender { channel: Rc::clone(&channel) }, Receiver { channel })
}

/// A channel whose senders never wait. Only memory limits it: use it where something else bounds
/// what is sent.
pub fn unbounded_channel<T>() -> (UnboundedSender<T>, UnboundedReceiver<T>) {
    let channel = Rc::new(MpscShared::new(None));
    (UnboundedSender { channel: Rc::clone(&channel) }, Receiver { channel })
}

/// The receiving end of an unbounded channel.
pub type UnboundedReceiver<T> = Receiver<T>;

struct MpscShared<T> {
    /// Borrowed only to move a value in or out.
    queue: RefCell<VecDeque<T>>,
    /// A permit for each free place. `None`: there is always room.
    room: Option<Semaphore>,
    senders: Cell<usize>,
    /// Places that senders hold and have not filled.
    reserved: Cell<usize>,
    /// The receiver takes only what was sent before.
    closed: Cell<bool>,
    receiver_gone: Cell<bool>,
    receiver: WakerSlot,
}

impl<T> MpscShared<T> {
    fn new(room: Option<Semaphore>) -> Self {
        Self {
            queue: RefCell::new(VecDeque::new()),
            room,
            senders: Cell::new(1),
            reserved: Cell::new(0),
            closed: Cell::new(false),
            receiver_gone: Cell::new(false),
            receiver: WakerSlot::default(),
        }
    }

    #[inline]
    fn push(&self, value: T) {
        self.queue.borrow_mut().push_back(value);
        self.receiver.wake();
    }

    fn add_sender(&self) {
        self.senders.set(self.senders.get() + 1);
    }

    fn remove_sender(&self) {
        self.senders.set(self.senders.get() - 1);
        if self.senders.get() == 0 {
            self.receiver.wake();
        }
    }

    fn try_recv(&self) -> Result<T, TryRecvError> {
        let value = self.queue.borrow_mut().pop_front();
        match value {
            Some(value) => {
                if let Some(room) = &self.room {
                    room.add_permits(1);
                }
                Ok(value)
            }
            None if self.has_ended() => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Whether no value will come any more.
    fn has_ended(&self) -> bool {
        self.senders.get() == 0 || (self.closed.get() && self.reserved.get() == 0)
    }

    fn close(&self) {
        self.closed.set(true);
        if let Some(room) = &self.room {
            room.close();
        }
    }
}

/// A sending end of a bounded channel.
pub struct Sender<T> {
    channel: Rc<MpscShared<T>>,
}

impl<T> Sender<T> {
    /// Sends `value`, when there is room and it is this task's turn.
    ///
    /// # Errors
    ///
    /// If the receiver is gone or closed: `value` comes back.
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        // The common case without a reservation.
        let value = match self.try_send(value) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(value)) => return Err(SendError(value)),
            Err(TrySendError::Full(value)) => value,
        };
        match self.reserve().await {
            Ok(permit) => {
                permit.send(value);
                Ok(())
            }
            Err(SendError(())) => Err(SendError(value)),
        }
    }

    /// Sends `value` if there is room now.
    ///
    /// # Errors
    ///
    /// If the channel is full, if others wait to send, or if the receiver is gone or closed:
    /// `value` comes back.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        if let Some(room) = &self.channel.room {
            match room.try_acquire() {
                Ok(permit) => permit.forget(),
                Err(TryAcquireError::NoPermits) => return Err(TrySendError::Full(value)),
                Err(TryAcquireError::Closed) => return Err(TrySendError::Closed(value)),
            }
        }
        self.channel.push(value);
        Ok(())
    }

    /// Waits for room for one value, so that it need not be made before there is.
    ///
    /// # Errors
    ///
    /// If the receiver is gone or closed.
    pub async fn reserve(&self) -> Result<Permit<'_, T>, SendError<()>> {
        if let Some(room) = &self.channel.room {
            match room.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => return Err(SendError(())),
            }
        }
        self.channel.reserved.set(self.channel.reserved.get() + 1);
        Ok(Permit { channel: &self.channel, used: false })
    }

    /// Whether the receiver is gone or closed.
    pub fn is_closed(&self) -> bool {
        self.channel.closed.get()
    }

    /// How many values could be sent now without waiting.
    pub fn capacity(&self) -> usize {
        self.channel.room.as_ref().map_or(usize::MAX, Semaphore::available_permits)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.channel.add_sender();
        Self { channel: Rc::clone(&self.channel) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.channel.remove_sender();
    }
}

/// Room for one value in a channel, which goes back if this is dropped.
#[must_use = "dropping it gives the room back"]
pub struct Permit<'a, T> {
    channel: &'a MpscShared<T>,
    used: bool,
}

impl<T> Permit<'_, T> {
    /// Sends `value`. If the receiver was closed meanwhile, it still gets it; if it is gone,
    /// `value` is dropped.
    pub fn send(mut self, value: T) {
        if !self.channel.receiver_gone.get() {
            self.used = true;
            self.channel.push(value);
        }
    }
}

impl<T> Drop for Permit<'_, T> {
    fn drop(&mut self) {
        self.channel.reserved.set(self.channel.reserved.get() - 1);
        if !self.used
            && let Some(room) = &self.channel.room
        {
            room.add_permits(1);
        }
        // It may have been the last that a closed receiver waits for.
        if self.channel.closed.get() {
            self.channel.receiver.wake();
        }
    }
}

/// A sending end of an unbounded channel.
pub struct UnboundedSender<T> {
    channel: Rc<MpscShared<T>>,
}

impl<T> UnboundedSender<T> {
    /// Sends `value` at once.
    ///
    /// # Errors
    ///
    /// If the receiver is gone or closed: `value` comes back.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.channel.closed.get() {
            return Err(SendError(value));
        }
        self.channel.push(value);
        Ok(())
    }

    /// Whether the receiver is gone or closed.
    pub fn is_closed(&self) -> bool {
        self.channel.closed.get()
    }
}

impl<T> Clone for UnboundedSender<T> {
    fn clone(&self) -> Self {
        self.channel.add_sender();
        Self { channel: Rc::clone(&self.channel) }
    }
}

impl<T> Drop for UnboundedSender<T> {
    fn drop(&mut self) {
        self.channel.remove_sender();
    }
}

/// The receiving end.
pub struct Receiver<T> {
    channel: Rc<MpscShared<T>>,
}

impl<T> Receiver<T> {
    /// The next value; `None` once everything was received and nobody sends any more. A future that
    /// is dropped loses no value.
    pub fn recv(&mut self) -> impl Future<Output = Option<T>> + use<'_, T> {
        poll_fn(|cx| self.poll_recv(cx))
    }

    /// As [`Receiver::recv`], for futures written by hand.
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            match self.channel.try_recv() {
                Ok(value) => return Poll::Ready(Some(value)),
                Err(TryRecvError::Disconnected) => return Poll::Ready(None),
                Err(TryRecvError::Empty) => self.channel.receiver.register(cx),
            }
            // Cloning a waker may be user code, which may have sent or closed.
            if self.channel.queue.borrow().is_empty() && !self.channel.has_ended() {
                return noted("a message of a channel", Poll::Pending);
            }
        }
    }

    /// The next value, if it is there.
    ///
    /// # Errors
    ///
    /// If nothing is there yet, or nothing will come any more.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.channel.try_recv()
    }

    /// Refuses what is not sent yet. Receive until `None` to drain the rest, which includes what
    /// holders of a [`Permit`] still send.
    pub fn close(&mut self) {
        self.channel.close();
    }

    /// How many values are there.
    pub fn len(&self) -> usize {
        self.channel.queue.borrow().len()
    }

    /// Whether no value is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.channel.receiver_gone.set(true);
        self.channel.close();
        self.channel.receiver.clear();
        let values = self.channel.queue.take();
        drop(values);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for UnboundedSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnboundedSender").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Permit<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).finish_non_exhaustive()
    }
}
