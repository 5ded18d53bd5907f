//! What a core has of an NVMe namespace that the kernel's driver passes commands to.

use super::super::queue::QueueNamespace;
use super::super::{Namespace, NamespaceInfo};
use super::PassthroughDevice;
use super::port::PassthroughPort;
use crate::error::{BufError, BufResult, Result};
use crate::mem::DmaBuf;

/// An NVMe namespace, as one core uses it: a ring of its own. Clones share it.
#[derive(Clone, Debug)]
pub struct PassthroughNamespace {
    queue: QueueNamespace<PassthroughPort>,
    /// After the queue: the last of them closes it.
    _device: PassthroughDevice,
}

impl PassthroughNamespace {
    pub(super) fn attach(port: PassthroughPort, device: PassthroughDevice) -> Self {
        let queue = QueueNamespace::attach(port, device.0.info.clone());
        Self { queue, _device: device }
    }
}

impl Namespace for PassthroughNamespace {
    fn info(&self) -> &NamespaceInfo {
        self.queue.info()
    }

    fn size_bytes(&self) -> u64 {
        self.queue.size_bytes()
    }

    async fn read(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        self.queue.read(offset, buf).await
    }

    async fn write(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        self.queue.write(offset, buf).await
    }

    async fn read_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        self.queue.read_vectored(offset, bufs).await
    }

    async fn write_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        self.queue.write_vectored(offset, bufs).await
    }

    async fn write_durable(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        self.queue.write_durable(offset, buf).await
    }

    async fn flush(&self) -> Result<()> {
        self.queue.flush().await
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.queue.trim(offset, len).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.queue.write_zeroes(offset, len).await
    }

    async fn compare_and_write(
        &self,
        offset: u64,
        expected: DmaBuf,
        new: DmaBuf,
    ) -> BufResult<bool, (DmaBuf, DmaBuf)> {
        self.queue.compare_and_write(offset, expected, new).await
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        self.queue.grow(size_bytes).await
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        self.queue.shrink(size_bytes).await
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        self.queue.next_data(offset)
    }
}
