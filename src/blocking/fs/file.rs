//! Open files.

use std::cell::RefCell;
use std::fs::{FileTimes, Metadata, Permissions};
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use super::{OpenOptions, cancelled, run};
use crate::kernel;
use crate::mem::IoBuf;
use crate::rt;
use crate::rt::coroutine::wait_unless_cancelled;

/// The most that one read or write carries, in bytes. It goes through a buffer of the file, which
/// the kernel may still be using when the caller's is gone.
pub const TRANSFER_BYTES: usize = 256 << 10;
/// What a file keeps of its buffer between operations, in bytes.
const KEPT_BYTES: usize = 64 << 10;
/// In place of an offset: the file's own.
const CURRENT: u64 = u64::MAX;

/// An open file.
#[derive(Debug)]
pub struct File {
    file: kernel::File,
    /// Kept between operations.
    buffer: RefCell<Vec<u8>>,
}

impl File {
    /// Opens a file to read it.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::open`].
    ///
    /// # Panics
    ///
    /// In an async task, as everything here that may have to wait.
    #[track_caller]
    pub fn open<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        OpenOptions::new().read(true).open(path)
    }

    /// Opens a file to write it from the start; it is created if there is none, and emptied if
    /// there is.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::create`].
    #[track_caller]
    pub fn create<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        OpenOptions::new().write(true).create(true).truncate(true).open(path)
    }

    /// Creates a file, to read and to write.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::create_new`].
    #[track_caller]
    pub fn create_new<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }

    /// The ways to open a file.
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// Makes the data and what is known of the file durable: fsync(2).
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::sync_all`].
    #[track_caller]
    pub fn sync_all(&self) -> io::Result<()> {
        self.run("sync_all", |file| file.sync_all())
    }

    /// Makes the data durable: fdatasync(2).
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::sync_data`].
    #[track_caller]
    pub fn sync_data(&self) -> io::Result<()> {
        if rt::is_in_core() {
            return wait(self.file.sync_data())?;
        }
        Ok(rustix::fs::fdatasync(self.file.descriptor())?)
    }

    /// Cuts the file, or extends it with zeros, to `size` bytes.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::set_len`].
    #[track_caller]
    pub fn set_len(&self, size: u64) -> io::Result<()> {
        self.run("set_len", move |file| file.set_len(size))
    }

    /// What is known of the file.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::metadata`].
    #[track_caller]
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.run("metadata", |file| file.metadata())
    }

    /// Changes the file's permissions.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::set_permissions`].
    #[track_caller]
    pub fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        self.run("set_permissions", move |file| file.set_permissions(permissions))
    }

    /// Changes the file's times.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::set_times`].
    #[track_caller]
    pub fn set_times(&self, times: FileTimes) -> io::Result<()> {
        self.run("set_times", move |file| file.set_times(times))
    }

    /// Changes the time of the file's last modification.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::set_modified`].
    #[track_caller]
    pub fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.set_times(FileTimes::new().set_modified(time))
    }

    /// The file for `std`, and a second descriptor of it if there are other handles to it.
    ///
    /// # Errors
    ///
    /// `EMFILE` if there are, and the process has no descriptor left.
    pub fn into_std(self) -> io::Result<std::fs::File> {
        let file = Rc::try_unwrap(self.file.into_descriptor()).or_else(|shared| shared.try_clone())?;
        Ok(file.into())
    }

    /// Another handle to the same open file: both move on when one of them reads, writes or seeks.
    ///
    /// # Errors
    ///
    /// None; a `Result` as in `std`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: kernel::File::new(Rc::clone(self.file.descriptor())), buffer: RefCell::default() })
    }

    /// Reads at `offset`, in bytes from the start, and does not move the file's own offset. Returns
    /// how many bytes there were.
    ///
    /// # Errors
    ///
    /// As for [`FileExt::read_at`](std::os::unix::fs::FileExt::read_at).
    #[track_caller]
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_from(buf, check_offset(offset)?)
    }

    /// Fills `buf` from `offset` (bytes) on.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if there is not enough, and as for
    /// [`read_at`](Self::read_at).
    #[track_caller]
    pub fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    buf = &mut buf[len..];
                    offset += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes at `offset`, in bytes from the start, and does not move the file's own offset.
    /// Returns how many bytes were taken.
    ///
    /// # Errors
    ///
    /// As for [`FileExt::write_at`](std::os::unix::fs::FileExt::write_at).
    #[track_caller]
    pub fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.write_to(buf, check_offset(offset)?)
    }

    /// Writes all of `buf` from `offset` (bytes) on.
    ///
    /// # Errors
    ///
    /// [`WriteZero`](io::ErrorKind::WriteZero) if the file takes no more, and as for
    /// [`write_at`](Self::write_at).
    #[track_caller]
    pub fn write_all_at(&self, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    buf = &buf[len..];
                    offset += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[track_caller]
    fn read_from(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_into(&mut [IoSliceMut::new(buf)], offset)
    }

    #[track_caller]
    fn read_into(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        if !rt::is_in_core() {
            let read = match offset {
                CURRENT => rustix::io::readv(self.file.descriptor(), bufs),
                _ => rustix::io::preadv(self.file.descriptor(), bufs, offset),
            };
            return Ok(read?);
        }
        let wanted = bufs.iter().fold(0_usize, |sum, buf| sum.saturating_add(buf.len()));
        let len = wanted.min(TRANSFER_BYTES);
        let mut own = self.buffer.take();
        if own.len() < len {
            own.resize(len, 0);
        }
        let (result, own) = wait(self.file.read_at(offset, own.slice(0..len)))?;
        let own = own.into_inner();
        if let Ok(read) = result {
            let mut bytes = &own[..read as usize];
            for buf in bufs {
                let (these, rest) = bytes.split_at(bytes.len().min(buf.len()));
                buf[..these.len()].copy_from_slice(these);
                bytes = rest;
            }
        }
        self.keep(own);
        Ok(result? as usize)
    }

    #[track_caller]
    fn write_to(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.write_of(&[IoSlice::new(buf)], offset)
    }

    #[track_caller]
    fn write_of(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        if !rt::is_in_core() {
            let written = match offset {
                CURRENT => rustix::io::writev(self.file.descriptor(), bufs),
                _ => rustix::io::pwritev(self.file.descriptor(), bufs, offset),
            };
            return Ok(written?);
        }
        let mut own = self.buffer.take();
        own.clear();
        for buf in bufs {
            own.extend_from_slice(&buf[..buf.len().min(TRANSFER_BYTES - own.len())]);
        }
        let (result, own) = wait(self.file.write_at(offset, own))?;
        self.keep(own);
        Ok(result? as usize)
    }

    fn keep(&self, mut own: Vec<u8>) {
        if own.capacity() > KEPT_BYTES {
            own.truncate(KEPT_BYTES);
            own.shrink_to(KEPT_BYTES);
        }
        self.buffer.replace(own);
    }

    /// Runs `work` with a descriptor of its own, which it may keep beyond the life of this file.
    #[track_caller]
    pub(super) fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = std::fs::File::from(self.file.descriptor().try_clone()?);
        run(name, move || work(&file))
    }
}

