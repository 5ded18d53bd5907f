//! What a core has of a file or a block device.

use std::io;
use std::path::Path;
use std::rc::Rc;

use super::super::namespace::{read_copied, write_copied, write_zeros};
use super::super::stats::{NamespaceStats, OperationStats, SharedStats};
use super::super::{Device, Namespace, NamespaceInfo};
use super::counted::Counted;
use super::{FileKind, KernelDevice, os_error};
use crate::error::{BufError, Error, ErrorKind, Outcome, Result};
use crate::kernel::{File, WriteFlags};
use crate::mem::{DmaBuf, IoBuf, Slice};

/// A file or a block device, as one core uses it.
#[derive(Clone, Debug)]
pub struct KernelNamespace(Rc<Attached>);

#[derive(Debug)]
struct Attached {
    /// Before the device, which the last of them closes.
    file: File,
    stats: SharedStats,
    device: KernelDevice,
}

impl KernelNamespace {
    /// Opens a file for this core alone: [`KernelDevice::open_file`], and attaches to it.
    ///
    /// # Errors
    ///
    /// As for [`KernelDevice::open_file`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open_file(path: &Path, size_bytes: Option<u64>) -> Result<Self> {
        KernelDevice::open_file(path, size_bytes).await?.attach().await
    }

    /// Opens a block device for this core alone: [`KernelDevice::open_block_device`], and attaches
    /// to it.
    ///
    /// # Errors
    ///
    /// As for [`KernelDevice::open_block_device`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open_block_device(path: &Path) -> Result<Self> {
        KernelDevice::open_block_device(path).await?.attach().await
    }

    pub(super) fn new(device: KernelDevice, file: File, stats: SharedStats) -> Self {
        Self(Rc::new(Attached { file, stats, device }))
    }

    fn begin(&self, kind: fn(&mut NamespaceStats) -> &mut OperationStats) -> Counted<'_> {
        Counted::begin(&self.0.stats, kind)
    }

    fn check(&self, operation: &'static str, offset: u64, len: u64) -> Result<()> {
        self.info().check_range(operation, offset, len, self.size_bytes())
    }

    /// Checks a change, and takes from the file system what it needs first.
    fn check_change(&self, operation: &'static str, offset: u64, len: u64) -> Result<()> {
        self.check(operation, offset, len)?;
        self.info().check_writable(operation)?;
        self.0.device.0.extent.take()
    }

    fn place(&self, offset: u64) -> String {
        format!("{} offset {offset}", self.info().name)
    }

    fn read_failed(&self, error: &io::Error, offset: u64) -> Error {
        os_error(error, "read", &self.place(offset)).outcome_is(Outcome::NotStarted)
    }

    fn write_failed(&self, error: &io::Error, offset: u64) -> Error {
        // Thin volumes say the same when they have no room.
        if error.raw_os_error() == Some(libc::ENOSPC) && self.ends_before(offset) {
            return self.gone("write", offset).outcome_is(Outcome::Unknown);
        }
        os_error(error, "write", &self.place(offset)).outcome_is(Outcome::Unknown)
    }

    fn shortened(&self, offset: u64) -> Error {
        if self.ends_before(offset) {
            return self.gone("read", offset).outcome_is(Outcome::NotStarted);
        }
        Error::new(ErrorKind::Corrupt, "read")
            .at(self.place(offset))
            .because("the file ends here: it was shortened while it was open")
    }

    fn wrote_nothing(&self, offset: u64) -> Error {
        self.write_failed(&io::Error::from_raw_os_error(libc::ENOSPC), offset)
    }

    /// Whether this is a block device that has no byte at `offset` any more. One that was pulled
    /// out ends at its first byte.
    fn ends_before(&self, offset: u64) -> bool {
        let end = || rustix::fs::seek(self.0.file.descriptor(), rustix::fs::SeekFrom::End(0));
        self.0.device.0.kind == FileKind::BlockDevice && end().is_ok_and(|end| end <= offset)
    }

    fn gone(&self, operation: &'static str, offset: u64) -> Error {
        Error::new(ErrorKind::Closed, operation)
            .at(self.place(offset))
            .because("the device was removed, or is smaller than when it was opened")
    }

    async fn read_all(&self, offset: u64, mut buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        let len = buf.len();
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            // Only before the first write is the file shorter than the namespace.
            if at >= self.0.device.0.extent.len_bytes() {
                buf[done..].fill(0);
                break;
            }
            let (result, part) = self.0.file.read_at(at, buf.slice(done..len)).await;
            buf = Slice::into_inner(part);
            match result {
                Ok(0) => return Err(BufError::new(self.shortened(at), buf)),
                Ok(read) => done += read as usize,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(BufError::new(self.read_failed(&error, at), buf)),
            }
        }
        Ok(buf)
    }

    async fn write_all(
        &self,
        offset: u64,
        mut buf: DmaBuf,
        flags: WriteFlags,
    ) -> Result<DmaBuf, BufError<DmaBuf>> {
        let len = buf.len();
        // The kernel does such a one at once, or not at all.
        let is_atomic = self.0.device.0.atomic.has(offset, len as u64);
        let flags = if is_atomic { flags.and(WriteFlags::ATOMIC) } else { flags };
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (result, part) = self.0.file.write_at_with(at, buf.slice(done..len), flags).await;
            buf = Slice::into_inner(part);
            match result {
                Ok(0) => return Err(BufError::new(self.wrote_nothing(at), buf)),
                Ok(written) => done += written as usize,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(BufError::new(self.write_failed(&error, at), buf)),
            }
        }
        Ok(buf)
    }

    async fn read_pieces(
        &self,
        offset: u64,
        mut bufs: Vec<DmaBuf>,
        len: usize,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (result, pieces) = self.0.file.read_vectored_at(at, bufs, done).await;
            bufs = pieces;
            match result {
                Ok(0) => return Err(BufError::new(self.shortened(at), bufs)),
                Ok(read) => done += read as usize,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(BufError::new(self.read_failed(&error, at), bufs)),
            }
        }
        Ok(bufs)
    }

    async fn write_pieces(
        &self,
        offset: u64,
        mut bufs: Vec<DmaBuf>,
        len: usize,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (result, pieces) = self.0.file.write_vectored_at(at, bufs, done).await;
            bufs = pieces;
            match result {
                Ok(0) => return Err(BufError::new(self.wrote_nothing(at), bufs)),
                Ok(written) => done += written as usize,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(BufError::new(self.write_failed(&error, at), bufs)),
            }
        }
        Ok(bufs)
    }

    /// Whether the kernel takes these pieces as they are.
    fn takes(&self, bufs: &[DmaBuf]) -> bool {
        let Some(alignment) = self.0.device.0.alignment else { return true };
        let (memory, offset) = (alignment.memory as usize, alignment.offset as usize);
        bufs.iter().all(|buf| buf.as_ptr().addr().is_multiple_of(memory) && buf.len().is_multiple_of(offset))
    }

    /// Copying is another way to do it.
    fn count_copied(&self, bytes: usize) {
        self.0.stats.borrow_mut().copied_bytes += bytes as u64;
    }
}

