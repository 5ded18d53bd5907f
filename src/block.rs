//! Block devices: a [`Namespace`] is an array of blocks that one core reads, writes and flushes.
//!
//! A [`Device`] is opened once per process and may be used from every core; each core
//! [attaches](Device::attach) to it and gets a [`Namespace`] of its own.
//!
//! | address | device | how it works |
//! |---|---|---|
//! | `mem:SIZE` | [`MemoryNamespace`] | memory of this process |
//! | `spdk:…` | `spdk::SpdkDevice` (feature `spdk`) | SPDK, polled by the core |
//! | `file:PATH`, `blk:/dev/NAME` | [`KernelNamespace`] | the core's io_uring, or a thread where there is none |
//!
//! Devices that have queues of their own, which the core polls, stand on one implementation
//! (`queue`): it divides what is too large, lets callers wait in order while the device is full,
//! keeps the memory of dropped futures until the device is done with it, copies memory that the
//! device cannot reach, and counts.

mod address;
mod any;
mod device;
mod kernel;
mod memory;
mod namespace;
pub mod nvme;
mod open;
#[allow(dead_code, unused_imports, reason = "not every kind of device in the build has queues of its own")]
mod queue;
#[cfg(feature = "spdk")]
pub mod spdk;
mod stats;
pub mod vfio;

pub use address::{NamespaceAddress, SpdkAddress, parse_size};
pub use any::AnyNamespace;
pub use device::Device;
pub use kernel::KernelNamespace;
pub use memory::MemoryNamespace;
pub use namespace::{Namespace, NamespaceInfo};
pub use open::NamespaceConfig;
pub use stats::{NamespaceStats, OperationStats, stats};
