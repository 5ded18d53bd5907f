//! Devices that fail or are slow: what was acknowledged is there, everybody hears of the failure,
//! and nobody waits for ever.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{append, driver, first_header, fresh, fresh_end, name, record, write};
use crate::block::{Fault, MemoryOptions};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt::{self, Instant};
use crate::sim::{Disk, World};
use crate::store::RtEnv;
use crate::store::engine::log::replay::replay;
use crate::store::engine::log::{CoreDriver, LogDriver};
use crate::store::options::Durability;
use crate::store::wal::{BundleEntry, LogFormat};

const SEGMENT_BYTES: u32 = 64 << 10;
const BLOCK_BYTES: u32 = 512;
/// What a log with a whole disk has behind its first two segments.
const SPARE: u32 = 18;

fn format() -> LogFormat {
    super::format(SEGMENT_BYTES, BLOCK_BYTES)
}

fn disk(options: MemoryOptions, seed: u64) -> Disk {
    let disk = Disk::new(options.block_size_bytes(BLOCK_BYTES), seed);
    let (offset, header) = first_header(format());
    disk.overwrite(offset, &header);
    disk
}

/// Writes records of increasing numbers until the log fails; returns the errors of a write that
/// waited and of one that came later, and notes the numbers that were acknowledged.
async fn until_failure(
    own: Rc<CoreDriver<RtEnv, Disk>>,
    acknowledged: Rc<Cell<u64>>,
    written: Rc<RefCell<Vec<u64>>>,
) -> (Option<Error>, Error) {
    let mut waited = None;
    loop {
        let number = match append(&own, 60).await {
            Ok(number) => number,
            Err(error) => return (waited, error),
        };
        written.borrow_mut().push(number);
        own.commit(number, Durability::Sync);
        match own.wait(number).await {
            Ok(()) => acknowledged.set(acknowledged.get().max(number + 1)),
            Err(error) => waited = Some(error),
        }
    }
}

/// Several cores write until `fault` meets the disk; then the power fails. What was acknowledged
/// is there.
fn fails(options: MemoryOptions, fault: Fault, seed: u64) {
    let world = World::new(seed);
    let disk = disk(options, seed);
    disk.inject([fault]);
    let (log, _) = fresh(format(), SPARE, (3, 8 << 10));
    let acknowledged = Rc::new(Cell::new(super::FIRST));
    let written = Rc::new(RefCell::new(Vec::new()));
    let ended = Rc::new(Cell::new(0));
    let cores: Vec<_> = (0..3).map(|core| world.core(&format!("core {core}"))).collect();
    for core in &cores {
        let (log, machine) = (Arc::clone(&log), disk.attach_again());
        let (acknowledged, written, ended) =
            (Rc::clone(&acknowledged), Rc::clone(&written), Rc::clone(&ended));
        drop(core.spawn(async move {
            let own = Rc::new(log.attach(&RtEnv, machine).expect("one for each core"));
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    let own = Rc::clone(&own);
                    rt::spawn(until_failure(own, Rc::clone(&acknowledged), Rc::clone(&written)))
                })
                .collect();
            for client in clients {
                let (waited, refused) = client.await.expect("no panic");
                assert_eq!((refused.code(), refused.outcome()), (Some(5), Outcome::NotStarted));
                assert!(refused.to_string().contains("takes no more writes"), "{refused}");
                if let Some(waited) = waited {
                    assert_eq!((waited.code(), waited.outcome()), (Some(5), Outcome::Unknown));
                }
                ended.set(ended.get() + 1);
            }
            Rc::into_inner(own).expect("the clients are gone").close().await.expect_err("it failed");
            log.attach(&RtEnv, disk_of_nobody()).map(drop).expect_err("it failed");
            ended.set(ended.get() + 1);
        }));
    }
    world.run_for(Duration::from_secs(20));
    assert_eq!(ended.get(), 15, "seed {seed}: everybody hears of it");
    disk.inject([]);
    disk.power_loss();
    let world = World::new(seed);
    let core = world.core("core");
    let machine = disk.attach_again();
    let mut found = super::FIRST;
    let read_all = replay(
        &machine,
        format(),
        fresh_end(BLOCK_BYTES).position,
        async |batch: &crate::store::wal::Batch<'_>| {
            for (number, operations) in batch.records() {
                assert_eq!((number, operations.0), (found, &record(number, 60)[..]));
                found += 1;
            }
        },
    );
    core.block_on(read_all).expect("nothing that was durable is damaged");
    let last = written.borrow().iter().copied().max().unwrap_or(0);
    assert!(found >= acknowledged.get() && found <= last + 1, "seed {seed}: {found} {}", acknowledged.get());
}

