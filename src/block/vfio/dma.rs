//! Memory that a device reads and writes: mappings of the IOMMU, and pages made for that.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::{Resource, getrlimit};
use tracing::error;

use super::iova::IovaSpace;
use super::uapi;
use crate::error::{Error, ErrorKind, Result};
use crate::mem::Arena;

/// The IOMMU as this process has it for one device: what is mapped there is all of the memory that
/// the device can reach.
pub(super) struct Iommu {
    /// Open for as long as the container, which forgets its mappings with its last group; closed
    /// before that.
    _group: OwnedFd,
    container: OwnedFd,
    space: Mutex<IovaSpace>,
    page_bytes: u64,
    /// The device's, for messages.
    address: String,
}

impl Iommu {
    /// For the device at `address`, whose `group` is in `container`, where `space` is free.
    pub(super) fn new(group: OwnedFd, container: OwnedFd, space: IovaSpace, address: String) -> Self {
        let page_bytes = space.page_bytes();
        Self { _group: group, container, space: Mutex::new(space), page_bytes, address }
    }

    fn space(&self) -> MutexGuard<'_, IovaSpace> {
        // It is consistent between any two of its calls.
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, kind: ErrorKind) -> Error {
        Error::new(kind, "map memory for").at(self.address.clone())
    }

    /// Maps `len` bytes at `ptr`.
    ///
    /// # Safety
    ///
    /// As for [`Dma::map`].
    unsafe fn map(self: &Arc<Self>, ptr: NonNull<u8>, len: usize) -> Result<DmaMapping> {
        let (address, len) = (number(ptr.as_ptr().addr()), number(len));
        let page = self.page_bytes;
        if len == 0 || !address.is_multiple_of(page) || !len.is_multiple_of(page) {
            return Err(self
                .failed(ErrorKind::InvalidInput)
                .because(format!("{len} bytes at {address:#x} are not whole pages of {page} bytes")));
        }
        let iova = self.space().reserve(address, len).ok_or_else(|| {
            self.failed(ErrorKind::LimitReached)
                .because(format!("the IOMMU has no {len} bytes of addresses left for this device"))
        })?;
        // SAFETY: the caller lets the device write there until the mapping is taken back.
        if let Err(code) = unsafe { uapi::map_dma(self.container.as_fd(), address, iova, len) } {
            self.space().release(iova);
            return Err(self.refused(code, len));
        }
        Ok(DmaMapping { iommu: Arc::clone(self), device_address: iova, len })
    }

    /// Why the kernel does not map `len` bytes.
    fn refused(&self, code: i32, len: u64) -> Error {
        let error = Error::os(code, "map memory for").at(self.address.clone());
        match code {
            libc::ENOMEM => match getrlimit(Resource::Memlock).current {
                Some(limit) => error.because(format!(
                    "locking {len} bytes more passes RLIMIT_MEMLOCK, which lets this process lock {limit} bytes \
                     in all, counted once for each device: type `sudo prlimit --pid $$ --memlock=unlimited` \
                     in the shell that starts it (under systemd: LimitMEMLOCK=infinity)"
                )),
                None => error.because(format!("there is no memory to lock {len} bytes in")),
            },
            libc::ENOSPC => error.because(
                "the kernel's limit of mappings is reached: raise dma_entry_limit of the module \
                 vfio_iommu_type1",
            ),
            libc::EFAULT => error.because(format!("{len} bytes there are not all memory of this process")),
            _ => error,
        }
    }

    /// Takes a mapping back. The address is free again only if the kernel took all of it.
    fn unmap(&self, iova: u64, len: u64) -> Result<()> {
        let code = match uapi::unmap_dma(self.container.as_fd(), iova, len) {
            Ok(unmapped) if unmapped == len => {
                self.space().release(iova);
                return Ok(());
            }
            Ok(_) => libc::EINVAL,
            Err(code) => code,
        };
        Err(Error::os(code, "unmap memory of").at(self.address.clone()))
    }
}

impl fmt::Debug for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iommu").field("address", &self.address).finish_non_exhaustive()
    }
}

fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// Gives memory to one device, through its IOMMU. Cheap to clone, and usable by any thread.
///
/// The device cannot reach any other memory. What is given is locked: it stays in the machine's
/// memory, and counts towards `RLIMIT_MEMLOCK` once for every device.
#[derive(Clone, Debug)]
pub struct Dma(pub(super) Arc<Iommu>);

