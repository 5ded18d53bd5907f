//! The kernel's tables of mounts, of swap areas and of what it serves to other machines.

use std::fs;

use super::controller::{BlockNode, device_number};
use super::root::{SystemRoot, attribute, names_in};

/// The table of mounts, below the root.
pub(super) const MOUNTS: &str = "proc/self/mountinfo";

/// What the kernel's NVMe target serves, in the file system through which it is configured.
const TARGET: &str = "sys/kernel/config/nvmet/subsystems";

/// Mounts, swap areas and exports.
pub(super) struct Tables {
    mounts: Vec<Mount>,
    /// Why the mounts are not known.
    pub(super) unreadable: Option<String>,
    /// As they were named when they were added.
    swaps: Vec<String>,
    exports: Vec<Export>,
}

struct Export {
    device: String,
    subsystem: String,
}

struct Mount {
    number: Option<(u32, u32)>,
    source: String,
    at: String,
}

impl Tables {
    pub(super) fn read(root: &SystemRoot) -> Self {
        let (mounts, unreadable) = match root.table(MOUNTS) {
            Ok(mounts) => (mounts, None),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        // Absent in a kernel without swap.
        let swaps = root.table("proc/swaps").unwrap_or_default();
        Self {
            mounts: mounts.lines().filter_map(parse_mount).collect(),
            unreadable,
            swaps: swaps
                .lines()
                .skip(1)
                .filter_map(|line| line.split_whitespace().next().map(unescape))
                .collect(),
            exports: exports(root),
        }
    }

    /// Where a device is mounted. It may be mounted at many places, as for containers: one tells
    /// enough.
    pub(super) fn mount_point(&self, root: &SystemRoot, node: &BlockNode) -> Option<&str> {
        // Btrfs has a number of its own for each mount, so the name counts too.
        let is_of_node = |mount: &&Mount| {
            (mount.number.is_some() && mount.number == node.number) || names(root, &mount.source, &node.name)
        };
        self.mounts.iter().find(is_of_node).map(|mount| mount.at.as_str())
    }

    /// Whether the kernel swaps to a device.
    pub(super) fn is_swap(&self, root: &SystemRoot, node: &BlockNode) -> bool {
        self.swaps.iter().any(|swap| names(root, swap, &node.name))
    }

    /// The subsystem as part of which the kernel serves a device to other machines.
    pub(super) fn export(&self, root: &SystemRoot, node: &BlockNode) -> Option<&str> {
        let export = self.exports.iter().find(|export| names(root, &export.device, &node.name))?;
        Some(&export.subsystem)
    }
}

/// The namespaces of the kernel's NVMe target that are switched on. It opens their devices without
/// a claim on them.
fn exports(root: &SystemRoot) -> Vec<Export> {
    let subsystems = root.path(TARGET);
    let of = |subsystem: String| {
        let namespaces = subsystems.join(&subsystem).join("namespaces");
        names_in(&namespaces).into_iter().filter_map(move |number| {
            let namespace = namespaces.join(number);
            let is_on = attribute(&namespace.join("enable")).as_deref() == Some("1");
            let device = attribute(&namespace.join("device_path")).filter(|_| is_on)?;
            Some(Export { device, subsystem: subsystem.clone() })
        })
    };
    names_in(&subsystems).into_iter().flat_map(of).collect()
}

/// Whether `path`, as the kernel prints it, is the node of the device `name`, itself or through a
/// link such as `/dev/disk/by-uuid/…`.
pub(super) fn names(root: &SystemRoot, path: &str, name: &str) -> bool {
    let Some(in_dev) = path.strip_prefix("/dev/") else { return false };
    in_dev == name
        || fs::canonicalize(root.node(in_dev))
            .is_ok_and(|target| target.file_name().is_some_and(|file_name| file_name == name))
}

/// A line of `/proc/self/mountinfo`, proc_pid_mountinfo(5).
fn parse_mount(line: &str) -> Option<Mount> {
    let (fields, after) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(2);
    let number = device_number(fields.next()?);
    let at = unescape(fields.nth(1)?);
    let source = unescape(after.split(' ').nth(1).unwrap_or_default());
    Some(Mount { number, source, at })
}

/// The kernel writes blanks and backslashes in its tables as `\040`.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.filter(|_| byte == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                out.push(escaped);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    // The message goes to a terminal.
    String::from_utf8_lossy(&out).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
