//! Simulation: cores, time and a disk that a seed decides, so that whole nodes run, crash and run
//! again the same way.
//!
//! A [`World`] runs any number of virtual cores in one thread: boson's own scheduler, without a
//! kernel. [`Executor`] is a world of one core for a store's tests, and [`Disk`] what such a store
//! is on.
//!
//! Everything random comes from the seed: whose turn it is, latencies, what a power failure takes.
//! A failing seed replays exactly.

mod clock;
mod disk;
mod driver;
mod executor;
mod stuck;
mod world;

pub use crate::rt::defect::Defect;
pub use disk::Disk;
pub use executor::{Executor, SimEnv};
pub use stuck::{Stuck, StuckKind};
pub use world::{MAX_CORES, VirtualCore, World, WorldOptions};
