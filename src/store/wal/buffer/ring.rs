//! The bytes of a ring, which two threads use, each its own part.

use std::cell::UnsafeCell;

/// Bytes with interior mutability. Under loom each 8 of them have a cell beside them that notices
/// an access that nothing orders.
pub(super) struct Ring {
    bytes: Box<[UnsafeCell<u8>]>,
    #[cfg(loom)]
    watch: Box<[loom::cell::UnsafeCell<()>]>,
}

// SAFETY: the bytes are reached through `slice` and `slice_mut` only, whose callers answer for it
// that no byte is written while another thread uses it.
unsafe impl Sync for Ring {}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// How many cells are made at once.
const CELLS_AT_ONCE: usize = 4096;

impl Ring {
    pub(super) fn new(bytes: usize) -> Self {
        // One by one they would take longer than all else that an opening does, unoptimised.
        let mut cells = Vec::with_capacity(bytes);
        while cells.len() < bytes {
            cells.append(&mut Vec::from([const { UnsafeCell::new(0) }; CELLS_AT_ONCE]));
        }
        cells.truncate(bytes);
        Self {
            bytes: cells.into_boxed_slice(),
            #[cfg(loom)]
            watch: (0..bytes / 8).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        }
    }

    /// The `len` bytes from `at` on.
    ///
    /// # Safety
    ///
    /// While the slice lives nobody writes them.
    pub(super) unsafe fn slice(&self, at: usize, len: usize) -> &[u8] {
        let cells = &self.bytes[at..at + len];
        #[cfg(loom)]
        self.watch[at / 8..(at + len).div_ceil(8)].iter().for_each(|cell| cell.with(|_| ()));
        let first = UnsafeCell::raw_get(cells.as_ptr());
        // SAFETY: `first` comes from the slice `cells`, which has `len` bytes and lives as long as
        // `self`; that nobody writes them is the caller's promise.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    /// The `len` bytes from `at` on, to write.
    ///
    /// # Safety
    ///
    /// While the slice lives nobody else reads or writes them.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that it is the only reference")]
    pub(super) unsafe fn slice_mut(&self, at: usize, len: usize) -> &mut [u8] {
        let cells = &self.bytes[at..at + len];
        #[cfg(loom)]
        self.watch[at / 8..(at + len).div_ceil(8)].iter().for_each(|cell| cell.with_mut(|_| ()));
        let first = UnsafeCell::raw_get(cells.as_ptr());
        // SAFETY: `first` comes from the slice `cells`, which has `len` bytes and lives as long as
        // `self`, and bytes in cells may be written; that this is the only reference is the
        // caller's promise.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }
}
