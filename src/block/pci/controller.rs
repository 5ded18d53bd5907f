//! NVMe controllers and namespaces as sysfs shows them.

use std::collections::BTreeSet;
use std::path::Path;

use super::root::{SystemRoot, attribute, link_name, names_in, number};
use crate::error::{Error, ErrorKind, Result};
use crate::pci_address::PciAddress;

/// The class code of NVMe controllers, without the programming interface.
const NVME_CLASS: u64 = 0x0108;
/// The unit of `size` in sysfs, whatever the block size.
const SECTOR_BYTES: u64 = 512;

/// An NVMe controller on PCI.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundController {
    /// Where it is.
    pub address: PciAddress,
    /// The PCI vendor.
    pub vendor: u16,
    /// The vendor's number for this kind of device.
    pub device: u16,
    /// The kernel driver that has it, such as `nvme` or `vfio-pci`.
    pub driver: Option<String>,
    /// What the IOMMU tells it apart with.
    pub group: Option<IommuGroup>,
    /// The nvme driver's name for it, such as `nvme0`.
    pub name: Option<String>,
    /// The model number (MN); only the nvme driver tells.
    pub model: Option<String>,
    /// The serial number (SN); only the nvme driver tells.
    pub serial: Option<String>,
    /// The firmware revision (FR); only the nvme driver tells.
    pub firmware: Option<String>,
    /// The namespaces that the nvme driver shows, by their identifiers.
    pub namespaces: Vec<FoundNamespace>,
}

/// The devices that the IOMMU cannot tell apart: VFIO hands them out together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IommuGroup {
    /// Its number: `/dev/vfio/NUMBER`.
    pub number: u32,
    /// The other devices in it.
    pub others: Vec<GroupMember>,
}

/// A device in the IOMMU group of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMember {
    /// Where it is.
    pub address: PciAddress,
    /// The kernel driver that has it.
    pub driver: Option<String>,
}

impl GroupMember {
    /// Whether VFIO hands out the group while this driver has the device: those that promise not to
    /// do DMA do not hinder it.
    pub fn hinders(&self) -> bool {
        let harmless =
            |driver: &str| driver.ends_with("vfio-pci") || ["pci-stub", "pcieport"].contains(&driver);
        self.driver.as_deref().is_some_and(|driver| !harmless(driver))
    }
}

impl IommuGroup {
    /// The device that keeps VFIO from handing out the group, if there is one.
    pub fn hindered_by(&self) -> Option<&GroupMember> {
        self.others.iter().find(|other| other.hinders())
    }
}

/// A namespace of a controller that the nvme driver has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundNamespace {
    /// The block device; none where the kernel cannot use the namespace's format or command set.
    pub block: Option<BlockNode>,
    /// The character device for passthrough commands, such as `ng0n1`.
    pub generic: Option<String>,
    /// The namespace's identifier (NSID).
    pub nsid: Option<u32>,
    /// How large it is, in bytes; 0 if the kernel cannot use its format.
    pub size_bytes: u64,
    /// The size of a logical block, in bytes, without metadata.
    pub block_size_bytes: u32,
    /// Metadata per block, in bytes; kernels before 6.8 do not tell.
    pub metadata_bytes: Option<u32>,
    /// Nothing can be written to it.
    pub read_only: bool,
    /// What the kernel found in its partition table.
    pub partitions: Vec<BlockNode>,
}

impl FoundNamespace {
    /// The name of its device: the block device if there is one.
    pub fn name(&self) -> &str {
        let generic = self.generic.as_deref().unwrap_or_default();
        self.block.as_ref().map_or(generic, |block| &block.name)
    }
}

/// A block device or a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockNode {
    /// Its name in `/dev`.
    pub name: String,
    /// Its major and minor number.
    pub number: Option<(u32, u32)>,
}

impl BlockNode {
    /// The one that sysfs describes in `directory`.
    pub(super) fn read(name: &str, directory: &Path) -> Self {
        let number = attribute(&directory.join("dev")).and_then(|text| device_number(&text));
        Self { name: name.to_owned(), number }
    }
}

/// `MAJOR:MINOR`.
pub(super) fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Every NVMe controller on PCI, by address. None where there is no PCI.
pub fn controllers(root: &SystemRoot) -> Vec<FoundController> {
    let addresses = names_in(&root.path("sys/bus/pci/devices"));
    let mut found: Vec<FoundController> =
        addresses.iter().filter_map(|name| controller(root, name.parse().ok()?)).collect();
    found.sort_by_key(|controller| controller.address);
    found
}

/// The controller at `address`.
///
/// # Errors
///
/// [`NotFound`](ErrorKind::NotFound) if no PCI device is there, and
/// [`InvalidInput`](ErrorKind::InvalidInput) if it is no NVMe controller.
pub fn find(root: &SystemRoot, address: PciAddress) -> Result<FoundController> {
    let wrong = |kind, why| Error::new(kind, "find NVMe controller").at(address.to_string()).because(why);
    if !root.pci_device(address).exists() {
        return Err(wrong(
            ErrorKind::NotFound,
            "no PCI device has this address; `boson device list` shows the NVMe controllers",
        ));
    }
    controller(root, address).ok_or_else(|| {
        wrong(
            ErrorKind::InvalidInput,
            "the PCI device there is no NVMe controller; `boson device list` shows those that are",
        )
    })
}

