//! A buffer that devices can read and write: aligned, zeroed at birth, returned to its arena on
//! drop.

use std::alloc::{Layout, LayoutError, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::arena::{ArenaHandle, class_of};

/// An owned, aligned buffer for device I/O.
///
/// It comes from an [`Arena`](super::Arena) (hugepages, registered with devices) or, with
/// [`DmaBuf::zeroed`], from the process's heap. Its bytes never move.
// Three words: every layer between a caller and a device moves it.
pub struct DmaBuf {
    ptr: NonNull<u8>,
    len: usize,
    /// `None` if it is from the heap.
    arena: Option<ArenaHandle>,
}

impl DmaBuf {
    /// The alignment of every buffer, in bytes: enough for direct I/O on any block device in use.
    pub const ALIGN: usize = 4096;

    /// A zeroed buffer of `len` bytes from the heap, aligned to [`DmaBuf::ALIGN`].
    ///
    /// # Panics
    ///
    /// If `len` exceeds `isize::MAX` once rounded up to the alignment.
    pub fn zeroed(len: usize) -> Self {
        let layout = heap_layout(len).expect("a buffer fits the address space");
        // SAFETY: `layout` has a size of at least one byte.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        Self { ptr, len, arena: None }
    }

    /// A buffer over `len` bytes at `ptr`, which `arena` owns and takes back on drop as a block of
    /// the size class that [holds](class_of) `len` bytes.
    ///
    /// # Safety
    ///
    /// `ptr` is valid for reads and writes of `len` initialised bytes that nothing else uses until
    /// they go back to `arena`, and `arena` keeps them mapped.
    pub(super) unsafe fn from_arena(ptr: NonNull<u8>, len: usize, arena: ArenaHandle) -> Self {
        Self { ptr, len, arena: Some(arena) }
    }

    /// Where the buffer lies in its arena's mapping, for devices that registered it: offset in
    /// bytes.
    pub fn arena_offset(&self) -> Option<usize> {
        self.arena.as_ref().map(|arena| arena.offset_of(self.ptr))
    }
}

/// What a buffer of `len` bytes from the heap is allocated with.
fn heap_layout(len: usize) -> Result<Layout, LayoutError> {
    Layout::from_size_align(len.max(1), DmaBuf::ALIGN)
}

impl Deref for DmaBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for reads of `len` initialised bytes while `self` lives (both
        // constructors give zeroed memory), and writes need `&mut self`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for DmaBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably and is the bytes' only owner.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        if let Some(arena) = &self.arena {
            if let Some(class) = class_of(self.len) {
                arena.give_back(self.ptr, class);
            }
        } else if let Ok(layout) = heap_layout(self.len) {
            // SAFETY: `ptr` came from `alloc_zeroed` with the layout of this very length, which
            // never changes, and is freed only here.
            unsafe { dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuf").field("len", &self.len).field("arena_offset", &self.arena_offset()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_buffers_are_aligned_and_zeroed() {
        for len in [0, 1, 4096, 10_000] {
            let buf = DmaBuf::zeroed(len);
            assert_eq!(buf.len(), len);
            assert_eq!(buf.as_ptr().addr() % DmaBuf::ALIGN, 0);
            assert!(buf.iter().all(|&byte| byte == 0));
        }
    }
}
