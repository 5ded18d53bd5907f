//! UDP for coroutines.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use super::stream::{EAGER, check_timeout, wait_at_most};
use super::{ToSocketAddrs, each_address, into_io, net_of_core, take_error};
use crate::mem::IoBuf;
use crate::net;
use crate::rt;

/// What the payload of a datagram has at most, in bytes.
const MAX_DATAGRAM_BYTES: usize = 64 << 10;

/// A UDP socket of the kernel.
///
/// What a receive has no room for of a datagram is lost, as in `std`. A receive that is cancelled
/// or times out loses none: the next one gets it, though no more of it than the buffer of the
/// former had room for.
#[derive(Debug)]
pub struct UdpSocket(Rc<SharedSocket>);

#[derive(Debug)]
struct SharedSocket {
    socket: net::UdpSocket,
    read_timeout: Cell<Option<Duration>>,
    write_timeout: Cell<Option<Duration>>,
    /// Receives and sends since others were last let run.
    eager: Cell<u8>,
    /// Kept between operations that wait: buffers that the device may use while the caller's is
    /// gone.
    inbound: RefCell<Vec<u8>>,
    outbound: RefCell<Vec<u8>>,
}

impl UdpSocket {
    /// A socket at the first of `addresses` that can be had; port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) and what else the system says.
    pub fn bind<A: ToSocketAddrs>(addresses: A) -> io::Result<Self> {
        let net = net_of_core()?;
        each_address(addresses, |address| {
            Ok(Self(Rc::new(SharedSocket {
                socket: net::UdpSocket::bind_on(&net, address).map_err(into_io)?,
                read_timeout: Cell::new(None),
                write_timeout: Cell::new(None),
                eager: Cell::new(0),
                inbound: RefCell::default(),
                outbound: RefCell::default(),
            })))
        })
    }

    /// From now on sends to the first of `addresses` that can be had, and receives from there only.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn connect<A: ToSocketAddrs>(&self, addresses: A) -> io::Result<()> {
        each_address(addresses, |address| self.0.socket.connect(address).map_err(into_io))
    }

    /// Waits for a datagram and returns its length and its sender.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when the time is up, and what else the system
    /// says.
    #[track_caller]
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.recv_from(buf)
    }

    /// The same of a connected socket.
    ///
    /// # Errors
    ///
    /// As for `recv_from`.
    #[track_caller]
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.recv_from(buf).map(|(len, _)| len)
    }

    /// Sends a datagram to the first of `addresses`.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when the time is up, and what else the system
    /// says, such as `EMSGSIZE`.
    #[track_caller]
    pub fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], addresses: A) -> io::Result<usize> {
        let no_address = || io::Error::new(io::ErrorKind::InvalidInput, "no addresses to send data to");
        let address = addresses.to_socket_addrs()?.next().ok_or_else(no_address)?;
        self.0.send(buf, Some(address))
    }

    /// Sends a datagram to the peer of a connected socket.
    ///
    /// # Errors
    ///
    /// `EDESTADDRREQ` if it is not connected, and as for `send_to`.
    #[track_caller]
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.0.send(buf, None)
    }

    /// Its own address, with the port that was taken.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.socket.local_addr())
    }

    /// Where it is connected to.
    ///
    /// # Errors
    ///
    /// [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.peer_addr().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))
    }

    /// Another handle to the same socket, with the same timeouts.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(Rc::clone(&self.0)))
    }

    /// How long a receive waits at most; `None` forever.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a time of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        check_timeout(timeout)?;
        self.0.read_timeout.set(timeout);
        Ok(())
    }

    /// How long a send waits at most; `None` forever.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a time of zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        check_timeout(timeout)?;
        self.0.write_timeout.set(timeout);
        Ok(())
    }

    /// How long a receive waits at most.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.0.read_timeout.get())
    }

    /// How long a send waits at most.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.0.write_timeout.get())
    }

    /// Whether datagrams may go to a broadcast address; they may not at first.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.0.socket.set_broadcast(on).map_err(into_io)
    }
}

impl UdpSocket {
    /// The error that the kernel keeps for this socket, and takes it from there.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        take_error(self.as_fd())
    }

    /// How many routers a datagram may pass.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(rustix::net::sockopt::ip_ttl(self)?)
    }

    /// How many routers a datagram may pass from now on.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        Ok(rustix::net::sockopt::set_ip_ttl(self, ttl)?)
    }
}

/// To set options. What is received past this socket it does not see.
impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.socket()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl SharedSocket {
    /// Lets others run now and then.
    fn take_turns(&self) {
        self.eager.set(self.eager.get() + 1);
        if self.eager.get() >= EAGER {
            self.eager.set(0);
            // Outside a coroutine, what waits next says so.
            rt::coroutine::yield_now();
        }
    }

    #[track_caller]
    fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.take_turns();
        if let Some(received) = self.socket.try_recv_from(buf).map_err(into_io)? {
            return Ok(received);
        }
        let wanted = buf.len().min(MAX_DATAGRAM_BYTES);
        let mut bytes = self.inbound.take();
        if bytes.len() < wanted {
            bytes.resize(wanted, 0);
        }
        let receiving = async {
            let (received, bytes) = self.socket.recv_from(bytes.slice(0..wanted)).await?;
            Ok((received, bytes.into_inner()))
        };
        let ((len, from), bytes) = wait_at_most(self.read_timeout.get(), receiving)?;
        buf[..len].copy_from_slice(&bytes[..len]);
        self.inbound.replace(bytes);
        Ok((len, from))
    }

    #[track_caller]
    fn send(&self, buf: &[u8], address: Option<SocketAddr>) -> io::Result<usize> {
        self.take_turns();
        let tried = match address {
            Some(address) => self.socket.try_send_to(buf, address),
            None => self.socket.try_send(buf),
        };
        if let Some(len) = tried.map_err(into_io)? {
            return Ok(len);
        }
        // What is longer than a datagram was refused already.
        let mut bytes = self.outbound.take();
        bytes.clear();
        bytes.extend_from_slice(buf);
        let sending = async {
            Ok(match address {
                Some(address) => self.socket.send_to(bytes, address).await?,
                None => self.socket.send(bytes).await?,
            })
        };
        let (len, bytes) = wait_at_most(self.write_timeout.get(), sending)?;
        self.outbound.replace(bytes);
        Ok(len)
    }
}
