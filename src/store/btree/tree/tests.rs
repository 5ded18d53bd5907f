mod cold;
mod keeper;
mod limits;
mod pack;
mod speed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::store::btree::image::{self, LEAF_TARGET_BYTES};
use crate::store::btree::node::{Block, ProcessMemory};
use crate::store::btree::nodes::Nodes;
use crate::store::cache::Room;

fn pages(cores: usize) -> Arc<Nodes<ProcessMemory>> {
    Nodes::new(ProcessMemory, 1 << 20, cores)
}

/// The sequence numbers of a test: the newest that was drawn.
struct Counted<'a>(&'a AtomicU64);

impl Numbers for Counted<'_> {
    fn at_least(&mut self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn draw(&mut self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel) + 1
    }
}

fn draw(seq: &AtomicU64) -> Counted<'_> {
    Counted(seq)
}

fn forwards<M: NodeMemory>(core: &Core<M>, root: TreeRoot) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut from = Some(Vec::new());
    while let Some(key) = from {
        let leaf = core.pin().scan_leaf(root, &Target::At(key), |key, found| {
            all.push((key.to_vec(), found.value.to_vec()));
        });
        from = leaf.expect("room");
    }
    all
}

fn backwards<M: NodeMemory>(core: &Core<M>, root: TreeRoot) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut target = Some(Target::Below(None));
    while let Some(from) = target {
        let leaf = core.pin().scan_leaf(root, &from, |key, found| {
            all.push((key.to_vec(), found.value.to_vec()));
        });
        target = leaf.expect("room").map(|below| Target::Below(Some(below)));
    }
    all.reverse();
    all
}

/// How many pages a tree has, all of which are in memory.
fn reachable<M: NodeMemory>(core: &Core<M>, root: TreeRoot) -> usize {
    fn below<M: NodeMemory>(pin: &Pin<'_, M>, id: PageId) -> usize {
        let children = pin.children(id).expect("in memory").unwrap_or_default();
        1 + children.iter().map(|child| below(pin, child.id())).sum::<usize>()
    }
    below(&core.pin(), root.root.id())
}

/// How many ids of pages are in use.
fn used<M: NodeMemory>(pages: &Nodes<M>) -> usize {
    pages.pages_in_use()
}

#[test]
fn what_was_written_is_read_and_what_was_deleted_is_not() {
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let mut draw = draw(&seq);
    for number in 0..20_000u32 {
        let key = (number.wrapping_mul(0x9e37_79b9)).to_be_bytes();
        core.pin().write(root, &key, Change::Put(&number.to_le_bytes()), &mut draw).expect("room");
    }
    let pin = core.pin();
    for number in 0..20_000u32 {
        let key = (number.wrapping_mul(0x9e37_79b9)).to_be_bytes();
        let found = pin.get(root, &key).expect("in memory").map(|found| found.value);
        assert_eq!(found, Some(&number.to_le_bytes()[..]), "{number}");
        assert_eq!(pin.get(root, &key[1..]), Ok(None));
    }
    drop(pin);
    assert_eq!(forwards(&core, root).len(), 20_000);
    for number in 0..20_000u32 {
        let key = (number.wrapping_mul(0x9e37_79b9)).to_be_bytes();
        core.pin().write(root, &key, Change::Delete, &mut draw).expect("room");
    }
    assert!(forwards(&core, root).is_empty());
    let in_use = pages.pages_in_use();
    assert!(in_use <= 3, "{in_use} pages are left of an empty tree");
}

#[test]
fn a_reference_is_found_as_one_in_the_area_and_in_the_image() {
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let mut draw = draw(&seq);
    let place = [3; image::VALUE_REFERENCE_BYTES];
    core.pin().write(root, b"large", Change::PutReference(&place), &mut draw).expect("room");
    for number in 0..200u8 {
        let pin = core.pin();
        let found = pin.get(root, b"large").expect("in memory").expect("it is there");
        assert!(found.is_reference && found.value == &place[..], "after {number} writes of others");
        drop(pin);
        core.pin().write(root, &[number], Change::Put(&[number; 40]), &mut draw).expect("room");
        let pin = core.pin();
        assert!(!pin.get(root, &[number]).expect("in memory").expect("it is there").is_reference);
    }
}

