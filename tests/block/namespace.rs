//! What is particular to files and block devices.

use crate::support::not_run;
use crate::support::parts::PartsAll;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use boson::ErrorKind;
use boson::block::{KernelNamespace, Namespace};
use boson::mem::DmaBuf;
use boson::rt::{self, Core, CoreConfig};

pub(crate) fn run<F: Future>(future: F) -> F::Output {
    let config = CoreConfig::default().seed([3; 32]);
    Core::new(&config).expect("io_uring is usable").block_on(future)
}

/// A directory of this test process, removed when the test ends.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("boson-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn pattern(len: usize, seed: u8) -> DmaBuf {
    let mut buf = DmaBuf::zeroed(len);
    for (at, byte) in buf.iter_mut().enumerate() {
        *byte = u8::try_from((at / 512 + usize::from(seed)) % 251).expect("small");
    }
    buf
}

#[test]
fn a_file_of_fixed_size_does_not_grow() {
    let directory = Directory::new("fixed");
    run(async {
        let namespace =
            KernelNamespace::open_file(&directory.file("data"), Some(2 << 20)).await.expect("open");
        assert_eq!(namespace.size_bytes(), 2 << 20);
        let full = namespace.grow(3 << 20).await.expect_err("its size is fixed");
        assert_eq!(full.kind(), ErrorKind::NoSpace);
    });
}

#[test]
fn a_growing_file_keeps_its_size() {
    let directory = Directory::new("growing");
    let path = directory.file("data");
    run(async {
        let namespace = KernelNamespace::open_file(&path, None).await.expect("open");
        assert_eq!(namespace.size_bytes(), 0);
        namespace.grow(1 << 20).await.expect("grow");
        let (result, zeros) = namespace.read(1 << 19, DmaBuf::zeroed(4096)).await.parts_all();
        result.expect("read");
        assert!(zeros.iter().all(|&byte| byte == 0), "new blocks read as zeros");
    });
    run(async {
        let again = KernelNamespace::open_file(&path, None).await.expect("open again");
        assert_eq!(again.size_bytes(), 1 << 20);
    });
}

#[test]
fn a_file_that_was_made_for_nothing_is_removed_but_not_from_under_another_handle() {
    let directory = Directory::new("made-for-nothing");
    let path = directory.file("data");
    run(async {
        drop(KernelNamespace::open_file(&path, Some(1 << 20)).await.expect("made"));
        assert!(!path.exists(), "nothing was written to it");

        let first = KernelNamespace::open_file(&path, None).await.expect("made");
        let again = path.clone();
        // It waits for the lock, as a restarted server does.
        let second = rt::named("second").spawn(async move { KernelNamespace::open_file(&again, None).await });
        rt::sleep(Duration::from_millis(50)).await;
        drop(first);
        let second = second.await.expect("no panic").expect("the lock is free");
        second.grow(1 << 20).await.expect("grows");
        drop(second);
        assert_eq!(std::fs::metadata(&path).expect("it has its name").len(), 1 << 20);
    });
}

#[test]
fn a_file_shrinks_and_grows_again_with_zeros() {
    let directory = Directory::new("shrinks");
    let path = directory.file("data");
    run(async {
        let namespace = KernelNamespace::open_file(&path, None).await.expect("made");
        namespace.grow(1 << 20).await.expect("grows");
        namespace.write(1 << 19, pattern(8192, 4)).await.expect("writes");
        assert_eq!(namespace.next_data(0), Some(1 << 19), "what was never written is a hole");
        namespace.shrink((1 << 19) + 4096).await.expect("shrinks");
        assert_eq!(namespace.size_bytes(), (1 << 19) + 4096);
        assert_eq!(std::fs::metadata(&path).expect("there").len(), (1 << 19) + 4096);
        let beyond = namespace.read((1 << 19) + 4096, DmaBuf::zeroed(4096)).await.parts_all().0;
        assert_eq!(beyond.expect_err("it ends before").kind(), ErrorKind::InvalidInput);
        namespace.grow(1 << 20).await.expect("grows again");
        let (result, read) = namespace.read(1 << 19, DmaBuf::zeroed(8192)).await.parts_all();
        result.expect("reads");
        assert!(read[..4096] == pattern(8192, 4)[..4096], "what was kept is there");
        assert!(read[4096..].iter().all(|&byte| byte == 0), "what was given back reads as zeros");
    });
}

#[test]
fn an_open_file_is_locked() {
    let directory = Directory::new("locked");
    let path = directory.file("data");
    run(async {
        let first = KernelNamespace::open_file(&path, Some(1 << 20)).await.expect("open");
        let error = KernelNamespace::open_file(&path, None).await.expect_err("locked");
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.to_string().contains("another process"), "{error}");
        drop(first);
        KernelNamespace::open_file(&path, None).await.expect("free again");
    });
}

#[test]
fn what_is_not_a_file_or_a_device_is_refused_with_a_sentence() {
    let directory = Directory::new("refused");
    let small = directory.file("small");
    std::fs::write(&small, vec![1; 3 << 20]).expect("write");
    run(async {
        for (error, part) in [
            (KernelNamespace::open_file(&directory.0, None).await.expect_err("a directory"), "directory"),
            (
                KernelNamespace::open_file(&directory.file("no/such"), None).await.expect_err("absent"),
                "No such file",
            ),
            (
                KernelNamespace::open_file(Path::new("/dev/null"), None).await.expect_err("a device"),
                "not a regular file",
            ),
            (KernelNamespace::open_file(&small, Some(1 << 20)).await.expect_err("larger"), "leave out size="),
            (KernelNamespace::open_block_device(&small).await.expect_err("a file"), "not a block device"),
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
    });
    assert_eq!(std::fs::metadata(&small).expect("still there").len(), 3 << 20);
}

/// A loop device over a file; detached when the test ends.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
    _directory: Directory,
}

