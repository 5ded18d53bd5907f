//! What a checkpoint writes of the frames: their durable content, as it was when the checkpoint
//! began.
//!
//! A checkpoint begins at a moment when every bundle up to a batch of the log is installed, and no
//! other (`pages::Naming::freeze`). [`MapFreeze::begin`] belongs to that moment, as
//! `pages::Segments::freeze` does: the keeper calls both without an await in between. The overlay
//! of recovery has to be empty by then: each frame that it speaks of is loaded.
//!
//! | after `begin` | what a frame of the checkpoint is exported with |
//! |---|---|
//! | loads, evictions, changes in memory | no difference: they change nothing that is durable |
//! | the keeper installs or frees, before the frame is exported | what the page had before, which is kept until then |
//! | the same, afterwards | it is exported already |
//!
//! So the keeper may go on installing bundles while it writes the map. Each change of a frame that
//! is waiting costs one entry that is kept, 24 bytes. Each change marks its frame for the next
//! checkpoint.
//!
//! [`MapFreeze::export`] is one step of 256 entries under one lock of the homes, some 10 µs.
//!
//! What was created and was never durable is exported as free, with the epoch that it was given out
//! with. After a crash it is given out again with that epoch. Nothing durable refers to a page of
//! that epoch: a page is created before a durable page refers to it (rule 1 of `smo`).

use std::collections::{BTreeMap, BTreeSet};

use super::Homes;
use crate::store::btree::map::{Map, frame_of};
use crate::store::pages::{MapEntry, MapPage};
use crate::store::word::PageId;

/// The keeper's side of the homes. There is one, and it is empty while no checkpoint is written.
#[derive(Debug, Default)]
pub(in crate::store) struct MapFreeze {
    /// The frames of the checkpoint that is being written.
    frames: BTreeSet<u32>,
    /// Those of them that are not exported yet.
    waiting: BTreeSet<u32>,
    /// What pages of frames that wait had when the checkpoint began, if that has changed since.
    kept: BTreeMap<PageId, MapEntry>,
}

impl MapFreeze {
    /// A checkpoint begins, in which the frames that changed since the last one are written, and
    /// `others`, for their place. The `next_page` of its superblock.
    pub(in crate::store) fn begin(&mut self, map: &Map, others: impl IntoIterator<Item = u32>) -> u64 {
        debug_assert!(self.frames.is_empty(), "one checkpoint at a time");
        self.frames = map.take_changed().into_iter().chain(others).collect();
        self.waiting.clone_from(&self.frames);
        map.next_page()
    }

    /// The frames that the checkpoint writes.
    pub(in crate::store) fn frames(&self) -> impl Iterator<Item = u32> {
        self.frames.iter().copied()
    }

    /// The content of the map page of a frame, as of the checkpoint's beginning. Each frame is
    /// exported once. None if the frame is not loaded: those that changed are.
    pub(in crate::store) fn export(&mut self, map: &Map, homes: &Homes, frame: u32) -> Option<MapPage> {
        debug_assert!(self.waiting.contains(&frame), "a frame of the checkpoint is exported once");
        let entries = map.entries(frame)?;
        let shard = homes.shard(frame);
        let mut page = MapPage::default();
        for (content, (id, entry)) in page.entries_mut().iter_mut().zip(entries) {
            *content = self.kept.remove(&id).unwrap_or_else(|| shard.durable(id, entry));
        }
        self.waiting.remove(&frame);
        Some(page)
    }

    /// The checkpoint's superblock is durable.
    pub(in crate::store) fn durable(&mut self) {
        debug_assert!(self.waiting.is_empty(), "every frame of the checkpoint is exported");
        *self = Self::default();
    }

    /// The checkpoint is given up: its frames go into the next one.
    pub(in crate::store) fn give_up(&mut self, map: &Map) {
        self.frames.iter().for_each(|frame| map.mark_changed(*frame));
        *self = Self::default();
    }

    /// What is durable of a page is about to change. It `was` this.
    pub(super) fn changes(&mut self, map: &Map, id: PageId, was: impl FnOnce() -> MapEntry) {
        let frame = frame_of(id);
        map.mark_changed(frame);
        if self.waiting.contains(&frame) {
            self.kept.entry(id).or_insert_with(was);
        }
    }
}
