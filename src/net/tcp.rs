//! TCP sockets: the same types over the kernel and over the userspace stack.

use std::cell::RefCell;
use std::future::Future;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::device::PacketDevice;
use super::kernel::{self, Addresses, KernelListener};
use super::remote::RemoteStream;
use super::resolve::{ToSocketAddrs, try_each};
use super::stack::{Stack, StackConfig, StackListener, StackStream};
use super::transfer::{self, Given, GivenBack, Transferred};
use crate::error::{BufError, BufResult, Error, Result, with_buf};
use crate::kernel::Stream;
use crate::mem::{IoBuf, IoBufMut, vectored};
use crate::rt;

/// An open network, on one core: where listeners are bound and connections are made. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Net(NetKind);

#[derive(Clone, Debug)]
enum NetKind {
    Kernel,
    Stack(Stack),
}

impl Net {
    /// The kernel's network.
    pub fn kernel() -> Self {
        Self(NetKind::Kernel)
    }

    /// The userspace stack on `device`, polled by the current core from now on for as long as that
    /// core lives. Without a seed in `config`, the core's generator gives one.
    ///
    /// # Errors
    ///
    /// As for [`Stack::new`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub fn on_device(device: Box<dyn PacketDevice>, config: StackConfig) -> Result<Self> {
        let config = config.seeded(|| {
            let mut seed = [0; 32];
            rt::random::fill_random(&mut seed);
            seed
        });
        let stack = Stack::new(device, config, rt::now())?;
        rt::poller::register_poller(Rc::new(RefCell::new(stack.poller()))).keep();
        Ok(Self(NetKind::Stack(stack)))
    }

    /// The userspace stack, if this is one: for its counters.
    pub fn stack(&self) -> Option<&Stack> {
        match &self.0 {
            NetKind::Kernel => None,
            NetKind::Stack(stack) => Some(stack),
        }
    }
}

/// Whether `error` says that the network under a listener is gone for good, as when its TAP
/// interface was removed: accepting again cannot succeed.
pub fn is_network_lost(error: &Error) -> bool {
    error.code() == Some(libc::ENETDOWN)
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct TcpListener(ListenerKind);

#[derive(Debug)]
enum ListenerKind {
    Kernel(KernelListener),
    Stack(StackListener),
}

/// How many connections wait to be accepted before more are refused.
const BACKLOG: u16 = 4096;

impl TcpListener {
    /// Listens on the first of `addresses` that can be had, of [this core's network](Net::current);
    /// port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`InUse`](crate::ErrorKind::InUse) if something else listens there, otherwise what
    /// [`Net::current`] and the resolver return, or the network's code.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn bind(addresses: impl ToSocketAddrs) -> Result<Self> {
        let net = Net::current()?;
        try_each(addresses, async |address| Self::bind_on(&net, address)).await
    }

    /// Like [`TcpListener::bind`], for an address that several cores of this process listen on;
    /// connections are spread over them.
    ///
    /// # Errors
    ///
    /// As for [`TcpListener::bind`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn bind_shared(addresses: impl ToSocketAddrs) -> Result<Self> {
        let net = Net::current()?;
        try_each(addresses, async |address| Self::bind_shared_on(&net, address)).await
    }

    /// Listens on `address` of `net`, for programs with several networks; port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`InUse`](crate::ErrorKind::InUse) if something else listens there, otherwise the network's
    /// code.
    pub fn bind_on(net: &Net, address: SocketAddr) -> Result<Self> {
        Self::bind_as(net, address, false)
    }

    /// Like [`TcpListener::bind_on`], for an address that several cores of this process listen on.
    ///
    /// # Errors
    ///
    /// As for [`TcpListener::bind_on`].
    pub fn bind_shared_on(net: &Net, address: SocketAddr) -> Result<Self> {
        Self::bind_as(net, address, true)
    }

    fn bind_as(net: &Net, address: SocketAddr, shared: bool) -> Result<Self> {
        let kind = match &net.0 {
            NetKind::Kernel => ListenerKind::Kernel(KernelListener::bind(address, BACKLOG.into(), shared)?),
            // A stack belongs to one core: there is nobody to share with.
            NetKind::Stack(stack) => {
                ListenerKind::Stack(StackListener::bind(stack, address, BACKLOG.into())?)
            }
        };
        Ok(Self(kind))
    }

    /// The next connection and the address it comes from. Dropping the future loses no connection.
    ///
    /// # Errors
    ///
    /// [`LimitReached`](crate::ErrorKind::LimitReached) when the process has no descriptor left;
    /// accepting again later may succeed. `ENETDOWN` when the device of a userspace stack failed:
    /// that is for good, see [`is_network_lost`].
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        match &self.0 {
            ListenerKind::Kernel(listener) => {
                let (stream, addresses) = listener.accept().await?;
                Ok((TcpStream(StreamKind::Kernel(stream, Box::new(addresses))), addresses.peer))
            }
            ListenerKind::Stack(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((TcpStream(StreamKind::Stack(stream)), peer))
            }
        }
    }

    /// The socket, if it is one of the kernel.
    pub(crate) fn kernel_socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            ListenerKind::Kernel(listener) => Some(listener.socket().as_fd()),
            ListenerKind::Stack(_) => None,
        }
    }

    /// The address it listens on, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            ListenerKind::Kernel(listener) => listener.local_addr(),
            ListenerKind::Stack(listener) => listener.local_addr(),
        }
    }
}

