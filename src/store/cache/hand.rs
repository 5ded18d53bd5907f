//! Which pages are evicted: a hand that goes round over the mapping, with second chances.
//!
//! Each node has a count of touches, 0 to 3, or is *just loaded*:
//!
//! | event | count |
//! |---|---|
//! | a read or write loads the page for itself | just loaded |
//! | a scan or a prefetch loads it | 0: it is on probation |
//! | a new page, of a split | [`NEW`] |
//! | a new node of a page takes the old one's place | as before |
//! | an operation finds its key's leaf ([`touched_again`]); scans do not count | just loaded → 0; else one more, 3 at most |
//! | the hand comes by | just loaded → 0; 1 to 3 → one less; 0 → evicted, if the page is clean |
//!
//! So a page that one operation or one scan needed goes when the hand comes by next, as in the
//! small queue of S3-FIFO (Yang et al., SOSP 2023), and one that was used again stays for more
//! rounds. The hand goes by page ids and not by age: nothing is linked, and a touch writes one byte
//! of a line that its reader has, three times at most between two visits.
//!
//! **Dirty** pages whose time has come stay, with 0, until the keeper has flushed them; the hand
//! says which they are.
//!
//! **Inner pages** are not touched: their children speak for them. One is evicted if none of its
//! children is in memory. One that has such a child gets a 1, so it is asked every other round.
//! They go after their leaves, level by level, and a leaf in memory can be found without a load.
//! (A child that is loaded meanwhile costs another load, and nothing else.) Roots that are in use
//! stay as they have children; what must stay anyway is for [`Sweep::look`] to leave out.
//!
//! **Cores** share one round: each takes the next frame of the mapping when it is through with its
//! own, so two never work on the same entries, and the frames of a core that sleeps are not left
//! out.
//!
//! A step costs [`STEP_COST`] at most, in units of some 20 ns.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::Arc;

use crate::store::atomic::{AtomicU32, Ordering};
use crate::store::word::PageId;

/// The most that is counted.
const MOST: u8 = 3;
/// A page that an operation loaded for itself. That it finds it then says nothing.
pub(in crate::store) const JUST_LOADED: u8 = 4;
/// A page that a scan loaded.
pub(in crate::store) const ON_PROBATION: u8 = 0;
/// A page that did not exist before.
pub(in crate::store) const NEW: u8 = 1;

/// A step ends when it has cost this much.
const STEP_COST: u32 = 2048;
/// An entry without a node: half of a line that was likely prefetched.
const ENTRY_COST: u32 = 1;
/// A node's header is a line of memory.
const NODE_COST: u32 = 8;
/// The entries of an inner page's children, which lie anywhere.
const CHILDREN_COST: u32 = 256;
/// A lock, a compare-and-swap, a retirement and its part of a collection.
const EVICTION_COST: u32 = 32;

/// A page's touches after one more.
pub(in crate::store) fn touched_again(touched: u8) -> u8 {
    if touched == JUST_LOADED { 0 } else { (touched + 1).min(MOST) }
}

/// A page in memory, as the hand looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Resident {
    /// Its touches.
    pub(in crate::store) touched: u8,
    /// 0 for a leaf.
    pub(in crate::store) level: u8,
}

/// What the hand finds in an entry of the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Look {
    /// The whole frame is not in memory.
    NoFrame,
    /// The page is not in memory, or is not to be evicted.
    Nothing,
    Resident(Resident),
}

/// What became of a page that was to be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Attempt {
    /// It is cold, and its node of so many bytes is retired.
    Evicted { bytes: u64 },
    /// It has changes that are in no durable image.
    Dirty,
    /// It was evicted, removed or changed by somebody else.
    Changed,
}

/// What the hand goes over: the entries of the mapping.
pub(in crate::store) trait Sweep {
    /// Pages of a frame: neighbouring ids, the first of which is a multiple of this.
    const FRAME_PAGES: u64;

    /// Frames that there are; more over time.
    fn frames(&self) -> u32;

    /// What is in the entry of a page.
    fn look(&self, page: PageId) -> Look;

    /// Sets the touches of a page, if it is in memory. Touches that come in between may be lost.
    fn set_touched(&self, page: PageId, touched: u8);

    /// Whether a child of an inner page is in memory.
    fn has_child_in_memory(&self, page: PageId) -> bool;

    /// Evicts a page if it is clean.
    fn try_evict(&self, page: PageId) -> Attempt;
}

/// The round that the hands of all cores go.
#[derive(Debug, Default)]
pub(in crate::store) struct Round {
    next_frame: AtomicU32,
}

impl Round {
    /// The next frame that nobody has taken in this round.
    fn take(&self, frames: u32) -> Option<u32> {
        let after = |frame: u32| Some(if frame + 1 < frames { frame + 1 } else { 0 });
        let taken = self.next_frame.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        taken.ok().filter(|frame| *frame < frames)
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Stepped {
    /// Pages that were evicted.
    pub(in crate::store) pages: u32,
    /// The bytes of their nodes.
    pub(in crate::store) bytes: u64,
}

/// One core's hand.
#[derive(Debug)]
pub(in crate::store) struct Hand {
    round: Arc<Round>,
    /// The next page to look at, and where its frame ends.
    pages: Cell<(u64, u64)>,
}

impl Hand {
    /// A hand that goes this round with others.
    pub(in crate::store) fn new(round: Arc<Round>) -> Self {
        Self { round, pages: Cell::new((0, 0)) }
    }

    /// Goes on until `wanted_bytes` are evicted, but for a bounded time. `dirty` is called with
    /// pages that would have been evicted if they were clean.
    pub(in crate::store) fn step<S: Sweep>(
        &self,
        sweep: &S,
        wanted_bytes: u64,
        mut dirty: impl FnMut(PageId),
    ) -> Stepped {
        let mut stepped = Stepped::default();
        let mut cost = 0;
        while stepped.bytes < wanted_bytes && cost < STEP_COST {
            cost += ENTRY_COST;
            let Some(page) = self.next(sweep) else { continue };
            let resident = match sweep.look(page) {
                Look::NoFrame => {
                    self.pages.set((0, 0));
                    continue;
                }
                Look::Nothing => continue,
                Look::Resident(resident) => resident,
            };
            cost += NODE_COST;
            if resident.touched > 0 {
                let lowered = if resident.touched == JUST_LOADED { 0 } else { resident.touched - 1 };
                sweep.set_touched(page, lowered);
                continue;
            }
            if resident.level > 0 {
                cost += CHILDREN_COST;
                if sweep.has_child_in_memory(page) {
                    sweep.set_touched(page, 1);
                    continue;
                }
            }
            cost += EVICTION_COST;
            match sweep.try_evict(page) {
                Attempt::Evicted { bytes } => {
                    stepped.pages += 1;
                    stepped.bytes += bytes;
                }
                Attempt::Dirty => dirty(page),
                Attempt::Changed => {}
            }
        }
        stepped
    }

    /// The next page to look at, if there is one at this id.
    fn next<S: Sweep>(&self, sweep: &S) -> Option<PageId> {
        let (mut at, mut end) = self.pages.get();
        if at == end {
            at = u64::from(self.round.take(sweep.frames())?) * S::FRAME_PAGES;
            end = at + S::FRAME_PAGES;
        }
        self.pages.set((at + 1, end));
        PageId::new(at)
    }
}
