//! `boson device` on a real controller: what it shows, what it refuses to take, and there and back
//! again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use boson::block::vfio::Device;
use serde_json::Value;

use super::{PATIENCE, device};

fn boson(arguments: &[&str]) -> Output {
    Command::new(device("BOSON_GUEST_PROGRAM")).args(arguments).output().expect("it runs")
}

fn said(arguments: &[&str]) -> String {
    let output = boson(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn refused(arguments: &[&str]) -> String {
    let output = boson(arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the guest has it");
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// What `boson device list` says of the controller at `address`.
fn listed(address: &str) -> Value {
    let json = said(&["device", "list", "--json"]);
    let objects = json.lines().map(|line| serde_json::from_str(line).expect("an object"));
    objects.into_iter().find(|object: &Value| object["address"] == address).expect("it is listed")
}

fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        match found() {
            Some(found) => return found,
            None => assert!(started.elapsed() < PATIENCE, "it does not happen"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The controller that VFIO has, given to the nvme driver; back with VFIO, and blank, when dropped.
struct Borrowed {
    address: String,
    /// The nodes of its namespaces of 512 and of 4096 bytes.
    nodes: [PathBuf; 2],
}

impl Borrowed {
    fn new() -> Self {
        let address = device("BOSON_GUEST_VFIO");
        let text = said(&["device", "unbind", &address]);
        assert!(text.contains("nvme driver has"), "{text}");
        // The driver looks for namespaces after it has taken the controller.
        let nodes = until(|| {
            let found = listed(&address);
            let nodes = found["namespaces"].as_array().expect("an array").iter();
            let nodes = nodes.map(|namespace| namespace["device"].as_str().map(PathBuf::from));
            nodes.collect::<Option<Vec<_>>>()?.try_into().ok()
        });
        Self { address, nodes }
    }

    /// Binding is refused, for this reason, and nothing has changed.
    fn is_refused(&self, reason: &str) {
        let said = refused(&["device", "bind", &self.address]);
        assert!(said.contains(reason) && said.contains("--force"), "{reason}: {said}");
        assert_eq!(listed(&self.address)["driver"], "nvme");
    }

    fn is_bound(&self) {
        said(&["device", "bind", &self.address]);
        assert_eq!(listed(&self.address)["driver"], "vfio-pci");
        assert_eq!(listed(&self.address)["namespaces"], Value::Array(Vec::new()));
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let zeros = vec![0; 1 << 20];
        for node in &self.nodes {
            if let Ok(file) = File::options().write(true).open(node) {
                let _ = file.write_all_at(&zeros, 0);
                let _ = file.sync_all();
            }
        }
        let output = boson(&["device", "bind", "--force", &self.address]);
        assert!(output.status.success() || std::thread::panicking(), "{output:?}");
    }
}

fn name(node: &Path) -> &str {
    node.to_str().expect("a name in UTF-8")
}

#[test]
#[ignore = "scripts/guest"]
fn a_controller_with_vfio_is_listed_and_cannot_be_asked() {
    let address = device("BOSON_GUEST_VFIO");
    let found = listed(&address);
    assert_eq!(found["driver"], "vfio-pci");
    assert!(found["iommu_group"].is_u64(), "{found}");
    assert_eq!((&found["model"], &found["namespaces"]), (&Value::Null, &Value::Array(Vec::new())));
    let text = said(&["device", "info", &address]);
    assert!(text.contains("vfio-pci has it") && text.contains("unbind"), "{text}");
    assert!(said(&["device", "bind", &address]).contains("already"));
}

#[test]
#[ignore = "scripts/guest"]
fn a_controller_that_a_process_drives_is_not_given_back() {
    let address = device("BOSON_GUEST_VFIO");
    let opened = Device::open(&address).expect("scripts/guest bound it");
    let said = refused(&["device", "unbind", &address]);
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    // From where this process cannot be seen, the group is in use all the same.
    let program = device("BOSON_GUEST_PROGRAM");
    let output = Command::new("unshare")
        .args(["-m", "-p", "-f", "--mount-proc", &program, "device", "unbind", &address])
        .output()
        .expect("the guest has it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a process that cannot be seen from here uses it"), "{said}");
    assert_eq!(listed(&address)["driver"], "vfio-pci");
    drop(opened);
}

#[test]
#[ignore = "scripts/guest"]
fn given_to_the_kernel_it_is_shown_with_its_namespaces_and_its_health() {
    let borrowed = Borrowed::new();
    let found = listed(&borrowed.address);
    assert_eq!((&found["driver"], &found["serial"]), (&"nvme".into(), &"boson-vfio".into()));
    for (namespace, (block, nsid)) in [(512, 1), (4096, 2)].into_iter().enumerate() {
        let namespace = &found["namespaces"][namespace];
        assert_eq!(namespace["block_size_bytes"], block, "{namespace}");
        assert_eq!(namespace["nsid"], nsid);
        assert_eq!(
            (&namespace["in_use"], &namespace["holds"]),
            (&false.into(), &"zeros at its front".into())
        );
        assert!(fs::exists(namespace["generic"].as_str().expect("a character device")).expect("/dev"));
    }
    let text = said(&["device", "info", &borrowed.address]);
    println!("{}\n{text}", said(&["device", "list"]));
    for part in ["QEMU NVMe Ctrl", "boson-vfio", "512 bytes", "4096 bytes", "Health", "warnings", "°C"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let generic = found["namespaces"][1]["generic"].as_str().expect("a character device").to_owned();
    for node in [name(&borrowed.nodes[1]), &generic] {
        let text = said(&["device", "info", node]);
        assert!(text.contains("Namespace 2") && !text.contains("Namespace 1"), "{node}: {text}");
    }
    borrowed.is_bound();
    Device::open(&borrowed.address).expect("VFIO has it");
}

#[test]
#[ignore = "scripts/guest"]
fn what_is_in_use_is_not_taken() {
    let borrowed = Borrowed::new();
    let [small, large] = borrowed.nodes.each_ref().map(|node| name(node));
    let mount_point = std::env::temp_dir().join("mounted");
    fs::create_dir_all(&mount_point).expect("a directory");

    // A file system, before it is mounted, while it is and after that.
    run("mke2fs", &["-b", "4096", large]);
    borrowed.is_refused(&format!("{large} holds an ext2, ext3 or ext4 file system"));
    run("mount", &["-t", "ext4", large, name(&mount_point)]);
    borrowed.is_refused(&format!("{large} is mounted at {}", mount_point.display()));
    assert_eq!(listed(&borrowed.address)["namespaces"][1]["in_use"], true);
    // Where only another mount namespace has it, only the kernel's own claim tells.
    let mut elsewhere = Command::new("unshare")
        .args(["-m", "sh", "-c", "echo there; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the guest has it");
    let mut there = String::new();
    let said = elsewhere.stdout.take().expect("piped");
    BufReader::new(said).read_line(&mut there).expect("readable");
    assert_eq!(there, "there\n");
    run("umount", &[name(&mount_point)]);
    borrowed.is_refused(&format!("{large} is in use by the kernel"));
    drop(elsewhere.stdin.take());
    elsewhere.wait().expect("it ends");
    borrowed.is_refused(&format!("{large} holds an ext2"));

    run("mkswap", &[small]);
    run("swapon", &[small]);
    borrowed.is_refused(&format!("{small} is used as swap"));
    run("swapoff", &[small]);

    // One partition, in an MBR.
    let zeros = vec![0; 1 << 20];
    for node in &borrowed.nodes {
        File::options().write(true).open(node).expect("writable").write_all_at(&zeros, 0).expect("written");
    }
    let mut boot_record = vec![0; 512];
    boot_record[446 + 4] = 0x83;
    boot_record[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
    boot_record[446 + 12..446 + 16].copy_from_slice(&4096u32.to_le_bytes());
    boot_record[510..].copy_from_slice(&[0x55, 0xaa]);
    let file = File::options().write(true).open(small).expect("writable");
    file.write_all_at(&boot_record, 0).expect("written");
    drop(file);
    run("blockdev", &["--rereadpt", small]);
    borrowed.is_refused(&format!("{small} has a partition"));
    let partitions = &listed(&borrowed.address)["namespaces"][0]["partitions"];
    assert_eq!(partitions[0], format!("{small}p1"));
    let file = File::options().write(true).open(small).expect("writable");
    file.write_all_at(&zeros[..512], 0).expect("written");
    drop(file);
    run("blockdev", &["--rereadpt", small]);

    // A loop device, which claims nothing, and a process.
    run("losetup", &["/dev/loop7", large]);
    borrowed.is_refused(&format!("{large} is part of the device loop7"));
    run("losetup", &["-d", "/dev/loop7"]);
    let opened = File::open(large).expect("readable");
    borrowed.is_refused(&format!("{large} is open in process {}", std::process::id()));
    drop(opened);

    borrowed.is_bound();
}

#[test]
#[ignore = "scripts/guest"]
fn the_doctor_sees_the_iommu_and_the_group_that_is_shared() {
    let shared = device("BOSON_GUEST_VFIO_SHARED");
    let report = said(&["doctor"]);
    assert!(
        report.contains("IOMMU: it is on") && report.contains("vfio-pci: the driver is loaded"),
        "{report}"
    );
    let expected = format!("group: {shared} is in the IOMMU group");
    assert!(report.contains(&expected), "{expected}: {report}");
    assert!(report.contains("/driver/unbind"), "{report}");
}
