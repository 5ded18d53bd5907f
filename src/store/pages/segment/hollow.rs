//! Free segments that may have no blocks of the file system below.
//!
//! On a [sparse](crate::block::NamespaceInfo::sparse) namespace a free segment is opened only once
//! it is *solid*: its blocks are allocated, so that no write to it finds the file system full. One
//! that was trimmed is hollow, and of one that was free when the store was opened nobody knows. The
//! rest of the store sees such a segment as one that is not there.

use std::collections::BTreeSet;

use super::{MAX_FAILURES, Segments, State};
use crate::store::pages::geometry::Geometry;

/// Free segments that are not to be opened.
#[derive(Debug, Default)]
pub(super) struct Hollow {
    /// It may be that they have blocks.
    unknown: BTreeSet<u32>,
    /// They have none, or not all.
    trimmed: BTreeSet<u32>,
    /// The file system had no room when it was asked last.
    is_refused: bool,
    /// There may be some.
    is_sparse: bool,
}

impl Segments {
    /// Of no segment that is free now it is known whether it has blocks. (What the log has left was
    /// written.)
    pub(in crate::store) fn doubt_free(&mut self) {
        self.hollow.is_sparse = true;
        self.hollow.unknown.append(&mut self.free);
    }

    /// A free segment that has blocks, to be trimmed as one that was emptied: the last one.
    pub(in crate::store) fn take_free(&mut self) -> Option<u32> {
        let segment = self.free.pop_last()?;
        self.change(segment).state = State::Trimming;
        Some(segment)
    }

    /// Whether segments may be hollow, now or later.
    pub(in crate::store) fn is_sparse(&self) -> bool {
        self.hollow.is_sparse
    }

    /// The segment whose blocks are to be allocated next, with
    /// [`allocated`](Segments::allocated) or [`refused`](Segments::refused) after that.
    pub(in crate::store) fn next_hollow(&self) -> Option<u32> {
        let Hollow { unknown, trimmed, .. } = &self.hollow;
        unknown.first().or_else(|| trimmed.first()).copied()
    }

    /// Its blocks are allocated: it is free.
    pub(in crate::store) fn allocated(&mut self, segment: u32) {
        self.hollow.is_refused = false;
        if self.hollow.unknown.remove(&segment) || self.hollow.trimmed.remove(&segment) {
            self.free.insert(segment);
        }
    }

    /// The file system has no room for its blocks. Returns whether another one may have some.
    pub(in crate::store) fn refused(&mut self, segment: u32) -> bool {
        let Hollow { unknown, trimmed, is_refused, .. } = &mut self.hollow;
        *is_refused = true;
        unknown.remove(&segment);
        trimmed.insert(segment);
        !unknown.is_empty()
    }

    /// A segment is about to be trimmed, and has no blocks after that.
    pub(in crate::store) fn hollowed(&mut self, segment: u32) {
        let found = *self.get(segment);
        if found.state == State::Trimming {
            let retired = found.failures >= MAX_FAILURES;
            self.change(segment).state = if retired { State::Retired } else { State::Free };
            if !retired {
                self.hollow.trimmed.insert(segment);
            }
        }
    }

    /// How many free segments are not to be opened.
    pub(in crate::store) fn hollow_count(&self) -> u32 {
        let count = self.hollow.unknown.len() + self.hollow.trimmed.len();
        u32::try_from(count).expect("there are a million segments at most")
    }

    /// The store without these: as large as if they were not there.
    pub(in crate::store) fn solid(&self) -> Geometry {
        Geometry { segments: self.geometry.segments - self.hollow_count(), ..self.geometry }
    }

    /// Whether they are as good as not there: the file system had no room for one of them.
    pub(in crate::store) fn is_refused(&self) -> bool {
        self.hollow.is_refused && self.hollow_count() > 0
    }
}
