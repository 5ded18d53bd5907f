//! Block devices: a [`Namespace`] is an array of blocks that one core reads, writes and flushes.
//!
//! A [`Device`] is opened once per process and may be used from every core; each core
//! [attaches](Device::attach) to it and gets a [`Namespace`] of its own.
//!
//! | address | device | how it works |
//! |---|---|---|
//! | `mem:SIZE` | [`MemoryDevice`] | memory of this process, with faults to order |
//! | `file:PATH`, `blk:/dev/NAME` | [`KernelDevice`] | the core's io_uring, or a thread where there is none |
//! | `ng:/dev/ngXnY` | [`PassthroughDevice`] | NVMe commands to the kernel's driver, by an io_uring for each core |
//! | `nvme:BDF/NSID` | [`NvmeDevice`](nvme::NvmeDevice) | boson's own NVMe driver, over VFIO |
//! | `spdk:…` | `spdk::SpdkDevice` (feature `spdk`) | SPDK, polled by the core |
//!
//! | device | a durable write | compare and write | a core that waits for it |
//! |---|---|---|---|
//! | `mem:` | as [`MemoryOptions`] say | as they say | sleeps, if it has a latency |
//! | `file:`, `blk:` | `RWF_DSYNC` | no | sleeps |
//! | `ng:` | FUA | no: the kernel refuses fused commands | sleeps |
//! | `nvme:` | FUA | if the controller has fused commands | sleeps, if it has interrupts |
//! | `spdk:pcie/`, `spdk:tcp/` | FUA | if the controller has fused commands | on the bus sleeps, if it has interrupts; over TCP naps |
//! | `spdk:bdev/` | a write and a flush | if the device has it | naps |
//!
//! FUA is a write that is forced to the medium by itself; with `?fua=off` behind the address it is
//! a write and a flush instead. [`NamespaceInfo`] says what a device that is open has.
//!
//! Devices that have queues of their own, which the core polls, stand on one implementation
//! (`queue`): it divides what is too large, lets callers wait in order while the device is full,
//! keeps the memory of dropped futures until the device is done with it, copies memory that the
//! device cannot reach, and counts.

mod address;
mod any;
pub(crate) mod contents;
mod device;
mod kernel;
mod memory;
mod namespace;
pub mod nvme;
mod open;
mod passthrough;
pub mod pci;
mod queue;
#[cfg(feature = "spdk")]
pub mod spdk;
mod stats;
pub mod vfio;

pub use address::{NamespaceAddress, SpdkAddress, parse_size};
pub use any::{AnyDevice, AnyNamespace};
pub use contents::first_data;
pub use device::Device;
pub use kernel::{KernelDevice, KernelNamespace};
pub use memory::{Fault, MemoryDevice, MemoryNamespace, MemoryOptions, TrimLeaves};
pub(crate) use namespace::namespace_by_its_field;
pub use namespace::{Namespace, NamespaceInfo};
pub use open::NamespaceConfig;
pub use passthrough::{PassthroughDevice, PassthroughNamespace};
pub use stats::{NamespaceStats, OperationStats, stats};
