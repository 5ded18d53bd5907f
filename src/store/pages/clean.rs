//! Which segment to clean next, and how fast (design, section 4.5).
//!
//! **Victims** by declining cost (Lomet and Luo, "Efficiently Reclaiming Space in a Log Structured
//! Store", 5.1.3): least (live / free)² / (pages · (now − up2)). Segments lie in 64 buckets of live
//! / free, each in the order of `up2`. Within a bucket the fill is nearly the same, so the oldest
//! are the best but for their number of pages: the 8 oldest of each bucket are looked at, 512 in
//! all. When segments are short, it is the one with the most garbage, whatever its age.
//!
//! **Pace.** Moving the live share 1 − e of a victim makes its garbage share e free. So for each
//! byte that is flushed, (1 − e) / e bytes are to be moved, from when free segments fall below an
//! eighth; up to twice that when they fall to the reserve. What is owed is worked off in steps.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::segment::Segment;

const BUCKETS: u64 = 64;
/// How many of a bucket are looked at.
const OLDEST: usize = 8;
/// How many are looked at in one call.
pub(in crate::store) const MAX_CANDIDATES: usize = 512;
/// The most that one step of cleaning moves.
pub(in crate::store) const STEP_BYTES: u64 = 128 << 10;
pub(in crate::store) const STEP_PAGES: u32 = 16;

/// What is known of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    live: u32,
    pages: u32,
    up2: u32,
}

/// The sealed segments, by fill and age.
#[derive(Debug)]
pub(in crate::store) struct Victims {
    /// Granules of a segment that pages can have.
    room: u32,
    /// Per bucket, `up2` and number of each.
    buckets: Vec<BTreeSet<(u32, u32)>>,
    candidates: BTreeMap<u32, Candidate>,
}

impl Victims {
    /// For segments with room for so many granules of pages.
    pub(in crate::store) fn new(room: u32) -> Self {
        Self {
            room: room.max(1),
            buckets: (0..BUCKETS).map(|_| BTreeSet::new()).collect(),
            candidates: BTreeMap::new(),
        }
    }

    /// By live / free, four buckets to an octave, from 1/256 on: what is in one bucket differs by a
    /// quarter at most, however empty or full.
    fn bucket(&self, live: u32) -> usize {
        let live = live.min(self.room);
        let ratio = (u64::from(live) << 8) / u64::from((self.room - live).max(1));
        let ratio = ratio.clamp(1, (1 << 16) - 1);
        let octave = ratio.ilog2();
        let quarter = if octave < 2 { 0 } else { ratio >> (octave - 2) & 3 };
        octave as usize * 4 + usize::try_from(quarter).expect("below 4")
    }

    /// A segment was sealed, or what lives in it has changed, or a bundle in it was settled. While
    /// one is under way it is no victim: cleaning could not empty it.
    pub(in crate::store) fn update(&mut self, number: u32, segment: &Segment) {
        if !segment.can_be_emptied() {
            self.remove(number);
            return;
        }
        let live = segment.live.saturating_add(segment.meta);
        // A page of the map or the table is not counted; it costs as much as one of 65 granules.
        let pages = segment.pages.saturating_add(segment.meta.div_ceil(65));
        let new = Candidate { live, pages, up2: segment.up2 };
        let old = self.candidates.insert(number, new);
        if old.is_some_and(|old| self.bucket(old.live) == self.bucket(live) && old.up2 == new.up2) {
            return;
        }
        if let Some(old) = old {
            let bucket = self.bucket(old.live);
            self.buckets[bucket].remove(&(old.up2, number));
        }
        let bucket = self.bucket(live);
        self.buckets[bucket].insert((new.up2, number));
    }

    /// A segment is being cleaned, or is empty.
    pub(in crate::store) fn remove(&mut self, number: u32) {
        if let Some(old) = self.candidates.remove(&number) {
            let bucket = self.bucket(old.live);
            self.buckets[bucket].remove(&(old.up2, number));
        }
    }

    /// The segment to clean next. `now` is in the units of `up2`. `None` if no sealed segment has
    /// garbage.
    pub(in crate::store) fn choose(&self, now: u32, is_short: bool) -> Option<u32> {
        let candidates = |number: u32| (number, self.candidates[&number]);
        if is_short {
            let bucket = self.buckets.iter().find(|bucket| !bucket.is_empty())?;
            let looked_at = bucket.iter().take(MAX_CANDIDATES).map(|&(_, number)| candidates(number));
            let (number, best) = looked_at.min_by_key(|(number, found)| (found.live, *number))?;
            return (best.live < self.room).then_some(number);
        }
        let oldest = self.buckets.iter().flat_map(|bucket| bucket.iter().take(OLDEST));
        let costs = oldest.map(|&(_, number)| candidates(number)).filter_map(|(number, found)| {
            let cost = cost(found.live, self.room, found.pages, now.saturating_sub(found.up2))?;
            Some((number, cost))
        });
        costs.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(number, _)| number)
    }

    /// The garbage of a segment and what lives in it, in granules.
    pub(in crate::store) fn shares(&self, number: u32) -> Option<(u32, u32)> {
        let found = self.candidates.get(&number)?;
        Some((self.room.saturating_sub(found.live), found.live))
    }
}

/// The declining cost; `None` if nothing would be won.
fn cost(live: u32, room: u32, pages: u32, age: u32) -> Option<f64> {
    let free = room.checked_sub(live).filter(|&free| free > 0)?;
    let fill = f64::from(live) / f64::from(free);
    // An empty segment is not for cleaning; a page that died just now is as old as one unit.
    Some(fill * fill / (f64::from(pages.max(1)) * f64::from(age.max(1))))
}

/// How much is to be cleaned.
#[derive(Debug, Default)]
pub(in crate::store) struct CleanPace {
    owed_bytes: u64,
}

/// What pace depends on: numbers of segments.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Supply {
    pub(in crate::store) all: u32,
    pub(in crate::store) free: u32,
    pub(in crate::store) reserve: u32,
}

impl Supply {
    /// Free segments below which cleaning begins.
    fn threshold(self) -> u32 {
        (self.all / 8).max(self.reserve + 1)
    }

    /// Whether the next victim is the one with the most garbage.
    pub(in crate::store) fn is_short(self) -> bool {
        self.free < self.reserve
    }
}

impl CleanPace {
    /// So many bytes were flushed; the victim has `garbage` and `live` granules. Owes nothing while
    /// there is enough that is free.
    pub(in crate::store) fn flushed(&mut self, bytes: u64, (garbage, live): (u32, u32), supply: Supply) {
        let threshold = supply.threshold();
        if supply.free >= threshold {
            self.owed_bytes = 0;
            return;
        }
        let missing = u64::from(threshold - supply.free.max(supply.reserve));
        let all = u64::from(threshold - supply.reserve);
        // Once, up to twice as much at the reserve.
        let flushed = bytes.saturating_add(bytes.saturating_mul(missing) / all);
        let live = u64::from(live);
        let moved = flushed.saturating_mul(live) / u64::from(garbage.max(1));
        // A victim without garbage would never end; 12 bytes for one is what a full store needs.
        self.owed_bytes = self.owed_bytes.saturating_add(moved.min(flushed.saturating_mul(12)));
    }

    /// How many bytes to move now: a step at most, 0 if nothing is owed.
    pub(in crate::store) fn step(&self) -> u64 {
        self.owed_bytes.min(STEP_BYTES)
    }

    /// So many bytes were moved.
    pub(in crate::store) fn moved(&mut self, bytes: u64) {
        self.owed_bytes = self.owed_bytes.saturating_sub(bytes);
    }
}
