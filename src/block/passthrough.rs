//! `ng:/dev/ngXnY`: an NVMe namespace by the kernel's driver, without the block layer. Commands of
//! the NVM command set go to the driver as they are (`IORING_OP_URING_CMD`), each core's over a
//! ring of its own.
//!
//! The driver has an interrupt for completions, or is asked for them where it was given poll queues
//! (`nvme.poll_queues=N`).

mod command;
mod ioctl;
mod namespace;
mod open;
mod port;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::kernel::{Sysfs, is_read_only, os_error};
use super::nvme::{ControllerIdentity, NamespaceIdentity};
use super::pci::AdminCommands;
use super::{Device, NamespaceInfo};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{self, CommandRing};
use crate::rt::{self, reactor::RingFeature};
use open::Opened;
use port::PassthroughPort;

pub use namespace::PassthroughNamespace;

/// Commands of one core that the driver has at once, at most.
const MAX_SLOTS: u16 = 256;
/// The same where sysfs does not say how many the driver takes.
const CAUTIOUS_SLOTS: u16 = 32;
/// The largest transfer where sysfs does not say.
const CAUTIOUS_TRANSFER_BYTES: u64 = 128 << 10;
/// A page of memory, as a power of two.
const PAGE_SHIFT: u32 = 12;

/// An NVMe namespace that the kernel's driver passes commands to, opened by `ng:/dev/ngXnY`.
///
/// Its block device `/dev/nvmeXnY` is held exclusively meanwhile: it cannot be mounted.
#[derive(Clone, Debug)]
pub struct PassthroughDevice(Arc<PassthroughShared>);

#[derive(Debug)]
struct PassthroughShared {
    info: NamespaceInfo,
    device: OwnedFd,
    /// Keeps others out; `None` if the kernel has made no block device of the namespace.
    _block_device: Option<File>,
    nsid: u32,
    block_shift: u32,
    slots: u16,
    /// The driver has queues that are asked for completions.
    is_polled: bool,
}

impl PassthroughDevice {
    /// Opens the namespace at `path`, such as `/dev/ng0n1`, exclusively.
    ///
    /// # Errors
    ///
    /// [`InUse`](ErrorKind::InUse) if its block device is mounted or used, or if another process
    /// has it open, [`InvalidInput`](ErrorKind::InvalidInput) if it is no such device,
    /// [`Unsupported`](ErrorKind::Unsupported) for a format with metadata or protection
    /// information, or the kernel's code.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, true).await
    }

    /// The same, without forced writes unless `fua`.
    pub(super) async fn open_with(path: &Path, fua: bool) -> Result<Self> {
        let name = format!("ng:{}", path.display());
        let Opened { device, block_device, nsid } = open::open(path, &name).await?;
        let asked = device.try_clone().map_err(|error| os_error(&error, "open", &name))?;
        let admin = AdminCommands::of(File::from(asked), name.clone());
        // A controller may take long to answer.
        let identify = move || Ok((admin.identify_controller()?, admin.identify_namespace(nsid)?));
        let identified: Result<_> = rt::offload("identify", identify)
            .await
            .map_err(|error| Error::new(ErrorKind::Cancelled, "identify").because(error.to_string()))?;
        let (controller, namespace) = identified?;
        let Some(namespace) = namespace else {
            return Err(Error::new(ErrorKind::NotFound, "open")
                .at(name)
                .because("the namespace is inactive: it has no blocks"));
        };
        namespace.check_format()?;
        let driver = DriverLimits::of(block_device.as_ref());
        let mut info = describe(name, &controller, &namespace, &driver);
        info.forced_unit_access &= fua;
        Ok(Self(Arc::new(PassthroughShared {
            info,
            device,
            _block_device: block_device,
            nsid,
            block_shift: namespace.block_shift,
            slots: driver.slots,
            is_polled: driver.is_polled,
        })))
    }
}

/// What the kernel's driver says in sysfs.
struct DriverLimits {
    is_read_only: bool,
    is_polled: bool,
    max_transfer_bytes: u64,
    slots: u16,
}

