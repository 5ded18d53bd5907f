//! What is particular to the kernel's files and block devices: one device for several cores, pieces
//! of memory, durable writes, zeros, discards, and what the kernel says about a device.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use boson::ErrorKind;
use boson::block::{
    AnyDevice, AnyNamespace, Device, KernelDevice, KernelNamespace, Namespace, NamespaceAddress,
    NamespaceStats, PassthroughDevice,
};
use boson::mem::DmaBuf;
use boson::rt::reactor::ReactorChoice;
use boson::rt::{self, Core, CoreConfig, CoreThread};

use crate::namespace::{Directory, pattern};
use crate::support::not_run::not_run;
use crate::support::parts::PartsAll;

const REACTORS: [ReactorChoice; 2] = [ReactorChoice::Auto, ReactorChoice::Epoll];

fn run_on<F: Future>(reactor: ReactorChoice, future: F) -> F::Output {
    let config = CoreConfig::default().seed([4; 32]).reactor(reactor);
    Core::new(&config).expect("a core").block_on(future)
}

/// What the current core did with its only namespace.
fn stats() -> NamespaceStats {
    let all = boson::block::stats();
    assert_eq!(all.len(), 1, "one namespace is attached");
    all.into_iter().next().expect("one")
}

/// A buffer in which every byte differs from its neighbours, so that a shift shows.
fn bytes(len: usize, seed: usize) -> DmaBuf {
    let mut buf = DmaBuf::zeroed(len);
    for (at, byte) in buf.iter_mut().enumerate() {
        *byte = u8::try_from((at + at / 255 + seed) % 251).expect("small");
    }
    buf
}

/// `whole`, cut into pieces of these lengths.
fn pieces(whole: &[u8], lens: &[usize]) -> Vec<DmaBuf> {
    let mut rest = whole;
    let mut piece = |len: &usize| {
        let (bytes, after) = rest.split_at(*len);
        rest = after;
        let mut piece = DmaBuf::zeroed(*len);
        piece.copy_from_slice(bytes);
        piece
    };
    let pieces = lens.iter().map(&mut piece).collect();
    assert!(rest.is_empty(), "the lengths are those of the whole");
    pieces
}

async fn read(namespace: &KernelNamespace, offset: u64, len: usize) -> DmaBuf {
    let (result, buf) = namespace.read(offset, DmaBuf::zeroed(len)).await.parts_all();
    result.expect("read");
    buf
}

/// A loop device over a file; detached when the test ends.
struct Loop {
    device: PathBuf,
    image: PathBuf,
    _directory: Directory,
}

impl Loop {
    /// `None`, and says why, where loop devices cannot be made.
    fn new(name: &str, options: &[&str]) -> Option<Self> {
        let directory = Directory::new(name);
        let image = directory.file("image");
        std::fs::write(&image, &bytes(2 << 20, 0)[..]).expect("an image");
        let losetup = Command::new("losetup").args(options).args(["--find", "--show"]).arg(&image).output();
        match losetup {
            Ok(output) if output.status.success() => {
                let device = String::from_utf8(output.stdout).expect("a path").trim().into();
                Some(Self { device, image, _directory: directory })
            }
            other => {
                not_run(&format!("a block device: no loop device can be made here: {other:?}"));
                None
            }
        }
    }

    fn attribute(&self, name: &str) -> String {
        let device = self.device.file_name().expect("it has a name");
        let path = Path::new("/sys/class/block").join(device).join(name);
        std::fs::read_to_string(path).expect("sysfs").trim().to_owned()
    }

