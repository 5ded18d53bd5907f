//! A core's arena: one mapping, in hugepages where there are some, cut into power-of-two blocks.

use std::cell::RefCell;
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use super::DmaBuf;
use super::mapping::{Mapping, PageKind};
use crate::error::Result;

/// How much of an arena is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArenaStats {
    /// The size of the mapping, in bytes.
    pub total_bytes: usize,
    /// How many bytes buffers hold now, rounded up to their size classes.
    pub used_bytes: usize,
    /// How many buffers came from the heap because the arena had no block left.
    pub heap_fallbacks: u64,
    /// What backs the mapping.
    pub pages: PageKind,
}

/// The smallest block: the alignment every buffer promises.
const MIN_BLOCK_BYTES: usize = DmaBuf::ALIGN;
/// Size classes double from 4 KiB to 2 MiB.
const CLASSES: usize = 10;

/// One core's memory for device I/O. Cheap to clone; not `Send`: buffers go back to the core they
/// came from.
#[derive(Clone)]
pub struct Arena(ArenaHandle);

#[derive(Clone)]
pub(super) struct ArenaHandle(Rc<ArenaShared>);

struct ArenaShared {
    /// Every arena and [`DmaBuf`] over it holds the `Rc` that this is in, so none is left when it
    /// goes. [`Arena::region`] gives out a bare address; its contract makes the user of that hold a
    /// clone.
    mapping: Mapping,
    state: RefCell<ArenaState>,
}

struct ArenaState {
    /// The first byte that was never handed out.
    fresh: usize,
    /// Returned blocks by size class, as offsets.
    free: [Vec<usize>; CLASSES],
    used_bytes: usize,
    heap_fallbacks: u64,
}

impl Arena {
    /// Maps an arena of at least `bytes` bytes, rounded up to whole hugepages.
    ///
    /// Without free hugepages it takes normal pages; the first arena of the process that does says
    /// so in the log.
    ///
    /// # Errors
    ///
    /// The kernel's code if neither kind of mapping can be had.
    pub fn new(bytes: usize) -> Result<Self> {
        let mapping = Mapping::new(bytes)?;
        let state = ArenaState { fresh: 0, free: Default::default(), used_bytes: 0, heap_fallbacks: 0 };
        Ok(Self(ArenaHandle(Rc::new(ArenaShared { mapping, state: RefCell::new(state) }))))
    }

    /// A buffer of `len` bytes, aligned to [`DmaBuf::ALIGN`]; its content is whatever its last user
    /// left, or zeros.
    ///
    /// Comes from the heap (and is counted) when the arena has no block of that size left.
    pub fn alloc(&self, len: usize) -> DmaBuf {
        self.alloc_within(len).unwrap_or_else(|| {
            self.0.0.state.borrow_mut().heap_fallbacks += 1;
            DmaBuf::zeroed(len)
        })
    }

    /// The same, but `None` when the arena has no block of that size left.
    pub(crate) fn alloc_within(&self, len: usize) -> Option<DmaBuf> {
        let ptr = self.0.take(len)?;
        // SAFETY: `take` hands out a block of at least `len` bytes inside the mapping that is on no
        // free list and in no other buffer; the mapping starts zeroed, so the bytes are
        // initialised; the handle keeps it mapped.
        Some(unsafe { DmaBuf::from_arena(ptr, len, self.0.clone()) })
    }

    /// How much is in use.
    pub fn stats(&self) -> ArenaStats {
        let shared = &*self.0.0;
        let state = shared.state.borrow();
        ArenaStats {
            total_bytes: shared.mapping.len(),
            used_bytes: state.used_bytes,
            heap_fallbacks: state.heap_fallbacks,
            pages: shared.mapping.pages(),
        }
    }

    /// Asks the kernel for transparent hugepages if the pages are normal ones: for memory that is
    /// going to be full.
    pub(crate) fn prefer_hugepages(&self) {
        self.0.0.mapping.prefer_hugepages();
    }

    /// The mapping's address and size in bytes, to register with a device.
    ///
    /// The memory is mapped for as long as this arena, a clone of it or one of its buffers lives.
    /// Code that gives the address to a device therefore keeps a clone until the device has let go
    /// of it.
    pub fn region(&self) -> (*const u8, usize) {
        (self.0.0.mapping.base().as_ptr().cast_const(), self.0.0.mapping.len())
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Arena").field(&self.stats()).finish()
    }
}

