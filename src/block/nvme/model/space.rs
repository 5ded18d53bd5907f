//! The memory that a model reaches, as an IOMMU would show it: what is not mapped is a fault.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::dma::Region;

/// Device addresses differ from this process's, so that a driver that forgets to translate faults.
const FIRST_ADDRESS: u64 = 0x10_0000_0000;
/// Between two mappings lies a hole, so that running past the end of one faults.
const HOLE: u64 = 1 << 20;

struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
    /// How it was allocated, if it is the model's own.
    own: Option<Layout>,
}

// SAFETY: the pointer is to memory that is valid on any thread (`map` and `allocate` say until
// when), and the machine that owns the mapping is used under a lock.
unsafe impl Send for Mapping {}

#[derive(Default)]
pub(super) struct Space {
    mappings: BTreeMap<u64, Mapping>,
    next: u64,
}

/// An access to memory that is not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unmapped(pub(super) u64);

impl Space {
    fn insert(&mut self, mapping: Mapping) -> u64 {
        let address = FIRST_ADDRESS + self.next;
        self.next += (mapping.len as u64).next_multiple_of(HOLE) + HOLE;
        self.mappings.insert(address, mapping);
        address
    }

    /// Maps memory of the host.
    ///
    /// # Safety
    ///
    /// See [`Model::map`](super::Model::map).
    pub(super) unsafe fn map(&mut self, ptr: NonNull<u8>, len: usize) -> Region {
        let device_address = self.insert(Mapping { ptr, len, own: None });
        Region { start: ptr.addr().get(), len, device_address }
    }

    /// Zeroed memory of `len` bytes, and its address for the device.
    pub(super) fn allocate(&mut self, len: usize) -> Option<(NonNull<u8>, u64)> {
        let layout = Layout::from_size_align(len.max(4096), 4096).ok()?;
        // SAFETY: the layout has a size of at least 4096.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let address = self.insert(Mapping { ptr, len, own: Some(layout) });
        Some((ptr, address))
    }

    /// Unmaps the mapping that starts at `address`, and frees it if it is the model's own.
    pub(super) fn unmap(&mut self, address: u64) {
        if let Some(mapping) = self.mappings.remove(&address) {
            free(&mapping);
        }
    }

    /// How many mappings there are.
    pub(super) fn mappings(&self) -> usize {
        self.mappings.len()
    }

    /// A pointer to `len` bytes at `address`.
    fn at(&self, address: u64, len: usize) -> Result<*mut u8, Unmapped> {
        let (start, mapping) = self.mappings.range(..=address).next_back().ok_or(Unmapped(address))?;
        let offset = usize::try_from(address - start).map_err(|_| Unmapped(address))?;
        if offset.checked_add(len).is_none_or(|end| end > mapping.len) {
            return Err(Unmapped(address));
        }
        Ok(mapping.ptr.as_ptr().wrapping_add(offset))
    }

    /// Copies from the host.
    pub(super) fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Unmapped> {
        let from = self.at(address, out.len())?;
        // SAFETY: `at` found the range in mapped memory, which is valid; `out` is the model's own.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// Copies to the host.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Unmapped> {
        let to = self.at(address, bytes.len())?;
        // SAFETY: as in `read`; the host lets the device write there while a command names it.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies a completion to the host, its second half after the first.
    pub(super) fn post(&self, address: u64, words: [u32; 4]) -> Result<(), Unmapped> {
        let to = self.at(address, 16)?.cast::<[AtomicU64; 2]>();
        let pair = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le();
        // SAFETY: `at` found sixteen bytes in mapped memory, and completions are aligned to 16.
        let halves = unsafe { &*to };
        halves[0].store(pair(words[0], words[1]), Ordering::Relaxed);
        halves[1].store(pair(words[2], words[3]), Ordering::Release);
        Ok(())
    }
}

fn free(mapping: &Mapping) {
    if let Some(layout) = mapping.own {
        // SAFETY: it was allocated with this layout, and its mapping was just taken out of the
        // table, so that nothing frees it again.
        unsafe { dealloc(mapping.ptr.as_ptr(), layout) };
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for mapping in self.mappings.values() {
            free(mapping);
        }
    }
}
