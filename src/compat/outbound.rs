//! The writing half of an adapter: straight to the socket while it has room, through a bounded
//! buffer and a task when not.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::socket::Socket;
use crate::error::{Error, ErrorKind, Result};
use crate::rt;
use crate::sync::local::WakerSlot;

/// How long what was written before an adapter was dropped is still being delivered. After that the
/// connection closes without it.
pub const LINGER: Duration = Duration::from_secs(60);

/// The writing half. Its buffer may outlive the adapter, in the task that writes it out.
pub(super) struct Outbound<S> {
    socket: Rc<S>,
    shared: Rc<OutboundShared>,
    /// The most bytes that wait in the buffer; as many again may be on their way to the socket.
    capacity: usize,
    has_writer: bool,
    is_shut_down: bool,
}

/// What the adapter and its writing task both see.
#[derive(Default)]
struct OutboundShared {
    /// Bytes that no write took yet. Empty while nothing waits.
    waiting: RefCell<Vec<u8>>,
    /// Whether the task has bytes on their way to the socket.
    is_writing: Cell<bool>,
    /// What the task's last write failed with, until somebody hears of it.
    error: Cell<Option<Error>>,
    has_failed: Cell<bool>,
    /// The adapter was dropped.
    is_closed: Cell<bool>,
    /// The task that waits for bytes.
    writer: WakerSlot,
    /// The task that waits for room or for an empty buffer.
    caller: WakerSlot,
}

impl OutboundShared {
    fn is_idle(&self) -> bool {
        !self.is_writing.get() && self.waiting.borrow().is_empty()
    }

    /// What a write, flush or shutdown says after the task failed: the task's error once, then that
    /// the connection is gone.
    fn check(&self) -> Result<()> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.has_failed.get() => Err(broken_pipe()),
            None => Ok(()),
        }
    }
}

fn broken_pipe() -> Error {
    Error::os(libc::EPIPE, "write")
}

impl<S: Socket> Outbound<S> {
    pub(super) fn new(socket: Rc<S>, capacity: usize) -> Self {
        Self { socket, shared: Rc::default(), capacity, has_writer: false, is_shut_down: false }
    }

    pub(super) fn poll_write(&mut self, cx: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.check_open()?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.shared.is_idle()
            && let Some(written) = self.socket.try_write(bytes)?
        {
            return Poll::Ready(Ok(written));
        }
        let room = self.capacity - self.shared.waiting.borrow().len();
        if room == 0 {
            self.shared.caller.register(cx);
            return Poll::Pending;
        }
        let len = room.min(bytes.len());
        self.shared.waiting.borrow_mut().extend_from_slice(&bytes[..len]);
        self.start_writing();
        Poll::Ready(Ok(len))
    }

    /// Small pieces are gathered, so that they leave in one segment. What does not fit into the
    /// buffer is left to the next call.
    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let first = pieces.iter().position(|piece| !piece.is_empty()).unwrap_or(pieces.len());
        let pieces = &pieces[first..];
        match pieces {
            [] => return self.poll_write(cx, &[]),
            [only] => return self.poll_write(cx, only),
            // The socket takes this much at a time anyway.
            [large, ..] if large.len() >= self.capacity => return self.poll_write(cx, large),
            _ => {}
        }
        self.check_open()?;
        let is_idle = self.shared.is_idle();
        // Taken out, so that nothing is borrowed while the socket works on it.
        let mut waiting = self.shared.waiting.take();
        let before = waiting.len();
        for piece in pieces {
            let room = self.capacity - waiting.len();
            waiting.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let taken = waiting.len() - before;
        let written = if is_idle { self.socket.try_write(&waiting) } else { Ok(None) };
        match &written {
            Ok(written) => drop(waiting.drain(..written.unwrap_or(0))),
            Err(_) => waiting.clear(),
        }
        let is_empty = waiting.is_empty();
        self.shared.waiting.replace(waiting);
        written?;
        if taken == 0 {
            self.shared.caller.register(cx);
            return Poll::Pending;
        }
        if !is_empty {
            self.start_writing();
        }
        Poll::Ready(Ok(taken))
    }

    pub(super) fn poll_flush(&self, cx: &Context<'_>) -> Poll<Result<()>> {
        self.shared.check()?;
        if self.shared.is_idle() {
            return Poll::Ready(Ok(()));
        }
        self.shared.caller.register(cx);
        Poll::Pending
    }

    pub(super) fn poll_shutdown(&mut self, cx: &Context<'_>) -> Poll<Result<()>> {
        if self.is_shut_down {
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(self.poll_flush(cx))?;
        self.is_shut_down = true;
        Poll::Ready(match self.socket.shutdown(Shutdown::Write) {
            // The peer was faster: the stream has ended, as was asked for.
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            result => result,
        })
    }

    fn check_open(&self) -> Result<()> {
        if self.is_shut_down {
            return Err(broken_pipe());
        }
        self.shared.check()
    }

    /// Has the task write out what waits. It is started when it is first needed and then kept: most
    /// connections never need it.
    fn start_writing(&mut self) {
        if self.has_writer {
            self.shared.writer.wake();
        } else {
            self.has_writer = true;
            drop(
                rt::named("compat writer").spawn(write_out(Rc::clone(&self.socket), Rc::clone(&self.shared))),
            );
        }
    }
}

impl<S> Drop for Outbound<S> {
    fn drop(&mut self) {
        self.shared.is_closed.set(true);
        self.shared.writer.wake();
    }
}

/// Writes whatever waits until the adapter is dropped, and then what is left, for at most
/// [`LINGER`].
async fn write_out<S: Socket>(socket: Rc<S>, shared: Rc<OutboundShared>) {
    let mut drain = pin!(drain(&*socket, &shared));
    let mut linger = None;
    poll_fn(|cx| {
        shared.writer.register(cx);
        if drain.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !shared.is_closed.get() {
            return Poll::Pending;
        }
        let linger = linger.get_or_insert_with(|| Box::pin(rt::sleep(LINGER)));
        linger.as_mut().poll(cx)
    })
    .await;
}

async fn drain<S: Socket>(socket: &S, shared: &OutboundShared) {
    let mut buf = Vec::new();
    loop {
        // `write_out` keeps the waker of every poll where new bytes and the end of the adapter find
        // it.
        let has_bytes = poll_fn(|_| {
            let has_bytes = !shared.waiting.borrow().is_empty();
            if has_bytes || shared.is_closed.get() { Poll::Ready(has_bytes) } else { Poll::Pending }
        })
        .await;
        if !has_bytes {
            return;
        }
        buf.clear();
        std::mem::swap(&mut *shared.waiting.borrow_mut(), &mut buf);
        shared.is_writing.set(true);
        // There is room to gather again.
        shared.caller.wake();
        let (result, back) = match socket.write_all(buf).await {
            Ok(back) => (Ok(()), back),
            Err(error) => {
                let (error, back) = error.into_parts();
                (Err(error), back)
            }
        };
        buf = back;
        shared.is_writing.set(false);
        if let Err(error) = result {
            shared.waiting.borrow_mut().clear();
            shared.has_failed.set(true);
            drop(shared.error.replace(Some(error)));
            shared.caller.wake();
            return;
        }
        shared.caller.wake();
    }
}
