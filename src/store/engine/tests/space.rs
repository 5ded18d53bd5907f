//! A store that is full, one that is overwritten again and again, and one whose namespace grows.
//!
//! Each test has a form that is quick without optimisation, on a device of a few MiB. The long
//! forms are for optimised builds: `cargo test --profile lab --lib -- --ignored
//! engine::tests::space`.

mod disk;
mod frees;
mod long;
mod room;

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use futures_util::future::join_all;
use rand::seq::SliceRandom;

use super::*;
use crate::block::Namespace;
use crate::error::{ErrorKind, Outcome, Result};
use crate::store::engine::clean::Cleaned;
use crate::store::engine::counts::{Count, counted};

/// What is in the store: per key the version of its value, and how long it is.
type Kept = BTreeMap<u64, (u64, usize)>;

/// How many bundles were written so far that move what cleaning found.
fn moves() -> u64 {
    counted()[Count::Moves as usize]
}

fn value_of(key: u64, version: u64, len: usize) -> Vec<u8> {
    let mut value = (key << 20 ^ version).to_le_bytes().repeat(len.div_ceil(8));
    value.truncate(len);
    value
}

/// What entries of a test look like.
#[derive(Clone, Debug)]
struct Shape {
    key_bytes: usize,
    value_bytes: Range<usize>,
    /// What the store has for its pages in memory.
    cache_bytes: usize,
}

impl Shape {
    const USUAL: Self = Self { key_bytes: 8, value_bytes: 600..1000, cache_bytes: 1 << 20 };
    /// Much is dirty before anything has to be written.
    const IN_MEMORY: Self = Self { cache_bytes: 8 << 20, ..Self::USUAL };
    /// A leaf of these is as long as a page gets: three entries of five KiB, and what is written to
    /// it while it has no room to be split.
    const LONG: Self = Self { key_bytes: 4000, value_bytes: 900..1008, cache_bytes: 1 << 20 };

    fn key(&self, key: u64) -> Vec<u8> {
        let mut bytes = key.to_be_bytes().to_vec();
        bytes.resize(self.key_bytes, 0);
        bytes
    }

    async fn open(&self, disk: &Disk) -> Store {
        let options = options().cache_bytes(self.cache_bytes);
        open(RtEnv, disk.attach_again(), &options).await.expect("a store, or room for one")
    }

    async fn put(&self, store: &Store, key: u64, version: u64, len: usize) -> Result<u64> {
        let (key_bytes, value) = (self.key(key), value_of(key, version, len));
        store.write(catalog(), &key_bytes, Change::Put(&value), Durability::None).await
    }

    /// Overwrites a key by a value that is as long.
    async fn overwrite(&self, store: &Store, key: u64, (version, len): &mut (u64, usize)) -> u64 {
        *version += 1;
        self.put(store, key, *version, *len).await.expect("an overwrite is always admitted")
    }

    async fn delete(&self, store: &Store, key: u64) -> u64 {
        let deleted = store.write(catalog(), &self.key(key), Change::Delete, Durability::None).await;
        deleted.expect("a delete is always admitted")
    }

    /// Puts keys that are not there until one is refused. The share of the namespace that is user
    /// data.
    async fn fill(&self, store: &Store, kept: &mut Kept, random: &mut StdRng) -> f64 {
        let error = loop {
            let (key, len) = (random.random_range(0..1 << 40), random.random_range(self.value_bytes.clone()));
            match self.put(store, key, 0, len).await {
                Ok(_) => _ = kept.insert(key, (0, len)),
                Err(error) => break error,
            }
        };
        assert_is_full(&error);
        let user_bytes: usize = kept.values().map(|(_, len)| len + self.key_bytes).sum();
        user_bytes as f64 / store.namespace.size_bytes() as f64
    }

    async fn assert_is_still_full(&self, store: &Store) {
        let error = self.put(store, 1, 0, self.value_bytes.end).await.expect_err("it is full");
        assert_is_full(&error);
    }

    async fn check(&self, store: &Store, kept: &Kept) {
        for (&key, &(version, len)) in kept {
            let found = get(store, &self.key(key)).await;
            let is_right = found == Some(value_of(key, version, len));
            let is = found.map(|found| {
                (found.len(), (0..=version).find(|version| found == value_of(key, *version, found.len())))
            });
            assert!(is_right, "key {key} version {version} of {len} bytes: {is:?} (length, version)");
        }
    }
}

