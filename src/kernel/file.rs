//! Files and block devices.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::mem::{IoBuf, IoBufMut};
use crate::reactor::{FixedFile, PolledDevice, ops};
use crate::rt;

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
    /// Until it turns out that it does not.
    discards_by_ring: Cell<bool>,
}

/// What a write asks for besides being done (pwritev2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteFlags(i32);

impl WriteFlags {
    /// Nothing.
    pub(crate) const NONE: Self = Self(0);
    /// It is done when the bytes, and what it takes to find them, are durable.
    pub(crate) const DURABLE: Self = Self(libc::RWF_DSYNC);
    /// After a power failure all of it is there, or nothing.
    pub(crate) const ATOMIC: Self = Self(libc::RWF_ATOMIC);

    /// Both.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl File {
    pub(crate) fn new(file: Rc<OwnedFd>) -> Self {
        Self { fixed: None, polled: None, file, discards_by_ring: Cell::new(true) }
    }

    /// Has the kernel look the file up once instead of for each operation, if the ring has a free
    /// fixed-file slot: for files that are used often.
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
        self.write_at_with(offset, buf, WriteFlags::NONE)
    }

    /// The same, with more to ask for.
    pub(crate) fn write_at_with<B: IoBuf>(
        &self,
        offset: u64,
        buf: B,
        flags: WriteFlags,
    ) -> impl Future<Output = (io::Result<u32>, B)> + use<B> {
        ops::write_at(&self.file, offset, buf, flags.0)
    }

    /// Reads at `offset` (bytes) into `bufs` behind their first `skip` bytes. All their bytes are
    /// initialised.
    pub(crate) fn read_vectored_at<B: IoBufMut>(
        &self,
        offset: u64,
        bufs: Vec<B>,
        skip: usize,
    ) -> impl Future<Output = (io::Result<u32>, Vec<B>)> + use<B> {
        ops::read_vectored_at(&self.file, offset, bufs, skip)
    }

    /// Writes `bufs` behind their first `skip` bytes at `offset` (bytes).
    pub(crate) fn write_vectored_at<B: IoBuf>(
        &self,
        offset: u64,
        bufs: Vec<B>,
        skip: usize,
    ) -> impl Future<Output = (io::Result<u32>, Vec<B>)> + use<B> {
        ops::write_vectored_at(&self.file, offset, bufs, skip)
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

    /// Tells a block device that `len` bytes from `offset` hold nothing of use.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.discards_by_ring.get() {
            match ops::discard(&self.file, offset, len).await {
                // A ring from before Linux 6.12: from now on a thread does it.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                    self.discards_by_ring.set(false);
                }
                result => return result,
            }
        }
        let device = self.file.try_clone()?;
        let discarded = rt::offload("discard", move || ops::discard_now(&device, offset, len)).await;
        discarded.map_err(io::Error::other)?
    }
}
