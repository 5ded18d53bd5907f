//! Files and block devices as namespaces, with direct I/O through the kernel.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use tracing::{debug, warn};

use super::{Namespace, NamespaceInfo};
use crate::error::{BufError, Error, ErrorKind, Outcome, Result};
use crate::kernel::File;
use crate::mem::{DmaBuf, IoBuf, Slice};
use crate::rt;

/// The block size of a file: what every file system's direct I/O accepts.
const FILE_BLOCK_BYTES: u32 = 4096;
/// The largest single transfer: well under the kernel's own limit of 2 GiB.
const MAX_TRANSFER_BYTES: u32 = 16 << 20;
/// How far a file without a size may grow: the smallest limit of the usual file systems (ext4 with
/// 4 KiB blocks).
const MAX_FILE_BYTES: u64 = 16 << 40;

/// A file or a block device, locked against other processes for as long as it is open.
#[derive(Clone, Debug)]
pub struct KernelNamespace(Rc<FileShared>);

#[derive(Debug)]
struct FileShared {
    file: File,
    info: NamespaceInfo,
    size_bytes: Cell<u64>,
    backing: Backing,
}

/// What a file has of its namespace before anything was written.
#[derive(Debug)]
struct Backing {
    /// The bytes there are; what the namespace has beyond them reads as zeros, and is taken from
    /// the file system before the first write.
    len_bytes: Cell<u64>,
    /// The file, if it was made for this handle and nothing was written to it.
    unwritten: RefCell<Option<NewFile>>,
}

/// A file that was just made; removed when this is dropped.
#[derive(Debug)]
struct NewFile {
    /// `None` once it is to stay.
    path: Option<PathBuf>,
    file: Rc<OwnedFd>,
}

impl NewFile {
    /// The file stays, and so does its name after a power failure.
    fn keep(mut self) -> io::Result<()> {
        self.path.take().map_or(Ok(()), |path| sync_directory(&path))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        // Another file may have this name by now, or somebody had the lock before and wrote to this
        // one.
        let (ours, named) = (rustix::fs::fstat(&self.file), rustix::fs::lstat(path));
        if let (Ok(ours), Ok(named)) = (ours, named)
            && (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)
            && named.st_size == 0
            && let Err(error) = std::fs::remove_file(path)
        {
            warn!("the empty file {} stays: {error}", path.display());
        }
    }
}

impl KernelNamespace {
    /// Opens, or makes, the file at `path`. With `size_bytes` (rounded up to 4 KiB) it has that
    /// size for good; without, it grows as needed.
    ///
    /// Opening changes nothing: the file gets its size with the first write or growth, and until
    /// then the part that it does not have reads as zeros. A file that was made for a handle
    /// through which nothing was written is removed again.
    ///
    /// Uses direct I/O where the file system has it; otherwise says in the log that writes go
    /// through the page cache.
    ///
    /// # Errors
    ///
    /// [`InUse`](ErrorKind::InUse) if another process has it open,
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is not a regular file or larger than
    /// `size_bytes`, or the kernel's code.
    pub async fn open_file(path: &Path, size_bytes: Option<u64>) -> Result<Self> {
        let name = format!("file:{}", path.display());
        let failed = |error: io::Error| open_error(&error, &name);
        let (direct, made, file) = loop {
            let opened = open_or_make(path).map_err(failed)?;
            let metadata = opened.file.metadata().map_err(failed)?;
            if !metadata.is_file() {
                let what = if metadata.file_type().is_block_device() {
                    "it is a block device: write blk: instead of file:"
                } else {
                    "it is not a regular file"
                };
                return Err(Error::new(ErrorKind::InvalidInput, "open").at(name).because(what));
            }
            lock(&opened.file, &name).await?;
            // The holder of the lock may have removed the file, which it had made: what were
            // written then would have no name.
            let named = std::fs::metadata(path).ok();
            if named.is_some_and(|named| (named.dev(), named.ino()) == (metadata.dev(), metadata.ino())) {
                let Opened { file, direct, made } = opened;
                break (direct, made, Rc::new(OwnedFd::from(file)));
            }
        };
        // Only who has the lock may remove it.
        let unwritten = made.then(|| NewFile { path: Some(path.to_owned()), file: Rc::clone(&file) });
        if !direct {
            warn!(
                "{name}: this file system has no direct I/O; reads and writes go through the page cache \
                 (durability is the same, caching is double)"
            );
        }
        let block = u64::from(FILE_BLOCK_BYTES);
        // Asked again: while this waited for the lock, its holder may have let the file grow.
        let found = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
        let len = u64::try_from(found.st_size).unwrap_or(0);
        // A part of a block counts as a block: it may be all that a foreign file holds.
        let mut size = len.next_multiple_of(block);
        let (min_size_bytes, max_size_bytes) = match size_bytes {
            Some(wanted) => {
                let wanted = wanted.checked_next_multiple_of(block).unwrap_or(u64::MAX / block * block);
                if size > wanted {
                    return Err(Error::new(ErrorKind::InvalidInput, "open").at(name).because(format!(
                        "the file has {size} bytes, more than size={wanted} says: leave out size= or raise it"
                    )));
                }
                size = wanted;
                (wanted, wanted)
            }
            None => (0, MAX_FILE_BYTES),
        };
        let info = NamespaceInfo {
            max_size_bytes,
            min_size_bytes,
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            trim: true,
            direct,
            ..NamespaceInfo::new(name, size, FILE_BLOCK_BYTES)
        };
        let backing = Backing { len_bytes: Cell::new(len), unwritten: RefCell::new(unwritten) };
        Ok(Self::new(File::new(file), info, size, backing))
    }

