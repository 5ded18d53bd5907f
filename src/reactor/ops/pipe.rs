//! Operations on pipes, and on what else is read or written as a stream.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::transfer::{self, Incoming, Outgoing, Stream};
use super::{Call, Op, Operation};
use crate::mem::{IoBuf, IoBufMut};

/// Reads from where a stream is into `buf`; waits until there is something to read. On a core
/// without io_uring the descriptor becomes non-blocking. What was read after the future was dropped
/// goes to `orphan` with the buffer.
pub(crate) fn read_stream<B, F>(stream: &Rc<OwnedFd>, buf: B, orphan: F) -> Op<Incoming<Stream, B, F>>
where
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, B) + Unpin + 'static,
{
    transfer::incoming(stream, buf, orphan)
}

/// Writes from `buf` to where a stream is, possibly only a part; waits until there is room. On a
/// core without io_uring the descriptor becomes non-blocking. `guard` is dropped when the kernel is
/// done, also if nobody waits for it any more.
pub(crate) fn write_stream<B, G>(stream: &Rc<OwnedFd>, buf: B, guard: G) -> Op<Outgoing<Stream, B, G>>
where
    B: IoBuf,
    G: Unpin + 'static,
{
    transfer::outgoing(stream, buf, guard)
}

/// Waits until there is something to read, or an error to be told. Takes nothing, so nothing is
/// lost when the future is dropped. The list of tasks says that it waits for `awaited`.
pub(crate) fn readable(stream: &Rc<OwnedFd>, awaited: &'static str) -> Op<Readable> {
    Op::new(Readable { stream: Rc::clone(stream), awaited })
}

pub(crate) struct Readable {
    stream: Rc<OwnedFd>,
    awaited: &'static str,
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

    fn waits_for(&self, _call: Call) -> &'static str {
        self.awaited
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        result.map(drop)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}
