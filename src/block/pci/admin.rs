//! Admin commands to a controller that the kernel's nvme driver has, through its character device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

use super::root::SystemRoot;
use crate::block::nvme::command::{admin, cns, log_page};
use crate::block::nvme::{ControllerIdentity, HealthLog, NamespaceIdentity, Status};
use crate::error::{Error, ErrorKind, Result};

/// The length of every Identify data structure (NVMe Base 2.0c, 5.17.2), and the most that any of
/// these commands returns.
const DATA_BYTES: usize = 4096;
/// The length of the SMART / Health Information log page (NVMe Base 2.0c, 5.16.1.3).
const SMART_LOG_BYTES: usize = 512;
/// Where the Identify Controller data structure has the version (VER).
const VERSION: usize = 80;
/// The smallest page of controllers on PCI in practice, as a power of two: the kernel does not pass
/// on CAP.MPSMIN, which only the largest transfer depends on.
const PAGE_SHIFT: u32 = 12;

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

    /// The controller behind `file`, which is open on its character device or on that of one of its
    /// namespaces; `name` is for messages.
    pub(in crate::block) fn of(file: File, name: String) -> Self {
        Self { file, name }
    }

    /// The Identify Controller data structure.
    ///
    /// # Errors
    ///
    /// The kernel's code, or [`Os`](ErrorKind::Os) with the controller's status in words.
    pub fn identify_controller(&self) -> Result<ControllerIdentity> {
        let data = self.command(admin::IDENTIFY, 0, cns::CONTROLLER, DATA_BYTES, "identify controller")?;
        let version = u32::from_le_bytes(std::array::from_fn(|at| data[VERSION + at]));
        ControllerIdentity::parse(&data, PAGE_SHIFT, version).map_err(|error| error.at(self.name.clone()))
    }

    /// The Identify Namespace data structure of the NVM command set; `None` if there is no such
    /// namespace.
    ///
    /// # Errors
    ///
    /// As for [`AdminCommands::identify_controller`].
    pub fn identify_namespace(&self, nsid: u32) -> Result<Option<NamespaceIdentity>> {
        let data = self.command(admin::IDENTIFY, nsid, cns::NAMESPACE, DATA_BYTES, "identify namespace")?;
        Ok(NamespaceIdentity::parse(&data, nsid))
    }

    /// The controller's SMART / Health Information log page.
    ///
    /// # Errors
    ///
    /// As for [`AdminCommands::identify_controller`].
    pub fn health_log(&self) -> Result<HealthLog> {
        // The number of dwords less one is in the upper half of dword 10.
        let dwords = u32::try_from(SMART_LOG_BYTES / 4 - 1).unwrap_or(0);
        let dword_10 = dwords << 16 | u32::from(log_page::HEALTH);
        let data =
            self.command(admin::GET_LOG_PAGE, ALL_NAMESPACES, dword_10, SMART_LOG_BYTES, "read health log")?;
        Ok(HealthLog::parse(&data))
    }

    fn command(
        &self,
        opcode: u8,
        nsid: u32,
        dword_10: u32,
        len: usize,
        operation: &'static str,
    ) -> Result<Box<[u8; DATA_BYTES]>> {
        let len = len.min(DATA_BYTES);
        let mut data = Box::new([0u8; DATA_BYTES]);
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
        // writes at most `data_len` bytes at `data`: that is at most the length of the array, which
        // is not touched until the call is over. `metadata` is null with length 0. `open` took a
        // character device by the name that the nvme driver gives its own.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), ADMIN_COMMAND, argument) };
        match result {
            0 => Ok(data),
            ..0 => Err(Error::io(io::Error::last_os_error(), operation).at(self.name.clone())),
            status => Err(status_of(status).error(operation, false).at(self.name.clone())),
        }
    }
}

/// The status that the kernel returns: the field of the completion without its phase bit (NVMe Base
/// 2.0c, 3.3.3.2).
fn status_of(returned: libc::c_int) -> Status {
    let [code, rest, ..] = returned.to_le_bytes();
    let status = Status::new(rest & 7, code);
    if rest >> 6 & 1 == 1 { status.do_not_retry() } else { status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_controller_is_in_words() {
        let said = status_of(0x4002).error("identify namespace", false).to_string();
        assert!(said.contains("Invalid Field in Command") && said.contains("do not retry"), "{said}");
        assert_eq!(status_of(0x0281), Status::new(2, 0x81));
    }

    #[test]
    fn what_is_no_character_device_gets_no_command() {
        let directory = std::env::temp_dir().join(format!("boson-admin-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("dev")).expect("a directory");
        std::fs::write(directory.join("dev/nvme0"), "").expect("a file");
        let root = SystemRoot::at(&directory);
        let refused = AdminCommands::open(&root, "nvme0").expect_err("a file");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert_eq!(AdminCommands::open(&root, "nvme1").expect_err("nothing").kind(), ErrorKind::NotFound);
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
