//! A machine in a temporary directory, and a kernel that changes drivers in it.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::driver::Kernel;
use super::root::SystemRoot;
use crate::pci_address::PciAddress;

/// `sys`, `proc` and `dev` of a machine; removed when dropped.
pub(super) struct FakeMachine(PathBuf);

impl Drop for FakeMachine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl FakeMachine {
    /// A machine with the drivers nvme and vfio-pci, and no device.
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("boson-machine-{}-{number}", std::process::id());
        let machine = Self(std::env::temp_dir().join(name));
        machine.directory("sys/bus/pci/devices");
        machine.directory("sys/bus/pci/drivers/nvme");
        machine.directory("sys/bus/pci/drivers/vfio-pci");
        machine.directory("dev");
        machine.file("proc/self/mountinfo", "22 27 0:21 / /proc rw - proc proc rw\n");
        machine.file("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        machine
    }

    pub(super) fn root(&self) -> SystemRoot {
        SystemRoot::at(&self.0)
    }

    pub(super) fn directory(&self, path: &str) {
        fs::create_dir_all(self.0.join(path)).expect("a temporary directory");
    }

    pub(super) fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a temporary directory");
        fs::write(path, content).expect("a file");
    }

    pub(super) fn append(&self, path: &str, text: &str) {
        let old = fs::read_to_string(self.0.join(path)).expect("a file");
        self.file(path, old + text);
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a temporary directory");
        symlink(target, path).expect("a link");
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.0.join(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("it is there");
    }

    /// A PCI device with a driver, in an IOMMU group.
    pub(super) fn pci_device(&self, address: &str, class: &str, driver: Option<&str>, group: Option<u32>) {
        let device = format!("sys/bus/pci/devices/{address}");
        self.file(&format!("{device}/class"), format!("{class}\n"));
        self.file(&format!("{device}/vendor"), "0x1b36\n");
        self.file(&format!("{device}/device"), "0x0010\n");
        self.file(&format!("{device}/driver_override"), "(null)\n");
        if let Some(driver) = driver {
            self.directory(&format!("sys/bus/pci/drivers/{driver}"));
            self.link(&format!("{device}/driver"), &format!("../../drivers/{driver}"));
        }
        if let Some(group) = group {
            let members = format!("sys/kernel/iommu_groups/{group}/devices");
            self.link(&format!("{device}/iommu_group"), &format!("../../../../kernel/iommu_groups/{group}"));
            self.file(&format!("{members}/{address}"), "");
        }
    }

    /// An NVMe controller that the nvme driver has.
    pub(super) fn controller(&self, address: &str, name: &str, group: Option<u32>) {
        self.pci_device(address, "0x010802", Some("nvme"), group);
        let own = format!("sys/bus/pci/devices/{address}/nvme/{name}");
        self.file(&format!("{own}/model"), "QEMU NVMe Ctrl                          \n");
        self.file(&format!("{own}/serial"), "s3cr3t              \n");
        self.file(&format!("{own}/firmware_rev"), "8.0.0   \n");
    }

    /// A namespace of 1 GiB in blocks of 4096 bytes.
    pub(super) fn namespace(&self, address: &str, controller: &str, name: &str, front: &[u8]) {
        let own = format!("sys/bus/pci/devices/{address}/nvme/{controller}");
        let generic = name.replacen("nvme", "ng", 1);
        self.directory(&format!("{own}/{name}"));
        self.directory(&format!("{own}/{generic}"));
        let block = format!("sys/class/block/{name}");
        self.file(&format!("{block}/size"), "2097152\n");
        self.file(&format!("{block}/queue/logical_block_size"), "4096\n");
        self.file(&format!("{block}/metadata_bytes"), "0\n");
        self.file(&format!("{block}/nsid"), "1\n");
        self.file(&format!("{block}/ro"), "0\n");
        self.file(&format!("{block}/dev"), "259:0\n");
        self.directory(&format!("{block}/holders"));
        self.file(&format!("dev/{name}"), front);
    }

    pub(super) fn partition(&self, namespace: &str, number: u32) {
        let name = format!("{namespace}p{number}");
        self.file(&format!("sys/class/block/{namespace}/{name}/partition"), format!("{number}\n"));
        self.file(&format!("sys/class/block/{namespace}/{name}/dev"), format!("259:{number}\n"));
        self.directory(&format!("sys/class/block/{name}/holders"));
        self.file(&format!("dev/{name}"), "");
    }

    /// `holder` is made of `of`.
    pub(super) fn holder(&self, of: &str, holder: &str) {
        self.file(&format!("sys/class/block/{of}/holders/{holder}"), "");
        self.directory(&format!("sys/class/block/{holder}/holders"));
    }

    /// A process has `/dev/NAME` open.
    pub(super) fn process(&self, process: u32, command: &str, name: &str) {
        self.file(&format!("proc/{process}/comm"), format!("{command}\n"));
        self.link(&format!("proc/{process}/fd/3"), &format!("/dev/{name}"));
    }
}

/// What the kernel does with writes to attributes of PCI devices.
pub(super) struct FakeKernel<'a> {
    machine: &'a FakeMachine,
    address: PciAddress,
    /// What was written: the attribute's name, and the text.
    pub(super) writes: RefCell<Vec<(String, String)>>,
    /// Which writes fail, from 0, with which code.
    pub(super) failing: Vec<(usize, i32)>,
    /// Drivers whose probe fails.
    pub(super) failing_probes: Vec<&'static str>,
    /// Called before each write.
    pub(super) before_write: Box<dyn Fn(usize) + 'a>,
    count: Cell<usize>,
}

impl<'a> FakeKernel<'a> {
    pub(super) fn new(machine: &'a FakeMachine, address: PciAddress) -> Self {
        Self {
            machine,
            address,
            writes: RefCell::default(),
            failing: Vec::new(),
            failing_probes: Vec::new(),
            before_write: Box::new(|_| {}),
            count: Cell::new(0),
        }
    }

    fn device(&self) -> PathBuf {
        self.machine.0.join(format!("sys/bus/pci/devices/{}", self.address))
    }

    fn probe(&self) {
        let only = fs::read_to_string(self.device().join("driver_override")).expect("an attribute");
        let driver = match only.trim() {
            "(null)" => "nvme",
            driver => driver,
        };
        let link = self.device().join("driver");
        let loaded = self.machine.0.join("sys/bus/pci/drivers").join(driver).exists();
        if loaded && link.symlink_metadata().is_err() && !self.failing_probes.contains(&driver) {
            symlink(format!("../../drivers/{driver}"), link).expect("a link");
        }
    }
}

impl Kernel for FakeKernel<'_> {
    fn write(&self, attribute: &Path, text: &str) -> io::Result<()> {
        let count = self.count.replace(self.count.get() + 1);
        (self.before_write)(count);
        let name = attribute.file_name().expect("a file").to_string_lossy().into_owned();
        self.writes.borrow_mut().push((name.clone(), text.to_owned()));
        if let Some((_, code)) = self.failing.iter().find(|(failing, _)| *failing == count) {
            return Err(io::Error::from_raw_os_error(*code));
        }
        match name.as_str() {
            "driver_override" => {
                let driver = text.trim();
                let kept = if driver.is_empty() { "(null)" } else { driver };
                fs::write(attribute, format!("{kept}\n"))
            }
            "unbind" => {
                assert_eq!(text, self.address.to_string());
                fs::remove_file(self.device().join("driver"))
            }
            "drivers_probe" => {
                assert_eq!(text, self.address.to_string());
                self.probe();
                Ok(())
            }
            other => panic!("a write to {other}"),
        }
    }
}
