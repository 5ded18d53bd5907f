//! What sysfs says about a PCI device before it is opened: its driver and its IOMMU group.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::pci_address::PciAddress;

/// The devices of one IOMMU group are opened together or not at all: the IOMMU cannot tell them
/// apart.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) number: u32,
    devices: PathBuf,
}

/// Whether `address` is written as sysfs writes it: `0000:04:00.0`.
fn is_pci_address(address: &str) -> bool {
    address.parse::<PciAddress>().is_ok_and(|parsed| parsed.to_string() == address)
}

impl Group {
    /// The group of the device at `address`, if VFIO has the device. `sysfs` is `/sys`.
    ///
    /// # Errors
    ///
    /// One sentence about the first thing in the way.
    pub(super) fn of(sysfs: &Path, address: &str) -> Result<Self> {
        let failed = |kind| Error::new(kind, "open").at(address.to_owned());
        if !is_pci_address(address) {
            return Err(failed(ErrorKind::InvalidInput)
                .because("this is no PCI address, which looks like 0000:04:00.0: type `boson device list`"));
        }
        let device = sysfs.join("bus/pci/devices").join(address);
        if !device.exists() {
            return Err(failed(ErrorKind::NotFound)
                .because("there is no PCI device at this address: type `boson device list`"));
        }
        let group = device.join("iommu_group");
        let name = std::fs::read_to_string(group.join("name")).unwrap_or_default();
        if name.trim() == "vfio-noiommu" {
            return Err(failed(ErrorKind::Unsupported).because(
                "VFIO is in its no-IOMMU mode, in which a device may write to all of the machine's memory, and \
                 boson does not use it: switch the IOMMU on (in the firmware, and for Intel's with \
                 intel_iommu=on on the kernel's command line)",
            ));
        }
        let number = link_name(&group).and_then(|name| name.parse().ok()).ok_or_else(|| {
            failed(ErrorKind::Unsupported).because(
                "no IOMMU is at work for this device: switch on VT-d or AMD-Vi in the firmware, and for VT-d \
                 boot with intel_iommu=on on the kernel's command line",
            )
        })?;
        let holder = match link_name(&device.join("driver")) {
            Some(driver) if is_vfio(&driver) => return Ok(Self { number, devices: group.join("devices") }),
            Some(driver) => format!("the kernel's driver {driver} has this device"),
            None => "no driver has this device, and VFIO needs its own".to_owned(),
        };
        Err(failed(ErrorKind::InUse).because(format!("{holder}: type `boson device bind {address}`")))
    }

    /// The other devices of the group that drivers hold that do not let go of memory, with the
    /// names of those.
    pub(super) fn held_by_others(&self) -> Vec<(String, String)> {
        let entries = std::fs::read_dir(&self.devices).into_iter().flatten().flatten();
        let mut held: Vec<_> = entries
            .filter_map(|entry| {
                let driver = link_name(&entry.path().join("driver"))?;
                let harmless = is_vfio(&driver) || ["pci-stub", "pcieport"].contains(&driver.as_str());
                (!harmless).then(|| (entry.file_name().to_string_lossy().into_owned(), driver))
            })
            .collect();
        held.sort();
        held
    }
}

/// `vfio-pci`, or one of its variants for a vendor's devices.
fn is_vfio(driver: &str) -> bool {
    driver.ends_with("vfio-pci")
}

/// The last name of what a symbolic link points to.
fn link_name(link: &Path) -> Option<String> {
    Some(std::fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory that looks like sysfs.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("boson-vfio-{name}-{}", std::process::id()));
            fs::create_dir_all(root.join("bus/pci/devices")).expect("made");
            Self(root)
        }

        fn device(&self, address: &str, group: Option<u32>, driver: Option<&str>) {
            let device = self.0.join("bus/pci/devices").join(address);
            fs::create_dir_all(&device).expect("made");
            if let Some(driver) = driver {
                symlink(self.0.join("bus/pci/drivers").join(driver), device.join("driver")).expect("linked");
            }
            if let Some(group) = group {
                let group = self.0.join(format!("kernel/iommu_groups/{group}"));
                fs::create_dir_all(group.join("devices")).expect("made");
                symlink(&group, device.join("iommu_group")).expect("linked");
                symlink(&device, group.join("devices").join(address)).expect("linked");
            }
        }

        fn sentence(&self, address: &str) -> String {
            Group::of(&self.0, address).expect_err(address).to_string()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_first_obstacle_is_named_with_what_to_do() {
        let tree = Tree::new("obstacles");
        tree.device("0000:04:00.0", Some(12), Some("nvme"));
        tree.device("0000:05:00.0", Some(13), None);
        tree.device("0000:06:00.0", None, Some("nvme"));
        for (address, part) in [
            ("0000:04:00.0", "driver nvme has this device: type `boson device bind 0000:04:00.0`"),
            ("0000:05:00.0", "no driver has this device, and VFIO needs its own: type `boson device bind 0"),
            ("0000:06:00.0", "boot with intel_iommu=on"),
            ("0000:07:00.0", "there is no PCI device at this address"),
            ("04:00.0", "this is no PCI address"),
            ("../../etc", "this is no PCI address"),
            ("0000:04:00:0", "this is no PCI address"),
            ("0000.04.00.0", "this is no PCI address"),
            ("ääääääääää", "this is no PCI address"),
            ("", "this is no PCI address"),
        ] {
            let sentence = tree.sentence(address);
            assert!(sentence.contains(part), "{sentence}");
        }
    }

    #[test]
    fn the_mode_without_an_iommu_is_refused_by_name() {
        let tree = Tree::new("without");
        tree.device("0000:04:00.0", Some(0), Some("vfio-pci"));
        fs::write(tree.0.join("kernel/iommu_groups/0/name"), "vfio-noiommu\n").expect("written");
        assert!(tree.sentence("0000:04:00.0").contains("boson does not use it"));
    }

    #[test]
    fn a_group_names_the_devices_that_others_hold() {
        let tree = Tree::new("group");
        tree.device("0000:04:00.0", Some(12), Some("vfio-pci"));
        tree.device("0000:04:00.1", Some(12), Some("snd_hda_intel"));
        tree.device("0000:04:00.2", Some(12), None);
        tree.device("0000:00:03.0", Some(12), Some("pcieport"));
        tree.device("0000:04:00.3", Some(12), Some("nvme"));
        tree.device("0000:09:00.0", Some(13), Some("nvme"));
        let group = Group::of(&tree.0, "0000:04:00.0").expect("VFIO has it");
        assert_eq!(group.number, 12);
        let pair = |address: &str, driver: &str| (address.to_owned(), driver.to_owned());
        assert_eq!(
            group.held_by_others(),
            [pair("0000:04:00.1", "snd_hda_intel"), pair("0000:04:00.3", "nvme")]
        );
    }
}