fn assert_is_full(error: &crate::error::Error) {
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::NoSpace, Outcome::NotStarted), "{error}");
}

/// The keeper is at work, and finds room.
fn assert_is_well(store: &Store) {
    assert!(!store.shared.space.is_stuck());
    store.shared.check_failed("test", Outcome::NotStarted).expect("the keeper goes on");
}

/// How the time of a store ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    /// The process ends.
    Killed,
}

/// Opens the store, checks that it has what is `kept`, does something with it, and ends. `act` sees
/// to it that what it wrote is durable.
fn session(disk: &Disk, end: End, shape: &Shape, kept: &mut Kept, act: impl AsyncFnOnce(&Store, &mut Kept)) {
    let world = World::new(7);
    let core = world.core("core");
    core.block_on(async {
        let store = shape.open(disk).await;
        shape.check(&store, kept).await;
        act(&store, kept).await;
        assert_is_well(&store);
        if matches!(end, End::Closed) {
            store.close().await.expect("it closes");
        }
    });
    if matches!(end, End::Killed) {
        disk.kill();
    }
    core.crash();
}

/// A store is filled, overwritten, half emptied, emptied, and filled again, and is opened anew in
/// each of these states.
fn lives(size_bytes: u64, shape: &Shape, cycles: u32, rounds: u32) {
    let (disk, before) = (Disk::new(MemoryOptions::disk(size_bytes), 1), moves());
    let (mut kept, mut random, mut first) = (Kept::new(), StdRng::seed_from_u64(11), None);
    let ends = [End::Closed, End::Killed];
    for cycle in 0..cycles {
        // Each state is left in both ways in turn.
        let mut ends = ends.iter().copied().cycle().skip(cycle as usize);
        let mut next_end = || ends.next().expect("they go round");
        session(&disk, next_end(), shape, &mut kept, async |store, kept| {
            let share = shape.fill(store, kept, &mut random).await;
            println!("cycle {cycle}: {} entries, {share:.3} of the device", kept.len());
            let first = *first.get_or_insert(share);
            assert!((share - first).abs() < 0.02, "{share} was {first} at first");
        });
        session(&disk, next_end(), shape, &mut kept, async |store, kept| {
            shape.assert_is_still_full(store).await;
            let mut keys: Vec<u64> = kept.keys().copied().collect();
            let mut last = 0;
            for _ in 0..rounds {
                keys.shuffle(&mut random);
                for key in &keys {
                    last = shape.overwrite(store, *key, kept.get_mut(key).expect("it is there")).await;
                }
            }
            store.wait(last).await.expect("it is durable");
            shape.assert_is_still_full(store).await;
        });
        for part in [2, 1] {
            session(&disk, next_end(), shape, &mut kept, async |store, kept| {
                let mut keys: Vec<u64> = kept.keys().copied().collect();
                keys.shuffle(&mut random);
                let mut last = 0;
                for key in &keys[..keys.len() / part] {
                    last = shape.delete(store, *key).await;
                    kept.remove(key);
                }
                store.wait(last).await.expect("it is durable");
                shape.check(store, kept).await;
            });
        }
    }
    session(&disk, End::Closed, shape, &mut kept, async |store, _| {
        store.checkpoint().await.expect("a checkpoint");
        let (used, ..) = store.shared.space.taken();
        assert!(used < 64 << 10, "{used} bytes of an empty store");
    });
    session(&disk, End::Closed, shape, &mut kept, async |store, kept| {
        assert!(kept.is_empty());
        // Leaves that are empty and had to stay, as memory was short, lie scattered: cleaning
        // brings them together. One checkpoint says that what is empty is so, and the next that it
        // is free.
        for _ in 0..2 {
            let mut steps = 0;
            while store.clean_step(true).await.expect("no fault is injected") != Cleaned::Nothing {
                steps += 1;
                assert!(steps < 10_000, "there is no end to it");
            }
            store.checkpoint().await.expect("a checkpoint");
        }
        let state = store.shared.state();
        let (segments, geometry) = (&state.segments, state.owner.geometry);
        // Streams have some open, the roots of the two trees lie in others, and one may wait for
        // the next checkpoint. What has pages of the map is left to checkpoints.
        let others = segments.log_count() + geometry.first_segment() as usize + 6;
        let free = segments.free_count();
        let all = (geometry.first_segment()..geometry.segments).map(|number| segments.get(number));
        let used: Vec<_> = all.filter(|segment| segment.live + segment.meta > 0).collect();
        let of_map = used.iter().filter(|segment| segment.meta > 0).count();
        let known = free + of_map + others;
        assert!(known >= geometry.segments as usize, "{free} are free, and in use: {used:#?}");
    });
    println!("{} moves", moves() - before);
    assert!(moves() - before > 10, "{}", moves() - before);
}

