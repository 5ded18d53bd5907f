//! One page in a model: what loaders, evicters, writers and the keeper do with it.
//!
//! A node is a number, made of its content's version and of its place. The namespace is a list of
//! versions by address; the checksum of an image is its address, so no two images have the same.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Evicted, Home, Homes, Installed, MapFreeze};
use crate::store::btree::map::{Entry, Filling, Map};
use crate::store::pages::MapEntry;
use crate::store::word::{ColdAddress, Epoch, MapView, MapWord, NodeAddress, PageId, SecondWord};

/// Addresses are below this.
const ADDRESSES: u64 = 64;

#[derive(Debug)]
pub(super) struct Model {
    pub(super) map: Map,
    pub(super) homes: Homes,
    pub(super) id: PageId,
    epoch: Epoch,
    /// The version at each address; at 0 there is none.
    images: Mutex<Vec<u32>>,
    /// How many writes there were: each makes the next version.
    written: AtomicU32,
}

/// The keeper, and the address that it knows to be durable.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    pub(super) freeze: MapFreeze,
    durable: Option<u64>,
}

fn address(granule: u64) -> ColdAddress {
    ColdAddress::new(granule, 1).expect("small")
}

fn second(granule: u64, epoch: Epoch) -> SecondWord {
    SecondWord::new(u32::try_from(granule).expect("small"), epoch, false, false)
}

fn node(version: u32, place: u64) -> MapWord {
    let number = (u64::from(version) + 1) * ADDRESSES + place;
    MapWord::node(NodeAddress::new(number * NodeAddress::ALIGN).expect("small"))
}

/// The version and the place of a node.
fn parts(address: NodeAddress) -> (u32, u64) {
    let number = address.get() / NodeAddress::ALIGN;
    (u32::try_from(number / ADDRESSES - 1).expect("small"), number % ADDRESSES)
}

impl Model {
    /// A new page, in memory.
    pub(super) fn new() -> Self {
        let map = Map::new(1);
        let (id, epoch) = map.allocate(None, &mut Filling::default()).expect("room");
        let model = Self {
            map,
            homes: Homes::default(),
            id,
            epoch,
            images: Mutex::new(vec![0]),
            written: AtomicU32::new(0),
        };
        model.entry().replace(MapWord::FREE, node(0, 0)).expect("it is ours");
        model
    }

    /// A page that is cold.
    pub(super) fn cold() -> (Self, Keeper) {
        let (model, mut keeper) = (Self::new(), Keeper::default());
        keeper.flush(&model);
        model.evict();
        assert!(matches!(model.entry().word().view(), MapView::Cold { .. }), "nobody was in the way");
        (model, keeper)
    }

    pub(super) fn entry(&self) -> &Entry {
        self.map.entry(self.id).loaded().expect("it was given out")
    }

    fn image(&self, granule: u64) -> u32 {
        let granule = usize::try_from(granule).expect("small");
        self.images.lock().expect("no panic")[granule]
    }

    /// Writes an image somewhere.
    fn store(&self, version: u32) -> u64 {
        let mut images = self.images.lock().expect("no panic");
        images.push(version);
        images.len() as u64 - 1
    }

    pub(super) fn load(&self) {
        let (word, second) = self.entry().load();
        let MapView::Cold { address, .. } = word.view() else { return };
        let version = self.image(address.granule());
        if u64::from(second.checksum_low()) != address.granule() {
            let is_current = self.homes.is_current(self.id, self.entry(), word, second);
            assert!(!is_current, "a whole image is not taken for a damaged one");
            return;
        }
        let node = node(version, address.granule());
        self.homes.admit(self.id, self.entry(), (word, second), node);
    }

    pub(super) fn evict(&self) -> bool {
        let word = self.entry().word();
        let MapView::Node(node) = word.view() else { return false };
        let (_, place) = parts(node);
        place != 0
            && self.homes.evict(self.id, self.entry(), (word, address(place)), || true) == Evicted::Done
    }

