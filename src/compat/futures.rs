//! The traits of `futures-io`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};

use super::poll_io::{BufferSizes, PollIo};
use super::socket::Socket;
use crate::error::Result;

/// A socket with [`futures_io::AsyncRead`], [`futures_io::AsyncBufRead`] and [`futures_io::AsyncWrite`], which the `futures` crate's
/// extension traits build on. `close` is a shutdown of the writing half.
///
/// See [the module](super) for what it promises.
#[derive(Debug)]
pub struct FuturesIo<S>(PollIo<S>);

impl<S: Socket> FuturesIo<S> {
    /// With the default buffers.
    pub fn new(socket: S) -> Self {
        Self::with_buffers(socket, BufferSizes::default())
    }

    /// With buffers of the given sizes.
    ///
    /// # Panics
    ///
    /// If a size is 0.
    pub fn with_buffers(socket: S, sizes: BufferSizes) -> Self {
        Self(PollIo::new(socket, sizes))
    }

    /// The socket, for its addresses and options. Reading from it or writing to it takes bytes out of their order.
    pub fn get_ref(&self) -> &S {
        self.0.socket()
    }

    /// The socket again, when everything that was written has been given to it, and the bytes that were received and not read yet:
    /// what a protocol that takes over the connection (`Upgrade` in HTTP) begins with.
    ///
    /// A read that was begun and given up is cancelled. The socket keeps what that would have brought; only one that belongs to
    /// another core ([`RemoteStream`](crate::net::RemoteStream)) may lose it.
    ///
    /// # Errors
    ///
    /// As for a flush; the connection is closed then. So it is when the future is dropped before it completes.
    ///
    /// # Panics
    ///
    /// When polled outside a core.
    pub async fn into_inner(self) -> Result<(S, Vec<u8>)> {
        self.0.into_inner().await
    }
}

impl<S: Socket> AsyncRead for FuturesIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buf).map_err(io::Error::from)
    }
}

impl<S: Socket> AsyncBufRead for FuturesIo<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().0.poll_fill(cx).map_err(io::Error::from)
    }

    fn consume(mut self: Pin<&mut Self>, len: usize) {
        self.0.consume(len);
    }
}

impl<S: Socket> AsyncWrite for FuturesIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes).map_err(io::Error::from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_vectored(cx, pieces).map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx).map_err(io::Error::from)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx).map_err(io::Error::from)
    }
}
