//! Connections that are used on another core than the one that owns their socket.
//!
//! Reads and writes are messages to the owning core, which takes only so many
//! ([`CoreConfig::messages`](crate::rt::CoreConfig::messages)); those beyond that fail. Closing
//! must not fail: the peer would wait forever. So every lent stream has a task on its core that
//! waits for the [`Ending`], and waking a task needs no message. That task owns the stream, so the
//! connection ends with the core.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::TcpStream;
use super::transfer::Transferred;
use crate::error::{BufResult, Error, ErrorKind, Outcome, with_buf, without_buf};
use crate::rt::{self, Handle, JoinError};
use crate::sync::Notify;

thread_local! {
    /// The streams of this core that other cores use.
    static LENT: RefCell<Lent> = RefCell::default();
}

#[derive(Default)]
struct Lent {
    next_id: u64,
    streams: HashMap<u64, Rc<TcpStream>>,
}

/// What the borrower wants done with the stream, in the order of their weight.
const SHUT_READ: u8 = 1;
const SHUT_WRITE: u8 = 2;
const CLOSE: u8 = 4;
const ABORT: u8 = 8;

/// How the borrower tells the owning core that it is done, in part or wholly. Never full.
#[derive(Debug, Default)]
struct Ending {
    wanted: AtomicU8,
    told: Notify,
}

impl Ending {
    fn want(&self, what: u8) {
        self.wanted.fetch_or(what, Ordering::Release);
        self.told.notify_one();
    }
}

/// A [`TcpStream`] of another core. Each operation is a message to that core and one back.
///
/// Unlike a `TcpStream`'s own, a read that is dropped may lose what it was about to return.
/// Dropping this closes the connection, and so does the end of the core that owns it.
#[derive(Debug)]
pub struct RemoteStream {
    home: Handle,
    id: u64,
    ending: Arc<Ending>,
    local: SocketAddr,
    peer: SocketAddr,
}

impl RemoteStream {
    /// Lends `stream`, of the current core, to whichever core gets the result.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub fn lend(stream: TcpStream) -> Self {
        let (local, peer) = (stream.local_addr(), stream.peer_addr());
        let home = rt::handle();
        let stream = Rc::new(stream);
        let id = LENT.with_borrow_mut(|lent| {
            lent.next_id += 1;
            lent.streams.insert(lent.next_id, Rc::clone(&stream));
            lent.next_id
        });
        let ending = Arc::<Ending>::default();
        drop(
            rt::named("lent connection")
                .spawn(hold(Loan { id, stream, is_aborted: false }, Arc::clone(&ending))),
        );
        Self { home, id, ending, local, peer }
    }

    /// As [`TcpStream::read`].
    ///
    /// # Errors
    ///
    /// As there; [`Closed`](ErrorKind::Closed) if the owning core is gone,
    /// [`LimitReached`](ErrorKind::LimitReached) if it has too many messages waiting. The buffer is
    /// then lost, and a new, empty one comes back.
    pub async fn read(&self, buf: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        let (result, buf) = self.transfer_read(buf).await;
        with_buf(result, buf)
    }

    pub(super) async fn transfer_read(&self, buf: Vec<u8>) -> Transferred<usize, Vec<u8>> {
        let id = self.id;
        let read = rt::named("remote read").spawn_on(&self.home, move || async move {
            match find(id) {
                Some(stream) => without_buf(stream.read(buf).await),
                None => (Err(closed("read")), buf),
            }
        });
        read.await.unwrap_or_else(|error| (Err(unsent("read", &error)), Vec::new()))
    }

    /// As [`TcpStream::write`].
    ///
    /// # Errors
    ///
    /// As there, and as in [`RemoteStream::read`].
    pub async fn write(&self, buf: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        let (result, buf) = self.transfer_write(buf).await;
        with_buf(result, buf)
    }

    pub(super) async fn transfer_write(&self, buf: Vec<u8>) -> Transferred<usize, Vec<u8>> {
        let id = self.id;
        let write = rt::named("remote write").spawn_on(&self.home, move || async move {
            match find(id) {
                Some(stream) => without_buf(stream.write(buf).await),
                None => (Err(closed("write")), buf),
            }
        });
        write.await.unwrap_or_else(|error| {
            let error = unsent("write", &error);
            // A core without room for the message has not begun; one that ended may have.
            let has_begun = error.kind() == ErrorKind::Closed;
            let outcome = if has_begun { Outcome::Unknown } else { Outcome::NotStarted };
            (Err(error.outcome_is(outcome)), Vec::new())
        })
    }

    /// As [`TcpStream::shutdown`], but asynchronously and without a result.
    pub fn shutdown(&self, how: Shutdown) {
        self.ending.want(match how {
            Shutdown::Read => SHUT_READ,
            Shutdown::Write => SHUT_WRITE,
            Shutdown::Both => SHUT_READ | SHUT_WRITE,
        });
    }

    /// As [`TcpStream::abort`], but asynchronously.
    pub fn abort(&self) {
        self.ending.want(ABORT);
    }

    /// As [`TcpStream::local_addr`].
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// As [`TcpStream::peer_addr`].
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }
}

impl Drop for RemoteStream {
    fn drop(&mut self) {
        self.ending.want(CLOSE);
    }
}

/// A stream for as long as it is lent.
struct Loan {
    id: u64,
    stream: Rc<TcpStream>,
    is_aborted: bool,
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Without the table, which goes when its thread ends, there is nothing to take it from.
        let _ = LENT.try_with(|lent| lent.borrow_mut().streams.remove(&self.id));
        // A read or a write that was dropped goes on and keeps the stream: it must end, or the
        // connection would stay open for as long as the peer likes.
        if Rc::strong_count(&self.stream) > 1 && !self.is_aborted {
            // A connection that is gone is shut down.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Does what the borrower wants until there is nothing left to want.
async fn hold(mut loan: Loan, ending: Arc<Ending>) {
    loop {
        let wanted = ending.wanted.swap(0, Ordering::Acquire);
        let how = match wanted & (SHUT_READ | SHUT_WRITE) {
            0 => None,
            SHUT_READ => Some(Shutdown::Read),
            SHUT_WRITE => Some(Shutdown::Write),
            _ => Some(Shutdown::Both),
        };
        if wanted & ABORT != 0 {
            loan.stream.abort_shared();
            loan.is_aborted = true;
        } else if let Some(how) = how {
            // As above.
            let _ = loan.stream.shutdown(how);
        }
        if wanted & (CLOSE | ABORT) != 0 {
            return;
        }
        ending.told.notified().await;
    }
}

fn find(id: u64) -> Option<Rc<TcpStream>> {
    LENT.with_borrow(|lent| lent.streams.get(&id).map(Rc::clone))
}

/// The result of an operation after `abort`.
fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation).because("the connection is closed")
}

fn gone(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation).because("the core that owns the connection has ended")
}

/// The result of an operation whose message brought no answer.
fn unsent(operation: &'static str, error: &JoinError) -> Error {
    match error {
        JoinError::Full => Error::new(ErrorKind::LimitReached, operation)
            .because("the core that owns the connection has too many messages waiting"),
        _ => gone(operation),
    }
}
