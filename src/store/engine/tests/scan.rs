//! Scans over keys that come and go, and over what a crash has left in the log.

use std::cell::RefCell;
use std::ops::{Bound, RangeBounds};

use super::*;
use crate::store::engine::scan::Scan;
use crate::store::overlay::Direction;

const KEYS: u32 = 4000;
/// Blocks of so many keys stay, or come and go.
const BLOCK: u32 = 150;

fn stays(key: u32) -> bool {
    (key / BLOCK).is_multiple_of(3)
}

fn value(key: u32, random: &mut StdRng) -> Vec<u8> {
    let mut value = vec![random.random(); random.random_range(4..300)];
    value[..4].copy_from_slice(&key.to_be_bytes());
    value
}

fn any_bound(random: &mut StdRng) -> Bound<Vec<u8>> {
    let key = random.random_range(0..KEYS + 10).to_be_bytes().to_vec();
    match random.random_range(0..4) {
        0 => Bound::Unbounded,
        1 => Bound::Excluded(key),
        // Between two keys.
        2 => Bound::Included([&key[..], &[7][..]].concat()),
        _ => Bound::Included(key),
    }
}

/// Some puts and deletes of keys that do not stay, many of them next to each other.
async fn disturb(store: &Store, random: &mut StdRng) {
    let start = random.random_range(0..KEYS);
    let puts = random.random();
    for key in start..(start + random.random_range(1..BLOCK)).min(KEYS) {
        if stays(key) {
            continue;
        }
        if puts {
            put(store, &key.to_be_bytes(), &value(key, random)).await;
        } else {
            let deleted = store.write(catalog(), &key.to_be_bytes(), Change::Delete, Durability::None).await;
            deleted.expect("no fault is injected");
        }
    }
}

/// Scans, while keys that do not stay come and go if `disturbs`, and compares.
async fn check_scan(store: &Store, model: &Model, random: &mut StdRng, disturbs: bool) -> usize {
    let bounds = (any_bound(random), any_bound(random));
    let direction = if random.random() { Direction::Forwards } else { Direction::Backwards };
    let mut scan = Scan::new(store, catalog(), bounds.clone(), direction);
    let (mut found, mut last) = (Vec::new(), None::<Vec<u8>>);
    let what = format!("{direction:?} {bounds:?}");
    while let Some((key, value)) = scan.next().await.expect("no fault is injected") {
        assert!(bounds.contains(&key), "{key:?} in {what}");
        let goes_on = |last: &Vec<u8>| (*last < key) == (direction == Direction::Forwards) && *last != key;
        assert!(last.as_ref().is_none_or(goes_on), "{key:?} after {last:?} in {what}");
        assert_eq!(value[..4], key[..], "{what}");
        last = Some(key.clone());
        let number = u32::from_be_bytes(key[..].try_into().expect("keys have 4 bytes"));
        if !disturbs || stays(number) {
            found.push((key, value));
        }
        if disturbs && random.random_ratio(1, 20) {
            disturb(store, random).await;
        }
    }
    let is_in = |(key, _): &(&Vec<u8>, &Vec<u8>)| bounds.contains(*key);
    let of_model = model.iter().filter(is_in).map(|(key, value)| (key.clone(), value.clone()));
    let mut expected: Vec<_> = of_model
        .filter(|(key, _)| {
            !disturbs || stays(u32::from_be_bytes(key[..].try_into().expect("keys have 4 bytes")))
        })
        .collect();
    if direction == Direction::Backwards {
        expected.reverse();
    }
    assert!(found == expected, "{what}: {} keys instead of {}", found.len(), expected.len());
    assert_eq!(scan.next_ref().await.expect("no fault is injected"), None, "the end stays the end");
    found.len()
}

async fn fill(store: &Store, model: &mut Model, random: &mut StdRng, writes: u32) -> u64 {
    let mut number = 0;
    for _ in 0..writes {
        let key = random.random_range(0..KEYS);
        if random.random_ratio(1, 3) {
            let key = key.to_be_bytes().to_vec();
            let deleted = store.write(catalog(), &key, Change::Delete, Durability::None).await;
            number = deleted.expect("no fault is injected");
            model.remove(&key);
        } else {
            let value = value(key, random);
            number = put(store, &key.to_be_bytes(), &value).await;
            model.insert(key.to_be_bytes().to_vec(), value);
        }
    }
    number
}

#[test]
fn a_random_key_is_any_of_those_that_are_there() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let world = World::new(8);
    let core = world.core("core");
    let kept = RefCell::new(Model::new());
    for round in 0..3 {
        core.block_on(async {
            let mut model = kept.take();
            let store = reopen(&disk).await;
            let mut random = StdRng::seed_from_u64(round);
            if round == 0 {
                assert_eq!(store.random_key(catalog(), || random.random()).await.expect("it works"), None);
                work(&store, &mut model, &mut random, 2000, 6000).await;
            }
            let mut drawn = std::collections::BTreeMap::<Vec<u8>, u32>::new();
            for _ in 0..10 * model.len() {
                let key = store.random_key(catalog(), || random.random()).await.expect("it works");
                *drawn.entry(key.expect("there are some")).or_default() += 1;
            }
            assert!(drawn.keys().all(|key| model.contains_key(key)));
            // Each is drawn 10 times in the mean; a leaf may be half as full as another.
            assert!(drawn.len() * 100 > model.len() * 99, "{} of {}", drawn.len(), model.len());
            assert!(drawn.values().all(|times| *times < 70), "{:?}", drawn.values().max());
            if round == 1 {
                store.close().await.expect("it closes");
            } else {
                // The log has what is not in pages yet.
                store.wait(store.log.log().next_number() - 1).await.expect("it is durable");
            }
            kept.replace(model);
        });
        // Nothing of it goes on beside the next one.
        core.crash();
    }
}

