//! What the background does when something is in its way: pages and reads that fail, memory that is
//! full, cores that go away.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::{Store, get, options, put};
use crate::block::{Fault, MemoryOptions};
use crate::error::{Error, ErrorKind};
use crate::rt;
use crate::sim::{Disk, World};
use crate::store::RtEnv;
use crate::store::btree::Change;
use crate::store::engine::core_store::CoreStore;
use crate::store::engine::counts::{Count, counted};
use crate::store::engine::open::open;
use crate::store::engine::registry::catalog;
use crate::store::options::{Durability, Options};
use crate::store::wal::Operation;
use crate::store::word::{ColdAddress, PageId};

/// One life of a store: what is not durable at its end may be lost.
fn life(disk: &Disk, seed: u64, options: &Options, test: impl AsyncFnOnce(Store)) {
    let world = World::new(seed);
    world.core("core").block_on(async {
        let store = open(RtEnv, disk.attach_again(), options).await.expect("a store, or room for one");
        test(store).await;
    });
    disk.kill();
}

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

fn value(number: u32, round: u8) -> Vec<u8> {
    [&number.to_le_bytes()[..], &[round; 96]].concat()
}

async fn try_put(store: &Store, number: u32, round: u8) -> Result<u64, Error> {
    store.write(catalog(), &key(number), Change::Put(&value(number, round)), Durability::None).await
}

async fn try_get(store: &Store, number: u32) -> Result<Option<Vec<u8>>, Error> {
    store.get(catalog(), &key(number), <[u8]>::to_vec).await
}

/// The places of all leaves that are durable and in memory.
fn leaves(store: &Store) -> Vec<ColdAddress> {
    let ids = (1..store.shared.nodes.map().next_page()).filter_map(PageId::new);
    let leaves = ids.filter(|id| matches!(store.core.pin().resident(*id), Ok(Some((_, 0)))));
    leaves.filter_map(|id| Some(store.shared.nodes.homes().get(id)?.address)).collect()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if is_so() {
            return;
        }
        rt::sleep(Duration::from_millis(1)).await;
    }
    panic!("a minute has passed, and it is not so that {what}");
}

const KEYS: u32 = 3000;

/// A store of [`KEYS`] keys that are in its pages; the log has newer values of the even ones. The
/// place of one of its leaves.
fn a_store_with_a_log(disk: &Disk) -> ColdAddress {
    let leaf = Cell::new(None);
    life(disk, 1, &options(), async |store| {
        for number in 0..KEYS {
            put(&store, &key(number), &value(number, 0)).await;
        }
        store.checkpoint().await.expect("a checkpoint");
        let leaves = leaves(&store);
        leaf.set(Some(leaves[leaves.len() / 2]));
        let mut last = 0;
        for number in (0..KEYS).step_by(2) {
            last = put(&store, &key(number), &value(number, 1)).await;
        }
        store.wait(last).await.expect("it is durable");
    });
    leaf.get().expect("there are leaves")
}

#[test]
fn a_damaged_page_costs_its_keys_and_nothing_else() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let leaf = a_store_with_a_log(&disk);
    disk.flip_bit(leaf.offset_bytes() + leaf.len_bytes() / 2, 3);
    let damaged = Cell::new(0);
    for round in 2..4 {
        life(&disk, round.into(), &options(), async |store| {
            let mut lost = Vec::new();
            for number in 0..KEYS {
                match try_get(&store, number).await {
                    Ok(found) if number % 2 == 0 => {
                        let is_lost = round == 3 && found == Some(value(number, 1));
                        assert!(is_lost || found == Some(value(number, round - 1)), "key {number}");
                    }
                    Ok(found) => assert_eq!(found, Some(value(number, round - 2)), "key {number}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                        assert_eq!(number % 2, 1, "key {number} is in the log: {error}");
                        lost.push(number);
                    }
                }
            }
            assert!(!lost.is_empty(), "a page has more than one key");
            if round == 3 {
                assert_eq!(damaged.get(), lost.len(), "the same keys are lost");
            }
            damaged.set(lost.len());
            let range = lost[0]..=lost[lost.len() - 1];
            // Several times what the log may have: what it has of the damaged page must not end it.
            for again in 0..40 {
                for number in 0..KEYS {
                    if number % 2 != 0 && again > 0 {
                        continue;
                    }
                    let last = if number % 2 == 0 { round } else { round - 1 };
                    match try_put(&store, number, last).await {
                        Ok(_) => {}
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                            let near = range.start() - 1..=range.end() + 1;
                            assert!(near.contains(&number), "key {number}: {error}");
                        }
                    }
                }
            }
            store.checkpoint().await.expect("a checkpoint");
            if round == 2 {
                store.close().await.expect("it closes");
            }
        });
    }
}