impl DriverLimits {
    fn of(block_device: Option<&File>) -> Self {
        let owned = block_device.and_then(|device| device.try_clone().ok()).map(OwnedFd::from);
        let Some(device) = owned else {
            return Self {
                is_read_only: false,
                is_polled: false,
                max_transfer_bytes: CAUTIOUS_TRANSFER_BYTES,
                slots: CAUTIOUS_SLOTS,
            };
        };
        let sysfs = Sysfs::of(&device);
        // Memory that is not of hugepages may be in as many pieces as it has pages, one more if it
        // begins within one.
        let segments = sysfs.number("queue/max_segments").and_then(|segments| segments.checked_sub(1));
        let by_segments = segments.map_or(CAUTIOUS_TRANSFER_BYTES, |segments| segments << PAGE_SHIFT);
        let by_driver =
            sysfs.number("queue/max_hw_sectors_kb").map_or(CAUTIOUS_TRANSFER_BYTES, |kib| kib << 10);
        let requests = sysfs.number("queue/nr_requests").and_then(|requests| u16::try_from(requests).ok());
        Self {
            is_read_only: is_read_only(&device),
            is_polled: sysfs.text("queue/io_poll").is_some_and(|polls| polls == "1"),
            max_transfer_bytes: by_segments.min(by_driver),
            slots: requests.map_or(CAUTIOUS_SLOTS, |requests| requests.clamp(1, MAX_SLOTS)),
        }
    }
}

fn describe(
    name: String,
    controller: &ControllerIdentity,
    namespace: &NamespaceIdentity,
    driver: &DriverLimits,
) -> NamespaceInfo {
    let block = 1_u32 << namespace.block_shift;
    let bytes = |blocks: Option<u32>| blocks.map_or(0, |blocks| blocks.saturating_mul(block));
    let most = controller.max_transfer_bytes.unwrap_or(u64::MAX).min(driver.max_transfer_bytes);
    // A power of two: parts of a long transfer then begin where pages and stripes do.
    let most = u32::try_from(most).unwrap_or(1 << 31).max(block);
    let atomic = namespace.atomic_blocks_power_fail.unwrap_or(controller.atomic_blocks_power_fail);
    // Where the first boundary is not the start, multiples of it are no boundaries.
    let has_boundary = namespace.atomic_boundary_blocks.is_some();
    let atomic = if has_boundary && namespace.atomic_boundary_offset_blocks != 0 { 1 } else { atomic };
    NamespaceInfo {
        model: controller.model.clone(),
        max_transfer_bytes: 1 << most.ilog2(),
        optimal_boundary_bytes: bytes(namespace.optimal_boundary_blocks.map(u32::from)),
        atomic_write_bytes: bytes(Some(atomic)),
        atomic_boundary_bytes: bytes(namespace.atomic_boundary_blocks),
        volatile_cache: controller.volatile_cache,
        forced_unit_access: controller.volatile_cache,
        trim: controller.dataset_management,
        write_zeroes: controller.write_zeroes,
        read_only: namespace.write_protected || driver.is_read_only,
        ..NamespaceInfo::new(name, namespace.size_bytes(), block)
    }
}

impl Device for PassthroughDevice {
    type Namespace = PassthroughNamespace;

    fn info(&self) -> &NamespaceInfo {
        &self.0.info
    }

    async fn attach(&self) -> Result<PassthroughNamespace> {
        let shared = &*self.0;
        let name = &shared.info.name;
        if kernel::is_simulated() {
            return Err(Error::new(ErrorKind::Unsupported, "attach to")
                .at(name.clone())
                .because("a simulated core has no kernel: give it a device of the simulation"));
        }
        let failed = |error: std::io::Error| os_error(&error, "attach to", name);
        let device = shared.device.try_clone().map_err(failed)?;
        let may_poll = rt::reactor::ring_features().contains(RingFeature::PolledDevices) && polling_is_safe();
        let ring = CommandRing::new(device, shared.slots, shared.is_polled && may_poll, &rt::arena());
        let ring = ring.map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES | libc::EINVAL) => {
                Error::new(ErrorKind::Unsupported, "attach to").at(name.clone()).because(format!(
                    "NVMe commands go through an io_uring of Linux 5.19 or newer, which is refused here \
                     ({error}): use its block device by blk:"
                ))
            }
            _ => failed(error),
        })?;
        let port = PassthroughPort::new(ring, shared.slots, shared.nsid, shared.block_shift);
        Ok(PassthroughNamespace::attach(port, self.clone()))
    }
}

/// The first Linux, by major and minor version, that may be asked whether NVMe commands are done.
/// Those before look at the memory of a command that another core's question has ended and freed
/// ("nvme: improved uring polling" in the log of 6.5), and crash. This is not to be found out by
/// trying.
const POLLING_SINCE: (u32, u32) = (6, 5);

fn polling_is_safe() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.ok().and_then(|release| version(&release)).is_some_and(|version| version >= POLLING_SINCE)
}

/// The major and the minor number of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests;
