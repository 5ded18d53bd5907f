//! Devices driven from this process, over the kernel's VFIO (version 2 of its IOMMU type 1).
//!
//! A [`Device`] is a PCI device that the kernel's driver `vfio-pci` has, which
//! `boson device bind` sees to: its [`Registers`] are mapped into this process, its interrupts
//! arrive at eventfds, and its [`Dma`] says which memory it reaches. The IOMMU keeps it from all
//! other memory, so a driver with a bug, or a device with one, can harm this process at most.
//!
//! One process has a device, and has it once: the kernel refuses a second with `EBUSY`. The same is
//! true of all devices in one IOMMU group.
//!
//! VFIO's mode without an IOMMU is not supported: there a device can write to all of the machine's
//! memory, needs physical addresses and taints the kernel. [`Device::open`] names it where it meets
//! it.
//!
//! # When a device is closed
//!
//! Everything that comes from a device keeps what it needs of it open. When the last of the device
//! and its registers is dropped, the kernel takes bus mastering away and resets it, so that it does
//! no more DMA; the group and the container close when the last mapping is gone as well.
//!
//! # Specification
//!
//! `Documentation/driver-api/vfio.rst` and `include/uapi/linux/vfio.h` of Linux, and sections 7.5.1
//! (configuration space) and 7.7.2 (MSI-X) of the PCI Express Base Specification 5.0.

mod capabilities;
mod dma;
mod iova;
mod msix;
mod registers;
mod sysfs;
mod uapi;

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, pread, pwrite};

use crate::error::{Error, ErrorKind, Result};
use iova::IovaSpace;
use msix::Table;
use sysfs::Group;

pub use dma::{ArenaMapping, Dma, DmaMapping, DmaPages};
pub use msix::VectorMask;
pub use registers::Registers;

/// The command register, and in it the bits that let the device answer to accesses of its memory
/// and start its own (PCI Express Base 5.0, 7.5.1.1.3).
const COMMAND: u64 = 4;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
/// The largest BAR that is mapped. Those of NVMe controllers have some KiB, or some MiB with a
/// memory buffer.
const MAX_BAR_BYTES: u64 = 1 << 32;
/// The most interrupts of MSI-X that a device has (PCI Express Base 5.0, 7.7.2.2).
const MAX_VECTORS: u32 = 2048;

/// How often a device that the kernel is busy with is asked for again, and how long to wait in
/// between: for a second in all.
const BUSY_RETRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A PCI device that this process drives.
///
/// It is usable by any thread; what it does to the device is ordered by whoever calls.
pub struct Device {
    address: String,
    registers: Registers,
    /// Closed before the group and the container, which `dma` and its mappings share.
    descriptor: OwnedFd,
    dma: Dma,
    vectors: u32,
    /// `None` if the kernel keeps the table of MSI-X to itself.
    table: Option<Table>,
    resets: bool,
    /// Whether interrupts of MSI-X are on. Held while they are set up, which takes more than one
    /// call.
    interrupts_on: Mutex<bool>,
}

impl Device {
    /// Opens the device at the PCI address `address`, such as `0000:04:00.0`: maps its registers
    /// (BAR 0) and lets it do DMA, to no memory yet.
    ///
    /// This blocks, for some hundred milliseconds where the kernel resets the device.
    ///
    /// # Errors
    ///
    /// One sentence with the command that helps:
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is no PCI address,
    /// [`NotFound`](ErrorKind::NotFound) if there is no such device,
    /// [`Unsupported`](ErrorKind::Unsupported) without an IOMMU or without the kernel's modules,
    /// [`InUse`](ErrorKind::InUse) if another driver or another process has it or a device of its
    /// group, [`PermissionDenied`](ErrorKind::PermissionDenied), or the kernel's code.
    pub fn open(address: &str) -> Result<Self> {
        let opening = Opening { address };
        let group = Group::of(Path::new("/sys"), address)?;
        let container = opening.container()?;
        let group = opening.group(&group)?;
        let (group, container) = (OwnedFd::from(group), OwnedFd::from(container));
        opening.join(group.as_fd(), container.as_fd())?;
        let space = opening.addresses(container.as_fd())?;
        let name = CString::new(address)
            .map_err(|_| opening.refused(ErrorKind::InvalidInput, "this is no PCI address"))?;
        let descriptor = opening.device(group.as_fd(), &name)?;

        let info = uapi::device_info(descriptor.as_fd()).map_err(|code| opening.failed(code))?;
        if info.flags & uapi::DEVICE_IS_PCI == 0 || info.regions <= uapi::CONFIG_REGION {
            return Err(
                opening.refused(ErrorKind::Unsupported, "VFIO does not say that this is a PCI device")
            );
        }
        opening.enable(descriptor.as_fd())?;
        let registers = opening.registers(descriptor.as_fd())?;
        let vectors = match info.irqs {
            irqs if irqs <= uapi::MSIX_IRQ => 0,
            _ => uapi::irq_count(descriptor.as_fd(), uapi::MSIX_IRQ).map_err(|code| opening.failed(code))?,
        };
        let table = Table::find(descriptor.as_fd(), &registers);
        let iommu = dma::Iommu::new(group, container, space, address.to_owned());
        Ok(Self {
            address: address.to_owned(),
            registers,
            descriptor,
            dma: Dma(Arc::new(iommu)),
            vectors: vectors.min(MAX_VECTORS),
            table,
            resets: info.flags & uapi::DEVICE_RESETS != 0,
            interrupts_on: Mutex::new(false),
        })
    }

