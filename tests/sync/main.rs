//! Locks and channels, within a core and between threads.

#[path = "../support/counting.rs"]
mod counting;
#[path = "../support/mod.rs"]
mod support;

mod local;
mod local_model;
mod mutex;
mod shared;
