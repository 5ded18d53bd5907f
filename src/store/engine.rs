//! The engine of the next store: what does I/O around its parts (`docs/store-design.md`).
//!
//! | module | what it is |
//! |---|---|
//! | [`log`] | writes the log for all cores, and reads it again |
#![cfg_attr(not(test), expect(dead_code, reason = "the next store is not in use yet"))]

#[cfg(not(any(loom, shuttle)))]
mod log;
