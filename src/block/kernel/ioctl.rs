//! What only an ioctl says about a block device.

use std::os::fd::OwnedFd;

/// `BLKROGET`: `_IO(0x12, 94)` in `linux/fs.h`.
const BLKROGET: rustix::ioctl::Opcode = 0x125e;

/// Whether a block device may only be read, also if it could be opened for writing. False if it
/// does not say.
pub(in super::super) fn is_read_only(device: &OwnedFd) -> bool {
    // SAFETY: `BLKROGET` writes one `int`, and nothing else.
    let get = unsafe { rustix::ioctl::Getter::<BLKROGET, libc::c_int>::new() };
    // SAFETY: the operation is one that any descriptor may be asked for; others than block devices
    // refuse it.
    unsafe { rustix::ioctl::ioctl(device, get) }.is_ok_and(|value| value != 0)
}
