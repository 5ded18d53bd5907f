//! Pipes: bytes in one direction, between tasks, threads and processes of one machine (`pipe(7)`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::identity;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, ready};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::dropped::{Dropped, is_cancelled};
use super::kernel::{from_io, written};
use super::transfer::{self, Given, GivenBack, Step, Transferred};
use crate::error::{BufError, BufResult, Error, ErrorKind, Result, with_buf};
use crate::mem::{IoBuf, IoBufMut, Rest};
use crate::reactor::ops;

/// Makes a pipe: what is written to the second is read from the first. It holds 64 KiB unless the
/// system says otherwise.
///
/// Both ends belong to this core. For ends on different cores or in other processes make the pipe
/// with [`std::io::pipe`], and give each end to [`PipeReader::from_descriptor`] or
/// [`PipeWriter::from_descriptor`] where it is used.
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
    unread: Rc<Unread>,
}

/// What was read for reads that were dropped before they could take it.
#[derive(Debug, Default)]
struct Unread {
    bytes: RefCell<VecDeque<u8>>,
    /// The end or an error comes after the bytes, once: after the end of a named pipe another
    /// writer may come.
    end: Cell<Option<Result<(), i32>>>,
    dropped: Dropped,
}

impl Unread {
    fn keep(&self, result: io::Result<u32>, bytes: &[u8]) {
        match result {
            Ok(0) => self.end.set(Some(Ok(()))),
            // Of a buffer that held something before, only the first `len` bytes are new.
            Ok(len) => self.bytes.borrow_mut().extend(&bytes[..len as usize]),
            Err(error) if is_cancelled(&error) || would_block(&error) => {}
            Err(error) => self.end.set(Some(Err(error.raw_os_error().unwrap_or(libc::EIO)))),
        }
        self.dropped.settled();
    }

    /// What a read gets without asking the kernel. `fill` copies from the bytes it is given and
    /// says how many.
    fn take(&self, fill: impl FnOnce(&[u8]) -> usize) -> Option<Result<usize>> {
        let mut bytes = self.bytes.borrow_mut();
        if !bytes.is_empty() {
            let (front, _) = bytes.as_slices();
            let len = fill(front);
            bytes.drain(..len);
            return Some(Ok(len));
        }
        let end = self.end.take()?;
        Some(end.map(|()| 0).map_err(|code| Error::os(code, "read")))
    }

    fn has_some(&self) -> bool {
        !self.bytes.borrow().is_empty() || self.end.get().is_some()
    }
}

impl PipeReader {
    fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor: Rc::new(descriptor), unread: Rc::default() }
    }

    /// The end that is read of a pipe or a named pipe that somebody else made:
    /// [`std::io::PipeReader`], the [output](std::process::ChildStdout) of a child process, an
    /// opened file. Whether it is non-blocking is up to the core from then on, also for those who
    /// share it: cores that do should have the same [reactor](crate::rt::CoreConfig::reactor).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is no pipe, otherwise the kernel's code.
    pub fn from_descriptor(descriptor: impl Into<OwnedFd>) -> Result<Self> {
        checked(descriptor.into()).map(Self::new)
    }

    /// Reads at least one byte into the front of `buf` and returns how many; 0 when every writer is
    /// closed and nothing is left. A named pipe that is opened for writing again goes on after
    /// that.
    ///
    /// Any number of reads may wait, and any one of them gets what comes. Dropping the future loses
    /// no byte: another read gets them.
    ///
    /// # Errors
    ///
    /// The kernel's code.
    pub async fn read<B: IoBufMut>(&self, buf: B) -> BufResult<usize, B> {
        let (result, buf) = self.transfer_read(buf).await;
        with_buf(result, buf)
    }

    /// Reads until all the room of `buf` is filled: the capacity of a `Vec`, the length of a
    /// [`slice`](crate::mem::IoBuf::slice).
    ///
    /// If the future is dropped, what it has read is lost.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if the pipe ends before, with what came in the buffer;
    /// otherwise as for [`PipeReader::read`].
    pub async fn read_exact<B: IoBufMut>(&self, mut buf: B) -> std::result::Result<B, BufError<B>> {
        let len = buf.bytes_total();
        let mut done = 0;
        while done < len {
            let (result, rest) = self.transfer_read(Rest::new(buf, done)).await;
            buf = rest.into_inner();
            match result {
                Ok(0) => return Err(BufError::new(transfer::ended_early(), buf)),
                Ok(read) => done += read,
                Err(error) => return Err(BufError::new(error, buf)),
            }
        }
        Ok(buf)
    }

    async fn transfer_read<B: IoBufMut>(&self, mut buf: B) -> Transferred<usize, B> {
        if buf.bytes_total() == 0 {
            // The kernel's answer, 0, would look like the end if this future were dropped.
            return (Ok(0), buf);
        }
        loop {
            self.unread.dropped.settle().await;
            if let Some(result) = self.unread.take(|bytes| buf.fill_from(bytes)) {
                return (result, buf);
            }
            let unread = Rc::clone(&self.unread);
            let keep = move |result, buf: B| unread.keep(result, buf.as_slice());
            let operation = ops::read_stream(&self.descriptor, buf, keep);
            let ((result, back), cancelled) =
                self.unread.dropped.run(operation, || self.unread.has_some()).await;
            buf = back;
            match result {
                // What a dropped read got comes before the end, which is kept until then.
                Ok(0) if self.unread.has_some() => self.unread.end.set(Some(Ok(()))),
                Ok(len) => return (Ok(len as usize), buf),
                Err(error) if cancelled && is_cancelled(&error) => {}
                Err(error) if would_block(&error) => {
                    if let Err(error) = make_blocking(&self.descriptor) {
                        return (Err(error), buf);
                    }
                }
                Err(error) => return (Err(from_io(&error, "read")), buf),
            }
        }
    }
}

