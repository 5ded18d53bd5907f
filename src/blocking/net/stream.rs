//! What the streams have in common: reads and writes of borrowed buffers, with timeouts.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::{into_io, wait};
use crate::error::{BufResult, Result};
use crate::mem::{IoBuf, Slice};
use crate::net;
use crate::rt;

/// How many bytes one read or write that has to wait carries at most.
const TRANSFER_BYTES: usize = 64 << 10;
/// Reads and writes in a row that do not let other tasks run.
pub(super) const EAGER: u8 = 16;

/// A stream of [`boson::net`](crate::net).
pub(in crate::blocking) trait Stream {
    fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>>;
    fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>>;
    fn read(&self, buf: Slice<Vec<u8>>) -> impl Future<Output = BufResult<usize, Slice<Vec<u8>>>>;
    fn write(&self, buf: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>>;
}

macro_rules! streams {
    ($($stream:ty)*) => {$(
        impl Stream for $stream {
            fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>> {
                self.try_read(buf)
            }

            fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>> {
                self.try_write(bytes)
            }

            fn read(&self, buf: Slice<Vec<u8>>) -> impl Future<Output = BufResult<usize, Slice<Vec<u8>>>> {
                self.read(buf)
            }

            fn write(&self, buf: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>> {
                self.write(buf)
            }
        }
    )*};
}

streams! { net::TcpStream net::UnixStream }

/// A stream with what its handles share.
#[derive(Debug)]
pub(in crate::blocking) struct SharedStream<S> {
    pub(in crate::blocking) stream: S,
    read_timeout: Cell<Option<Duration>>,
    write_timeout: Cell<Option<Duration>>,
    /// Reads and writes since others were last let run.
    eager: Cell<u8>,
    /// Kept between operations that wait: a buffer that the device may use while the caller's is
    /// gone.
    inbound: RefCell<Vec<u8>>,
    outbound: RefCell<Vec<u8>>,
    /// What was read to be looked at, and is yet to be read.
    peeked: RefCell<Vec<u8>>,
    /// What a peek that had bytes to show met behind them. The kernel tells an error once.
    failed: RefCell<Option<io::Error>>,
}

impl<S> SharedStream<S> {
    pub(in crate::blocking) fn new(stream: S) -> Rc<Self> {
        Rc::new(Self {
            stream,
            read_timeout: Cell::new(None),
            write_timeout: Cell::new(None),
            eager: Cell::new(0),
            inbound: RefCell::default(),
            outbound: RefCell::default(),
            peeked: RefCell::default(),
            failed: RefCell::default(),
        })
    }
}

impl<S: Stream> SharedStream<S> {
    /// Lets others run now and then.
    fn take_turns(&self) {
        self.eager.set(self.eager.get() + 1);
        if self.eager.get() >= EAGER {
            self.eager.set(0);
            // Outside a coroutine, what waits next says so.
            rt::coroutine::yield_now();
        }
    }

    #[track_caller]
    pub(in crate::blocking) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.take_turns();
        let len = self.take_peeked(buf);
        if len > 0 {
            return Ok(len);
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if let Some(len) = self.stream.try_read(buf).map_err(into_io)? {
            return Ok(len);
        }
        let wanted = buf.len().min(TRANSFER_BYTES);
        let mut bytes = self.inbound.take();
        if bytes.len() < wanted {
            bytes.reserve_exact(wanted - bytes.len());
            bytes.resize(wanted, 0);
        }
        let reading = async {
            // Of the whole buffer, which may have been made for a larger read, more would come than
            // `buf` takes.
            let (len, bytes) = self.stream.read(bytes.slice(0..wanted)).await?;
            Ok((len, bytes.into_inner()))
        };
        let (len, bytes) = wait_at_most(self.read_timeout.get(), reading)?;
        buf[..len].copy_from_slice(&bytes[..len]);
        self.inbound.replace(bytes);
        Ok(len)
    }

    #[track_caller]
    pub(in crate::blocking) fn write(&self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.take_turns();
        if let Some(len) = self.stream.try_write(buf).map_err(into_io)? {
            return Ok(len);
        }
        let mut bytes = self.outbound.take();
        bytes.clear();
        bytes.extend_from_slice(&buf[..buf.len().min(TRANSFER_BYTES)]);
        let writing = async { Ok(self.stream.write(bytes).await?) };
        let (len, bytes) = wait_at_most(self.write_timeout.get(), writing)?;
        self.outbound.replace(bytes);
        Ok(len)
    }

    /// Reads without taking.
    #[track_caller]
    pub(in crate::blocking) fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut peeked = self.peeked.take();
        let before = peeked.len();
        if before < buf.len() {
            let missing = (buf.len() - before).min(TRANSFER_BYTES);
            peeked.resize(before + missing, 0);
            // Only for the first byte it waits.
            let read = match before {
                0 => self.read(&mut peeked),
                _ if self.failed.borrow().is_some() => Ok(0),
                _ => self.stream.try_read(&mut peeked[before..]).map_err(into_io).map(|len| len.unwrap_or(0)),
            };
            peeked.truncate(before + read.as_ref().map_or(0, |len| *len));
            // What another coroutine peeked meanwhile came before.
            let mut all = self.peeked.take();
            all.append(&mut peeked);
            peeked = all;
            match read {
                Err(error) if peeked.is_empty() => return Err(error),
                // Of the time that is up the next read hears by itself.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    drop(self.failed.replace(Some(error)))
                }
                _ => {}
            }
        }
        let len = peeked.len().min(buf.len());
        buf[..len].copy_from_slice(&peeked[..len]);
        self.peeked.replace(peeked);
        Ok(len)
    }

    /// Moves what was peeked into `buf`; how many bytes there were.
    fn take_peeked(&self, buf: &mut [u8]) -> usize {
        let mut peeked = self.peeked.borrow_mut();
        let len = peeked.len().min(buf.len());
        buf[..len].copy_from_slice(&peeked[..len]);
        peeked.drain(..len);
        len
    }

    pub(in crate::blocking) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        check_timeout(timeout)?;
        self.read_timeout.set(timeout);
        Ok(())
    }

    pub(in crate::blocking) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        check_timeout(timeout)?;
        self.write_timeout.set(timeout);
        Ok(())
    }

    pub(in crate::blocking) fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout.get()
    }

    pub(in crate::blocking) fn write_timeout(&self) -> Option<Duration> {
        self.write_timeout.get()
    }
}

pub(super) fn check_timeout(timeout: Option<Duration>) -> io::Result<()> {
    if timeout == Some(Duration::ZERO) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
    }
    Ok(())
}

/// Waits for `operation`, `timeout` at most.
#[track_caller]
pub(super) fn wait_at_most<T>(
    timeout: Option<Duration>,
    operation: impl Future<Output = crate::Result<T>>,
) -> io::Result<T> {
    match timeout {
        None => wait(operation),
        Some(timeout) => wait(rt::timeout(timeout, operation))?.map_err(into_io),
    }
}

/// `std`'s traits for a stream that is a handle to a [`SharedStream`], and for references to it.
macro_rules! io_through_reference {
    ($stream:ty) => {
        impl std::io::Read for &$stream {
            #[track_caller]
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.0.read(buf)
            }
        }

        impl std::io::Write for &$stream {
            #[track_caller]
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.0.write(buf)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        impl std::io::Read for $stream {
            #[track_caller]
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.0.read(buf)
            }
        }

        impl std::io::Write for $stream {
            #[track_caller]
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.0.write(buf)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
    };
}
pub(in crate::blocking) use io_through_reference;
