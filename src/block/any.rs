//! Whichever kind of namespace an address names.

use super::nvme::{NvmeDevice, NvmeNamespace};
use super::{Device, KernelNamespace, MemoryNamespace, Namespace, NamespaceAddress, NamespaceInfo};
use crate::error::{BufError, Result};
use crate::mem::DmaBuf;

/// The block size of memory, in bytes: that of most devices.
const MEMORY_BLOCK_BYTES: u32 = 4096;

/// A namespace of a kind that was chosen at run time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyNamespace {
    /// `mem:`
    Memory(MemoryNamespace),
    /// `file:` and `blk:`
    Kernel(KernelNamespace),
    /// `nvme:`
    Nvme(NvmeNamespace),
}

impl AnyNamespace {
    /// Opens what `address` names.
    ///
    /// # Errors
    ///
    /// As for [`MemoryNamespace::new`], [`KernelNamespace::open_file`] and
    /// [`KernelNamespace::open_block_device`].
    pub async fn open(address: &NamespaceAddress) -> Result<Self> {
        match address {
            NamespaceAddress::Memory { size_bytes } => {
                MemoryNamespace::new(address.to_string(), *size_bytes, MEMORY_BLOCK_BYTES).map(Self::Memory)
            }
            NamespaceAddress::File { path, size_bytes } => {
                KernelNamespace::open_file(path, *size_bytes).await.map(Self::Kernel)
            }
            NamespaceAddress::Block { path } => {
                KernelNamespace::open_block_device(path).await.map(Self::Kernel)
            }
            NamespaceAddress::Nvme { controller, namespace } => {
                NvmeDevice::open(controller, *namespace).await?.attach().await.map(Self::Nvme)
            }
        }
    }
}

impl Namespace for AnyNamespace {
    fn info(&self) -> &NamespaceInfo {
        match self {
            Self::Memory(memory) => memory.info(),
            Self::Kernel(kernel) => kernel.info(),
            Self::Nvme(nvme) => nvme.info(),
        }
    }

    fn size_bytes(&self) -> u64 {
        match self {
            Self::Memory(memory) => memory.size_bytes(),
            Self::Kernel(kernel) => kernel.size_bytes(),
            Self::Nvme(nvme) => nvme.size_bytes(),
        }
    }

    async fn read(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        match self {
            Self::Memory(memory) => memory.read(offset, buf).await,
            Self::Kernel(kernel) => kernel.read(offset, buf).await,
            Self::Nvme(nvme) => nvme.read(offset, buf).await,
        }
    }

    async fn write(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        match self {
            Self::Memory(memory) => memory.write(offset, buf).await,
            Self::Kernel(kernel) => kernel.write(offset, buf).await,
            Self::Nvme(nvme) => nvme.write(offset, buf).await,
        }
    }

    async fn flush(&self) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.flush().await,
            Self::Kernel(kernel) => kernel.flush().await,
            Self::Nvme(nvme) => nvme.flush().await,
        }
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.trim(offset, len).await,
            Self::Kernel(kernel) => kernel.trim(offset, len).await,
            Self::Nvme(nvme) => nvme.trim(offset, len).await,
        }
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.grow(size_bytes).await,
            Self::Kernel(kernel) => kernel.grow(size_bytes).await,
            Self::Nvme(nvme) => nvme.grow(size_bytes).await,
        }
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.shrink(size_bytes).await,
            Self::Kernel(kernel) => kernel.shrink(size_bytes).await,
            Self::Nvme(nvme) => nvme.shrink(size_bytes).await,
        }
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        match self {
            Self::Memory(memory) => memory.next_data(offset),
            Self::Kernel(kernel) => kernel.next_data(offset),
            Self::Nvme(nvme) => nvme.next_data(offset),
        }
    }
}
