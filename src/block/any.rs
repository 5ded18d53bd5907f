//! Whichever kind of namespace an address names.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::nvme::{NvmeDevice, NvmeNamespace};
#[cfg(feature = "spdk")]
use super::spdk::{SpdkDevice, SpdkNamespace};
use super::{
    Device, KernelDevice, KernelNamespace, MemoryDevice, MemoryNamespace, MemoryOptions, Namespace,
    NamespaceAddress, NamespaceConfig, NamespaceInfo, PassthroughDevice, PassthroughNamespace,
};
use crate::error::{BufError, BufResult, Result};
use crate::mem::DmaBuf;

/// A device of a kind that was chosen at run time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyDevice {
    /// `mem:`
    Memory(MemoryDevice),
    /// `file:` and `blk:`
    Kernel(KernelDevice),
    /// `ng:`
    Passthrough(PassthroughDevice),
    /// `nvme:`
    Nvme(NvmeDevice),
    /// `spdk:`
    #[cfg(feature = "spdk")]
    Spdk(SpdkDevice),
}

impl AnyDevice {
    /// Opens what `address` names, for every core of this process, with the default configuration.
    ///
    /// # Errors
    ///
    /// As for [`AnyDevice::open_with`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open(address: &NamespaceAddress) -> Result<Self> {
        Self::open_with(address, &NamespaceConfig::default()).await
    }

    /// Opens what `address` names, for every core of this process.
    ///
    /// # Errors
    ///
    /// As for [`MemoryDevice::open`], [`KernelDevice::open_file`],
    /// [`KernelDevice::open_block_device`], [`PassthroughDevice::open`], [`NvmeDevice::open`] and
    /// `spdk::SpdkDevice::open`.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open_with(address: &NamespaceAddress, config: &NamespaceConfig) -> Result<Self> {
        match address {
            NamespaceAddress::Memory { size_bytes } => {
                MemoryDevice::open(address.to_string(), MemoryOptions::new(*size_bytes)).map(Self::Memory)
            }
            NamespaceAddress::File { path, size_bytes } => {
                KernelDevice::open_file(path, *size_bytes).await.map(Self::Kernel)
            }
            NamespaceAddress::Block { path, fua } => {
                KernelDevice::open_block_device_with(path, *fua).await.map(Self::Kernel)
            }
            NamespaceAddress::NvmeGeneric { path, fua } => {
                PassthroughDevice::open_with(path, *fua).await.map(Self::Passthrough)
            }
            NamespaceAddress::Nvme { controller, namespace, fua } => {
                NvmeDevice::open_with(controller, *namespace, *fua).await.map(Self::Nvme)
            }
            #[cfg(feature = "spdk")]
            NamespaceAddress::Spdk(spdk) => SpdkDevice::open(spdk, config).await.map(Self::Spdk),
            #[cfg(not(feature = "spdk"))]
            NamespaceAddress::Spdk(spdk) => {
                // It configures SPDK alone.
                let _ = config;
                Err(super::address::spdk_is_not_built_in().at(spdk.to_string()))
            }
        }
    }
}

impl Device for AnyDevice {
    type Namespace = AnyNamespace;

    fn info(&self) -> &NamespaceInfo {
        match self {
            Self::Memory(device) => device.info(),
            Self::Kernel(device) => device.info(),
            Self::Passthrough(device) => device.info(),
            Self::Nvme(device) => device.info(),
            #[cfg(feature = "spdk")]
            Self::Spdk(device) => device.info(),
        }
    }

    async fn attach(&self) -> Result<AnyNamespace> {
        match self {
            Self::Memory(device) => device.attach().await.map(AnyNamespace::Memory),
            Self::Kernel(device) => device.attach().await.map(AnyNamespace::Kernel),
            Self::Passthrough(device) => device.attach().await.map(AnyNamespace::Passthrough),
            Self::Nvme(device) => device.attach().await.map(AnyNamespace::Nvme),
            #[cfg(feature = "spdk")]
            Self::Spdk(device) => device.attach().await.map(AnyNamespace::Spdk),
        }
    }
}

/// A namespace of a kind that was chosen at run time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyNamespace {
    /// `mem:`
    Memory(MemoryNamespace),
    /// `file:` and `blk:`
    Kernel(KernelNamespace),
    /// `ng:`
    Passthrough(PassthroughNamespace),
    /// `nvme:`
    Nvme(NvmeNamespace),
    /// `spdk:`
    #[cfg(feature = "spdk")]
    Spdk(SpdkNamespace),
}

impl AnyNamespace {
    /// Opens what `address` names and attaches the current core to it: for programs of one core.
    ///
    /// # Errors
    ///
    /// As for [`AnyDevice::open_with`] and [`Device::attach`].
    pub async fn open(address: &NamespaceAddress) -> Result<Self> {
        Self::open_with(address, &NamespaceConfig::default()).await
    }

