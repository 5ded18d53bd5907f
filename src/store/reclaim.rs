//! Memory that other cores may still read is freed when they no longer can: epoch-based
//! reclamation.
//!
//! A core that reads the tree is *pinned*: it holds a [`Guard`]. A core that unlinks something
//! gives it to [`Participant::retire`]. It is freed when every core that was pinned at that moment
//! has unpinned since.
//!
//! # The protocol
//!
//! There is one global epoch, and each participant announces the epoch that it is pinned in, or
//! `IDLE`. The epoch advances from *g* to *g* + 1 only if every participant is idle or announces
//! *g*. Something is retired with the epoch *e* that is read after it was unlinked, and is free to
//! go at *e* + 2.
//!
//! | step | who | accesses |
//! |---|---|---|
//! | pin | reader | load epoch (Relaxed); store announced (Release); `fence(SeqCst)`; then it loads links |
//! | unpin | reader | store announced = `IDLE` (Release) |
//! | unlink, retire | writer | the tree's compare-and-swap; `fence(SeqCst)`; load epoch (Relaxed) |
//! | advance | any | load epoch (Acquire); `fence(SeqCst)`; load each announced (Acquire); CAS epoch (AcqRel) |
//! | free | any | load epoch (Acquire) |
//!
//! Why two epochs are enough. Let a reader announce *r* and then find a link that is unlinked and
//! retired at *e*. Its fence comes before the writer's in the one order of such fences, or it would
//! have seen the link gone. What the writer reads after its fence is therefore no older than what
//! the reader read before its own: *e* ≥ *r*. Whoever advances from *e* + 1 has read *e* + 1, which
//! the writer did not see yet, so that one's fence comes after the writer's and the reader's. It
//! sees the reader's *r*, which is not *e* + 1, and gives up; or it sees that the reader has
//! unpinned, and then (Acquire of that Release) all that the reader did comes before. One epoch
//! is not enough: the step from *e* to *e* + 1 does not wait for readers that announce *e*.
//!
//! The store of a pin is a Release although a fence follows: an advance that reads it, and not the
//! `IDLE` before it, has to come after what the earlier pin read.
//!
//! # What a sleeping task keeps
//!
//! A [`Guard`] lives between two awaits only, so a sleeping core is idle and holds up nobody. What
//! a cursor keeps across an await it holds by a count in the node itself. [`Reclaim::free`] looks
//! at that count and gives the node back while it is not zero. By then nobody can find the node any
//! more, so the count only falls; the participant asks again at a later step.
//!
//! # Steps
//!
//! A participant frees its own garbage, with its own [`Reclaim`]: memory goes to the magazines of
//! the core that frees. Every [`RETIREMENTS_PER_STEP`] retirements it takes a step
//! ([`Participant::collect`]), which frees at most [`FREES_PER_STEP`]. A step frees twice what the
//! retirements between two steps bring, so what a slow reader held up goes away again.
//!
//! # What a pin costs
//!
//! 2.5 ns by itself, of which the fence is 2. In reads of a tree it does not show: in one run,
//! reads with a pin each took 1,168 ns, and 1,163 with one pin for 256 of them (0.996) where all of
//! a million records are read, 507 and 507 ns (1.001) where 2,000 are. A second run had 0.997 and
//! 0.990. (`tests/gets.rs`; on two shared cores, with other load. The absolute figures are those of
//! a busy machine.) So every operation pins for itself, and nothing keeps a core announced between
//! them. A core that is pinned may pin again, which costs an addition.
//!
//! Between reads that depend on each other and on nothing else the fence does cost: three dependent
//! misses go from 180 to 330 ns. `tests/timing.rs` prints that; it is no read of a tree, whose
//! searches wait for what they load anyway.
//!
//! # Why not `crossbeam-epoch`
//!
//! The protocol is the same, and a pin costs the same by itself, 2.3 ns. What `crossbeam-epoch`
//! does with garbage is not what the store needs:
//!
//! - It is a queue that all threads share, of closures that any thread runs. They know nothing of
//!   the core that runs them, so they cannot use its magazines and its portion of the account.
//! - Every 128th pin collects: up to 512 closures inside a read.
//! - It counts no bytes, which evicters have to look at, and a closure cannot ask to be run again.
//! - It is checked with loom under a configuration of its own, so models of the tree would go on
//!   without it.

mod epoch;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, PoisonError};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(shuttle)]
use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(any(loom, shuttle)))]
use std::sync::{Mutex, MutexGuard};

use super::atomic::{AtomicU64, Ordering};
pub(super) use epoch::Guard;
use epoch::{Epochs, Pins};

/// A participant takes a step after this many retirements.
pub(super) const RETIREMENTS_PER_STEP: u32 = 32;
/// A step frees at most this many.
pub(super) const FREES_PER_STEP: usize = 64;
/// A step asks at most this many of those that were held when they were to be freed.
const HELD_PER_STEP: usize = 16;
/// Epochs from a retirement until nobody can read what was retired.
const GRACE: u64 = 2;