    /// Its PCI address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its registers.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// How memory is given to it.
    pub fn dma(&self) -> &Dma {
        &self.dma
    }

    /// How many interrupts of MSI-X it has; 0 if it has none.
    pub fn vectors(&self) -> u32 {
        self.vectors
    }

    /// Switches its first `count` interrupts of MSI-X on, and gives an eventfd (close-on-exec, not
    /// blocking) for each, in order, to which every interrupt adds one. Those of an earlier call
    /// get none any more. With 0 all interrupts are off.
    ///
    /// All are switched on at once: before Linux 6.5 none can be added later.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it has fewer,
    /// [`LimitReached`](ErrorKind::LimitReached) without descriptors,
    /// [`NoSpace`](ErrorKind::NoSpace) if the machine has no interrupts left, or the kernel's code.
    pub fn enable_vectors(&self, count: u32) -> Result<Vec<OwnedFd>> {
        let failed = |code| Error::os(code, "set up interrupts of").at(self.address.clone());
        if count > self.vectors {
            return Err(Error::new(ErrorKind::InvalidInput, "set up interrupts of")
                .at(self.address.clone())
                .because(format!("it has {} interrupts, not {count}", self.vectors)));
        }
        let eventfds = (0..count)
            .map(|_| new_eventfd())
            .collect::<Result<Vec<_>, Errno>>()
            .map_err(|errno| failed(errno.raw_os_error()))?;
        let mut on = self.interrupts_on.lock().unwrap_or_else(PoisonError::into_inner);
        if *on {
            // How many there are is fixed while any is on. The kernel refuses to switch off what is
            // not on.
            uapi::set_irqs(self.descriptor.as_fd(), uapi::MSIX_IRQ, &[]).map_err(failed)?;
            *on = false;
        }
        if count > 0 {
            let borrowed: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
            uapi::set_irqs(self.descriptor.as_fd(), uapi::MSIX_IRQ, &borrowed).map_err(failed)?;
            *on = true;
        }
        Ok(eventfds)
    }

    /// How interrupt `vector` of MSI-X, which [`enable_vectors`](Self::enable_vectors) has switched
    /// on, is masked without a system call. `None` where the kernel keeps the table to itself.
    ///
    /// An interrupt is not masked after it was switched on, nor after a [`reset`](Self::reset): the
    /// kernel writes the table then.
    pub fn vector_mask(&self, vector: u32) -> Option<VectorMask> {
        self.table.as_ref()?.mask(vector)
    }

    /// An eventfd that becomes readable when the kernel wants the device back, because it is being
    /// removed from the machine or taken from `vfio-pci`. The kernel waits until the [`Device`] and
    /// its [`Registers`] are dropped. Only the eventfd of the last call is told.
    ///
    /// # Errors
    ///
    /// [`LimitReached`](ErrorKind::LimitReached) without descriptors, or the kernel's code.
    pub fn release_request(&self) -> Result<OwnedFd> {
        let failed = |code| Error::os(code, "watch for the removal of").at(self.address.clone());
        let eventfd = new_eventfd().map_err(|errno| failed(errno.raw_os_error()))?;
        uapi::set_irqs(self.descriptor.as_fd(), uapi::RELEASE_REQUEST_IRQ, &[eventfd.as_fd()])
            .map_err(failed)?;
        Ok(eventfd)
    }

