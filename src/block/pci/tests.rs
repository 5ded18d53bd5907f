//! Controllers, uses and drivers on fake machines.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::controller::{FoundController, controllers, find};
use super::driver::{DriverChange, bind_with, give_back_with, has_vfio_driver, is_behind_iommu};
use super::fake::{FakeKernel, FakeMachine};
use super::usage::{Contents, Usage, contents_of};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::pci_address::PciAddress;

const ADDRESS: &str = "0000:04:00.0";

fn address() -> PciAddress {
    ADDRESS.parse().expect("an address")
}

/// One controller with one blank namespace, in an IOMMU group of its own.
fn machine() -> FakeMachine {
    machine_with(&[0; 8192])
}

fn machine_with(front: &[u8]) -> FakeMachine {
    let machine = FakeMachine::new();
    machine.controller(ADDRESS, "nvme0", Some(12));
    machine.namespace(ADDRESS, "nvme0", "nvme0n1", front);
    machine
}

fn only(machine: &FakeMachine) -> FoundController {
    find(&machine.root(), address()).expect("it is there")
}

/// What its namespaces are used for.
fn usages(machine: &FakeMachine) -> Vec<Usage> {
    super::usage::usages_of(&machine.root(), &only(machine)).concat()
}

fn bind(machine: &FakeMachine, force: bool) -> Result<DriverChange> {
    bind_with(&FakeKernel::new(machine, address()), &machine.root(), address(), force)
}

fn driver(machine: &FakeMachine) -> Option<String> {
    only(machine).driver
}

/// What keeps the controller from being bound; asserts that nothing was written, and that force
/// overcomes it.
fn refusal(machine: &FakeMachine) -> String {
    let kernel = FakeKernel::new(machine, address());
    let error = bind_with(&kernel, &machine.root(), address(), false).expect_err("it is in use");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::InUse, Outcome::NotStarted), "{error}");
    assert!(kernel.writes.borrow().is_empty(), "nothing is changed: {:?}", kernel.writes);
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(bind(machine, true).expect("forced"), DriverChange::Changed);
    assert_eq!(driver(machine).as_deref(), Some("vfio-pci"));
    error.to_string().replace(&machine.root().path("").display().to_string(), "/")
}

mod what_is_found {
    use super::*;

    #[test]
    fn a_controller_and_its_namespace() {
        let machine = machine();
        machine.pci_device("0000:00:1f.0", "0x060100", None, Some(1));
        let found = controllers(&machine.root());
        assert_eq!(found.len(), 1, "a bridge is no NVMe controller");
        let controller = &found[0];
        assert_eq!((controller.vendor, controller.device), (0x1b36, 0x0010));
        assert_eq!(controller.driver.as_deref(), Some("nvme"));
        assert_eq!(controller.name.as_deref(), Some("nvme0"));
        assert_eq!(controller.model.as_deref(), Some("QEMU NVMe Ctrl"));
        assert_eq!(controller.serial.as_deref(), Some("s3cr3t"));
        assert_eq!(controller.firmware.as_deref(), Some("8.0.0"));
        let group = controller.group.as_ref().expect("a group");
        assert_eq!((group.number, group.others.len()), (12, 0));
        let namespace = &controller.namespaces[0];
        assert_eq!(namespace.name(), "nvme0n1");
        assert_eq!(namespace.generic.as_deref(), Some("ng0n1"));
        assert_eq!((namespace.size_bytes, namespace.block_size_bytes), (1 << 30, 4096));
        assert_eq!((namespace.nsid, namespace.metadata_bytes), (Some(1), Some(0)));
        assert!(!namespace.read_only && namespace.partitions.is_empty());
    }

    #[test]
    fn controllers_and_namespaces_in_order() {
        let machine = FakeMachine::new();
        machine.controller("10000:01:00.0", "nvme2", None);
        machine.controller("0000:0a:00.0", "nvme10", None);
        machine.controller(ADDRESS, "nvme0", None);
        for number in [10, 2, 1] {
            machine.namespace(ADDRESS, "nvme0", &format!("nvme0n{number}"), &[]);
        }
        let found = controllers(&machine.root());
        let addresses: Vec<String> = found.iter().map(|found| found.address.to_string()).collect();
        assert_eq!(addresses, [ADDRESS, "0000:0a:00.0", "10000:01:00.0"]);
        let names: Vec<&str> = found[0].namespaces.iter().map(|namespace| namespace.name()).collect();
        assert_eq!(names, ["nvme0n1", "nvme0n2", "nvme0n10"]);
        // Their numbers count, not the names that the kernel happened to give.
        machine.file("sys/class/block/nvme0n1/nsid", "3\n");
        machine.file("sys/class/block/nvme0n2/nsid", "2\n");
        let names = only(&machine).namespaces;
        let names: Vec<&str> = names.iter().map(|namespace| namespace.name()).collect();
        assert_eq!(names, ["nvme0n10", "nvme0n2", "nvme0n1"]);
    }

