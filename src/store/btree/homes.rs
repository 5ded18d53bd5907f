//! Homes: where the newest *durable* image of a page lies while the page is in memory.
//!
//! The mapping's word of a page that is in memory says where its node is. What is durable of it,
//! meanwhile, stands here, in a map of shards that each have a lock. A node does not know its home;
//! its header has an immutable `place`, the cold word of exactly the node's image if it was loaded
//! from there or is being written there. So a page is **clean** if its area has no change, and its
//! node's place is that of its home. Only clean pages are evicted.
//!
//! # States
//!
//! | state | mapping word | home | what is durable |
//! |---|---|---|---|
//! | free | free | – | that the id is free, with the epoch in the second word |
//! | new | a node | – | the same: the second word was not changed |
//! | in memory | a node | H | the image at H |
//! | cold | cold, at H | – | the image at H |
//! | unreadable | special | H | the image at H: who opens the store again reads it again |
//! | damaged | special | – | that it is damaged: the map page said it |
//!
//! # Steps
//!
//! **One rule: whoever makes a word cold, or a cold word anything else, or changes a home, holds
//! the lock of the page's shard.** Within it the step looks at the word again, and does what the
//! table says, or nothing.
//!
//! | step | who | from | to |
//! |---|---|---|---|
//! | create | the owner of an id | free | new; no lock |
//! | change | anyone | new, in memory | the same state, another node; no lock, a compare-and-swap from the node that it read |
//! | load, [`Homes::admit`] | a loader | cold, at the address and with the second word that it read | in memory, the same H |
//! | give up, [`Homes::give_up`] | a loader | cold, as for a load | unreadable, the same H |
//! | evict, [`Homes::evict`] | an evicter | in memory, clean | cold, at H |
//! | tell, [`Homes::tells`] | the keeper, before a node has a new place | any | the same; a home that has moved keeps no such place |
//! | install, [`Homes::install`] | the keeper | new, in memory, cold | the same state, at the new H |
//! | move, [`Homes::install_moved`] | the keeper | in memory or cold, at the place that was moved | the same state, at the new H |
//! | free, [`Homes::free`] | the keeper, or who created the page | new, in memory | free |
//!
//! # Races
//!
//! - **Two loaders** of one page: the second one finds a node, and looks again. A **slow loader**,
//!   whose page was loaded, changed, written, installed and evicted meanwhile, finds another
//!   address or another second word. (The same address could have been given out again meanwhile,
//!   for an image of the same page; but then the second word, with the image's checksum, tells.)
//! - **An evicter and a writer** of the node's area: the evicter freezes the area, and only then
//!   looks for changes; a writer that reserves after that is told, and consolidates.
//! - **An evicter and someone who replaces the node**: both are a compare-and-swap from the node;
//!   one fails. If the evicter did, the home stays.
//! - **An evicter and the keeper's install**: the lock orders them. If the install comes first, the
//!   node's place is that of the home only if the node is what was written: *cold* is the new
//!   image. If the evicter comes first, what it evicted was clean against the home before, so what
//!   was written has the same content, and the install replaces one cold address by another.
//! - **An install and a loader** of the image before: the loader is refused, and looks again.
//! - **Two installs**: the keeper is one, and installs bundles in the order in which the log names
//!   them, each page before the ids that its bundle frees. So the last one is the newest.
//! - **A page that is freed and used again**: its home left with it, under the lock; the next use
//!   is new.
//!
//! **Cold to cold** is what readers without the lock cannot see in one piece: the second word is
//! that of the new image a moment before the first one is. Both have the same epoch, since the two
//! images have the same content, and the epoch is all that a reader who does not load looks at. A
//! loader whose image does not fit the second word asks [`Homes::is_current`] before it speaks of
//! damage.
//!
//! # What has moved
//!
//! A move is durable with the next checkpoint. Until then what is durable of the page is the same
//! image where it was; that nothing is written there before, the table of segments sees to.
//!
//! Cleaning gives a page that is in memory a home elsewhere, while its node has the place of the
//! image that was moved. So a home keeps the place that such nodes have, beside the address.
//!
//! That place may be given out again, even for a later image of the same page. A node that is told
//! so, before that image is installed, has the place that the home keeps, and not the content. So
//! who tells a node its place says that first ([`Homes::tells`]), and the home forgets the place:
//! until the later image is installed no node of the page is clean but one that was loaded from the
//! home's address. When it is, no node of before is in the mapping but one with changes.
//!
//! # What a checkpoint writes
//!
//! Loads and evictions do not change what is durable, but where that stands. Only the keeper
//! changes it, by the last three steps. [`MapFreeze`] makes of this the content of a frame at the
//! moment when a checkpoint began.
//!
//! # Memory
//!
//! 32 bytes for each page that is in memory and durable, and with the room that a hash table keeps
//! free, 37 to 75. The shard of a page is that of its frame, so one lock is enough to export one.
//!
//! The models are in `loom_tests` (two or three threads, every order) and `shuttle_tests` (two
//! loaders, two evicters, two writers and the keeper).

mod freeze;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, any(loom, shuttle)))]
mod model;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::PoisonError;

