//! The arena of nodes: memory of a fixed size, for all cores of a store.
//!
//! It is one mapping, in hugepages where there are some, and cut into slabs of 64 KiB. A slab has
//! blocks of one [size class](class); when all of them are free it may get another class. Larger
//! allocations take one or two slabs as a whole. A full arena says `None`.
//!
//! Each core has [`Magazines`]: a few free blocks of each class, which only it touches. An
//! allocation or a free changes nothing that other cores read or write, but when a magazine is
//! empty or full: then half of one comes from the [slabs](slabs) or goes back to them, without
//! locks. A block may be freed by another core than the one that allocated it, and goes to that
//! one's magazine.
//!
//! The design had a stack of surplus blocks per class. Here blocks go back to the bitmap of their
//! slab: nothing is linked, so there is no ABA, no walk to find that a slab is empty, and nothing
//! is written to free memory.
//!
//! What is not in use may still not be had: up to [`MAGAZINE_BYTES`] per class are in each core's
//! magazines (a core that finds the arena full empties its own), and a slab with one block in use
//! serves its own class only. An allocation that finds neither a block of its class nor an empty
//! slab takes a block of up to twice the size.
//!
//! Some slabs are a reserve: they stay empty but for allocations with [`Room::Reserve`] that find
//! no block elsewhere. An account alone could not promise that, since its bytes may lie in slabs of
//! other classes.

mod class;
#[cfg(all(test, loom))]
mod loom_tests;
mod memory;
mod set;
mod slabs;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::atomic::{AtomicBool, AtomicU64, Ordering};
use super::account::Room;
use crate::error::Result;
use class::{CLASSES, GRANULE_BYTES, bytes_of, class_of, granules_of};
use memory::Memory;
use slabs::Slabs;

/// The size of a slab, and its alignment in the arena.
pub(in crate::store) const SLAB_BYTES: usize = 64 << 10;
/// The largest allocation: two slabs.
pub(in crate::store) const MAX_ALLOCATION_BYTES: usize = 2 * SLAB_BYTES;
/// A magazine of a large arena holds so many bytes at most; of an arena below 16 MiB, 1/512 of it.
const MAGAZINE_BYTES: usize = 32 << 10;
/// A magazine holds so many blocks at most.
const MAGAZINE_BLOCKS: usize = 64;
/// How many larger classes an allocation may take a block of: up to twice its size.
const LARGER_CLASSES: usize = 8;
const GRANULES_PER_SLAB: usize = SLAB_BYTES / GRANULE_BYTES;

/// The arena, shared by all cores of a store.
pub(in crate::store) struct NodeArena {
    memory: Memory,
    slabs: Slabs,
    /// Slabs that stay empty but for who may use the reserve.
    reserve: usize,
    /// An allocation found no room, and none that had to look for some has found any since.
    is_short: AtomicBool,
    magazine_bytes: usize,
    /// One per core that is or was there.
    counters: Mutex<Vec<Arc<Counters>>>,
}

/// Blocks that a core has allocated less those that it has freed, wrapping: by class, and slabs
/// that are allocations or parts of one. Only the core writes them.
struct Counters {
    blocks: [AtomicU64; CLASSES],
    whole_slabs: AtomicU64,
}

/// What was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Block {
    /// Aligned to 64 bytes. What is there is undefined.
    pub(in crate::store) ptr: NonNull<u8>,
    /// Bytes that may be used: what was asked for or more.
    pub(in crate::store) bytes: usize,
}

impl Block {
    /// The size of the block, as one byte: its class, or behind the classes one or two slabs.
    pub(in crate::store) fn code(self) -> u8 {
        let code = class_of(self.bytes).unwrap_or(CLASSES - 1 + self.bytes / SLAB_BYTES);
        u8::try_from(code).expect("few classes")
    }

    /// The block at `ptr` whose size has this code.
    pub(in crate::store) fn of_code(ptr: NonNull<u8>, code: u8) -> Self {
        let class = usize::from(code);
        let bytes = if class < CLASSES { bytes_of(class) } else { (class + 1 - CLASSES) * SLAB_BYTES };
        Self { ptr, bytes }
    }
}

/// What one size class has, or, with 64 KiB as `block_bytes`, slabs that are allocations of their
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct ClassStats {
    /// The size of a block.
    pub(in crate::store) block_bytes: usize,
    /// Blocks in use.
    pub(in crate::store) blocks: u64,
}

impl NodeArena {
    /// Maps an arena of `bytes` bytes, of which `reserve_bytes` are for [`Room::Reserve`], both
    /// rounded up to whole slabs.
    ///
    /// # Errors
    ///
    /// The kernel's code if it cannot be mapped.
    pub(in crate::store) fn new(bytes: usize, reserve_bytes: usize) -> Result<Arc<Self>> {
        let count = bytes.max(1).div_ceil(SLAB_BYTES);
        let blocks = |class| u32::try_from(GRANULES_PER_SLAB / granules_of(class)).expect("1024 at most");
        Ok(Arc::new(Self {
            memory: Memory::map(count * SLAB_BYTES)?,
            slabs: Slabs::new(count, (0..CLASSES).map(blocks).collect()),
            reserve: reserve_bytes.div_ceil(SLAB_BYTES),
            is_short: AtomicBool::new(false),
            magazine_bytes: MAGAZINE_BYTES.min(bytes / 512),
            counters: Mutex::new(Vec::new()),
        }))
    }

