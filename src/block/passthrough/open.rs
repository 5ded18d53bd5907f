//! Opening a namespace's character device, and its block device with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::kernel::{lock, open_error, patiently};
use super::ioctl;
use crate::error::{Error, ErrorKind, Result};

/// A namespace that was opened, and is locked against other processes.
pub(super) struct Opened {
    pub(super) device: OwnedFd,
    /// Held exclusively.
    pub(super) block_device: Option<File>,
    pub(super) nsid: u32,
}

pub(super) async fn open(path: &Path, name: &str) -> Result<Opened> {
    let failed = |error: io::Error| open_error(&error, name);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let no_such_device =
        |why: &str| Error::new(ErrorKind::InvalidInput, "open").at(name.to_owned()).because(why.to_owned());
    if metadata.file_type().is_block_device() {
        return Err(no_such_device("it is a block device: write blk: instead of ng:"));
    }
    // Its name may be that of a link.
    let real = std::fs::canonicalize(path).map_err(failed)?;
    let block_path = block_device_of(&real).filter(|_| metadata.file_type().is_char_device());
    let block_path = block_path.ok_or_else(|| {
        no_such_device("it is not the generic device of an NVMe namespace, such as /dev/ng0n1")
    })?;
    let device = OpenOptions::new().read(true).write(true).open(&real).map_err(failed)?;
    let device = OwnedFd::from(device);
    let nsid = ioctl::namespace_id(&device).map_err(failed)?;
    lock(&device, name).await?;
    let block_device = hold(&block_path, nsid, name).await?;
    Ok(Opened { device, block_device, nsid })
}

/// The block device of the namespace whose character device is at `path`: `/dev/nvme0n1` for
/// `/dev/ng0n1`.
pub(super) fn block_device_of(path: &Path) -> Option<PathBuf> {
    let numbers = path.file_name()?.to_str()?.strip_prefix("ng")?;
    let (controller, namespace) = numbers.split_once('n')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(controller) && is_number(namespace)).then(|| path.with_file_name(format!("nvme{numbers}")))
}

/// Holds the block device exclusively, so that nobody mounts it or uses it by `blk:`.
async fn hold(path: &Path, nsid: u32, name: &str) -> Result<Option<File>> {
    let exclusively = || OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path);
    let in_use = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
    let held = match patiently(in_use, exclusively).await {
        Ok(held) => held,
        // The kernel makes none of a format that it does not read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if in_use(&error) => {
            return Err(Error::new(ErrorKind::InUse, "open").at(name.to_owned()).because(format!(
                "its block device {} is mounted or in use: unmount it or stop its user first",
                path.display()
            )));
        }
        Err(error) => return Err(open_error(&error, name).at(format!("{} of {name}", path.display()))),
    };
    let held_nsid = ioctl::namespace_id(&held).map_err(|error| open_error(&error, name))?;
    if held_nsid != nsid {
        return Err(Error::new(ErrorKind::InvalidInput, "open").at(name.to_owned()).because(format!(
            "{} is namespace {held_nsid} and not {nsid}: it is not its block device",
            path.display()
        )));
    }
    Ok(Some(held))
}
