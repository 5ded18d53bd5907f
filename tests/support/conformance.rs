//! One conformance suite over every block device: what `boson::block` says of a
//! [`Device`] and its [`Namespace`], shown on any of them.
//!
//! A backend's tests call [`all`] with a name for messages, a way to open the device and the
//! [`Hooks`] that it has. The device is opened several times, one after the other, and its first
//! [`NEEDED_BYTES`] are overwritten; its blocks have at most 16 KiB. Data is compared after each
//! part.
//!
//! ```ignore
//! conformance::all("file", async || open().await, Hooks::new().reopens().on_cores()).await;
//! ```

mod bad_use;
mod cancelled;
mod cores;
mod faults;
mod model;
mod transfers;

use std::time::Duration;

use boson::block::{Device, Namespace};
use boson::mem::{Arena, DmaBuf};
use boson::rt;

/// How much of a device the suite works on.
pub(crate) const NEEDED_BYTES: u64 = 8 << 20;
/// What nothing takes longer than.
const PATIENCE: Duration = Duration::from_secs(60);
/// Operations of the model test, unless a hook says another number.
const OPERATIONS: u32 = 2000;

/// Does something to a device from outside.
type Hook<D> = Box<dyn Fn(&D)>;
/// The same, with a number.
type CountedHook<D> = Box<dyn Fn(&D, u64)>;

/// What a backend lets the suite do besides using the device. Parts of the suite for which it has
/// no hook do not run, which is said.
pub(crate) struct Hooks<D> {
    reopens: bool,
    on_cores: bool,
    operations: u32,
    seed: u64,
    fail_write: Option<CountedHook<D>>,
    fail_read: Option<CountedHook<D>>,
    remove: Option<Hook<D>>,
    cut_power: Option<Hook<D>>,
}

impl<D> Hooks<D> {
    /// Nothing but what any device can.
    pub(crate) fn new() -> Self {
        Self {
            reopens: false,
            on_cores: false,
            operations: OPERATIONS,
            seed: 1,
            fail_write: None,
            fail_read: None,
            remove: None,
            cut_power: None,
        }
    }

    /// Opening it again gives the same blocks.
    pub(crate) fn reopens(self) -> Self {
        Self { reopens: true, ..self }
    }

    /// Several cores, each a thread of its own, may attach at once.
    pub(crate) fn on_cores(self) -> Self {
        Self { on_cores: true, ..self }
    }

    /// With another number of operations in the model test.
    pub(crate) fn operations(self, operations: u32) -> Self {
        Self { operations, ..self }
    }

    /// With another seed for what is random.
    pub(crate) fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// `hook(device, n)` makes the write after `n` more writes fail, once.
    pub(crate) fn fails_writes(self, hook: impl Fn(&D, u64) + 'static) -> Self {
        Self { fail_write: Some(Box::new(hook)), ..self }
    }

    /// `hook(device, n)` makes the read after `n` more reads fail, once.
    pub(crate) fn fails_reads(self, hook: impl Fn(&D, u64) + 'static) -> Self {
        Self { fail_read: Some(Box::new(hook)), ..self }
    }

    /// `hook(device)` takes the device away; opening gives one that is there.
    pub(crate) fn removes(self, hook: impl Fn(&D) + 'static) -> Self {
        Self { remove: Some(Box::new(hook)), ..self }
    }

    /// `hook(device)` cuts the power while nothing is in flight; afterwards the device is on.
    pub(crate) fn cuts_power(self, hook: impl Fn(&D) + 'static) -> Self {
        Self { cut_power: Some(Box::new(hook)), ..self }
    }
}

/// Runs the whole suite, inside a core. `open` opens the device; nothing of the one before is left
/// when it is called again.
///
/// Prints the parts that did not run.
///
/// # Panics
///
/// If the device does not conform.
pub(crate) async fn all<D: Device>(name: &str, open: impl AsyncFn() -> D, hooks: Hooks<D>) {
    let run = Run { name, seed: hooks.seed };
    let device = open().await;
    bad_use::bad_use(&run, &device).await;
    transfers::all(&run, &device).await;
    cancelled::all(&run, &device).await;
    model::random_operations(&run, &device, hooks.operations).await;
    faults::all(&run, &device, &hooks).await;
    run.settled();
    drop(device);

    if hooks.remove.is_some() {
        faults::removal(&run, open().await, &hooks).await;
    } else {
        run.not_run("removal in flight: the backend has no hook for it");
    }
    if hooks.reopens {
        cores::reopen(&run, &open).await;
    } else {
        run.not_run("reopening: it has no blocks that last");
    }
    if hooks.on_cores {
        cores::two_at_once(&run, open().await).await;
        cores::shutdown_in_flight(&run, open().await).await;
    } else {
        run.not_run("two cores, and a core that ends with I/O in flight: only one core attaches");
    }
    println!("{name}: conforms");
}

