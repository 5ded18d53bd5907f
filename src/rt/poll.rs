//! The seam between the scheduler and everything that it polls.

use std::os::fd::RawFd;
use std::time::Duration;

use crate::time::Instant;

/// Something a core polls on every turn of its loop: a packet device with its stack, a queue pair,
/// a ring.
///
/// A poller never blocks and never runs a task: it completes operations and wakes the tasks that
/// wait for them.
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

/// How a core may idle for the sake of one poller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Park {
    /// Nothing is outstanding: sleep as long as you like.
    Idle,
    /// Sleep until this descriptor is readable.
    Wake(RawFd),
    /// The device cannot wake a core: sleep at most this long, then poll again.
    Nap(Duration),
    /// Keep polling without a pause.
    Spin,
}
