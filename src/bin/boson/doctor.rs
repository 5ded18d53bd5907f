//! `boson doctor`: which backends can be used here, and the one command that helps where one
//! cannot.

mod vfio;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use boson::block::pci::SystemRoot;
use boson::rt;
use boson::rt::reactor::RingFeature;
use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct DoctorOptions {
    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
}

/// What was found about one backend.
struct Finding {
    backend: &'static str,
    /// A part of the backend that is found by itself.
    feature: Option<&'static str>,
    state: BackendState,
    /// What is there, or what is missing.
    detail: String,
    /// The one command (or place to look) that helps.
    help: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BackendState {
    Usable,
    /// Works, but slower or with less than it could.
    Degraded,
    Unusable,
}

impl BackendState {
    fn name(self) -> &'static str {
        match self {
            Self::Usable => "yes",
            Self::Degraded => "degraded",
            Self::Unusable => "no",
        }
    }
}

impl Finding {
    fn usable(backend: &'static str, detail: impl Into<String>) -> Self {
        Self { backend, feature: None, state: BackendState::Usable, detail: detail.into(), help: None }
    }

    fn degraded(backend: &'static str, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { state: BackendState::Degraded, help: Some(help.into()), ..Self::usable(backend, detail) }
    }

    fn unusable(backend: &'static str, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { state: BackendState::Unusable, help: Some(help.into()), ..Self::usable(backend, detail) }
    }

    fn of(self, feature: &'static str) -> Self {
        Self { feature: Some(feature), ..self }
    }
}

pub(crate) fn run(options: &DoctorOptions) -> boson::Result<()> {
    let mut findings = vec![io_uring()];
    findings.extend(ring_features());
    findings.extend([
        hugepages(),
        kernel_net(),
        tap(),
        not_built("xdp:", "the userspace stack on AF_XDP"),
        dpdk(),
        Finding::usable("mem:", "a namespace in memory needs nothing"),
        file(),
        block_devices(),
        spdk(),
    ]);
    findings.extend(vfio::findings(&SystemRoot::default(), may_read_and_write));
    let text = if options.json { as_json(&findings) } else { as_table(&findings) };
    // A reader that went away (`| head`) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn as_table(findings: &[Finding]) -> String {
    let mut text = format!("{:<10} {:<9} {}\n", "backend", "usable", "why, and what helps");
    for finding in findings {
        let state = finding.state.name();
        text += &match finding.feature {
            None => format!("{:<10} {state:<9} {}\n", finding.backend, finding.detail),
            Some(feature) => format!("  {:<8} {state:<9} {feature}: {}\n", finding.backend, finding.detail),
        };
        if let Some(help) = &finding.help {
            text += &format!("{:<20} -> {help}\n", "");
        }
    }
    text
}

fn as_json(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| {
            let object = serde_json::json!({
                "backend": finding.backend,
                "feature": finding.feature,
                "usable": finding.state.name(),
                "detail": finding.detail,
                "help": finding.help,
            });
            format!("{object}\n")
        })
        .collect()
}

fn not_built(backend: &'static str, what: &str) -> Finding {
    let instead = match backend {
        "xdp:" if cfg!(feature = "dpdk") => "use dpdk:net_af_xdp0,iface=…",
        "xdp:" => "build with --features dpdk, for dpdk:net_af_xdp0,iface=…",
        _ => "use blk:/dev/NAME",
    };
    Finding::unusable(backend, format!("{what} is not in this version"), instead)
}

fn io_uring() -> Finding {
    match rt::reactor::probe_io_uring() {
        Ok(()) => Finding::usable("io_uring", format!("Linux {}", kernel_release())),
        Err(error) => {
            let detail = format!("{error}; epoll and threads are used instead, with more system calls");
            Finding::degraded("io_uring", detail, "sysctl -w kernel.io_uring_disabled=0")
        }
    }
}

/// One finding for each feature of the io_uring; none where there is no io_uring at all.
fn ring_features() -> Vec<Finding> {
    let Ok(features) = rt::reactor::probe_ring_features() else { return Vec::new() };
    let finding = |feature: RingFeature| {
        let found = if features.contains(feature) {
            Finding::usable("io_uring", feature.used_for())
        } else {
            let since = format!("Linux {} or newer", feature.since());
            Finding::degraded("io_uring", feature.used_for(), since)
        };
        found.of(feature.name())
    };
    RingFeature::ALL.iter().copied().map(finding).collect()
}

fn kernel_release() -> String {
    read_trimmed("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown release".to_owned())
}

fn kernel_net() -> Finding {
    match rt::reactor::probe_io_uring() {
        Ok(()) => Finding::usable("kernel:", "the kernel's sockets through io_uring"),
        Err(_) => Finding::degraded(
            "kernel:",
            "the kernel's sockets through epoll",
            "sysctl -w kernel.io_uring_disabled=0",
        ),
    }
}

