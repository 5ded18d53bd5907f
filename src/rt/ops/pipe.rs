//! Operations on pipes, and on what else is read or written as a stream.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::{Call, Op, Operation, clamp_len, received};
use crate::mem::{IoBuf, IoBufMut};

/// Reads from where a stream is into `buf`; waits until there is something to read. On a core without io_uring the descriptor becomes
/// non-blocking. What was read after the future was dropped goes to `orphan` with the buffer.
pub(crate) fn read_stream<B, F>(stream: &Rc<OwnedFd>, buf: B, orphan: F) -> Op<ReadStream<B, F>>
where
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, B) + Unpin + 'static,
{
    Op::new(ReadStream { stream: Rc::clone(stream), buf, orphan })
}

pub(crate) struct ReadStream<B, F> {
    stream: Rc<OwnedFd>,
    buf: B,
    orphan: F,
}

// SAFETY: the call's `len <= bytes_total` writable bytes are those of `buf`, which the value owns and which stay in place by
// `IoBufMut`'s contract.
unsafe impl<B, F> Operation for ReadStream<B, F>
where
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, B) + Unpin + 'static,
{
    type Output = (io::Result<u32>, B);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.stream
    }

    fn call(&mut self) -> Call {
        Call::Read { len: clamp_len(self.buf.bytes_total()), buf: self.buf.stable_mut_ptr() }
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

/// Waits until there is something to read, or an error to be told. Takes nothing, so nothing is lost when the future is dropped.
pub(crate) fn readable(stream: &Rc<OwnedFd>) -> Op<Readable> {
    Op::new(Readable { stream: Rc::clone(stream) })
}

pub(crate) struct Readable {
    stream: Rc<OwnedFd>,
}

// SAFETY: the call has no pointers.
unsafe impl Operation for Readable {
    type Output = io::Result<()>;

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.stream
    }

    fn call(&mut self) -> Call {
        Call::PollReadable
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        result.map(drop)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// Writes from `buf` to where a stream is, possibly only a part; waits until there is room. On a core without io_uring the descriptor
/// becomes non-blocking. `guard` is dropped when the kernel is done, also if nobody waits for it any more.
pub(crate) fn write_stream<B, G>(stream: &Rc<OwnedFd>, buf: B, guard: G) -> Op<WriteStream<B, G>>
where
    B: IoBuf,
    G: Unpin + 'static,
{
    Op::new(WriteStream { stream: Rc::clone(stream), buf, _guard: guard })
}

pub(crate) struct WriteStream<B, G> {
    stream: Rc<OwnedFd>,
    buf: B,
    _guard: G,
}

// SAFETY: the call's `len <= bytes_init` readable bytes are those of `buf`, which the value owns and which stay in place by
// `IoBuf`'s contract.
unsafe impl<B: IoBuf, G: Unpin + 'static> Operation for WriteStream<B, G> {
    type Output = (io::Result<u32>, B);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.stream
    }

    fn call(&mut self) -> Call {
        Call::Write { buf: self.buf.stable_ptr(), len: clamp_len(self.buf.bytes_init()) }
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        (result, self.buf)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}
