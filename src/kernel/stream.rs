//! Connected stream sockets.

mod flow;
mod vectored;

use std::cell::{Cell, OnceCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, sockopt};

use flow::{Flow, InFlight};

use super::dropped::PendingGuard;
use super::transfer::{Step, Transferred, at_once, from_io, written, written_at_once};
use crate::error::{Error, Result};
use crate::mem::{IoBuf, IoBufMut};
use crate::reactor::{self, Arrival, CHUNK_BYTES, Chunk, Feed, FixedFile, RingFeature, ops};
use crate::sync::local::Notified;

/// Writes of less are copied: below about this size locking the memory costs more than copying it
/// (Linux, `Documentation/networking/msg_zerocopy.rst`, says 10 KB).
const MIN_ZERO_COPY_BYTES: usize = 16 << 10;

/// After this many reads in a row that filled their buffers the connection is a stream, and one
/// request receives for all reads that follow. Until then each read is a request of its own, which
/// receives into the reader's buffer: a request/response connection gains nothing from reading
/// ahead, and pays a copy for it.
const READ_AHEAD_AFTER: u8 = 4;

/// After this many reads that went to the kernel, the connection gets a fixed-file slot, if the
/// ring has any: that takes two system calls in its life.
const REGISTER_AFTER: u8 = 32;

/// A connected socket, of any family.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Rc<OwnedFd>,
    flow: Rc<Flow>,
    /// One request that receives for as long as the stream is read in small pieces, if the core's
    /// ring has such. While it is with the kernel nothing else receives, so that the bytes stay in
    /// order; so it waits for those that do.
    feed: OnceCell<Option<Rc<Feed<Chunk>>>>,
    /// Much arrives at once, and reads bring large buffers: they are received into directly.
    bulk: Cell<bool>,
    /// How many reads in a row filled their buffers, up to [`READ_AHEAD_AFTER`].
    filled: Cell<u8>,
    /// How many reads asked the kernel, up to [`REGISTER_AFTER`].
    reads: Cell<u8>,
    /// How many reads wait for requests of their own.
    receiving: Cell<u32>,
    /// The kernel copies what it is asked to send without copying: the device cannot do otherwise.
    copies: Cell<bool>,
}