/// Shows that a device which may only be read refuses everything that would change it, and nothing
/// else.
///
/// # Panics
///
/// If it does not.
pub(crate) async fn read_only<D: Device>(name: &str, device: &D) {
    bad_use::read_only(name, device).await;
}

/// One run of the suite.
struct Run<'a> {
    name: &'a str,
    seed: u64,
}

impl Run<'_> {
    fn not_run(&self, what: &str) {
        println!("{}: NOT RUN: {what}", self.name);
    }

    /// Every operation was counted, and none is left. Dropped ones may take their time.
    fn settled(&self) {
        for stats in boson::block::stats() {
            let all = [&stats.reads, &stats.writes, &stats.flushes, &stats.trims, &stats.write_zeroes];
            let completed: u64 = all.iter().map(|operation| operation.completed).sum();
            let timed: u64 = all.iter().map(|operation| operation.latency.count()).sum();
            assert!(timed <= completed, "{}: {timed} of {completed} were timed", self.name);
            assert!(stats.max_queue_depth >= stats.queue_depth, "{}", self.name);
        }
    }
}

/// A namespace of the device that is large enough for the suite.
async fn attach<D: Device>(run: &Run<'_>, device: &D) -> D::Namespace {
    let namespace = match device.attach().await {
        Ok(namespace) => namespace,
        Err(error) => panic!("{}: {error}", run.name),
    };
    if namespace.size_bytes() < NEEDED_BYTES
        && let Err(error) = namespace.grow(NEEDED_BYTES).await
    {
        panic!("{}: the suite needs {NEEDED_BYTES} bytes: {error}", run.name);
    }
    namespace
}

fn block_bytes(namespace: &impl Namespace) -> usize {
    namespace.info().block_size_bytes as usize
}

/// Fills `bytes`, which are for `offset`, with what no other place and no other `tag` has.
fn fill(bytes: &mut [u8], offset: u64, tag: u64) {
    for (word, at) in bytes.as_chunks_mut::<8>().0.iter_mut().zip((offset..).step_by(8)) {
        *word = (at ^ tag.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    }
}

thread_local! {
    static OTHER_ARENA: Arena = Arena::new(2 << 20).expect("memory for an arena");
}

/// Memory of every kind that a caller may have: of the core's arena, of the heap, of an arena that
/// no device knows.
fn memory(len: usize, kind: u64) -> DmaBuf {
    match kind % 3 {
        0 => rt::arena().alloc(len),
        1 => DmaBuf::zeroed(len),
        _ => OTHER_ARENA.with(|arena| arena.alloc(len)),
    }
}

fn pattern(offset: u64, len: usize, tag: u64) -> DmaBuf {
    let mut buf = memory(len, tag);
    fill(&mut buf, offset, tag);
    buf
}

async fn read<N: Namespace>(run: &Run<'_>, namespace: &N, offset: u64, len: usize) -> DmaBuf {
    let mut buf = memory(len, offset / 4096);
    buf.fill(0xdd);
    match namespace.read(offset, buf).await {
        Ok(buf) => {
            assert_eq!(buf.len(), len);
            buf
        }
        Err(error) => panic!("{}: {error}", run.name),
    }
}

async fn write<N: Namespace>(run: &Run<'_>, namespace: &N, offset: u64, len: usize, tag: u64) {
    match namespace.write(offset, pattern(offset, len, tag)).await {
        Ok(buf) => assert!(*buf == *pattern(offset, len, tag), "{}: the buffer is as it was", run.name),
        Err(error) => panic!("{}: {error}", run.name),
    }
}

/// What is at `offset` is what was written there with `tag`.
#[track_caller]
fn assert_written(run: &Run<'_>, found: &[u8], offset: u64, tag: u64) {
    let mut expected = vec![0; found.len()];
    fill(&mut expected, offset, tag);
    if found[..] != expected[..]
        && let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at])
    {
        panic!(
            "{}: the byte {at} of {} at offset {offset} is {:#x} instead of {:#x}",
            run.name,
            found.len(),
            found[at],
            expected[at]
        );
    }
}

/// What is read there, if anything, was written with `tag`.
async fn check<N: Namespace>(run: &Run<'_>, namespace: &N, offset: u64, len: usize, tag: u64) {
    if len == 0 {
        return;
    }
    assert_written(run, &read(run, namespace, offset, len).await, offset, tag);
}
