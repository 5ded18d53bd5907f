//! The pages of a store as its flusher sees them ([`Pages`]).

#[cfg(test)]
mod tests;

use super::keep::{Capture as Kept, Captured as Content};
use super::{State, pending};
use crate::store::btree::image::{InnerImage, LeafImage};
use crate::store::btree::miss::Miss;
use crate::store::btree::node::{NodeMemory, NodeRef};
use crate::store::btree::nodes::{Core, Pin};
use crate::store::flush::{Capture, Captured, Live, Look, Pages};
use crate::store::pages::PAGE_HEADER_BYTES;
use crate::store::word::{ColdAddress, Epoch, GRANULE_BYTES, PageId, SecondWord};

/// Where the newest durable images of pages in memory lie.
pub(in crate::store) trait DurableHomes {
    /// The place that the page's nodes have if they are just that image. None for a page that is
    /// not in memory, or was never durable.
    fn home(&self, page: PageId) -> Option<(ColdAddress, SecondWord)>;

    /// The newest number that was drawn.
    fn newest_number(&self) -> u64;
}

/// A core's view. Nothing of it is pinned between two calls.
pub(in crate::store) struct CorePages<'c, M: NodeMemory, H> {
    pub(in crate::store) core: &'c Core<M>,
    pub(in crate::store) homes: &'c H,
}

impl<M: NodeMemory, H: DurableHomes> CorePages<'_, M, H> {
    fn is_home(&self, page: PageId, place: Option<ColdAddress>) -> bool {
        place.is_some() && place == self.homes.home(page).map(|(address, _)| address)
    }
}

/// A page of the tree that is in memory.
fn live<'p, M: NodeMemory>(pin: &'p Pin<'_, M>, page: PageId) -> Option<NodeRef<'p>> {
    let (node, _) = pin.find(page).ok()??;
    (State::of_code(node.kind()) == State::Live).then_some(node)
}

impl<M: NodeMemory, H: DurableHomes> Pages for CorePages<'_, M, H> {
    type Content = Content;

    fn look(&self, page: PageId) -> Look {
        let pin = self.core.pin();
        let node = match pin.load(page) {
            Ok(found) => found.node,
            Err(Miss::Page(cold)) => return Look::Cold(cold.second.epoch()),
            Err(Miss::Frame(_) | Miss::Damaged(_)) => None,
        };
        let Some(node) = node else { return Look::Free };
        let epoch = node.child().epoch();
        match State::of_code(node.kind()) {
            State::Removed | State::Moved => Look::Gone(epoch),
            State::Live => {
                let pending = pending(node).map(|split| split.right);
                let bytes = usize::try_from(node.len_bytes()).expect("it is in memory");
                Look::Live(Live { epoch, level: node.level(), bytes, pending })
            }
        }
    }

    fn stated(&self, parent: PageId, child: PageId) -> Option<Epoch> {
        let pin = self.core.pin();
        let node = live(&pin, parent).filter(|node| node.level() > 0)?;
        let image = InnerImage::of_verified(node.image());
        Some(image.child(image.index_of(child)?).epoch())
    }

    fn durable(&self, page: PageId) -> Option<Epoch> {
        loop {
            if let Some((_, second)) = self.homes.home(page) {
                return Some(second.epoch());
            }
            if let Look::Cold(epoch) = self.look(page) {
                return Some(epoch);
            }
            // Who loads a page says where its home is before the page is in memory.
            self.homes.home(page)?;
        }
    }

    fn durable_bytes(&self, page: PageId) -> u64 {
        self.homes.home(page).map_or(0, |(address, _)| address.len_bytes())
    }

    fn capture(&self, page: PageId) -> Capture<Content> {
        let content = match self.core.pin().capture(page) {
            Ok(Kept::Page(content)) if self.is_home(page, content.place) => return Capture::Clean,
            Ok(Kept::Page(content)) => content,
            Ok(Kept::Removed { .. } | Kept::Moved { .. }) => return Capture::Gone,
            Ok(Kept::Free(_)) => return Capture::Free,
            Err(Miss::Page(_) | Miss::Frame(_) | Miss::Damaged(_)) => return Capture::Clean,
        };
        let (changes, children) = match content.level {
            0 => (LeafImage::of_verified(&content.image).changes(), Vec::new()),
            _ => {
                let image = InnerImage::of_verified(&content.image);
                (image.changes(), (0..image.len()).map(|at| image.child(at)).collect())
            }
        };
        let granule = usize::try_from(GRANULE_BYTES).expect("64");
        Capture::Image(Captured {
            page: content.child,
            tree: content.tree,
            level: content.level,
            newest: content.newest,
            pending: changes.pending().map(|split| split.right),
            children,
            stored_bytes: (PAGE_HEADER_BYTES + content.image.len()).next_multiple_of(granule),
            content,
        })
    }

    fn is_clean(&self, page: PageId) -> bool {
        let pin = self.core.pin();
        let changed = |node: NodeRef<'_>| !self.is_home(page, node.place()) || node.area().has_changes();
        match pin.find(page) {
            Ok(Some((node, _))) => !changed(node),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    fn newest_number(&self) -> u64 {
        self.homes.newest_number()
    }
}
