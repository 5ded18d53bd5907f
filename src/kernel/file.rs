//! Files and block devices.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::mem::{IoBuf, IoBufMut};
use crate::reactor::{FixedFile, PolledDevice, ops};

/// An open file or block device.
///
/// Reads and writes may transfer only a part. Their buffers are the operation's until the kernel is
/// done, also if the future is dropped.
#[derive(Debug)]
pub(crate) struct File {
    /// Before the file, which these two hold open.
    fixed: Option<FixedFile>,
    polled: Option<PolledDevice>,
    file: Rc<OwnedFd>,
}

impl File {
    pub(crate) fn new(file: Rc<OwnedFd>) -> Self {
        Self { fixed: None, polled: None, file }
    }

    /// Looks the file up once and not for each operation, where the core has a ring with room for
    /// that in its table: for files that are used often.
    pub(crate) fn register(&mut self) {
        self.fixed = FixedFile::register(&self.file);
    }

    /// Has the core ask this block device for the completions of its reads and writes, instead of
    /// waiting for interrupts.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) if the core's reactor cannot or the device's
    /// driver has no poll queues, or the kernel's code.
    pub(crate) fn poll(&mut self, block_bytes: u32) -> io::Result<()> {
        self.polled = Some(PolledDevice::new(&self.file, block_bytes)?);
        Ok(())
    }

    pub(crate) fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.file
    }

    pub(crate) fn into_descriptor(self) -> Rc<OwnedFd> {
        self.file
    }

    /// Reads at `offset` (bytes) into `buf`.
    pub(crate) fn read_at<B: IoBufMut>(
        &self,
        offset: u64,
        buf: B,
    ) -> impl Future<Output = (io::Result<u32>, B)> + use<B> {
        ops::read_at(&self.file, offset, buf)
    }

    /// Writes `buf` at `offset` (bytes).
    pub(crate) fn write_at<B: IoBuf>(
        &self,
        offset: u64,
        buf: B,
    ) -> impl Future<Output = (io::Result<u32>, B)> + use<B> {
        ops::write_at(&self.file, offset, buf)
    }

    /// Makes the data, and what it takes to find them, durable: fdatasync(2).
    pub(crate) fn sync_data(&self) -> impl Future<Output = io::Result<()>> + use<> {
        ops::fsync(&self.file)
    }

    /// Allocates, punches or zeroes, as `mode` says: fallocate(2).
    pub(crate) fn allocate(
        &self,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> impl Future<Output = io::Result<()>> + use<> {
        ops::fallocate(&self.file, mode, offset, len)
    }
}
