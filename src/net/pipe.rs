//! Pipes: bytes in one direction, between tasks, threads and processes of one machine (`pipe(7)`).

use std::future::Future;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::transfer::{self, Given, GivenBack};
use crate::error::{BufError, BufResult, Error, ErrorKind, Result, with_buf};
use crate::kernel;
use crate::mem::{IoBuf, IoBufMut, Rest};

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

/// The end of a pipe that is read. Dropping it closes it; after that writes fail.
#[derive(Debug)]
pub struct PipeReader {
    pipe: kernel::PipeReader,
}

impl PipeReader {
    fn new(descriptor: OwnedFd) -> Self {
        Self { pipe: kernel::PipeReader::new(descriptor) }
    }

    /// The reading end of a pipe or of a named pipe that somebody else made:
    /// [`std::io::PipeReader`], the [output](std::process::ChildStdout) of a child process, an
    /// opened file. From then on the core decides whether it is non-blocking, also for everybody
    /// who shares it: cores that share one should have the same
    /// [reactor](crate::rt::CoreConfig::reactor).
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
        let (result, buf) = self.pipe.read(buf).await;
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
            let (result, rest) = self.pipe.read(Rest::new(buf, done)).await;
            buf = rest.into_inner();
            match result {
                Ok(0) => return Err(BufError::new(transfer::ended_early(), buf)),
                Ok(read) => done += read,
                Err(error) => return Err(BufError::new(error, buf)),
            }
        }
        Ok(buf)
    }
}

/// The end of a pipe that is written. Dropping it closes it; reads then get what is left, and after
/// that the end.
#[derive(Debug)]
pub struct PipeWriter {
    pipe: kernel::PipeWriter,
}

impl PipeWriter {
    fn new(descriptor: OwnedFd) -> Self {
        Self { pipe: kernel::PipeWriter::new(descriptor) }
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
    /// The kernel sends `SIGPIPE` to a process that writes when nobody reads. Rust programs ignore
    /// it; a program that does not is ended by it.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if every reader is closed.
    pub fn write<B: IoBuf>(&self, buf: B) -> impl Future<Output = BufResult<usize, B>> + Unpin + use<'_, B> {
        Given(self.pipe.write(buf))
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
        GivenBack(transfer::write_all(buf, |part| self.pipe.write(part)))
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

fn unusable(errno: Errno) -> Error {
    Error::os(errno.raw_os_error(), "use a pipe")
}
