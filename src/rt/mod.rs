//! The runtime: one polling scheduler per core.

mod poller;
pub mod sync;
mod time;

pub use poller::{Park, Poller};
pub use time::{Clock, Instant, MonotonicClock};
