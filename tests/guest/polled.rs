//! A block device whose driver was given poll queues, beside one whose driver was not.

use crate::support::parts::PartsAll;
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use boson::block::{KernelNamespace, Namespace};
use boson::mem::DmaBuf;
use boson::observe;
use boson::rt::reactor::{RingFeature, RingFeatures};
use boson::rt::{self, Shutdown};

use super::{core, device, run, run_with};

const BLOCK: usize = 4096;
/// More than the driver's queues are long, and more than the polled ring takes.
const AT_ONCE: u8 = 200;

fn polled() -> PathBuf {
    device("BOSON_GUEST_POLLED").into()
}

fn not_polled() -> PathBuf {
    device("BOSON_GUEST_NOT_POLLED").into()
}

/// How often the I/O queues of NVMe devices interrupted.
fn interrupts() -> u64 {
    let text = std::fs::read_to_string("/proc/interrupts").expect("procfs");
    text.lines()
        .filter(|line| {
            let name = line.split_whitespace().last().unwrap_or_default();
            // Queue 0 is the one for administration.
            name.starts_with("nvme") && !name.ends_with("q0")
        })
        .flat_map(|line| line.split_whitespace().skip(1).map_while(|count| count.parse::<u64>().ok()))
        .sum()
}

fn pattern(len: usize, seed: u8) -> DmaBuf {
    let mut buf = DmaBuf::zeroed(len);
    for (at, byte) in buf.iter_mut().enumerate() {
        *byte = u8::try_from((at / 512 + usize::from(seed)) % 251).expect("small");
    }
    buf
}

async fn read(namespace: &KernelNamespace, offset: u64, len: usize) -> DmaBuf {
    let (result, buf) = namespace.read(offset, DmaBuf::zeroed(len)).await.parts_all();
    result.expect("read");
    buf
}

