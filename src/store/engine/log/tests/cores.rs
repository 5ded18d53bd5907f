//! Cores that go: closed, left, or taken away with or without something under way.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{append, first_header, fresh, write};
use crate::block::MemoryOptions;
use crate::error::{ErrorKind, Outcome};
use crate::rt;
use crate::sim::{Disk, World};
use crate::store::RtEnv;
use crate::store::engine::log::LogDriver;
use crate::store::options::Durability;

const SEGMENT_BYTES: u32 = 64 << 10;
const SEEDS: u64 = 40;

fn machine(seed: u64, cores: usize) -> (Disk, Arc<LogDriver>) {
    let disk = Disk::new(MemoryOptions::disk(4 << 20), seed);
    let format = super::format(SEGMENT_BYTES, 4096);
    let (offset, header) = first_header(format);
    disk.overwrite(offset, &header);
    (disk, fresh(format, 40, (cores, 8 << 10)).0)
}

#[test]
fn a_core_that_is_taken_away_leaves_nobody_waiting() {
    let (mut failed, mut went_on) = (0, 0);
    for seed in 0..SEEDS {
        let world = World::new(seed);
        let (disk, log) = machine(seed, 2);
        let (first, second) = (world.core("first"), world.core("second"));
        let (written, refused) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(None)));
        for core in [&first, &second] {
            let (log, disk) = (Arc::clone(&log), disk.attach_again());
            let (written, refused) = (Rc::clone(&written), Rc::clone(&refused));
            drop(core.spawn(async move {
                let own = Rc::new(log.attach(&RtEnv, disk).expect("one for each core"));
                loop {
                    rt::sleep(Duration::from_micros(seed * 100)).await;
                    match write(&own, 50).await {
                        Ok(_) => written.set(written.get() + 1),
                        Err(error) => {
                            refused.set(Some(error));
                            break;
                        }
                    }
                }
            }));
        }
        world.run_for(Duration::from_micros(50_000 + 37 * seed));
        first.crash();
        let before = written.get();
        world.run_for(Duration::from_millis(200));
        match refused.take() {
            // It had a write, or a flush, under way.
            Some(error) => {
                assert!(log.has_failed());
                assert!(matches!(error.outcome(), Outcome::Unknown | Outcome::NotStarted), "{error}");
                assert!(error.to_string().contains("went away"), "{error}");
                failed += 1;
            }
            None => {
                assert!(written.get() > before + 5, "seed {seed}: the second core goes on");
                // Another one comes in its place.
                let own = log.attach(&RtEnv, disk.attach_again());
                drop(own);
                went_on += 1;
            }
        }
        second.crash();
    }
    println!("{failed} failed, {went_on} went on");
    assert!(failed > 3 && went_on > 3, "{failed} {went_on}");
}

#[test]
fn a_driver_that_is_dropped_keeps_its_promises_and_gives_its_buffer_back() {
    let world = World::new(1);
    let (disk, log) = machine(1, 1);
    let core = world.core("core");
    core.block_on(async move {
        let own = log.attach(&RtEnv, disk.attach_again()).expect("the first");
        let promised = append(&own, 50).await.expect("room");
        own.commit(promised, Durability::Interval(Duration::from_secs(3600)));
        let lazy = append(&own, 50).await.expect("room");
        own.commit(lazy, Durability::None);
        let error = log.attach(&RtEnv, disk.attach_again()).map(drop).expect_err("it is for one core");
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        drop(own);
        rt::sleep(Duration::from_millis(50)).await;
        assert!(log.durable() > promised, "what was promised for later is kept now");
        let own = log.attach(&RtEnv, disk.attach_again()).expect("the first is gone");
        own.wait(lazy).await.expect("no fault is injected");
        own.close().await.expect("no fault is injected");
        // All of its needs are met, so there is nothing that another core has to do.
        let own = log.attach(&RtEnv, disk.attach_again()).expect("the second is gone");
        assert_eq!(own.durable(), lazy + 1);
    });
}

#[test]
fn one_core_may_write_what_another_one_left() {
    let world = World::new(2);
    let (disk, log) = machine(2, 2);
    let (first, second) = (world.core("first"), world.core("second"));
    let (shared, machine) = (Arc::clone(&log), disk.attach_again());
    let number = first.block_on(async move {
        let own = shared.attach(&RtEnv, machine).expect("one for each core");
        let number = append(&own, 50).await.expect("room");
        drop(own);
        rt::yield_now().await;
        number
    });
    // It asked for nothing, so nothing was written; then it went.
    first.crash();
    let shared = Arc::clone(&log);
    second.block_on(async move {
        let own = shared.attach(&RtEnv, disk.attach_again()).expect("one for each core");
        own.wait(number).await.expect("no fault is injected");
    });
    assert!(log.durable() > number);
}

#[test]
fn a_dropped_wait_takes_nothing_from_the_others() {
    let world = World::new(3);
    let (disk, log) = machine(3, 1);
    let core = world.core("core");
    core.block_on(async move {
        let own = Rc::new(log.attach(&RtEnv, disk).expect("the first"));
        let number = append(&own, 50).await.expect("room");
        let others: Vec<_> = (0..3)
            .map(|_| {
                let own = Rc::clone(&own);
                rt::spawn(async move { own.wait(number).await })
            })
            .collect();
        rt::timeout(Duration::from_micros(10), own.wait(number)).await.expect_err("a flush takes longer");
        assert_eq!(own.shared().wal().order().next(), number + 1);
        let longest = own.log().max_record_bytes();
        let refused = own.room(1, longest + 1).await.map(drop).expect_err("it is longer");
        assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::InvalidInput, Outcome::NotStarted));
        for other in others {
            other.await.expect("no panic").expect("no fault is injected");
        }
    });
}

#[test]
fn a_core_that_always_has_something_to_write_tells_the_others() {
    let world = World::new(4);
    let (disk, log) = machine(4, 2);
    let (busy, other) = (world.core("busy"), world.core("other"));
    let (shared, machine) = (Arc::clone(&log), disk.attach_again());
    drop(busy.spawn(async move {
        let own = shared.attach(&RtEnv, machine).expect("one for each core");
        loop {
            let number = append(&own, 10).await.expect("room");
            own.commit(number, Durability::Sync);
            rt::sleep(Duration::from_micros(100)).await;
        }
    }));
    let shared = Arc::clone(&log);
    let took = other.block_on(async move {
        let own = Rc::new(shared.attach(&RtEnv, disk).expect("one for each core"));
        rt::sleep(Duration::from_millis(20)).await;
        let began = rt::now();
        for _ in 0..10 {
            write(&own, 50).await.expect("no fault is injected");
        }
        let waited = rt::now() - began;
        // More than the buffer holds, of which nobody asks for anything.
        for _ in 0..60 {
            append(&own, 500).await.expect("room");
        }
        (waited, rt::now() - began - waited)
    });
    // A write and a flush take 2.2 ms at most, and one may be under way.
    assert!(took.0 < Duration::from_millis(60) && took.1 < Duration::from_millis(60), "{took:?}");
}