impl FoundController {
    /// Whether the driver nvme is ready with it, as far as that driver says.
    pub(super) fn is_live(&self, root: &SystemRoot) -> bool {
        let Some(name) = &self.name else { return false };
        let own = root.pci_device(self.address).join("nvme").join(name);
        attribute(&own.join("state")).is_none_or(|state| state == "live")
    }
}

fn controller(root: &SystemRoot, address: PciAddress) -> Option<FoundController> {
    let directory = root.pci_device(address);
    let id = |name| number(&directory.join(name)).and_then(|id| u16::try_from(id).ok());
    if number(&directory.join("class"))? >> 8 != NVME_CLASS {
        return None;
    }
    // One controller; while it is being removed there is none.
    let name = names_in(&directory.join("nvme")).into_iter().next();
    let own = directory.join("nvme").join(name.as_deref().unwrap_or_default());
    let text = |attribute_name| name.as_ref().and_then(|_| attribute(&own.join(attribute_name)));
    Some(FoundController {
        address,
        vendor: id("vendor").unwrap_or(0),
        device: id("device").unwrap_or(0),
        driver: link_name(&directory.join("driver")),
        group: group(root, address),
        model: text("model"),
        serial: text("serial"),
        firmware: text("firmware_rev"),
        namespaces: if name.is_some() { namespaces(root, &own) } else { Vec::new() },
        name,
    })
}

fn group(root: &SystemRoot, address: PciAddress) -> Option<IommuGroup> {
    let link = root.pci_device(address).join("iommu_group");
    let number = link_name(&link)?.parse().ok()?;
    let members = names_in(&root.path(format!("sys/kernel/iommu_groups/{number}/devices")));
    let others = members.iter().filter_map(|name| name.parse().ok()).filter(|other| *other != address);
    let member = |address: PciAddress| GroupMember {
        address,
        driver: link_name(&root.pci_device(address).join("driver")),
    };
    Some(IommuGroup { number, others: others.map(member).collect() })
}

/// The parts of `nvme0n1`, `nvme0c1n1` (one path to a namespace that several controllers share) and
/// `ng0n1`: the number of the instance and that of the namespace's head.
fn head(name: &str) -> Option<(u32, u32)> {
    let rest = name.strip_prefix("nvme").or_else(|| name.strip_prefix("ng"))?;
    let (instance, number) = rest.split_once('n')?;
    let instance = match instance.split_once('c') {
        Some((instance, path)) => path.parse::<u32>().ok().map(|_| instance)?,
        None => instance,
    };
    Some((instance.parse().ok()?, number.parse().ok()?))
}

fn namespaces(root: &SystemRoot, controller: &Path) -> Vec<FoundNamespace> {
    let heads: BTreeSet<(u32, u32)> = names_in(controller).iter().filter_map(|name| head(name)).collect();
    let mut namespaces: Vec<FoundNamespace> =
        heads.into_iter().map(|head| namespace(root, controller, head)).collect();
    // The kernel finds them side by side, so that `nvme0n1` need not be the first.
    namespaces.sort_by_key(|namespace| namespace.nsid);
    namespaces
}

fn namespace(root: &SystemRoot, controller: &Path, (instance, number_in_it): (u32, u32)) -> FoundNamespace {
    let block_name = format!("nvme{instance}n{number_in_it}");
    let generic_name = format!("ng{instance}n{number_in_it}");
    let directory = root.block(&block_name);
    let block = directory.exists().then(|| BlockNode::read(&block_name, &directory));
    let has_generic = root.path("sys/class/nvme-generic").join(&generic_name).exists()
        || controller.join(&generic_name).exists();
    let small = |path: &Path| number(path).and_then(|number| u32::try_from(number).ok());
    // What shows no block device has these beside the character device.
    let described = if block.is_some() { directory.clone() } else { controller.join(&generic_name) };
    FoundNamespace {
        nsid: small(&described.join("nsid")),
        size_bytes: number(&described.join("size")).unwrap_or(0).saturating_mul(SECTOR_BYTES),
        block_size_bytes: small(&described.join("queue/logical_block_size")).unwrap_or(0),
        metadata_bytes: small(&described.join("metadata_bytes")),
        read_only: number(&described.join("ro")).is_some_and(|ro| ro != 0),
        partitions: if block.is_some() { partitions(&directory) } else { Vec::new() },
        generic: has_generic.then_some(generic_name),
        block,
    }
}

fn partitions(directory: &Path) -> Vec<BlockNode> {
    let names = names_in(directory).into_iter();
    let partitions = names.filter(|name| directory.join(name).join("partition").exists());
    partitions.map(|name| BlockNode::read(&name, &directory.join(&name))).collect()
}
