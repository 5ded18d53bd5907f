//! Connections, as their users see them.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::{Shutdown, SocketAddr};
use std::task::{Context, Poll, ready};

use super::Stack;
use super::connections::ConnectionId;
use super::engine::Direction;
use super::flow::Flow;
use crate::error::{BufResult, Result};
use crate::mem::{IoBuf, IoBufMut, vectored};
use crate::net::transfer::{Given, Transferred};

/// The panic of a transfer that is polled after it was done.
const GAVE_ITS_RESULT: &str = "a transfer is not polled again after its result";

/// A TCP connection of a [`Stack`].
///
/// One task may read while another writes. Reading and writing wait for readiness and then copy, so
/// a dropped future neither loses received bytes nor leaves a write half done.
///
/// Dropping it closes gracefully: what was written is still delivered, then FIN, for at most
/// [`StackConfig::linger`](super::StackConfig::linger). What the peer sends meanwhile is thrown
/// away, and answered with RST once everything written has arrived.
///
/// Errors: `ECONNRESET` ([`Closed`](crate::ErrorKind::Closed)) once the peer reset the connection
/// and everything received before that was read, `ETIMEDOUT`
/// ([`TimedOut`](crate::ErrorKind::TimedOut)) if it fell silent, `ECONNABORTED` after
/// [`StackStream::abort`], `ENETDOWN` if the device failed.
pub struct StackStream {
    stack: Stack,
    id: ConnectionId,
    /// Boxed, because few callers ask for it and each move of the stream would copy it.
    flow: Box<Flow>,
}

impl StackStream {
    pub(super) fn new(stack: Stack, id: ConnectionId, flow: Flow) -> Self {
        Self { stack, id, flow: Box::new(flow) }
    }

    /// Opens a connection to `peer`. Dropping the future cancels that.
    ///
    /// # Errors
    ///
    /// `ECONNREFUSED` if nobody listens there, [`TimedOut`](crate::ErrorKind::TimedOut) without an
    /// answer, `EHOSTUNREACH` if the next hop does not answer ARP or neighbor discovery,
    /// `ENETUNREACH` without a route, [`LimitReached`](crate::ErrorKind::LimitReached) if the stack
    /// has as many connections as it may.
    pub async fn connect(stack: &Stack, peer: SocketAddr) -> Result<Self> {
        let (id, flow) = stack.with(|engine| engine.connect(peer))?;
        let stream = Self::new(stack.clone(), id, flow);
        poll_fn(|context| stack.with(|engine| engine.poll_connected(id, context))).await?;
        Ok(stream)
    }

