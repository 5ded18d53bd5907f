//! Opening files and block devices, and keeping others out.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::open_error;
use crate::error::{Error, ErrorKind, Result};
use crate::rt;

/// A file or device that was opened, and locked against other processes.
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    /// With direct I/O.
    pub(super) direct: bool,
    /// It did not exist.
    pub(super) made: bool,
    pub(super) read_only: bool,
}

/// Opens the file at `path`, or makes it if it does not exist.
pub(super) async fn open_file(path: &Path, name: &str) -> Result<Opened> {
    let failed = |error: io::Error| open_error(&error, name);
    loop {
        let opened = open_or_make(path).map_err(failed)?;
        let metadata = opened.file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            let what = if metadata.file_type().is_block_device() {
                "it is a block device: write blk: instead of file:"
            } else {
                "it is not a regular file"
            };
            return Err(Error::new(ErrorKind::InvalidInput, "open").at(name.to_owned()).because(what));
        }
        lock(&opened.file, name).await?;
        // The holder of the lock may have removed the file, which it had made: what were written
        // then would have no name.
        let named = std::fs::metadata(path).ok();
        if named.is_some_and(|named| (named.dev(), named.ino()) == (metadata.dev(), metadata.ino())) {
            let Attempt { file, direct, made, read_only } = opened;
            return Ok(Opened { file: file.into(), direct, made, read_only });
        }
    }
}

/// Opens the block device at `path`, exclusively.
pub(super) async fn open_block_device(path: &Path, name: &str) -> Result<Opened> {
    let metadata = std::fs::metadata(path).map_err(|error| open_error(&error, name))?;
    if !metadata.file_type().is_block_device() {
        return Err(Error::new(ErrorKind::InvalidInput, "open")
            .at(name.to_owned())
            .because("it is not a block device: for a file write file: instead of blk:"));
    }
    // O_EXCL without O_CREAT: the kernel refuses a device that is mounted or held by another
    // exclusive user.
    let in_use = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
    let Attempt { file, direct, read_only, .. } =
        patiently(in_use, || open(path, OFlags::EXCL)).await.map_err(|error| open_error(&error, name))?;
    let file = OwnedFd::from(file);
    lock(&file, name).await?;
    let read_only = read_only || super::is_read_only(&file);
    Ok(Opened { file, direct, made: false, read_only })
}

struct Attempt {
    file: std::fs::File,
    direct: bool,
    made: bool,
    read_only: bool,
}

fn open_or_make(path: &Path) -> io::Result<Attempt> {
    match open(path, OFlags::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    // Made by itself, since O_DIRECT on a file system without it fails after the file was made.
    let made = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => true,
        // Another process was faster; the lock decides who has it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    Ok(Attempt { made, ..open(path, OFlags::empty())? })
}

/// Opens for reading and writing, or for reading if that is all there is; with direct I/O if it can
/// be had.
fn open(path: &Path, flags: OFlags) -> io::Result<Attempt> {
    let with = |flags: OFlags, read_only: bool| {
        let flags = flags | OFlags::CLOEXEC;
        OpenOptions::new().read(true).write(!read_only).custom_flags(flags.bits().cast_signed()).open(path)
    };
    let direct_or_not = |read_only| match with(flags | OFlags::DIRECT, read_only) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((with(flags, read_only)?, false)),
        Err(error) => Err(error),
    };
    let ((file, direct), read_only) = match direct_or_not(false) {
        Ok(opened) => (opened, false),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM)) => {
            // Which of the two says what to do about it: the first.
            (direct_or_not(true).map_err(|_| error)?, true)
        }
        Err(error) => return Err(error),
    };
    Ok(Attempt { file, direct, made: false, read_only })
}

/// Locks a file or device against other processes.
pub(in super::super) async fn lock(file: &impl AsFd, name: &str) -> Result<()> {
    let locked = patiently(
        |errno: &Errno| *errno == Errno::WOULDBLOCK,
        || rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive),
    );
    locked.await.map_err(|errno| match errno {
        Errno::WOULDBLOCK => Error::new(ErrorKind::InUse, "open")
            .at(name.to_owned())
            .because("another process has it open: stop that one first, or use another namespace"),
        errno => open_error(&errno.into(), name),
    })
}

/// How long to wait for a namespace that is in use. The kernel tears down the io_uring of a killed
/// process, and with it the process's hold on its files, only some time after the process is gone;
/// a supervisor may have restarted it by then.
const IN_USE_PATIENCE: Duration = Duration::from_secs(5);
const IN_USE_RETRY: Duration = Duration::from_millis(5);

/// Tries for a while what fails because it is `in_use`.
pub(in super::super) async fn patiently<T, E>(
    in_use: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let give_up = rt::now() + IN_USE_PATIENCE;
    loop {
        match attempt() {
            Err(error) if in_use(&error) && rt::now() < give_up => rt::sleep(IN_USE_RETRY).await,
            result => return result,
        }
    }
}