/// Directly after a crash the log has some of the keys, or all of them, and the pages the others.
#[test]
fn a_random_key_is_any_of_those_that_the_log_has() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let world = World::new(8);
    let core = world.core("core");
    for round in 0..3_u32 {
        core.block_on(async {
            let store = reopen(&disk).await;
            let root = store.open_tree("tree", 0, Durability::None).await.expect("it works").0.root;
            let mut number = 0;
            // Later most are new, or written again, and of the others every third goes.
            for key in round * 1500..round * 1500 + 3000 {
                let key = key.to_be_bytes();
                number = store.put(root, &key, &[1; 60], Durability::None).await.expect("it works");
            }
            for key in (0..round * 1500).step_by(3) {
                let deleted = store.delete(root, &key.to_be_bytes(), Durability::None).await;
                number = deleted.expect("it works").unwrap_or(number);
            }
            store.wait(number).await.expect("it is durable");
        });
        core.crash();
        core.block_on(async {
            let store = reopen(&disk).await;
            let root = store.find_tree("tree").expect("it is there").root;
            assert!(!store.shared.overlay.is_drained());
            let there: std::collections::BTreeSet<u32> =
                (0..round * 1500 + 3000).filter(|key| *key >= round * 1500 || key % 3 > 0).collect();
            let mut random = StdRng::seed_from_u64(9);
            let mut drawn = BTreeMap::<u32, u32>::new();
            for _ in 0..10 * there.len() {
                let key = store.random_key(root, || random.random()).await.expect("it works").expect("there");
                *drawn.entry(u32::from_be_bytes(key[..].try_into().expect("4 bytes"))).or_default() += 1;
            }
            assert!(drawn.keys().all(|key| there.contains(key)));
            assert!(drawn.len() * 100 > there.len() * 99, "{} of {}", drawn.len(), there.len());
            // Each is drawn 10 times in the mean; the first ones are not drawn much more often.
            let first = there.iter().take(256).filter_map(|key| drawn.get(key)).sum::<u32>();
            assert!(first < 256 * 30, "round {round}: {first}");
            // What is not of this round is in pages.
            while !store.shared.overlay.is_drained() {
                crate::rt::sleep(std::time::Duration::from_millis(1)).await;
            }
            store.checkpoint().await.expect("a checkpoint");
        });
        core.crash();
    }
}

#[test]
fn a_scan_shows_what_is_there_in_either_direction() {
    on_a_disk(64 << 20, async |disk| {
        let (mut model, mut random) = (Model::new(), StdRng::seed_from_u64(5));
        let store = reopen(&disk).await;
        assert_eq!(check_scan(&store, &model, &mut random, false).await, 0);
        let mut shown = 0;
        for _ in 0..10 {
            fill(&store, &mut model, &mut random, 1000).await;
            for _ in 0..10 {
                shown += check_scan(&store, &model, &mut random, false).await;
            }
        }
        assert!(shown > 10_000, "{shown} keys were shown");
        store.close().await.expect("it closes");
    });
}

#[test]
fn what_stays_is_shown_once_while_other_keys_come_and_go() {
    on_a_disk(64 << 20, async |disk| {
        let (mut model, mut random) = (Model::new(), StdRng::seed_from_u64(6));
        let store = reopen(&disk).await;
        fill(&store, &mut model, &mut random, 8000).await;
        let mut shown = 0;
        for _ in 0..60 {
            shown += check_scan(&store, &model, &mut random, true).await;
        }
        assert!(shown > 5_000, "{shown} keys were shown");
        store.close().await.expect("it closes");
    });
}

/// After a crash, the log is in the overlay at first, and goes into the tree while scans go on.
#[test]
fn what_the_log_has_and_the_tree_does_not_is_shown() {
    let world = World::new(11);
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let core = world.core("core");
    let (mut model, mut random) = (Model::new(), StdRng::seed_from_u64(7));
    let (mut shown, mut overlaid) = (0, 0);
    for round in 0..6 {
        core.block_on(async {
            let store = reopen(&disk).await;
            for disturbs in [false, true, false] {
                overlaid += u32::from(!store.shared.overlay.is_drained());
                if disturbs == (round % 2 == 0) {
                    shown += check_scan(&store, &model, &mut random, disturbs).await;
                }
                // What was disturbed is what the tree has.
                if disturbs {
                    model.retain(|key, _| {
                        stays(u32::from_be_bytes(key[..].try_into().expect("keys have 4 bytes")))
                    });
                    for key in (0..KEYS).filter(|key| !stays(*key)) {
                        if let Some(value) = get(&store, &key.to_be_bytes()).await {
                            model.insert(key.to_be_bytes().to_vec(), value);
                        }
                    }
                }
            }
            let number = fill(&store, &mut model, &mut random, 3000).await;
            store.wait(number).await.expect("it is durable");
        });
        core.crash();
    }
    assert!(overlaid >= 5, "{overlaid} scans began with an overlay");
    assert!(shown > 5_000, "{shown} keys were shown");
}
