//! How long the log may be, and where it gets its segments from.
//!
//! What counts is bytes: from the log's start, as the newest durable superblock has it, to its end,
//! behind the last batch that was formed; and what is *claimed*. Spare segments do not count.
//!
//! | so many bytes | what | why |
//! |---|---|---|
//! | half of the limit | the keeper begins: it writes pages, and takes a checkpoint when enough of the log could go | to be done before the limit is reached |
//! | 7/8 of the limit | the keeper writes as fast as it can, and a checkpoint is worth one segment | the same |
//! | the limit, [`limit`](LogLimit::limit) | writers wait until a checkpoint has let some go | what comes now is in the buffers already, or claimed, or names bundles |
//! | [`longest`](LogLimit::longest) | the length of the log: the limit is less, by what is *kept* for the buffers of the cores that are attached, a quarter at most | an opening reads so much |
//! | [`segments`](LogLimit::segments), of the segment's size | segments that others leave to the log ([`clean`](super::clean)) | the longest log, and three: it begins and ends within a segment, one is named, one is spare |
//!
//! A writer looks when it has its room in the buffer, and not only before (`operations.rs`,
//! `log_room`). So however many wait for room, what comes when the limit is reached is no more than
//! the buffers have. On a small store with many cores that may be more than a quarter of the log,
//! and what is more takes free segments that are for others. No batch waits for the limit: a bundle
//! may wait for records that are in the buffers (W1), and the log has to take these so that the
//! bundle can be named and a checkpoint can let the log go.
//!
//! # Claims
//!
//! A large transaction *claims* what its group takes in the log before it logs the first part: the
//! log counts as that much longer for everybody, and what was claimed is logged without waiting. If
//! it waited in the middle it would wait for itself, as its first part holds the log. It goes on
//! when all that is claimed fits the limit ([`LogLimit::fits_claims`]); until then other writers
//! wait with it. As a checkpoint can let everything go but a part of one segment, a claim fits
//! sooner or later if it is a segment less than the limit, and no longer one is made
//! ([`LogLimit::longest_claim`]).
//!
//! # A longer log for a group
//!
//! The log is to be little beside the pages: on a small store it is shorter than `log_bytes`, the
//! option. But a group may have a quarter of `log_bytes` there as well, if the store has the room,
//! or its namespace can grow to have it: a new file takes the same transactions as one that has
//! grown. For a claim that might not fit the usual log the limit is lifted by as much, up to
//! `log_bytes`, and to a quarter of what the namespace may become. The same is held of the room for
//! pages ([`space`](super::space)), for which the namespace grows if need be. Both end when nothing
//! is claimed and a checkpoint has let the group go: the log is as short as before then. A store
//! whose log is found longer than usual begins with that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::log::SegmentSupply;
use super::signal::Signal;
use super::space::account::{Held, Space};
use super::state::PageState;
use crate::store::codec::to_usize;
use crate::store::pages::{Geometry, SegmentName};

/// See [`LogLimit::segments`].
const SEGMENTS_AROUND: u64 = 3;
/// A group may have this share of the log.
pub(super) const GROUP_SHARE: u64 = 4;
/// No more than this share of the log is kept for buffers,
const KEPT_SHARE: u64 = 4;
/// and of a store the log takes no more than this share.
const STORE_SHARE: u64 = 4;
/// The log is this share of a store, but so many segments at least.
const USUAL_SHARE: u64 = 32;
const LEAST_SEGMENTS: u64 = 3;

/// The usual length of the log of a store of this size, in bytes: it is to be small beside the
/// pages.
pub(super) fn usual_log_bytes(wanted: u64, geometry: Geometry) -> u64 {
    let (size, segment) = (geometry.size_bytes(), u64::from(geometry.segment));
    wanted.min(size / USUAL_SHARE).max(LEAST_SEGMENTS * segment).min(size / STORE_SHARE)
}

/// How long the log may become. See the head of the module.
#[derive(Debug)]
pub(super) struct LogLimit {
    /// What a core's buffer may be in the log.
    buffer_bytes: u64,
    /// For all buffers.
    kept: AtomicU64,
    segment_bytes: AtomicU64,
    block_bytes: AtomicU64,
    usual: AtomicU64,
    /// What the longest log for a group may have.
    most: AtomicU64,
    /// By so much the log is longer now than usual.
    lent: AtomicU64,
    lending: Mutex<Lending>,
    /// Where it starts and ends, as [`Segments::end`](crate::store::wal::Segments::end) counts.
    start: AtomicU64,
    end: AtomicU64,
    claimed: AtomicU64,
    /// There was no segment when it wanted one.
    is_short: AtomicBool,
}

