//! Memory of the store: where nodes live, how many bytes everything uses, what is evicted.
//!
//! - `arena`: blocks for nodes. It says no when it is full.
//! - `account`: how many bytes each part of the store uses, all of them together within one limit.
//! - `memory`: nodes are blocks of the arena that the account counts.
//! - `hand`: which pages go when there is too little room.

mod account;
mod arena;
#[cfg(not(any(loom, shuttle)))]
pub(super) mod hand;
// A node is raw memory, which the atomics of models are not.
#[cfg(not(any(loom, shuttle)))]
pub(super) mod memory;

pub(super) use account::{Account, Part, Portion, Room};
pub(super) use arena::{Block, MAX_ALLOCATION_BYTES, Magazines, NodeArena, POISON};
#[cfg(not(any(loom, shuttle)))]
pub(super) use memory::{CacheMemory, CacheMemoryOfCore};
