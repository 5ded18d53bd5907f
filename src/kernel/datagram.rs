//! Sockets of datagrams.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::dropped::{Dropped, is_cancelled};
use super::transfer::{Transferred, at_once, from_io};
use crate::error::{Error, Result};
use crate::mem::{IoBuf, IoBufMut};
use crate::reactor::{self, ops};

/// How many envelopes a socket keeps: one for a receive and one for a send.
const MAX_ENVELOPES: usize = 2;

/// A socket that is bound, of a family whose addresses are [`SocketAddr`]s.
#[derive(Debug)]
pub(crate) struct DatagramSocket {
    socket: Rc<OwnedFd>,
    inbox: Rc<Inbox>,
    /// Kept between operations, which allocate nothing then.
    envelopes: RefCell<Vec<ops::Envelope>>,
}

/// What was received for receives that were dropped before they could take it: at most one for
/// each.
#[derive(Debug, Default)]
struct Inbox {
    unread: RefCell<VecDeque<Unread>>,
    dropped: Dropped,
}

/// A datagram with its sender, or what the kernel said instead.
type Unread = Result<(Vec<u8>, SocketAddr), i32>;

impl Inbox {
    fn keep(&self, received: ops::Received, bytes: &[u8]) {
        let unread = match received {
            Ok((len, from)) => Some(Ok((bytes[..len as usize].to_vec(), from))),
            Err(error) if is_cancelled(&error) => None,
            Err(error) => Some(Err(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        self.unread.borrow_mut().extend(unread);
        self.dropped.settled();
    }

    /// What a receive gets without asking the kernel, of a socket that is connected to `peer`.
    /// `fill` copies from the bytes it is given and says how many.
    fn take(
        &self,
        peer: Option<SocketAddr>,
        fill: impl FnOnce(&[u8]) -> usize,
    ) -> Option<Result<(usize, SocketAddr)>> {
        loop {
            let unread = self.unread.borrow_mut().pop_front()?;
            match unread {
                // Kept before the socket was connected.
                Ok((_, from)) if peer.is_some_and(|peer| !is_from(peer, from)) => {}
                Ok((bytes, from)) => return Some(Ok((fill(&bytes), from))),
                Err(code) => return Some(Err(Error::os(code, "receive"))),
            }
        }
    }

    fn has_some(&self) -> bool {
        !self.unread.borrow().is_empty()
    }
}

/// Whether a socket that is connected to `peer` hears `from`. A socket that connects to no address
/// in particular connects to this machine.
fn is_from(peer: SocketAddr, from: SocketAddr) -> bool {
    peer.port() == from.port() && (peer.ip().is_unspecified() || peer.ip() == from.ip())
}

impl DatagramSocket {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: Rc::new(socket), inbox: Rc::default(), envelopes: RefCell::default() }
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.socket
    }

    /// Receives a datagram into the front of `buf`, as a socket that is connected to `peer`, if it
    /// is. If the future is dropped, another one gets it.
    pub(crate) async fn recv<B: IoBufMut>(
        &self,
        mut buf: B,
        peer: Option<SocketAddr>,
    ) -> Transferred<(usize, SocketAddr), B> {
        loop {
            self.inbox.dropped.settle().await;
            if let Some(result) = self.inbox.take(peer, |bytes| buf.fill_from(bytes)) {
                return (result, buf);
            }
            let inbox = Rc::clone(&self.inbox);
            let keep = move |received, buf: B| inbox.keep(received, buf.as_slice());
            let operation = ops::receive_from(&self.socket, buf, self.take_envelope(), keep);
            let ((received, back, envelope), cancelled) =
                self.inbox.dropped.run(operation, || self.inbox.has_some()).await;
            self.give_back(envelope);
            buf = back;
            match received {
                Err(error) if cancelled && is_cancelled(&error) => {}
                Err(error) => return (Err(from_io(&error, "receive")), buf),
                Ok((len, from)) => return (Ok((len as usize, from)), buf),
            }
        }
    }

    /// Sends `buf` to `address`, or to the peer of a connected socket.
    pub(crate) async fn send<B: IoBuf>(&self, buf: B, address: Option<&SocketAddr>) -> Transferred<usize, B> {
        if reactor::may_call_directly() {
            match self.try_send(buf.as_slice(), address) {
                Ok(None) => {}
                Ok(Some(len)) => return (Ok(len), buf),
                Err(error) => return (Err(error), buf),
            }
        }
        let (result, buf, envelope) = ops::send_to(&self.socket, buf, address, self.take_envelope()).await;
        self.give_back(envelope);
        (result.map(|len| len as usize).map_err(|error| from_io(&error, "send")), buf)
    }

    /// Receives a datagram that is there now; `None` if none is.
    pub(crate) fn try_recv(
        &self,
        buf: &mut [u8],
        peer: Option<SocketAddr>,
    ) -> Result<Option<(usize, SocketAddr)>> {
        if self.inbox.dropped.are_pending() {
            return Ok(None);
        }
        let stashed = self.inbox.take(peer, |bytes| {
            let len = bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
            len
        });
        if let Some(result) = stashed {
            return result.map(Some);
        }
        let failed = |errno: Errno| Error::os(errno.raw_os_error(), "receive");
        match rustix::net::recvfrom(&self.socket, buf, RecvFlags::DONTWAIT) {
            Ok((len, _, from)) => {
                let from = from.ok_or_else(|| failed(Errno::AFNOSUPPORT))?;
                Ok(Some((len, SocketAddr::try_from(from).map_err(failed)?)))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Sends a datagram if there is room for it now; `None` if there is none.
    pub(crate) fn try_send(&self, bytes: &[u8], address: Option<&SocketAddr>) -> Result<Option<usize>> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match address {
            Some(address) => rustix::net::sendto(&self.socket, bytes, flags, address),
            None => rustix::net::send(&self.socket, bytes, flags),
        };
        at_once(sent, "send")
    }

    fn take_envelope(&self) -> ops::Envelope {
        let kept = self.envelopes.borrow_mut().pop();
        kept.unwrap_or_else(ops::Envelope::new)
    }

    fn give_back(&self, envelope: ops::Envelope) {
        let mut kept = self.envelopes.borrow_mut();
        if kept.len() < MAX_ENVELOPES {
            kept.push(envelope);
        }
    }
}
