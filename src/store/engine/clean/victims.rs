//! Which segment is cleaned next, and how much of that is owed.

use std::collections::BTreeSet;

use crate::store::engine::space::account::reserve;
use crate::store::pages::{CleanPace, SegmentName, Segments, Supply, Victims};

/// What the keeper remembers of cleaning.
#[derive(Debug)]
pub(in crate::store::engine) struct Cleaner {
    victims: Victims,
    pace: CleanPace,
    current: Option<Victim>,
    /// What was left since the last checkpoint.
    left: BTreeSet<u32>,
}

/// A segment that is being cleaned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    pub(super) name: SegmentName,
    /// The granule at which the next step begins.
    pub(super) next: u32,
    pub(super) is_second_pass: bool,
}

impl Cleaner {
    pub(in crate::store::engine) fn new(segments: &Segments) -> Self {
        let geometry = segments.geometry();
        let room = geometry.segment_granules() - geometry.block_granules();
        Self { victims: Victims::new(room), pace: CleanPace::default(), current: None, left: BTreeSet::new() }
    }

    /// Takes over what changed in the table.
    pub(super) fn refresh(&mut self, segments: &mut Segments) {
        for number in segments.take_touched() {
            let segment = segments.get(number);
            // A checkpoint leaves pages of the map by itself: to wait for that is worth most of it.
            let is_map =
                segment.meta > segment.live && segment.meta > segments.geometry().segment_granules() / 2;
            if segment.is_sealed() && !is_map && !self.left.contains(&number) {
                self.victims.update(number, segment);
            } else {
                self.victims.remove(number);
            }
        }
    }

    /// So many bytes were flushed.
    pub(in crate::store::engine) fn flushed(&mut self, bytes: u64, now: u32, segments: &mut Segments) {
        self.refresh(segments);
        let supply = supply(segments);
        let Some(victim) = self.victims.choose(now, supply.is_short()) else { return };
        let shares = self.victims.shares(victim).unwrap_or((1, 0));
        self.pace.flushed(bytes, shares, supply);
    }

    /// So many bytes were moved.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.pace.moved(bytes);
    }

    /// Whether some cleaning is owed.
    pub(in crate::store::engine) fn owes(&self) -> bool {
        self.pace.step() > 0
    }

    /// The victim of the next step.
    pub(super) fn victim(&mut self, now: u32, is_short: bool, segments: &mut Segments) -> Option<Victim> {
        self.refresh(segments);
        while self.current.is_none() {
            let number = self.victims.choose(now, is_short)?;
            self.victims.remove(number);
            if segments.clean(number) {
                let name = SegmentName { segment: number, generation: segments.get(number).generation };
                let next = segments.geometry().block_granules();
                self.current = Some(Victim { name, next, is_second_pass: false });
            }
        }
        self.current
    }

    /// The step of `victim` is done; the next one begins at `next`, if there is more to read.
    pub(super) fn stepped(&mut self, victim: Victim, next: Option<u32>, segments: &mut Segments) {
        self.current = match next {
            _ if segments.get(victim.name.segment).live == 0 => None,
            Some(next) => Some(Victim { next, ..victim }),
            None if !victim.is_second_pass => {
                let next = segments.geometry().block_granules();
                Some(Victim { next, is_second_pass: true, ..victim })
            }
            None => return self.leave(victim, segments),
        };
    }

    /// `victim` stays as it is until then.
    pub(super) fn leave(&mut self, victim: Victim, segments: &mut Segments) {
        segments.leave(victim.name.segment);
        self.left.insert(victim.name.segment);
        self.current = None;
    }

    /// A checkpoint was taken: what was left may be emptied now.
    pub(in crate::store::engine) fn checkpoint_taken(&mut self, segments: &mut Segments) {
        std::mem::take(&mut self.left).into_iter().for_each(|number| segments.touch(number));
    }
}

/// Segments as [`CleanPace`] counts them; what waits for a checkpoint is as good as free.
pub(super) fn supply(segments: &Segments) -> Supply {
    // As long as the file system has room, hollow ones are as good as free.
    let is_refused = segments.is_refused();
    let geometry = if is_refused { segments.solid() } else { segments.geometry() };
    let hollow = if is_refused { 0 } else { segments.hollow_count() as usize };
    let free = segments.free_count() + segments.waiting_count() + hollow;
    Supply {
        all: geometry.segments - geometry.first_segment(),
        free: u32::try_from(free).unwrap_or(u32::MAX),
        reserve: reserve(geometry),
    }
}
