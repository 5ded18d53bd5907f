//! Whether, and for what, the kernel or another process uses a namespace, and what it holds.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::controller::{BlockNode, FoundController, FoundNamespace};
use super::processes::{Opened, device_number, opened_devices};
use super::root::{SystemRoot, attribute, names_in};
use super::tables::{MOUNTS, Tables, names};
use crate::block::contents::{FRONT_BYTES, is_store, recognise};

/// One reason why a namespace must not be taken from the kernel. Displayed as a clause whose
/// subject is the device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Usage {
    /// A file system on it, on its partition or on a device made of it is mounted.
    Mounted {
        /// The node of that device.
        device: PathBuf,
        /// Where.
        at: String,
    },
    /// The kernel swaps to it.
    Swap {
        /// The node of the device.
        device: PathBuf,
    },
    /// Another block device is made of it: an LVM volume, a RAID, an encrypted volume.
    Held {
        /// The node of the device.
        device: PathBuf,
        /// What is made of it.
        by: String,
    },
    /// The kernel's NVMe target serves it to other machines.
    Exported {
        /// The node of the device.
        device: PathBuf,
        /// The subsystem that it is in, by its name (NQN).
        subsystem: String,
    },
    /// A process has it open.
    Open {
        /// The node of the device.
        device: PathBuf,
        /// The process's number.
        process: u32,
        /// The process's name.
        command: String,
    },
    /// It is held exclusively, and nothing else tells by whom.
    Claimed {
        /// The node of the device.
        device: PathBuf,
    },
    /// It has partitions.
    Partitioned {
        /// The node of the device.
        device: PathBuf,
        /// How many.
        partitions: usize,
    },
    /// It holds something that boson did not write.
    Foreign {
        /// The node of the device.
        device: PathBuf,
        /// What, as a phrase.
        holds: &'static str,
    },
    /// Whether it is in use cannot be told.
    Unknown {
        /// The node of the device, or the table that cannot be read.
        device: PathBuf,
        /// Why not.
        why: String,
    },
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "{} is mounted at {at}", device.display()),
            Self::Swap { device } => write!(f, "{} is used as swap", device.display()),
            Self::Held { device, by } => write!(f, "{} is part of {by}", device.display()),
            Self::Exported { device, subsystem } => {
                write!(f, "{} is served to other machines as {subsystem}", device.display())
            }
            Self::Open { device, process, command } => {
                write!(f, "{} is open in process {process} ({command})", device.display())
            }
            Self::Claimed { device } => {
                write!(f, "{} is in use by the kernel or a process", device.display())
            }
            Self::Partitioned { device, partitions: 1 } => write!(f, "{} has a partition", device.display()),
            Self::Partitioned { device, partitions } => {
                write!(f, "{} has {partitions} partitions", device.display())
            }
            Self::Foreign { device, holds } => write!(f, "{} holds {holds}", device.display()),
            Self::Unknown { device, why } => write!(f, "{} cannot be looked at ({why})", device.display()),
        }
    }
}

/// What the front of a namespace holds. Displayed as a phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Contents {
    /// Zeros, as far as was looked.
    Blank,
    /// A boson store.
    Store,
    /// A format that boson knows by its mark.
    Foreign(&'static str),
    /// Something else.
    Unrecognised,
    /// It cannot be read.
    Unreadable(String),
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("zeros at its front"),
            Self::Store => f.write_str("a boson store"),
            Self::Foreign(what) => f.write_str(what),
            Self::Unrecognised => f.write_str("data that is not recognised"),
            Self::Unreadable(why) => write!(f, "unreadable: {why}"),
        }
    }
}

/// Looks at the front of a namespace; reads at most 128 KiB. `None` where there is no block device
/// with a size.
pub fn contents_of(root: &SystemRoot, namespace: &FoundNamespace) -> Option<Contents> {
    let block = namespace.block.as_ref().filter(|_| namespace.size_bytes > 0)?;
    let front = open(&root.node(&block.name), OFlags::empty()).and_then(|file| front_of(&file));
    Some(match front {
        Err(error) => Contents::Unreadable(error.to_string()),
        Ok(front) if is_store(&front) => Contents::Store,
        Ok(front) => match recognise(&front) {
            Some(what) => Contents::Foreign(what),
            None if front.iter().all(|&byte| byte == 0) => Contents::Blank,
            None => Contents::Unrecognised,
        },
    })
}

