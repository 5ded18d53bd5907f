//! How large a file or device is, for all cores that are attached to it: the size of the namespace,
//! and what the file has of it.
//!
//! Cores read both sizes with each operation. They change under a lock that no operation on blocks
//! takes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use tracing::{debug, warn};

use super::os_error;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::File;
use crate::{rt, sync};

/// See [the module](self).
#[derive(Debug)]
pub(super) struct Extent {
    name: String,
    file: OwnedFd,
    size_bytes: AtomicU64,
    /// The bytes there are; what the namespace has beyond them reads as zeros, and is taken from
    /// the file system before the first write.
    len_bytes: AtomicU64,
    /// Everything is taken from the file system, and what was made stays: once true, for good.
    is_taken: AtomicBool,
    /// The file, if it was made for this device and nothing was written to it.
    unwritten: Mutex<Option<NewFile>>,
    /// One change of the size at a time, on whatever core.
    resizing: Arc<sync::Mutex<()>>,
}

impl Extent {
    /// Of the namespace `name`, which has `size_bytes`, of which `file` has `len_bytes`. `made` is
    /// its path if the file was just made.
    pub(super) fn new(
        name: String,
        file: OwnedFd,
        size_bytes: u64,
        len_bytes: u64,
        made: Option<&Path>,
    ) -> io::Result<Self> {
        let new_file = |path: &Path| -> io::Result<NewFile> {
            Ok(NewFile { path: Some(path.to_owned()), file: file.try_clone()? })
        };
        let unwritten = made.map(new_file).transpose()?;
        Ok(Self {
            name,
            file,
            size_bytes: size_bytes.into(),
            len_bytes: len_bytes.into(),
            is_taken: AtomicBool::new(false),
            unwritten: Mutex::new(unwritten),
            resizing: Arc::default(),
        })
    }

    /// A descriptor of its own for a core; what is locked by one is locked by all.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Ordering::Relaxed)
    }

    /// Both sizes become `bytes`.
    fn set(&self, bytes: u64) {
        self.size_bytes.store(bytes, Ordering::Relaxed);
        self.len_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Takes what the namespace has and the file has not, before the first write.
    ///
    /// # Errors
    ///
    /// The file system has no room for it; the file is then as long as before.
    #[inline]
    pub(super) fn take(&self) -> Result<()> {
        if self.is_taken.load(Ordering::Acquire) { Ok(()) } else { self.take_now() }
    }

    #[cold]
    fn take_now(&self) -> Result<()> {
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        let (len, size) = (self.len_bytes(), self.size_bytes());
        if len < size {
            extend(&self.file, len, size).map_err(|errno| os_error(&errno.into(), "extend", &self.name))?;
            self.len_bytes.store(size, Ordering::Relaxed);
        }
        if let Some(new) = unwritten.take() {
            new.keep().map_err(|error| os_error(&error, "make", &self.name))?;
        }
        self.is_taken.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes it `to` bytes long, if it is shorter. `file` is the calling core's.
    pub(super) async fn grow(&self, to: u64, file: &File) -> Result<()> {
        let _resizing = self.resizing.lock().await;
        let from = self.size_bytes();
        if to <= from {
            return Ok(());
        }
        self.take()?;
        match file.allocate(0, from, to - from).await {
            Ok(()) => {}
            // A file system that cannot reserve space: a sparse end will do.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                rustix::fs::ftruncate(&self.file, to)
                    .map_err(|errno| Error::os(errno.raw_os_error(), "grow").at(self.name.clone()))?;
            }
            Err(error) => {
                // A file system that fills up keeps what it found until then.
                if let Err(errno) = rustix::fs::ftruncate(&self.file, from) {
                    debug!("{}: what a failed growth took stays with it: {errno}", self.name);
                }
                return Err(os_error(&error, "grow", &self.name));
            }
        }
        self.set(to);
        Ok(())
    }

    /// Gives back what is beyond `to` bytes, if it is longer.
    pub(super) async fn shrink(self: &Arc<Self>, to: u64) -> Result<()> {
        let resizing = Arc::clone(&self.resizing).lock_owned().await;
        let from = self.size_bytes();
        if to >= from {
            return Ok(());
        }
        self.take()?;
        self.size_bytes.store(to, Ordering::Relaxed);
        let extent = Arc::clone(self);
        // A file system may take long to give back many gigabytes. The lock goes with it: it is
        // done to its end, also if nobody awaits that.
        let shrunk = rt::offload("shrink a file", move || {
            let shrunk = rustix::fs::ftruncate(&extent.file, to);
            extent.set(if shrunk.is_ok() { to } else { from });
            drop(resizing);
            shrunk
        });
        match shrunk.await {
            Ok(result) => result.map_err(|errno| os_error(&errno.into(), "shrink", &self.name)),
            Err(error) => {
                self.set(from);
                Err(Error::new(ErrorKind::Cancelled, "shrink").because(error.to_string()))
            }
        }
    }

    /// As [`Namespace::next_data`](super::super::Namespace::next_data).
    pub(super) fn next_data(&self, offset: u64) -> Option<u64> {
        if offset >= self.len_bytes() {
            return None;
        }
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => Some(data),
            Err(Errno::NXIO) => None,
            // A device, or a file system that does not know its holes.
            Err(_) => Some(offset),
        }
    }
}

/// A file that was just made; removed when this is dropped.
#[derive(Debug)]
struct NewFile {
    /// `None` once it is to stay.
    path: Option<PathBuf>,
    file: OwnedFd,
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

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
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
