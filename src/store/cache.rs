//! Memory of the store: the arena of nodes, and the account of bytes.
//!
//! - `arena`: where nodes live. It says no when it is full; what then goes is for eviction to say.
//! - `account`: how many bytes each part of the store uses, all of them together within one limit.
#![cfg_attr(not(test), expect(dead_code, reason = "the next store is not in use yet"))]

mod account;
mod arena;

#[cfg_attr(not(test), expect(unused_imports, reason = "the next store is not in use yet"))]
pub(super) use account::{Account, Part, Portion};
#[cfg_attr(not(test), expect(unused_imports, reason = "the next store is not in use yet"))]
pub(super) use arena::{Block, MAX_ALLOCATION_BYTES, Magazines, NodeArena, POISON};
