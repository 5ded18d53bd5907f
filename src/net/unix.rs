//! Unix stream sockets: connections between processes of one machine, on the kernel only.

mod credentials;
mod name;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as StdAddr, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

pub use credentials::PeerCredentials;
pub(crate) use name::Name;

use super::transfer::{self, Given, GivenBack};
use crate::error::{BufError, BufResult, Error, ErrorKind, Result, with_buf};
use crate::kernel::{Acceptor, Stream};
use crate::mem::{IoBuf, IoBufMut};
use crate::rt;

/// How many connections wait to be accepted before further ones have to wait.
const BACKLOG: i32 = 4096;
/// How long until a listener whose backlog is full is tried again, at first and at most.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The name of a Unix socket: a path in the file system, an abstract name (`unix(7)`), or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnixAddr(AddrKind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum AddrKind {
    Path(PathBuf),
    Abstract(Box<[u8]>),
    Unnamed,
}

/// What `sockaddr_un` has room for, without the zero byte at the end of a path or the start of an
/// abstract name.
const MAX_NAME_BYTES: usize = 107;

impl UnixAddr {
    /// The name `path` in the file system.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a path that is empty, longer than 107 bytes or
    /// contains a zero byte.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() > MAX_NAME_BYTES || bytes.contains(&0) {
            return Err(Error::new(ErrorKind::InvalidInput, "name a Unix socket")
                .at(path.display().to_string())
                .because("the path of a socket has 1 to 107 bytes, none of them zero"));
        }
        Ok(Self(AddrKind::Path(path.to_owned())))
    }

    /// The abstract name `name`: it is in no file system and goes away with its listener. Any
    /// process of the same network namespace may connect to it.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a name that is empty or longer than 107 bytes.
    pub fn from_abstract_name(name: impl AsRef<[u8]>) -> Result<Self> {
        let name = name.as_ref();
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(Error::new(ErrorKind::InvalidInput, "name a Unix socket")
                .at(format!("@{}", name.escape_ascii()))
                .because("an abstract name has 1 to 107 bytes"));
        }
        Ok(Self(AddrKind::Abstract(name.into())))
    }

    /// The path, if it is one.
    pub fn as_path(&self) -> Option<&Path> {
        if let AddrKind::Path(path) = &self.0 { Some(path) } else { None }
    }

    /// The abstract name, if it is one.
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        if let AddrKind::Abstract(name) = &self.0 { Some(name) } else { None }
    }

    /// Whether the socket has no name, as that of a client usually has none.
    pub fn is_unnamed(&self) -> bool {
        self.0 == AddrKind::Unnamed
    }

    /// From what the kernel says of a socket; a name that cannot be read is none.
    fn from_kernel(address: io::Result<StdAddr>) -> Self {
        address.map_or(Self(AddrKind::Unnamed), |address| Self::from_std(&address))
    }

    pub(crate) fn from_std(address: &StdAddr) -> Self {
        Self(match (address.as_pathname(), address.as_abstract_name()) {
            (Some(path), _) => AddrKind::Path(path.to_owned()),
            (None, Some(name)) => AddrKind::Abstract(name.into()),
            (None, None) => AddrKind::Unnamed,
        })
    }

    fn encode(&self) -> Result<SocketAddrUnix, Errno> {
        match &self.0 {
            AddrKind::Path(path) => SocketAddrUnix::new(path),
            AddrKind::Abstract(name) => SocketAddrUnix::new_abstract_name(name),
            AddrKind::Unnamed => Err(Errno::INVAL),
        }
    }
}

impl FromStr for UnixAddr {
    type Err = Error;

    /// A path, or an abstract name after an `@`.
    ///
    /// # Errors
    ///
    /// As for [`UnixAddr::from_path`] and [`UnixAddr::from_abstract_name`].
    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix('@') {
            Some(name) => Self::from_abstract_name(name),
            None => Self::from_path(text),
        }
    }
}

impl fmt::Display for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AddrKind::Path(path) => path.display().fmt(f),
            AddrKind::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            AddrKind::Unnamed => f.write_str("(unnamed)"),
        }
    }
}

