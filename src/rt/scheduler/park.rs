//! How a core that has nothing to do goes to sleep in the kernel.

use std::time::Duration;

use super::state::CoreState;
use crate::error::Result;
use crate::rt::record::{self, Phase};
use crate::time::Instant;
use crate::user_code::contain;

impl CoreState {
    /// Whether only a system call brings on what tasks asked of the kernel.
    pub(in crate::rt) fn needs_kernel(&self) -> bool {
        self.io.attachment.reactor.needs_kernel()
    }

    /// Sleeps in the kernel until something may have happened. What tasks asked of the kernel is
    /// handed over with the same call, or by itself if the core may not sleep.
    pub(in crate::rt) fn park(&self, now: Instant) -> Result<()> {
        if !self.try_park(now)? && self.needs_kernel() {
            let completions = self.io.attachment.reactor.poll(now)?;
            record::add(&self.record.counters.completions, completions);
        }
        Ok(())
    }

    /// Returns whether the core slept.
    fn try_park(&self, now: Instant) -> Result<bool> {
        let Some(until) = self.may_park(now)? else { return Ok(false) };
        // The subscriber is user code and may wake tasks of this core: before the queues are
        // looked at.
        trace_sleep(until.map(|until| until - now));
        if !self.announce_park() || !self.local.inbox.look_again() {
            self.local.inbox.unpark();
            return Ok(false);
        }
        record::add(&self.record.counters.parks, 1);
        // Also while the kernel takes what was queued: the watchdog cannot tell that from a sleep.
        self.beat.enter(Phase::Parked);
        let waited = self.io.attachment.reactor.wait(now, until);
        self.beat.enter(Phase::Devices);
        let woke = self.read_clock();
        record::add_time(&self.record.counters.asleep, woke - now);
        self.record.accounted.set(woke);
        self.local.inbox.unpark();
        record::add(&self.record.counters.completions, waited?);
        trace_wake(woke - now);
        Ok(true)
    }

    /// Asks timers and pollers whether the core may sleep at `now`, and until when; `None` if it
    /// must go on polling.
    pub(super) fn may_park(&self, now: Instant) -> Result<Option<Option<Instant>>> {
        if self.io.attachment.reactor.must_be_polled() {
            return Ok(None);
        }
        let mut until = self.timers.wheel.borrow().next_deadline();
        let may = self.io.pollers.park(now, &self.io.attachment.reactor, &mut until)?;
        Ok((may && until.is_none_or(|until| until > now)).then_some(until))
    }

    /// Announces to other threads that the core is about to sleep, unless a poller woke tasks of
    /// this core when it was asked.
    pub(super) fn announce_park(&self) -> bool {
        let idle = self.local.queues.is_empty();
        if idle {
            self.local.inbox.announce();
        }
        idle
    }
}

#[inline(never)]
fn trace_sleep(at_most: Option<Duration>) {
    if tracing::enabled!(target: "boson::rt", tracing::Level::TRACE) {
        contain(|| {
            tracing::trace!(target: "boson::rt", at_most_us = at_most.map(record::micros), "sleeping");
        });
    }
}

#[inline(never)]
fn trace_wake(asleep: Duration) {
    if tracing::enabled!(target: "boson::rt", tracing::Level::TRACE) {
        contain(|| tracing::trace!(target: "boson::rt", asleep_us = record::micros(asleep), "awake"));
    }
}