    pub(super) fn write(&self) {
        loop {
            let word = self.entry().word();
            let MapView::Node(current) = word.view() else {
                self.load();
                continue;
            };
            let (version, _) = parts(current);
            if self.entry().replace(word, node(version + 1, 0)).is_ok() {
                self.written.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Another use of the id begins, which the caller was given.
    pub(super) fn create_again(&self) {
        self.entry()
            .replace(MapWord::FREE, node(self.written.load(Ordering::Relaxed), 0))
            .expect("it is ours");
    }

    /// When nobody is at it any more.
    pub(super) fn check(&self, keeper: &Keeper) {
        let written = self.written.load(Ordering::Relaxed);
        keeper.check(self);
        match self.entry().word().view() {
            MapView::Node(current) => {
                let (version, place) = parts(current);
                assert_eq!(version, written, "every write counts");
                let kept = self.homes.shard_of(self.id).0.get(&self.id).copied();
                if let Some(kept) = kept.filter(|kept| kept.place.granule() == place) {
                    assert_eq!(self.image(kept.home.address.granule()), version, "what is clean is durable");
                }
            }
            MapView::Cold { address, .. } => {
                assert_eq!(self.image(address.granule()), written, "a cold page has every write");
            }
            view => panic!("nobody makes it {view:?}"),
        }
        self.write();
        self.load();
        assert_eq!(self.written.load(Ordering::Relaxed), written + 1);
    }
}

impl Keeper {
    /// What is durable of the page is what this keeper has made durable.
    pub(super) fn check(&self, model: &Model) {
        assert_eq!(durable(model), self.entry(model), "the newest durable home is known");
    }

    /// What a map page is to say of the page.
    pub(super) fn entry(&self, model: &Model) -> MapEntry {
        let cold = |at| MapEntry::Cold { place: address(at), second: second(at, model.epoch) };
        self.durable.map_or(MapEntry::Unused, cold)
    }

    /// Writes the page, in memory or not, and installs it.
    pub(super) fn flush(&mut self, model: &Model) {
        self.capture(model, true);
    }

    /// The same, but the node that was written stays as it is.
    pub(super) fn flush_beside(&mut self, model: &Model) {
        self.capture(model, false);
    }

    fn capture(&mut self, model: &Model, replace: bool) {
        let word = model.entry().word();
        let MapView::Node(current) = word.view() else { return };
        let (version, _) = parts(current);
        let at = model.store(version);
        if replace {
            // If it fails, what was written is durable all the same.
            let _ = model.entry().replace(word, node(version, at));
        }
        self.check(model);
        let image = Home { address: address(at), second: second(at, model.epoch) };
        let installed = model.homes.install(&model.map, model.id, image, &mut self.freeze);
        assert_eq!(installed, Installed::Newest { left: self.durable.map(address) });
        self.durable = Some(at);
        self.check(model);
    }

    /// Moves the newest durable image.
    pub(super) fn clean(&mut self, model: &Model) {
        let Some(from) = self.durable else { return };
        let at = model.store(model.image(from));
        let image = Home { address: address(at), second: second(at, model.epoch) };
        let of = |from| (&model.map, model.id, address(from));
        let (map, id, stale) = of(0);
        let unwanted = model.homes.install_moved(map, id, stale, image, &mut self.freeze);
        assert_eq!(unwanted, Installed::Unwanted, "that is not the newest");
        let (map, id, from) = of(from);
        let installed = model.homes.install_moved(map, id, from, image, &mut self.freeze);
        assert_eq!(installed, Installed::Newest { left: Some(from) });
        self.durable = Some(at);
        self.check(model);
    }

    /// Begins a checkpoint; its frames.
    pub(super) fn begin(&mut self, model: &Model) -> Vec<u32> {
        self.freeze.begin(&model.map, []);
        self.freeze.frames().collect()
    }

    /// Exports the frames of the checkpoint, and ends it. What they say of the page.
    pub(super) fn export(&mut self, model: &Model, frames: &[u32]) -> Vec<MapEntry> {
        let mut of_page = Vec::new();
        for frame in frames {
            let page = self.freeze.export(&model.map, &model.homes, *frame).expect("loaded");
            let ids = model.map.entries(*frame).expect("loaded").map(|(id, _)| id);
            of_page.extend(
                ids.zip(page.entries().iter()).filter(|(id, _)| *id == model.id).map(|(_, entry)| *entry),
            );
        }
        self.freeze.durable();
        of_page
    }

    /// Frees the page, which is another one when it is in use again.
    pub(super) fn free(&mut self, model: &Model) {
        let step = (model.entry().word(), model.epoch);
        let left = model.homes.free(&model.map, model.id, step, Some(&mut self.freeze));
        assert_eq!(left, Some(self.durable.take().map(address)), "nobody else changes the page");
        self.check(model);
    }
}

/// What is durable of the page.
fn durable(model: &Model) -> MapEntry {
    model.homes.shard_of(model.id).durable(model.id, model.entry())
}