impl Dma {
    /// The unit of mappings, in bytes: addresses and lengths are multiples of it.
    pub fn page_bytes(&self) -> u64 {
        self.0.page_bytes
    }

    /// The highest address by which the device can know memory.
    pub fn highest_address(&self) -> u64 {
        self.0.space().highest()
    }

    /// Lets the device read and write `len` bytes at `ptr`, both multiples of
    /// [`Dma::page_bytes`], until the mapping is dropped.
    ///
    /// # Safety
    ///
    /// Until then, for anything that it is told through its registers, the device may read and
    /// write these bytes. So the memory belongs to the process for as long, and the caller sees to
    /// it that the device is told to write only what nothing else uses meanwhile, and to read only
    /// what nothing writes.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for what is not whole pages,
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) if this process may not lock so much,
    /// [`LimitReached`](ErrorKind::LimitReached) without a free address, or the kernel's code.
    pub unsafe fn map(&self, ptr: NonNull<u8>, len: usize) -> Result<DmaMapping> {
        // SAFETY: the caller's promise.
        unsafe { self.0.map(ptr, len) }
    }

    /// Lets the device read and write all of an arena until the mapping is dropped.
    ///
    /// # Safety
    ///
    /// The caller tells the device to write only to buffers that it owns and nobody has a reference
    /// to until the device is done, and to read only from such that nobody writes to.
    ///
    /// # Errors
    ///
    /// As for [`Dma::map`].
    pub unsafe fn map_arena(&self, arena: &Arena) -> Result<ArenaMapping> {
        let (base, len) = arena.region();
        let base = NonNull::new(base.cast_mut())
            .ok_or_else(|| self.0.failed(ErrorKind::InvalidInput).because("the arena has no memory"))?;
        // SAFETY: the clone of the arena keeps its memory mapped for as long as this mapping, and
        // the rest is the caller's promise.
        let mapping = unsafe { self.0.map(base, len) }?;
        Ok(ArenaMapping { mapping, base: base.as_ptr().addr(), len, arena: arena.clone() })
    }

    /// Makes at least `len` zeroed bytes, whole pages, that the device may read and write until
    /// they are dropped. Both sides' addresses of them are aligned to 64 KiB, or to `len` rounded
    /// up to a power of two where that is less.
    ///
    /// # Errors
    ///
    /// As for [`Dma::map`].
    pub fn alloc(&self, len: usize) -> Result<DmaPages> {
        let page = usize::try_from(self.0.page_bytes).unwrap_or(usize::MAX);
        let len = len.max(1).checked_next_multiple_of(page).ok_or_else(|| {
            self.0.failed(ErrorKind::InvalidInput).because("the size overflows the address space")
        })?;
        let pages = Pages::new(len).map_err(|code| Error::os(code, "allocate memory for"))?;
        // SAFETY: the pages go after the mapping does, and are accessed by nothing but the volatile
        // loads and stores of `DmaPages`, which may meet those of a device.
        let mapping = unsafe { self.0.map(pages.start, len) }?;
        Ok(DmaPages { mapping, pages })
    }
}

/// Memory that a device can reach; taken back from it when this is dropped.
#[derive(Debug)]
pub struct DmaMapping {
    iommu: Arc<Iommu>,
    device_address: u64,
    len: u64,
}

impl DmaMapping {
    /// By which address the device knows the first byte. The others follow it without a gap.
    pub fn device_address(&self) -> u64 {
        self.device_address
    }

    /// How long it is, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }
}

impl Drop for DmaMapping {
    fn drop(&mut self) {
        // It is there, and so is the container: the kernel has no reason to refuse. If it does, the
        // locked pages stay the machine's for as long as the container is open, and the address is
        // not used again.
        if let Err(error) = self.iommu.unmap(self.device_address, self.len) {
            error!("{error}");
        }
    }
}

/// An arena that a device can reach. It keeps the arena.
#[derive(Debug)]
pub struct ArenaMapping {
    /// Taken back before the arena goes.
    mapping: DmaMapping,
    base: usize,
    len: usize,
    arena: Arena,
}

impl ArenaMapping {
    /// By which address the device knows `bytes`; `None` unless all of them are in this arena.
    pub fn device_address(&self, bytes: &[u8]) -> Option<u64> {
        let offset = bytes.as_ptr().addr().checked_sub(self.base)?;
        let end = offset.checked_add(bytes.len())?;
        (end <= self.len).then(|| self.mapping.device_address + number(offset))
    }

    /// The arena.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }
}

