//! What an adapter asks of a socket.

use std::future::Future;
use std::net::Shutdown;

use crate::error::{BufError, BufResult, Result};
use crate::net::{TcpStream, UnixStream};

/// A connected stream that an adapter can stand on.
///
/// One read and one write may be in flight at a time, and `try_write` is not called while a write
/// is.
pub trait Socket: 'static {
    /// Reads at least one byte to the front of `buf` and returns how many; 0 at the end of the
    /// stream.
    fn read(&self, buf: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>>;

    /// Writes all of `buf`.
    fn write_all(
        &self,
        buf: Vec<u8>,
    ) -> impl Future<Output = std::result::Result<Vec<u8>, BufError<Vec<u8>>>>;

    /// Reads what is there now; `None` if nothing is or it cannot be known without waiting.
    ///
    /// # Errors
    ///
    /// The socket's.
    fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>>;

    /// Writes what there is room for now; `None` if there is none or it cannot be known without
    /// waiting.
    ///
    /// # Errors
    ///
    /// The socket's.
    fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>>;

    /// Ends one direction or both.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the connection is gone.
    fn shutdown(&self, how: Shutdown) -> Result<()>;
}

impl Socket for TcpStream {
    fn read(&self, buf: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>> {
        self.read(buf)
    }

    fn write_all(
        &self,
        buf: Vec<u8>,
    ) -> impl Future<Output = std::result::Result<Vec<u8>, BufError<Vec<u8>>>> {
        self.write_all(buf)
    }

    fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>> {
        self.try_read(buf)
    }

    fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>> {
        self.try_write(bytes)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.shutdown(how)
    }
}

impl Socket for UnixStream {
    fn read(&self, buf: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>> {
        self.read(buf)
    }

    fn write_all(
        &self,
        buf: Vec<u8>,
    ) -> impl Future<Output = std::result::Result<Vec<u8>, BufError<Vec<u8>>>> {
        self.write_all(buf)
    }

    fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>> {
        self.try_read(buf)
    }

    fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>> {
        self.try_write(bytes)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.shutdown(how)
    }
}