fn hugepages() -> Finding {
    let free: u64 = read_trimmed("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let default = boson::mem::default_hugepage_bytes();
    if let Some(mib) = default.map(|bytes| bytes >> 20).filter(|mib| *mib != 2) {
        Finding::degraded(
            "hugepages",
            format!("the default here is {mib} MiB, and arenas use 2 MiB; normal pages are used instead"),
            "boot with default_hugepagesz=2M",
        )
    } else if free > 0 {
        Finding::usable("hugepages", format!("{free} of 2 MiB are free"))
    } else {
        Finding::degraded(
            "hugepages",
            "none of 2 MiB is free; normal pages are used instead",
            "echo 512 > /proc/sys/vm/nr_hugepages",
        )
    }
}

fn tap() -> Finding {
    let node = Path::new("/dev/net/tun");
    if !node.exists() {
        return Finding::unusable("tap:", "/dev/net/tun is absent", "modprobe tun");
    }
    if !has_capability(CAP_NET_ADMIN) {
        return Finding::unusable(
            "tap:",
            "CAP_NET_ADMIN is missing",
            "run as root, or: setcap cap_net_admin+ep $(command -v boson)",
        );
    }
    match OpenOptions::new().read(true).write(true).open(node) {
        Ok(_) => Finding::usable("tap:", "/dev/net/tun opens"),
        Err(error) => Finding::unusable("tap:", format!("/dev/net/tun: {error}"), "ls -l /dev/net/tun"),
    }
}

#[cfg(feature = "dpdk")]
fn dpdk() -> Finding {
    let version =
        format!("{}, built for {}", boson::net::device::dpdk::Eal::version(), env!("BOSON_DPDK_VERSION"));
    if !has_capability(CAP_NET_RAW) {
        return Finding::unusable("dpdk:", format!("{version}; CAP_NET_RAW is missing"), "run as root");
    }
    let vfio = Path::new("/dev/vfio/vfio").exists();
    let cards =
        if vfio { "cards through VFIO and virtual devices" } else { "virtual devices only: VFIO is absent" };
    Finding::usable("dpdk:", format!("{version}; {cards}"))
}

#[cfg(not(feature = "dpdk"))]
fn dpdk() -> Finding {
    Finding::unusable(
        "dpdk:",
        "not built in",
        "apt-get install libdpdk-dev libclang-dev pkg-config && cargo build --release --features dpdk",
    )
}

#[cfg(feature = "spdk")]
fn spdk() -> Finding {
    let version = boson::block::spdk::version();
    let vfio = Path::new("/dev/vfio/vfio").exists();
    let controllers = if vfio {
        "controllers through VFIO, NVMe over TCP and SPDK's block devices"
    } else {
        "NVMe over TCP and SPDK's block devices; no controllers: VFIO is absent"
    };
    Finding::usable("spdk:", format!("{version}; {controllers}"))
}

#[cfg(not(feature = "spdk"))]
fn spdk() -> Finding {
    Finding::unusable(
        "spdk:",
        "not built in",
        "build SPDK as docs/spdk.md says, then cargo build --release --features spdk",
    )
}

fn file() -> Finding {
    let probe =
        std::env::current_dir().unwrap_or_default().join(format!(".boson-doctor-{}", std::process::id()));
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let open = |flags: i32| {
        // An open that is refused for direct I/O has made the file by then.
        let _ = fs::remove_file(&probe);
        OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(&probe)
    };
    let finding = match open(direct) {
        Ok(_) => Finding::usable("file:", "direct I/O works in this directory"),
        Err(_) => match open(0) {
            Ok(_) => Finding::degraded(
                "file:",
                "this directory's file system has no direct I/O; the page cache is used",
                "put the file on ext4, xfs or btrfs: --store file:/PATH",
            ),
            Err(error) => {
                Finding::unusable("file:", format!("this directory: {error}"), "cd to a writable directory")
            }
        },
    };
    let _ = fs::remove_file(&probe);
    finding
}

fn block_devices() -> Finding {
    let names: Vec<String> = fs::read_dir("/sys/block")
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    let sized =
        |name: &&String| read_trimmed(format!("/sys/block/{name}/size")).is_some_and(|size| size != "0");
    let present: Vec<&String> = names.iter().filter(sized).collect();
    let (mut openable, mut refused) = (Vec::new(), None);
    for name in present {
        match OpenOptions::new().read(true).open(format!("/dev/{name}")) {
            Ok(_) => openable.push(name.as_str()),
            Err(error) => refused = Some(format!("/dev/{name}: {error}")),
        }
    }
    match refused {
        _ if !openable.is_empty() => Finding::usable("blk:", format!("devices: {}", openable.join(" "))),
        Some(why) => Finding::unusable("blk:", why, "run as root or join the group `disk`"),
        None => Finding::unusable("blk:", "no block device has a size", "losetup --find --show FILE"),
    }
}

const CAP_NET_ADMIN: u32 = 12;
#[cfg(feature = "dpdk")]
const CAP_NET_RAW: u32 = 13;

fn has_capability(number: u32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| has_capability_in(&status, number))
}

/// Whether the process of a `/proc/PID/status` has the capability.
fn has_capability_in(status: &str, number: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    effective.is_some_and(|effective| effective >> number & 1 == 1)
}

fn may_read_and_write(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok()
}

fn read_trimmed(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_every_backend_and_its_help() {
        let findings = [
            Finding::usable("a:", "works"),
            Finding::unusable("b:", "says \"no\"", "run this"),
            Finding::usable("b:", "in part").of("half"),
        ];
        let table = as_table(&findings);
        assert!(table.contains("a:         yes       works"), "{table}");
        assert!(table.contains("-> run this"), "{table}");
        let json = as_json(&findings);
        assert!(table.contains("  b:       yes       half: in part"), "{table}");
        let objects: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).expect("valid")).collect();
        assert_eq!(objects.len(), 3);
        assert_eq!(objects[1]["detail"], "says \"no\"");
        assert_eq!(objects[1]["help"], "run this");
        assert_eq!(
            (&objects[2]["backend"], &objects[2]["feature"], &objects[2]["detail"]),
            (&"b:".into(), &"half".into(), &"in part".into())
        );
    }
}