    #[test]
    fn a_namespace_that_two_controllers_share_is_its_head() {
        let machine = machine();
        machine.controller("0000:05:00.0", "nvme1", Some(13));
        machine.directory("sys/bus/pci/devices/0000:05:00.0/nvme/nvme1/nvme0c1n1");
        let found = controllers(&machine.root());
        assert_eq!(found[1].namespaces.len(), 1);
        assert_eq!(found[1].namespaces[0].name(), "nvme0n1");
        assert_eq!(found[1].namespaces[0].size_bytes, 1 << 30);
    }

    #[test]
    fn a_namespace_that_has_only_a_character_device() {
        let machine = machine();
        machine.file("sys/bus/pci/devices/0000:04:00.0/nvme/nvme0/ng0n2/nsid", "2\n");
        let namespace = only(&machine).namespaces.remove(1);
        assert_eq!((namespace.name(), namespace.nsid, namespace.size_bytes), ("ng0n2", Some(2), 0));
        assert_eq!(namespace.block, None);
        assert_eq!(contents_of(&machine.root(), &namespace), None);
        assert_eq!(usages(&machine), []);
    }

    #[test]
    fn nothing_on_a_machine_without_pci() {
        let machine = FakeMachine::new();
        assert_eq!(controllers(&machine.root()), []);
        machine.remove("sys");
        assert_eq!(controllers(&machine.root()), []);
        assert!(!is_behind_iommu(&machine.root()) && !has_vfio_driver(&machine.root()));
    }

    #[test]
    fn an_address_without_a_controller_is_refused() {
        let machine = machine();
        machine.pci_device("0000:00:1f.0", "0x060100", None, Some(1));
        let refused = |address: &str| {
            find(&machine.root(), address.parse().expect("an address")).expect_err("none is there")
        };
        assert_eq!(refused("0000:07:00.0").kind(), ErrorKind::NotFound);
        let error = refused("0000:00:1f.0");
        assert!(error.to_string().contains("no NVMe controller"), "{error}");
    }
}

mod use_of_namespaces {
    use super::*;

    #[test]
    fn a_blank_namespace_or_a_store_has_none() {
        for front in [vec![0; 8192], b"boson\0sb and more".to_vec()] {
            let machine = machine_with(&front);
            assert_eq!(usages(&machine), []);
            assert_eq!(bind(&machine, false).expect("it is free"), DriverChange::Changed);
            assert_eq!(driver(&machine).as_deref(), Some("vfio-pci"));
        }
    }

    #[test]
    fn data_that_nobody_recognises_is_data() {
        let machine = machine_with(b"anything");
        assert!(refusal(&machine).contains("data that is not recognised"));
    }

    #[test]
    fn a_controller_that_its_driver_is_not_ready_with_or_another_driver_has() {
        let machine = machine();
        machine.file("sys/bus/pci/devices/0000:04:00.0/nvme/nvme0/state", "connecting\n");
        let error = bind(&machine, true).expect_err("nobody can say");
        assert!(error.to_string().contains("not ready with it"), "{error}");
        let machine = FakeMachine::new();
        machine.pci_device(ADDRESS, "0x010802", Some("uio_pci_generic"), Some(12));
        let error = bind(&machine, true).expect_err("somebody else's");
        assert!(error.to_string().contains("it has the driver uio_pci_generic"), "{error}");
    }

    #[test]
    fn what_it_holds() {
        let holds = |front: &[u8]| {
            let machine = machine_with(front);
            contents_of(&machine.root(), &only(&machine).namespaces[0]).expect("a block device")
        };
        assert_eq!(holds(&[]), Contents::Blank);
        assert_eq!(holds(&[0; 5000]), Contents::Blank);
        assert_eq!(holds(b"boson\0sb"), Contents::Store);
        assert_eq!(holds(b"anything"), Contents::Unrecognised);
        assert_eq!(holds(b"XFSB"), Contents::Foreign("an XFS file system"));
        let machine = machine();
        machine.remove("dev/nvme0n1");
        let unreadable = contents_of(&machine.root(), &only(&machine).namespaces[0]);
        assert!(matches!(unreadable, Some(Contents::Unreadable(_))), "{unreadable:?}");
    }