impl Stream {
    /// A socket that is connected.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self::with(Rc::new(socket))
    }

    fn with(socket: Rc<OwnedFd>) -> Self {
        Self {
            socket,
            flow: Rc::default(),
            feed: OnceCell::new(),
            bulk: Cell::new(false),
            filled: Cell::new(0),
            reads: Cell::new(0),
            receiving: Cell::new(0),
            copies: Cell::new(false),
        }
    }

    /// Connects `socket` to `address`.
    pub(crate) async fn connect(socket: OwnedFd, address: &SocketAddr) -> io::Result<Self> {
        let socket = Rc::new(socket);
        ops::connect(&socket, address).await?;
        Ok(Self::with(socket))
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    // Not an `async fn`: see `Step`.
    pub(crate) fn read<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Transferred<usize, B>> + Unpin + use<'_, B> {
        let mut kept = Some(buf);
        let mut awaits = Awaits::Nothing;
        poll_fn(move |cx| {
            loop {
                if let Awaits::Nothing = awaits {
                    let mut buf = kept.take().expect("a transfer is not polled again after its result");
                    let room = buf.bytes_total();
                    if let Some(result) = self.take(room, |taken, bytes| buf.fill_from_at(taken, bytes)) {
                        return Poll::Ready((result, buf));
                    }
                    if self.flow.dropped.are_pending() {
                        kept = Some(buf);
                        awaits = Awaits::Dropped(Box::pin(self.flow.dropped.next_settled()));
                    } else if let Some(feed) = self.feed_to_await() {
                        kept = Some(buf);
                        awaits = Awaits::Arrival(feed.arrival());
                    } else {
                        let flow = Rc::clone(&self.flow);
                        let keep = move |result: io::Result<u32>, buf: B| flow.keep(result, [buf.as_slice()]);
                        awaits = Awaits::Receive(Receiving(None), ops::recv(&self.socket, buf, keep));
                    }
                }
                match &mut awaits {
                    Awaits::Nothing => {}
                    Awaits::Dropped(settled) => ready!(settled.as_mut().poll(cx)),
                    Awaits::Arrival(arrival) => ready!(Pin::new(arrival).poll(cx)),
                    Awaits::Receive(guard, operation) => {
                        let polled = Pin::new(operation).poll(cx);
                        guard.set(polled.is_pending().then_some(self));
                        let (result, buf) = ready!(polled);
                        awaits = Awaits::Nothing;
                        return Poll::Ready((self.received(result, buf.bytes_total()), buf));
                    }
                }
                awaits = Awaits::Nothing;
            }
        })
    }

    /// What a read with this much `room` gets without asking the kernel. `fill` copies bytes to an
    /// offset, and says how many.
    fn take(&self, room: usize, mut fill: impl FnMut(usize, &[u8]) -> usize) -> Option<Result<usize>> {
        if room == 0 {
            // The kernel's answer, 0, would look like the end of the stream if the read were
            // dropped.
            return Some(Ok(0));
        }
        if self.flow.dropped.are_pending() {
            return None;
        }
        if let Some(result) = self.flow.take(|bytes| fill(0, bytes)) {
            return Some(result);
        }
        let feed = self.feed.get()?.as_ref()?;
        let result = take_from(feed, fill)?;
        if matches!(result, Ok(len) if is_bulk(len, room)) {
            self.bulk.set(true);
            feed.stop();
        }
        Some(result)
    }

    /// The feed, if the next bytes come there: not if the kernel had no buffer for it, nor if they
    /// are better received where they are wanted or are received for another read.
    fn feed_to_await(&self) -> Option<&Rc<Feed<Chunk>>> {
        if self.filled.get() < READ_AHEAD_AFTER && !self.flow.dropped_reads.get() {
            return None;
        }
        let feed = self.feed.get_or_init(|| Feed::new(&self.socket)).as_ref()?;
        let may_start = || self.receiving.get() == 0 && !(feed.take_starved() || self.bulk.get());
        (feed.is_armed() || may_start()).then_some(feed)
    }

    /// What a read with so much `room` gives that asked the kernel itself.
    fn received(&self, result: io::Result<u32>, room: usize) -> Result<usize> {
        if let Ok(len) = result {
            self.count_read();
            let len = len as usize;
            self.bulk.set(is_bulk(len, room));
            let filled = self.filled.get();
            if filled < READ_AHEAD_AFTER {
                let fills = len == room && !self.bulk.get();
                self.filled.set(if fills { filled + 1 } else { 0 });
            }
        }
        result.map(|len| len as usize).map_err(|error| from_io(&error, "read"))
    }

    /// A connection that lasts is better looked up once than for each of its operations.
    fn count_read(&self) {
        let reads = self.reads.get();
        if reads < REGISTER_AFTER {
            self.reads.set(reads + 1);
            if reads + 1 == REGISTER_AFTER {
                *self.flow.slot.borrow_mut() = FixedFile::register_socket(&self.socket);
            }
        }
    }

    // Not an `async fn`: see `Step`.
    pub(crate) fn write<B: IoBuf>(
        &self,
        buf: B,
    ) -> impl Future<Output = Transferred<usize, B>> + Unpin + use<'_, B> {
        let mut step = Step::Begins(buf);
        poll_fn(move |cx| {
            let begin = |buf: B| {
                let tried =
                    if reactor::may_call_directly() { self.try_write(buf.as_slice()) } else { Ok(None) };
                match tried {
                    Ok(None) => Ok(ops::send(&self.socket, buf, InFlight::new(&self.flow))),
                    Ok(Some(len)) => Err((Ok(len), buf)),
                    Err(error) => Err((Err(error), buf)),
                }
            };
            step.poll_with(cx, begin, |(result, buf)| (written(result), buf))
        })
    }

    /// Writes from where the bytes are, if the ring can and the kernel did so far.
    pub(crate) async fn write_zero_copy<B: IoBuf>(&self, buf: B) -> Transferred<usize, B> {
        let in_vain = self.copies.get() || buf.bytes_init() < MIN_ZERO_COPY_BYTES;
        if in_vain || !reactor::ring_has(RingFeature::SendZeroCopy) {
            return self.write(buf).await;
        }
        match ops::send_zero_copy(&self.socket, buf, InFlight::new(&self.flow)).await {
            (Ok((len, copied)), buf) => {
                self.copies.set(copied);
                (Ok(len as usize), buf)
            }
            // The socket's family has none, or there is no memory that may be locked.
            (Err(error), buf) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOMEM)) => {
                self.copies.set(true);
                self.write(buf).await
            }
            (Err(error), buf) => (written(Err(error)), buf),
        }
    }

    /// Reads what is there without waiting.
    pub(crate) fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>> {
        if self.flow.dropped.are_pending() || self.receiving.get() > 0 {
            // It would overtake what these were given already.
            return Ok(None);
        }
        let stashed = self.flow.take(|bytes| {
            let len = bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
            len
        });
        if let Some(result) = stashed {
            return result.map(Some);
        }
        if let Some(Some(feed)) = self.feed.get() {
            if let Some(len) = feed.take_bytes(|taken, bytes| {
                let len = bytes.len().min(buf.len() - taken);
                buf[taken..taken + len].copy_from_slice(&bytes[..len]);
                len
            }) {
                return Ok(Some(len));
            }
            match feed.end() {
                Some(0) => return Ok(Some(0)),
                Some(code) => return Err(Error::os(code, "read")),
                // What comes next comes there.
                None if feed.is_armed() => return Ok(None),
                None => {}
            }
        }
        let received = rustix::net::recv(&self.socket, buf, RecvFlags::DONTWAIT);
        at_once(received.map(|(len, _)| len), "read")
    }

    /// Writes what there is room for without waiting.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>> {
        if self.flow.sending.get() > 0 {
            // It would overtake them.
            return Ok(None);
        }
        written_at_once(rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        rustix::net::shutdown(&self.socket, how).map_err(|errno| Error::os(errno.raw_os_error(), "shut down"))
    }

    /// Makes the close that follows a reset: what was not sent yet is thrown away.
    pub(crate) fn abort(&self) {
        // If it fails the close is a graceful one, which also ends the connection.
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        // The reset need not wait for operations that hold the socket open, of which one may wait
        // for this peer.
        let _ = rustix::net::connect_unspec(&self.socket);
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Read);
    }
}

