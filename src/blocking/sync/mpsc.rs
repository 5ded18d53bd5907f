//! Channels with the surface of [`std::sync::mpsc`], for coroutines and threads alike.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::rt::coroutine::wait_at_most;
use crate::rt::{wait, waits_for};

pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};

/// A channel without a bound: its queue grows with what is not received yet.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Sender(sender), Receiver::new(Queue::Unbounded(receiver)))
}

/// A channel that holds `bound` messages, at least one; a sender waits while it is full.
pub fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(bound.clamp(1, tokio::sync::Semaphore::MAX_PERMITS));
    (SyncSender(sender), Receiver::new(Queue::Bounded(receiver)))
}

/// Sends without waiting.
#[derive(Debug)]
pub struct Sender<T>(mpsc::UnboundedSender<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Puts `message` into the queue.
    ///
    /// # Errors
    ///
    /// With the message, if the receiver is gone.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0.send(message).map_err(|error| SendError(error.0))
    }
}

/// Sends, waiting while the channel is full.
#[derive(Debug)]
pub struct SyncSender<T>(mpsc::Sender<T>);

impl<T> Clone for SyncSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> SyncSender<T> {
    /// Waits for room, and puts `message` into it.
    ///
    /// # Errors
    ///
    /// With the message, if the receiver is gone.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        match self.0.try_send(message) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(message)) => Err(SendError(message)),
            Err(mpsc::error::TrySendError::Full(message)) => {
                wait(waits_for("room in a channel", self.0.send(message))).map_err(|error| SendError(error.0))
            }
        }
    }

    /// Puts `message` into the channel if there is room.
    ///
    /// # Errors
    ///
    /// With the message, if the channel is full or the receiver is gone.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.0.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(message) => TrySendError::Full(message),
            mpsc::error::TrySendError::Closed(message) => TrySendError::Disconnected(message),
        })
    }
}

/// Receives what was sent. Coroutines of one core may share it; they take turns.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: tokio::sync::Mutex<Queue<T>>,
    /// Not `Sync`, as in `std`.
    not_sync: PhantomData<Cell<()>>,
}

#[derive(Debug)]
enum Queue<T> {
    Unbounded(mpsc::UnboundedReceiver<T>),
    Bounded(mpsc::Receiver<T>),
}

impl<T> Receiver<T> {
    fn new(queue: Queue<T>) -> Self {
        Self { queue: tokio::sync::Mutex::new(queue), not_sync: PhantomData }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// If every sender is gone and everything was received.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn recv(&self) -> Result<T, RecvError> {
        match self.try_recv() {
            Ok(message) => Ok(message),
            Err(TryRecvError::Disconnected) => Err(RecvError),
            Err(TryRecvError::Empty) => wait(self.next()).ok_or(RecvError),
        }
    }

    fn next(&self) -> impl Future<Output = Option<T>> {
        waits_for("a message of a channel", async {
            match &mut *self.queue.lock().await {
                Queue::Unbounded(queue) => queue.recv().await,
                Queue::Bounded(queue) => queue.recv().await,
            }
        })
    }

    /// The next message, if there is one.
    ///
    /// # Errors
    ///
    /// If there is none, and if there will be none.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        // Somebody else waits for the next message.
        let mut queue = self.queue.try_lock().map_err(|_| TryRecvError::Empty)?;
        let received = match &mut *queue {
            Queue::Unbounded(queue) => queue.try_recv(),
            Queue::Bounded(queue) => queue.try_recv(),
        };
        received.map_err(|error| match error {
            mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }

    /// Waits for the next message, `timeout` at most.
    ///
    /// # Errors
    ///
    /// If the time is up, and if there will be no message.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        match self.try_recv() {
            Ok(message) => return Ok(message),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {}
        }
        match wait_at_most(timeout, self.next()) {
            Some(Some(message)) => Ok(message),
            Some(None) => Err(RecvTimeoutError::Disconnected),
            None => Err(RecvTimeoutError::Timeout),
        }
    }

    /// The messages as they come, until every sender is gone.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(self)
    }

    /// The messages that are there, without waiting for more.
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter(self)
    }
}

/// The messages of a [`Receiver`].
#[derive(Debug)]
pub struct Iter<'a, T>(&'a Receiver<T>);

impl<T> Iterator for Iter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

/// The messages of a [`Receiver`] that are there.
#[derive(Debug)]
pub struct TryIter<'a, T>(&'a Receiver<T>);

impl<T> Iterator for TryIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// The messages of a [`Receiver`] that it owns.
#[derive(Debug)]
pub struct IntoIter<T>(Receiver<T>);

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}