/// Writes and reads one block after the other, and many at once.
async fn write_and_read(namespace: &KernelNamespace, seed: u8) {
    for number in 0..50u8 {
        let offset = u64::from(number) * BLOCK as u64;
        namespace.write(offset, pattern(BLOCK, number ^ seed)).await.expect("write");
        assert!(*read(namespace, offset, BLOCK).await == *pattern(BLOCK, number ^ seed));
    }
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|number| {
            let namespace = namespace.clone();
            rt::named("writer").spawn(async move {
                let offset = u64::from(number) * 2 * BLOCK as u64;
                namespace.write(offset, pattern(BLOCK, number ^ seed)).await.expect("write");
                let got = read(&namespace, offset, BLOCK).await;
                assert!(*got == *pattern(BLOCK, number ^ seed), "operation {number} saw another's bytes");
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    namespace.flush().await.expect("flush");
}

#[test]
#[ignore = "takes an NVMe device with poll queues: scripts/guest"]
fn a_device_with_poll_queues_does_not_interrupt_and_the_core_does_not_sleep() {
    run(async {
        let namespace = KernelNamespace::open_block_device(&polled()).await.expect("open");
        assert!(namespace.info().direct);
        let before = (interrupts(), observe::stats().parks);
        for number in 0..100u8 {
            let offset = u64::from(number) * BLOCK as u64;
            namespace.write(offset, pattern(BLOCK, number)).await.expect("write");
            assert!(*read(&namespace, offset, BLOCK).await == *pattern(BLOCK, number));
        }
        assert_eq!((interrupts(), observe::stats().parks), before);
        write_and_read(&namespace, 1).await;
    });
    // The control case: the same device, not polled.
    run_with(RingFeatures::all().without(RingFeature::PolledDevices), async {
        let namespace = KernelNamespace::open_block_device(&polled()).await.expect("open");
        let before = interrupts();
        write_and_read(&namespace, 2).await;
        assert!(interrupts() >= before + 5, "{} interrupts", interrupts() - before);
    });
}

/// A core that took such a device for one that it polls would not sleep while it waits for it.
#[test]
#[ignore = "takes a block device without poll queues: scripts/guest"]
fn a_device_without_poll_queues_is_not_polled() {
    run(async {
        let namespace = KernelNamespace::open_block_device(&not_polled()).await.expect("open");
        let before = observe::stats().parks;
        // So much takes long enough for the core to go to sleep.
        const LEN: usize = 8 << 20;
        for number in 0..5u8 {
            namespace.write(0, pattern(LEN, number)).await.expect("write");
            assert!(*read(&namespace, 0, LEN).await == *pattern(LEN, number));
        }
        assert!(observe::stats().parks >= before + 5, "{} sleeps", observe::stats().parks - before);
    });
}

/// The driver cuts these, and what was cut interrupts.
#[test]
#[ignore = "takes an NVMe device with poll queues: scripts/guest"]
fn large_transfers_of_a_polled_device_are_whole() {
    const LEN: usize = 8 << 20;
    run(async {
        let namespace = KernelNamespace::open_block_device(&polled()).await.expect("open");
        namespace.write(BLOCK as u64, pattern(LEN, 7)).await.expect("write");
        assert!(*read(&namespace, BLOCK as u64, LEN).await == *pattern(LEN, 7));
    });
}

#[test]
#[ignore = "takes an NVMe device with poll queues: scripts/guest"]
fn timers_fire_and_other_tasks_run_while_a_device_is_polled() {
    run(async {
        let namespace = KernelNamespace::open_block_device(&polled()).await.expect("open");
        let reader = rt::named("reader").spawn(async move {
            loop {
                read(&namespace, 0, BLOCK).await;
            }
        });
        for _ in 0..20 {
            rt::sleep(Duration::from_millis(2)).await;
        }
        let started = rt::now();
        rt::offload("nothing", || ()).await.expect("a thread is free");
        assert!(rt::now() - started < Duration::from_secs(5));
        reader.cancel();
        assert!(reader.await.is_err());
    });
}

/// Operations are dropped while the device has them, and memory like theirs is overwritten at once:
/// the device reads and writes neither.
#[test]
#[ignore = "takes an NVMe device with poll queues: scripts/guest"]
fn a_dropped_operation_of_a_polled_device_keeps_its_memory() {
    const LEN: usize = 64 << 10;
    run(async {
        let namespace = KernelNamespace::open_block_device(&polled()).await.expect("open");
        for round in 0..100u64 {
            let offset = round % 50 * LEN as u64;
            namespace.write(offset, pattern(LEN, 1)).await.expect("write");
            {
                let mut write = pin!(namespace.write(offset, pattern(LEN, 2)));
                let mut read = pin!(namespace.read(offset, DmaBuf::zeroed(LEN)));
                let pending = std::future::poll_fn(|cx| {
                    Poll::Ready(write.as_mut().poll(cx).is_pending() && read.as_mut().poll(cx).is_pending())
                });
                assert!(pending.await, "an operation takes at least one turn");
                for _ in 0..round % 3 {
                    rt::yield_now().await;
                }
            }
            let mut reused: Vec<DmaBuf> = (0..8).map(|_| DmaBuf::zeroed(LEN)).collect();
            reused.iter_mut().for_each(|buf| buf.fill(0xee));
            rt::sleep(Duration::from_millis(2)).await;
            assert!(
                reused.iter().flat_map(|buf| buf.iter()).all(|byte| *byte == 0xee),
                "round {round}: memory was freed while the device wrote to it"
            );
            let got = read(&namespace, offset, LEN).await;
            assert!(
                *got == *pattern(LEN, 1) || *got == *pattern(LEN, 2),
                "round {round}: bytes that nobody wrote"
            );
        }
    });
}

/// The core's ring goes when nothing is under way any more, and the device is free for the next one
/// at once.
#[test]
#[ignore = "takes an NVMe device with poll queues: scripts/guest"]
fn a_core_that_ends_lets_a_polled_device_finish() {
    for _ in 0..10 {
        let core = core(RingFeatures::all());
        core.block_on(async {
            let namespace = KernelNamespace::open_block_device(&polled()).await.expect("open");
            for number in 0..AT_ONCE {
                let namespace = namespace.clone();
                rt::named("reader")
                    .spawn(async move {
                        read(&namespace, u64::from(number) * BLOCK as u64, BLOCK).await;
                    })
                    .detach();
            }
            rt::yield_now().await;
        });
        let report = core.shutdown(Shutdown::Cancel, Duration::from_secs(10)).expect("the ring works");
        assert!(!report.cancelled.is_empty(), "all were done: the test shows nothing");
    }
}
