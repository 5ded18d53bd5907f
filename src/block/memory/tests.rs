//! What memory devices do, and what their faults do to them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::chunks::CHUNK_BYTES;
use super::*;
use crate::block::{Namespace, stats};
use crate::error::Outcome;
use crate::mem::DmaBuf;
use crate::rt;
use crate::sim::Executor;

/// For devices without latency: every operation completes at the first poll.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("memory does not wait"),
    }
}

fn filled(len: usize, byte: u8) -> DmaBuf {
    let mut buf = DmaBuf::zeroed(len);
    buf.fill(byte);
    buf
}

fn block(byte: u8) -> DmaBuf {
    filled(4096, byte)
}

/// A device with a volatile cache that answers at once.
fn cached(seed: u64) -> MemoryOptions {
    MemoryOptions::new(1 << 20).volatile_cache(true).atomic_write_bytes(512).seed(seed)
}

fn open(options: MemoryOptions) -> MemoryDevice {
    MemoryDevice::open("mem:test", options).expect("possible options")
}

#[test]
fn what_is_written_across_chunks_is_read_back_and_the_rest_is_zero() {
    let namespace = MemoryNamespace::new("mem", 1 << 20, 512).expect("valid");
    let offset = CHUNK_BYTES as u64 - 512;
    now(namespace.write(offset, filled(1024, 7))).expect("inside");
    let buf = now(namespace.clone().read(offset - 512, filled(2048, 9))).expect("inside");
    assert!(buf[..512].iter().chain(&buf[1536..]).all(|&byte| byte == 0));
    assert!(buf[512..1536].iter().all(|&byte| byte == 7));
}

