//! Admin commands to a controller that the kernel's nvme driver has, through its character device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

use super::root::SystemRoot;
use crate::error::{Error, ErrorKind, Outcome, Result};

/// The length of every Identify data structure (NVMe Base 2.0c, 5.17.2).
pub const IDENTIFY_BYTES: usize = 4096;
/// The length of the SMART / Health Information log page (NVMe Base 2.0c, 5.16.1.3).
pub const SMART_LOG_BYTES: usize = 512;

// NVMe Base 2.0c, figure 21.
const GET_LOG_PAGE: u8 = 0x02;
const IDENTIFY: u8 = 0x06;
// NVMe Base 2.0c, figure 273.
const CNS_NAMESPACE: u32 = 0x00;
const CNS_CONTROLLER: u32 = 0x01;
// NVMe Base 2.0c, figure 202.
const LOG_SMART: u32 = 0x02;
const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// The command of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Default)]
struct PassthroughCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    dword_2: u32,
    dword_3: u32,
    metadata: u64,
    data: u64,
    metadata_len: u32,
    data_len: u32,
    dword_10: u32,
    dwords_11_to_15: [u32; 5],
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<PassthroughCommand>() == 72);

/// `_IOWR('N', 0x41, struct nvme_passthru_cmd)`, which the kernel sends as an admin command.
const ADMIN_COMMAND: libc::Ioctl = 0xc048_4e41;
/// How long the controller may take for one of these commands.
const TIMEOUT_MS: u32 = 10_000;

/// The admin queue of a controller, by way of the kernel. The commands here change nothing.
#[derive(Debug)]
pub struct AdminCommands {
    file: File,
    name: String,
}

impl AdminCommands {
    /// Opens the controller's character device, `name` in `/dev`, such as `nvme0`.
    ///
    /// # Errors
    ///
    /// [`PermissionDenied`](ErrorKind::PermissionDenied), or the kernel's code.
    pub fn open(root: &SystemRoot, name: &str) -> Result<Self> {
        let node = root.node(name);
        let name = node.display().to_string();
        let file = OpenOptions::new().read(true).open(&node).map_err(|error| {
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            let described = Error::io(error, "open").at(name.clone());
            if denied { described.because("permission denied: run as root") } else { described }
        })?;
        if !file.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device()) {
            return Err(Error::new(ErrorKind::InvalidInput, "open")
                .at(name)
                .because("it is not the character device of an NVMe controller"));
        }
        Ok(Self { file, name })
    }

    /// The Identify Controller data structure.
    ///
    /// # Errors
    ///
    /// The kernel's code, or [`Os`](ErrorKind::Os) with the controller's status in words.
    pub fn identify_controller(&self) -> Result<Vec<u8>> {
        self.command(IDENTIFY, 0, CNS_CONTROLLER, IDENTIFY_BYTES, "identify controller")
    }

    /// The Identify Namespace data structure of the NVM command set.
    ///
    /// # Errors
    ///
    /// As for [`AdminCommands::identify_controller`].
    pub fn identify_namespace(&self, nsid: u32) -> Result<Vec<u8>> {
        self.command(IDENTIFY, nsid, CNS_NAMESPACE, IDENTIFY_BYTES, "identify namespace")
    }

    /// The controller's SMART / Health Information log page.
    ///
    /// # Errors
    ///
    /// As for [`AdminCommands::identify_controller`].
    pub fn smart_log(&self) -> Result<Vec<u8>> {
        // The number of dwords less one is in the upper half of dword 10.
        let dwords = u32::try_from(SMART_LOG_BYTES / 4 - 1).unwrap_or(0);
        let dword_10 = dwords << 16 | LOG_SMART;
        self.command(GET_LOG_PAGE, ALL_NAMESPACES, dword_10, SMART_LOG_BYTES, "read health log")
    }

    fn command(
        &self,
        opcode: u8,
        nsid: u32,
        dword_10: u32,
        len: usize,
        operation: &'static str,
    ) -> Result<Vec<u8>> {
        let mut data = vec![0u8; len];
        let mut command = PassthroughCommand {
            opcode,
            nsid,
            data: data.as_mut_ptr().expose_provenance() as u64,
            data_len: u32::try_from(len).unwrap_or(u32::MAX),
            dword_10,
            timeout_ms: TIMEOUT_MS,
            ..PassthroughCommand::default()
        };
        let argument: *mut PassthroughCommand = &mut command;
        // SAFETY: the request reads and writes one `nvme_passthru_cmd`, which `argument` points to:
        // a live one, exclusively borrowed, of the size that is asserted above. The kernel also
        // writes at most `data_len` bytes at `data`: that is the length of the vector, which is not
        // touched until the call is over. `metadata` is null with length 0. `open` took a character
        // device by the name that the nvme driver gives its own.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), ADMIN_COMMAND, argument) };
        match result {
            0 => Ok(data),
            ..0 => Err(Error::io(io::Error::last_os_error(), operation).at(self.name.clone())),
            status => Err(Error::new(ErrorKind::Os, operation)
                .at(self.name.clone())
                .because(format!("the controller refused with NVMe status {status:#x}"))
                .outcome_is(Outcome::NotStarted)),
        }
    }
}
