//! Memory and files that are registered with the io_uring: the same bytes with and without, and
//! what is done where the kernel registers nothing.

use crate::support::parts::PartsAll;
use std::path::PathBuf;

use boson::block::{KernelNamespace, Namespace};
use boson::mem::{DmaBuf, PageKind};
use boson::rt::reactor::{ReactorChoice, RegisterArena, RingFeature, RingFeatures};
use boson::rt::{self, Core, CoreConfig};

const BLOCK_BYTES: usize = 4096;

fn config(features: RingFeatures, register: RegisterArena) -> CoreConfig {
    CoreConfig::default().seed([4; 32]).ring_features(features).register_arena(register)
}

/// A file that goes with this value.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("boson-registered-{name}-{}", std::process::id())))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// How many buffers a ring has registered that has `file` registered; `None` if no ring of this
/// process has.
fn buffers_beside(file: &File) -> Option<usize> {
    let name = file.0.file_name().and_then(|name| name.to_str()).expect("a plain name");
    let entries = std::fs::read_dir("/proc/self/fdinfo").expect("procfs");
    let mut rings = entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let ring = rings.find(|ring| ring.contains("UserFiles:") && ring.contains(name))?;
    let count = ring.lines().find_map(|line| line.strip_prefix("UserBufs:"));
    Some(count.and_then(|count| count.trim().parse().ok()).expect("a count"))
}

async fn block(namespace: &KernelNamespace, at: usize, mut buf: DmaBuf) {
    buf.fill(u8::try_from(at % 251).expect("small") + 1);
    let offset = (at * BLOCK_BYTES) as u64;
    let (written, mut buf) = namespace.write(offset, buf).await.parts_all();
    written.expect("written");
    let expected = buf[0];
    buf.fill(0);
    let (read, buf) = namespace.read(offset, buf).await.parts_all();
    read.expect("read");
    assert!(buf.iter().all(|byte| *byte == expected), "block {at} holds something else");
}

/// Memory of the arena, also at its very end, and memory of the heap.
async fn bytes_come_and_go(namespace: &KernelNamespace) {
    let arena = rt::arena();
    let blocks = arena.stats().total_bytes / BLOCK_BYTES;
    let mut held: Vec<DmaBuf> = (0..blocks).map(|_| arena.alloc(BLOCK_BYTES)).collect();
    let last = held.pop().expect("there are many");
    let first = held.swap_remove(0);
    assert_eq!(last.arena_offset(), Some((blocks - 1) * BLOCK_BYTES));
    for (at, buf) in
        [first, last, DmaBuf::zeroed(BLOCK_BYTES), arena.alloc(BLOCK_BYTES)].into_iter().enumerate()
    {
        block(namespace, at, buf).await;
    }
    drop(held);
    let tasks: Vec<_> = (0..100)
        .map(|at| {
            let namespace = namespace.clone();
            rt::named("block")
                .spawn(async move { block(&namespace, at, rt::arena().alloc(BLOCK_BYTES)).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    namespace.flush().await.expect("flushed");
}

/// Returns what was registered.
fn on(config: &CoreConfig, name: &str) -> Option<usize> {
    let file = File::new(name);
    let core = Core::new(config).expect("a core");
    core.block_on(async {
        let namespace = KernelNamespace::open_file(&file.0, Some(1 << 20)).await.expect("open");
        bytes_come_and_go(&namespace).await;
        buffers_beside(&file)
    })
}

fn has_io_uring() -> bool {
    rt::reactor::probe_io_uring().is_ok()
}

#[test]
fn the_same_bytes_with_and_without_registration() {
    own_process!();
    let (files, buffers) = (RingFeature::RegisteredFiles, RingFeature::RegisteredBuffers);
    let all = RingFeatures::all();
    // Without an io_uring nothing is registered, and everything else holds.
    let with = |count| has_io_uring().then_some(count);
    assert_eq!(on(&config(all, RegisterArena::Always), "all"), with(1));
    assert_eq!(on(&config(all, RegisterArena::Never), "no-arena"), with(0));
    assert_eq!(on(&config(all.without(files), RegisterArena::Always), "no-files"), None);
    assert_eq!(on(&config(all.without(buffers), RegisterArena::Always), "no-buffers"), with(0));
    assert_eq!(on(&config(RingFeatures::none(), RegisterArena::Always), "none"), None);
    assert_eq!(on(&config(RingFeatures::linux_5_15(), RegisterArena::Always), "5.15"), with(1));
    let epoll = config(all, RegisterArena::Always).reactor(ReactorChoice::Epoll);
    assert_eq!(on(&epoll, "epoll"), None);
}

/// The default registers what is locked in memory in any case.
#[test]
fn an_arena_of_normal_pages_is_registered_only_on_demand() {
    own_process!();
    let file = File::new("default");
    let core = Core::new(&config(RingFeatures::all(), RegisterArena::default())).expect("a core");
    core.block_on(async {
        let _namespace = KernelNamespace::open_file(&file.0, Some(1 << 20)).await.expect("open");
        let expected = usize::from(rt::arena().stats().pages == PageKind::Huge2M);
        assert_eq!(buffers_beside(&file), has_io_uring().then_some(expected));
    });
}

#[test]
fn more_files_than_the_table_has_places() {
    own_process!();
    let files: Vec<_> = (0..70).map(|number| File::new(&format!("many-{number}"))).collect();
    let core = Core::new(&config(RingFeatures::all(), RegisterArena::Never)).expect("a core");
    core.block_on(async {
        for _ in 0..2 {
            let mut open = Vec::new();
            for file in &files {
                open.push(KernelNamespace::open_file(&file.0, Some(1 << 20)).await.expect("open"));
            }
            for (at, namespace) in open.iter().enumerate() {
                block(namespace, at, rt::arena().alloc(BLOCK_BYTES)).await;
            }
            // The first places become free; a new file takes one, and must not be taken for the old
            // one.
            open.drain(..10);
            let again = KernelNamespace::open_file(&files[3].0, None).await.expect("open");
            let (read, buf) =
                again.read(3 * BLOCK_BYTES as u64, rt::arena().alloc(BLOCK_BYTES)).await.parts_all();
            read.expect("read");
            assert!(buf.iter().all(|byte| *byte == 4), "not what was written to file 3");
        }
    });
}

/// As in a container that filters it, or without memory to lock.
#[test]
fn a_kernel_that_registers_nothing_is_used_without() {
    own_process!();
    for errno in [libc::EPERM, libc::ENOMEM, libc::ENOSYS] {
        std::thread::spawn(move || {
            without_io_uring::forbid_registration(errno).expect("a filter");
            if let Ok(features) = rt::reactor::probe_ring_features() {
                for feature in
                    [RingFeature::RegisteredBuffers, RingFeature::RegisteredFiles, RingFeature::BufferRings]
                {
                    assert!(!features.contains(feature), "{} was refused", feature.name());
                }
            }
            let registered =
                on(&config(RingFeatures::all(), RegisterArena::Always), &format!("refused-{errno}"));
            assert_eq!(registered, None);
        })
        .join()
        .expect("works");
    }
}
