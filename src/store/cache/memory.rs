//! The memory of nodes: blocks of the arena, counted in the account.
//!
//! [`CacheMemory`] is what the cores of a store share, [`CacheMemoryOfCore`] is one core's: its
//! magazines and its portion. Bytes count in [`Part::Nodes`] from the allocation until the block is
//! free again, so nodes that were replaced count until nobody reads them any more.
//!
//! There is no memory, which writers see as [`NoRoom`](crate::store::btree::Refusal::NoRoom), if
//! the account's limit or the arena has no room but its reserve. Nobody waits here; whoever finds
//! no room evicts, or waits for those who do.
//!
//! | who | room |
//! |---|---|
//! | writes that add something, loads for them and for reads | ordinary |
//! | deletes, overwrites by a value of the same size, the keeper, loads for these | reserve |
//!
//! What may use the reserve leaves, when it is done, no more in memory than there was, or makes
//! pages clean that can be evicted then. So the reserve comes back, and a store that is full of
//! changes can always write them out.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::account::{Account, Part, Portion, Room};
use super::arena::{Block, Magazines, NodeArena, SLAB_BYTES};
use crate::error::Result;
use crate::store::btree::{self, CoreMemories, MAX_NODE_BYTES, NodeMemory};

/// The reserve has room for so many nodes of the largest size at least.
const RESERVED_NODES: u64 = 8;
/// The reserve is this share of the limit, if that is more.
const RESERVES_PER_LIMIT: u64 = 32;
/// The arena is larger than the limit by this share, for what slabs lose: rests behind the last
/// block, and free blocks of classes that nobody asks for.
const SPARE_PER_LIMIT: u64 = 8;
/// And by so many slabs: each of the classes that leaves have, from 2 to 6 KiB, has one that is
/// full in part. Of a small limit they would be most of the share above.
const SPARE_SLABS: u64 = 12;

/// How much of a limit is the reserve, in bytes: a quarter at most.
pub(in crate::store) fn reserve_bytes(limit_bytes: u64) -> u64 {
    let nodes = RESERVED_NODES * MAX_NODE_BYTES as u64;
    (limit_bytes / RESERVES_PER_LIMIT).max(nodes).min(limit_bytes / 4)
}

/// The memory of a store's nodes. Clones are the same memory.
#[derive(Clone)]
pub(in crate::store) struct CacheMemory {
    arena: Arc<NodeArena>,
    account: Arc<Account>,
}

impl CacheMemory {
    /// An arena for all that the account may use. Nodes have the same reserve there as there.
    ///
    /// # Errors
    ///
    /// The kernel's code if the arena cannot be mapped.
    pub(in crate::store) fn new(account: Arc<Account>) -> Result<Self> {
        let (limit, reserve) = (account.limit_bytes(), account.reserve_bytes());
        let spare = (limit / SPARE_PER_LIMIT).max(reserve) + SPARE_SLABS * SLAB_BYTES as u64;
        let whole = limit + spare;
        let of_machine = |bytes| usize::try_from(bytes).expect("memory has addresses");
        let arena = NodeArena::new(of_machine(whole), of_machine(reserve))?;
        Ok(Self { arena, account })
    }

    /// How many bytes of nodes are to be evicted, if so many bytes were retired and are not free
    /// yet: what is in use above the low watermark, or what the arena has no blocks for.
    pub(in crate::store) fn pressure_bytes(&self, retired_bytes: u64) -> u64 {
        self.account.pressure_bytes().max(self.arena.missing_bytes()).saturating_sub(retired_bytes)
    }

    /// The arena.
    pub(in crate::store) fn arena(&self) -> &Arc<NodeArena> {
        &self.arena
    }

    /// The account.
    pub(in crate::store) fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

// SAFETY: all memories have blocks of one arena, whose blocks any core may free.
unsafe impl CoreMemories for CacheMemory {
    type OfCore = CacheMemoryOfCore;

    fn attach(&self) -> CacheMemoryOfCore {
        CacheMemoryOfCore { magazines: self.arena.attach(), portion: self.account.attach() }
    }
}

/// One core's memory of nodes.
pub(in crate::store) struct CacheMemoryOfCore {
    magazines: Magazines,
    portion: Portion,
}

impl CacheMemoryOfCore {
    /// The core's portion of the account.
    pub(in crate::store) fn portion(&self) -> &Portion {
        &self.portion
    }

    /// Tells account and arena all that this core has free: before it sleeps for long, so that
    /// others have it, and statistics are exact.
    pub(in crate::store) fn settle(&self) {
        self.magazines.flush();
        self.portion.settle();
    }
}

// SAFETY: a block of the arena has as many bytes as were asked for, aligned to 64, in a mapping of
// user space, which ends at 2^47. It is given out once until it is free again.
unsafe impl NodeMemory for CacheMemoryOfCore {
    fn allocate(&self, len_bytes: usize, room: Room) -> Option<btree::Block> {
        let block = self.magazines.alloc(len_bytes, room)?;
        if !self.portion.try_take(Part::Nodes, bytes_of(block), room) {
            // SAFETY: allocated just now, and nobody knows it.
            unsafe { self.magazines.free(block) };
            return None;
        }
        Some(btree::Block { address: block.ptr, class: block.code() })
    }

    unsafe fn free(&self, block: btree::Block) {
        let block = Block::of_code(block.address, block.class);
        // SAFETY: the caller says that the block is from a memory of this store, so from this
        // arena, that it is not free yet and that nobody uses it. The code is that of `allocate`.
        unsafe { self.magazines.free(block) };
        self.portion.give(Part::Nodes, bytes_of(block));
    }
}

fn bytes_of(block: Block) -> u64 {
    u64::try_from(block.bytes).expect("64 bits")
}
