//! What it takes to drive an NVMe controller from this process (`nvme:`): an IOMMU, the vfio-pci
//! driver, memory that may be locked, and an IOMMU group without other drivers' devices that may be
//! opened.

use std::fs;
use std::path::Path;

use boson::block::pci::{self, FoundController, SystemRoot};

use super::{BackendState, Finding, read_trimmed};

const BACKEND: &str = "nvme:";

/// Whether `nvme:` can be used, and one finding for each thing that it takes. `may_open` tells
/// whether this process may read and write a file.
pub(super) fn findings(root: &SystemRoot, may_open: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let controllers = pci::controllers(root);
    let machine = [iommu(root), module(root), locked_memory(root)];
    let is_usable = |part: &Finding| part.state == BackendState::Usable;
    let is_ready = |found: &&FoundController| {
        group(found).is_none() && permission(root, found, &may_open).is_some_and(|part| is_usable(&part))
    };
    let ready = match machine.iter().all(is_usable) {
        true => controllers.iter().filter(is_ready).map(|found| found.address.to_string()).collect(),
        false => Vec::new(),
    };
    let mut parts = Vec::from(machine);
    parts.extend(controllers.iter().filter_map(group));
    parts.extend(controllers.iter().filter_map(|found| permission(root, found, &may_open)));
    const WHAT: &str = "boson's own NVMe driver";
    let whole = if controllers.is_empty() {
        Finding::unusable(BACKEND, format!("{WHAT}: there is no NVMe controller on PCI"), "use blk:/dev/NAME")
    } else if !ready.is_empty() {
        Finding::usable(BACKEND, format!("{WHAT}: vfio-pci has {}", ready.join(" ")))
    } else if !parts.iter().all(is_usable) {
        let detail = format!("{WHAT} takes what follows");
        Finding { state: BackendState::Unusable, ..Finding::usable(BACKEND, detail) }
    } else {
        let detail = format!("{WHAT}: vfio-pci has no controller");
        Finding::unusable(BACKEND, detail, "boson device list, then: boson device bind ADDRESS")
    };
    std::iter::once(whole).chain(parts).collect()
}

fn iommu(root: &SystemRoot) -> Finding {
    const FEATURE: &str = "IOMMU";
    if pci::is_behind_iommu(root) {
        return Finding::usable(BACKEND, "it is on").of(FEATURE);
    }
    let command_line = read_trimmed(root.path("proc/cmdline")).unwrap_or_default();
    let processor = read_trimmed(root.path("proc/cpuinfo")).unwrap_or_default();
    let table = |name: &str| root.path("sys/firmware/acpi/tables").join(name).exists();
    let boots_with = |option: &str| command_line.split_whitespace().any(|word| word == option);
    let (detail, help) = if table("DMAR") && !boots_with("intel_iommu=on") {
        ("there is one, but it is off", "boot with intel_iommu=on")
    } else if table("IVRS") && boots_with("amd_iommu=off") {
        // Linux uses it without an option, and has none that says "on".
        ("there is one, but it is off", "boot without amd_iommu=off")
    } else if table("DMAR") || table("IVRS") {
        ("there is one, but the kernel does not use it", "dmesg | grep -i -e iommu -e dmar")
    } else if flags(&processor).any(|flag| flag == "hypervisor") {
        (
            "this is a virtual machine without one",
            "give the machine one, in QEMU: -machine q35,kernel-irqchip=split -device intel-iommu,intremap=on; \
             then boot with intel_iommu=on",
        )
    } else if processor.contains("AuthenticAMD") {
        ("none is found", "turn on IOMMU (AMD-Vi) in the firmware's setup")
    } else if processor.contains("GenuineIntel") {
        ("none is found", "turn on VT-d in the firmware's setup, and boot with intel_iommu=on")
    } else {
        ("none is found", "turn it on in the firmware's setup")
    };
    Finding::unusable(BACKEND, detail, help).of(FEATURE)
}

fn flags(processor: &str) -> impl Iterator<Item = &str> {
    let line = processor.lines().find(|line| line.starts_with("flags"));
    line.unwrap_or_default().split_whitespace()
}

fn module(root: &SystemRoot) -> Finding {
    const FEATURE: &str = "vfio-pci";
    if pci::has_vfio_driver(root) && root.path("dev/vfio/vfio").exists() {
        return Finding::usable(BACKEND, "the driver is loaded").of(FEATURE);
    }
    let release = read_trimmed(root.path("proc/sys/kernel/osrelease")).unwrap_or_default();
    let modules = root.path("lib/modules").join(&release).join("modules.dep");
    let is_module = fs::read(modules).is_ok_and(|names| {
        let names = String::from_utf8_lossy(&names).replace('_', "-");
        names.contains("/vfio-pci.ko")
    });
    match is_module {
        true => Finding::unusable(BACKEND, "the driver is not loaded", "modprobe vfio-pci"),
        false => Finding::unusable(
            BACKEND,
            "this kernel has no such driver",
            "boot a kernel that is built with CONFIG_VFIO_PCI, such as the distribution's own",
        ),
    }
    .of(FEATURE)
}

