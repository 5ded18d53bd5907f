//! TCP and UDP with the surface of [`std::net`], for coroutines.
//!
//! The sockets are those of [`boson::net`](crate::net): [`TcpListener::bind`], [`TcpStream::connect`] and [`UdpSocket::bind`] use the
//! kernel's network, [`TcpListener::bind_on`] and [`TcpStream::connect_on`] any other. They belong to their core and are not `Send`.
//!
//! # Different from `std::net`
//!
//! - Data is sent at once (`TCP_NODELAY`), always.
//! - A host name is looked up by the system's resolver, which blocks the whole core meanwhile; an address in numbers is not looked up.
//! - A write whose time is up may still take effect.
//! - A read or write that need not wait lets other tasks run only now and then (every 16th), so that it stays fast and no connection
//!   can hold up the core.

mod udp;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Duration;

pub use std::net::{
    AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6,
    ToSocketAddrs,
};

pub use udp::UdpSocket;

use crate::error::{Error, ErrorKind};
use crate::mem::IoBuf;
use crate::net::{self, Net};
use crate::rt;
use crate::rt::coroutine::wait_unless_cancelled;

/// How many bytes one read or write that has to wait carries at most.
const TRANSFER_BYTES: usize = 64 << 10;
/// Reads and writes in a row that do not let other tasks run.
const EAGER: u8 = 16;

/// Waits for an operation of the network.
#[track_caller]
fn wait<T>(operation: impl Future<Output = crate::Result<T>>) -> io::Result<T> {
    match wait_unless_cancelled(operation) {
        Some(result) => result.map_err(into_io),
        None => Err(io::Error::other("the coroutine is being cancelled")),
    }
}

/// Keeps the code of the system where there is one, so that programs can compare it.
fn into_io(error: Error) -> io::Error {
    match error.code() {
        Some(code) => io::Error::from_raw_os_error(code),
        // What a socket of the system reports when its time is up.
        None if error.kind() == ErrorKind::TimedOut => io::Error::new(io::ErrorKind::WouldBlock, error),
        None => error.into(),
    }
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
        Self::bind_on(&Net::kernel(), addresses)
    }

    /// As [`bind`](Self::bind), on another network than the kernel's.
    ///
    /// # Errors
    ///
    /// As for `bind`.
    pub fn bind_on<A: ToSocketAddrs>(net: &Net, addresses: A) -> io::Result<Self> {
        each_address(addresses, |address| {
            let listener = net::TcpListener::bind(net, address).map_err(into_io)?;
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

    /// Another handle to the same listener.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(Rc::clone(&self.0)))
    }
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
pub struct TcpStream(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: net::TcpStream,
    read_timeout: Cell<Option<Duration>>,
    write_timeout: Cell<Option<Duration>>,
    /// Reads and writes since others were last let run.
    eager: Cell<u8>,
    /// Kept between operations that wait: a buffer that the device may use while the caller's is gone.
    inbound: RefCell<Vec<u8>>,
    outbound: RefCell<Vec<u8>>,
}

impl TcpStream {
    fn new(stream: net::TcpStream) -> Self {
        Self(Rc::new(Shared {
            stream,
            read_timeout: Cell::new(None),
            write_timeout: Cell::new(None),
            eager: Cell::new(0),
            inbound: RefCell::default(),
            outbound: RefCell::default(),
        }))
    }

    /// Connects to the first of `addresses` that answers.
    ///
    /// # Errors
    ///
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) and what else the system says.
    #[track_caller]
    pub fn connect<A: ToSocketAddrs>(addresses: A) -> io::Result<Self> {
        Self::connect_on(&Net::kernel(), addresses)
    }

    /// As [`connect`](Self::connect), over another network than the kernel's.
    ///
    /// # Errors
    ///
    /// As for `connect`.
    #[track_caller]
    pub fn connect_on<A: ToSocketAddrs>(net: &Net, addresses: A) -> io::Result<Self> {
        each_address(addresses, |address| wait(net::TcpStream::connect(net, address)).map(Self::new))
    }

    /// Connects to `address` within `timeout`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut), [`InvalidInput`](io::ErrorKind::InvalidInput) for a time of zero, and as for `connect`.
    #[track_caller]
    pub fn connect_timeout(address: &SocketAddr, timeout: Duration) -> io::Result<Self> {
        check_timeout(Some(timeout))?;
        let net = Net::kernel();
        let connect = rt::timeout(timeout, net::TcpStream::connect(&net, *address));
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

    /// How long a read waits at most; `None` for ever. A read whose time is up fails with [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a time of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        check_timeout(timeout)?;
        self.0.read_timeout.set(timeout);
        Ok(())
    }

    /// How long a write waits at most; `None` for ever. A write whose time is up fails with [`WouldBlock`](io::ErrorKind::WouldBlock),
    /// and may have been done.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a time of zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        check_timeout(timeout)?;
        self.0.write_timeout.set(timeout);
        Ok(())
    }

    /// How long a read waits at most.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.0.read_timeout.get())
    }

    /// How long a write waits at most.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.0.write_timeout.get())
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

fn check_timeout(timeout: Option<Duration>) -> io::Result<()> {
    if timeout == Some(Duration::ZERO) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
    }
    Ok(())
}

/// Waits for `operation`, `timeout` at most.
#[track_caller]
fn wait_at_most<T>(
    timeout: Option<Duration>,
    operation: impl Future<Output = crate::Result<T>>,
) -> io::Result<T> {
    match timeout {
        None => wait(operation),
        Some(timeout) => wait(rt::timeout(timeout, operation))?.map_err(into_io),
    }
}

impl Shared {
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
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.take_turns();
        if let Some(len) = self.stream.try_read(buf).map_err(into_io)? {
            return Ok(len);
        }
        let wanted = buf.len().min(TRANSFER_BYTES);
        let mut bytes = self.inbound.take();
        if bytes.len() < wanted {
            bytes.reserve_exact(wanted - bytes.len());
            bytes.resize(wanted, 0);
        }
        let reading = async {
            // Of the whole buffer, which may have been made for a larger read, more would come than `buf` takes.
            let (result, bytes) = self.stream.read(bytes.slice(0..wanted)).await;
            result.map(|len| (len, bytes.into_inner()))
        };
        let (len, bytes) = wait_at_most(self.read_timeout.get(), reading)?;
        buf[..len].copy_from_slice(&bytes[..len]);
        self.inbound.replace(bytes);
        Ok(len)
    }

    #[track_caller]
    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.take_turns();
        if let Some(len) = self.stream.try_write(buf).map_err(into_io)? {
            return Ok(len);
        }
        let mut bytes = self.outbound.take();
        bytes.clear();
        bytes.extend_from_slice(&buf[..buf.len().min(TRANSFER_BYTES)]);
        let writing = async {
            let (result, bytes) = self.stream.write(bytes).await;
            result.map(|len| (len, bytes))
        };
        let (len, bytes) = wait_at_most(self.write_timeout.get(), writing)?;
        self.outbound.replace(bytes);
        Ok(len)
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