#[test]
fn what_is_too_long_is_refused() {
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let (key, value) = (vec![1; MAX_KEY_BYTES + 1], vec![2; MAX_LEAF_VALUE_BYTES + 1]);
    let seq = AtomicU64::new(0);
    let mut draw = draw(&seq);
    let pin = core.pin();
    assert_eq!(pin.write(root, &key, Change::Put(b""), &mut draw), Err(Refusal::KeyTooLong));
    assert_eq!(pin.write(root, &key, Change::Delete, &mut draw), Err(Refusal::KeyTooLong));
    assert_eq!(pin.write(root, &key[1..], Change::Put(&value), &mut draw), Err(Refusal::ValueTooLong));
    let refused = pin.update(
        root,
        b"key",
        |_, buffer| {
            buffer.extend_from_slice(&value);
            Some(Change::Put(buffer))
        },
        &mut draw,
    );
    assert_eq!(refused, Err(Refusal::ValueTooLong));
    assert_eq!(pin.get(root, &key), Ok(None));
    assert_eq!(seq.load(Ordering::Acquire), 0, "no number is drawn for what is refused");
}

/// Of the longest keys and values, whose keys differ in the last byte alone, or in the first.
#[test]
fn the_longest_records_split_as_others_do() {
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let mut draw = draw(&seq);
    let value = vec![3; MAX_ENTRY_BYTES - MAX_KEY_BYTES];
    let key = |number: u8| {
        let mut key = vec![number % 2; MAX_KEY_BYTES];
        key[MAX_KEY_BYTES - 1] = number;
        key
    };
    for round in 0..3 {
        for number in 0..=255 {
            core.pin().write(root, &key(number), Change::Put(&value[round..]), &mut draw).expect("room");
        }
    }
    let all = forwards(&core, root);
    assert_eq!(all.len(), 256);
    assert!(all.iter().all(|(_, found)| found[..] == value[2..]));
    assert_eq!(all, backwards(&core, root));
    for number in 0..=255 {
        core.pin().write(root, &key(number), Change::Delete, &mut draw).expect("room");
    }
    assert!(forwards(&core, root).is_empty());
}

/// The same of the longest values, with short ones between them.
#[test]
fn the_longest_values_split_as_others_do() {
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let mut draw = draw(&seq);
    let key = |number: u32| [&[1; SHORT_KEY_BYTES - 4][..], &number.to_be_bytes()].concat();
    let len = |number: u32| if number.is_multiple_of(3) { 5 } else { MAX_LEAF_VALUE_BYTES };
    for round in 0..3 {
        for number in 0..300u32 {
            let number = number * 7 % 300;
            let value = vec![round; len(number)];
            core.pin().write(root, &key(number), Change::Put(&value), &mut draw).expect("room");
        }
    }
    let all = forwards(&core, root);
    assert_eq!(all.len(), 300);
    assert!((0..).zip(&all).all(|(number, (_, found))| *found == vec![2; len(number)]));
    for number in 0..300 {
        core.pin().write(root, &key(number), Change::Delete, &mut draw).expect("room");
    }
    assert!(forwards(&core, root).is_empty());
}

/// Both halves of a split are used: also if keys are much longer than what tells them apart.
#[test]
fn leaves_are_half_full_after_ascending_inserts() {
    for shared in [0, 30, 90] {
        let pages = pages(1);
        let core = pages.attach().expect("a core");
        let root = core.new_tree(1).expect("room");
        let seq = AtomicU64::new(0);
        let mut draw = draw(&seq);
        let records = 20_000u32;
        for number in 0..records {
            let key = [&vec![7; shared][..], &number.to_be_bytes(), &[0; 6]].concat();
            core.pin().write(root, &key, Change::Put(&[1; 10]), &mut draw).expect("room");
        }
        // Keys share all but 10 bytes at most: an entry takes about 30 bytes.
        let most = records as usize * 34 / (LEAF_TARGET_BYTES * 2 / 5);
        let pages = pages.pages_in_use();
        assert!(pages < most, "{shared} bytes shared: {pages} pages, {most} were enough");
    }
}

