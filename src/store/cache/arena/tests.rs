use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use proptest::prelude::*;

use super::*;

mod timing;

#[test]
fn classes_hold_what_they_are_for_and_lose_an_eighth_at_most() {
    assert_eq!(class_of(0), Some(0));
    assert_eq!(class_of(class::MAX_CLASS_BYTES + 1), None);
    assert_eq!(class_of(class::MAX_CLASS_BYTES), Some(CLASSES - 1));
    for bytes in 1..=class::MAX_CLASS_BYTES {
        let class = class_of(bytes).expect("a class");
        assert!(bytes_of(class) >= bytes);
        assert!(class == 0 || bytes_of(class - 1) < bytes, "no smaller class holds {bytes}");
        assert!(bytes <= 1024 || (bytes_of(class) - bytes) * 8 < bytes, "{bytes}: {}", bytes_of(class));
        assert_eq!(class_of(bytes_of(class)), Some(class));
    }
}

/// One block in use, filled with its number.
#[derive(Debug)]
struct Used {
    block: Block,
    number: u8,
}

impl Used {
    fn new(block: Block, number: u8) -> Self {
        // SAFETY: the block was just allocated, and has that many bytes.
        unsafe { block.ptr.write_bytes(number, block.bytes) };
        Self { block, number }
    }