    #[test]
    fn a_mounted_namespace() {
        let machine = machine();
        machine.append(
            "proc/self/mountinfo",
            "36 35 259:0 / /srv/a\\040b rw,noatime shared:1 - ext4 /dev/root rw\n",
        );
        assert!(refusal(&machine).contains("/dev/nvme0n1 is mounted at /srv/a b: "));
    }

    #[test]
    fn a_mounted_partition_comes_before_the_partitions() {
        let machine = machine();
        machine.partition("nvme0n1", 1);
        machine.partition("nvme0n1", 2);
        machine.append("proc/self/mountinfo", "36 35 259:2 / / rw - xfs /dev/nvme0n1p2 rw\n");
        let said = refusal(&machine);
        assert!(said.contains("/dev/nvme0n1p2 is mounted at /, and there is one more use: "), "{said}");
    }

    #[test]
    fn btrfs_is_known_by_the_name_of_its_device() {
        let machine = machine();
        machine.partition("nvme0n1", 1);
        machine
            .append("proc/self/mountinfo", "36 35 0:44 /sub /home rw - btrfs /dev/disk/by-label/home rw\n");
        machine.link("dev/disk/by-label/home", "../../nvme0n1p1");
        assert!(refusal(&machine).contains("/dev/nvme0n1p1 is mounted at /home"));
    }

    #[test]
    fn the_mount_of_another_device_is_none() {
        let machine = machine();
        machine.append("proc/self/mountinfo", "36 35 8:1 / /a rw - ext4 /dev/nvme0n11 rw\n");
        machine.append("proc/self/mountinfo", "37 35 0:5 / /b rw - tmpfs nvme0n1 rw\n");
        machine.append("proc/swaps", "/dev/nvme0n1p9 partition 1 0 -2\n/nvme0n1 file 1 0 -3\n");
        machine.process(77, "cat", "nvme0n11");
        assert_eq!(usages(&machine), []);
    }

    #[test]
    fn partitions_without_any_use() {
        let machine = machine();
        machine.partition("nvme0n1", 1);
        assert!(refusal(&machine).contains("/dev/nvme0n1 has a partition: "));
    }

    #[test]
    fn a_file_system_that_is_not_mounted() {
        let machine = machine_with(b"XFSB");
        assert!(refusal(&machine).contains("/dev/nvme0n1 holds an XFS file system: "));
    }

    #[test]
    fn swap() {
        let machine = machine();
        machine.partition("nvme0n1", 3);
        machine.append("proc/swaps", "/dev/nvme0n1p3                          partition\t524284\t0\t-2\n");
        assert!(refusal(&machine).contains("/dev/nvme0n1p3 is used as swap"));
    }

    #[test]
    fn what_is_served_to_other_machines() {
        let machine = machine();
        machine.partition("nvme0n1", 2);
        let namespace = "sys/kernel/config/nvmet/subsystems/nqn.2026-11.example:disk/namespaces/1";
        machine.file(&format!("{namespace}/device_path"), "/dev/nvme0n1p2\n");
        machine.file(&format!("{namespace}/enable"), "0\n");
        let is_export = |usage: &Usage| matches!(usage, Usage::Exported { .. });
        assert!(!usages(&machine).iter().any(is_export), "it is switched off");
        machine.file(&format!("{namespace}/enable"), "1\n");
        let refusal = refusal(&machine);
        let served = "/dev/nvme0n1p2 is served to other machines as nqn.2026-11.example:disk";
        assert!(refusal.contains(served), "{refusal}");
    }

    #[test]
    fn an_lvm_volume_on_a_partition_with_a_mount_on_it() {
        let machine = machine();
        machine.partition("nvme0n1", 1);
        machine.holder("nvme0n1p1", "dm-0");
        machine.file("sys/class/block/dm-0/dm/name", "vg-root\n");
        machine.file("sys/class/block/dm-0/dm/uuid", "LVM-abcdef\n");
        machine.file("sys/class/block/dm-0/dev", "254:0\n");
        machine.append("proc/self/mountinfo", "36 35 254:0 / / rw - ext4 /dev/mapper/vg-root rw\n");
        assert!(
            usages(&machine)
                .iter()
                .any(|usage| usage.to_string().ends_with("is part of the LVM volume vg-root"))
        );
        assert!(refusal(&machine).contains("/dev/dm-0 is mounted at /"));
    }

