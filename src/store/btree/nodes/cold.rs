//! How pages come into memory and go out of it.
//!
//! | from | to | by | expects |
//! |---|---|---|---|
//! | cold | node with the image, without an area | [`Pin::install_loaded`] | the image that the miss had |
//! | cold | damaged | [`Pin::install_damaged`] | the same |
//! | node | cold | [`Pin::try_evict`] | a clean node |
//! | removed, moved | free | [`Pin::release_durable`] | that it is durable |
//!
//! Each is a step of [`homes`](crate::store::btree::homes), under the lock of the page's home. Of
//! several that load a page one installs it; the others find it there.

use super::{NewNode, Pin};
use crate::store::atomic::Ordering;
#[cfg(test)]
use crate::store::btree::homes::Home;
use crate::store::btree::homes::{Evicted, MapFreeze};
use crate::store::btree::image::{Damage, InnerImage, LeafImage};
use crate::store::btree::miss::{ColdPage, Miss};
use crate::store::btree::node::{AreaSize, MAX_NODE_BYTES, NodeMemory, Shape};
use crate::store::cache::{Room, hand};
#[cfg(test)]
use crate::store::word::SecondWord;
use crate::store::word::{ChildWord, ColdAddress, MapView, PageId};

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

/// What became of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Eviction {
    /// The page is cold. Its node, of so many bytes, is freed when nobody reads it any more.
    Evicted { bytes: u64 },
    /// The page has changes that are not durable, or was never durable.
    Dirty,
    /// It is cold already, or there is no such page.
    NotInMemory,
    /// A cursor holds the node, or somebody replaced it just now.
    Busy,
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
        node.get().set_touched(hand::JUST_LOADED);
        let (homes, image) = (&self.core.nodes.homes, (cold.word, cold.second));
        let admit = |entry, word| homes.admit(cold.id, entry, image, word);
        Ok(self.put(node, |word| self.entry(cold.id).is_ok_and(|entry| admit(entry, word))))
    }

    /// Says that the image of `cold` cannot be read. False: the page is something else by now.
    pub(in crate::store) fn install_damaged(&self, cold: &ColdPage) -> bool {
        let image = (cold.word, cold.second);
        self.entry(cold.id).is_ok_and(|entry| self.core.nodes.homes.give_up(cold.id, entry, image))
    }

    /// Whether a page still is the image that `cold` named. One that does not fit that is damaged
    /// only if it does.
    pub(in crate::store) fn is_current(&self, cold: &ColdPage) -> bool {
        let (homes, ColdPage { id, word, second }) = (&self.core.nodes.homes, *cold);
        self.entry(id).is_ok_and(|entry| homes.is_current(id, entry, word, second))
    }

    /// The keeper makes an id free, since a bundle is durable that says so: `freed` is the id, and
    /// the epoch that its next use starts from. Where the page's last image lay, if it had one.
    pub(in crate::store) fn release_durable(
        &self,
        freed: ChildWord,
        freeze: &mut MapFreeze,
    ) -> Option<ColdAddress> {
        let current = self.map().entry(freed.id()).loaded()?.word();
        let step = (current, freed.epoch());
        let left = self.core.nodes.homes.free(self.map(), freed.id(), step, Some(freeze))?;
        self.retire(current);
        left
    }

    /// How often a page that is in memory was touched, and its level. None if it is not in memory,
    /// or not to be evicted: a page that goes, and one that is held.
    ///
    /// # Errors
    ///
    /// Its frame is not in memory.
    pub(in crate::store) fn resident(&self, id: PageId) -> Result<Option<(u8, u8)>, Miss> {
        let word = self.entry(id)?.word();
        Ok(self.node(word).map(|node| (node.touched(), node.level())))
    }

    /// Sets the touches of a page that is in memory.
    pub(in crate::store) fn set_touched(&self, id: PageId, touched: u8) {
        if let Ok(entry) = self.entry(id)
            && let Some(node) = self.node(entry.word())
        {
            node.set_touched(touched);
        }
    }

    /// Makes a clean page cold: its image is durable, and nobody has changed it since. What is not
    /// clean stays.
    pub(in crate::store) fn try_evict(&self, id: PageId) -> Eviction {
        let Some(entry) = self.map().entry(id).loaded() else { return Eviction::NotInMemory };
        let word = entry.word();
        let Some(node) = self.node(word) else { return Eviction::NotInMemory };
        if node.pins().load(Ordering::Relaxed) > 0 {
            return Eviction::Busy;
        }
        let Some(place) = node.place() else { return Eviction::Dirty };
        let close = || node.area().freeze_if_clean();
        match self.core.nodes.homes.evict(id, entry, (word, place), close) {
            Evicted::Done => {
                let bytes = node.len_bytes();
                self.retire(word);
                Eviction::Evicted { bytes }
            }
            Evicted::Dirty => Eviction::Dirty,
            Evicted::Changed => Eviction::Busy,
        }
    }

    /// Evicts a page, as if its newest durable image lay at `home`, with this second word.
    #[cfg(test)]
    pub(in crate::store) fn evict(&self, id: PageId, home: ColdAddress, second: SecondWord) -> bool {
        let image = Home { address: home, second };
        self.core.nodes.homes.install(self.map(), id, image, &mut MapFreeze::default());
        matches!(self.try_evict(id), Eviction::Evicted { .. })
    }
}