pub(in crate::store) use freeze::MapFreeze;

use super::map::{Entry, Map, frame_of};
use crate::store::atomic::{Mutex, MutexGuard};
use crate::store::pages::MapEntry;
use crate::store::word::{ColdAddress, Epoch, MapView, MapWord, PageId, SecondWord, Special};

/// Locks of the homes. Fewer in models, where each is an object of its own.
const SHARDS: usize = if cfg!(loom) { 1 } else { 64 };

/// A durable image of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Home {
    pub(in crate::store) address: ColdAddress,
    pub(in crate::store) second: SecondWord,
}

/// The home of a page that is in memory.
#[derive(Clone, Copy, Debug)]
struct Kept {
    home: Home,
    /// The place of nodes that have just this image: where it was written first.
    place: ColdAddress,
}

/// What became of an image that is durable now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Installed {
    /// It is its page's newest; the one before, if there was one, lay at `left`.
    Newest { left: Option<ColdAddress> },
    /// Nothing refers to it: its page is free, or what was moved is not the newest any more.
    Unwanted,
}

/// What became of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evicted {
    Done,
    /// The node is not what is durable.
    Dirty,
    /// The page has another node, or is not in memory.
    Changed,
}

/// The homes of all pages that are in memory. Shared by all cores.
pub(in crate::store) struct Homes(Box<[Mutex<Shard>]>);

#[derive(Default)]
struct Shard(HashMap<PageId, Kept, BuildHasherDefault<IdHasher>>);

impl fmt::Debug for Homes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Homes").finish_non_exhaustive()
    }
}

impl Default for Homes {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Homes {
    fn shard(&self, frame: u32) -> MutexGuard<'_, Shard> {
        let shard = &self.0[frame as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_of(&self, id: PageId) -> MutexGuard<'_, Shard> {
        self.shard(frame_of(id))
    }

    /// The home of a page that is in memory, if it has one.
    pub(in crate::store) fn get(&self, id: PageId) -> Option<Home> {
        self.shard_of(id).0.get(&id).map(|kept| kept.home)
    }

    /// The place of clean nodes of a page that is in memory and has a home, and the home's second
    /// word.
    pub(in crate::store) fn clean(&self, id: PageId) -> Option<(ColdAddress, SecondWord)> {
        self.shard_of(id).0.get(&id).map(|kept| (kept.place, kept.home.second))
    }

    /// Where the newest durable image of a page lies, whether it is in memory or not. None too if
    /// its frame is not loaded.
    pub(in crate::store) fn place(&self, map: &Map, id: PageId) -> Option<ColdAddress> {
        let entry = map.entry(id).loaded()?;
        self.shard_of(id).durable(id, entry).place()
    }

    /// Loads a page: gives it `node`, which has the image that `cold` and `second` named. Whether
    /// it did; if not, the page is something else by now.
    pub(super) fn admit(
        &self,
        id: PageId,
        entry: &Entry,
        (cold, second): (MapWord, SecondWord),
        node: MapWord,
    ) -> bool {
        self.leave_cold(id, entry, (cold, second), node)
    }

    /// Gives a page up, whose image `cold` and `second` named, and cannot be read. Whether it did;
    /// if not, the page is something else by now.
    pub(super) fn give_up(&self, id: PageId, entry: &Entry, image: (MapWord, SecondWord)) -> bool {
        self.leave_cold(id, entry, image, MapWord::special(Special::Damaged))
    }

    fn leave_cold(
        &self,
        id: PageId,
        entry: &Entry,
        (cold, second): (MapWord, SecondWord),
        new: MapWord,
    ) -> bool {
        let mut shard = self.shard_of(id);
        loop {
            let Some((word, home)) = cold_now(entry) else { return false };
            if cold_address(cold) != Some(home.address) || second != home.second {
                return false;
            }
            // It fails if the age in the word changes, which needs no lock.
            if entry.replace(word, new).is_ok() {
                shard.0.insert(id, Kept { home, place: home.address });
                return true;
            }
        }
    }

    /// Whether the page still is the image that `cold` and `second` named.
    pub(super) fn is_current(&self, id: PageId, entry: &Entry, cold: MapWord, second: SecondWord) -> bool {
        let _shard = self.shard_of(id);
        cold_now(entry)
            .is_some_and(|(_, home)| cold_address(cold) == Some(home.address) && second == home.second)
    }

    /// Evicts a page whose word is `node`, a node with this `place`. `close` keeps everybody from
    /// changing the node's area from then on, and says whether nobody had: it is called only if
    /// the place is that of the page's home.
    pub(super) fn evict(
        &self,
        id: PageId,
        entry: &Entry,
        (node, place): (MapWord, ColdAddress),
        close: impl FnOnce() -> bool,
    ) -> Evicted {
        let mut shard = self.shard_of(id);
        let Some(&Kept { home, place: clean }) = shard.0.get(&id) else { return Evicted::Dirty };
        if place != clean || !close() {
            return Evicted::Dirty;
        }
        if entry.make_cold(node, home.cold_word(0), home.second).is_err() {
            return Evicted::Changed;
        }
        shard.0.remove(&id);
        Evicted::Done
    }