    /// Takes from the device the right to read and write memory (bus mastering), which a
    /// [`reset`](Self::reset) gives back. Works while the kernel waits for the device, when it
    /// cannot be reset.
    ///
    /// # Errors
    ///
    /// The kernel's code.
    pub fn stop_dma(&self) -> Result<()> {
        Opening { address: &self.address }
            .change_command(self.descriptor.as_fd(), |command| command & !BUS_MASTER)
    }

    /// Resets the device's function. Its registers are as after power-on, its configuration, its
    /// interrupts and its mappings stay. Accesses to registers wait meanwhile.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) if it knows no such reset, or the kernel's code.
    pub fn reset(&self) -> Result<()> {
        let place = || self.address.clone();
        if !self.resets {
            return Err(Error::new(ErrorKind::Unsupported, "reset")
                .at(place())
                .because("neither the device nor its slot has a reset of its own"));
        }
        uapi::reset(self.descriptor.as_fd()).map_err(|code| Error::os(code, "reset").at(place()))?;
        // Linux restores it; a kernel that does not would leave a device without DMA.
        Opening { address: &self.address }.enable(self.descriptor.as_fd())
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("address", &self.address)
            .field("registers", &self.registers)
            .field("vectors", &self.vectors)
            .finish_non_exhaustive()
    }
}

fn new_eventfd() -> Result<OwnedFd, Errno> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

/// The steps of opening a device, and what each says when it fails.
struct Opening<'a> {
    address: &'a str,
}