#[test]
fn a_page_stays_as_hot_as_it_was_when_its_node_is_replaced() {
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let tree = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let look = || {
        let pin = core.pin();
        let (node, word) = pin.find(tree.root.id()).expect("in memory").expect("a page");
        (node.touched(), word)
    };
    let (new, first) = look();
    assert_eq!(new, crate::store::cache::hand::NEW);
    // Each write touches the leaf: a node that began from nothing would have one touch.
    for number in 0..100u8 {
        core.pin().write(tree, b"key", Change::Put(&[number; 40]), &mut &seq).expect("room");
        if look().1 != first {
            break;
        }
    }
    let (touched, word) = look();
    assert_eq!((touched, word == first), (3, false));
}

/// Memory for so many nodes.
#[derive(Clone)]
struct Limited {
    left: Arc<AtomicU64>,
}

// SAFETY: blocks come from `ProcessMemory` and go back there.
unsafe impl NodeMemory for Limited {
    fn allocate(&self, len_bytes: usize, room: Room) -> Option<Block> {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        ProcessMemory.allocate(len_bytes, room)
    }

    unsafe fn free(&self, block: Block) {
        self.left.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller says, and it came from there.
        unsafe { ProcessMemory.free(block) };
    }
}

/// A tree whose memory is full is read as before and loses nothing, and goes on when there is
/// memory again: what others begin to split or to remove without room is finished then.
#[test]
fn full_memory_is_an_answer_and_nothing_is_lost() {
    for blocks in [3, 4, 6, 20] {
        let left = Arc::new(AtomicU64::new(blocks));
        let pages = Nodes::new(Limited { left: Arc::clone(&left) }, 1 << 18, 1);
        let core = pages.attach().expect("a core");
        let root = core.new_tree(1).expect("room");
        let seq = AtomicU64::new(0);
        let mut draw = draw(&seq);
        let mut model = BTreeMap::new();
        let mut refused = 0;
        let mut write = |key: [u8; 4], change: Change<'_>, model: &mut BTreeMap<Vec<u8>, Vec<u8>>| {
            let mut written = core.pin().write(root, &key, change, &mut draw);
            if written == Err(Refusal::NoRoom) {
                core.collect();
                written = core.pin().write(root, &key, change, &mut draw);
            }
            match (written, change) {
                (Ok(_), Change::Put(value)) => drop(model.insert(key.to_vec(), value.to_vec())),
                (Ok(_), _) => drop(model.remove(&key[..])),
                (Err(refusal), _) => {
                    assert_eq!(refusal, Refusal::NoRoom);
                    return false;
                }
            }
            true
        };
        for round in 0..3u32 {
            for number in 0..1500u32 {
                let key = (number.wrapping_mul(0x9e37_79b9) ^ round).to_be_bytes();
                refused += u32::from(!write(key, Change::Put(&[5; 60]), &mut model));
            }
            let expected: Vec<_> = model.clone().into_iter().collect();
            let pin = core.pin();
            for (key, value) in &expected {
                assert_eq!(pin.get(root, key).expect("in memory").map(|found| found.value), Some(&value[..]));
            }
            drop(pin);
            let keys: Vec<[u8; 4]> = model.keys().map(|key| key[..].try_into().expect("4 bytes")).collect();
            for key in &keys {
                write(*key, Change::Delete, &mut model);
            }
            let expected: Vec<_> = model.clone().into_iter().collect();
            left.fetch_add(40, Ordering::Relaxed);
            assert_eq!(forwards(&core, root), expected);
            for key in keys {
                assert!(write(key, Change::Delete, &mut model), "there is memory again");
            }
            core.collect();
            assert_eq!(reachable(&core, root), used(&pages), "a page was made and forgotten");
            left.fetch_sub(40, Ordering::Relaxed);
        }
        assert!(refused > 0, "{blocks} blocks were enough");
    }
}

