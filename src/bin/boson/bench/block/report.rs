//! The result: a table, or JSON with the names of fio's `--output-format=json` where it has them.

use boson::block::NamespaceInfo;
use serde_json::{Map, Value, json};

use super::load::Plan;
use super::usage::Usage;
use super::worker::{Counts, Side};
use super::{BlockOptions, Style};
use crate::start::announce;

/// The percentiles that are printed, as fio writes them in its JSON.
const PERCENTILES: [(&str, f64); 7] = [
    ("50.000000", 0.5),
    ("90.000000", 0.9),
    ("95.000000", 0.95),
    ("99.000000", 0.99),
    ("99.900000", 0.999),
    ("99.950000", 0.9995),
    ("99.990000", 0.9999),
];

/// Prints what was measured to standard output.
pub(super) fn print(
    options: &BlockOptions,
    info: &NamespaceInfo,
    plan: &Plan,
    counts: &Counts,
    usage: Usage,
) {
    if options.json {
        announce(&format!("{:#}", as_json(options, info, plan, counts, usage)));
    } else {
        as_table(options, info, plan, counts).iter().for_each(|line| announce(line));
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are shown with a few digits")]
fn rate(operations: u64, nanos: u64) -> f64 {
    if nanos == 0 { 0.0 } else { operations as f64 * 1e9 / nanos as f64 }
}

#[expect(clippy::cast_precision_loss, reason = "a mean in nanoseconds")]
fn mean(side: &Side) -> f64 {
    // Not all operations need be timed.
    let timed = side.latency.count();
    if timed == 0 { 0.0 } else { side.latency.sum() as f64 / timed as f64 }
}

#[expect(clippy::cast_precision_loss, reason = "rates are shown with a few digits")]
fn bytes_per_second(side: &Side, plan: &Plan, counts: &Counts) -> f64 {
    rate(side.operations, counts.measured_nanos) * plan.block_bytes as f64
}

fn as_table(options: &BlockOptions, info: &NamespaceInfo, plan: &Plan, counts: &Counts) -> Vec<String> {
    let style = match plan.style {
        Style::Async => "async tasks",
        Style::Coroutine => "coroutines",
    };
    let cores = plan.size_bytes / (plan.blocks * plan.block_bytes);
    let mut lines = vec![
        format!(
            "{}{}",
            info.name,
            if info.model.is_empty() { String::new() } else { format!(" ({})", info.model) }
        ),
        format!(
            "{} of {} bytes, depth {} on each of {cores} core(s), {style}{}",
            plan.load.name(),
            plan.block_bytes,
            plan.depth,
            if plan.durable { ", durable writes" } else { "" },
        ),
        String::new(),
        format!(
            "{:>5} {:>12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "IOPS", "MB/s", "mean µs", "p50", "p99", "p99.9", "p99.99", "max"
        ),
    ];
    for (name, side) in [("read", &counts.reads), ("write", &counts.writes)] {
        if side.operations == 0 {
            continue;
        }
        let at = |quantile| micros(side.latency.quantile(quantile));
        lines.push(format!(
            "{name:>5} {:>12.0} {:>10.1} {:>9.2} {:>9} {:>9} {:>9} {:>9} {:>9}",
            rate(side.operations, counts.measured_nanos),
            bytes_per_second(side, plan, counts) / 1e6,
            mean(side) / 1e3,
            at(0.5),
            at(0.99),
            at(0.999),
            at(0.9999),
            micros(side.latency.max()),
        ));
    }
    if options.verify {
        let (checked, empty) = (counts.checked, counts.empty);
        lines.push(format!("{checked} blocks checked, {empty} of them never written"));
    }
    lines
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn micros(nanos: u64) -> String {
    format!("{:.2}", nanos as f64 / 1e3)
}

fn as_json(
    options: &BlockOptions,
    info: &NamespaceInfo,
    plan: &Plan,
    counts: &Counts,
    usage: Usage,
) -> Value {
    json!({
        "boson version": env!("CARGO_PKG_VERSION"),
        "namespace": info.name,
        "model": info.model,
        "jobs": [{
            "jobname": plan.load.name(),
            "error": counts.error_code(),
            "job options": {
                "rw": plan.load.name(),
                "bs": plan.block_bytes.to_string(),
                "iodepth": plan.depth.to_string(),
                "numjobs": (plan.size_bytes / (plan.blocks * plan.block_bytes)).to_string(),
                "runtime": plan.time.as_secs().to_string(),
                "ramp_time": plan.warm_up.as_secs().to_string(),
                "rwmixread": plan.reads_of_100.to_string(),
            },
            "job_runtime": usage.wall.as_millis(),
            "usr_cpu": usage.percent(usage.user),
            "sys_cpu": usage.percent(usage.system),
            "read": side(&counts.reads, plan, counts),
            "write": side(&counts.writes, plan, counts),
        }],
        "verify": options.verify.then(|| json!({"checked": counts.checked, "empty": counts.empty})),
    })
}

fn side(side: &Side, plan: &Plan, counts: &Counts) -> Value {
    let percentiles: Map<String, Value> = PERCENTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), side.latency.quantile(*quantile).into()))
        .collect();
    let bytes = side.operations * plan.block_bytes;
    json!({
        "io_bytes": bytes,
        "io_kbytes": bytes / 1024,
        "bw_bytes": bytes_per_second(side, plan, counts).round(),
        "bw": (bytes_per_second(side, plan, counts) / 1024.0).round(),
        "iops": rate(side.operations, counts.measured_nanos),
        "runtime": counts.measured_nanos / 1_000_000,
        "total_ios": side.operations,
        "clat_ns": {
            "min": side.min_nanos.unwrap_or(0),
            "max": side.latency.max(),
            "mean": mean(side),
            "N": side.latency.count(),
            "percentile": percentiles,
        },
    })
}