    #[test]
    fn a_raid_and_an_encrypted_volume() {
        let machine = machine();
        machine.holder("nvme0n1", "md0");
        machine.file("sys/class/block/md0/md/level", "raid1\n");
        assert!(refusal(&machine).contains("/dev/nvme0n1 is part of the RAID md0 (raid1)"));
        let machine = self::machine();
        machine.holder("nvme0n1", "dm-3");
        machine.file("sys/class/block/dm-3/dm/name", "luks\n");
        machine.file("sys/class/block/dm-3/dm/uuid", "CRYPT-LUKS2-1\n");
        assert!(refusal(&machine).contains("is part of the encrypted volume luks"));
    }

    #[test]
    fn holders_in_a_circle_end() {
        let machine = machine();
        machine.holder("nvme0n1", "dm-0");
        machine.holder("dm-0", "dm-1");
        machine.holder("dm-1", "dm-0");
        assert!(refusal(&machine).contains("is part of the device dm-0"));
    }

    #[test]
    fn a_process_with_the_raw_device_open() {
        for name in ["nvme0n1", "ng0n1"] {
            let machine = machine();
            machine.process(4711, "fio", name);
            let expected = format!("/dev/{name} is open in process 4711 (fio)");
            let said = refusal(&machine);
            assert!(said.contains(&expected), "{said}");
        }
    }

    #[test]
    fn a_loop_device() {
        let machine = machine();
        machine.file("sys/class/block/loop1/loop/backing_file", "/dev/nvme0n2\n");
        assert_eq!(usages(&machine), []);
        machine.file("sys/class/block/loop0/loop/backing_file", "/dev/nvme0n1\n");
        assert!(refusal(&machine).contains("/dev/nvme0n1 is part of the device loop0"));
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_taken() {
        let machine = machine();
        machine.remove("dev/nvme0n1");
        assert!(refusal(&machine).contains("/dev/nvme0n1 cannot be looked at"));
        let machine = self::machine();
        machine.remove("proc/self/mountinfo");
        assert!(refusal(&machine).contains("/proc/self/mountinfo cannot be looked at"));
    }
}

mod drivers {
    use super::*;

    fn give_back(machine: &FakeMachine) -> Result<DriverChange> {
        give_back_with(&FakeKernel::new(machine, address()), &machine.root(), address())
    }

    #[test]
    fn bound_and_given_back_leaves_nothing() {
        let machine = machine();
        assert_eq!(bind(&machine, false).expect("free"), DriverChange::Changed);
        assert_eq!(bind(&machine, false).expect("bound"), DriverChange::AlreadyThere);
        assert_eq!(give_back(&machine).expect("bound"), DriverChange::Changed);
        assert_eq!(driver(&machine).as_deref(), Some("nvme"));
        let left = std::fs::read_to_string(machine.root().pci_device(ADDRESS).join("driver_override"));
        assert_eq!(left.expect("an attribute"), "(null)\n");
        assert_eq!(give_back(&machine).expect("there"), DriverChange::AlreadyThere);
    }

    #[test]
    fn a_controller_without_a_driver_can_be_bound_and_given_back() {
        for to_vfio in [true, false] {
            let machine = FakeMachine::new();
            machine.pci_device(ADDRESS, "0x010802", None, Some(12));
            let (result, expected) =
                if to_vfio { (bind(&machine, false), "vfio-pci") } else { (give_back(&machine), "nvme") };
            assert_eq!(result.expect("free"), DriverChange::Changed);
            assert_eq!(driver(&machine).as_deref(), Some(expected));
        }
    }

