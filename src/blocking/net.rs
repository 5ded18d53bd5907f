//! TCP and UDP with the surface of [`std::net`], for coroutines.
//!
//! The sockets are those of [`boson::net`](crate::net): [`TcpListener::bind`],
//! [`TcpStream::connect`] and [`UdpSocket::bind`] use [the core's
//! network](crate::net::Net::current), [`TcpListener::bind_on`] and [`TcpStream::connect_on`] any
//! other. They belong to their core and are not `Send`.
//!
//! # Different from `std::net`
//!
//! - Data is sent at once (`TCP_NODELAY`), always.
//! - [`ToSocketAddrs`] is a trait of this crate: what implements `std`'s does not implement this
//!   one.
//! - Sockets are not `Send`, and a TCP socket has no descriptor to lend: it may be one of another
//!   network than the kernel's.
//! - [`TcpStream::peek`] takes from the connection what it shows, and the next read has it first.
//! - A write whose time is up may still take effect.
//! - A read or write that need not wait lets other tasks run only now and then (every 16th), so
//!   that it stays fast and no connection can hold up the core.

mod addresses;
pub(super) mod stream;
mod udp;

use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

pub use std::net::{
    AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6,
};

pub use addresses::ToSocketAddrs;
pub use udp::UdpSocket;

use stream::{SharedStream, check_timeout, io_through_reference};

use crate::error::{Error, ErrorKind};
use crate::net::{self, Net};
use crate::rt;
use crate::rt::coroutine::wait_unless_cancelled;

/// Waits for an operation of the network.
#[track_caller]
pub(super) fn wait<T>(operation: impl Future<Output = crate::Result<T>>) -> io::Result<T> {
    match wait_unless_cancelled(operation) {
        Some(result) => result.map_err(into_io),
        None => Err(io::Error::other("the coroutine is being cancelled")),
    }
}

/// Keeps the code of the system where there is one, so that programs can compare it.
pub(super) fn into_io(error: Error) -> io::Error {
    match error.code() {
        Some(code) => io::Error::from_raw_os_error(code),
        // What a socket of the system reports when its time is up.
        None if error.kind() == ErrorKind::TimedOut => io::Error::new(io::ErrorKind::WouldBlock, error),
        None => error.into(),
    }
}

/// The network of this core, and the kernel's on a thread that has no core.
fn net_of_core() -> io::Result<Net> {
    if rt::is_in_core() { Net::current().map_err(into_io) } else { Ok(Net::kernel()) }
}

/// Tries every address in turn; the last error is the one returned.
fn each_address<A: ToSocketAddrs, T>(
    addresses: A,
    mut attempt: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = None;
    for address in addresses.to_socket_addrs()? {
        match attempt(address) {
            Ok(done) => return Ok(done),
            Err(error) => last = Some(error),
        }
    }
    Err(last
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "could not resolve to any addresses")))
}

/// A listening socket.
#[derive(Debug)]
pub struct TcpListener(Rc<net::TcpListener>);

impl TcpListener {
    /// Listens on the first of `addresses` that can be had; port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) and what else the system says.
    pub fn bind<A: ToSocketAddrs>(addresses: A) -> io::Result<Self> {
        Self::bind_on(&net_of_core()?, addresses)
    }

    /// As [`bind`](Self::bind), on `net`.
    ///
    /// # Errors
    ///
    /// As for `bind`.
    pub fn bind_on<A: ToSocketAddrs>(net: &Net, addresses: A) -> io::Result<Self> {
        each_address(addresses, |address| {
            let listener = net::TcpListener::bind_on(net, address).map_err(into_io)?;
            Ok(Self(Rc::new(listener)))
        })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// `EMFILE` when the process has no descriptor left; accepting again later may succeed.
    #[track_caller]
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = wait(self.0.accept())?;
        Ok((TcpStream::new(stream), peer))
    }

    /// The connections as they come; never ends.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming(self)
    }

    /// The address it listens on, with the port that was taken.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }

    /// The error that the kernel keeps for this socket, and takes it from there; `None` also for
    /// listeners of another network.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.kernel_socket().map_or(Ok(None), take_error)
    }

    /// How many routers a packet may pass.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) for a listener of another network than the
    /// kernel's, and what the system says.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(rustix::net::sockopt::ip_ttl(kernels(self.0.kernel_socket())?)?)
    }

    /// How many routers a packet may pass; of connections that are made from now on.
    ///
    /// # Errors
    ///
    /// As for [`ttl`](Self::ttl).
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        Ok(rustix::net::sockopt::set_ip_ttl(kernels(self.0.kernel_socket())?, ttl)?)
    }

    /// Another handle to the same listener.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(Rc::clone(&self.0)))
    }
}

