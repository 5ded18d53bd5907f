//! Operations on sockets.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

use super::call::MAX_ZERO_COPY_BYTES;
use super::transfer::{self, Incoming, Outgoing, Socket};
use super::{COPIED, Call, Op, Operation, clamp_len};
use crate::mem::{IoBuf, IoBufMut};

/// Receives from a socket into `buf`; 0 bytes is the end of the stream. What arrived after the
/// future was dropped goes to `orphan` with the buffer.
pub(crate) fn recv<B, F>(socket: &Rc<OwnedFd>, buf: B, orphan: F) -> Op<Incoming<Socket, B, F>>
where
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, B) + Unpin + 'static,
{
    transfer::incoming(socket, buf, orphan)
}

/// Sends from `buf` on a socket; possibly only a part. Never raises SIGPIPE. `guard` is dropped
/// when the kernel is done, also if nobody waits for it any more.
pub(crate) fn send<B, G>(socket: &Rc<OwnedFd>, buf: B, guard: G) -> Op<Outgoing<Socket, B, G>>
where
    B: IoBuf,
    G: Unpin + 'static,
{
    transfer::outgoing(socket, buf, guard)
}

/// Like [`send`], but the kernel reads `buf` until the peer has acknowledged what was sent; says
/// besides the count whether the kernel copied the bytes instead.
pub(crate) fn send_zero_copy<B, G>(socket: &Rc<OwnedFd>, buf: B, guard: G) -> Op<SendZeroCopy<B, G>>
where
    B: IoBuf,
    G: Unpin + 'static,
{
    Op::new(SendZeroCopy { socket: Rc::clone(socket), buf, _guard: guard })
}

pub(crate) struct SendZeroCopy<B, G> {
    socket: Rc<OwnedFd>,
    buf: B,
    _guard: G,
}

// SAFETY: the call's `len <= bytes_init` readable bytes are those of `buf`, which the value owns
// and which stay in place by `IoBuf`'s contract. The reactor calls the operation complete only when
// the kernel's notification says that it is done with them.
unsafe impl<B: IoBuf, G: Unpin + 'static> Operation for SendZeroCopy<B, G> {
    type Output = (io::Result<(u32, bool)>, B);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    fn call(&mut self) -> Call {
        let len = clamp_len(self.buf.bytes_init()).min(MAX_ZERO_COPY_BYTES);
        Call::SendZeroCopy { buf: self.buf.stable_ptr(), len }
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        let copied = COPIED.cast_unsigned();
        (result.map(|result| (result & !copied, result & copied != 0)), self.buf)
    }

    fn orphaned(self, _result: io::Result<u32>) {}

    /// What the kernel waits for is the peer, with the socket or without: the connection may end.
    fn given_up(self) {
        std::mem::forget(self.buf);
    }
}

/// Accepts a connection. One that was accepted after the future was dropped goes to `orphan`.
pub(crate) fn accept<F>(socket: &Rc<OwnedFd>, orphan: F) -> Op<Accept<F>>
where
    F: FnOnce(io::Result<OwnedFd>) + Unpin + 'static,
{
    Op::new(Accept { socket: Rc::clone(socket), orphan })
}

pub(crate) struct Accept<F> {
    socket: Rc<OwnedFd>,
    orphan: F,
}

fn accepted(result: io::Result<u32>) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(result?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel completed this accept with a descriptor that is new and that nobody else
    // knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

// SAFETY: the call has no pointers.
unsafe impl<F> Operation for Accept<F>
where
    F: FnOnce(io::Result<OwnedFd>) + Unpin + 'static,
{
    type Output = io::Result<OwnedFd>;

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    fn call(&mut self) -> Call {
        Call::Accept
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        accepted(result)
    }

    fn orphaned(self, result: io::Result<u32>) {
        (self.orphan)(accepted(result));
    }
}

/// Connects a socket.
pub(crate) fn connect(socket: &Rc<OwnedFd>, address: &SocketAddr) -> Op<Connect> {
    let (address, len) = encode_address(address);
    Op::new(Connect { socket: Rc::clone(socket), address, len })
}

pub(crate) struct Connect {
    socket: Rc<OwnedFd>,
    address: Box<libc::sockaddr_storage>,
    len: libc::socklen_t,
}

// SAFETY: the call points to the boxed address, which the value owns and which does not move with
// it.
unsafe impl Operation for Connect {
    type Output = io::Result<()>;

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    fn call(&mut self) -> Call {
        Call::Connect { address: std::ptr::from_ref(&*self.address).cast(), len: self.len }
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        result.map(|_| ())
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

fn encode_address(address: &SocketAddr) -> (Box<libc::sockaddr_storage>, libc::socklen_t) {
    // SAFETY: `sockaddr_storage` is plain bytes; all zeros is a valid value (an unspecified
    // family).
    let mut storage = Box::new(unsafe { MaybeUninit::<libc::sockaddr_storage>::zeroed().assume_init() });
    let len = write_address(address, &mut storage);
    (storage, len)
}

/// Writes `address` as the kernel takes it, and returns its length.
pub(super) fn write_address(address: &SocketAddr, storage: &mut libc::sockaddr_storage) -> libc::socklen_t {
    let target = std::ptr::from_mut(storage);
    let len = match address {
        SocketAddr::V4(v4) => {
            let encoded = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is larger than, and at least as aligned as, every address
            // type.
            unsafe { target.cast::<libc::sockaddr_in>().write(encoded) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let encoded = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: `sockaddr_storage` is larger than, and at least as aligned as, every address
            // type.
            unsafe { target.cast::<libc::sockaddr_in6>().write(encoded) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    libc::socklen_t::try_from(len).expect("an address has a few bytes")
}

fn family(family: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("address families are small")
}
