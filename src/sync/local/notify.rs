//! Tells waiting tasks of one core that something they wait for may have changed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::wait_list::{Left, ListWaiter, WaitList};
use crate::rt::noted;
use crate::user_code::wake_all;

/// A condition that tasks of one core wait for.
///
/// A task checks its condition, and if it does not hold yet awaits [`Notify::notified`]. Nothing is
/// stored for later waiters: on one core nothing runs between the check and the wait, so no
/// notification can be missed. (Where a notification is to wait for its taker, use a
/// [`Semaphore`](super::Semaphore) without permits and add one.)
///
/// Those that wait are told in the order in which they came.
///
/// ```
/// # use std::time::Duration;
/// use std::{cell::Cell, rc::Rc};
/// use boson::rt;
/// use boson::sync::local::Notify;
/// # boson::run(async {
/// let state = Rc::new((Cell::new(false), Notify::new()));
/// let setter = Rc::clone(&state);
/// rt::named("setter").spawn(async move {
///     setter.0.set(true);
///     setter.1.notify_all();
/// });
/// rt::timeout(Duration::from_secs(1), async {
///     while !state.0.get() {
///         state.1.notified().await;
///     }
/// })
/// .await?;
/// # Ok::<(), boson::Error>(())
/// # })?;
/// # Ok::<(), boson::Error>(())
/// ```
#[derive(Debug)]
pub struct Notify {
    waiters: WaitList<Notice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    No,
    /// By `notify_one`: a waiter that is dropped before it saw it passes it on.
    Alone,
    WithAll,
}

impl Notify {
    /// A condition that nobody waits for.
    pub const fn new() -> Self {
        Self { waiters: WaitList::new() }
    }

    /// Completes once one of the `notify_` calls reaches this waiter. Waits from the first poll on.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, waiter: ListWaiter::new(&self.waiters, Notice::No) }
    }

    /// Wakes every waiter. One that begins to wait while this runs is not among them.
    pub fn notify_all(&self) {
        self.waiters.tell_all(Notice::WithAll);
    }

    /// Wakes the waiter that has waited longest; returns whether there was one. If that one is
    /// dropped before it could see it, the next one is told.
    pub fn notify_one(&self) -> bool {
        if self.waiters.is_empty() {
            return false;
        }
        // Also in the destructor of a wait, which a panic may run: a second one would end the
        // process.
        wake_all(self.waiters.tell_front(Notice::Alone));
        true
    }

    /// Whether nobody waits.
    pub fn is_idle(&self) -> bool {
        self.waiters.is_empty()
    }
}

impl Default for Notify {
    fn default() -> Self {
        Self::new()
    }
}

pin_project! {
    /// The future of [`Notify::notified`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub struct Notified<'a> {
        notify: &'a Notify,
        #[pin]
        waiter: ListWaiter<'a, Notice>,
    }

    impl PinnedDrop for Notified<'_> {
        fn drop(this: Pin<&mut Self>) {
            if this.waiter.leave() == Left::Told(Notice::Alone) {
                this.notify.notify_one();
            }
        }
    }
}

impl Notified<'_> {
    /// As `poll`, and says when this waiter alone was told, which it then owes to the next one
    /// should it not make use of it.
    pub(super) fn poll_alone(self: Pin<&mut Self>, cx: &Context<'_>) -> Poll<bool> {
        let waiter = self.project().waiter.into_ref();
        if waiter.is_idle() {
            waiter.wait(Notice::No, cx.waker().clone());
            return noted("a notification", Poll::Pending);
        }
        noted("a notification", waiter.poll_told(cx)).map(|told| told == Notice::Alone)
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_alone(cx).map(|_| ())
    }
}
