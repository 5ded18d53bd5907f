//! Programs on simulated cores.

#[path = "../support/mod.rs"]
mod support;

mod cores;
mod disk;
mod programs;
