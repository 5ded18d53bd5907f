//! Memory that a controller reads and writes by itself: owned regions of it, and a table that says
//! under which address the controller knows other memory.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::error::Result;

/// Where regions of DMA memory come from.
pub trait DmaMemory {
    /// `len` bytes (a multiple of 4096) of zeros, aligned to 4096 in this process and for the
    /// device, and contiguous for it.
    ///
    /// # Errors
    ///
    /// There is no memory, or the limit of what may be mapped for the device is reached.
    fn allocate(&self, len: usize) -> Result<DmaRegion>;
}

/// Zeroed memory that its owner and a device share. Freed with its owner, unless that leaks it
/// before, because the device may still know it.
///
/// Accesses are by value at an offset in bytes, never by reference: the device writes when it
/// likes.
pub struct DmaRegion {
    ptr: NonNull<u8>,
    len: usize,
    device_address: u64,
    keeper: Option<Box<dyn Any + Send>>,
}

// SAFETY: the memory belongs to this value (`new` says that nothing else on this side uses it), and
// every access goes through a method of it, so that it may move to another thread with its owner;
// the keeper is `Send` too.
unsafe impl Send for DmaRegion {}

impl DmaRegion {
    /// A region of `len` bytes at `ptr`, which the device knows as `device_address`. Dropping
    /// `keeper` frees the memory.
    ///
    /// # Safety
    ///
    /// `ptr` is aligned to 4096 and valid for reads and writes of `len` zeroed bytes until `keeper`
    /// is dropped, and only the device uses them besides this value.
    pub unsafe fn new(
        ptr: NonNull<u8>,
        len: usize,
        device_address: u64,
        keeper: Box<dyn Any + Send>,
    ) -> Self {
        Self { ptr, len, device_address, keeper: Some(keeper) }
    }

    /// It is never freed, and the device's address of it never given to other memory.
    pub(super) fn leak(&mut self) {
        std::mem::forget(self.keeper.take());
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the device calls its byte at `offset`.
    pub fn device_address(&self, offset: usize) -> u64 {
        self.device_address + offset as u64
    }

    /// Where it is in this process, for a controller that is a test.
    #[cfg(test)]
    pub(super) fn pointer(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// A pointer to the aligned value of type `T` at `offset`.
    #[inline]
    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(
            offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.len,
            "offset {offset} lies in a DMA region of {} bytes",
            self.len
        );
        self.ptr.as_ptr().wrapping_add(offset).cast()
    }

    /// A pointer to the value of type `T` with number `index`. Regions are aligned to 4096, which
    /// is a multiple of what any `T` here is aligned to.
    #[inline]
    fn at_index<T>(&self, index: usize) -> *mut T {
        let count = self.len / size_of::<T>();
        assert!(index < count, "number {index} lies in a DMA region of {count}");
        self.ptr.as_ptr().cast::<T>().wrapping_add(index)
    }

    /// The value at `offset`, a multiple of 4, in the machine's byte order. Everything that is read
    /// later is read after it.
    pub(super) fn load_acquire(&self, offset: usize) -> u32 {
        let ptr = self.at::<AtomicU32>(offset);
        // SAFETY: `at` checked that `ptr` is aligned and lies in memory that is valid while `self`
        // lives; all bits are a valid integer. The device writes the same word as a whole.
        let word = unsafe { &*ptr };
        word.load(Ordering::Acquire)
    }

    /// Sets the value at `offset`, a multiple of 4, in the machine's byte order. Everything that
    /// was written earlier is written before it.
    pub(super) fn store_release(&self, offset: usize, value: u32) {
        let ptr = self.at::<AtomicU32>(offset);
        // SAFETY: as in `load_acquire`.
        let word = unsafe { &*ptr };
        word.store(value, Ordering::Release);
    }

    /// The 64 bits with number `index`, as two little-endian words, in one load. Everything that is
    /// read later is read after it.
    #[inline]
    pub(super) fn load_pair_acquire(&self, index: usize) -> u64 {
        let ptr = self.at_index::<AtomicU64>(index);
        // SAFETY: as in `load_acquire`; devices write completions as a whole, or these eight bytes
        // last.
        let pair = unsafe { &*ptr };
        u64::from_le(pair.load(Ordering::Acquire))
    }

    /// The value at `offset`, a multiple of 4.
    #[inline]
    pub(super) fn read32(&self, offset: usize) -> u32 {
        let ptr = self.at::<u32>(offset);
        // SAFETY: `at` checked that `ptr` is aligned and lies in memory that is valid while `self`
        // lives; the read is volatile because a device may have written there.
        u32::from_le(unsafe { ptr.read_volatile() })
    }

    /// Sets the value at `offset`, a multiple of 8.
    pub(super) fn write64(&self, offset: usize, value: u64) {
        let ptr = self.at::<u64>(offset);
        // SAFETY: as in `read32`; this side's accesses are all by the one owner.
        unsafe { ptr.write_volatile(value.to_le()) };
    }

    /// Sets the 64 bytes at `offset`, a multiple of 64, in as few stores as the compiler likes: the
    /// device looks at them only after a doorbell, which [`Registers`](super::Registers) orders
    /// after them.
    #[inline]
    pub(super) fn write_entry(&self, offset: usize, words: &[u32; 16]) {
        let ptr = self.at::<[u32; 16]>(offset);
        let words = if cfg!(target_endian = "big") { words.map(u32::to_le) } else { *words };
        // SAFETY: `at` checked that `ptr` is aligned and lies in memory that is valid while `self`
        // lives; the device does not read an entry before its doorbell.
        unsafe { ptr.write(words) };
    }

    /// Sets what an I/O command's entry has besides zeros, in the 64 bytes with number `index`:
    /// dwords 0 and 1, 6 to 9, 10 and 11, 12 and 13. Nobody sets the others. Each pair is stored by
    /// itself and straight from a register: a copy of what was just put together in memory waits
    /// for it.
    #[inline]
    pub(super) fn write_command(&self, index: usize, start: u64, data: [u64; 2], rest: [u64; 2]) {
        let ptr = self.at_index::<[u64; 8]>(index).cast::<u64>();
        for (at, value) in [(0, start), (3, data[0]), (4, data[1]), (5, rest[0]), (6, rest[1])] {
            // SAFETY: `at_index` found 64 aligned bytes from `ptr` in memory that is valid while
            // `self` lives; the device does not read an entry before its doorbell.
            unsafe { ptr.wrapping_add(at).write_volatile(value.to_le()) };
        }
    }

    /// Copies `out.len()` bytes from `offset`.
    pub(super) fn read_bytes(&self, offset: usize, out: &mut [u8]) {
        assert!(offset.checked_add(out.len()).is_some_and(|end| end <= self.len), "within the region");
        fence(Ordering::Acquire);
        let from = self.ptr.as_ptr().wrapping_add(offset);
        // SAFETY: the assertion keeps the source in this region, which `out`, a buffer of the
        // caller's own, does not overlap; the command that filled it has completed.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
    }

    /// Sets `len` bytes from `offset` to zero.
    pub(super) fn zero(&self, offset: usize, len: usize) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "within the region");
        let from = self.ptr.as_ptr().wrapping_add(offset);
        // SAFETY: the assertion keeps the range in this region, which this value owns; callers
        // clear a queue only while the controller is disabled or does not know it.
        unsafe { from.write_bytes(0, len) };
    }
}