    /// Opens the block device at `path`, exclusively.
    ///
    /// # Errors
    ///
    /// [`InUse`](ErrorKind::InUse) if it is mounted or another process has it open,
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is not a block device, or the kernel's code.
    pub async fn open_block_device(path: &Path) -> Result<Self> {
        let name = format!("blk:{}", path.display());
        let metadata = std::fs::metadata(path).map_err(|error| open_error(&error, &name))?;
        if !metadata.file_type().is_block_device() {
            return Err(Error::new(ErrorKind::InvalidInput, "open")
                .at(name)
                .because("it is not a block device: for a file write file: instead of blk:"));
        }
        // O_EXCL without O_CREAT: the kernel refuses a device that is mounted or held by another
        // exclusive user.
        let in_use = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
        let (file, direct) = patiently(in_use, || open(path, OFlags::EXCL))
            .await
            .map_err(|error| open_error(&error, &name))?;
        let file = OwnedFd::from(file);
        lock(&file, &name).await?;
        let failed = |errno: Errno| open_error(&errno.into(), &name);
        let block_size_bytes = rustix::fs::ioctl_blksszget(&file).map_err(failed)?;
        let size_bytes = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(failed)?;
        // The kernel promises nothing about power failure for a device of unknown make.
        let info = NamespaceInfo {
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            trim: true,
            direct,
            ..NamespaceInfo::new(name, size_bytes, block_size_bytes)
        };
        let mut file = File::new(Rc::new(file));
        if direct && size_bytes > 0 {
            poll(&mut file, &info);
        }
        let backing = Backing { len_bytes: Cell::new(size_bytes), unwritten: RefCell::default() };
        Ok(Self::new(file, info, size_bytes, backing))
    }

    fn new(mut file: File, info: NamespaceInfo, size_bytes: u64, backing: Backing) -> Self {
        file.register();
        Self(Rc::new(FileShared { file, info, size_bytes: Cell::new(size_bytes), backing }))
    }

    fn check(&self, operation: &'static str, offset: u64, len: u64) -> Result<()> {
        self.0.info.check_range(operation, offset, len, self.0.size_bytes.get())
    }
}

impl FileShared {
    fn place(&self, offset: u64) -> String {
        format!("{} offset {offset}", self.info.name)
    }

    fn failed(&self, error: &io::Error, operation: &'static str, offset: u64) -> Error {
        os_error(error, operation, &self.place(offset))
    }

    /// Takes what the namespace has and the file has not, before the first write.
    ///
    /// # Errors
    ///
    /// The file system has no room for it; the file is then as long as before.
    fn take_backing(&self) -> Result<()> {
        let (len, size) = (self.backing.len_bytes.get(), self.size_bytes.get());
        if len < size {
            extend(self.file.descriptor(), len, size)
                .map_err(|errno| os_error(&errno.into(), "extend", &self.info.name))?;
            self.backing.len_bytes.set(size);
        }
        let unwritten = self.backing.unwritten.borrow_mut().take();
        match unwritten {
            Some(new) => new.keep().map_err(|error| os_error(&error, "make", &self.info.name)),
            None => Ok(()),
        }
    }
}

