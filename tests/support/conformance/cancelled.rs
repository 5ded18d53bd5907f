//! Operations that are dropped, or run out of time, at every point.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use boson::ErrorKind;
use boson::block::{Device, Namespace};
use boson::mem::DmaBuf;
use boson::rt;

use super::{Run, attach, block_bytes, check, fill, memory, pattern, read, write};

/// How many turns an operation is given at most before it is dropped.
const MOST_POLLS: usize = 12;
/// What memory is filled with that is taken after a drop.
const REUSED: u8 = 0xee;

pub(super) async fn all<D: Device>(run: &Run<'_>, device: &D) {
    let namespace = attach(run, device).await;
    dropped_writes(run, &namespace).await;
    dropped_reads(run, &namespace).await;
    dropped_in_line(run, &namespace).await;
    deadlines(run, &namespace).await;
}

/// Polls `future` in as many turns as `polls`, and drops it.
async fn drop_after<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx)));
        match polled.await {
            Poll::Ready(output) => return Some(output),
            Poll::Pending => rt::yield_now().await,
        }
    }
    None
}

/// Takes memory of the size that was just given up, and overwrites it.
fn reuse(len: usize) -> Vec<DmaBuf> {
    (0..6)
        .map(|kind| {
            let mut buf = memory(len, kind % 2);
            buf.fill(REUSED);
            buf
        })
        .collect()
}

/// Every sector is old or new: not what the memory held later, and not mixed within.
pub(super) fn assert_old_or_new(run: &Run<'_>, found: &[u8], offset: u64, old: u64, new: u64) {
    let mut expected = [vec![0; found.len()], vec![0; found.len()]];
    fill(&mut expected[0], offset, old);
    fill(&mut expected[1], offset, new);
    for at in (0..found.len()).step_by(512) {
        let sector = &found[at..at + 512];
        assert!(
            expected.iter().any(|expected| expected[at..at + 512] == *sector),
            "{}: after a drop the sector at {} is neither old nor new: it starts with {:?}",
            run.name,
            offset + at as u64,
            &sector[..8]
        );
    }
}

async fn dropped_writes<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let block = block_bytes(namespace);
    let most = (namespace.info().max_transfer_bytes as usize).min(256 << 10);
    for polls in 0..=MOST_POLLS {
        for (number, len) in [block, 8 * block, 2 * most + block].into_iter().enumerate() {
            // A dropped write may go on for a while: the next round is elsewhere.
            let offset = ((polls % 6) as u64 + 1) << 20;
            let (old, new) = ((polls * 10 + number) as u64, (polls * 10 + number + 5000) as u64);
            write(run, namespace, offset, len, old).await;
            let buf = pattern(offset, len, new);
            let result = match number {
                0 => drop_after(namespace.write(offset, buf), polls).await.map(|wrote| wrote.is_ok()),
                1 => {
                    let durable = namespace.write_durable(offset, buf);
                    drop_after(durable, polls).await.map(|wrote| wrote.is_ok())
                }
                _ => {
                    let vectored = namespace.write_vectored(offset, vec![buf]);
                    drop_after(vectored, polls).await.map(|wrote| wrote.is_ok())
                }
            };
            assert_ne!(result, Some(false), "{}: a write failed", run.name);
            let reused = reuse(len);
            // Later operations are right whatever the device makes of the dropped one.
            write(run, namespace, 0, block, new).await;
            check(run, namespace, 0, block, new).await;
            namespace.flush().await.expect("flushes");
            // While the device still writes, even a sector may be mixed on emulated ones.
            settle(namespace).await;
            let found = read(run, namespace, offset, len).await;
            match result {
                Some(_) => super::assert_written(run, &found, offset, new),
                None => assert_old_or_new(run, &found, offset, old, new),
            }
            assert!(reused.iter().all(|buf| buf.iter().all(|&byte| byte == REUSED)), "{}", run.name);
        }
    }
}

