//! NVMe controllers on PCI: what sysfs says of them, what their namespaces are used for, and which
//! driver has them.
//!
//! Everything here reads and writes below a [`SystemRoot`], which is `/` but in tests. Nothing
//! writes to a namespace.

mod admin;
mod controller;
mod driver;
#[cfg(test)]
mod fake;
mod processes;
mod root;
mod tables;
#[cfg(test)]
mod tests;
mod usage;

pub use crate::pci_address::PciAddress;
pub use admin::AdminCommands;
pub use controller::{
    BlockNode, FoundController, FoundNamespace, GroupMember, IommuGroup, controllers, find,
};
pub use driver::{DriverChange, bind_to_vfio, give_back, has_vfio_driver, is_behind_iommu};
pub use root::SystemRoot;
pub use usage::{Contents, Usage, contents_of, usages_of};
