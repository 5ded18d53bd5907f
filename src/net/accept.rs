//! Accepting connections of the kernel, so that none is lost when a future is dropped.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use crate::rt::ops::{self, Op, Operation};
use crate::rt::sync::local::Notify;
use crate::rt::uring::Feed;

/// A listening socket and what was accepted on it for nobody yet.
#[derive(Debug)]
pub(super) struct Acceptor {
    socket: Rc<OwnedFd>,
    stash: Rc<Stash>,
    /// One request that accepts all connections, once it is known whether the core's ring has such.
    feed: OnceCell<Option<Rc<Feed<OwnedFd>>>>,
}

/// What became of accepts whose futures were dropped.
#[derive(Debug, Default)]
struct Stash {
    sockets: RefCell<VecDeque<OwnedFd>>,
    dropped: Dropped,
}

impl Stash {
    fn keep(&self, accepted: io::Result<OwnedFd>) {
        self.sockets.borrow_mut().extend(accepted.ok());
        self.dropped.settled();
    }
}

impl Acceptor {
    /// `socket` listens, or will before the first `accept`.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket: Rc::new(socket), stash: Rc::default(), feed: OnceCell::new() }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<OwnedFd> {
        match self.feed.get_or_init(|| Feed::new(&self.socket)) {
            Some(feed) => next_of(feed).await,
            None => self.accept_once().await,
        }
    }

    /// Accepts by a request of its own.
    async fn accept_once(&self) -> io::Result<OwnedFd> {
        loop {
            self.stash.dropped.settle().await;
            let stashed = self.stash.sockets.borrow_mut().pop_front();
            if let Some(socket) = stashed {
                return Ok(socket);
            }
            let stash = Rc::clone(&self.stash);
            let operation =
                ops::accept(&self.socket, move |accepted: io::Result<OwnedFd>| stash.keep(accepted));
            let is_kept = || !self.stash.sockets.borrow().is_empty();
            match self.stash.dropped.run(operation, is_kept).await {
                (Err(error), true) if is_cancelled(&error) => {}
                (accepted, _) => return accepted,
            }
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if let Some(Some(feed)) = self.feed.get() {
            feed.stop();
        }
    }
}

/// Whether it is what a cancelled operation says.
pub(super) fn is_cancelled(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR))
}

async fn next_of(feed: &Rc<Feed<OwnedFd>>) -> io::Result<OwnedFd> {
    loop {
        if let Some(socket) = feed.pop() {
            return Ok(socket);
        }
        if let Some(code) = feed.take_error() {
            return Err(io::Error::from_raw_os_error(code));
        }
        feed.arrival().await;
    }
}

/// What operations share of which each can bring what another one was dropped before it could take.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    /// Those whose outcome is not known yet. The next operation waits for them: what it would wait for may be theirs.
    pending: Cell<usize>,
    settled: Notify,
}

impl Dropped {
    /// Waits until the outcome of all is known.
    pub(super) async fn settle(&self) {
        while self.are_pending() {
            self.settled.notified().await;
        }
    }

    pub(super) fn are_pending(&self) -> bool {
        self.pending.get() > 0
    }

    /// One is done, and what it brought is kept.
    pub(super) fn settled(&self) {
        self.pending.set(self.pending.get() - 1);
        self.settled.notify_all();
    }

    /// Awaits `operation`, unless `is_kept` says that something is kept, by one that was dropped meanwhile: then it is cancelled.
    /// Returns what it came to and whether it was cancelled, which may have been too late.
    pub(super) async fn run<O: Operation>(
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
                guard.0 = Some(&self.pending);
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
pub(super) struct PendingGuard<'a>(pub(super) Option<&'a Cell<usize>>);

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        if let Some(pending) = self.0 {
            pending.set(pending.get() + 1);
        }
    }
}
