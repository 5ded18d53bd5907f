//! Accepting connections of the kernel, so that none is lost when a future is dropped.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;

use crate::rt::ops;
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
    /// Dropped accepts whose outcome is not known yet. The next accept waits for them: the connection it would wait for may be
    /// theirs.
    pending: Cell<usize>,
    settled: Notify,
}

impl Stash {
    fn keep(&self, accepted: io::Result<OwnedFd>) {
        self.sockets.borrow_mut().extend(accepted.ok());
        self.pending.set(self.pending.get() - 1);
        self.settled.notify_all();
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
        while self.stash.pending.get() > 0 {
            self.stash.settled.notified().await;
        }
        let stashed = self.stash.sockets.borrow_mut().pop_front();
        if let Some(socket) = stashed {
            return Ok(socket);
        }
        let stash = Rc::clone(&self.stash);
        let mut operation =
            ops::accept(&self.socket, move |accepted: io::Result<OwnedFd>| stash.keep(accepted));
        // Declared after the operation, so dropped before it: `keep` may run while the operation is dropped.
        let mut guard = PendingGuard(None);
        std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut operation).poll(cx);
            guard.0 = polled.is_pending().then_some(&self.stash.pending);
            polled
        })
        .await
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if let Some(Some(feed)) = self.feed.get() {
            feed.stop();
        }
    }
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

/// Counts an operation that is in flight as pending when its future is dropped.
pub(super) struct PendingGuard<'a>(pub(super) Option<&'a Cell<usize>>);

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        if let Some(pending) = self.0 {
            pending.set(pending.get() + 1);
        }
    }
}
