//! What is between the driver and a controller: VFIO, or nothing but the model.

use std::any::Any;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::vfio::{self, VectorMask};
use super::dma::{DmaMemory, DmaRegion, Region};
use super::interrupt::{Vector, empty_eventfd};
use super::model::Model;
use super::registers::Registers;
use crate::error::{Error, ErrorKind, Result};
use crate::mem::Arena;

/// A way to a controller, for all cores of the process.
pub(super) trait Bus: DmaMemory + Send + Sync + 'static {
    type Registers: Registers + Clone + Send + 'static;

    fn registers(&self) -> Self::Registers;

    /// Lets the controller reach `arena` until what comes with the region is dropped.
    ///
    /// # Errors
    ///
    /// The limit of memory that may be locked is reached, or there is no address left.
    fn reach(&self, arena: &Arena) -> Result<(Region, Box<dyn Any>)>;

    /// Whether there is an interrupt with this number.
    fn has_vector(&self, number: u16) -> bool;

    /// The interrupt with this number, if there is such a thing.
    fn vector(&self, number: u16) -> Option<Box<dyn Vector>>;

    /// Resets the function, after which the controller touches no memory.
    ///
    /// # Errors
    ///
    /// There is no such reset, or it failed.
    fn reset(&self) -> Result<()>;

    /// Waits for an interrupt of the admin queue, for so long at most. Only for a core that ends:
    /// nothing else runs on it meanwhile.
    fn pause(&self, longest: Duration);

    /// Lets a controller that is none of its own hardware do its work.
    fn turn(&self) {}

    /// Gives up a controller that is about to be removed: it touches no memory any more, and its
    /// registers read as all ones, as those of one that is gone.
    ///
    /// # Errors
    ///
    /// It cannot be kept from touching memory.
    fn heed_removal(&self) -> Result<()> {
        Ok(())
    }
}

/// A controller that the kernel's driver `vfio-pci` has.
pub(super) struct VfioBus {
    interrupts: Vec<Arc<OwnedFd>>,
    /// Readable when the kernel wants the device back.
    removal: OwnedFd,
    is_gone: Arc<AtomicBool>,
    device: vfio::Device,
}

/// The registers of a controller, until the kernel wants it back.
#[derive(Clone)]
pub(super) struct VfioRegisters {
    registers: vfio::Registers,
    is_gone: Arc<AtomicBool>,
}

impl VfioBus {
    /// Opens the device at a PCI address, with as many interrupts as it has, up to `vectors`.
    ///
    /// # Errors
    ///
    /// As for [`vfio::Device::open`].
    pub(super) fn open(address: &str, vectors: u32) -> Result<Self> {
        let device = vfio::Device::open(address)?;
        let interrupts = device.enable_vectors(device.vectors().min(vectors))?;
        let interrupts = interrupts.into_iter().map(Arc::new).collect();
        let removal = device.release_request()?;
        Ok(Self { interrupts, removal, is_gone: Arc::default(), device })
    }
}

/// An interrupt of MSI-X.
struct VfioVector {
    eventfd: Arc<OwnedFd>,
    /// `None` where the kernel keeps the table of MSI-X to itself.
    mask: Option<VectorMask>,
}

impl Vector for VfioVector {
    fn descriptor(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    fn empty(&self) {
        empty_eventfd(&self.eventfd);
    }

    fn can_be_masked(&self) -> bool {
        self.mask.is_some()
    }

    fn set_mask(&self, masked: bool) {
        if let Some(mask) = &self.mask {
            mask.set(masked);
        }
    }
}

impl Registers for VfioRegisters {
    fn read32(&self, offset: usize) -> u32 {
        // Relaxed: nothing else is read because of it.
        if self.is_gone.load(Ordering::Relaxed) {
            return vfio::Registers::REMOVED;
        }
        self.registers.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.registers.write32(offset, value);
    }
}

impl DmaMemory for VfioBus {
    fn allocate(&self, len: usize) -> Result<DmaRegion> {
        let pages = self.device.dma().alloc(len)?;
        let (ptr, address) = (pages.as_ptr(), pages.device_address());
        // SAFETY: the pages are zeroed and aligned to whole pages, valid until `pages`, the keeper,
        // is dropped, and nobody else has them.
        Ok(unsafe { DmaRegion::new(ptr, len, address, Box::new(pages)) })
    }
}

impl Bus for VfioBus {
    type Registers = VfioRegisters;

