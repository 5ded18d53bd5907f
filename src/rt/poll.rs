//! The seam between the scheduler and everything that it polls.

use std::os::fd::RawFd;
use std::time::Duration;

use crate::time::Instant;

/// Something a core polls on every turn of its loop: a packet device with its stack, a queue pair,
/// a ring.
///
/// A poller never blocks and never runs a task: it completes operations and wakes the tasks that
/// wait for them.
///
/// # Its end
///
/// A poller goes when its registration is dropped, or when its core ends: after all tasks of the
/// core, after its I/O with the kernel, and without another `poll`. Futures that were dropped just
/// before may have left operations in flight. So the destructor of a poller stops the device and
/// waits, for a bounded time, until the device no longer uses any memory of theirs; what it still
/// uses then is leaked, not freed. `src/reactor/uring/ring.rs` (`shut_down`) is a model.
pub trait Poller {
    /// A short name for statistics ([`PollerStats`](crate::observe::PollerStats)); asked for once,
    /// when the poller is registered.
    fn name(&self) -> &'static str;

    /// Handles at most `budget` events (packets, completions, timers) that are ready at `now` and
    /// returns how many it handled. `budget` is at least 1. Returning `budget` means that there may
    /// be more.
    fn poll(&mut self, now: Instant, budget: usize) -> usize;

    /// When the poller must be polled again even if nothing arrives; `None` if never.
    fn next_deadline(&self) -> Option<Instant>;

    /// What the core may do when nothing is happening anywhere.
    ///
    /// Called after a `poll` that returned 0, before the core sleeps. After `Park::Wake` the
    /// descriptor must become readable for every event from that `poll` on, so that none is missed.
    fn park(&mut self) -> Park;
}

/// How a core may idle on behalf of one poller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Park {
    /// Nothing is outstanding: the core may sleep until something else wakes it.
    Idle,
    /// Sleep until this descriptor is readable.
    Wake(RawFd),
    /// The device cannot wake a core: sleep at most this long, then poll again.
    Nap(Duration),
    /// Keep polling without a pause.
    Spin,
}