    /// Reads at least one byte to the front of `buf`, at most as many as it has room for, and
    /// returns how many; 0 at the end of the stream, or if `buf` has no room.
    pub fn read<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = BufResult<usize, B>> + Unpin + use<'_, B> {
        Given(self.transfer_read(buf))
    }

    pub(in crate::net) fn transfer_read<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Transferred<usize, B>> + Unpin + use<'_, B> {
        let mut kept = Some(buf);
        poll_fn(move |context| {
            let buf = kept.as_mut().expect(GAVE_ITS_RESULT);
            let result = loop {
                if buf.bytes_total() == 0 {
                    break Ok(0);
                }
                match self.stack.with(|engine| engine.read(self.id, |bytes| buf.fill_from(bytes))) {
                    Ok(Some(read)) => break Ok(read),
                    Ok(None) => ready!(self.poll_read_ready(context)),
                    Err(error) => break Err(error),
                }
            };
            Poll::Ready((result, kept.take().expect(GAVE_ITS_RESULT)))
        })
    }

    /// Queues the bytes of `buf`, or as many from its front as there is room for but at least one,
    /// and returns how many.
    ///
    /// # Errors
    ///
    /// Besides those of the type: `EPIPE` after a shutdown of the writing half.
    pub fn write<B: IoBuf>(&self, buf: B) -> impl Future<Output = BufResult<usize, B>> + Unpin + use<'_, B> {
        Given(self.transfer_write(buf))
    }

    pub(in crate::net) fn transfer_write<B: IoBuf>(
        &self,
        buf: B,
    ) -> impl Future<Output = Transferred<usize, B>> + Unpin + use<'_, B> {
        let mut kept = Some(buf);
        poll_fn(move |context| {
            let buf = kept.as_ref().expect(GAVE_ITS_RESULT);
            let result = loop {
                match self.try_write(buf.as_slice()) {
                    Ok(Some(written)) => break Ok(written),
                    Ok(None) => ready!(self.poll_write_ready(context)),
                    Err(error) => break Err(error),
                }
            };
            Poll::Ready((result, kept.take().expect(GAVE_ITS_RESULT)))
        })
    }

    /// Reads at least one byte into `bufs`, each of which is filled before the next one.
    pub(in crate::net) async fn transfer_read_vectored<B: IoBufMut>(
        &self,
        mut bufs: Vec<B>,
    ) -> Transferred<usize, Vec<B>> {
        if vectored::room(&bufs) == 0 {
            return (Ok(0), bufs);
        }
        let mut read_behind = |at| {
            self.stack
                .with(|engine| engine.read(self.id, |bytes| vectored::fill_from_at(&mut bufs, at, bytes)))
        };
        let result = loop {
            match read_behind(0) {
                // The receive buffer is a ring: the rest may be at its start.
                Ok(Some(first @ 1..)) => break Ok(first + read_behind(first).ok().flatten().unwrap_or(0)),
                Ok(Some(0)) => break Ok(0),
                Ok(None) => poll_fn(|context| self.poll_read_ready(context)).await,
                Err(error) => break Err(error),
            }
        };
        (result, bufs)
    }

    /// Queues at least one byte of `bufs` behind the first `skip`, and returns how many.
    pub(in crate::net) async fn transfer_write_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        skip: usize,
    ) -> Transferred<usize, Vec<B>> {
        loop {
            match self.try_write_vectored(&bufs, skip) {
                Ok(Some(written)) => return (Ok(written), bufs),
                Ok(None) => poll_fn(|context| self.poll_write_ready(context)).await,
                Err(error) => return (Err(error), bufs),
            }
        }
    }

    fn try_write_vectored<B: IoBuf>(&self, bufs: &[B], skip: usize) -> Result<Option<usize>> {
        let mut done = 0;
        for part in vectored::parts_after(bufs, skip) {
            match self.try_write(part) {
                Ok(None) if done == 0 => return Ok(None),
                Err(error) if done == 0 => return Err(error),
                Ok(Some(written)) if written == part.len() => done += written,
                Ok(written) => return Ok(Some(done + written.unwrap_or(0))),
                // The next write gets it.
                Err(_) => break,
            }
        }
        Ok(Some(done))
    }

    /// Reads into `buf` what has arrived; `None` if nothing has, `Some(0)` at the end of the
    /// stream.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>> {
        if buf.is_empty() {
            return Ok(Some(0));
        }
        let copy = |buf: &mut [u8]| {
            self.stack.with(|engine| {
                engine.read(self.id, |bytes| {
                    let len = bytes.len().min(buf.len());
                    buf[..len].copy_from_slice(&bytes[..len]);
                    len
                })
            })
        };
        match copy(buf)? {
            // The receive buffer is a ring: the rest may be at its start.
            Some(first @ 1..) if first < buf.len() => {
                let second = copy(&mut buf[first..]).ok().flatten().unwrap_or(0);
                Ok(Some(first + second))
            }
            result => Ok(result),
        }
    }

    /// Queues as many bytes of `bytes` as there is room for; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As for [`StackStream::write`].
    pub fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>> {
        self.stack.with(|engine| engine.write(self.id, bytes))
    }

    /// Ready when a read would not wait: there are bytes, the end of the stream, or an error.
    pub fn poll_read_ready(&self, context: &Context<'_>) -> Poll<()> {
        self.stack.with(|engine| engine.poll_ready(self.id, Direction::Read, context))
    }

    /// Ready when a write would not wait: there is room, or an error.
    pub fn poll_write_ready(&self, context: &Context<'_>) -> Poll<()> {
        self.stack.with(|engine| engine.poll_ready(self.id, Direction::Write, context))
    }

    /// Ends one direction or both. After `Write` the peer reads what was written and then the end
    /// of the stream. After `Read` what arrives is thrown away and reads return 0.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.stack.with(|engine| engine.shutdown(self.id, how))
    }

    /// Whether small writes go out at once (true, the default) or are gathered while earlier ones
    /// are under way (false: Nagle's algorithm, RFC 896).
    ///
    /// # Errors
    ///
    /// `ECONNABORTED` if the connection is gone.
    pub fn set_nodelay(&self, nodelay: bool) -> Result<()> {
        self.stack.with(|engine| engine.set_nodelay(self.id, nodelay))
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.flow.remote
    }

    /// This end's address.
    pub fn local_addr(&self) -> SocketAddr {
        self.flow.local
    }

    /// Resets the connection: the peer gets RST, what was not delivered is lost, reads and writes
    /// fail from now on.
    pub fn abort(&self) {
        self.stack.with(|engine| engine.abort(self.id));
    }
}

impl Drop for StackStream {
    fn drop(&mut self) {
        self.stack.with(|engine| engine.release(self.id));
    }
}

impl fmt::Debug for StackStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackStream")
            .field("local", &self.flow.local)
            .field("peer", &self.flow.remote)
            .finish_non_exhaustive()
    }
}
