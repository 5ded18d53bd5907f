//! What cleaning and the account of space ask of the table of segments.

use std::collections::BTreeSet;

use super::{Segments, State};
use crate::store::pages::geometry::GRANULE_BYTES;
use crate::store::word::ColdAddress;

impl Segments {
    /// What map entries refer to, in bytes as the account counts them: a granule more for each
    /// page.
    pub(in crate::store) fn taken_bytes(&self) -> u64 {
        let (granules, pages) = self.live;
        (granules + pages) * GRANULE_BYTES as u64
    }

    /// Counts anew what all segments have: they were loaded.
    pub(super) fn count_live(&mut self) {
        let segments = self.segments.iter();
        self.live = segments.fold((0, 0), |(granules, pages), segment| {
            (granules + u64::from(segment.live), pages + u64::from(segment.pages))
        });
        self.touched = (self.geometry.first_segment()..self.geometry.segments).collect();
    }

    /// The segments that changed since this was called last.
    pub(in crate::store) fn take_touched(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.touched)
    }

    /// Cleaning looks at this segment again.
    pub(in crate::store) fn touch(&mut self, segment: u32) {
        self.touched.insert(segment);
    }

    /// Whether `place` is in a segment that is being cleaned. The next checkpoint writes the pages
    /// of the map elsewhere that are.
    pub(in crate::store) fn is_cleaned(&self, place: ColdAddress) -> bool {
        let found = self.geometry.locate(place);
        found.is_some_and(|(segment, _)| self.get(segment).state == State::Cleaning)
    }

    /// Segments that are being cleaned and have pages of the map or the table: they are empty once
    /// a checkpoint was taken, and free after one more.
    pub(in crate::store) fn cleaned_meta_count(&self) -> usize {
        let has_meta = self.segments.iter().filter(|segment| segment.state == State::Cleaning);
        has_meta.filter(|segment| segment.live == 0 && segment.meta > 0).count()
    }

    /// Pages of the table that lie in segments that are being cleaned are written as if they had
    /// changed.
    pub(super) fn rewrite_cleaned_table(&mut self) {
        let pages = (0..).zip(&self.table);
        let lying = pages.filter(|(_, page)| page.is_some_and(|page| self.is_cleaned(page.place)));
        let lying: Vec<u32> = lying.map(|(page, _)| page).collect();
        self.changed.extend(lying);
    }
}