impl LoopDevice {
    /// `None`, and says why, where loop devices cannot be made.
    pub(crate) fn new(size_bytes: u64) -> Option<Self> {
        // Tests that run at the same time have images of their own.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = Directory::new(&format!("loop-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let image = directory.file("image");
        let file = std::fs::File::create(&image).expect("an image");
        file.set_len(size_bytes).expect("a sparse image");
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&image).output();
        match output {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).expect("a path").trim().into();
                Some(Self { path, _directory: directory })
            }
            other => {
                not_run::not_run(&format!("a block device: no loop device can be made here: {other:?}"));
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

#[test]
fn a_block_device_is_exclusive() {
    let Some(device) = LoopDevice::new(2 << 20) else { return };
    run(async {
        let namespace = KernelNamespace::open_block_device(&device.path).await.expect("open");
        assert_eq!(namespace.size_bytes(), 2 << 20);
        assert!(namespace.info().direct);
        let error = KernelNamespace::open_block_device(&device.path).await.expect_err("in use");
        assert_eq!(error.kind(), ErrorKind::InUse);
        let error = KernelNamespace::open_file(&device.path, None).await.expect_err("not a file");
        assert!(error.to_string().contains("blk:"), "{error}");
    });
}

/// Writes are dropped while in flight, and memory of the same size is taken and overwritten at
/// once: if a dropped write's buffer were freed before the device is done with it, the device would
/// write the new bytes.
#[test]
fn a_dropped_write_writes_its_own_bytes_or_nothing() {
    let directory = Directory::new("dropped");
    run(async {
        let namespace =
            KernelNamespace::open_file(&directory.file("data"), Some(8 << 20)).await.expect("open");
        let block = 64 << 10;
        let mut old_ones = 0;
        for round in 0..200u64 {
            let offset = round % 100 * block as u64;
            namespace.write(offset, pattern(block, 1)).await.expect("write");
            {
                let mut write = std::pin::pin!(namespace.write(offset, pattern(block, 2)));
                let pending =
                    std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx).is_pending()));
                assert!(pending.await, "a write takes at least one turn");
                for _ in 0..round % 3 {
                    rt::yield_now().await;
                }
            }
            let mut reused: Vec<DmaBuf> = (0..8).map(|_| DmaBuf::zeroed(block)).collect();
            for buf in &mut reused {
                buf.fill(0xee);
            }
            // The dropped write was cancelled or goes on by itself; a flush and a read come after
            // it or before it.
            namespace.flush().await.expect("flush");
            let (result, read) = namespace.read(offset, DmaBuf::zeroed(block)).await.parts_all();
            result.expect("read");
            let (old, new) = (pattern(block, 1), pattern(block, 2));
            assert!(
                read.chunks(4096)
                    .zip(old.chunks(4096))
                    .zip(new.chunks(4096))
                    .all(|((r, o), n)| r == o || r == n),
                "round {round}: bytes that nobody wrote"
            );
            old_ones += u32::from(*read == *old);
        }
        println!("{old_ones} of 200 dropped writes left the old bytes");
    });
}

#[test]
fn a_dropped_read_touches_no_memory_that_was_given_back() {
    let directory = Directory::new("dropped-read");
    run(async {
        let namespace =
            KernelNamespace::open_file(&directory.file("data"), Some(8 << 20)).await.expect("open");
        let block = 64 << 10;
        for offset in (0..128).map(|i| i * block as u64) {
            namespace.write(offset, pattern(block, 3)).await.expect("write");
        }
        for round in 0..500u64 {
            {
                let mut read =
                    std::pin::pin!(namespace.read(round % 128 * block as u64, DmaBuf::zeroed(block)));
                let pending =
                    std::future::poll_fn(|cx| std::task::Poll::Ready(read.as_mut().poll(cx).is_pending()));
                assert!(pending.await, "a read takes at least one turn");
            }
            let mut reused: Vec<DmaBuf> = (0..8).map(|_| DmaBuf::zeroed(block)).collect();
            for buf in &mut reused {
                buf.fill(0xee);
            }
            for _ in 0..round % 4 {
                rt::yield_now().await;
            }
            rt::sleep(std::time::Duration::from_micros(round % 300)).await;
            assert!(
                reused.iter().flat_map(|buf| buf.iter()).all(|&byte| byte == 0xee),
                "round {round}: freed too early"
            );
        }
    });
}

#[test]
fn a_file_counts_as_long_as_its_last_user_left_it() {
    let directory = Directory::new("last-user");
    let path = directory.file("grown");
    let last_user = std::fs::File::create(&path).expect("created");
    rustix::fs::flock(&last_user, rustix::fs::FlockOperation::LockExclusive).expect("free");
    let thread = std::thread::spawn(move || {
        // It grows the file while the next one waits for the lock.
        std::thread::sleep(std::time::Duration::from_millis(100));
        last_user.set_len(8 << 20).expect("room");
    });
    let size = run(async { KernelNamespace::open_file(&path, None).await.expect("free soon").size_bytes() });
    thread.join().expect("no panic");
    assert_eq!(size, 8 << 20);
}