fn kernels(socket: Option<BorrowedFd<'_>>) -> io::Result<BorrowedFd<'_>> {
    socket.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "not a socket of the kernel"))
}

pub(super) fn take_error(socket: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    Ok(rustix::net::sockopt::socket_error(socket)?.err().map(io::Error::from))
}

/// The connections of a [`TcpListener`].
#[derive(Debug)]
pub struct Incoming<'a>(&'a TcpListener);

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<io::Result<TcpStream>> {
        Some(self.0.accept().map(|(stream, _)| stream))
    }
}

impl std::iter::FusedIterator for Incoming<'_> {}

/// A connection. It closes when its last handle is dropped; what was written is still delivered.
#[derive(Debug)]
pub struct TcpStream(Rc<SharedStream<net::TcpStream>>);

impl TcpStream {
    fn new(stream: net::TcpStream) -> Self {
        Self(SharedStream::new(stream))
    }

    /// Connects to the first of `addresses` that answers.
    ///
    /// # Errors
    ///
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) and what else the system says.
    #[track_caller]
    pub fn connect<A: ToSocketAddrs>(addresses: A) -> io::Result<Self> {
        Self::connect_on(&net_of_core()?, addresses)
    }

    /// As [`connect`](Self::connect), over `net`.
    ///
    /// # Errors
    ///
    /// As for `connect`.
    #[track_caller]
    pub fn connect_on<A: ToSocketAddrs>(net: &Net, addresses: A) -> io::Result<Self> {
        each_address(addresses, |address| wait(net::TcpStream::connect_on(net, address)).map(Self::new))
    }

    /// Connects to `address` within `timeout`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut), [`InvalidInput`](io::ErrorKind::InvalidInput) for a
    /// time of zero, and as for `connect`.
    #[track_caller]
    pub fn connect_timeout(address: &SocketAddr, timeout: Duration) -> io::Result<Self> {
        check_timeout(Some(timeout))?;
        let net = net_of_core()?;
        let connect = rt::timeout(timeout, net::TcpStream::connect_on(&net, *address));
        match wait(connect) {
            Ok(connected) => connected.map(Self::new).map_err(into_io),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, error))
            }
            Err(error) => Err(error),
        }
    }

    /// The other end's address.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.stream.peer_addr())
    }

    /// This end's address.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.stream.local_addr())
    }

    /// Another handle to the same connection, with the same timeouts.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(Rc::clone(&self.0)))
    }

    /// Closes one direction or both.
    ///
    /// # Errors
    ///
    /// `ENOTCONN` if the connection is gone.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.stream.shutdown(how).map_err(into_io)
    }

    /// How long a read waits at most; `None` forever. A read whose time is up fails with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a time of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    /// How long a write waits at most; `None` forever. A write whose time is up fails with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock), and may have been done.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a time of zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    /// How long a read waits at most.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.0.read_timeout())
    }

    /// How long a write waits at most.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.0.write_timeout())
    }

    /// Reads without taking: the next read gets the same. Waits for the first byte.
    ///
    /// # Errors
    ///
    /// As for a read.
    #[track_caller]
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.peek(buf)
    }

    /// The error that the kernel keeps for this socket, and takes it from there; `None` also for
    /// streams of another network.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.stream.kernel_socket().map_or(Ok(None), take_error)
    }

    /// How many routers a packet may pass.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) for a stream of another network than the
    /// kernel's, and what the system says.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(rustix::net::sockopt::ip_ttl(kernels(self.0.stream.kernel_socket())?)?)
    }

    /// How many routers a packet may pass from now on.
    ///
    /// # Errors
    ///
    /// As for [`ttl`](Self::ttl).
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        Ok(rustix::net::sockopt::set_ip_ttl(kernels(self.0.stream.kernel_socket())?, ttl)?)
    }

    /// Accepts `true`, which is how every stream is.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) for `false`.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        if nodelay {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::Unsupported, "data is sent at once, always"))
        }
    }

    /// Whether data is sent at once: it is.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(true)
    }
}

io_through_reference!(TcpStream);
