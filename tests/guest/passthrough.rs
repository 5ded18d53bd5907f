//! An NVMe namespace by the kernel's driver (`ng:`), over rings that ask the device and over rings
//! that are interrupted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use boson::ErrorKind;
use boson::block::{
    AnyNamespace, Device, KernelNamespace, Namespace, NamespaceAddress, NamespaceStats, PassthroughDevice,
    PassthroughNamespace,
};
use boson::mem::DmaBuf;
use boson::observe;
use boson::rt::reactor::{ReactorChoice, RegisterArena, RingFeature, RingFeatures};
use boson::rt::{self, Core, CoreConfig, CoreThread};
use futures_util::future::join_all;

use super::in_flight::{
    AT_ONCE, BLOCK, a_core_ends_with_reads, bytes, dropped_operations_keep_their_memory, read,
};
use super::{PATIENCE, device, run, run_with};
use crate::support::parts::PartsAll;

fn generic() -> PathBuf {
    device("BOSON_GUEST_NG").into()
}

fn block_device() -> PathBuf {
    device("BOSON_GUEST_POLLED").into()
}

/// Rings that ask the device for completions, and rings that it interrupts.
fn rings() -> [RingFeatures; 2] {
    [RingFeatures::all(), RingFeatures::all().without(RingFeature::PolledDevices)]
}

/// Whether this kernel may be asked whether commands are done: from Linux 6.5 on.
fn may_be_asked() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(5))
}

async fn attach() -> PassthroughNamespace {
    let device = PassthroughDevice::open(&generic()).await.expect("open");
    device.attach().await.expect("attach")
}

fn stats() -> NamespaceStats {
    boson::block::stats().pop().expect("a namespace is attached")
}

