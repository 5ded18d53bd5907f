//! The counters of a core by name: one list for the protocol, the Prometheus endpoint and `boson
//! top`.

use std::time::Duration;

use crate::rt::record::CoreStats;

/// A counter of a core.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// The field of [`CoreStats`].
    pub name: &'static str,
    /// A sentence about it.
    pub help: &'static str,
    /// What its value means.
    pub kind: CounterKind,
    get: fn(&CoreStats) -> u64,
    set: fn(&mut CoreStats, u64),
}

/// What the value of a [`Counter`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CounterKind {
    /// How often something happened since the core was made.
    Total,
    /// Nanoseconds since the core was made.
    TotalNanos,
    /// How many there are now.
    Current,
}

impl Counter {
    /// Its value in `stats`.
    pub fn get(&self, stats: &CoreStats) -> u64 {
        (self.get)(stats)
    }

    pub(super) fn set(&self, stats: &mut CoreStats, value: u64) {
        (self.set)(stats, value);
    }
}

macro_rules! count {
    ($field:ident, $kind:ident, $help:literal) => {
        Counter {
            name: stringify!($field),
            help: $help,
            kind: CounterKind::$kind,
            get: |stats| u64::try_from(stats.$field).unwrap_or(u64::MAX),
            set: |stats, value| stats.$field = value.try_into().unwrap_or_default(),
        }
    };
}

macro_rules! time {
    ($field:ident, $help:literal) => {
        Counter {
            name: stringify!($field),
            help: $help,
            kind: CounterKind::TotalNanos,
            get: |stats| u64::try_from(stats.$field.as_nanos()).unwrap_or(u64::MAX),
            set: |stats, value| stats.$field = Duration::from_nanos(value),
        }
    };
}

/// Every counter of a core.
pub const COUNTERS: &[Counter] = &[
    count!(turns, Total, "Turns of the core's loop."),
    count!(polls, Total, "Task polls."),
    count!(tasks, Current, "Tasks that live."),
    count!(spawned, Total, "Tasks that were spawned."),
    count!(ended, Total, "Tasks that ended, in whatever way."),
    count!(panicked, Total, "Tasks that ended with a panic."),
    count!(parks, Total, "Times the core slept in the kernel."),
    count!(remote_wakes, Total, "Tasks that other threads woke."),
    count!(messages, Total, "Messages from other threads that were run."),
    count!(
        ring_enters,
        Total,
        "System calls made to submit I/O or to wait for events, on the io_uring or epoll."
    ),
    count!(
        completions,
        Total,
        "Operations of the io_uring that completed, or descriptors that epoll found ready."
    ),
    count!(poller_events, Total, "Events that pollers handled."),
    count!(timers_fired, Total, "Timers that fired."),
    count!(stalls, Total, "Task polls that took longer than the core's limit."),
    time!(busy, "Time in turns that did something."),
    time!(spinning, "Time in turns that found nothing to do."),
    time!(asleep, "Time asleep in the kernel."),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every counter reads and writes a field of its own.
    #[test]
    fn values_come_back_under_their_names() {
        let mut stats = CoreStats::default();
        for (value, counter) in (1..).zip(COUNTERS) {
            counter.set(&mut stats, value);
        }
        for (value, counter) in (1..).zip(COUNTERS) {
            assert_eq!(counter.get(&stats), value, "{}", counter.name);
        }
        let shown = format!("{stats:?}");
        // A field that is not in the list would be zero.
        assert!(!shown.contains(": 0,") && !shown.contains(": 0ns"), "{shown}");
    }
}