#[test]
fn a_read_that_fails_is_done_again() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let leaf = a_store_with_a_log(&disk);
    life(&disk, 2, &options(), async |store| {
        // Nothing of the background has run yet.
        disk.inject([Fault::read().at(leaf.offset_bytes()).times(2)]);
        rt::sleep(Duration::from_millis(100)).await;
        for number in (0..KEYS).step_by(2) {
            assert_eq!(get(&store, &key(number)).await, Some(value(number, 1)), "key {number}");
        }
        put(&store, &key(0), &value(0, 1)).await;
        store.checkpoint().await.expect("a checkpoint");
        until("the tree has all of the log", || store.shared.overlay.is_drained()).await;
        disk.inject([]);
        store.close().await.expect("it closes");
        for number in (0..KEYS).step_by(2) {
            assert_eq!(get(&store, &key(number)).await, Some(value(number, 1)), "key {number}");
        }
    });
}

/// The drain wants pages that readers load, and readers wait for memory that only the keeper makes.
#[test]
fn the_drain_goes_on_when_memory_is_full_of_changes() {
    let options = options().cache_bytes(1 << 20).log_bytes(8 << 20);
    let disk = Disk::new(MemoryOptions::disk(64 << 20).read_latency(Duration::from_millis(5)), 1);
    life(&disk, 1, &options, async |store| {
        for number in 0..KEYS {
            put(&store, &key(number), &value(number, 0)).await;
        }
        store.checkpoint().await.expect("a checkpoint");
        let mut last = 0;
        for number in (0..KEYS).step_by(2) {
            last = put(&store, &key(number), &value(number, 1)).await;
        }
        store.wait(last).await.expect("it is durable");
    });
    life(&disk, 2, &options, async |store| {
        // All of memory, several times, at the end of the tree, whose pages are there soon.
        let writer = Rc::clone(&store);
        let mut tasks = vec![rt::spawn(async move {
            for number in KEYS..KEYS + 12_000 {
                put(&writer, &key(number), &value(number, 0)).await;
            }
        })];
        tasks.extend((0..4).map(|task| {
            let store = Rc::clone(&store);
            rt::spawn(async move {
                for number in (task * 32 + 1..KEYS).step_by(2) {
                    assert_eq!(get(&store, &key(number)).await, Some(value(number, 0)));
                }
            })
        }));
        until("the tree has all of the log", || store.shared.overlay.is_drained()).await;
        for task in tasks {
            task.await.expect("it does not panic");
        }
    });
}

#[test]
fn the_drain_lets_others_run() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let leaf = Cell::new(None);
    // Many keys in each page.
    life(&disk, 1, &options(), async |store| {
        let mut last = 0;
        for round in 0..2 {
            for number in 0..KEYS {
                last = put(&store, &key(number), &[round]).await;
            }
            if round == 0 {
                store.checkpoint().await.expect("a checkpoint");
                // Not the last one: an opening looks for trees there.
                leaf.set(leaves(&store).first().copied());
            }
        }
        store.wait(last).await.expect("it is durable");
    });
    // So that the drain is there until the end.
    let leaf = leaf.get().expect("there are leaves");
    disk.flip_bit(leaf.offset_bytes() + leaf.len_bytes() / 2, 3);
    let world = World::new(2);
    let core = world.core("core");
    let before = counted()[Count::Drained as usize];
    core.block_on(async {
        let store = open(RtEnv, disk.attach_again(), &options()).await.expect("a store");
        until("the drain is through", || store.shared.draining.is_through(&store.shared.overlay)).await;
        assert!(!store.shared.overlay.is_drained(), "a page is damaged");
    });
    let drained = counted()[Count::Drained as usize] - before;
    let tasks = core.tasks();
    let drain = tasks.iter().find(|task| task.name == "store drain").expect("it is there");
    assert!(
        drained > 1000 && u64::from(drain.polls) * 16 > drained,
        "{drained} keys in {} turns",
        drain.polls
    );
}