    fn registers(&self) -> VfioRegisters {
        VfioRegisters { registers: self.device.registers().clone(), is_gone: Arc::clone(&self.is_gone) }
    }

    fn reach(&self, arena: &Arena) -> Result<(Region, Box<dyn Any>)> {
        let (base, len) = arena.region();
        // SAFETY: the driver tells the controller of memory in the arena only by commands of the
        // queue above, whose requests own their buffers until the command has ended.
        let mapping = unsafe { self.device.dma().map_arena(arena) }?;
        // SAFETY: the arena's region is one allocation that lives while `mapping` keeps the arena.
        let whole = unsafe { std::slice::from_raw_parts(base, 0) };
        let device_address = mapping.device_address(whole).unwrap_or_default();
        Ok((Region { start: base.addr(), len, device_address }, Box::new(mapping)))
    }

    fn has_vector(&self, number: u16) -> bool {
        usize::from(number) < self.interrupts.len()
    }

    fn vector(&self, number: u16) -> Option<Box<dyn Vector>> {
        let eventfd = Arc::clone(self.interrupts.get(usize::from(number))?);
        let mask = self.device.vector_mask(number.into());
        Some(Box::new(VfioVector { eventfd, mask }))
    }

    fn reset(&self) -> Result<()> {
        self.device.reset()
    }

    fn pause(&self, longest: Duration) {
        let mut admin: Vec<_> =
            self.interrupts.iter().take(1).map(|eventfd| PollFd::new(eventfd, PollFlags::IN)).collect();
        if poll(&mut admin, Some(&timeout(longest))).is_ok_and(|ready| ready > 0)
            && let Some(eventfd) = self.interrupts.first()
        {
            empty_eventfd(eventfd);
        }
    }

    fn heed_removal(&self) -> Result<()> {
        // It is readable once; the kernel asks again and again until it has the device.
        if rustix::io::read(&self.removal, &mut [0; 8]).is_err() || self.is_gone.load(Ordering::Relaxed) {
            return Ok(());
        }
        let stopped = self.device.stop_dma();
        self.is_gone.store(true, Ordering::Relaxed);
        stopped
    }
}

/// A time of less than a second.
fn timeout(longest: Duration) -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() }
}

impl Bus for Model {
    type Registers = Self;

    fn registers(&self) -> Self {
        self.clone()
    }

    fn reach(&self, arena: &Arena) -> Result<(Region, Box<dyn Any>)> {
        let (base, len) = arena.region();
        let base = NonNull::new(base.cast_mut()).expect("an arena is somewhere");
        // SAFETY: the keeper holds the arena, and unmaps the region before it lets go of it. What a
        // command names is its request's until it has ended.
        let region = unsafe { self.map(base, len) };
        Ok((region, Box::new(ModelReach { model: self.clone(), region, _arena: arena.clone() })))
    }

    fn has_vector(&self, number: u16) -> bool {
        self.eventfd(number).is_some()
    }

    fn vector(&self, number: u16) -> Option<Box<dyn Vector>> {
        Some(Box::new(ModelVector { descriptor: self.eventfd(number)?, number, model: self.clone() }))
    }

    fn reset(&self) -> Result<()> {
        if self.reset_function() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "reset").at("nvme:model").because("it has no such reset"))
    }

    fn pause(&self, longest: Duration) {
        if Model::pause(self) {
            // Nothing becomes ready: this only takes its time.
            let _ = poll(&mut [], Some(&timeout(longest)));
        }
    }

    fn turn(&self) {
        Model::turn(self);
    }
}

/// An interrupt of a model, which works on while the core is at its interrupts.
struct ModelVector {
    model: Model,
    number: u16,
    descriptor: RawFd,
}

impl Vector for ModelVector {
    fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    fn empty(&self) {
        self.model.empty(self.number);
    }

    fn can_be_masked(&self) -> bool {
        self.model.can_mask()
    }

    fn set_mask(&self, masked: bool) {
        self.model.set_mask(self.number, masked);
    }
}

struct ModelReach {
    model: Model,
    region: Region,
    _arena: Arena,
}

impl Drop for ModelReach {
    fn drop(&mut self) {
        self.model.unmap(&self.region);
    }
}
