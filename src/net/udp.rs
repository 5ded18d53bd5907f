//! UDP sockets: datagrams, each whole or not at all, in any order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};

use super::Net;
use super::dropped::{Dropped, is_cancelled};
use super::kernel::{from_io, local_address};
use super::resolve::{ToSocketAddrs, try_each};
use super::transfer::Transferred;
use crate::error::{BufResult, Error, ErrorKind, Result, with_buf};
use crate::mem::{IoBuf, IoBufMut};
use crate::reactor::{ops, uring};

/// How many envelopes a socket keeps: one for a receive and one for a send.
const MAX_ENVELOPES: usize = 2;

/// A UDP socket.
///
/// Sends and receives take their buffer by value and give it back. Any number may be in flight. A
/// datagram of more bytes than a receive's buffer has room for loses the rest, as everywhere.
/// Dropping the future of a receive loses no datagram: another one gets it, though no more of it
/// than the dropped one's buffer had room for. [`rt::timeout`](crate::rt::timeout) bounds each.
///
/// On a connected socket the kernel reports what came back by ICMP: a send or a receive then fails
/// with `ECONNREFUSED`, once.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Rc<OwnedFd>,
    local: Cell<SocketAddr>,
    peer: Cell<Option<SocketAddr>>,
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

impl UdpSocket {
    /// Opens a socket at the first of `addresses` that can be had, of [this core's
    /// network](Net::current); port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`InUse`](ErrorKind::InUse) if another socket is there,
    /// [`Unsupported`](ErrorKind::Unsupported) for the userspace stack, which has no UDP yet, and
    /// on a simulated core; otherwise what [`Net::current`] and the resolver return, or the
    /// kernel's code.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn bind(addresses: impl ToSocketAddrs) -> Result<Self> {
        let net = Net::current()?;
        try_each(addresses, async |address| Self::bind_on(&net, address)).await
    }

    /// Like [`UdpSocket::bind`], for an address at which several cores of this process have a
    /// socket; datagrams are spread over them by their senders.
    ///
    /// # Errors
    ///
    /// As for [`UdpSocket::bind`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn bind_shared(addresses: impl ToSocketAddrs) -> Result<Self> {
        let net = Net::current()?;
        try_each(addresses, async |address| Self::bind_shared_on(&net, address)).await
    }

    /// Opens a socket at `address` of `net`, for programs with several networks; port 0 takes a
    /// free port.
    ///
    /// # Errors
    ///
    /// As for [`UdpSocket::bind`], without those of finding the network and the address.
    pub fn bind_on(net: &Net, address: SocketAddr) -> Result<Self> {
        Self::bind_as(net, address, false)
    }

    /// Like [`UdpSocket::bind_on`], for an address at which several cores of this process have a
    /// socket.
    ///
    /// # Errors
    ///
    /// As for [`UdpSocket::bind_on`].
    pub fn bind_shared_on(net: &Net, address: SocketAddr) -> Result<Self> {
        Self::bind_as(net, address, true)
    }

    fn bind_as(net: &Net, address: SocketAddr, shared: bool) -> Result<Self> {
        let failed =
            |errno: Errno| Error::os(errno.raw_os_error(), "open a UDP socket at").at(address.to_string());
        if net.stack().is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "open a UDP socket at")
                .at(address.to_string())
                .because("the userspace stack has no UDP yet: use the network kernel:"));
        }
        if crate::reactor::current::is_simulated() {
            return Err(Error::new(ErrorKind::Unsupported, "open a UDP socket at")
                .at(address.to_string())
                .because("a simulated core does no I/O with the kernel"));
        }
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket =
            rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(ipproto::UDP))
                .map_err(failed)?;
        if shared {
            sockopt::set_socket_reuseport(&socket, true).map_err(failed)?;
        }
        rustix::net::bind(&socket, &address).map_err(failed)?;
        let local = Cell::new(local_address(&socket)?);
        Ok(Self {
            socket: Rc::new(socket),
            local,
            peer: Cell::new(None),
            inbox: Rc::default(),
            envelopes: RefCell::default(),
        })
    }

    /// From now on sends to `address`, and receives from there only, besides what arrived from
    /// others before and waits in the kernel: [`UdpSocket::recv_from`] says whom each is from. May
    /// be called again.
    ///
    /// # Errors
    ///
    /// The kernel's code, such as `ENETUNREACH`.
    pub fn connect(&self, address: SocketAddr) -> Result<()> {
        rustix::net::connect(&self.socket, &address)
            .map_err(|errno| Error::os(errno.raw_os_error(), "connect to").at(address.to_string()))?;
        self.peer.set(Some(address));
        // A socket at every address has taken the one that leads there.
        self.local.set(local_address(&self.socket)?);
        Ok(())
    }

    /// Receives a datagram into the front of `buf`; returns how many bytes, possibly 0, and from
    /// whom.
    ///
    /// # Errors
    ///
    /// The kernel's code.
    pub async fn recv_from<B: IoBufMut>(&self, buf: B) -> BufResult<(usize, SocketAddr), B> {
        let (result, buf) = self.transfer_receive(buf).await;
        with_buf(result, buf)
    }

    async fn transfer_receive<B: IoBufMut>(&self, mut buf: B) -> Transferred<(usize, SocketAddr), B> {
        loop {
            self.inbox.dropped.settle().await;
            if let Some(result) = self.inbox.take(self.peer.get(), |bytes| buf.fill_from(bytes)) {
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

    /// Sends `buf` as a datagram to `address`; returns how many bytes, which are all.
    ///
    /// # Errors
    ///
    /// `EMSGSIZE` for more than 65,507 bytes (65,527 over IPv6), otherwise the kernel's code.
    pub async fn send_to<B: IoBuf>(&self, buf: B, address: SocketAddr) -> BufResult<usize, B> {
        let (result, buf) = self.send_anywhere(buf, Some(&address)).await;
        with_buf(result.map_err(|error| error.at(address.to_string())), buf)
    }

    /// As [`UdpSocket::recv_from`], of a connected socket.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn recv<B: IoBufMut>(&self, buf: B) -> BufResult<usize, B> {
        let (result, buf) = self.transfer_receive(buf).await;
        with_buf(result.map(|(len, _)| len), buf)
    }

    /// As [`UdpSocket::send_to`], to the peer of a connected socket.
    ///
    /// # Errors
    ///
    /// As there, and `EDESTADDRREQ` if it is not connected.
    pub async fn send<B: IoBuf>(&self, buf: B) -> BufResult<usize, B> {
        let (result, buf) = self.send_anywhere(buf, None).await;
        with_buf(result, buf)
    }

    async fn send_anywhere<B: IoBuf>(&self, buf: B, address: Option<&SocketAddr>) -> Transferred<usize, B> {
        if uring::may_call_directly() {
            match self.try_send_anywhere(buf.as_slice(), address) {
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
    ///
    /// # Errors
    ///
    /// As for [`UdpSocket::recv_from`].
    pub fn try_recv_from(&self, buf: &mut [u8]) -> Result<Option<(usize, SocketAddr)>> {
        if self.inbox.dropped.are_pending() {
            return Ok(None);
        }
        let stashed = self.inbox.take(self.peer.get(), |bytes| {
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
    ///
    /// # Errors
    ///
    /// As for [`UdpSocket::send_to`].
    pub fn try_send_to(&self, bytes: &[u8], address: SocketAddr) -> Result<Option<usize>> {
        self.try_send_anywhere(bytes, Some(&address)).map_err(|error| error.at(address.to_string()))
    }

    /// The same to the peer of a connected socket.
    ///
    /// # Errors
    ///
    /// As for [`UdpSocket::send`].
    pub fn try_send(&self, bytes: &[u8]) -> Result<Option<usize>> {
        self.try_send_anywhere(bytes, None)
    }

    fn try_send_anywhere(&self, bytes: &[u8], address: Option<&SocketAddr>) -> Result<Option<usize>> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match address {
            Some(address) => rustix::net::sendto(&self.socket, bytes, flags, address),
            None => rustix::net::send(&self.socket, bytes, flags),
        };
        match sent {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(Error::os(errno.raw_os_error(), "send")),
        }
    }

    /// Whether datagrams may go to a broadcast address; they may not at first.
    ///
    /// # Errors
    ///
    /// The kernel's code.
    pub fn set_broadcast(&self, on: bool) -> Result<()> {
        sockopt::set_socket_broadcast(&self.socket, on)
            .map_err(|errno| Error::os(errno.raw_os_error(), "allow broadcasts on"))
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Its own address, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local.get()
    }

    /// Where it is connected to.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer.get()
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
