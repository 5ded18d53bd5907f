//! What the flusher asks of the pages in memory.

use crate::store::word::{ChildWord, Epoch, PageId};

/// What a page is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Look {
    /// The id is not in use, or nothing is known of it.
    Free,
    /// Removed or moved; its epoch is one more than its parent said last.
    Gone(Epoch),
    /// Its durable image is all that there is, with this epoch.
    Cold(Epoch),
    Live(Live),
}

/// A page of the tree that is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Live {
    pub(in crate::store) epoch: Epoch,
    /// 0 for leaves.
    pub(in crate::store) level: u8,
    /// What its node takes in memory; its image is not longer.
    pub(in crate::store) bytes: usize,
    /// The new page that its last split names, for as long as the page remembers it.
    pub(in crate::store) pending: Option<ChildWord>,
}

/// A page as it is to be written.
#[derive(Clone, Debug)]
pub(in crate::store) struct Captured<C> {
    pub(in crate::store) page: ChildWord,
    pub(in crate::store) tree: u32,
    /// 0 for leaves.
    pub(in crate::store) level: u8,
    /// The newest number in it; 0 for inner pages.
    pub(in crate::store) newest: u64,
    /// As in [`Live`].
    pub(in crate::store) pending: Option<ChildWord>,
    /// What it states of its children; none for leaves.
    pub(in crate::store) children: Vec<ChildWord>,
    /// What it takes in a bundle, its header included: whole granules, in bytes.
    pub(in crate::store) stored_bytes: usize,
    /// The image, and whatever else the caller needs of it.
    pub(in crate::store) content: C,
}

/// What became of a [capture](Pages::capture).
#[derive(Debug)]
pub(in crate::store) enum Capture<C> {
    Image(Captured<C>),
    /// Its durable image is all that there is.
    Clean,
    /// Removed or moved.
    Gone,
    Free,
}

/// The pages of a store, as the flusher sees them.
pub(in crate::store) trait Pages {
    type Content;

    /// One load of the page's word.
    fn look(&self, page: PageId) -> Look;

    /// The epoch that `parent` states of `child`, if it is an inner page in memory that has it.
    fn stated(&self, parent: PageId, child: PageId) -> Option<Epoch>;

    /// The epoch of the newest durable image of `page`, whether it is in memory or not.
    fn durable(&self, page: PageId) -> Option<Epoch>;

    /// What the newest durable image of a page that is in memory takes on the namespace, in bytes.
    fn durable_bytes(&self, page: PageId) -> u64;

    /// All that the page holds at a moment of this call.
    ///
    /// **A write that is not in the image pushes `Dirty` after this call began**, and before its
    /// number is drawn: the area is frozen, and writers put another in its place. That holds for a
    /// page that is found clean too.
    fn capture(&self, page: PageId) -> Capture<Self::Content>;

    /// Whether the durable image of a page that is in memory is all that there is.
    fn is_clean(&self, page: PageId) -> bool;

    /// The newest number that was drawn.
    fn newest_number(&self) -> u64;
}