impl Namespace for KernelNamespace {
    fn info(&self) -> &NamespaceInfo {
        self.0.device.info()
    }

    fn size_bytes(&self) -> u64 {
        self.0.device.0.extent.size_bytes()
    }

    async fn read(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        let len = buf.len() as u64;
        if let Err(error) = self.check("read", offset, len) {
            return Err(BufError::new(error, buf));
        }
        let counted = self.begin(|stats| &mut stats.reads);
        counted.end(self.read_all(offset, buf).await, len)
    }

    async fn write(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        let len = buf.len() as u64;
        if let Err(error) = self.check_change("write", offset, len) {
            return Err(BufError::new(error, buf));
        }
        let counted = self.begin(|stats| &mut stats.writes);
        counted.end(self.write_all(offset, buf, WriteFlags::NONE).await, len)
    }

    async fn read_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        let len = total(&bufs);
        if let Err(error) = self.check("read", offset, len as u64) {
            return Err(BufError::new(error, bufs));
        }
        let is_there = offset + len as u64 <= self.0.device.0.extent.len_bytes();
        if !is_there || !self.takes(&bufs) {
            self.count_copied(len);
            return read_copied(self, offset, bufs).await;
        }
        let counted = self.begin(|stats| &mut stats.reads);
        counted.end(self.read_pieces(offset, bufs, len).await, len as u64)
    }

    async fn write_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        let len = total(&bufs);
        if let Err(error) = self.check_change("write", offset, len as u64) {
            return Err(BufError::new(error, bufs));
        }
        // The kernel takes one piece of memory for an atomic write.
        if !self.takes(&bufs) || self.0.device.0.atomic.has(offset, len as u64) {
            self.count_copied(len);
            return write_copied(self, offset, bufs).await;
        }
        let counted = self.begin(|stats| &mut stats.writes);
        counted.end(self.write_pieces(offset, bufs, len).await, len as u64)
    }

    async fn write_durable(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        let len = buf.len() as u64;
        if let Err(error) = self.check_change("write", offset, len) {
            return Err(BufError::new(error, buf));
        }
        // The kernel forces it to the medium where the device can do that, and flushes where not.
        let by_kernel = self.info().volatile_cache && self.0.device.0.fua;
        let flags = if by_kernel { WriteFlags::DURABLE } else { WriteFlags::NONE };
        let counted = self.begin(|stats| &mut stats.writes);
        let written = counted.end(self.write_all(offset, buf, flags).await, len)?;
        if !self.0.device.0.fua
            && let Err(error) = self.flush().await
        {
            return Err(BufError::new(error, written));
        }
        Ok(written)
    }

    async fn flush(&self) -> Result<()> {
        if !self.info().volatile_cache || self.info().read_only {
            return Ok(());
        }
        let counted = self.begin(|stats| &mut stats.flushes);
        counted
            .end(self.0.file.sync_data().await, 0)
            .map_err(|error| os_error(&error, "flush", &self.info().name).outcome_is(Outcome::Unknown))
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.check("trim", offset, len)?;
        self.info().check_writable("trim")?;
        if !self.info().trim || offset >= self.0.device.0.extent.len_bytes() {
            // There is nothing to give back.
            return Ok(());
        }
        let counted = self.begin(|stats| &mut stats.trims);
        let trimmed = match self.0.device.0.kind {
            FileKind::RegularFile => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                self.0.file.allocate(mode, offset, len).await
            }
            FileKind::BlockDevice => self.0.file.discard(offset, len).await,
        };
        let trimmed = match trimmed {
            // A hint that the device or the file system does not take.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV)) => Ok(()),
            trimmed => trimmed,
        };
        counted
            .end(trimmed, len)
            .map_err(|error| os_error(&error, "trim", &self.place(offset)).outcome_is(Outcome::Unknown))
    }

    async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.check_change("allocate", offset, len)?;
        if !self.info().sparse {
            return Ok(());
        }
        loop {
            let allocated = self.0.file.allocate(libc::FALLOC_FL_KEEP_SIZE, offset, len).await;
            return match allocated {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                // A file system that cannot reserve space.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV)) => Ok(()),
                allocated => allocated.map_err(|error| os_error(&error, "allocate", &self.place(offset))),
            };
        }
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.check_change("write zeroes", offset, len)?;
        if !self.info().write_zeroes {
            return write_zeros(self, offset, len).await;
        }
        let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let counted = self.begin(|stats| &mut stats.write_zeroes);
        match self.0.file.allocate(mode, offset, len).await {
            // This one file cannot, though others of its file system can.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV)) => {
                drop(counted);
                write_zeros(self, offset, len).await
            }
            zeroed => counted.end(zeroed, len).map_err(|error| {
                os_error(&error, "write zeroes", &self.place(offset)).outcome_is(Outcome::Unknown)
            }),
        }
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        let info = self.info();
        let block = u64::from(info.block_size_bytes);
        let to = size_bytes.checked_next_multiple_of(block).unwrap_or(u64::MAX);
        if to <= self.size_bytes() {
            return Ok(());
        }
        info.check_writable("grow")?;
        if to > info.max_size_bytes {
            return Err(Error::new(ErrorKind::NoSpace, "grow")
                .at(info.name.clone())
                .because(format!("it cannot grow beyond {} bytes", info.max_size_bytes)));
        }
        self.0.device.0.extent.grow(to, &self.0.file).await
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        let info = self.info();
        let block = u64::from(info.block_size_bytes);
        let to = size_bytes.checked_next_multiple_of(block).unwrap_or(u64::MAX).max(info.min_size_bytes);
        if to >= self.size_bytes() {
            return Ok(());
        }
        info.check_writable("shrink")?;
        self.0.device.0.extent.shrink(to).await
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        self.0.device.0.extent.next_data(offset)
    }
}

fn total(bufs: &[DmaBuf]) -> usize {
    bufs.iter().map(|buf| buf.len()).sum()
}