fn disk_of_nobody() -> Disk {
    Disk::new(MemoryOptions::disk(1 << 20), 0)
}

#[test]
fn any_write_or_flush_that_fails_ends_the_log_and_loses_nothing_that_was_durable() {
    let cached = || MemoryOptions::disk(2 << 20);
    for after in 0..12 {
        fails(cached(), Fault::write().after(after).once(), after);
        fails(cached(), Fault::flush().after(after).once(), after);
        fails(cached(), Fault::flush().after(after).once().loses_cache(), after);
        fails(cached().forced_unit_access(true), Fault::write().after(after).once(), after);
        fails(cached().volatile_cache(false), Fault::write().after(after).once(), after);
    }
}

#[test]
fn another_core_hears_of_a_failure_while_a_flush_hangs() {
    let world = World::new(9);
    let disk = disk(MemoryOptions::disk(2 << 20), 9);
    let (log, _) = fresh(format(), SPARE, (2, 8 << 10));
    let (first, second) = (world.core("first"), world.core("second"));
    let (shared, machine) = (Arc::clone(&log), disk.clone());
    drop(first.spawn(async move {
        let own = shared.attach(&RtEnv, machine.attach_again()).expect("one for each core");
        machine.inject([Fault::flush().hangs(), Fault::write().after(1).once()]);
        let number = append(&own, 60).await.expect("room");
        own.commit(number, Durability::Sync);
        rt::sleep(Duration::from_millis(5)).await;
        // More than the buffer holds, so that it is written meanwhile.
        while append(&own, 500).await.is_ok() {}
    }));
    second.block_on(async move {
        let own = log.attach(&RtEnv, disk.attach_again()).expect("one for each core");
        rt::sleep(Duration::from_millis(2)).await;
        let number = append(&own, 60).await.expect("room");
        let waited = rt::timeout(Duration::from_secs(1), own.wait(number)).await.expect("in time");
        assert!(rt::now() - Instant::ORIGIN < Duration::from_millis(10), "at {:?}", rt::now());
        assert_eq!(waited.expect_err("it failed").outcome(), Outcome::Unknown);
    });
    first.crash();
}

#[test]
fn a_slow_device_makes_writers_wait_and_no_more() {
    let world = World::new(3);
    let slow = MemoryOptions::disk(2 << 20)
        .write_latency(Duration::from_millis(50))
        .flush_latency(Duration::from_millis(300));
    let disk = disk(slow, 3);
    let core = world.core("core");
    let machine = disk.clone();
    core.block_on(async move {
        let (log, _) = fresh(format(), SPARE, (1, 8 << 10));
        let own = log.attach(&RtEnv, machine.attach_again()).expect("the first");
        // Ten times the buffer, of which nobody asks for anything.
        let mut last = 0;
        for _ in 0..400 {
            last = append(&own, 180).await.expect("room, in time");
            own.commit(last, Durability::None);
        }
        assert_eq!(own.durable(), super::FIRST, "nobody asked");
        let began = rt::now();
        own.wait(last).await.expect("no fault is injected");
        assert!(rt::now() - began < Duration::from_secs(1));
        // What nobody asks for is written all the same, and an interval is kept.
        let operations = machine.operations();
        let number = append(&own, 10).await.expect("room");
        own.commit(number, Durability::None);
        rt::sleep(Duration::from_millis(99)).await;
        assert_eq!(machine.operations(), operations);
        rt::sleep(Duration::from_millis(100)).await;
        assert_eq!((machine.operations(), own.durable()), (operations + 1, number));
        own.commit(number, Durability::Interval(Duration::from_secs(2)));
        rt::sleep(Duration::from_millis(990)).await;
        assert_eq!(own.durable(), number);
        rt::sleep(Duration::from_millis(400)).await;
        assert_eq!(own.durable(), number + 1);
        own.close().await.expect("no fault is injected");
    });
}

/// Fills the log until no segment is left; returns a task that waits for the next record.
async fn fill(own: &Rc<CoreDriver<RtEnv, Disk>>) -> rt::JoinHandle<Result<u64>> {
    loop {
        let own = Rc::clone(own);
        let mut writing = rt::spawn(async move { write(&own, 1500).await });
        match rt::timeout(Duration::from_secs(1), &mut writing).await {
            Ok(written) => drop(written.expect("no panic").expect("no fault is injected")),
            Err(_) => return writing,
        }
    }
}