/// What the kernel's block layer finds on the device, which has nothing of it in its cache.
fn found(offset: u64, len: usize) -> DmaBuf {
    run(async {
        let namespace = KernelNamespace::open_block_device(&block_device()).await.expect("open");
        read(&namespace, offset, len).await
    })
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn what_is_written_by_commands_is_on_the_device() {
    for (seed, features) in rings().into_iter().enumerate() {
        run_with(features, async {
            let namespace = attach().await;
            for number in 0..50 {
                let offset = (number * BLOCK) as u64;
                namespace.write(offset, bytes(BLOCK, number + seed)).await.expect("write");
                assert!(*read(&namespace, offset, BLOCK).await == *bytes(BLOCK, number + seed));
            }
            let stats = stats();
            assert_eq!((stats.writes.completed, stats.reads.completed), (50, 50));
            assert_eq!((stats.reads.failed, stats.queue_depth, stats.copied_bytes), (0, 0, 0));
        });
        for number in [0, 7, 49] {
            assert!(*found((number * BLOCK) as u64, BLOCK) == *bytes(BLOCK, number + seed), "{number}");
        }
    }
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn the_namespace_is_what_the_controller_says() {
    let (info, by_block_layer) = run(async {
        let device = PassthroughDevice::open(&generic()).await.expect("open");
        let info = device.info().clone();
        drop(device);
        let namespace = KernelNamespace::open_block_device(&block_device()).await.expect("open");
        (info, namespace.info().clone())
    });
    assert_eq!(info.size_bytes, by_block_layer.size_bytes);
    assert_eq!(info.block_size_bytes, by_block_layer.block_size_bytes);
    assert_eq!(info.model, by_block_layer.model);
    assert_eq!(info.volatile_cache, by_block_layer.volatile_cache);
    assert_eq!((info.trim, info.write_zeroes), (by_block_layer.trim, by_block_layer.write_zeroes));
    assert!(info.model.contains("QEMU"), "{info:?}");
    assert!(info.max_transfer_bytes.is_power_of_two() && info.max_transfer_bytes >= 128 << 10, "{info:?}");
    assert!(info.atomic_write_bytes >= info.block_size_bytes && !info.read_only);
    assert_eq!(info.name, format!("ng:{}", generic().display()));
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn more_at_once_than_the_queue_is_long_wait_their_turn() {
    for features in rings() {
        run_with(features, async {
            let namespace = attach().await;
            let write_and_read = async |number: u8| {
                let offset = u64::from(number) * 2 * BLOCK as u64;
                namespace.write(offset, bytes(BLOCK, number.into())).await.expect("write");
                let got = read(&namespace, offset, BLOCK).await;
                assert!(*got == *bytes(BLOCK, number.into()), "operation {number} saw another's bytes");
            };
            join_all((0..AT_ONCE).map(write_and_read)).await;
            assert_eq!(stats().max_queue_depth, u64::from(AT_ONCE));
        });
    }
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn long_transfers_are_divided_and_pieces_are_not_copied_where_pages_carry_them() {
    const LEN: usize = 3 << 20;
    for features in rings() {
        run_with(features, async {
            let namespace = attach().await;
            assert!((namespace.info().max_transfer_bytes as usize) < LEN);
            namespace.write(512, bytes(LEN, 3)).await.expect("write");
            assert!(*read(&namespace, 512, LEN).await == *bytes(LEN, 3));

            let cut = |lens: &[usize], whole: &[u8]| -> Vec<DmaBuf> {
                let mut rest = whole;
                let piece = |len: &usize| {
                    let (part, after) = rest.split_at(*len);
                    rest = after;
                    let mut piece = DmaBuf::zeroed(*len);
                    piece.copy_from_slice(part);
                    piece
                };
                lens.iter().map(piece).collect()
            };
            for (lens, are_copied) in
                [(vec![4096, 8192, 512], false), (vec![4096; 300], false), (vec![512, 1000, 24, 3072], true)]
            {
                let whole = bytes(lens.iter().sum(), lens.len());
                let copied = stats().copied_bytes;
                namespace.write_vectored(4096, cut(&lens, &whole)).await.expect("write");
                assert!(*read(&namespace, 4096, whole.len()).await == *whole, "{lens:?}");
                let pieces = cut(&lens, &vec![0; whole.len()]);
                let pieces = namespace.read_vectored(4096, pieces).await.expect("read");
                let pieces: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
                assert!(pieces == *whole, "{lens:?}");
                assert_eq!(stats().copied_bytes > copied, are_copied, "{lens:?}");
            }
        });
    }
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn flushes_durable_writes_zeros_and_trims_are_commands() {
    for features in rings() {
        run_with(features, async {
            let namespace = attach().await;
            assert!(namespace.info().volatile_cache && namespace.info().forced_unit_access);
            namespace.write_durable(0, bytes(4 * BLOCK, 5)).await.expect("durable");
            namespace.flush().await.expect("flush");
            namespace.write_zeroes(BLOCK as u64, BLOCK as u64).await.expect("zeros");
            let got = read(&namespace, 0, 4 * BLOCK).await;
            assert!(got[..BLOCK] == bytes(4 * BLOCK, 5)[..BLOCK]);
            assert!(got[BLOCK..2 * BLOCK].iter().all(|&byte| byte == 0));
            assert!(got[2 * BLOCK..] == bytes(4 * BLOCK, 5)[2 * BLOCK..]);
            namespace.trim(2 * BLOCK as u64, BLOCK as u64).await.expect("trim");
            let after = read(&namespace, 3 * BLOCK as u64, BLOCK).await;
            assert!(*after == bytes(4 * BLOCK, 5)[3 * BLOCK..], "what is after the trimmed range stays");
            // As many commands as it takes.
            namespace.write_zeroes(0, namespace.size_bytes()).await.expect("zeros everywhere");
            let last = read(&namespace, namespace.size_bytes() - BLOCK as u64, BLOCK).await;
            assert!(last.iter().all(|&byte| byte == 0));
            let stats = stats();
            assert_eq!((stats.writes.completed, stats.flushes.completed), (1, 1));
            assert_eq!((stats.write_zeroes.completed, stats.trims.completed), (2, 1));
            let error = namespace
                .compare_and_write(0, DmaBuf::zeroed(BLOCK), DmaBuf::zeroed(BLOCK))
                .await
                .expect_err("fused commands do not pass");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        });
    }
}

/// A core that is not woken by its ring would sleep until the test's patience is over.
#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn a_core_sleeps_while_a_device_that_interrupts_works_and_not_while_it_asks_one() {
    for (features, sleeps) in rings().into_iter().zip([!may_be_asked(), true]) {
        run_with(features, async {
            let namespace = attach().await;
            read(&namespace, 0, BLOCK).await;
            let before = observe::stats().parks;
            let slept = || observe::stats().parks - before;
            // A device may answer before the core has looked long enough to go to sleep: ask until
            // it does, which a core that never sleeps does not.
            let patience = Instant::now() + Duration::from_secs(10);
            let mut reads = 0;
            while reads < 100 || (sleeps && slept() == 0 && Instant::now() < patience) {
                read(&namespace, 0, 256 << 10).await;
                reads += 1;
            }
            let parks = slept();
            assert_eq!(parks > 0, sleeps, "{parks} sleeps in {reads} reads with {features:?}");
            // Nothing is under way: it sleeps in either case.
            rt::sleep(Duration::from_millis(20)).await;
            assert!(observe::stats().parks > before + parks);
        });
    }
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn memory_of_a_registered_arena_is_not_pinned_again() {
    for features in rings() {
        let config = CoreConfig::default()
            .seed([14; 32])
            .reactor(ReactorChoice::IoUring)
            .ring_features(features)
            .register_arena(RegisterArena::Always)
            .arena_bytes(4 << 20);
        let core = Core::new(&config).expect("io_uring is usable");
        let done = core.block_on(rt::timeout(PATIENCE, async {
            let namespace = attach().await;
            for number in 0..20 {
                let mut buf = rt::arena().alloc(3 * BLOCK);
                assert!(buf.arena_offset().is_some());
                buf.copy_from_slice(&bytes(3 * BLOCK, number));
                let buf = namespace.write((number * 3 * BLOCK) as u64, buf).await.expect("write");
                drop(buf);
                let (result, buf) = namespace
                    .read((number * 3 * BLOCK) as u64, rt::arena().alloc(3 * BLOCK))
                    .await
                    .parts_all();
                result.expect("read");
                assert!(*buf == *bytes(3 * BLOCK, number));
            }
            // Beside others.
            assert!(*read(&namespace, 0, BLOCK).await == bytes(3 * BLOCK, 0)[..BLOCK]);
        }));
        done.expect("in time");
    }
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn cores_with_and_without_io_uring_for_the_rest_use_one_device() {
    let other =
        CoreThread::start("other", &CoreConfig::default().seed([15; 32]).reactor(ReactorChoice::Epoll));
    let other = other.expect("a core");
    run(async {
        let device = PassthroughDevice::open(&generic()).await.expect("open");
        let here = device.attach().await.expect("attach");
        let shared = device.clone();
        let there = other.handle().spawn(move || async move {
            let there = shared.attach().await.expect("attach");
            for number in 0..100 {
                let offset = ((2 * number + 1) * BLOCK) as u64;
                there.write(offset, bytes(BLOCK, number)).await.expect("write");
            }
        });
        for number in 0..100 {
            here.write((2 * number * BLOCK) as u64, bytes(BLOCK, number + 1)).await.expect("write");
        }
        there.await.expect("no panic");
        for number in 0..100 {
            let both = read(&here, (2 * number * BLOCK) as u64, 2 * BLOCK).await;
            assert!(both[..BLOCK] == *bytes(BLOCK, number + 1) && both[BLOCK..] == *bytes(BLOCK, number));
        }
    });
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn a_namespace_in_use_is_refused_whoever_uses_it() {
    run(async {
        let by_block_layer = KernelNamespace::open_block_device(&block_device()).await.expect("open");
        let error = PassthroughDevice::open(&generic()).await.expect_err("its block device is in use");
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.to_string().contains("unmount it or stop its user first"), "{error}");
        drop(by_block_layer);
        let namespace = attach().await;
        let error = KernelNamespace::open_block_device(&block_device()).await.expect_err("held by ng:");
        assert_eq!(error.kind(), ErrorKind::InUse);
        let error = PassthroughDevice::open(&generic()).await.expect_err("open already");
        assert_eq!(error.kind(), ErrorKind::InUse);
        drop(namespace);
        let address: NamespaceAddress = format!("ng:{}", generic().display()).parse().expect("an address");
        let namespace = AnyNamespace::open(&address).await.expect("free again");
        assert!(matches!(namespace, AnyNamespace::Passthrough(_)));
        let error = PassthroughDevice::open(&block_device()).await.expect_err("a block device");
        assert!(error.to_string().contains("write blk: instead of ng:"), "{error}");
        let error = PassthroughDevice::open(Path::new("/dev/nvme0")).await.expect_err("a controller");
        assert!(error.to_string().contains("such as /dev/ng0n1"), "{error}");
    });
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn a_dropped_operation_keeps_its_memory() {
    for features in rings() {
        run_with(features, async {
            let namespace = attach().await;
            dropped_operations_keep_their_memory(&namespace, 30).await;
            assert_eq!(stats().queue_depth, 0);
        });
    }
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn a_core_that_ends_lets_the_device_finish_and_the_next_one_has_it_at_once() {
    for features in rings() {
        for _ in 0..5 {
            a_core_ends_with_reads(features, attach);
        }
    }
}
