//! The order of writes: one counter, and what each core says about its place in it.
//!
//! # Numbers
//!
//! A write *draws* its number with one `fetch_add`, *publishes* what it wrote (the slot in its
//! leaf, the record in its core's log buffer) and then says that it has. In between, the core's
//! `active` word holds a number that is not above the one it drew. So everything below
//! [`Order::stable`], the smallest of the counter and all active words, is published:
//!
//! | step | core | | `stable()` |
//! |---|---|---|---|
//! | 1 | `active` := the number after its last draw (Release) | a | load `counter` (Acquire) |
//! | 2 | *n* := `counter.fetch_add(1)` (`AcqRel`) | b | load each `active` (Acquire) |
//! | 3 | `active` := *n* (Release) | | |
//! | 4 | publish | | |
//! | 5 | `active` := idle (Release) | | |
//!
//! If *a* counts *n*, it reads from step 2 or from a later `fetch_add`, and each of these continues
//! the release sequence of those before. So *b* sees step 1 of *n* or something later. Steps 1 and
//! 3 hold `stable()` at *n* or below. Step 5, or any later store of that core, comes with what was
//! published, because each of these stores is a Release. (Step 1 as well: a later store by the same
//! thread does not continue the release sequence of an earlier one.)
//!
//! Step 1 does not load the counter. The load would fetch the contended line once for reading, and
//! step 2 once more for writing; and any lower bound of *n* will do. After a long pause step 1
//! states a very old number, which holds back `stable()` until step 3, some 50 ns.
//!
//! So `stable()` may go back for a moment. What was below it once stays published.
//!
//! # Snapshots
//!
//! A snapshot at S sees the numbers below S. [`Order::announce`] stores a lower bound of S in the
//! core's `lower`, then loads S. [`Order::horizon`] loads the counter, then every `lower`. A
//! sequentially consistent fence on each side, in the middle, makes sure that either the horizon
//! sees the announcement, or S is loaded after the horizon's counter and not smaller. So versions
//! *below* the horizon may collapse to the newest of them, whatever snapshots begin meanwhile.
//! (A version *at* the horizon S must stay: a snapshot at S does not see it.)

use super::defect::WalDefect;
use crate::store::atomic::{AtomicU64, Ordering, fence};

/// Nothing is being written, or read, by this core.
const IDLE: u64 = u64::MAX;

/// A value on cache lines of its own: two, because processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Line<T>(pub(super) T);

/// What a core says to the others. Written by that core alone.
#[derive(Debug)]
struct CoreSlot {
    active: Line<AtomicU64>,
    /// Not on the line of `active`: that one changes with each write.
    lower: Line<AtomicU64>,
}

/// The order of writes, shared by all cores of a store.
#[derive(Debug)]
pub(in crate::store) struct Order {
    counter: Line<AtomicU64>,
    cores: Box<[CoreSlot]>,
    defect: Option<WalDefect>,
}

impl Order {
    /// An order for `cores` cores, whose first write gets the number `first`.
    pub(super) fn new(first: u64, cores: usize, defect: Option<WalDefect>) -> Self {
        let slot = || CoreSlot { active: Line(AtomicU64::new(IDLE)), lower: Line(AtomicU64::new(IDLE)) };
        Self { counter: Line(AtomicU64::new(first)), cores: (0..cores).map(|_| slot()).collect(), defect }
    }

    /// The number that the next write gets. Acquire: who sees a number counted also sees that its
    /// core was active.
    pub(in crate::store) fn next(&self) -> u64 {
        self.counter.0.load(Ordering::Acquire)
    }

    /// Every number below this one is published: its slot is live and its record is in a log
    /// buffer, and the caller sees both. It may be smaller than at an earlier call.
    pub(in crate::store) fn stable(&self) -> u64 {
        let drawn = self.next();
        if self.defect == Some(WalDefect::CutTooLate) {
            return drawn;
        }
        self.cores.iter().fold(drawn, |stable, core| stable.min(core.active.0.load(Ordering::Acquire)))
    }

    /// Versions below this number may collapse to the newest of them: no snapshot that is alive, or
    /// begins from now on, tells them apart.
    pub(in crate::store) fn horizon(&self) -> u64 {
        let drawn = self.next();
        if self.defect == Some(WalDefect::HorizonIgnored) {
            return drawn;
        }
        fence(Ordering::SeqCst);
        self.cores.iter().fold(drawn, |horizon, core| horizon.min(core.lower.0.load(Ordering::Acquire)))
    }

    /// Asks for the counter's cache line, to be written, some 60 ns before a draw. Only a hint: it
    /// hides most of what the line takes to come from another core (`docs/experiments`).
    pub(super) fn prefetch(&self) {
        #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle))))]
        // SAFETY: a prefetch reads nothing and faults at no address; every x86-64 processor takes
        // the instruction, some as one that does nothing.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_ET0 }>(
                (&raw const self.counter.0).cast::<i8>(),
            );
        }
    }

    /// Draws `count` numbers in a row on `core` and returns the first. `at_least` is a lower bound
    /// of it, the number after the core's last draw. Until [`Order::published`] or [`Order::idle`]
    /// `stable()` does not pass the first. Called by the core itself, and not again before `idle`.
    pub(super) fn draw(&self, core: usize, at_least: u64, count: u64) -> u64 {
        let active = &self.cores[core].active.0;
        active.store(at_least, Ordering::Release);
        let number = self.counter.0.fetch_add(count, Ordering::AcqRel);
        active.store(number, Ordering::Release);
        number
    }

    /// Says that the numbers below `number` that `core` drew are published, and that `number`,
    /// which it drew as well, is not.
    pub(super) fn published(&self, core: usize, number: u64) {
        self.cores[core].active.0.store(number, Ordering::Release);
    }

    /// Says that all numbers that `core` drew are published.
    pub(super) fn idle(&self, core: usize) {
        self.cores[core].active.0.store(IDLE, Ordering::Release);
    }

    /// Announces a snapshot on `core` and returns its number S: it sees what is below S, once
    /// [`Order::stable`] has reached S. `lower` is the bound of the core's oldest live snapshot, if
    /// it has one. Returns the bound that is announced, too, for [`Order::withdraw`].
    pub(super) fn announce(&self, core: usize, lower: Option<u64>) -> (u64, u64) {
        let bound = self.counter.0.load(Ordering::Relaxed);
        if lower.is_none() {
            // Release orders it behind the reads of snapshots that ended before.
            self.cores[core].lower.0.store(bound, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        (bound, self.next())
    }

    /// Says that the oldest live snapshot of `core` has the bound `lower`, or that it has none.
    /// Release: what ended snapshots read happens before whoever sees this.
    pub(super) fn withdraw(&self, core: usize, lower: Option<u64>) {
        self.cores[core].lower.0.store(lower.unwrap_or(IDLE), Ordering::Release);
    }
}
