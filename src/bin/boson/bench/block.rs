//! `boson bench block`: how fast a namespace reads and writes, and whether it gives back what it
//! was given.

mod load;
mod pattern;
mod progress;
mod report;
mod usage;
mod worker;

use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use boson::block::{AnyDevice, Device, Namespace, NamespaceAddress, NamespaceConfig, first_data, parse_size};
use boson::rt::reactor::RegisterArena;
use boson::rt::signal::Signals;
use boson::rt::time::{Clock, MonotonicClock};
use boson::rt::{self, Core, CoreConfig, CoreThread, Idle};
use boson::{Error, ErrorKind, Result};
use clap::{Args, ValueEnum};

use crate::options::{CoreList, Spelled};
use crate::start;
use load::{Load, Plan};
use progress::Progress;
use usage::Usage;
use worker::Counts;

#[derive(Args, Debug)]
pub(crate) struct BlockOptions {
    /// The namespace: `file:PATH?size=4G`, `blk:/dev/NAME`, `nvme:BDF/NSID`, `ng:/dev/NAME`,
    /// `mem:SIZE` and so on, as for `boson serve --store`.
    #[arg(value_name = "URL")]
    namespace: Spelled<NamespaceAddress>,
    /// What to do.
    #[arg(long, value_enum, default_value_t = Load::RandRead)]
    rw: Load,
    /// How many of 100 operations of a mixed load are reads.
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    mix: u8,
    /// The size of each operation, such as `4K` or `1M`.
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = block_size)]
    block_size: u64,
    /// How many operations each core has under way.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: u32,
    /// Run on these CPUs, one core each, such as `0` or `0,2-3`; each has a part of the namespace
    /// of its own. Without it one core that is not pinned.
    #[arg(long, value_name = "LIST")]
    cores: Option<CoreList>,
    /// Use only this many bytes from the front of the namespace.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<u64>,
    /// How long to measure, in seconds. Sequential loads with `--verify` end with the namespace
    /// instead.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time: u64,
    /// How long to run before that, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=3600))]
    warm_up: u64,
    /// Each operation is under way in one of these.
    #[arg(long, value_enum, default_value_t = Style::Async)]
    style: Style,
    /// What a core does while nothing happens.
    #[arg(long, value_enum, default_value_t = IdleStyle::Adaptive)]
    idle: IdleStyle,
    /// Register the memory that is read into and written from with the io_uring, also where it is
    /// not in hugepages: it is pinned once and not for each operation, as by fio's `fixedbufs`.
    #[arg(long)]
    fixed_buffers: bool,
    /// Write blocks that tell where they belong, and check the blocks that are read.
    #[arg(long)]
    verify: bool,
    /// Writes are durable when they complete.
    #[arg(long)]
    durable: bool,
    /// Write even if the namespace holds something. What it held is lost.
    #[arg(long)]
    format: bool,
    /// SPDK's configuration, its JSON, which makes the devices of `spdk:bdev/`.
    #[arg(long, value_name = "FILE")]
    spdk_config: Option<PathBuf>,
    /// Arguments for DPDK's environment, such as `-m 256 --no-huge`, for `spdk:`.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    eal: Option<String>,
    /// Time one of N operations of each task, and count the others. Reading the clock takes some
    /// 20 ns.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    time_every: u32,
    /// Draws offsets, in the same order for the same number.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON, with fio's names where it has them.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Style {
    /// Async tasks.
    Async,
    /// Stackful coroutines.
    Coroutine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum IdleStyle {
    /// It polls for a while, where that paid lately, and then sleeps.
    Adaptive,
    /// It polls: the shortest latency, for all of the CPU.
    Poll,
    /// It sleeps: the least CPU.
    Sleep,
}

impl IdleStyle {
    fn of(self, config: CoreConfig) -> CoreConfig {
        match self {
            Self::Adaptive => config,
            Self::Poll => config.idle(Idle::Poll),
            Self::Sleep => config.idle(Idle::Sleep),
        }
    }
}

fn size(text: &str) -> std::result::Result<u64, String> {
    parse_size(text).ok_or_else(|| format!("`{text}` is no size; write one such as 4K or 2G"))
}

/// The largest block, which a core has as many of as operations.
const MAX_BLOCK_BYTES: u64 = 64 << 20;
/// The largest arena of a core: what does not fit into it is from the heap.
const MAX_ARENA_BYTES: u64 = 1 << 30;

fn block_size(text: &str) -> std::result::Result<u64, String> {
    match size(text)? {
        bytes @ 512..=MAX_BLOCK_BYTES => Ok(bytes),
        _ => Err(format!("blocks have 512 to {MAX_BLOCK_BYTES} bytes")),
    }
}

/// How large a namespace that grows becomes, if nothing else is said.
const DEFAULT_GROWTH_BYTES: u64 = 1 << 30;
/// How many blocks each core keeps track of: 8 bytes each.
const MAX_VERIFIED_BLOCKS: u64 = 1 << 26;

pub(crate) fn run(options: &BlockOptions) -> Result<()> {
    let signals = start::ending_signals()?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let buffers = u64::from(options.depth).saturating_mul(options.block_size.next_power_of_two().max(4096));
    let arena =
        usize::try_from(buffers.saturating_mul(2).clamp(16 << 20, MAX_ARENA_BYTES)).unwrap_or(usize::MAX);
    let register = if options.fixed_buffers { RegisterArena::Always } else { RegisterArena::default() };
    let config = |config: CoreConfig| {
        options.idle.of(config.clock(Arc::clone(&clock)).arena_bytes(arena).register_arena(register))
    };
    let mut configs = start::core_configs(options.cores.as_ref()).into_iter().map(config);
    let Some(first) = configs.next() else { return Ok(()) };
    let core = Core::new(&first)?;
    core.block_on(measure(options, &signals, configs.collect()))
}