/// Waits for dropped operations, as far as statistics tell of them.
async fn settle<N: Namespace>(namespace: &N) {
    let name = &namespace.info().name;
    let is_busy = || boson::block::stats().iter().any(|stats| stats.name == *name && stats.queue_depth > 0);
    let ended = async {
        while is_busy() {
            rt::sleep(Duration::from_micros(50)).await;
        }
    };
    rt::timeout(super::PATIENCE, ended).await.expect("what was dropped ends");
    rt::sleep(Duration::from_millis(3)).await;
}

async fn dropped_reads<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let block = block_bytes(namespace);
    let most = (namespace.info().max_transfer_bytes as usize).min(256 << 10);
    let offset = 2 << 20;
    write(run, namespace, offset, 2 * most + block, 77).await;
    for polls in 0..=MOST_POLLS {
        for (kind, len) in [block, 8 * block, 2 * most + block].into_iter().enumerate() {
            let buf = memory(len, kind as u64);
            let result = drop_after(namespace.read(offset, buf), polls).await;
            if let Some(result) = result {
                super::assert_written(run, &result.expect("reads"), offset, 77);
            }
            let reused = reuse(len);
            for _ in 0..polls {
                rt::yield_now().await;
            }
            rt::sleep(Duration::from_micros(50 * polls as u64)).await;
            assert!(
                reused.iter().all(|buf| buf.iter().all(|&byte| byte == REUSED)),
                "{}: the memory of a dropped read was given to somebody else too early",
                run.name
            );
            check(run, namespace, offset, len, 77).await;
        }
    }
    settle(namespace).await;
}

/// Of many more requests than there is room for, every second one is dropped: the others are done.
async fn dropped_in_line<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let block = block_bytes(namespace);
    let offset_of = move |number: u64| number * 2 * block as u64;
    for number in 0..256 {
        write(run, namespace, offset_of(number) % (4 << 20), block, 1).await;
    }
    let tasks: Vec<_> = (0..256u64)
        .map(|number| {
            let namespace = namespace.clone();
            rt::spawn(async move {
                let offset = offset_of(number) % (4 << 20);
                let write = namespace.write(offset, pattern(offset, block, 2));
                if number % 2 == 0 {
                    return write.await.map(drop).map_err(boson::Error::from);
                }
                let polls = 1 + usize::try_from(number % 7).expect("small");
                drop(drop_after(write, polls).await);
                Ok(())
            })
        })
        .collect();
    for task in tasks {
        rt::timeout(super::PATIENCE, task).await.expect("none is lost").expect("no panic").expect("writes");
    }
    settle(namespace).await;
    for number in 0..256 {
        let offset = offset_of(number) % (4 << 20);
        let found = read(run, namespace, offset, block).await;
        if number % 2 == 0 && 256 * 2 * block as u64 <= 4 << 20 {
            super::assert_written(run, &found, offset, 2);
        } else {
            assert_old_or_new(run, &found, offset, 1, 2);
        }
    }
}

/// Every operation can be bounded, by any time.
async fn deadlines<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let block = block_bytes(namespace);
    let len = (16 * block).min(64 << 10);
    let (mut late, mut timely) = (0, 0);
    for round in 0..80u64 {
        let offset = (3 << 20) + round % 40 * len as u64;
        let (old, new) = (10_000 + round, 20_000 + round);
        write(run, namespace, offset, len, old).await;
        let within = Duration::from_micros(match round % 4 {
            0 => 0,
            1 => round,
            2 => round * 10,
            _ => 1_000_000,
        });
        let bounded = rt::timeout(within, namespace.write(offset, pattern(offset, len, new))).await;
        match &bounded {
            Ok(wrote) => {
                assert!(wrote.is_ok(), "{}: {wrote:?}", run.name);
                timely += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{}: {error}", run.name);
                late += 1;
            }
        }
        settle(namespace).await;
        let found = read(run, namespace, offset, len).await;
        match bounded {
            Ok(_) => super::assert_written(run, &found, offset, new),
            Err(_) => assert_old_or_new(run, &found, offset, old, new),
        }
        drop(rt::timeout(within, namespace.read(offset, memory(len, round))).await);
        drop(rt::timeout(within, namespace.flush()).await);
        settle(namespace).await;
    }
    assert!(timely >= 20, "{}: {timely} in time, {late} late", run.name);
}
