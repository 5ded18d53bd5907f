//! Files and block devices, through the kernel's own drivers.
//!
//! I/O goes past the page cache where that can be had. A core does it with its io_uring, or on a
//! thread of its pool where io_uring is refused.

mod counted;
mod extent;
mod ioctl;
mod limits;
mod namespace;
mod open;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use tracing::{debug, warn};

use super::{Device, NamespaceInfo, stats};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::kernel::File;
use extent::Extent;
use limits::{Allocates, AtomicWrites, DirectAlignment, DirectLimits};
use open::Opened;

pub(super) use ioctl::is_read_only;
pub(super) use limits::Sysfs;
pub use namespace::KernelNamespace;
pub(super) use open::{lock, patiently};

/// The block size of a file: what nearly every file system's direct I/O accepts.
const FILE_BLOCK_BYTES: u32 = 4096;
/// The largest block that a namespace has.
const MAX_BLOCK_BYTES: u32 = 65_536;
/// The largest single transfer of what does not say: well under the kernel's own limit of 2 GiB.
const MAX_TRANSFER_BYTES: u32 = 16 << 20;
/// How far a file without a size may grow: the smallest limit of the usual file systems (ext4 with
/// 4 KiB blocks).
const MAX_FILE_BYTES: u64 = 16 << 40;

/// A file or a block device, locked against other processes for as long as it is open. Each core
/// that attaches has a descriptor of its own, in the table of its own ring.
///
/// # Atomic writes
///
/// Where the kernel has them (`RWF_ATOMIC`, Linux 6.11),
/// [`atomic_write_bytes`](NamespaceInfo::atomic_write_bytes) is the largest: a
/// [`write`](super::Namespace::write) of a power of two bytes up to that, aligned to its own
/// length, is old or new after a power failure. Of longer ones, and others, the kernel promises
/// nothing.
#[derive(Clone, Debug)]
pub struct KernelDevice(Arc<KernelShared>);

#[derive(Debug)]
struct KernelShared {
    info: NamespaceInfo,
    extent: Arc<Extent>,
    kind: FileKind,
    /// What direct I/O demands of each piece of memory; `None` through the page cache.
    alignment: Option<DirectAlignment>,
    atomic: AtomicWrites,
    /// Whether the kernel may force a durable write to the medium, if it finds that the device can
    /// do that; otherwise it is told to flush.
    fua: bool,
}

/// What a range is trimmed and zeroed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    RegularFile,
    BlockDevice,
}

