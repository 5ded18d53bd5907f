//! Row `store`: one run of one store with one load, as `boson bench store` does it, and with the
//! same output: `peers store ENGINE DIRECTORY [OPTION]...`. `scripts/compare-store` runs it beside
//! boson. The load, the keys and values and the report are boson's own files.

#[path = "../../../src/bin/boson/bench/store/counts.rs"]
mod counts;
#[path = "../../../src/bin/boson/bench/store/data.rs"]
mod data;
#[path = "../../../src/bin/boson/bench/store/draw.rs"]
mod draw;
#[path = "../../../src/bin/boson/bench/store/machine.rs"]
mod machine;
#[path = "../../../src/bin/boson/bench/store/report.rs"]
mod report;
#[path = "../../../src/bin/boson/bench/store/workload.rs"]
mod workload;

mod bf_tree;
mod engine;
mod fjall;
mod lmdb;
mod options;
mod redb;
mod rocks;
mod runner;
mod sled;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use data::KEY_BYTES;
use engine::{Durability, Engine, Result};
use options::Options;
use report::{Measured, Space};
use workload::{Plan, Workload};

/// How many records the writes have that fill the store before a load starts.
const LOAD_BATCH: u64 = 1000;

/// Runs what the arguments say; ends the process with status 3 where the store cannot do that.
pub fn run(arguments: impl Iterator<Item = String>) {
    let options = Options::parse(arguments);
    match measure(&options) {
        Ok(measured) => {
            if options.json {
                println!("{:#}", measured.as_json());
            } else {
                measured.as_table().iter().for_each(|line| println!("{line}"));
            }
            if let Some(wrong) = measured.counts.verdict() {
                eprintln!("{}: {wrong}", options.engine);
                std::process::exit(1);
            }
        }
        Err(why) => {
            eprintln!("{}: {why}", options.engine);
            std::process::exit(3);
        }
    }
}

fn measure(options: &Options) -> Result<Measured> {
    std::fs::create_dir_all(&options.directory).map_err(engine::failed)?;
    let began = Instant::now();
    let engine = engine::open(&options.engine, &options.directory, options.setup)?;
    engine.read(b"nothing", &mut |_| ())?;
    let open = began.elapsed();
    let engine: Arc<dyn Engine> = engine.into();
    let flusher = Flusher::start(&engine, options.setup.durability);
    let mut loaded = None;
    if options.load && !options.plan.workload.fills() {
        let plan = Plan {
            workload: Workload::FillRandom,
            operations: None,
            batch: LOAD_BATCH,
            tasks: 1,
            ..options.plan
        };
        let began = Instant::now();
        runner::run(&engine, &plan, options.values(), None, false)?;
        engine.settle()?;
        loaded = Some((began.elapsed(), options.plan.records));
    }
    if options.warm {
        engine.scan(b"", u64::MAX, &mut |_, _| ())?;
    }
    let before = machine::written_bytes();
    let (counts, measured) =
        runner::run(&engine, &options.plan, options.values(), options.time(), options.checkpoints)?;
    let resident = machine::resident_bytes();
    if options.abort {
        // SAFETY: the process ends here; nothing is dropped, written or waited for.
        unsafe { libc::_exit(0) };
    }
    let began = Instant::now();
    engine.settle()?;
    let settled = began.elapsed();
    let written = machine::written_bytes().zip(before).map(|(now, before)| now.saturating_sub(before));
    let space = Space {
        written,
        written_to_namespace: None,
        store: allocated_bytes(&options.directory),
        live: counts.live_records(&options.plan) * (KEY_BYTES + options.setup.value_bytes) as u64,
        resident,
    };
    drop(flusher);
    let note = engine.note();
    Ok(Measured {
        engine: options.engine.clone(),
        place: if note.is_empty() {
            options.directory.display().to_string()
        } else {
            format!("{} ({note})", options.directory.display())
        },
        plan: options.plan,
        value_bytes: options.setup.value_bytes,
        durability: options.durability.clone(),
        cache_bytes: options.setup.cache_bytes,
        cores: options.plan.tasks as usize,
        open,
        loaded,
        measured,
        counts,
        settled,
        space,
    })
}

/// What the files of a directory take.
fn allocated_bytes(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => allocated_bytes(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Makes everything durable once in the time that was asked for, by a thread of its own.
struct Flusher {
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flusher {
    fn start(engine: &Arc<dyn Engine>, durability: Durability) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let thread = match durability {
            Durability::Interval(time) => {
                let (engine, ended) = (Arc::clone(engine), Arc::clone(&ended));
                Some(std::thread::spawn(move || flush_every(time, &*engine, &ended)))
            }
            Durability::None | Durability::Sync => None,
        };
        Self { ended, thread }
    }
}

fn flush_every(time: Duration, engine: &dyn Engine, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        std::thread::park_timeout(time);
        engine.flush().expect("a flush of a store that works");
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
