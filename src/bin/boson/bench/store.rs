//! `boson bench store`: how fast a store is, how much it writes and takes, and whether it gives
//! back what it was given.

mod counts;
mod data;
mod draw;
mod engine;
mod machine;
mod options;
mod progress;
mod report;
mod stress;
mod worker;
mod workload;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use boson::rt;
use boson::rt::signal::Signals;
use boson::{ErrorKind, Result};

use crate::start;
use data::KEY_BYTES;
use engine::{Engine, Store};
pub(crate) use options::StoreOptions;
use options::{End, Switch};
use progress::Progress;
use report::{Measured, Space};
use workload::{Plan, Workload};

/// How many records the writes have that fill the store before a load starts.
const LOAD_BATCH: u64 = 1000;

pub(crate) fn run(options: &StoreOptions) -> Result<()> {
    if let Some(rounds) = options.crash {
        // A signal ends it and the child at once.
        start::announce(&stress::crash::run(options, rounds)?);
        return Ok(());
    }
    let signals = start::ending_signals()?;
    start::on_a_core_of(options.cores.as_ref(), async {
        match (options.stress, options.child) {
            (true, Some(number)) => stress::crash::child(options, number).await,
            (true, None) => {
                start::announce(&stress::run(options, &signals).await?);
                Ok(())
            }
            (false, _) => measure(options, &signals).await,
        }
    })
}

async fn measure(options: &StoreOptions, signals: &Signals) -> Result<()> {
    let place = options.place().await?;
    let cores = start::further_cores(options.cores.as_ref())?;
    let begins_anew = options.load == Switch::On || options.workload.fills();
    let is_empty = place.is_empty().await?;
    if begins_anew && !options.format && !is_empty {
        return Err(engine::not_empty(&options.namespace.to_string()));
    }
    if !begins_anew && is_empty {
        let why = "it is empty, and --load off uses the records that an earlier run left: load them first";
        return Err(options.error(ErrorKind::NotFound, why));
    }
    let began = rt::now();
    let store = place.store(options.setup(), begins_anew && options.format).await?;
    // It is open when it answers.
    store.read(b"", |_| ()).await?;
    let open = rt::now().saturating_since(began);
    let mut loaded = None;
    if begins_anew && !options.workload.fills() {
        loaded = Some((load(options, signals, &store).await?, options.records()));
    }
    if options.warm {
        store.scan(b"", u64::MAX, |_, _| ()).await?;
    }
    let written = (machine::written_bytes(), engine::written_to_namespaces());
    let plan = options.plan();
    let work = options.work(plan, options.time());
    let others = cores.iter().map(|core| (core.handle().clone(), store.elsewhere(&place))).collect();
    let running = worker::run(&store, others, &work, options.checkpoints);
    let (counts, measured) = watched(running, options.workload.name(), &work.progress, signals).await?;
    // Before memory is asked for more by what follows.
    let resident = machine::resident_bytes();
    if options.end == End::Abort {
        // Nothing is closed or written back.
        std::process::exit(0);
    }
    let began = rt::now();
    store.checkpoint().await?;
    let settled = rt::now().saturating_since(began);
    let space = Space {
        written: machine::written_bytes().zip(written.0).map(|(now, before)| now.saturating_sub(before)),
        written_to_namespace: Some(engine::written_to_namespaces().saturating_sub(written.1)),
        store: store.used_bytes(),
        live: counts.live_records(&plan) * (KEY_BYTES as u64 + options.value_bytes),
        resident,
    };
    store.close().await?;
    let measured = Measured {
        engine: format!("boson {}", env!("CARGO_PKG_VERSION")),
        place: options.namespace.to_string(),
        plan,
        value_bytes: options.values().bytes,
        durability: options::describe(options.durability),
        cache_bytes: options.cache,
        cores: cores.len() + 1,
        open,
        loaded,
        measured,
        counts,
        settled,
        space,
    };
    if options.json {
        start::announce(&format!("{:#}", measured.as_json()));
    } else {
        measured.as_table().iter().for_each(|line| start::announce(line));
    }
    measured.counts.verdict().map_or(Ok(()), |wrong| Err(options.error(ErrorKind::Corrupt, wrong)))
}

/// Puts all records into the store, and everything where it stays; how long that took.
async fn load(options: &StoreOptions, signals: &Signals, store: &Store) -> Result<Duration> {
    let plan = Plan { workload: Workload::FillRandom, operations: None, batch: LOAD_BATCH, ..options.plan() };
    let work = options.work(plan, None);
    let began = rt::now();
    let loading = async {
        let (counts, _) = worker::run(store, Vec::new(), &work, false).await?;
        store.checkpoint().await.map(|()| counts)
    };
    let counts = watched(loading, "load", &work.progress, signals).await?;
    if counts.user_bytes < options.records() * (KEY_BYTES as u64 + options.value_bytes) {
        return Err(options.error(ErrorKind::Cancelled, "a signal came while the records were loaded"));
    }
    Ok(rt::now().saturating_since(began))
}

/// What `work` gives, while its progress is shown. A first signal asks it to end, a second one ends
/// the process: the device may have operations that it never answers.
async fn watched<R>(work: impl Future<Output = R>, what: &str, progress: &Progress, signals: &Signals) -> R {
    let (mut work, mut watching) = (pin!(work), pin!(progress.watch(what)));
    let mut signal = pin!(signals.next());
    poll_fn(|cx| {
        while signal.as_mut().poll(cx).is_ready() {
            if progress.is_stopped() {
                std::process::exit(130);
            }
            progress.stop();
            signal.set(signals.next());
        }
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        let _ = watching.as_mut().poll(cx);
        Poll::Pending
    })
    .await
}
