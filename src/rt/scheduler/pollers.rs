//! The pollers of a core.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::error::Result;
use crate::reactor::Reactor;
use crate::rt::poll::{Park, Poller};
use crate::rt::record::{PollerStats, add};
use crate::time::Instant;

/// Events that a poller may handle per turn unless its registration says otherwise.
const EVENTS_PER_POLL: usize = 64;

pub(super) type SharedPoller = Rc<RefCell<dyn Poller>>;

#[derive(Clone)]
struct PollerEntry {
    id: u64,
    budget: usize,
    poller: SharedPoller,
    name: &'static str,
    events: Cell<u64>,
    exhausted: Cell<u64>,
}

#[derive(Default)]
pub(super) struct Pollers {
    entries: RefCell<Vec<PollerEntry>>,
    next_id: Cell<u64>,
    /// Which of the entries kept the core from sleeping last time.
    sleepless: Cell<usize>,
}

impl Pollers {
    pub(super) fn add(&self, poller: SharedPoller, budget: Option<usize>) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let budget = budget.unwrap_or(EVENTS_PER_POLL).max(1);
        // One that is being polled registers itself elsewhere too: it is asked for its name another
        // time.
        let name = poller.try_borrow().map_or("poller", |poller| poller.name());
        let (events, exhausted) = Default::default();
        self.entries.borrow_mut().push(PollerEntry { id, budget, poller, name, events, exhausted });
        id
    }

    pub(super) fn remove(&self, id: u64, reactor: &Reactor) {
        let mut entries = self.entries.borrow_mut();
        if let Some(at) = entries.iter().position(|entry| entry.id == id) {
            let removed = entries.remove(at);
            drop(entries);
            // It may be about to close its device.
            reactor.unwatch_all();
            drop(removed);
        }
    }

    pub(super) fn clear(&self) {
        let entries = self.entries.take();
        drop(entries);
    }

    /// By index, with a borrow per step: what one poller completes may add or remove another.
    fn get(&self, at: usize) -> Option<PollerEntry> {
        self.entries.borrow().get(at).cloned()
    }

    /// Gives each its budget of events; returns how many they handled.
    pub(super) fn poll(&self, now: Instant) -> usize {
        let mut worked = 0;
        let mut at = 0;
        while let Some(entry) = self.get(at) {
            let events = entry.poller.borrow_mut().poll(now, entry.budget);
            if events > 0 {
                self.count(at, &entry, events);
            }
            worked += events;
            at += 1;
        }
        worked
    }

    fn count(&self, at: usize, polled: &PollerEntry, events: usize) {
        let entries = self.entries.borrow();
        // It may have been removed by what it completed.
        let Some(entry) = entries.get(at).filter(|entry| entry.id == polled.id) else { return };
        add(&entry.events, events);
        add(&entry.exhausted, usize::from(events >= entry.budget));
    }

    pub(super) fn stats(&self) -> Vec<PollerStats> {
        let of = |entry: &PollerEntry| PollerStats {
            name: entry.name,
            budget: entry.budget,
            events: entry.events.get(),
            exhausted: entry.exhausted.get(),
        };
        self.entries.borrow().iter().map(of).collect()
    }

    /// Asks each what the core may do; false if it must go on polling. `until` becomes the earliest
    /// deadline.
    ///
    /// The poller that kept the core awake last time is asked first: the others may prepare their
    /// devices for a sleep, which is wasted as long as that one says the same.
    pub(super) fn park(&self, now: Instant, reactor: &Reactor, until: &mut Option<Instant>) -> Result<bool> {
        let mut earlier = |deadline: Option<Instant>| {
            *until = match (*until, deadline) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        let first = self.sleepless.get();
        for at in std::iter::once(first).chain((0..).filter(|at| *at != first)) {
            let Some(entry) = self.get(at) else {
                // The first may have been removed since.
                if at == first { continue } else { break }
            };
            let mut poller = entry.poller.borrow_mut();
            earlier(poller.next_deadline());
            match poller.park() {
                Park::Idle => {}
                Park::Wake(descriptor) => reactor.wake_when_readable(descriptor)?,
                Park::Nap(longest) => earlier(Some(now + longest)),
                Park::Spin => {
                    self.sleepless.set(at);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
