//! A block device whose driver was given poll queues, beside one whose driver was not.

use std::path::PathBuf;
use std::time::Duration;

use boson::block::{KernelNamespace, Namespace};
use boson::observe;
use boson::rt;
use boson::rt::reactor::{RingFeature, RingFeatures};

use super::in_flight::{
    AT_ONCE, BLOCK, a_core_ends_with_reads, bytes, dropped_operations_keep_their_memory, read,
};
use super::{device, run, run_with};

fn polled() -> PathBuf {
    device("BOSON_GUEST_POLLED").into()
}

async fn open() -> KernelNamespace {
    KernelNamespace::open_block_device(&polled()).await.expect("open")
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

/// Writes and reads one block after the other, and many at once.
async fn write_and_read(namespace: &KernelNamespace, seed: usize) {
    for number in 0..50u8 {
        let offset = u64::from(number) * BLOCK as u64;
        namespace.write(offset, bytes(BLOCK, usize::from(number) ^ seed)).await.expect("write");
        assert!(*read(namespace, offset, BLOCK).await == *bytes(BLOCK, usize::from(number) ^ seed));
    }
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|number| {
            let namespace = namespace.clone();
            rt::named("writer").spawn(async move {
                let offset = u64::from(number) * 2 * BLOCK as u64;
                namespace.write(offset, bytes(BLOCK, usize::from(number) ^ seed)).await.expect("write");
                let got = read(&namespace, offset, BLOCK).await;
                assert!(
                    *got == *bytes(BLOCK, usize::from(number) ^ seed),
                    "operation {number} saw another's bytes"
                );
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
        let namespace = open().await;
        assert!(namespace.info().direct);
        let before = (interrupts(), observe::stats().parks);
        for number in 0..100u8 {
            let offset = u64::from(number) * BLOCK as u64;
            namespace.write(offset, bytes(BLOCK, number.into())).await.expect("write");
            assert!(*read(&namespace, offset, BLOCK).await == *bytes(BLOCK, number.into()));
        }
        assert_eq!((interrupts(), observe::stats().parks), before);
        write_and_read(&namespace, 1).await;
    });
    // The control case: the same device, not polled.
    run_with(RingFeatures::all().without(RingFeature::PolledDevices), async {
        let namespace = open().await;
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
            namespace.write(0, bytes(LEN, number.into())).await.expect("write");
            assert!(*read(&namespace, 0, LEN).await == *bytes(LEN, number.into()));
        }
        assert!(observe::stats().parks >= before + 5, "{} sleeps", observe::stats().parks - before);
    });
}

/// The driver cuts these, and what was cut interrupts. Linux 6.1 loses those among them of up to a
/// mebibyte if they are polled.
#[test]
#[ignore = "takes an NVMe device with poll queues: scripts/guest"]
fn large_transfers_of_a_polled_device_are_whole() {
    run(async {
        let namespace = open().await;
        for len in [512 << 10, (512 << 10) + BLOCK, 1 << 20, 2 << 20, 8 << 20] {
            namespace.write(BLOCK as u64, bytes(len, 7)).await.expect("write");
            assert!(*read(&namespace, BLOCK as u64, len).await == *bytes(len, 7));
        }
    });
}

#[test]
#[ignore = "takes an NVMe device with poll queues: scripts/guest"]
fn timers_fire_and_other_tasks_run_while_a_device_is_polled() {
    run(async {
        let namespace = open().await;
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

#[test]
#[ignore = "takes an NVMe device with poll queues: scripts/guest"]
fn a_dropped_operation_of_a_polled_device_keeps_its_memory() {
    run(async { dropped_operations_keep_their_memory(&open().await, 100).await });
}

/// The core's ring goes when nothing is under way any more, and the device is free for the next one
/// at once.
#[test]
#[ignore = "takes an NVMe device with poll queues: scripts/guest"]
fn a_core_that_ends_lets_a_polled_device_finish() {
    for _ in 0..10 {
        a_core_ends_with_reads(RingFeatures::all(), open);
    }
}