/// How a core frees what was retired.
pub(super) trait Reclaim {
    /// What is retired. Another core may free it than the one that retired it.
    type Garbage: Send;

    /// Frees `garbage`, which nobody can find any more and no guard protects.
    ///
    /// Gives it back if somebody still holds it by a count of its own: the participant asks again
    /// later. Such a count is raised under a guard (Relaxed), lowered with Release, and loaded here
    /// with Acquire. `free` may retire other garbage. It must not panic.
    fn free(&self, garbage: Self::Garbage) -> Option<Self::Garbage>;
}

/// A way to break the protocol, which tests of it have to notice. Has no effect in a build without
/// debug assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// Garbage is freed by the next step, whoever is pinned.
    FreeWithoutGrace,
    /// Garbage is freed after one epoch.
    FreeAfterOneEpoch,
    /// A pin is announced without a fence behind it.
    PinWithoutFence,
}

/// Something that was retired.
struct Retired<G> {
    garbage: G,
    bytes: u64,
    /// The epoch that was read after it was unlinked.
    epoch: u64,
}

/// The epoch and the participants of one store. Shared by its cores.
pub(super) struct Collector<G> {
    epochs: Arc<Epochs>,
    members: Mutex<Members<G>>,
    /// How many the members' `orphans` are, to look at without the lock.
    orphans: AtomicU64,
    orphan_bytes: AtomicU64,
}

/// Changes only when a participant joins or leaves, or takes over what another one left.
struct Members<G> {
    /// Whether each slot has a participant.
    joined: Box<[bool]>,
    /// Garbage of participants that have left.
    orphans: Vec<Retired<G>>,
}

impl<G: Send> Collector<G> {
    /// A collector with room for `slots` participants at a time.
    pub(super) fn new(slots: usize) -> Arc<Self> {
        Self::with_defect(slots, None)
    }

    /// The same, broken on purpose.
    pub(super) fn with_defect(slots: usize, defect: Option<Defect>) -> Arc<Self> {
        Arc::new(Self {
            epochs: Arc::new(Epochs::new(slots, defect)),
            members: Mutex::new(Members {
                joined: vec![false; slots].into_boxed_slice(),
                orphans: Vec::new(),
            }),
            orphans: AtomicU64::new(0),
            orphan_bytes: AtomicU64::new(0),
        })
    }

    /// Adds a participant, which stays with the calling core and frees with `reclaim`; `None` if
    /// all slots are taken.
    pub(super) fn join<R: Reclaim<Garbage = G>>(self: &Arc<Self>, reclaim: R) -> Option<Participant<R>> {
        let mut members = self.members();
        let slot = members.joined.iter().position(|joined| !joined)?;
        members.joined[slot] = true;
        drop(members);
        Some(Participant {
            pins: Pins::new(Arc::clone(&self.epochs), slot),
            collector: Arc::clone(self),
            reclaim,
            retired: RefCell::new(VecDeque::new()),
            held: RefCell::new(VecDeque::new()),
            since_step: Cell::new(0),
            is_stepping: Cell::new(false),
        })
    }

    /// Bytes that were retired and are not freed yet, of all participants. Exact if none of them
    /// changes it at this moment.
    pub(super) fn retired_bytes(&self) -> u64 {
        self.epochs.retired_bytes() + self.orphan_bytes.load(Ordering::Relaxed)
    }

    fn members(&self) -> MutexGuard<'_, Members<G>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves `garbage` to whoever takes a step next.
    fn leave(&self, members: &mut Members<G>, garbage: impl IntoIterator<Item = Retired<G>>) {
        members.orphans.extend(garbage);
        self.count_orphans(members);
    }

    /// Takes over at most `most` of what participants left.
    fn adopt(&self, members: &mut Members<G>, most: usize) -> Vec<Retired<G>> {
        let stays = members.orphans.len().saturating_sub(most);
        let adopted = members.orphans.split_off(stays);
        self.count_orphans(members);
        adopted
    }

    fn count_orphans(&self, members: &Members<G>) {
        let count = u64::try_from(members.orphans.len()).expect("a length fits in 64 bits");
        self.orphans.store(count, Ordering::Relaxed);
        self.orphan_bytes.store(bytes_of(&members.orphans), Ordering::Relaxed);
    }
}

fn bytes_of<G>(garbage: &[Retired<G>]) -> u64 {
    garbage.iter().map(|retired| retired.bytes).sum()
}