    /// A node of a page is about to have this place, where its image is being written: other nodes
    /// with the same place, whose image was moved from there, are not clean any more.
    pub(super) fn tells(&self, id: PageId, place: ColdAddress) {
        let mut shard = self.shard_of(id);
        if let Some(kept) = shard.0.get_mut(&id)
            && kept.place == place
        {
            kept.place = kept.home.address;
        }
    }

    /// The keeper installs the image of a page, which is durable now and newer than the one before.
    pub(in crate::store) fn install(
        &self,
        map: &Map,
        id: PageId,
        image: Home,
        freeze: &mut MapFreeze,
    ) -> Installed {
        self.replace(map, id, None, image, freeze)
    }

    /// The keeper installs the image of a page, which is durable now, with the same content as the
    /// one at `from`. It counts only if that is the newest.
    pub(in crate::store) fn install_moved(
        &self,
        map: &Map,
        id: PageId,
        from: ColdAddress,
        image: Home,
        freeze: &mut MapFreeze,
    ) -> Installed {
        self.replace(map, id, Some(from), image, freeze)
    }

    fn replace(
        &self,
        map: &Map,
        id: PageId,
        from: Option<ColdAddress>,
        image: Home,
        freeze: &mut MapFreeze,
    ) -> Installed {
        let Some(entry) = map.entry(id).loaded() else { return Installed::Unwanted };
        let mut shard = self.shard_of(id);
        let left = loop {
            let word = entry.word();
            match word.view() {
                MapView::Node(_) => {
                    let before = shard.0.get(&id).copied();
                    let left = before.map(|kept| kept.home.address);
                    if from.is_some() && from != left {
                        return Installed::Unwanted;
                    }
                    freeze.changes(map, id, || shard.durable(id, entry));
                    let place = before.filter(|_| from.is_some()).map_or(image.address, |kept| kept.place);
                    shard.0.insert(id, Kept { home: image, place });
                    break left;
                }
                MapView::Cold { address, age } => {
                    if from.is_some_and(|from| from != address) {
                        return Installed::Unwanted;
                    }
                    freeze.changes(map, id, || shard.durable(id, entry));
                    // It fails if the age changes.
                    if entry.make_cold(word, image.cold_word(age), image.second).is_ok() {
                        break Some(address);
                    }
                }
                MapView::Free | MapView::Special(_) => return Installed::Unwanted,
            }
        };
        Installed::Newest { left }
    }

    /// Makes `id` free if its entry says `current`, which nobody but the caller changes any more.
    /// Its next use starts from `epoch`. None if the entry says something else; otherwise where the
    /// page's newest durable image lay, if it had one.
    ///
    /// What was never durable may be freed by anyone, without a `freeze`, with the epoch that it
    /// was given out with: that changes nothing that is durable. Else it is the keeper, when a
    /// bundle is durable that says so.
    pub(super) fn free(
        &self,
        map: &Map,
        id: PageId,
        (current, epoch): (MapWord, Epoch),
        freeze: Option<&mut MapFreeze>,
    ) -> Option<Option<ColdAddress>> {
        let entry = map.entry(id).loaded()?;
        let mut shard = self.shard_of(id);
        if entry.word() != current {
            return None;
        }
        let was = shard.durable(id, entry);
        if was != free(epoch) {
            match freeze {
                Some(freeze) => freeze.changes(map, id, || was),
                None => map.mark_changed(frame_of(id)),
            }
        }
        if !map.free(id, current, epoch) {
            return None;
        }
        shard.0.remove(&id);
        Some(was.place())
    }
}

impl Shard {
    /// What is durable of a page of this shard.
    fn durable(&self, id: PageId, entry: &Entry) -> MapEntry {
        let of = |home: Home| MapEntry::Cold { place: home.address, second: home.second };
        let second = entry.second();
        match (entry.word().view(), self.0.get(&id)) {
            (MapView::Cold { address, .. }, _) => of(Home { address, second }),
            (_, Some(kept)) => of(kept.home),
            (MapView::Special(_), None) => MapEntry::Damaged { second },
            (MapView::Free | MapView::Node(_), None) => free(second.epoch()),
        }
    }
}

impl Home {
    fn cold_word(self, age: u8) -> MapWord {
        MapWord::cold(self.address, age).expect("an age of a word is one")
    }
}

/// The image of a page that is cold. Under its lock.
fn cold_now(entry: &Entry) -> Option<(MapWord, Home)> {
    let word = entry.word();
    let address = cold_address(word)?;
    Some((word, Home { address, second: entry.second() }))
}

fn cold_address(word: MapWord) -> Option<ColdAddress> {
    if let MapView::Cold { address, .. } = word.view() { Some(address) } else { None }
}

fn free(epoch: Epoch) -> MapEntry {
    if epoch == Epoch::FIRST { MapEntry::Unused } else { MapEntry::Free { epoch } }
}

/// Spreads page ids, which the store itself gives out.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio: neighbours go far apart. The table looks at the low and the high bits.
        let spread = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = spread ^ spread >> 32;
    }
}