    /// The magazines of the calling core.
    pub(in crate::store) fn attach(self: &Arc<Self>) -> Magazines {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let own = match counters.iter().find(|counters| Arc::strong_count(counters) == 1) {
            Some(unused) => Arc::clone(unused),
            None => {
                let new = Arc::new(Counters {
                    blocks: [(); CLASSES].map(|()| AtomicU64::new(0)),
                    whole_slabs: AtomicU64::new(0),
                });
                counters.push(Arc::clone(&new));
                new
            }
        };
        drop(counters);
        Magazines {
            arena: Arc::clone(self),
            by_class: (0..CLASSES).map(|class| Magazine::new(class, self.magazine_bytes)).collect(),
            counters: own,
            last_slab: Cell::new(0),
        }
    }

    /// The size of the arena, in bytes.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.slabs.len() * SLAB_BYTES
    }

    /// Bytes in use, in whole blocks and slabs. Exact if no core changes it at this moment.
    pub(in crate::store) fn allocated_bytes(&self) -> u64 {
        let bytes = |stats: ClassStats| stats.blocks * u64::try_from(stats.block_bytes).expect("64 bits");
        self.class_stats().into_iter().map(bytes).sum()
    }

    /// What each class has in use, by size. Exact if no core changes it at this moment.
    pub(in crate::store) fn class_stats(&self) -> Vec<ClassStats> {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |count: &dyn Fn(&Counters) -> &AtomicU64| {
            let counts = counters.iter().map(|counters| count(counters).load(Ordering::Relaxed));
            // Read one after the other, so what moved from one core to another may be missing
            // twice.
            let sum = counts.fold(0, u64::wrapping_add).cast_signed();
            u64::try_from(sum).unwrap_or(0)
        };
        let class = |class| ClassStats {
            block_bytes: bytes_of(class),
            blocks: sum(&|counters| &counters.blocks[class]),
        };
        let whole = ClassStats { block_bytes: SLAB_BYTES, blocks: sum(&|counters| &counters.whole_slabs) };
        (0..CLASSES).map(class).chain([whole]).collect()
    }

    /// Slabs without a block in use or in a magazine. Exact if no core changes it at this moment.
    /// Looks at all slabs.
    pub(in crate::store) fn empty_slabs(&self) -> usize {
        self.slabs.empty_slabs()
    }

    /// How many bytes are to be freed so that what found no room finds some: a slab, until one that
    /// looked for room has found it again. Zero while all find room.
    pub(in crate::store) fn missing_bytes(&self) -> u64 {
        if self.is_short.load(Ordering::Relaxed) { SLAB_BYTES as u64 } else { 0 }
    }

    /// How many slabs such an allocation has to leave empty.
    fn keep_empty(&self, room: Room) -> usize {
        match room {
            Room::Ordinary => self.reserve,
            Room::Reserve => 0,
        }
    }

    /// Notes whether an allocation that had to look for room has found it.
    fn note<T>(&self, found: Option<T>) -> Option<T> {
        let is_short = found.is_none();
        if self.is_short.load(Ordering::Relaxed) != is_short {
            self.is_short.store(is_short, Ordering::Relaxed);
        }
        found
    }
}

/// Free blocks of one class, for one core: their places in the arena, in granules.
struct Magazine {
    blocks: Vec<usize>,
    /// Zero if a single one is too large for it.
    most: usize,
}

impl Magazine {
    fn new(class: usize, bytes: usize) -> RefCell<Self> {
        let most = (bytes / bytes_of(class)).min(MAGAZINE_BLOCKS);
        RefCell::new(Self { blocks: Vec::with_capacity(most), most })
    }
}

/// One core's way to the arena. When it is dropped, its free blocks go back.
pub(in crate::store) struct Magazines {
    arena: Arc<NodeArena>,
    by_class: Box<[RefCell<Magazine>]>,
    counters: Arc<Counters>,
    /// Where blocks were found last.
    last_slab: Cell<usize>,
}

impl Magazines {
    /// Allocates at least `bytes` bytes; `None` if the arena is full, but for its reserve unless
    /// `room` says so, or above [`MAX_ALLOCATION_BYTES`].
    pub(in crate::store) fn alloc(&self, bytes: usize, room: Room) -> Option<Block> {
        let Some(class) = class_of(bytes) else {
            return self.arena.note(self.alloc_whole(bytes, self.arena.keep_empty(room)));
        };
        let place = self.by_class[class].borrow_mut().blocks.pop();
        match place {
            Some(place) => Some(self.allocated(class, place)),
            None => self.arena.note(self.refill(class, room)),
        }
    }