/// Zeroed pages of this process, aligned to as much as [`Dma::alloc`] says; unmapped when this is
/// dropped.
struct Pages {
    start: NonNull<u8>,
    len: usize,
    /// What is mapped: the pages, and before and after them some that nobody touches.
    mapped: NonNull<u8>,
    mapped_len: usize,
}

// SAFETY: the pages belong to this value alone, whichever thread has it.
unsafe impl Send for Pages {}

/// The largest alignment that a device may want of its queues.
const MAX_ALIGN: usize = 64 << 10;

impl Pages {
    fn new(len: usize) -> Result<Self, i32> {
        let align = len.checked_next_power_of_two().map_or(MAX_ALIGN, |align| align.min(MAX_ALIGN));
        let mapped_len = len.checked_add(align).ok_or(libc::ENOMEM)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // existing memory.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), mapped_len, protection, MapFlags::PRIVATE) };
        let mapped = mapped.map_err(rustix::io::Errno::raw_os_error)?;
        let mapped = NonNull::new(mapped.cast::<u8>()).ok_or(libc::ENOMEM)?;
        let before = mapped.as_ptr().addr().wrapping_neg() % align;
        // SAFETY: less than `align` bytes before the pages, which the mapping is longer than them
        // by.
        let start = unsafe { mapped.add(before) };
        Ok(Self { start, len, mapped, mapped_len })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, with its length; nobody has a pointer into it any
        // more.
        let unmapped = unsafe { munmap(self.mapped.as_ptr().cast(), self.mapped_len) };
        debug_assert!(unmapped.is_ok(), "own pages can be unmapped");
    }
}

/// Pages that this process shares with a device: queues, lists of addresses and the like.
///
/// The device may change them at any time, so there is no reference into them: each access is one
/// load or store that the compiler neither repeats nor leaves out. Values are as the device has
/// them, little-endian. Offsets are in bytes.
pub struct DmaPages {
    /// Taken back before the pages go.
    mapping: DmaMapping,
    pages: Pages,
}

impl DmaPages {
    /// By which address the device knows the first byte.
    pub fn device_address(&self) -> u64 {
        self.mapping.device_address
    }

    /// How long they are, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.pages.len
    }

    /// The first byte. It is valid for reads and writes of [`DmaPages::len_bytes`] bytes while this
    /// lives; the device may access them at the same time.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.pages.start
    }

    /// The address of a `T` at `offset`.
    ///
    /// # Panics
    ///
    /// Outside of the pages, or if it is not aligned.
    fn at<T>(&self, offset: usize) -> *mut T {
        let whole = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.pages.len);
        assert!(
            whole && offset.is_multiple_of(align_of::<T>()),
            "nothing of this size is aligned at offset {offset}"
        );
        // SAFETY: `offset` is within the pages, as was just checked.
        unsafe { self.pages.start.add(offset) }.cast::<T>().as_ptr()
    }

    /// Reads 32 bits.
    ///
    /// # Panics
    ///
    /// If they are outside of the pages or not aligned.
    #[inline]
    pub fn read32(&self, offset: usize) -> u32 {
        // SAFETY: `at` gives an aligned address inside the pages, whose bytes are initialised.
        u32::from_le(unsafe { self.at::<u32>(offset).read_volatile() })
    }

    /// Writes 32 bits.
    ///
    /// # Panics
    ///
    /// As for [`DmaPages::read32`].
    #[inline]
    pub fn write32(&self, offset: usize, value: u32) {
        // SAFETY: `at` gives an aligned address inside the pages, of which no reference exists, and
        // no other thread has `self`, which is not `Sync`.
        unsafe { self.at::<u32>(offset).write_volatile(value.to_le()) };
    }

    /// Reads 64 bits.
    ///
    /// # Panics
    ///
    /// As for [`DmaPages::read32`].
    #[inline]
    pub fn read64(&self, offset: usize) -> u64 {
        // SAFETY: as in `read32`.
        u64::from_le(unsafe { self.at::<u64>(offset).read_volatile() })
    }

    /// Writes 64 bits.
    ///
    /// # Panics
    ///
    /// As for [`DmaPages::read32`].
    #[inline]
    pub fn write64(&self, offset: usize, value: u64) {
        // SAFETY: as in `write32`.
        unsafe { self.at::<u64>(offset).write_volatile(value.to_le()) };
    }
}

impl fmt::Debug for DmaPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaPages")
            .field("device_address", &format_args!("{:#x}", self.device_address()))
            .field("len_bytes", &self.pages.len)
            .finish()
    }
}
