//! Bytes that come into a buffer or go out of one, from and to whatever has a call for that.

use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::{Call, Op, Operation, clamp_len, received};
use crate::mem::{IoBuf, IoBufMut};

/// The calls by which bytes come and go. Implemented here only: [`Operation`]'s promise about the
/// memory rests on it.
pub(crate) trait Via: Unpin + 'static {
    /// Writes at most `len` bytes to `buf`.
    fn incoming(buf: *mut u8, len: u32) -> Call;

    /// Reads at most `len` bytes from `buf`.
    fn outgoing(buf: *const u8, len: u32) -> Call;
}

/// Sockets. Sending never raises SIGPIPE.
pub(crate) struct Socket;

impl Via for Socket {
    fn incoming(buf: *mut u8, len: u32) -> Call {
        Call::Recv { buf, len }
    }

    fn outgoing(buf: *const u8, len: u32) -> Call {
        Call::Send { buf, len }
    }
}

/// Pipes, and what else is read or written as a stream. On a core without io_uring the descriptor
/// becomes non-blocking.
pub(crate) struct Stream;

impl Via for Stream {
    fn incoming(buf: *mut u8, len: u32) -> Call {
        Call::Read { buf, len }
    }

    fn outgoing(buf: *const u8, len: u32) -> Call {
        Call::Write { buf, len }
    }
}

/// Takes what comes to `buf`; waits until there is something. 0 bytes are the end of the stream.
/// What came after the future was dropped goes to `orphan` with the buffer.
pub(super) fn incoming<V, B, F>(from: &Rc<OwnedFd>, buf: B, orphan: F) -> Op<Incoming<V, B, F>>
where
    V: Via,
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, B) + Unpin + 'static,
{
    Op::new(Incoming { from: Rc::clone(from), buf, orphan, via: PhantomData })
}

/// Of [`incoming`].
pub(crate) struct Incoming<V, B, F> {
    from: Rc<OwnedFd>,
    buf: B,
    orphan: F,
    via: PhantomData<V>,
}

// SAFETY: the call's `len <= bytes_total` writable bytes are those of `buf`, which the value owns
// and which stay in place by `IoBufMut`'s contract.
unsafe impl<V, B, F> Operation for Incoming<V, B, F>
where
    V: Via,
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, B) + Unpin + 'static,
{
    type Output = (io::Result<u32>, B);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.from
    }

    fn call(&mut self) -> Call {
        V::incoming(self.buf.stable_mut_ptr(), clamp_len(self.buf.bytes_total()))
    }

    fn complete(mut self, result: io::Result<u32>) -> Self::Output {
        received(&mut self.buf, &result);
        (result, self.buf)
    }

    fn orphaned(mut self, result: io::Result<u32>) {
        received(&mut self.buf, &result);
        (self.orphan)(result, self.buf);
    }
}

/// Sends `buf`, possibly only a part; waits until there is room. `guard` is dropped when the
/// kernel is done, also if nobody waits for it any more.
pub(super) fn outgoing<V, B, G>(to: &Rc<OwnedFd>, buf: B, guard: G) -> Op<Outgoing<V, B, G>>
where
    V: Via,
    B: IoBuf,
    G: Unpin + 'static,
{
    Op::new(Outgoing { to: Rc::clone(to), buf, _guard: guard, via: PhantomData })
}

/// Of [`outgoing`].
pub(crate) struct Outgoing<V, B, G> {
    to: Rc<OwnedFd>,
    buf: B,
    _guard: G,
    via: PhantomData<V>,
}

// SAFETY: the call's `len <= bytes_init` readable bytes are those of `buf`, which the value owns
// and which stay in place by `IoBuf`'s contract.
unsafe impl<V: Via, B: IoBuf, G: Unpin + 'static> Operation for Outgoing<V, B, G> {
    type Output = (io::Result<u32>, B);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.to
    }

    fn call(&mut self) -> Call {
        V::outgoing(self.buf.stable_ptr(), clamp_len(self.buf.bytes_init()))
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        (result, self.buf)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}
