//! Changes of shape that somebody has begun and could not finish: a leaf is marked as removed and
//! its parent still has it, or the root's only child is frozen and the root is as it was, or pages
//! that are packed are frozen and their parent still has them ([`smo`](super::smo)). There was no
//! memory for the next step, or a page was missing.
//!
//! Visitors that come by finish them. But perhaps nobody comes by, and until then neither the page
//! nor its parent can be written, so the log keeps what they have. If the log is full by that time,
//! nobody writes any more, and so nobody comes by. Therefore whoever leaves such a change says
//! where it is, and the keeper [finishes](super::Pin::finish_undone) it. A split that is not posted
//! is none of these: all of its pages can be written as they are.
//!
//! An entry may be about what others have finished meanwhile.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::smo::Target;
use crate::store::word::{ChildWord, PageId};

/// A way down that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) tree: u32,
    pub(super) root: ChildWord,
    pub(super) target: Target<Vec<u8>>,
    /// The page that is marked, which the page above it still has.
    pub(super) marked: PageId,
}

/// Those of all cores.
#[derive(Debug, Default)]
pub(super) struct Undone(Mutex<VecDeque<Way>>);

impl Undone {
    fn ways(&self) -> MutexGuard<'_, VecDeque<Way>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, way: Way) {
        let mut ways = self.ways();
        if !ways.contains(&way) {
            ways.push_back(way);
        }
    }

    pub(super) fn pop(&self) -> Option<Way> {
        self.ways().pop_front()
    }
}
