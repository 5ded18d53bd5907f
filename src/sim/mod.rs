//! Simulation: time, scheduling and a disk that a seed decides, so that whole nodes run, crash and run again
//! the same way.
//!
//! Everything random comes from the seed: the order of ready tasks, latencies, what a power failure takes. A
//! failing seed replays exactly.

mod disk;
mod executor;

pub use disk::{Disk, DiskOptions, Fault};
pub use executor::{Executor, SimEnv};
