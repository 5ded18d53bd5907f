//! Until the words are one set: what `pages::map_page` has.

use crate::store::btree::word::{ColdAddress, Epoch, MapWord, SecondWord, Special};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) enum MapEntry {
    Free {
        epoch: Epoch,
    },
    Cold {
        place: ColdAddress,
        second: SecondWord,
    },
    Damaged {
        second: SecondWord,
    },
    #[default]
    Unused,
}

impl MapEntry {
    pub(in crate::store) fn words(self) -> (MapWord, SecondWord) {
        let free = |epoch| SecondWord::new(0, epoch, false, false);
        match self {
            Self::Unused => (MapWord::FREE, free(Epoch::FIRST)),
            Self::Free { epoch } => (MapWord::FREE, free(epoch)),
            Self::Cold { place, second } => (MapWord::cold(place, 0).expect("0 is an age"), second),
            Self::Damaged { second } => (MapWord::special(Special::Damaged), second),
        }
    }

    pub(in crate::store) fn place(self) -> Option<ColdAddress> {
        if let Self::Cold { place, .. } = self { Some(place) } else { None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct MapPage(pub(in crate::store) Box<[MapEntry; 256]>);

impl Default for MapPage {
    fn default() -> Self {
        Self(Box::new([MapEntry::default(); 256]))
    }
}