async fn measure(options: &BlockOptions, signals: &Signals, further: Vec<CoreConfig>) -> Result<()> {
    let mut config = NamespaceConfig::default().eal_arguments(options.eal.clone().unwrap_or_default());
    if let Some(path) = &options.spdk_config {
        config = config.spdk_config(path);
    }
    let device = AnyDevice::open_with(&options.namespace.value, &config).await?;
    let namespace = device.attach().await?;
    let plan = plan(options, &namespace, 1 + further.len() as u64)?;
    if options.rw.writes() {
        prepare(options, &namespace, plan.size_bytes).await?;
    }
    drop(namespace);
    let mut cores = Vec::new();
    for (number, config) in further.into_iter().enumerate() {
        cores.push(CoreThread::start(format!("boson-{}", number + 1), &config)?);
    }
    let progress = Arc::new(Progress::default());
    let handles = std::iter::once(rt::handle()).chain(cores.iter().map(|core| core.handle().clone()));
    let before = Usage::now();
    let mut jobs: Vec<_> = (0..)
        .zip(handles)
        .map(|(number, core)| {
            worker::start(&core, device.clone(), plan.clone(), number, Arc::clone(&progress))
        })
        .collect();
    {
        let mut watching = pin!(progress::watch(&plan, &progress));
        let mut signal = pin!(signals.next());
        poll_fn(|cx| {
            let _ = watching.as_mut().poll(cx);
            if signal.as_mut().poll(cx).is_ready() || progress.is_over(jobs.len()) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
    progress.stop();
    let counts = {
        let mut ended = pin!(async {
            let mut counts = Counts::default();
            for job in jobs.drain(..) {
                counts.merge(job.await.map_err(|error| start::core_ended(&error))??);
            }
            Ok(counts)
        });
        let mut signal = pin!(signals.next());
        let mut tell = pin!(progress::tell_of_wait());
        let mut told = false;
        poll_fn(|cx| match ended.as_mut().poll(cx) {
            // Operations in flight end when the device ends them; a second signal ends this wait.
            Poll::Pending if signal.as_mut().poll(cx).is_ready() => Poll::Ready(Err(unanswered(options))),
            Poll::Pending => {
                told = told || tell.as_mut().poll(cx).is_ready();
                Poll::Pending
            }
            ended => ended,
        })
        .await?
    };
    report::print(options, device.info(), &plan, &counts, Usage::now().since(before));
    counts.verdict(&options.namespace.to_string())
}

fn unanswered(options: &BlockOptions) -> Error {
    Error::new(ErrorKind::TimedOut, "bench block")
        .at(options.namespace.to_string())
        .because("the device still has operations, and was waited for until a second signal came")
}

/// What every core does, from what was asked and what the namespace is.
fn plan(options: &BlockOptions, namespace: &impl Namespace, jobs: u64) -> Result<Plan> {
    let wrong = |why: String| {
        Err(Error::new(ErrorKind::InvalidInput, "bench block").at(options.namespace.to_string()).because(why))
    };
    let info = namespace.info();
    let block = options.block_size;
    if block == 0 || !block.is_multiple_of(info.block_size_bytes.into()) {
        let unit = info.block_size_bytes;
        return wrong(format!("its blocks have {unit} bytes: give --block-size a multiple of that"));
    }
    if options.durable && !options.rw.writes() {
        return wrong("--durable is about writes: give --rw a load that writes".to_owned());
    }
    if info.read_only && options.rw.writes() {
        return wrong("it is read-only: give --rw a load that only reads".to_owned());
    }
    let most = if info.max_size_bytes > info.size_bytes && options.rw.writes() {
        options.size.unwrap_or(DEFAULT_GROWTH_BYTES).min(info.max_size_bytes)
    } else {
        options.size.unwrap_or(u64::MAX).min(namespace.size_bytes())
    };
    let blocks = most / block / jobs;
    if blocks == 0 {
        return wrong(format!("{most} bytes are too few for {jobs} core(s) with blocks of {block} bytes"));
    }
    if options.verify && blocks > MAX_VERIFIED_BLOCKS {
        return wrong(format!("--verify keeps track of {MAX_VERIFIED_BLOCKS} blocks at most: give --size"));
    }
    let warm_up = if options.verify { 0 } else { options.warm_up };
    Ok(Plan {
        load: options.rw,
        reads_of_100: options.mix,
        block_bytes: block,
        blocks,
        size_bytes: blocks * block * jobs,
        // Each operation of a verified load has a block of its own.
        depth: if options.verify {
            u64::from(options.depth).min(blocks).try_into().unwrap_or(1)
        } else {
            options.depth
        },
        warm_up: Duration::from_secs(warm_up),
        time: Duration::from_secs(options.time),
        style: options.style,
        time_every: options.time_every,
        verify: options.verify,
        durable: options.durable,
        seed: options.seed,
    })
}

/// Sees to it that the namespace is as large as the load takes, and that nothing is lost that
/// nobody gave up.
async fn prepare(options: &BlockOptions, namespace: &impl Namespace, size_bytes: u64) -> Result<()> {
    if !options.format
        && let Some(at) = first_data(namespace).await?
    {
        return Err(Error::new(ErrorKind::ForeignData, "bench block")
            .at(options.namespace.to_string())
            .because(format!(
                "it is not empty (there is something at {at}): --format writes over what it holds"
            )));
    }
    if namespace.size_bytes() < size_bytes { namespace.grow(size_bytes).await } else { Ok(()) }
}