    /// Frees a block of the arena.
    ///
    /// # Safety
    ///
    /// The block was allocated from this arena, by any core, was not freed since, and nobody uses
    /// it.
    pub(in crate::store) unsafe fn free(&self, block: Block) {
        let place = self.arena.memory.offset_of(block.ptr) / GRANULE_BYTES;
        if cfg!(debug_assertions) {
            // SAFETY: the block is in use by the caller alone, who gives it up.
            unsafe { block.ptr.write_bytes(POISON, block.bytes) };
        }
        let Some(class) = class_of(block.bytes) else {
            let slabs = block.bytes / SLAB_BYTES;
            sub(&self.counters.whole_slabs, slabs);
            return self.arena.slabs.give_whole(place / GRANULES_PER_SLAB);
        };
        sub(&self.counters.blocks[class], 1);
        let mut magazine = self.by_class[class].borrow_mut();
        if magazine.most == 0 {
            return self.give(class, place);
        }
        if magazine.blocks.len() == magazine.most {
            let kept = magazine.most / 2;
            // The oldest go: the newest are likely in the core's caches.
            let surplus = magazine.most - kept;
            magazine.blocks.drain(..surplus).for_each(|place| self.give(class, place));
        }
        magazine.blocks.push(place);
    }

    /// Gives all free blocks of this core back to the slabs.
    pub(in crate::store) fn flush(&self) {
        for (class, magazine) in self.by_class.iter().enumerate() {
            magazine.borrow_mut().blocks.drain(..).for_each(|place| self.give(class, place));
        }
    }

    /// The arena that this belongs to.
    pub(in crate::store) fn arena(&self) -> &Arc<NodeArena> {
        &self.arena
    }

    /// A block, when the magazine has none. The reserve is touched last: a larger block comes back
    /// as it is, while a slab of the reserve that is cut for one block is no reserve until all of
    /// its blocks are free at the same time.
    #[cold]
    fn refill(&self, class: usize, room: Room) -> Option<Block> {
        let half = self.by_class[class].borrow().most.div_ceil(2).max(1);
        let ordinary = self.arena.keep_empty(Room::Ordinary);
        let place = self.take(class, half, ordinary).map(|place| (class, place));
        let place = place.or_else(|| {
            self.flush();
            self.take_any(class, half, ordinary)
        });
        let place = place.or_else(|| match room {
            Room::Ordinary => None,
            Room::Reserve => self.take_any(class, 1, self.arena.keep_empty(room)),
        });
        place.map(|(class, place)| self.allocated(class, place))
    }

    /// Takes at most `most` blocks of a class, or one of up to twice the size. The class and the
    /// place of one.
    fn take_any(&self, class: usize, most: usize, keep_empty: usize) -> Option<(usize, usize)> {
        let larger = class + 1..CLASSES.min(class + 1 + LARGER_CLASSES);
        let mut all = std::iter::once((class, most)).chain(larger.map(|class| (class, 1)));
        all.find_map(|(class, most)| Some((class, self.take(class, most, keep_empty)?)))
    }

    /// Takes at most `most` blocks out of one slab, all but one for the magazine. The place of that
    /// one.
    fn take(&self, class: usize, most: usize, keep_empty: usize) -> Option<usize> {
        let most = u32::try_from(most).expect("few blocks");
        let mut magazine = self.by_class[class].borrow_mut();
        let slab = self.arena.slabs.take(class, most, self.last_slab.get(), keep_empty, |slab, block| {
            magazine.blocks.push(slab * GRANULES_PER_SLAB + block * granules_of(class));
        })?;
        self.last_slab.set(slab);
        magazine.blocks.pop()
    }

    fn give(&self, class: usize, place: usize) {
        let (slab, within) = (place / GRANULES_PER_SLAB, place % GRANULES_PER_SLAB);
        self.arena.slabs.give(class, slab, within / granules_of(class));
    }

    fn allocated(&self, class: usize, place: usize) -> Block {
        add(&self.counters.blocks[class], 1);
        Block { ptr: self.arena.memory.at(place * GRANULE_BYTES), bytes: bytes_of(class) }
    }

    fn alloc_whole(&self, bytes: usize, keep_empty: usize) -> Option<Block> {
        if bytes > MAX_ALLOCATION_BYTES {
            return None;
        }
        let count = if bytes > SLAB_BYTES { 2 } else { 1 };
        let take = || self.arena.slabs.take_whole(count, self.last_slab.get(), keep_empty);
        let slab = take().or_else(|| {
            self.flush();
            take()
        })?;
        let bytes = if count == 2 { MAX_ALLOCATION_BYTES } else { SLAB_BYTES };
        add(&self.counters.whole_slabs, bytes / SLAB_BYTES);
        Some(Block { ptr: self.arena.memory.at(slab * SLAB_BYTES), bytes })
    }
}

impl Drop for Magazines {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Freed memory is filled with this in builds with debug assertions, so that who reads it notices.
pub(in crate::store) const POISON: u8 = 0xdb;

fn add(counter: &AtomicU64, count: usize) {
    let count = u64::try_from(count).expect("64 bits");
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

fn sub(counter: &AtomicU64, count: usize) {
    let count = u64::try_from(count).expect("64 bits");
    counter.store(counter.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
}
