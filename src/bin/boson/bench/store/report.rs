//! The result: a table, or JSON. Shared with `benches/peers`, so that both print the same.

use std::time::Duration;

use boson::observe::Histogram;
use serde_json::{Map, Value, json};

use super::counts::{Counts, Side};
use super::workload::Plan;

/// The percentiles that are printed.
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// What one run was and found.
#[derive(Debug)]
pub(super) struct Measured {
    /// The store and its version.
    pub(super) engine: String,
    /// Where it is, or how it is set up.
    pub(super) place: String,
    pub(super) plan: Plan,
    pub(super) value_bytes: usize,
    pub(super) durability: String,
    pub(super) cache_bytes: u64,
    /// How many cores, or threads, there were.
    pub(super) cores: usize,
    /// How long opening took, up to the first read.
    pub(super) open: Duration,
    /// How long the records took that the load starts with, and how many they are.
    pub(super) loaded: Option<(Duration, u64)>,
    pub(super) measured: Duration,
    pub(super) counts: Counts,
    /// How long it took then until everything was where it stays.
    pub(super) settled: Duration,
    pub(super) space: Space,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Space {
    /// What the process sent towards the storage in the measured time and while it settled.
    pub(super) written: Option<u64>,
    /// What the namespace says was written to it in that time; the peers have none.
    pub(super) written_to_namespace: Option<u64>,
    /// What the store takes.
    pub(super) store: u64,
    /// Keys and values that are there.
    pub(super) live: u64,
    /// Of the process, at the end.
    pub(super) resident: u64,
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
pub(super) fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 0.0 } else { of as f64 / to as f64 }
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn rate(operations: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { operations as f64 / time.as_secs_f64() }
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn micros(nanos: u64) -> String {
    format!("{:.2}", nanos as f64 / 1e3)
}

impl Measured {
    fn written(&self) -> Option<u64> {
        self.space.written_to_namespace.or(self.space.written)
    }

    pub(super) fn as_table(&self) -> Vec<String> {
        let (plan, counts) = (&self.plan, &self.counts);
        let mut lines = vec![
            format!("{} on {}", self.engine, self.place),
            format!(
                "{}, {}, {} records of 16 + {} bytes, {} task(s) on {} core(s), durability {}, cache {} MB",
                plan.workload.name(),
                plan.distribution.name(),
                plan.records,
                self.value_bytes,
                plan.tasks,
                self.cores,
                self.durability,
                self.cache_bytes / 1_000_000,
            ),
            String::new(),
            format!(
                "{:>22} {:>12} {:>11} {:>9} {:>9} {:>9} {:>9}",
                "", "operations", "per second", "p50 µs", "p99", "p99.9", "max"
            ),
        ];
        for (kind, side) in counts.sides() {
            lines.push(self.line(kind.name(), side.operations, &side.latency));
            if side.during_checkpoint.count() > 0 {
                let during = &side.during_checkpoint;
                lines.push(self.line(&format!("{}, checkpoint", kind.name()), during.count(), during));
            }
        }
        lines.push(format!(
            "{:.0} operations/s; {} records checked",
            rate(counts.operations(), self.measured),
            counts.checked
        ));
        if let Some((time, records)) = self.loaded {
            let (rate, seconds) = (rate(records, time), time.as_secs_f64());
            lines.push(format!("loaded {records} records in {seconds:.1} s, {rate:.0} a second"));
        }
        let (open, settled) = (self.open.as_secs_f64(), self.settled.as_secs_f64());
        lines.push(format!("opened in {open:.3} s; written out in {settled:.3} s after the end"));
        if counts.user_bytes > 0
            && let Some(written) = self.written()
        {
            let (user, ratio) = (counts.user_bytes, ratio(written, counts.user_bytes));
            lines.push(format!("{written} bytes written for {user} of the user's: {ratio:.2} times"));
        }
        let (store, live) = (self.space.store, self.space.live);
        lines.push(format!("{store} bytes of store for {live} live ones: {:.2} times", ratio(store, live)));
        lines.push(format!("{} bytes of memory resident", self.space.resident));
        lines
    }

    fn line(&self, name: &str, operations: u64, latency: &Histogram) -> String {
        let [p50, p99, p999] = PERCENTILES.map(|(_, quantile)| micros(latency.quantile(quantile)));
        let (rate, max) = (rate(operations, self.measured), micros(latency.max()));
        format!("{name:>22} {operations:>12} {rate:>11.0} {p50:>9} {p99:>9} {p999:>9} {max:>9}")
    }

    pub(super) fn as_json(&self) -> Value {
        let (plan, counts, space) = (&self.plan, &self.counts, &self.space);
        let kinds: Map<String, Value> =
            counts.sides().map(|(kind, side)| (kind.name().to_owned(), self.side(side))).collect();
        json!({
            "engine": self.engine,
            "place": self.place,
            "workload": plan.workload.name(),
            "distribution": plan.distribution.name(),
            "records": plan.records,
            "value_bytes": self.value_bytes,
            "batch": plan.batch,
            "tasks": plan.tasks,
            "cores": self.cores,
            "seed": plan.seed,
            "durability": self.durability,
            "cache_bytes": self.cache_bytes,
            "open_seconds": self.open.as_secs_f64(),
            "load_seconds": self.loaded.map(|(time, _)| time.as_secs_f64()),
            "load_records_per_second": self.loaded.map(|(time, records)| rate(records, time)),
            "seconds": self.measured.as_secs_f64(),
            "settle_seconds": self.settled.as_secs_f64(),
            "operations": counts.operations(),
            "operations_per_second": rate(counts.operations(), self.measured),
            "kinds": kinds,
            "checked": counts.checked,
            "wrong": counts.wrong,
            "user_bytes": counts.user_bytes,
            "written_bytes": space.written,
            "written_to_namespace_bytes": space.written_to_namespace,
            "write_amplification": self.written().map(|written| ratio(written, counts.user_bytes)),
            "store_bytes": space.store,
            "live_bytes": space.live,
            "space_amplification": ratio(space.store, space.live),
            "resident_bytes": space.resident,
        })
    }

    fn side(&self, side: &Side) -> Value {
        let has_checkpoints = side.during_checkpoint.count() > 0;
        json!({
            "operations": side.operations,
            "records": side.records,
            "operations_per_second": rate(side.operations, self.measured),
            "latency_ns": latency(&side.latency),
            "during_checkpoint_ns": has_checkpoints.then(|| latency(&side.during_checkpoint)),
            "outside_checkpoint_ns": has_checkpoints
                .then(|| latency(&side.latency.since(&side.during_checkpoint))),
        })
    }
}

fn latency(histogram: &Histogram) -> Value {
    let mut all: Map<String, Value> = PERCENTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), histogram.quantile(*quantile).into()))
        .collect();
    all.insert("N".to_owned(), histogram.count().into());
    all.insert("mean".to_owned(), ratio(histogram.sum(), histogram.count()).into());
    all.insert("max".to_owned(), histogram.max().into());
    Value::Object(all)
}
