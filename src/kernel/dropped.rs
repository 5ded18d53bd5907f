//! Operations whose future was dropped while the kernel had them: what they bring is kept for the
//! next.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use crate::reactor::ops::{Op, Operation};
use crate::sync::local::{Notified, Notify};

/// What operations share of which each can bring what another one was dropped before it could take.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Dropped {
    /// Those whose outcome is not known yet, which everybody looks at: it comes first. The next
    /// operation waits for them: what it would wait for may be theirs.
    pending: Cell<usize>,
    settled: Notify,
}

impl Dropped {
    /// Waits until the outcome of all is known.
    pub(crate) async fn settle(&self) {
        while self.are_pending() {
            self.settled.notified().await;
        }
    }

    /// Completes when the outcome of one is known.
    pub(crate) fn next_settled(&self) -> Notified<'_> {
        self.settled.notified()
    }

    pub(crate) fn are_pending(&self) -> bool {
        self.pending.get() > 0
    }

    /// One is done, and what it brought is kept.
    pub(crate) fn settled(&self) {
        self.pending.set(self.pending.get() - 1);
        self.settled.notify_all();
    }

    /// Awaits `operation`, unless `is_kept` says that something is kept, by one that was dropped
    /// meanwhile: then it is cancelled. Returns what it came to and whether it was cancelled, which
    /// may have been too late.
    pub(crate) async fn run<O: Operation>(
        &self,
        mut operation: Op<O>,
        is_kept: impl Fn() -> bool,
    ) -> (O::Output, bool) {
        // Dropped before the operation, which may call `settled` while it is dropped.
        let mut guard = PendingGuard(None);
        let mut settled = pin!(self.settled.notified());
        let mut cancelled = false;
        std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(output) = Pin::new(&mut operation).poll(cx) {
                    guard.0 = None;
                    return Poll::Ready((output, cancelled));
                }
                guard.0 = Some(self);
                if cancelled {
                    return Poll::Pending;
                }
                while settled.as_mut().poll(cx).is_ready() {
                    settled.set(self.settled.notified());
                }
                if !is_kept() {
                    return Poll::Pending;
                }
                operation.cancel();
                cancelled = true;
            }
        })
        .await
    }
}

/// Counts an operation that is in flight as pending when its future is dropped.
pub(crate) struct PendingGuard<'a>(pub(super) Option<&'a Dropped>);

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        if let Some(dropped) = self.0 {
            dropped.pending.set(dropped.pending.get() + 1);
        }
    }
}

/// Whether it is what a cancelled operation says.
pub(crate) fn is_cancelled(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR))
}