/// A listening Unix socket. Dropping it removes its name from the file system.
#[derive(Debug)]
pub struct UnixListener {
    /// Dropped before the socket.
    _name: Option<Name>,
    acceptor: Acceptor,
    local: UnixAddr,
}

impl UnixListener {
    /// Listens on `address`. Who may connect to a path is decided by the permissions of its
    /// directory and of the path itself, which is made with mode `0777` less the process's umask.
    ///
    /// A path that a killed process left behind, a socket on which nobody listens, is taken over.
    /// If several processes want it at once, one gets it: each of them holds a lock meanwhile, an
    /// empty file `.NAME.boson-lock` beside the socket.
    ///
    /// # Errors
    ///
    /// [`InUse`](ErrorKind::InUse) if somebody listens there or is about to, or the path is
    /// something else, otherwise the kernel's code.
    pub fn bind(address: &UnixAddr) -> Result<Self> {
        const OPERATION: &str = "listen on";
        let failed = |errno: Errno| Error::os(errno.raw_os_error(), OPERATION).at(address.to_string());
        let socket = new_socket().map_err(failed)?;
        let name = match address.as_path() {
            Some(path) => Some(Name::take(&socket, path, BACKLOG, OPERATION)?),
            None => {
                rustix::net::bind(&socket, &address.encode().map_err(failed)?).map_err(failed)?;
                rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
                None
            }
        };
        Ok(Self { _name: name, acceptor: Acceptor::new(socket), local: address.clone() })
    }

    /// The next connection. Dropping the future loses no connection.
    ///
    /// # Errors
    ///
    /// [`LimitReached`](ErrorKind::LimitReached) when the process has no descriptor left; accepting
    /// again later may succeed.
    pub async fn accept(&self) -> Result<UnixStream> {
        let socket = self
            .acceptor
            .accept()
            .await
            .map_err(|error| Error::io(error, "accept").at(self.local.to_string()))?;
        Ok(UnixStream::from_connected(socket))
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.acceptor.socket().as_fd()
    }

    /// What it listens on.
    pub fn local_addr(&self) -> &UnixAddr {
        &self.local
    }
}

/// A Unix stream connection. It behaves as a [`TcpStream`](super::TcpStream) does, whose functions
/// these are.
#[derive(Debug)]
pub struct UnixStream {
    stream: Stream,
    local: UnixAddr,
    peer: UnixAddr,
}

impl UnixStream {
    fn from_connected(socket: OwnedFd) -> Self {
        let socket = StdStream::from(socket);
        Self {
            local: UnixAddr::from_kernel(socket.local_addr()),
            peer: UnixAddr::from_kernel(socket.peer_addr()),
            stream: Stream::new(socket.into()),
        }
    }