#[test]
fn a_deleted_range_in_the_log_is_refused() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    life(&disk, 1, &options(), async |store| {
        let operation = Operation::DeleteRange { tree: catalog().tree, from: b"a", to: b"b" };
        let mut room = store.log.room(1, operation.encoded_len()).await.expect("room");
        let number = room.draw_one();
        room.append(operation.encoded_len(), |out| _ = operation.encode(out));
        drop(room);
        store.wait(number).await.expect("it is durable");
    });
    World::new(2).core("core").block_on(async {
        let opened = open(RtEnv, disk.attach_again(), &options()).await;
        let error = opened.err().expect("it does not open");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("deletion of a range"), "{error}");
    });
}

#[test]
fn what_is_closed_takes_no_writes() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    life(&disk, 1, &options(), async |store| {
        put(&store, b"apple", b"5").await;
        let writer = Rc::clone(&store);
        let writing = rt::spawn(async move {
            for number in 0.. {
                if let Err(error) = try_put(&writer, number % KEYS, 0).await {
                    return error;
                }
                rt::yield_now().await;
            }
            unreachable!("numbers do not end")
        });
        rt::sleep(Duration::from_millis(1)).await;
        store.close().await.expect("it closes");
        let error = writing.await.expect("it does not panic");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        let error = try_put(&store, 1, 0).await.expect_err("it is closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert_eq!(get(&store, b"apple").await.as_deref(), Some(&b"5"[..]));
    });
}

#[test]
fn a_keeper_that_goes_away_is_said() {
    let world = World::new(1);
    let (first, second) = (world.core("first"), world.core("second"));
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let own = first.block_on(async {
        let store = open(RtEnv, disk.attach_again(), &options()).await.expect("room for a store");
        put(&store, b"apple", b"5").await;
        store.checkpoint().await.expect("a checkpoint");
        std::sync::Arc::clone(&store.shared)
    });
    first.crash();
    let told = second.spawn(async move {
        let store = CoreStore::attach(&own, RtEnv, disk.attach_again()).expect("a second core");
        let error = store.checkpoint().await.expect_err("nobody takes it");
        assert!(error.to_string().contains("keeper"), "{error}");
        let error = try_put(&store, 1, 0).await.expect_err("nobody will write it");
        assert!(error.to_string().contains("keeper"), "{error}");
    });
    world.run_for(Duration::from_secs(10));
    assert!(told.expect("the world is there").is_finished(), "it waits for ever");
}

/// A page above leaves has changes for which the log keeps nothing.
#[test]
fn what_the_evicter_wants_is_written_though_the_log_does_not_need_it() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    life(&disk, 1, &options(), async |store| {
        for number in 0..KEYS {
            put(&store, &key(number), &value(number, 0)).await;
        }
        let root = catalog().root.id();
        let want = |page| store.shared.want([page]);
        want(root);
        let is_durable = || store.shared.nodes.homes().get(root).is_some();
        until("a page is written that the evicter wants", is_durable).await;
        store.checkpoint().await.expect("a checkpoint");
        // Others have written it meanwhile.
        want(root);
        rt::sleep(Duration::from_millis(100)).await;
        assert_eq!(store.shared.take_wanted(), [], "the keeper knows");
        assert_eq!(store.shared.flusher().wanted_count(), 0, "a page that is clean is wanted");
    });
}