/// Of a log that is longer than usual.
#[derive(Debug, Default)]
struct Lending {
    /// Groups that are at work.
    groups: u32,
    /// What is held of the room for pages, for groups that are not at work any more.
    room: u64,
}

impl LogLimit {
    /// For cores whose buffers have so many bytes.
    pub(super) fn new(buffer_bytes: u64) -> Self {
        Self {
            // Batches have headers, and end with a block.
            buffer_bytes: buffer_bytes + buffer_bytes / 8,
            kept: AtomicU64::default(),
            segment_bytes: AtomicU64::new(1),
            block_bytes: AtomicU64::default(),
            usual: AtomicU64::default(),
            most: AtomicU64::default(),
            lent: AtomicU64::default(),
            lending: Mutex::default(),
            start: AtomicU64::default(),
            end: AtomicU64::default(),
            claimed: AtomicU64::default(),
            is_short: AtomicBool::default(),
        }
    }

    /// The store has this size, and its namespace may get another one.
    pub(super) fn set(&self, wanted: u64, geometry: Geometry, max_size_bytes: u64) {
        let usual = usual_log_bytes(wanted, geometry);
        let most = wanted.min(max_size_bytes / STORE_SHARE).max(usual);
        self.segment_bytes.store(geometry.segment.into(), Ordering::Relaxed);
        self.block_bytes.store(geometry.block.into(), Ordering::Relaxed);
        self.usual.store(usual, Ordering::Relaxed);
        self.most.store(most, Ordering::Relaxed);
    }

    /// The segments that the usual log takes of the store.
    pub(super) fn usual_segments(&self) -> u32 {
        u32::try_from(self.segments_for(self.usual.load(Ordering::Relaxed))).unwrap_or(u32::MAX)
    }