/// Two threads fill and empty ranges that overlap, a third one scans: leaves come and go under all.
#[test]
fn leaves_come_and_go_under_scans() {
    const ROUNDS: u32 = 40;
    const KEYS: u32 = 600;
    let pages = pages(4);
    let seq = AtomicU64::new(0);
    let root = pages.attach().expect("a core").new_tree(1).expect("room");
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2u32 {
            let (pages, seq, done) = (&pages, &seq, &done);
            scope.spawn(move || {
                let core = pages.attach().expect("a core");
                let mut draw = draw(seq);
                // Every fourth key stays; each thread has every other key of the rest.
                let own = (0..KEYS).filter(|number| number % 4 != 0 && number % 2 == thread);
                let stays = (0..KEYS).filter(|number| number % 4 == 0 && number / 4 % 2 == thread);
                for number in stays.filter(|number| number / 100 % 2 == 0) {
                    core.pin()
                        .write(root, &number.to_be_bytes(), Change::Put(&[9; 80]), &mut draw)
                        .expect("room");
                }
                for _ in 0..ROUNDS {
                    for number in own.clone() {
                        core.pin()
                            .write(root, &number.to_be_bytes(), Change::Put(&[8; 80]), &mut draw)
                            .expect("room");
                    }
                    for number in own.clone() {
                        core.pin()
                            .write(root, &number.to_be_bytes(), Change::Delete, &mut draw)
                            .expect("room");
                        assert_eq!(core.pin().get(root, &number.to_be_bytes()), Ok(None));
                    }
                }
                done.fetch_add(1, Ordering::Release);
            });
        }
        let core = pages.attach().expect("a core");
        let mut known = 0;
        while done.load(Ordering::Acquire) < 2 {
            for all in [forwards(&core, root), backwards(&core, root)] {
                assert!(all.is_sorted_by(|a, b| a.0 < b.0), "a scan went back, or found a key twice");
                let staying = all.iter().filter(|(_, value)| value[0] == 9).count();
                assert!(staying >= known, "a key that stays was passed over");
                known = staying;
            }
        }
    });
    let core = pages.attach().expect("a core");
    let all = forwards(&core, root);
    assert!(all.iter().all(|(_, value)| value[0] == 9) && all.len() == 75);
    let in_use = pages.pages_in_use();
    assert!(in_use < 40, "{in_use} pages for 75 records");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u16, Vec<u8>),
    Delete(u16),
    Append(u16, u8),
    DeleteAllBelow(u16),
}

fn key_of(number: u16) -> Vec<u8> {
    // Of different lengths, with shared prefixes, prefixes of each other among them.
    let mut key = b"shared/".to_vec();
    key.extend(number.to_be_bytes().into_iter().take(1 + usize::from(!number.is_multiple_of(3))));
    key.extend(vec![b'x'; usize::from(number % 40)]);
    key
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..120),
        1 => prop::collection::vec(any::<u8>(), 900..1008),
    ];
    prop_oneof![
        20 => (any::<u16>(), value).prop_map(|(key, value)| Step::Put(key, value)),
        15 => any::<u16>().prop_map(Step::Delete),
        10 => (any::<u16>(), any::<u8>()).prop_map(|(key, byte)| Step::Append(key, byte)),
        1 => any::<u16>().prop_map(Step::DeleteAllBelow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn one_core_sees_a_map(steps in prop::collection::vec(step(), 1..1500)) {
        let pages = pages(1);
        let core = pages.attach().expect("a core");
        let root = core.new_tree(1).expect("room");
        let seq = AtomicU64::new(0);
        let mut draw = draw(&seq);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(number, value) => {
                    core.pin().write(root, &key_of(number), Change::Put(&value), &mut draw).expect("room");
                    model.insert(key_of(number), value);
                }
                Step::Delete(number) => {
                    core.pin().write(root, &key_of(number), Change::Delete, &mut draw).expect("room");
                    model.remove(&key_of(number));
                }
                Step::Append(number, byte) => {
                    core.pin().update(root, &key_of(number), |found, value| {
                        value.extend_from_slice(found.map_or(&[], |found| found.value));
                        value.truncate(900);
                        value.push(byte);
                        Some(Change::Put(value))
                    }, &mut draw).expect("room");
                    let value = model.entry(key_of(number)).or_default();
                    value.truncate(900);
                    value.push(byte);
                }
                Step::DeleteAllBelow(number) => {
                    let end = key_of(number);
                    let keys: Vec<_> = model.range(..end).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        core.pin().write(root, &key, Change::Delete, &mut draw).expect("room");
                        model.remove(&key);
                    }
                }
            }
        }
        let expected: Vec<_> = model.clone().into_iter().collect();
        prop_assert_eq!(&forwards(&core, root), &expected);
        prop_assert_eq!(&backwards(&core, root), &expected);
        let pin = core.pin();
        for (key, value) in &model {
            prop_assert_eq!(pin.get(root, key).expect("in memory").map(|found| found.value), Some(&value[..]));
        }
    }
}

