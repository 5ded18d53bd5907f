//! A socket as a pair of polled halves: what the adapters for each family of traits stand on.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::outbound::Outbound;
use super::socket::Socket;
use crate::error::{BufResult, Result, without_buf};
use crate::rt;

/// How many bytes an adapter buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSizes {
    /// For receiving, at least 1. A waiting read has this much memory reserved; the kernel's pages
    /// under it are touched as bytes arrive.
    pub read: usize,
    /// For what was written while the socket had no room, at least 1. Twice as much is in memory
    /// while the socket is slow.
    pub write: usize,
}

impl Default for BufferSizes {
    /// 16 KiB for reading, 64 KiB for writing.
    fn default() -> Self {
        Self { read: 16 << 10, write: 64 << 10 }
    }
}

/// A socket with its buffers.
pub(super) struct PollIo<S> {
    socket: Rc<S>,
    inbound: Inbound,
    outbound: Outbound<S>,
}

impl<S: Socket> PollIo<S> {
    /// # Panics
    ///
    /// If a size is 0.
    pub(super) fn new(socket: S, sizes: BufferSizes) -> Self {
        assert!(sizes.read > 0 && sizes.write > 0, "an adapter needs room to read and to write");
        let socket = Rc::new(socket);
        Self {
            inbound: Inbound::new(Rc::clone(&socket), sizes.read),
            outbound: Outbound::new(Rc::clone(&socket), sizes.write),
            socket,
        }
    }

    pub(super) fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket, when everything is written, and what was received and not read yet.
    pub(super) async fn into_inner(self) -> Result<(S, Vec<u8>)> {
        poll_fn(|cx| self.poll_flush(cx)).await?;
        let Self { mut socket, inbound, outbound } = self;
        let received = inbound.into_received();
        // The task that writes has nothing left to do and ends in its next turn.
        drop(outbound);
        loop {
            match Rc::try_unwrap(socket) {
                Ok(socket) => return Ok((socket, received)),
                Err(shared) => socket = shared,
            }
            rt::yield_now().await;
        }
    }

    /// Reads into `buf`; 0 at the end of the stream, or if `buf` has no room.
    #[cfg(any(feature = "futures", feature = "tokio"))]
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.inbound.is_behind() {
            match self.socket.try_read(buf)? {
                Some(0) => self.inbound.has_ended = true,
                Some(read) => {
                    self.inbound.may_have_more = read == buf.len();
                    return Poll::Ready(Ok(read));
                }
                None => self.inbound.may_have_more = false,
            }
        }
        let received = std::task::ready!(self.inbound.poll_fill(cx))?;
        let len = received.len().min(buf.len());
        buf[..len].copy_from_slice(&received[..len]);
        self.inbound.consume(len);
        Poll::Ready(Ok(len))
    }

    /// Has received bytes ready, or none at the end of the stream; [`PollIo::consume`] says how
    /// many were taken.
    #[cfg(any(feature = "futures", feature = "hyper"))]
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<&[u8]>> {
        self.inbound.poll_fill(cx)
    }

    #[cfg(any(feature = "futures", feature = "hyper"))]
    pub(super) fn consume(&mut self, len: usize) {
        self.inbound.consume(len);
    }

    pub(super) fn poll_write(&mut self, cx: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.outbound.poll_write(cx, bytes)
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.outbound.poll_write_vectored(cx, pieces)
    }

    pub(super) fn poll_flush(&self, cx: &Context<'_>) -> Poll<Result<()>> {
        self.outbound.poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&mut self, cx: &Context<'_>) -> Poll<Result<()>> {
        self.outbound.poll_shutdown(cx)
    }
}

impl<S: fmt::Debug> fmt::Debug for PollIo<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

/// The reading half.
///
/// A read in flight must outlive the poll that started it, and a future of its own for each read
/// would have to be boxed each time. So there is one future for all of them: it takes a buffer from
/// `exchange`, reads into it, puts it back with the result, and waits for the next. Only
/// [`Inbound::poll_fill`] polls it, so it needs no waker for that.
struct Inbound {
    reads: Pin<Box<dyn Future<Output = ()>>>,
    exchange: Rc<Exchange>,
    /// Received bytes, those from `taken` on not handed out yet. With the future while a read is in
    /// flight.
    buf: Vec<u8>,
    taken: usize,
    is_reading: bool,
    /// The last read filled its buffer.
    may_have_more: bool,
    has_ended: bool,
}

#[derive(Default)]
struct Exchange {
    empty: Cell<Option<Vec<u8>>>,
    done: Cell<Option<BufResult<usize, Vec<u8>>>>,
}

impl Inbound {
    fn new<S: Socket>(socket: Rc<S>, capacity: usize) -> Self {
        let exchange = Rc::<Exchange>::default();
        let reads = Box::pin(read_repeatedly(socket, Rc::clone(&exchange)));
        Self {
            reads,
            exchange,
            buf: Vec::with_capacity(capacity),
            taken: 0,
            is_reading: false,
            may_have_more: false,
            has_ended: false,
        }
    }

    /// Whether the socket probably has bytes and nothing comes before them.
    #[cfg(any(feature = "futures", feature = "tokio"))]
    fn is_behind(&self) -> bool {
        self.may_have_more && !self.is_reading && !self.has_ended && self.taken == self.buf.len()
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<&[u8]>> {
        if !self.is_reading && self.taken == self.buf.len() && !self.has_ended {
            self.taken = 0;
            self.buf.clear();
            self.exchange.empty.set(Some(std::mem::take(&mut self.buf)));
            self.is_reading = true;
        }
        if self.is_reading {
            // It never ends by itself.
            let _ = self.reads.as_mut().poll(cx);
            let Some((result, buf)) = self.exchange.done.take().map(without_buf) else {
                return Poll::Pending;
            };
            self.is_reading = false;
            self.buf = buf;
            let read = result.inspect_err(|_| self.buf.clear())?;
            self.has_ended = read == 0;
            self.may_have_more = read == self.buf.capacity();
        }
        Poll::Ready(Ok(&self.buf[self.taken..]))
    }

    fn consume(&mut self, len: usize) {
        self.taken += len;
    }

    /// What was received and not taken. A read that waits is given up: the socket keeps what it
    /// gets.
    fn into_received(mut self) -> Vec<u8> {
        self.buf.split_off(self.taken)
    }
}

async fn read_repeatedly<S: Socket>(socket: Rc<S>, exchange: Rc<Exchange>) {
    loop {
        let empty = || exchange.empty.take().map_or(Poll::Pending, Poll::Ready);
        let buf = poll_fn(|_| empty()).await;
        let done = socket.read(buf).await;
        exchange.done.set(Some(done));
    }
}
