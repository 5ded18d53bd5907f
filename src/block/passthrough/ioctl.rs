//! What the kernel's NVMe driver answers at once (`linux/nvme_ioctl.h`).

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::super::nvme::Status;
use super::super::nvme::command::{admin, cns};

/// `NVME_IOCTL_ID`: `_IO('N', 0x40)`.
const NVME_IOCTL_ID: libc::Ioctl = 0x4e40;
/// `NVME_IOCTL_ADMIN_CMD`: `_IOWR('N', 0x41, struct nvme_admin_cmd)`.
const NVME_IOCTL_ADMIN_CMD: libc::Ioctl = 0xc048_4e41;

/// An Identify data structure.
pub(super) type Identity = [u8; 4096];

/// `struct nvme_admin_cmd`.
#[repr(C)]
#[derive(Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_millis: u32,
    result: u32,
}

const _: () = assert!(size_of::<AdminCommand>() == 0x48);

/// The number of the namespace that `device` is.
pub(super) fn namespace_id(device: &impl AsFd) -> io::Result<u32> {
    // SAFETY: the request has no argument; a descriptor of anything else refuses it.
    let id = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), NVME_IOCTL_ID) };
    u32::try_from(id).map_err(|_| io::Error::last_os_error())
}

/// What the controller says about itself and about namespace `nsid` (Base 5.17). Blocks until it
/// has answered.
pub(super) fn identify(device: &impl AsFd, nsid: u32) -> io::Result<(Box<Identity>, Box<Identity>)> {
    Ok((ask(device, cns::CONTROLLER, 0)?, ask(device, cns::NAMESPACE, nsid)?))
}

fn ask(device: &impl AsFd, what: u32, nsid: u32) -> io::Result<Box<Identity>> {
    let mut answer: Box<Identity> =
        vec![0; 4096].into_boxed_slice().try_into().map_err(|_| io::ErrorKind::Other)?;
    let mut command = AdminCommand {
        opcode: admin::IDENTIFY,
        nsid,
        address: (&raw mut *answer).expose_provenance() as u64,
        data_len: 4096,
        cdw10: what,
        ..AdminCommand::default()
    };
    let argument: *mut c_void = (&raw mut command).cast();
    // SAFETY: the request takes a command, which the driver reads and whose result it writes;
    // `command` is one. It writes `data_len` bytes to `address`, which are those of `answer`.
    // Nobody uses the two meanwhile.
    let status = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), NVME_IOCTL_ADMIN_CMD, argument) };
    match status {
        0 => Ok(answer),
        // The controller's status.
        1.. => {
            let field = u16::try_from(status).unwrap_or(u16::MAX);
            Err(Status::from_field(field).error("identify", false).into())
        }
        _ => Err(io::Error::last_os_error()),
    }
}
