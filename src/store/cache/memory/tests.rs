//! Trees in an arena, filled until there is no more room.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::store::btree::{Change, Core, Nodes, Refusal, TreeRoot};

const LIMIT_BYTES: u64 = 2 << 20;

type Pages = Arc<Nodes<CacheMemoryOfCore>>;

fn memory(limit_bytes: u64) -> CacheMemory {
    CacheMemory::new(Account::new(limit_bytes, reserve_bytes(limit_bytes))).expect("mapped")
}

fn pages(memory: &CacheMemory, cores: usize) -> Pages {
    Nodes::new(memory.clone(), 1 << 18, cores)
}

fn key(number: u64) -> [u8; 8] {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

/// A core, a tree, and the numbers of its writes.
struct Writer<'p> {
    core: Core<CacheMemoryOfCore>,
    root: TreeRoot,
    seq: &'p AtomicU64,
}

impl Writer<'_> {
    /// Writes as a caller does that does not wait: once more after what can be freed is freed.
    fn write(&self, room: Room, key: &[u8], change: Change<'_>) -> Result<u64, Refusal> {
        let attempt = || self.core.pin_with(room).write(self.root, key, change, &mut &*self.seq);
        attempt().or_else(|_| {
            self.core.collect();
            attempt()
        })
    }

    /// Puts the keys from `from` on, every `step`th, until there is no room. The first that was
    /// refused.
    fn fill(&self, from: u64, step: usize, value: &[u8]) -> u64 {
        let refused = (from..).step_by(step).find(|number| {
            let written = self.write(Room::Ordinary, &key(*number), Change::Put(value));
            assert!(written.is_ok() || written == Err(Refusal::NoRoom), "{written:?}");
            written.is_err()
        });
        refused.expect("memory is finite")
    }
}

/// Nothing is in use: by the arena, by the account.
fn is_empty(memory: &CacheMemory) {
    assert_eq!(memory.arena().allocated_bytes(), 0);
    assert_eq!(memory.arena().empty_slabs() * 65_536, memory.arena().bytes());
    assert_eq!((memory.account().part_bytes(Part::Nodes), memory.account().used_bytes()), (0, 0));
}

#[test]
fn a_full_memory_refuses_keeps_a_reserve_and_loses_nothing() {
    let memory = memory(LIMIT_BYTES);
    let pages = pages(&memory, 1);
    let seq = AtomicU64::new(0);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(1).expect("room");
    let writer = Writer { core, root, seq: &seq };
    let value = [7; 100];
    assert_eq!(memory.pressure_bytes(0), 0);
    let end = writer.fill(0, 1, &value);
    assert!(memory.pressure_bytes(0) > 0, "evicters are asked");
    writer.core.memory().settle();
    let used = memory.account().used_bytes();
    assert!(used <= LIMIT_BYTES - memory.account().reserve_bytes(), "{used}");
    assert!(used > LIMIT_BYTES / 2, "{used} bytes are in use");
    assert_eq!(memory.account().part_bytes(Part::Nodes), used);
    assert_eq!(memory.arena().allocated_bytes(), used);
    // All that was taken is there, and each of it can be deleted, which needs new nodes.
    for number in 0..end {
        let pin = writer.core.pin();
        assert_eq!(
            pin.get(root, &key(number)).expect("nothing is cold").map(|found| found.value),
            Some(&value[..])
        );
        drop(pin);
        writer.write(Room::Reserve, &key(number), Change::Delete).expect("a delete has room");
    }
    writer.core.collect();
    assert_eq!(memory.pressure_bytes(0), 0);
    assert!(writer.fill(0, 1, &value) > end / 2, "there is room again");
    drop((writer, pages));
    is_empty(&memory);
}

/// Leaves of several sizes at a time, so that slabs of their classes are full in part: whatever
/// those were when memory was full, overwrites go on, and nothing is used up by them.
#[test]
fn overwrites_of_the_same_size_go_on_when_memory_is_full() {
    for limit_kib in [1024, 1500, LIMIT_BYTES >> 10, 3000] {
        let memory = memory(limit_kib << 10);
        let pages = pages(&memory, 1);
        let seq = AtomicU64::new(0);
        let core = pages.attach().expect("a core");
        let root = core.new_tree(1).expect("room");
        let writer = Writer { core, root, seq: &seq };
        let end = writer.fill(0, 1, &[0; 100]);
        let mut pages_before = None;
        for round in 1..4u8 {
            for number in 0..end {
                let change = Change::Put(&[round; 100]);
                writer.write(Room::Reserve, &key(number), change).expect("the reserve comes back");
            }
            // The first round has put into images what was in areas before, which may split them.
            let pages_now = Some(pages.pages_in_use());
            assert!(round == 1 || pages_now == pages_before, "overwrites split nothing");
            pages_before = pages_now;
        }
        writer.core.memory().settle();
        let reserved = usize::try_from(memory.account().reserve_bytes()).expect("small") / SLAB_BYTES;
        assert!(memory.arena().empty_slabs() >= reserved, "{limit_kib} KiB: the reserve is whole");
        let pin = writer.core.pin();
        assert!((0..end).all(|number| {
            let found = pin.get(root, &key(number)).expect("nothing is cold");
            found.is_some_and(|found| found.value == [3; 100])
        }));
    }
}

