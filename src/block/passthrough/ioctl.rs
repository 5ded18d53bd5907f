//! What the kernel's NVMe driver answers at once (`linux/nvme_ioctl.h`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `NVME_IOCTL_ID`: `_IO('N', 0x40)`.
const NVME_IOCTL_ID: libc::Ioctl = 0x4e40;

/// The number of the namespace that `device` is.
pub(super) fn namespace_id(device: &impl AsFd) -> io::Result<u32> {
    // SAFETY: the request has no argument; a descriptor of anything else refuses it.
    let id = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), NVME_IOCTL_ID) };
    u32::try_from(id).map_err(|_| io::Error::last_os_error())
}
