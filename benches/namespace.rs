//! Reads and writes of 4 KiB on a namespace, with and without memory and files that the kernel was
//! shown before.
//!
//! `BOSON_BENCH_NAMESPACE` names what to read and overwrite (`blk:/dev/zram0`); otherwise it is a
//! file in the temporary directory. The kinds take turns in one process. In a test (`cargo test
//! --benches`) there is one round, to see that it runs.

use std::time::{Duration, Instant};

use boson::block::{AnyNamespace, Namespace, NamespaceAddress};
use boson::mem::DmaBuf;
use boson::rt::reactor::{RegisterArena, RingFeature, RingFeatures};
use boson::rt::{self, Core, CoreConfig};

const BLOCK_BYTES: u64 = 4096;
const BLOCKS: u64 = 4096;
const AT_ONCE: u64 = 32;
const ROUNDS: usize = 30;
const PER_ROUND: u64 = 500;

/// A core with a namespace of its own.
struct Bench {
    core: Core,
    namespace: AnyNamespace,
}

impl Bench {
    fn new(address: &NamespaceAddress, features: RingFeatures) -> Self {
        let config = CoreConfig::default().ring_features(features).register_arena(RegisterArena::Always);
        let core = Core::new(&config).expect("a core");
        let namespace = core.block_on(AnyNamespace::open(address)).expect("opens");
        Self { core, namespace }
    }

    /// The time of one operation.
    fn round(&self, writes: bool) -> Duration {
        let namespace = self.namespace.clone();
        let run = async move {
            let started = Instant::now();
            let tasks: Vec<_> = (0..AT_ONCE)
                .map(|task| rt::named("worker").spawn(worker(namespace.clone(), task, writes)))
                .collect();
            for task in tasks {
                task.await.expect("no panic");
            }
            started.elapsed()
        };
        self.core.block_on(run) / u32::try_from(AT_ONCE * PER_ROUND).expect("few")
    }
}

async fn worker(namespace: AnyNamespace, task: u64, writes: bool) {
    let mut buf: DmaBuf = rt::arena().alloc(4096);
    for count in 0..PER_ROUND {
        // A stride through all of the blocks.
        let offset = (task + count * AT_ONCE) * 769 % BLOCKS * BLOCK_BYTES;
        let done =
            if writes { namespace.write(offset, buf).await } else { namespace.read(offset, buf).await };
        buf = done.expect("done");
    }
}

fn main() {
    let path = std::env::temp_dir().join(format!("boson-bench-{}", std::process::id()));
    let named = std::env::var("BOSON_BENCH_NAMESPACE").ok();
    let rounds = if std::env::args().any(|argument| argument == "--bench") { ROUNDS } else { 1 };
    let text = named.clone().unwrap_or_else(|| format!("file:{}?size=16M", path.display()));
    let address: NamespaceAddress = text.parse().expect("an address");
    let all = RingFeatures::all();
    let (files, buffers) = (RingFeature::RegisteredFiles, RingFeature::RegisteredBuffers);
    let kinds = [
        ("neither", all.without(files).without(buffers)),
        ("registered files", all.without(buffers)),
        ("registered buffers", all.without(files)),
        ("both", all),
    ];
    // A namespace is open once at a time, so each kind opens it for its turn.
    let mut best = [[Duration::MAX; 2]; 4];
    for _ in 0..rounds {
        for (kind, (_, features)) in kinds.iter().enumerate() {
            let bench = Bench::new(&address, *features);
            bench.round(true);
            for (writes, best) in [false, true].into_iter().zip(&mut best[kind]) {
                *best = (*best).min(bench.round(writes));
            }
        }
    }
    println!("4 KiB on {text}, {AT_ONCE} at once, least of {rounds} rounds, ns per operation");
    println!("{:<20} {:>8} {:>8}", "", "read", "write");
    for ((name, _), [read, write]) in kinds.iter().zip(best) {
        println!("{name:<20} {:>8} {:>8}", read.as_nanos(), write.as_nanos());
    }
    if named.is_none() {
        let _ = std::fs::remove_file(path);
    }
}