    /// The same with a configuration.
    ///
    /// # Errors
    ///
    /// As for [`AnyNamespace::open`].
    pub async fn open_with(address: &NamespaceAddress, config: &NamespaceConfig) -> Result<Self> {
        AnyDevice::open_with(address, config).await?.attach().await
    }
}

/// Calls the same of whichever namespace it is.
macro_rules! each {
    ($any:expr, $namespace:ident => $call:expr) => {
        match $any {
            Self::Memory($namespace) => $call,
            Self::Kernel($namespace) => $call,
            Self::Passthrough($namespace) => $call,
            Self::Nvme($namespace) => $call,
            #[cfg(feature = "spdk")]
            Self::Spdk($namespace) => $call,
        }
    };
}

pin_project! {
    /// The future of a read or write of whichever namespace it is. Made by hand: an `async fn`
    /// would hold the buffer once more, and move it twice for each I/O.
    #[project = EachProjected]
    enum Each<M, K, P, N, S> {
        Memory { #[pin] future: M },
        Kernel { #[pin] future: K },
        Passthrough { #[pin] future: P },
        Nvme { #[pin] future: N },
        Spdk { #[pin] future: S },
    }
}

impl<M, K, P, N, S> Future for Each<M, K, P, N, S>
where
    M: Future,
    K: Future<Output = M::Output>,
    P: Future<Output = M::Output>,
    N: Future<Output = M::Output>,
    S: Future<Output = M::Output>,
{
    type Output = M::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<M::Output> {
        match self.project() {
            EachProjected::Memory { future } => future.poll(cx),
            EachProjected::Kernel { future } => future.poll(cx),
            EachProjected::Passthrough { future } => future.poll(cx),
            EachProjected::Nvme { future } => future.poll(cx),
            EachProjected::Spdk { future } => future.poll(cx),
        }
    }
}

/// Says what the future of SPDK's namespaces is, where there are none.
#[cfg(not(feature = "spdk"))]
fn each<M: Future, K, P, N>(
    future: Each<M, K, P, N, std::future::Pending<M::Output>>,
) -> Each<M, K, P, N, std::future::Pending<M::Output>> {
    future
}

#[cfg(feature = "spdk")]
fn each<M, K, P, N, S>(future: Each<M, K, P, N, S>) -> Each<M, K, P, N, S> {
    future
}

/// The future of a call of whichever namespace it is.
macro_rules! future_of_each {
    ($any:expr, $namespace:ident => $call:expr) => {
        each(match $any {
            Self::Memory($namespace) => Each::Memory { future: $call },
            Self::Kernel($namespace) => Each::Kernel { future: $call },
            Self::Passthrough($namespace) => Each::Passthrough { future: $call },
            Self::Nvme($namespace) => Each::Nvme { future: $call },
            #[cfg(feature = "spdk")]
            Self::Spdk($namespace) => Each::Spdk { future: $call },
        })
    };
}

impl Namespace for AnyNamespace {
    fn info(&self) -> &NamespaceInfo {
        each!(self, namespace => namespace.info())
    }

    fn size_bytes(&self) -> u64 {
        each!(self, namespace => namespace.size_bytes())
    }

    #[inline]
    fn read(&self, offset: u64, buf: DmaBuf) -> impl Future<Output = Result<DmaBuf, BufError<DmaBuf>>> {
        future_of_each!(self, namespace => namespace.read(offset, buf))
    }

    #[inline]
    fn write(&self, offset: u64, buf: DmaBuf) -> impl Future<Output = Result<DmaBuf, BufError<DmaBuf>>> {
        future_of_each!(self, namespace => namespace.write(offset, buf))
    }

    async fn read_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        each!(self, namespace => namespace.read_vectored(offset, bufs).await)
    }

    async fn write_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        each!(self, namespace => namespace.write_vectored(offset, bufs).await)
    }

    async fn write_durable(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        each!(self, namespace => namespace.write_durable(offset, buf).await)
    }

    async fn flush(&self) -> Result<()> {
        each!(self, namespace => namespace.flush().await)
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        each!(self, namespace => namespace.trim(offset, len).await)
    }

    async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        each!(self, namespace => namespace.allocate(offset, len).await)
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        each!(self, namespace => namespace.write_zeroes(offset, len).await)
    }

    async fn compare_and_write(
        &self,
        offset: u64,
        expected: DmaBuf,
        new: DmaBuf,
    ) -> BufResult<bool, (DmaBuf, DmaBuf)> {
        each!(self, namespace => namespace.compare_and_write(offset, expected, new).await)
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        each!(self, namespace => namespace.grow(size_bytes).await)
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        each!(self, namespace => namespace.shrink(size_bytes).await)
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        each!(self, namespace => namespace.next_data(offset))
    }
}
