//! A value of which the tasks of one core follow the newest state.
//!
//! Receivers see that the value changed, not each change. Those that wait are woken in the order in
//! which they came. A change costs one allocation, a wait none.
//!
//! ```
//! # use std::time::Duration;
//! use boson::rt;
//! use boson::sync::local::watch;
//! # boson::run(async {
//! let (sender, mut receiver) = watch::channel("starting");
//! assert!(rt::timeout(Duration::from_millis(1), receiver.changed()).await.is_err());
//! sender.send("ready")?;
//! receiver.changed().await?;
//! assert_eq!(*receiver.borrow(), "ready");
//! # Ok::<(), boson::Error>(())
//! # })?;
//! # Ok::<(), boson::Error>(())
//! ```

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

pub use super::error::watch as error;
use super::notify::Notify;
use crate::rt::noted_over;
use error::{RecvError, SendError};

/// As the version that a receiver has seen: none.
const UNSEEN: u64 = u64::MAX;

/// A watched value that is `initial`, which receivers count as seen.
pub fn channel<T>(initial: T) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: RefCell::new(Rc::new(initial)),
        version: Cell::new(0),
        sender_gone: Cell::new(false),
        receivers: Cell::new(1),
        changed: Notify::new(),
    });
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared, seen: 0 })
}

struct Shared<T> {
    /// Borrowed only to exchange or clone the `Rc`.
    value: RefCell<Rc<T>>,
    version: Cell<u64>,
    sender_gone: Cell<bool>,
    receivers: Cell<usize>,
    changed: Notify,
}

/// The end that changes the value.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Changes the value and tells the receivers.
    ///
    /// # Errors
    ///
    /// If there is no receiver: `value` comes back, and nothing changes.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.shared.receivers.get() == 0 {
            return Err(SendError(value));
        }
        drop(self.send_replace(value));
        Ok(())
    }

    /// Changes the value, whether there is a receiver or not, and returns the one before.
    pub fn send_replace(&self, value: T) -> Rc<T> {
        let value = Rc::new(value);
        let before = std::mem::replace(&mut *self.shared.value.borrow_mut(), value);
        self.shared.version.set(self.shared.version.get() + 1);
        self.shared.changed.notify_all();
        before
    }

    /// The value.
    pub fn borrow(&self) -> Rc<T> {
        Rc::clone(&self.shared.value.borrow())
    }

    /// Whether there is no receiver.
    pub fn is_closed(&self) -> bool {
        self.receiver_count() == 0
    }

    /// How many receivers there are.
    pub fn receiver_count(&self) -> usize {
        self.shared.receivers.get()
    }

    /// A new receiver, which counts the present value as seen.
    pub fn subscribe(&self) -> Receiver<T> {
        self.shared.receivers.set(self.shared.receivers.get() + 1);
        Receiver { shared: Rc::clone(&self.shared), seen: self.shared.version.get() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.sender_gone.set(true);
        self.shared.changed.notify_all();
    }
}

/// An end that follows the value.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// The value, which does not count as seen by this.
    pub fn borrow(&self) -> Rc<T> {
        Rc::clone(&self.shared.value.borrow())
    }

    /// The value, which counts as seen from now on.
    pub fn borrow_and_update(&mut self) -> Rc<T> {
        self.seen = self.shared.version.get();
        self.borrow()
    }

    /// Whether the value changed since it was last seen.
    ///
    /// # Errors
    ///
    /// If the sender is gone, whether the last value was seen or not.
    pub fn has_changed(&self) -> Result<bool, RecvError> {
        if self.shared.sender_gone.get() { Err(RecvError) } else { Ok(self.is_unseen()) }
    }

    /// The value counts as not seen.
    pub fn mark_changed(&mut self) {
        // No version: those count up from zero.
        self.seen = UNSEEN;
    }

    /// The value counts as seen.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.version.get();
    }

    fn is_unseen(&self) -> bool {
        self.seen != self.shared.version.get()
    }

    /// Completes when the value is not the one last seen, at once if it is not now, and counts the
    /// new one as seen.
    ///
    /// # Errors
    ///
    /// [`RecvError`] if the last value was seen and the sender is gone.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        let (shared, seen) = (&*self.shared, self.seen);
        let mut changed = pin!(shared.changed.notified());
        let is_over = || seen != shared.version.get() || shared.sender_gone.get();
        poll_fn(|cx| {
            // Once before and once after the waker is cloned, which is user code.
            if is_over() || changed.as_mut().poll(cx).is_ready() || is_over() {
                Poll::Ready(())
            } else {
                noted_over("a notification", "a change of a watched value", Poll::Pending)
            }
        })
        .await;
        if !self.is_unseen() {
            return Err(RecvError);
        }
        self.seen = self.shared.version.get();
        Ok(())
    }

    /// Completes with the first value seen from now on for which `condition` holds.
    ///
    /// # Errors
    ///
    /// [`RecvError`] if it does not hold for the last one and the sender is gone.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&T) -> bool) -> Result<Rc<T>, RecvError> {
        loop {
            let value = self.borrow_and_update();
            if condition(&value) {
                return Ok(value);
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.set(self.shared.receivers.get() + 1);
        Self { shared: Rc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.set(self.shared.receivers.get() - 1);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("version", &self.shared.version).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("seen", &self.seen).finish_non_exhaustive()
    }
}