impl KernelDevice {
    /// Opens, or makes, the file at `path`. With `size_bytes` (rounded up to 4 KiB) it has that
    /// size for good; without, it grows as needed.
    ///
    /// Opening changes nothing: the file gets its size with the first write or growth, and until
    /// then the part that it does not have reads as zeros. A file that was made for a device
    /// through which nothing was written is removed again. One that may only be read is read-only
    /// ([`NamespaceInfo::read_only`]).
    ///
    /// Uses direct I/O where the file system has it; otherwise says in the log that writes go
    /// through the page cache.
    ///
    /// # Errors
    ///
    /// [`InUse`](ErrorKind::InUse) if another process has it open,
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is not a regular file or larger than
    /// `size_bytes`, or the kernel's code.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open_file(path: &Path, size_bytes: Option<u64>) -> Result<Self> {
        let name = format!("file:{}", path.display());
        let Opened { file, direct, made, read_only } = open::open_file(path, &name).await?;
        if !direct {
            warn!(
                "{name}: this file system has no direct I/O; reads and writes go through the page cache \
                 (durability is the same, caching is double)"
            );
        }
        let limits = DirectLimits::of(&file);
        let offsets = limits.alignment.map_or(0, |alignment| alignment.offset);
        let block_size_bytes = offsets.clamp(FILE_BLOCK_BYTES, MAX_BLOCK_BYTES);
        let block = u64::from(block_size_bytes);
        // Asked now: while this waited for the lock, its holder may have let the file grow.
        let failed = |errno: Errno| open_error(&errno.into(), &name);
        let found = rustix::fs::fstat(&file).map_err(failed)?;
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
        let allocates = Allocates::of(&file);
        let info = NamespaceInfo {
            max_size_bytes,
            min_size_bytes,
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            trim: true,
            zeros_after_trim: allocates.holes,
            sparse: true,
            write_zeroes: allocates.zeros,
            direct,
            read_only,
            ..NamespaceInfo::new(name, size, block_size_bytes)
        };
        let made = made.then_some(path);
        Self::new(file, info, limits, len, made, FileKind::RegularFile, true)
    }

    /// Opens the block device at `path`, exclusively.
    ///
    /// # Errors
    ///
    /// [`InUse`](ErrorKind::InUse) if it is mounted or another process has it open,
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is not a block device, or the kernel's code.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open_block_device(path: &Path) -> Result<Self> {
        Self::open_block_device_with(path, true).await
    }

    /// The same, without forced writes unless `fua`.
    pub(super) async fn open_block_device_with(path: &Path, fua: bool) -> Result<Self> {
        let name = format!("blk:{}", path.display());
        let Opened { file, direct, read_only, .. } = open::open_block_device(path, &name).await?;
        let failed = |errno: Errno| open_error(&errno.into(), &name);
        let block_size_bytes = rustix::fs::ioctl_blksszget(&file).map_err(failed)?;
        let size_bytes = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(failed)?;
        let mut info = NamespaceInfo {
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            direct,
            read_only,
            ..NamespaceInfo::new(name, size_bytes, block_size_bytes)
        };
        Sysfs::of(&file).describe(&mut info);
        // The page cache is one too.
        info.volatile_cache |= !direct;
        info.forced_unit_access &= fua;
        let limits = DirectLimits::of(&file);
        Self::new(file, info, limits, size_bytes, None, FileKind::BlockDevice, fua)
    }

    fn new(
        file: OwnedFd,
        mut info: NamespaceInfo,
        limits: DirectLimits,
        len_bytes: u64,
        made: Option<&Path>,
        kind: FileKind,
        fua: bool,
    ) -> Result<Self> {
        let (alignment, atomic) = if info.direct {
            let block = info.block_size_bytes;
            let of_blocks = DirectAlignment { memory: block, offset: block };
            (Some(limits.alignment.unwrap_or(of_blocks)), limits.atomic)
        } else {
            (None, AtomicWrites::default())
        };
        info.atomic_write_bytes = atomic.max_bytes;
        let extent = Extent::new(info.name.clone(), file, info.size_bytes, len_bytes, made)
            .map_err(|error| open_error(&error, &info.name))?;
        Ok(Self(Arc::new(KernelShared { info, extent: Arc::new(extent), kind, alignment, atomic, fua })))
    }
}

impl Device for KernelDevice {
    type Namespace = KernelNamespace;

    fn info(&self) -> &NamespaceInfo {
        &self.0.info
    }

    async fn attach(&self) -> Result<KernelNamespace> {
        let info = &self.0.info;
        let descriptor = self.0.extent.descriptor();
        let descriptor = descriptor.map_err(|error| os_error(&error, "attach to", &info.name))?;
        let mut file = File::new(Rc::new(descriptor));
        if self.0.kind == FileKind::BlockDevice && info.direct && info.size_bytes > 0 {
            poll(&mut file, info);
        }
        file.register();
        Ok(KernelNamespace::new(self.clone(), file, stats::register(&info.name)))
    }
}

/// Polls a device whose driver has poll queues.
fn poll(device: &mut File, info: &NamespaceInfo) {
    match device.poll(info.block_size_bytes) {
        Ok(()) => debug!("{}: polled, its reads and writes need no interrupts", info.name),
        Err(error) => debug!("{}: not polled, its reads and writes interrupt: {error}", info.name),
    }
}

pub(super) fn open_error(error: &io::Error, name: &str) -> Error {
    os_error(error, "open", name).outcome_is(Outcome::NotStarted)
}

pub(super) fn os_error(error: &io::Error, operation: &'static str, place: &str) -> Error {
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