impl Namespace for KernelNamespace {
    fn info(&self) -> &NamespaceInfo {
        &self.0.info
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes.get()
    }

    async fn read(&self, offset: u64, mut buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        if let Err(error) = self.check("read", offset, buf.len() as u64) {
            return Err(BufError::new(error, buf));
        }
        let len = buf.len();
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            // Only before the first write is the file shorter than the namespace.
            if at >= self.0.backing.len_bytes.get() {
                buf[done..].fill(0);
                break;
            }
            let (result, part) = self.0.file.read_at(at, buf.slice(done..len)).await;
            buf = Slice::into_inner(part);
            match result {
                Ok(0) => {
                    let error = Error::new(ErrorKind::Corrupt, "read")
                        .at(self.0.place(at))
                        .because("the file ends here: it was shortened while it was open");
                    return Err(BufError::new(error, buf));
                }
                Ok(read) => done += read as usize,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => {
                    let error = self.0.failed(&error, "read", at).outcome_is(Outcome::NotStarted);
                    return Err(BufError::new(error, buf));
                }
            }
        }
        Ok(buf)
    }

    async fn write(&self, offset: u64, mut buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        if let Err(error) = self.check("write", offset, buf.len() as u64).and_then(|()| self.0.take_backing())
        {
            return Err(BufError::new(error, buf));
        }
        let len = buf.len();
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (result, part) = self.0.file.write_at(at, buf.slice(done..len)).await;
            buf = Slice::into_inner(part);
            match result {
                Ok(0) => {
                    let error =
                        Error::os(libc::ENOSPC, "write").at(self.0.place(at)).outcome_is(Outcome::Unknown);
                    return Err(BufError::new(error, buf));
                }
                Ok(written) => done += written as usize,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => {
                    return Err(BufError::new(
                        self.0.failed(&error, "write", at).outcome_is(Outcome::Unknown),
                        buf,
                    ));
                }
            }
        }
        Ok(buf)
    }

    async fn flush(&self) -> Result<()> {
        self.0
            .file
            .sync_data()
            .await
            .map_err(|error| os_error(&error, "flush", &self.0.info.name).outcome_is(Outcome::Unknown))
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.check("trim", offset, len)?;
        if offset >= self.0.backing.len_bytes.get() {
            // There is nothing to give back.
            return Ok(());
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match self.0.file.allocate(mode, offset, len).await {
            Ok(()) => Ok(()),
            // A hint that the device or the file system does not take.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV)) => Ok(()),
            Err(error) => Err(self.0.failed(&error, "trim", offset)),
        }
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        let shared = &*self.0;
        let from = shared.size_bytes.get();
        let block = u64::from(shared.info.block_size_bytes);
        let to = size_bytes.checked_next_multiple_of(block).unwrap_or(u64::MAX);
        if to <= from {
            return Ok(());
        }
        if to > shared.info.max_size_bytes {
            return Err(Error::new(ErrorKind::NoSpace, "grow")
                .at(shared.info.name.clone())
                .because(format!("it cannot grow beyond {} bytes", shared.info.max_size_bytes)));
        }
        shared.take_backing()?;
        match shared.file.allocate(0, from, to - from).await {
            Ok(()) => {}
            // A file system that cannot reserve space: a sparse end will do.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                // Another call may have grown it further meanwhile: never back.
                rustix::fs::ftruncate(shared.file.descriptor(), to.max(shared.size_bytes.get()))
                    .map_err(|errno| Error::os(errno.raw_os_error(), "grow").at(shared.info.name.clone()))?;
            }
            Err(error) => {
                // A file system that fills up keeps what it found until then.
                if shared.size_bytes.get() == from
                    && let Err(errno) = rustix::fs::ftruncate(shared.file.descriptor(), from)
                {
                    debug!("{}: what a failed growth took stays with it: {errno}", shared.info.name);
                }
                return Err(os_error(&error, "grow", &shared.info.name));
            }
        }
        let size = shared.size_bytes.get().max(to);
        shared.size_bytes.set(size);
        shared.backing.len_bytes.set(size);
        Ok(())
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        let shared = &*self.0;
        let block = u64::from(shared.info.block_size_bytes);
        let to = size_bytes.next_multiple_of(block).max(shared.info.min_size_bytes);
        let from = shared.size_bytes.get();
        if to >= from {
            return Ok(());
        }
        shared.take_backing()?;
        shared.size_bytes.set(to);
        let failed = |errno: Errno| os_error(&errno.into(), "shrink", &shared.info.name);
        let file = shared
            .file
            .descriptor()
            .try_clone()
            .map_err(|error| os_error(&error, "shrink", &shared.info.name))?;
        // A file system may take long to give back many gigabytes.
        let shrunk = rt::offload("shrink a file", move || rustix::fs::ftruncate(&file, to)).await;
        let shrunk = match shrunk {
            Ok(result) => result.map_err(failed),
            Err(error) => Err(Error::new(ErrorKind::Cancelled, "shrink").because(error.to_string())),
        };
        let size = if shrunk.is_ok() { to } else { from };
        shared.size_bytes.set(size);
        shared.backing.len_bytes.set(size);
        shrunk
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        let len = self.0.backing.len_bytes.get();
        if offset >= len {
            return None;
        }
        match rustix::fs::seek(self.0.file.descriptor(), rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => Some(data),
            Err(Errno::NXIO) => None,
            // A device, or a file system that does not know its holes.
            Err(_) => Some(offset),
        }
    }
}

