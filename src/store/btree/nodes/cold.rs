//! How pages come into memory and go out of it.
//!
//! | from | to | by | expects |
//! |---|---|---|---|
//! | cold | node with the image, without an area | [`Pin::install_loaded`] | the cold word that the miss had |
//! | cold | damaged | [`Pin::install_damaged`] | the same |
//! | node | cold | [`Pin::evict`] | a clean node |
//!
//! Of several that load a page one installs it; the others find it there. A cold word that came
//! back means the same image: an address is not used again while somebody may know it.

use super::{Entry, NewNode, Pin};
use crate::store::btree::area::spin;
use crate::store::btree::image::{Damage, InnerImage, LeafImage};
use crate::store::btree::miss::ColdPage;
use crate::store::btree::node::{AreaSize, MAX_NODE_BYTES, NodeMemory, Room, Shape};
use crate::store::word::{ChildWord, ColdAddress, MapView, MapWord, PageId, SecondWord, Special};

/// A page as it came from the namespace: what its header says, whose checksum was compared, and its
/// content, which need not have been looked at.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct LoadedPage<'i> {
    pub(in crate::store) child: ChildWord,
    pub(in crate::store) tree: u32,
    pub(in crate::store) level: u8,
    pub(in crate::store) newest: u64,
    pub(in crate::store) image: &'i [u8],
}

/// Why a page that was loaded is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum NotInstalled {
    NoRoom,
    Damaged(Damage),
}

impl LoadedPage<'_> {
    /// Checks everything that the page has to be, if it is to be `cold`.
    fn check(&self, cold: &ColdPage) -> Result<(), Damage> {
        let damage = |at, reason| Err(Damage::new(at, reason));
        if self.child != ChildWord::new(cold.id, cold.second.epoch()) {
            return damage(16, "it is another page, or another state of it");
        }
        if Shape::len_bytes(AreaSize::NONE, self.image.len()) > MAX_NODE_BYTES {
            return damage(44, "the image is longer than a node's");
        }
        match self.level {
            0 => LeafImage::parse(self.image).map(drop),
            level => InnerImage::parse(self.image, level).map(drop),
        }
    }
}

impl<M: NodeMemory> Pin<'_, M> {
    /// Puts a clean node of a page that was loaded where `cold` was. False: somebody else was
    /// faster, and the page is to be looked at again.
    ///
    /// # Errors
    ///
    /// There is no memory, or the page is not what it should be. Nothing has changed then.
    pub(in crate::store) fn install_loaded(
        &self,
        cold: &ColdPage,
        page: &LoadedPage<'_>,
    ) -> Result<bool, NotInstalled> {
        page.check(cold).map_err(NotInstalled::Damaged)?;
        let MapView::Cold { address, .. } = cold.word.view() else { return Ok(false) };
        let shape = Shape {
            level: page.level,
            newest: page.newest,
            place: Some(address),
            ..Shape::new(page.child, page.tree, AreaSize::NONE, page.image.len())
        };
        let mut node: NewNode<'_, M> = self.build(&shape, Room::Ordinary).ok_or(NotInstalled::NoRoom)?;
        node.image_mut().copy_from_slice(page.image);
        Ok(self.install(cold.id, cold.word, node))
    }

    /// Says that the image of `cold` cannot be read. False: the page is something else by now.
    pub(in crate::store) fn install_damaged(&self, cold: &ColdPage) -> bool {
        let damaged = MapWord::special(Special::Damaged);
        self.entry(cold.id).is_ok_and(|entry| entry.replace(cold.word, damaged).is_ok())
    }

    /// Makes a page cold whose newest durable image lies at `home`, with this second word. False if
    /// the page is not clean, or something else by now. A page that has changes takes no more of
    /// them into its area then, as if that were full.
    ///
    /// Nobody else evicts the page meanwhile, or changes its home.
    pub(in crate::store) fn evict(&self, id: PageId, home: ColdAddress, second: SecondWord) -> bool {
        let Ok(Some((node, word))) = self.find(id) else { return false };
        if node.place() != Some(home) {
            return false;
        }
        // Who writes from now on comes back, and finds the page cold.
        node.area().freeze();
        node.area().decide_all(spin);
        if node.area().has_changes() {
            return false;
        }
        let cold = MapWord::cold(home, 0).expect("0 is an age");
        let is_cold = |entry: &Entry| entry.make_cold(word, cold, second).is_ok();
        if !self.entry(id).is_ok_and(is_cold) {
            return false;
        }
        self.retire(word);
        true
    }
}
