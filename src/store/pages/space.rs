//! Which writes are admitted (design, section 4.6): each that is can be carried out.
//!
//! The engine takes what segments hold from here ([`Capacity`]), and keeps an account of its own
//! (`engine/space/account.rs`).
//!
//! One account, in bytes. `used` is what map entries refer to ([`page_bytes`] of each page);
//! `growth` is by how much it will have grown, at most, when all that is dirty is written. A write
//! that grows is admitted if both and its own size fit in the *room*: a share of what all segments
//! can hold, without those of the log and the reserve. A write that does not grow is always
//! admitted.
//!
//! **What a segment can hold** is less than its size. Its header takes a block; each bundle has a
//! trailer, and padding up to a block; and the last page that does not fit leaves a hole. The
//! design counts none of these and takes 0.92 of the whole. With segments of 256 KiB and pages of
//! 64 KiB that cannot be reached: three of them fit. So here
//!
//! - a page is a sixteenth of a segment at most ([`Capacity::max_page_granules`]); larger values
//!   are cut into such pages;
//! - room is counted in what a segment holds in the worst case, when cleaning fills it: with
//!   bundles as large as their buffers allow, for which it waits while space is short (a buffer has
//!   room for several of the longest pages: a store with smaller ones admits nothing);
//! - of this, 11/12 are room, so that victims have a twelfth of garbage on average: each byte that
//!   is written costs 11 that are moved, but cleaning goes on.

#[cfg(test)]
mod tests;

use super::bundle::MAX_PAGES_BYTES;
use super::geometry::{GRANULE_BYTES, Geometry};
use crate::store::codec::to_u32;
use crate::store::word::MAX_PAGE_BYTES;

/// What is free at least when there is no map to speak of.
const MIN_FREE: u32 = 4;

/// What a page counts: its granules, and one more for its entry in a trailer and for its entries in
/// the map, of which there are two while a checkpoint is written.
pub(in crate::store) fn page_bytes(granules: u32) -> u64 {
    if granules == 0 { 0 } else { (u64::from(granules) + 1) * GRANULE_BYTES as u64 }
}

/// What the segments of a store can hold.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Capacity {
    geometry: Geometry,
    cores: u32,
    bundle_bytes: u32,
}

impl Capacity {
    /// Of a store whose cores fill bundles in buffers of `bundle_bytes`.
    pub(in crate::store) fn new(geometry: Geometry, cores: u32, bundle_bytes: u32) -> Self {
        Self { geometry, cores, bundle_bytes }
    }

    /// The longest page, its header included.
    pub(in crate::store) fn max_page_granules(&self) -> u32 {
        (self.geometry.segment_granules() / 16).min(to_u32(MAX_PAGE_BYTES / GRANULE_BYTES))
    }

    /// How many bytes of pages, as [`page_bytes`] counts them, any segment holds that cleaning
    /// fills.
    pub(in crate::store) fn segment_bytes(&self) -> u64 {
        let (segment, block) = (self.geometry.segment, self.geometry.block);
        let hole = (self.max_page_granules() - 1) * to_u32(GRANULE_BYTES);
        // Per bundle padding, and the trailer without its entries, up to a granule.
        let lost = block + 128;
        // A bundle ends where the next page does not fit its buffer, whose room the trailer shares.
        let filled = self.bundle_bytes.min(to_u32(MAX_PAGES_BYTES) + lost).saturating_sub(lost + hole);
        // The last one ends with the segment.
        let bundles = segment.div_ceil(filled.max(1)).saturating_mul(lost);
        u64::from((segment - block - hole).saturating_sub(bundles))
    }

    /// Segments that no write is admitted to fill: each core has one open for each of its streams,
    /// the map has one, and one more that waits for its checkpoint; four are free, for cleaning
    /// to move to. (The design says 4 + 2 · cores, which is fewer than are open.)
    pub(in crate::store) fn reserve(&self) -> u32 {
        (MIN_FREE + 2 + 4 * self.cores).max(self.geometry.segments / 40)
    }

    /// With fewer free segments cleaning comes before any flush: it takes one, and the checkpoint
    /// that frees its victims may take others before it does, for `map_pages` pages of the map and
    /// the table.
    pub(in crate::store) fn min_free(&self, map_pages: u64) -> u32 {
        let map = map_pages.saturating_mul(65 * GRANULE_BYTES as u64) / self.segment_bytes().max(1);
        MIN_FREE.saturating_add(u32::try_from(map).unwrap_or(u32::MAX))
    }

    /// The room for pages in bytes, while the log has so many segments.
    pub(in crate::store) fn room(&self, log_segments: u32) -> u64 {
        let front = self.geometry.first_segment();
        let segments = self.geometry.segments.saturating_sub(front + log_segments + self.reserve());
        u64::from(segments) * self.segment_bytes() / 12 * 11
    }
}

/// Why a write is not admitted, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct NoRoom {
    /// The bytes that are missing. The caller lets a file grow by so much, or waits for folds;
    /// then it is "no space".
    pub(in crate::store) missing: u64,
}

/// The account.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Account {
    room: u64,
    used: u64,
    growth: u64,
}

impl Account {
    /// With so much room, and what the checkpoint uses.
    pub(in crate::store) fn new(room: u64, used: u64) -> Self {
        Self { room, used, growth: 0 }
    }

    /// The store or its log has grown or become shorter.
    pub(in crate::store) fn set_room(&mut self, room: u64) {
        self.room = room;
    }

    /// Admits a write that adds `bytes` at most, and reserves them: for a blind write the whole
    /// entry, rounded up with what it has in common with others; see [`Account::settle`].
    ///
    /// # Errors
    ///
    /// [`NoRoom`]; nothing was reserved. Now writes are no longer blind: with the old entry at hand
    /// an overwrite of the same size, or a delete, is known to add 0, which is always admitted.
    pub(in crate::store) fn admit(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let wanted = self.used.saturating_add(self.growth).saturating_add(bytes);
        if bytes == 0 {
            return Ok(());
        }
        match wanted.checked_sub(self.room) {
            None | Some(0) => {
                self.growth += bytes;
                Ok(())
            }
            Some(missing) => Err(NoRoom { missing }),
        }
    }

    /// A page was consolidated: of what was reserved for its writes, `reserved`, this is what it
    /// really grows by when it is written, at most.
    pub(in crate::store) fn settle(&mut self, reserved: u64, grows: u64) {
        debug_assert!(grows <= reserved, "what a page grows by was admitted");
        self.growth = self.growth.saturating_sub(reserved - grows.min(reserved));
    }

    /// A page was installed: its image counts `new` bytes, that before counted `old`, and
    /// `reserved` was its share of the growth.
    pub(in crate::store) fn installed(&mut self, old: u64, new: u64, reserved: u64) {
        self.used = self.used.saturating_sub(old).saturating_add(new);
        self.growth = self.growth.saturating_sub(reserved);
    }

    /// `used` and `growth`, in bytes.
    pub(in crate::store) fn taken(&self) -> (u64, u64) {
        (self.used, self.growth)
    }
}
