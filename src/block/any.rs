//! Whichever kind of namespace an address names.

#[cfg(feature = "spdk")]
use super::spdk::{SpdkDevice, SpdkNamespace};
use super::{KernelNamespace, MemoryNamespace, Namespace, NamespaceAddress, NamespaceConfig, NamespaceInfo};
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
    /// `spdk:`
    #[cfg(feature = "spdk")]
    Spdk(SpdkNamespace),
}

impl AnyNamespace {
    /// Opens what `address` names, with the default configuration.
    ///
    /// # Errors
    ///
    /// As for [`MemoryNamespace::new`], [`KernelNamespace::open_file`] and
    /// [`KernelNamespace::open_block_device`].
    pub async fn open(address: &NamespaceAddress) -> Result<Self> {
        Self::open_with(address, &NamespaceConfig::default()).await
    }

    /// Opens what `address` names.
    ///
    /// # Errors
    ///
    /// As for [`MemoryNamespace::new`], [`KernelNamespace::open_file`],
    /// [`KernelNamespace::open_block_device`] and `spdk::SpdkDevice::open`.
    pub async fn open_with(address: &NamespaceAddress, config: &NamespaceConfig) -> Result<Self> {
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
            #[cfg(feature = "spdk")]
            NamespaceAddress::Spdk(spdk) => {
                use super::Device;
                SpdkDevice::open(spdk, config).await?.attach().await.map(Self::Spdk)
            }
            #[cfg(not(feature = "spdk"))]
            NamespaceAddress::Spdk(spdk) => {
                let _ = config;
                Err(super::address::spdk_is_not_built_in().at(spdk.to_string()))
            }
        }
    }
}

impl Namespace for AnyNamespace {
    fn info(&self) -> &NamespaceInfo {
        match self {
            Self::Memory(memory) => memory.info(),
            Self::Kernel(kernel) => kernel.info(),
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.info(),
        }
    }

    fn size_bytes(&self) -> u64 {
        match self {
            Self::Memory(memory) => memory.size_bytes(),
            Self::Kernel(kernel) => kernel.size_bytes(),
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.size_bytes(),
        }
    }

    async fn read(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        match self {
            Self::Memory(memory) => memory.read(offset, buf).await,
            Self::Kernel(kernel) => kernel.read(offset, buf).await,
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.read(offset, buf).await,
        }
    }

    async fn write(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        match self {
            Self::Memory(memory) => memory.write(offset, buf).await,
            Self::Kernel(kernel) => kernel.write(offset, buf).await,
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.write(offset, buf).await,
        }
    }

    async fn flush(&self) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.flush().await,
            Self::Kernel(kernel) => kernel.flush().await,
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.flush().await,
        }
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.trim(offset, len).await,
            Self::Kernel(kernel) => kernel.trim(offset, len).await,
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.trim(offset, len).await,
        }
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.grow(size_bytes).await,
            Self::Kernel(kernel) => kernel.grow(size_bytes).await,
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.grow(size_bytes).await,
        }
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.shrink(size_bytes).await,
            Self::Kernel(kernel) => kernel.shrink(size_bytes).await,
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.shrink(size_bytes).await,
        }
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        match self {
            Self::Memory(memory) => memory.next_data(offset),
            Self::Kernel(kernel) => kernel.next_data(offset),
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.next_data(offset),
        }
    }
}
