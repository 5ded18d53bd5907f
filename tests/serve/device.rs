//! `boson device` on this machine, and on one that is a directory.

use crate::support::server::Directory;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

fn device(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_boson")).arg("device").args(arguments).output().expect("it runs")
}

/// The same on the machine in `root`.
fn device_in(root: &Path, arguments: &[&str]) -> Output {
    let root = root.to_str().expect("a name in UTF-8");
    device(&[&["--root", root], arguments].concat())
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn file(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
    fs::write(path, content).expect("a file");
}

fn link(root: &Path, path: &str, target: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
    symlink(target, path).expect("a link");
}

const CONTROLLER: &str = "sys/bus/pci/devices/0000:04:00.0";

/// A machine with a controller of one namespace, on which an XFS file system is mounted.
fn machine(name: &str) -> Directory {
    let directory = Directory::new(name);
    let root = directory.path();
    file(root, &format!("{CONTROLLER}/class"), "0x010802\n");
    file(root, &format!("{CONTROLLER}/vendor"), "0x1b36\n");
    file(root, &format!("{CONTROLLER}/device"), "0x0010\n");
    file(root, &format!("{CONTROLLER}/driver_override"), "(null)\n");
    link(root, &format!("{CONTROLLER}/driver"), "../../drivers/nvme");
    link(root, &format!("{CONTROLLER}/iommu_group"), "../../../../kernel/iommu_groups/12");
    file(root, "sys/kernel/iommu_groups/12/devices/0000:04:00.0", "");
    file(root, "sys/bus/pci/drivers/nvme/unbind", "");
    file(root, "sys/bus/pci/drivers/vfio-pci/unbind", "");
    file(root, &format!("{CONTROLLER}/nvme/nvme0/model"), "Model\n");
    file(root, &format!("{CONTROLLER}/nvme/nvme0/serial"), "Serial\n");
    file(root, &format!("{CONTROLLER}/nvme/nvme0/nvme0n1/nsid"), "1\n");
    file(root, "sys/class/block/nvme0n1/size", "2097152\n");
    file(root, "sys/class/block/nvme0n1/nsid", "1\n");
    file(root, "sys/class/block/nvme0n1/dev", "259:0\n");
    file(root, "sys/class/block/nvme0n1/queue/logical_block_size", "512\n");
    file(root, "dev/nvme0n1", "XFSB");
    file(root, "proc/self/mountinfo", "36 35 259:0 / /srv rw - xfs /dev/nvme0n1 rw\n");
    directory
}

#[test]
fn a_machine_without_nvme_has_an_empty_list() {
    let empty = Directory::new("device-none");
    assert_eq!(said(&device_in(empty.path(), &["list"])), "This machine has no NVMe controller on PCI.\n");
    assert_eq!(said(&device_in(empty.path(), &["list", "--json"])), "");
}

#[test]
fn this_machine_has_a_list() {
    let table = said(&device(&["list"]));
    let json = said(&device(&["list", "--json"]));
    let objects = json.lines().map(|line| serde_json::from_str(line).expect("an object"));
    for controller in objects.collect::<Vec<serde_json::Value>>() {
        assert!(table.contains(controller["address"].as_str().expect("an address")), "{table}");
    }
    assert_eq!(json.is_empty(), table.starts_with("This machine has no NVMe controller"), "{table}");
}

#[test]
fn both_forms_of_the_list_show_the_same() {
    let machine = machine("device-list");
    let table = said(&device_in(machine.path(), &["list"]));
    let line = table.lines().nth(1).expect("one controller");
    for part in [
        "0000:04:00.0",
        "Model",
        "nvme",
        "12",
        "/nvme0n1",
        "1.0 GiB",
        "512",
        "an XFS file system",
        "is mounted at /srv",
    ] {
        assert!(line.contains(part), "{part}: {table}");
    }
    let json = said(&device_in(machine.path(), &["list", "--json"]));
    let found: serde_json::Value = serde_json::from_str(&json).expect("one object");
    assert_eq!((&found["address"], &found["driver"]), (&"0000:04:00.0".into(), &"nvme".into()));
    assert_eq!((&found["iommu_group"], &found["serial"]), (&12.into(), &"Serial".into()));
    let namespace = &found["namespaces"][0];
    assert_eq!((&namespace["size_bytes"], &namespace["nsid"]), (&(1 << 30).into(), &1.into()));
    assert_eq!((&namespace["in_use"], &namespace["holds"]), (&true.into(), &"an XFS file system".into()));
    assert_eq!(namespace["uses"].as_array().expect("an array").len(), 2);
}

#[test]
fn what_is_no_address_is_refused() {
    for command in ["bind", "unbind", "info"] {
        for text in ["", "nvme0", "04:00", "0000:04:00.9"] {
            let said = refused(&device(&[command, text]));
            assert!(said.contains("0000:04:00.0"), "{command} {text}: {said}");
        }
    }
}

#[test]
fn an_address_without_a_device_is_refused() {
    let machine = machine("device-absent");
    for command in ["bind", "unbind", "info"] {
        let said = refused(&device_in(machine.path(), &[command, "0000:07:00.0"]));
        assert!(said.contains("0000:07:00.0: no PCI device has this address"), "{command}: {said}");
        assert!(said.contains("`boson device list`"), "{command}: {said}");
    }
    for device in ["/dev/nvme7", "/dev/nvme0n2", "/dev/ng0n2", "/dev/"] {
        let said = refused(&device_in(machine.path(), &["info", device]));
        assert!(said.contains(&format!("{device}: no NVMe controller on PCI has it")), "{said}");
    }
}

#[test]
fn what_is_mounted_is_not_bound() {
    let machine = machine("device-mounted");
    let said = refused(&device_in(machine.path(), &["bind", "0000:04:00.0"]));
    assert!(said.contains("/dev/nvme0n1 is mounted at /srv") && said.contains("--force"), "{said}");
    let left = fs::read_to_string(machine.path().join(CONTROLLER).join("driver_override"));
    assert_eq!(left.expect("an attribute"), "(null)\n");
}

#[test]
fn what_no_kernel_does_is_rolled_back_and_said() {
    // Behind these attributes is nobody who changes the driver.
    let machine = machine("device-no-kernel");
    file(machine.path(), "sys/bus/pci/drivers_probe", "");
    let said = refused(&device_in(machine.path(), &["bind", "--force", "0000:04:00.0"]));
    assert!(said.contains("the driver vfio-pci did not take it (nvme has it)"), "{said}");
    assert!(said.contains("it has the driver nvme, as before"), "{said}");
}

#[test]
fn what_the_kernel_cannot_ask_is_said() {
    let machine = machine("device-vfio");
    fs::remove_file(machine.path().join(CONTROLLER).join("driver")).expect("a link");
    fs::remove_dir_all(machine.path().join(CONTROLLER).join("nvme")).expect("a directory");
    link(machine.path(), &format!("{CONTROLLER}/driver"), "../../drivers/vfio-pci");
    let text = said(&device_in(machine.path(), &["info", "0000:04:00.0"]));
    assert!(text.starts_with("0000:04:00.0  1b36:0010, driver vfio-pci, IOMMU group 12\n"), "{text}");
    assert!(text.contains("`boson device unbind 0000:04:00.0`"), "{text}");
    let table = said(&device_in(machine.path(), &["list"]));
    assert!(table.contains("0000:04:00.0  1b36:0010  vfio-pci  12"), "{table}");
    assert!(said(&device_in(machine.path(), &["bind", "0000:04:00.0"])).contains("has 0000:04:00.0 already"));
}
