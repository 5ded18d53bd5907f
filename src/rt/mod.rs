//! The runtime: one polling scheduler per core.
//!
//! A [`Core`] is a thread, usually pinned to a CPU, that runs tasks, polls devices ([`Poller`]) and its io_uring, and fires
//! timers. A task never changes its core. Inside a core the functions of this module ([`spawn`], [`sleep`], [`now`], …) act
//! on it; a [`Handle`] reaches it from other threads.

mod context;
pub(crate) mod coroutine;
mod handle;
mod inbox;
mod poller;
mod scheduler;
mod signal;
pub mod sync;
mod task;
mod thread;
mod time;
mod timer;
pub(crate) mod uring;

pub use context::{
    PollerRegistration, Sleep, arena, fill_random, handle, is_in_core, now, register_poller, sleep,
    sleep_until, spawn, stats, tasks, timeout, unix_time, yield_now,
};
pub use coroutine::wait;
pub use handle::{Handle, RemoteJoin};
pub use poller::{Park, Poller};
pub use scheduler::{Core, CoreConfig, CoreStats};
pub use signal::{Signal, Signals};
pub use task::{JoinError, JoinHandle};
pub use thread::CoreThread;
pub use time::{Clock, Instant, MonotonicClock};
pub use timer::{TimerKey, Wheel};
pub use uring::probe_io_uring;