impl fmt::Debug for DmaRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaRegion")
            .field("len", &self.len)
            .field("device_address", &format_args!("{:#x}", self.device_address))
            .finish()
    }
}

/// A piece of this process's memory that is mapped for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first address in this process.
    pub start: usize,
    /// Its length in bytes.
    pub len: usize,
    /// What the device calls its first byte.
    pub device_address: u64,
}

/// The memory that a device reaches: a sorted table, and the region that was found last.
#[derive(Clone, Debug)]
pub struct Regions {
    last: Region,
    sorted: Vec<Region>,
}

/// Holds no address.
const NOWHERE: Region = Region { start: 0, len: 0, device_address: 0 };

impl Default for Regions {
    fn default() -> Self {
        Self { last: NOWHERE, sorted: Vec::new() }
    }
}

impl Regions {
    /// A table of no memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a region. Regions must not overlap; one that does replaces those it overlaps.
    pub fn insert(&mut self, region: Region) {
        self.sorted
            .retain(|old| old.start + old.len <= region.start || region.start + region.len <= old.start);
        let at = self.sorted.partition_point(|old| old.start < region.start);
        self.sorted.insert(at, region);
        self.last = region;
    }

    /// Removes the region that starts at `start`.
    pub fn remove(&mut self, start: usize) {
        self.sorted.retain(|region| region.start != start);
        self.last = NOWHERE;
    }

    /// The same as [`Regions::translate`], but only if they lie in the region that was found last.
    #[inline]
    pub(super) fn translate_again(&self, start: usize, len: usize) -> Option<u64> {
        within(&self.last, start, len)
    }

    /// What the device calls the `len` bytes from `start`, if they lie in one region. They are
    /// contiguous for the device.
    pub fn translate(&mut self, start: usize, len: usize) -> Option<u64> {
        let at = self.sorted.partition_point(|region| region.start <= start).checked_sub(1)?;
        let region = self.sorted.get(at)?;
        let found = within(region, start, len)?;
        self.last = *region;
        Some(found)
    }
}

#[inline]
fn within(region: &Region, start: usize, len: usize) -> Option<u64> {
    let offset = start.wrapping_sub(region.start);
    (offset <= region.len && len <= region.len - offset).then(|| region.device_address + offset as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_translated_within_one_region() {
        let mut regions = Regions::new();
        regions.insert(Region { start: 0x3000, len: 0x1000, device_address: 0x10_0000 });
        regions.insert(Region { start: 0x1000, len: 0x1000, device_address: 0x20_0000 });
        assert_eq!(regions.translate(0x1000, 0x1000), Some(0x20_0000));
        assert_eq!(regions.translate(0x3800, 0x800), Some(0x10_0800));
        assert_eq!(regions.translate(0x3800, 0x801), None, "past its end");
        assert_eq!(regions.translate(0x2000, 1), None, "between two");
        assert_eq!(regions.translate(0xfff, 1), None, "before the first");
        assert_eq!(regions.translate(usize::MAX, 2), None);
        regions.remove(0x3000);
        assert_eq!(regions.translate(0x3800, 1), None);
        assert_eq!(regions.translate(0x1fff, 1), Some(0x20_0fff));
    }
}
