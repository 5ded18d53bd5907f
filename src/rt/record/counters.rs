//! What a core counts.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::histogram::Histogram;
use crate::reactor::ReactorKind;

/// What a core counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoreStats {
    /// Turns of the loop.
    pub turns: u64,
    /// Task polls.
    pub polls: u64,
    /// Tasks that live now, the future of `block_on` among them: [`spawned`](Self::spawned) minus
    /// [`ended`](Self::ended), except in what the end of a task runs (destructors, wakers of
    /// joiners), where one that has ended may not be counted yet.
    pub tasks: usize,
    /// Tasks that were spawned, and calls of `block_on`.
    pub spawned: u64,
    /// Tasks that ended, in whatever way.
    pub ended: u64,
    /// Tasks and calls from other threads ([`Handle::run`](crate::rt::Handle::run)) that ended with
    /// a panic.
    pub panicked: u64,
    /// Times the core slept in the kernel.
    pub parks: u64,
    /// Tasks that other threads woke, or let go of.
    pub remote_wakes: u64,
    /// Messages from other threads that were run.
    pub messages: u64,
    /// What I/O goes through.
    pub reactor: ReactorKind,
    /// System calls made to submit I/O or to ask and wait for events: on the io_uring, or
    /// `epoll_wait` and `ppoll`.
    pub ring_enters: u64,
    /// Operations of the io_uring that completed, or descriptors that epoll found ready.
    pub completions: u64,
    /// Events that pollers handled.
    pub poller_events: u64,
    /// Timers that fired.
    pub timers_fired: u64,
    /// Polls of a task that took longer than
    /// [`CoreConfig::stall_after`](crate::rt::CoreConfig::stall_after).
    pub stalls: u64,
    /// Time in turns that did something.
    pub busy: Duration,
    /// Time in turns that found nothing to do.
    pub spinning: Duration,
    /// Time asleep in the kernel, and in the same call handing over what tasks asked of it.
    pub asleep: Duration,
}

/// How long things took on a core, in nanoseconds.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CoreLatencies {
    /// A poll of a task: the first of each turn.
    pub poll: Histogram,
    /// From the time a task is woken to its poll, rounded up to whole turns. One task at a time is
    /// followed.
    pub queue_wait: Histogram,
    /// A turn that did something.
    pub turn: Histogram,
}

/// The counters as the loop keeps them.
#[derive(Default)]
pub(in crate::rt) struct Counters {
    pub(in crate::rt) spawned: Cell<u64>,
    pub(in crate::rt) ended: Cell<u64>,
    pub(in crate::rt) panicked: Cell<u64>,
    pub(in crate::rt) parks: Cell<u64>,
    pub(in crate::rt) remote_wakes: Cell<u64>,
    pub(in crate::rt) messages: Cell<u64>,
    pub(in crate::rt) completions: Cell<u64>,
    pub(in crate::rt) poller_events: Cell<u64>,
    pub(in crate::rt) timers_fired: Cell<u64>,
    pub(in crate::rt) stalls: Cell<u64>,
    pub(in crate::rt) busy: Cell<Duration>,
    pub(in crate::rt) spinning: Cell<Duration>,
    pub(in crate::rt) asleep: Cell<Duration>,
    pub(in crate::rt) latencies: RefCell<CoreLatencies>,
}

/// `time` in nanoseconds.
pub(in crate::rt) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// `time` in microseconds.
pub(in crate::rt) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// `time` in milliseconds.
pub(in crate::rt) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Adds to a counter.
pub(in crate::rt) fn add(counter: &Cell<u64>, count: usize) {
    counter.set(counter.get() + count as u64);
}

/// Adds to a time.
pub(in crate::rt) fn add_time(counter: &Cell<Duration>, time: Duration) {
    counter.set(counter.get().saturating_add(time));
}