/// The end of a pipe that is written. Dropping it closes it; who reads gets what is left, and then
/// the end.
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
        checked(descriptor.into()).map(Self::new)
    }

    /// Writes at least one byte from the front of `buf` and returns how many. Up to 4096 bytes
    /// (`PIPE_BUF`) are written together or not at all, so that several writers do not mix theirs.
    /// A write whose future is dropped may take effect, wholly or in part.
    ///
    /// Rust programs ignore `SIGPIPE`, which the kernel sends who writes when nobody reads; one
    /// that does not ends by it.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if every reader is closed.
    pub fn write<B: IoBuf>(&self, buf: B) -> impl Future<Output = BufResult<usize, B>> + Unpin + use<'_, B> {
        Given(self.transfer_write(buf))
    }

    fn transfer_write<B: IoBuf>(
        &self,
        buf: B,
    ) -> impl Future<Output = Transferred<usize, B>> + Unpin + use<'_, B> {
        let mut step = Step::Begins(buf);
        poll_fn(move |cx| {
            loop {
                let begin = |buf| Ok(ops::write_stream(&self.descriptor, buf, ()));
                let (result, buf) = ready!(step.poll_with(cx, begin, identity));
                let again = matches!(&result, Err(error) if would_block(error));
                if !again {
                    return Poll::Ready((written(result), buf));
                }
                if let Err(error) = make_blocking(&self.descriptor) {
                    return Poll::Ready((Err(error), buf));
                }
                step = Step::Begins(buf);
            }
        })
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    ///
    /// As for [`PipeWriter::write`]; a part may have been written.
    pub fn write_all<B: IoBuf>(
        &self,
        buf: B,
    ) -> impl Future<Output = std::result::Result<B, BufError<B>>> + Unpin + use<'_, B> {
        GivenBack(transfer::write_all(buf, |part| self.transfer_write(part)))
    }
}

/// The same descriptor, if it is a pipe's.
fn checked(descriptor: OwnedFd) -> Result<OwnedFd> {
    let stat = rustix::fs::fstat(&descriptor).map_err(unusable)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(Error::new(ErrorKind::InvalidInput, "use a pipe").because("the descriptor is no pipe's"));
    }
    Ok(descriptor)
}

/// Whether it is what an io_uring says of a pipe that does not block, unless the kernel is so new
/// that it waits for those too. Only then the pipe is made to block: a core without io_uring makes
/// it non-blocking, and would wait inside a call if another handle to the same end undid that.
fn would_block(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

fn make_blocking(pipe: &OwnedFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(pipe).map_err(unusable)?;
    rustix::fs::fcntl_setfl(pipe, flags - OFlags::NONBLOCK).map_err(unusable)
}

fn unusable(errno: Errno) -> Error {
    Error::os(errno.raw_os_error(), "use a pipe")
}