#[test]
fn a_store_is_filled_overwritten_emptied_and_filled_again() {
    lives(8 << 20, &Shape::USUAL, 2, 1);
}

#[test]
fn a_store_with_much_in_memory_is_filled_overwritten_emptied_and_filled_again() {
    lives(16 << 20, &Shape::IN_MEMORY, 1, 1);
}

#[test]
fn a_store_of_the_longest_pages_is_filled_overwritten_emptied_and_filled_again() {
    lives(10 << 20, &Shape::LONG, 2, 1);
}

#[test]
#[ignore = "the long form: minutes without optimisation"]
fn a_larger_store_is_filled_overwritten_emptied_and_filled_again() {
    lives(24 << 20, &Shape::USUAL, 4, 10);
    lives(64 << 20, &Shape::USUAL, 2, 10);
    lives(64 << 20, &Shape::IN_MEMORY, 2, 10);
}

#[test]
#[ignore = "the long form: minutes without optimisation"]
fn a_larger_store_of_the_longest_pages_is_filled_overwritten_emptied_and_filled_again() {
    lives(24 << 20, &Shape::LONG, 4, 10);
}

/// A store is filled, overwritten, half emptied, filled again and emptied, and nobody waits for
/// ever.
fn goes_on(size_bytes: u64, shape: &Shape, seed: u64) {
    let disk = Disk::new(MemoryOptions::disk(size_bytes), 1);
    let (mut kept, mut random, mut share) = (Kept::new(), StdRng::seed_from_u64(seed), 0.0);
    for end in [End::Closed, End::Killed] {
        session(&disk, end, shape, &mut kept, async |store, kept| {
            share = shape.fill(store, kept, &mut random).await;
            let (mut keys, mut last): (Vec<u64>, _) = (kept.keys().copied().collect(), 0);
            keys.shuffle(&mut random);
            for key in &keys {
                last = shape.overwrite(store, *key, kept.get_mut(key).expect("it is there")).await;
            }
            store.wait(last).await.expect("it is durable");
        });
        for part in [2, 1] {
            session(&disk, end, shape, &mut kept, async |store, kept| {
                let (mut keys, mut last): (Vec<u64>, _) = (kept.keys().copied().collect(), 0);
                keys.shuffle(&mut random);
                for key in &keys[..keys.len() / part] {
                    last = shape.delete(store, *key).await;
                    kept.remove(key);
                }
                store.wait(last).await.expect("it is durable");
                if part == 2 {
                    shape.fill(store, kept, &mut random).await;
                    // A delete adds nothing, whether there is something or not.
                    last = shape.delete(store, 1 << 41).await;
                    store.wait(last).await.expect("it is durable");
                }
                shape.check(store, kept).await;
            });
        }
    }
    println!("{} KiB, {shape:?}: {share:.3} of the device", size_bytes >> 10);
}

impl Shape {
    /// Entries that are short, long, and of all lengths, each with little memory and with more.
    fn all() -> impl Iterator<Item = Self> {
        let tiny = Self { value_bytes: 1..30, ..Self::USUAL };
        let any = Self { value_bytes: 1..1008, ..Self::USUAL };
        let middle = Self { key_bytes: 500, value_bytes: 100..900, ..Self::USUAL };
        let keys = Self { key_bytes: 2000, value_bytes: 1..10, ..Self::USUAL };
        let shapes = [tiny, any, middle, keys, Self::LONG];
        let with = |shape: Self| [1, 2, 8].map(|mib| Self { cache_bytes: mib << 20, ..shape.clone() });
        shapes.into_iter().flat_map(with)
    }
}

#[test]
fn stores_of_any_entries_go_on() {
    // Two of five: the others take long without optimisation.
    for (shape, size_bytes) in Shape::all().skip(4).step_by(4).zip([9 << 20, 8 << 20]) {
        goes_on(size_bytes, &shape, 17);
    }
}

