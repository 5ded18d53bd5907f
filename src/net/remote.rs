//! Connections that are used on another core than the one that owns their socket.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;

use super::TcpStream;
use crate::error::{BufResult, Error, ErrorKind, Outcome};
use crate::rt::{self, Handle};

thread_local! {
    /// The streams of this core that other cores use.
    static LENT: RefCell<Lent> = RefCell::default();
}

#[derive(Default)]
struct Lent {
    next_id: u64,
    streams: HashMap<u64, Rc<TcpStream>>,
}

/// A [`TcpStream`] of another core. Each operation is a message to that core and one back.
///
/// Unlike a `TcpStream`'s own, a read that is dropped may lose what it was about to return. Dropping this closes the connection.
#[derive(Debug)]
pub struct RemoteStream {
    home: Handle,
    id: u64,
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
        let id = LENT.with_borrow_mut(|lent| {
            lent.next_id += 1;
            lent.streams.insert(lent.next_id, Rc::new(stream));
            lent.next_id
        });
        Self { home: rt::handle(), id, local, peer }
    }

    /// As [`TcpStream::read`].
    ///
    /// # Errors
    ///
    /// As there, and [`Closed`](ErrorKind::Closed) if the owning core is gone; the buffer is then lost with it and a new,
    /// empty one comes back.
    pub async fn read(&self, buf: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        let id = self.id;
        let read = self.home.spawn("remote read", move || async move {
            match find(id) {
                Some(stream) => stream.read(buf).await,
                None => (Err(gone("read")), buf),
            }
        });
        read.await.unwrap_or_else(|_| (Err(gone("read")), Vec::new()))
    }

    /// As [`TcpStream::write`].
    ///
    /// # Errors
    ///
    /// As there, and [`Closed`](ErrorKind::Closed) if the owning core is gone, as in [`RemoteStream::read`].
    pub async fn write(&self, buf: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        let id = self.id;
        let write = self.home.spawn("remote write", move || async move {
            match find(id) {
                Some(stream) => stream.write(buf).await,
                None => (Err(gone("write")), buf),
            }
        });
        write.await.unwrap_or_else(|_| (Err(gone("write").outcome_is(Outcome::Unknown)), Vec::new()))
    }

    /// As [`TcpStream::shutdown`], but asynchronously and without a result.
    pub fn shutdown(&self, how: Shutdown) {
        let id = self.id;
        drop(self.home.spawn("remote shutdown", move || async move {
            // A connection that is gone is shut down.
            find(id).map(|stream| stream.shutdown(how))
        }));
    }

    /// As [`TcpStream::abort`], but asynchronously.
    pub fn abort(&self) {
        let id = self.id;
        drop(self.home.spawn("remote abort", move || async move {
            if let Some(stream) = LENT.with_borrow_mut(|lent| lent.streams.remove(&id)) {
                stream.abort_shared();
            }
        }));
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
        let id = self.id;
        drop(self.home.spawn("remote close", move || async move {
            let stream = LENT.with_borrow_mut(|lent| lent.streams.remove(&id));
            // A read or a write that was given up goes on here and keeps the stream: it must end, or the connection would stay
            // open for as long as the peer likes.
            if let Some(stream) = stream.filter(|stream| Rc::strong_count(stream) > 1) {
                // A connection that is gone is shut down.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }));
    }
}

fn find(id: u64) -> Option<Rc<TcpStream>> {
    LENT.with_borrow(|lent| lent.streams.get(&id).map(Rc::clone))
}

fn gone(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation).because("the core that owns the connection has ended")
}
