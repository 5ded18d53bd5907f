//! Pages of the map: from a page id to where the page lies (disk format, section 8).
//!
//! The map is a radix tree of pages with 256 entries. Entry *j* of level-0 page *i* is page id
//! 256 *i* + *j*. Upper pages hold references; [`MapTree`] keeps these in memory (16 bytes for 256
//! page ids), so that any level-0 page is found with one read. A checkpoint writes level-0 pages
//! that changed and the path above each; [`MapWrite`] says which, from the bottom to the top.
//!
//! 2^40 ids need five levels.

#[cfg(test)]
mod tests;
mod tree;

pub(in crate::store) use tree::{MapChange, MapLoad, MapTree};

use super::damage::{Checker, Damage, Structure};
use super::geometry::Geometry;
use super::page::{self, PageHeader, PageKind, structure_word};
use crate::store::codec::Reader;
use crate::store::word::{ColdAddress, Epoch, MapView, MapWord, PageRef, SecondWord, Special};

/// Entries of a map page.
pub(in crate::store) const ENTRIES: usize = 256;
/// The bytes of each map page's content.
pub(in crate::store) const MAP_CONTENT_BYTES: usize = ENTRIES * 16;

/// What the map says about one page id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) enum MapEntry {
    /// No page; its next use starts with this epoch.
    Free { epoch: Epoch },
    /// The page's image, and its checksum, epoch and flags.
    Cold { place: ColdAddress, second: SecondWord },
    /// The page cannot be read any more; what it had is kept, for `salvage`.
    Damaged { second: SecondWord },
    /// No page, never used: the entry of a new map page.
    #[default]
    Unused,
}

impl MapEntry {
    /// The place of its image, if it has one.
    pub(in crate::store) fn place(self) -> Option<ColdAddress> {
        if let Self::Cold { place, .. } = self { Some(place) } else { None }
    }

    /// The two words of the mapping that say it.
    pub(in crate::store) fn words(self) -> (MapWord, SecondWord) {
        let free = |epoch| SecondWord::new(0, epoch, false, false);
        match self {
            Self::Unused => (MapWord::FREE, free(Epoch::FIRST)),
            Self::Free { epoch } => (MapWord::FREE, free(epoch)),
            Self::Cold { place, second } => (MapWord::cold(place, 0).expect("0 is an age"), second),
            Self::Damaged { second } => (MapWord::special(Special::Damaged), second),
        }
    }

    fn from_words(word: u64, second: u64) -> Option<Self> {
        let second = SecondWord::from_bits(second)?;
        match MapWord::from_bits(word)?.view() {
            MapView::Free if second.bits() == 0 => Some(Self::Unused),
            MapView::Free => {
                let epoch = second.epoch();
                (second == SecondWord::new(0, epoch, false, false)).then_some(Self::Free { epoch })
            }
            MapView::Cold { address, age: 0 } => Some(Self::Cold { place: address, second }),
            MapView::Special(Special::Damaged) => Some(Self::Damaged { second }),
            _ => None,
        }
    }
}

/// A level-0 page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct MapPage(pub(in crate::store) Box<[MapEntry; ENTRIES]>);

impl Default for MapPage {
    fn default() -> Self {
        Self(Box::new([MapEntry::default(); ENTRIES]))
    }
}

impl MapPage {
    /// What it says about each page, in their order.
    pub(in crate::store) fn entries(&self) -> &[MapEntry; ENTRIES] {
        &self.0
    }

    pub(in crate::store) fn entries_mut(&mut self) -> &mut [MapEntry; ENTRIES] {
        &mut self.0
    }

    /// Its content.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let words = self.0.iter().map(|entry| entry.words());
        words
            .flat_map(|(word, second)| [word.bits().to_le_bytes(), second.bits().to_le_bytes()])
            .flatten()
            .collect()
    }

    /// Parses level-0 page `index`, which `bytes` were read for from where `from` says.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::store) fn decode(
        bytes: &[u8],
        index: u64,
        from: PageRef,
        of: &Owner,
    ) -> Result<Self, Damage> {
        let content = of.content(bytes, 0, index, from)?;
        let is = Checker::new(Structure::MapPage, from.place.offset_bytes());
        let reader = &mut Reader::new(content);
        let mut page = Self::default();
        for entry in page.0.iter_mut() {
            let (word, second) = (is.some(reader.u64())?, is.some(reader.u64())?);
            let found = MapEntry::from_words(word, second);
            *entry = found.ok_or_else(|| is.damage("an entry has bits that no entry has"))?;
            let fits = entry.place().is_none_or(|place| of.geometry.locate(place).is_some());
            is.check(fits, "an entry says that a page lies where none can be")?;
        }
        is.check(reader.is_empty(), "it is too long")?;
        Ok(page)
    }
}

/// The references of an upper page.
pub(in crate::store) type Upper = Box<[Option<PageRef>; ENTRIES]>;

/// Whose map it is, and where its pages can lie.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Owner {
    pub(in crate::store) identity: [u8; 16],
    pub(in crate::store) geometry: Geometry,
}

impl Owner {
    /// The content of map page `index` of `level`, if it is that.
    fn content<'a>(&self, bytes: &'a [u8], level: u8, index: u64, from: PageRef) -> Result<&'a [u8], Damage> {
        let parsed = page::parse(bytes, from.place, &self.identity);
        let parsed = parsed.map_err(|damage| Damage { structure: Structure::MapPage, ..damage })?;
        let wanted = (PageKind::Map, structure_word(index, level));
        parsed.content_of(Structure::MapPage, wanted, level, from.checksum)
    }

    fn upper(&self, bytes: &[u8], level: u8, index: u64, from: PageRef) -> Result<Upper, Damage> {
        let content = self.content(bytes, level, index, from)?;
        let is = Checker::new(Structure::MapPage, from.place.offset_bytes());
        let reader = &mut Reader::new(content);
        let mut upper: Upper = Box::new([None; ENTRIES]);
        for entry in upper.iter_mut() {
            let found = PageRef::decode(reader);
            *entry = found.ok_or_else(|| is.damage("it has a reference that is none"))?;
            let fits = entry.is_none_or(|page| self.geometry.locate(page.place).is_some());
            is.check(fits, "it says that a page of the map lies where none can be")?;
        }
        is.check(reader.is_empty(), "it is too long")?;
        Ok(upper)
    }
}

/// The header of map page `index` of `level`.
pub(in crate::store) fn header(level: u8, index: u64) -> PageHeader {
    PageHeader::plain(PageKind::Map, level, structure_word(index, level))
}