#[test]
fn the_reserve_has_room_for_the_largest_nodes_whatever_fills_the_rest() {
    for filling in [128, 320, 4096, 9000, MAX_NODE_BYTES] {
        let memory = memory(8 << 20);
        let core = memory.attach();
        let mut blocks = Vec::new();
        // Every other block is free again: the account has room then, and the arena has none for
        // larger ones but its reserve.
        for round in 0..2 {
            while let Some(block) = core.allocate(filling, Room::Ordinary) {
                blocks.push(block);
            }
            if round == 0 {
                let (keep, free): (Vec<_>, Vec<_>) =
                    blocks.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
                for (_, block) in free {
                    // SAFETY: allocated above, and used by nobody.
                    unsafe { core.free(block) };
                }
                blocks = keep.into_iter().map(|(_, block)| block).collect();
                while let Some(block) = core.allocate(filling * 2, Room::Ordinary) {
                    blocks.push(block);
                    if filling * 4 > MAX_NODE_BYTES {
                        break;
                    }
                }
            }
        }
        for _ in 0..RESERVED_NODES {
            blocks.push(core.allocate(MAX_NODE_BYTES, Room::Reserve).expect("the reserve"));
        }
        for block in blocks {
            // SAFETY: as above.
            unsafe { core.free(block) };
        }
        drop(core);
        is_empty(&memory);
    }
}

#[test]
fn blocks_have_the_size_that_their_code_says() {
    let memory = memory(64 << 20);
    let core = memory.attach();
    assert!(Arc::ptr_eq(core.portion().account(), memory.account()));
    for len in (1..=MAX_NODE_BYTES).step_by(61).chain([MAX_NODE_BYTES]) {
        let block = core.allocate(len, Room::Ordinary).expect("room");
        let of_code = Block::of_code(block.address, block.class);
        assert!(of_code.bytes >= len && of_code.bytes <= len.next_multiple_of(64) * 9 / 8 + 64);
        core.settle();
        assert_eq!(memory.account().used_bytes(), memory.arena().allocated_bytes());
        assert_eq!(memory.account().used_bytes(), bytes_of(of_code));
        // SAFETY: allocated above, and used by nobody.
        unsafe { core.free(block) };
    }
}

/// A core writes, and leaves; another one frees all that it has allocated.
#[test]
fn cores_free_what_others_allocated() {
    let memory = memory(LIMIT_BYTES);
    let pages = pages(&memory, 2);
    let seq = AtomicU64::new(0);
    let root = pages.attach().expect("a core").new_tree(1).expect("room");
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let (pages, seq, memory) = (&pages, &seq, &memory);
        scope.spawn(move || {
            let writer = Writer { core: pages.attach().expect("a core"), root, seq };
            for number in 0..2000 {
                writer.write(Room::Ordinary, &key(number), Change::Put(&[1; 100])).expect("room");
            }
            drop(writer);
            sender.send(()).expect("the other one waits");
        });
        scope.spawn(move || {
            let writer = Writer { core: pages.attach().expect("a core"), root, seq };
            receiver.recv().expect("the other one says when");
            let before = memory.account().used_bytes() - pages.retired_bytes();
            for number in 0..2000 {
                writer.write(Room::Reserve, &key(number), Change::Delete).expect("room");
            }
            let steps = (0..1000).take_while(|_| pages.retired_bytes() > 0);
            steps.for_each(|_| writer.core.collect());
            writer.core.memory().settle();
            let left = memory.account().used_bytes();
            assert!(left < before / 10, "{left} of {before} bytes are left in use");
        });
    });
    drop(pages);
    is_empty(&memory);
}

/// Four cores fill a small memory, delete and read what they have put, over and over.
#[test]
fn cores_that_share_a_full_memory_lose_and_leak_nothing() {
    const CORES: usize = 4;
    let memory = memory(LIMIT_BYTES);
    let pages = pages(&memory, CORES);
    let seq = AtomicU64::new(0);
    let root = pages.attach().expect("a core").new_tree(1).expect("room");
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        for own in 0..CORES {
            let (pages, seq, memory, refused) = (&pages, &seq, &memory, &refused);
            scope.spawn(move || {
                let writer = Writer { core: pages.attach().expect("a core"), root, seq };
                let mut model = BTreeMap::new();
                let own = u64::try_from(own).expect("small");
                let mut random = own + 1;
                for round in 0..30_000u32 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let number = (random >> 33) % 6_000 * 4 + own;
                    if random >> 32 & 7 == 0 {
                        // Others may have the reserve at this moment.
                        if writer.write(Room::Reserve, &key(number), Change::Delete).is_ok() {
                            model.remove(&number);
                        }
                    } else if random >> 32 & 1 == 0 {
                        let pin = writer.core.pin();
                        let found = pin
                            .get(root, &key(number))
                            .expect("nothing is cold")
                            .map(|found| found.value.to_vec());
                        assert_eq!(found, model.get(&number).cloned());
                    } else {
                        let len = usize::try_from(random >> 40).expect("64 bits") % 400;
                        let value = vec![u8::try_from(round % 251).expect("small"); len];
                        match writer.write(Room::Ordinary, &key(number), Change::Put(&value)) {
                            Ok(_) => drop(model.insert(number, value)),
                            Err(refusal) => {
                                assert_eq!(refusal, Refusal::NoRoom);
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    assert!(memory.account().used_bytes() <= LIMIT_BYTES);
                }
                let pin = writer.core.pin();
                for (number, value) in &model {
                    assert_eq!(
                        pin.get(root, &key(*number)).expect("nothing is cold").map(|found| found.value),
                        Some(&value[..])
                    );
                }
            });
        }
    });
    assert!(refused.load(Ordering::Relaxed) > 0, "memory was full");
    drop(pages);
    is_empty(&memory);
}