    fn segments_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.segment()) + SEGMENTS_AROUND
    }

    fn segment(&self) -> u64 {
        self.segment_bytes.load(Ordering::Relaxed)
    }

    /// Segments that it has at most.
    pub(super) fn segments(&self) -> usize {
        to_usize(self.segments_for(self.longest()))
    }

    /// The bytes that it may have.
    pub(super) fn longest(&self) -> u64 {
        self.usual.load(Ordering::Relaxed) + self.lent.load(Ordering::Relaxed)
    }

    /// With so many bytes writers wait.
    pub(super) fn limit(&self) -> u64 {
        self.usual_limit() + self.lent.load(Ordering::Relaxed)
    }

    fn usual_limit(&self) -> u64 {
        let usual = self.usual.load(Ordering::Relaxed);
        usual - self.kept.load(Ordering::Relaxed).min(usual / KEPT_SHARE)
    }

    /// From its start to its end.
    pub(super) fn used(&self) -> u64 {
        self.end().saturating_sub(self.start.load(Ordering::Relaxed))
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// A superblock is durable that has its start there.
    pub(super) fn starts_at(&self, start: u64) {
        self.start.store(start, Ordering::Relaxed);
    }

    /// A batch was formed that ends there.
    pub(super) fn ends_at(&self, end: u64) {
        self.end.store(end, Ordering::Relaxed);
    }

    /// Whether writers wait until a checkpoint has let some of the log go.
    pub(super) fn is_reached(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
            || self.used() + self.claimed.load(Ordering::Acquire) >= self.limit()
    }

    /// There is no segment for it, or there is one again. Until then it is as long as it may be.
    pub(super) fn set_short(&self, is_short: bool) {
        self.is_short.store(is_short, Ordering::Relaxed);
    }

    /// One more core is attached, until what this returns is dropped.
    pub(super) fn keep_for_core(self: &Arc<Self>) -> KeptForCore {
        self.kept.fetch_add(self.buffer_bytes, Ordering::Relaxed);
        KeptForCore { limit: Arc::clone(self) }
    }

    /// The most that the records of a group may have together.
    pub(super) fn longest_group(&self) -> u64 {
        self.most.load(Ordering::Relaxed) / GROUP_SHARE
    }

    /// What a group takes in the log at most that has so many bytes of records, none of them longer
    /// than `longest`: each may have a batch of its own, which ends with a block, and may leave the
    /// end of a segment free.
    pub(super) fn claim_for(&self, bytes: u64, (records, longest): (u64, u64)) -> u64 {
        let block = self.block_bytes.load(Ordering::Relaxed);
        let in_batches = bytes + records * block;
        in_batches + (in_batches / self.segment() + 1) * (longest + 2 * block)
    }

    /// No longer claim can be relied on to fit, once the log is longer by what the claim asks for.
    pub(super) fn longest_claim(&self, bytes: u64) -> u64 {
        (self.usual_limit() + self.lends(bytes)).saturating_sub(self.segment())
    }

    /// By how much the log has to be longer for a claim of so many bytes.
    pub(super) fn lends(&self, bytes: u64) -> u64 {
        if bytes + self.segment() > self.usual_limit() { bytes.min(self.more()) } else { 0 }
    }

    /// By how much it may be longer than usual.
    fn more(&self) -> u64 {
        self.most.load(Ordering::Relaxed).saturating_sub(self.usual.load(Ordering::Relaxed))
    }

    /// What is to be held of the room for pages if the log is so much longer.
    pub(super) fn room_for(&self, lent: u64) -> u64 {
        lent.div_ceil(self.segment()) * self.segment()
    }

    /// The log is longer by this, until what this returns is dropped and the log is short again.
    pub(super) fn lengthen<'l>(&'l self, lent: u64, room: Held<'l>) -> LongerLog<'l> {
        let mut lending = self.lending();
        lending.groups += 1;
        // One group is at work at a time; what is left of others counts as long as it is there.
        self.lent.fetch_max(lent.min(self.more()), Ordering::Relaxed);
        LongerLog { limit: self, room: Some(room) }
    }

    /// The store is opened: its log may be longer than usual. Writers are not to wait until all of
    /// it is in the trees.
    pub(super) fn is_found(&self, space: &Space) {
        if self.used() * 2 > self.usual_limit() {
            let lent = self.used().min(self.more());
            self.lending().room = space.hold_again(self.room_for(lent));
            self.lent.store(lent, Ordering::Relaxed);
        }
    }

    pub(super) fn is_longer(&self) -> bool {
        self.lent.load(Ordering::Relaxed) > 0
    }

    /// Ends that the log is longer than usual, if nobody needs that any more: what is to be given
    /// back of the room for pages.
    pub(super) fn shorten(&self) -> u64 {
        let mut lending = self.lending();
        if lending.groups > 0 || self.used() * 2 > self.usual_limit() {
            return 0;
        }
        self.lent.store(0, Ordering::Relaxed);
        std::mem::take(&mut lending.room)
    }

    /// Nothing awaits while it is locked, and no panic leaves it half done.
    fn lending(&self) -> MutexGuard<'_, Lending> {
        self.lending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims so many bytes, whether they are there or not ([`LogLimit::fits_claims`]).
    pub(super) fn claim(&self, bytes: u64) -> LogClaim<'_> {
        self.claimed.fetch_add(bytes, Ordering::AcqRel);
        LogClaim { limit: self, bytes }
    }

    /// Whether all that is claimed can be logged.
    pub(super) fn fits_claims(&self) -> bool {
        self.used() + self.claimed.load(Ordering::Acquire) <= self.limit()
    }
}

/// What is kept for the buffer of one core.
#[derive(Debug)]
pub(super) struct KeptForCore {
    limit: Arc<LogLimit>,
}

impl Drop for KeptForCore {
    fn drop(&mut self) {
        self.limit.kept.fetch_sub(self.limit.buffer_bytes, Ordering::Relaxed);
    }
}

/// What a large transaction has claimed of the log. It gives back what is left of it when it is
/// dropped.
#[derive(Debug)]
pub(super) struct LogClaim<'l> {
    limit: &'l LogLimit,
    bytes: u64,
}

impl LogClaim<'_> {
    /// So many bytes of it are logged.
    pub(super) fn logged(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.limit.claimed.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for LogClaim<'_> {
    fn drop(&mut self) {
        self.logged(self.bytes);
    }
}