/// One core's arena of 16 MiB and its queues.
const NEEDED_BYTES: u64 = 32 << 20;
const CAP_IPC_LOCK: u32 = 14;

fn locked_memory(root: &SystemRoot) -> Finding {
    const FEATURE: &str = "locked memory";
    let limits = read_trimmed(root.path("proc/self/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next()).unwrap_or("unlimited");
    let status = read_trimmed(root.path("proc/self/status")).unwrap_or_default();
    let is_exempt = super::has_capability_in(&status, CAP_IPC_LOCK);
    match soft.parse::<u64>() {
        Ok(limit) if limit < NEEDED_BYTES && !is_exempt => Finding::unusable(
            BACKEND,
            format!("{} KiB may be locked, and a core needs {} MiB", limit >> 10, NEEDED_BYTES >> 20),
            "ulimit -l unlimited (LimitMEMLOCK=infinity for a systemd service)",
        ),
        Ok(limit) if !is_exempt => Finding::usable(BACKEND, format!("{} MiB may be locked", limit >> 20)),
        _ => Finding::usable(BACKEND, "there is no limit"),
    }
    .of(FEATURE)
}

fn group(controller: &FoundController) -> Option<Finding> {
    let group = controller.group.as_ref()?;
    let other = group.hindered_by()?;
    let detail = format!(
        "{} is in the IOMMU group {} with {}, which has the driver {}",
        controller.address,
        group.number,
        other.address,
        other.driver.as_deref().unwrap_or_default(),
    );
    let help = format!("echo {} > /sys/bus/pci/devices/{}/driver/unbind", other.address, other.address);
    Some(Finding::unusable(BACKEND, detail, help).of("group"))
}

fn permission(
    root: &SystemRoot,
    controller: &FoundController,
    may_open: impl Fn(&Path) -> bool,
) -> Option<Finding> {
    let group = controller.group.as_ref().filter(|_| controller.driver.as_deref() == Some("vfio-pci"))?;
    let node = format!("/dev/vfio/{}", group.number);
    let address = controller.address;
    Some(
        match may_open(&root.path(format!("dev/vfio/{}", group.number))) {
            true => Finding::usable(BACKEND, format!("{node} for {address} may be opened")),
            false => Finding::unusable(
                BACKEND,
                format!("{node} for {address} may not be opened"),
                format!("sudo chown $USER {node}"),
            ),
        }
        .of("permission"),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// A machine in a directory where all is well; removed when dropped.
    struct Machine(PathBuf);

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const CONTROLLER: &str = "sys/bus/pci/devices/0000:04:00.0";

    impl Machine {
        fn new(name: &str) -> Self {
            let machine =
                Self(std::env::temp_dir().join(format!("boson-doctor-{name}-{}", std::process::id())));
            machine.file("sys/kernel/iommu_groups/12/devices/0000:04:00.0", "");
            machine.file(&format!("{CONTROLLER}/class"), "0x010802\n");
            machine.link(&format!("{CONTROLLER}/iommu_group"), "../../../../kernel/iommu_groups/12");
            machine.link(&format!("{CONTROLLER}/driver"), "../../drivers/vfio-pci");
            machine.file("sys/bus/pci/drivers/vfio-pci/bind", "");
            machine.file("dev/vfio/vfio", "");
            machine.file("dev/vfio/12", "");
            machine.file("proc/sys/kernel/osrelease", "6.1.0-1-amd64\n");
            machine
                .file("lib/modules/6.1.0-1-amd64/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko: a.ko\n");
            machine.limit("unlimited");
            machine.file("proc/self/status", "CapEff:\t0000000000000000\n");
            machine
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            fs::write(path, text).expect("a file");
        }

        fn link(&self, path: &str, target: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            symlink(target, path).expect("a link");
        }

        fn remove(&self, path: &str) {
            fs::remove_dir_all(self.0.join(path)).expect("it is there");
        }

        fn limit(&self, soft: &str) {
            self.file("proc/self/limits", &format!("Max locked memory         {soft}   {soft}   bytes\n"));
        }

        /// The one thing that is wrong: what it is about, why, and what helps.
        fn wrong(&self, may_open: bool) -> (&'static str, String, String) {
            let findings = findings(&SystemRoot::at(&self.0), |_| may_open);
            assert!(findings[0].state == BackendState::Unusable && findings[0].feature.is_none());
            let mut wrong = findings.into_iter().skip(1).filter(|part| part.state != BackendState::Usable);
            let only = wrong.next().expect("something is wrong");
            assert!(wrong.next().is_none(), "only one thing is wrong");
            (only.feature.expect("a part"), only.detail, only.help.expect("one command"))
        }

        fn iommu_help(&self) -> String {
            let (feature, _, help) = self.wrong(true);
            assert_eq!(feature, "IOMMU");
            help
        }
    }

    #[test]
    fn nothing_is_wrong_where_all_is_well() {
        let machine = Machine::new("well");
        let findings = findings(&SystemRoot::at(&machine.0), |_| true);
        assert!(findings.iter().all(|finding| finding.state == BackendState::Usable));
        assert_eq!(findings.len(), 5);
        // A second controller that is not as well does not take the first away.
        machine.file("sys/bus/pci/devices/0000:05:00.0/class", "0x010802\n");
        machine.link("sys/bus/pci/devices/0000:05:00.0/iommu_group", "../../../../kernel/iommu_groups/13");
        machine.file("sys/kernel/iommu_groups/13/devices/0000:05:00.1", "");
        machine.link("sys/bus/pci/devices/0000:05:00.1/driver", "../../drivers/e1000e");
        let findings = super::findings(&SystemRoot::at(&machine.0), |_| true);
        assert!(
            findings[0].state == BackendState::Usable && findings[0].detail.ends_with("has 0000:04:00.0")
        );
        assert!(
            findings
                .iter()
                .any(|finding| finding.detail.starts_with("0000:05:00.0 is in the IOMMU group 13"))
        );
    }

    #[test]
    fn a_controller_that_no_one_handed_over() {
        let machine = Machine::new("unbound");
        fs::remove_file(machine.0.join(CONTROLLER).join("driver")).expect("a link");
        let findings = findings(&SystemRoot::at(&machine.0), |_| true);
        assert!(findings[0].help.as_ref().expect("help").contains("boson device bind"));
        machine.remove(CONTROLLER);
        let findings = super::findings(&SystemRoot::at(&machine.0), |_| true);
        assert!(findings[0].detail.contains("no NVMe controller"), "{}", findings[0].detail);
    }

    #[test]
    fn without_an_iommu_the_help_fits_the_machine() {
        let machine = Machine::new("iommu");
        machine.remove("sys/kernel/iommu_groups");
        assert!(machine.iommu_help().contains("firmware"));
        machine.file("proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t\t: fpu vme\n");
        assert!(machine.iommu_help().contains("AMD-Vi"));
        machine.file("proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: fpu vme\n");
        assert!(machine.iommu_help().contains("VT-d"));
        machine.file("proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor vme\n");
        assert!(machine.iommu_help().contains("QEMU"));
        machine.file("sys/firmware/acpi/tables/IVRS", "");
        machine.file("proc/cmdline", "ro quiet amd_iommu=off\n");
        assert_eq!(machine.iommu_help(), "boot without amd_iommu=off");
        machine.file("sys/firmware/acpi/tables/DMAR", "");
        assert_eq!(machine.iommu_help(), "boot with intel_iommu=on");
        machine.file("proc/cmdline", "ro quiet intel_iommu=on\n");
        assert!(machine.iommu_help().starts_with("dmesg"));
    }

    #[test]
    fn without_the_driver() {
        let machine = Machine::new("module");
        machine.remove("dev/vfio");
        assert_eq!(machine.wrong(true).2, "modprobe vfio-pci");
        machine.remove("sys/bus/pci/drivers");
        let (feature, _, help) = machine.wrong(true);
        assert_eq!((feature, help.as_str()), ("vfio-pci", "modprobe vfio-pci"));
        machine.remove("lib/modules");
        assert!(machine.wrong(true).2.contains("CONFIG_VFIO_PCI"));
    }

    #[test]
    fn too_little_memory_may_be_locked() {
        let machine = Machine::new("memlock");
        machine.limit("8388608");
        let (feature, detail, help) = machine.wrong(true);
        assert_eq!(feature, "locked memory");
        assert!(detail.starts_with("8192 KiB may be locked") && help.starts_with("ulimit -l unlimited"));
        // The limit does not hold for who has the capability, nor when it is enough.
        machine.file("proc/self/status", "CapEff:\t0000000000004000\n");
        let usable = |machine: &Machine| findings(&SystemRoot::at(&machine.0), |_| true)[0].state;
        assert!(usable(&machine) == BackendState::Usable);
        machine.file("proc/self/status", "CapEff:\t0000000000000000\n");
        machine.limit("33554432");
        assert!(usable(&machine) == BackendState::Usable);
    }

    #[test]
    fn another_device_in_the_group() {
        let machine = Machine::new("group");
        machine.file("sys/kernel/iommu_groups/12/devices/0000:04:00.1", "");
        machine.link("sys/bus/pci/devices/0000:04:00.1/driver", "../../drivers/e1000e");
        let (feature, detail, help) = machine.wrong(true);
        assert_eq!(feature, "group");
        assert!(detail.contains("0000:04:00.0 is in the IOMMU group 12 with 0000:04:00.1"), "{detail}");
        assert_eq!(help, "echo 0000:04:00.1 > /sys/bus/pci/devices/0000:04:00.1/driver/unbind");
    }

    #[test]
    fn a_group_that_may_not_be_opened() {
        let machine = Machine::new("permission");
        let (feature, _, help) = machine.wrong(false);
        assert_eq!((feature, help.as_str()), ("permission", "sudo chown $USER /dev/vfio/12"));
    }
}
