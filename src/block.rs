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
//! (`queue`): it divides what is too large, lets callers wait in order while the device is full, keeps
//! the memory of dropped futures until the device is done with it, copies memory that the device cannot
//! reach, and counts.

mod address;
mod any;
mod device;
mod kernel;
mod memory;
mod namespace;
mod open;
#[cfg_attr(
    not(feature = "spdk"),
    allow(
        dead_code,
        unused_imports,
        reason = "the first device that has queues of its own is not merged yet"
    )
)]
mod queue;
#[cfg(feature = "spdk")]
pub mod spdk;
mod stats;

pub use address::{NamespaceAddress, SpdkAddress, parse_size};
pub use any::AnyNamespace;
pub use device::Device;
pub use kernel::KernelNamespace;
pub use memory::MemoryNamespace;
pub use namespace::{Namespace, NamespaceInfo};
pub use open::NamespaceConfig;
pub use stats::{NamespaceStats, OperationStats, stats};