/// One core's part in reclamation. It stays on its core. A participant that is dropped leaves its
/// garbage to the others; the last one frees all that is left.
pub(super) struct Participant<R: Reclaim> {
    pins: Pins,
    collector: Arc<Collector<R::Garbage>>,
    reclaim: R,
    /// Oldest first.
    retired: RefCell<VecDeque<Retired<R::Garbage>>>,
    /// Past their grace, but held by a count of their own.
    held: RefCell<VecDeque<Retired<R::Garbage>>>,
    since_step: Cell<u32>,
    is_stepping: Cell<bool>,
}

impl<R: Reclaim> Participant<R> {
    /// Pins this core: what can be found from now on is not freed until the guard is dropped. May
    /// be called while the core is pinned, which costs an addition.
    pub(super) fn pin(&self) -> Guard<'_> {
        self.pins.pin()
    }

    /// The [`Reclaim`] that this participant joined with.
    pub(super) fn reclaim(&self) -> &R {
        &self.reclaim
    }

    /// Frees `garbage` of `bytes` bytes when nobody can read it any more. The caller has unlinked
    /// it: no load that starts after this call finds it.
    ///
    /// Takes a step every [`RETIREMENTS_PER_STEP`] calls.
    pub(super) fn retire(&self, garbage: R::Garbage, bytes: u64) {
        let epoch = self.pins.epoch_of_retirement();
        self.pins.add_retired_bytes(bytes);
        self.retired.borrow_mut().push_back(Retired { garbage, bytes, epoch });
        self.since_step.set(self.since_step.get() + 1);
        if self.since_step.get() >= RETIREMENTS_PER_STEP {
            self.collect();
        }
    }

    /// Bytes that this participant has retired or taken over, and not freed yet.
    pub(super) fn retired_bytes(&self) -> u64 {
        self.pins.retired_bytes()
    }

    /// Takes a step: advances the epoch if that is possible, and frees at most [`FREES_PER_STEP`].
    /// How many it freed. Three steps free what was retired before them if no core is pinned and
    /// the bound allows it.
    pub(super) fn collect(&self) -> usize {
        // `free` may retire, and so come here again.
        if self.is_stepping.replace(true) {
            return 0;
        }
        self.since_step.set(0);
        self.adopt();
        let epoch = self.pins.try_advance();
        let mut freed = 0;
        for _ in 0..FREES_PER_STEP {
            let Some(retired) = self.next_free(epoch) else { break };
            freed += usize::from(self.free(retired));
        }
        let held = self.held.borrow().len();
        for _ in 0..held.min(HELD_PER_STEP) {
            let Some(retired) = self.held.borrow_mut().pop_front() else { break };
            freed += usize::from(self.free(retired));
        }
        self.is_stepping.set(false);
        freed
    }

    /// Takes over some of what other participants left, if nobody else is at it.
    fn adopt(&self) {
        if self.collector.orphans.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Ok(mut members) = self.collector.members.try_lock() else { return };
        let adopted = self.collector.adopt(&mut members, FREES_PER_STEP);
        drop(members);
        self.pins.add_retired_bytes(bytes_of(&adopted));
        // With the epochs of their retirement: one that waits behind a younger one is freed later.
        self.retired.borrow_mut().extend(adopted);
    }

    /// The oldest garbage, if its grace is over at `epoch`.
    fn next_free(&self, epoch: u64) -> Option<Retired<R::Garbage>> {
        let grace = match () {
            () if self.pins.has(Defect::FreeWithoutGrace) => 0,
            () if self.pins.has(Defect::FreeAfterOneEpoch) => 1,
            () => GRACE,
        };
        let mut retired = self.retired.borrow_mut();
        let oldest = retired.front()?;
        if oldest.epoch + grace <= epoch { retired.pop_front() } else { None }
    }

    /// Frees what its grace is over for, unless somebody holds it. Whether it is freed.
    fn free(&self, retired: Retired<R::Garbage>) -> bool {
        let Retired { garbage, bytes, epoch } = retired;
        if let Some(garbage) = self.reclaim.free(garbage) {
            self.held.borrow_mut().push_back(Retired { garbage, bytes, epoch });
            return false;
        }
        self.pins.sub_retired_bytes(bytes);
        true
    }
}

impl<R: Reclaim> Drop for Participant<R> {
    fn drop(&mut self) {
        let own = mem::take(self.retired.get_mut()).into_iter().chain(mem::take(self.held.get_mut()));
        let mut members = self.collector.members();
        self.pins.leave();
        self.collector.leave(&mut members, own);
        members.joined[self.pins.slot()] = false;
        if members.joined.contains(&true) {
            return;
        }
        // Everybody who was pinned has left under this lock, and who joins later can find none of
        // it.
        let rest = self.collector.adopt(&mut members, usize::MAX);
        drop(members);
        let held = rest.into_iter().filter_map(|Retired { garbage, bytes, epoch }| {
            Some(Retired { garbage: self.reclaim.free(garbage)?, bytes, epoch })
        });
        let held: Vec<_> = held.collect();
        self.collector.leave(&mut self.collector.members(), held);
    }
}
