//! UDP sockets: datagrams, each whole or not at all, in any order.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::Net;
use super::kernel::local_address;
use super::resolve::{ToSocketAddrs, try_each};
use crate::error::{BufResult, Error, ErrorKind, Result, with_buf};
use crate::kernel::{DatagramSocket, is_simulated};
use crate::mem::{IoBuf, IoBufMut};

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
    socket: DatagramSocket,
    local: Cell<SocketAddr>,
    peer: Cell<Option<SocketAddr>>,
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
        if is_simulated() {
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
        Ok(Self { socket: DatagramSocket::new(socket), local, peer: Cell::new(None) })
    }

    /// From now on sends to `address`, and receives from there only, besides what arrived from
    /// others before and waits in the kernel: [`UdpSocket::recv_from`] says whom each is from. May
    /// be called again.
    ///
    /// # Errors
    ///
    /// The kernel's code, such as `ENETUNREACH`.
    pub fn connect(&self, address: SocketAddr) -> Result<()> {
        rustix::net::connect(self.socket.descriptor(), &address)
            .map_err(|errno| Error::os(errno.raw_os_error(), "connect to").at(address.to_string()))?;
        self.peer.set(Some(address));
        // A socket at every address has taken the one that leads there.
        self.local.set(local_address(self.socket.descriptor())?);
        Ok(())
    }

    /// Receives a datagram into the front of `buf`; returns how many bytes, possibly 0, and from
    /// whom.
    ///
    /// # Errors
    ///
    /// The kernel's code.
    pub async fn recv_from<B: IoBufMut>(&self, buf: B) -> BufResult<(usize, SocketAddr), B> {
        let (result, buf) = self.socket.recv(buf, self.peer.get()).await;
        with_buf(result, buf)
    }

    /// Sends `buf` as a datagram to `address`; returns how many bytes, which are all.
    ///
    /// # Errors
    ///
    /// `EMSGSIZE` for more than 65,507 bytes (65,527 over IPv6), otherwise the kernel's code.
    pub async fn send_to<B: IoBuf>(&self, buf: B, address: SocketAddr) -> BufResult<usize, B> {
        let (result, buf) = self.socket.send(buf, Some(&address)).await;
        with_buf(result.map_err(|error| error.at(address.to_string())), buf)
    }

    /// As [`UdpSocket::recv_from`], of a connected socket.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn recv<B: IoBufMut>(&self, buf: B) -> BufResult<usize, B> {
        let (result, buf) = self.socket.recv(buf, self.peer.get()).await;
        with_buf(result.map(|(len, _)| len), buf)
    }

    /// As [`UdpSocket::send_to`], to the peer of a connected socket.
    ///
    /// # Errors
    ///
    /// As there, and `EDESTADDRREQ` if it is not connected.
    pub async fn send<B: IoBuf>(&self, buf: B) -> BufResult<usize, B> {
        let (result, buf) = self.socket.send(buf, None).await;
        with_buf(result, buf)
    }

    /// Receives a datagram that is there now; `None` if none is.
    ///
    /// # Errors
    ///
    /// As for [`UdpSocket::recv_from`].
    pub fn try_recv_from(&self, buf: &mut [u8]) -> Result<Option<(usize, SocketAddr)>> {
        self.socket.try_recv(buf, self.peer.get())
    }

    /// Sends a datagram if there is room for it now; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As for [`UdpSocket::send_to`].
    pub fn try_send_to(&self, bytes: &[u8], address: SocketAddr) -> Result<Option<usize>> {
        self.socket.try_send(bytes, Some(&address)).map_err(|error| error.at(address.to_string()))
    }

    /// The same to the peer of a connected socket.
    ///
    /// # Errors
    ///
    /// As for [`UdpSocket::send`].
    pub fn try_send(&self, bytes: &[u8]) -> Result<Option<usize>> {
        self.socket.try_send(bytes, None)
    }

    /// Whether datagrams may go to a broadcast address; they may not at first.
    ///
    /// # Errors
    ///
    /// The kernel's code.
    pub fn set_broadcast(&self, on: bool) -> Result<()> {
        sockopt::set_socket_broadcast(self.socket.descriptor(), on)
            .map_err(|errno| Error::os(errno.raw_os_error(), "allow broadcasts on"))
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.descriptor().as_fd()
    }

    /// Its own address, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local.get()
    }

    /// Where it is connected to.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer.get()
    }
}
