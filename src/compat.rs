//! Other ecosystems' traits on boson's sockets: `futures-io`, `tokio::io`, hyper.
//!
//! Those traits lend a buffer to a poll and take it back when the poll returns; boson's sockets
//! take a buffer and keep it until the device is done. An adapter stands between them: [`TokioIo`],
//! [`FuturesIo`] and [`HyperIo`] own the buffers that are in flight, so a caller that drops a read
//! or a write loses nothing. [`HyperExecutor`] and [`HyperTimer`] let hyper start tasks and measure
//! time on a core, and [`on_core`] makes a future that stays on its core acceptable to libraries
//! that ask for `Send`.
//!
//! What all three adapters promise:
//!
//! - **Reads.** A read that waits has its bytes received into the adapter's buffer
//!   ([`BufferSizes::read`]), and whichever read is polled next gets them. A long transfer is read
//!   into the caller's buffer directly.
//! - **Writes** are given to the socket at once as far as it has room. What it has no room for goes
//!   to a buffer ([`BufferSizes::write`]) that a task of the core writes out whether or not the
//!   caller polls again; when that is full, writes wait. An error of that task is the result of the
//!   next write, flush or shutdown.
//! - **Flush** completes when the socket has everything. **Shutdown** flushes and then ends the
//!   stream (FIN); reading goes on.
//! - **Dropping** an adapter closes the connection. What was written is still delivered, for at
//!   most [`LINGER`].
//! - **Errors** are [`io::Error`](std::io::Error)s whose kind follows the error's code and whose
//!   [source](std::io::Error::get_ref) is the [`boson::Error`](crate::Error).
//! - **Splitting** by `tokio::io::split` or `futures::AsyncReadExt::split` works: reading and
//!   writing wait apart from each other.
//! - Once its buffers have their size, an adapter allocates nothing.
//!
//! An adapter belongs to the core of its socket.

mod outbound;
mod poll_io;
mod socket;

/// What every adapter has besides the traits it is for.
macro_rules! adapter {
    ($adapter:ident) => {
        impl<S: $crate::compat::Socket> $adapter<S> {
            /// With the default buffers.
            pub fn new(socket: S) -> Self {
                Self::with_buffers(socket, $crate::compat::BufferSizes::default())
            }

            /// With buffers of the given sizes.
            ///
            /// # Panics
            ///
            /// If a size is 0.
            pub fn with_buffers(socket: S, sizes: $crate::compat::BufferSizes) -> Self {
                Self($crate::compat::poll_io::PollIo::new(socket, sizes))
            }

            /// The socket, for its addresses and options. Reading from it or writing to it takes
            /// bytes out of their order.
            pub fn get_ref(&self) -> &S {
                self.0.socket()
            }

            /// The socket again, when everything that was written has been given to it, and the
            /// bytes that were received and not read yet: what a protocol that takes over the
            /// connection (`Upgrade` in HTTP) begins with.
            ///
            /// A read that was begun and dropped is cancelled. The socket keeps what that read
            /// would have brought; only a socket of another core
            /// ([`RemoteStream`](crate::net::RemoteStream)) may lose it.
            ///
            /// # Errors
            ///
            /// As for a flush; the connection is closed then. So it is when the future is dropped
            /// before it completes.
            ///
            /// # Panics
            ///
            /// When polled outside a core.
            pub async fn into_inner(self) -> $crate::error::Result<(S, Vec<u8>)> {
                self.0.into_inner().await
            }
        }
    };
}
use adapter;

#[cfg(feature = "futures")]
mod futures;
#[cfg(feature = "hyper")]
mod hyper;
#[cfg(feature = "tokio")]
mod tokio;

#[cfg(feature = "futures")]
pub use futures::FuturesIo;
#[cfg(feature = "hyper")]
pub use hyper::{HyperExecutor, HyperIo, HyperTimer, OnCore, TimerSleep, on_core};
pub use outbound::LINGER;
pub use poll_io::BufferSizes;
pub use socket::Socket;
#[cfg(feature = "tokio")]
pub use tokio::TokioIo;