#[test]
fn options_that_contradict_each_other_are_refused_with_a_sentence() {
    let options = MemoryOptions::new(1 << 20);
    for (options, part) in [
        (options.clone().block_size_bytes(100), "powers of two from 512"),
        (options.clone().max_size_bytes(4096), "are not possible"),
        (MemoryOptions::new(1000), "are not possible"),
        (options.clone().max_transfer_bytes(1000), "largest transfer of 1000 bytes is not whole blocks"),
        (options.clone().max_transfer_bytes(0), "allow at least one block"),
        (options.clone().queue_depth(0), "allow at least one block"),
        (options.clone().atomic_write_bytes(100), "atomic unit of 100"),
        (options.clone().atomic_boundary_bytes(100), "atomic boundary of 100"),
    ] {
        let error = MemoryDevice::open("mem:odd", options).expect_err(part);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn it_grows_up_to_its_limit() {
    let namespace = MemoryNamespace::growable("mem", 0, 8192, 512).expect("valid");
    assert!(now(namespace.write(0, filled(512, 1))).is_err());
    now(namespace.grow(4096)).expect("within the limit");
    now(namespace.write(0, filled(512, 1))).expect("inside now");
    assert_eq!(now(namespace.grow(8193)).expect_err("too large").kind(), ErrorKind::NoSpace);
    assert_eq!(namespace.size_bytes(), 4096);
}

/// What is at the two blocks after a write, a flush, a second write to each and a power failure.
fn after_power_loss(seed: u64) -> Vec<u8> {
    let device = open(cached(seed));
    let writer = device.namespace();
    now(writer.write(0, block(1))).expect("valid");
    now(writer.flush()).expect("works");
    now(writer.write(0, block(2))).expect("valid");
    now(writer.write(4096, block(3))).expect("valid");
    assert_eq!(device.peek(0, 1), [2]);
    device.power_loss();
    device.peek(0, 8192)
}

#[test]
fn a_power_failure_keeps_what_was_flushed_and_tears_loses_and_reorders_the_rest() {
    let outcomes: Vec<_> = (0..64).map(after_power_loss).collect();
    assert!(outcomes.iter().all(|bytes| bytes[..4096].iter().all(|byte| [1, 2].contains(byte))));
    assert!(outcomes.iter().all(|bytes| bytes[4096..].iter().all(|byte| [0, 3].contains(byte))));
    let torn = |bytes: &Vec<u8>| bytes[..4096].contains(&1) && bytes[..4096].contains(&2);
    assert!(outcomes.iter().any(torn), "a write is torn sometimes");
    let reordered = |bytes: &Vec<u8>| bytes[0] == 1 && bytes[4096] == 3;
    assert!(outcomes.iter().any(reordered), "a later write arrives without an earlier one sometimes");
    let lost = |bytes: &Vec<u8>| bytes[..4096].iter().all(|&byte| byte == 1) && bytes[4096] == 0;
    assert!(outcomes.iter().any(lost), "everything is lost sometimes");
    assert_eq!(after_power_loss(7), after_power_loss(7), "a seed decides it");
}

#[test]
fn any_version_of_a_block_since_the_flush_may_be_what_a_power_failure_leaves() {
    let mut left = BTreeSet::new();
    for seed in 0..64 {
        let device = open(cached(seed).atomic_write_bytes(4096));
        let writer = device.namespace();
        (0..4).for_each(|version| drop(now(writer.write(0, block(version))).expect("valid")));
        device.power_loss();
        let bytes = device.peek(0, 4096);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "an atomic unit is not torn");
        left.insert(bytes[0]);
    }
    assert_eq!(left, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn a_write_is_atomic_in_its_unit_but_not_across_the_boundary() {
    let mut torn = BTreeSet::new();
    for seed in 0..200 {
        let options = cached(seed).atomic_write_bytes(16 << 10).atomic_boundary_bytes(8 << 10);
        let device = open(options);
        now(device.namespace().write(0, filled(32 << 10, 1))).expect("valid");
        device.power_loss();
        let bytes = device.peek(0, 32 << 10);
        torn.extend((1..bytes.len()).filter(|&at| bytes[at] != bytes[at - 1]));
    }
    assert_eq!(torn, BTreeSet::from([8 << 10, 16 << 10, 24 << 10]));
}

#[test]
fn a_durable_write_survives_whatever_is_in_the_cache_under_it() {
    for seed in 0..64 {
        let device = open(cached(seed));
        let writer = device.namespace();
        now(writer.write(0, filled(16 << 10, 1))).expect("valid");
        now(writer.write_durable(4096, block(2))).expect("valid");
        now(writer.write(8192, block(3))).expect("valid");
        device.power_loss();
        assert!(device.peek(4096, 4096).iter().all(|&byte| byte == 2), "seed {seed}");
        assert!(device.peek(8192, 4096).iter().all(|byte| [0, 1, 3].contains(byte)), "seed {seed}");
    }
}

#[test]
fn a_durable_write_without_forced_unit_access_flushes() {
    for seed in 0..16 {
        let device = open(cached(seed).forced_unit_access(false));
        let writer = device.namespace();
        now(writer.write(8192, block(1))).expect("valid");
        now(writer.write_durable(0, block(2))).expect("valid");
        device.power_loss();
        assert_eq!((device.peek(0, 1), device.peek(8192, 1)), (vec![2], vec![1]));
    }
}

#[test]
fn a_flush_covers_what_had_completed_when_it_began() {
    let mut lost = 0;
    for seed in 0..32 {
        let executor = Executor::new(seed);
        let device = open(MemoryOptions::disk(1 << 20).seed(seed));
        let user = device.namespace();
        executor.block_on(async move {
            user.write(0, block(1)).await.expect("valid");
            let flushing = rt::spawn({
                let user = user.clone();
                async move { user.flush().await }
            });
            rt::yield_now().await;
            let writing = rt::spawn(async move { user.write(4096, block(2)).await });
            flushing.await.expect("no panic").expect("works");
            writing.await.expect("no panic").expect("works");
        });
        device.power_loss();
        assert_eq!(device.peek(0, 1), [1]);
        lost += u32::from(device.peek(4096, 1) == [0]);
    }
    assert!(lost > 0, "a write during a flush is not durable");
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    for seed in 0..16 {
        let device = open(cached(seed));
        now(device.namespace().write(0, block(5))).expect("valid");
        device.kill();
        assert_eq!(device.peek(0, 4096), vec![5; 4096]);
    }
}

#[test]
fn a_dropped_write_arrives_when_its_time_has_come_and_not_later() {
    let executor = Executor::new(3);
    let device = open(MemoryOptions::disk(1 << 20).write_latency(Duration::from_millis(10)));
    let user = device.namespace();
    executor.block_on(async move {
        for round in 0..20 {
            user.write(0, block(round)).await.expect("valid");
            assert!(rt::timeout(Duration::ZERO, user.write(0, block(100))).await.is_err());
            let soon = user.read(0, block(0)).await.expect("valid")[0];
            assert!([round, 100].contains(&soon));
            rt::sleep(Duration::from_millis(11)).await;
            assert_eq!(user.read(0, block(0)).await.expect("valid")[0], 100);
        }
    });
}

#[test]
fn a_write_in_flight_arrives_or_not_when_the_process_ends() {
    let mut arrived = BTreeSet::new();
    for seed in 0..32 {
        let executor = Executor::new(seed);
        let device = open(MemoryOptions::disk(1 << 20).seed(seed));
        let user = device.namespace();
        drop(executor.env());
        executor.block_on(async move {
            drop(rt::spawn(async move { user.write(0, block(1)).await }));
            rt::yield_now().await;
        });
        executor.crash();
        device.kill();
        arrived.insert(device.peek(0, 1)[0]);
    }
    assert_eq!(arrived, BTreeSet::from([0, 1]));
}

#[test]
fn a_full_file_system_refuses_a_write_that_needs_a_block() {
    let device = open(MemoryOptions::new(1 << 20).file_system_bytes(4 * 4096));
    let namespace = device.namespace();
    assert!(namespace.info().sparse);
    let is_full = |error: Error| assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    now(namespace.allocate(0, 2 * 4096)).expect("there is room");
    assert_eq!((device.taken_bytes(), device.others_have(u64::MAX)), (2 * 4096, 2 * 4096));
    now(namespace.write(0, block(1))).expect("it is allocated");
    is_full(now(namespace.write(2 * 4096, block(1))).expect_err("it is full").into_parts().0);
    is_full(now(namespace.allocate(4096, 2 * 4096)).expect_err("it is full"));
    now(namespace.trim(0, 4096)).expect("trimmed");
    now(namespace.write(2 * 4096, block(2))).expect("there is one block");
    is_full(now(namespace.write(0, block(1))).expect_err("it is full").into_parts().0);
    assert_eq!(device.others_have(0), 0);
    now(namespace.write(0, block(3))).expect("there is room");
    assert_eq!(device.taken_bytes(), 3 * 4096);
}

#[test]
fn injected_faults_hit_what_they_name() {
    let device = open(cached(0));
    let user = device.namespace();
    device.inject([Fault::read().at(5000)]);
    assert!(now(user.read(0, block(0))).is_ok());
    let error = now(user.read(4096, block(0))).expect_err("injected");
    assert_eq!((error.code(), error.outcome()), (Some(libc::EIO), Outcome::NotStarted));
    assert!(error.to_string().contains("mem:test offset 4096"), "{error}");
    device.inject([Fault::write().after(1).once().fails_with(libc::ENOSPC)]);
    assert!(now(user.write(0, block(1))).is_ok());
    assert!(now(user.flush()).is_ok());
    let error = now(user.write(0, block(2))).expect_err("injected");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::NoSpace, Outcome::Unknown));
    assert!(now(user.write(0, block(2))).is_ok());
    for (fault, works) in [
        (Fault::flush(), [true, true, false, true, true, true]),
        (Fault::trim(), [true, true, true, false, true, true]),
        (Fault::write_zeroes(), [true, true, true, true, false, true]),
        (Fault::compare_and_write(), [true, true, true, true, true, false]),
        (Fault::any(), [false; 6]),
        (Fault::write().within(4096..8192), [true; 6]),
    ] {
        device.inject([fault.clone()]);
        let results = [
            now(user.read(0, block(1))).is_ok(),
            now(user.write(0, block(1))).is_ok(),
            now(user.flush()).is_ok(),
            now(user.trim(0, 4096)).is_ok(),
            now(user.write_zeroes(0, 4096)).is_ok(),
            now(user.compare_and_write(0, block(0), block(0))).is_ok(),
        ];
        assert_eq!(results, works, "{fault:?}");
    }
}

#[test]
fn writes_vanish_go_astray_and_are_corrupted() {
    let device = open(cached(1));
    let user = device.namespace();
    device.inject([Fault::write().once().vanishes()]);
    now(user.write(0, block(1))).expect("says so");
    assert_eq!(device.peek(0, 4096), vec![0; 4096]);
    device.inject([Fault::write().once().is_misdirected(8192)]);
    now(user.write(0, block(2))).expect("says so");
    assert_eq!((device.peek(0, 1), device.peek(8192, 4096)), (vec![0], vec![2; 4096]));
    device.inject([Fault::write().once().flips_a_bit()]);
    now(user.write(0, block(0))).expect("says so");
    assert_eq!(device.peek(0, 4096).iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    device.inject([Fault::read().once().flips_a_bit()]);
    let read = now(user.read_vectored(8192, vec![filled(100, 0), filled(3996, 0)])).expect("says so");
    let wrong = read.iter().flat_map(|buf| buf.iter()).map(|byte| (byte ^ 2).count_ones()).sum::<u32>();
    assert_eq!(wrong, 1);
    assert_eq!(device.peek(8192, 4096), vec![2; 4096], "only what was read");
}

#[test]
fn a_stale_read_gives_what_was_there_at_the_last_flush() {
    let device = open(cached(1));
    let user = device.namespace();
    now(user.write(0, filled(8192, 1))).expect("valid");
    now(user.flush()).expect("works");
    now(user.write(4096, block(2))).expect("valid");
    now(user.write(4096, block(3))).expect("valid");
    device.inject([Fault::read().once().is_stale()]);
    assert_eq!(now(user.read(0, filled(8192, 0))).expect("valid")[..], [1; 8192]);
    assert_eq!(now(user.read(4096, block(0))).expect("valid")[0], 3);
}

#[test]
fn a_flush_that_loses_the_cache_leaves_what_was_durable() {
    let device = open(cached(1));
    let user = device.namespace();
    now(user.write(0, block(1))).expect("valid");
    now(user.flush()).expect("works");
    now(user.write(0, block(2))).expect("valid");
    now(user.write_durable(4096, block(4))).expect("valid");
    device.inject([Fault::flush().once().loses_cache()]);
    assert!(now(user.flush()).is_err());
    assert_eq!((device.peek(0, 1), device.peek(4096, 1)), (vec![1], vec![4]));
    assert!(now(user.flush()).is_ok());
}

#[test]
fn the_power_is_cut_at_any_operation() {
    for at in 0..6 {
        let device = open(cached(at));
        let user = device.namespace();
        device.inject([Fault::any().after(at).cuts_power()]);
        let mut flushed = 0;
        let mut failed = false;
        for round in 1..=3 {
            failed |= now(user.write(0, block(round))).is_err();
            failed |= now(user.flush()).is_err();
            if !failed {
                flushed = round;
            }
        }
        assert!(failed);
        let error = now(user.read(0, block(0))).expect_err("off");
        assert!(error.to_string().contains("open it again"), "{error}");
        device.power_on();
        let found = now(user.read(0, block(0))).expect("on again");
        assert!(
            found.iter().all(|&byte| byte == flushed || byte == flushed + 1),
            "cut at {at}: {}",
            found[0]
        );
    }
}

#[test]
fn a_removed_device_fails_what_is_in_flight_and_what_comes() {
    let executor = Executor::new(5);
    let device = open(MemoryOptions::disk(1 << 20));
    let user = device.namespace();
    let removed = device.clone();
    executor.block_on(async move {
        removed.inject([Fault::read().hangs()]);
        let reading = rt::spawn({
            let user = user.clone();
            async move { user.read(0, block(0)).await.map(drop) }
        });
        let writing = rt::spawn({
            let user = user.clone();
            async move { user.write(0, block(0)).await.map(drop) }
        });
        rt::sleep(Duration::from_micros(300)).await;
        let again = rt::spawn({
            let user = user.clone();
            async move { user.write(0, block(0)).await.map(drop) }
        });
        rt::yield_now().await;
        removed.remove();
        writing.await.expect("no panic").expect("it was done before");
        for joined in [reading.await, again.await] {
            let error = joined.expect("no panic").expect_err("removed");
            assert_eq!(error.kind(), ErrorKind::Closed);
        }
        assert_eq!(removed.attach().await.expect_err("removed").kind(), ErrorKind::Closed);
        removed.power_on();
        removed.inject([]);
        assert!(user.read(0, block(0)).await.is_ok());
    });
}

#[test]
fn the_queue_depth_bounds_what_is_in_flight_and_keeps_the_order() {
    let executor = Executor::new(6);
    let options = MemoryOptions::new(1 << 20).queue_depth(2).write_latency(Duration::from_millis(1));
    let device = open(options);
    let user = device.namespace();
    executor.block_on(async move {
        let began = Rc::new(RefCell::new(Vec::new()));
        let writes: Vec<_> = (0..64u8)
            .map(|number| {
                let (user, began) = (user.clone(), Rc::clone(&began));
                rt::spawn(async move {
                    began.borrow_mut().push(number);
                    user.write(0, block(number)).await.map(drop)
                })
            })
            .collect();
        for write in writes {
            write.await.expect("no panic").expect("valid");
        }
        // All but the last two had ended when the last began.
        let last = user.read(0, block(0)).await.expect("valid")[0];
        assert!(began.borrow()[62..].contains(&last), "{last} of {began:?}");
        let stats = stats().into_iter().find(|stats| stats.name == "mem:test").expect("it was used here");
        assert_eq!((stats.writes.completed, stats.writes.bytes), (64, 64 * 4096));
        assert_eq!((stats.queue_depth, stats.max_queue_depth, stats.reads.completed), (0, 64, 1));
        assert!(stats.writes.latency.max() > 1_000_000, "they waited their turn");
    });
}

#[test]
fn trim_leaves_what_it_says() {
    let zeros = open(MemoryOptions::new(1 << 20));
    now(zeros.namespace().write(0, filled(1 << 20, 1))).expect("valid");
    now(zeros.namespace().trim(4096, 256 << 10)).expect("valid");
    let read = zeros.peek(0, 1 << 20);
    assert!(read[4096..4096 + (256 << 10)].iter().all(|&byte| byte == 0));
    assert!(read[..4096].iter().chain(&read[4096 + (256 << 10)..]).all(|&byte| byte == 1));
    let anything = open(MemoryOptions::new(1 << 20).trim(TrimLeaves::Anything));
    now(anything.namespace().write(0, filled(1 << 20, 1))).expect("valid");
    now(anything.namespace().trim(0, 512 << 10)).expect("valid");
    let blocks = anything.peek(0, 1 << 20);
    let first: BTreeSet<u8> = blocks[..512 << 10].chunks(4096).map(|block| block[0]).collect();
    assert!(first.contains(&0) && first.contains(&1) && first.len() > 2, "old, zeros and others");
    assert!(blocks[512 << 10..].iter().all(|&byte| byte == 1));
    let nothing = open(MemoryOptions::disk(1 << 20));
    now(nothing.namespace().trim(0, 4096)).expect("does nothing");
    assert_eq!(nothing.operations(), 0);
}

#[test]
fn zeros_that_were_not_flushed_are_lost_like_writes() {
    let mut left = BTreeSet::new();
    for seed in 0..32 {
        let device = open(cached(seed));
        let user = device.namespace();
        now(user.write_durable(0, filled(256 << 10, 1))).expect("valid");
        now(user.write_zeroes(0, 256 << 10)).expect("valid");
        device.power_loss();
        left.extend(device.peek(0, 256 << 10));
    }
    assert_eq!(left, BTreeSet::from([0, 1]));
}

#[test]
fn operations_are_divided_into_commands() {
    let options = MemoryOptions::new(1 << 20).max_transfer_bytes(12 << 10).optimal_boundary_bytes(16 << 10);
    let device = open(options);
    let user = device.namespace();
    now(user.write(4096, filled(40 << 10, 3))).expect("valid");
    // 4..16, 16..28, 28..32, 32..44 KiB.
    assert_eq!(device.operations(), 4);
    device.inject([Fault::read().after(2)]);
    assert!(now(user.read(4096, filled(40 << 10, 0))).is_err());
    assert_eq!(device.operations(), 4 + 3, "it sends no more after a failure");
}

#[test]
fn shrinking_forgets_what_is_in_the_cache() {
    for seed in 0..16 {
        let options = MemoryOptions::new(0).max_size_bytes(1 << 20).volatile_cache(true).seed(seed);
        let device = open(options);
        let user = device.namespace();
        now(user.grow(1 << 20)).expect("possible");
        now(user.write(0, filled(256 << 10, 1))).expect("valid");
        now(user.shrink(6 << 10)).expect("possible");
        assert_eq!(user.size_bytes(), 8 << 10);
        now(user.grow(256 << 10)).expect("possible");
        assert!(device.peek(8 << 10, 248 << 10).iter().all(|&byte| byte == 0));
        device.power_loss();
        assert!(device.peek(8 << 10, 248 << 10).iter().all(|&byte| byte == 0));
    }
}
