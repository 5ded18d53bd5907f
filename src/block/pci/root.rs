//! Where the kernel's view of the machine is: `/sys`, `/proc` and `/dev`, or a tree that looks like
//! them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory that holds `sys`, `proc` and `dev`.
#[derive(Clone, Debug)]
pub struct SystemRoot(PathBuf);

impl Default for SystemRoot {
    /// This machine.
    fn default() -> Self {
        Self::at("/")
    }
}

/// More of an attribute than this is not read; the kernel's are at most a page.
const MAX_ATTRIBUTE_BYTES: u64 = 64 << 10;
/// The tables of `/proc` are as long as there are mounts.
const MAX_TABLE_BYTES: u64 = 64 << 20;

impl SystemRoot {
    /// The tree at `path`, in place of this machine.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// `path`, which is relative, below the root.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// The directory of a PCI function, or of a file in it.
    pub(crate) fn pci_device(&self, address: impl std::fmt::Display) -> PathBuf {
        self.path(format!("sys/bus/pci/devices/{address}"))
    }

    /// The directory of a block device or partition; an empty name has none.
    pub(crate) fn block(&self, name: &str) -> PathBuf {
        self.path("sys/class/block").join(name)
    }

    /// The node of a device.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.path("dev").join(name)
    }

    /// A table of `/proc`.
    ///
    /// # Errors
    ///
    /// As from reading a file.
    pub(crate) fn table(&self, path: &str) -> io::Result<String> {
        read_at_most(&self.path(path), MAX_TABLE_BYTES)
    }
}

fn read_at_most(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, max_bytes), &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An attribute without the blanks around it; `None` if it is absent, unreadable or empty.
pub(crate) fn attribute(path: &Path) -> Option<String> {
    let text = read_at_most(path, MAX_ATTRIBUTE_BYTES).ok()?;
    // A control character in a name would reach a terminal.
    let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    (!text.is_empty()).then_some(text)
}

/// An attribute that is a number: `0x…` or decimal.
pub(crate) fn number(path: &Path) -> Option<u64> {
    let text = attribute(path)?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The last part of where a link leads: a driver's name, a group's number.
pub(crate) fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The names in a directory, sorted; none if it cannot be read.
pub(crate) fn names_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().to_str().map(str::to_owned)).collect();
    names.sort_by_key(|name| natural(name));
    names
}

/// A key by which `nvme2` comes before `nvme10`.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut key = vec![(String::new(), 0u64)];
    let mut in_number = false;
    for c in name.chars() {
        let (text, number) = key.last_mut().expect("it starts with one entry");
        if let Some(digit) = c.to_digit(10) {
            *number = number.saturating_mul(10).saturating_add(u64::from(digit));
            in_number = true;
        } else if in_number {
            key.push((c.to_string(), 0));
            in_number = false;
        } else {
            text.push(c);
        }
    }
    key
}