    /// Connects to the listener at `address`. Waits while the backlog of that listener is full.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such path, `ECONNREFUSED` if nobody
    /// listens, otherwise the kernel's code.
    ///
    /// # Panics
    ///
    /// Outside a core, if it has to wait.
    pub async fn connect(address: &UnixAddr) -> Result<Self> {
        let failed = |errno: Errno| Error::os(errno.raw_os_error(), "connect to").at(address.to_string());
        let encoded = address.encode().map_err(failed)?;
        let socket = new_socket().map_err(failed)?;
        // A Unix socket connects at once or not at all; one that may block would block the core for
        // as long as the backlog is full.
        rustix::io::ioctl_fionbio(&socket, true).map_err(failed)?;
        let mut wait = RETRY_AFTER.0;
        loop {
            match rustix::net::connect(&socket, &encoded) {
                Ok(()) => break,
                Err(Errno::AGAIN) => rt::sleep(wait).await,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
            wait = (wait * 2).min(RETRY_AFTER.1);
        }
        // io_uring does not wait for a socket that does not block.
        rustix::io::ioctl_fionbio(&socket, false).map_err(failed)?;
        Ok(Self::from_connected(socket))
    }

    /// Two sockets that are connected with each other.
    ///
    /// # Errors
    ///
    /// The kernel's code when the process has no descriptors left.
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|errno| Error::os(errno.raw_os_error(), "make a pair of sockets"))?;
        Ok((Self::from_connected(a), Self::from_connected(b)))
    }

    /// As [`TcpStream::read`](super::TcpStream::read).
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if the peer closed while bytes were on their way to it.
    pub fn read<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = BufResult<usize, B>> + Unpin + use<'_, B> {
        Given(self.stream.read(buf))
    }

    /// Reads until all the room of `buf` is filled: the capacity of a `Vec`, the length of a
    /// [`slice`](crate::mem::IoBuf::slice).
    ///
    /// If the future is dropped, what it has read is lost.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if the stream ends before, with what came in the buffer;
    /// otherwise as for [`UnixStream::read`].
    pub fn read_exact<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = std::result::Result<B, BufError<B>>> + Unpin + use<'_, B> {
        GivenBack(transfer::read_exact(buf, |rest| self.stream.read(rest)))
    }

    /// As [`TcpStream::write`](super::TcpStream::write).
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if the peer closed.
    pub fn write<B: IoBuf>(&self, buf: B) -> impl Future<Output = BufResult<usize, B>> + Unpin + use<'_, B> {
        Given(self.stream.write(buf))
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    ///
    /// As for [`UnixStream::write`]; a part may have been written.
    pub fn write_all<B: IoBuf>(
        &self,
        buf: B,
    ) -> impl Future<Output = std::result::Result<B, BufError<B>>> + Unpin + use<'_, B> {
        GivenBack(transfer::write_all(buf, |part| self.stream.write(part)))
    }

    /// As [`TcpStream::read_vectored`](super::TcpStream::read_vectored).
    ///
    /// # Errors
    ///
    /// As for [`UnixStream::read`].
    pub async fn read_vectored<B: IoBufMut>(&self, bufs: Vec<B>) -> BufResult<usize, Vec<B>> {
        let (result, bufs) = self.stream.read_vectored(bufs).await;
        with_buf(result, bufs)
    }

    /// As [`TcpStream::write_vectored`](super::TcpStream::write_vectored).
    ///
    /// # Errors
    ///
    /// As for [`UnixStream::write`].
    pub async fn write_vectored<B: IoBuf>(&self, bufs: Vec<B>) -> BufResult<usize, Vec<B>> {
        let (result, bufs) = self.stream.write_vectored(bufs, 0).await;
        with_buf(result, bufs)
    }

    /// Writes all of `bufs`, one after the other.
    ///
    /// # Errors
    ///
    /// As for [`UnixStream::write`]; a part may have been written.
    pub async fn write_all_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
    ) -> std::result::Result<Vec<B>, BufError<Vec<B>>> {
        transfer::write_all_vectored(bufs, |bufs, done| self.stream.write_vectored(bufs, done)).await
    }

    /// Reads what is there now; `None` if nothing is or a read waits, whose it may be.
    ///
    /// # Errors
    ///
    /// As for [`UnixStream::read`].
    pub fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>> {
        self.stream.try_read(buf)
    }

    /// Writes what there is room for now; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As for [`UnixStream::write`].
    pub fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>> {
        self.stream.try_write(bytes)
    }

    /// Closes one direction or both, as [`TcpStream::shutdown`](super::TcpStream::shutdown).
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if the connection is gone.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.stream.shutdown(how).map_err(|error| error.at(self.peer.to_string()))
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.socket().as_fd()
    }

    /// This end's name.
    pub fn local_addr(&self) -> &UnixAddr {
        &self.local
    }

    /// The other end's name.
    pub fn peer_addr(&self) -> &UnixAddr {
        &self.peer
    }

    /// Whose process made the other end, by the kernel's word: what a server looks at before it
    /// trusts a client.
    ///
    /// # Errors
    ///
    /// The kernel's code, which should not happen.
    pub fn peer_credentials(&self) -> Result<PeerCredentials> {
        PeerCredentials::of(self.stream.socket()).map_err(|error| error.at(self.peer.to_string()))
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}
