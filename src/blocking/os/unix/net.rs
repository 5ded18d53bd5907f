//! Unix stream sockets with the surface of [`std::os::unix::net`], for coroutines.
//!
//! They are those of [`boson::net`](crate::net), belong to their core and are not `Send`. Unlike
//! `std`'s, a [`UnixListener`] takes over a path on which nobody listens any more, and removes it
//! when its last handle is dropped.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

pub use std::os::unix::net::SocketAddr;

use crate::blocking::net::stream::{SharedStream, io_through_reference};
use crate::blocking::net::{into_io, take_error, wait};
use crate::net::{self, UnixAddr};

/// A listening Unix socket.
#[derive(Debug)]
pub struct UnixListener(Rc<net::UnixListener>);

impl UnixListener {
    /// Listens on `path`.
    ///
    /// # Errors
    ///
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) and what else the system says.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        Self::bind_to(&UnixAddr::from_path(path).map_err(into_io)?)
    }

    /// Listens on `address`, which may be an abstract name.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    pub fn bind_addr(address: &SocketAddr) -> io::Result<Self> {
        Self::bind_to(&UnixAddr::from_std(address))
    }

    fn bind_to(address: &UnixAddr) -> io::Result<Self> {
        Ok(Self(Rc::new(net::UnixListener::bind(address).map_err(into_io)?)))
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// `EMFILE` when the process has no descriptor left; accepting again later may succeed.
    #[track_caller]
    pub fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let stream = UnixStream(SharedStream::new(wait(self.0.accept())?));
        let peer = stream.peer_addr()?;
        Ok((stream, peer))
    }

    /// The connections as they come; never ends.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming(self)
    }

    /// What it listens on.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        to_std(self.0.local_addr())
    }

    /// The error that the kernel keeps for this socket, and takes it from there.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        take_error(self.as_fd())
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

impl AsFd for UnixListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket()
    }
}

impl AsRawFd for UnixListener {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The connections of a [`UnixListener`].
#[derive(Debug)]
pub struct Incoming<'a>(&'a UnixListener);

impl Iterator for Incoming<'_> {
    type Item = io::Result<UnixStream>;

    #[track_caller]
    fn next(&mut self) -> Option<io::Result<UnixStream>> {
        Some(self.0.accept().map(|(stream, _)| stream))
    }
}

impl<'a> IntoIterator for &'a UnixListener {
    type Item = io::Result<UnixStream>;
    type IntoIter = Incoming<'a>;

    fn into_iter(self) -> Incoming<'a> {
        self.incoming()
    }
}

/// A connection. It closes when its last handle is dropped; what was written is still delivered.
#[derive(Debug)]
pub struct UnixStream(Rc<SharedStream<net::UnixStream>>);

impl UnixStream {
    /// Connects to the listener at `path`.
    ///
    /// # Errors
    ///
    /// [`NotFound`](io::ErrorKind::NotFound),
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) and what else the system says.
    #[track_caller]
    pub fn connect<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        Self::connect_to(&UnixAddr::from_path(path).map_err(into_io)?)
    }

    /// Connects to the listener at `address`, which may be an abstract name.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    #[track_caller]
    pub fn connect_addr(address: &SocketAddr) -> io::Result<Self> {
        Self::connect_to(&UnixAddr::from_std(address))
    }

    #[track_caller]
    fn connect_to(address: &UnixAddr) -> io::Result<Self> {
        Ok(Self(SharedStream::new(wait(net::UnixStream::connect(address))?)))
    }

    /// Two sockets that are connected with each other.
    ///
    /// # Errors
    ///
    /// `EMFILE` when the process has no descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = net::UnixStream::pair().map_err(into_io)?;
        Ok((Self(SharedStream::new(a)), Self(SharedStream::new(b))))
    }

    /// This end's name.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        to_std(self.0.stream.local_addr())
    }

    /// The other end's name.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        to_std(self.0.stream.peer_addr())
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

    /// The error that the kernel keeps for this socket, and takes it from there.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        take_error(self.as_fd())
    }
}

io_through_reference!(UnixStream);

/// To set options and the like: what was read from the socket ahead is not there to be read from
/// the descriptor.
impl AsFd for UnixStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.stream.socket()
    }
}

impl AsRawFd for UnixStream {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

fn to_std(address: &UnixAddr) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;

    match address.as_abstract_name() {
        Some(name) => SocketAddr::from_abstract_name(name),
        // The empty path is no name.
        None => SocketAddr::from_pathname(address.as_path().unwrap_or(Path::new(""))),
    }
}