/// A TCP connection.
///
/// Reads and writes take their buffer by value and give it back. One task may read while another
/// writes. A dropped read loses no data: the next one gets it (except of a stream that another core
/// owns, see [`RemoteStream`]). Small segments are sent at once (`TCP_NODELAY`). Dropping the
/// stream closes it; what was written is still delivered.
#[derive(Debug)]
pub struct TcpStream(StreamKind);

#[derive(Debug)]
enum StreamKind {
    /// Its addresses are boxed: each move of the stream would copy them.
    Kernel(Stream, Box<Addresses>),
    Stack(StackStream),
    /// Of another core.
    Remote(Box<RemoteStream>),
}

/// A transfer on a stream of one of the kinds. That of another core is boxed, as it allocates
/// anyway.
enum OnKind<'a, K, S, T> {
    Kernel(K),
    Stack(S),
    Remote(Pin<Box<dyn Future<Output = T> + 'a>>),
}

impl<K, S, T> Future for OnKind<'_, K, S, T>
where
    K: Future<Output = T> + Unpin,
    S: Future<Output = T> + Unpin,
{
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut *self {
            Self::Kernel(transfer) => Pin::new(transfer).poll(cx),
            Self::Stack(transfer) => Pin::new(transfer).poll(cx),
            Self::Remote(transfer) => transfer.as_mut().poll(cx),
        }
    }
}

/// How much one operation on a stream of another core carries, in bytes.
const REMOTE_TRANSFER_BYTES: usize = 256 << 10;

