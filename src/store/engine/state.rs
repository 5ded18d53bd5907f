//! What the cores of a store share of its pages: where everything lies, and what is on its way
//! there.
//!
//! [`PageState`] is behind one lock, which is held between two awaits only. The keeper changes it
//! at each of its steps; other cores look at it when a frame of the mapping is loaded, and the log
//! when it needs a segment. So it is never held while pages are captured: which of them are dirty
//! is the flusher's, which has a lock of its own (`core_store.rs`, `Shared::flusher`). Lock order:
//! the log's leader, then one of these two.

use std::collections::VecDeque;
use std::sync::Arc;

use super::clean::victims::Cleaner;
use super::space::account::Points;
use super::streams::Streams;
use super::superblocks::Copies;
use crate::store::btree::MapFreeze;
use crate::store::pages::{
    FlushClock, LogStart, MapTree, Overlay, Owner, SegmentName, Segments, Superblock, bundle_number,
};
use crate::store::wal::LogPosition;

/// See the head of the module.
#[derive(Debug)]
pub(super) struct PageState {
    pub(super) owner: Owner,
    pub(super) segments: Segments,
    pub(super) streams: Streams,
    /// The upper levels of the map, as of the last checkpoint.
    pub(super) map: Arc<MapTree>,
    /// What bundles of the log say about pages of frames that are not loaded yet.
    pub(super) overlay: Overlay,
    pub(super) freeze: MapFreeze,
    pub(super) clock: FlushClock,
    /// The newest superblock.
    pub(super) superblock: Superblock,
    pub(super) copies: Copies,
    /// The checksum of the newest superblock that is durable; 0 if there is none.
    pub(super) parent: u64,
    /// Points of the log since its start, each with the number that was next there: where the log
    /// may start when everything before that number is durable.
    pub(super) points: VecDeque<LogPosition>,
    /// The same for the account of space.
    pub(super) points_of_space: Points,
    pub(super) cleaner: Cleaner,
    /// Bundles of this opening.
    bundles: u64,
}

/// How many points of the log are kept at most.
const MAX_POINTS: usize = 1024;

impl PageState {
    pub(super) fn new(
        superblock: Superblock,
        copies: Copies,
        (segments, map, overlay): (Segments, Arc<MapTree>, Overlay),
    ) -> Self {
        let owner = Owner { identity: superblock.identity, geometry: superblock.geometry };
        let largest = crate::store::pages::Capacity::new(owner.geometry, 1, 128 << 10).max_page_granules();
        Self {
            cleaner: Cleaner::new(&segments),
            points_of_space: Points::default(),
            owner,
            segments,
            streams: Streams::new(owner, largest),
            map,
            overlay,
            freeze: MapFreeze::default(),
            clock: FlushClock::default(),
            parent: if superblock.sequence == 0 { 0 } else { superblock.checksum() },
            superblock,
            copies,
            points: VecDeque::new(),
            bundles: 0,
        }
    }

    /// The number of the next bundle.
    pub(super) fn next_bundle(&mut self) -> u64 {
        self.bundles += 1;
        bundle_number(self.superblock.epoch, self.bundles)
    }

    /// Notes a point of the log. Of more than there is room for, every second one goes.
    pub(super) fn note(&mut self, point: LogPosition) {
        if self.points.back().is_some_and(|last| last.batch == point.batch) {
            return;
        }
        if self.points.len() == MAX_POINTS {
            let mut is_kept = false;
            self.points.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
        self.points.push_back(point);
    }

    /// The last point of the log before which everything below `number` is; older ones are
    /// forgotten. None: the start stays where it is.
    pub(super) fn start_for(&mut self, number: u64) -> Option<LogPosition> {
        while self.points.get(1).is_some_and(|point| point.first <= number) {
            self.points.pop_front();
        }
        self.points.front().copied().filter(|point| point.first <= number)
    }
}

/// The start of the log, as a superblock has it.
pub(super) fn log_start(point: LogPosition) -> LogStart {
    LogStart {
        segment: point.segment.segment,
        generation: point.segment.generation,
        offset: point.offset,
        batch: point.batch,
        chain: point.chain,
        first_write: point.first,
    }
}

/// The point where a superblock says that the log starts.
pub(super) fn point(start: &LogStart) -> LogPosition {
    LogPosition {
        segment: SegmentName { segment: start.segment, generation: start.generation },
        offset: start.offset,
        batch: start.batch,
        chain: start.chain,
        first: start.first_write,
    }
}
