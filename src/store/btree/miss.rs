//! What an operation on a tree says of a page that is not in memory.
//!
//! Nothing in the tree waits. Where a page on its way is not in memory, an operation ends with a
//! [`Miss`], having changed nothing that others see; private pages that it made are given back.
//! The caller makes the page be there, and calls again.

use super::map::FRAME_PAGES;
use crate::store::word::{MapView, MapWord, PageId, SecondWord, Special};

/// Why an operation could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Miss {
    /// The page is cold: it is to be loaded.
    Page(ColdPage),
    /// The entries of this frame of the mapping are not in memory: they are to be loaded.
    Frame(u32),
    /// The page's image cannot be read.
    Damaged(PageId),
}

/// A page that is not in memory, as its entry said in one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct ColdPage {
    pub(in crate::store) id: PageId,
    /// A cold word.
    pub(in crate::store) word: MapWord,
    pub(in crate::store) second: SecondWord,
}

impl Miss {
    /// There is no entry for this page in memory.
    pub(super) fn of_frame(id: PageId) -> Self {
        let frame = u32::try_from(id.get() / FRAME_PAGES).expect("40 bits less 8");
        Self::Frame(frame)
    }

    /// What an entry that says these words misses. None if that is nothing.
    pub(super) fn of_entry(id: PageId, word: MapWord, second: SecondWord) -> Option<Self> {
        match word.view() {
            MapView::Node(_) | MapView::Free => None,
            MapView::Cold { .. } => Some(Self::Page(ColdPage { id, word, second })),
            MapView::Special(Special::Frozen) => Some(Self::of_frame(id)),
            MapView::Special(Special::Damaged) => Some(Self::Damaged(id)),
        }
    }
}
