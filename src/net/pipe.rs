//! Pipes: bytes in one direction, between tasks, threads and processes of one machine (`pipe(7)`).

use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::accept::PendingGuard;
use super::kernel::{Flow, from_io, written};
use super::transfer::{self, Step};
use crate::error::{BufResult, Error, ErrorKind, Result};
use crate::mem::{IoBuf, IoBufMut};
use crate::rt::ops;

/// Makes a pipe: what is written to the second is read from the first. It holds 64 KiB unless the system says otherwise.
///
/// Both ends belong to this core. For ends on different cores or in other processes make the pipe with [`std::io::pipe`], and give
/// each end to [`PipeReader::from_descriptor`] or [`PipeWriter::from_descriptor`] where it is used.
///
/// # Errors
///
/// [`LimitReached`](ErrorKind::LimitReached) when the process has no descriptors left.
pub fn pipe() -> Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|errno| Error::os(errno.raw_os_error(), "make a pipe"))?;
    Ok((PipeReader::new(reader), PipeWriter::new(writer)))
}

/// The end of a pipe that is read. Dropping it closes it; who writes then gets an error.
#[derive(Debug)]
pub struct PipeReader {
    descriptor: Rc<OwnedFd>,
    flow: Rc<Flow>,
}

impl PipeReader {
    fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor: Rc::new(descriptor), flow: Rc::default() }
    }

    /// The end that is read of a pipe or a named pipe that somebody else made: [`std::io::PipeReader`], the
    /// [output](std::process::ChildStdout) of a child process, an opened file. Whether it is non-blocking is up to the core from
    /// then on, also for those who share it.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is no pipe, otherwise the kernel's code.
    pub fn from_descriptor(descriptor: impl Into<OwnedFd>) -> Result<Self> {
        blocking_pipe(descriptor.into()).map(Self::new)
    }

    /// Reads at least one byte into the front of `buf` and returns how many; 0 when every writer is closed and nothing is left. A named pipe
    /// that is opened for writing again goes on after that.
    ///
    /// Dropping the future loses no byte: the next read gets them.
    ///
    /// # Errors
    ///
    /// The kernel's code.
    pub async fn read<B: IoBufMut>(&self, mut buf: B) -> BufResult<usize, B> {
        if buf.bytes_total() == 0 {
            // The kernel's answer, 0, would look like the end if this future were dropped.
            return (Ok(0), buf);
        }
        while self.flow.pending.get() > 0 {
            self.flow.settled.notified().await;
        }
        // After the end of a named pipe another writer may come.
        if let Some(result) = self.flow.take_once(|bytes| buf.fill_from(bytes)) {
            return (result, buf);
        }
        let flow = Rc::clone(&self.flow);
        let mut operation =
            ops::read_stream(&self.descriptor, buf, move |result, buf: B| flow.keep(result, buf.as_slice()));
        // Declared after the operation, so dropped before it: `keep` may run while the operation is dropped.
        let mut guard = PendingGuard(None);
        let (result, buf) = std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut operation).poll(cx);
            guard.0 = polled.is_pending().then_some(&self.flow.pending);
            polled
        })
        .await;
        (result.map(|len| len as usize).map_err(|error| from_io(&error, "read")), buf)
    }
}

/// The end of a pipe that is written. Dropping it closes it; who reads gets what is left, and then the end.
#[derive(Debug)]
pub struct PipeWriter {
    descriptor: Rc<OwnedFd>,
}

impl PipeWriter {
    fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor: Rc::new(descriptor) }
    }

    /// As [`PipeReader::from_descriptor`], for the end that is written.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_descriptor(descriptor: impl Into<OwnedFd>) -> Result<Self> {
        blocking_pipe(descriptor.into()).map(Self::new)
    }

    /// Writes at least one byte from the front of `buf` and returns how many. Up to 4096 bytes (`PIPE_BUF`) are written together or
    /// not at all, so that several writers do not mix theirs. A write whose future is dropped may take effect, wholly or in part.
    ///
    /// Rust programs ignore `SIGPIPE`, which the kernel sends who writes when nobody reads; one that does not ends by it.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if every reader is closed.
    pub fn write<B: IoBuf>(&self, buf: B) -> impl Future<Output = BufResult<usize, B>> + Unpin + use<'_, B> {
        let mut step = Step::Begins(buf);
        poll_fn(move |cx| {
            let begin = |buf| Ok(ops::write_stream(&self.descriptor, buf, ()));
            step.poll_with(cx, begin, |(result, buf)| (written(result), buf))
        })
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    ///
    /// As for [`PipeWriter::write`]; a part may have been written.
    pub fn write_all<B: IoBuf>(&self, buf: B) -> impl Future<Output = BufResult<(), B>> + Unpin + use<'_, B> {
        transfer::write_all(buf, |part| self.write(part))
    }
}

/// The same pipe, made to block: an io_uring does not wait for one that does not, and a core without one sees to that itself.
fn blocking_pipe(descriptor: OwnedFd) -> Result<OwnedFd> {
    let failed = |errno: Errno| Error::os(errno.raw_os_error(), "use a pipe");
    let stat = rustix::fs::fstat(&descriptor).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(Error::new(ErrorKind::InvalidInput, "use a pipe").because("the descriptor is no pipe's"));
    }
    let flags = rustix::fs::fcntl_getfl(&descriptor).map_err(failed)?;
    rustix::fs::fcntl_setfl(&descriptor, flags - OFlags::NONBLOCK).map_err(failed)?;
    Ok(descriptor)
}