#[test]
fn without_a_segment_writers_wait_and_a_segment_lets_them_go_on() {
    let world = World::new(4);
    let disk = disk(MemoryOptions::disk(2 << 20), 4);
    let core = world.core("core");
    core.block_on(async move {
        let (log, pool) = fresh(format(), 2, (1, 8 << 10));
        let own = Rc::new(log.attach(&RtEnv, disk.attach_again()).expect("the first"));
        let waiting = fill(&own).await;
        assert!(pool.wanted.load(Ordering::Relaxed) > 0);
        assert!(own.durable() > 60 && !waiting.is_finished());
        // A checkpoint needs its bundles named, which the last blocks are for.
        for number in 0..4 {
            let newest = own.durable() - 1;
            let ticket = own.name_bundle(newest, BundleEntry { number, trailer: 1, checksum: 2 });
            let named = rt::timeout(Duration::from_secs(1), own.wait_bundle(ticket)).await;
            named.expect("in time").expect("no fault is injected");
            assert_eq!(own.bundles_durable(), ticket + 1);
        }
        assert!(!waiting.is_finished());
        // A checkpoint.
        let start = log.with_leader(|leader| leader.position()).await;
        pool.recycle(&log, start.segment).await;
        let number = waiting.await.expect("no panic").expect("no fault is injected");
        assert!(own.durable() > number);
    });
}

#[test]
fn what_was_written_is_flushed_although_the_rest_waits_for_a_segment() {
    let world = World::new(6);
    let disk = disk(MemoryOptions::disk(2 << 20), 6);
    let core = world.core("core");
    core.block_on(async move {
        let (log, pool) = fresh(format(), 2, (1, 8 << 10));
        let own = Rc::new(log.attach(&RtEnv, disk.attach_again()).expect("the first"));
        // Nobody asks for a flush until the log is full.
        let mut last = 0;
        while let Ok(number) = rt::timeout(Duration::from_secs(1), append(&own, 1500)).await {
            last = number.expect("no fault is injected");
            own.commit(last, Durability::None);
        }
        assert_eq!((own.durable(), pool.wanted.load(Ordering::Relaxed) > 0), (super::FIRST, true));
        let written = log.with_leader(|leader| leader.position().first).await - 1;
        assert!(super::FIRST < written && written < last);
        let waiting = rt::spawn({
            let own = Rc::clone(&own);
            async move { own.wait(last).await }
        });
        let patience = Duration::from_secs(1);
        rt::timeout(patience, own.wait(written)).await.expect("in time").expect("no fault is injected");
        assert!(!waiting.is_finished());
        let start = log.with_leader(|leader| leader.position()).await;
        pool.recycle(&log, start.segment).await;
        waiting.await.expect("no panic").expect("no fault is injected");
    });
}

#[test]
fn damage_says_where_it_is_and_what_is_known() {
    let world = World::new(5);
    let disk = disk(MemoryOptions::disk(2 << 20), 5);
    let core = world.core("core");
    let machine = disk.clone();
    let (log, _): (Arc<LogDriver>, _) =
        driver(format(), 1, &fresh_end(BLOCK_BYTES), [name(12, 1)], (1, 8 << 10), None);
    let positions = core.block_on(async move {
        let own = Rc::new(log.attach(&RtEnv, machine).expect("the first"));
        let mut positions = Vec::new();
        for _ in 0..6 {
            positions.push(log.with_leader(|leader| leader.position()).await);
            write(&own, 60).await.expect("no fault is injected");
        }
        positions
    });
    let third = positions[2];
    let at = u64::from(third.segment.segment) * u64::from(SEGMENT_BYTES) + u64::from(third.offset);
    disk.flip_bit(at + 130, 3);
    let mut seen = Vec::new();
    let read =
        core.block_on(replay(&disk, format(), positions[0], async |batch: &crate::store::wal::Batch<'_>| {
            seen.push(batch.header.batch)
        }));
    let error = read.expect_err("batches behind it were durable");
    assert_eq!((error.kind(), seen), (ErrorKind::Corrupt, vec![1, 2]));
    let text = error.to_string();
    assert!(text.contains(&format!("sim:disk offset {at}")), "{text}");
    assert!(text.contains("batch 3") && text.contains("writes up to number 2 are known"), "{text}");
    // The header of the first segment.
    disk.flip_bit(u64::from(third.segment.segment) * u64::from(SEGMENT_BYTES) + 20, 1);
    let error = core
        .block_on(replay(&disk, format(), positions[0], async |_: &crate::store::wal::Batch<'_>| {}))
        .expect_err("no header");
    assert!(error.to_string().contains("header of log segment 10"), "{error}");
    // The device refuses to read.
    disk.inject([Fault::read().once()]);
    let error = core
        .block_on(replay(&disk, format(), positions[0], async |_: &crate::store::wal::Batch<'_>| {}))
        .expect_err("no bytes");
    assert_eq!(error.code(), Some(5));
}