#[test]
fn who_waits_for_memory_gets_that_of_idle_cores() {
    let world = World::new(1);
    let (first, second) = (world.core("first"), world.core("second"));
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let options = options().log_bytes(8 << 20);
    let store = first.block_on(async {
        let store = open(RtEnv, disk.attach_again(), &options).await.expect("room for a store");
        for number in 0..KEYS {
            put(&store, &key(number), &value(number, 0)).await;
        }
        store
    });
    let (shared, other) = (std::sync::Arc::clone(&store.shared), disk.attach_again());
    drop(second.spawn(async move {
        let store = CoreStore::attach(&shared, RtEnv, other).expect("a second core");
        for number in 0..KEYS {
            put(&store, &key(number), &value(number, 1)).await;
        }
        // Idle, for ever.
        std::future::pending::<()>().await;
    }));
    world.run_for(Duration::from_secs(1));
    let held = || store.shared.nodes.retired_bytes();
    assert!(held() > 0, "it has replaced nodes");
    first.block_on(async {
        // All is dirty: there is nothing to evict.
        for _ in 0..100 {
            store.wait_for_memory().await.expect("the store has not failed");
            if held() == 0 {
                return;
            }
        }
        panic!("{} bytes are held by cores that do nothing", held());
    });
}

/// Writes until told not to, of so many keys, 1,000 bytes each, 32 in a millisecond.
async fn write_on(store: Store, keys: u32, is_over: Rc<Cell<bool>>) {
    for number in 0.. {
        if is_over.get() {
            return;
        }
        put(&store, &key(number * 7919 % keys), &[7; 1000]).await;
        if number % 32 == 31 {
            rt::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// While the log is between half and 7/8 full, the keeper writes pages as fast as the log grows.
#[test]
fn pages_are_written_in_time_for_the_log() {
    let options = options().cache_bytes(64 << 20).log_bytes(8 << 20);
    let disk = Disk::new(MemoryOptions::disk(256 << 20), 1);
    life(&disk, 1, &options, async |store| {
        let before = counted();
        let is_over = Rc::new(Cell::new(false));
        let writing = rt::spawn(write_on(Rc::clone(&store), 2000, Rc::clone(&is_over)));
        until("three times what the log may have was written", || store.log.log().next_number() > 24 << 10)
            .await;
        is_over.set(true);
        writing.await.expect("it does not panic");
        let counted = |what: Count| counted()[what as usize] - before[what as usize];
        let checkpoints = counted(Count::Checkpoints);
        assert!((4..16).contains(&checkpoints), "{checkpoints} checkpoints for three times the log");
        assert_eq!(counted(Count::LogWaits), 0, "writers waited for the log");
    });
}

#[test]
fn a_checkpoint_has_what_was_written_before_though_writes_go_on() {
    let options = options().cache_bytes(64 << 20).log_bytes(32 << 20);
    let disk = Disk::new(MemoryOptions::disk(256 << 20), 1);
    life(&disk, 1, &options, async |store| {
        let is_over = Rc::new(Cell::new(false));
        let writing = rt::spawn(write_on(Rc::clone(&store), 2000, Rc::clone(&is_over)));
        let next = || store.log.log().next_number();
        until("something was written", || next() > 3000).await;
        let before = next();
        store.checkpoint().await.expect("a checkpoint");
        let (after, start) = (next(), store.shared.state().superblock.log.first_write);
        assert!(after > before, "others wrote meanwhile");
        assert!(after < before + 4000, "it came to an end only after {} writes", after - before);
        assert!(start > 2500, "{before} had been written, and the log starts at {start}");
        is_over.set(true);
        writing.await.expect("it does not panic");
    });
}

#[test]
fn who_waits_for_room_in_the_log_writes_nothing_after_the_close() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    life(&disk, 1, &options(), async |store| {
        // More than the buffer takes.
        let writers: Vec<_> = (0..500u32)
            .map(|number| {
                let store = Rc::clone(&store);
                rt::spawn(async move {
                    let (key, change) = (key(number), Change::Put(&[7; 1000]));
                    store.write(catalog(), &key, change, Durability::None).await.map(drop)
                })
            })
            .collect();
        rt::yield_now().await;
        let closer = Rc::clone(&store);
        let closing = rt::spawn(async move { closer.close().await });
        while !store.shared.requests().is_closing {
            rt::yield_now().await;
        }
        let next = store.log.log().next_number();
        closing.await.expect("it does not panic").expect("it closes");
        let mut refused = 0;
        for writer in writers {
            if let Err(error) = writer.await.expect("it does not panic") {
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                refused += 1;
            }
        }
        assert!(refused > 0, "all were faster");
        assert_eq!(store.log.log().next_number(), next, "something was written after the close");
    });
}