#[test]
#[ignore = "the long form: minutes without optimisation"]
fn stores_of_any_size_go_on() {
    for mib in [8, 9, 11, 14, 20, 28, 40] {
        for (shape, seed) in Shape::all().zip(mib..) {
            goes_on(mib << 20, &shape, seed);
        }
    }
}

/// A full store is overwritten ten times over.
fn overwritten_ten_times(size_bytes: u64, is_random: bool, least_share: f64) {
    let (disk, shape, before) = (Disk::new(MemoryOptions::disk(size_bytes), 1), Shape::USUAL, moves());
    let (mut kept, mut random) = (Kept::new(), StdRng::seed_from_u64(12));
    session(&disk, End::Closed, &shape, &mut kept, async |store, kept| {
        let share = shape.fill(store, kept, &mut random).await;
        println!("{} entries, {share:.3} of the device", kept.len());
        assert!(share >= least_share, "{share}");
    });
    for rounds in [4, 4, 2] {
        session(&disk, End::Killed, &shape, &mut kept, async |store, kept| {
            let (mut keys, mut last): (Vec<u64>, _) = (kept.keys().copied().collect(), 0);
            for _ in 0..rounds {
                if is_random {
                    keys.shuffle(&mut random);
                }
                for key in &keys {
                    last = shape.overwrite(store, *key, kept.get_mut(key).expect("it is there")).await;
                }
            }
            store.wait(last).await.expect("it is durable");
        });
    }
    session(&disk, End::Closed, &shape, &mut kept, async |_, _| {});
    println!("{} moves", moves() - before);
    assert!(moves() - before > 10, "{}", moves() - before);
}

#[test]
fn a_full_store_is_overwritten_in_sequence_again_and_again() {
    overwritten_ten_times(8 << 20, false, 0.19);
}

#[test]
fn a_full_store_is_overwritten_in_no_order_again_and_again() {
    overwritten_ten_times(8 << 20, true, 0.19);
}

#[test]
#[ignore = "the long form: minutes without optimisation"]
fn a_larger_full_store_is_overwritten_again_and_again() {
    overwritten_ten_times(24 << 20, true, 0.58);
    overwritten_ten_times(64 << 20, true, 0.7);
    overwritten_ten_times(64 << 20, false, 0.7);
}

/// Several writers at a time, on a store that is full or nearly so: each overwrites, deletes and
/// puts keys of its own, and reads some. Cleaning goes on beside them.
fn has_many_writers(size_bytes: u64, writes_per_key: usize) {
    const WRITERS: u64 = 4;
    let (disk, shape, before) = (Disk::new(MemoryOptions::disk(size_bytes), 1), Shape::USUAL, moves());
    let (mut kept, mut random) = (Kept::new(), StdRng::seed_from_u64(15));
    session(&disk, End::Closed, &shape, &mut kept, async |store, kept| {
        shape.fill(store, kept, &mut random).await;
    });
    let refused = RefCell::new(0);
    session(&disk, End::Killed, &shape, &mut kept, async |store, kept| {
        let writer = async |own: u64| {
            let mut random = StdRng::seed_from_u64(own);
            let mut mine: Kept =
                kept.iter().filter(|(key, _)| *key % WRITERS == own).map(|(k, v)| (*k, *v)).collect();
            let mut keys: Vec<u64> = mine.keys().copied().collect();
            let (mut last, mut next) = (0, 1 << 40);
            for _ in 0..keys.len() * writes_per_key {
                let at = random.random_range(0..keys.len());
                let key = keys[at];
                match random.random_range(0..16) {
                    0 => {
                        last = shape.delete(store, key).await;
                        mine.remove(&key);
                        // Another one, which may be refused as others put theirs.
                        let (new, len) = (next + own, random.random_range(shape.value_bytes.clone()));
                        next += WRITERS;
                        match shape.put(store, new, 0, len).await {
                            Ok(number) => {
                                (keys[at], last) = (new, number);
                                mine.insert(new, (0, len));
                            }
                            Err(error) => {
                                assert_is_full(&error);
                                keys.swap_remove(at);
                                *refused.borrow_mut() += 1;
                            }
                        }
                    }
                    1 => {
                        let (version, len) = mine[&key];
                        let found = get(store, &shape.key(key)).await;
                        assert!(found == Some(value_of(key, version, len)), "key {key} version {version}");
                    }
                    _ => last = shape.overwrite(store, key, mine.get_mut(&key).expect("it is there")).await,
                }
                crate::rt::yield_now().await;
            }
            (mine, last)
        };
        let done = join_all((0..WRITERS).map(writer)).await;
        let last = done.iter().map(|(_, last)| *last).max().expect("there are writers");
        store.wait(last).await.expect("it is durable");
        *kept = done.into_iter().flat_map(|(mine, _)| mine).collect();
        shape.check(store, kept).await;
    });
    session(&disk, End::Closed, &shape, &mut kept, async |_, _| {});
    println!("{} entries, {} puts refused, {} moves", kept.len(), refused.take(), moves() - before);
    assert!(moves() - before > 10, "{}", moves() - before);
}