/// The size class that holds `len` bytes, if any does.
pub(super) fn class_of(len: usize) -> Option<usize> {
    (0..CLASSES).find(|&class| len <= MIN_BLOCK_BYTES << class)
}

impl ArenaHandle {
    fn take(&self, len: usize) -> Option<NonNull<u8>> {
        let mut state = self.0.state.borrow_mut();
        let offset = state.take_block(class_of(len)?, self.0.mapping.len())?;
        // SAFETY: `take_block` returns an offset with a whole block of the class inside the
        // mapping.
        Some(unsafe { self.0.mapping.base().add(offset) })
    }

    pub(super) fn give_back(&self, ptr: NonNull<u8>, class: usize) {
        let offset = self.offset_of(ptr);
        let mut state = self.0.state.borrow_mut();
        state.used_bytes -= MIN_BLOCK_BYTES << class;
        state.free[class].push(offset);
    }

    pub(super) fn offset_of(&self, ptr: NonNull<u8>) -> usize {
        ptr.as_ptr().addr() - self.0.mapping.base().as_ptr().addr()
    }
}

impl ArenaState {
    fn take_block(&mut self, class: usize, total_bytes: usize) -> Option<usize> {
        let bytes = MIN_BLOCK_BYTES << class;
        let offset = match self.free[class].pop() {
            Some(offset) => offset,
            None if self.fresh + bytes <= total_bytes => {
                let offset = self.fresh;
                self.fresh += bytes;
                offset
            }
            None => self.split_larger(class)?,
        };
        self.used_bytes += bytes;
        Some(offset)
    }

    /// Takes a larger free block, keeps its first part and puts the halves that remain on the free
    /// lists.
    fn split_larger(&mut self, class: usize) -> Option<usize> {
        let larger = (class + 1..CLASSES).find(|&larger| !self.free[larger].is_empty())?;
        let offset = self.free[larger].pop()?;
        for half in (class..larger).rev() {
            self.free[half].push(offset + (MIN_BLOCK_BYTES << half));
        }
        Some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::super::mapping::HUGE_PAGE_BYTES;
    use super::*;

    #[test]
    fn buffers_do_not_overlap_and_come_back() {
        let arena = Arena::new(HUGE_PAGE_BYTES).expect("map");
        let mut bufs: Vec<DmaBuf> = (0..8).map(|i| arena.alloc(4096 << (i % 3))).collect();
        for (i, buf) in bufs.iter_mut().enumerate() {
            buf.fill(u8::try_from(i).expect("small"));
        }
        for (i, buf) in bufs.iter().enumerate() {
            assert!(buf.iter().all(|&byte| usize::from(byte) == i), "buffer {i} was overwritten");
        }
        assert!(arena.stats().used_bytes > 0);
        drop(bufs);
        assert_eq!(arena.stats().used_bytes, 0);
        assert_eq!(arena.stats().heap_fallbacks, 0);
    }

    #[test]
    fn a_freed_large_block_is_split_for_small_ones() {
        let arena = Arena::new(HUGE_PAGE_BYTES).expect("map");
        drop(arena.alloc(HUGE_PAGE_BYTES));
        let small: Vec<_> = (0..512).map(|_| arena.alloc(4096)).collect();
        assert_eq!(arena.stats().heap_fallbacks, 0);
        let mut offsets: Vec<_> = small.iter().map(|buf| buf.arena_offset()).collect();
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), 512);
    }

    #[test]
    fn an_exhausted_arena_falls_back_to_the_heap_and_counts_it() {
        let arena = Arena::new(HUGE_PAGE_BYTES).expect("map");
        let whole = arena.alloc(HUGE_PAGE_BYTES);
        let buf = arena.alloc(4096);
        assert_eq!(buf.arena_offset(), None);
        assert_eq!(arena.stats().heap_fallbacks, 1);
        drop(whole);
    }

    #[test]
    fn the_mapping_outlives_the_arena_while_a_buffer_does() {
        let buf = {
            let arena = Arena::new(1).expect("map");
            arena.alloc(100)
        };
        assert_eq!(buf.len(), 100);
        assert_eq!(buf[99], 0);
    }
}