    /// How many flushes the device did.
    fn flushes(&self) -> u64 {
        let stat = self.attribute("stat");
        stat.split_whitespace().nth(15).expect("the number of flushes").parse().expect("a number")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

#[test]
fn pieces_of_memory_go_to_the_kernel_as_they_are_or_are_copied() {
    let directory = Directory::new("pieces");
    for reactor in REACTORS {
        run_on(reactor, async {
            let namespace = KernelNamespace::open_file(&directory.file("data"), Some(16 << 20)).await;
            let namespace = namespace.expect("open");
            namespace.write(0, bytes(4096, 1)).await.expect("so that the file is there");
            let blocks = 4 << 10;
            for (lens, are_copied) in [
                (vec![blocks, 3 * blocks, 2 * blocks], false),
                (vec![blocks], false),
                // More than one call takes.
                (vec![blocks; 1030], false),
                // No multiples of what direct I/O asks for.
                (vec![1000, 3096], true),
                (vec![1, blocks - 2, 0, blocks + 1], true),
            ] {
                let whole = bytes(lens.iter().sum(), lens.len());
                let copied = stats().copied_bytes;
                let back = namespace.write_vectored(8 * 4096, pieces(&whole, &lens)).await.expect("written");
                assert!(back.iter().map(|piece| piece.len()).eq(lens.iter().copied()), "in their order");
                assert!(*read(&namespace, 8 * 4096, whole.len()).await == *whole, "{lens:?} on {reactor:?}");
                let empty = pieces(&vec![0; whole.len()], &lens);
                let filled = namespace.read_vectored(8 * 4096, empty).await.expect("read");
                let filled: Vec<u8> = filled.iter().flat_map(|piece| piece.to_vec()).collect();
                assert!(filled == *whole, "{lens:?} on {reactor:?}");
                let copied = stats().copied_bytes - copied;
                assert_eq!(copied, if are_copied { 2 * whole.len() as u64 } else { 0 }, "{lens:?}");
            }
            for lens in [vec![4096, 100], vec![], vec![0], vec![32 << 20]] {
                let none = pieces(&vec![0; lens.iter().sum()], &lens);
                let error = namespace.write_vectored(0, none).await.expect_err("no whole blocks in it");
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{lens:?}");
            }
        });
    }
}

#[test]
fn pieces_of_what_a_file_does_not_have_yet_read_as_zeros() {
    let directory = Directory::new("pieces-beyond");
    run_on(ReactorChoice::Auto, async {
        let namespace = KernelNamespace::open_file(&directory.file("data"), Some(1 << 20)).await;
        let dirty = pieces(&bytes(8192, 3), &[4096, 4096]);
        let read = namespace.expect("open").read_vectored(4096, dirty).await.expect("read");
        assert!(read.iter().all(|piece| piece.iter().all(|&byte| byte == 0)));
    });
}

#[test]
fn with_fua_off_a_durable_write_is_a_write_and_a_flush() {
    for reactor in REACTORS {
        let Some(device) = Loop::new("unforced", &["--direct-io=on"]) else { return };
        run_on(reactor, async {
            let address: NamespaceAddress =
                format!("blk:{}?fua=off", device.device.display()).parse().expect("an address");
            let namespace = AnyNamespace::open(&address).await.expect("open");
            assert!(namespace.info().volatile_cache && !namespace.info().forced_unit_access);
            let before = device.flushes();
            namespace.write_durable(4096, pattern(4096, 2)).await.expect("written");
            assert!(device.flushes() > before, "on {reactor:?}");
            let stats = stats();
            assert_eq!((stats.writes.completed, stats.flushes.completed, stats.queue_depth), (1, 1, 0));
        });
    }
}

#[test]
fn a_durable_write_has_the_device_flush_and_another_does_not() {
    for reactor in REACTORS {
        // One each: when a device is closed it may flush, some time later.
        let Some(device) = Loop::new("durable", &["--direct-io=on"]) else { return };
        run_on(reactor, async {
            let namespace = KernelNamespace::open_block_device(&device.device).await.expect("open");
            assert!(namespace.info().volatile_cache && !namespace.info().forced_unit_access);
            let before = device.flushes();
            namespace.write(0, pattern(4096, 1)).await.expect("written");
            assert_eq!(device.flushes(), before, "a write is not flushed");
            namespace.write_durable(4096, pattern(4096, 2)).await.expect("written");
            // The kernel may flush twice for one that it did at once.
            let durable = device.flushes();
            assert!(durable > before, "on {reactor:?}");
            assert!(*read(&namespace, 4096, 4096).await == *pattern(4096, 2));
            namespace.flush().await.expect("flushed");
            assert!(device.flushes() > durable, "on {reactor:?}");
            let stats = stats();
            assert_eq!((stats.writes.completed, stats.flushes.completed, stats.queue_depth), (2, 1, 0));
            assert_eq!((stats.writes.bytes, stats.reads.bytes), (8192, 4096));
        });
    }
}

#[test]
fn zeros_are_written_by_the_file_system() {
    let directory = Directory::new("zeros");
    for reactor in REACTORS {
        run_on(reactor, async {
            let path = directory.file("data");
            let namespace = KernelNamespace::open_file(&path, Some(1 << 20)).await.expect("open");
            namespace.write(0, pattern(64 << 10, 7)).await.expect("written");
            namespace.write_zeroes(4096, 8192).await.expect("zeroed");
            let read = read(&namespace, 0, 64 << 10).await;
            assert!(read[4096..12288].iter().all(|&byte| byte == 0));
            assert!(read[..4096] == pattern(64 << 10, 7)[..4096], "what is before stays");
            assert!(read[12288..] == pattern(64 << 10, 7)[12288..], "what is after stays");
            if namespace.info().write_zeroes {
                let stats = stats();
                assert_eq!((stats.write_zeroes.completed, stats.write_zeroes.bytes), (1, 8192));
                assert_eq!(stats.writes.completed, 1, "no zeros are sent");
                assert_eq!(
                    namespace.next_data(4096),
                    Some(12288),
                    "the file system knows that they are none"
                );
            }
            let error = namespace.write_zeroes(100, 4096).await.expect_err("no block begins there");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        });
    }
}

#[test]
fn a_file_has_the_blocks_that_were_allocated() {
    let directory = Directory::new("allocated");
    for reactor in REACTORS {
        run_on(reactor, async {
            let path = directory.file("data");
            let namespace = KernelNamespace::open_file(&path, Some(4 << 20)).await.expect("open");
            assert!(namespace.info().sparse);
            namespace.write(0, pattern(4096, 9)).await.expect("written");
            namespace.trim(4096, (4 << 20) - 4096).await.expect("trimmed");
            let taken = || std::fs::metadata(&path).expect("there").blocks() * 512;
            if taken() >= 1 << 20 {
                return not_run("blocks of a file: this file system has no holes");
            }
            namespace.allocate(1 << 20, 2 << 20).await.expect("there is room");
            assert!(taken() >= 2 << 20, "{} on {reactor:?}", taken());
            assert!(*read(&namespace, 0, 4096).await == *pattern(4096, 9));
            assert_eq!(namespace.size_bytes(), 4 << 20);
            namespace.trim(0, 4 << 20).await.expect("trimmed");
        });
    }
}

#[test]
fn a_block_device_discards_and_zeroes_ranges() {
    let Some(device) = Loop::new("discard", &[]) else { return };
    for reactor in REACTORS {
        run_on(reactor, async {
            let namespace = KernelNamespace::open_block_device(&device.device).await.expect("open");
            assert!(namespace.info().trim && namespace.info().write_zeroes, "a loop device does both");
            namespace.write(0, pattern(2 << 20, 9)).await.expect("written");
            namespace.flush().await.expect("flushed");
            let whole = std::fs::metadata(&device.image).expect("there").blocks();
            namespace.trim(1 << 20, 1 << 20).await.expect("discarded");
            let left = std::fs::metadata(&device.image).expect("there").blocks();
            assert!(left <= whole - 2048, "the image had {whole} sectors and has {left} on {reactor:?}");
            namespace.write_zeroes(0, 8192).await.expect("zeroed");
            let read = read(&namespace, 0, 1 << 20).await;
            assert!(read[..8192].iter().all(|&byte| byte == 0));
            assert!(read[8192..] == pattern(2 << 20, 9)[8192..1 << 20], "what is after stays");
            let stats = stats();
            assert_eq!((stats.trims.completed, stats.trims.bytes, stats.trims.failed), (1, 1 << 20, 0));
            assert_eq!(stats.write_zeroes.completed, 1);
        });
    }
}

#[test]
fn a_block_device_is_what_the_kernel_says() {
    let Some(device) = Loop::new("says", &["--sector-size", "4096"]) else { return };
    run_on(ReactorChoice::Auto, async {
        let opened = KernelDevice::open_block_device(&device.device).await.expect("open");
        let info = opened.info();
        let number = |name| device.attribute(name).parse::<u64>().expect("a number");
        assert_eq!((info.size_bytes, info.block_size_bytes), (2 << 20, 4096));
        assert_eq!(info.min_size_bytes, info.max_size_bytes, "it cannot change its size");
        assert_eq!(u64::from(info.max_transfer_bytes), number("queue/max_sectors_kb") << 10);
        assert_eq!(u64::from(info.optimal_boundary_bytes), number("queue/chunk_sectors") * 512);
        assert_eq!(info.volatile_cache, device.attribute("queue/write_cache") == "write back");
        assert_eq!(info.trim, number("queue/discard_max_bytes") > 0);
        assert_eq!(info.atomic_write_bytes, 0, "a loop device promises nothing");
        assert!(!info.read_only && info.direct && info.model.is_empty());
    });
}

#[test]
fn what_is_no_generic_nvme_device_is_refused_with_a_sentence() {
    let device = Loop::new("no-generic", &[]);
    let block_device = device.as_ref().map(|device| (device.device.clone(), "write blk: instead of ng:"));
    let others = [
        (PathBuf::from("/dev/null"), "such as /dev/ng0n1"),
        (PathBuf::from("/dev/ng77n77"), "No such file or directory"),
        (std::env::temp_dir(), "such as /dev/ng0n1"),
    ];
    run_on(ReactorChoice::Auto, async {
        for (path, part) in others.into_iter().chain(block_device) {
            let error = PassthroughDevice::open(&path).await.expect_err("no such device").to_string();
            assert!(error.contains(part), "{error}");
            assert!(error.starts_with(&format!("open ng:{}", path.display())), "{error}");
        }
    });
}

#[test]
fn a_read_only_device_is_read_and_every_change_refused() {
    let Some(device) = Loop::new("read-only", &["--read-only"]) else { return };
    for reactor in REACTORS {
        run_on(reactor, async {
            let namespace = KernelNamespace::open_block_device(&device.device).await.expect("open");
            assert!(namespace.info().read_only);
            assert!(*read(&namespace, 4096, 4096).await == bytes(2 << 20, 0)[4096..8192]);
            namespace.flush().await.expect("there is nothing to flush");
            for error in [
                namespace.write(0, DmaBuf::zeroed(4096)).await.expect_err("a write").into(),
                namespace.write_durable(0, DmaBuf::zeroed(4096)).await.expect_err("a write").into(),
                namespace.write_vectored(0, vec![DmaBuf::zeroed(4096)]).await.expect_err("a write").into(),
                namespace.trim(0, 4096).await.expect_err("a trim"),
                namespace.write_zeroes(0, 4096).await.expect_err("zeros"),
            ] {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                assert!(error.to_string().contains("the namespace is read-only"), "{error}");
            }
        });
    }
    assert!(std::fs::read(&device.image).expect("there") == *bytes(2 << 20, 0), "nothing was changed");
}

#[test]
fn a_file_that_may_only_be_read_is_read_only() {
    let directory = Directory::new("immutable");
    let path = directory.file("data");
    std::fs::write(&path, &pattern(8192, 5)[..]).expect("written");
    let set = |flag| Command::new("chattr").arg(flag).arg(&path).status().is_ok_and(|done| done.success());
    if !set("+i") {
        return not_run("a file that nobody may write: chattr +i does not work here");
    }
    let (read_only, read) = run_on(ReactorChoice::Auto, async {
        let namespace = KernelNamespace::open_file(&path, None).await.expect("opened for reading");
        let error = namespace.grow(1 << 20).await.expect_err("it cannot grow");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        (namespace.info().read_only, read(&namespace, 0, 8192).await)
    });
    assert!(set("-i"), "as it was");
    assert!(read_only && *read == *pattern(8192, 5));
}

#[test]
fn the_last_core_that_is_attached_removes_a_file_that_was_made_for_nothing() {
    let directory = Directory::new("last-core");
    let path = directory.file("data");
    run_on(ReactorChoice::Auto, async {
        let device = KernelDevice::open_file(&path, None).await.expect("made");
        let first = device.attach().await.expect("attached");
        let second = device.attach().await.expect("attached twice");
        drop(device);
        drop(first);
        assert!(path.exists(), "it is in use");
        drop(second);
        assert!(!path.exists(), "nothing was written to it");
    });
}

fn core_thread(name: &str, reactor: ReactorChoice) -> CoreThread {
    CoreThread::start(name, &CoreConfig::default().seed([5; 32]).reactor(reactor)).expect("a core")
}

/// The other core's reactor is of the other kind: they share the device, not the way to it.
#[test]
fn two_cores_write_to_one_device_and_see_what_the_other_wrote() {
    const BLOCKS: u64 = 64;
    let directory = Directory::new("two-cores");
    let address: NamespaceAddress =
        format!("file:{}?size=1M", directory.file("data").display()).parse().expect("an address");
    let cores = [core_thread("first", ReactorChoice::Auto), core_thread("second", ReactorChoice::Epoll)];
    run_on(ReactorChoice::Auto, async {
        let device = AnyDevice::open(&address).await.expect("opened");
        let write = |of_core: u64| {
            let device = device.clone();
            move || async move {
                let namespace = device.attach().await.expect("attached");
                for block in (0..BLOCKS).filter(|block| block % 2 == of_core) {
                    let seed = u8::try_from(block).expect("small");
                    namespace.write(block * 4096, pattern(4096, seed)).await.expect("written");
                }
                boson::block::stats()[0].writes.completed
            }
        };
        let written = [cores[0].handle().spawn(write(0)), cores[1].handle().spawn(write(1))];
        for written in written {
            assert_eq!(written.await.expect("no panic"), BLOCKS / 2, "each core counts its own");
        }
        let namespace = device.attach().await.expect("attached");
        for block in 0..BLOCKS {
            let (result, read) = namespace.read(block * 4096, DmaBuf::zeroed(4096)).await.parts_all();
            result.expect("read");
            assert!(*read == *pattern(4096, u8::try_from(block).expect("small")), "block {block}");
        }
    });
}

#[test]
fn a_growing_device_is_longer_for_every_core_and_a_shrunk_one_shorter() {
    let directory = Directory::new("grow-two-cores");
    let other = core_thread("other", ReactorChoice::Auto);
    run_on(ReactorChoice::Epoll, async {
        let device = KernelDevice::open_file(&directory.file("data"), None).await.expect("made");
        let here = device.attach().await.expect("attached");
        assert_eq!(here.size_bytes(), 0);
        let there = |to: u64, grows: bool| {
            let device = device.clone();
            other.handle().spawn(move || async move {
                let there = device.attach().await.expect("attached");
                if grows { there.grow(to).await } else { there.shrink(to).await }
            })
        };
        there(1 << 20, true).await.expect("no panic").expect("grown");
        assert_eq!(here.size_bytes(), 1 << 20);
        here.write((1 << 20) - 4096, pattern(4096, 1)).await.expect("its end can be written");
        there(1 << 19, false).await.expect("no panic").expect("shrunk");
        assert_eq!(here.size_bytes(), 1 << 19);
        let beyond = here.read(1 << 19, DmaBuf::zeroed(4096)).await.expect_err("it ends there");
        assert_eq!(beyond.kind(), ErrorKind::InvalidInput);

        // Both at once, to many sizes: it is as large as the largest, and so is its file.
        let growths: Vec<_> = (1..=16u64).map(|step| there((1 << 20) + step * 4096, true)).collect();
        for step in 1..=16u64 {
            here.grow((1 << 20) + step * 8192).await.expect("grown");
        }
        for growth in growths {
            growth.await.expect("no panic").expect("grown");
        }
        assert_eq!(here.size_bytes(), (1 << 20) + 16 * 8192);
        let found = std::fs::metadata(directory.file("data")).expect("there").len();
        assert_eq!(found, (1 << 20) + 16 * 8192);
    });
}

#[test]
fn dropped_operations_leave_no_depth_and_count_as_nothing() {
    let directory = Directory::new("dropped-counts");
    run_on(ReactorChoice::Auto, async {
        let namespace = KernelNamespace::open_file(&directory.file("data"), Some(1 << 20)).await;
        let namespace = namespace.expect("open");
        namespace.write(0, pattern(4096, 1)).await.expect("written");
        {
            let mut read = std::pin::pin!(namespace.read(0, DmaBuf::zeroed(4096)));
            let is_pending =
                std::future::poll_fn(|cx| std::task::Poll::Ready(read.as_mut().poll(cx).is_pending()));
            assert!(is_pending.await);
            assert_eq!(stats().queue_depth, 1);
        }
        let stats = stats();
        assert_eq!((stats.queue_depth, stats.reads.completed, stats.reads.failed), (0, 0, 0));
        assert_eq!((stats.max_queue_depth, stats.writes.completed), (1, 1));
        assert_eq!(stats.name, namespace.info().name);
        rt::yield_now().await;
    });
}
