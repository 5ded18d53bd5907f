use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::store::codec::to_usize;
use crate::store::pages::geometry::GRANULE_BYTES;
use crate::store::word::PAGE_IDS;

fn owner() -> Owner {
    let geometry = Geometry::of_namespace(1 << 40, 4096, false).expect("a possible size");
    Owner { identity: [3; 16], geometry }
}

/// Pages that were written, by their address.
#[derive(Default)]
struct Disk {
    pages: BTreeMap<u64, Vec<u8>>,
    next: u64,
    written: usize,
}

impl Disk {
    fn write(&mut self, level: u8, index: u64, content: &[u8]) -> PageRef {
        let granules = page::stored_granules(content.len());
        let mut bytes = vec![0; granules as usize * GRANULE_BYTES];
        let checksum = header(level, index).write(&owner().identity, content, content.len(), &mut bytes);
        let segment_granules = u64::from(owner().geometry.segment_granules());
        // Behind the header of segment 1 and of each later one.
        let slots = (segment_granules - 64) / u64::from(granules);
        let granule =
            (1 + self.next / slots) * segment_granules + 64 + self.next % slots * u64::from(granules);
        self.next += 1;
        self.written += 1;
        self.pages.insert(granule, bytes);
        PageRef { place: ColdAddress::of_numbers(granule, granules), checksum }
    }

    fn read(&self, place: ColdAddress) -> &[u8] {
        &self.pages[&place.granule()]
    }

    fn load(&self, (root, levels): (Option<PageRef>, u8), next_page: u64) -> Result<MapTree, Damage> {
        let mut load = MapLoad::new(root, levels, next_page, owner());
        while let Some(place) = load.next() {
            load.read(self.read(place))?;
        }
        Ok(load.finish())
    }
}

fn entry(id: u64, round: u32) -> MapEntry {
    let epoch = Epoch::new(round).expect("few rounds");
    match (id + u64::from(round)) % 5 {
        0 => MapEntry::Free { epoch: epoch.next() },
        1 => MapEntry::Damaged { second: SecondWord::new(7, epoch, true, false) },
        _ => MapEntry::Cold {
            place: ColdAddress::of_numbers((1 << 18) + 64 + id % 1000, 10),
            second: SecondWord::new(u32::try_from(id % 1000).expect("small"), epoch, false, true),
        },
    }
}