/// A file that was opened for reading and writing.
struct Opened {
    file: std::fs::File,
    /// With direct I/O.
    direct: bool,
    /// It did not exist.
    made: bool,
}

/// Opens a file, or makes it if it does not exist.
fn open_or_make(path: &Path) -> io::Result<Opened> {
    match open(path, OFlags::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.map(|(file, direct)| Opened { file, direct, made: false }),
    }
    // Made by itself, since O_DIRECT on a file system without it fails after the file was made.
    let made = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => true,
        // Another process was faster; the lock decides who has it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let (file, direct) = open(path, OFlags::empty())?;
    Ok(Opened { file, direct, made })
}

/// Opens for reading and writing, with direct I/O if it can be had; says whether it could.
fn open(path: &Path, flags: OFlags) -> io::Result<(std::fs::File, bool)> {
    let flags = flags | OFlags::CLOEXEC;
    let with = |flags: OFlags| {
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path)
    };
    match with(flags | OFlags::DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((with(flags)?, false)),
        Err(error) => Err(error),
    }
}

/// Polls a device whose driver has poll queues.
fn poll(device: &mut File, info: &NamespaceInfo) {
    match device.poll(info.block_size_bytes) {
        Ok(()) => debug!("{}: polled, its reads and writes need no interrupts", info.name),
        Err(error) => debug!("{}: not polled, its reads and writes interrupt: {error}", info.name),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

async fn lock(file: &impl AsFd, name: &str) -> Result<()> {
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
const IN_USE_PATIENCE: Duration = Duration::from_secs(2);
const IN_USE_RETRY: Duration = Duration::from_millis(5);

async fn patiently<T, E>(
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

/// Makes a file longer, or leaves it as it is.
fn extend(file: &OwnedFd, from: u64, to: u64) -> Result<(), Errno> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), from, to - from) {
        Err(Errno::OPNOTSUPP) => rustix::fs::ftruncate(file, to),
        Err(errno) => {
            // A file system that fills up keeps what it found until then.
            let _ = rustix::fs::ftruncate(file, from);
            Err(errno)
        }
        Ok(()) => Ok(()),
    }
}

fn open_error(error: &io::Error, name: &str) -> Error {
    os_error(error, "open", name).outcome_is(Outcome::NotStarted)
}

fn os_error(error: &io::Error, operation: &'static str, place: &str) -> Error {
    let code = error.raw_os_error().unwrap_or(libc::EIO);
    let described = Error::os(code, operation).at(place.to_owned());
    match code {
        libc::EACCES | libc::EPERM => {
            described.because("permission denied: run as a user who may read and write it")
        }
        libc::EBUSY => described.because("it is mounted or in use: unmount it or stop its user first"),
        _ => described,
    }
}