impl Opening<'_> {
    fn failed(&self, code: i32) -> Error {
        Error::os(code, "open").at(self.address.to_owned())
    }

    fn refused(&self, kind: ErrorKind, sentence: &'static str) -> Error {
        Error::new(kind, "open").at(self.address.to_owned()).because(sentence)
    }

    /// Opens one of VFIO's files.
    fn file(&self, path: &str) -> Result<File, i32> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        opened.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The device itself. The kernel resets it before, and says `EAGAIN` while something else of it
    /// has the device: a probe, as one that was plugged in shows its driver before that is through.
    fn device(&self, group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
        let mut retries = 0;
        loop {
            match uapi::device(group, name) {
                Err(libc::EAGAIN) if retries < BUSY_RETRIES => {
                    retries += 1;
                    std::thread::park_timeout(BUSY_PAUSE);
                }
                Err(libc::EAGAIN) => {
                    let why = "the kernel has been busy with this device for a second: try again";
                    return Err(self.refused(ErrorKind::InUse, why));
                }
                opened => return opened.map_err(|code| self.failed(code)),
            }
        }
    }

    /// An empty container, which is a set of mappings.
    fn container(&self) -> Result<File> {
        let path = "/dev/vfio/vfio";
        let missing = "the kernel's module vfio is not there: type `sudo modprobe vfio-pci`";
        let container = self.file(path).map_err(|code| match code {
            // The file is there before the module is: opening it loads that, or says one of these.
            libc::ENOENT | libc::ENODEV | libc::ENXIO => self.refused(ErrorKind::Unsupported, missing),
            _ => self.no_access(code, path),
        })?;
        match uapi::api_version(container.as_fd()) {
            Ok(uapi::API_VERSION) => {}
            Ok(_) => {
                return Err(self.refused(ErrorKind::Unsupported, "this kernel's VFIO is of another version"));
            }
            Err(code) => return Err(self.failed(code)),
        }
        if !uapi::has_type1v2(container.as_fd()).map_err(|code| self.failed(code))? {
            return Err(self.refused(
                ErrorKind::Unsupported,
                "the kernel's module vfio_iommu_type1 is not there: type `sudo modprobe vfio_iommu_type1`",
            ));
        }
        Ok(container)
    }

    fn group(&self, group: &Group) -> Result<File> {
        let path = format!("/dev/vfio/{}", group.number);
        let file = self.file(&path).map_err(|code| match code {
            libc::EBUSY => self.failed(code).because(format!(
                "it is driven already, or another device of its IOMMU group is: type `sudo fuser -v {path}` to \
                 see by which process"
            )),
            libc::ENOENT => self.failed(code).because(format!(
                "there is no {path}, though VFIO has the device: give it to this container (--device {path})"
            )),
            _ => self.no_access(code, &path),
        })?;
        if !uapi::is_viable(file.as_fd()).map_err(|code| self.failed(code))? {
            return Err(self.not_viable(group));
        }
        Ok(file)
    }

    fn no_access(&self, code: i32, path: &str) -> Error {
        match code {
            libc::EACCES => self.failed(code).because(format!(
                "this user may not open {path}: type `sudo chown {} {path}`",
                rustix::process::geteuid().as_raw()
            )),
            libc::EPERM => self.failed(code).because(format!(
                "this container may not open {path}: start it with --device {path} and --device /dev/vfio/vfio"
            )),
            _ => self.failed(code).because(format!("{path}: {}", io::Error::from_raw_os_error(code))),
        }
    }

    /// The IOMMU cannot keep the devices of a group apart, so VFIO wants all of them.
    fn not_viable(&self, group: &Group) -> Error {
        let number = group.number;
        let held = group.held_by_others();
        let error = Error::new(ErrorKind::InUse, "open").at(self.address.to_owned());
        let Some((first, _)) = held.first() else {
            return error.because(format!(
                "its IOMMU group {number} is not viable: another device of it is being bound or removed; try \
                 again"
            ));
        };
        let named: Vec<_> = held.iter().map(|(address, driver)| format!("{address} ({driver})")).collect();
        error.because(format!(
            "its IOMMU group {number} also holds {}, which must be given up with it: type `boson device bind \
             {first}`",
            named.join(", ")
        ))
    }

    /// Puts the group into the container, and the container under the IOMMU.
    fn join(&self, group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<()> {
        uapi::set_container(group, container).map_err(|code| self.failed(code))?;
        uapi::set_type1v2(container).map_err(|code| match code {
            libc::EPERM => self.failed(code).because(
                "this machine's IOMMU cannot keep the device from raising interrupts of others: if you trust \
                 the device, type `echo 1 | sudo tee \
                 /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts`",
            ),
            _ => self.failed(code),
        })
    }

    /// By which addresses the device may know memory.
    fn addresses(&self, container: BorrowedFd<'_>) -> Result<IovaSpace> {
        let info = uapi::iommu_info(container).map_err(|code| self.failed(code))?;
        IovaSpace::parse(&info).ok_or_else(|| {
            self.refused(
                ErrorKind::Unsupported,
                "this kernel does not say which addresses the device may use: Linux 5.4 and later do",
            )
        })
    }

    /// Lets the device answer to accesses and start its own.
    fn enable(&self, device: BorrowedFd<'_>) -> Result<()> {
        self.change_command(device, |command| command | MEMORY_SPACE | BUS_MASTER)
    }

    /// Changes the command register of its configuration.
    fn change_command(&self, device: BorrowedFd<'_>, change: impl FnOnce(u16) -> u16) -> Result<()> {
        let failed = |code: i32| self.failed(code);
        let region = uapi::region_info(device, uapi::CONFIG_REGION).map_err(failed)?;
        let at = region.offset + COMMAND;
        let mut bytes = [0; 2];
        let read = pread(device, &mut bytes, at).map_err(|errno| failed(errno.raw_os_error()))?;
        let command = change(u16::from_le_bytes(bytes));
        let written =
            pwrite(device, &command.to_le_bytes(), at).map_err(|errno| failed(errno.raw_os_error()))?;
        if (read, written) == (2, 2) { Ok(()) } else { Err(failed(libc::EIO)) }
    }

    fn registers(&self, device: BorrowedFd<'_>) -> Result<Registers> {
        let region = uapi::region_info(device, uapi::BAR0_REGION).map_err(|code| self.failed(code))?;
        let len = usize::try_from(region.size).ok().filter(|len| *len > 0 && region.size <= MAX_BAR_BYTES);
        let Some(len) = len.filter(|_| region.flags & uapi::REGION_MAPPABLE != 0) else {
            return Err(self.refused(
                ErrorKind::Unsupported,
                "its registers (BAR 0) cannot be mapped: this is no NVMe controller",
            ));
        };
        Registers::map(device, region.offset, len).map_err(|errno| self.failed(errno.raw_os_error()))
    }
}
