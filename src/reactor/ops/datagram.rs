//! Operations on datagrams and their addresses.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use super::socket::write_address;
use super::{Call, Op, Operation, clamp_len, received};
use crate::mem::{IoBuf, IoBufMut};

/// What a datagram's call points to besides the bytes: their place and length, and the address. Can
/// be used again.
///
/// Behind a pointer, not a `Box`: while the kernel works on it no reference to it is made.
pub(crate) struct Envelope(NonNull<Parts>);

struct Parts {
    header: libc::msghdr,
    bytes: libc::iovec,
    address: libc::sockaddr_storage,
}

impl Envelope {
    pub(crate) fn new() -> Self {
        // SAFETY: all three are plain integers and pointers, for which zeros are valid: null, and
        // an unspecified family.
        let parts = Box::new(unsafe { std::mem::zeroed::<Parts>() });
        Self(NonNull::from(Box::leak(parts)))
    }

    /// No operation uses it: it is in nobody's hands but the caller's.
    fn parts(&mut self) -> &mut Parts {
        // SAFETY: it was a box's, which is freed only in `drop`, and this is the only value with
        // its address. The kernel is done with it: the operation that it was given to has ended and
        // given it back, or is about to begin.
        unsafe { self.0.as_mut() }
    }

    /// Makes the header say where the bytes are, and the address, of which `address_len` bytes
    /// count.
    fn point_to(&mut self, bytes: *mut u8, len: u32, address_len: libc::socklen_t) {
        let parts = self.parts();
        parts.bytes = libc::iovec { iov_base: bytes.cast(), iov_len: len as usize };
        parts.header.msg_name = match address_len {
            0 => std::ptr::null_mut(),
            _ => (&raw mut parts.address).cast(),
        };
        parts.header.msg_namelen = address_len;
        parts.header.msg_iov = &raw mut parts.bytes;
        parts.header.msg_iovlen = 1;
    }

    fn header(&self) -> *mut libc::msghdr {
        // SAFETY: the address of a field of a value that this owns; nothing is read.
        unsafe { &raw mut (*self.0.as_ptr()).header }
    }

    /// Whom a received datagram is from.
    fn sender(&mut self) -> io::Result<SocketAddr> {
        let parts = self.parts();
        let storage = &raw const parts.address;
        match i32::from(parts.address.ss_family) {
            libc::AF_INET => {
                // SAFETY: `sockaddr_storage` is larger than, and at least as aligned as, every
                // address type, and initialised; every bit pattern is a `sockaddr_in`.
                let v4 = unsafe { storage.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Ok(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above, of a `sockaddr_in6`.
                let v6 = unsafe { storage.cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Ok(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        }
    }
}

impl Drop for Envelope {
    fn drop(&mut self) {
        // SAFETY: it is the address of a box that was leaked in `new`, and nobody frees it but this
        // value, once. The kernel is done with it: an operation in flight keeps its envelope.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").finish_non_exhaustive()
    }
}

/// What a receive comes to: how many bytes, and from whom.
pub(crate) type Received = io::Result<(u32, SocketAddr)>;

/// Receives a datagram into `buf`; what it has no room for is lost. What arrived after the future
/// was dropped goes to `orphan` with the buffer.
pub(crate) fn receive_from<B, F>(
    socket: &Rc<OwnedFd>,
    mut buf: B,
    mut envelope: Envelope,
    orphan: F,
) -> Op<ReceiveFrom<B, F>>
where
    B: IoBufMut,
    F: FnOnce(Received, B) + Unpin + 'static,
{
    let len = clamp_len(buf.bytes_total());
    let room = libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).expect("128 bytes");
    envelope.point_to(buf.stable_mut_ptr(), len, room);
    Op::new(ReceiveFrom { socket: Rc::clone(socket), buf, envelope, orphan })
}

pub(crate) struct ReceiveFrom<B, F> {
    socket: Rc<OwnedFd>,
    buf: B,
    envelope: Envelope,
    orphan: F,
}

fn from_whom<B: IoBufMut>(buf: &mut B, envelope: &mut Envelope, result: io::Result<u32>) -> Received {
    received(buf, &result);
    result.and_then(|len| Ok((len, envelope.sender()?)))
}

// SAFETY: the call points to the envelope's header, which the value owns and which does not move
// with it. That points to the envelope's address, likewise, and to `len <= bytes_total` writable
// bytes of `buf`, which the value owns and which stay in place by `IoBufMut`'s contract.
unsafe impl<B, F> Operation for ReceiveFrom<B, F>
where
    B: IoBufMut,
    F: FnOnce(Received, B) + Unpin + 'static,
{
    type Output = (Received, B, Envelope);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    fn call(&mut self) -> Call {
        Call::ReceiveMessage { header: self.envelope.header() }
    }

    fn complete(mut self, result: io::Result<u32>) -> Self::Output {
        let result = from_whom(&mut self.buf, &mut self.envelope, result);
        (result, self.buf, self.envelope)
    }

    fn orphaned(mut self, result: io::Result<u32>) {
        let result = from_whom(&mut self.buf, &mut self.envelope, result);
        (self.orphan)(result, self.buf);
    }
}

/// Sends `buf` as a datagram, to `address` or to whom the socket is connected to. Never raises
/// SIGPIPE.
pub(crate) fn send_to<B: IoBuf>(
    socket: &Rc<OwnedFd>,
    buf: B,
    address: Option<&SocketAddr>,
    mut envelope: Envelope,
) -> Op<SendTo<B>> {
    let address_len = address.map_or(0, |address| write_address(address, &mut envelope.parts().address));
    // The kernel does not write there: `sendmsg` only reads.
    envelope.point_to(buf.stable_ptr().cast_mut(), clamp_len(buf.bytes_init()), address_len);
    Op::new(SendTo { socket: Rc::clone(socket), buf, envelope })
}

pub(crate) struct SendTo<B> {
    socket: Rc<OwnedFd>,
    buf: B,
    envelope: Envelope,
}

// SAFETY: the call points to the envelope's header, which the value owns and which does not move
// with it. That points to the envelope's address, likewise, and to `len <= bytes_init` readable
// bytes of `buf`, which the value owns and which stay in place by `IoBuf`'s contract.
unsafe impl<B: IoBuf> Operation for SendTo<B> {
    type Output = (io::Result<u32>, B, Envelope);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    fn call(&mut self) -> Call {
        Call::SendMessage { header: self.envelope.header() }
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        (result, self.buf, self.envelope)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}