impl TcpStream {
    /// Connects to the first of `addresses` that answers, over [this core's network](Net::current).
    ///
    /// # Errors
    ///
    /// The network's code, such as `ECONNREFUSED`, with the address, or what [`Net::current`] and
    /// the resolver return.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn connect(addresses: impl ToSocketAddrs) -> Result<Self> {
        let net = Net::current()?;
        try_each(addresses, async |address| Self::connect_on(&net, address).await).await
    }

    /// Connects to `address` over `net`, for programs with several networks.
    ///
    /// # Errors
    ///
    /// The network's code, such as `ECONNREFUSED`, with the address.
    pub async fn connect_on(net: &Net, address: SocketAddr) -> Result<Self> {
        match &net.0 {
            NetKind::Kernel => {
                let (stream, addresses) = kernel::connect(address).await?;
                Ok(Self(StreamKind::Kernel(stream, Box::new(addresses))))
            }
            NetKind::Stack(stack) => {
                StackStream::connect(stack, address).await.map(StreamKind::Stack).map(Self)
            }
        }
    }

    /// Reads at least one byte into the front of `buf` and returns how many; 0 at the end of the
    /// stream.
    ///
    /// Reads that several tasks have under way at the same time get their parts in no order that
    /// they can rely on.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) after a reset by the peer.
    // Not an `async fn`: see `transfer`.
    pub fn read<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = BufResult<usize, B>> + Unpin + use<'_, B> {
        Given(self.transfer_read(buf))
    }

    fn transfer_read<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Transferred<usize, B>> + Unpin + use<'_, B> {
        match &self.0 {
            StreamKind::Kernel(stream, _) => OnKind::Kernel(stream.read(buf)),
            StreamKind::Stack(stream) => OnKind::Stack(stream.transfer_read(buf)),
            StreamKind::Remote(stream) => OnKind::Remote(Box::pin(async move {
                let mut buf = buf;
                let room = buf.bytes_total().min(REMOTE_TRANSFER_BYTES);
                let (result, bytes) = stream.transfer_read(Vec::with_capacity(room)).await;
                (result.map(|len| buf.fill_from(&bytes[..len.min(room)])), buf)
            })),
        }
    }

    /// Reads until all the room of `buf` is filled: the capacity of a `Vec`, the length of a
    /// [`slice`](crate::mem::IoBuf::slice).
    ///
    /// If the future is dropped, what it has read is lost.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the stream ends before, with what came in the
    /// buffer; otherwise as for [`TcpStream::read`].
    pub fn read_exact<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = std::result::Result<B, BufError<B>>> + Unpin + use<'_, B> {
        GivenBack(transfer::read_exact(buf, |rest| self.transfer_read(rest)))
    }

    /// Writes at least one byte from the front of `buf` and returns how many.
    ///
    /// Writes that several tasks have under way at the same time go out in no order that they can
    /// rely on. Tasks that share a stream take turns, with a [`Mutex`](crate::sync::local::Mutex)
    /// for example.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the peer closed or reset the connection.
    // Not an `async fn`: see `transfer`.
    pub fn write<B: IoBuf>(&self, buf: B) -> impl Future<Output = BufResult<usize, B>> + Unpin + use<'_, B> {
        Given(self.transfer_write(buf))
    }

    fn transfer_write<B: IoBuf>(
        &self,
        buf: B,
    ) -> impl Future<Output = Transferred<usize, B>> + Unpin + use<'_, B> {
        match &self.0 {
            StreamKind::Kernel(stream, _) => OnKind::Kernel(stream.write(buf)),
            StreamKind::Stack(stream) => OnKind::Stack(stream.transfer_write(buf)),
            StreamKind::Remote(stream) => OnKind::Remote(Box::pin(async move {
                let bytes = buf.as_slice();
                let part = bytes[..bytes.len().min(REMOTE_TRANSFER_BYTES)].to_vec();
                (stream.transfer_write(part).await.0, buf)
            })),
        }
    }

    /// Like [`TcpStream::write`], but lets the kernel send 16 KiB and more from where they are
    /// (`IORING_OP_SEND_ZC`, Linux 6.2).
    ///
    /// It completes when the kernel needs `buf` no more, usually when the peer has acknowledged it:
    /// it saves the CPU the copy, and takes a round trip. For throughput have several in flight,
    /// each with its own buffer. Where the kernel cannot (an older one, a device that has to copy,
    /// such as loopback) and on other networks this is an ordinary write.
    ///
    /// # Errors
    ///
    /// As for [`TcpStream::write`].
    pub async fn write_zero_copy<B: IoBuf>(&self, buf: B) -> BufResult<usize, B> {
        match &self.0 {
            StreamKind::Kernel(stream, _) => {
                let (result, buf) = stream.write_zero_copy(buf).await;
                with_buf(result, buf)
            }
            StreamKind::Stack(_) | StreamKind::Remote(_) => self.write(buf).await,
        }
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    ///
    /// As for [`TcpStream::write`]; a part may have been written.
    pub fn write_all<B: IoBuf>(
        &self,
        buf: B,
    ) -> impl Future<Output = std::result::Result<B, BufError<B>>> + Unpin + use<'_, B> {
        GivenBack(transfer::write_all(buf, |part| self.transfer_write(part)))
    }

    /// Reads at least one byte into `bufs`, each of which is filled before the next one, and
    /// returns how many; 0 at the end of the stream. Of more than 1,024 buffers the rest may stay
    /// empty.
    ///
    /// # Errors
    ///
    /// As for [`TcpStream::read`].
    pub async fn read_vectored<B: IoBufMut>(&self, bufs: Vec<B>) -> BufResult<usize, Vec<B>> {
        let (result, bufs) = match &self.0 {
            StreamKind::Kernel(stream, _) => stream.read_vectored(bufs).await,
            StreamKind::Stack(stream) => stream.transfer_read_vectored(bufs).await,
            StreamKind::Remote(stream) => {
                let mut bufs = bufs;
                let room = vectored::room(&bufs).min(REMOTE_TRANSFER_BYTES);
                let (result, bytes) = stream.transfer_read(Vec::with_capacity(room)).await;
                (result.map(|len| vectored::fill_from_at(&mut bufs, 0, &bytes[..len.min(room)])), bufs)
            }
        };
        with_buf(result, bufs)
    }

    /// Writes at least one byte from the front of `bufs`, which go out one after the other, and
    /// returns how many: a header and a body need not be copied together. Over the kernel it is one
    /// system call for up to 1,024 buffers.
    ///
    /// # Errors
    ///
    /// As for [`TcpStream::write`].
    pub async fn write_vectored<B: IoBuf>(&self, bufs: Vec<B>) -> BufResult<usize, Vec<B>> {
        let (result, bufs) = self.transfer_write_vectored(bufs, 0).await;
        with_buf(result, bufs)
    }

    /// Writes all of `bufs`, one after the other, as [`TcpStream::write_vectored`].
    ///
    /// # Errors
    ///
    /// As for [`TcpStream::write`]; a part may have been written.
    pub async fn write_all_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
    ) -> std::result::Result<Vec<B>, BufError<Vec<B>>> {
        transfer::write_all_vectored(bufs, |bufs, done| self.transfer_write_vectored(bufs, done)).await
    }

    async fn transfer_write_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        skip: usize,
    ) -> Transferred<usize, Vec<B>> {
        match &self.0 {
            StreamKind::Kernel(stream, _) => stream.write_vectored(bufs, skip).await,
            StreamKind::Stack(stream) => stream.transfer_write_vectored(bufs, skip).await,
            StreamKind::Remote(stream) => {
                let mut part = Vec::new();
                for bytes in vectored::parts_after(&bufs, skip) {
                    let room = REMOTE_TRANSFER_BYTES - part.len();
                    part.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    if part.len() == REMOTE_TRANSFER_BYTES {
                        break;
                    }
                }
                (stream.transfer_write(part).await.0, bufs)
            }
        }
    }

    /// Reads what is there now; `None` if nothing is or a read waits, whose it may be, and always
    /// for a stream of another core.
    ///
    /// # Errors
    ///
    /// As for [`TcpStream::read`].
    pub fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>> {
        match &self.0 {
            StreamKind::Kernel(stream, _) => stream.try_read(buf),
            StreamKind::Stack(stream) => stream.try_read(buf),
            // Nothing is on this core without asking the other.
            StreamKind::Remote(_) => Ok(None),
        }
    }

    /// Writes what there is room for now; `None` if there is none, and always for a stream of
    /// another core.
    ///
    /// # Errors
    ///
    /// As for [`TcpStream::write`].
    pub fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>> {
        match &self.0 {
            StreamKind::Kernel(stream, _) => stream.try_write(bytes),
            StreamKind::Stack(stream) => stream.try_write(bytes),
            StreamKind::Remote(_) => Ok(None),
        }
    }

    /// Closes one direction: `Write` sends the end of the stream after what was written, `Read`
    /// discards what comes.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the connection is gone.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        match &self.0 {
            StreamKind::Kernel(stream, addresses) => {
                stream.shutdown(how).map_err(|error| error.at(addresses.peer.to_string()))
            }
            StreamKind::Stack(stream) => stream.shutdown(how),
            StreamKind::Remote(stream) => {
                stream.shutdown(how);
                Ok(())
            }
        }
    }

    /// Ends the connection by a reset: what was not delivered yet is thrown away.
    pub fn abort(self) {
        self.abort_shared();
    }

    /// As [`TcpStream::abort`], of a stream that others may be using: their operations end.
    pub(super) fn abort_shared(&self) {
        match &self.0 {
            StreamKind::Kernel(stream, _) => stream.abort(),
            StreamKind::Stack(stream) => stream.abort(),
            StreamKind::Remote(stream) => stream.abort(),
        }
    }

    /// The socket, if it is one of the kernel and of this core.
    pub(crate) fn kernel_socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            StreamKind::Kernel(stream, _) => Some(stream.socket().as_fd()),
            StreamKind::Stack(_) | StreamKind::Remote(_) => None,
        }
    }

    /// This end's address.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            StreamKind::Kernel(_, addresses) => addresses.local,
            StreamKind::Stack(stream) => stream.local_addr(),
            StreamKind::Remote(stream) => stream.local_addr(),
        }
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> SocketAddr {
        match &self.0 {
            StreamKind::Kernel(_, addresses) => addresses.peer,
            StreamKind::Stack(stream) => stream.peer_addr(),
            StreamKind::Remote(stream) => stream.peer_addr(),
        }
    }
}

impl From<RemoteStream> for TcpStream {
    /// A stream of another core behind the same type. Every operation copies its bytes once more.
    fn from(stream: RemoteStream) -> Self {
        Self(StreamKind::Remote(Box::new(stream)))
    }
}

/// A connection's task holds it, and moves it from future to future.
const _: () = assert!(size_of::<TcpStream>() <= 64);
