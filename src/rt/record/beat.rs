//! What a core shows of itself to a watchdog on another thread, and to its own stall detector.

use std::ptr;

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};

use super::site::Site;

/// Polls that are remembered. A power of two, and as many as a turn runs; in a model few enough to
/// come round.
const REMEMBERED: usize = if cfg!(loom) { 2 } else { 512 };

/// What a core is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Not in `block_on`.
    Outside = 0,
    /// Running tasks.
    Tasks = 1,
    /// Polling devices, timers and the inbox.
    Devices = 2,
    /// Asleep in the kernel.
    Parked = 3,
}

/// Written by the core alone, with plain stores; read by anybody.
#[derive(Debug)]
pub(crate) struct Beat {
    core: String,
    phase: AtomicU8,
    turns: AtomicU64,
    polls: AtomicU64,
    /// Where the tasks of the last polls come from; the poll number *n* is at *n* modulo the
    /// length.
    sites: [AtomicPtr<Site>; REMEMBERED],
}

impl Beat {
    /// Of a core on the calling thread.
    pub(crate) fn new() -> Self {
        Self {
            core: std::thread::current().name().unwrap_or("(unnamed)").to_owned(),
            phase: AtomicU8::new(Phase::Outside as u8),
            turns: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            sites: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
        }
    }

    /// The name of the thread that made the core.
    pub(crate) fn core(&self) -> &str {
        &self.core
    }

    #[inline]
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Outside,
            1 => Phase::Tasks,
            2 => Phase::Devices,
            _ => Phase::Parked,
        }
    }

    #[inline]
    pub(crate) fn turn(&self) {
        // The core alone writes: no read-modify-write is needed.
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// A poll of a task of `site` begins.
    #[inline]
    pub(crate) fn poll(&self, site: &'static Site) {
        self.poll_after(self.polls.load(Ordering::Relaxed), site);
    }

    /// The same for a caller that knows how many began before: the `number` that
    /// [`polls`](Self::polls) gives.
    #[inline]
    pub(crate) fn poll_after(&self, number: u64, site: &'static Site) {
        self.sites[slot(number)].store(ptr::from_ref(site).cast_mut(), Ordering::Relaxed);
        self.polls.store(number + 1, Ordering::Release);
    }

    /// Where the task comes from that is being polled, if one is.
    pub(crate) fn polling(&self) -> Option<&'static Site> {
        if self.phase() == Phase::Tasks { self.site(self.polls().wrapping_sub(1)) } else { None }
    }

    /// How many polls began.
    #[inline]
    pub(crate) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Acquire)
    }

    /// Where the task of the `number`th poll comes from; `None` if there was none yet.
    pub(crate) fn site(&self, number: u64) -> Option<&'static Site> {
        let site = self.sites[slot(number)].load(Ordering::Relaxed);
        // SAFETY: every pointer in the array but null was made from a `&'static Site`.
        unsafe { site.as_ref() }
    }
}

fn slot(number: u64) -> usize {
    usize::try_from(number % REMEMBERED as u64).unwrap_or(0)
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::panic::Location;

    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    static SITES: [Site; 3] = [site("first"), site("second"), site("third")];

    const fn site(name: &'static str) -> Site {
        Site { name, is_named: true, created_at: Location::caller() }
    }

    /// A thread that reads how many polls began finds where the last of them comes from: that one,
    /// or a later one at its place.
    #[test]
    fn a_poll_that_was_counted_has_a_site() {
        loom::model(|| {
            let beat = Arc::new(Beat::new());
            let watchdog = {
                let beat = Arc::clone(&beat);
                thread::spawn(move || {
                    let began = beat.polls();
                    let Some(last) = began.checked_sub(1) else { return };
                    let found = beat.site(last).expect("it was written before it was counted");
                    let at = usize::try_from(last).expect("three at most");
                    let may_be = SITES.iter().skip(at).step_by(REMEMBERED);
                    assert!(may_be.into_iter().any(|site| ptr::eq(site, found)), "{} at {at}", found.name);
                })
            };
            beat.enter(Phase::Tasks);
            for site in &SITES {
                beat.poll(site);
            }
            watchdog.join().expect("no panic");
        });
    }
}
