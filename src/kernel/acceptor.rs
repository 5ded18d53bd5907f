//! Listening sockets. No connection is lost when the future of an accept is dropped.

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::dropped::{Dropped, is_cancelled};
use crate::reactor::{Feed, ops};

/// A listening socket and what was accepted on it for nobody yet.
#[derive(Debug)]
pub(crate) struct Acceptor {
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
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: Rc::new(socket), stash: Rc::default(), feed: OnceCell::new() }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
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