#[test]
fn a_full_store_is_cleaned_while_there_are_writers() {
    has_many_writers(8 << 20, 5);
}

#[test]
#[ignore = "the long form: minutes without optimisation"]
fn a_larger_full_store_is_cleaned_while_there_are_writers() {
    has_many_writers(24 << 20, 20);
    has_many_writers(64 << 20, 10);
}

/// What was written, in the order of the numbers: which key has which version from then on.
type Log = Vec<(u64, u64, u64)>;

/// Power fails while a full store is overwritten and cleaned. What is left is a prefix of what was
/// written, and the store goes on from there.
fn crashes(seeds: u64, least_moves: u64) {
    let disk = Disk::new(MemoryOptions::disk(8 << 20).volatile_cache(true), 1);
    let (shape, mut kept, mut random) = (Shape::USUAL, Kept::new(), StdRng::seed_from_u64(13));
    session(&disk, End::Closed, &shape, &mut kept, async |store, kept| {
        shape.fill(store, kept, &mut random).await;
    });
    let (mut crashed_in_a_move, mut total) = (0, 0);
    for seed in 0..seeds {
        let world = World::new(seed);
        let core = world.core("core");
        let log = Rc::new(RefCell::new(Log::new()));
        let before = moves();
        let (own_disk, own_log, own_kept) = (disk.attach_again(), Rc::clone(&log), kept.clone());
        drop(core.spawn(async move {
            let (store, mut random) = (Shape::USUAL.open(&own_disk).await, StdRng::seed_from_u64(seed));
            let mut keys: Vec<_> = own_kept.into_iter().collect();
            loop {
                keys.shuffle(&mut random);
                for (key, entry) in &mut keys {
                    let number = Shape::USUAL.overwrite(&store, *key, entry).await;
                    own_log.borrow_mut().push((number, *key, entry.0));
                    if random.random_ratio(1, 50) {
                        store.wait(number).await.expect("it is durable");
                    }
                }
            }
        }));
        world.run_for(Duration::from_millis(random.random_range(100..400)));
        disk.power_loss();
        core.crash();
        total += log.borrow().len();
        crashed_in_a_move += u64::from(moves() > before);
        let world = World::new(seed);
        world.core("core").block_on(async {
            let store = shape.open(&disk).await;
            let next = store.log.log().next_number();
            for &(_, key, version) in log.borrow().iter().filter(|(number, ..)| *number < next) {
                kept.get_mut(&key).expect("it was put").0 = version;
            }
            shape.check(&store, &kept).await;
            shape.assert_is_still_full(&store).await;
            assert_is_well(&store);
            store.close().await.expect("it closes");
        });
        session(&disk, End::Closed, &shape, &mut kept, async |_, _| {});
    }
    println!("{crashed_in_a_move} of {seeds}, {total} writes");
    assert!(crashed_in_a_move >= least_moves && total > 500, "{crashed_in_a_move} {total}");
}

#[test]
fn a_crash_while_a_full_store_is_cleaned_loses_nothing() {
    crashes(4, 2);
}

#[test]
#[ignore = "the long form: minutes without optimisation"]
fn many_crashes_while_a_full_store_is_cleaned_lose_nothing() {
    crashes(200, 100);
}