/// A group is at work for which the log is longer than usual.
#[derive(Debug)]
pub(super) struct LongerLog<'l> {
    limit: &'l LogLimit,
    room: Option<Held<'l>>,
}

impl Drop for LongerLog<'_> {
    fn drop(&mut self) {
        let mut lending = self.limit.lending();
        lending.groups -= 1;
        // Segments of the log have the room for now; see `shorten`.
        lending.room += self.room.take().map_or(0, Held::leave);
    }
}

/// Gives the log its segments: there is a limit, but none that a batch meets.
pub(super) struct LogSegments {
    pub(super) state: Arc<Mutex<PageState>>,
    pub(super) limit: Arc<LogLimit>,
    pub(super) keeper: Arc<Signal>,
}

impl SegmentSupply for LogSegments {
    fn next(&self) -> Option<SegmentName> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let name = state.segments.open_log().map(|(name, _)| name);
        self.limit.set_short(name.is_none());
        name
    }

    fn wanted(&self) {
        self.keeper.set();
    }

    fn failed(&self) {
        self.keeper.set();
    }

    fn ends_at(&self, end: u64) {
        self.limit.ends_at(end);
        if self.limit.is_reached() {
            self.keeper.set();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn of(mib: u64, block: u32, grows_to: Option<u64>) -> Arc<LogLimit> {
        let geometry = Geometry::of_namespace(mib << 20, block, grows_to.is_some()).expect("large enough");
        let limit = Arc::new(LogLimit::new(64 * KIB));
        limit.set(64 << 20, geometry, grows_to.unwrap_or(mib) << 20);
        limit
    }

    #[test]
    fn something_is_kept_for_each_core_and_most_is_for_records() {
        let limit = of(8, 512, None);
        assert_eq!((limit.longest(), limit.segments()), (768 * KIB, 6));
        let cores: Vec<_> = (0..16).map(|_| limit.keep_for_core()).collect();
        assert_eq!(limit.limit(), 576 * KIB);
        drop(cores);
        let core = limit.keep_for_core();
        assert_eq!(limit.limit(), 696 * KIB);
        limit.starts_at(100 * KIB);
        limit.ends_at(700 * KIB);
        assert!(!limit.is_reached());
        let mut claim = limit.claim(96 * KIB);
        assert!(limit.is_reached() && limit.fits_claims());
        claim.logged(KIB);
        assert!(!limit.is_reached());
        limit.ends_at(702 * KIB);
        assert!(limit.is_reached() && !limit.fits_claims());
        drop(claim);
        assert!(!limit.is_reached());
        drop(core);
    }

    /// Whatever sizes a store has, a claim that is made fits once all but a segment could go.
    #[test]
    fn no_claim_is_made_that_does_not_fit() {
        for mib in [8, 9, 24, 64, 300, 5000, 100_000] {
            for block in [512, 4096, 16384, 65536] {
                for grows_to in [None, Some(mib * 2), Some(1 << 16)] {
                    let limit = of(mib, block, grows_to);
                    let _cores: Vec<_> = (0..4).map(|_| limit.keep_for_core()).collect();
                    for bytes in (1..60).map(|part| limit.longest_group() / 59 * part) {
                        let part = (limit.segment() / 8).min(16 * KIB);
                        let claimed = limit.claim_for(bytes, (bytes / (8 * KIB) + 2, part));
                        if claimed > limit.longest_claim(claimed) {
                            assert!(bytes > 64 * KIB || block > 4096, "{bytes} of {mib} MiB, {block}");
                            continue;
                        }
                        let space = Space::default();
                        space.set_room(u64::MAX);
                        let lent = limit.lends(claimed);
                        let room = space.hold(limit.room_for(lent), super::super::space::account::Kind::Adds);
                        let longer = limit.lengthen(lent, room.expect("there is room"));
                        limit.ends_at(limit.segment());
                        let claim = limit.claim(claimed);
                        assert!(limit.fits_claims(), "{bytes} of {mib} MiB, {block}: {limit:?}");
                        let most = limit.most.load(Ordering::Relaxed);
                        assert!(limit.longest() <= most, "{limit:?}");
                        drop((claim, longer));
                        assert_eq!(limit.is_longer(), lent > 0);
                        limit.ends_at(0);
                        assert_eq!(limit.shorten(), limit.room_for(lent));
                        assert!(!limit.is_longer());
                    }
                }
            }
        }
    }
}
