//! What the driver takes beside a bare loop of write and flush.

use std::rc::Rc;
use std::time::Duration;

use super::{fresh, prepare, write};
use crate::block::{AnyNamespace, Fault, MemoryOptions, Namespace, NamespaceAddress};
use crate::mem::DmaBuf;
use crate::rt;
use crate::sim::{Disk, World};
use crate::store::RtEnv;
use crate::store::options::Durability;

const BLOCK_BYTES: u32 = 4096;
const SEGMENT_BYTES: u32 = 256 << 10;
const VALUE_BYTES: usize = 80;
/// Segments behind the fresh log's two.
const SPARE: u32 = 30;

/// Commands that a disk gets for `rounds` rounds of writes by `waiters` tasks.
fn commands(options: MemoryOptions, waiters: usize, rounds: usize) -> u64 {
    let world = World::new(7);
    let disk = Disk::new(options, 7);
    let core = world.core("core");
    let format = super::format(SEGMENT_BYTES, BLOCK_BYTES);
    let machine = disk.clone();
    core.block_on(async move {
        prepare(&machine, format).await;
        let (log, _) = fresh(format, SPARE, (1, 64 << 10));
        let own = Rc::new(log.attach(&RtEnv, machine.attach_again()).expect("the first"));
        let before = machine.operations();
        let tasks: Vec<_> = (0..waiters)
            .map(|_| {
                let own = Rc::clone(&own);
                rt::spawn(async move {
                    for _ in 0..rounds {
                        write(&own, VALUE_BYTES).await.expect("no fault is injected");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        machine.operations() - before
    })
}

#[test]
fn a_group_shares_one_flush_and_one_waiter_needs_one_command_where_one_will_do() {
    let disk = || MemoryOptions::disk(16 << 20);
    let rounds = 50;
    // A write and a flush for each group, however many are in it.
    assert_eq!(commands(disk(), 1, rounds), 2 * 50);
    // A simulated core polls its tasks in any order, so that some come too late for their group.
    let shared = commands(disk(), 64, rounds);
    println!("{shared} commands for 50 rounds of 64");
    assert!((100..=200).contains(&shared), "{shared}");
    assert_eq!(commands(disk().forced_unit_access(true), 1, rounds), 50);
    assert_eq!(commands(disk().volatile_cache(false), 1, rounds), 50);
}

#[test]
fn much_is_written_while_the_batch_before_is_flushed() {
    let world = World::new(7);
    let disk = Disk::new(MemoryOptions::disk(16 << 20).flush_latency(Duration::from_millis(500)), 7);
    let core = world.core("core");
    let format = super::format(SEGMENT_BYTES, BLOCK_BYTES);
    core.block_on(async move {
        prepare(&disk, format).await;
        let (log, _) = fresh(format, SPARE, (1, 64 << 10));
        let own = log.attach(&RtEnv, disk.attach_again()).expect("the first");
        // The flush of the first record never ends.
        disk.inject([Fault::flush().hangs()]);
        let first = super::append(&own, 8).await.expect("room");
        own.commit(first, Durability::Sync);
        rt::sleep(Duration::from_millis(5)).await;
        // Six times what the buffer holds, all of it written behind that.
        for _ in 0..400 {
            let number = super::append(&own, 1000).await.expect("room");
            own.commit(number, Durability::Sync);
        }
        assert_eq!(own.durable(), first);
        let position = log.with_leader(|leader| leader.position()).await;
        assert!(position.first > 300, "{position:?}");
        // The task does not end.
        std::mem::forget(own);
    });
}

#[test]
fn writers_that_are_faster_than_the_device_do_not_keep_a_flush_from_coming() {
    let world = World::new(8);
    let disk = Disk::new(MemoryOptions::disk(16 << 20), 8);
    let core = world.core("core");
    let format = super::format(SEGMENT_BYTES, BLOCK_BYTES);
    core.block_on(async move {
        prepare(&disk, format).await;
        let (log, _) = fresh(format, SPARE, (1, 8 << 10));
        let own = Rc::new(log.attach(&RtEnv, disk.attach_again()).expect("the first"));
        let writer = Rc::clone(&own);
        let _writing = rt::spawn(async move {
            loop {
                let number = super::append(&writer, 500).await.expect("room");
                writer.commit(number, Durability::None);
            }
        });
        rt::sleep(Duration::from_millis(5)).await;
        let began = rt::now();
        for _ in 0..5 {
            write(&own, 50).await.expect("no fault is injected");
        }
        assert!(rt::now() - began < Duration::from_millis(50), "{:?}", rt::now() - began);
    });
}

/// Acknowledged writes a second, of a bare loop whose every turn acknowledges `waiters`.
async fn bare(namespace: &AnyNamespace, waiters: usize, turns: usize) -> f64 {
    let block = BLOCK_BYTES as usize;
    let bytes = (waiters * (VALUE_BYTES + 24) + 112).next_multiple_of(block);
    let began = rt::now();
    let mut buf = DmaBuf::zeroed(bytes);
    buf.fill(7);
    for turn in 0..turns {
        let at = 64 * u64::from(SEGMENT_BYTES) + (turn * bytes % (4 << 20)) as u64;
        buf = namespace.write(at, buf).await.expect("room");
        namespace.flush().await.expect("works");
    }
    rate(waiters * turns, rt::now() - began)
}

/// The same through the driver.
async fn driven(namespace: &AnyNamespace, waiters: usize, turns: usize) -> f64 {
    let format = super::format(SEGMENT_BYTES, BLOCK_BYTES);
    prepare(namespace, format).await;
    let (log, _) = fresh(format, SPARE, (1, 1 << 20));
    let own = Rc::new(log.attach(&RtEnv, namespace.clone()).expect("the first"));
    let began = rt::now();
    let tasks: Vec<_> = (0..waiters)
        .map(|_| {
            let own = Rc::clone(&own);
            rt::spawn(async move {
                for _ in 0..turns {
                    write(&own, VALUE_BYTES).await.expect("room");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let rate = rate(waiters * turns, rt::now() - began);
    Rc::into_inner(own).expect("the tasks are gone").close().await.expect("works");
    rate
}

fn rate(writes: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(writes).expect("few")) / took.as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[test]
fn the_driver_is_nearly_as_fast_as_a_bare_loop() {
    let path = std::env::temp_dir().join(format!("boson-log-speed-{}", std::process::id()));
    let address: NamespaceAddress = format!("file:{}?size=32M", path.display()).parse().expect("an address");
    crate::run(async move {
        let namespace = AnyNamespace::open(&address).await.expect("opens");
        // Both meet blocks that were written before.
        for at in 0..32 {
            namespace.write(at << 20, DmaBuf::zeroed(1 << 20)).await.expect("room");
        }
        namespace.flush().await.expect("works");
        for (waiters, turns) in [(1, 60), (64, 60)] {
            let (mut bares, mut drivens) = (Vec::new(), Vec::new());
            for _ in 0..11 {
                bares.push(bare(&namespace, waiters, turns).await);
                drivens.push(driven(&namespace, waiters, turns).await);
            }
            let (bare, driven) = (median(bares), median(drivens));
            println!("{waiters} waiters: bare {bare:.0}/s, driven {driven:.0}/s, {:.2}", driven / bare);
            // Unoptimised, on a machine with other work, it is less, and that is no failure.
            assert!(driven > 0.02 * bare, "{waiters} waiters: {driven} of {bare} a second");
        }
    });
    std::fs::remove_file(path).expect("it is there");
}