#[test]
fn entries_come_back_and_others_are_refused() {
    let mut disk = Disk::default();
    let mut page = MapPage::default();
    (0..).zip(page.0.iter_mut()).skip(3).for_each(|(id, slot)| *slot = entry(id, 4));
    let from = disk.write(0, 9, &page.encode());
    assert_eq!(from.place.granules(), 65, "a header and 256 times 16 bytes");
    assert_eq!(MapPage::decode(disk.read(from.place), 9, from, &owner()), Ok(page.clone()));

    let refused =
        |bytes: &[u8], index, from, of: &Owner| MapPage::decode(bytes, index, from, of).expect_err("");
    let problem = |damage: Damage| (damage.structure, damage.problem);
    let stale = PageRef { checksum: from.checksum ^ 1 << 40, ..from };
    for (index, from) in [(8, from), (9, stale)] {
        let damage = refused(disk.read(from.place), index, from, &owner());
        assert_eq!(problem(damage), (Structure::MapPage, "another page, or an older one, lies in its place"));
        assert_eq!(damage.offset, from.place.offset_bytes());
    }
    let other = Owner { identity: [4; 16], ..owner() };
    assert_eq!(refused(disk.read(from.place), 9, from, &other).problem, "it belongs to another store");
    assert_eq!(refused(&disk.read(from.place)[..4000], 9, from, &owner()).problem, "it ends too early");
    // Behind each checksum: words that no entry has.
    for (offset, word) in
        [(0, 1u64 << 62), (0, 3 << 62 | 1), (0, 2 << 62 | 1), (0, 2 << 62), (8, 1), (8, 1 << 58)]
    {
        let mut content = MapPage::default().encode();
        content[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        let from = disk.write(0, 9, &content);
        let problem = refused(disk.read(from.place), 9, from, &owner()).problem;
        assert!(problem.starts_with("an entry"), "{problem}");
    }
    for len in [4080, 4112] {
        let mut content = page.encode();
        content.resize(len, 0);
        let from = disk.write(0, 9, &content);
        assert!(MapPage::decode(disk.read(from.place), 9, from, &owner()).is_err());
    }
}

#[test]
fn every_flipped_bit_of_a_map_page_is_noticed() {
    let mut disk = Disk::default();
    let from = disk.write(0, 9, &MapPage::default().encode());
    for byte in 0..to_usize(from.place.len_bytes()) {
        let mut bytes = disk.read(from.place).to_vec();
        bytes[byte] ^= 1 << (byte % 8);
        assert!(MapPage::decode(&bytes, 9, from, &owner()).is_err(), "byte {byte}");
    }
}

/// Changes pages of a map at random and writes checkpoints, of which only the changed paths are
/// written; what is loaded then is what was written.
#[test]
fn a_checkpoint_writes_the_changed_paths_and_no_others() {
    let mut random = fastrand(1);
    let mut disk = Disk::default();
    let mut tree = MapTree::default();
    let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut next_page = 0;
    for round in 0..60u32 {
        next_page = match round {
            0..10 => next_page + random(300),
            10..20 => next_page + random(60_000),
            20..40 => next_page + random(1 << 22),
            40 => 1 << 33,
            59 => PAGE_IDS,
            _ => next_page,
        }
        .max(1);
        let last = (next_page - 1) / 256;
        let near = last.min(2000);
        let mut changed = BTreeSet::from([last, last - random(near + 1)]);
        changed.extend((0..random(20)).map(|_| random(last + 1)));
        changed.retain(|_| random(4) > 0);

        let before = tree.clone();
        let mut expected: BTreeSet<(u8, u64)> = BTreeSet::new();
        let levels = (1..=5).find(|&levels| levels == 5 || next_page <= 1 << (8 * u32::from(levels)));
        let levels = levels.expect("five are enough").max(before.root().1);
        let grown = if before.root().0.is_none() { levels } else { before.root().1 };
        for level in 0..levels {
            expected.extend(changed.iter().map(|index| (level, index >> (8 * u32::from(level)))));
        }
        expected.extend((grown..levels).map(|level| (level, 0)));

        let mut write = tree.write(changed.iter().map(|&index| (0, index)), next_page);
        let mut written = BTreeSet::new();
        while let Some((level, index)) = write.next() {
            let content = if level == 0 {
                let mut page = MapPage::default();
                let ids = index * 256..;
                ids.zip(page.0.iter_mut()).for_each(|(id, slot)| *slot = entry(id, round));
                model.insert(index, page.encode());
                page.encode()
            } else {
                write.content(level, index)
            };
            assert!(written.insert((level, index)), "({level}, {index}) twice");
            let children = written.iter().all(|&(below, _)| below <= level);
            assert!(children, "a parent before a child");
            write.placed(disk.write(level, index, &content));
        }
        assert_eq!(written, expected, "round {round}");
        let change = write.finish();
        let root = change.root(&before);
        assert_eq!(change.places().count(), written.len());
        let old: BTreeSet<_> = before.pages().map(|page| page.place).collect();
        let left = tree.apply(change);
        assert_eq!(tree.root(), root);
        let new: BTreeSet<_> = tree.pages().map(|page| page.place).collect();
        assert_eq!(left.iter().copied().collect::<BTreeSet<_>>(), old.difference(&new).copied().collect());

        assert_eq!(disk.load(root, next_page).as_ref(), Ok(&tree), "round {round}");
        for (&index, content) in &model {
            let from = tree.find(0, index).expect("it was written");
            let page = MapPage::decode(disk.read(from.place), index, from, &owner()).expect("whole");
            assert_eq!(&page.encode(), content, "page {index} in round {round}");
        }
        let all = tree.pages_in(|_| true);
        assert_eq!(all.len(), new.len());
        assert!(
            all.iter()
                .all(|&(level, index)| new.contains(&tree.find(level, index).expect("it was found").place))
        );
    }
    assert_eq!(tree.root().1, 5);
}

#[test]
fn damaged_upper_pages_are_refused() {
    let mut disk = Disk::default();
    let leaf = disk.write(0, 0, &MapPage::default().encode());
    let mut content = PageRef::encode(Some(leaf)).to_vec();
    content.resize(MAP_CONTENT_BYTES, 0);
    let good = disk.write(1, 0, &content);
    assert!(disk.load((Some(good), 2), 257).is_ok());
    assert!(disk.load((Some(good), 3), 257).is_err(), "it is of level 1");
    content.copy_within(..16, 16 * 2);
    let beyond = disk.write(1, 0, &content);
    assert_eq!(
        disk.load((Some(beyond), 2), 512).expect_err("ids 512 to 767").problem,
        "it has pages for ids that were never used"
    );
    assert!(disk.load((Some(beyond), 2), 513).is_ok());
    content[16..24].copy_from_slice(&5u64.to_le_bytes());
    let none = disk.write(1, 0, &content);
    assert_eq!(disk.load((Some(none), 2), 513).expect_err("5").problem, "it has a reference that is none");
}

/// Numbers below what is asked for, from a seed.
fn fastrand(seed: u64) -> impl FnMut(u64) -> u64 {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    move |below| random.random_range(0..below.max(1))
}