/// Beyond what a file can have, and so that no offset is taken for [`CURRENT`].
fn check_offset(offset: u64) -> io::Result<u64> {
    if i64::try_from(offset).is_err() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(offset)
}

#[track_caller]
pub(super) fn wait<F: Future>(operation: F) -> io::Result<F::Output> {
    wait_unless_cancelled(operation).ok_or_else(cancelled)
}

impl Read for &File {
    #[track_caller]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_from(buf, CURRENT)
    }

    #[track_caller]
    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.read_into(bufs, CURRENT)
    }
}

impl Write for &File {
    #[track_caller]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_to(buf, CURRENT)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    #[track_caller]
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_of(bufs, CURRENT)
    }
}

impl Seek for &File {
    /// Does not wait: lseek(2) moves a number.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => rustix::fs::SeekFrom::Start(check_offset(at)?),
            SeekFrom::End(by) => rustix::fs::SeekFrom::End(by),
            SeekFrom::Current(by) => rustix::fs::SeekFrom::Current(by),
        };
        Ok(rustix::fs::seek(self.file.descriptor(), to)?)
    }
}

impl Read for File {
    #[track_caller]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    #[track_caller]
    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

impl Write for File {
    #[track_caller]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    #[track_caller]
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&*self).seek(to)
    }
}

impl From<std::fs::File> for File {
    fn from(file: std::fs::File) -> Self {
        Self::from(OwnedFd::from(file))
    }
}

impl From<OwnedFd> for File {
    fn from(file: OwnedFd) -> Self {
        Self { file: kernel::File::new(Rc::new(file)), buffer: RefCell::default() }
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.descriptor().as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.file.descriptor().as_raw_fd()
    }
}