    fn free(self, magazines: &Magazines) {
        // SAFETY: the block is in use, by this test alone, and was filled when it was allocated.
        let bytes = unsafe { std::slice::from_raw_parts(self.block.ptr.as_ptr(), self.block.bytes) };
        assert!(bytes.iter().all(|&byte| byte == self.number), "somebody wrote to a block in use");
        // SAFETY: allocated from this arena, and forgotten after this.
        unsafe { magazines.free(self.block) };
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Alloc {
        core: usize,
        bytes: usize,
    },
    /// The block with this number of those in use, counted around.
    Free {
        core: usize,
        which: usize,
    },
    Flush {
        core: usize,
    },
    /// A core leaves, and another comes.
    Leave {
        core: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let core = 0..2usize;
    let bytes = prop_oneof![
        6 => 1..2000usize,
        6 => 1..17_000usize,
        1 => Just(4096usize),
        1 => 16_000..=MAX_ALLOCATION_BYTES + 1,
    ];
    prop_oneof![
        12 => (core.clone(), bytes).prop_map(|(core, bytes)| Operation::Alloc { core, bytes }),
        10 => (core.clone(), any::<usize>()).prop_map(|(core, which)| Operation::Free { core, which }),
        1 => core.clone().prop_map(|core| Operation::Flush { core }),
        1 => core.prop_map(|core| Operation::Leave { core }),
    ]
}

/// The arena against a map of what is in use.
fn run(slabs: usize, operations: &[Operation]) {
    let arena = NodeArena::new(slabs * SLAB_BYTES, 0).expect("mapped");
    let mut cores = [arena.attach(), arena.attach()];
    let mut used: Vec<Used> = Vec::new();
    let mut places: BTreeMap<usize, usize> = BTreeMap::new();
    for (number, operation) in operations.iter().enumerate() {
        match *operation {
            Operation::Alloc { core, bytes } => {
                let Some(block) = cores[core].alloc(bytes, Room::Ordinary) else { continue };
                let place = block.ptr.addr().get();
                assert!(place.is_multiple_of(64) && block.bytes >= bytes);
                let end = place + block.bytes;
                let before = places.range(..end).next_back();
                assert!(before.is_none_or(|(at, bytes)| at + bytes <= place), "blocks overlap");
                let offset = arena.memory.offset_of(block.ptr);
                assert!(offset + block.bytes <= arena.bytes(), "inside the arena");
                places.insert(place, block.bytes);
                used.push(Used::new(block, u8::try_from(number % 199).expect("small")));
            }
            Operation::Free { core, which } if !used.is_empty() => {
                let one = used.swap_remove(which % used.len());
                places.remove(&one.block.ptr.addr().get());
                one.free(&cores[core]);
            }
            Operation::Free { .. } => {}
            Operation::Flush { core } => cores[core].flush(),
            Operation::Leave { core } => cores[core] = arena.attach(),
        }
        let bytes: usize = places.values().sum();
        assert_eq!(arena.allocated_bytes(), u64::try_from(bytes).expect("64 bits"));
    }
    used.drain(..).for_each(|one| one.free(&cores[0]));
    cores.iter().for_each(Magazines::flush);
    assert_eq!(arena.allocated_bytes(), 0);
    assert_eq!(arena.empty_slabs(), slabs, "all memory has come back");
    let all: Vec<_> =
        (0..slabs).map(|_| cores[1].alloc(SLAB_BYTES, Room::Ordinary).expect("a slab")).collect();
    assert_eq!(cores[0].alloc(1, Room::Ordinary), None, "full");
    for block in all {
        // SAFETY: allocated above, and used by nobody.
        unsafe { cores[0].free(block) };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn blocks_never_overlap_and_all_memory_comes_back(
        slabs in 1..40usize,
        operations in prop::collection::vec(operation(), 0..600),
    ) {
        run(slabs, &operations);
    }
}

#[test]
fn a_slab_that_is_empty_again_gets_another_class() {
    let arena = NodeArena::new(4 * SLAB_BYTES, 0).expect("mapped");
    let core = arena.attach();
    for bytes in [64, 4096, 320, 16_384, 65_536, 100_000, 1088] {
        let mut used = Vec::new();
        while let Some(block) = core.alloc(bytes, Room::Ordinary) {
            used.push(Used::new(block, 7));
        }
        let sum: usize = used.iter().map(|one| one.block.bytes).sum();
        // What is lost: the rest of each slab, which is smaller than a block.
        assert!(sum + 4 * bytes.min(SLAB_BYTES / 2) > arena.bytes(), "{bytes}: {sum} bytes are had");
        used.into_iter().for_each(|one| one.free(&core));
    }
}

#[test]
fn a_full_class_takes_what_is_larger() {
    let arena = NodeArena::new(2 * SLAB_BYTES, 0).expect("mapped");
    let core = arena.attach();
    let keep =
        [core.alloc(4096, Room::Ordinary).expect("room"), core.alloc(4608, Room::Ordinary).expect("room")];
    assert_eq!(core.alloc(4000, Room::Ordinary).expect("its class").bytes, 4096);
    assert_eq!(core.alloc(3000, Room::Ordinary).expect("a larger class").bytes, 4096);
    assert_eq!(core.alloc(1900, Room::Ordinary), None, "more than twice");
    assert_eq!(core.alloc(5000, Room::Ordinary), None, "smaller ones do not do");
    assert_eq!(keep[1].bytes, 4608);
}

#[test]
fn the_reserve_is_not_cut_while_there_is_a_larger_block() {
    let arena = NodeArena::new(3 * SLAB_BYTES, SLAB_BYTES).expect("mapped");
    let core = arena.attach();
    let small = std::iter::from_fn(|| core.alloc(4096, Room::Ordinary));
    let mut small: Vec<_> = small.take(SLAB_BYTES / 4096).collect();
    assert_eq!(small.len(), SLAB_BYTES / 4096);
    small.push(core.alloc(5120, Room::Ordinary).expect("room"));
    assert_eq!(arena.empty_slabs(), 1);
    let more: Vec<_> = (1..SLAB_BYTES / 5120).map(|_| core.alloc(4000, Room::Reserve)).collect();
    assert!(more.iter().all(|block| block.is_some_and(|block| block.bytes == 5120)), "{more:?}");
    assert_eq!(arena.empty_slabs(), 1, "the reserve is whole");
    assert_eq!(core.alloc(4000, Room::Ordinary), None);
    assert_eq!(core.alloc(4000, Room::Reserve).expect("the reserve").bytes, 4096);
    assert_eq!(arena.empty_slabs(), 0);
}

#[test]
fn reserved_slabs_stay_empty_but_for_those_who_may() {
    for bytes in [64, 4096, 30_000, SLAB_BYTES, 2 * SLAB_BYTES] {
        let arena = NodeArena::new(16 * SLAB_BYTES, 3 * SLAB_BYTES).expect("mapped");
        let core = arena.attach();
        let mut used = Vec::new();
        assert_eq!(arena.missing_bytes(), 0);
        used.extend(std::iter::from_fn(|| core.alloc(bytes, Room::Ordinary)));
        let empty = if bytes > SLAB_BYTES { 4 } else { 3 };
        assert_eq!(arena.empty_slabs(), empty, "{bytes}");
        assert!(arena.missing_bytes() > 0, "evicters are asked");
        if empty == 3 {
            // Slabs of one class do not serve another, so this would need the reserve.
            let other = if bytes == 4096 { 1024 } else { 4096 };
            assert_eq!(core.alloc(other, Room::Ordinary), None, "{bytes}");
        }
        used.extend((0..3).map(|_| core.alloc(SLAB_BYTES, Room::Reserve).expect("the reserve")));
        assert_eq!(arena.empty_slabs(), empty - 3);
        for block in used.drain(..) {
            // SAFETY: allocated above, and used by nobody.
            unsafe { core.free(block) };
        }
        used.extend((0..13).map(|_| core.alloc(SLAB_BYTES, Room::Ordinary).expect("it is there again")));
        assert_eq!((core.alloc(SLAB_BYTES, Room::Ordinary), arena.missing_bytes() > 0), (None, true));
        for block in used {
            // SAFETY: as above.
            unsafe { core.free(block) };
        }
        assert!(core.alloc(SLAB_BYTES, Room::Ordinary).is_some_and(|_| arena.missing_bytes() == 0));
    }
}

#[test]
fn a_core_that_leaves_gives_back_what_it_has_free() {
    let arena = NodeArena::new(64 * SLAB_BYTES, 0).expect("mapped");
    let core = arena.attach();
    let block = core.alloc(256, Room::Ordinary).expect("room");
    assert_eq!(arena.class_stats()[3], ClassStats { block_bytes: 256, blocks: 1 });
    drop(core);
    assert_eq!(arena.allocated_bytes(), 256, "in use still");
    let next = arena.attach();
    // SAFETY: allocated above, and used by nobody.
    unsafe { next.free(block) };
    next.flush();
    assert_eq!((arena.allocated_bytes(), arena.empty_slabs()), (0, 64));
    assert_eq!(arena.counters.lock().expect("not poisoned").len(), 1, "counters are used again");
}

#[test]
#[should_panic(expected = "given back twice")]
fn a_block_that_is_freed_twice_is_noticed_when_it_comes_back() {
    let arena = NodeArena::new(64 * SLAB_BYTES, 0).expect("mapped");
    let core = std::mem::ManuallyDrop::new(arena.attach());
    let block = core.alloc(256, Room::Ordinary).expect("room");
    for _ in 0..2 {
        // SAFETY: not kept the second time, which the arena notices; it reads and writes its own
        // memory only.
        unsafe { core.free(block) };
    }
    core.flush();
}

/// Sends blocks between threads.
struct Sent(Used);

// SAFETY: a block may be used and freed by any thread, one at a time.
unsafe impl Send for Sent {}

/// Two threads allocate; each frees half of its blocks itself, and sends the others to the other
/// one.
#[test]
fn two_threads_free_what_the_other_one_allocated() {
    let arena = NodeArena::new(32 * SLAB_BYTES, 0).expect("mapped");
    let (to_first, first) = mpsc::channel::<Sent>();
    let (to_second, second) = mpsc::channel::<Sent>();
    thread::scope(|scope| {
        for (which, to, from) in [(1, to_second, first), (2, to_first, second)] {
            let arena = &arena;
            scope.spawn(move || {
                let core = arena.attach();
                let mut own = Vec::new();
                let mut seed = u64::from(which);
                let mut full = 0;
                for round in 0..6_000u32 {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let bytes = usize::try_from(seed >> 40).expect("64 bits") % 9_000 + 1;
                    match core.alloc(bytes, Room::Ordinary) {
                        Some(block) if round % 2 == 0 => own.push(Used::new(block, which)),
                        Some(block) => to.send(Sent(Used::new(block, which))).expect("received"),
                        None => full += 1,
                    }
                    from.try_iter().for_each(|Sent(one)| one.free(&core));
                    if own.len() > 100 {
                        own.drain(..90).for_each(|one| one.free(&core));
                    }
                }
                drop(to);
                own.into_iter().for_each(|one| one.free(&core));
                from.iter().for_each(|Sent(one)| one.free(&core));
                assert!(full < 6_000, "some room was found");
            });
        }
    });
    assert_eq!(arena.allocated_bytes(), 0);
    assert_eq!(arena.empty_slabs(), 32, "all memory has come back");
}
