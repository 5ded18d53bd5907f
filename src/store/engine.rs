//! The engine of the next store: it ties its parts together, and does the I/O around them
//! (`docs/store-design.md`).
//!
//! | module | what it is |
//! |---|---|
//! | [`flush`] | which pages go to the namespace, in which bundles |
//! | [`log`] | writes the log for all cores, and reads it again |
#![cfg_attr(not(test), allow(dead_code, reason = "the next store is not in use yet"))]

#[cfg(not(any(loom, shuttle)))]
mod checkpoint;
#[cfg(not(any(loom, shuttle)))]
mod clean;
#[cfg(not(any(loom, shuttle)))]
mod core_store;
pub(super) mod flush;
#[cfg(not(any(loom, shuttle)))]
mod grow;
#[cfg(not(any(loom, shuttle)))]
mod keeper;
#[cfg(not(any(loom, shuttle)))]
mod loads;
#[cfg(not(any(loom, shuttle)))]
mod log;
#[cfg(not(any(loom, shuttle)))]
mod open;
#[cfg(not(any(loom, shuttle)))]
mod operations;
#[cfg(not(any(loom, shuttle)))]
mod signal;
#[cfg(not(any(loom, shuttle)))]
mod space;
#[cfg(not(any(loom, shuttle)))]
mod state;
#[cfg(not(any(loom, shuttle)))]
mod streams;
#[cfg(not(any(loom, shuttle)))]
mod superblocks;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
