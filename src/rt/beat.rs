//! What a core shows of itself to a watchdog on another thread, and to its own stall detector.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};

use super::task::Site;

/// Polls that are remembered. A power of two, and as many as a turn runs.
const REMEMBERED: usize = 256;

/// What a core is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
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
pub(super) struct Beat {
    core: String,
    phase: AtomicU8,
    turns: AtomicU64,
    polls: AtomicU64,
    /// Where the tasks of the last polls come from; the poll number *n* is at *n* modulo the length.
    sites: [AtomicPtr<Site>; REMEMBERED],
}

impl Beat {
    /// Of a core on the calling thread.
    pub(super) fn new() -> Self {
        Self {
            core: std::thread::current().name().unwrap_or("(unnamed)").to_owned(),
            phase: AtomicU8::new(Phase::Outside as u8),
            turns: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            sites: [const { AtomicPtr::new(ptr::null_mut()) }; REMEMBERED],
        }
    }

    /// The name of the thread that made the core.
    pub(super) fn core(&self) -> &str {
        &self.core
    }

    #[inline]
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Outside,
            1 => Phase::Tasks,
            2 => Phase::Devices,
            _ => Phase::Parked,
        }
    }

    #[inline]
    pub(super) fn turn(&self) {
        // The core alone writes: no read-modify-write is needed.
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(super) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// A poll of a task of `site` begins.
    #[inline]
    pub(super) fn poll(&self, site: &'static Site) {
        let number = self.polls.load(Ordering::Relaxed);
        self.sites[slot(number)].store(ptr::from_ref(site).cast_mut(), Ordering::Relaxed);
        self.polls.store(number + 1, Ordering::Release);
    }

    /// Where the task comes from that is being polled, if one is.
    pub(super) fn polling(&self) -> Option<&'static Site> {
        if self.phase() == Phase::Tasks { self.site(self.polls().wrapping_sub(1)) } else { None }
    }

    /// How many polls began.
    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Acquire)
    }

    /// Where the task of the `number`th poll comes from; `None` if there was none yet.
    pub(super) fn site(&self, number: u64) -> Option<&'static Site> {
        let site = self.sites[slot(number)].load(Ordering::Relaxed);
        // SAFETY: every pointer in the array but null was made from a `&'static Site`.
        unsafe { site.as_ref() }
    }
}

fn slot(number: u64) -> usize {
    usize::try_from(number % REMEMBERED as u64).unwrap_or(0)
}
