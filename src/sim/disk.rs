//! The disk of a simulated machine.

use std::ops::Deref;

use crate::block::{MemoryDevice, MemoryNamespace, MemoryOptions, Namespace, NamespaceInfo};
use crate::error::{BufError, BufResult, Result};
use crate::mem::DmaBuf;

/// A [`MemoryDevice`] together with a namespace of it: its time is that of the core that uses it,
/// which is virtual in a simulation, and its seed decides the rest.
///
/// It outlives the executors that use it, as a disk outlives processes.
#[derive(Clone, Debug)]
pub struct Disk {
    device: MemoryDevice,
    namespace: MemoryNamespace,
}

impl Disk {
    /// A disk of zeros. `seed` decides latencies, and what power failures and other faults take.
    ///
    /// # Panics
    ///
    /// If the options contradict each other.
    #[track_caller]
    pub fn new(options: MemoryOptions, seed: u64) -> Self {
        let device = match MemoryDevice::open("sim:disk", options.seed(seed)) {
            Ok(device) => device,
            Err(error) => panic!("{error}"),
        };
        let namespace = device.namespace();
        Self { device, namespace }
    }

    /// The same disk, for another executor: the machine after a restart.
    #[must_use]
    pub fn attach_again(&self) -> Self {
        Self { device: self.device.clone(), namespace: self.device.namespace() }
    }
}

impl Deref for Disk {
    type Target = MemoryDevice;

    fn deref(&self) -> &MemoryDevice {
        &self.device
    }
}

impl Namespace for Disk {
    fn info(&self) -> &NamespaceInfo {
        self.namespace.info()
    }

    fn size_bytes(&self) -> u64 {
        self.namespace.size_bytes()
    }

    async fn read(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        self.namespace.read(offset, buf).await
    }

    async fn write(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        self.namespace.write(offset, buf).await
    }

    async fn read_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        self.namespace.read_vectored(offset, bufs).await
    }

    async fn write_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        self.namespace.write_vectored(offset, bufs).await
    }

    async fn write_durable(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        self.namespace.write_durable(offset, buf).await
    }

    async fn flush(&self) -> Result<()> {
        self.namespace.flush().await
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.namespace.trim(offset, len).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.namespace.write_zeroes(offset, len).await
    }

    async fn compare_and_write(
        &self,
        offset: u64,
        expected: DmaBuf,
        new: DmaBuf,
    ) -> BufResult<bool, (DmaBuf, DmaBuf)> {
        self.namespace.compare_and_write(offset, expected, new).await
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        self.namespace.grow(size_bytes).await
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        self.namespace.shrink(size_bytes).await
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        self.namespace.next_data(offset)
    }
}