/// Two threads add to counters and move a token between keys, while they delete and put others.
#[test]
fn cores_write_one_tree_at_once_and_lose_nothing() {
    const KEYS: u64 = 512;
    const ADDS: u64 = 60_000;
    let pages = pages(2);
    let seq = AtomicU64::new(0);
    let root = pages.attach().expect("a core").new_tree(1).expect("room");
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (pages, seq) = (&pages, &seq);
            scope.spawn(move || {
                let core = pages.attach().expect("a core");
                let mut draw = draw(seq);
                for number in 0..ADDS {
                    let key = (number * 7919 % KEYS).to_be_bytes();
                    core.pin()
                        .update(
                            root,
                            &key,
                            |found, value| {
                                let count = found.map_or(0, |found| {
                                    u64::from_le_bytes(found.value[..8].try_into().expect("8 bytes"))
                                });
                                value.extend_from_slice(&(count + 1).to_le_bytes());
                                value.extend_from_slice(&[7; 60]);
                                Some(Change::Put(value))
                            },
                            &mut draw,
                        )
                        .expect("room");
                    // Keys of its own come and go, so that leaves split and are removed.
                    let own =
                        [&key[..], &[u8::try_from(thread).expect("small")], &number.to_be_bytes()].concat();
                    core.pin().write(root, &own, Change::Put(&[1; 100]), &mut draw).expect("room");
                    if number >= 1000 {
                        let old = number - 1000;
                        let key = (old * 7919 % KEYS).to_be_bytes();
                        let own =
                            [&key[..], &[u8::try_from(thread).expect("small")], &old.to_be_bytes()].concat();
                        let pin = core.pin();
                        assert!(
                            pin.get(root, &own).expect("in memory").is_some(),
                            "an own key is lost: {old}"
                        );
                        drop(pin);
                        core.pin().write(root, &own, Change::Delete, &mut draw).expect("room");
                    }
                }
            });
        }
    });
    let core = pages.attach().expect("a core");
    let all = forwards(&core, root);
    let sum: u64 = all
        .iter()
        .filter(|(key, _)| key.len() == 8)
        .map(|(_, value)| u64::from_le_bytes(value[..8].try_into().expect("8 bytes")))
        .sum();
    assert_eq!(sum, 2 * ADDS);
    assert_eq!(all.len() as u64, KEYS + 2 * 1000);
}

/// Prints how long point reads and writes take, in memory, of as many records as `BOSON_RECORDS`
/// says: 16 bytes of key and 100 of value, in random order.
#[test]
#[ignore = "a measurement"]
fn time_of_point_reads_and_writes() {
    let records: u64 =
        std::env::var("BOSON_RECORDS").map_or(1_000_000, |text| text.parse().expect("a number"));
    let pages = Nodes::new(ProcessMemory, 1 << 24, 1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let seq = AtomicU64::new(0);
    let mut draw = draw(&seq);
    let key = |number: u64| {
        let hash = xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes());
        hash.to_be_bytes()
    };
    let value = [5; 100];
    for round in 0..2 {
        let start = std::time::Instant::now();
        for number in 0..records {
            core.pin().write(root, &key(number), Change::Put(&value), &mut draw).expect("room");
        }
        let each = start.elapsed().as_nanos() / u128::from(records);
        println!("{}: {each} ns", if round == 0 { "insert" } else { "overwrite" });
    }
    for round in 0..3 {
        let start = std::time::Instant::now();
        let mut found = 0;
        for number in 0..records {
            let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % records;
            let pin = core.pin();
            found += pin.get(root, &key(number)).expect("in memory").map_or(0, |found| found.value.len());
        }
        let each = start.elapsed().as_nanos() / u128::from(records);
        println!("read, round {round}: {each} ns, {found} bytes");
    }
    let start = std::time::Instant::now();
    let count = forwards(&core, root).len();
    println!("scan: {} ns a record, {count} records", start.elapsed().as_nanos() / u128::from(records));
}