/// What a read waits for.
enum Awaits<'a, O> {
    Nothing,
    /// The outcome of a read that was dropped. Boxed: it hardly ever happens, and would be the
    /// largest.
    Dropped(Pin<Box<Notified<'a>>>),
    Arrival(Arrival<'a, Chunk>),
    /// An operation of the read's own. The guard is dropped before it: what keeps the bytes may run
    /// while it is dropped.
    Receive(Receiving<'a>, O),
}

/// Counts a read among the stream's that wait for a request of their own, and when it is dropped
/// then, among those whose outcome is not known.
struct Receiving<'a>(Option<&'a Stream>);

impl<'a> Receiving<'a> {
    fn set(&mut self, stream: Option<&'a Stream>) {
        match (self.0, stream) {
            (None, Some(stream)) => stream.receiving.set(stream.receiving.get() + 1),
            (Some(stream), None) => stream.receiving.set(stream.receiving.get() - 1),
            _ => {}
        }
        self.0 = stream;
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        let _pending = PendingGuard(self.0.map(|stream| &stream.flow.dropped));
        self.set(None);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Its request holds the socket open.
        if let Some(Some(feed)) = self.feed.get() {
            feed.stop();
        }
        drop(self.flow.slot.take());
    }
}

/// Whether a read that got `len` bytes, with so much `room`, would have done better without the
/// core's small buffers.
fn is_bulk(len: usize, room: usize) -> bool {
    len >= CHUNK_BYTES && room >= 2 * CHUNK_BYTES
}

/// What a read gets without asking the kernel.
fn take_from(feed: &Feed<Chunk>, fill: impl FnMut(usize, &[u8]) -> usize) -> Option<Result<usize>> {
    match (feed.take_bytes(fill), feed.end()) {
        (Some(len), _) => Some(Ok(len)),
        (None, Some(0)) => Some(Ok(0)),
        (None, Some(code)) => Some(Err(Error::os(code, "read"))),
        (None, None) => None,
    }
}
