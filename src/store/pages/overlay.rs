//! What bundles that were written after a checkpoint say about pages (disk format, sections 5 and
//! 13).
//!
//! Recovery reads the trailers that the log names, in its order, into an [`Overlay`]; it is applied
//! to a page of the map when that is read. Of two entries for a page the later one counts. An entry
//! that cleaning *moved* counts only where the image that it replaces is the current one; whether
//! it is, may be known only when the page of the map is.
//!
//! **Counting.** What a bundle brings counts as live at once; what it replaces is counted out when
//! the map says what that was. (A trailer says it too, but that is what its writer knew when it
//! sealed the bundle; if the page was moved meanwhile, the count of one segment would become one
//! too low, and a segment that still has a page could be taken for empty.) Until all of the overlay
//! is applied, counts are too high, never too low.

use std::collections::BTreeMap;

use super::bundle::Trailer;
use super::defect::PagesDefect;
use super::map_page::{ENTRIES, MapEntry, MapPage};
use super::segment::Segments;
use crate::store::codec::to_usize;
use crate::store::word::{ColdAddress, PageId};

/// What is known about one page.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// Its entry, whatever the map says.
    Is(MapEntry),
    /// Moves, from the place of an image to an entry, in their order.
    Moved(Vec<(ColdAddress, MapEntry)>),
}

/// Entries newer than the map's.
#[derive(Debug, Default)]
pub(in crate::store) struct Overlay {
    pages: BTreeMap<u64, Known>,
    defect: Option<PagesDefect>,
}

impl Overlay {
    pub(in crate::store) fn new(defect: Option<PagesDefect>) -> Self {
        Self { pages: BTreeMap::new(), defect }
    }

    /// Adds what the next bundle says that the log names.
    pub(in crate::store) fn add(&mut self, trailer: &Trailer, segments: &mut Segments) {
        for entry in &trailer.entries {
            let new = MapEntry::Cold { place: entry.place, second: entry.second };
            segments.born(entry.place);
            let moved_from = entry.moved_from().filter(|_| self.defect != Some(PagesDefect::MovedWins));
            let Some(from) = moved_from else {
                self.set(entry.page.id(), new, segments);
                continue;
            };
            match self.pages.entry(entry.page.id().get()).or_insert_with(|| Known::Moved(Vec::new())) {
                Known::Is(current) => {
                    let unused = if current.place() == Some(from) {
                        std::mem::replace(current, new).place()
                    } else {
                        Some(entry.place)
                    };
                    segments.died(unused, 0);
                }
                Known::Moved(moves) => moves.push((from, new)),
            }
        }
        for page in &trailer.freed {
            self.set(page.id(), MapEntry::Free { epoch: page.epoch() }, segments);
        }
    }

    fn set(&mut self, id: PageId, new: MapEntry, segments: &mut Segments) {
        match self.pages.insert(id.get(), Known::Is(new)) {
            None => {}
            Some(Known::Is(old)) => segments.died(old.place(), 0),
            Some(Known::Moved(moves)) => moves.iter().for_each(|(_, old)| segments.died(old.place(), 0)),
        }
    }

    /// Ids from here on are in none of the bundles.
    pub(in crate::store) fn next_page(&self) -> u64 {
        self.pages.last_key_value().map_or(0, |(id, _)| id + 1)
    }

    /// The level-0 pages of the map that are not what they will be. A checkpoint applies all.
    pub(in crate::store) fn next(&self) -> Option<u64> {
        self.pages.keys().next().map(|id| id / ENTRIES as u64)
    }

    /// Applies what is known to level-0 page `index`, which was read, and forgets it. Returns
    /// whether the page changed.
    pub(in crate::store) fn apply(
        &mut self,
        index: u64,
        page: &mut MapPage,
        segments: &mut Segments,
    ) -> bool {
        let first = index * ENTRIES as u64;
        let ids: Vec<u64> = self.pages.range(first..first + ENTRIES as u64).map(|(id, _)| *id).collect();
        let mut changed = false;
        for id in ids {
            let Some(known) = self.pages.remove(&id) else { continue };
            let entry = &mut page.0[to_usize(id - first)];
            let old = *entry;
            match known {
                Known::Is(new) => {
                    segments.died(old.place(), 0);
                    *entry = new;
                }
                Known::Moved(moves) => {
                    for (from, new) in moves {
                        if entry.place() == Some(from) {
                            segments.died(from, 0);
                            *entry = new;
                        } else {
                            segments.died(new.place(), 0);
                        }
                    }
                }
            }
            changed |= *entry != old;
        }
        changed
    }
}