/// What is only in the log when a store is opened was admitted, and counts until it is in pages.
#[test]
fn what_the_log_has_is_reserved_after_an_opening() {
    let (disk, shape, mut kept) = (Disk::new(MemoryOptions::disk(8 << 20), 1), Shape::IN_MEMORY, Kept::new());
    let taken = |store: &Store| {
        let (used, growth, _) = store.shared.space.taken();
        used + growth
    };
    session(&disk, End::Killed, &shape, &mut kept, async |store, kept| {
        let mut last = 0;
        for key in 0..500 {
            last = shape.put(store, key, 0, 800).await.expect("there is room");
            kept.insert(key, (0, 800));
        }
        store.wait(last).await.expect("it is durable");
    });
    session(&disk, End::Closed, &shape, &mut kept, async |store, _| {
        assert!(taken(store) >= 500 * 808, "{}", taken(store));
    });
    session(&disk, End::Closed, &shape, &mut kept, async |store, _| {
        assert!((500 * 808..1000 * 808).contains(&taken(store)), "{} once", taken(store));
    });
}

/// What a device has, on one of another size.
fn moved_to(disk: &Disk, options: MemoryOptions, bytes: u64) -> Disk {
    let new = Disk::new(options, 2);
    for offset in (0..bytes).step_by(1 << 20) {
        new.overwrite(offset, &disk.peek(offset, 1 << 20));
    }
    new
}

fn grows(options: MemoryOptions) {
    let (world, small) = (World::new(7), Disk::new(MemoryOptions::disk(8 << 20), 1));
    world.core("core").block_on(async {
        let (shape, mut kept, mut random) = (Shape::USUAL, Kept::new(), StdRng::seed_from_u64(14));
        let store = reopen(&small).await;
        let share = shape.fill(&store, &mut kept, &mut random).await;
        store.close().await.expect("it closes");
        drop(store);
        let large = moved_to(&small, options, 8 << 20);
        let store = reopen(&large).await;
        let grown_share = shape.fill(&store, &mut kept, &mut random).await;
        println!("{share} of 8 MiB, {grown_share} of {} bytes", store.namespace.size_bytes());
        assert_eq!(store.namespace.size_bytes(), 14 << 20);
        assert!(grown_share > share, "{share} {grown_share}");
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&large).await;
        shape.check(&store, &kept).await;
        store.close().await.expect("it closes");
        drop(store);
        let cut = moved_to(&large, MemoryOptions::disk(13 << 20), 13 << 20);
        let refused = open(RtEnv, cut.attach_again(), &super::options()).await;
        let Err(refused) = refused else { panic!("a store that was cut is opened") };
        println!("{refused}");
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
    });
}

#[test]
fn what_a_namespace_has_grown_by_is_used_and_one_that_was_cut_is_refused() {
    grows(MemoryOptions::disk(14 << 20));
}

#[test]
fn a_namespace_that_may_grow_does_before_a_write_is_refused() {
    grows(MemoryOptions::disk(8 << 20).max_size_bytes(14 << 20));
}

/// A full store is opened after a crash with a long log, and is written to from the first moment
/// on, while what the log has is brought into the tree. That needs segments, which only cleaning
/// and a checkpoint give: the drain does not wait for its end, nor do the writers.
#[test]
fn a_full_store_is_drained_after_a_crash_while_it_is_written_to() {
    let (disk, shape, mut kept) = (Disk::new(MemoryOptions::disk(8 << 20), 1), Shape::USUAL, Kept::new());
    let (mut random, drained) = (StdRng::seed_from_u64(16), || counted()[Count::Drained as usize]);
    session(&disk, End::Closed, &shape, &mut kept, async |store, kept| {
        shape.fill(store, kept, &mut random).await;
    });
    let (mut was_draining, before) = (0, drained());
    for _ in 0..4 {
        // Opened without a look at what is there, which would take longer than the drain.
        let world = World::new(7);
        let core = world.core("core");
        core.block_on(async {
            let store = shape.open(&disk).await;
            let mut keys: Vec<u64> = kept.keys().copied().collect();
            keys.shuffle(&mut random);
            let mut last = 0;
            for key in keys {
                was_draining += u64::from(!store.shared.overlay.is_through());
                last = shape.overwrite(&store, key, kept.get_mut(&key).expect("it is there")).await;
            }
            store.wait(last).await.expect("it is durable");
            shape.check(&store, &kept).await;
            shape.assert_is_still_full(&store).await;
            assert_is_well(&store);
        });
        disk.kill();
        core.crash();
    }
    println!("{} drained, {was_draining} writes meanwhile", drained() - before);
    assert!(drained() - before > 150 && was_draining > 30, "{} {was_draining}", drained() - before);
    session(&disk, End::Closed, &shape, &mut kept, async |store, _| {
        store.checkpoint().await.expect("there is room for a checkpoint");
    });
}