    /// Refused with nothing written, force or not.
    fn unsupported(machine: &FakeMachine) -> Error {
        let kernel = FakeKernel::new(machine, address());
        let error = bind_with(&kernel, &machine.root(), address(), true).expect_err("it cannot work");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unsupported, Outcome::NotStarted));
        assert!(kernel.writes.borrow().is_empty());
        error
    }

    #[test]
    fn without_an_iommu_none_is_bound() {
        let machine = FakeMachine::new();
        machine.controller(ADDRESS, "nvme0", None);
        assert!(!is_behind_iommu(&machine.root()));
        assert!(unsupported(&machine).to_string().contains("`boson doctor`"));
        // What VFIO calls a group when it is told to do without.
        let machine = self::machine();
        assert!(is_behind_iommu(&machine.root()));
        machine.file("sys/kernel/iommu_groups/12/name", "vfio-noiommu\n");
        assert!(!is_behind_iommu(&machine.root()));
        assert!(unsupported(&machine).to_string().contains("no IOMMU isolates it"));
    }

    #[test]
    fn without_a_driver_none_is_bound() {
        let machine = machine();
        machine.remove("sys/bus/pci/drivers/vfio-pci");
        assert!(unsupported(&machine).to_string().contains("modprobe vfio-pci"));
    }

    #[test]
    fn the_rest_of_the_group_must_have_no_other_driver() {
        let machine = machine();
        machine.pci_device("0000:00:1c.0", "0x060400", Some("pcieport"), Some(12));
        machine.pci_device("0000:04:00.1", "0x010802", Some("vfio-pci"), Some(12));
        machine.pci_device("0000:04:00.2", "0x020000", None, Some(12));
        assert_eq!(bind(&machine, false).expect("viable"), DriverChange::Changed);
        let machine = self::machine();
        machine.pci_device("0000:04:00.1", "0x020000", Some("e1000e"), Some(12));
        let said = unsupported(&machine).to_string();
        assert!(
            said.contains("0000:04:00.1 is in the same IOMMU group 12 and has the driver e1000e"),
            "{said}"
        );
    }

    #[test]
    fn a_group_that_a_process_uses_is_not_given_back() {
        for node in ["vfio/12", "vfio/devices/vfio7"] {
            let machine = machine();
            assert_eq!(bind(&machine, false).expect("free"), DriverChange::Changed);
            machine.directory("sys/bus/pci/devices/0000:04:00.0/vfio-dev/vfio7");
            machine.process(99, "boson", node);
            let error = give_back(&machine).expect_err("in use");
            assert!(error.to_string().contains("process 99 (boson) uses it"), "{error}");
            assert_eq!(driver(&machine).as_deref(), Some("vfio-pci"));
        }
    }

    #[test]
    fn a_driver_that_boson_does_not_give_is_left_alone() {
        let machine = FakeMachine::new();
        machine.pci_device(ADDRESS, "0x010802", Some("uio_pci_generic"), Some(12));
        let error = give_back(&machine).expect_err("not ours");
        assert!(error.to_string().contains("uio_pci_generic"), "{error}");
        machine.remove("sys/bus/pci/devices/0000:04:00.0/driver");
        machine.remove("sys/bus/pci/drivers/nvme");
        assert!(give_back(&machine).expect_err("no driver").to_string().contains("modprobe nvme"));
    }

    #[test]
    fn each_write_that_fails_is_rolled_back() {
        for to_vfio in [true, false] {
            for failing in 0..3 {
                for code in [libc::EIO, libc::EACCES, libc::ENODEV] {
                    let machine = machine();
                    if !to_vfio {
                        assert_eq!(bind(&machine, false).expect("free"), DriverChange::Changed);
                    }
                    let before = driver(&machine);
                    let mut kernel = FakeKernel::new(&machine, address());
                    kernel.failing = vec![(failing, code)];
                    let result = if to_vfio {
                        bind_with(&kernel, &machine.root(), address(), false)
                    } else {
                        give_back_with(&kernel, &machine.root(), address())
                    };
                    let error = result.expect_err("a write fails");
                    assert_eq!(driver(&machine), before, "{error}");
                    assert_eq!((error.code(), error.outcome()), (Some(code), Outcome::NotStarted));
                    assert!(error.to_string().contains("as before"), "{error}");
                    assert_eq!(error.to_string().contains("run as root"), code == libc::EACCES, "{error}");
                    let left =
                        std::fs::read_to_string(machine.root().pci_device(ADDRESS).join("driver_override"));
                    let expected = if to_vfio { "(null)\n" } else { "vfio-pci\n" };
                    assert_eq!(left.expect("an attribute"), expected, "{error}");
                }
            }
        }
    }

    #[test]
    fn a_driver_that_does_not_take_it_is_rolled_back() {
        let machine = machine();
        let mut kernel = FakeKernel::new(&machine, address());
        kernel.failing_probes = vec!["vfio-pci"];
        let error = bind_with(&kernel, &machine.root(), address(), false).expect_err("the probe fails");
        assert!(error.to_string().contains("dmesg") && error.to_string().contains("as before"), "{error}");
        assert_eq!(driver(&machine).as_deref(), Some("nvme"));
    }

    #[test]
    fn what_cannot_be_rolled_back_is_said() {
        let machine = machine();
        let mut kernel = FakeKernel::new(&machine, address());
        kernel.failing_probes = vec!["vfio-pci", "nvme"];
        let error = bind_with(&kernel, &machine.root(), address(), false).expect_err("the probe fails");
        let said = error.to_string();
        assert_eq!(error.outcome(), Outcome::Unknown);
        assert!(said.contains("it had the driver nvme and has no driver now"), "{said}");
        assert!(said.contains(&format!("boson device unbind {ADDRESS}")), "{said}");
        // What it recommends helps when the driver takes it again.
        assert_eq!(give_back(&machine).expect("the driver is back"), DriverChange::Changed);
        assert_eq!(driver(&machine).as_deref(), Some("nvme"));
    }

    #[test]
    fn an_override_that_stays_is_said() {
        let machine = machine();
        assert_eq!(bind(&machine, false).expect("free"), DriverChange::Changed);
        let mut kernel = FakeKernel::new(&machine, address());
        kernel.failing = vec![(3, libc::EIO)];
        let error = give_back_with(&kernel, &machine.root(), address()).expect_err("the last write fails");
        assert!(error.to_string().contains("the nvme driver has it"), "{error}");
        assert_eq!(driver(&machine).as_deref(), Some("nvme"));
    }

    #[test]
    fn namespaces_are_claimed_until_the_driver_has_changed() {
        let machine = machine();
        let mut kernel = FakeKernel::new(&machine, address());
        let own_descriptors = || {
            let links = std::fs::read_dir("/proc/self/fd").expect("a directory").flatten();
            let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
            let node = machine.root().node("nvme0n1");
            targets.filter(|target| *target == node).count()
        };
        kernel.before_write = Box::new(|_| assert_eq!(own_descriptors(), 1, "it is open"));
        assert_eq!(
            bind_with(&kernel, &machine.root(), address(), false).expect("free"),
            DriverChange::Changed
        );
        drop(kernel);
        assert_eq!(own_descriptors(), 0, "it is closed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever stands in sysfs and in the tables, looking at it does not panic, and a refusal is
    /// printed without a character that a terminal acts on.
    #[test]
    fn any_content_is_looked_at(
        attributes in prop::collection::vec((0..ATTRIBUTES.len(), any_text()), 0..12),
        table in any_text(),
        swaps in any_text(),
        front in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let machine = machine();
        machine.partition("nvme0n1", 1);
        machine.holder("nvme0n1p1", "dm-0");
        for (which, content) in attributes {
            machine.file(ATTRIBUTES[which], content);
        }
        machine.append("proc/self/mountinfo", &table);
        machine.append("proc/swaps", &swaps);
        let node = std::fs::File::options().write(true).open(machine.root().node("nvme0n1")).expect("a file");
        node.write_all_at(&front, 0).expect("written");
        for controller in controllers(&machine.root()) {
            let mut said: Vec<String> = super::usage::usages_of(&machine.root(), &controller).concat().iter().map(ToString::to_string).collect();
            said.extend([controller.model, controller.serial].into_iter().flatten());
            prop_assert!(!said.concat().contains(|c: char| c.is_control()), "{said:?}");
        }
        let _ = bind(&machine, false);
        let _ = bind(&machine, true);
    }
}

const ATTRIBUTES: [&str; 13] = [
    "sys/bus/pci/devices/0000:04:00.0/class",
    "sys/bus/pci/devices/0000:04:00.0/vendor",
    "sys/bus/pci/devices/0000:04:00.0/driver_override",
    "sys/bus/pci/devices/0000:04:00.0/nvme/nvme0/model",
    "sys/class/block/nvme0n1/size",
    "sys/class/block/nvme0n1/dev",
    "sys/class/block/nvme0n1/nsid",
    "sys/class/block/nvme0n1/queue/logical_block_size",
    "sys/class/block/nvme0n1/nvme0n1p1/dev",
    "sys/class/block/dm-0/dm/name",
    "sys/class/block/dm-0/dm/uuid",
    "sys/bus/pci/devices/not:an:address/class",
    "sys/kernel/iommu_groups/12/devices/nonsense",
];

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".*",
        "[0-9a-fx:. -]{0,24}",
        Just("0xffffffffffffffffffff".to_owned()),
        Just("18446744073709551615".to_owned()),
        "1 2 259:0 / \\\\[0-9]{0,4}[^\\n]{0,3} rw - ext4 /dev/nvme0n1\\\\[0-9]{0,3}\n",
        "(1 1 )?[0-9]*:[0-9]* (- )?[^\\n]*\n",
    ]
}
