//! Stacks of coroutines: slabs of address space, cut into guarded stacks, reused last in first out.
//!
//! A slab is one private anonymous mapping that holds many stacks of one size. Memory is committed
//! page by page, with use, so a large stack costs address space and nothing else. Under every stack
//! lies a guard page, which Linux 6.13 and later marks in the page table (`MADV_GUARD_INSTALL`,
//! madvise(2)) without splitting the mapping: a million stacks then need a few hundred mappings
//! where `vm.max_map_count` allows 65,530. Older kernels protect the page (`mprotect`), which costs
//! two mappings for each stack; there the number of stacks is limited to what leaves a quarter of
//! all mappings to the program.
//!
//! A pool belongs to a thread. A stack that comes back is the next to be handed out. Free stacks
//! keep their memory while they are used now and then: giving it back takes a system call, which
//! costs several times a spawn, and then each page faults again. Of those that were not used while
//! [some thousands](pool::WHILE) came back, all but [`WARM`](pool::WARM) give memory back, one by
//! one, and keep [`KEPT_BYTES`](pool::KEPT_BYTES) of it. So a pool holds no more memory than its
//! coroutines used at the same time.

mod pool;
mod slab;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

use corosensei::stack::{Stack, StackPointer};

use crate::error::Result;
use pool::StackPool;
use slab::{Guards, StackSlot};

/// The smallest stack, in bytes.
const MIN_STACK_BYTES: usize = 16 << 10;
/// The largest stack, in bytes.
const MAX_STACK_BYTES: usize = 1 << 30;
/// The unit of sizes and the size of a guard, in bytes.
const PAGE_BYTES: usize = 4096;
/// Size classes: powers of two from [`MIN_STACK_BYTES`] to [`MAX_STACK_BYTES`].
const CLASSES: usize = (MAX_STACK_BYTES / MIN_STACK_BYTES).ilog2() as usize + 1;
/// What the stack pool of one thread holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackStats {
    /// Stacks in use by coroutines.
    pub used: usize,
    /// Stacks that wait to be reused.
    pub free: usize,
    /// Address space of all slabs, in bytes. Only what was touched of it is memory.
    pub reserved_bytes: usize,
}

/// A stack of a coroutine. Dropping it gives it back to the pool of the calling thread.
pub(in crate::rt) struct PooledStack {
    /// Asked for with each switch.
    base: StackPointer,
    slot: StackSlot,
}

impl PooledStack {
    /// From the calling thread's pool, with room for at least `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) above [`MAX_STACK_BYTES`], the kernel's
    /// code if there is no room, [`LimitReached`](crate::ErrorKind::LimitReached) if there is no
    /// mapping left for a guard.
    pub(in crate::rt) fn take(bytes: usize) -> Result<Self> {
        let slot = POOL.with_borrow_mut(|pool| pool.take(bytes))?;
        Ok(Self { base: slot.base(), slot })
    }

    /// The addresses of the guard: a fault there is an overflow.
    pub(in crate::rt) fn guard(&self) -> std::ops::Range<usize> {
        let start = self.slot.slab.guard(self.slot.index).addr();
        start..start + PAGE_BYTES
    }

    /// Room on it, in bytes.
    pub(in crate::rt) fn len(&self) -> usize {
        self.slot.slab.stack_bytes
    }
}

impl Drop for PooledStack {
    fn drop(&mut self) {
        let slot = StackSlot { slab: Rc::clone(&self.slot.slab), index: self.slot.index };
        // Without a pool any more, the slab goes with its last stack.
        let _ = POOL.try_with(|pool| pool.borrow_mut().put(slot));
    }
}

// SAFETY: below `base` lie at least `MIN_STACK_BYTES` less the largest colour, more than the 4 KiB
// that are asked for, of memory that this value owns, readable and writable; then comes the guard
// page, which `StackPool::cut` made inaccessible and which is above `limit`. `base` is a multiple
// of 64.
unsafe impl Stack for PooledStack {
    fn base(&self) -> StackPointer {
        self.base
    }

    fn limit(&self) -> StackPointer {
        NonZeroUsize::new(self.guard().start).expect("a stack is not at address zero")
    }
}

thread_local! {
    static POOL: RefCell<StackPool> = const { RefCell::new(StackPool::new(Guards::Install)) };
}

/// What the calling thread's pool holds.
pub(in crate::rt) fn stats() -> StackStats {
    POOL.with_borrow(StackPool::stats)
}

/// Gives the memory of the calling thread's free stacks back to the kernel, and the address space
/// of slabs that are free as a whole.
pub(in crate::rt) fn trim() {
    let gone = POOL.with_borrow_mut(StackPool::trim);
    drop(gone);
}

#[cfg(test)]
mod tests;
