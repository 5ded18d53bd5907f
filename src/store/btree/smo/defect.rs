//! Rules that are broken on purpose, so that the models prove that they would notice.

use super::change::Place;
use super::page::{Content, Inner, Mapping, Page};

/// A rule of the protocol that is broken. Test builds only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::btree) enum Defect {
    /// A visitor takes every page for the one that it came for, whatever its epoch.
    SkipEpochCheck,
    /// A removed page's id becomes free without its parent having been told.
    MergeHalf,
    /// A visitor whose key is below the separator works on a page whose split is not posted, and so
    /// splits it a second time.
    SecondUnposted,
    /// A page's id becomes free with the epoch that the page had.
    FreeIdEarly,
    /// A leaf is marked as removed whatever it has become since it was seen empty.
    RemoveBlind,
    /// The root takes over its only child's content while that may still change.
    CollapseUnfrozen,
    /// The parent of a removed page is replaced whatever it has become since it was read.
    PostBlind,
    /// Two pages are packed although the second one was not frozen as it was read.
    PackHalfFrozen,
    /// Of two pages that are packed one is taken for moved that is not.
    PackUnmoved,
    /// The id of a page that is packed becomes free before its parent is told.
    PackFreesEarly,
    /// A scan takes all that it finds in a leaf, not only what is inside its own bounds.
    ScanWithoutBounds,
}

/// C1 to C3 in one, without C1: what happened to the child since it was read is lost.
pub(super) fn collapse_unfrozen<M: Mapping>(mapping: &M, root: Option<&Place<M::Ref>>, at: &Place<M::Ref>) {
    let (Some(root), Some(content)) = (root, at.page.content()) else { return };
    let Some(Content::Inner(inner)) = root.page.content() else { return };
    if inner.only_child() == Some(at.child)
        && mapping.replace(root.child.id(), &root.page, root.page.with_content(content.clone()))
    {
        let now = mapping.load(at.child.id());
        mapping.replace(at.child.id(), &now, Page::free(now.epoch.next().next()));
    }
}