fn front_of(file: &File) -> io::Result<Vec<u8>> {
    let mut front = vec![0; FRONT_BYTES];
    let mut len = 0;
    while len < front.len() {
        match file.read_at(&mut front[len..], len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    front.truncate(len);
    Ok(front)
}

fn open(node: &Path, flags: OFlags) -> io::Result<File> {
    // A node that is something else, such as a pipe, must not make this wait.
    let flags = (flags | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(node)
}

/// What each namespace of a controller is used for, in their order; for each the most important
/// use first.
pub fn usages_of(root: &SystemRoot, controller: &FoundController) -> Vec<Vec<Usage>> {
    look(root, controller).0
}

/// Namespaces that nobody else can mount, swap to or hold while this exists.
#[derive(Debug)]
#[must_use]
pub(super) struct Claims(#[expect(dead_code, reason = "the open files are the claims")] Vec<File>);

/// [`usages_of`], and claims on the namespaces that nobody else has claimed.
pub(super) fn look(root: &SystemRoot, controller: &FoundController) -> (Vec<Vec<Usage>>, Claims) {
    let tables = Tables::read(root);
    // A device by another name than the usual has a number all the same.
    let is_device = |name: &str, number: Option<u64>| {
        number.is_some() || name.starts_with("nvme") || name.starts_with("ng")
    };
    let opened = match controller.namespaces.is_empty() {
        true => Vec::new(),
        false => opened_devices(root, is_device),
    };
    let mut claims = Vec::new();
    let of = |namespace: &FoundNamespace| {
        let mut usages = Vec::new();
        let nodes = nodes_of(root, namespace, &mut usages);
        for node in &nodes {
            let device = root.node(&node.name);
            if let Some(at) = tables.mount_point(root, node) {
                usages.push(Usage::Mounted { device: device.clone(), at: at.to_owned() });
            }
            if let Some(subsystem) = tables.export(root, node) {
                usages.push(Usage::Exported { device: device.clone(), subsystem: subsystem.to_owned() });
            }
            if tables.is_swap(root, node) {
                usages.push(Usage::Swap { device });
            }
        }
        let names = nodes.iter().map(|node| &node.name).chain(&namespace.generic).chain(&controller.name);
        let own: Vec<_> = names.map(|name| (name.clone(), device_number(&root.node(name)))).collect();
        usages.extend(opened.iter().filter(|opened| is_open(opened, &own)).map(|opened| Usage::Open {
            device: root.node(&opened.name),
            process: opened.process,
            command: opened.command.clone(),
        }));
        if let Some(block) = &namespace.block {
            let device = root.node(&block.name);
            match open(&device, OFlags::EXCL) {
                Ok(file) => claims.push(file),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    if usages.is_empty() {
                        usages.push(Usage::Claimed { device: device.clone() });
                    }
                }
                // The kernel itself could not use it either.
                Err(_) if namespace.size_bytes == 0 => {}
                Err(error) => usages.push(Usage::Unknown { device: device.clone(), why: error.to_string() }),
            }
            if !namespace.partitions.is_empty() {
                usages.push(Usage::Partitioned { device, partitions: namespace.partitions.len() });
            } else {
                match contents_of(root, namespace) {
                    Some(Contents::Foreign(holds)) => usages.push(Usage::Foreign { device, holds }),
                    Some(Contents::Unrecognised) => {
                        usages.push(Usage::Foreign { device, holds: "data that is not recognised" });
                    }
                    // The claim says so already where it cannot be opened.
                    Some(Contents::Blank | Contents::Store | Contents::Unreadable(_)) | None => {}
                }
            }
            if let Some(why) = &tables.unreadable {
                let device = root.path(MOUNTS);
                usages.push(Usage::Unknown { device, why: why.clone() });
            }
        }
        usages.sort_by_key(Usage::rank);
        usages
    };
    let usages = controller.namespaces.iter().map(of).collect();
    (usages, Claims(claims))
}

/// Whether it is one of these devices, by name or by number, that is open.
fn is_open(opened: &Opened, devices: &[(String, Option<u64>)]) -> bool {
    devices
        .iter()
        .any(|(name, number)| *name == opened.name || (number.is_some() && *number == opened.number))
}

impl Usage {
    /// Whether it is used now, or that cannot be told; otherwise it holds something.
    pub fn is_active(&self) -> bool {
        !matches!(self, Self::Partitioned { .. } | Self::Foreign { .. })
    }

    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Mounted { .. } => 0,
            Self::Swap { .. } => 1,
            Self::Held { .. } => 2,
            Self::Exported { .. } => 3,
            Self::Open { .. } => 4,
            Self::Claimed { .. } => 5,
            Self::Unknown { .. } => 6,
            Self::Partitioned { .. } => 7,
            Self::Foreign { .. } => 8,
        }
    }
}

/// Devices made of devices made of devices: more than anybody has.
const MAX_NODES: usize = 256;

/// The namespace, its partitions, and everything that is made of them.
fn nodes_of(root: &SystemRoot, namespace: &FoundNamespace, usages: &mut Vec<Usage>) -> Vec<BlockNode> {
    let mut nodes: Vec<BlockNode> = namespace.block.iter().chain(&namespace.partitions).cloned().collect();
    let mut at = 0;
    while let Some(node) = nodes.get(at).cloned() {
        at += 1;
        let holders = names_in(&root.block(&node.name).join("holders"));
        for holder in holders.into_iter().chain(loops_over(root, &node.name)) {
            usages.push(Usage::Held { device: root.node(&node.name), by: describe_holder(root, &holder) });
            if nodes.len() < MAX_NODES && !nodes.iter().any(|known| known.name == holder) {
                nodes.push(BlockNode::read(&holder, &root.block(&holder)));
            }
        }
    }
    nodes
}

/// Loop devices over a block device: they neither claim it nor are its holders.
fn loops_over(root: &SystemRoot, name: &str) -> Vec<String> {
    let mut loops = names_in(&root.path("sys/class/block"));
    loops.retain(|entry| {
        let behind = attribute(&root.block(entry).join("loop/backing_file"));
        entry.starts_with("loop") && behind.is_some_and(|path| names(root, &path, name))
    });
    loops
}

/// A device that is made of others, in words.
fn describe_holder(root: &SystemRoot, name: &str) -> String {
    let directory = root.block(name);
    if let Some(mapped) = attribute(&directory.join("dm/name")) {
        let uuid = attribute(&directory.join("dm/uuid")).unwrap_or_default();
        let kind = match uuid.split('-').next().unwrap_or_default() {
            "LVM" => "the LVM volume",
            "CRYPT" => "the encrypted volume",
            "mpath" => "the multipath device",
            _ => "the device-mapper device",
        };
        return format!("{kind} {mapped}");
    }
    match attribute(&directory.join("md/level")) {
        Some(level) => format!("the RAID {name} ({level})"),
        None => format!("the device {name}"),
    }
}
